"""The figures of section 2: records in, a matplotlib Figure out.  Reads no file, shows nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from cifarnb.models import LABELS
from cifarnb.report.figures import COLORS, WIDTH, scale_by_ratio
from cifarnb.report.style import PERCENT, styled_figure
from cifarnb.runs import Run

_TOP_LOSS = 100.0  # chance is 2.3: beyond, a surface tells nothing, and one peak would take all the levels
CLIPPED = f"Losses above {_TOP_LOSS:g} are drawn as {_TOP_LOSS:g}."  # for the captions of surfaces

_STAR: dict[str, Any] = {"marker": "*", "ms": 14, "color": "white", "mec": "black", "mew": 0.8, "zorder": 5}
_OUTLINE = withStroke(linewidth=2.4, foreground="black")  # white alone is lost on the bright end of the colours


@styled_figure
def loss_landscape(envelopes: Mapping[str, tuple[np.ndarray, np.ndarray]], every: int = 1) -> Figure:
    """The band between the lowest and the highest loss at each step; network → (lowest, highest), (steps,) each.

    The arrays hold the first step and those at multiples of ``every`` after it.

    The axis ends a little above the 99.5th percentile of the upper edges, so that single peaks do not flatten the rest.
    """
    figure = Figure(figsize=(WIDTH, 4.2))
    ax = figure.subplots()
    top = _draw_envelopes(ax, envelopes, every)
    ax.set(xlabel="step", ylabel="training loss of the batch", ylim=(0, 1.1 * top), xlim=(1, None))
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


@styled_figure
def loss_landscapes(by_seed: Mapping[int, Mapping[str, tuple[np.ndarray, np.ndarray]]], every: int = 1) -> Figure:
    """``loss_landscape`` for every seed, a panel each, on the same axis of losses."""
    figure = Figure(figsize=(WIDTH, 3.4))
    panels = figure.subplots(1, len(by_seed), sharey=True, squeeze=False)[0]
    tops = []
    for ax, (seed, envelopes) in zip(panels, by_seed.items(), strict=True):
        tops.append(_draw_envelopes(ax, envelopes, every))
        ax.set(title=f"seed {seed}", xlabel="step", xlim=(1, None))
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    panels[0].set(ylabel="training loss of the batch", ylim=(0, 1.1 * max(tops)))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def _draw_envelopes(ax: Axes, envelopes: Mapping[str, tuple[np.ndarray, np.ndarray]], every: int) -> float:
    """The bands of ``loss_landscape``; returns the highest of their 99.5th percentiles."""
    return max(
        _draw_losses(ax, 1 + every * np.arange(len(low)), low, high, name) for name, (low, high) in envelopes.items()
    )


def _draw_losses(ax: Axes, steps: np.ndarray, low: np.ndarray, high: np.ndarray, name: str) -> float:
    """A band of losses, (steps,) each; returns the 99.5th percentile of its upper edge, without what is not finite."""
    finite = high[np.isfinite(high)]
    top = np.quantile(finite, 0.995) if len(finite) else 1.0
    drawn = np.where(np.isfinite(high), high, 10 * np.max(finite, initial=top))  # beyond the axis
    _draw_band(ax, steps, low, drawn, name)
    return float(top)


def _draw_band(ax: Axes, steps: np.ndarray, low: np.ndarray, high: np.ndarray, name: str) -> None:
    ax.fill_between(steps, low, high, color=COLORS[name], alpha=0.35, lw=0, label=LABELS[name])
    ax.plot(steps, low, color=COLORS[name], lw=0.7)
    ax.plot(steps, high, color=COLORS[name], lw=0.7)


@styled_figure
def probes(runs: Mapping[str, Sequence[Run]]) -> Figure:
    """Loss and gradient on the walks along the gradient, over the steps; network → its runs, which differ in the seed.

    The bands are the first run's; the smoothness is the median over the runs, with several each of them faintly.  Grey
    are the steps before both of the first runs learn.  What is not finite is left out, and the axis of the loss ends as
    in ``loss_landscape``.
    """
    figure = Figure(figsize=(WIDTH, 7.5))
    losses, changes, smoothness = figure.subplots(3, 1, sharex=True)
    for ax in (losses, changes, smoothness):
        scale_by_ratio(ax.yaxis)
    tops = []
    for name, same in runs.items():
        first = _probes(same[0])
        steps, finite = first["step"].to_numpy(), first.where(np.isfinite(first))
        tops.append(_draw_losses(losses, steps, first["loss_min"].to_numpy(), first["loss_max"].to_numpy(), name))
        _draw_band(changes, steps, finite["change_min"].to_numpy(), finite["change_max"].to_numpy(), name)
        betas = pd.concat([_probes(run).set_index("step")["beta"] for run in same], axis=1)
        betas = betas.where(np.isfinite(betas))
        smoothness.plot(betas.index, betas.median(axis=1), color=COLORS[name])
        if len(same) > 1:
            smoothness.plot(betas.index, betas, color=COLORS[name], lw=0.6, alpha=0.5)
    since = [same[0].learns_from for same in runs.values()]
    until = steps.max() if None in since else max(step for step in since if step is not None)
    if until > 0:
        for ax in (losses, changes, smoothness):
            ax.axvspan(0, until, color="0.5", alpha=0.2, lw=0, zorder=0, label="before both learn")
    losses.set(ylabel="loss on the walk", ylim=(None, 1.1 * max(tops)))
    changes.set(ylabel="change of the gradient")
    smoothness.set(ylabel="effective β", xlabel="step")
    figure.legend(*losses.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _probes(run: Run) -> pd.DataFrame:
    assert run.probes is not None
    return run.probes


@styled_figure
def rates(runs: Mapping[str, Sequence[Run]]) -> Figure:
    """Test accuracy and training loss after the last epoch over the learning rate; network → runs.

    The lines are the means over the seeds and the bands their range, without the runs that diverged: a cross is each of
    those, in the loss at the upper edge.
    """
    figure = Figure(figsize=(WIDTH, 3.9))
    left, right = figure.subplots(1, 2)
    cross: dict[str, Any] = {"marker": "x", "linestyle": "none", "mew": 2}
    diverged, all_diverged = False, True
    for later, (name, same) in zip(reversed(range(len(runs))), runs.items(), strict=True):
        ended = pd.DataFrame(
            {
                "lr": [run.config.lr for run in same],
                "accuracy": [run.final_accuracy for run in same],
                "loss": [run.history["train_loss"].iloc[-1] for run in same],
            }
        )
        broken = np.array([run.diverged for run in same]) | ~np.isfinite(ended["loss"])
        all_diverged &= bool(broken.all())
        _draw_rates(left, ended[~broken], "accuracy", name)
        _draw_rates(right, ended[~broken], "loss", name)
        if broken.any():
            diverged = True
            at, size = ended["lr"][broken], 7 + 4 * later  # crosses fall on each other: the lower ones must stick out
            left.plot(at, ended["accuracy"][broken], color=COLORS[name], ms=size, **cross)
            top = {"transform": right.get_xaxis_transform(), "clip_on": False}
            right.plot(at, np.ones(len(at)), color=COLORS[name], ms=size, **cross, **top)
    if diverged:
        left.plot([], [], color="0.3", label="diverged", ms=7, **cross)
    left.set(xscale="log", xlabel="learning rate", ylabel="test accuracy")
    left.yaxis.set_major_formatter(PERCENT)
    right.set(xscale="log", xlabel="learning rate", ylabel="training loss")
    if not all_diverged:
        scale_by_ratio(right.yaxis)  # which an axis without a line cannot be
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def _draw_rates(ax: Axes, ended: pd.DataFrame, column: str, name: str) -> None:
    """The mean over the seeds at each learning rate; where there are several, their range as a band."""
    seeds = ended.groupby("lr")[column]
    mean = seeds.mean()
    ax.plot(mean.index, mean, color=COLORS[name], label=LABELS[name], marker="o", ms=3.5)
    if len(mean) < len(ended):
        ax.fill_between(mean.index, seeds.min(), seeds.max(), color=COLORS[name], alpha=0.18, lw=0)


@styled_figure
def loss_lines(coordinates: np.ndarray, losses: Mapping[str, np.ndarray]) -> Figure:
    """The loss along straight lines through the trained weights: each direction faintly, their mean strongly.

    coordinates (points,); losses: network → (directions, points).
    """
    figure = Figure(figsize=(WIDTH, 4.0))
    ax = figure.subplots()
    for name, lines in losses.items():
        ax.plot(coordinates, lines.T, color=COLORS[name], lw=0.6, alpha=0.5)
        ax.plot(coordinates, lines.mean(axis=0), color=COLORS[name], label=LABELS[name])
    scale_by_ratio(ax.yaxis)
    ax.set(xlabel="distance from the trained weights, in units of the filters' norms", ylabel="loss")
    ax.legend()
    return figure


@styled_figure
def loss_surfaces(coordinates: np.ndarray, losses: Mapping[str, np.ndarray]) -> Figure:
    """The loss over two directions from the trained weights, which a star marks; a panel a network, the same levels.

    coordinates (points,), of both directions; losses: network → (points, points), the first axis along x.
    """
    figure, panels = _surfaces(dict.fromkeys(losses, coordinates), dict.fromkeys(losses, coordinates), losses)
    for ax in panels.values():
        ax.plot(0, 0, **_STAR)
        ax.set(aspect="equal", xlabel="1st direction", ylabel="2nd direction")
    return figure


@styled_figure
def path_on_surface(
    xs: Mapping[str, np.ndarray],
    ys: Mapping[str, np.ndarray],
    losses: Mapping[str, np.ndarray],
    paths: Mapping[str, np.ndarray],
    explained: Mapping[str, tuple[float, float]],
) -> Figure:
    """The way training took over the loss, in the plane of its two principal directions; a panel a network.

    Network → xs (A,), ys (B,), losses (A, B) with the first axis along x, paths (T, 2), of which a star marks the last
    point, and the fractions of the path's variance that the two directions explain.
    """
    figure, panels = _surfaces(xs, ys, losses)
    for name, ax in panels.items():
        ax.plot(
            *paths[name].T, color="white", lw=1.2, marker="o", ms=2.5, mec="black", mew=0.5, path_effects=[_OUTLINE]
        )
        ax.plot(*paths[name][-1], **_STAR)
        first, second = (f"principal direction\n({share:.0%} of the variance)" for share in explained[name])
        ax.set(xlabel=f"1st {first}", ylabel=f"2nd {second}")
    return figure


def _surfaces(
    xs: Mapping[str, np.ndarray], ys: Mapping[str, np.ndarray], losses: Mapping[str, np.ndarray]
) -> tuple[Figure, dict[str, Axes]]:
    """Filled contours of losses (A, B) over xs (A,) and ys (B,), a panel a network, on the same logarithmic levels.

    What lies beyond the highest level, or is not finite, is drawn as the highest.
    """
    every = np.concatenate([surface.ravel() for surface in losses.values()]).astype(float)
    every = every[np.isfinite(every) & (every > 0)]
    low = every.min(initial=_TOP_LOSS)
    high = max(min(every.max(initial=low), _TOP_LOSS), 2 * low)  # levels must rise, even over a flat surface
    figure = Figure(figsize=(WIDTH, 1.0 + (WIDTH - 3.0) / max(len(losses), 2)))
    axes = figure.subplots(1, len(losses), squeeze=False)[0]
    for name, ax in zip(losses, axes, strict=True):
        heights = np.where(np.isfinite(losses[name]), losses[name], high).clip(low, high)
        filled = ax.contourf(
            xs[name], ys[name], heights.T, levels=np.geomspace(low, high, 25), norm=LogNorm(low, high), cmap="viridis"
        )
        ax.set_title(LABELS[name])
        ax.grid(visible=False)
    bar = figure.colorbar(filled, ax=axes, label="loss", ticks=LogLocator(subs=(1, 2, 5)))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
    return figure, dict(zip(losses, axes, strict=True))
