import math

import pytest

from cifarnb.models import LABELS
from cifarnb.report.claims import (
    CLAIMS,
    CONFIRMED,
    FIVE_EPOCHS,
    NOISE,
    NOT_COMPARABLE,
    NOT_CONFIRMED,
    NOT_RUN,
    NOT_TESTED,
    REPORTED,
    TOO_SHORT,
    VERDICTS,
    best_of,
    caution,
    judge,
    side_by_side,
    that_ran,
    well_that_ran,
)
from cifarnb.report.sections import NETWORKS
from cifarnb.report.significance import (
    mean_and_interval,
    sampling_difference,
    sampling_interval,
    seed_difference,
    spread,
)

# Claim by what its text is told by.
TEXTS = {
    "simple": "The simple CNN reaches 64 %.",
    "fast": "The simple CNN is very fast to train.",
    "residual": "Residual connections and batch norm do much better than the simple CNN.",
    "resnet6": "The residual network with six blocks reaches 77.06 %.",
    "early": "It converges fast.",
    "resnet9": "Nine blocks reach 90.29 %.",
    "deeper": "More layers of the same structure do better still.",
    "normed": "With batch norm VGG-A tests better.",
    "lower": "With batch norm it converges to a lower loss.",
    "faster": "With batch norm it converges faster.",
    "steadier": "With batch norm training is steadier.",
    "band": "With batch norm training is less sensitive to the learning rate.",
    "beta": "Batch norm smooths the loss landscape.",
    "gradient": "Batch norm makes gradients more predictable.",
    "rates": "Batch norm allows a wider range of learning rates.",
}


def network(name, accuracies=(0.5,), **measured):
    """The numbers of a network that ran, as ``describe.describe_network`` gives them; as many as claims need."""
    numbers = {
        "name": name,
        "label": LABELS[name],
        "final_accuracy": mean_and_interval(accuracies),
        "best_accuracy": mean_and_interval([a + 0.01 for a in accuracies]),
        "best_epochs": mean_and_interval([58]),
        "settled_epochs": mean_and_interval([50]),
        "seconds_per_epoch": mean_and_interval([4.89]),
        "final_train_loss": mean_and_interval([1.0]),
        "mean_train_loss": mean_and_interval([1.0]),
        "loss_fluctuation": mean_and_interval([1.0]),
        "test_images": 10_000,
        "train_images": 50_000,
        "devices": ["a small machine"],
        "precision": "float32",
        "landscape": None,
        "probes": None,
        "rates": None,
    }
    return numbers | measured


def verdict(claim, *networks, profile="full"):
    return next(judged for judged in judge(networks, profile) if judged["claim"] == TEXTS[claim])


def pair(measured, normed, plain):
    """Both VGGs, with a value of their own a seed."""
    return network("vgg_a_bn", **measured(normed)), network("vgg_a", **measured(plain))


MEASURED = {
    "lower": lambda values: {"final_train_loss": mean_and_interval(values)},
    "faster": lambda values: {"mean_train_loss": mean_and_interval(values)},
    "steadier": lambda values: {"loss_fluctuation": mean_and_interval(values)},
    "band": lambda values: {"landscape": {"median_band_width": mean_and_interval(values), "runs": []}},
    "beta": lambda values: {
        "probes": {"sgd": {"beta": mean_and_interval(values), "gradient_change": mean_and_interval([1.0])}}
    },
    "gradient": lambda values: {
        "probes": {"sgd": {"gradient_change": mean_and_interval(values), "beta": mean_and_interval([1.0])}}
    },
}


def test_the_claims_are_the_write_ups():
    assert [claim.text for claim in CLAIMS] == [*TEXTS.values()]


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


