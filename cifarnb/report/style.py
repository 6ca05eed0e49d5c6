"""How every figure looks, wherever it is drawn or saved."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.style
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

STYLE = {
    **sns.axes_style("whitegrid"),
    **sns.plotting_context("notebook", font_scale=0.9),
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.6",
    "grid.color": "0.92",
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "figure.facecolor": "white",
}
PERCENT = FuncFormatter(lambda share, _: f"{100 * share:g}%")  # of an axis of shares, 0 to 1


@contextmanager
def styled() -> Iterator[None]:
    """In this block Matplotlib has its defaults and our style, whatever the user's matplotlibrc says."""
    with matplotlib.style.context(STYLE, after_reset=True):
        yield


def styled_figure(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """A function that draws a figure, in our style."""

    @functools.wraps(draw)
    def draw_styled(*args: Any, **kwargs: Any) -> Figure:
        with styled():
            return draw(*args, **kwargs)

    return draw_styled
