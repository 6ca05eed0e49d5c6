"""One function per figure: records in, a matplotlib Figure out.  Reads no file, shows nothing."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from torch import Tensor

from cifarnb.models import LABELS
from cifarnb.runs import Run

_PALETTE = sns.color_palette("colorblind")
COLORS = dict(zip(LABELS, [_PALETTE[i] for i in (1, 0, 2, 3, 4)], strict=True))
WIDTH = 7.6  # inches; at 100 pixels an inch the report's column

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


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    @functools.wraps(draw)
    def styled(*args: Any, **kwargs: Any) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


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
    sns.barplot(counts, x="class", y="images", hue="split", ax=ax, palette=[_PALETTE[0], _PALETTE[9]])
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
    figure = Figure(figsize=(WIDTH, 3.6))
    left, right = figure.subplots(1, 2)
    for name, same in runs.items():
        _draw_runs(left, same, "train_loss", color=COLORS[name], label=LABELS[name])
        _draw_runs(right, same, "test_accuracy", color=COLORS[name], label=LABELS[name])
        _mark_epochs(right, same[0], COLORS[name], label=name == list(runs)[-1])
    _label_axes(left, "loss")
    left.set_ylabel("training loss")
    _label_axes(right, "accuracy")
    right.set_ylabel("test accuracy")
    left.legend()
    right.legend()
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
        ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))


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
def loss_landscape(envelopes: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """The band between the lowest and the highest loss at each step; network → (lowest, highest), (steps,) each.

    The axis ends a little above the 99.5th percentile of the upper edges, so that single peaks do not flatten the rest.
    """
    figure = Figure(figsize=(WIDTH, 4.2))
    ax = figure.subplots()
    tops = []
    for name, (low, high) in envelopes.items():
        steps = np.arange(1, len(low) + 1)
        finite = high[np.isfinite(high)]
        top = np.quantile(finite, 0.995) if len(finite) else 1.0
        drawn = np.where(np.isfinite(high), high, 10 * np.max(finite, initial=top))  # beyond the axis
        ax.fill_between(steps, low, drawn, color=COLORS[name], alpha=0.35, lw=0, label=LABELS[name])
        ax.plot(steps, low, color=COLORS[name], lw=0.7)
        ax.plot(steps, drawn, color=COLORS[name], lw=0.7)
        tops.append(top)
    ax.set(xlabel="step", ylabel="training loss of the batch", ylim=(0, 1.1 * max(tops)), xlim=(1, None))
    ax.legend()
    return figure


@_styled
def accuracy_against_parameters(networks: Sequence[Mapping[str, Any]]) -> Figure:
    """Test accuracy of every network that ran, over its parameters; the write-up's beside it as an open ring.

    ``networks`` is that of ``cifarnb.summary.summarize``.
    """
    figure = Figure(figsize=(WIDTH, 4.0))
    ax = figure.subplots()
    for network in networks:
        color, x = COLORS[network["name"]], network["parameters"]
        if network["final_accuracy"]:
            ax.plot(x, network["final_accuracy"]["mean"], "o", color=color, ms=9, label=network["label"])
        if network["reported_accuracy"]:
            ax.plot(x, network["reported_accuracy"], "o", color=color, ms=9, mfc="none", mew=1.6)
    ax.plot([], [], "o", color="0.3", ms=9, mfc="none", mew=1.6, label="reported")
    ax.set(xscale="log", xlabel="parameters", ylabel="test accuracy")
    ax.margins(x=0.15, y=0.15)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n / 1e6:g} M" if n >= 1e6 else f"{n / 1e3:g} k"))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
