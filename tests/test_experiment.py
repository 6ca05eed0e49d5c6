import errno
import os
import signal
import subprocess
import sys
import tempfile
import time

import joblib
import numpy as np
import pytest
import torch
from dask.distributed import Client, LocalCluster

from cifarnb import experiment, provenance, runs
from cifarnb.config import Config
from cifarnb.data import normalize
from cifarnb.metrics import predict
from cifarnb.models import build_model, count_parameters
from cifarnb.runs import NotRunError
from cifarnb.training import fit

CONFIG = Config(model="simple_cnn", epochs=2, batch_size=64)

# A run of many short epochs, in a process of its own, to be killed.
CHILD = """
import sys
import torch
from cifarnb import experiment, training
from cifarnb.config import Config
from cifarnb.data import load
torch.set_num_threads(1)
training.CHECKPOINT_SHARE = float("inf")  # a checkpoint after every epoch
experiment.run(Config.model_validate_json(sys.argv[1]), load("synthetic"), sys.argv[2])
"""
CHILD_CONFIG = Config(
    model="resnet6", epochs=5, train_size=128, test_size=64, batch_size=32, augment=True, optimizer="adam",
    lr=1e-3, schedule="one_cycle",
)  # fmt: skip


def test_a_run_is_trained_once_and_then_loaded(tiny_dataset, tmp_path, monkeypatch):
    first = experiment.run(CONFIG, tiny_dataset, tmp_path)
    monkeypatch.setattr(experiment, "fit", None)  # training again would fail
    again = experiment.run(CONFIG, tiny_dataset, tmp_path)
    assert again.history.equals(first.history)
    assert np.array_equal(again.losses, first.losses)
    assert again.path == first.path == tmp_path / first.name


def test_find_trains_nothing(tiny_dataset, tmp_path):
    assert experiment.find(CONFIG, tiny_dataset, tmp_path) is None
    assert not list(tmp_path.glob("*"))


def test_without_training_the_complete_seeds_are_given_and_a_missing_first_one_is_described(tiny_dataset, tmp_path):
    configs = [CONFIG.replace(epochs=1, lr=lr, seed=seed) for seed in (0, 1) for lr in (0.1, 0.2, 0.3, 0.4)]
    with pytest.raises(NotRunError) as missing:
        experiment.run_all(configs, tiny_dataset, tmp_path, train=False)
    first, second, more = str(missing.value).split("; ")
    assert (first, second) == (experiment.describe(configs[0]), experiment.describe(configs[1]))
    assert "learning rate 0.1" in first
    assert "seed 0" in first
    assert more == "and 2 more"
    there = [experiment.run(config, tiny_dataset, tmp_path) for config in configs[:6]]  # of seed 1 half
    found = experiment.run_all(configs, tiny_dataset, tmp_path, train=False)
    assert [run.name for run in found] == [run.name for run in there[:4]]


@pytest.mark.parametrize(
    "change",
    [{"lr": 0.002}, {"seed": 1}, {"epochs": 3}, {"augment": True}, {"precision": "bfloat16"}, {"train_size": 64}],
)
def test_what_determines_the_result_is_in_the_key(change, tiny_dataset, tmp_path):
    config = CONFIG.replace(precision="float32")
    experiment.run(config, tiny_dataset, tmp_path)
    assert experiment.find(config, tiny_dataset, tmp_path)
    assert experiment.find(config.replace(**change), tiny_dataset, tmp_path) is None


def test_where_it_happens_is_not_in_the_key(tiny_dataset, tmp_path):
    trained = experiment.run(CONFIG, tiny_dataset, tmp_path)
    assert (
        experiment.find(CONFIG.replace(device="cpu", data="elsewhere.npz"), tiny_dataset, tmp_path).name == trained.name
    )


def test_a_run_records_where_it_came_from(tiny_dataset, tmp_path):
    made = experiment.run(CONFIG, tiny_dataset, tmp_path).provenance
    assert made["data"] == {"source": tiny_dataset.source, "fingerprint": tiny_dataset.fingerprint, "cifar10": False}
    assert made["versions"]["torch"] == torch.__version__
    assert {"git_commit", "git_dirty", "device_name", "precision", "seed", "wall_seconds", "finished"} <= set(made)
    assert (made["train_images"], made["test_images"]) == (256, 64)


