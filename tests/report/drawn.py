"""Few data to draw, and what a figure shows, in numbers."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd

LINE = np.array([-1.0, 0, 1])
BOWL = 0.5 + LINE[:, None] ** 2 + LINE**2 / 2


def probed(learns_from=0, **columns):
    """A run with as much of its probes as a figure needs: by default two steps, 0 and 10."""
    steps = {"step": [0, 10], "loss": [2.0, 1], "loss_min": [1.0, 0.5], "loss_max": [3.0, 2]}
    steps |= {"change_min": [0.1, 0.2], "change_max": [1.0, 2], "beta": [5.0, 6]}
    return SimpleNamespace(probes=pd.DataFrame(steps | columns), learns_from=learns_from)


def labelled(ax):
    """Label → line, of the lines that have one."""
    return {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}


def points(line):
    return list(zip(*(np.asarray(values, dtype=float).tolist() for values in line.get_data()), strict=True))


def band(collection):
    """The lower and the upper edge of a band, by x."""
    vertices = sorted(map(tuple, collection.get_paths()[0].vertices))
    edges = {x: [y for _, y in group] for x, group in itertools.groupby(vertices, key=lambda vertex: vertex[0])}
    return {x: (min(ys), max(ys)) for x, ys in edges.items()}
