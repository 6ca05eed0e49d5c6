import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cifarnb.data import normalize
from cifarnb.landscape import (
    along_gradient,
    envelope,
    losses_around,
    plane_around,
    principal_path,
    random_direction,
    rise,
    smooth,
    step_direction,
    unmoved,
    walks,
)  # fmt: skip
from cifarnb.metrics import loss_and_accuracy, predict
from cifarnb.models import build_model

INF, NAN = math.inf, math.nan


def check(losses, low, high):
    found = envelope([np.array(run, dtype=np.float32) for run in losses])
    np.testing.assert_array_equal(found, (low, high))


def test_known_curves():
    check([[3, 2, 1], [1, 2, 3], [2, 2, 2.5]], [1, 2, 1], [3, 2, 3])


def test_a_single_run_is_its_own_envelope():
    check([[3, 1, 2]], [3, 1, 2], [3, 1, 2])


def test_steps_that_not_all_runs_reached_are_left_out():
    check([[3, 2, 1, 0], [1, 5], [2, 2, 2]], [1, 2], [3, 5])


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_loss_that_is_not_finite_opens_the_band_upwards(bad):
    check([[3, bad, 1], [1, 2, 3]], [1, 2, 1], [3, INF, 3])
    check([[bad], [bad]], [INF], [INF])


def test_the_losses_themselves_are_left_alone():
    losses = [np.array([1.0, NAN]), np.array([2.0, 3.0, 4.0])]
    envelope(losses)
    np.testing.assert_array_equal(losses[0], [1, NAN])
    assert len(losses[1]) == 3


def test_it_agrees_with_a_plain_loop():
    runs = np.random.default_rng(0).random((4, 50))
    check(
        runs,
        [min(column) for column in runs.T.astype(np.float32)],
        [max(column) for column in runs.T.astype(np.float32)],
    )


def test_smoothing_is_the_mean_over_the_last_steps():
    losses = np.array([4.0, 2.0, 6.0, 0.0])
    np.testing.assert_allclose(smooth(losses, 2), [4, 3, 4, 3])
    np.testing.assert_allclose(smooth(losses, 10), [4, 3, 4, 3])
    np.testing.assert_array_equal(smooth(losses, 1), losses)


class Quadratic(nn.Module):
    """½ θᵀAθ, with θ in two parameters."""

    def __init__(self, matrix, theta):
        super().__init__()
        self.matrix = matrix
        self.first, self.rest = nn.Parameter(theta[:2].clone()), nn.Parameter(theta[2:].clone())

    def theta(self):
        return torch.cat([self.first, self.rest])

    def forward(self):
        return self.theta() @ self.matrix @ self.theta() / 2


@pytest.fixture
def quadratic():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    return Quadratic(root @ root.T, torch.randn(5, generator=generator, dtype=torch.float64))


ALPHAS = [0.05, 0.1, 0.4]


def walk(model, loss, alphas, along=along_gradient):
    """The measures of one walk."""
    (measured,) = walks(model, loss, alphas, {"some way": along})
    assert measured.pop("along") == "some way"
    return measured


def test_the_walk_on_a_quadratic_is_what_the_algebra_says(quadratic):
    a, theta = quadratic.matrix, quadratic.theta().detach()
    g = a @ theta
    found = walk(quadratic, quadratic, ALPHAS)
    values = [0.5 * (theta - alpha * g) @ a @ (theta - alpha * g) for alpha in ALPHAS]
    beta = (a @ g).norm() / g.norm()  # the same all along the walk
    expected = {
        "loss": 0.5 * theta @ a @ theta,
        "loss_min": min(values),
        "loss_max": max(values),
        "change_min": 0.05 * (a @ g).norm(),
        "change_max": 0.4 * (a @ g).norm(),
        "beta": beta,
    }
    assert found == pytest.approx({name: value.item() for name, value in expected.items()}, rel=1e-12)


def test_a_walk_along_another_direction(quadratic):
    a, theta = quadratic.matrix, quadratic.theta().detach()
    d = torch.arange(1.0, 6.0, dtype=torch.float64)
    found = walk(quadratic, quadratic, ALPHAS, lambda gradient: [d[:2], d[2:]])
    assert found["beta"] == pytest.approx(((a @ d).norm() / d.norm()).item(), rel=1e-12)
    values = [(0.5 * (theta - alpha * d) @ a @ (theta - alpha * d)).item() for alpha in ALPHAS]
    assert (found["loss_min"], found["loss_max"]) == pytest.approx((min(values), max(values)), rel=1e-12)


