"""What is our own, held against PyTorch's: the optimizers from their formulas, and the network by hand."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import SGD, Adam, Optimizer

from cifarnb import by_hand
from cifarnb.by_hand import Weights
from cifarnb.optimizers import OwnAdam, OwnSGD

RATES: dict[str, Any] = {"sgd": {"lr": 0.05, "momentum": 0.9}, "adam": {"lr": 1e-3}}
Gradients = Callable[[Weights, Tensor, Tensor], tuple[Tensor, Weights]]  # as by_hand.loss_and_gradients


def autograd(network: nn.Module, weights: Weights, images: Tensor, labels: Tensor) -> tuple[Tensor, Weights]:
    """The same as ``by_hand.loss_and_gradients``, of a network with these weights, by PyTorch."""
    leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
    loss = F.cross_entropy(functional_call(network, leaves, (images,)), labels)
    return loss.detach(), dict(zip(leaves, torch.autograd.grad(loss, [*leaves.values()]), strict=True))


class Training:
    """A way of training: weights, what gives their gradients, what moves them, and the losses of the steps."""

    def __init__(self, weights: Weights, gradients: Gradients, optimizer: Callable[..., Optimizer]) -> None:
        self.weights = {name: w.detach().clone() for name, w in weights.items()}
        self.gradients, self.optimizer = gradients, optimizer([*self.weights.values()])
        self.losses: list[float] = []

    def step(self, images: Tensor, labels: Tensor, where: Weights | None = None) -> Weights:
        """Take a step with the gradients at its own weights, or at those of another; returns them.

        Images are (N, 3, 32, 32), labels (N,).
        """
        loss, gradients = self.gradients(where or self.weights, images, labels)
        for name, weight in self.weights.items():
            weight.grad = gradients[name]
        self.optimizer.step()
        self.losses.append(loss.item())
        return gradients


class Pair:
    """A way of training beside PyTorch's: on the same path, where rounding adds up, and on its own, where it grows."""

    def __init__(self, theirs: Training, same_path: Training, own_path: Training) -> None:
        self.theirs, self.same_path, self.own_path = theirs, same_path, own_path
        self.start = {name: w.clone() for name, w in theirs.weights.items()}
        self.gradients: list[tuple[float, float]] = []  # of every step: the largest, and the largest difference

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Train all three on a batch."""
        self.own_path.step(images, labels)
        gradients = self.same_path.step(images, labels, self.theirs.weights)
        theirs = self.theirs.step(images, labels)
        self.gradients.append((largest(theirs), largest_difference(gradients, theirs)))

    def found(self) -> dict[str, Any]:
        """What ``compare`` says of them."""
        gradient, gradient_difference = map(max, zip(*self.gradients, strict=True))
        return {
            "change": largest_difference(self.theirs.weights, self.start),
            "same_path": largest_difference(self.same_path.weights, self.theirs.weights),
            "own_path": largest_difference(self.own_path.weights, self.theirs.weights),
            "gradient": gradient,
            "gradient_difference": gradient_difference,
            "losses": self.own_path.losses,
            "torch_losses": self.theirs.losses,
        }


def compare(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, dict[str, Any]]:
    """Train a Simple CNN in our ways and in PyTorch's, from the weights that it has and on the same batches.

    With ``sgd`` and ``adam`` the optimizer is our own; with ``network`` it is SGD, and so are forward and backward;
    ``nudged`` is PyTorch's SGD again, from weights that are one unit in the last place higher.  Of each there is

    - ``change``, the largest change of a weight by PyTorch's since the beginning;
    - ``same_path``, the largest difference of a weight in the end, with gradients taken where PyTorch's weights are;
    - ``own_path``, the same with gradients taken where its own weights are;
    - ``gradient``, the largest by PyTorch's in any step, and ``gradient_difference``, that of the gradients there;
    - ``losses`` and ``torch_losses`` of the steps, each at its own weights.

    Batches are images (N, 3, 32, 32), in the precision of the network, and labels (N,).
    """
    weights = {name: p.detach() for name, p in network.named_parameters()}
    higher = {name: torch.nextafter(w, torch.full_like(w, torch.inf)) for name, w in weights.items()}
    by_torch, sgd, adam = partial(autograd, network), partial(SGD, **RATES["sgd"]), partial(Adam, **RATES["adam"])
    own_sgd, own_adam = partial(OwnSGD, **RATES["sgd"]), partial(OwnAdam, **RATES["adam"])

    def pair(optimizer: Callable[..., Optimizer], *own: Any) -> Pair:
        return Pair(Training(weights, by_torch, optimizer), Training(*own), Training(*own))

    pairs = {
        "sgd": pair(sgd, weights, by_torch, own_sgd),
        "adam": pair(adam, weights, by_torch, own_adam),
        "network": pair(sgd, weights, by_hand.loss_and_gradients, own_sgd),
        "nudged": pair(sgd, higher, by_torch, sgd),
    }
    for images, labels in batches:
        for each in pairs.values():
            each.step(images, labels)
    return {name: each.found() for name, each in pairs.items()}


def largest(tensors: Weights) -> float:
    """The largest absolute value in any of them."""
    return torch.stack([tensor.abs().max() for tensor in tensors.values()]).max().item()


def largest_difference(tensors: Weights, others: Weights) -> float:
    """The same of the differences between tensors of the same names."""
    return largest({name: tensor - others[name] for name, tensor in tensors.items()})
