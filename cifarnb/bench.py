"""How fast the engine trains, in one process and by turns with the loop that everybody writes."""

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import joblib
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR10, VisionDataset

from cifarnb.config import Config
from cifarnb.data import CIFAR10_CLASSES, PADDING, Dataset
from cifarnb.hardware import (
    device_name,
    resolve_device,
    resolve_precision,
    synchronize,
    time_matrix_product,
    working_on,
)
from cifarnb.models import build_model, count_operations
from cifarnb.report.sections import configs
from cifarnb.training import fit

EPOCH = 50_000  # images
ROUND_SECONDS = 1.5  # that each loop trains in a round, about


@dataclass(frozen=True)
class Measurement:
    """One network: medians over the rounds, and in a ``_range`` the smallest and the largest."""

    model: str
    device: str  # with its name
    precision: str  # of the engine; the usual loop computes in float32
    batch_size: int
    rounds: int
    images_per_s: float
    images_per_s_range: tuple[float, float]
    baseline_images_per_s: float
    baseline_images_per_s_range: tuple[float, float]
    ratio: float  # of the two in one round
    ratio_range: tuple[float, float]
    seconds_per_epoch: float  # of 50,000 images, without the test
    startup_seconds: float  # by which the first epoch of a run is longer: choosing kernels, recording graphs
    tflops: float  # 10¹² operations a second, two for every multiply-add, forward and (twice as many) backward
    peak_tflops: float  # of matrix products of this precision on this device
    share_of_peak: float
    peak_memory_bytes: int  # GPU: allocated by the engine; CPU: resident in the process while the engine trains


class _InMemory(CIFAR10):
    """torchvision's CIFAR10 on arrays instead of files."""

    def __init__(self, dataset: Dataset, transform: Callable[..., Any]) -> None:
        VisionDataset.__init__(self, "", transform=transform)
        self.data, self.targets = dataset.train_images.numpy(), dataset.train_labels.tolist()


def measure(name: str, batch_size: int, rounds: int, tick: Callable[[], object]) -> Measurement:
    """Measure a network; ``tick`` is called after every round.

    Optimizer and augmentation are those of the report's full profile.  The images are noise: they cost what others do.
    """
    device = resolve_device()
    config = configs(name, "full")[0].replace(batch_size=batch_size, device=device.type)
    precision = resolve_precision(config.precision, device)
    engine_steps, usual_steps = _calibrate(config)
    engine, usual, startup, memory = [], [], [], []
    for _ in range(rounds):
        _reset_peak_memory(device)
        speed, extra = time_engine(config, engine_steps)
        memory.append(_peak_memory(device))
        engine.append(speed)
        startup.append(extra)
        usual.append(time_usual_loop(config, usual_steps))
        tick()
    ratios = [a / b for a, b in zip(engine, usual, strict=True)]
    tflops = median(engine) * count_operations(build_model(name)) / 1e12
    peak = time_matrix_product(device, precision)
    return Measurement(
        model=name,
        device=device_name(device),
        precision=precision,
        batch_size=batch_size,
        rounds=rounds,
        images_per_s=median(engine),
        images_per_s_range=(min(engine), max(engine)),
        baseline_images_per_s=median(usual),
        baseline_images_per_s_range=(min(usual), max(usual)),
        ratio=median(ratios),
        ratio_range=(min(ratios), max(ratios)),
        seconds_per_epoch=EPOCH / median(engine),
        startup_seconds=median(startup),
        tflops=tflops,
        peak_tflops=peak,
        share_of_peak=tflops / peak,
        peak_memory_bytes=max(memory),
    )


def time_engine(config: Config, steps: int) -> tuple[float, float]:
    """Images per second of ``fit`` in its second epoch, of so many steps, and seconds that the first took longer."""
    dataset = _noise(steps * config.batch_size)
    config = config.replace(epochs=2, train_size=0)
    trained = fit(build_model(**config.network()), dataset, config, progress=False)
    first, second = trained.history["seconds"]
    return steps * config.batch_size / second, max(0.0, first - second)


def time_usual_loop(config: Config, steps: int) -> float:
    """Images per second of the loop that everybody writes, over so many steps after its first.

    torchvision's data set and transforms on PIL images, a DataLoader with workers, eager float32, and the loss read
    every step.
    """
    device = resolve_device(config.device)
    augmentation = [transforms.RandomCrop(32, padding=PADDING), transforms.RandomHorizontalFlip()]
    transform = transforms.Compose(
        [
            *(augmentation if config.augment else []),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ]
    )
    dataset = _InMemory(_noise((steps + 1) * config.batch_size), transform)
    workers = min(4, joblib.cpu_count())
    loader: DataLoader[Any] = DataLoader(
        dataset, config.batch_size, shuffle=True, num_workers=workers, pin_memory=device.type == "cuda"
    )
    model = build_model(config.model).to(device).train()
    optimizer: torch.optim.Optimizer
    if config.optimizer in ("sgd", "muon"):  # everybody has no Muon
        optimizer = torch.optim.SGD(model.parameters(), config.lr, config.momentum)
    else:
        optimizer = torch.optim.Adam(model.parameters(), config.lr)
    total = 0.0
    started = None
    with working_on(device):
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
            started = started or time.perf_counter()  # the first batch waits for the workers to start
        synchronize(device)
    assert started is not None
    return steps * config.batch_size / (time.perf_counter() - started)


def table(measurements: Sequence[Measurement]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row of text for every measurement."""
    headings = ["model", "images/s", "usual loop", "ratio", "s/epoch", "start, s", "TFLOP/s", "of peak", "memory"]
    rows = [
        [
            m.model,
            f"{m.images_per_s:,.0f} ({_range(m.images_per_s_range, ',.0f')})",
            f"{m.baseline_images_per_s:,.0f} ({_range(m.baseline_images_per_s_range, ',.0f')})",
            f"{m.ratio:.2f} ({_range(m.ratio_range, '.2f')})",
            f"{m.seconds_per_epoch:.3g}",
            f"{m.startup_seconds:.1f}",
            f"{m.tflops:.3g}",
            f"{m.share_of_peak:.0%}",
            f"{m.peak_memory_bytes / 2**20:,.0f} MiB",
        ]
        for m in measurements
    ]
    return headings, rows


def _calibrate(config: Config) -> tuple[int, int]:
    """Steps for a round of the engine and of the usual loop."""
    steps = []
    for speed in (time_engine(config, 4)[0], time_usual_loop(config, 4)):
        wanted = int(ROUND_SECONDS * speed / config.batch_size)
        steps.append(min(max(wanted, 4), EPOCH // config.batch_size))
    return steps[0], steps[1]


def _noise(n: int) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 32, 32, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (n,), generator=generator)
    return Dataset(images, labels, images[:1], labels[:1], CIFAR10_CLASSES, "noise", canonical=False, fingerprint="")


def _reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # Linux alone knows how; elsewhere the peak is that of the whole process
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def _range(ends: tuple[float, float], form: str) -> str:
    return "–".join(format(end, form) for end in ends)
