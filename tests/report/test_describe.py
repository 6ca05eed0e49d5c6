import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest

from cifarnb.models import LABELS
from cifarnb.report.changes import beats_guessing
from cifarnb.report.describe import (
    best_rate,
    compare_with_batch_norm,
    describe_landscape,
    describe_learnt,
    describe_network,
    describe_probes,
    describe_rates,
    envelopes,
    gap,
    loss_fluctuation,
    settled_epoch,
    short_of_aim,
    what_is_missing,
    what_is_reached,
    what_to_try,
)
from cifarnb.report.significance import mean_and_interval


def test_a_network_is_described_by_its_records(make_run):
    first = make_run("resnet6", accuracies=[0.2, 0.6, 0.5], losses=[2.0, 1.0], provenance={"train_images": 200})
    elsewhere = {"device_name": "a large machine"}
    second = make_run("resnet6", accuracies=[0.1, 0.2, 0.7], losses=[2.0, 0.5], seed=1, provenance=elsewhere)
    described = describe_network("resnet6", [first, second])
    assert described["label"] == LABELS["resnet6"]
    assert described["parameters"] == 692_122
    assert described["multiply_adds"] == 25_609_472
    assert (described["reported_accuracy"], described["reported_epochs"]) == (0.7706, 100)
    assert described["final_accuracy"] == mean_and_interval([0.5, 0.7])
    assert described["best_accuracy"] == mean_and_interval([0.6, 0.7])
    assert described["best_epochs"] == mean_and_interval([2, 3])
    assert (described["epochs"], described["steps"], described["width"]) == (3, 2, 1.0)
    assert described["learns_from"] == [0, 0]
    assert described["final_train_loss"] == mean_and_interval([1.0, 0.5])
    assert described["mean_train_loss"] == mean_and_interval([1.5, 1.25])
    assert described["loss_fluctuation"] == mean_and_interval([0.5, 0.75])
    assert described["train_images"] == 200
    assert described["seconds_per_epoch"] == mean_and_interval([4.0, 4.0])  # of 2, 4 and 6
    assert described["settled_epochs"] == mean_and_interval([3, 3])
    assert (described["devices"], described["precision"]) == (["a large machine", "a small machine"], "float32")
    assert described["lr"] == 0.001
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
    assert math.isnan(described["final_train_loss"]["mean"])


def test_a_landscape_is_described_by_its_records(make_run):
    runs = [
        make_run("vgg_a", lr=1e-3, accuracies=[0.1, 0.2], losses=[3, 2, 1, 1]),
        make_run("vgg_a", lr=5e-4, accuracies=[0.2, 0.6], losses=[2, 2, 3, 1]),
        make_run("vgg_a", lr=1e-4, accuracies=[0.1, 0.3], losses=[1, 1.75, 2]),
    ]
    described = describe_landscape(runs)
    assert described == {
        "width": 1.0,
        "learns_from": [0, 0, 0],
        "lrs": [1e-3, 5e-4, 1e-4],
        "final_accuracy": {"0.001": [0.2], "0.0005": [0.6], "0.0001": [0.3]},
        "steps": 3,  # the shortest run's
        "median_band_width": mean_and_interval([2.0]),  # of 2, 0.25 and 2
        "late_band_width": mean_and_interval([1.125]),  # of 0.25 and 2
        "maximum_band_width": mean_and_interval([2.0]),
        "runs": [run.name for run in runs],
    }
    assert json.loads(json.dumps(described)) == described


def test_every_seed_has_a_band_of_its_own(make_run):
    losses = {0: ([3, 3], [1, 2]), 1: ([5, 5], [1, 1])}
    runs = [
        make_run("vgg_a", lr=lr, seed=seed, losses=of_seed)
        for seed, both in losses.items()
        for lr, of_seed in zip((0.1, 0.2), both, strict=True)
    ]
    assert describe_landscape(runs)["median_band_width"] == mean_and_interval([1.5, 4.0])
    assert describe_landscape(runs)["lrs"] == [0.1, 0.2]


@pytest.mark.parametrize(
    ("accuracies", "epoch"),
    [([0.5], 1), ([0.5, 0.5], 1), ([0.3, 0.49, 0.51, 0.5], 2), ([0.5, 0.3, 0.5], 3), ([0.3, 0.52, 0.5], 3)],
)
def test_it_has_settled_once_it_stays_within_a_point_of_its_end(accuracies, epoch, make_run):
    assert settled_epoch(make_run(accuracies=accuracies)) == epoch


def test_the_fluctuation_is_the_median_deviation_within_windows(make_run):
    steps = np.random.default_rng(0).normal(size=170).astype(np.float32)
    expected = np.median([steps[i : i + 50].std(dtype=np.float64) for i in (0, 50, 100)])
    assert loss_fluctuation(make_run(losses=steps)) == pytest.approx(expected)
    assert math.isnan(loss_fluctuation(make_run(losses=[1.0, math.nan])))


