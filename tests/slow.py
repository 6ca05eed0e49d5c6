"""Slow and plain: what the library does fast, image by image and without anything shared with it, to compare with."""

import math

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from torch import nn

from cifarnb.data import epoch_generator
from cifarnb.models import build_model, set_whitening


def transformed(image):
    """The usual ToTensor and Normalize of one image (32, 32, 3)."""
    return TF.normalize(TF.to_tensor(image.numpy()), [0.5] * 3, [0.5] * 3)


def epoch_batches(images, labels, batch_size, generator, augment, reflect=0, cutout=0, flipped=None):
    """The epoch image by image, from the same random numbers and the images without padding.

    ``flipped`` says of each image whether it is, in place of a random number.
    """
    n = len(images)
    order = torch.randperm(n, generator=generator).tolist()
    tops, lefts = torch.randint(0, 2 * (reflect or 4) + 1, (2, n), generator=generator).tolist()
    flips = (torch.rand(n, generator=generator) < 0.5).tolist()
    if flipped:
        flips = [flipped[which] for which in order]
    if cutout:
        rows, columns = torch.randint(0, 32 - cutout + 1, (2, n), generator=generator).tolist()
    for start in range(0, n, batch_size):
        batch = []
        for i in range(start, min(start + batch_size, n)):
            image = transformed(images[order[i]])
            if augment:
                # Black is -1.
                image = TF.pad(image, [reflect], padding_mode="reflect") if reflect else TF.pad(image, [4], fill=-1)
                image = TF.crop(image, tops[i], lefts[i], 32, 32)
                image = TF.hflip(image) if flips[i] else image
            if cutout:
                image = TF.erase(image, rows[i], columns[i], cutout, cutout, 0)
            batch.append(image)
        yield torch.stack(batch), labels[order[start : start + batch_size]]


class InFloat64(nn.Module):
    """A network of that config that computes in float64, where rounding is too small to grow within a test.

    It takes an image by its 256 levels and returns logits in float32: what other functions round, it makes the same.
    """

    def __init__(self, config):
        super().__init__()
        self.network = build_model(seed=config.seed, **config.network()).double()

    def forward(self, x):
        levels = ((x.double() + 1) * 127.5).round()
        return self.network(levels / 127.5 - 1).float()


def orthogonalized(matrix, coefficients=(3.4445, -4.7750, 2.0315)):
    """Three Newton–Schulz steps by the singular values of a matrix of NumPy's, each of which they change by itself."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / np.sqrt((values**2).sum())
    a, b, c = coefficients
    for _ in range(3):
        values = a * values + b * values**3 + c * values**5
    return left @ np.diag(values) @ right


class PlainMuon:
    """Muon in NumPy's float64: Nesterov's momentum, on filters made orthogonal and on a scaled weight."""

    def __init__(self, parameters, lr, momentum, decay, *, coefficients=(3.4445, -4.7750, 2.0315), others=6.9):
        self.parameters, self.lr, self.momentum, self.decay = [*parameters], lr, momentum, decay
        self.coefficients, self.others = coefficients, others
        self.buffers = [0.0] * len(self.parameters)
        self.param_groups = [{"lr": lr}]

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None

    def step(self):
        lr = self.param_groups[0]["lr"]
        for i, p in enumerate(self.parameters):
            w, g = (t.detach().double().numpy() for t in (p, p.grad))
            is_filter = w.ndim == 4
            momentum = self.momentum if is_filter else 0.85
            g = g if is_filter else g + self.decay * w
            self.buffers[i] = momentum * self.buffers[i] + g
            update = g + momentum * self.buffers[i]
            if is_filter:
                w = w * math.sqrt(len(w)) / np.sqrt((w**2).sum())
                w = w - lr * orthogonalized(update.reshape(len(w), -1), self.coefficients).reshape(w.shape)
            else:
                w = w - self.others * lr * update
            p.data.copy_(torch.from_numpy(w))


def make_optimizer(model, config):
    """PyTorch's unfused optimizers, with a group for what is decayed and one for what is not, and Muon in NumPy."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if config.optimizer == "muon":
        return PlainMuon(trained, config.lr, config.momentum, config.weight_decay)
    weights = [p for p in trained if config.decay_biases or p.dim() > 1]
    rest = [p for p in trained if not (config.decay_biases or p.dim() > 1)]
    groups = [{"params": weights, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0}]
    match config.optimizer:
        case "sgd":
            return torch.optim.SGD(groups, config.lr, config.momentum, nesterov=config.nesterov, foreach=False)
        case "adam":
            return torch.optim.Adam(groups, config.lr, foreach=False)
        case "adamw":
            return torch.optim.AdamW(groups, config.lr, foreach=False)
        case "rmsprop":
            return torch.optim.RMSprop(groups, config.lr, foreach=False)


