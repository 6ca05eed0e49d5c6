import errno
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import joblib

# The workers of pytest-xdist share the cores: so do their threads, which are counted when PyTorch is loaded.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, joblib.cpu_count() // int(workers))))

import filelock
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from cifarnb import provenance, runs
from cifarnb.config import Config
from cifarnb.data import CIFAR10_CLASSES, Dataset
from cifarnb.report.claims import judge
from cifarnb.report.describe import describe_landscape, describe_network

ROOT = Path(__file__).parents[1]
PARAMETERS = """
epochs: int = 3  # passes
lr: float = 0.1  # rate
lrs: list[float] = [0.1]  # rates
name: str = "x"  # a name
flag: bool = False  # yes or no
"""


@pytest.fixture(autouse=True)
def _same_environment_after_every_test():
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def tiny_dataset():
    """256 training and 64 test images of noise."""
    generator = torch.Generator().manual_seed(0)

    def noise(n):
        images = torch.randint(0, 256, (n, 32, 32, 3), dtype=torch.uint8, generator=generator)
        return images, torch.randint(0, 10, (n,), generator=generator)

    return Dataset(*noise(256), *noise(64), CIFAR10_CLASSES, source="noise", canonical=False, fingerprint="0" * 64)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one notebook; returns a function that writes its cells after the parameters, and params/full."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "params" / "full").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    def write(*cells, yaml="", name="01_test"):
        parameters = new_code_cell(PARAMETERS.strip(), metadata={"tags": ["parameters"]})
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        notebook = new_notebook(cells=[parameters, *map(new_code_cell, cells)], metadata=kernel)
        nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")
        (tmp_path / "params" / "full" / f"{name}.yaml").write_text(yaml)
        return tmp_path

    return write


def pytest_xdist_auto_num_workers():
    """As many as this process has cores: pytest-xdist takes the machine's, of which a container may have few."""
    return joblib.cpu_count()


@pytest.fixture
def no_entry(tmp_path, monkeypatch):
    """A folder that one may not enter: up to Python 3.13 even asking whether something is there raises."""
    folder, stat = tmp_path / "no entry", os.stat

    def refuse(path, *arguments, **options):
        if not isinstance(path, int) and folder in Path(os.fsdecode(path)).parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, *arguments, **options)

    folder.mkdir()
    monkeypatch.setattr(os, "stat", refuse)
    return folder


@pytest.fixture
def make_run(tmp_path):
    """A function that writes a run with made-up numbers: ``accuracies`` are an epoch's, ``losses`` a step's."""
    numbers = itertools.count()

    def make(model="simple_cnn", *, accuracies=(0.3, 0.5, 0.4), losses=(2.0, 1.5, 1.0), provenance=None, **config):
        epoch = np.arange(1, len(accuracies) + 1)
        made = Config(model=model, precision="float32", epochs=len(epoch), **config)
        history = pd.DataFrame(
            {
                "epoch": epoch,
                "train_loss": losses[-1] + (len(epoch) - epoch) / 4,
                "train_accuracy": np.array(accuracies) + 0.05,
                "test_loss": losses[-1] + 0.5 + (len(epoch) - epoch) / 8,
                "test_accuracy": accuracies,
                "lr": made.lr,
                "seconds": epoch * 2.0,
                "images_per_s": 256 / (epoch * 2.0),
            }
        )
        origin = {
            "finished": "2026-01-02T03:04:05+00:00",
            "git_commit": "0123456789abcdef",
            "git_dirty": False,
            "device_name": "a small machine",
            "precision": "float32",
            "train_images": 256,
            "test_images": 64,
            "wall_seconds": 12.0,
        }
        path = tmp_path / "made-up runs" / f"{model}-{next(numbers):012x}"
        weights, logits = {"weight": torch.zeros(1)}, torch.zeros(64, 10)
        return runs.save(path, made, history, np.array(losses), logits, weights, origin | (provenance or {}))

    return make


@pytest.fixture
def copy_records():
    """A function that copies a run into a folder as a report keeps it: without the heavy files."""

    def copy(run, folder):
        shutil.copytree(run.path, folder / run.name, ignore=shutil.ignore_patterns(*runs.HEAVY))

    return copy


@pytest.fixture
def make_summary():
    """A function that makes a report's summary from the runs of each network; none: the network did not run."""

    def make(profile="full", landscapes=None, data=None, sections=(), **same_network):
        networks = []
        for name, same in same_network.items():
            rates = (landscapes or {}).get(name)
            landscape = describe_landscape(rates) if rates else None
            networks.append(describe_network(name, same) | {"landscape": landscape, "probes": None, "rates": None})
        origin = {"source": "noise", "cifar10": True, "fingerprint": "f" * 64, "train_images": 256, "test_images": 64}
        return {
            "profile": profile,
            "data": origin | (data or {}),
            "networks": networks,
            "claims": judge(networks, profile),
            "sections": list(sections),
            "origin": provenance.describe_origin(),
        }

    return make


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """The folder of a smoke report, made once by the command line in a process of its own, for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smoke"
    with filelock.FileLock(f"{folder}.lock"):
        if not (folder / "report").exists():
            command = [sys.executable, "-m", "cifarnb", "report", "--profile", "smoke"]
            command += ["--out", str(folder / "report"), "--runs", str(folder / "runs")]
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
    return folder / "report"