def test_provenance_is_taken_when_training_starts(tiny_dataset, tmp_path, monkeypatch):
    commits = iter(["a" * 40, "b" * 40])
    monkeypatch.setattr(provenance, "git_state", lambda: (next(commits), False))
    made = experiment.run(CONFIG, tiny_dataset, tmp_path).provenance
    assert made["git_commit"] == "a" * 40
    assert made["started"] <= made["finished"]
    assert "resumed" not in made
    assert not list(tmp_path.glob("*/starts.json"))


def test_a_run_that_goes_on_elsewhere_says_so(tiny_dataset, tmp_path, monkeypatch):
    config, machines = CONFIG.replace(epochs=3), iter(["one machine", "another"])
    monkeypatch.setattr("cifarnb.training.CHECKPOINT_SHARE", float("inf"))
    monkeypatch.setattr(experiment, "device_name", lambda _: next(machines))

    def fit_and_die(model, dataset, config, checkpoint, **options):
        fit(model, dataset, config, checkpoint, stop_after=1, **options)
        raise RuntimeError("killed")

    with monkeypatch.context() as first:
        first.setattr(experiment, "fit", fit_and_die)
        first.setattr(experiment, "resolve_precision", lambda *_: "bfloat16")
        with pytest.raises(RuntimeError, match="killed"):
            experiment.run(config, tiny_dataset, tmp_path)
    monkeypatch.setattr(experiment, "resolve_precision", lambda *_: "float32")
    made = experiment.run(config, tiny_dataset, tmp_path)
    assert len(made.history) == 3
    assert made.provenance["device_name"] == "one machine, then another"
    assert made.provenance["precision"] == "bfloat16, then float32"
    (later,) = made.provenance["resumed"]
    assert (later["device_name"], later["precision"]) == ("another", "float32")


@pytest.mark.parametrize("width", [1.0, 0.5])
def test_the_trained_model_gives_the_recorded_accuracy(tiny_dataset, tmp_path, width):
    run = experiment.run(CONFIG.replace(precision="float32", width=width), tiny_dataset, tmp_path)
    model = experiment.trained_model(run)
    assert count_parameters(model) == count_parameters(build_model("simple_cnn", width=width))
    logits = model(normalize(tiny_dataset.test_images))
    assert (logits.argmax(1) == tiny_dataset.test_labels).sum().item() / 64 == run.final_accuracy


def test_a_run_keeps_what_it_says_of_the_test_images(tiny_dataset, tmp_path):
    made = experiment.run(CONFIG, tiny_dataset, tmp_path)
    right = (made.predictions() == tiny_dataset.test_labels.numpy()).mean()
    assert right == made.final_accuracy
    logits = np.load(made.path / "logits.npy")
    expected = predict(experiment.trained_model(made), tiny_dataset.test_images, made.provenance["precision"])
    np.testing.assert_allclose(logits, expected.half().numpy(), rtol=2e-3, atol=2e-3)


def test_a_failure_leaves_no_finished_run(tiny_dataset, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(experiment, "fit", fail)
    with pytest.raises(RuntimeError):
        experiment.run(CONFIG, tiny_dataset, tmp_path)
    monkeypatch.setattr(experiment, "fit", fit)
    assert experiment.find(CONFIG, tiny_dataset, tmp_path) is None
    assert len(experiment.run(CONFIG, tiny_dataset, tmp_path).history) == 2


def start_child(folder):
    env = os.environ | {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, CHILD_CONFIG.model_dump_json(), str(folder)]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    child = start_child(folder)
    _, said = child.communicate(timeout=300)
    assert child.returncode == 0, said
    return runs.load(next(folder.glob("resnet6-*")))


def test_a_killed_run_goes_on_bit_for_bit(uninterrupted, tmp_path):
    """SIGKILL as soon as the first epoch is saved, then again in the middle of a later one, then let it finish."""
    for more in (0.0, 0.15):
        child = start_child(tmp_path)
        before = [p.stat().st_mtime_ns for p in tmp_path.glob("*.part/checkpoint.pt")]
        while [p.stat().st_mtime_ns for p in tmp_path.glob("*.part/checkpoint.pt")] == before:
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.005)
        time.sleep(more)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        child.stderr.close()
        state = torch.load(next(tmp_path.glob("*.part/checkpoint.pt")), weights_only=True)
        assert 0 < len(state["history"]) < CHILD_CONFIG.epochs
    child = start_child(tmp_path)
    _, said = child.communicate(timeout=300)
    assert child.returncode == 0, said
    left = CHILD_CONFIG.epochs - len(state["history"])
    assert f"training {left} epoch" in said  # from the last finished epoch, not from the start

    resumed = runs.load(next(tmp_path.glob("resnet6-*")))
    timeless = [r.history.drop(columns=["seconds", "images_per_s"]) for r in (resumed, uninterrupted)]
    assert timeless[0].equals(timeless[1])
    assert np.array_equal(resumed.losses, uninterrupted.losses)
    for name, tensor in uninterrupted.weights().items():
        assert torch.equal(resumed.weights()[name], tensor), name


