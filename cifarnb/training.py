"""The training loop, in plain sight."""

import functools
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cifarnb.config import Config, ConfigError
from cifarnb.data import PADDING, Dataset, alternate_flips, draw, epoch_generator, normalize, pad, take_batch
from cifarnb.hardware import (
    autocast,
    replayed,
    resolve_device,
    resolve_precision,
    synchronize,
    working_on,
)
from cifarnb.landscape import along_gradient, principal_path, step_direction, walks
from cifarnb.metrics import loss_and_accuracy, predict, predict_with_views
from cifarnb.models import set_noise, set_whitening
from cifarnb.optimizers import Average, keep_lr_on, make_optimizer, make_schedule
from cifarnb.progress import Progress
from cifarnb.runs import RunError, WeightsPath, atomic_write, set_aside

WHITENED = 5000  # images that a whitening layer is made from
CHECKPOINT_SHARE = 0.02  # of the time, at the most, goes into writing checkpoints


class Trained(NamedTuple):
    """What training gives beside the weights.

    History columns: epoch (from 1), train_loss and train_accuracy (means over the epoch's batches as they were trained
    on, in train mode), test_loss and test_accuracy (after the epoch), lr (at the epoch's beginning), seconds (of the
    training pass, without the test), images_per_s, and with ``validation_size`` validation_loss and
    validation_accuracy; with ``tta`` tta_accuracy, of the last epoch alone (before that NaN).  Losses are
    cross-entropies in nats; label smoothing, another loss and an L1 penalty count in the training's alone.  With
    ``average_decay`` it is the averaged weights that are tested, and that the model has in the end.
    """

    history: pd.DataFrame  # a row an epoch
    losses: np.ndarray  # (steps,): the training loss of every step
    seconds: float  # wall time
    probes: pd.DataFrame | None  # a row a walk, step and what ``cifarnb.landscape.walks`` tells of it
    path: WeightsPath | None
    logits: Tensor  # (N, 10) float32, on the CPU: of the test images, after the last epoch
    tta_logits: Tensor | None = None  # the same with test-time augmentation


def fit(
    model: nn.Module,
    dataset: Dataset,
    config: Config,
    checkpoint: Path | None = None,
    *,
    stop_after: int | None = None,
    progress: bool = True,
) -> Trained:
    """Train the model in place; with ``checkpoint``, finished epochs are saved there, and gone on from.

    It stops early only when the loss is no longer finite, or after ``stop_after`` of the config's epochs, with the
    schedule of all.  ``probe_every`` and ``keep_path`` measure on the way; they change nothing in the training.
    ``progress`` says how long it will take.  Raises ConfigError if the images held out leave none to train on.
    """
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    with working_on(device):
        data = {name: (x.to(device), y.to(device)) for name, (x, y) in split(dataset, config).items()}
        batches = Batches(*data["train"], config)
        loop = prepare(model, config, data["train"][0], len(batches.sizes), checkpoint)
        images = {name: len(labels) for name, (_, labels) in data.items()}
        said = Progress(config, device, precision, images, done=len(loop.history), shown=progress)

        def forward(size: int, precision: str) -> tuple[Tensor, Tensor, Tensor]:
            images, labels = batches.take(size)
            with autocast(device, precision):
                logits = model(images).float()
            return training_loss(model, logits, labels, config), logits, labels

        def train_step(size: int) -> None:
            loss, logits, labels = forward(size, precision)
            loop.optimizer.zero_grad()
            loss.backward()
            loop.optimizer.step()
            loop.update_average()
            batches.count(loss, logits, labels)

        advance = recorded(train_step, loop, shown=progress)
        for epoch in range(len(loop.history), min(stop_after or config.epochs, config.epochs)):
            begin_epoch(loop, batches)
            said.before_epoch(loop.history)
            for step, size in enumerate(batches.sizes, start=epoch * len(batches.sizes)):
                if config.probe_every and step % config.probe_every == 0:
                    loop.probes += probe(loop, step, functools.partial(forward, size, "float32"))
                    said.after_walks()
                advance(size)
                if loop.schedule and loop.per_step:
                    loop.schedule.step()
                said.after_step()
            if loop.schedule and not loop.per_step:
                loop.schedule.step()
            measure(loop, batches, data, precision)
            if not math.isfinite(loop.history[-1]["train_loss"]):
                break
            loop.save()
        said.bar.close()
        return result(loop)


