"""The Simple CNN forward and backward in plain tensor operations: no autograd, and no layer or function of PyTorch's.

The weights are a dict with the names and shapes of ``SimpleCNN.state_dict()``, so that they go from one to the other;
shapes are those at width 1.  O and C are the filters and channels of a convolution, k is its width; H, W is the size of
what comes in, h, w of what goes out.  ∂y stands for the derivative of the loss by y, and has y's shape.
"""

from typing import NamedTuple

import torch
from torch import Tensor

Weights = dict[str, Tensor]
WINDOW = ((0, 0), (0, 1), (1, 0), (1, 1))  # the places of a 2×2 window, row by row


class Kept(NamedTuple):
    """What a convolution with ReLU and pooling keeps for the way back."""

    patches: Tensor  # (N, C·k·k, h·w): the convolution's input
    positive: Tensor  # (N, O, h, w) bool: where ReLU lets through
    winners: Tensor  # (N, O, h/2, w/2): the place, 0 to 3, of each window's largest value


def loss_and_gradients(weights: Weights, images: Tensor, labels: Tensor) -> tuple[Tensor, Weights]:
    """The mean cross-entropy () of images (N, 3, 32, 32) with labels (N,), and its gradient by each of the weights."""
    first, kept_first = convolution(weights, "features.0", images)  # (N, 6, 14, 14)
    second, kept_second = convolution(weights, "features.3", first)  # (N, 16, 5, 5)
    a = second.flatten(1)  # (N, 400)
    b = linear(weights, "classifier.1", a).clamp(min=0)  # (N, 120)
    c = linear(weights, "classifier.3", b).clamp(min=0)  # (N, 84)
    logits = linear(weights, "classifier.5", c)  # (N, 10)
    loss, d_logits = cross_entropy(logits, labels)

    gradients: Weights = {}
    d_c = linear_backward(weights, "classifier.5", c, d_logits, gradients) * (c > 0)
    d_b = linear_backward(weights, "classifier.3", b, d_c, gradients) * (b > 0)
    d_a = linear_backward(weights, "classifier.1", a, d_b, gradients)
    d_y = convolution_backward(weights, "features.3", kept_second, d_a.reshape(second.shape), gradients)
    d_first = fold(weights["features.3.weight"].flatten(1).T @ d_y, first.shape)
    convolution_backward(weights, "features.0", kept_first, d_first, gradients)  # the images need no gradient
    return loss, gradients


def convolution(weights: Weights, name: str, x: Tensor) -> tuple[Tensor, Kept]:
    """Convolution, ReLU and 2×2 max pooling: (N, C, H, W) → (N, O, h/2, w/2), and what the way back needs.

    The convolution is a product of matrices, y = F·patches + bias: its rows are the filters F (O, C·k·k), its columns
    the patches of an image.
    """
    filters, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    k = filters.shape[-1]
    patches = unfold(x, k)
    y = filters.flatten(1) @ patches + bias[:, None]  # (N, O, h·w)
    y = y.reshape(len(x), len(filters), x.shape[2] - k + 1, x.shape[3] - k + 1)
    pooled, winners = max_pool(y.clamp(min=0))
    return pooled, Kept(patches, y > 0, winners)


def convolution_backward(weights: Weights, name: str, kept: Kept, d_pooled: Tensor, gradients: Weights) -> Tensor:
    """Back to the convolution's own output: ∂pooled (N, O, h/2, w/2) → ∂y (N, O, h·w).

    ∂F = Σₙ ∂y·patchesᵀ and ∂bias = Σ ∂y go into ``gradients``; ∂patches = Fᵀ·∂y is left to whom needs it.
    """
    d_y = (max_pool_backward(d_pooled, kept.winners) * kept.positive).flatten(2)
    d_filters = (d_y @ kept.patches.transpose(1, 2)).sum(0)  # (O, C·k·k)
    gradients[f"{name}.weight"] = d_filters.reshape(weights[f"{name}.weight"].shape)
    gradients[f"{name}.bias"] = d_y.sum((0, 2))
    return d_y


def unfold(x: Tensor, k: int) -> Tensor:
    """All k×k patches of (N, C, H, W) as columns (N, C·k·k, h·w), where h = H − k + 1 and w = W − k + 1."""
    patches = x.unfold(2, k, 1).unfold(3, k, 1)  # (N, C, h, w, k, k), a view
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
    """The largest value of every 2×2 window, (N, C, h, w) → (N, C, h/2, w/2), and its place in WINDOW.

    Of several that are equal, as where ReLU has made zeros, the first wins, as it does with PyTorch.
    """
    windows = torch.stack([x[:, :, i::2, j::2] for i, j in WINDOW])  # (4, N, C, h/2, w/2)
    pooled, winners = windows.max(0)
    return pooled, winners


def max_pool_backward(d_pooled: Tensor, winners: Tensor) -> Tensor:
    """∂x (N, C, h, w): the winner of every window gets all of ∂pooled (N, C, h/2, w/2), the others nothing."""
    n, channels, h, w = d_pooled.shape
    d_x = d_pooled.new_empty(n, channels, 2 * h, 2 * w)
    for place, (i, j) in enumerate(WINDOW):
        d_x[:, :, i::2, j::2] = d_pooled * (winners == place)
    return d_x


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
