import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from cifarnb import experiment, insight
from cifarnb.data import normalize
from cifarnb.insight import STRENGTHS, Seen
from cifarnb.metrics import predict
from cifarnb.models import build_model


def images_of(n, seed=0):
    return torch.randint(0, 256, (n, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


# --- from the network


@pytest.mark.parametrize("name", ["simple_cnn", "resnet6", "vgg_a_bn"])
def test_the_penultimate_features_are_what_the_last_layer_makes_the_logits_of(name):
    model, images = build_model(name, width=0.25).eval(), images_of(5)
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    features = torch.from_numpy(insight.penultimate(model, images))
    torch.testing.assert_close(last(features), predict(model, images, "float32"))
    assert not last._forward_pre_hooks


def test_the_first_filters_are_those_of_the_first_convolution():
    assert insight.first_filters(build_model("simple_cnn")).shape == (6, 3, 5, 5)
    model = build_model("resnet6")
    assert (insight.first_filters(model) == model.stem[0].weight.detach().numpy()).all()


def test_the_last_map_is_the_last_that_is_large_enough():
    image = torch.zeros(1, 3, 32, 32)
    simple, residual, vgg = (build_model(name, width=0.25).eval() for name in ("simple_cnn", "resnet6", "vgg_a"))
    assert insight.last_map(simple, image) is simple.features  # (5, 5) after the second pooling
    assert insight.last_map(residual, image) is residual.stages  # (4, 4); what follows is (1, 1)
    found = insight.last_map(vgg, image)
    assert found(torch.zeros(1, vgg_channels(vgg, found), 4, 4)).shape[2:] in ((4, 4), (2, 2))
    assert not any(module._forward_hooks for module in residual.modules())


def vgg_channels(vgg, module):
    """The channels that a layer of VGG takes: those of the convolution before it."""
    layers = [m for m in vgg.modules() if not [*m.children()]]
    before = layers[: layers.index(module) + 1]
    return next(m.out_channels for m in reversed(before) if isinstance(m, nn.Conv2d))


def test_grad_cam_behind_an_average_is_the_class_activation_map():
    """As in §3.1 of the paper: there the gradients are the weights of the linear layer (Zhou et al. 2016)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)).eval()
    inputs, targets = torch.randn(2, 3, 32, 32), torch.tensor([3, 7])
    with torch.no_grad():
        maps = torch.einsum("nc,nchw->nhw", model[3].weight[targets], model[0](inputs)).relu().numpy()
    expected = maps / maps.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(insight.grad_cam(model, inputs, targets), expected, atol=1e-5)


class Corner(nn.Module):
    """The logit of class 0 is what the pixel in the upper left corner shows, that of class 1 its negative."""

    def forward(self, x):
        corner = x[:, :, 0, 0].sum(1)
        return torch.stack([corner, -corner, *[torch.zeros_like(corner)] * 8], 1)


def test_occlusion_finds_the_only_place_that_counts():
    inputs = torch.ones(2, 3, 32, 32)
    found = insight.occlusion(Corner(), inputs, torch.tensor([0, 1]))
    covered = np.zeros((32, 32), bool)
    covered[: insight.PATCH, : insight.PATCH] = True
    assert (found[0][covered] > 0).all()
    assert found[0].max() == 1
    assert (found[0][~covered] == 0).all()
    np.testing.assert_allclose(found[1], -found[0])


def test_without_an_image_there_is_no_attribution():
    nothing, none = torch.zeros(0, 3, 32, 32), torch.zeros(0, dtype=torch.int64)
    for explain in (insight.grad_cam, insight.occlusion):
        assert explain(build_model("simple_cnn").eval(), nothing, none).shape == (0, 32, 32)


def test_groups_lie_apart_in_the_plane_and_always_the_same_way():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    features = (rng.normal(size=(60, 16)) + 30 * np.eye(16)[labels]).astype(np.float32)
    plane = insight.in_the_plane(features)
    assert (plane.shape, plane.dtype) == ((60, 2), np.float32)
    assert (plane == insight.in_the_plane(features)).all()
    assert insight.neighbours_of_one_class(plane, labels).mean() == 1
    assert (insight.in_the_plane(np.ones((9, 3), np.float32)) == 0).all()
    assert insight.in_the_plane(features[:3]).shape == (3, 2)


# --- what is done to images


def test_a_shift_moves_to_the_right_with_black_behind():
    images = images_of(2)
    moved = insight.disturb(images, "shift", 4)
    assert (moved[:, :, 4:] == images[:, :, :-4]).all()
    assert (moved[:, :, :4] == 0).all()


def test_noise_has_its_deviation_and_is_the_same_again():
    images = torch.full((20, 32, 32, 3), 128, dtype=torch.uint8)
    noisy = insight.disturb(images, "noise", 16)
    assert (noisy == insight.disturb(images, "noise", 16)).all()
    assert noisy.float().std().item() == pytest.approx(16, rel=0.02)
    assert noisy.float().mean().item() == pytest.approx(128, abs=0.5)


def test_blur_is_the_gaussian():
    images = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    images[0, 16, 16] = 255
    found = insight.disturb(images, "blur", 1)[0, 16, 13:20, 0].float().numpy()
    weights = np.exp(-(np.arange(-3, 4) ** 2) / 2)
    weights /= weights.sum()
    np.testing.assert_allclose(found, 255 * weights[3] * weights, atol=1)


def test_contrast_falls_towards_the_mean():
    images = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    images[:, :16] = 200
    low, high = insight.disturb(images, "contrast", 0.75).unique().tolist()
    assert (low, high) == (pytest.approx(75, abs=1), pytest.approx(125, abs=1))  # a quarter of ±100 around 100


def test_what_is_done_has_strengths_that_rise_and_no_other_name():
    assert all(list(steps) == sorted(steps) and min(steps) > 0 for steps in STRENGTHS.values())
    with pytest.raises(ValueError, match="kind 'fog': it is one of shift, noise, blur, contrast"):
        insight.disturb(images_of(1), "fog", 1)


class Brightness(nn.Module):
    """Class 1 for an image that is brighter than grey in the middle column, else class 0."""

    def forward(self, x):
        bright = (x[:, :, :, 16].mean((1, 2)) > 0).float()
        return torch.stack([1 - bright, bright, *[-torch.ones_like(bright)] * 8], 1)


def test_right_images_are_counted_under_every_disturbance():
    images = torch.full((3, 32, 32, 3), 250, dtype=torch.uint8)
    images[:, :, :9] = 10  # after 8 pixels the dark reaches the middle
    found = insight.count_right(Brightness(), images, torch.tensor([1, 1, 0]))
    assert found.shape == (4, 4)
    assert found[0].tolist() == [2, 2, 2, 1]
    assert found[1:3].tolist() == [[2] * 4] * 2


# --- from what was kept


def test_the_most_confident_come_first_however_sure_they_are():
    logits = np.zeros((5, 10), np.float16)
    logits[:, 0] = [50, 100, 1, 300, 60]  # e^-50 and e^-100 are nothing beside 1
    assert insight.most_confident(logits, np.array([True, True, True, False, True])).tolist() == [1, 4, 0, 2]
    assert insight.most_confident(logits, np.zeros(5, bool)).tolist() == []


def test_the_colour_of_a_filter_is_what_its_channels_do_not_share():
    filters = np.zeros((4, 3, 2, 2))
    filters[0] = [[1, -1], [2, 0]]  # grey
    filters[1, 0], filters[1, 1] = 1, -1  # red against green
    filters[2, 0] = 1  # red alone: a third of the energy is in the mean
    assert insight.colour_share(filters).tolist() == pytest.approx([0, 1, 2 / 3, 1])


def test_most_random_filters_are_of_colour():
    for size in (2, 3, 5):
        filters = np.random.default_rng(0).normal(size=(20_000, 3, size, size))
        found = (insight.colour_share(filters) > 0.5).mean()
        assert insight.colour_by_chance(size) == pytest.approx(found, abs=0.01)


def test_maps_agree_by_their_correlation():
    maps = np.random.default_rng(0).normal(size=(3, 4, 4))
    assert insight.agreement(maps, 2 * maps + 1).tolist() == pytest.approx([1, 1, 1])
    assert insight.agreement(maps, -maps).tolist() == pytest.approx([-1, -1, -1])
    assert insight.agreement(maps, np.ones((3, 4, 4))).tolist() == [0, 0, 0]
    a, b = maps[:2]
    assert insight.agreement(a[None], b[None])[0] == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_pairs_are_counted_both_ways():
    confusion = np.array([[9, 1, 4], [2, 8, 0], [0, 3, 7]])
    assert insight.confused_pairs(confusion) == [(0, 2, 4), (0, 1, 3), (1, 2, 3)]


@pytest.mark.parametrize("gap", [0.5, 8])
def test_the_temperature_makes_confidence_what_accuracy_is(gap):
    """Of four images three are right: best is a confidence of 3/4, a gap of ln 3 between the two logits."""
    logits = np.tile(np.array([[gap, 0.0]]), (40, 1))
    labels = np.arange(40) % 4 == 0
    assert insight.fit_temperature(logits, labels.astype(int)) == pytest.approx(gap / math.log(3), rel=1e-3)


def test_reliability_and_calibration_error_by_hand():
    confidence = np.array([0.1, 0.3, 0.35, 1.0, 1.0])
    right = np.array([False, True, False, True, False])
    means, shares, count = insight.reliability(confidence, right, bins=4)
    assert count.tolist() == [1, 2, 0, 2]
    assert means[[0, 1, 3]].tolist() == pytest.approx([0.1, 0.325, 1])
    assert shares[[0, 1, 3]].tolist() == [0, 0.5, 0.5]
    assert math.isnan(means[2])
    assert insight.calibration_error(confidence, right, bins=4) == pytest.approx((0.1 + 2 * 0.175 + 2 * 0.5) / 5)


def test_neighbours_are_counted_without_the_point_itself(monkeypatch):
    monkeypatch.setattr(insight, "NEIGHBOURS", 1)
    points, labels = np.array([[0, 0], [0, 1], [9, 9], [9, 9.5]]), np.array([0, 0, 1, 2])
    assert insight.neighbours_of_one_class(points, labels).tolist() == [1, 1, 0, 0]


# --- all of it


@pytest.fixture(scope="module")
def arrays(tiny_dataset):
    model = build_model("simple_cnn", 1)
    return insight.look(model, tiny_dataset.test_images, tiny_dataset.test_labels, attributed=2, mapped=20, tried=8)


@pytest.fixture
def seen(arrays, tiny_dataset):
    return Seen(tiny_dataset.test_labels.numpy(), **arrays)


def test_what_is_seen_is_what_the_network_says(seen, tiny_dataset):
    model, labels = build_model("simple_cnn", 1), tiny_dataset.test_labels
    logits = predict(model, tiny_dataset.test_images, "float32")
    np.testing.assert_allclose(seen.logits, logits, atol=1e-3)
    assert seen.accuracy == (seen.predictions == labels.numpy()).mean()
    assert seen.confusion.sum() == 64
    for row, column in np.ndindex(10, 10):
        assert seen.confusion[row, column] == ((labels.numpy() == row) & (seen.predictions == column)).sum()
    assert np.nansum(seen.class_accuracy * seen.confusion.sum(1)) == pytest.approx(seen.right.sum())
    np.testing.assert_allclose(seen.confidence, logits.softmax(1).amax(1), atol=1e-3)
    assert seen.right[seen.mistakes].sum() == 0
    assert (np.diff(seen.confidence[seen.mistakes]) <= 1e-12).all()


def test_attributed_are_the_first_that_are_right_and_the_surest_mistakes(seen, tiny_dataset):
    right = np.flatnonzero(seen.right)[:2]
    assert seen.attributed.tolist() == [*right, *seen.mistakes[:2]]
    assert seen.grad_cam.shape == seen.occlusion.shape == (len(seen.attributed), 32, 32)
    inputs = normalize(tiny_dataset.test_images[seen.attributed])
    targets = torch.from_numpy(seen.predictions[seen.attributed])
    expected = insight.occlusion(build_model("simple_cnn", 1).eval(), inputs, targets)
    np.testing.assert_allclose(seen.occlusion, expected, atol=1e-3)


def test_disturbed_accuracies_begin_with_the_undisturbed_one(seen):
    found = insight.accuracies_disturbed(seen)
    assert found.shape == (4, 5)
    assert {*found[:, 0]} == {seen.right[:8].mean()}
    assert (found[:, 1:] * 8 == seen.disturbed).all()


def test_each_half_is_scaled_by_the_temperature_of_the_other(seen):
    """A half that knows its own number would look better calibrated than a new image is."""
    own = dataclasses.replace(seen, logits=np.where(np.arange(64)[:, None] % 2, 4 * seen.logits, seen.logits))
    even, odd = own.temperatures
    assert own.calibrated[0] == pytest.approx(
        torch.tensor(own.logits[0] / odd).float().softmax(0).max().item(), rel=1e-3
    )
    assert own.calibrated[1] == pytest.approx(
        torch.tensor(own.logits[1] / even).float().softmax(0).max().item(), rel=1e-3
    )
    assert insight.fit_temperature(own.logits[::2], own.labels[::2]) == even


def test_what_was_seen_once_is_shown_without_the_weights(make_run, tiny_dataset, monkeypatch):
    run = make_run()
    monkeypatch.setattr(experiment, "trained_model", lambda _: build_model("simple_cnn", 1))
    asked = {"images": 30, "attributed": 1, "mapped": 20, "tried": 8}
    first = experiment.see(run, tiny_dataset, **asked)
    monkeypatch.setattr(experiment, "trained_model", None)
    again = experiment.see(run, tiny_dataset, **asked)
    for field in dataclasses.fields(Seen):
        assert (getattr(first, field.name) == getattr(again, field.name)).all()
    assert len(again.labels) == len(again.logits) == 30
    with pytest.raises(TypeError):  # other questions are computed
        experiment.see(run, tiny_dataset, **(asked | {"images": 31}))
