import math

import pytest

from cifarnb.claims import CLAIMS, REPORTED, judge
from cifarnb.sections import NETWORKS

# Claim by what its text is told by.
SIMPLE, RESIDUAL, FAST, DEEPER, NORMED, LOWER, BAND, BETA, CHANGE, RATES = range(10)


def network(name, accuracy=0.5, landscape=None, **measured):
    """The numbers of a network that ran, as ``summary.describe_network`` gives them; as many as claims need."""
    numbers = {
        "name": name,
        "final_accuracy": {"mean": accuracy, "ci95": None, "values": [accuracy]},
        "best_epoch": 5,
        "epochs": 10,
        "final_train_loss": 1.0,
        "train_images": 50_000,
        "seconds_per_epoch": 4.5,
        "seconds_per_image": 4.5 / 50_000,
        "device_name": "a small machine",
        "landscape": landscape,
        "probes": None,
        "rates": None,
    }
    return numbers | measured


def landscape(width, *accuracies):
    return {"median_band_width": width, "final_accuracy": {f"{lr}": a for lr, a in enumerate(accuracies)}}


def verdict(claim, *networks):
    judged = judge(networks)[claim]
    return judged["agrees"], judged["evidence"]


def test_reported_numbers_are_the_write_ups():
    assert [*REPORTED] == [*NETWORKS]
    assert {name: r.get("accuracy") for name, r in REPORTED.items()} == {
        "simple_cnn": 0.64, "resnet6": 0.7706, "resnet9": 0.9029, "vgg_a": None, "vgg_a_bn": None,
    }  # fmt: skip
    assert [r.get("epochs") for r in REPORTED.values()] == [200, 100, 180, None, None]
    assert [r["lr"] for r in REPORTED.values()] == [1e-3, 1e-4, 1e-4, 5e-4, 5e-4]
    assert [r.get("optimizer") for r in REPORTED.values()] == ["SGD", "Adam", "Adam", None, None]
    assert [r.get("schedule") for r in REPORTED.values()] == ["none", *["CosineAnnealingLR"] * 2, None, None]
    assert REPORTED["simple_cnn"]["seconds_per_epoch"] == 4.89
    assert REPORTED["resnet6"]["best_epoch"] == 58


def test_every_claim_needs_networks_that_exist():
    there = {f"{name}{measured}" for name in NETWORKS for measured in ("", " landscape", " probes", " rates")}
    assert all(claim.needs and there.issuperset(claim.needs) for claim in CLAIMS)


@pytest.mark.parametrize(
    ("claim", "better", "worse"),
    [(RESIDUAL, "resnet6", "simple_cnn"), (DEEPER, "resnet9", "resnet6"), (NORMED, "vgg_a_bn", "vgg_a")],
)
def test_the_verdict_turns_with_the_accuracies(claim, better, worse):
    evidence = "75.00% against 72.50%, +2.5 points"
    assert verdict(claim, network(better, 0.75), network(worse, 0.725)) == (True, evidence)
    evidence = "72.50% against 75.00%, -2.5 points"
    assert verdict(claim, network(better, 0.725), network(worse, 0.75)) == (False, evidence)
    assert verdict(claim, network(better, 0.5), network(worse, 0.5))[0] is False


def test_the_simple_network_is_fast_if_none_is_faster():
    simple, other = network("simple_cnn", seconds_per_image=1e-4), network("resnet6", seconds_per_image=2e-4)
    assert verdict(SIMPLE, simple, other) == (True, "4.5 s per epoch of 50,000 images on a small machine")
    assert verdict(SIMPLE, simple, other | {"seconds_per_image": 0.9e-4})[0] is False


@pytest.mark.parametrize(
    ("best", "epochs", "agrees"), [(57, 100, True), (59, 100, False), (5, 10, True), (6, 10, False)]
)
def test_it_converges_fast_if_the_best_epoch_is_early(best, epochs, agrees):
    residual = network("resnet6", best_epoch=best, epochs=epochs)
    assert verdict(FAST, residual) == (agrees, f"best at epoch {best} of {epochs}")


def test_the_write_ups_own_best_epoch_agrees():
    assert verdict(FAST, network("resnet6", best_epoch=58, epochs=100))[0] is True


def test_the_lower_training_loss_decides():
    normed, plain = network("vgg_a_bn", final_train_loss=0.25), network("vgg_a", final_train_loss=0.5)
    assert verdict(LOWER, normed, plain) == (True, "0.250 against 0.500 after the last epoch")
    assert verdict(LOWER, normed | {"final_train_loss": 0.75}, plain)[0] is False
    assert verdict(LOWER, normed | {"final_train_loss": math.nan}, plain)[0] is False  # it diverged


def test_a_network_that_diverged_did_not_end_lower():
    normed, plain = network("vgg_a_bn", final_train_loss=0.25), network("vgg_a", final_train_loss=math.nan)
    assert verdict(LOWER, normed, plain)[0] is True


def test_the_narrower_band_decides():
    normed, plain = network("vgg_a_bn", landscape=landscape(0.25, 0.8)), network("vgg_a", landscape=landscape(0.5, 0.8))
    assert verdict(BAND, normed, plain) == (True, "median width of the band 0.250 against 0.500")
    swapped = normed | {"landscape": plain["landscape"]}, plain | {"landscape": normed["landscape"]}
    assert verdict(BAND, *swapped)[0] is False
    assert verdict(BAND, normed, plain | {"landscape": landscape(math.inf, 0.1)})[0] is True  # it diverged


@pytest.mark.parametrize(("claim", "measure"), [(BETA, "beta"), (CHANGE, "gradient_change")])
def test_the_smaller_measure_on_the_papers_walks_decides(claim, measure):
    def probed(name, value):
        adam = {"beta": {"mean": 1.0}, "gradient_change": {"mean": 1.0}}  # not asked
        return network(
            name,
            probes={
                "sgd": {"beta": {"mean": 9}, "gradient_change": {"mean": 9}, measure: {"mean": value}},
                "adam": adam,
            },
        )

    evidence = "median over the steps of training with SGD 0.5 against 2"
    assert verdict(claim, probed("vgg_a_bn", 0.5), probed("vgg_a", 2.0)) == (True, evidence)
    assert verdict(claim, probed("vgg_a_bn", 2.0), probed("vgg_a", 0.5))[0] is False
    assert verdict(claim, probed("vgg_a_bn", 2.0), probed("vgg_a", math.inf))[0] is True  # it diverged


def test_the_number_of_rates_near_the_best_decides():
    def rated(name, count):
        grid = {"0.1": [0.1], "0.01": [0.5], "0.001": [0.5]}
        return network(name, rates={"within_one_point": {"mean": count}, "final_accuracy": grid})

    evidence = "2.5 of 3 rates within a point of the best against 1"
    assert verdict(RATES, rated("vgg_a_bn", 2.5), rated("vgg_a", 1)) == (True, evidence)
    assert verdict(RATES, rated("vgg_a_bn", 1), rated("vgg_a", 1))[0] is False


def test_what_did_not_run_is_not_judged():
    nothing = [{"name": name, "final_accuracy": None, "landscape": None} for name in NETWORKS]
    assert {(c["agrees"], c["evidence"]) for c in judge(nothing)} == {(None, "did not run")}
    assert judge([]) == judge(nothing)
    without_landscape = judge([network(name) for name in NETWORKS])
    assert [claim["agrees"] is None for claim in without_landscape] == [False] * 6 + [True] * 4
    assert verdict(DEEPER, network("resnet9"), nothing[1]) == (None, "did not run")
    assert [claim["claim"] for claim in without_landscape] == [claim.text for claim in CLAIMS]
