"""One function per figure: records in, a matplotlib Figure out.  Reads no file, shows nothing."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from torch import Tensor

from cifarnb.models import LABELS
from cifarnb.report.significance import sampling_interval, signed
from cifarnb.report.style import PERCENT
from cifarnb.report.style import styled_figure as _styled
from cifarnb.runs import Run

PALETTE = sns.color_palette("colorblind")
COLORS = dict(zip(LABELS, itertools.cycle(PALETTE[i] for i in (1, 0, 2, 3, 4, 9, 7, 5)), strict=False))
WIDTH = 7.6  # inches; at 100 pixels an inch the report's column
_TOP_LOSS = 100.0  # chance is 2.3: beyond, a surface tells nothing, and one peak would take all the levels
CLIPPED = f"Losses above {_TOP_LOSS:g} are drawn as {_TOP_LOSS:g}."  # for the captions of surfaces

_STAR: dict[str, Any] = {"marker": "*", "ms": 14, "color": "white", "mec": "black", "mew": 0.8, "zorder": 5}
_OUTLINE = withStroke(linewidth=2.4, foreground="black")  # white alone is lost on the bright end of the colours


@_styled
def image_grid(images: Tensor, labels: Tensor, classes: Sequence[str], per_class: int = 10) -> Figure:
    """The first images of every class, a row a class.  images (N, 32, 32, 3) uint8, labels (N,)."""
    figure = Figure(figsize=(WIDTH, WIDTH * (len(classes) + 0.4) / (per_class + 1.6)))
    axes = figure.subplots(len(classes), per_class, squeeze=False, gridspec_kw={"wspace": 0.02, "hspace": 0.02})
    for row, name in enumerate(classes):
        found = images[labels == row][:per_class].numpy()
        for column, ax in enumerate(axes[row]):
            ax.axis("off")
            if column < len(found):
                ax.imshow(found[column])
        axes[row, 0].text(-0.15, 0.5, name, transform=axes[row, 0].transAxes, ha="right", va="center")
    return figure


@_styled
def class_balance(train_labels: Tensor, test_labels: Tensor, classes: Sequence[str]) -> Figure:
    """The number of images in every class, train and test."""
    figure = Figure(figsize=(WIDTH, 3.2))
    ax = figure.subplots()
    counts = pd.DataFrame(
        {
            "class": list(classes) * 2,
            "images": [*train_labels.bincount(minlength=10).tolist(), *test_labels.bincount(minlength=10).tolist()],
            "split": ["train"] * 10 + ["test"] * 10,
        }
    )
    sns.barplot(counts, x="class", y="images", hue="split", ax=ax, palette=[PALETTE[0], PALETTE[9]])
    ax.set(xlabel="", ylabel="images")
    ax.tick_params(axis="x", rotation=30)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    ax.legend(title="", loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return figure


@_styled
def augmentation(originals: Tensor, augmented: Tensor) -> Figure:
    """Originals (N, 32, 32, 3) uint8 in the first column; augmented (N, K, 32, 32, 3) uint8 beside them."""
    n, k = augmented.shape[:2]
    figure = Figure(figsize=(WIDTH, WIDTH * (n + 0.3) / (k + 1)))
    axes = figure.subplots(n, k + 1, squeeze=False)
    for row in range(n):
        for column, ax in enumerate(axes[row]):
            ax.imshow((originals[row] if column == 0 else augmented[row, column - 1]).numpy())
            ax.axis("off")
    axes[0, 0].set_title("original", fontsize="small")
    axes[0, 1].set_title("augmented", fontsize="small", loc="left")
    return figure


@_styled
def loss_curves(runs: Sequence[Run]) -> Figure:
    """Train and test loss over the epochs of one network's runs, which differ in the seed."""
    return _train_and_test(runs, "loss")


@_styled
def accuracy_curves(runs: Sequence[Run]) -> Figure:
    """Train and test accuracy over the epochs of one network's runs; best and last epoch of the first run marked."""
    return _train_and_test(runs, "accuracy")


