"""Whether a difference could be chance: between seeds, or between the test images that happen to be there."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95  # of every interval; 1 − LEVEL of every test
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


def paired_difference(a: Mapping[int, float], b: Mapping[int, float], images: int) -> tuple[float, Interval]:
    """The mean of a − b over the seeds that both have (seed → accuracy, 0 to 1), and its 95 % confidence interval.

    By Student's t over the differences seed by seed; with one seed Newcombe's, on so many test ``images`` each.
    """
    pairs = [(a[seed], b[seed]) for seed in a if seed in b]
    found = mean_and_interval([one - other for one, other in pairs])
    low, high = found["ci95"] or sampling_difference(*pairs[0], (images, images))
    return found["mean"], (low, high)


def sampling_interval(accuracy: float, images: int) -> Interval:
    """Wilson's 95 % interval for the accuracy (0 to 1) of one run on so many test images."""
    found = stats.binomtest(round(accuracy * images), images).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def sampling_difference(a: float, b: float, images: tuple[int, int]) -> Interval:
    """Newcombe's 95 % interval for the difference a − b of two accuracies (0 to 1), on test images (how many each).

    It takes the two for independent, which is careful where both were tested on the same images.
    """
    (low_a, high_a), (low_b, high_b) = (sampling_interval(p, n) for p, n in zip((a, b), images, strict=True))
    return a - b - math.hypot(a - low_a, high_b - b), a - b + math.hypot(high_a - a, b - low_b)


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> float:
    """The p-value of McNemar's exact test that two runs, right (N,) or not on the same images, are equally accurate."""
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(stats.binomtest(only_a, only_a + only_b).pvalue)


def counted(number: int, what: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def spread(measured: Mapping[str, Any]) -> str:
    """The mean of ``mean_and_interval``, with half the 95 % confidence interval where there are several seeds."""
    mean, interval = significant(measured["mean"]), measured["ci95"]
    if interval is None or not math.isfinite(interval[0]):
        return mean
    return f"{mean} ± {significant((interval[1] - interval[0]) / 2, 2)}"


def accuracy(measured: Mapping[str, Any]) -> str:
    """An accuracy (0 to 1) in per cent, as ``spread`` gives other measures: ``81.58%``, ``64.00 ± 2.96%``."""
    if measured["ci95"] is None:
        return f"{measured['mean']:.2%}"
    return f"{100 * measured['mean']:.2f} ± {50 * (measured['ci95'][1] - measured['ci95'][0]):.2f}%"


def significant(value: float, digits: int = 3) -> str:
    """``1,230`` for 1234.5."""
    return f"{float(f'{value:.{digits}g}'):,g}"
