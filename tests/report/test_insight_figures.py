"""The figures of what networks see show the arrays that they are given."""

import inspect

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import same_color
from matplotlib.figure import Figure

from cifarnb.insight import STRENGTHS
from cifarnb.models import LABELS
from cifarnb.report import insight_figures
from cifarnb.report.figures import COLORS

RNG = np.random.default_rng(0)
CLASSES = [f"class {number}" for number in range(10)]
PHOTOGRAPHS = RNG.integers(0, 256, (5, 32, 32, 3), np.uint8)
COUNTS = np.diag(np.arange(1, 11)) * 9 + 1  # of class 0 half are right
CURVES = {"before": (np.array([np.nan, 0.5, 0.9]), np.array([np.nan, 0.2, 0.4]))}
DRAWINGS = {  # every figure, drawn from few data
    "first_filters": lambda: insight_figures.first_filters(
        {"simple_cnn": RNG.normal(size=(6, 3, 5, 5)), "vgg_a": np.zeros((18, 3, 3, 3))}
    ),
    "attributions": lambda: insight_figures.attributions(
        PHOTOGRAPHS[:2], ["a", "b"], np.ones((2, 32, 32), np.float16), -np.ones((2, 32, 32), np.float16)
    ),
    "gallery": lambda: insight_figures.gallery(PHOTOGRAPHS, list("abcde"), columns=3),
    "confusion_matrices": lambda: insight_figures.confusion_matrices(
        dict.fromkeys(["vgg_a", "resnet6", "resnet9"], COUNTS), CLASSES
    ),
    "class_accuracy": lambda: insight_figures.class_accuracy({"vgg_a": np.linspace(0, 0.9, 10)}, CLASSES),
    "reliability": lambda: insight_figures.reliability({"vgg_a": CURVES, "resnet6": CURVES}),
    "planes": lambda: insight_figures.planes({"vgg_a": RNG.normal(size=(30, 2))}, np.arange(30) % 10, CLASSES),
    "robustness": lambda: insight_figures.robustness(STRENGTHS, {"vgg_a": np.linspace(1, 0, 20).reshape(4, 5)}),
}  # fmt: skip


def test_every_figure_is_tested():
    found = inspect.getmembers(insight_figures, inspect.isfunction)
    public = {name for name, f in found if f.__module__ == insight_figures.__name__ and not name.startswith("_")}
    assert public == set(DRAWINGS)


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_figure_is_returned_and_nothing_else_is_changed(name):
    before = dict(mpl.rcParams)
    figure = DRAWINGS[name]()
    assert type(figure) is Figure
    assert dict(mpl.rcParams) == before
    figure.savefig("/dev/null", format="png", dpi=20)  # what only drawing finds, and warnings are errors


def test_filters_are_pictures_around_grey_sixteen_a_row():
    filters = np.zeros((18, 3, 3, 3))
    filters[0, 0] = 2  # red alone
    filters[1, 1, 0, 0] = -4
    (ax,) = insight_figures.first_filters({"vgg_a": filters}).axes
    first, second, *_ = pictures = [image.get_array() for image in ax.images]
    assert len(pictures) == 18
    assert (first == [1, 0.5, 0.5]).all()
    assert second[0, 0].tolist() == [0.5, 0, 0.5]
    assert (second[1:] == 0.5).all()
    assert [image.get_extent()[0] for image in ax.images] == [*range(16), 0, 1]
    assert [image.get_extent()[3] for image in ax.images] == [0] * 16 + [1] * 2
    assert ax.get_title(loc="left") == "VGG-A: 18 filters of 3×3"


def test_every_image_stands_over_its_two_maps():
    warm, cold = np.zeros((2, 32, 32)), np.zeros((2, 32, 32))
    warm[0], cold[1] = 1, -1
    figure = insight_figures.attributions(PHOTOGRAPHS[:2], ["a", "b"], warm, cold)
    images, cam, occluded = ([image.get_array() for image in ax.images] for ax in figure.axes)
    assert (images[1] == PHOTOGRAPHS[1] / 255).all()
    grey = PHOTOGRAPHS[:2].mean(axis=3, keepdims=True) / 255
    np.testing.assert_allclose(
        cam[0] - 0.4 * grey[0], np.broadcast_to(0.6 * np.array(mpl.colormaps["inferno"](1.0))[:3], (32, 32, 3))
    )
    red, _, blue = (occluded[1] - 0.35 * grey[1])[0, 0]
    assert blue > red  # what speaks against the class
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["a", "b", "image"]


def test_a_gallery_shows_images_in_their_order_with_titles():
    (ax,) = insight_figures.gallery(PHOTOGRAPHS, list("abcde"), columns=3).axes
    assert all((image.get_array() == photo).all() for image, photo in zip(ax.images, PHOTOGRAPHS, strict=True))
    assert [text.get_text() for text in ax.texts] == list("abcde")
    assert ax.images[3].get_extent()[0] == 0  # in the second row


def test_a_matrix_has_the_shares_of_each_class_from_one_per_cent_on():
    counts = np.zeros((10, 10), int)
    counts[0, 0], counts[0, 3], counts[0, 4] = 900, 97, 3
    (ax,) = insight_figures.confusion_matrices({"vgg_a": counts}, CLASSES).axes
    assert {(*text.get_position(), text.get_text()) for text in ax.texts} == {(0, 0, "90"), (3, 0, "10")}
    shown = ax.images[0].get_array() ** 2
    assert shown[0, 3] == pytest.approx(0.097)
    assert shown[1:].sum() == 0  # classes without an image


def test_dots_are_the_accuracies_in_the_networks_colours():
    shares = {"vgg_a": np.linspace(0, 0.9, 10), "resnet6": np.full(10, 0.5)}
    lines = insight_figures.class_accuracy(shares, CLASSES).axes[0].lines
    for line, (name, expected) in zip(lines, shares.items(), strict=True):
        assert line.get_ydata().tolist() == expected.tolist()
        assert same_color(line.get_color(), COLORS[name])
        assert line.get_label() == LABELS[name]


def test_bins_without_images_are_left_out():
    (ax,) = insight_figures.reliability({"vgg_a": CURVES}).axes
    diagonal, line = ax.lines
    assert [*diagonal.get_xdata()] == [*diagonal.get_ydata()] == [0, 1]
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([0.5, 0.9], [0.2, 0.4])


def test_every_dot_has_the_colour_of_its_class():
    points, labels = RNG.normal(size=(30, 2)), np.arange(30) % 10
    (ax,) = insight_figures.planes({"vgg_a": points}, labels, CLASSES).axes
    assert len(ax.collections) == 10
    for number, dots in enumerate(ax.collections):
        assert (dots.get_offsets() == points[labels == number]).all()
        assert same_color(dots.get_facecolor()[0], mpl.colormaps["tab10"](number))


def test_accuracy_falls_from_what_it_is_without_disturbance():
    shares = {"vgg_a": np.linspace(1, 0, 20).reshape(4, 5)}
    axes = insight_figures.robustness(STRENGTHS, shares).axes
    for row, (ax, (kind, strengths)) in enumerate(zip(axes, STRENGTHS.items(), strict=True)):
        assert ax.get_title() == kind
        assert ax.lines[0].get_xdata().tolist() == [0, *strengths]
        assert ax.lines[0].get_ydata().tolist() == shares["vgg_a"][row].tolist()