@pytest.mark.parametrize(("claim", "name"), [("simple", "simple_cnn"), ("resnet6", "resnet6"), ("resnet9", "resnet9")])
def test_an_accuracy_is_reached_when_its_interval_lies_above(claim, name):
    reported = REPORTED[name]["accuracy"]
    for values in ([reported + d for d in (0.001, 0.0, 0.03)], [reported], [reported + 0.02], [reported - 0.03]):
        low, high = mean_and_interval(values)["ci95"] or sampling_interval(values[0], 10_000)
        expected = CONFIRMED if low > reported else NOT_CONFIRMED if high < reported else NOISE
        assert verdict(claim, network(name, values))["verdict"] == expected
    over_seeds = verdict(claim, network(name, [0.95, 0.95, 0.95]))
    assert over_seeds["verdict"] == CONFIRMED
    assert over_seeds["here"] == "95.00 ± 0.00% after the last epoch, 96.00 ± 0.00% at the best"
    assert "over the seeds" in over_seeds["test"]
    assert verdict(claim, network(name, [reported - 0.0123]))["here"].endswith("; 1.23 points short")
    assert "10,000 images" in verdict(claim, network(name))["test"]


@pytest.mark.parametrize(
    ("claim", "better", "worse"),
    [
        ("residual", "resnet6", "simple_cnn"),
        ("deeper", "resnet9", "resnet6"),
        ("normed", "vgg_a_bn", "vgg_a"),
    ],
)
def test_the_better_network_is_told_from_noise(claim, better, worse):
    cases = [([0.75], [0.72]), ([0.72], [0.75]), ([0.72], [0.721]), ([0.7, 0.71, 0.72], [0.69, 0.7, 0.71])]
    cases += [([0.7, 0.71, 0.72], [0.5, 0.51, 0.52]), ([0.7, 0.71], [0.5])]
    seen = set()
    for first, second in cases:
        if min(len(first), len(second)) > 1:
            low, high = seed_difference(first, second)
        else:
            means = (mean_and_interval(values)["mean"] for values in (first, second))
            low, high = sampling_difference(*means, (10_000, 10_000))
        expected = CONFIRMED if low > 0 else NOT_CONFIRMED if high < 0 else NOISE
        assert verdict(claim, network(better, first), network(worse, second))["verdict"] == expected
        seen.add(expected)
    assert len(seen) == 3
    assert (
        verdict(claim, network(better, [0.75]), network(worse, [0.725]))["here"] == "75.00% against 72.50%, +2.5 points"
    )


def test_what_differs_beside_the_network_is_told_with_the_comparison():
    def here(**of_the_second):
        first = network("resnet9", [0.75], epochs=180, lr=1e-4)
        return verdict("deeper", first, network("resnet6", [0.725], **of_the_second))["here"]

    points = "75.00% against 72.50%, +2.5 points"
    assert here(epochs=180, lr=2e-4) == points
    assert here(epochs=100, lr=2e-4) == f"{points}, after 180 and 100 epochs"
    assert here(epochs=100, lr=1e-4) == f"{points}, after 180 and 100 epochs (learning rate 0.0001)"
    assert here(epochs=180, lr=1e-4) == f"{points} (learning rate 0.0001)"


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ({"resnet6": 12.3, "vgg_a": 52.3}, CONFIRMED),
        ({"resnet6": 12.3, "vgg_a": 2.51}, CONFIRMED),  # 2 · 1.25, by the fastest of the others
        ({"resnet6": 12.3, "vgg_a": 2.49}, NOISE),
        ({"resnet9": 1.61}, NOISE),
        ({"resnet9": 1.59}, NOT_CONFIRMED),
        ({"resnet6": 12.3, "vgg_a_bn": 0.5}, NOT_CONFIRMED),
    ],
)
@pytest.mark.parametrize("pace", [1e-6, 1e-4, 3600.0])
def test_the_simple_cnn_is_very_fast_beside_the_others_on_whatever_machine(others, expected, pace):
    """``pace`` is that of the machine, in seconds an image; the others are trained on fewer."""
    simple = network("simple_cnn", seconds_per_epoch=mean_and_interval([40_000 * pace, 60_000 * pace]))
    judged = verdict(
        "fast", simple,
        *(network(name, seconds_per_epoch=mean_and_interval([100 * ratio * pace]), train_images=100)
          for name, ratio in others.items()),
    )  # fmt: skip
    assert judged["verdict"] == expected
    nearest = min(others, key=others.get)
    seconds, ratio = spread(simple["seconds_per_epoch"]), f"{others[nearest]:.3g}"
    assert judged["here"].startswith(f"{seconds} s per epoch on a small machine, {ratio} times")
    assert LABELS[nearest] in judged["here"]
    assert "a small machine in float32" in judged["test"]
    assert judged["reported"] == "about 4.89 s per epoch"


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"devices": ["a small machine (2 threads)"]},
        {"devices": ["a small machine", "another"]},
        {"precision": "bfloat16"},
    ],
    ids=["device", "devices", "precision"],
)
def test_times_of_different_machines_are_not_compared(elsewhere):
    simple = network("simple_cnn")
    other = network("resnet6", seconds_per_epoch=mean_and_interval([5e4]), **elsewhere)
    for networks in ([simple], [simple, other]):
        judged = verdict("fast", *networks)
        assert judged["verdict"] == NOT_COMPARABLE
        assert judged["here"] == "4.89 s per epoch on a small machine"
        assert "no other network was trained on a small machine in float32" in judged["test"]
    here = network("vgg_a", seconds_per_epoch=mean_and_interval([11]))
    judged = verdict("fast", simple, other, here)
    assert judged["verdict"] == NOISE
    assert LABELS["vgg_a"] in judged["here"]


