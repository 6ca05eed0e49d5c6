"""From a config to its run: from disk if it is there, trained (or gone on with) if it is not."""

from pathlib import Path

from torch import nn

from cifarnb import runs
from cifarnb.config import Config
from cifarnb.data import Dataset
from cifarnb.hardware import device_name, resolve_device, resolve_precision
from cifarnb.models import build_model
from cifarnb.runs import Run
from cifarnb.training import fit


def run(config: Config, dataset: Dataset, runs_dir: str | Path = "runs") -> Run:
    """The run of this config on this data.  A relative ``runs_dir`` counts from the project's root."""
    if found := find(config, dataset, runs_dir):
        return found
    config = _resolved(config)
    path = _path(config, dataset, runs_dir)
    with runs.locked(path):
        if (path / "provenance.json").exists():  # another process was faster
            return runs.load(path)
        model = build_model(config.model, config.seed)
        history, losses, wall = fit(model, dataset, config, runs.unfinished(path) / "checkpoint.pt")
        device = resolve_device(config.device)
        provenance = {
            **runs.describe_origin(),
            "device": device.type,
            "device_name": device_name(device),
            "precision": config.precision,
            "seed": config.seed,
            "train_images": min(config.train_size or len(dataset.train_images), len(dataset.train_images)),
            "test_images": min(config.test_size or len(dataset.test_images), len(dataset.test_images)),
            "data": {"source": dataset.source, "fingerprint": dataset.fingerprint, "cifar10": dataset.is_cifar10},
            "wall_seconds": wall,
        }
        return runs.save(path, config, history, losses, model.state_dict(), provenance)


def find(config: Config, dataset: Dataset, runs_dir: str | Path = "runs") -> Run | None:
    """The finished run of this config on this data, or None; trains nothing."""
    path = _path(_resolved(config), dataset, runs_dir)
    return runs.load(path) if (path / "provenance.json").exists() else None


def trained_model(run: Run) -> nn.Module:
    """The run's network with its weights after the last epoch, on the CPU, in eval mode."""
    model = build_model(run.config.model)
    model.load_state_dict(run.weights())
    return model.eval()


def _resolved(config: Config) -> Config:
    return config.replace(precision=resolve_precision(config.precision, resolve_device(config.device)))


def _path(config: Config, dataset: Dataset, runs_dir: str | Path) -> Path:
    return runs.project_root() / Path(runs_dir).expanduser() / runs.run_name(config, dataset.fingerprint)