def test_walks_in_several_directions_are_those_of_each_alone_from_one_gradient(quadratic):
    evaluations = []

    def loss():
        evaluations.append(quadratic.theta().detach())
        return quadratic()

    ways = {"gradient": along_gradient, "back": lambda gradient: [-g for g in gradient]}
    both = walks(quadratic, loss, ALPHAS, ways)
    assert len(evaluations) == 1 + 2 * len(ALPHAS)
    assert both == [walks(quadratic, quadratic, ALPHAS, {name: way})[0] for name, way in ways.items()]
    assert [row["along"] for row in both] == ["gradient", "back"]
    assert both[0]["loss"] == both[1]["loss"] < both[1]["loss_max"]


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_the_steps_own_direction_is_that_of_the_step(quadratic, kind):
    make = {"sgd": lambda p: torch.optim.SGD(p, 0.01, 0.9), "adam": lambda p: torch.optim.Adam(p, 0.01)}[kind]
    optimizer = make(quadratic.parameters())

    def step():
        optimizer.zero_grad()
        quadratic().backward()
        optimizer.step()

    for _ in range(3):
        step()
    before = [p.detach().clone() for p in quadratic.parameters()]
    gradient = torch.autograd.grad(quadratic(), list(quadratic.parameters()))
    direction = step_direction(optimizer, quadratic)(gradient)
    assert all(torch.equal(p, old) for p, old in zip(quadratic.parameters(), before, strict=True))
    step()
    for p, old, d in zip(quadratic.parameters(), before, direction, strict=True):
        torch.testing.assert_close(p.detach(), old - 0.01 * d)


