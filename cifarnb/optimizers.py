"""What moves the weights: optimizers, among them three of our own, their schedules, and the average over the steps."""

import copy
import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from cifarnb.config import Config

QUINTIC = (3.4445, -4.7750, 2.0315)  # steepest at 0, so that three steps do
# Of all that are no filters, with the network made for speed: their learning rate in that of the filters, and momentum.
OTHERS_RATE, OTHERS_MOMENTUM = 6.9, 0.85
TRIANGLE = (0.2, 0.23)  # of the highest rate at the beginning, and the share of the steps until the highest
WARM_UP = 10  # steps, about, that an average of the weights reaches back at the beginning


class _OfEachParameter(Optimizer):
    """An optimizer that moves each parameter by itself, which is what ``move`` does."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of all parameters that have a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.move(p, p.grad, group)

    def move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Move a parameter in place, by the settings of its group."""
        raise NotImplementedError

    def buffer(self, p: Tensor, name: str) -> Tensor:
        """What is remembered of a parameter from step to step, of its shape; zeros at the beginning."""
        if name not in self.state[p]:
            self.state[p][name] = torch.zeros_like(p)
        return self.state[p][name]


class OwnSGD(_OfEachParameter):
    """SGD with momentum μ from its formula: v ← μ·v + g, and w ← w − lr·v, where v is 0 at first.

    With Nesterov's momentum w ← w − lr·(g + μ·v).  Weight decay λ puts g + λ·w in place of the gradient g.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        nesterov: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov})

    def move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """One step."""
        gradient = gradient + group["weight_decay"] * p
        v = self.buffer(p, "momentum_buffer")
        v.mul_(group["momentum"]).add_(gradient)
        p.sub_(group["lr"] * (gradient + group["momentum"] * v if group["nesterov"] else v))


class OwnAdam(_OfEachParameter):
    """Adam from its formula (Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1).

    With the gradient g, at step t = 1, 2, …: m ← β₁·m + (1 − β₁)·g and v ← β₂·v + (1 − β₂)·g², both 0 at first, which
    m̂ = m / (1 − β₁ᵗ) and v̂ = v / (1 − β₂ᵗ) correct; then w ← w − lr·m̂ / (√v̂ + ε).
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    def move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """One step."""
        beta_1, beta_2 = group["betas"]
        m, v = self.buffer(p, "m"), self.buffer(p, "v")
        t = self.state[p]["t"] = self.state[p].get("t", 0) + 1
        m.mul_(beta_1).add_((1 - beta_1) * gradient)
        v.mul_(beta_2).add_((1 - beta_2) * gradient.square())
        m_hat, v_hat = m / (1 - beta_1**t), v / (1 - beta_2**t)
        p.sub_(group["lr"] * m_hat / (v_hat.sqrt() + group["eps"]))


class Muon(_OfEachParameter):
    """Momentum, made orthogonal by Newton–Schulz steps, for filters (out, in, h, w); SGD for all other parameters.

    Both with Nesterov's momentum.  A filter bank, as a matrix (out, in·h·w), is first scaled to the norm √out, so that
    ``lr`` is by how much of its size it is changed.  After K. Jordan's airbench and *Muon: An optimizer for hidden
    layers in neural networks* (2024).  Weight decay is for the other parameters, because that scaling undoes it.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | list[dict[str, Any]],
        lr: float,
        momentum: float,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """One step; only tensors change from step to step, so that a GPU can replay it."""
        is_filter = p.dim() == 4
        momentum = group["momentum"] if is_filter else OTHERS_MOMENTUM
        if not is_filter and group["weight_decay"]:
            gradient = gradient + group["weight_decay"] * p
        buffer = self.buffer(p, "momentum_buffer")
        buffer.mul_(momentum).add_(gradient)
        update = gradient + momentum * buffer
        if is_filter:
            p.mul_(len(p) ** 0.5 / torch.linalg.vector_norm(p))
            p.sub_(group["lr"] * orthogonalized(update.flatten(1)).view_as(p))
        else:
            p.sub_(OTHERS_RATE * group["lr"] * update)


def orthogonalized(matrix: Tensor, steps: int = 3) -> Tensor:
    """About the nearest matrix with orthonormal rows or columns: (m, n) → (m, n).

    By Newton–Schulz steps X ← aX + b(XXᵀ)X + c(XXᵀ)²X, which keep the singular vectors; three of them take singular
    values above 0.05, as a fraction of the norm, to between 0.7 and 1.2.
    """
    a, b, c = QUINTIC
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix  # the smaller products
    x = wide / torch.linalg.vector_norm(wide).clamp(min=1e-20)  # so no singular value is above 1
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Average:
    """The exponential moving average of a network over the steps: of its weights and of batch norm's statistics.

    At the beginning it reaches back over fewer steps, so that the initial weights do not stay in it.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = copy.deepcopy(model), decay
        self.steps = torch.zeros((), device=next(model.parameters()).device)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        self.steps.add_(1)
        share = ((WARM_UP - 1) / (WARM_UP + self.steps)).clamp(min=1 - self.decay)  # of the new weights
        for mean, new in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            mean.lerp_(new, share.to(new)) if new.is_floating_point() else mean.copy_(new)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"model": self.model.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.model.load_state_dict(state["model"])
        self.steps.copy_(state["steps"])


def make_optimizer(model: nn.Module, config: Config) -> Optimizer:
    """PyTorch's SGD, Adam, AdamW or RMSprop, or Muon, over all parameters that are trained."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": trained, "weight_decay": config.weight_decay}]
    if not config.decay_biases:
        groups[0]["params"] = [p for p in trained if p.dim() > 1]
        groups.append({"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0})
    match config.optimizer:
        case "muon":
            return Muon(groups, config.lr, config.momentum)
        case "sgd":
            return SGD(groups, config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=True)
        case "adam":
            return Adam(groups, config.lr, fused=True)
        case "adamw":
            return AdamW(groups, config.lr, fused=True)
        case "rmsprop":
            return RMSprop(groups, config.lr, foreach=True)


def keep_lr_on(device: torch.device, optimizer: Optimizer) -> None:
    """On a GPU the learning rate becomes a tensor there, which a recorded step reads anew each time."""
    on_gpu = device.type == "cuda"
    for group in optimizer.param_groups:
        lr = float(group["lr"])
        group["lr"] = torch.tensor(lr, device=device) if on_gpu else lr
        if "capturable" in group:  # Adam's and RMSprop's; the step of SGD and of Muon can always be recorded
            group["capturable"] = on_gpu


def make_schedule(optimizer: Optimizer, config: Config, steps_per_epoch: int) -> tuple[LRScheduler | None, bool]:
    """The learning rate schedule (None: constant), and whether it is stepped per batch rather than per epoch."""
    match config.schedule:
        case "cosine":
            return CosineAnnealingLR(optimizer, T_max=config.epochs), False
        case "one_cycle":
            return OneCycleLR(optimizer, config.lr, epochs=config.epochs, steps_per_epoch=steps_per_epoch), True
        case "linear" | "triangle":
            start, peak = TRIANGLE if config.schedule == "triangle" else (1.0, 0.0)
            shape = functools.partial(rate, steps=config.epochs * steps_per_epoch, start=start, peak=peak)
            return LambdaLR(optimizer, shape), True
    return None, False


def rate(step: int, steps: int, start: float, peak: float) -> float:
    """The rate before a step (from 0), of the highest: from ``start`` up to 1 at the share ``peak``, then down to 0."""
    done = step / steps
    return start + (1 - start) * done / peak if done < peak else (1 - done) / (1 - peak)