def test_every_verdict_is_known_to_those_who_count_them():
    assert set(VERDICTS) == {CONFIRMED, NOT_CONFIRMED, NOISE, NOT_TESTED, NOT_COMPARABLE, TOO_SHORT, NOT_RUN}
    assert verdict("fast", network("simple_cnn"))["verdict"] in VERDICTS


@pytest.mark.parametrize(
    ("epochs", "expected"), [([40], CONFIRMED), ([58], NOISE), ([90], NOT_CONFIRMED), ([40, 42, 41], CONFIRMED)]
)
def test_it_converges_fast_if_the_best_epoch_is_early(epochs, expected):
    judged = verdict("early", network("resnet6", best_epochs=mean_and_interval(epochs)))
    assert judged["verdict"] == expected
    assert judged["here"].startswith(f"best at epoch {sum(epochs) / len(epochs):.0f}")
    assert judged["here"].endswith(" of 100, within a point of the end from epoch 50 on")


@pytest.mark.parametrize("claim", MEASURED)
def test_the_lower_number_is_told_from_noise(claim):
    def of(normed, plain):
        return verdict(claim, *pair(MEASURED[claim], normed, plain))["verdict"]

    assert of([1.0], [1.3]) == CONFIRMED  # with one seed each, a ratio of 1.25 decides
    assert of([1.0], [1.2]) == NOISE
    assert of([1.2], [1.0]) == NOISE
    assert of([1.3], [1.0]) == NOT_CONFIRMED
    assert of([1.0, 1.01, 1.02], [1.1, 1.11, 1.12]) == CONFIRMED  # with several, their spread
    assert of([1.1, 1.11, 1.12], [1.0, 1.01, 1.02]) == NOT_CONFIRMED
    assert of([1.0, 2.0, 3.0], [1.5, 2.5, 3.5]) == NOISE


@pytest.mark.parametrize("claim", MEASURED)
@pytest.mark.parametrize("broken", [math.inf, math.nan])
def test_what_diverged_is_not_lower(claim, broken):
    def of(normed, plain):
        return verdict(claim, *pair(MEASURED[claim], normed, plain))["verdict"]

    assert of([1.0], [broken]) == CONFIRMED
    assert of([broken], [1.0]) == NOT_CONFIRMED
    assert of([broken], [broken]) == NOISE
    assert of([1.0, 1.0, 1.0], [broken] * 3) == CONFIRMED
    assert of([1.0, broken, 1.0], [2.0, 2.0, 2.0]) == NOISE


