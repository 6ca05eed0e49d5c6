"""The training loop, in plain sight."""

import functools
import math
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython import get_ipython
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR
from tqdm.auto import tqdm

from cifarnb.config import Config, ConfigError
from cifarnb.data import Dataset, draw, epoch_generator, pad, take_batch
from cifarnb.hardware import (
    autocast,
    device_name,
    replayed,
    resolve_device,
    resolve_precision,
    synchronize,
    working_on,
)
from cifarnb.landscape import along_gradient, principal_path, step_direction, walks
from cifarnb.metrics import loss_and_accuracy, predict
from cifarnb.models import set_noise
from cifarnb.runs import WeightsPath, atomic_write, set_aside

CHECKPOINT_SHARE = 0.02  # of the time, at the most, goes into writing checkpoints
SETTLED = 5  # steps after which the time of a step is typical


class Trained(NamedTuple):
    """What training gives beside the weights."""

    history: pd.DataFrame  # a row an epoch
    losses: np.ndarray  # (steps,): the training loss of every step
    seconds: float  # wall time
    probes: pd.DataFrame | None  # a row a walk, step and what ``cifarnb.landscape.walks`` tells of it
    path: WeightsPath | None
    logits: Tensor  # (N, 10) float32, on the CPU: of the test images, after the last epoch


def make_optimizer(model: nn.Module, config: Config) -> Optimizer:
    """PyTorch's fused SGD, Adam or AdamW over all parameters."""
    shared: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    if config.optimizer == "sgd":
        return SGD(model.parameters(), momentum=config.momentum, nesterov=config.nesterov, **shared)
    return {"adam": Adam, "adamw": AdamW}[config.optimizer](model.parameters(), **shared)


def keep_lr_on(device: torch.device, optimizer: Optimizer) -> None:
    """On a GPU the learning rate becomes a tensor there, which a recorded step reads anew each time."""
    on_gpu = device.type == "cuda"
    for group in optimizer.param_groups:
        lr = float(group["lr"])
        group["lr"] = torch.tensor(lr, device=device) if on_gpu else lr
        if "capturable" in group:  # Adam's; SGD's step can always be recorded
            group["capturable"] = on_gpu


def make_schedule(optimizer: Optimizer, config: Config, steps_per_epoch: int) -> tuple[LRScheduler | None, bool]:
    """PyTorch's learning rate schedule (None: constant), and whether it is stepped per batch rather than per epoch."""
    if config.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=config.epochs), False
    if config.schedule == "one_cycle":
        return OneCycleLR(optimizer, config.lr, epochs=config.epochs, steps_per_epoch=steps_per_epoch), True
    return None, False


def fit(
    model: nn.Module,
    dataset: Dataset,
    config: Config,
    checkpoint: Path | None = None,
    *,
    stop_after: int | None = None,
    progress: bool = True,
) -> Trained:
    """Train the model in place.

    History columns: epoch (from 1), train_loss and train_accuracy (means over the epoch's batches as they were trained
    on, in train mode), test_loss and test_accuracy (after the epoch), lr (at the epoch's beginning), seconds (of the
    training pass, without the test), images_per_s, and with ``validation_size`` validation_loss and
    validation_accuracy.  Losses are cross-entropies in nats; label smoothing counts in the training's alone.  Raises
    ConfigError if the images held out leave none to train on.

    With ``checkpoint``, finished epochs are saved there (every one, unless writing takes more than CHECKPOINT_SHARE of
    the time), and what is already there is gone on from.  Training stops early only when the loss is no longer finite.
    ``stop_after`` ends it after so many of the config's epochs, with the schedule of all.
    ``probe_every`` and ``keep_path`` measure on the way, in float32; they change nothing in the training.
    ``progress`` announces the time that it will take, and shows a bar where somebody watches.
    """
    device = resolve_device(config.device)
    with working_on(device):
        return _fit(model, dataset, config, checkpoint, device, stop_after or config.epochs, progress)


