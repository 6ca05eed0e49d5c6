import dataclasses
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch

from cifarnb.config import ConfigError
from cifarnb.report.compare import compare, differences, table, write_page
from cifarnb.report.significance import mcnemar, sampling_difference, seed_difference

DATA = {"data": {"fingerprint": "f" * 64}, "versions": {"torch": "2.11.0"}}
FINAL, BEST = "test accuracy, last epoch", "test accuracy, best epoch"


@pytest.fixture
def a_run(make_run):
    """A run with predictions (64,) of its own."""

    def make(*args, predictions=None, provenance=None, **values):
        run = make_run(*args, provenance=DATA | (provenance or {}), **values)
        if predictions is not None:
            np.save(run.path / "predictions.npy", np.asarray(predictions, np.uint8))
        return run

    return make


@pytest.fixture
def a_report(tmp_path, copy_records):
    """A report of some networks: name → its runs; returns its folder."""

    def make(name, **networks):
        folder = tmp_path / name
        for run in (run for same in networks.values() for run in same):
            copy_records(run, folder / "runs")
        listed = [
            {"name": model, "label": model, "runs": [run.name for run in same] or None}
            for model, same in networks.items()
        ]
        (folder / "summary.json").write_text(json.dumps({"networks": listed}))
        return folder

    return make


def judged(a, b, dataset=None):
    """Metric → the row."""
    return {row.metric: row for row in compare(a, b, dataset).rows}


def test_a_run_is_identical_to_its_copy(a_run, tmp_path):
    run = a_run()
    copy = shutil.copytree(run.path, tmp_path / "copy")
    verdicts = {metric: row.verdict for metric, row in judged(run.path, copy).items()}
    assert verdicts.pop("seconds per epoch") == "–"
    assert set(verdicts.values()) == {"identical"}
    assert len(verdicts) == 7
    assert len(differences(compare(run.path, copy))) == 0


def test_single_runs_are_told_from_the_sampling_noise_of_the_test_images(a_run):
    a = a_run(accuracies=[0.5])
    seen = set()
    for accuracy in (0.55, 0.6, 0.65, 0.7, 0.75, 0.9):
        b = a_run(accuracies=[accuracy])
        low, high = sampling_difference(accuracy, 0.5, (64, 64))
        expected = "within the sampling noise of 64 test images" if low <= 0 <= high else "different"
        found = judged(a.path, b.path)[FINAL]
        assert found.verdict == expected
        assert "Newcombe" in found.test
        assert found.difference == pytest.approx(accuracy - 0.5)
        seen.add(expected)
    assert len(seen) == 2


@pytest.mark.parametrize("only_b", [3, 5, 6, 12])
def test_with_the_data_single_runs_are_compared_image_by_image(a_run, tiny_dataset, only_b):
    labels = torch.zeros(64, dtype=torch.int64)
    dataset = dataclasses.replace(tiny_dataset, test_labels=labels, fingerprint="f" * 64)
    right_a = np.arange(64) < 40
    right_b = np.arange(64) < 40 + only_b
    a = a_run(accuracies=[40 / 64], predictions=~right_a)
    b = a_run(accuracies=[(40 + only_b) / 64], predictions=~right_b)
    found = judged(a.path, b.path, dataset)
    p = mcnemar(right_a, right_b)
    expected = "different" if p < 0.05 else "within the sampling noise of 64 test images"
    assert (found[FINAL].verdict, found["predictions that differ"].verdict) == (expected, expected)
    assert f"p = {p:.2g}" in found[FINAL].test
    assert found["predictions that differ"].difference == only_b
    assert judged(a.path, b.path)["predictions that differ"].verdict == "–"  # without it
    with pytest.raises(ConfigError, match="is not the data of"):
        compare(a.path, b.path, tiny_dataset)


def test_on_other_data_images_are_not_compared(a_run, tiny_dataset):
    other = {"data": {"fingerprint": "0" * 64}, "versions": {}}
    found = judged(a_run().path, a_run(provenance=other).path, tiny_dataset)
    assert "predictions that differ" not in found


def test_several_seeds_are_told_from_their_noise(a_run, a_report):
    first = [0.5, 0.52, 0.54]
    seen = set()
    for shift in (0.0, 0.01, 0.03, 0.05, 0.2):
        second = [value + shift + wobble for value, wobble in zip(first, (0.001, 0, 0), strict=True)]
        sides = []
        for name, accuracies in (("a", first), ("b", second)):
            same = [a_run("resnet6", accuracies=[accuracy], seed=seed) for seed, accuracy in enumerate(accuracies)]
            sides.append(a_report(f"{name}{shift}", resnet6=same))
        found = judged(*sides)[FINAL]
        low, high = seed_difference(second, first)
        expected = "within seed noise" if low <= 0 <= high else "different"
        assert found.verdict == expected
        assert "Welch" in found.test
        seen.add(expected)
    assert len(seen) == 2


def test_equal_last_values_of_other_runs_are_not_identical(a_run):
    found = judged(a_run(accuracies=[0.1, 0.5]).path, a_run(accuracies=[0.2, 0.5]).path)
    assert found[FINAL].verdict == found[BEST].verdict == "within the sampling noise of 64 test images"
    assert found[FINAL].difference == 0


