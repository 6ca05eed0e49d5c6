"""A run on disk: its key, its files, where it came from.

A finished run is a directory ``<model>-<key>`` with

- ``config.json``: what determined the result;
- ``history.json``: for every column a list with a value an epoch;
- ``losses.npy``: the training loss of every step, float32;
- ``weights.safetensors``: parameters and buffers after the last epoch;
- ``predictions.npy``, uint8, and ``logits.npy``, float16: what they say of the test images;
- ``tta_predictions.npy``, where it was asked for: the same with test-time augmentation;
- ``probes.json``, where the loss was probed: for every column a list with a value a walk;
- ``path.json`` and, for the directions, ``path.safetensors``, where it was kept: the path of the weights;
- what ``cifarnb.kept`` adds later: ``landscape-<key>.json``, losses around the weights, ``insight-<key>.npz``, what the
  network makes of test images, ``against-torch-<key>.json``, what is our own against PyTorch's, and
  ``peak-<key>.json``, what the processor can do;
- ``provenance.json``: commit, versions, device, precision, data, wall time.

It appears in one go, when all of it is written; ``<model>-<key>.part`` holds a run that is not finished.
"""

import dataclasses
import errno
import functools
import hashlib
import io
import itertools
import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cifarnb.config import Config, ConfigError

HEAVY = ("weights.safetensors", "logits.npy", "path.safetensors")  # what a report's records do without
DAMAGE = (  # what reading a file raises that is missing, cut off, or something else
    OSError, EOFError, ValueError, TypeError, LookupError, zipfile.BadZipFile, safetensors.SafetensorError
)  # fmt: skip
STARTS = "starts.json"  # of an unfinished run: where and with what it was trained, an entry a start
AT_START = 2.29  # nats: a network that takes all ten classes for equally likely has a loss of ln 10 = 2.303
RESULTS_VERSION = 1  # raised when a change to the networks or to the training changes what a config computes


class RunError(RuntimeError):
    """A run cannot be made, kept or read; the message names it, says what is wrong and, where it helps, what to do."""


class DamagedRunError(RunError):
    """Of a run that is there a file is missing or damaged, so that it can only be trained again."""


class NotRunError(RuntimeError):
    """Runs that are to be shown, not trained, are not there; the message names them."""


@dataclass(frozen=True)
class WeightsPath:
    """The weights' path in training on its two principal directions, as seen from the last weights."""

    coordinates: np.ndarray  # (T, 2); the last is (0, 0)
    explained: tuple[float, float]  # of the path's variance about its end, 0 to 1
    directions: list[list[Tensor]]  # two, of norm 1: one tensor for every parameter, of its shape


