import copy
import functools

import numpy as np
import pytest
import slow
import torch
import torch.nn.functional as F
from torch import nn

from cifarnb.config import Config
from cifarnb.landscape import step_direction
from cifarnb.models import build_model
from cifarnb.optimizers import Average, Muon, OwnAdam, OwnSGD, make_optimizer, orthogonalized, rate

LR, MOMENTUM, DECAY = 0.05, 0.6, 0.1


def small_network(norm):
    """A filter bank that is higher than wide as a matrix, one that is wider, biases, a norm and a linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 12, 3),
        norm(12),
        nn.Tanh(),
        nn.Conv2d(12, 5, 2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(20, 10),
    ).double()


def weights_after(steps, optimizer_of, norm=nn.BatchNorm2d):
    model = small_network(norm)
    optimizer = optimizer_of(model.parameters())
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(8, 1, 5, 5, dtype=torch.float64, generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x), torch.arange(8)).backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.fixture(scope="module")
def muon_weights():
    return weights_after(6, lambda parameters: Muon(parameters, LR, MOMENTUM, DECAY))


def test_muon_is_that_of_plain_float64(muon_weights):
    expected = weights_after(6, lambda parameters: slow.PlainMuon(parameters, LR, MOMENTUM, DECAY))
    torch.testing.assert_close(muon_weights, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ((LR * 1.001, MOMENTUM, DECAY), {}),
        ((LR, MOMENTUM + 0.001, DECAY), {}),
        ((LR, MOMENTUM, DECAY * 1.01), {}),
        ((LR, MOMENTUM, DECAY), {"coefficients": (3.4445, -4.7750, 2.0314)}),
        ((LR, MOMENTUM, DECAY), {"others": 6.91}),
    ],
)
def test_another_muon_would_be_seen(muon_weights, given, options):
    other = weights_after(6, lambda parameters: slow.PlainMuon(parameters, *given, **options))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(muon_weights, other, rtol=1e-8, atol=1e-10)


# Not before batch norm, where the gradients of biases are nothing but rounding, which Adam makes as large as any other.
own_weights_after = functools.partial(weights_after, norm=nn.Identity)
SGDS = [{"lr": 0.1}, {"lr": 0.1, "momentum": 0.9}, {"lr": 0.1, "momentum": 0.9, "nesterov": True}]
ADAMS = [{"lr": 0.01}, {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3}]  # with an ε that is seen


@pytest.mark.parametrize(
    ("own", "torchs", "settings"),
    [
        *((OwnSGD, torch.optim.SGD, settings) for settings in SGDS),
        (OwnSGD, torch.optim.SGD, SGDS[1] | {"weight_decay": 0.1}),
        *((OwnAdam, torch.optim.Adam, settings) for settings in ADAMS),
    ],
)
def test_our_own_optimizers_are_pytorchs(own, torchs, settings):
    found = own_weights_after(20, lambda parameters: own(parameters, **settings))
    expected = own_weights_after(20, lambda parameters: torchs(parameters, **settings))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert (found - own_weights_after(0, lambda parameters: own(parameters, **settings))).abs().max() > 0.05


class AdamWithoutCorrection(OwnAdam):
    def move(self, p, gradient, group):
        self.state[p]["t"] = 10**9
        super().move(p, gradient, group)


@pytest.mark.parametrize(
    "other",
    [
        lambda parameters: OwnSGD(parameters, 0.1, 0.9001),
        lambda parameters: OwnSGD(parameters, 0.1, 0.9, nesterov=True),
        lambda parameters: OwnAdam(parameters, 0.01, (0.9, 0.9991)),
        lambda parameters: OwnAdam(parameters, 0.01, eps=1.01e-8),
        lambda parameters: AdamWithoutCorrection(parameters, 0.01),
    ],
)
def test_others_than_pytorchs_would_be_seen(other):
    found = own_weights_after(5, other)
    for torchs in (lambda p: torch.optim.SGD(p, 0.1, 0.9), lambda p: torch.optim.Adam(p, 0.01)):
        with pytest.raises(AssertionError):
            torch.testing.assert_close(found, own_weights_after(5, torchs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [lambda p: OwnSGD(p, 0.1, 0.9), lambda p: OwnAdam(p, 0.01)])
def test_our_own_optimizers_go_on_from_a_checkpoint(make):
    def steps(weight, optimizer, gradients):
        for gradient in gradients:
            weight.grad = torch.tensor([gradient])
            optimizer.step()

    weight, resumed = torch.tensor([1.0]), torch.tensor([1.0])
    optimizer = make([weight])
    steps(weight, optimizer, [1.0, -2.0])
    resumed.copy_(weight)
    other = make([resumed])
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each in ((weight, optimizer), (resumed, other)):
        steps(*each, [3.0, 0.5])
    assert torch.equal(weight, resumed)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (7, 7)])
def test_newton_schulz_keeps_the_singular_vectors_and_takes_the_values_near_one(shape):
    matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.T @ orthogonalized(matrix) @ right.T
    torch.testing.assert_close(found, torch.diag(found.diagonal()), rtol=0, atol=1e-12)
    of_the_norm = values / torch.linalg.vector_norm(values)
    inside = of_the_norm > 0.05
    assert inside.sum() >= 6
    assert ((found.diagonal()[inside] > 0.65) & (found.diagonal()[inside] < 1.25)).all()
    torch.testing.assert_close(orthogonalized(1e-9 * matrix), orthogonalized(matrix))  # of whatever size
    assert not orthogonalized(torch.zeros(3, 4)).any()


def test_muon_leaves_frozen_and_unused_parameters_alone():
    model = build_model("fast_cnn", width=0.125)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    config = Config(model="fast_cnn", optimizer="muon", width=0.125)
    optimizer = make_optimizer(model, config)
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert moved <= trained
    assert len(trained) == 6 + 6 + 1 + 1  # convolutions, batch norms' biases, whitening's, the head


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_decay_may_be_of_weights_alone(optimizer):
    config = Config(model="resnet6", width=0.125, optimizer=optimizer, weight_decay=0.1, decay_biases=False)
    model = build_model("resnet6", width=0.125)
    weights, rest = make_optimizer(model, config).param_groups
    assert (weights["weight_decay"], rest["weight_decay"]) == (0.1, 0)
    assert {p.dim() for p in weights["params"]} == {2, 4}
    assert {p.dim() for p in rest["params"]} == {1}
    assert len(weights["params"]) + len(rest["params"]) == len([*model.parameters()])
    (together,) = make_optimizer(model, config.replace(decay_biases=True)).param_groups
    assert together["weight_decay"] == 0.1
    assert all(a is b for a, b in zip(together["params"], model.parameters(), strict=True))


@pytest.mark.parametrize(
    "config",
    [
        Config(model="resnet6", width=0.125, weight_decay=0.1, decay_biases=False, lr=0.01),
        Config(model="fast_cnn", width=0.125, optimizer="muon", lr=0.01),
    ],
)
def test_a_walk_along_the_step_is_the_step_whatever_the_groups(config):
    model = build_model(config.model, width=config.width)
    optimizer = make_optimizer(model, config)
    trained = [p for p in model.parameters() if p.requires_grad]
    gradient = torch.autograd.grad(model(torch.randn(4, 3, 32, 32)).square().sum(), trained)
    before = [p.detach().clone() for p in trained]
    direction = step_direction(optimizer, model)(gradient)
    for p, g in zip(trained, gradient, strict=True):
        p.grad = g
    optimizer.step()
    for p, old, d in zip(trained, before, direction, strict=True):
        torch.testing.assert_close(p.detach(), old - 0.01 * d, rtol=1e-4, atol=1e-6)


def test_rates_are_straight_lines():
    found = [[rate(step, 100, start, peak) for step in range(101)] for start, peak in ((0.2, 0.23), (1.0, 0.0))]
    for rates, schedule in zip(found, ("triangle", "linear"), strict=True):
        np.testing.assert_allclose(rates, [slow.rate_at(step, 100, schedule) for step in range(101)], atol=1e-12)
    assert (found[0][0], max(found[0]), found[0][23], found[0][100]) == (0.2, 1, 1, 0)
    assert found[1][0] == 1


def test_the_average_forgets_the_beginning_and_then_decays():
    """Of a weight that is the number of its step."""
    model = nn.Linear(1, 1, bias=False)
    average, expected = Average(model, 0.9), float(model.weight.detach())
    for step in range(1, 200):
        nn.init.constant_(model.weight, step)
        average.update(model)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        assert float(average.model.weight.detach()) == pytest.approx(expected, rel=1e-5)
    assert expected == pytest.approx(199 - 9, abs=0.01)  # behind by 1 / (1 − 0.9) − 1 steps
    resumed = Average(copy.deepcopy(model), 0.9)
    resumed.load_state_dict(average.state_dict())
    for each in (resumed, average):
        each.update(model)
    assert torch.equal(resumed.model.weight, average.model.weight)
