import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from drawn import BOWL, LINE, band, labelled, points, probed
from matplotlib.colors import LogNorm, same_color

from cifarnb.models import LABELS
from cifarnb.report import norm_figures
from cifarnb.report.figures import COLORS

INF, NAN = math.inf, math.nan


def test_the_band_of_the_landscape_is_the_envelope():
    envelopes = {
        "vgg_a": (np.array([1.0, 2, 1]), np.array([3.0, 4, 2])),
        "vgg_a_bn": (np.array([0.5, 0.25]), np.array([1.0, 0.5])),
    }
    figure = norm_figures.loss_landscape(envelopes)
    (ax,) = figure.axes
    assert ax.get_legend() is None  # which would lie on the bands
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [LABELS[name] for name in envelopes]
    for (name, edges), collection in zip(envelopes.items(), ax.collections, strict=True):
        assert band(collection) == dict(enumerate(zip(*edges, strict=True), start=1))
        assert collection.get_label() == LABELS[name]
        assert same_color(collection.get_facecolor()[0][:3], COLORS[name])
    assert [line.get_ydata().tolist() for line in ax.lines] == [[1, 2, 1], [3, 4, 2], [0.5, 0.25], [1, 0.5]]


def test_single_peaks_do_not_flatten_the_landscape():
    low, high = np.ones(1000), np.full(1000, 2.0)
    high[[10, 500]] = 100
    (ax,) = norm_figures.loss_landscape({"vgg_a": (low, high)}).axes
    assert ax.get_ylim() == pytest.approx((0, 2.2))


def test_a_band_without_an_upper_end_leaves_the_figure():
    low, high = np.array([1.0, 1.5, 1.0]), np.array([2.0, 3.0, INF])
    figure = norm_figures.loss_landscape({"vgg_a": (low, high)})
    (ax,) = figure.axes
    figure.draw_without_rendering()
    assert np.isfinite(ax.get_ylim()).all()
    assert ax.lines[1].get_ydata().tolist() == [2, 3, 30]


def test_rates_that_all_diverged_from_the_first_step_on():
    nothing = np.full(3, INF)
    figure = norm_figures.loss_landscape({"vgg_a": (nothing, nothing), "vgg_a_bn": (np.ones(3), np.full(3, 2.0))})
    figure.draw_without_rendering()
    assert figure.axes[0].get_ylim() == pytest.approx((0, 2.2))
    norm_figures.loss_landscape({"vgg_a": (nothing, nothing)}).draw_without_rendering()


def visible(ax):
    """The range of the axis is drawn: finite and more than a point."""
    low, high = ax.get_ylim()
    return math.isfinite(low) and math.isfinite(high) and low < high


COLUMNS = ["loss", "loss_min", "loss_max", "change_min", "change_max"]


def test_walks_are_the_bands_of_the_first_run_and_the_median_smoothness():
    runs = {
        "vgg_a": [probed()],
        "vgg_a_bn": [probed(beta=[1.0, 9]), probed(beta=[2.0, 4], loss_max=[9.0, 9]), probed(beta=[7.0, 5])],
    }
    figure = norm_figures.probes(runs)
    losses, changes, smoothness = figure.axes
    for ax, expected in ((losses, {0: (1, 3), 10: (0.5, 2)}), (changes, {0: (0.1, 1), 10: (0.2, 2)})):
        for name, collection in zip(runs, ax.collections, strict=True):
            assert band(collection) == expected
            assert same_color(collection.get_facecolor()[0][:3], COLORS[name])
    plain, normed, *single = smoothness.lines
    assert points(plain) == [(0, 5), (10, 6)]
    assert points(normed) == [(0, 2), (10, 5)]
    assert [points(line) for line in single] == [[(0, 1), (10, 9)], [(0, 2), (10, 4)], [(0, 7), (10, 5)]]
    assert all(line.get_linewidth() < normed.get_linewidth() for line in single)
    colors = [line.get_color() for line in smoothness.lines]
    assert all(map(same_color, colors, [COLORS["vgg_a"]] + [COLORS["vgg_a_bn"]] * 4))
    assert [ax.get_yscale() for ax in figure.axes] == ["log", "log", "log"]
    labels = ["loss on the walk", "change of the gradient", "effective β"]
    assert [ax.get_ylabel() for ax in figure.axes] == labels
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "", "step"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [LABELS[name] for name in runs]
    assert [ax.get_legend() for ax in figure.axes] == [None, None, None]