@dataclass(frozen=True)
class Run:
    """A finished run, read from disk."""

    path: Path
    config: Config
    history: pd.DataFrame  # a row an epoch; the columns are those of cifarnb.training.Trained
    losses: np.ndarray  # (steps,) float32: the training loss of every step
    provenance: dict[str, Any]
    probes: pd.DataFrame | None = None  # a row a walk; the columns are step and those of cifarnb.landscape.walks

    @property
    def name(self) -> str:
        """Model and key, as the directory is called."""
        return self.path.name

    @property
    def device(self) -> str:
        """The name of the device that it was trained on; of a CPU with its number of threads."""
        return str(self.provenance.get("device_name")).replace("(1 threads)", "(1 thread)")  # so older records have it

    @property
    def final_accuracy(self) -> float:
        """Test accuracy (0 to 1) after the last epoch."""
        return float(self.history["test_accuracy"].iloc[-1])

    @property
    def tta_accuracy(self) -> float | None:
        """The same with test-time augmentation; None if it was not asked for, or the run ended before."""
        return float(self.history["tta_accuracy"].iloc[-1]) if "tta_accuracy" in self.history else None

    @property
    def best_accuracy(self) -> float:
        """The highest test accuracy of any epoch: chosen on the test images, so it flatters."""
        return float(self.history["test_accuracy"].max())

    @property
    def best_epoch(self) -> int:
        """The first epoch (from 1) with the highest test accuracy."""
        return int(self.history["epoch"].iloc[self.history["test_accuracy"].argmax()])

    @property
    def selected_epoch(self) -> int:
        """The first epoch (from 1) with the highest accuracy on the images held out; KeyError if none were."""
        return int(self.history["epoch"].iloc[self.history["validation_accuracy"].argmax()])

    @property
    def seconds_per_epoch(self) -> float:
        """Median over the epochs, training pass alone."""
        return float(self.history["seconds"].median())

    @property
    def diverged(self) -> bool:
        """Whether the training loss stopped being finite."""
        return not np.isfinite(self.losses).all()

    @property
    def learns_from(self) -> int | None:
        """The step (from 0) from which on the training loss, the mean of ten steps, stays below AT_START.

        None if it does not: the network has not learnt, has fallen back, or has diverged.
        """
        window = min(10, len(self.losses))
        means = np.convolve(self.losses.astype(np.float64), np.full(window, 1 / window), "valid")
        (not_below,) = np.nonzero(~(means < AT_START))  # NaN is not below
        if not len(not_below):
            return 0
        last = int(not_below[-1])
        return last + window if last + 1 < len(means) else None

    def along(self, direction: str) -> "Run":
        """The same run with its walks along this direction alone, so all columns numbers; ValueError if it has none."""
        if self.probes is None or direction not in self.config.probe_along:
            raise ValueError(f"{self.name}: no walks along {direction!r}")
        probes = self.probes
        if "along" in probes:  # else they are from a time when a run had one direction
            probes = probes[probes["along"] == direction].drop(columns="along").reset_index(drop=True)
        return dataclasses.replace(self, probes=probes)

    def predictions(self, *, tta: bool = False) -> np.ndarray:
        """The class (N,) uint8 that the network gives each test image after the last epoch.

        With ``tta`` that with test-time augmentation.  Raises RunError if the file is missing or damaged.
        """
        file = self.path / ("tta_predictions.npy" if tta else "predictions.npy")
        try:
            return _read_array(file)
        except DAMAGE as error:
            raise RunError(f"{file}: cannot be read ({reason(error)})") from None

    def weights(self) -> dict[str, Tensor]:
        """The state dict after the last epoch, on the CPU.  Raises RunError if its file is missing or damaged."""
        if not self.weights_file.exists():
            raise RunError(f"{self.weights_file}: cannot be loaded (missing); to train it anew, move {self.path} away")
        try:
            return safetensors.torch.load(self.weights_file.read_bytes())
        except (OSError, safetensors.SafetensorError) as error:
            raise RunError(f"{self.weights_file}: cannot be loaded ({reason(error)})") from None

    @property
    def weights_file(self) -> Path:
        """Where the weights are: with the run, or, of a headline run in a report, among the report's ``weights/``."""
        own = self.path / "weights.safetensors"
        folder = self.path.parent.parent / "weights"
        model = self.config.model
        placed = (folder / f"{name}.safetensors" for name in (model, f"{model}-well", self.name))
        return own if own.exists() else next((file for file in placed if run_of_weights(file) == self.name), own)

    def path_coordinates(self) -> tuple[np.ndarray, tuple[float, float]]:
        """The coordinates of a WeightsPath, and what they explain; FileNotFoundError if it was not kept."""
        kept = json.loads((self.path / "path.json").read_text(encoding="utf-8"))
        first, second = kept["explained"]
        return np.array(kept["coordinates"]), (first, second)

    def path_directions(self) -> list[list[Tensor]]:
        """The directions of a WeightsPath; FileNotFoundError if they were not kept."""
        kept = safetensors.torch.load_file(self.path / "path.safetensors")
        return [[kept[f"{axis}.{i}"] for i in range(len(kept) // 2)] for axis in range(2)]


def run_of_weights(file: Path) -> str | None:
    """The name of the run whose weights a report's file holds; None if it is not there, or does not say."""
    with suppress(OSError, safetensors.SafetensorError), safetensors.safe_open(file, "pt") as opened:
        return (opened.metadata() or {}).get("run")
    return None


def group(runs: Iterable[Run], field: str) -> dict[Any, list[Run]]:
    """The runs by a field of their configs, in the order in which its values first appear."""
    grouped: dict[Any, list[Run]] = {}
    for run in runs:
        grouped.setdefault(getattr(run.config, field), []).append(run)
    return grouped


def project_root() -> Path:
    """The nearest folder from the working directory upwards with notebooks/ and params/; else the package's parent."""
    package = Path(__file__).resolve().parents[1]
    here = Path.cwd()
    upwards = (here, *here.parents)
    return next((p for p in upwards if (p / "notebooks").is_dir() and (p / "params").is_dir()), package)


def run_name(config: Config, data: str) -> str:
    """Model and key: a hash of what was asked, which is ``config`` on a data set of that ``Dataset.identity``.

    The device is not part of it: the random numbers do not depend on it, and what remains is rounding.  ``precision``
    is as it was asked, so that a run asked as ``auto`` is found on a machine where that means something else.
    """
    asked = {"version": RESULTS_VERSION, "data": data, **config.asked()}
    return f"{config.model}-{hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]}"


def data_identity(provenance: Mapping[str, Any]) -> str | None:
    """The ``Dataset.identity`` of the data that a run saw; None if that is not known."""
    data = provenance.get("data", {})
    return "cifar10" if data.get("cifar10") else data.get("fingerprint")


def load(path: Path) -> Run:
    """Read a finished run.  Raises DamagedRunError if there is none, or a file of it is missing or damaged.

    Raises RunError if it may be whole, but cannot be read here and now, or is from another version of this package.
    The heavy files (HEAVY) may be missing, as they are in a report; weights that are there must be whole.
    """
    reading = path
    try:
        reading = path / "config.json"
        config = Config(**json.loads(reading.read_text(encoding="utf-8")))
        reading = path / "history.json"
        history = pd.DataFrame(json.loads(reading.read_text(encoding="utf-8")))
        history[["epoch", "train_loss", "test_accuracy", "seconds"]].iloc[-1].astype(float)
        reading = path / "losses.npy"
        losses = _read_array(reading)
        reading = path / "provenance.json"
        provenance = dict(json.loads(reading.read_text(encoding="utf-8")))
        reading = path / "probes.json"
        probes = pd.DataFrame(json.loads(reading.read_text(encoding="utf-8"))) if reading.exists() else None
        reading = path / "weights.safetensors"
        if reading.exists():
            with reading.open("rb"):  # safetensors tells of any file that cannot be opened as not there
                pass
            with safetensors.safe_open(reading, "pt"):
                pass
    except DAMAGE as error:
        may_be_whole = isinstance(error, OSError | ConfigError) and not isinstance(error, FileNotFoundError)
        kind = RunError if may_be_whole else DamagedRunError
        raise kind(f"{reading}: cannot be read ({reason(error)})") from None
    return Run(path, config, history, losses, provenance, probes)


def reason(error: BaseException) -> str:
    """What went wrong, in a few words."""
    return getattr(error, "strerror", None) or " ".join(str(error).split())


def _read_array(file: Path) -> np.ndarray:
    """From bytes, because NumPy leaves open a file that only looks like an archive."""
    array = np.load(io.BytesIO(file.read_bytes()), allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("not a single array")
    return array


def save(
    path: Path,
    config: Config,
    history: pd.DataFrame,
    losses: np.ndarray,
    logits: Tensor,
    weights: dict[str, Tensor],
    provenance: dict[str, Any],
    probes: pd.DataFrame | None = None,
    weights_path: WeightsPath | None = None,
    tta_logits: Tensor | None = None,
) -> Run:
    """Write a run: into ``<path>.part``, which then takes its name in one step."""
    part = unfinished(path)
    part.mkdir(parents=True, exist_ok=True)
    (part / "config.json").write_text(json.dumps(config.computed(), indent=2) + "\n", encoding="utf-8")
    # JSON writes a float so that it is read back exactly; NaN (a run that diverged) is Python's extension of it.
    (part / "history.json").write_text(json.dumps(history.to_dict(orient="list"), indent=1) + "\n", encoding="utf-8")
    np.save(part / "losses.npy", losses.astype(np.float32))
    np.save(part / "predictions.npy", logits.argmax(1).to(torch.uint8).numpy())
    np.save(part / "logits.npy", logits.half().numpy())
    if tta_logits is not None:
        np.save(part / "tta_predictions.npy", tta_logits.argmax(1).to(torch.uint8).numpy())
    write_tensors(part / "weights.safetensors", {k: v.contiguous().cpu() for k, v in weights.items()})
    if probes is not None:
        (part / "probes.json").write_text(json.dumps(probes.to_dict(orient="list"), indent=1) + "\n", encoding="utf-8")
    if weights_path is not None:
        shown = {"coordinates": weights_path.coordinates.tolist(), "explained": weights_path.explained}
        (part / "path.json").write_text(json.dumps(shown, indent=1) + "\n", encoding="utf-8")
        named = {f"{axis}.{i}": p for axis, parts in enumerate(weights_path.directions) for i, p in enumerate(parts)}
        write_tensors(part / "path.safetensors", {k: v.contiguous() for k, v in named.items()})
    (part / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    _appear(path)
    return load(path)


def _appear(path: Path) -> None:
    """Let a run that is written take its name; what goes is of its training, also of a process that was killed."""
    part = unfinished(path)
    for rest in (part / STARTS, *part.glob("checkpoint.pt*"), *part.glob("*.part")):
        rest.unlink(missing_ok=True)
    part.rename(path)


def set_aside(path: Path) -> Path:
    """Give a damaged run or checkpoint a name under which nobody looks for it; returns that."""
    return path.rename(free_name(path, "damaged"))


def free_name(path: Path, word: str) -> Path:
    """``<path>.<word>-1``, or the next number that is free."""
    names = (path.with_name(f"{path.name}.{word}-{number}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def note_start(part: Path, facts: dict[str, Any], *, resumed: bool) -> list[dict[str, Any]]:
    """Note in the directory of an unfinished run that training starts there; returns the facts of all its starts."""
    starts = []
    if resumed:
        with suppress(*DAMAGE):
            starts = list(json.loads((part / STARTS).read_text(encoding="utf-8")))
    starts.append(facts)
    with suppress(OSError), atomic_write(part / STARTS) as file:  # a full disk, say, must not cost the run
        file.write_text(json.dumps(starts, indent=1) + "\n", encoding="utf-8")
    return starts


def receive(path: Path, files: dict[str, bytes]) -> None:
    """Write a finished run that was trained on another machine; as with ``save``, it appears in one go."""
    with locked(path):
        if path.exists():
            return
        part = unfinished(path)
        part.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (part / name).write_bytes(content)
        _appear(path)


def records(run: Run) -> list[Path]:
    """What a report is made from: all files of the run but the heavy ones."""
    return sorted(file for file in run.path.iterdir() if file.is_file() and file.name not in HEAVY)


def unfinished(path: Path) -> Path:
    """The directory of a run while it is not finished."""
    return path.with_name(path.name + ".part")


def claim(path: Path) -> None:
    """Make the directory of an unfinished run.  Raises RunError, before any training, if it cannot be written to."""
    part = unfinished(path)
    try:
        _shared_folder(part)
        with tempfile.TemporaryFile(dir=part):
            pass
    except OSError as error:
        raise _not_ours(error, part) from None


def _shared_folder(folder: Path) -> None:
    """Make a folder into which whoever may write into the one that it lies in may write, too."""
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):  # another user made it, or the file system knows no modes
        # Without the sticky bit, by which Linux lets nobody but its owner open a lock.
        folder.chmod(folder.parent.stat().st_mode & 0o2777)


def _not_ours(error: OSError, path: Path) -> RunError:
    return RunError(
        f"{path}: cannot be written to ({error.strerror or error}); if it is another user's, he "
        f"shares it with chmod -R g+rwX {path.parent}"
    )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a run, or a report, against other processes; waits for whoever holds it, and says so.

    On a file system that knows no locks it is not held, which is said once.  Raises RunError where it may not be held.
    """
    locks = path.parent / ".locks"
    try:
        _shared_folder(locks)
        # A soft lock, which is a file that is there or not, would outlive a process that is stopped.
        lock = filelock.FileLock(locks / path.name, mode=locks.stat().st_mode & 0o666, fallback_to_soft=False)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            print(f"{path.name}: another process is at it; waiting for it to end", file=sys.stderr, flush=True)
            lock.acquire()
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):  # the last two NFS without a lockd
                raise
            _tell_of_no_locks(path.parent)
    except OSError as error:
        raise _not_ours(error, locks) from None
    try:
        yield
    finally:
        lock.release()


@functools.cache
def _tell_of_no_locks(folder: Path) -> None:
    told = f"{folder}: its file system knows no locks, so no other command may use that folder until this one ends"
    print(told, file=sys.stderr, flush=True)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; it takes the place of ``path`` when the block ends, and not if it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_tensors(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file; its own ``save_file`` makes one that nobody but the user may read."""
    file.write_bytes(safetensors.torch.save(tensors, metadata))


def copy_file(source: Path, target: Path) -> None:
    """Copy, so that the target is whole or not there."""
    with atomic_write(target) as part:
        shutil.copyfile(source, part)