def test_an_accuracy_that_cannot_be_is_refused(a_run):
    with pytest.raises(ConfigError, match=r"history\.json: has a test_accuracy that is not between 0 and 1"):
        compare(a_run().path, a_run(accuracies=[0.1, 1.5]).path)


def test_a_loss_of_single_runs_has_no_spread(a_run):
    found = judged(a_run(losses=[2.0, 1.0]).path, a_run(losses=[2.0, 1.000001]).path)["training loss, last epoch"]
    assert (found.verdict, found.test) == ("different", "no spread: one seed")


def test_a_run_that_diverged_is_identical_to_none_but_itself(a_run, tmp_path):
    nan = a_run(losses=[2.0, math.nan])
    other = a_run(losses=[1.0, math.nan])
    copy = shutil.copytree(nan.path, tmp_path / "copy")
    assert judged(nan.path, copy)["training loss, last epoch"].verdict == "identical"
    assert judged(nan.path, other.path)["training loss, last epoch"].verdict == "different"
    assert judged(nan.path, a_run().path)["training loss, last epoch"].verdict == "different"


def test_different_networks_can_be_compared_as_runs(a_run):
    found = judged(a_run().path, a_run("resnet6").path)
    assert found["parameters"].verdict == "different"
    assert (found["parameters"].a, found["parameters"].b) == ([62_006], [692_122])
    assert found["parameters"].network == "Simple CNN / ResNet, 6 blocks"


def test_parameters_and_versions_that_differ_are_listed(a_run):
    newer = {"versions": {"torch": "2.12.0"}, "device_name": "a large machine"}
    comparison = compare(a_run(lr=0.1).path, a_run(lr=0.2, batch_size=32, provenance=newer).path)
    listed = {row.what: (row.A, row.B) for row in differences(comparison).itertuples()}
    assert listed == {
        "lr": ("0.1", "0.2"),
        "batch_size": ("128", "32"),
        "version of torch": ("2.11.0", "2.12.0"),
        "device": ("a small machine", "a large machine"),
    }


def test_networks_of_one_report_alone_are_named(a_run, a_report):
    a = a_report("a", simple_cnn=[a_run()], resnet6=[a_run("resnet6")], vgg_a=[])
    b = a_report("b", simple_cnn=[a_run()], resnet6=[])
    comparison = compare(a, b)
    assert (comparison.only_a, comparison.only_b) == (["ResNet, 6 blocks"], [])
    assert {row.network for row in comparison.rows} == {"Simple CNN"}
    with pytest.raises(ConfigError, match="no network in common"):
        compare(a_report("c", simple_cnn=[a_run()]), a_report("d", resnet6=[a_run("resnet6")]))


@pytest.mark.parametrize("damage", ["missing", "neither", "history", "predictions", "kinds", "summary"])
def test_what_cannot_be_compared_is_told_in_one_line(a_run, a_report, tmp_path, damage):
    a, b = a_run().path, a_run().path
    match damage:
        case "missing":
            b, words = tmp_path / "nothing", r"nothing: does not exist"
        case "neither":
            b, words = tmp_path, "neither a run nor a report"
        case "history":
            (b / "history.json").write_text("{")
            words = r"history\.json: cannot be read"
        case "predictions":
            (b / "predictions.npy").write_bytes(b"")
            words = r"predictions\.npy: cannot be read"
        case "kinds":
            b, words = a_report("r", simple_cnn=[a_run()]), "two of a kind"
        case "summary":
            a = b = a_report("r", simple_cnn=[a_run()])
            (b / "summary.json").write_text("[]")
            words = r"summary\.json: is not the summary of a report"
    with pytest.raises(ConfigError, match=words) as told:
        compare(a, b)
    assert "\n" not in str(told.value)


def test_the_table_is_text(a_run):
    found = table(compare(a_run(accuracies=[0.25]).path, a_run(accuracies=[0.5]).path))
    row = found[found["metric"] == FINAL].iloc[0]
    assert (row["A"], row["B"], row["B − A"]) == ("25.00%", "50.00%", "+25.00 points")
    assert found.map(lambda cell: isinstance(cell, str)).all(axis=None)


def test_the_page_has_every_row_and_the_curves_of_both(a_run, a_report, tmp_path):
    seeds = [a_run("resnet6", seed=seed, accuracies=[0.1, 0.2 + seed / 10]) for seed in (0, 1)]
    a = a_report("first", simple_cnn=[a_run()], resnet6=seeds)
    b = a_report("second", simple_cnn=[a_run(accuracies=[0.2, math.nan])], resnet6=seeds[:1])
    comparison = compare(a, b)
    page = write_page(comparison, tmp_path / "out.html")
    text = page.read_text()
    assert "A: first and B: second" in text
    assert len(re.findall(r'<img[^>]* src="data:image/png', text)) == 2
    for row in comparison.rows:
        assert row.verdict in text
        assert row.metric in text
    assert not re.search(r'(src|href)="https?:', text)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_page(comparison, tmp_path / "out.html" / "there.html")
