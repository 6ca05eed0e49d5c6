import inspect
import itertools
import math

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import same_color
from matplotlib.figure import Figure

from cifarnb import figures
from cifarnb.figures import COLORS
from cifarnb.models import LABELS

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
    "feature_maps": lambda run, data: figures.feature_maps(data.test_images[0], "cat", {"stem": torch.rand(8, 4, 4)}),
    "loss_landscape": lambda run, data: figures.loss_landscape({"vgg_a": (np.array([1.0, 2]), np.array([2.0, 3]))}),
    "accuracy_against_parameters": lambda run, data: figures.accuracy_against_parameters(
        [network("simple_cnn", 62_006, 0.5, 0.64)]
    ),
}  # fmt: skip


def network(name, parameters, mean, reported):
    """The numbers of a network, as ``summary.describe_network`` gives them; as many as a figure needs."""
    final = mean and {"mean": mean, "ci95": None, "values": [mean]}
    numbers = {"name": name, "label": LABELS[name], "parameters": parameters}
    return numbers | {"final_accuracy": final, "reported_accuracy": reported}


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
    left, right = figures.compare_training(runs).axes
    for name, (run,) in runs.items():
        loss, accuracy = labelled(left)[LABELS[name]], labelled(right)[LABELS[name]]
        assert points(loss) == list(zip(run.history["epoch"], run.history["train_loss"], strict=True))
        assert points(accuracy) == list(zip(run.history["epoch"], run.history["test_accuracy"], strict=True))
        assert same_color(loss.get_color(), COLORS[name])
        assert same_color(accuracy.get_color(), COLORS[name])
    marks = {marker: [points(line) for line in right.lines if line.get_marker() == marker] for marker in "*s"}
    assert marks == {"*": [[(2, 0.3)], [(1, 0.6)]], "s": [[(2, 0.3)], [(2, 0.5)]]}
    named = [text.get_text() for text in right.get_legend().get_texts()]
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
    (ax,) = figures.loss_landscape(envelopes).axes
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


def test_every_network_has_a_colour_of_its_own():
    assert [*COLORS] == [*LABELS]
    assert len(set(COLORS.values())) == len(LABELS)
