"""What a report has still to train, and how long that takes on this machine; trains nothing of it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import torch

from cifarnb import experiment, runs
from cifarnb.config import Config
from cifarnb.data import Dataset
from cifarnb.hardware import on_threads, resolve_device
from cifarnb.models import build_model, count_operations, label
from cifarnb.progress import format_seconds, passes
from cifarnb.report import sections
from cifarnb.training import split

STEPS = 2  # that are timed of a network, after as many that are not
SOON = 3e12  # operations that the slowest machines in use do in about a minute


@dataclass(frozen=True)
class Task:
    """A run that is missing."""

    section: str
    config: Config
    passes: float  # of images through forward and backward that are left, tests among them as what they cost
    walked: int  # passes of images on walks beside those, which are in float32

    @property
    def kind(self) -> Config:
        """What one step of it costs as much as, nearly: the same network on a batch of the same size."""
        plain = {"seed": 0, "epochs": 1, "train_size": 0, "test_size": 0, "validation_size": 0, "schedule": "none"}
        plain |= {"loss": "cross_entropy", "label_smoothing": 0.0, "l1": 0.0, "lr": 1e-3, "tta": False}
        plain |= {"activation": "relu", "residual": False, "dropout": 0.0}
        plain |= {"optimizer": "adam", "momentum": 0.9, "nesterov": False, "weight_decay": 0.0, "decay_biases": True}
        plain |= {"average_decay": 0.0, "augment": False, "alternate_flips": False, "reflect_padding": 0, "cutout": 0}
        return self.config.replace(**plain, probe_every=0, probe_along=("gradient",), keep_path=False)

    @property
    def operations(self) -> float:
        """Multiplications and additions."""
        model = build_model(**self.config.network())
        return count_operations(model) * (self.passes + self.walked)


@dataclass(frozen=True)
class Plan:
    """The runs of a report."""

    there: Mapping[str, int]  # by section, those that are finished
    tasks: Sequence[Task]  # those that are missing, each once, in the report's order

    @property
    def operations(self) -> float:
        """Of all that is missing."""
        return sum(task.operations for task in self.tasks)


def plan(profile: str, dataset: Dataset, overrides: Mapping[str, Any], only: Sequence[str] | None = None) -> Plan:
    """What the sections of a profile (or ``only`` some) have and lack; of a run that was begun, what is left of it."""
    there: dict[str, int] = {}
    tasks: dict[Config, Task] = {}
    runs_dir = overrides.get("runs_dir", "runs")
    for section in only or sections.names():
        wanted = sections.all_configs(section, profile, overrides)
        there[section] = sum(experiment.find(config, dataset, runs_dir) is not None for config in wanted)
        for config in wanted:
            if config not in tasks and not experiment.find(config, dataset, runs_dir):
                tasks[config] = _task(section, config, dataset, _finished_epochs(config, dataset, runs_dir))
    return Plan(there, list(tasks.values()))


def _task(section: str, config: Config, dataset: Dataset, finished: int) -> Task:
    parts = {name: len(labels) for name, (_, labels) in split(dataset, config).items()}
    images, epochs = parts["train"], config.epochs - finished
    steps = -(-images // config.batch_size) * epochs
    walks = -(-steps // config.probe_every) if config.probe_every else 0
    gradients = 1 + config.probe_points * len(config.probe_along)
    return Task(section, config, passes(config, parts, epochs), walks * gradients * config.batch_size)


def _finished_epochs(config: Config, dataset: Dataset, runs_dir: str | Path) -> int:
    path = experiment.path_of(config, dataset, runs_dir)
    try:
        return len(torch.load(runs.unfinished(path) / "checkpoint.pt", weights_only=True, mmap=True)["history"])
    except Exception:  # none, or one that cannot be read, of which training will tell
        return 0


def seconds(tasks: Sequence[Task], jobs: int = 1) -> list[float]:
    """How long each task takes while ``jobs`` share this machine's cores, from a few timed steps of every network."""
    from cifarnb import bench  # imports torchvision, which takes more than a second

    threads = torch.get_num_threads()
    if resolve_device().type == "cpu":
        threads = max(1, min(threads, joblib.cpu_count()) // jobs)
    pace: dict[Config, float] = {}  # images a second
    with on_threads(threads):
        for task in tasks:
            for kind, _ in _costs(task):
                if kind not in pace:
                    pace[kind], _ = bench.time_engine(kind, STEPS)
    return [sum(images / pace[kind] for kind, images in _costs(task)) for task in tasks]


def _costs(task: Task) -> list[tuple[Config, float]]:
    """What has to be timed for a task, and how many images of it there are."""
    walks = [(task.kind.replace(precision="float32"), float(task.walked))] if task.walked else []
    return [(task.kind, task.passes), *walks]


def in_all(each: Sequence[float], jobs: int) -> float:
    """Seconds until all are done, ``jobs`` at a time: no less than the longest; on a GPU, which they share, the sum."""
    if resolve_device().type == "cuda":
        return sum(each)
    return max([sum(each) / jobs, *each], default=0.0)


def table(found: Plan, each: Sequence[float]) -> list[dict[str, str]]:
    """A row for every section and network of which runs are missing, and one for a section that has them all."""
    rows = []
    for section, there in found.there.items():
        grouped = defaultdict(list)
        for task, duration in zip(found.tasks, each, strict=True):
            if task.section == section:
                grouped[label(task.config.model, task.config.width)].append(duration)
        heading = {"section": sections.title(section), "there": f"{there:,}"}
        for network, durations in grouped.items():
            row = {"network": network, "missing": f"{len(durations):,}", "takes": format_seconds(sum(durations))}
            rows.append(heading | row)
            heading = {"section": "", "there": ""}
        if not grouped and there:
            rows.append(heading | {"network": "all", "missing": "0", "takes": ""})
    return rows


def announcement(found: Plan, jobs: int) -> str:
    """One line for a report that will train for more than a minute; empty for less, which is not timed."""
    if found.operations < SOON:
        return ""
    total = in_all(seconds(found.tasks, jobs), jobs)
    there = sum(found.there.values())
    return (
        f"{len(found.tasks):,} of {there + len(found.tasks):,} runs are missing; to train them takes about "
        f"{format_seconds(total)} on this machine{f', {jobs} at a time' if jobs > 1 else ''}"
    )