def small_network():
    """With batch norm, and small enough for a slow loop."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)).double()


def test_the_walk_agrees_with_a_slow_loop_in_float64():
    """Every step on a copy of the network, with gradients by backward()."""
    x, y = torch.randn(6, 3, 8, 8, dtype=torch.float64), torch.arange(6)
    network = small_network()
    network(x)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    def slow(alpha, gradient):
        other = small_network()
        other(x)
        other.load_state_dict(before)
        with torch.no_grad():
            for p, g in zip(other.parameters(), gradient, strict=True):
                p -= alpha * g
        loss = F.cross_entropy(other.train()(x), y)
        loss.backward()
        return loss.item(), [p.grad for p in other.parameters()]

    zero = [torch.zeros_like(p) for p in network.parameters()]
    _, g = slow(0.0, zero)
    flat = torch.cat([part.flatten() for part in g])
    walked = [slow(alpha, g) for alpha in ALPHAS]
    changes = [(torch.cat([part.flatten() for part in there]) - flat).norm().item() for _, there in walked]
    found = walk(network, lambda: F.cross_entropy(network.train()(x), y), ALPHAS)
    assert found["loss_min"] == pytest.approx(min(loss for loss, _ in walked), rel=1e-10)
    assert found["loss_max"] == pytest.approx(max(loss for loss, _ in walked), rel=1e-10)
    assert found["change_min"] == pytest.approx(min(changes), rel=1e-10)
    assert found["change_max"] == pytest.approx(max(changes), rel=1e-10)
    beta = max(change / (alpha * flat.norm().item()) for change, alpha in zip(changes, ALPHAS, strict=True))
    assert found["beta"] == pytest.approx(beta, rel=1e-10)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(p.grad is None for p in network.parameters())


def test_unmoved_restores_weights_buffers_and_mode_after_an_exception():
    network = build_model("vgg_a_bn").train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(RuntimeError, match="on purpose"), unmoved(network):
        network.eval()
        for tensor in network.state_dict().values():
            tensor.zero_()
        raise RuntimeError("on purpose")
    assert network.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_random_direction_has_the_norm_of_every_filter():
    network = build_model("resnet6")
    direction = random_direction(network, seed=1)
    for p, d in zip(network.parameters(), direction, strict=True):
        if p.dim() < 2:
            assert not d.any()
        else:
            torch.testing.assert_close(d.flatten(1).norm(dim=1), p.detach().flatten(1).norm(dim=1))
    assert torch.equal(direction[0], random_direction(network, seed=1)[0])
    assert not torch.equal(direction[0], random_direction(network, seed=2)[0])


@pytest.mark.parametrize("model", ["vgg_a_bn", "resnet9"])
def test_the_centre_of_a_surface_is_the_evaluated_loss(model, tiny_dataset):
    network = build_model(model)
    images, labels = tiny_dataset.test_images, tiny_dataset.test_labels
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    directions = [random_direction(network, seed) for seed in (0, 1)]
    axes = [np.array([-0.5, 0.0, 0.5]), np.array([0.0, 1.0])]
    surface = losses_around(network, images, labels, directions, axes)
    assert surface.shape == (3, 2)
    assert surface[1, 0] == pytest.approx(loss_and_accuracy(predict(network, images, "float32"), labels)[0], rel=1e-6)
    assert len(np.unique(surface)) == 6
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    line = losses_around(network, images, labels, directions[:1], axes[:1])
    np.testing.assert_allclose(line, surface[:, 0], rtol=1e-6)


def test_with_batch_statistics_batch_norm_uses_the_images(tiny_dataset):
    network = build_model("vgg_a_bn").eval()
    images, labels = tiny_dataset.test_images, tiny_dataset.test_labels
    direction, axis = [random_direction(network, 0)], [np.array([0.0])]
    buffers = [b.clone() for b in network.buffers()]
    found = losses_around(network, images, labels, direction, axis, batch_statistics=True)
    assert all(torch.equal(a, b) for a, b in zip(network.buffers(), buffers, strict=True))
    assert not network.training
    with torch.no_grad():
        expected = F.cross_entropy(network.train()(normalize(images)), labels).item()
    assert found[0] == pytest.approx(expected, rel=1e-5)
    assert found[0] != pytest.approx(losses_around(network, images, labels, direction, axis)[0], rel=1e-3)


def test_the_path_of_weights_that_are_not_finite_is_none():
    path = principal_path([[torch.full((4,), value)] for value in (0.0, 1.0, float("inf"), float("nan"))])
    assert path.coordinates.shape == (4, 2)
    assert np.isnan(path.coordinates).all()
    assert all(bool(part.isnan().all()) for axis in path.directions for part in axis)


def test_the_principal_path_is_that_of_a_singular_value_decomposition():
    generator = torch.Generator().manual_seed(0)
    snapshots = [[torch.randn(3, 4, generator=generator), torch.randn(5, generator=generator)] for _ in range(6)]
    path = principal_path(snapshots)
    flat = torch.stack([torch.cat([p.flatten() for p in s]) for s in snapshots]).double()
    differences = flat - flat[-1]
    _, values, axes = torch.linalg.svd(differences, full_matrices=False)
    assert path.explained == pytest.approx(((values**2 / (values**2).sum())[:2]).tolist(), rel=1e-6)
    for i, direction in enumerate(path.directions):
        assert [part.shape for part in direction] == [(3, 4), (5,)]
        found = torch.cat([part.flatten() for part in direction]).double()
        assert found.norm().item() == pytest.approx(1, rel=1e-6)
        assert abs((found @ axes[i]).item()) == pytest.approx(1, rel=1e-6)
        np.testing.assert_allclose(path.coordinates[:, i], differences @ found, atol=1e-5)
    np.testing.assert_allclose(path.coordinates[-1], 0, atol=1e-9)


def test_a_straight_path_has_one_direction():
    path = principal_path([[torch.full((4,), float(t))] for t in range(5)])
    assert path.explained == pytest.approx((1, 0), abs=1e-9)


def test_the_rise_is_that_from_the_middle_of_the_lines_to_their_ends():
    assert rise(np.array([[4.0, 9, 1, 9, 6], [2.0, 9, 2, 9, 4]])) == pytest.approx((4 + 1) / 2)
    assert rise(np.array([[1.0, 3, 2]])) == pytest.approx(-1.5)


def test_the_plane_around_a_path_leaves_a_quarter_of_its_longer_extent_on_every_side():
    path = np.array([[-3.0, 2.0], [1.0, 1.0], [0.0, 0.0]])
    first, second = plane_around(path, 3)
    np.testing.assert_allclose(first, [-4, -1, 2])
    np.testing.assert_allclose(second, [-1, 1, 3])
    assert [len(side) for side in plane_around(path, 7)] == [7, 7]
