"""The training loop, in plain sight."""

import copy
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
from cifarnb.data import Dataset, batches, epoch_generator, pad
from cifarnb.hardware import autocast, device_name, resolve_device, resolve_precision, synchronize
from cifarnb.metrics import evaluate
from cifarnb.runs import atomic_write

TIMED_STEPS = 20  # at the most, for the estimate of a run's time


def make_optimizer(model: nn.Module, config: Config) -> Optimizer:
    """PyTorch's fused SGD, Adam or AdamW over all parameters."""
    shared: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    if config.optimizer == "sgd":
        return SGD(model.parameters(), momentum=config.momentum, nesterov=config.nesterov, **shared)
    return {"adam": Adam, "adamw": AdamW}[config.optimizer](model.parameters(), **shared)


def make_schedule(optimizer: Optimizer, config: Config, steps_per_epoch: int) -> tuple[LRScheduler | None, bool]:
    """PyTorch's learning rate schedule (None: constant), and whether it is stepped per batch rather than per epoch."""
    if config.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=config.epochs), False
    if config.schedule == "one_cycle":
        return OneCycleLR(optimizer, config.lr, epochs=config.epochs, steps_per_epoch=steps_per_epoch), True
    return None, False


def fit(
    model: nn.Module, dataset: Dataset, config: Config, checkpoint: Path | None = None
) -> tuple[pd.DataFrame, np.ndarray, float]:
    """Train the model in place; returns the history per epoch, the loss of every step, and the wall time in seconds.

    History columns: epoch (from 1), train_loss and train_accuracy (means over the epoch's batches as they were trained
    on, in train mode), test_loss and test_accuracy (after the epoch), lr (at the epoch's beginning), seconds (of the
    training pass, without the test) and images_per_s.  Losses are cross-entropies in nats; label smoothing counts in
    the training's alone.

    With ``checkpoint``, every finished epoch is saved there, and what is already there is gone on from.  Training
    stops early only when the loss is no longer finite.
    """
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    train_images, train_labels, test_images, test_labels = tensors_on(device, dataset, config)
    n = len(train_images)
    if config.augment:
        train_images = pad(train_images)
    steps_per_epoch = math.ceil(n / config.batch_size)
    optimizer = make_optimizer(model, config)
    schedule, per_step = make_schedule(optimizer, config, steps_per_epoch)

    history: list[dict[str, float]] = []
    losses: list[Tensor] = []  # one tensor (steps_per_epoch,) an epoch, on the CPU
    wall = 0.0
    if checkpoint and checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if schedule:
            schedule.load_state_dict(state["schedule"])
        history, wall = state["history"], state["wall"]
        losses = [part.cpu() for part in state["losses"]]
    epochs_left = config.epochs - len(history)
    if epochs_left:
        seconds = estimate_seconds(model, train_images, train_labels, len(test_images), config, device, precision)
        print(
            f"{config.model}, lr {config.lr:g}, seed {config.seed}: training {epochs_left} epochs of {n:,} images on "
            f"{device_name(device)} in {precision}, about {format_seconds(epochs_left * seconds)}",
            file=sys.stderr,
            flush=True,
        )
    bar = tqdm(
        total=config.epochs * steps_per_epoch,
        initial=len(history) * steps_per_epoch,
        desc=config.model,
        unit="step",
        leave=False,
        disable=not is_watched(),
        mininterval=0.5,
    )
    for epoch in range(len(history), config.epochs):
        started = time.perf_counter()
        epoch_losses = torch.zeros(steps_per_epoch, device=device)
        loss_sum = torch.zeros((), device=device)
        correct = torch.zeros((), dtype=torch.int64, device=device)
        lr = optimizer.param_groups[0]["lr"]
        model.train()
        generator = epoch_generator(config.seed, epoch)
        epoch_batches = batches(train_images, train_labels, config.batch_size, generator, augment=config.augment)
        for step, (images, labels) in enumerate(epoch_batches):
            with autocast(device, precision):
                logits = model(images).float()
            loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if schedule and per_step:
                schedule.step()
            epoch_losses[step] = loss.detach()
            loss_sum += loss.detach() * len(labels)
            correct += (logits.detach().argmax(1) == labels).sum()
            bar.update()
        if schedule and not per_step:
            schedule.step()
        synchronize(device)
        train_seconds = time.perf_counter() - started

        test_loss, test_accuracy = evaluate(model, test_images, test_labels, precision)
        history.append(
            {
                "epoch": epoch + 1,
                "train_loss": loss_sum.item() / n,
                "train_accuracy": correct.item() / n,
                "test_loss": test_loss,
                "test_accuracy": test_accuracy,
                "lr": lr,
                "seconds": train_seconds,
                "images_per_s": n / train_seconds,
            }
        )
        losses.append(epoch_losses.cpu())
        wall += time.perf_counter() - started
        bar.set_postfix(train_loss=f"{history[-1]['train_loss']:.3f}", test_accuracy=f"{test_accuracy:.1%}")
        if checkpoint:
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
        if not math.isfinite(history[-1]["train_loss"]):
            break
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


def estimate_seconds(
    model: nn.Module, images: Tensor, labels: Tensor, n_test: int, config: Config, device: torch.device, precision: str
) -> float:
    """Seconds that an epoch with its test is expected to take, from a few timed steps of a copy of the model."""
    model = copy.deepcopy(model).train()
    optimizer = make_optimizer(model, config)
    generator = torch.Generator().manual_seed(0)
    few = slice(0, TIMED_STEPS * config.batch_size)
    laps = []  # seconds of every step
    for batch, target in batches(images[few], labels[few], config.batch_size, generator, augment=config.augment):
        started = time.perf_counter()
        with autocast(device, precision):
            loss = F.cross_entropy(model(batch).float(), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        synchronize(device)
        laps.append(time.perf_counter() - started)
        if sum(laps[1:]) > 0.5:
            break
    step = float(np.median(laps[1:] or laps))  # the first is a warm-up
    steps = len(images) / config.batch_size + n_test / 3 / config.batch_size  # a test costs about a third of a step
    return step * steps


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
