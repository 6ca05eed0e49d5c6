"""What decides a claim: functions that measure something in the numbers of the networks that ran."""

import math
from collections.abc import Callable, Mapping
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

Networks = Mapping[str, Mapping[str, Any]]  # name → its numbers, of those that ran

VERY_FAST = 2  # times as fast as the next network: a bound of ours, the write-up has none


@dataclass(frozen=True)
class Finding:
    """What was measured about a claim."""

    here: str  # the numbers, with their spread over the seeds where there are several
    interval: tuple[float, float] | None  # of what is above 0 if the claim holds; None: nothing to compare with
    test: str  # what the interval is
    steps: float = math.inf  # of the shortest training that it is about


def final_interval(network: Mapping[str, Any]) -> tuple[float, float]:
    """The 95 % interval of the accuracy after the last epoch: t's over the seeds, of one run Wilson's on its images."""
    final = network["final_accuracy"]
    interval: tuple[float, float] | None = final["ci95"]
    return interval or sampling_interval(final["mean"], network["test_images"])


def reaches(name: str, number: float, tta: bool = False) -> Callable[[Networks], Finding]:
    """A network's accuracy after the last epoch, or that with test-time augmentation, is above a number (0 to 1)."""

    def measure(ran: Networks) -> Finding:
        network = ran[name]
        final, best = network["tta_accuracy" if tta else "final_accuracy"], network["best_accuracy"]
        low, high = final_interval({**network, "final_accuracy": final})
        here = f"{accuracy(final)} after the last epoch, {accuracy(best)} at the best"
        if tta:
            here = f"{accuracy(final)} with test-time augmentation, {accuracy(network['final_accuracy'])} without"
        if final["mean"] < number:
            here += f"; {100 * (number - final['mean']):.2f} points short"
        kind = "t over the seeds" if final["ci95"] else f"Wilson's for one run on {network['test_images']:,} images"
        return Finding(here, (low - number, high - number), f"95 % interval ({kind}) against {number:.2%}")

    return measure


def is_above(name: str, better: str, worse: str) -> Callable[[Networks], Finding]:
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


def differs_from_base(change: str, *, worse: bool = False) -> Callable[[Networks], Finding]:
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


def is_better(better: str, worse: str) -> Callable[[Networks], Finding]:
    """Of two networks the one does better after the last epoch than the other."""

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


def is_below(reported: float, noise: float, words: str, name: str, *keys: str) -> Callable[[Networks], Finding]:
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


def is_very_fast(name: str) -> Callable[[Networks], Finding]:
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


def is_lower(words: str, key: str, *places: str, higher: bool = False) -> Callable[[Networks], Finding]:
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