def test_a_run_killed_before_its_first_checkpoint_starts_over(uninterrupted, tmp_path):
    child = start_child(tmp_path)
    while not list(tmp_path.glob(".locks/*")):
        assert child.poll() is None
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stderr.close()
    child = start_child(tmp_path)
    _, said = child.communicate(timeout=300)
    assert child.returncode == 0, said
    assert np.array_equal(runs.load(next(tmp_path.glob("resnet6-*"))).losses, uninterrupted.losses)


def test_two_processes_share_one_run(uninterrupted, tmp_path):
    children = [start_child(tmp_path) for _ in range(2)]
    said = [child.communicate(timeout=300)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    assert sum("training" in text for text in said) == 1
    assert len(list(tmp_path.glob("resnet6-*"))) == 1


SEEDS = [CONFIG.replace(seed=seed, precision="float32") for seed in range(3)]


@pytest.fixture(scope="module")
def one_by_one(tiny_dataset, tmp_path_factory):
    return experiment.run_all(SEEDS, tiny_dataset, tmp_path_factory.mktemp("alone"))


def assert_same(runs_made, expected, rtol):
    assert [run.config.seed for run in runs_made] == [run.config.seed for run in expected]
    for run, other in zip(runs_made, expected, strict=True):
        assert run.name == other.name
        np.testing.assert_allclose(run.losses, other.losses, rtol=rtol)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_runs_trained_at_the_same_time_are_those_trained_one_by_one(tiny_dataset, one_by_one, tmp_path, backend):
    """Processes, as on a CPU, and threads, as on a GPU; the number of threads within an operation moves rounding."""
    with joblib.parallel_config(backend):
        made = experiment.run_all([*SEEDS, SEEDS[0]], tiny_dataset, tmp_path, jobs=2)
    assert_same(made[:3], one_by_one, rtol=1e-5 if backend == "loky" else 0)
    assert made[3].path == made[0].path
    assert not list(tmp_path.glob(".here-*"))


def test_what_is_there_is_not_trained_again_together(tiny_dataset, tmp_path, monkeypatch):
    first = experiment.run_all(SEEDS[:2], tiny_dataset, tmp_path)
    monkeypatch.setattr(experiment, "fit", None)
    monkeypatch.setattr(experiment.joblib, "Parallel", None)
    assert_same(experiment.run_all(SEEDS[:2], tiny_dataset, tmp_path, jobs=2), first, rtol=0)


def test_a_run_from_elsewhere_that_finds_no_room_does_not_end_the_others(tiny_dataset, tmp_path, monkeypatch, capsys):
    configs = [CONFIG.replace(seed=seed) for seed in (1, 2)]
    receive = runs.receive

    def full_for_the_first(path, files):
        if path.name == runs.run_name(configs[0], tiny_dataset.identity):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        receive(path, files)

    monkeypatch.setattr(runs, "receive", full_for_the_first)
    came = [(config, {"config.json": b"{}"}, "") for config in configs]
    monkeypatch.setattr(experiment.joblib, "Parallel", lambda *_, **__: lambda tasks: came)
    experiment.train_together(configs, tiny_dataset, tmp_path, jobs=2)
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("failed: cannot be saved (No space left on device)")
    assert second.endswith("trained")
    assert [path.name for path in tmp_path.glob("simple_cnn-*")] == [runs.run_name(configs[1], tiny_dataset.identity)]


def test_a_run_that_fails_does_not_end_the_others(tiny_dataset, tmp_path, monkeypatch, capsys):
    def fail_once(model, dataset, config, *rest, **options):
        if config.seed == 1:
            raise RuntimeError("out of luck")
        return fit(model, dataset, config, *rest, **options)

    monkeypatch.setattr(experiment, "fit", fail_once)
    with joblib.parallel_config("threading"):
        experiment.train_together(SEEDS, tiny_dataset, tmp_path, jobs=2)
    assert [experiment.find(c, tiny_dataset, tmp_path) is not None for c in SEEDS] == [True, False, True]
    said = capsys.readouterr().err
    assert "seed 1: failed: RuntimeError: out of luck" in said
    assert "seed 2: trained" in said


@pytest.fixture(scope="module")
def cluster():
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as made,
        Client(made) as client,
    ):
        yield client


