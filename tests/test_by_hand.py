import ast
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from cifarnb import by_hand
from cifarnb.models import build_model


def drawn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def both(network, images, labels):
    """Loss and gradients by hand and by autograd."""
    loss = F.cross_entropy(network(images), labels)
    loss.backward()
    weights = {name: p.detach() for name, p in network.named_parameters()}
    expected = {name: p.grad for name, p in network.named_parameters()}
    return by_hand.loss_and_gradients(weights, images, labels), (loss.detach(), expected)


@pytest.mark.parametrize("variant", [{}, {"width": 0.5}, {"neurons": 0.5}])
def test_loss_and_gradients_are_those_of_autograd(variant):
    network = build_model("simple_cnn", **variant).double()
    (loss, gradients), (expected_loss, expected) = both(network, drawn(5, 3, 32, 32), torch.tensor([3, 1, 4, 1, 9]))
    torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=0)
    assert {*gradients} == {*network.state_dict()}
    for name, gradient in gradients.items():
        scale = expected[name].abs().max()
        assert scale > 1e-6
        assert gradient.shape == expected[name].shape
        torch.testing.assert_close(gradient / scale, expected[name] / scale, rtol=0, atol=1e-12)


def test_in_float32_they_are_but_for_rounding():
    """Sums of some thousand terms in another order: at most so many units in the last place of their absolute sum."""
    (loss, gradients), (expected_loss, expected) = both(
        build_model("simple_cnn"), drawn(2, 3, 32, 32, dtype=torch.float32), torch.arange(2)
    )
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=0)
    for name, gradient in gradients.items():
        scale = expected[name].abs().max()
        torch.testing.assert_close(gradient / scale, expected[name] / scale, rtol=0, atol=1e-4)


def test_images_with_plain_areas_are_no_exception():
    """There all values of a pooling window are equal, zeros behind ReLU or not; a clamp at the edge has many, too."""
    images = torch.ones(4, 3, 32, 32, dtype=torch.float64)
    images[1] *= -1
    images[2, :, 8:20, 8:20] = drawn(3, 12, 12)
    images[3] = drawn(3, 32, 32).clamp(-0.1, 0.1)
    (_, gradients), (_, expected) = both(build_model("simple_cnn", 1).double(), images, torch.arange(4))
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-12)


def test_the_first_of_equal_values_wins_its_window():
    x = torch.randint(0, 3, (6, 2, 8, 10), generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    d_pooled = drawn(6, 2, 4, 5)
    expected = F.max_pool2d(x, 2)
    (d_expected,) = torch.autograd.grad(expected, x, d_pooled)
    pooled, winners = by_hand.max_pool(x.detach())
    assert torch.equal(pooled, expected)
    assert torch.equal(by_hand.max_pool_backward(d_pooled, winners), d_expected)
    assert {*winners.flatten().tolist()} == {0, 1, 2, 3}


def test_patches_are_unfolded_and_folded():
    x, shape = drawn(2, 3, 7, 9), torch.Size([2, 3, 7, 9])
    assert torch.equal(by_hand.unfold(x, 5), F.unfold(x, 5))
    d_patches = drawn(2, 3 * 25, 3 * 5)
    torch.testing.assert_close(by_hand.fold(d_patches, shape), F.fold(d_patches, (7, 9), 5), rtol=1e-12, atol=1e-12)


def test_the_cross_entropy_of_large_logits_is_finite():
    logits, labels = (1000 * drawn(6, 10)).requires_grad_(), torch.arange(6)
    expected = F.cross_entropy(logits, labels)
    (d_expected,) = torch.autograd.grad(expected, logits)
    loss, d_logits = by_hand.cross_entropy(logits.detach(), labels)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(d_logits, d_expected, rtol=0, atol=1e-12)


def test_it_is_by_hand():
    """No autograd, no module and no function of PyTorch's networks, and weights that ask for no gradient."""
    tree = ast.parse(Path(by_hand.__file__).read_text(encoding="utf-8"))
    nodes = [*ast.walk(tree)]
    assert [ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)] == [
        "from typing import NamedTuple", "import torch", "from torch import Tensor",
    ]  # fmt: skip
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert not attributes & {"nn", "autograd", "func", "ops", "backward", "grad", "requires_grad", "requires_grad_"}
    of_torch = {node.attr for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "torch"}
    assert of_torch == {"Size", "stack", "arange"}
