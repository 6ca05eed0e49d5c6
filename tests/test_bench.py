import json
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from cifarnb import bench, hardware
from cifarnb.cli import app
from cifarnb.config import Config
from cifarnb.report.sections import NETWORKS

PROMISED = {
    "model", "device", "images_per_s", "baseline_images_per_s", "ratio", "seconds_per_epoch", "tflops",
    "share_of_peak",
}  # fmt: skip


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(bench, "ROUND_SECONDS", 0.05)
    monkeypatch.setattr(hardware, "MATRIX_SIZES", {"cpu": (64, 128), "cuda": (64, 128)})


def test_bench_prints_a_table_and_writes_records_that_agree_with_themselves(short, tmp_path):
    file = tmp_path / "bench.json"
    arguments = ["bench", "--model", "simple_cnn", "--model", "resnet6", "--rounds", "3", "--batch-size", "16"]
    done = CliRunner().invoke(app, [*arguments, "--json", str(file)])
    assert done.exit_code == 0, done.output
    records = json.loads(file.read_text())
    assert [r["model"] for r in records] == ["simple_cnn", "resnet6"]
    for r in records:
        assert set(r) >= PROMISED
        for name in ("images_per_s", "baseline_images_per_s", "ratio"):
            low, high = r[f"{name}_range"]
            assert 0 < low <= r[name] <= high
        assert r["seconds_per_epoch"] == pytest.approx(50_000 / r["images_per_s"])
        assert r["share_of_peak"] == pytest.approx(r["tflops"] / r["peak_tflops"])
        assert r["peak_memory_bytes"] > 2**20
        assert f"{r['ratio']:.2f}" in done.output
    # 0.65 and 26 million multiply-adds forward, three times that with the backward pass, two operations each.
    for r, multiply_adds in zip(records, (0.65e6, 26e6), strict=True):
        assert r["tflops"] == pytest.approx(r["images_per_s"] * multiply_adds * 6 / 1e12, rel=0.05)


def test_the_engine_is_timed_on_whole_batches_in_its_second_epoch(monkeypatch):
    seen = []

    def fit(model, dataset, config, progress):
        seen.append((len(dataset.train_images), config.epochs, progress))
        return SimpleNamespace(history={"seconds": [5.0, 2.0]})

    monkeypatch.setattr(bench, "fit", fit)
    assert bench.time_engine(Config(model="simple_cnn", batch_size=10, train_size=7), 6) == (30.0, 3.0)
    assert seen == [(60, 2, False)]


def test_the_usual_loop_trains_the_same_network_with_the_same_settings(monkeypatch):
    made = {}
    build, adam = bench.build_model, torch.optim.Adam

    def build_model(name):
        made["model"] = name
        return build(name)

    def make_adam(parameters, lr):
        made["lr"] = lr
        return adam(parameters, lr)

    def crop(size, padding):
        made["crop"] = (size, padding)
        return lambda image: image

    monkeypatch.setattr(bench, "build_model", build_model)
    monkeypatch.setattr(bench.torch.optim, "Adam", make_adam)
    monkeypatch.setattr(bench.transforms, "RandomCrop", crop)
    config = Config(model="simple_cnn", optimizer="adam", lr=0.003, augment=True, batch_size=8, device="cpu")
    assert bench.time_usual_loop(config, 2) > 0
    assert made == {"model": "simple_cnn", "lr": 0.003, "crop": (32, 4)}


@pytest.mark.parametrize("name", [*NETWORKS, "fast_cnn"])
def test_what_is_benchmarked_is_what_the_full_profile_trains(name, monkeypatch):
    seen = []

    def time_engine(config, steps):
        seen.append(config)
        return 100.0, 0.0

    monkeypatch.setattr(bench, "time_engine", time_engine)
    monkeypatch.setattr(bench, "time_usual_loop", lambda config, steps: 50.0)
    monkeypatch.setattr(bench, "time_matrix_product", lambda device, precision: 1.0)
    measured = bench.measure(name, 128, 2, lambda: None)
    assert measured.ratio == 2.0
    (full,) = {config.replace(device="auto") for config in seen}
    assert full == bench.configs(name, "full")[0].replace(batch_size=128)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "resnt6"], ["resnt6", "did you mean resnet6"]),
        (["--json", "/no/where/bench.json"], ["/no/where/bench.json", "folder does not exist"]),
    ],
)
def test_a_mistake_ends_in_one_line_before_anything_is_timed(arguments, words):
    done = CliRunner().invoke(app, ["bench", *arguments])
    assert done.exit_code == 2
    assert len(done.stderr.strip().splitlines()) == 1
    for word in words:
        assert word in done.stderr


def test_the_peak_is_that_of_the_fastest_size(monkeypatch):
    monkeypatch.setattr(hardware, "MATRIX_SIZES", {"cpu": (32, 256)})
    small_alone = {"cpu": (32,)}
    both = hardware.time_matrix_product(torch.device("cpu"), "float32")
    monkeypatch.setattr(hardware, "MATRIX_SIZES", small_alone)
    assert both > hardware.time_matrix_product(torch.device("cpu"), "float32") > 0
