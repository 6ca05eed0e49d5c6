"""The figure of section 1.5: numbers in, a matplotlib Figure out, as ``figures`` has the others."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter

from cifarnb.report.changes import side
from cifarnb.report.figures import PALETTE
from cifarnb.report.significance import signed
from cifarnb.report.style import styled_figure

NARROW = 6.2  # inches, less than the others: it is high anyway, and so its words stay larger on a phone
FAR = 0.15  # difference in accuracy beyond which a change is marked at the edge, so that it does not squeeze the others
_HALO = withStroke(linewidth=3, foreground="white")  # around a number that stands on its interval
_STYLES: dict[str, dict[str, Any]] = {  # by ``changes.side``
    "better": {"color": PALETTE[0], "marker": "o"},
    "worse": {"color": PALETTE[1], "marker": "s"},
    "no more than chance": {"color": "0.55", "marker": "o", "mfc": "white"},
    "not compared": {"color": "0.55", "marker": "x"},
}
_LABELS = {"better": "better than the base"}


@styled_figure
def differences(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """Every change's difference from the base with its interval, a group under the other, and what it costs.

    ``entries`` are those of ``changes.describe``, the base first; changes without a difference are left out.  Within a
    group they are sorted.
    """
    base, *changes = entries
    rows = _rows(base, changes)
    figure = Figure(figsize=(NARROW, 1.3 + 0.215 * len(rows)))
    ax, costs = figure.subplots(1, 2, sharey=True, width_ratios=[2.3, 1])
    left, right = _limits(entry for entry in rows if isinstance(entry, Mapping))
    ax.axvline(0, color="0.4", lw=1.2)
    ax.set(xlim=(left, right), ylim=(len(rows) - 0.4, -1.6))
    slowest = max((entry["seconds_per_epoch"]["mean"] for entry in rows if isinstance(entry, Mapping)), default=0.0)
    digits = 1 if slowest >= 10 else 2
    labels = []
    for row, entry in enumerate(rows):
        if isinstance(entry, str):
            ax.axhline(row - 0.55, color="0.85", lw=0.8)
            labels.append(entry)
            continue
        labels.append(entry["name"])
        if entry is not base:
            _draw(ax, row, entry)
        cells = f"{entry['parameters']:,}", f"{entry['seconds_per_epoch']['mean']:.{digits}f}"
        for at, cell in zip((0.5, 1.0), cells, strict=True):
            costs.text(at, row, cell, ha="right", va="center", fontsize="small")
    for at, heading in zip((0.5, 1.0), ("parameters", "s / epoch"), strict=True):
        costs.text(at, -1.1, heading, ha="right", va="center", fontsize="small", color="0.3")
    costs.axis("off")
    ax.set_yticks(range(len(rows)), labels, fontsize="small")
    for label, entry in zip(ax.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if isinstance(entry, str) else "normal")
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("difference in test accuracy from the base, points")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: signed(100 * share, "g") if share else "0"))
    seen = [name for name in _STYLES if name in {side(entry) for entry in changes if entry["difference"] is not None}]
    figure.legend(
        handles=[Line2D([], [], label=_LABELS.get(name, name), lw=2, **_STYLES[name]) for name in seen],
        loc="outside upper center",
        ncols=len(seen),
        columnspacing=1.2,
        handletextpad=0.5,
        fontsize="small",
    )
    return figure


def _rows(base: Mapping[str, Any], changes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any] | str]:
    """The base, then every group's name and its changes, the best first."""
    rows: list[Mapping[str, Any] | str] = [base] if base["runs"] else []
    for group in dict.fromkeys(change["group"] for change in changes):
        there = [c for c in changes if c["group"] == group and c["difference"] is not None]
        rows += [group, *sorted(there, key=lambda change: -change["difference"])] if there else []
    return rows


def _limits(entries: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
    """The ends of the axis: where the outermost interval ends, but no further than FAR, of those that are not far."""
    near = [entry for entry in entries if abs(entry["difference"] or 0.0) <= FAR]
    ends = [end for entry in near for end in (entry["difference"] or 0.0, *(entry["ci95"] or ()))]
    low, high = max(-FAR, min(ends, default=0.0)), min(FAR, max(ends, default=0.0))
    room = 0.06 * (high - low) or 0.01
    return low - room, high + room


def _draw(ax: Axes, row: int, entry: Mapping[str, Any]) -> None:
    """A change's mark and interval; one that is too far off stands at the edge with its number."""
    style, difference = _STYLES[side(entry)], entry["difference"]
    if entry["ci95"]:
        ax.plot(entry["ci95"], [row, row], color=style["color"], lw=2)
    if abs(difference) <= FAR:
        ax.plot(difference, row, ms=6, **style)
        return
    below = difference < 0
    left, right = ax.get_xlim()
    inwards = 0.015 * (right - left)
    edge = left + inwards if below else right - inwards
    ax.plot(edge, row, "<" if below else ">", color=style["color"], ms=8)
    ax.annotate(
        signed(100 * difference, ".1f"), (edge, row), xytext=(10 if below else -10, 0), textcoords="offset points",
        ha="left" if below else "right", va="center", fontsize="small", path_effects=[_HALO],
    )  # fmt: skip
