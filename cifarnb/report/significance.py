"""Whether a difference could be chance: between seeds, or between the test images that happen to be there."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize, stats

LEVEL = 0.95  # of every interval; 1 − LEVEL of every test
NOT_FINITE = "not finite"
NOISY_RATIO = 1.25  # of two measures with one seed each: up to that their difference counts as noise
SURE = 1 - 1e-12  # the highest level that a p-value is looked for up to
Interval = tuple[float, float]


def mean_and_interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean, its 95 % confidence interval [low, high] by Student's t (None for a single value), and the values."""
    mean, interval = statistics.fmean(values), None
    if len(values) > 1:
        with np.errstate(invalid="ignore"):  # of infinite values, the interval is NaN
            deviation = np.std(values, ddof=1)
        half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * deviation / math.sqrt(len(values))
        interval = [float(mean - half), float(mean + half)]
    return {"mean": mean, "ci95": interval, "values": list(values)}


def seed_difference(a: Sequence[float], b: Sequence[float]) -> Interval:
    """The 95 % confidence interval of mean(a) − mean(b) by Welch's t; two or more values each, one a seed."""
    difference = statistics.fmean(a) - statistics.fmean(b)
    variances = [statistics.variance(values) / len(values) for values in (a, b)]
    if not any(variances):
        return difference, difference
    freedom = sum(variances) ** 2 / sum(v**2 / (len(values) - 1) for v, values in zip(variances, (a, b), strict=True))
    half = stats.t.ppf((1 + LEVEL) / 2, freedom) * math.sqrt(sum(variances))
    return float(difference - half), float(difference + half)


def ratio_interval(more: Mapping[str, Any], less: Mapping[str, Any]) -> tuple[Interval, str]:
    """An interval of the logarithm of the ratio of two positive measures (of ``mean_and_interval``), and what it is.

    With one seed a ratio of less than NOISY_RATIO counts as noise.
    """
    values = [[_log(value) for value in side["values"]] for side in (more, less)]
    if min(map(len, values)) > 1 and all(math.isfinite(value) for side in values for value in side):
        return seed_difference(*values), "95 % interval of the ratio (Welch's over the seeds)"
    lowest, highest = min(values[0]) - max(values[1]), max(values[0]) - min(values[1])
    if math.isnan(lowest) or math.isnan(highest):  # both without end
        lowest, highest = -math.inf, math.inf
    margin = math.log(NOISY_RATIO)
    words = f"single or diverged runs: a ratio below {NOISY_RATIO:g} counts as noise"
    return (lowest - margin, highest + margin), words


def _log(value: float) -> float:
    """A number that is not there, because the run diverged, counts as without end."""
    return math.log(max(value, 1e-12)) if math.isfinite(value) else math.inf


def paired_difference(a: Mapping[int, float], b: Mapping[int, float], images: int) -> tuple[float, Interval]:
    """The mean of a − b over the seeds that both have (seed → accuracy, 0 to 1), and its 95 % confidence interval.

    By Student's t over the differences seed by seed; with one seed Newcombe's, on so many test ``images`` each.
    """
    pairs = [(a[seed], b[seed]) for seed in a if seed in b]
    found = mean_and_interval([one - other for one, other in pairs])
    low, high = found["ci95"] or sampling_difference(*pairs[0], (images, images))
    return found["mean"], (low, high)


def sampling_interval(accuracy: float, images: int, level: float = LEVEL) -> Interval:
    """Wilson's interval for the accuracy (0 to 1) of one run on so many test images."""
    found = stats.binomtest(round(accuracy * images), images).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def beats_guessing(accuracy: float, images: int, classes: int) -> bool:
    """Whether an accuracy (0 to 1) is above that of guessing, as far as so many test images can tell."""
    return sampling_interval(accuracy, images)[0] > 1 / classes


def sampling_difference(a: float, b: float, images: tuple[int, int], level: float = LEVEL) -> Interval:
    """Newcombe's interval for the difference a − b of two accuracies (0 to 1), on test images (how many each).

    It takes the two for independent, which is careful where both were tested on the same images.
    """
    (low_a, high_a), (low_b, high_b) = (sampling_interval(p, n, level) for p, n in zip((a, b), images, strict=True))
    return a - b - math.hypot(a - low_a, high_b - b), a - b + math.hypot(high_a - a, b - low_b)


def sampling_p_value(a: float, b: float, images: tuple[int, int]) -> float:
    """The p-value that belongs to Newcombe's interval: 1 minus the level at which it reaches 0."""

    def nearer_end(level: float) -> float:
        low, high = sampling_difference(a, b, images, level)
        return low if a > b else -high

    if a == b:
        return 1.0
    return 1 - (SURE if nearer_end(SURE) > 0 else optimize.brentq(nearer_end, 0, SURE))


