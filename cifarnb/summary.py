"""All numbers of a report, from the run records alone."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from cifarnb import experiment, sections
from cifarnb.claims import REPORTED, judge
from cifarnb.data import Dataset
from cifarnb.landscape import envelope, widths
from cifarnb.models import LABELS, build_model, count_multiply_adds, count_parameters
from cifarnb.runs import Run
from cifarnb.tables import median_over_steps


def summarize(
    profile: str, dataset: Dataset, runs_dir: str | Path = "runs", overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What ``summary.json`` holds and section 3 shows: networks, claims, data; trains nothing.

    A network that has no finished run in this profile stands there with ``None`` for what was not measured.
    """
    networks = []
    for name in sections.NETWORKS:
        found = _find(sections.configs(name, profile, overrides), dataset, runs_dir)
        wanted = sections.landscape_configs(name, profile, overrides)
        rates = _find(wanted, dataset, runs_dir)
        landscape = describe_landscape(rates) if wanted and len(rates) == len(wanted) else None
        networks.append(describe_network(name, found) | {"landscape": landscape, "probes": None, "rates": None})
    why = {
        kind: _find_all(configs, dataset, runs_dir)
        for kind, configs in sections.why_configs(sections.values(sections.WHY, profile, overrides)).items()
    }
    for network in networks:
        name = network["name"]
        mine = {kind: [run for run in found or [] if run.config.model == name] for kind, found in why.items()}
        if probed := {kind: mine[kind] for kind in ("sgd", "adam", "step") if mine[kind]}:
            network["probes"] = {kind: describe_probes(same) for kind, same in probed.items()}
        if mine["rates"]:
            network["rates"] = describe_rates(mine["rates"])
    return {
        "profile": profile,
        "data": {
            "source": dataset.source,
            "cifar10": dataset.is_cifar10,
            "fingerprint": dataset.fingerprint,
            "train_images": len(dataset.train_images),
            "test_images": len(dataset.test_images),
        },
        "networks": networks,
        "claims": judge(networks),
    }


def _find_all(configs: Sequence[Any], dataset: Dataset, runs_dir: str | Path) -> list[Run] | None:
    """The runs of these configs, or None if one is missing."""
    found = _find(configs, dataset, runs_dir)
    return found if len(found) == len(configs) else None


def _find(configs: Sequence[Any], dataset: Dataset, runs_dir: str | Path) -> list[Run]:
    found = (experiment.find(config, dataset, runs_dir) for config in configs)
    return [run for run in found if run is not None]


def describe_network(name: str, runs: Sequence[Run]) -> dict[str, Any]:
    """The numbers of one network from its runs, which differ in the seed; the first is the headline's.

    Accuracies are fractions on the test images.  ``final_accuracy`` is that after the last epoch, over the seeds;
    ``best_accuracy`` and ``best_epoch`` are chosen on the test images, in the first run.
    """
    model = build_model(name)
    reported = REPORTED[name]
    description: dict[str, Any] = {
        "name": name,
        "label": LABELS[name],
        "parameters": count_parameters(model),
        "multiply_adds": count_multiply_adds(model),
        "reported_accuracy": reported.get("accuracy"),
        "reported_epochs": reported.get("epochs"),
    }
    measured = [
        "final_accuracy",
        "best_accuracy",
        "best_epoch",
        "final_train_loss",
        "epochs",
        "train_images",
        "test_images",
    ]
    measured += ["seconds_per_epoch", "seconds_per_image", "device_name", "precision", "diverged", "run", "runs"]
    if not runs:
        return description | dict.fromkeys(measured)
    first = runs[0]
    rate = float(first.history["images_per_s"].median())
    values = {
        "final_accuracy": mean_and_interval([run.final_accuracy for run in runs]),
        "best_accuracy": first.best_accuracy,
        "best_epoch": first.best_epoch,
        "final_train_loss": statistics.fmean(float(run.history["train_loss"].iloc[-1]) for run in runs),
        "epochs": len(first.history),
        "train_images": first.provenance["train_images"],
        "test_images": first.provenance["test_images"],
        "seconds_per_epoch": first.seconds_per_epoch,
        "seconds_per_image": 1 / rate,
        "device_name": first.provenance["device_name"],
        "precision": first.provenance["precision"],
        "diverged": any(run.diverged for run in runs),
        "run": first.name,
        "runs": [run.name for run in runs],
    }
    return description | {name: values[name] for name in measured}


def mean_and_interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean, its 95 % confidence interval [low, high] by Student's t (None for a single value), and the values."""
    mean, interval = statistics.fmean(values), None
    if len(values) > 1:
        half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
        interval = [float(mean - half), float(mean + half)]
    return {"mean": mean, "ci95": interval, "values": list(values)}


def describe_landscape(runs: Sequence[Run]) -> dict[str, Any]:
    """The numbers of one network's loss landscape, from runs that differ in the learning rate."""
    low, high = envelope([run.losses for run in runs])
    return {
        "lrs": [run.config.lr for run in runs],
        "final_accuracy": {f"{run.config.lr:g}": run.final_accuracy for run in runs},
        "steps": len(low),
        "median_band_width": float(np.median(widths(low, high))),
        "runs": [run.name for run in runs],
    }


def describe_probes(runs: Sequence[Run]) -> dict[str, Any]:
    """The walks of one network's runs, which differ in the seed: the medians over the steps, over the seeds.

    ``loss_range`` is that of the loss on a walk (nats), ``gradient_change`` the largest ‖change of the gradient‖₂ on
    it, ``beta`` the effective smoothness.  Where a run diverged throughout, infinite.
    """
    words = {"loss_range": "range of the loss", "gradient_change": "change of the gradient", "beta": "β"}
    described: dict[str, Any] = {"runs": [run.name for run in runs]}
    for name, measure in words.items():
        medians = [median_over_steps(run, measure) for run in runs]
        described[name] = mean_and_interval([math.inf if math.isnan(median) else median for median in medians])
    return described


def describe_rates(runs: Sequence[Run]) -> dict[str, Any]:
    """One network's runs over a grid of learning rates and seeds: how many rates come near the best one.

    ``within_one_point`` counts, for each seed, the rates whose accuracy is at most a point below that of the best.
    """
    by_seed: dict[int, list[float]] = {}
    by_rate: dict[str, list[float]] = {}
    for run in runs:
        by_seed.setdefault(run.config.seed, []).append(run.final_accuracy)
        by_rate.setdefault(f"{run.config.lr:g}", []).append(run.final_accuracy)
    # A run is right on a whole number of images, so a millionth of a point is rounding.
    counts = [sum(value >= max(values) - 0.01 - 1e-8 for value in values) for values in by_seed.values()]
    return {
        "final_accuracy": by_rate,
        "diverged": sorted({run.config.lr for run in runs if run.diverged}),
        "within_one_point": mean_and_interval(counts),
        "runs": [run.name for run in runs],
    }
