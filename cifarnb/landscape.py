"""Why batch norm helps: measures on the loss, along training and around trained weights.

The walks are those of Santurkar et al. 2018 (arXiv:1805.11604, §3.2 and App. A), lines and surfaces those of Li et al.
2018 (arXiv:1712.09913), the envelope is the course's.  Whatever moves a network's weights here puts them back.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from cifarnb.data import normalize
from cifarnb.metrics import EVALUATION_BATCH
from cifarnb.runs import WeightsPath

Direction = Sequence[Tensor]  # one tensor for every parameter, of its shape


def envelope(losses: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest loss of several runs at each step, (steps,) each, as the assignment defines them.

    ``losses`` holds the loss of every step (steps,) of runs that differ in the learning rate alone.  Steps that not
    all runs reached are left out; a loss that is not finite makes the band's upper edge infinite there.
    """
    steps = min(len(run) for run in losses)
    stacked = np.stack([np.where(np.isfinite(run[:steps]), run[:steps], np.inf) for run in losses])
    return stacked.min(axis=0), stacked.max(axis=0)


def widths(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The width of the band at each step (steps,); infinite where a run had diverged."""
    width = np.full(len(low), np.inf)
    np.subtract(high, low, out=width, where=np.isfinite(high))
    return width


def smooth(losses: np.ndarray, window: int) -> np.ndarray:
    """The mean over each step and the ``window − 1`` before it, (steps,); at first over as many as there are."""
    sums = np.cumsum(np.insert(losses.astype(np.float64), 0, 0.0))
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


@contextmanager
def unmoved(model: nn.Module) -> Iterator[None]:
    """Weights, buffers and mode are afterwards bit for bit what they were, also after an exception."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    training = model.training
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                tensor.copy_(before[name])
        model.train(training)


def walks(
    model: nn.Module,
    loss: Callable[[], Tensor],
    alphas: Sequence[float],
    directions: Mapping[str, Callable[[Direction], Direction]],
) -> list[dict[str, Any]]:
    """Measures of the loss on walks from the weights θ to θ − α·d, over the ``alphas``: a row for each direction d.

    ``directions`` say by name what to make d of, given the gradient g of ``loss`` at θ.  ``loss`` must be the same
    function each time it is called: the same batch, no noise.  With g(α) for the gradient at θ − α·d a row holds

    - ``along``, the direction's name;
    - ``loss`` at θ, ``loss_min`` and ``loss_max`` over the walk;
    - ``change_min`` and ``change_max``, of ‖g(α) − g‖₂: gradient predictiveness;
    - ``beta``, the largest ‖g(α) − g‖₂ / ‖α·d‖₂: effective β-smoothness.

    All parameters that are trained count.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    with unmoved(model):
        start = [p.detach().clone() for p in parameters]
        value = loss()
        gradient = torch.autograd.grad(value, parameters)
        for name, along in directions.items():
            direction = along(gradient)
            values, changes = [], []
            for alpha in alphas:
                with torch.no_grad():
                    for p, origin, d in zip(parameters, start, direction, strict=True):
                        torch.sub(origin, d, alpha=alpha, out=p)
                there = loss()
                changed = torch.autograd.grad(there, parameters)
                values.append(there.item())
                changes.append(_norm([b - a for a, b in zip(gradient, changed, strict=True)]))
            measured = _measures(values, changes, np.array(alphas) * _norm(direction))
            rows.append({"along": name, "loss": value.item(), **measured})
    return rows


def _measures(values: Sequence[float], changes: Sequence[float], lengths: np.ndarray) -> dict[str, float]:
    """Of one walk, from the losses, the gradient's changes and the distances from its start, (points,) each."""
    ratios = [change / length if length else np.nan for change, length in zip(changes, lengths, strict=True)]
    return {
        "loss_min": float(np.min(values)),  # NaN if one is
        "loss_max": float(np.max(values)),
        "change_min": float(np.min(changes)),
        "change_max": float(np.max(changes)),
        "beta": float(np.max(ratios)),
    }


def along_gradient(gradient: Direction) -> Direction:
    """For ``walks``: the gradient itself."""
    return gradient


def step_direction(optimizer: Optimizer, model: nn.Module) -> Callable[[Direction], Direction]:
    """For ``walks`` of the model: the direction d that makes its optimizer's next step θ − lr·d, given the gradient.

    ``lr`` is the rate of the optimizer's first group.
    """

    def along(gradient: Direction) -> Direction:
        copies: dict[int, Any] = {}
        trial = copy.deepcopy(optimizer, copies)  # with weights of its own, in groups of its own
        weights = [copies[id(p)] for p in model.parameters() if p.requires_grad]
        before = [p.detach().clone() for p in weights]
        for p, g in zip(weights, gradient, strict=True):
            p.grad = g.clone()
        trial.step()
        lr = float(trial.param_groups[0]["lr"])
        return [(old - p.detach()) / lr for old, p in zip(before, weights, strict=True)]

    return along


def random_direction(model: nn.Module, seed: int) -> list[Tensor]:
    """A random direction in which every filter has the norm of the network's own (Li et al. 2018, §4).

    A filter is what makes one output channel or unit.  Biases and batch norm's parameters are left where they are.
    """
    generator = torch.Generator().manual_seed(seed)
    direction = []
    for p in model.parameters():
        weights = p.detach()
        if weights.dim() < 2:
            direction.append(torch.zeros_like(weights))
            continue
        drawn = torch.randn(weights.shape, generator=generator).to(weights)
        rest = tuple(range(1, weights.dim()))
        wanted, norm = (torch.linalg.vector_norm(t, dim=rest, keepdim=True) for t in (weights, drawn))
        direction.append(drawn * (wanted / norm))
    return direction


def losses_around(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    directions: Sequence[Direction],
    coordinates: Sequence[np.ndarray],
    *,
    batch_statistics: bool = False,
) -> np.ndarray:
    """Mean cross-entropy (nats) at θ + Σ cᵢ·dᵢ on a grid: (len(c₁),) for one direction, (len(c₁), len(c₂)) for two.

    images (N, 32, 32, 3) in uint8 and labels (N,) on the model's device, in float32.  Batch norm uses its running
    statistics, or, with ``batch_statistics``, those of the images.
    """
    parameters = list(model.parameters())
    grid = np.empty([len(axis) for axis in coordinates])
    with unmoved(model), torch.no_grad():
        start = [p.clone() for p in parameters]
        model.train(batch_statistics)
        for index in np.ndindex(*grid.shape):
            at = [float(axis[i]) for axis, i in zip(coordinates, index, strict=True)]
            for p, origin, *along in zip(parameters, start, *directions, strict=True):
                p.copy_(origin + sum(c * d for c, d in zip(at, along, strict=True)))
            total = torch.zeros((), dtype=torch.float64)
            for part, target in zip(images.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True):
                total += F.cross_entropy(model(normalize(part)), target, reduction="sum").double().cpu()
            grid[index] = total.item() / len(images)
    return grid


def rise(lines: np.ndarray) -> float:
    """By how much the loss is higher at the ends of lines than in their middle, the mean over lines (lines, points)."""
    return float((lines[:, [0, -1]].mean(axis=1) - lines[:, lines.shape[1] // 2]).mean())


def plane_around(path: np.ndarray, points: int, margin: float = 0.25) -> list[np.ndarray]:
    """Coordinates (points,) along both sides of a rectangle that holds a path (T, 2).

    ``margin`` is what it leaves on each side, as a fraction of the longer extent of the path.
    """
    low, high = path.min(axis=0), path.max(axis=0)
    space = margin * (high - low).max()
    return [np.linspace(low[i] - space, high[i] + space, points) for i in range(2)]


def principal_path(snapshots: Sequence[Direction]) -> WeightsPath:
    """Principal directions of weights at T ≥ 3 times, by singular values of their differences from the last ones.

    All of it is NaN where a weight is not finite, as of a network that diverged.
    """
    flat = torch.stack([torch.cat([p.detach().flatten().float().cpu() for p in snapshot]) for snapshot in snapshots])
    differences = flat - flat[-1]
    # The small (T, T) matrix of scalar products has the same singular values and costs less than the large one's.
    products = (differences @ differences.T).double()
    if not products.isfinite().all():  # which eigh does not take
        products = torch.full_like(products, torch.nan)
        squares, vectors = products[0], products
    else:
        squares, vectors = torch.linalg.eigh(products)
    squares, vectors = squares.clamp(min=0).flip(0), vectors.flip(1)
    coordinates = vectors[:, :2] * squares[:2].sqrt()
    lengths = squares[:2, None].sqrt().clamp(min=1e-30)
    axes = (vectors[:, :2].T.float() @ differences) / lengths.float()  # (2, parameters)
    shapes = [p.shape for p in snapshots[-1]]
    sizes = [shape.numel() for shape in shapes]
    directions = [[part.reshape(shape) for part, shape in zip(axis.split(sizes), shapes, strict=True)] for axis in axes]
    share = (squares[:2] / squares.sum()).tolist()
    return WeightsPath(coordinates.numpy(), (share[0], share[1]), directions)


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.stack([torch.linalg.vector_norm(t) for t in tensors]).double().norm())
