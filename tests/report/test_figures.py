import inspect
import math

import matplotlib as mpl
import numpy as np
import pytest
import torch
from drawn import BOWL, LINE, band, labelled, points, probed
from matplotlib import pyplot as plt
from matplotlib.colors import same_color
from matplotlib.figure import Figure

from cifarnb.models import LABELS
from cifarnb.report import display, figures, norm_figures
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
    "loss_landscape": lambda run, data: norm_figures.loss_landscape(
        {"vgg_a": (np.array([1.0, 2]), np.array([2.0, 3]))}
    ),
    "loss_landscapes": lambda run, data: norm_figures.loss_landscapes(
        {seed: {"vgg_a": (np.array([1.0, 2]), np.array([2.0, 3]))} for seed in (0, 1)}
    ),
    "accuracy_against_parameters": lambda run, data: figures.accuracy_against_parameters(
        [network("simple_cnn", 62_006, 0.5, 0.64)], [network("fast_cnn", 1_971_352, 0.9, None)]
    ),
    "probes": lambda run, data: norm_figures.probes({"vgg_a": [probed()], "vgg_a_bn": [probed(), probed()]}),
    "rates": lambda run, data: norm_figures.rates({"vgg_a": [run("vgg_a"), run("vgg_a", seed=1)], "resnet9": [run()]}),
    "loss_lines": lambda run, data: norm_figures.loss_lines(LINE, {"vgg_a": np.ones((2, 3))}),
    "loss_surfaces": lambda run, data: norm_figures.loss_surfaces(LINE, {"vgg_a": np.ones((3, 3)), "resnet9": BOWL}),
    "path_on_surface": lambda run, data: norm_figures.path_on_surface(
        {"vgg_a": LINE}, {"vgg_a": LINE}, {"vgg_a": BOWL}, {"vgg_a": np.eye(2)}, {"vgg_a": (0.8, 0.1)}
    ),
    "gap": lambda run, data: figures.gap([rung("the first", None), rung("a second", 0.1)], 0.9),
}  # fmt: skip


def rung(name, gain):
    """What was tried, as ``describe.describe_well`` gives it; as much as a figure needs."""
    final = {"mean": 0.5, "ci95": None, "values": [0.5]}
    return {"name": name, "final_accuracy": final, "test_images": 64, "gain": gain}


def network(name, parameters, mean, reported):
    """The numbers of a network, as ``describe.describe_network`` gives them; as many as a figure needs."""
    final = mean and {"mean": mean, "ci95": None, "values": [mean]}
    numbers = {"name": name, "label": LABELS[name], "parameters": parameters}
    return numbers | {"final_accuracy": final, "reported_accuracy": reported}


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
    for module in (figures, norm_figures):
        own = [name for name, f in inspect.getmembers(module, inspect.isfunction) if f.__module__ == module.__name__]
        assert own
        assert {name for name in own if not name.startswith("_")} - {"scale_by_ratio"} <= set(DRAWINGS), module


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_figure_is_returned_and_nothing_else_is_changed(name, make_run, tiny_dataset):
    before = dict(mpl.rcParams)
    figure = DRAWINGS[name](make_run, tiny_dataset)
    assert type(figure) is Figure
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []
    figure.draw_without_rendering()  # the layout works out without a warning
    assert figure.get_figwidth() == figures.WIDTH


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


def test_two_sides_are_told_apart_by_colour_and_line(make_run):
    figure = figures.compare_curves({"A": [make_run(accuracies=[0.2, 0.3])], "B": [make_run(accuracies=[0.4, 0.5])]})
    for ax, column in zip(figure.axes, ("train_loss", "test_accuracy"), strict=True):
        a, b = ax.lines
        assert a.get_color() != b.get_color()
        assert a.get_linestyle() != b.get_linestyle()
        if column == "test_accuracy":
            assert (a.get_ydata().tolist(), b.get_ydata().tolist()) == ([0.2, 0.3], [0.4, 0.5])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["A", "B"]


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
    figures.scale_by_ratio(ax.yaxis)
    ax.set_ylim(low, high)
    figure.draw_without_rendering()
    labels = {(text.get_position()[1], text.get_text()) for text in ax.get_yticklabels(which="both")}
    assert [text for at, text in sorted(labels) if text and low <= at <= high] == expected
