import dataclasses
import json
import math
import statistics

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cifarnb.models import LABELS
from cifarnb.summary import describe_landscape, describe_network, describe_probes, describe_rates, mean_and_interval


@pytest.mark.parametrize("values", [[0.5, 0.6], [0.5, 0.52, 0.49], [0.1, 0.9, 0.4, 0.7, 0.2]])
def test_the_interval_is_students(values):
    described = mean_and_interval(values)
    expected = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert described["mean"] == pytest.approx(np.mean(values))
    assert described["ci95"] == pytest.approx(expected)
    assert described["values"] == values


def test_a_single_value_has_no_interval():
    assert mean_and_interval([0.25]) == {"mean": 0.25, "ci95": None, "values": [0.25]}


def test_equal_values_have_an_interval_without_width():
    assert mean_and_interval([0.25, 0.25])["ci95"] == [0.25, 0.25]


def test_a_network_is_described_by_its_records(make_run):
    first = make_run("resnet6", accuracies=[0.2, 0.6, 0.5], losses=[2.0, 1.0], provenance={"train_images": 200})
    second = make_run("resnet6", accuracies=[0.1, 0.2, 0.7], losses=[2.0, 0.5], seed=1)
    described = describe_network("resnet6", [first, second])
    assert described["label"] == LABELS["resnet6"]
    assert described["parameters"] == 692_122
    assert described["multiply_adds"] == 25_609_472
    assert (described["reported_accuracy"], described["reported_epochs"]) == (0.7706, 100)
    assert described["final_accuracy"] == mean_and_interval([0.5, 0.7])
    assert (described["best_accuracy"], described["best_epoch"], described["epochs"]) == (0.6, 2, 3)
    assert described["final_train_loss"] == statistics.fmean([1.0, 0.5])
    assert described["train_images"] == 200
    assert described["seconds_per_epoch"] == 4.0  # of 2, 4 and 6
    assert described["seconds_per_image"] == pytest.approx(4 / 256)
    assert (described["device_name"], described["precision"]) == ("a small machine", "float32")
    assert described["diverged"] is False
    assert (described["run"], described["runs"]) == (first.name, [first.name, second.name])
    assert json.loads(json.dumps(described)) == described


def test_a_network_that_did_not_run_has_the_same_keys(make_run):
    ran, not_run = describe_network("simple_cnn", [make_run()]), describe_network("simple_cnn", [])
    assert [*ran] == [*not_run]
    known = ["name", "label", "parameters", "multiply_adds", "reported_accuracy", "reported_epochs"]
    assert [key for key, value in not_run.items() if value is not None] == known
    assert {key: ran[key] for key in known} == {key: not_run[key] for key in known}


def test_one_seed_that_diverged_is_enough(make_run):
    runs = [make_run(), make_run(seed=1, losses=[2.0, math.nan])]
    described = describe_network("simple_cnn", runs)
    assert described["diverged"] is True
    assert math.isnan(described["final_train_loss"])


def test_a_landscape_is_described_by_its_records(make_run):
    runs = [
        make_run("vgg_a", lr=1e-3, accuracies=[0.1, 0.2], losses=[3, 2, 1, 1]),
        make_run("vgg_a", lr=5e-4, accuracies=[0.2, 0.6], losses=[2, 2, 3, 1]),
        make_run("vgg_a", lr=1e-4, accuracies=[0.1, 0.3], losses=[1, 1.75, 2]),
    ]
    described = describe_landscape(runs)
    assert described == {
        "lrs": [1e-3, 5e-4, 1e-4],
        "final_accuracy": {"0.001": 0.2, "0.0005": 0.6, "0.0001": 0.3},
        "steps": 3,  # the shortest run's
        "median_band_width": 2.0,  # of 2, 0.25 and 2
        "runs": [run.name for run in runs],
    }
    assert json.loads(json.dumps(described)) == described


def test_a_rate_that_diverged_widens_the_band_without_end(make_run):
    runs = [make_run("vgg_a", losses=[2, 1, 1]), make_run("vgg_a", lr=0.5, losses=[3, math.nan, math.nan])]
    assert describe_landscape(runs)["median_band_width"] == math.inf


def test_the_band_of_rates_that_all_diverged_is_without_end(make_run):
    runs = [make_run("vgg_a", lr=lr, losses=[3, math.nan, math.nan]) for lr in (0.5, 0.6)]
    assert describe_landscape(runs)["median_band_width"] == math.inf


def test_probes_are_described_by_their_medians_over_the_steps(make_run):
    def probed(seed, betas):
        probes = pd.DataFrame(
            {
                "step": range(len(betas)),
                "loss": 1.0,
                "loss_min": [1.0, 1.0, 1.0],
                "loss_max": [1.5, 3.0, 1.25],
                "change_min": 0.0,
                "change_max": [1.0, 2.0, 6.0],
                "beta": betas,
            }
        )
        return dataclasses.replace(make_run("vgg_a", seed=seed), probes=probes)

    runs = [probed(0, [1.0, 5.0, 2.0]), probed(1, [math.nan, 4.0, 8.0])]
    described = describe_probes(runs)
    assert described == {
        "loss_range": mean_and_interval([0.5, 0.5]),
        "gradient_change": mean_and_interval([2.0, 2.0]),
        "beta": mean_and_interval([2.0, 6.0]),  # what is not finite is left out
        "runs": [run.name for run in runs],
    }
    assert describe_probes([probed(0, [math.nan] * 3)])["beta"]["mean"] == math.inf


def test_rates_are_described_by_how_many_come_near_the_best(make_run):
    runs = [
        make_run("vgg_a", lr=lr, seed=seed, accuracies=[0.1, accuracy], losses=losses)
        for lr, seed, accuracy, losses in (
            (0.001, 0, 0.50, [1.0]), (0.01, 0, 0.49, [1.0]), (0.1, 0, 0.40, [math.nan]),
            (0.001, 1, 0.50, [1.0]), (0.01, 1, 0.48, [1.0]), (0.1, 1, 0.40, [1.0]),
        )
    ]  # fmt: skip
    described = describe_rates(runs)
    assert described["within_one_point"] == mean_and_interval([2, 1])
    assert described["final_accuracy"] == {"0.001": [0.5, 0.5], "0.01": [0.49, 0.48], "0.1": [0.4, 0.4]}
    assert described["diverged"] == [0.1]
    assert json.loads(json.dumps(described)) == described