def _train_and_test(runs: Sequence[Run], quantity: str) -> Figure:
    figure = Figure(figsize=(WIDTH, 3.6))
    ax = figure.subplots()
    color = COLORS[runs[0].config.model]
    _draw_runs(ax, runs, f"train_{quantity}", color=color, linestyle=(0, (4, 2)), label="train")
    _draw_runs(ax, runs, f"test_{quantity}", color=color, label="test")
    if quantity == "accuracy":
        _mark_epochs(ax, runs[0], color)
    _label_axes(ax, quantity)
    ax.legend()
    return figure


@_styled
def compare_training(runs: Mapping[str, Sequence[Run]]) -> Figure:
    """Train loss and test accuracy over the epochs, a line a network (name → its runs, which differ in the seed)."""
    figure = Figure(figsize=(WIDTH, 3.9))
    left, right = figure.subplots(1, 2)
    for name, same in runs.items():
        _draw_runs(left, same, "train_loss", color=COLORS[name], label=LABELS[name])
        _draw_runs(right, same, "test_accuracy", color=COLORS[name], label=LABELS[name])
        _mark_epochs(right, same[0], COLORS[name], label=name == list(runs)[-1])
    _label_axes(left, "loss")
    left.set_ylabel("training loss")
    _label_axes(right, "accuracy")
    right.set_ylabel("test accuracy")
    figure.legend(*right.get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return figure


@_styled
def compare_curves(runs: Mapping[str, Sequence[Run]]) -> Figure:
    """Train loss and test accuracy over the epochs of two sides, told apart by colour and line (legend → its runs)."""
    figure = Figure(figsize=(WIDTH, 3.9))
    left, right = figure.subplots(1, 2)
    styles: list[Any] = ["-", (0, (4, 2))]
    for (name, same), color, line in zip(runs.items(), PALETTE, styles, strict=False):
        label = name.replace("$", r"\$")
        _draw_runs(left, same, "train_loss", color=color, label=label, linestyle=line)
        _draw_runs(right, same, "test_accuracy", color=color, label=label, linestyle=line)
    _label_axes(left, "loss")
    left.set_ylabel("training loss")
    _label_axes(right, "accuracy")
    right.set_ylabel("test accuracy")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center")
    return figure


@_styled
def gap(rungs: Sequence[Mapping[str, Any]], reported: float) -> Figure:
    """Test accuracy from the first rung to the last, one ingredient more on each, with 95 % intervals.

    ``rungs`` are those of ``summary.describe_well``, ``reported`` is the write-up's number to be reached (0 to 1).
    Faint dots are the seeds.
    """
    figure = Figure(figsize=(WIDTH, 1.3 + 0.42 * len(rungs)))
    ax = figure.subplots()
    for row, rung in enumerate(rungs):
        final = rung["final_accuracy"]
        low, high = final["ci95"] or sampling_interval(final["mean"], rung["test_images"])
        ax.plot([low, high], [row, row], color=PALETTE[0], lw=2)
        ax.plot(final["values"], [row] * len(final["values"]), "o", color=PALETTE[0], ms=4, alpha=0.4)
        ax.plot(final["mean"], row, "o", color=PALETTE[0], mec="white", ms=8)
        if rung["gain"] is not None:
            ax.annotate(
                signed(100 * rung["gain"], ".1f"), (high, row), xytext=(6, 0), textcoords="offset points", va="center",
                fontsize="small",
            )  # fmt: skip
    ax.axvline(reported, color="0.4", ls=(0, (4, 2)), lw=1.2)
    ax.annotate(
        f"{reported:.2%}, the write-up", (reported, -0.6), xytext=(-4, 0), textcoords="offset points", fontsize="small",
        color="0.3", ha="right",
    )  # fmt: skip
    ax.set_yticks(
        range(len(rungs)), [rung["name"] if not row else f"+ {rung['name']}" for row, rung in enumerate(rungs)]
    )
    ax.set(ylim=(len(rungs) - 0.5, -1), xlabel="test accuracy")
    ax.margins(x=0.12)
    ax.xaxis.set_major_formatter(PERCENT)
    return figure


def _draw_runs(ax: Axes, runs: Sequence[Run], column: str, *, color: Any, label: str, linestyle: Any = "-") -> None:
    """The mean over the runs; with several, their range as a band and each of them faintly."""
    values = pd.concat([run.history.set_index("epoch")[column] for run in runs], axis=1)
    marker = "o" if len(values) < 20 else None
    ax.plot(values.index, values.mean(axis=1), color=color, linestyle=linestyle, label=label, marker=marker, ms=3.5)
    if len(runs) > 1:
        ax.fill_between(values.index, values.min(axis=1), values.max(axis=1), color=color, alpha=0.18, lw=0)
        ax.plot(values.index, values, color=color, linestyle=linestyle, lw=0.6, alpha=0.5)


def _mark_epochs(ax: Axes, run: Run, color: Any, label: bool = True) -> None:
    """The best epoch as a star, the last as a square."""
    style = {"color": color, "markeredgecolor": "white", "linestyle": "none", "zorder": 5}
    ax.plot(run.best_epoch, run.best_accuracy, "*", ms=14, label="best epoch" if label else None, **style)
    last = run.history["epoch"].iloc[-1]
    ax.plot(last, run.final_accuracy, "s", ms=7, label="last epoch" if label else None, **style)


def _label_axes(ax: Axes, quantity: str) -> None:
    ax.set(xlabel="epoch", ylabel=quantity)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if quantity == "accuracy":
        ax.yaxis.set_major_formatter(PERCENT)


def _plain(value: float) -> str:
    exponent = round(math.log10(value))
    is_far_power = math.isclose(value, 10.0**exponent) and not 1e-3 <= value < 1e5
    return f"$10^{{{exponent}}}$" if is_far_power else f"{value:g}"


def _scale_by_ratio(axis: Axis, name: Callable[[float], str] = _plain) -> None:
    """A logarithmic axis, labelled with numbers as ``name`` writes them: the fewer, the more decades it spans."""

    def label(value: float, _: object) -> str:
        low, high = axis.get_view_interval()
        labelled = "1" if high > 100 * low else "125" if high > 4 * low else "123456789"
        return name(value) if f"{value:e}"[0] in labelled else ""

    ax = axis.axes
    (ax.set_xscale if axis is ax.xaxis else ax.set_yscale)("log")
    axis.set_major_formatter(FuncFormatter(label))
    axis.set_minor_formatter(FuncFormatter(label))


@_styled
def feature_maps(image: Tensor, title: str, maps: Mapping[str, Tensor], channels: int = 8) -> Figure:
    """An image (32, 32, 3) uint8, then a row a stage with its first channels; maps: stage → (C, H, W)."""
    figure = Figure(figsize=(WIDTH, WIDTH * len(maps) / (channels + 2.6)))
    picture, grid = figure.subfigures(1, 2, width_ratios=[2.2, channels])  # type: ignore[misc]
    ax = picture.subplots()
    ax.imshow(image.numpy())
    ax.set_title(title, fontsize="small")
    ax.axis("off")
    axes = grid.subplots(len(maps), channels, squeeze=False)
    for row, (stage, activations) in enumerate(maps.items()):
        for column, cell in enumerate(axes[row]):
            cell.imshow(activations[column].numpy(), cmap="viridis")
            cell.axis("off")
        shape = "×".join(map(str, activations.shape))
        axes[row, 0].set_title(f"{stage} ({shape})", fontsize="small", loc="left")
    return figure


@_styled
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


@_styled
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


@_styled
def probes(runs: Mapping[str, Sequence[Run]]) -> Figure:
    """Loss and gradient on the walks along the gradient, over the steps; network → its runs, which differ in the seed.

    The bands are the first run's; the smoothness is the median over the runs, with several each of them faintly.  Grey
    are the steps before both of the first runs learn.  What is not finite is left out, and the axis of the loss ends as
    in ``loss_landscape``.
    """
    figure = Figure(figsize=(WIDTH, 7.5))
    losses, changes, smoothness = figure.subplots(3, 1, sharex=True)
    for ax in (losses, changes, smoothness):
        _scale_by_ratio(ax.yaxis)
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


@_styled
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
        _scale_by_ratio(right.yaxis)  # which an axis without a line cannot be
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def _draw_rates(ax: Axes, ended: pd.DataFrame, column: str, name: str) -> None:
    """The mean over the seeds at each learning rate; where there are several, their range as a band."""
    seeds = ended.groupby("lr")[column]
    mean = seeds.mean()
    ax.plot(mean.index, mean, color=COLORS[name], label=LABELS[name], marker="o", ms=3.5)
    if len(mean) < len(ended):
        ax.fill_between(mean.index, seeds.min(), seeds.max(), color=COLORS[name], alpha=0.18, lw=0)


@_styled
def loss_lines(coordinates: np.ndarray, losses: Mapping[str, np.ndarray]) -> Figure:
    """The loss along straight lines through the trained weights: each direction faintly, their mean strongly.

    coordinates (points,); losses: network → (directions, points).
    """
    figure = Figure(figsize=(WIDTH, 4.0))
    ax = figure.subplots()
    for name, lines in losses.items():
        ax.plot(coordinates, lines.T, color=COLORS[name], lw=0.6, alpha=0.5)
        ax.plot(coordinates, lines.mean(axis=0), color=COLORS[name], label=LABELS[name])
    _scale_by_ratio(ax.yaxis)
    ax.set(xlabel="distance from the trained weights, in units of the filters' norms", ylabel="loss")
    ax.legend()
    return figure


@_styled
def loss_surfaces(coordinates: np.ndarray, losses: Mapping[str, np.ndarray]) -> Figure:
    """The loss over two directions from the trained weights, which a star marks; a panel a network, the same levels.

    coordinates (points,), of both directions; losses: network → (points, points), the first axis along x.
    """
    figure, panels = _surfaces(dict.fromkeys(losses, coordinates), dict.fromkeys(losses, coordinates), losses)
    for ax in panels.values():
        ax.plot(0, 0, **_STAR)
        ax.set(aspect="equal", xlabel="1st direction", ylabel="2nd direction")
    return figure


@_styled
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


@_styled
def accuracy_against_parameters(
    networks: Sequence[Mapping[str, Any]], well: Sequence[Mapping[str, Any]] = ()
) -> Figure:
    """Test accuracy of every network that ran, over its parameters; the write-up's beside it as an open ring.

    ``networks`` is that of ``cifarnb.report.summary.summarize``; of ``well``, trained as in section 1.4 and each of
    them run, every accuracy is a diamond.
    """
    figure = Figure(figsize=(WIDTH, 4.0))
    ax = figure.subplots()
    for network in networks:
        color, x = COLORS[network["name"]], network["parameters"]
        if network["final_accuracy"]:
            ax.plot(x, network["final_accuracy"]["mean"], "o", color=color, ms=9, label=network["label"])
        if network["reported_accuracy"]:
            ax.plot(x, network["reported_accuracy"], "o", color=color, ms=9, mfc="none", mew=1.6)
    named = [network["label"] for network in networks if network["final_accuracy"]]
    for network in well:
        known = network["label"] in named
        style = {"color": COLORS[network["name"]], "ms": 9, "label": None if known else network["label"]}
        ax.plot(network["parameters"], network["final_accuracy"]["mean"], "D", mec="white", **style)
    ax.plot([], [], "o", color="0.3", ms=9, mfc="none", mew=1.6, label="reported")
    if well:
        ax.plot([], [], "D", color="0.3", ms=9, mec="white", label="trained well")
    _scale_by_ratio(ax.xaxis, lambda n: f"{n / 1e6:g} M" if n >= 1e6 else f"{n / 1e3:g} k")
    ax.set(xlabel="parameters", ylabel="test accuracy")
    ax.margins(x=0.15, y=0.15)
    ax.yaxis.set_major_formatter(PERCENT)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
