"""The figure of section 1.5 shows the differences that it is given."""

import matplotlib as mpl
import pytest
from matplotlib.colors import same_color
from matplotlib.figure import Figure

from cifarnb.report import change_figures


def entry(name, group="a", difference=None, ci95=None, *, seconds=2.0, runs=("x",)):
    """An entry of ``changes.describe``; as much of it as the figure needs."""
    cost = {"parameters": 62_006, "seconds_per_epoch": {"mean": seconds}}
    return {"name": name, "group": group, "difference": difference, "ci95": ci95, "runs": [*runs], **cost}


BASE = entry("base", "base")
ENTRIES = [
    BASE,
    entry("unclear", "a", 0.01, [-0.01, 0.03]),
    entry("better", "a", 0.04, [0.02, 0.06]),
    entry("alone", "a", -0.02),
    entry("far", "b", -0.5, [-0.52, -0.48], seconds=12.0),
    entry("worse", "b", -0.03, [-0.05, -0.01]),
    entry("missing", "b", runs=()),
    entry("missing, too", "c", runs=()),
]


def rows(figure):
    """Row → its label, and the lines of the panel."""
    ax, _ = figure.axes
    labels = {round(at): label.get_text() for at, label in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)}
    return labels, [line for line in ax.lines if len(line.get_ydata()) and float(line.get_ydata()[0]).is_integer()]


@pytest.mark.parametrize("entries", [ENTRIES, [BASE], [entry("base", "base", runs=())], ENTRIES[:5]])
def test_a_figure_is_returned_and_nothing_else_is_changed(entries):
    before = dict(mpl.rcParams)
    figure = change_figures.differences(entries)
    assert type(figure) is Figure
    assert dict(mpl.rcParams) == before
    figure.savefig("/dev/null", format="png", dpi=20)  # what only drawing finds, and warnings are errors


def test_every_group_is_sorted_and_what_did_not_run_is_left_out():
    labels, _ = rows(change_figures.differences(ENTRIES))
    assert list(labels.values()) == ["base", "a", "better", "unclear", "alone", "b", "worse", "far"]


def test_a_change_is_drawn_with_its_interval_in_the_style_of_where_that_lies():
    figure = change_figures.differences(ENTRIES)
    labels, lines = rows(figure)
    drawn = {}
    for line in lines:
        name = labels[round(float(line.get_ydata()[0]))]
        drawn.setdefault(name, []).append(line)
    for given in ENTRIES[1:6]:
        *interval, mark = drawn[given["name"]]
        assert [[*line.get_xdata()] for line in interval] == ([given["ci95"]] if given["ci95"] else [])
        if given["name"] != "far":
            assert [*mark.get_xdata()] == [given["difference"]]
    colors = {name: same[-1].get_color() for name, same in drawn.items()}
    assert not same_color(colors["better"], colors["worse"])
    assert same_color(colors["worse"], colors["far"])
    marks = {name: (same[-1].get_marker(), same[-1].get_markerfacecolor()) for name, same in drawn.items()}
    assert marks["better"][1] != "white"
    assert marks["unclear"] == ("o", "white")
    assert marks["alone"][0] == "x"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["better than the base", "worse", "no more than chance", "not compared"]


def test_what_is_far_off_squeezes_nothing_and_stands_at_the_edge_with_its_number():
    figure = change_figures.differences(ENTRIES)
    ax, _ = figure.axes
    low, high = ax.get_xlim()
    assert -0.065 < low < -0.05
    assert 0.06 < high < 0.075
    labels, lines = rows(figure)
    (mark,) = [line for line in lines if line.get_marker() == "<"]
    assert low < mark.get_xdata()[0] < low + 0.01
    assert labels[round(mark.get_ydata()[0])] == "far"
    assert [text.get_text() for text in ax.texts] == ["−50.0"]


def test_parameters_and_time_stand_beside_each_in_columns():
    figure = change_figures.differences(ENTRIES)
    labels, _ = rows(figure)
    cells = {}
    for text in figure.axes[1].texts:
        x, y = text.get_position()
        cells.setdefault(y, {})[x] = text.get_text()
    heading, *below = [cells[y] for y in sorted(cells)]
    assert [*heading.values()] == ["parameters", "s / epoch"]
    named = [name for name in labels.values() if name not in "abc"]
    assert [[*row.values()] for row in below] == [["62,006", "12.0" if name == "far" else "2.0"] for name in named]
    assert all([*row] == [*heading] for row in below)