@pytest.mark.parametrize(
    ("plain", "normed", "until"), [(10, 3, 10), (3, 10, 10), (0, 4, 4), (0, 0, None), (None, 0, 20), (7, None, 20)]
)
def test_the_steps_before_both_networks_learn_are_marked(plain, normed, until):
    columns = dict.fromkeys([*COLUMNS, "beta"], [1.0] * 3) | {"step": [0, 10, 20]}
    other_seed = probed(learns_from=15, **columns)  # the bands are the first run's, and so is the mark
    runs = {
        "vgg_a": [probed(learns_from=plain, **columns), other_seed],
        "vgg_a_bn": [probed(learns_from=normed, **columns), other_seed],
    }
    figure = norm_figures.probes(runs)
    for ax in figure.axes:
        marks = [(mark.get_x(), mark.get_x() + mark.get_width()) for mark in ax.patches]
        assert marks == ([] if until is None else [(0, until)])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert ("before both learn" in legend) == (until is not None)


def test_the_landscape_of_every_seed_has_a_panel_of_its_own():
    by_seed = {
        3: {"vgg_a": (np.array([1.0, 2]), np.array([3.0, 8])), "vgg_a_bn": (np.ones(2), np.full(2, 2.0))},
        0: {"vgg_a": (np.array([1.0, 1]), np.array([2.0, 2])), "vgg_a_bn": (np.ones(2), np.full(2, 4.0))},
    }
    figure = norm_figures.loss_landscapes(by_seed, every=5)
    assert [ax.get_title() for ax in figure.axes] == ["seed 3", "seed 0"]
    for ax, envelopes in zip(figure.axes, by_seed.values(), strict=True):
        for (name, (low, high)), collection in zip(envelopes.items(), ax.collections, strict=True):
            assert band(collection) == {1: (low[0], high[0]), 6: (low[1], high[1])}
            assert same_color(collection.get_facecolor()[0][:3], COLORS[name])
        assert ax.get_ylim() == pytest.approx((0, 1.1 * np.quantile([3.0, 8], 0.995)))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [LABELS["vgg_a"], LABELS["vgg_a_bn"]]


def test_single_peaks_do_not_flatten_the_walks():
    high = np.full(1000, 2.0)
    high[[10, 500]] = 100
    quiet = np.ones(1000)
    run = probed(**dict.fromkeys(probed().probes, quiet) | {"step": np.arange(1000), "loss_max": high})
    low, top = norm_figures.probes({"vgg_a": [run]}).axes[0].get_ylim()
    assert 0.5 < low < 1
    assert top == pytest.approx(2.2)


def test_walks_that_are_not_finite_are_left_out():
    broken = probed(
        step=[0, 10, 20, 30],
        loss=[1.0, INF, NAN, 1],
        loss_min=[1.0, 1, NAN, 1],
        loss_max=[2.0, INF, NAN, 2],
        change_min=[1.0, INF, NAN, 1],
        change_max=[2.0, INF, NAN, 4],
        beta=[3.0, INF, NAN, 3],
    )
    other = probed(step=[0, 10, 20, 30], beta=[5.0, 7, NAN, 5], **dict.fromkeys(COLUMNS, [1.0] * 4))
    figure = norm_figures.probes({"vgg_a": [broken, other]})
    figure.draw_without_rendering()
    losses, changes, smoothness = figure.axes
    assert losses.get_ylim()[0] < 1
    assert losses.get_ylim()[1] == pytest.approx(2.2)
    assert losses.lines[1].get_ydata().tolist() == [2, 20, 20, 2]  # out of the axis and back
    np.testing.assert_equal(changes.lines[1].get_ydata(), [2, NAN, NAN, 4])
    np.testing.assert_equal(smoothness.lines[0].get_ydata(), [4, 7, NAN, 4])
    assert 0.5 < changes.get_ylim()[0] < 1 < 4 < changes.get_ylim()[1] < 8


def test_walks_of_a_run_that_diverged_from_the_first_step_on():
    nothing = probed(**{column: [INF, NAN] for column in [*COLUMNS, "beta"]})
    for runs in ({"vgg_a": [nothing, nothing], "vgg_a_bn": [probed()]}, {"vgg_a": [nothing]}):
        figure = norm_figures.probes(runs)
        figure.draw_without_rendering()
        assert all(visible(ax) for ax in figure.axes)
    both = norm_figures.probes({"vgg_a": [nothing], "vgg_a_bn": [probed()]}).axes[0]
    assert both.get_ylim()[0] < 0.5
    assert both.get_ylim()[1] == pytest.approx(1.1 * np.quantile([2, 3], 0.995))


def ended(model, lr, accuracy, loss, diverged=False):
    """A run with as much as ``rates`` needs."""
    return SimpleNamespace(
        config=SimpleNamespace(model=model, lr=lr),
        history=pd.DataFrame({"test_accuracy": [0.1, accuracy], "train_loss": [9.0, loss]}),
        final_accuracy=accuracy,
        diverged=diverged,
    )


def test_accuracy_and_loss_over_the_learning_rates():
    runs = {
        "vgg_a": [ended("vgg_a", 0.1, 0.5, 1.0), ended("vgg_a", 0.01, 0.25, 2.0)],  # drawn in the order of the rates
        "vgg_a_bn": [ended("vgg_a_bn", 0.1, a, b) for a, b in ((0.5, 0.25), (0.75, 0.75), (0.625, 0.5))],
    }
    figure = norm_figures.rates(runs)
    left, right = figure.axes
    for ax, expected in ((left, [(0.01, 0.25), (0.1, 0.5)]), (right, [(0.01, 2), (0.1, 1)])):
        lines = labelled(ax)
        assert [*lines] == [LABELS[name] for name in runs]
        assert points(lines["VGG-A"]) == expected
        assert same_color(lines["VGG-A"].get_color(), COLORS["vgg_a"])
        assert ax.get_xscale() == "log"
        assert ax.get_xlabel() == "learning rate"
        assert len(ax.collections) == 1  # one seed has no band
        assert same_color(ax.collections[0].get_facecolor()[0][:3], COLORS["vgg_a_bn"])
    assert points(labelled(left)["VGG-A + BN"]) == [(0.1, 0.625)]
    assert points(labelled(right)["VGG-A + BN"]) == [(0.1, 0.5)]
    assert band(left.collections[0]) == {0.1: (0.5, 0.75)}
    assert band(right.collections[0]) == {0.1: (0.25, 0.75)}
    assert (left.get_yscale(), right.get_yscale()) == ("linear", "log")
    assert (left.get_ylabel(), right.get_ylabel()) == ("test accuracy", "training loss")
    assert left.yaxis.get_major_formatter()(0.5, 0) == "50%"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["VGG-A", "VGG-A + BN"]


def test_runs_that_diverged_are_crosses_and_not_in_the_mean():
    runs = {
        "vgg_a": [
            ended("vgg_a", 0.1, 0.5, 1.0),
            ended("vgg_a", 0.1, 0.125, NAN, diverged=True),
            ended("vgg_a", 1.0, 0.0625, INF),
        ],
        "vgg_a_bn": [ended("vgg_a_bn", 1.0, 0.0625, 3.0, diverged=True)],
        "resnet9": [ended("resnet9", 1.0, 0.75, 0.5)],
    }
    figure = norm_figures.rates(runs)
    figure.draw_without_rendering()
    left, right = figure.axes
    for ax, at in ((left, [[(0.1, 0.125), (1, 0.0625)], [(1, 0.0625)]]), (right, [[(0.1, 1), (1, 1)], [(1, 1)]])):
        crosses = [line for line in ax.lines if line.get_marker() == "x" and points(line)]
        assert [points(line) for line in crosses] == at
        assert all(map(same_color, [line.get_color() for line in crosses], [COLORS["vgg_a"], COLORS["vgg_a_bn"]]))
        assert crosses[0].get_markersize() > crosses[1].get_markersize()  # the lower one is seen behind the upper
        assert points(labelled(ax)["VGG-A + BN"]) == []
        assert not ax.collections
        assert visible(ax)
    assert points(labelled(left)["VGG-A"]) == [(0.1, 0.5)]
    assert points(labelled(right)["VGG-A"]) == [(0.1, 1)]
    for cross in [line for line in right.lines if line.get_marker() == "x"]:
        pixels = cross.get_transform().transform(cross.get_xydata())[:, 1]
        assert pixels == pytest.approx(right.bbox.y1)  # the upper edge
        assert not cross.get_clip_on()
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [*(LABELS[name] for name in runs), "diverged"]


def test_rates_that_all_diverged():
    figure = norm_figures.rates({"vgg_a": [ended("vgg_a", lr, 0.1, NAN, diverged=True) for lr in (0.1, 1)]})
    figure.draw_without_rendering()
    assert points(figure.axes[0].lines[1]) == [(0.1, 0.1), (1, 0.1)]


def test_lines_through_the_weights_and_their_mean():
    losses = {"vgg_a": np.array([[4.0, 1, 2], [2, 1, 6]]), "vgg_a_bn": np.array([[3.0, 0.5, INF]])}
    figure = norm_figures.loss_lines(LINE, losses)
    (ax,) = figure.axes
    figure.draw_without_rendering()
    drawn = [[4, 1, 2], [2, 1, 6], [3, 1, 4], [3, 0.5, INF], [3, 0.5, INF]]
    assert [line.get_ydata().tolist() for line in ax.lines] == drawn
    assert all(line.get_xdata().tolist() == [-1, 0, 1] for line in ax.lines)
    assert all(same_color(line.get_color(), COLORS["vgg_a"]) for line in ax.lines[:3])
    assert all(same_color(line.get_color(), COLORS["vgg_a_bn"]) for line in ax.lines[3:])
    strong = labelled(ax)
    assert {label: points(line)[0] for label, line in strong.items()} == {"VGG-A": (-1, 3), "VGG-A + BN": (-1, 3)}
    assert ax.lines[0].get_linewidth() < strong["VGG-A"].get_linewidth()
    assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "log")
    assert ax.get_xlabel() == "distance from the trained weights, in units of the filters' norms"
    assert ax.get_ylabel() == "loss"
    assert ax.get_ylim()[1] < 10
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["VGG-A", "VGG-A + BN"]


def contours(ax):
    (filled,) = ax.collections
    return filled


def height(ax, x, y):
    """The levels between which the surface at (x, y) is drawn."""
    filled = contours(ax)
    inside = [i for i, path in enumerate(filled.get_paths()) if path.contains_point((x, y))]
    return filled.levels[inside[-1]], filled.levels[inside[-1] + 1]


def test_surfaces_share_their_levels_and_their_bar():
    grid = np.linspace(-1, 1, 21)
    steep = 0.5 + 3 * (grid[:, None] + 1) + 0 * grid  # rises along x alone
    figure = norm_figures.loss_surfaces(grid, {"resnet9": steep, "vgg_a": np.full((21, 21), 0.25)})
    figure.draw_without_rendering()
    left, right, bar = figure.axes
    for ax, name in ((left, "resnet9"), (right, "vgg_a")):
        filled = contours(ax)
        assert filled.levels == pytest.approx(np.geomspace(0.25, 6.5, 25))
        assert isinstance(filled.norm, LogNorm)
        assert (filled.norm.vmin, filled.norm.vmax) == pytest.approx((0.25, 6.5))
        assert filled.get_cmap().name == "viridis"
        assert ax.get_title() == LABELS[name]
        assert ax.get_aspect() == 1
        assert ax.get_xlim() == ax.get_ylim() == (-1, 1)
        (star,) = ax.lines
        assert (points(star), star.get_marker(), star.get_color()) == ([(0, 0)], "*", "white")
    for x, y in ((-0.83, 0.53), (0.07, -0.33), (0.93, 0.03)):
        low, high = height(left, x, y)
        assert low <= 0.5 + 3 * (x + 1) <= high
    assert bar.get_ylabel() == "loss"
    texts = [text.get_text() for text in bar.get_yticklabels()]
    assert {"0.5", "1", "2", "5"} <= set(texts)


def test_what_is_not_finite_or_huge_is_the_top_of_a_surface():
    grid = np.linspace(-1, 1, 21)
    broken = np.full((21, 21), 1.0)
    for edge, value in enumerate((NAN, INF, 1e20)):
        broken[7 * edge : 7 * edge + 6] = value
    broken[:, 17:] = 0.0  # no logarithm
    figure = norm_figures.loss_surfaces(grid, {"resnet9": broken, "vgg_a": np.full((21, 21), 2.0)})
    figure.draw_without_rendering()
    left, _, _ = figure.axes
    top = norm_figures._TOP_LOSS
    assert contours(left).levels[[0, -1]] == pytest.approx([1, top])
    for x in (-0.93, -0.03, 0.63):
        assert height(left, x, 0.01)[1] == pytest.approx(top)
        assert height(left, x, 0.87)[0] == pytest.approx(1, rel=0.02)
    assert height(left, -0.4, 0.01)[0] == pytest.approx(1, rel=0.02)  # between two of the edges


@pytest.mark.parametrize("value", [0.0, 1e-3, 3.0, 1e9, INF, NAN])
def test_a_flat_surface_is_drawn(value):
    figure = norm_figures.loss_surfaces(LINE, {"vgg_a": np.full((3, 3), value)})
    figure.draw_without_rendering()
    levels = contours(figure.axes[0]).levels
    assert np.isfinite(levels).all()
    assert (np.diff(levels) > 0).all()


def test_the_path_of_training_lies_on_the_surface():
    xs, ys = np.linspace(-1, 9, 21), np.linspace(-2, 3, 11)
    both = {"vgg_a": (xs, ys), "vgg_a_bn": (10 * xs, 10 * ys)}
    heights = 1 + (xs[:, None] + 1) + 0 * ys  # (A, B)
    path = np.array([[8.0, 1], [4, 2.5], [0.5, 0]])
    figure = norm_figures.path_on_surface(
        {name: x for name, (x, _) in both.items()},
        {name: y for name, (_, y) in both.items()},
        {"vgg_a": heights, "vgg_a_bn": heights / 2},
        {"vgg_a": path, "vgg_a_bn": 10 * path},
        {"vgg_a": (0.834, 0.091), "vgg_a_bn": (0.5, 0.25)},
    )
    figure.draw_without_rendering()
    left, right, bar = figure.axes
    for ax, name, scale in ((left, "vgg_a", 1), (right, "vgg_a_bn", 10)):
        way, star = ax.lines
        assert points(way) == [tuple(point) for point in scale * path]
        assert (way.get_linestyle(), way.get_marker()) == ("-", "o")
        assert (points(star), star.get_marker()) == ([(0.5 * scale, 0)], "*")
        assert ax.get_xlim() == (-scale, 9 * scale)
        assert ax.get_ylim() == (-2 * scale, 3 * scale)
        assert ax.get_aspect() == "auto"
        assert ax.get_title() == LABELS[name]
        assert contours(ax).levels == pytest.approx(np.geomspace(0.5, 11, 25))
    low, high = height(left, 6.2, 0.3)
    assert low <= 8.2 <= high
    low, high = height(right, 62, 3)
    assert low <= 4.1 <= high
    assert left.get_xlabel() == "1st principal direction\n(83% of the variance)"
    assert left.get_ylabel() == "2nd principal direction\n(9% of the variance)"
    assert right.get_ylabel() == "2nd principal direction\n(25% of the variance)"
    assert bar.get_ylabel() == "loss"


def test_what_captions_say_of_high_losses_is_what_is_drawn():
    (ax, _) = norm_figures.loss_surfaces(LINE, {"vgg_a": BOWL**20}).axes
    highest = f"{contours(ax).levels.max():g}"
    assert f"Losses above {highest} are drawn as {highest}." == norm_figures.CLIPPED