def test_a_rate_that_diverged_widens_the_band_without_end(make_run):
    runs = [make_run("vgg_a", losses=[2, 1, 1]), make_run("vgg_a", lr=0.5, losses=[3, math.nan, math.nan])]
    assert describe_landscape(runs)["median_band_width"]["mean"] == math.inf


def test_the_band_over_the_rates_at_which_all_networks_beat_guessing(make_run):
    def tried(name, stuck_at, rates=(1e-3, 5e-4, 1e-4)):
        return [
            make_run(name, lr=lr, seed=seed, losses=[1 + lr * 1000, 1.0], accuracies=[0.1 if lr == stuck_at else 0.6])
            for lr in rates for seed in (0, 1)
        ]  # fmt: skip

    plain, normed = tried("vgg_a", 1e-3), tried("vgg_a_bn", None)
    learnt = describe_learnt({"vgg_a": plain, "vgg_a_bn": normed})
    assert learnt["vgg_a_bn"] == describe_landscape(normed[2:])
    assert learnt["vgg_a"]["lrs"] == [5e-4, 1e-4]
    assert describe_learnt({"vgg_a": normed, "vgg_a_bn": normed}) is None  # nothing to leave out
    assert describe_learnt({"vgg_a": plain[:4], "vgg_a_bn": normed[:4]}) is None  # one rate is left


def test_the_band_of_rates_that_all_diverged_is_without_end(make_run):
    runs = [make_run("vgg_a", lr=lr, losses=[3, math.nan, math.nan]) for lr in (0.5, 0.6)]
    assert describe_landscape(runs)["median_band_width"]["mean"] == math.inf


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
    described = describe_probes(runs, {0: 0, 1: 0})
    assert described.pop("beta_swing")["values"] == pytest.approx([4.4 / 1.2, 7.6 / 4.4])  # of 1, 2, 5 and of 4, 8
    assert described == {
        "width": 1.0,
        "lr": 0.001,
        "steps": 3,
        "learns_from": [0, 0],
        "compared_from": [0, 0],
        "loss_range": mean_and_interval([0.5, 0.5]),
        "gradient_change": mean_and_interval([2.0, 2.0]),
        "beta": mean_and_interval([2.0, 6.0]),  # what is not finite is left out
        "runs": [run.name for run in runs],
    }
    assert describe_probes([probed(0, [math.nan] * 3)], {0: 0})["beta"]["mean"] == math.inf
    later = describe_probes(runs, {0: None, 1: 2})  # with seed 0 one of the two networks does not learn
    assert later["beta"] == mean_and_interval([8.0])
    assert later["beta_swing"] == mean_and_interval([1.0])
    assert later["loss_range"] == mean_and_interval([0.25])
    assert later["compared_from"] == [None, 2]
    nothing = describe_probes(runs, {0: None, 1: None})
    assert (nothing["beta"], nothing["beta_swing"]) == (None, None)


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
    assert described["learns_from"] == [0, 0, None, 0, 0, 0]
    assert json.loads(json.dumps(described)) == described


def test_the_best_rate_is_that_with_the_best_mean_over_the_seeds():
    described = {"final_accuracy": {"0.001": [0.6, 0.62], "0.003": [0.1, 0.9], "0.01": [0.61, 0.6]}}
    assert best_rate(described) == ("0.001", mean_and_interval([0.6, 0.62]))


def test_what_is_missing_is_told_by_the_training_images(make_run):
    def told(final, right, **fields):
        run = make_run("resnet9", accuracies=[final], provenance={"test_images": 10_000}, **fields)
        run = dataclasses.replace(run, history=run.history.assign(train_accuracy=right))
        return what_is_missing(run, describe_network("resnet9", [run]))

    assert told(0.9029, 0.99) == "The network reaches the write-up's number, or more."
    assert told(0.9, 0.99).endswith("is 0.29 points short of the write-up's number, which is within noise.")
    fitted = told(0.89, 0.9942)
    assert "1.29 points short of the write-up's number. Right of the training images: ResNet, 9 blocks 99.4%." in fitted
    assert "regularisation" in fitted
    assert "Right of the training images: ResNet, 9 blocks 93.0%. A longer schedule" in told(0.89, 0.93)
    assert "of the training images, as they are augmented: ResNet, 9 blocks 93.0%. A" in told(0.89, 0.93, augment=True)


def test_what_to_try_is_told_of_those_together_that_need_the_same(make_run):
    rights = {"resnet6": 0.96, "simple_cnn": 0.8, "vgg_a": 0.97}
    runs = [make_run(name, accuracies=[0.5]) for name in rights]
    runs = [dataclasses.replace(r, history=r.history.assign(train_accuracy=rights[r.config.model])) for r in runs]
    assert what_to_try(runs) == (
        "Right of the training images: ResNet, 6 blocks 96.0%; VGG-A 97.0%. More steps have little left to teach "
        "there; stronger regularisation or augmentation is what to try. Right of the training images: Simple CNN "
        "80.0%. A longer schedule, or a higher learning rate, is what to try."
    )