def rate_at(step, steps, schedule):
    """The learning rate before a step, of the highest, where the schedule is made of straight lines."""
    shape = {"triangle": ([0, 0.23, 1], [0.2, 1, 0]), "linear": ([0, 1], [1, 0])}[schedule]
    return np.interp(step / steps, *shape)


def train(config, dataset, model=None):
    """Train in a plain float32 loop with PyTorch's unfused optimizers and the schedule by its formula.

    Returns the losses and the model, which lies in memory as the engine's: what is left to differ is rounding.
    """
    model = model or build_model(seed=config.seed, **config.network())
    set_whitening(
        model, torch.stack([transformed(image) for image in dataset.train_images[: config.train_size or None]])
    )
    model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, config)
    average = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = dataset.train_images[: config.train_size or None]
    labels = dataset.train_labels[: config.train_size or None]
    per_epoch = math.ceil(len(images) / config.batch_size)
    schedule = None
    if config.schedule == "one_cycle":
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.epochs * per_epoch)
    losses = []
    for epoch in range(config.epochs):
        if config.schedule == "cosine":
            for group in optimizer.param_groups:
                group["lr"] = config.lr * (1 + math.cos(math.pi * epoch / config.epochs)) / 2
        generator, flipped = epoch_generator(config.seed, epoch), None
        if config.alternate_flips:
            flipped = first_flips(len(images), config)
            flipped = [not flip for flip in flipped] if epoch % 2 else flipped
        augmentation = (config.augment, config.reflect_padding, config.cutout, flipped)
        for x, y in epoch_batches(images, labels, config.batch_size, generator, *augmentation):
            model.train()
            if config.schedule in ("triangle", "linear"):
                for group in optimizer.param_groups:
                    group["lr"] = config.lr * rate_at(len(losses), config.epochs * per_epoch, config.schedule)
            loss = loss_of(model(x), y, config)
            for p in (p for p in model.parameters() if p.requires_grad and p.dim() > 1):
                loss = loss + config.l1 * p.abs().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if schedule:
                schedule.step()
            losses.append(loss.item())
            decay = min(config.average_decay, (1 + len(losses)) / (10 + len(losses)))
            for name, tensor in model.state_dict().items():
                average[name] = tensor + decay * (average[name] - tensor) if tensor.is_floating_point() else tensor
    if config.average_decay:
        model.load_state_dict(average)
    return np.array(losses), model


def loss_of(logits, labels, config):
    """The mean of an image's loss, image by image."""
    if config.loss == "cross_entropy":
        return F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
    losses = []
    for row, label in zip(logits, labels.tolist(), strict=True):
        losses.append(sum((value - (1.0 if i == label else 0.0)) ** 2 for i, value in enumerate(row)))
    return torch.stack(losses).mean()


def first_flips(n, config):
    """Of each image, whether it is flipped in the first epoch."""
    generator = epoch_generator(config.seed, 0)
    order = torch.randperm(n, generator=generator).tolist()
    torch.randint(0, 2 * (config.reflect_padding or 4) + 1, (2, n), generator=generator)
    flips = (torch.rand(n, generator=generator) < 0.5).tolist()
    return [flip for _, flip in sorted(zip(order, flips, strict=True))]