@pytest.mark.parametrize("shared", [True, False])
def test_a_dask_cluster_trains_the_runs(tiny_dataset, one_by_one, tmp_path, monkeypatch, cluster, shared):
    """On two workers, whether they see the folder of the runs or, as on another machine, do not."""
    if not shared:  # the file by which workers know the folder lies in another one
        make_file = tempfile.NamedTemporaryFile
        monkeypatch.setattr(experiment.tempfile, "NamedTemporaryFile", lambda dir, prefix: make_file(prefix=prefix))
    with joblib.parallel_config("dask"):
        experiment.train_together(SEEDS, tiny_dataset, tmp_path, jobs=2)
    monkeypatch.setattr(experiment, "fit", None)  # they are there
    assert_same(experiment.run_all(SEEDS, tiny_dataset, tmp_path), one_by_one, rtol=1e-5)
    busy = cluster.run(lambda dask_worker: dask_worker.state.executed_count)
    assert len(busy) == 2
    assert all(busy.values())


def test_losses_on_lines_are_those_near_the_weights_a_seed_a_line(tiny_dataset, tmp_path):
    run = experiment.run(CONFIG.replace(epochs=1, train_size=64), tiny_dataset, tmp_path, progress=False)
    axis = np.array([-1.0, 0.0, 1.0])
    lines = experiment.losses_on_lines(run, tiny_dataset, [3, 5], axis, images=8)
    for line, seed in zip(lines, (3, 5), strict=True):
        np.testing.assert_array_equal(line, experiment.losses_near(run, tiny_dataset, [seed], [axis], images=8))
    assert lines[0, 1] == lines[1, 1]  # the weights themselves
    assert lines[0, 0] != lines[1, 0]


def test_the_peak_of_a_processor_is_measured_on_such_a_one_and_kept(make_run, monkeypatch):
    measured = []

    def time_product(device, precision, repeats):
        measured.append((device.type, precision, torch.get_num_threads()))
        return 0.2

    monkeypatch.setattr(experiment, "time_matrix_product", time_product)
    monkeypatch.setattr(experiment, "cpu_name", lambda: "A CPU (of a kind)")
    monkeypatch.setattr(experiment.joblib, "cpu_count", lambda: 3)
    threads = torch.get_num_threads()

    def made(name):
        return make_run(provenance={"device_name": name, "precision": "bfloat16"})

    run = made("A CPU (of a kind) (3 threads)")
    assert experiment.peak(run) is None
    assert experiment.peak(run, measure=True) == pytest.approx(0.2e12)
    assert measured == [("cpu", "bfloat16", 3)]
    monkeypatch.setattr(experiment, "cpu_name", lambda: "another CPU")
    assert experiment.peak(run) == pytest.approx(0.2e12)  # kept beside the run
    for name in ("A CPU (of a kind) (4 threads)", "an old CPU (1 threads)"):  # more threads than here, another CPU
        assert experiment.peak(made(name), measure=True) is None
    assert experiment.peak(made("another CPU (1 thread)"), measure=True) == pytest.approx(0.2e12)
    assert measured[1:] == [("cpu", "bfloat16", 1)]
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("device", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12), ("NVIDIA H100 80GB HBM3", "float32", None),
        ("NVIDIA GeForce RTX 3090", "bfloat16", None),
    ],
)  # fmt: skip
def test_the_peak_of_a_gpu_is_that_of_its_maker(device, precision, peak, make_run):
    run = make_run(provenance={"device_name": device, "precision": precision})
    assert experiment.peak(run, measure=True) == peak
