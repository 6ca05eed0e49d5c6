"""The training loop, in plain sight."""

import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython import get_ipython
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR
from tqdm.auto import tqdm

from cifarnb.config import Config
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
from cifarnb.metrics import evaluate
from cifarnb.runs import atomic_write

CHECKPOINT_SHARE = 0.02  # of the time, at the most, goes into writing checkpoints
SETTLED = 5  # steps after which the time of a step is typical


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
    model: nn.Module, dataset: Dataset, config: Config, checkpoint: Path | None = None, *, progress: bool = True
) -> tuple[pd.DataFrame, np.ndarray, float]:
    """Train the model in place; returns the history per epoch, the loss of every step, and the wall time in seconds.

    History columns: epoch (from 1), train_loss and train_accuracy (means over the epoch's batches as they were trained
    on, in train mode), test_loss and test_accuracy (after the epoch), lr (at the epoch's beginning), seconds (of the
    training pass, without the test) and images_per_s.  Losses are cross-entropies in nats; label smoothing counts in
    the training's alone.

    With ``checkpoint``, finished epochs are saved there (every one, unless writing takes more than CHECKPOINT_SHARE of
    the time), and what is already there is gone on from.  Training stops early only when the loss is no longer finite.
    ``progress`` announces the time that it will take, and shows a bar where somebody watches.
    """
    device = resolve_device(config.device)
    with working_on(device):
        return _fit(model, dataset, config, checkpoint, device, progress)


def _fit(
    model: nn.Module, dataset: Dataset, config: Config, checkpoint: Path | None, device: torch.device, progress: bool
) -> tuple[pd.DataFrame, np.ndarray, float]:
    precision = resolve_precision(config.precision, device)
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    train_images, train_labels, test_images, test_labels = tensors_on(device, dataset, config)
    n = len(train_images)
    if config.augment:
        train_images = pad(train_images)
    steps_per_epoch = math.ceil(n / config.batch_size)
    optimizer = make_optimizer(model, config)
    keep_lr_on(device, optimizer)
    schedule, per_step = make_schedule(optimizer, config, steps_per_epoch)

    history: list[dict[str, float]] = []
    losses: list[Tensor] = []  # one tensor (steps_per_epoch,) an epoch, on the CPU
    wall = 0.0
    if checkpoint and checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        keep_lr_on(device, optimizer)  # the checkpoint may come from another device
        if schedule:
            schedule.load_state_dict(state["schedule"])
        history, wall = state["history"], state["wall"]
        losses = [part.cpu() for part in state["losses"]]

    # What changes from step to step is on the device: so nothing waits for the CPU, and a GPU can replay the step.
    drawn = torch.empty(4, n, dtype=torch.int64, device=device)  # the epoch's random numbers
    position = torch.zeros(1, dtype=torch.int64, device=device)  # how many of the epoch's images have had their turn
    epoch_losses = torch.empty(steps_per_epoch, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)

    def train_step(size: int) -> None:
        """Train on the epoch's next ``size`` images."""
        here = position + torch.arange(size, device=device)
        images, labels = take_batch(train_images, train_labels, drawn[:, here], augment=config.augment)
        with autocast(device, precision):
            logits = model(images).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        epoch_losses.index_copy_(0, position // config.batch_size, loss.detach()[None])
        correct.add_((logits.detach().argmax(1) == labels).sum())
        position.add_(size)

    if per_step and device.type == "cuda":
        print(f"{config.model}: no CUDA graphs, because {config.schedule} changes the momentum", file=sys.stderr)
    advance = train_step if per_step else replayed(train_step, device)

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
    for epoch in range(len(history), config.epochs):
        started = time.perf_counter()
        lr = float(optimizer.param_groups[0]["lr"])
        drawn.copy_(draw(n, epoch_generator(config.seed, epoch)))
        position.zero_()
        correct.zero_()
        model.train()
        for step in range(steps_per_epoch):
            if not announced and step == first_timed:
                synchronize(device)
                clock = time.perf_counter()
            advance(min(config.batch_size, n - step * config.batch_size))
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

        test_loss, test_accuracy = evaluate(model, test_images, test_labels, precision)
        losses.append(epoch_losses.cpu().clone())
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
                "wall": wall,
            }
            with atomic_write(checkpoint) as part:
                torch.save(state, part)
            saved = time.perf_counter()
            saving = saved - now
    bar.close()
    return pd.DataFrame(history), torch.cat(losses).numpy(), wall


def tensors_on(device: torch.device, dataset: Dataset, config: Config) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Train images (N, 32, 32, 3) and labels (N,), test images and labels, on the device; as many as the config says.

    A size of 0, or one above what there is, takes all.
    """
    n_train = config.train_size or len(dataset.train_images)
    n_test = config.test_size or len(dataset.test_images)
    train = (dataset.train_images[:n_train].to(device), dataset.train_labels[:n_train].to(device))
    test = (dataset.test_images[:n_test].to(device), dataset.test_labels[:n_test].to(device))
    return *train, *test


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