def holm_levels(p_values: Sequence[float]) -> list[float]:
    """The level at which Holm's procedure tests each of m differences, 1 − LEVEL for all of them together.

    By rising p, the k-th has (1 − LEVEL) / (m − k + 1); from the first that is not rejected on, all have its level.
    """
    levels = [0.0] * len(p_values)
    level, rejected = 0.0, True
    for earlier, index in enumerate(np.argsort(p_values, kind="stable")):
        if rejected:
            level = (1 - LEVEL) / (len(p_values) - earlier)
            rejected = p_values[index] <= level
        levels[index] = level
    return levels


def error_in_blocks(values: np.ndarray) -> tuple[float, int]:
    """The standard error of a difference of two rows' means, and its degrees of freedom; values (rows, blocks).

    As in a randomised block design: the variance is what the means of rows and blocks leave, pooled over all rows.
    """
    rows, blocks = values.shape
    rest = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
    freedom = (rows - 1) * (blocks - 1)
    return math.sqrt(2 * float((rest**2).sum()) / freedom / blocks), freedom


def corrected_intervals(differences: Sequence[float], error: float, freedom: int) -> list[Interval]:
    """Student's intervals for differences that share a standard error, corrected for their number by Holm.

    Each excludes 0 exactly where Holm's procedure rejects; so with a probability of 95 % none does so wrongly.
    """
    p_values = [float(2 * stats.t.sf(abs(d) / error, freedom)) if error else float(d == 0) for d in differences]
    halves = [float(stats.t.isf(level / 2, freedom)) * error for level in holm_levels(p_values)]
    return [(d - half, d + half) for d, half in zip(differences, halves, strict=True)]


def corrected_sampling(accuracies: Sequence[float], base: float, images: int) -> list[Interval]:
    """Newcombe's intervals for the differences of single runs' accuracies from that of one, corrected likewise."""
    levels = holm_levels([sampling_p_value(a, base, (images, images)) for a in accuracies])
    return [sampling_difference(a, base, (images, images), 1 - at) for a, at in zip(accuracies, levels, strict=True)]


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> float:
    """The p-value of McNemar's exact test that two runs, right (N,) or not on the same images, are equally accurate."""
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(stats.binomtest(only_a, only_a + only_b).pvalue)


def counted(number: int, what: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def listed(words: Iterable[str]) -> str:
    """Each of them once: ``this``, ``this and that``, ``this, that and another``."""
    *first, last = dict.fromkeys(words)
    return f"{', '.join(first)} and {last}" if first else last


def spread(measured: Mapping[str, Any]) -> str:
    """The mean of ``mean_and_interval``, with half the 95 % confidence interval where there are several seeds."""
    mean, interval = significant(measured["mean"]), measured["ci95"]
    if interval is None or not math.isfinite(interval[0]):
        return mean
    return f"{mean} ± {significant((interval[1] - interval[0]) / 2, 2)}"


def positive(measured: Mapping[str, Any], describe: Callable[[Mapping[str, Any]], str] | None = None) -> str:
    """A positive measure as ``describe`` has it, which is ``spread`` or ``accuracy``.

    Where half the interval is no less than the mean, so that it would hold what cannot be, or where one of several
    values is not finite, the seeds' values stand in brackets in its place: ``6.03 (3.56, 5.21, 9.31)``.
    """
    describe, interval = describe or spread, measured["ci95"]
    # Of infinite values the interval is NaN.
    if interval is None or interval[0] > 0 or not any(map(math.isfinite, measured["values"])):
        return describe(measured)
    mean, *each = (describe({"mean": value, "ci95": None}) for value in (measured["mean"], *measured["values"]))
    return f"{mean} ({', '.join(each)})"


def accuracy(measured: Mapping[str, Any]) -> str:
    """An accuracy (0 to 1) in per cent, as ``spread`` gives other measures: ``81.58%``, ``64.00 ± 2.96%``."""
    if measured["ci95"] is None:
        return f"{measured['mean']:.2%}"
    return f"{100 * measured['mean']:.2f} ± {50 * (measured['ci95'][1] - measured['ci95'][0]):.2f}%"


def significant(value: float, digits: int = 3) -> str:
    """``1,230`` for 1234.5, ``−0.5`` with a minus, not a hyphen; ``not finite`` as it is."""
    return _with_minus(f"{float(f'{value:.{digits}g}'):,g}") if math.isfinite(value) else NOT_FINITE


def nats(value: float) -> str:
    """A loss in nats: ``2.30``; ``not finite`` where the training diverged."""
    return f"{value:.2f}" if math.isfinite(value) else NOT_FINITE


def points(difference: float, interval: Sequence[float]) -> str:
    """A difference of accuracies (0 to 1) and its 95 % interval, in points: ``+1.20 (−0.80 to +3.20)``."""
    low, high = interval
    return f"{signed(100 * difference)} ({signed(100 * low)} to {signed(100 * high)})"


def signed(value: float, form: str = ".2f") -> str:
    """A number in that form with its sign: ``+1.20``, ``−1.20``."""
    return _with_minus(f"{value:+{form}}")


def _with_minus(number: str) -> str:
    return number.replace("-", "−")
