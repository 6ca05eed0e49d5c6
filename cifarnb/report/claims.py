"""What the write-up reports and concludes, and what was measured here about it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cifarnb.models import label
from cifarnb.report.significance import (
    NOISY_RATIO,
    accuracy,
    counted,
    listed,
    paired_difference,
    positive,
    ratio_interval,
    sampling_difference,
    sampling_interval,
    seed_difference,
    signed,
    spread,
)
from cifarnb.report.walks import LEAST_WALKS
from cifarnb.runs import AT_START

# Section 1's numbers, by network: test accuracy (0 to 1), epochs, lr, optimizer, schedule, seconds per epoch.
# The write-up has no number for section 2.
REPORTED: dict[str, dict[str, Any]] = {
    "simple_cnn": {
        "accuracy": 0.64,
        "epochs": 200,
        "lr": 1e-3,
        "optimizer": "SGD",
        "schedule": "none",
        "seconds_per_epoch": 4.89,
    },
    "resnet6": {
        "accuracy": 0.7706,
        "epochs": 100,
        "lr": 1e-4,
        "optimizer": "Adam",
        "schedule": "CosineAnnealingLR",
        "best_epoch": 58,
    },
    "resnet9": {"accuracy": 0.9029, "epochs": 180, "lr": 1e-4, "optimizer": "Adam", "schedule": "CosineAnnealingLR"},
    "vgg_a": {"lr": 5e-4},
    "vgg_a_bn": {"lr": 5e-4},
}

# Section 1.4's aims: test accuracy (0 to 1) after the last epoch, of ``fast_cnn`` with test-time augmentation.
AIMS = {"simple_cnn": 0.755, "resnet6": 0.92, "resnet9": 0.93, "vgg_a_bn": 0.92, "fast_cnn": 0.94}
ELSEWHERE = {  # what is published of networks of about that size
    "simple_cnn": "76.2% and 76.3% (200 epochs)",
    "resnet6": "92.9% (as many multiply-adds, 200 epochs)",
    "resnet9": "92.6% (ResNet-20, 200 epochs); 93.1–93.3% with mixup",
    "vgg_a_bn": "92.8% (200 epochs)",
    "fast_cnn": "94.0% with test-time augmentation (8 epochs, 0.29·10¹⁵ operations)",
}

# K. Jordan's airbench94_muon, the mean of 200 runs on one A100 that has 312·10¹² operations a second in bfloat16.
PUBLISHED = {"tta_accuracy": 0.9401, "parameters": 1_971_352, "epochs": 8, "operations": 0.29e15, "seconds": 2.59,
             "peak": 312e12}  # fmt: skip

Networks = Mapping[str, Mapping[str, Any]]  # name → its numbers, of those that ran

CONFIRMED, NOT_CONFIRMED, NOISE = "confirmed", "not confirmed", "within noise"
NOT_TESTED = "not tested in this profile"
NOT_COMPARABLE, TOO_SHORT = "not comparable", "too short to tell"
NOT_RUN = "not run"
VERDICTS = (  # in a shortened profile with more words behind
    CONFIRMED, NOT_CONFIRMED, NOISE, NOT_TESTED, NOT_COMPARABLE, TOO_SHORT, NOT_RUN
)  # fmt: skip
EPOCH = 391  # steps of CIFAR-10 in batches of 128; with SGD the plain network learns from some 100 on
# While the plain network still leaves its start, its losses lie close together. Measured on VGG-A, whole and a quarter
# as wide: over the first epoch its band is the narrower one and its loss the steadier, over the first five it is not.
FIVE_EPOCHS = 5 * EPOCH
VERY_FAST = 2  # times as fast as the next network: a bound of ours, the write-up has none
SHORTENED = {"smoke": "on synthetic images, where it means nothing", "quick": "on a shortened schedule"}


@dataclass(frozen=True)
class Finding:
    """What was measured about a claim."""

    here: str  # the numbers, with their spread over the seeds where there are several
    interval: tuple[float, float] | None  # of what is above 0 if the claim holds; None: nothing to compare with
    test: str  # what the interval is
    steps: float = math.inf  # of the shortest training that it is about


@dataclass(frozen=True)
class Claim:
    """A conclusion of the write-up and what decides it."""

    text: str
    reported: str  # the write-up's number, where it has one
    needs: tuple[str, ...]  # the networks, and what of them, that must have run
    figure: str  # the name of the figure or table that shows it
    measure: Callable[[Networks], Finding]
    own_schedule: bool = False  # about a number of the write-up's own schedule, which the profile full alone has
    least_steps: int = 100  # of training, before which it is too short to tell; batch norm's averages need some 50


def described_networks(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The numbers of all networks: with the write-up's recipe, and trained well, where a report has these."""
    return [*summary["networks"], *summary.get("well", [])]


