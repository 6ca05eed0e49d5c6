"""What the walks along a run's training measured, in a number a run."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from cifarnb.runs import Run, group

LEAST_WALKS = 5  # of a run, for a median over them

MEASURES: dict[str, Callable[[pd.DataFrame], pd.Series]] = {  # of a probe, a value a step
    "range of the loss": lambda probes: probes["loss_max"] - probes["loss_min"],
    "change of the gradient": lambda probes: probes["change_max"],
    "β": lambda probes: probes["beta"],
}


def compared_from(runs: Iterable[Run]) -> dict[int, int | None]:
    """Seed → the step from which on all of these runs with that seed learn.

    None if one of them does not, or walks fewer than LEAST_WALKS times from then on.
    """
    since: dict[int, int | None] = {}
    for seed, same in group(runs, "seed").items():
        steps = [run.learns_from for run in same]
        first = None if None in steps else max(step for step in steps if step is not None)
        enough = first is not None and all(len(_probes(run, first)) >= LEAST_WALKS for run in same)
        since[seed] = first if enough else None
    return since


def medians_over_steps(runs: Sequence[Run], since: Mapping[int, int | None], measure: str) -> list[float]:
    """The median of a measure for each run, over the steps from that on which ``since`` has for its seed.

    ``since`` is that of ``compared_from``; runs with a seed for which it has None are left out.
    """
    return _of_each(median_over_steps, runs, since, measure)


def swings_over_steps(runs: Sequence[Run], since: Mapping[int, int | None], measure: str) -> list[float]:
    """The same for how far the measure goes up and down: its 90th percentile over those steps, divided by the 10th."""

    def swing(run: Run, measure: str, first: int) -> float:
        values = _finite_over_steps(run, measure, first)
        return float(values.quantile(0.9) / values.quantile(0.1))

    return _of_each(swing, runs, since, measure)


def _of_each(
    statistic: Callable[[Run, str, int], float], runs: Sequence[Run], since: Mapping[int, int | None], measure: str
) -> list[float]:
    compared = [(run, since[run.config.seed]) for run in runs]
    return [statistic(run, measure, first) for run, first in compared if first is not None]


def median_over_steps(run: Run, measure: str, since: int = 0) -> float:
    """The median of a measure (a key of MEASURES) over the steps from ``since`` on at which it is finite; or NaN."""
    return float(_finite_over_steps(run, measure, since).median())


def _finite_over_steps(run: Run, measure: str, since: int) -> pd.Series:
    values = MEASURES[measure](_probes(run, since))
    return values[np.isfinite(values)]


def _probes(run: Run, since: int) -> pd.DataFrame:
    assert run.probes is not None
    return run.probes[run.probes["step"] >= since]
