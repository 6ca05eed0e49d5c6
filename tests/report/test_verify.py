"""A report that was tampered with does not pass; the smoke report as it was made does."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from cifarnb import data, experiment, runs
from cifarnb.config import ConfigError
from cifarnb.data import load
from cifarnb.kept import read_arrays
from cifarnb.models import build_model
from cifarnb.report import verify as verify_module
from cifarnb.report.page import Section
from cifarnb.report.verify import (
    check_figures,
    check_losses,
    check_page,
    check_weights,
    first_difference,
    record_fault,
    verify,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def dataset():
    return load("synthetic")


@pytest.fixture(scope="module")
def summary(smoke):
    return json.loads((smoke / "summary.json").read_text())


@pytest.fixture
def report(smoke, tmp_path):
    """A copy of the smoke report, to be tampered with."""
    return shutil.copytree(smoke, tmp_path / "report")


def run_of(report, model):
    """Its headline's, of the write-up's recipe or, with ``-well``, of the other."""
    summary = json.loads((report / "summary.json").read_text())
    networks = summary["well"] if model.endswith("-well") else summary["networks"]
    name = next(network["run"] for network in networks if network["name"] == model.removesuffix("-well"))
    return runs.load(report / "runs" / name)


def edit(file, pattern, replacement):
    text = file.read_text()
    changed, count = re.subn(pattern, replacement, text, count=1)
    assert count == 1
    assert changed != text
    file.write_text(changed)


def test_a_report_as_it_was_made_passes(report):
    command = [sys.executable, "-m", "cifarnb", "verify", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all is well" in done.stdout
    for what in ("data", "runs", "records", "weights vgg_a_bn.safetensors", "summary.json", "report.md", "report.html"):
        assert f"ok   {what}: " in done.stdout
    assert "FAIL" not in done.stdout


@pytest.mark.skipif("CIFARNB_DATA" not in os.environ, reason="needs CIFAR-10")
def test_the_full_report_is_what_its_records_say():
    command = [sys.executable, "-m", "cifarnb", "verify", str(ROOT / "reports" / "full")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def executed_for(smoke):
    """The notebooks that were executed for the smoke report, in place of those executed again."""
    return lambda names, *_, **__: [Section(name, smoke / "notebooks" / f"{name}.ipynb", "ok") for name in names]


def test_tampering_is_found_on_the_whole_way(report, smoke, monkeypatch):
    monkeypatch.setattr(verify_module.execution, "execute", executed_for(smoke))

    def failed():
        return {check.what: check.detail for check in verify(report, tick=lambda _: None) if not check.ok}

    assert failed() == {}
    run = run_of(report, "simple_cnn")
    history = json.loads((run.path / "history.json").read_text())
    (run.path / "history.json").write_text(json.dumps({name: column[:-1] for name, column in history.items()}))
    shutil.copy(report / "weights" / "resnet6.safetensors", report / "weights" / "resnet9.safetensors")
    found = failed()
    assert found[f"record {run.name}"] == "history.json has 2 of 3 epochs"
    assert "cannot be loaded" in found["weights resnet9.safetensors"]
    assert "networks[0].final_accuracy.mean is" in found["summary.json"]
    assert {"records", "report.md", "report.html"} <= {*found}
    run.path.rename(run.path.with_name("simple_cnn-0123456789ab"))
    assert run.name in failed()["runs"]


@pytest.fixture
def on_a_copy(smoke, remake, dataset, tmp_path, monkeypatch):
    """The smoke report as if its data were a copy of CIFAR-10, and the original, in which two test images differ."""
    copy = data.KnownCopy(dataset.source, train_indices=(1,), test_indices=(3, 7))
    monkeypatch.setitem(data.KNOWN_COPIES, dataset.fingerprint, copy)
    made = tmp_path / "made"
    for path in (smoke.parent / "runs").glob("*-*"):
        run = runs.load(path)
        target = made / runs.run_name(run.config, "cifar10")
        shutil.copytree(path, target)
        edit(target / "provenance.json", r'"cifar10": false', '"cifar10": true')
    ok, _ = remake(tmp_path / "out", made, hand_in={"author": "A. Student", "code_link": "https://example.org"})
    assert ok
    assert "A. Student" in (tmp_path / "out" / "report.html").read_text()
    images = [part.clone() for part in (dataset.train_images, dataset.test_images)]
    images[0][1], images[1][3], images[1][7] = 0, 255, 0
    original = dataclasses.replace(
        dataset, train_images=images[0], test_images=images[1], canonical=True, source="the original",
        fingerprint="0" * 64,
    )  # fmt: skip
    return tmp_path / "out", made, original


def test_with_the_original_data_the_records_made_on_a_copy_are_shown_gone_on_from_and_verified(
    on_a_copy, smoke, remake, monkeypatch, tmp_path
):
    out, made, original = on_a_copy
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})  # and without bfloat16
    monkeypatch.setattr(data, "load", lambda _: original)
    monkeypatch.setattr(verify_module.execution, "execute", executed_for(smoke))
    checks = {check.what: check for check in verify(out, "cifar10", tick=lambda _: None)}
    assert {what: check.detail for what, check in checks.items() if not check.ok} == {}
    assert "a copy of CIFAR-10 in which 2 test images differ" in checks["data"].detail
    tested = len(original.test_images[: run_of(out, "simple_cnn").provenance["test_images"]])
    assert f"of {tested - 2:,} right" in checks["weights simple_cnn.safetensors"].detail
    ok, _ = remake(tmp_path / "again", made)
    assert ok
    names = [json.loads((folder / "summary.json").read_text())["runs"] for folder in (out, tmp_path / "again")]
    assert names[0] == names[1]
    run = run_of(made.parent / "out", "simple_cnn")
    assert experiment.find(run.config, original, made).name == run.name


def test_other_images_than_those_that_differ_are_found(on_a_copy):
    out, _, original = on_a_copy
    summary = json.loads((out / "summary.json").read_text())
    run = runs.load(out / "runs" / next(n["run"] for n in summary["networks"] if n["name"] == "resnet6"))
    weights = out / "weights" / "resnet6.safetensors"
    assert check_weights(run, weights, summary, original).ok
    strange = dataclasses.replace(original, test_images=original.test_images.flip(0))
    assert not check_weights(run, weights, summary, strange).ok


@pytest.mark.parametrize("name", ["report.md", "report.html"])
def test_a_changed_digit_in_a_page_is_found(report, smoke, name):
    assert check_page(report / name, smoke / name).ok
    edit(report / name, r"(\d\d\.\d)(\d)%", lambda match: f"{match[1]}{(int(match[2]) + 1) % 10}%")
    found = check_page(report / name, smoke / name)
    assert not found.ok
    assert "where the records give" in found.detail
    (report / name).unlink()
    assert "cannot be read" in check_page(report / name, smoke / name).detail


def test_where_a_report_was_made_is_not_what_it_says(report, smoke):
    edit(report / "report.md", r'runs_dir = "[^"]*"', 'runs_dir = "/elsewhere"')
    assert check_page(report / "report.md", smoke / "report.md").ok
    edit(report / "report.md", r"epochs = (\d)", lambda match: f"epochs = {int(match[1]) + 1}")
    assert not check_page(report / "report.md", smoke / "report.md").ok


def test_a_changed_digit_in_the_summary_is_found(summary):
    changed = json.loads(json.dumps(summary))
    assert first_difference(changed, summary) == ""
    changed["networks"][1]["final_accuracy"]["values"][0] += 1e-9
    assert first_difference(changed, summary).startswith("networks[1].final_accuracy.values[0] is 0.")
    assert first_difference({"a": [1.0, 0.5]}, {"a": [1.0 + 1e-11, 0.5 - 1e-11]}) == ""  # as another SciPy has it
    assert first_difference({"a": 0.5}, {"a": 0.5001}) == "a is 0.5, but the records give 0.5001"
    assert first_difference({"a": [1, 2]}, {"a": [1]}) == "a is [1, 2], but the records give [1]"
    assert first_difference({"a": 1, "b": None}, {"a": 1}) == "b is None, but the records give 'nothing'"


def test_a_swapped_weight_file_is_found(report, summary, dataset):
    run, weights = run_of(report, "simple_cnn"), report / "weights" / "simple_cnn.safetensors"
    assert check_weights(run, weights, summary, dataset).ok
    safetensors.torch.save_file(build_model("simple_cnn", 99).state_dict(), weights)
    swapped = check_weights(run, weights, summary, dataset)
    assert not swapped.ok
    assert "predicted otherwise" in swapped.detail


@pytest.mark.parametrize("change", [Path.unlink, lambda file: np.save(file, np.load(file)[:1])])
def test_weights_whose_predictions_are_not_there_are_told_and_the_rest_is_checked(report, summary, dataset, change):
    run, weights = run_of(report, "simple_cnn"), report / "weights" / "simple_cnn.safetensors"
    change(run.path / "predictions.npy")
    found = check_weights(run, weights, summary, dataset)
    assert not found.ok
    assert "cannot be compared: " in found.detail
    assert "predictions.npy" in found.detail


@pytest.mark.parametrize("damage", ["cut off", "missing", "empty", "another network"])
def test_a_damaged_weight_file_is_found(report, summary, dataset, damage):
    weights = report / "weights" / "simple_cnn.safetensors"
    whole = weights.read_bytes()
    match damage:
        case "cut off":
            weights.write_bytes(whole[: len(whole) // 2])
        case "missing":
            weights.unlink()
        case "empty":
            weights.write_bytes(b"")
        case _:
            shutil.copy(report / "weights" / "resnet6.safetensors", weights)
    found = check_weights(run_of(report, "simple_cnn"), weights, summary, dataset)
    assert not found.ok
    assert "cannot be loaded" in found.detail


def test_a_record_that_contradicts_itself_is_found(report, dataset):
    path = run_of(report, "resnet9").path
    kept = {file.name: file.read_bytes() for file in path.iterdir()}
    assert record_fault(runs.load(path), dataset) == ""

    def fault_after(name, change):
        change(path / name)
        fault = record_fault(runs.load(path), dataset)
        (path / name).write_bytes(kept[name])
        return fault

    def change_history(column):
        def change(file):
            history = json.loads(file.read_text())
            history[column][1] += 0.01
            file.write_text(json.dumps(history))

        return change

    def cut(file):
        np.save(file, np.load(file)[:1])

    assert "train_loss of epoch 2 is not the mean" in fault_after("history.json", change_history("train_loss"))
    assert "is not that of predictions.npy" in fault_after("history.json", change_history("test_accuracy"))
    assert "losses.npy has 1 steps" in fault_after("losses.npy", cut)
    assert "predictions.npy has shape (1,)" in fault_after("predictions.npy", cut)
    assert "predictions.npy cannot be read" in fault_after("predictions.npy", lambda file: file.unlink())
    other = r'"fingerprint": "..', '"fingerprint": "zz'
    assert "names other data" in fault_after("provenance.json", lambda file: edit(file, *other))


def test_an_accuracy_with_augmentation_that_contradicts_its_predictions_is_found(report, dataset):
    run = run_of(report, "fast_cnn-well")
    assert record_fault(run, dataset) == ""
    history, predictions = (run.path / name for name in ("history.json", "tta_predictions.npy"))
    kept = history.read_bytes()
    numbers = json.loads(kept)
    history.write_text(json.dumps(numbers | {"tta_accuracy": [1.0] * len(numbers["epoch"])}))
    assert record_fault(runs.load(run.path), dataset) == "tta_accuracy 1.0000 is not that of tta_predictions.npy"
    history.write_text(json.dumps({name: column for name, column in numbers.items() if name != "tta_accuracy"}))
    assert record_fault(runs.load(run.path), dataset) == "history.json has no tta_accuracy"
    history.write_bytes(kept)
    predictions.unlink()
    assert "tta_predictions.npy cannot be read" in record_fault(runs.load(run.path), dataset)


def test_an_insight_that_is_not_of_the_run_is_found(report, dataset):
    path = run_of(report, "simple_cnn").path
    (file,) = path.glob("insight-*.npz")
    assert record_fault(runs.load(path), dataset) == ""
    arrays = read_arrays(file)
    rolled = np.roll(arrays["logits"], 1, axis=1)
    other = (rolled.argmax(1) != runs.load(path).predictions()[:100]).sum()
    assert other >= 95  # all, but for what rounding decides
    np.savez(file, **(arrays | {"logits": rolled}))
    fault = record_fault(runs.load(path), dataset)
    assert fault == f"{file.name} predicts otherwise than predictions.npy for {other} of 100 images"
    file.write_bytes(b"no archive")
    assert f"{file.name} cannot be read" in record_fault(runs.load(path), dataset)


@pytest.mark.parametrize("kind", ["landscape", "against-torch"])
def test_what_is_kept_and_cannot_be_read_is_found(report, dataset, kind):
    path = run_of(report, "simple_cnn").path
    file = path / f"{kind}-0123456789ab.json"
    file.write_text('{"losses": [1.0]}')
    assert record_fault(runs.load(path), dataset) == ""
    file.write_text('{"losses": [1.')
    assert record_fault(runs.load(path), dataset).startswith(f"{file.name} cannot be read")


def test_figures_are_compared(report, smoke):
    assert check_figures(report, smoke).ok
    first, second = sorted((report / "figures").glob("*.png"))[4:6]
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    assert check_figures(report, smoke).detail == f"{first.name} does not show what the records give"
    first.write_bytes(kept + b" ")
    assert check_figures(report, smoke).detail == f"{first.name} is not the one in report.html"
    first.unlink()
    assert check_figures(report, smoke).detail == f"{first.name} is missing"


def test_other_data_is_told_at_once(report, tmp_path):
    images, labels = np.zeros((20, 32, 32, 3), np.uint8), np.arange(20, dtype=np.uint8) % 10
    np.savez(tmp_path / "other.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    (found,) = verify(report, str(tmp_path / "other.npz"), tick=lambda _: None)
    assert (found.what, found.ok) == ("data", False)
    assert "not the report's" in found.detail


def test_a_repeated_epoch_has_the_recorded_losses(report, dataset):
    run = run_of(report, "simple_cnn")
    found = check_losses(run, dataset, 1)
    assert found.ok
    assert f"of {len(run.losses) // 3} steps" in found.detail
    assert not check_losses(dataclasses.replace(run, losses=run.losses * np.float32(1.1)), dataset, 1).ok
    another = dataclasses.replace(run, config=run.config.replace(seed=5))
    assert not check_losses(another, dataset, 1).ok


@pytest.mark.parametrize("content", [None, "{", "[]", '{"profile": "quick"}', '{"profile": "other"}'])
def test_what_is_no_report_is_told_in_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    with pytest.raises(ConfigError, match=r"summary\.json: ") as refused:
        list(verify(tmp_path))
    assert "\n" not in str(refused.value)