def test_more_rates_near_the_best_are_a_wider_range():
    def of(normed, plain):
        measured = pair(
            lambda counts: {"rates": {"within_one_point": mean_and_interval(counts), "runs": []}}, normed, plain
        )
        return verdict("rates", *measured)["verdict"]

    assert of([3], [2]) == CONFIRMED
    assert of([2], [2]) == NOISE
    assert of([2], [3]) == NOT_CONFIRMED
    assert of([4, 4, 5], [2, 2, 2]) == CONFIRMED


@pytest.mark.parametrize(("profile", "words"), [("smoke", "synthetic"), ("quick", "shortened schedule")])
def test_a_shortened_profile_says_what_it_is(profile, words):
    networks = [network(name, seconds_per_epoch=mean_and_interval([1.0])) for name in ("simple_cnn", "resnet6")]
    assert verdict("simple", *networks, profile=profile)["verdict"] == NOT_TESTED
    assert verdict("fast", *networks, profile=profile)["verdict"] == NOT_TESTED
    compared = verdict("residual", *networks, profile=profile)["verdict"]
    assert compared.startswith(NOISE)
    assert words in compared


def test_what_did_not_run_is_not_judged():
    nothing = [{"name": name, "final_accuracy": None, "landscape": None} for name in NETWORKS]
    assert {(c["verdict"], c["here"], c["test"]) for c in judge(nothing, "full")} == {(NOT_RUN, "", "")}
    assert judge([], "full") == judge(nothing, "full")
    assert verdict("deeper", network("resnet9"), nothing[1])["verdict"] == NOT_RUN
    only_adam = network("vgg_a", probes={"adam": {}}), network("vgg_a_bn", probes={"adam": {}})
    assert verdict("beta", *only_adam)["verdict"] == NOT_RUN


STUCK, LEARNS = [None, None], [None, 40]  # the steps from which on the loss stays below its start, a seed each


@pytest.mark.parametrize("claim", ["normed", "lower", "faster", "steadier"])
@pytest.mark.parametrize("stuck", ["vgg_a", "vgg_a_bn"])
def test_a_network_that_did_not_learn_decides_no_claim(claim, stuck):
    """A flat network looks smooth, steady and insensitive."""
    better, worse = network("vgg_a_bn", [0.7], final_train_loss=mean_and_interval([0.1])), network("vgg_a", [0.1])
    learns = [n | {"learns_from": STUCK if n["name"] == stuck else LEARNS} for n in (better, worse)]
    judged = verdict(claim, *learns)
    assert judged["verdict"] == NOT_COMPARABLE
    assert "does not come below 2.29" in judged["here"]
    assert "decides nothing" in judged["test"]
    assert ("with batch norm" if stuck == "vgg_a_bn" else "without") in judged["here"] or LABELS[stuck] in judged[
        "here"
    ]
    assert (
        verdict(claim, better | {"learns_from": LEARNS}, worse | {"learns_from": LEARNS})["verdict"] != NOT_COMPARABLE
    )
    for profile in ("smoke", "quick"):
        assert verdict(claim, *learns, profile=profile)["verdict"] == TOO_SHORT


@pytest.mark.parametrize(("claim", "place"), [("band", "landscape"), ("rates", "rates")])
def test_rates_of_which_none_learns_decide_no_claim(claim, place):
    def of(normed, plain):
        numbers = {
            "median_band_width": mean_and_interval([0.1]),
            "within_one_point": mean_and_interval([9]),
            "runs": [],
        }
        both = {"vgg_a_bn": normed, "vgg_a": plain}
        return verdict(claim, *(network(n, **{place: numbers | {"learns_from": s}}) for n, s in both.items()))

    assert of(LEARNS, STUCK)["verdict"] == NOT_COMPARABLE
    assert "without batch norm: the loss" in of(LEARNS, STUCK)["here"]
    assert of(STUCK, LEARNS)["verdict"] == NOT_COMPARABLE
    assert of(LEARNS, LEARNS)["verdict"] == NOISE


