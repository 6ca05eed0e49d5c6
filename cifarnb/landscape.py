"""Why batch norm helps: measures on the loss along training."""

from collections.abc import Sequence

import numpy as np


def envelope(losses: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest loss of several runs at each step, (steps,) each, as the assignment defines them.

    ``losses`` holds the loss of every step (steps,) of runs that differ in the learning rate alone.  Steps that not
    all runs reached are left out; a loss that is not finite makes the band's upper edge infinite there.
    """
    steps = min(len(run) for run in losses)
    stacked = np.stack([np.where(np.isfinite(run[:steps]), run[:steps], np.inf) for run in losses])
    return stacked.min(axis=0), stacked.max(axis=0)


def widths(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The width of the band at each step (steps,); infinite where a run had diverged."""
    width = np.full(len(low), np.inf)
    np.subtract(high, low, out=width, where=np.isfinite(high))
    return width
