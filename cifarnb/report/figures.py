"""One function per figure: records in, a matplotlib Figure out.  Reads no file, shows nothing."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from torch import Tensor

from cifarnb.models import LABELS
from cifarnb.report.significance import sampling_interval, signed
from cifarnb.report.style import PERCENT, styled_figure
from cifarnb.runs import Run

PALETTE = sns.color_palette("colorblind")
COLORS = dict(zip(LABELS, itertools.cycle(PALETTE[i] for i in (1, 0, 2, 3, 4, 9, 7, 5)), strict=False))
WIDTH = 7.6  # inches; at 100 pixels an inch the report's column


@styled_figure
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


@styled_figure
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


@styled_figure
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


@styled_figure
def loss_curves(runs: Sequence[Run]) -> Figure:
    """Train and test loss over the epochs of one network's runs, which differ in the seed."""
    return _train_and_test(runs, "loss")


@styled_figure
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


@styled_figure
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


@styled_figure
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


@styled_figure
def gap(rungs: Sequence[Mapping[str, Any]], reported: float) -> Figure:
    """Test accuracy from the first rung to the last, one ingredient more on each, with 95 % intervals.

    ``rungs`` are those of ``describe.describe_well``, ``reported`` is the write-up's number to be reached (0 to 1).
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


def scale_by_ratio(axis: Axis, name: Callable[[float], str] = _plain) -> None:
    """A logarithmic axis, labelled with numbers as ``name`` writes them: the fewer, the more decades it spans."""

    def label(value: float, _: object) -> str:
        low, high = axis.get_view_interval()
        labelled = "1" if high > 100 * low else "125" if high > 4 * low else "123456789"
        return name(value) if f"{value:e}"[0] in labelled else ""

    ax = axis.axes
    (ax.set_xscale if axis is ax.xaxis else ax.set_yscale)("log")
    axis.set_major_formatter(FuncFormatter(label))
    axis.set_minor_formatter(FuncFormatter(label))


@styled_figure
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


@styled_figure
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
    scale_by_ratio(ax.xaxis, lambda n: f"{n / 1e6:g} M" if n >= 1e6 else f"{n / 1e3:g} k")
    ax.set(xlabel="parameters", ylabel="test accuracy")
    ax.margins(x=0.15, y=0.15)
    ax.yaxis.set_major_formatter(PERCENT)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