@pytest.mark.parametrize("claim", ["beta", "gradient"])
def test_walks_decide_by_the_pairs_of_which_both_networks_learn(claim):
    def of(paper, second):
        """Each the values with batch norm and without, or None where the plain network is stuck."""
        networks = []
        for side, name in enumerate(("vgg_a_bn", "vgg_a")):
            probes = {}
            for kind, lr, values in (("sgd", 0.1, paper), ("second_sgd", 0.2, second)):
                measured = values and mean_and_interval(values[side])
                since = {
                    "learns_from": LEARNS if values or not side else STUCK,
                    "compared_from": LEARNS if values else STUCK,
                }
                probes[kind] = {"lr": lr, "beta": measured, "gradient_change": measured, **since}
            networks.append(network(name, probes=probes))
        return verdict(claim, *networks)

    lower, higher = ([1.0, 1.1, 1.0], [2.0, 2.1, 2.0]), ([2.0, 2.1, 2.0], [1.0, 1.1, 1.0])
    assert of(lower, lower)["verdict"] == CONFIRMED
    assert of(higher, higher)["verdict"] == NOT_CONFIRMED
    assert of(lower, higher)["verdict"] == of(higher, lower)["verdict"] == NOISE  # they must agree
    one = of(None, lower)
    assert one["verdict"] == CONFIRMED
    assert "without batch norm: the loss does not come below 2.29 to stay (learning rate 0.1)" in one["here"]
    assert "1.03 ± 0.14 with batch norm, 2.03 ± 0.14 without (learning rate 0.2)" in one["here"]
    assert of(None, None)["verdict"] == NOT_COMPARABLE


def test_with_every_seed_one_of_the_two_may_be_stuck():
    since = {"compared_from": STUCK}
    networks = [
        network(name, probes={"sgd": {"beta": None, "gradient_change": None, "learns_from": learns, **since}})
        for name, learns in (("vgg_a_bn", [None, 0]), ("vgg_a", [0, None]))
    ]
    judged = verdict("beta", *networks)
    assert judged["verdict"] == NOT_COMPARABLE
    assert judged["here"].endswith("not compared, since with no seed 5 walks or more lie where both networks learn")
    assert "decide nothing" in judged["test"]


def test_a_text_says_that_runs_are_too_short_where_the_claims_do():
    assert caution(391) == caution(392) == caution(1_955, FIVE_EPOCHS) == ""
    assert caution(390) == " **Too short to tell:** fewer than 391 steps of training show nothing of it."
    assert "fewer than 1,955 steps" in caution(1_954, FIVE_EPOCHS)


def test_the_band_is_told_with_its_seeds_and_that_of_the_narrow_networks_must_agree():
    def of(narrow, plain_narrow):
        networks = []
        for name, width, measured in (("vgg_a_bn", 0.4, narrow), ("vgg_a", 0.8, plain_narrow)):
            common = {"lrs": [0.1], "runs": []}
            landscape = common | {"width": 1.0, "median_band_width": mean_and_interval([width])}
            narrow_landscape = common | {"width": 0.25, "median_band_width": mean_and_interval(measured)}
            networks.append(network(name, landscape=landscape, narrow_landscape=narrow_landscape))
        return verdict("band", *networks)

    found = of([0.2, 0.21, 0.2], [0.5, 0.51, 0.5])
    assert found["verdict"] == CONFIRMED
    assert found["here"] == (
        "median width of the band 0.4 with batch norm, 0.8 without (1 seed); "
        "0.203 ± 0.014 with batch norm, 0.503 ± 0.014 without (VGG-A, ¼ as wide, 3 seeds)"
    )
    assert "1.25" in found["test"]
    assert "Welch" in found["test"]
    assert found["test"].endswith("all must agree")
    assert of([0.5, 0.51, 0.5], [0.2, 0.21, 0.2])["verdict"] == NOISE