def test_the_aim_of_the_network_made_for_speed_is_with_augmented_tests():
    def short(name, final, views):
        with_views = views and {"mean": views}
        return short_of_aim({"name": name, "final_accuracy": {"mean": final}, "tta_accuracy": with_views})

    assert short("fast_cnn", 0.93, 0.941) == pytest.approx(-0.001)
    assert short("fast_cnn", 0.93, None) == pytest.approx(0.01)
    assert short("simple_cnn", 0.75, 0.76) == pytest.approx(0.005)


def test_what_is_reached_stands_beside_the_aim_where_all_images_were_used():
    def told(name, final, views, comparable=True):
        described = describe_network(name, []) | {"epochs": 60, "final_accuracy": mean_and_interval(final)}
        with_views = mean_and_interval(views) if views else None
        return what_is_reached(described | {"tta_accuracy": with_views}, comparable=comparable)

    reached = "**ResNet, 9 blocks:** 91.76% after 60 epochs; +1.5 points from the write-up's 90.29%"
    assert told("resnet9", [0.9176], None, comparable=False) == f"{reached}."
    assert told("resnet9", [0.9176], None) == (
        f"{reached}; 1.24 points short of the aim of 93.0%; published elsewhere: 92.6% (ResNet-20, 200 epochs); "
        "93.1–93.3% with mixup."
    )
    assert told("vgg_a_bn", [0.92], [0.925]) == (
        "**VGG-A + BN:** 92.00% after 60 epochs, 92.50% with augmented tests; it reaches the aim of 92.0%; published "
        "elsewhere: 92.8% (200 epochs)."
    )
    assert "; it reaches the aim of 94.0% with augmented tests; pub" in told("fast_cnn", [0.934, 0.935], [0.942, 0.943])
    assert "; 0.10 points short of the aim of 94.0% with augmented tests; p" in told("fast_cnn", [0.95], [0.939])


def test_what_is_better_than_guessing_is_told_by_the_test_images(make_run):
    def ended(accuracy, images):
        return make_run("vgg_a", accuracies=[0.9, accuracy], provenance={"test_images": images})

    assert beats_guessing(ended(0.12, 10_000))
    assert not beats_guessing(ended(0.1, 10_000))
    assert not beats_guessing(ended(0.12, 100))  # Wilson's interval begins at 0.07


def test_the_gap_between_training_and_test_images_in_words(make_run):
    above = make_run(accuracies=[0.5])  # the fixture's training accuracy is 5 points above
    below = dataclasses.replace(above, history=above.history.assign(train_accuracy=0.25))
    assert gap(above)[0] == pytest.approx(0.05)
    assert gap(above)[1].endswith("is 5.0 points above that on the test images")
    assert gap(below)[0] == pytest.approx(-0.25)
    assert gap(below)[1].endswith("is 25.0 points below that on the test images")
    assert gap(above)[1].startswith("the accuracy on the training images is")
    augmented = dataclasses.replace(above, config=above.config.replace(augment=True))
    assert gap(augmented)[1].startswith("the accuracy on the training images, as they are augmented, is")


def test_what_is_smaller_with_batch_norm_is_told_by_the_interval_of_the_claims():
    without = {"a": [1.0], "b": [1.0], "c": [1.0], "d": [2.0, 2.1], "e": [2.0, 9.0], "f": [2.0, 2.1], "g": [math.inf]}
    with_it = {"a": [0.7], "b": [0.9], "c": [1.3], "d": [1.0, 1.1], "e": [1.0, 1.1], "f": [3.0, 3.1], "g": [1.0]}
    described = {
        name: {key: mean_and_interval(values) for key, values in measured.items()}
        for name, measured in (("vgg_a", without), ("vgg_a_bn", with_it))
    }
    found = compare_with_batch_norm(described, {key: key.upper() for key in without})
    assert found == (["A", "D", "G"], ["C", "F"], ["B", "E"])


def test_envelopes_by_network_smoothed_and_thinned(make_run):
    runs = [
        make_run("vgg_a", losses=[3, 1, 2, 4]),
        make_run("vgg_a", lr=0.1, losses=[1, 3, 0, 8]),
        make_run("vgg_a_bn", losses=[5, 6, 7, 8]),
    ]
    drawn = envelopes(runs, smoothing=1, every=2)
    assert {name: [edge.tolist() for edge in edges] for name, edges in drawn.items()} == {
        "vgg_a": [[1, 0], [3, 2]],
        "vgg_a_bn": [[5, 7], [5, 7]],
    }
    low, high = envelopes(runs, smoothing=2, every=1)["vgg_a"]
    assert (low.tolist(), high.tolist()) == ([1, 2, 1.5, 3], [3, 2, 1.5, 4])