def _fit(
    model: nn.Module,
    dataset: Dataset,
    config: Config,
    checkpoint: Path | None,
    device: torch.device,
    end: int,
    progress: bool,
) -> Trained:
    precision = resolve_precision(config.precision, device)
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parts = {name: [tensor.to(device) for tensor in part] for name, part in split(dataset, config).items()}
    (train_images, train_labels), (test_images, test_labels) = parts["train"], parts["test"]
    held_out_images, held_out_labels = parts["validation"]
    n = len(train_images)
    if config.augment:
        train_images = pad(train_images)
    steps_per_epoch = math.ceil(n / config.batch_size)
    optimizer = make_optimizer(model, config)
    keep_lr_on(device, optimizer)
    schedule, per_step = make_schedule(optimizer, config, steps_per_epoch)

    history: list[dict[str, float]] = []
    losses: list[Tensor] = []  # one tensor (steps_per_epoch,) an epoch, on the CPU
    probes: list[dict[str, Any]] = []
    snapshots: list[list[Tensor]] = []  # of the parameters, on the CPU
    wall = 0.0
    if checkpoint and (state := read_checkpoint(checkpoint, device)):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        keep_lr_on(device, optimizer)  # the checkpoint may come from another device
        if schedule:
            schedule.load_state_dict(state["schedule"])
        history, wall = state["history"], state["wall"]
        losses = [part.cpu() for part in state["losses"]]
        probes, snapshots = state["probes"], [[p.cpu() for p in snapshot] for snapshot in state["snapshots"]]

    # What changes from step to step is on the device: so nothing waits for the CPU, and a GPU can replay the step.
    drawn = torch.empty(4, n, dtype=torch.int64, device=device)  # the epoch's random numbers
    position = torch.zeros(1, dtype=torch.int64, device=device)  # how many of the epoch's images have had their turn
    epoch_losses = torch.empty(steps_per_epoch, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)

    def forward(size: int, precision: str) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, logits and labels of the epoch's next ``size`` images."""
        here = position + torch.arange(size, device=device)
        images, labels = take_batch(train_images, train_labels, drawn[:, here], augment=config.augment)
        with autocast(device, precision):
            logits = model(images).float()
        return F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing), logits, labels

    def exact_loss(size: int) -> Tensor:
        return forward(size, "float32")[0]  # bfloat16 would round away what a short walk changes

    def train_step(size: int) -> None:
        loss, logits, labels = forward(size, precision)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        epoch_losses.index_copy_(0, position // config.batch_size, loss.detach()[None])
        correct.add_((logits.detach().argmax(1) == labels).sum())
        position.add_(size)

    # A record would repeat what the CPU decides anew at each step: noise, and the momentum under one_cycle.
    plain = per_step or set_noise(model, torch.Generator())
    if plain and device.type == "cuda" and progress:
        print(f"{config.model}: trained without CUDA graphs, because of noise or one_cycle", file=sys.stderr)
    advance = train_step if plain else replayed(train_step, device)
    makers = {"gradient": along_gradient, "step": step_direction(optimizer)}
    directions = {str(name): makers[name] for name in config.probe_along}

    bar = tqdm(
        total=config.epochs * steps_per_epoch,
        initial=len(history) * steps_per_epoch,
        desc=config.model,
        unit="step",
        leave=False,
        disable=not (progress and is_watched()),
        mininterval=0.5,
    )
    epochs_left = config.epochs - len(history)
    # The time of a step, for the announcement: over these steps of the first epoch, or what there are of them.
    first_timed, last_timed = min(SETTLED, steps_per_epoch // 2), min(3 * SETTLED, steps_per_epoch)
    announced = not progress
    saved, saving = time.perf_counter(), 0.0  # when the last checkpoint was written, and how long that took
    for epoch in range(len(history), min(end, config.epochs)):
        started = time.perf_counter()
        lr = float(optimizer.param_groups[0]["lr"])
        generator = epoch_generator(config.seed, epoch)
        drawn.copy_(draw(n, generator))
        set_noise(model, generator)
        position.zero_()
        correct.zero_()
        model.train()
        if config.keep_path and not snapshots:
            snapshots.append([p.detach().cpu().clone() for p in model.parameters()])
        for step in range(steps_per_epoch):
            if not announced and step == first_timed:
                synchronize(device)
                clock = time.perf_counter()
            size = min(config.batch_size, n - step * config.batch_size)
            total_step = epoch * steps_per_epoch + step
            if config.probe_every and total_step % config.probe_every == 0:
                alphas = np.linspace(0.5, 4, config.probe_points) * float(optimizer.param_groups[0]["lr"])
                measured = walks(model, functools.partial(exact_loss, size), alphas.tolist(), directions)
                probes += [{"step": total_step, **row} for row in measured]
            advance(size)
            if schedule and per_step:
                schedule.step()
            bar.update()
            if not announced and step + 1 == last_timed:
                synchronize(device)
                step_seconds = (time.perf_counter() - clock) / (last_timed - first_timed)
                # A test costs about a third of training on as many images.
                seconds = step_seconds * (n + len(test_images) / 3) / config.batch_size * epochs_left
                print(
                    f"{config.model}, lr {config.lr:g}, seed {config.seed}: training {epochs_left} epochs of {n:,} "
                    f"images on {device_name(device)} in {precision}, about {format_seconds(seconds)}",
                    file=sys.stderr,
                    flush=True,
                )
                announced = True
        if schedule and not per_step:
            schedule.step()
        synchronize(device)
        train_seconds = time.perf_counter() - started

        logits = predict(model, test_images, precision)
        test_loss, test_accuracy = loss_and_accuracy(logits, test_labels)
        losses.append(epoch_losses.cpu().clone())
        if config.keep_path:
            snapshots.append([p.detach().cpu().clone() for p in model.parameters()])
        sizes = torch.full((steps_per_epoch,), config.batch_size)
        sizes[-1] = n - (steps_per_epoch - 1) * config.batch_size
        history.append(
            {
                "epoch": epoch + 1,
                "train_loss": (losses[-1].double() @ sizes.double()).item() / n,
                "train_accuracy": correct.item() / n,
                "test_loss": test_loss,
                "test_accuracy": test_accuracy,
                "lr": lr,
                "seconds": train_seconds,
                "images_per_s": n / train_seconds,
            }
        )
        if config.validation_size:
            found = loss_and_accuracy(predict(model, held_out_images, precision), held_out_labels)
            history[-1] |= dict(zip(("validation_loss", "validation_accuracy"), found, strict=True))
        wall += time.perf_counter() - started
        bar.set_postfix(train_loss=f"{history[-1]['train_loss']:.3f}", test_accuracy=f"{test_accuracy:.1%}")
        if not math.isfinite(history[-1]["train_loss"]):
            break
        now = time.perf_counter()
        if checkpoint and epoch + 1 < config.epochs and now - saved >= saving / CHECKPOINT_SHARE:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict() if schedule else None,
                "history": history,
                "losses": losses,
                "probes": probes,
                "snapshots": snapshots,
                "wall": wall,
            }
            try:
                with atomic_write(checkpoint) as part:
                    torch.save(state, part)
            except (OSError, RuntimeError) as error:  # torch tells of a full disk as a RuntimeError
                print(f"{checkpoint}: cannot be saved ({error}); training goes on", file=sys.stderr, flush=True)
            saved = time.perf_counter()
            saving = saved - now
    bar.close()
    return Trained(
        history=pd.DataFrame(history),
        losses=torch.cat(losses).numpy(),
        seconds=wall,
        probes=pd.DataFrame(probes) if config.probe_every else None,
        path=principal_path(snapshots) if config.keep_path else None,
        logits=logits.cpu(),
    )


def read_checkpoint(checkpoint: Path, device: torch.device) -> dict[str, Any] | None:
    """The state to go on from; None if there is none, or if it is damaged, which is said and set aside."""
    if not checkpoint.exists():
        return None
    try:
        return dict(torch.load(checkpoint, map_location=device, weights_only=True))
    except Exception as error:  # what unpickling a damaged file raises has no common base
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(f"{set_aside(checkpoint)}: a damaged checkpoint ({reason}); training begins anew", file=sys.stderr)
        return None


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


def is_watched() -> bool:
    """Whether a person sees a progress bar: in a terminal, or in a notebook whose front end can ask for input.

    Papermill and nbval execute notebooks, too, but have nobody to ask; there a bar would only fill the log.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    return bool(kernel._allow_stdin) if kernel else sys.stderr.isatty()


def format_seconds(seconds: float) -> str:
    """``45 s``, ``3.2 min`` or ``1.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