def test_the_best_of_all_networks_may_be_one_trained_well():
    there = [network("simple_cnn", [0.6]), network("resnet9", [0.89]), {"name": "vgg_a", "final_accuracy": None}]
    well = [network("resnet9", [0.93, 0.94]), {"name": "resnet6", "final_accuracy": None}]
    summary = {"networks": there, "well": well, "profile": "full"}
    assert well_that_ran(summary) == well[:1]
    assert [n["label"] for n in that_ran(summary)] == [
        "Simple CNN", "ResNet, 9 blocks", "ResNet, 9 blocks, trained well",
    ]  # fmt: skip
    assert best_of(that_ran(summary))["label"] == "ResNet, 9 blocks, trained well"
    assert best_of(that_ran({"networks": there})) is there[1]
    assert well_that_ran({"networks": there}) == []
    assert side_by_side(summary) == summary


@pytest.mark.parametrize("profile", ["quick", "smoke"])
def test_on_a_shortened_schedule_networks_trained_well_do_not_stand_beside_the_others(profile):
    summary = {"networks": [network("resnet9", [0.5])], "well": [network("fast_cnn", [0.6])], "profile": profile}
    assert [n["name"] for n in that_ran(side_by_side(summary))] == ["resnet9"]
    assert [n["name"] for n in that_ran(summary)] == ["resnet9", "fast_cnn"]


def test_the_band_is_told_also_over_the_rates_at_which_both_learn():
    def landscape(width, learnt):
        common = {"lrs": [0.1, 0.2], "runs": []}
        band = common | {"width": 1.0, "median_band_width": mean_and_interval([width])}
        return {"landscape": band | {"learnt": {"median_band_width": mean_and_interval([learnt])}}}

    found = verdict("band", network("vgg_a_bn", **landscape(0.135, 0.08)), network("vgg_a", **landscape(2.2, 0.16)))
    assert found["here"] == (
        "median width of the band 0.135 with batch norm, 2.2 without (1 seed), "
        "of which over the rates at which both beat guessing 0.08 with batch norm, 0.16 without"
    )


@pytest.mark.parametrize(("steps", "short"), [(99, True), (100, False)])
def test_few_steps_are_too_short_to_tell_in_a_shortened_profile(steps, short):
    networks = [network(name, [0.3], steps=steps) for name in ("vgg_a", "vgg_a_bn")]
    for claim in ("normed", "lower"):
        judged = verdict(claim, *networks, profile="quick")
        assert (judged["verdict"] == TOO_SHORT) == short
        assert ("after 99 steps" in judged["here"]) == short
        assert ("fewer than 100 steps" in judged["test"]) == short
        assert verdict(claim, *networks)["verdict"] == NOISE  # the full schedule is what it is


def test_depth_takes_more_steps_to_show():
    networks = [network("resnet9", [0.3], steps=9_999), network("resnet6", [0.5], steps=20_000)]
    assert verdict("deeper", *networks, profile="quick")["verdict"] == TOO_SHORT
    assert verdict("deeper", *networks)["verdict"] == NOT_CONFIRMED


@pytest.mark.parametrize(
    ("claim", "place", "least"),
    [
        ("steadier", "", 1955),
        ("band", "landscape", 1955),
        ("beta", "sgd", 391),
        ("gradient", "sgd", 391),
        ("rates", "rates", 391),
    ],
)
def test_the_course_of_training_shows_after_an_epoch_or_more(claim, place, least):
    def of(steps):
        keys = ("median_band_width", "beta", "gradient_change", "within_one_point")
        measured = {"steps": steps, "runs": [], **{key: mean_and_interval([1.0]) for key in keys}}
        numbers = {"sgd": {"probes": {"sgd": measured}}, "": {"steps": steps}}.get(place, {place: measured})
        return verdict(claim, *(network(name, **numbers) for name in ("vgg_a", "vgg_a_bn")), profile="quick")["verdict"]

    assert of(least - 1) == TOO_SHORT
    assert of(least).startswith(NOISE)
