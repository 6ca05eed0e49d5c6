"""The figures of what trained networks see: arrays in, a matplotlib Figure out, as ``figures`` has the others."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cifarnb.models import LABELS
from cifarnb.report.figures import COLORS, WIDTH
from cifarnb.report.style import PERCENT, styled_figure

FILTERS_A_ROW = 16
TITLE = 0.45  # room above a picture for what stands there, in pictures
UNITS = {  # of what is done to images: what the axis says
    "shift": "pixels to the right",
    "noise": "standard deviation of the noise, of 255",
    "blur": "standard deviation of the blur, pixels",
    "contrast": "contrast taken away",
}
_BY_CLASS = mpl.colormaps["tab10"]


@styled_figure
def first_filters(filters: Mapping[str, np.ndarray]) -> Figure:
    """The filters of every network's first layer as small colour pictures, grey for 0; network → (F, 3, k, k)."""
    rows = {name: -(-len(found) // FILTERS_A_ROW) for name, found in filters.items()}
    tile = WIDTH / FILTERS_A_ROW
    figure = Figure(figsize=(WIDTH, sum(tile * count + 0.35 for count in rows.values())))
    axes = figure.subplots(len(filters), 1, squeeze=False, height_ratios=[*rows.values()])[:, 0]
    for ax, (name, found) in zip(axes, filters.items(), strict=True):
        scale = np.abs(found).max(axis=(1, 2, 3), keepdims=True)
        pictures = (0.5 + 0.5 * found / np.where(scale > 0, scale, 1)).transpose(0, 2, 3, 1)
        _draw_pictures(ax, list(pictures), FILTERS_A_ROW, gap=0.12)
        ax.set_title(
            f"{LABELS[name]}: {len(found)} filters of {found.shape[2]}×{found.shape[3]}", fontsize="small", loc="left"
        )
    return figure


def _draw_pictures(
    ax: Axes, pictures: Sequence[np.ndarray], columns: int, titles: Sequence[str] = (), gap: float = 0.06
) -> None:
    """Pictures (h, w, 3), row by row, each a unit wide, titles above; in one axes: many take ten times as long."""
    room = TITLE if titles else 0.0
    for number, picture in enumerate(pictures):
        left, top = number % columns, (number // columns) * (1 + room) + room
        ax.imshow(picture, extent=(left, left + 1 - gap, top + 1 - gap, top), interpolation="nearest")
        if titles:
            ax.text(left, top - 0.05, titles[number], fontsize="xx-small", va="bottom", linespacing=0.95)
    rows = -(-len(pictures) // columns)
    ax.set(xlim=(0, columns), ylim=(rows * (1 + room), 0), aspect="equal")
    ax.axis("off")


@styled_figure
def attributions(images: np.ndarray, titles: Sequence[str], grad_cam: np.ndarray, occlusion: np.ndarray) -> Figure:
    """Images (N, 32, 32, 3) uint8, and under each what speaks for its class, by Grad-CAM and by occlusion.

    grad_cam (N, 32, 32) is 0 to 1, occlusion (N, 32, 32) −1 to 1: red is what the class lives by, blue what is against.
    """
    grey = images.astype(float).mean(axis=3, keepdims=True) / 255
    warm = mpl.colormaps["inferno"](grad_cam.astype(float))[..., :3]
    sides = mpl.colormaps["RdBu_r"](0.5 + occlusion.astype(float) / 2)[..., :3]
    rows = {"image": images / 255, "Grad-CAM": 0.4 * grey + 0.6 * warm, "occlusion": 0.35 * grey + 0.65 * sides}
    columns = max(8, len(images))
    figure = Figure(figsize=(WIDTH, WIDTH * (3 + TITLE) / (columns + 0.5)))
    upper, *lower = figure.subplots(3, 1, height_ratios=[1 + TITLE, 1, 1])
    for ax, (name, pictures) in zip([upper, *lower], rows.items(), strict=True):
        _draw_pictures(ax, list(pictures), columns, titles if ax is upper else ())
        middle = TITLE + 0.5 if ax is upper else 0.5
        ax.text(-0.08, middle, name, fontsize="small", rotation=90, ha="right", va="center")
    return figure


@styled_figure
def gallery(images: np.ndarray, titles: Sequence[str], columns: int = 8) -> Figure:
    """Images (N, 32, 32, 3) uint8 with a title each, row by row."""
    rows = max(1, -(-len(images) // columns))
    figure = Figure(figsize=(WIDTH, WIDTH * rows * (1 + TITLE) / columns))
    _draw_pictures(figure.subplots(), list(images), columns, titles)
    return figure


@styled_figure
def confusion_matrices(confusions: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """Which share of each class (row) is taken for which (column), in per cent from 1 on; network → counts (10, 10)."""
    figure, panels = _panels(len(confusions), height=3.7, square=True)
    for ax, (name, counts) in zip(panels, confusions.items(), strict=True):
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        ax.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)  # of the root, which tells 1 % from 5 %
        for row, column in np.argwhere(shares >= 0.01):
            dark = "white" if shares[row, column] > 0.35 else "0.15"
            ax.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", fontsize=6, color=dark)
        ax.set_title(LABELS[name])
        ax.set_xticks(range(len(classes)), classes, rotation=90, fontsize="x-small")
        ax.set_yticks(range(len(classes)), classes, fontsize="x-small")
        ax.grid(visible=False)
    return figure


def _panels(number: int, height: float, *, square: bool = False) -> tuple[Figure, list[Axes]]:
    """A panel for each of so many networks, two a row where they are square and large, else beside each other."""
    columns = min(number, 2) if square else number
    rows = -(-number // columns)
    figure = Figure(figsize=(WIDTH, height * rows))
    axes = figure.subplots(rows, columns, squeeze=False, sharey=not square).ravel().tolist()
    for ax in axes[number:]:
        ax.axis("off")
    return figure, axes[:number]


@styled_figure
def class_accuracy(accuracies: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """The share of each class that is right, a colour a network; network → (10,)."""
    figure = Figure(figsize=(WIDTH, 3.2))
    ax = figure.subplots()
    for name, shares in accuracies.items():
        ax.plot(range(len(classes)), shares, "o", color=COLORS[name], label=LABELS[name], ms=7, alpha=0.85)
    ax.set_xticks(range(len(classes)), classes, rotation=30)
    ax.set(ylabel="accuracy", ylim=(None, 1.02))
    ax.yaxis.set_major_formatter(PERCENT)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


@styled_figure
def reliability(diagrams: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]) -> Figure:
    """Accuracy over confidence; network → what it is of → mean confidence and share right of each bin, (bins,) each.

    The grey line is where the two are equal; bins in which no image is are left out.
    """
    figure, panels = _panels(len(diagrams), height=2.9)
    lines: list[Any] = ["--", "-"]
    for ax, (name, curves) in zip(panels, diagrams.items(), strict=True):
        ax.plot([0, 1], [0, 1], color="0.7", lw=1)
        for line, (words, (means, shares)) in zip(lines, curves.items(), strict=False):
            there = np.isfinite(means)
            ax.plot(means[there], shares[there], line, color=COLORS[name], marker="o", ms=3, label=words)
        ax.set(xlabel="confidence", xlim=(0, 1), ylim=(0, 1.02))
        ax.set_title(LABELS[name], fontsize="medium")
        ax.xaxis.set_major_formatter(PERCENT)
        ax.yaxis.set_major_formatter(PERCENT)
        ax.tick_params(axis="x", labelsize="x-small")
    panels[0].set_ylabel("accuracy")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, handlelength=3.5)
    return figure


@styled_figure
def planes(points: Mapping[str, np.ndarray], labels: np.ndarray, classes: Sequence[str]) -> Figure:
    """The penultimate features in the plane, a colour a class; network → (M, 2); labels (M,)."""
    figure, panels = _panels(len(points), height=3.2)
    for ax, (name, xy) in zip(panels, points.items(), strict=True):
        for number, word in enumerate(classes):
            chosen = xy[labels == number]
            ax.scatter(chosen[:, 0], chosen[:, 1], s=5, color=_BY_CLASS(number), label=word, linewidths=0)
        ax.set_title(LABELS[name], fontsize="medium")
        ax.set(xticks=[], yticks=[])
    handles, words = panels[0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside lower center", ncols=5, markerscale=3, fontsize="small")
    return figure


@styled_figure
def robustness(strengths: Mapping[str, Sequence[float]], accuracies: Mapping[str, np.ndarray]) -> Figure:
    """Accuracy over the strength of what is done to the images, a panel a kind.

    Kind → strengths (S,) without 0; network → accuracies (kinds, 1 + S), the first that of the images as they are.
    """
    figure = Figure(figsize=(WIDTH, 4.8))
    panels = figure.subplots(2, 2, sharey=True).ravel()
    for row, (ax, (kind, steps)) in enumerate(zip(panels, strengths.items(), strict=True)):
        for name, shares in accuracies.items():
            ax.plot([0, *steps], shares[row], color=COLORS[name], label=LABELS[name], marker="o", ms=3.5)
        ax.axhline(0.1, color="0.6", lw=1, ls=":")
        ax.set(xlabel=UNITS[kind], title=kind, ylim=(0, 1))
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.yaxis.set_major_formatter(PERCENT)
    for ax in panels[::2]:
        ax.set_ylabel("accuracy")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure
