import inspect
import itertools
import math
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import LogNorm, same_color
from matplotlib.figure import Figure

from cifarnb.models import LABELS
from cifarnb.report import display, figures
from cifarnb.report.figures import COLORS

HOSTILE = {  # what a matplotlibrc may say: some of it fails here, the rest shows
    "text.usetex": True,
    "font.size": 20,
    "font.family": "monospace",
    "axes.grid": False,
    "axes.xmargin": 0.4,
    "image.cmap": "gray",
    "image.origin": "lower",
    "figure.autolayout": True,
    "lines.marker": "x",
    "legend.loc": "center",
    "savefig.bbox": "tight",
    "savefig.transparent": True,
    "path.sketch": (1, 100, 2),
}

INF, NAN = math.inf, math.nan
LINE = np.array([-1.0, 0, 1])
BOWL = 0.5 + LINE[:, None] ** 2 + LINE**2 / 2
DRAWINGS = {  # every figure, drawn from few data
    "image_grid": lambda run, data: figures.image_grid(data.test_images, data.test_labels, data.classes, per_class=2),
    "class_balance": lambda run, data: figures.class_balance(data.train_labels, data.test_labels, data.classes),
    "augmentation": lambda run, data: figures.augmentation(
        data.train_images[:2], data.train_images.view(2, 128, 32, 32, 3)[:, :3]
    ),
    "loss_curves": lambda run, data: figures.loss_curves([run(), run(seed=1)]),
    "accuracy_curves": lambda run, data: figures.accuracy_curves([run(), run(seed=1)]),
    "compare_training": lambda run, data: figures.compare_training(
        {"vgg_a": [run("vgg_a")], "vgg_a_bn": [run("vgg_a_bn")]}
    ),
    "compare_curves": lambda run, data: figures.compare_curves({"A: $x$": [run(), run(seed=1)], "B": [run("resnet6")]}),
    "feature_maps": lambda run, data: figures.feature_maps(data.test_images[0], "cat", {"stem": torch.rand(8, 4, 4)}),
    "loss_landscape": lambda run, data: figures.loss_landscape({"vgg_a": (np.array([1.0, 2]), np.array([2.0, 3]))}),
    "loss_landscapes": lambda run, data: figures.loss_landscapes(
        {seed: {"vgg_a": (np.array([1.0, 2]), np.array([2.0, 3]))} for seed in (0, 1)}
    ),
    "accuracy_against_parameters": lambda run, data: figures.accuracy_against_parameters(
        [network("simple_cnn", 62_006, 0.5, 0.64)], [network("fast_cnn", 1_971_352, 0.9, None)]
    ),
    "probes": lambda run, data: figures.probes({"vgg_a": [probed()], "vgg_a_bn": [probed(), probed()]}),
    "rates": lambda run, data: figures.rates({"vgg_a": [run("vgg_a"), run("vgg_a", seed=1)], "resnet9": [run()]}),
    "loss_lines": lambda run, data: figures.loss_lines(LINE, {"vgg_a": np.ones((2, 3))}),
    "loss_surfaces": lambda run, data: figures.loss_surfaces(LINE, {"vgg_a": np.ones((3, 3)), "resnet9": BOWL}),
    "path_on_surface": lambda run, data: figures.path_on_surface(
        {"vgg_a": LINE}, {"vgg_a": LINE}, {"vgg_a": BOWL}, {"vgg_a": np.eye(2)}, {"vgg_a": (0.8, 0.1)}
    ),
    "gap": lambda run, data: figures.gap([rung("the first", None), rung("a second", 0.1)], 0.9),
}  # fmt: skip


def rung(name, gain):
    """What was tried, as ``summary.describe_well`` gives it; as much as a figure needs."""
    final = {"mean": 0.5, "ci95": None, "values": [0.5]}
    return {"name": name, "final_accuracy": final, "test_images": 64, "gain": gain}


def network(name, parameters, mean, reported):
    """The numbers of a network, as ``summary.describe_network`` gives them; as many as a figure needs."""
    final = mean and {"mean": mean, "ci95": None, "values": [mean]}
    numbers = {"name": name, "label": LABELS[name], "parameters": parameters}
    return numbers | {"final_accuracy": final, "reported_accuracy": reported}


def probed(learns_from=0, **columns):
    """A run with as much of its probes as a figure needs: by default two steps, 0 and 10."""
    steps = {"step": [0, 10], "loss": [2.0, 1], "loss_min": [1.0, 0.5], "loss_max": [3.0, 2]}
    steps |= {"change_min": [0.1, 0.2], "change_max": [1.0, 2], "beta": [5.0, 6]}
    return SimpleNamespace(probes=pd.DataFrame(steps | columns), learns_from=learns_from)


@pytest.mark.parametrize("name", DRAWINGS)
def test_what_the_users_matplotlibrc_says_changes_no_pixel(name, make_run, tiny_dataset, monkeypatch):
    monkeypatch.setattr(display, "DPI", 40)

    def pixels():
        torch.manual_seed(0)
        return display.figure_output(DRAWINGS[name](make_run, tiny_dataset), name, "", "")[0]["image/png"]

    usual = pixels()
    with mpl.rc_context(HOSTILE):
        assert pixels() == usual


def test_every_figure_is_tested():
    public = {name for name, f in inspect.getmembers(figures, inspect.isfunction) if f.__module__ == figures.__name__}
    assert {name for name in public if not name.startswith("_")} == set(DRAWINGS)


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_figure_is_returned_and_nothing_else_is_changed(name, make_run, tiny_dataset):
    before = dict(mpl.rcParams)
    figure = DRAWINGS[name](make_run, tiny_dataset)
    assert type(figure) is Figure
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []
    figure.draw_without_rendering()  # the layout works out without a warning
    assert figure.get_figwidth() == figures.WIDTH


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


def test_the_first_images_of_every_class_in_their_order():
    images = torch.arange(12, dtype=torch.uint8)[:, None, None, None].expand(-1, 32, 32, 3)
    labels = torch.tensor([0, 1, 2, 0, 1, 0, 0, 1, 0, 0, 0, 0])
    axes = figures.image_grid(images, labels, ["cat", "dog", "ship"], per_class=3).axes
    shown = [[int(image.get_array().max()) for image in ax.images] for ax in axes]
    assert shown == [[0], [3], [5], [1], [4], [7], [2], [], []]
    assert [text.get_text() for ax in axes for text in ax.texts] == ["cat", "dog", "ship"]


def test_the_bars_count_the_images_of_every_class(tiny_dataset):
    few = torch.tensor([3, 3, 5])  # classes without an image have a bar of height 0
    (ax,) = figures.class_balance(tiny_dataset.train_labels, few, tiny_dataset.classes).axes
    train, test = ([bar.get_height() for bar in bars] for bars in ax.containers)
    assert train == [sum(tiny_dataset.train_labels == label) for label in range(10)]
    assert test == [0, 0, 0, 2, 0, 1, 0, 0, 0, 0]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [*tiny_dataset.classes]


def test_augmented_images_stand_beside_their_original(tiny_dataset):
    originals, augmented = tiny_dataset.train_images[:2], tiny_dataset.train_images[2:8].view(2, 3, 32, 32, 3)
    axes = figures.augmentation(originals, augmented).axes
    expected = [originals[0], *augmented[0], originals[1], *augmented[1]]
    for ax, image in zip(axes, expected, strict=True):
        assert np.array_equal(ax.images[0].get_array(), image)


@pytest.mark.parametrize(("draw", "quantity"), [(figures.loss_curves, "loss"), (figures.accuracy_curves, "accuracy")])
def test_curves_are_the_means_over_the_seeds_and_bands_their_range(draw, quantity, make_run):
    runs = [
        make_run("resnet9", accuracies=[0.1, 0.5, 0.4], losses=[2.0, 1.0]),
        make_run("resnet9", accuracies=[0.3, 0.7, 0.8], losses=[2.0, 0.5], seed=1),
    ]
    (ax,) = draw(runs).axes
    for part, collection in zip(("train", "test"), ax.collections, strict=True):
        values = np.array([run.history[f"{part}_{quantity}"] for run in runs])
        line = labelled(ax)[part]
        assert points(line) == [(epoch + 1, pytest.approx(values[:, epoch].mean())) for epoch in range(3)]
        assert same_color(line.get_color(), COLORS["resnet9"])
        edges = {epoch + 1: pytest.approx((values[:, epoch].min(), values[:, epoch].max())) for epoch in range(3)}
        assert band(collection) == edges


def test_the_best_and_the_last_epoch_of_the_first_run_are_marked(make_run):
    runs = [make_run(accuracies=[0.1, 0.5, 0.5, 0.4]), make_run(accuracies=[0.9] * 4, seed=1)]
    lines = labelled(figures.accuracy_curves(runs).axes[0])
    assert points(lines["best epoch"]) == [(2, 0.5)]
    assert points(lines["last epoch"]) == [(4, 0.4)]
    assert not {"best epoch", "last epoch"} & set(labelled(figures.loss_curves(runs).axes[0]))


def test_one_run_has_no_band_and_a_long_one_no_dots(make_run):
    short, long = (figures.loss_curves([make_run(accuracies=[0.5] * n)]).axes[0] for n in (19, 20))
    assert not short.collections
    assert len(short.lines) == 2
    assert [line.get_marker() for line in short.lines] == ["o", "o"]
    assert [line.get_marker() for line in long.lines] == ["None", "None"]


def test_a_seed_that_stopped_early_counts_as_far_as_it_came(make_run):
    runs = [make_run(accuracies=[0.2, 0.4, 0.6]), make_run(accuracies=[0.4], losses=[2.0, NAN], seed=1)]
    (ax,) = figures.accuracy_curves(runs).axes
    assert points(labelled(ax)["test"]) == [(1, pytest.approx(0.3)), (2, 0.4), (3, 0.6)]


def test_two_networks_compared(make_run):
    runs = {
        "vgg_a": [make_run("vgg_a", accuracies=[0.1, 0.3], losses=[2.0, 1.5])],
        "vgg_a_bn": [make_run("vgg_a_bn", accuracies=[0.6, 0.5], losses=[2.0, 0.5])],
    }
    figure = figures.compare_training(runs)
    left, right = figure.axes
    for name, (run,) in runs.items():
        loss, accuracy = labelled(left)[LABELS[name]], labelled(right)[LABELS[name]]
        assert points(loss) == list(zip(run.history["epoch"], run.history["train_loss"], strict=True))
        assert points(accuracy) == list(zip(run.history["epoch"], run.history["test_accuracy"], strict=True))
        assert same_color(loss.get_color(), COLORS[name])
        assert same_color(accuracy.get_color(), COLORS[name])
    marks = {marker: [points(line) for line in right.lines if line.get_marker() == marker] for marker in "*s"}
    assert marks == {"*": [[(2, 0.3)], [(1, 0.6)]], "s": [[(2, 0.3)], [(2, 0.5)]]}
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(named) == sorted([LABELS["vgg_a"], LABELS["vgg_a_bn"], "best epoch", "last epoch"])


def test_feature_maps_are_the_first_channels_of_every_stage(tiny_dataset):
    maps = {"stem": torch.rand(6, 8, 8), "stage 1": torch.rand(9, 4, 4)}
    picture, *cells = figures.feature_maps(tiny_dataset.test_images[0], "a cat", maps, channels=5).axes
    assert np.array_equal(picture.images[0].get_array(), tiny_dataset.test_images[0])
    assert picture.get_title() == "a cat"
    for cell, activation in zip(cells, [*maps["stem"][:5], *maps["stage 1"][:5]], strict=True):
        assert np.array_equal(cell.images[0].get_array(), activation)
    assert [cell.get_title(loc="left") for cell in cells[::5]] == ["stem (6×8×8)", "stage 1 (9×4×4)"]


def test_the_band_of_the_landscape_is_the_envelope():
    envelopes = {
        "vgg_a": (np.array([1.0, 2, 1]), np.array([3.0, 4, 2])),
        "vgg_a_bn": (np.array([0.5, 0.25]), np.array([1.0, 0.5])),
    }
    figure = figures.loss_landscape(envelopes)
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
    (ax,) = figures.loss_landscape({"vgg_a": (low, high)}).axes
    assert ax.get_ylim() == pytest.approx((0, 2.2))


def test_a_band_without_an_upper_end_leaves_the_figure():
    low, high = np.array([1.0, 1.5, 1.0]), np.array([2.0, 3.0, INF])
    figure = figures.loss_landscape({"vgg_a": (low, high)})
    (ax,) = figure.axes
    figure.draw_without_rendering()
    assert np.isfinite(ax.get_ylim()).all()
    assert ax.lines[1].get_ydata().tolist() == [2, 3, 30]


def test_rates_that_all_diverged_from_the_first_step_on():
    nothing = np.full(3, INF)
    figure = figures.loss_landscape({"vgg_a": (nothing, nothing), "vgg_a_bn": (np.ones(3), np.full(3, 2.0))})
    figure.draw_without_rendering()
    assert figure.axes[0].get_ylim() == pytest.approx((0, 2.2))
    figures.loss_landscape({"vgg_a": (nothing, nothing)}).draw_without_rendering()


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
    figure = figures.probes(runs)
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
    figure = figures.probes(runs)
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
    figure = figures.loss_landscapes(by_seed, every=5)
    assert [ax.get_title() for ax in figure.axes] == ["seed 3", "seed 0"]
    for ax, envelopes in zip(figure.axes, by_seed.values(), strict=True):
        for (name, (low, high)), collection in zip(envelopes.items(), ax.collections, strict=True):
            assert band(collection) == {1: (low[0], high[0]), 6: (low[1], high[1])}
            assert same_color(collection.get_facecolor()[0][:3], COLORS[name])
        assert ax.get_ylim() == pytest.approx((0, 1.1 * np.quantile([3.0, 8], 0.995)))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [LABELS["vgg_a"], LABELS["vgg_a_bn"]]


def test_two_sides_are_told_apart_by_colour_and_line(make_run):
    figure = figures.compare_curves({"A": [make_run(accuracies=[0.2, 0.3])], "B": [make_run(accuracies=[0.4, 0.5])]})
    for ax, column in zip(figure.axes, ("train_loss", "test_accuracy"), strict=True):
        a, b = ax.lines
        assert a.get_color() != b.get_color()
        assert a.get_linestyle() != b.get_linestyle()
        if column == "test_accuracy":
            assert (a.get_ydata().tolist(), b.get_ydata().tolist()) == ([0.2, 0.3], [0.4, 0.5])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["A", "B"]


def test_single_peaks_do_not_flatten_the_walks():
    high = np.full(1000, 2.0)
    high[[10, 500]] = 100
    quiet = np.ones(1000)
    run = probed(**dict.fromkeys(probed().probes, quiet) | {"step": np.arange(1000), "loss_max": high})
    low, top = figures.probes({"vgg_a": [run]}).axes[0].get_ylim()
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
    figure = figures.probes({"vgg_a": [broken, other]})
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
        figure = figures.probes(runs)
        figure.draw_without_rendering()
        assert all(visible(ax) for ax in figure.axes)
    both = figures.probes({"vgg_a": [nothing], "vgg_a_bn": [probed()]}).axes[0]
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
    figure = figures.rates(runs)
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
    figure = figures.rates(runs)
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
    figure = figures.rates({"vgg_a": [ended("vgg_a", lr, 0.1, NAN, diverged=True) for lr in (0.1, 1)]})
    figure.draw_without_rendering()
    assert points(figure.axes[0].lines[1]) == [(0.1, 0.1), (1, 0.1)]


def test_lines_through_the_weights_and_their_mean():
    losses = {"vgg_a": np.array([[4.0, 1, 2], [2, 1, 6]]), "vgg_a_bn": np.array([[3.0, 0.5, INF]])}
    figure = figures.loss_lines(LINE, losses)
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
    figure = figures.loss_surfaces(grid, {"resnet9": steep, "vgg_a": np.full((21, 21), 0.25)})
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
    figure = figures.loss_surfaces(grid, {"resnet9": broken, "vgg_a": np.full((21, 21), 2.0)})
    figure.draw_without_rendering()
    left, _, _ = figure.axes
    top = figures._TOP_LOSS
    assert contours(left).levels[[0, -1]] == pytest.approx([1, top])
    for x in (-0.93, -0.03, 0.63):
        assert height(left, x, 0.01)[1] == pytest.approx(top)
        assert height(left, x, 0.87)[0] == pytest.approx(1, rel=0.02)
    assert height(left, -0.4, 0.01)[0] == pytest.approx(1, rel=0.02)  # between two of the edges


@pytest.mark.parametrize("value", [0.0, 1e-3, 3.0, 1e9, INF, NAN])
def test_a_flat_surface_is_drawn(value):
    figure = figures.loss_surfaces(LINE, {"vgg_a": np.full((3, 3), value)})
    figure.draw_without_rendering()
    levels = contours(figure.axes[0]).levels
    assert np.isfinite(levels).all()
    assert (np.diff(levels) > 0).all()


def test_the_path_of_training_lies_on_the_surface():
    xs, ys = np.linspace(-1, 9, 21), np.linspace(-2, 3, 11)
    both = {"vgg_a": (xs, ys), "vgg_a_bn": (10 * xs, 10 * ys)}
    heights = 1 + (xs[:, None] + 1) + 0 * ys  # (A, B)
    path = np.array([[8.0, 1], [4, 2.5], [0.5, 0]])
    figure = figures.path_on_surface(
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


def test_accuracy_stands_over_the_parameters_and_the_reported_one_as_a_ring():
    networks = [
        network("simple_cnn", 62_006, 0.5, 0.64),
        network("resnet6", 692_122, None, 0.7706),  # did not run
        network("vgg_a", 9_750_922, 0.75, None),  # not reported
    ]
    (ax,) = figures.accuracy_against_parameters(networks).axes
    drawn = [line for line in ax.lines if points(line)]
    rings = {points(line)[0]: line.get_color() for line in drawn if line.get_markerfacecolor() == "none"}
    dots = {points(line)[0]: line.get_color() for line in drawn if line.get_markerfacecolor() != "none"}
    assert dots == {(62_006, 0.5): COLORS["simple_cnn"], (9_750_922, 0.75): COLORS["vgg_a"]}
    assert rings == {(62_006, 0.64): COLORS["simple_cnn"], (692_122, 0.7706): COLORS["resnet6"]}
    assert ax.get_xscale() == "log"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["Simple CNN", "VGG-A", "reported"]


def test_what_is_reached_trained_well_is_a_diamond():
    networks = [network("resnet6", 692_122, 0.87, 0.7706), network("vgg_a_bn", 9_756_426, None, None)]
    trained = {"resnet6": (692_122, 0.93), "vgg_a_bn": (9_756_426, 0.92), "fast_cnn": (1_971_352, 0.94)}
    well = [network(name, *at, None) for name, at in trained.items()]
    (ax,) = figures.accuracy_against_parameters(networks, well).axes
    drawn = [line for line in ax.lines if line.get_marker() == "D" and points(line)]
    assert {points(line)[0]: line.get_color() for line in drawn} == {at: COLORS[name] for name, at in trained.items()}
    named = [t.get_text() for t in ax.get_legend().get_texts()]
    assert named == ["ResNet, 6 blocks", "VGG-A + BN", "Fast CNN", "reported", "trained well"]


def test_every_network_has_a_colour_of_its_own():
    assert [*COLORS] == [*LABELS]
    assert len(set(COLORS.values())) == len(LABELS)
    assert set(COLORS.values()) <= set(figures.PALETTE)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (2.2, 70, ["5", "10", "20", "50"]),
        (2.5, 8.5, ["3", "4", "5", "6", "7", "8"]),
        (0.05, 200, ["0.1", "1", "10", "100"]),
        (1, 5e6, ["1", "10", "100", "1000", "10000", "$10^{5}$", "$10^{6}$"]),
        (2e-5, 9e-5, ["2e-05", "5e-05"]),
    ],
)
def test_an_axis_by_ratios_has_plain_numbers(low, high, expected):
    figure = Figure()
    ax = figure.subplots()
    figures._scale_by_ratio(ax.yaxis)
    ax.set_ylim(low, high)
    figure.draw_without_rendering()
    labels = {(text.get_position()[1], text.get_text()) for text in ax.get_yticklabels(which="both")}
    assert [text for at, text in sorted(labels) if text and low <= at <= high] == expected


def test_what_captions_say_of_high_losses_is_what_is_drawn():
    (ax, _) = figures.loss_surfaces(LINE, {"vgg_a": BOWL**20}).axes
    highest = f"{contours(ax).levels.max():g}"
    assert f"Losses above {highest} are drawn as {highest}." == figures.CLIPPED
