"""The Simple CNN forward and backward in plain tensor operations: no autograd, and no layer or function of PyTorch's.

The weights are a dict with the names and shapes of ``SimpleCNN.state_dict()``, in which the numbers count the layers
between them, too; so weights go from one to the other.  O and C are the filters and channels of a convolution, k its
width, H and W what comes in, h and w what goes out.  ∂y stands for the derivative of the loss by y, and is of y's shape.
"""

from typing import NamedTuple

import torch
from torch import Tensor

Weights = dict[str, Tensor]


class Passed(NamedTuple):
    """What a pass through convolution, ReLU and pooling leaves for the way back."""

    patches: Tensor  # (N, C·k·k, h·w): the convolution's input
    positive: Tensor  # (N, O, h, w) bool: where ReLU lets through
    winners: Tensor  # (N, O, h/2, w/2): which of a window's four values is its largest, 0 to 3


def loss_and_gradients(weights: Weights, images: Tensor, labels: Tensor) -> tuple[Tensor, Weights]:
    """The mean cross-entropy () of images (N, 3, 32, 32) with labels (N,), and its gradient by each of the weights."""
    x, first = pass_convolution(weights, "features.0", images)
    x, second = pass_convolution(weights, "features.3", x)
    shape = x.shape
    a = x.flatten(1)  # (N, 400)
    b = linear(weights, "classifier.1", a).clamp(min=0)  # (N, 120)
    c = linear(weights, "classifier.3", b).clamp(min=0)  # (N, 84)
    logits = linear(weights, "classifier.5", c)  # (N, 10)
    loss, d_logits = cross_entropy(logits, labels)

    gradients: Weights = {}
    d_c = linear_backward(weights, "classifier.5", c, d_logits, gradients) * (c > 0)
    d_b = linear_backward(weights, "classifier.3", b, d_c, gradients) * (b > 0)
    d_a = linear_backward(weights, "classifier.1", a, d_b, gradients)
    d_patches = pass_backward(weights, "features.3", second, d_a.reshape(shape), gradients)
    d_x = fold(d_patches, first.winners.shape)
    pass_backward(weights, "features.0", first, d_x, gradients)  # what would flow on is the images'
    return loss, gradients


def pass_convolution(weights: Weights, name: str, x: Tensor) -> tuple[Tensor, Passed]:
    """Convolution, ReLU, 2×2 max pooling: (N, C, H, W) → (N, O, h/2, w/2), and what the way back needs.

    The convolution is a product of matrices: filters (O, C·k·k) times the patches of the image, which are columns.
    """
    filters, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    k = filters.shape[-1]
    patches = unfold(x, k)
    y = filters.flatten(1) @ patches + bias[:, None]  # (N, O, h·w)
    y = y.reshape(len(x), len(filters), x.shape[2] - k + 1, x.shape[3] - k + 1)
    pooled, winners = max_pool(y.clamp(min=0))
    return pooled, Passed(patches, y > 0, winners)


def pass_backward(weights: Weights, name: str, passed: Passed, d_pooled: Tensor, gradients: Weights) -> Tensor:
    """Back through all of it: ∂pooled (N, O, h/2, w/2) → ∂patches (N, C·k·k, h·w).

    Of y = F·patches + bias it is ∂F = Σₙ ∂y·patchesᵀ, ∂bias = Σ ∂y and ∂patches = Fᵀ·∂y.  These go into ``gradients``.
    """
    filters = weights[f"{name}.weight"]
    d_y = (max_pool_backward(d_pooled, passed.winners) * passed.positive).flatten(2)  # (N, O, h·w)
    gradients[f"{name}.weight"] = (d_y @ passed.patches.transpose(1, 2)).sum(0).reshape(filters.shape)
    gradients[f"{name}.bias"] = d_y.sum((0, 2))
    return filters.flatten(1).T @ d_y


def unfold(x: Tensor, k: int) -> Tensor:
    """All k×k patches of (N, C, H, W) as columns (N, C·k·k, h·w), where h = H − k + 1 and w = W − k + 1."""
    patches = x.unfold(2, k, 1).unfold(3, k, 1)  # (N, C, h, w, k, k), still the same memory
    return patches.permute(0, 1, 4, 5, 2, 3).flatten(4).flatten(1, 3)


def fold(d_patches: Tensor, shape: torch.Size) -> Tensor:
    """Back through ``unfold``: (N, C·k·k, h·w) → (N, C, H, W), which is ``shape``.

    A pixel lies in as many patches as there are places in a patch: what comes back from all of them is added up.
    """
    n, channels, height, width = shape
    k = round((d_patches.shape[1] / channels) ** 0.5)
    h, w = height - k + 1, width - k + 1
    d_patches = d_patches.reshape(n, channels, k, k, h, w)
    d_x = d_patches.new_zeros(shape)
    for i in range(k):
        for j in range(k):
            d_x[:, :, i : i + h, j : j + w] += d_patches[:, :, i, j]
    return d_x


def max_pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest value of every 2×2 window, (N, C, h, w) → (N, C, h/2, w/2), and which it is: 0 to 3, row by row.

    Of several, as where ReLU has made zeros, the first, as with PyTorch.
    """
    n, channels, h, w = x.shape
    windows = x.reshape(n, channels, h // 2, 2, w // 2, 2).transpose(3, 4).flatten(4)  # (N, C, h/2, w/2, 4)
    winners = windows.argmax(-1, keepdim=True)
    return windows.gather(-1, winners).squeeze(-1), winners.squeeze(-1)


def max_pool_backward(d_pooled: Tensor, winners: Tensor) -> Tensor:
    """∂x (N, C, h, w): the winner of every window gets all of ∂pooled (N, C, h/2, w/2), the others nothing."""
    n, channels, half_h, half_w = d_pooled.shape
    places = torch.arange(4, device=winners.device)
    d_windows = d_pooled[..., None] * (winners[..., None] == places)  # (N, C, h/2, w/2, 4)
    d_windows = d_windows.reshape(n, channels, half_h, half_w, 2, 2).transpose(3, 4)
    return d_windows.reshape(n, channels, 2 * half_h, 2 * half_w)


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Fully connected: y = x·Wᵀ + bias, (N, in) → (N, out)."""
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def linear_backward(weights: Weights, name: str, x: Tensor, d_y: Tensor, gradients: Weights) -> Tensor:
    """Back through it: ∂x = ∂y·W (N, in); ∂W = ∂yᵀ·x and ∂bias = Σₙ ∂y go into ``gradients``."""
    gradients[f"{name}.weight"] = d_y.T @ x
    gradients[f"{name}.bias"] = d_y.sum(0)
    return d_y @ weights[f"{name}.weight"]


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of −ln p(label) (), in nats, and its gradient by the logits (N, 10): (p − one-hot) / N, p = softmax."""
    shifted = logits - logits.amax(1, keepdim=True)  # so that no exponential overflows
    log_p = shifted - shifted.exp().sum(1, keepdim=True).log()
    one_hot = labels[:, None] == torch.arange(logits.shape[1], device=labels.device)
    return -log_p[one_hot].mean(), (log_p.exp() - one_hot.to(logits)) / len(labels)
