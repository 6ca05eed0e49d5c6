"""Slow and plain: what the library does fast, image by image and without anything shared with it, to compare with."""

import math

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from torch import nn

from cifarnb.data import epoch_generator
from cifarnb.models import build_model


def transformed(image):
    """The usual ToTensor and Normalize of one image (32, 32, 3)."""
    return TF.normalize(TF.to_tensor(image.numpy()), [0.5] * 3, [0.5] * 3)


def epoch_batches(images, labels, batch_size, generator, augment):
    """The epoch image by image, from the same random numbers and the images without padding."""
    n = len(images)
    order = torch.randperm(n, generator=generator).tolist()
    tops, lefts = torch.randint(0, 9, (2, n), generator=generator).tolist()
    flips = (torch.rand(n, generator=generator) < 0.5).tolist()
    for start in range(0, n, batch_size):
        batch = []
        for i in range(start, min(start + batch_size, n)):
            image = transformed(images[order[i]])
            if augment:
                image = TF.crop(TF.pad(image, [4], fill=-1), tops[i], lefts[i], 32, 32)  # black is -1
                image = TF.hflip(image) if flips[i] else image
            batch.append(image)
        yield torch.stack(batch), labels[order[start : start + batch_size]]


class InFloat64(nn.Module):
    """A network of that config that computes in float64, where rounding is too small to grow within a test.

    It takes an image by its 256 levels and returns logits in float32: what other functions round, it makes the same.
    """

    def __init__(self, config):
        super().__init__()
        self.network = build_model(config.model, config.seed, config.width).double()

    def forward(self, x):
        levels = ((x.double() + 1) * 127.5).round()
        return self.network(levels / 127.5 - 1).float()


def train(config, dataset, model=None):
    """Train in a plain float32 loop with PyTorch's unfused optimizers and the schedule by its formula.

    Returns the losses and the model, which lies in memory as the engine's: what is left to differ is rounding.
    """
    model = model or build_model(config.model, config.seed, config.width)
    model.to(memory_format=torch.channels_last)
    decay = config.weight_decay
    match config.optimizer:
        case "sgd":
            optimizer = torch.optim.SGD(
                model.parameters(), config.lr, config.momentum, nesterov=config.nesterov, weight_decay=decay,
                foreach=False,
            )  # fmt: skip
        case "adam":
            optimizer = torch.optim.Adam(model.parameters(), config.lr, weight_decay=decay, foreach=False)
        case "adamw":
            optimizer = torch.optim.AdamW(model.parameters(), config.lr, weight_decay=decay, foreach=False)
    images = dataset.train_images[: config.train_size or None]
    labels = dataset.train_labels[: config.train_size or None]
    per_epoch = math.ceil(len(images) / config.batch_size)
    schedule = None
    if config.schedule == "one_cycle":
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.epochs * per_epoch)
    losses = []
    for epoch in range(config.epochs):
        if config.schedule == "cosine":
            optimizer.param_groups[0]["lr"] = config.lr * (1 + math.cos(math.pi * epoch / config.epochs)) / 2
        generator = epoch_generator(config.seed, epoch)
        for x, y in epoch_batches(images, labels, config.batch_size, generator, config.augment):
            model.train()
            loss = F.cross_entropy(model(x), y, label_smoothing=config.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if schedule:
                schedule.step()
            losses.append(loss.item())
    return np.array(losses), model