def that_ran(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The networks that ran: with the write-up's recipe, and, called so, those trained well."""
    well = [network | {"label": f"{network['label']}, trained well"} for network in well_that_ran(summary)]
    return [*(network for network in summary["networks"] if network["final_accuracy"]), *well]


def well_that_ran(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The networks of section 1.4 that ran."""
    return [network for network in summary.get("well", []) if network["final_accuracy"]]


def side_by_side(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The same without the networks trained well in a shortened profile, where they have seen too little for that."""
    return {**summary, "well": [] if summary["profile"] in SHORTENED else summary.get("well", [])}


def caution(steps: int, least: int = EPOCH) -> str:
    """What a text says behind a comparison of runs of so few steps; empty where they are enough for a claim."""
    return "" if steps >= least else f" **{TOO_SHORT.capitalize()}:** {_too_few(least)}."


def _too_few(least: int) -> str:
    return f"fewer than {least:,} steps of training show nothing of it"


def best_of(networks: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """That of them, one or more which ran, with the highest test accuracy after the last epoch."""
    return max(networks, key=lambda network: float(network["final_accuracy"]["mean"]))


def final_interval(network: Mapping[str, Any]) -> tuple[float, float]:
    """The 95 % interval of the accuracy after the last epoch: t's over the seeds, of one run Wilson's on its images."""
    final = network["final_accuracy"]
    interval: tuple[float, float] | None = final["ci95"]
    return interval or sampling_interval(final["mean"], network["test_images"])


def _reaches(name: str, reported: float | None = None, tta: bool = False) -> Callable[[Networks], Finding]:
    """The accuracy after the last epoch, or that with test-time augmentation, is above the write-up's or another."""
    reported = REPORTED[name]["accuracy"] if reported is None else reported

    def measure(ran: Networks) -> Finding:
        network = ran[name]
        final, best = network["tta_accuracy" if tta else "final_accuracy"], network["best_accuracy"]
        low, high = final_interval({**network, "final_accuracy": final})
        here = f"{accuracy(final)} after the last epoch, {accuracy(best)} at the best"
        if tta:
            here = f"{accuracy(final)} with test-time augmentation, {accuracy(network['final_accuracy'])} without"
        if final["mean"] < reported:
            here += f"; {100 * (reported - final['mean']):.2f} points short"
        kind = "t over the seeds" if final["ci95"] else f"Wilson's for one run on {network['test_images']:,} images"
        number = "reported number" if reported == REPORTED.get(name, {}).get("accuracy") else "number"
        return Finding(here, (low - reported, high - reported), f"95 % interval ({kind}) against the {number}")

    return measure


def _is_above(name: str, better: str, worse: str) -> Callable[[Networks], Finding]:
    """Of one network's runs in two ways (keys of its numbers), paired by seed, the one does better."""

    def measure(ran: Networks) -> Finding:
        first, second = (ran[name][way] for way in (better, worse))
        a, b = (dict(zip(way["seeds"], way["final_accuracy"]["values"], strict=True)) for way in (first, second))
        points, interval = paired_difference(a, b, first["test_images"])
        here = f"{accuracy(first['final_accuracy'])} against {accuracy(second['final_accuracy'])}, "
        kind = "t over the differences by seed" if len(first["seeds"]) > 1 else "Newcombe's for single runs"
        steps = min(first["steps"], second["steps"])
        return Finding(f"{here}{signed(100 * points, '.1f')} points", interval, f"95 % interval ({kind})", steps)

    return measure


def _differs_from_base(change: str, *, worse: bool = False) -> Callable[[Networks], Finding]:
    """A change of section 1.5 does better than the base, or ``worse``, by its corrected interval."""

    def measure(ran: Networks) -> Finding:
        entry, base = ran[change], ran["base"]
        here = f"{accuracy(entry['final_accuracy'])} against {accuracy(base['final_accuracy'])}"
        steps = min(entry["steps"], base["steps"])
        if entry["ci95"] is None:
            rule = "a change that learns with some seeds only, or lacks some of the base's, decides nothing"
            return Finding(here, None, rule, steps)
        low, high = entry["ci95"]
        kind = "t, paired by seed, with a pooled spread" if len(base["seeds"]) > 1 else "Newcombe's for single runs"
        return Finding(
            f"{here}, {signed(100 * entry['difference'], '.1f')} points",
            (-high, -low) if worse else (low, high),
            f"95 % interval ({kind}), corrected for all comparisons of section 1.5 by Holm",
            steps,
        )

    return measure


def _is_better(better: str, worse: str) -> Callable[[Networks], Finding]:
    def measure(ran: Networks) -> Finding:
        networks = [ran[name] for name in (better, worse)]
        first, second = (network["final_accuracy"] for network in networks)
        steps = min(network.get("steps", math.inf) for network in networks)
        points = 100 * (first["mean"] - second["mean"])
        here = f"{accuracy(first)} against {accuracy(second)}, {signed(points, '.1f')} points{_note_of_both(*networks)}"
        if stuck := [network["label"] for network in networks if _is_stuck(network)]:
            return Finding(f"{here}; {_STUCK.format(' and '.join(stuck))}", None, _STUCK_RULE, steps)
        if min(len(first["values"]), len(second["values"])) > 1:
            interval, kind = seed_difference(first["values"], second["values"]), "Welch's over the seeds"
        else:
            images = (ran[better]["test_images"], ran[worse]["test_images"])
            interval, kind = sampling_difference(first["mean"], second["mean"], images), "Newcombe's for single runs"
        return Finding(here, interval, f"95 % interval of the difference ({kind})", steps)

    return measure


# A network that has learnt nothing is flat and even, and no step size harms it: that is no merit and no fault.
_STUCK = f"{{}}: the loss does not come below {AT_START} to stay"
_APART = f"not compared, since with no seed {LEAST_WALKS} walks or more lie where both networks learn"
_STUCK_RULE = (
    f"a network of which the loss (the mean of ten steps) does not come below {AT_START} to stay decides nothing"
)


def _is_stuck(measured: Mapping[str, Any], key: str = "learns_from") -> bool:
    """Whether no run learns: of its steps from which on it does, all are None."""
    since = measured.get(key) or []
    return bool(since) and all(step is None for step in since)


def _who_is_stuck(normed: Mapping[str, Any], plain: Mapping[str, Any]) -> str:
    """Which of the two does not learn with any seed, in words; empty if both do."""
    sides = {"with batch norm": normed, "without batch norm": plain}
    stuck = [words for words, side in sides.items() if _is_stuck(side)]
    return " and ".join(stuck)


def _note(measured: Mapping[str, Any]) -> str:
    """What a reader must know of where a number of VGG-A was measured, in brackets."""
    notes = [f"learning rate {measured['lr']:g}"] if "lr" in measured else []
    notes += [label("vgg_a", measured["width"])] if measured.get("width", 1) != 1 else []
    if "lrs" in measured:
        notes.append(counted(len(measured["median_band_width"]["values"]), "seed"))
    return f" ({', '.join(notes)})" if notes else ""


def _note_of_both(network: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Where two networks were trained for different numbers of epochs these, and the learning rate if it was one."""
    epochs, lrs = ([side.get(key) for side in (network, other)] for key in ("epochs", "lr"))
    apart = f", after {epochs[0]} and {epochs[1]} epochs" if epochs[0] != epochs[1] else ""
    return apart + (_note(network) if lrs[0] == lrs[1] else "")


def _is_below(reported: float, noise: float, words: str, name: str, *keys: str) -> Callable[[Networks], Finding]:
    """A number of one network, the first of ``keys``, is below the reported one; with one seed ``noise`` may be chance.

    In ``words`` every ``{}`` stands for one of the numbers.
    """

    def measure(ran: Networks) -> Finding:
        found = ran[name][keys[0]]
        low, high = found["ci95"] or (found["mean"] - noise, found["mean"] + noise)
        kind = "95 % interval (t over the seeds)" if found["ci95"] else f"one seed: ± {noise:g} counts as noise"
        return Finding(
            words.format(*(spread(ran[name][key]) for key in keys)),
            (reported - high, reported - low),
            f"{kind} against the reported number",
        )

    return measure


def _is_very_fast(name: str) -> Callable[[Networks], Finding]:
    """The training on an image takes at most 1 / VERY_FAST of what every other network takes on the same machine.

    Seconds alone would judge the machine.  The same is one device, number of threads and precision.
    """

    def measure(ran: Networks) -> Finding:
        def machine(network: Mapping[str, Any]) -> str:
            return f"{listed(network['devices'])} in {network['precision']}"

        def per_image(network: Mapping[str, Any]) -> float:
            return float(network["seconds_per_epoch"]["mean"] / network["train_images"])

        here = f"{spread(ran[name]['seconds_per_epoch'])} s per epoch on {listed(ran[name]['devices'])}"
        others = [other for other in ran.values() if other["name"] != name and machine(other) == machine(ran[name])]
        if not others:
            return Finding(here, None, f"seconds per image: no other network was trained on {machine(ran[name])}")
        following = min(others, key=per_image)
        ratio = per_image(following) / per_image(ran[name])
        ahead, quarter = math.log(ratio / VERY_FAST), math.log(NOISY_RATIO)
        return Finding(
            f"{here}, {ratio:.3g} times as fast as {following['label']}, the next on this machine",
            (ahead - quarter, ahead + quarter),
            f"seconds per image on {machine(ran[name])}: {VERY_FAST} times as fast as every other network counts as "
            f"very fast, a ratio to that below {NOISY_RATIO:g} as noise",
        )

    return measure


def _is_lower(words: str, key: str, *places: str, higher: bool = False) -> Callable[[Networks], Finding]:
    """A number of the network with batch norm is lower (or ``higher``) than that of the plain one.

    ``key`` is the number's, and ``places`` say where in a network's numbers it is (keys, with blanks between them); of
    several, those that are there and in which both networks learn must agree.
    """

    def measure(ran: Networks) -> Finding:
        here, tests, intervals, steps = [], [], [], [math.inf]
        for place in places or ("",):
            normed, plain = (_at(ran[name], place) for name in ("vgg_a_bn", "vgg_a"))
            if normed is None or plain is None:
                continue
            steps += [side["steps"] for side in (normed, plain) if "steps" in side]
            if stuck := _who_is_stuck(normed, plain):
                here.append(_STUCK.format(stuck) + _note(plain))
                tests.append(_STUCK_RULE)
                continue
            if _is_stuck(plain, "compared_from"):  # the same for both (``walks.compared_from``)
                here.append(_APART + _note(plain))
                tests.append("walks where one of the two networks does not learn decide nothing")
                continue
            here.append(f"{_both_of(normed, plain, key)}{_note(plain)}")
            if normed.get("learnt") and plain.get("learnt"):
                fair = _both_of(normed["learnt"], plain["learnt"], key)
                here[-1] += f", of which over the rates at which both beat guessing {fair}"
            more, less = (normed[key], plain[key]) if higher else (plain[key], normed[key])
            interval, test = ratio_interval(more, less)
            intervals.append(interval)
            tests.append(test)
        agreed = (min(low for low, _ in intervals), max(high for _, high in intervals)) if intervals else None
        tests = [*dict.fromkeys(tests)] + (["all must agree"] if len(intervals) > 1 else [])
        return Finding(f"{words} {'; '.join(here)}", agreed, "; ".join(tests), min(steps))

    return measure


def _both_of(normed: Mapping[str, Any], plain: Mapping[str, Any], key: str) -> str:
    return f"{positive(normed[key])} with batch norm, {positive(plain[key])} without"


def _at(network: Mapping[str, Any], place: str) -> Mapping[str, Any] | None:
    for key in place.split():
        if (network := network.get(key) or {}) == {}:
            return None
    return network


_VGG = ("vgg_a", "vgg_a_bn")
_SGD = ("probes sgd", "probes second_sgd")


def _both(measured: str) -> tuple[str, ...]:
    return tuple(f"{name} {measured}" for name in _VGG)


CLAIMS = (
    Claim("The simple CNN reaches 64 %.", "64%", ("simple_cnn",), "fig-accuracy-simple_cnn",
          _reaches("simple_cnn"), own_schedule=True),
    Claim("The simple CNN is very fast to train.",
          f"about {REPORTED['simple_cnn']['seconds_per_epoch']} s per epoch", ("simple_cnn",), "table-networks",
          _is_very_fast("simple_cnn"), own_schedule=True),
    Claim("Residual connections and batch norm do much better than the simple CNN.", "77.06% against 64%",
          ("simple_cnn", "resnet6"), "table-networks", _is_better("resnet6", "simple_cnn")),
    Claim("The residual network with six blocks reaches 77.06 %.", "77.06%", ("resnet6",), "fig-accuracy-resnet6",
          _reaches("resnet6"), own_schedule=True),
    Claim("It converges fast.", "best at epoch 58 of 100", ("resnet6",), "fig-accuracy-resnet6",
          _is_below(58, 5, "best at epoch {} of 100, within a point of the end from epoch {} on", "resnet6",
                    "best_epochs", "settled_epochs"), own_schedule=True),
    Claim("Nine blocks reach 90.29 %.", "90.29%", ("resnet9",), "fig-accuracy-resnet9",
          _reaches("resnet9"), own_schedule=True),
    Claim("More layers of the same structure do better still.", "90.29% against 77.06%", ("resnet6", "resnet9"),
          "table-networks", _is_better("resnet9", "resnet6"),
          least_steps=10_000),  # measured with batches of 128: after 15,640 steps, depth is worth a point
    Claim("With batch norm VGG-A tests better.", "", _VGG, "fig-vgg-curves", _is_better("vgg_a_bn", "vgg_a")),
    Claim("With batch norm it converges to a lower loss.", "", _VGG, "fig-vgg-curves",
          _is_lower("training loss after the last epoch", "final_train_loss")),
    Claim("With batch norm it converges faster.", "", _VGG, "fig-vgg-curves",
          _is_lower("mean training loss over all steps", "mean_train_loss")),
    Claim("With batch norm training is steadier.", "", _VGG, "table-landscape",
          _is_lower("deviation of the loss within 50 steps", "loss_fluctuation"), least_steps=FIVE_EPOCHS),
    Claim("With batch norm training is less sensitive to the learning rate.", "", _both("landscape"), "fig-landscape",
          _is_lower("median width of the band", "median_band_width", "landscape", "narrow_landscape"),
          least_steps=FIVE_EPOCHS),
    Claim("Batch norm smooths the loss landscape.", "", _both("probes"), "table-probes",
          _is_lower("median β on walks with SGD", "beta", *_SGD), least_steps=EPOCH),
    Claim("Batch norm makes gradients more predictable.", "", _both("probes"), "table-probes",
          _is_lower("median change of the gradient on walks with SGD", "gradient_change", *_SGD),
          least_steps=EPOCH),
    Claim("Batch norm allows a wider range of learning rates.", "", _both("rates"), "fig-rates",
          _is_lower("rates within a point of the best:", "within_one_point", "rates", higher=True),
          least_steps=EPOCH),
)  # fmt: skip


_AIMED = "table-well"
_CHANGED = "fig-changes"
OWN_CLAIMS = (  # of sections 1.4 and 1.5, about what ``summary.describe_well`` and ``changes.describe`` give
    Claim("Trained well, the simple CNN reaches 75.5 %.", "75.5%", ("simple_cnn",), _AIMED,
          _reaches("simple_cnn", AIMS["simple_cnn"]), own_schedule=True),
    Claim("Trained well, six blocks reach 92 %.", "92%", ("resnet6",), _AIMED,
          _reaches("resnet6", AIMS["resnet6"]), own_schedule=True),
    Claim("Trained well, six blocks do better than the write-up's nine.", "90.29%", ("resnet6",), _AIMED,
          _reaches("resnet6", REPORTED["resnet9"]["accuracy"]), own_schedule=True),
    Claim("Trained well, nine blocks reach 93 %.", "93%", ("resnet9",), _AIMED,
          _reaches("resnet9", AIMS["resnet9"]), own_schedule=True),
    Claim("Trained well, VGG-A with batch norm reaches 92 %.", "92%", ("vgg_a_bn",), _AIMED,
          _reaches("vgg_a_bn", AIMS["vgg_a_bn"]), own_schedule=True),
    Claim("The network made for speed reaches 94 % with test-time augmentation.", "94%", ("fast_cnn",), _AIMED,
          _reaches("fast_cnn", AIMS["fast_cnn"], tta=True), own_schedule=True),
    Claim("The whole recipe does better than the write-up's in as many epochs.", "", ("resnet6 recipe",), "fig-gap",
          _is_above("resnet6", "recipe", "write_up"), least_steps=FIVE_EPOCHS),
    Claim("Muon does better than SGD in as many steps.", "", ("fast_cnn sgd",), "fig-muon",
          _is_above("fast_cnn", "muon", "sgd"), least_steps=100),
    Claim("In the simple CNN twice as many filters do better.", "", ("base", "2 × filters"), _CHANGED,
          _differs_from_base("2 × filters"), least_steps=EPOCH),
    Claim("In the simple CNN the sigmoid does worse than ReLU.", "", ("base", "sigmoid"), _CHANGED,
          _differs_from_base("sigmoid", worse=True), least_steps=EPOCH),
    Claim("In the simple CNN batch norm does better.", "", ("base", "batch norm"), _CHANGED,
          _differs_from_base("batch norm"), least_steps=EPOCH),
    Claim("In the simple CNN augmentation does better within as few epochs.", "", ("base", "crop and flip"), _CHANGED,
          _differs_from_base("crop and flip"), least_steps=10 * EPOCH),
)  # fmt: skip


def judge(
    networks: Sequence[Mapping[str, Any]], profile: str, claims: Sequence[Claim] = CLAIMS
) -> list[dict[str, Any]]:
    """Every claim with the write-up's number, ours, the verdict, the test that gave it, and the figure that shows it.

    ``networks`` is that of ``summary.summarize``.  A claim is confirmed, or not confirmed, where the interval
    of what is above 0 if it holds lies above, or below, 0; within noise where it holds 0.  Where there is nothing to
    compare, because a network did not learn, say, the claim is not comparable.  In a shortened profile that, and a
    training of fewer steps than the claim needs, is too short to tell.
    """
    ran = {network["name"]: network for network in networks if network["final_accuracy"]}
    there = {*ran}
    for measured in ("landscape", "probes", "rates", "recipe", "sgd"):
        there |= {f"{name} {measured}" for name, network in ran.items() if _has(network.get(measured))}
    judged = []
    for claim in claims:
        here, test = "", ""
        if claim.own_schedule and profile != "full":
            verdict = NOT_TESTED
        elif not there.issuperset(claim.needs):
            verdict = NOT_RUN
        else:
            found = claim.measure(ran)
            verdict, here, test = _verdict(found.interval), found.here, found.test
            if profile in SHORTENED:
                verdict += f" {SHORTENED[profile]}"
                if found.interval is None:
                    verdict = TOO_SHORT
                elif found.steps < claim.least_steps:
                    verdict, here = TOO_SHORT, f"{here}; after {found.steps:,} steps"
                    test = _too_few(claim.least_steps)
        judged.append(
            {
                "claim": claim.text,
                "reported": claim.reported,
                "here": here,
                "verdict": verdict,
                "test": test,
                "figure": claim.figure,
            }
        )
    return judged


def _verdict(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return NOT_COMPARABLE
    low, high = interval
    return CONFIRMED if low > 0 else NOT_CONFIRMED if high < 0 else NOISE


def _has(measured: Mapping[str, Any] | None) -> bool:
    """Probes may be there for other walks than the paper's."""
    return measured is not None and ("sgd" in measured or "runs" in measured)