def training_loss(model: nn.Module, logits: Tensor, labels: Tensor, config: Config) -> Tensor:
    """What is minimised, of logits (N, 10) and labels (N,): the mean of the config's loss, and its L1 penalty."""
    if config.loss == "mse":
        target = F.one_hot(labels, logits.shape[1]).to(logits)
        loss = (logits - target).square().sum(1).mean()
    else:
        loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
    if config.l1:
        weights = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
        loss = loss + config.l1 * torch.stack([p.abs().sum() for p in weights]).sum().to(loss)
    return loss


@dataclass
class Loop:
    """The state of the training loop; ``save`` and ``load`` keep what an interrupted run needs to go on."""

    model: nn.Module
    config: Config
    device: torch.device
    optimizer: Optimizer
    schedule: LRScheduler | None
    per_step: bool  # whether the schedule is stepped per batch
    average: Average | None = None  # of the model, over the steps
    checkpoint: Path | None = None
    history: list[dict[str, float]] = field(default_factory=list)  # a row an epoch
    losses: list[Tensor] = field(default_factory=list)  # one tensor (steps,) an epoch, on the CPU
    probes: list[dict[str, Any]] = field(default_factory=list)  # a row a walk
    snapshots: list[list[Tensor]] = field(default_factory=list)  # of the parameters, on the CPU
    wall: float = 0.0  # seconds of all epochs
    started: float = 0.0  # when the epoch began
    lr: float = 0.0  # at that time
    logits: Tensor = field(default_factory=lambda: torch.empty(0, 10))  # (N, 10) of the test images
    tta_logits: Tensor | None = None  # the same with test-time augmentation, after the last epoch
    saved: float = field(default_factory=lambda: time.perf_counter())  # when the last checkpoint was written
    saving: float = 0.0  # how long that took

    @property
    def result(self) -> nn.Module:
        """The model that is tested."""
        return self.average.model if self.average else self.model

    def update_average(self) -> None:
        """Take the weights after a step into their average, where there is one."""
        if self.average:
            self.average.update(self.model)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        averaged = {"average": self.average.state_dict()} if self.average else {}
        return averaged | {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict() if self.schedule else None,
            "history": self.history,
            "losses": self.losses,
            "probes": self.probes,
            "snapshots": self.snapshots,
            "wall": self.wall,
        }

    def save(self) -> None:
        """Write the checkpoint, unless that would take more than CHECKPOINT_SHARE of the time, or all is done."""
        now, done = time.perf_counter(), len(self.history) == self.config.epochs
        if not self.checkpoint or done or now - self.saved < self.saving / CHECKPOINT_SHARE:
            return
        try:
            with atomic_write(self.checkpoint) as part:
                torch.save(self.state(), part)
        except (OSError, RuntimeError) as error:  # torch tells of a full disk as a RuntimeError
            print(f"{self.checkpoint}: cannot be saved ({error}); training goes on", file=sys.stderr, flush=True)
        self.saved = time.perf_counter()
        self.saving = self.saved - now

    def load(self) -> None:
        """Go on from the checkpoint, if there is one; one that is damaged or of another layout is set aside.

        Raises RunError for one that cannot be read here and now.
        """
        if not self.checkpoint or not self.checkpoint.exists():
            return
        try:
            state = dict(torch.load(self.checkpoint, map_location=self.device, weights_only=True))
            if _layout(state) != _layout(self.state()):
                raise ValueError("it has another layout")
        except (MemoryError, torch.OutOfMemoryError):  # it may be whole
            raise
        except OSError as error:  # so may this one
            raise RunError(f"{self.checkpoint}: cannot be read ({error.strerror or error})") from None
        except Exception as error:  # what unpickling a damaged file raises has no common base
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(
                f"{set_aside(self.checkpoint)}: a damaged checkpoint ({reason}); training begins anew", file=sys.stderr
            )
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        keep_lr_on(self.device, self.optimizer)  # the checkpoint may come from another device
        if self.schedule:
            self.schedule.load_state_dict(state["schedule"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.history, self.wall = state["history"], state["wall"]
        self.losses = [part.cpu() for part in state["losses"]]
        first = {"step": 0, "along": self.config.probe_along[0]}  # rows from before walks had directions lack it
        self.probes = [first | row for row in state["probes"]]
        self.snapshots = [[p.cpu() for p in snapshot] for snapshot in state["snapshots"]]


def _layout(state: dict[str, Any]) -> tuple[Any, ...]:
    """What two checkpoints must have in common, if the one is to go on from the other."""
    return state.keys(), {name: tensor.shape for name, tensor in state["model"].items()}


class Batches:
    """An epoch's batches, and what training on them gave.

    What changes from step to step is on the device: so nothing waits for the CPU, and a GPU can replay the step.
    """

    def __init__(self, images: Tensor, labels: Tensor, config: Config) -> None:
        n, device, batch_size = len(labels), labels.device, config.batch_size
        self.images, self.labels, self.config = images, labels, config
        if config.augment:
            self.images = pad(images, config.reflect_padding)
        self.sizes = [min(batch_size, n - start) for start in range(0, n, batch_size)]
        rows = 6 if config.cutout else 4
        self.drawn = torch.empty(rows, n, dtype=torch.int64, device=device)  # the epoch's random numbers
        self.position = torch.zeros(1, dtype=torch.int64, device=device)  # how many images have had their turn
        self.losses = torch.empty(len(self.sizes), device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)

    def shuffle(self, epoch: int) -> torch.Generator:
        """Begin an epoch (from 0): order and augmentation are drawn anew; returns what they are drawn from."""
        n, config = len(self.labels), self.config
        padding = config.reflect_padding or PADDING
        generator = epoch_generator(config.seed, epoch)
        drawn = draw(n, generator, padding, config.cutout)
        if config.alternate_flips:
            alternate_flips(drawn, draw(n, epoch_generator(config.seed, 0), padding), epoch)
        self.drawn.copy_(drawn)
        self.position.zero_()
        self.correct.zero_()
        return generator

    def take(self, size: int) -> tuple[Tensor, Tensor]:
        """The epoch's next images (size, 3, 32, 32), normalised, and labels (size,); ``count`` moves on from them."""
        here = self.position + torch.arange(size, device=self.labels.device)
        drawn, config = self.drawn[:, here], self.config
        return take_batch(self.images, self.labels, drawn, augment=config.augment, cutout=config.cutout)

    def count(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Note how a step went, and move on to the next batch."""
        self.losses.index_copy_(0, self.position // self.config.batch_size, loss.detach()[None])
        self.correct.add_((logits.detach().argmax(1) == labels).sum())
        self.position.add_(len(labels))


def prepare(model: nn.Module, config: Config, images: Tensor, steps_per_epoch: int, checkpoint: Path | None) -> Loop:
    """The loop before its first epoch, or where its checkpoint leaves off; the model is moved to the images' device."""
    device = images.device
    set_whitening(model, normalize(images[:WHITENED]))
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, config)
    keep_lr_on(device, optimizer)
    schedule, per_step = make_schedule(optimizer, config, steps_per_epoch)
    average = Average(model, config.average_decay) if config.average_decay else None
    loop = Loop(model, config, device, optimizer, schedule, per_step, average, checkpoint)
    loop.load()
    if config.keep_path and not loop.snapshots:
        loop.snapshots.append(snapshot(model))
    return loop


def recorded(train_step: Callable[[int], None], loop: Loop, *, shown: bool) -> Callable[[int], None]:
    """The step, replayed from a CUDA graph where that can be.

    A record would repeat what the CPU decides anew at each step: noise, and the momentum under one_cycle.
    """
    if loop.config.schedule != "one_cycle" and not set_noise(loop.model, torch.Generator()):
        return replayed(train_step, loop.device)
    if shown and loop.device.type == "cuda":
        print(f"{loop.config.model}: trained without CUDA graphs, because of noise or one_cycle", file=sys.stderr)
    return train_step


def begin_epoch(loop: Loop, batches: Batches) -> None:
    """Draw the epoch's random numbers, and set the model to train."""
    loop.started, loop.lr = time.perf_counter(), float(loop.optimizer.param_groups[0]["lr"])
    set_noise(loop.model, batches.shuffle(len(loop.history)))
    loop.model.train()


def probe(loop: Loop, step: int, forward: Callable[[], tuple[Tensor, Tensor, Tensor]]) -> list[dict[str, Any]]:
    """The walks from the weights before a step, one in each direction that the config names: rows of the probes.

    ``forward`` is in float32, because bfloat16 would round away what a short walk changes.
    """
    makers = {"gradient": along_gradient, "step": step_direction(loop.optimizer, loop.model)}
    directions = {str(name): makers[name] for name in loop.config.probe_along}
    alphas = np.linspace(0.5, 4, loop.config.probe_points) * float(loop.optimizer.param_groups[0]["lr"])
    measured = walks(loop.model, lambda: forward()[0], alphas.tolist(), directions)
    return [{"step": step, **row} for row in measured]


def measure(loop: Loop, batches: Batches, data: dict[str, tuple[Tensor, Tensor]], precision: str) -> None:
    """At the end of an epoch: test, and add to the loop's history, losses and snapshots."""
    synchronize(loop.device)
    seconds, n = time.perf_counter() - loop.started, len(batches.labels)
    (test_images, test_labels), (held_out_images, held_out_labels) = data["test"], data["validation"]
    loop.logits = predict(loop.result, test_images, precision)
    test_loss, test_accuracy = loss_and_accuracy(loop.logits, test_labels)
    loop.losses.append(batches.losses.cpu().clone())
    if loop.config.keep_path:
        loop.snapshots.append(snapshot(loop.result))
    row = {
        "epoch": len(loop.history) + 1,
        "train_loss": (loop.losses[-1].double() @ torch.tensor(batches.sizes).double()).item() / n,
        "train_accuracy": batches.correct.item() / n,
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
        "lr": loop.lr,
        "seconds": seconds,
        "images_per_s": n / seconds,
    }
    if len(held_out_labels):
        found = loss_and_accuracy(predict(loop.result, held_out_images, precision), held_out_labels)
        row |= dict(zip(("validation_loss", "validation_accuracy"), found, strict=True))
    if loop.config.tta and row["epoch"] == loop.config.epochs:
        loop.tta_logits = predict_with_views(loop.result, test_images, precision)
        row["tta_accuracy"] = loss_and_accuracy(loop.tta_logits, test_labels)[1]
    loop.history.append(row)
    loop.wall += time.perf_counter() - loop.started


def snapshot(model: nn.Module) -> list[Tensor]:
    """The parameters as they are now, on the CPU."""
    return [p.detach().cpu().clone() for p in model.parameters()]


def result(loop: Loop) -> Trained:
    """What a loop that has ended gives beside the weights, which the model gets."""
    if loop.average:
        loop.model.load_state_dict(loop.average.model.state_dict())
    return Trained(
        history=pd.DataFrame(loop.history),
        losses=torch.cat(loop.losses).numpy(),
        seconds=loop.wall,
        probes=pd.DataFrame(loop.probes) if loop.config.probe_every else None,
        path=principal_path(loop.snapshots) if loop.config.keep_path else None,
        logits=loop.logits.cpu(),
        tta_logits=None if loop.tta_logits is None else loop.tta_logits.cpu(),
    )


def split(dataset: Dataset, config: Config) -> dict[str, tuple[Tensor, Tensor]]:
    """Images (N, 32, 32, 3) and labels (N,) to train on, for validation and to test on, as the config asks for them.

    ``train`` and ``test`` are the first so many, where 0, or more than there are, takes all; ``validation`` are the
    last ``validation_size`` of the former, which are not trained on.  Raises ConfigError if none are left.
    """
    there = len(dataset.train_images)
    end = min(config.train_size or there, there)
    n = end - config.validation_size
    if n < 1:
        raise ConfigError(f"validation_size: {config.validation_size:,} of {end:,} images leave none to train on")
    test_size = config.test_size or len(dataset.test_images)
    return {
        "train": (dataset.train_images[:n], dataset.train_labels[:n]),
        "validation": (dataset.train_images[n:end], dataset.train_labels[n:end]),
        "test": (dataset.test_images[:test_size], dataset.test_labels[:test_size]),
    }
