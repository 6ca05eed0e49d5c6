"""From a config to its run: from disk if it is there, trained (or gone on with) if it is not; one or many at once."""

import functools
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError
from torch import Tensor, nn
from tqdm.auto import tqdm

from cifarnb import against_torch, environment, insight, kept, provenance, runs
from cifarnb.config import VARIANT, Config
from cifarnb.data import Dataset
from cifarnb.hardware import (
    PEAKS,
    cpu_name,
    device_name,
    on_threads,
    resolve_device,
    resolve_precision,
    time_matrix_product,
    working_on,
)
from cifarnb.insight import Seen
from cifarnb.landscape import losses_around, random_direction
from cifarnb.models import build_model, label
from cifarnb.progress import is_watched
from cifarnb.runs import DamagedRunError, NotRunError, Run, RunError
from cifarnb.training import Batches, Trained, fit, split


def run(config: Config, dataset: Dataset, runs_dir: str | Path = "runs", *, progress: bool = True) -> Run:
    """The run of this config on this data.  A relative ``runs_dir`` counts from the project's root.

    ``progress`` announces how long training takes, and shows a bar where somebody watches.  A run that is damaged gets
    another name and is trained again.  Raises RunError for one that is there and may be whole, but cannot be read.
    """
    if found := find(config, dataset, runs_dir):
        return found
    path = path_of(config, dataset, runs_dir)
    with runs.locked(path):
        if path.exists():
            try:
                return runs.load(path)  # another process was faster
            except DamagedRunError as error:
                print(f"{error}; set aside as {runs.set_aside(path).name}, trained again", file=sys.stderr, flush=True)
        runs.claim(path)
        environment.complete()
        checkpoint = runs.unfinished(path) / "checkpoint.pt"
        starts = runs.note_start(checkpoint.parent, _origin(config, dataset), resumed=checkpoint.exists())
        model = build_model(seed=config.seed, **config.network())
        trained = _fit(model, dataset, config, checkpoint, progress=progress)
        try:
            return runs.save(
                path,
                config,
                trained.history,
                trained.losses,
                trained.logits,
                model.state_dict(),
                {**_joined(starts), "finished": provenance.now(), "wall_seconds": trained.seconds},
                trained.probes,
                trained.path,
                trained.tta_logits,
            )
        except OSError as error:
            raise RunError(
                f"{path}: cannot be saved ({runs.reason(error)}); its last checkpoint is kept, so make room and start "
                "again"
            ) from None


def _origin(config: Config, dataset: Dataset) -> dict[str, Any]:
    """With what, where and on what a training starts."""
    device = resolve_device(config.device)
    with working_on(device):
        name = device_name(device)
    return {
        **provenance.describe_origin(),
        "started": provenance.now(),
        "device": device.type,
        "device_name": name,
        "precision": resolve_precision(config.precision, device),
        "seed": config.seed,
        "train_images": len(split(dataset, config)["train"][1]),
        "test_images": len(split(dataset, config)["test"][1]),
        "data": {"source": dataset.source, "fingerprint": dataset.fingerprint, "cifar10": dataset.is_cifar10},
    }


def _joined(starts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The facts of a run: those of its first start; where it went on on another machine, both; each later start."""
    joined = dict(starts[0])
    for name in ("device_name", "precision"):
        joined[name] = ", then ".join(dict.fromkeys(start[name] for start in starts))
    return joined | ({"resumed": list(starts[1:])} if len(starts) > 1 else {})


def _fit(model: nn.Module, dataset: Dataset, config: Config, checkpoint: Path, *, progress: bool) -> Trained:
    """Train, with what can go wrong told in one line."""
    try:
        return fit(model, dataset, config, checkpoint, progress=progress)
    except torch.OutOfMemoryError:
        smaller = f"; try batch_size {config.batch_size // 2}" if config.batch_size > 1 else ""
        where = device_name(resolve_device(config.device))
        raise RunError(f"{describe(config)}: out of memory on {where}{smaller}") from None


def run_all(
    configs: Sequence[Config],
    dataset: Dataset,
    runs_dir: str | Path = "runs",
    *,
    jobs: int = 1,
    train: bool = True,
) -> list[Run]:
    """The runs of these configs on this data, in their order; what is missing is trained, ``jobs`` at a time.

    Without ``train`` nothing is: then it gives the runs of those seeds that have all of theirs, and raises NotRunError
    if the first seed has not.
    """
    if not train:
        found = [(config, find(config, dataset, runs_dir)) for config in configs]
        broken = {config.seed for config, there in found if not there}
        if configs and (first := configs[0].seed) in broken:
            missing = [config for config, there in found if not there and config.seed == first]
            more = f"; and {len(missing) - 2} more" if len(missing) > 2 else ""
            raise NotRunError("; ".join(map(describe, missing[:2])) + more)
        return [there for config, there in found if there and config.seed not in broken]
    if jobs > 1:
        train_together(configs, dataset, runs_dir, jobs=jobs)
    return [run(config, dataset, runs_dir) for config in configs]


_TOLD = (  # where they are asked for
    *VARIANT, "loss", "weight_decay", "l1", "label_smoothing", "average_decay", "cutout", "validation_size"
)  # fmt: skip


def describe(config: Config) -> str:
    """A run in a few words, for a reader."""
    schedule = "" if config.schedule == "none" else f" ({config.schedule})"
    augmentation = "crop and flip" if config.augment else "no augmentation"
    asked = config.asked()
    more = "".join(f", {_told(name, asked[name])}" for name in _TOLD if name in asked)
    epochs = "1 epoch" if config.epochs == 1 else f"{config.epochs} epochs"
    return (
        f"{label(config.model, config.width)}, {epochs}, {config.optimizer} at learning rate "
        f"{config.lr:g}{schedule}, batches of {config.batch_size}, {augmentation}{more}, seed {config.seed}"
    )


def _told(name: str, value: object) -> str:
    words = name.replace("_", " ")
    if value is True:
        return words
    return f"{words} {value:g}" if isinstance(value, float | int) else f"{words} {value}"


def train_together(configs: Sequence[Config], dataset: Dataset, runs_dir: str | Path = "runs", *, jobs: int) -> None:
    """Train those of these configs that have no run yet, ``jobs`` at a time.

    They share a GPU as threads of one process, each with a stream of its own, and a CPU as processes, each with its
    share of the cores.  Inside ``joblib.parallel_config`` the backend named there takes their place: Dask's trains
    them on other machines, which need this package alone; the runs come back here.  A run that fails is told of and
    left out.
    """
    missing = list(dict.fromkeys(config for config in configs if not find(config, dataset, runs_dir)))
    if not missing:
        return
    folder = _folder(runs_dir)
    folder.mkdir(parents=True, exist_ok=True)
    on_gpu = resolve_device(missing[0].device).type == "cuda"
    # As arrays: joblib shares those between processes, and Dask sends them to a machine once.
    images = (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels)
    arrays = [tensor.numpy() for tensor in images]
    facts = {name: getattr(dataset, name) for name in ("classes", "source", "canonical", "fingerprint")}
    bar = tqdm(total=len(missing), desc="runs", unit="run", leave=False, disable=not is_watched())
    with (
        tempfile.NamedTemporaryFile(dir=folder, prefix=f".here-{os.getpid()}-") as token,
        bar,
        environment.waiting(),
        warnings.catch_warnings(),
    ):
        # joblib renews a process whose memory has grown, which a large network's does, and calls it a leak.
        warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
        # mmap_mode c: arrays that can be written to, as torch wants them, and yet are shared.
        work = joblib.Parallel(
            jobs,
            prefer="threads" if on_gpu else "processes",
            return_as="generator_unordered",
            batch_size=1,
            mmap_mode="c",
            initializer=environment.end_with,
            initargs=(os.getpid(),),
        )
        tasks = (joblib.delayed(_train_there)(c, str(folder), Path(token.name).name, facts, *arrays) for c in missing)
        try:
            for config, files, error in work(tasks):
                bar.update()
                path = folder / runs.run_name(config, dataset.identity)
                try:
                    if files:
                        runs.receive(path, files)
                except (OSError, RunError) as failure:  # a full disk, say; the others may find room
                    error = f"cannot be saved ({runs.reason(failure)})"
                done = f"failed: {error}" if error else "trained"
                print(f"{path.name}, lr {config.lr:g}, seed {config.seed}: {done}", file=sys.stderr, flush=True)
        except TerminatedWorkerError:
            print("a process that trained was killed (out of memory?)", file=sys.stderr, flush=True)


def _train_there(
    config: Config, folder: str, token: str, facts: dict[str, Any], *arrays: np.ndarray
) -> tuple[Config, dict[str, bytes], str]:
    """In a worker: train; returns the run's files where ``folder`` is not the one that holds ``token``, and the error.

    An error is returned as text, because one run that fails must not end the others.
    """
    train_images, train_labels, test_images, test_labels = (
        torch.from_numpy(np.require(array, requirements="W")) for array in arrays
    )
    dataset = Dataset(train_images, train_labels, test_images, test_labels, **facts)
    files = {}
    try:
        if (Path(folder) / token).exists():
            run(config, dataset, folder, progress=False)
        else:
            with tempfile.TemporaryDirectory() as own:
                made = run(config, dataset, own, progress=False)
                files = {path.name: path.read_bytes() for path in made.path.iterdir()}
    except Exception as error:
        return config, {}, f"{type(error).__name__}: {error}"
    return config, files, ""


def find(config: Config, dataset: Dataset, runs_dir: str | Path = "runs") -> Run | None:
    """The finished run of this config on this data, or None if there is none that can be read; trains nothing.

    Its weights may be missing, as in a report's records: who needs them is told.  Raises RunError where one may not
    even look.
    """
    path = path_of(config, dataset, runs_dir)
    try:
        return runs.load(path) if path.exists() else None
    except RunError:
        return None
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({runs.reason(error)})") from None


def trained_model(run: Run) -> nn.Module:
    """The run's network with its weights after the last epoch, on the CPU, in eval mode."""
    model = build_model(**run.config.network())
    model.load_state_dict(run.weights())
    return model.eval()


def losses_near(
    run: Run,
    dataset: Dataset,
    along: Sequence[int] | str,
    coordinates: Sequence[np.ndarray],
    images: int,
    *,
    batch_statistics: bool = False,
) -> np.ndarray:
    """Mean loss (nats) of the run's network, on the first ``images`` training images, on a grid around its weights.

    ``along`` holds the seeds of one or two random directions, or is ``path``: the two principal directions of the
    run's path.  What was computed once is kept beside the run's records.
    """
    what = {
        "along": along if isinstance(along, str) else list(along),
        "coordinates": [axis.tolist() for axis in coordinates],
        "images": images,
        "batch_statistics": batch_statistics,
    }

    def compute() -> dict[str, Any]:
        device = resolve_device()
        model = trained_model(run).to(device)
        if along == "path":
            directions = [[part.to(device) for part in direction] for direction in run.path_directions()]
        else:
            directions = [random_direction(model, seed) for seed in along if not isinstance(seed, str)]
        chosen = (dataset.train_images[:images].to(device), dataset.train_labels[:images].to(device))
        with working_on(device):
            losses = losses_around(model, *chosen, directions, coordinates, batch_statistics=batch_statistics)
        return {"losses": losses.tolist()}

    return np.array(kept.values(run, "landscape", what, compute)["losses"])


def losses_on_lines(
    run: Run, dataset: Dataset, seeds: Sequence[int], coordinates: np.ndarray, images: int
) -> np.ndarray:
    """Mean loss (lines, points) on lines through the run's weights, in a random direction for each of the ``seeds``.

    ``coordinates`` (points,) are those on every line; all else is as with ``losses_near``.
    """
    return np.stack([losses_near(run, dataset, [seed], [coordinates], images) for seed in seeds])


def see(run: Run, dataset: Dataset, *, images: int, attributed: int, mapped: int, tried: int) -> Seen:
    """What the run's network makes of the first ``images`` test images, with the rest as ``insight.look`` takes it.

    What was computed once is kept beside the run's records, and shown from there.
    """
    what = {"images": images, "attributed": attributed, "mapped": mapped, "tried": tried}
    labels = dataset.test_labels[:images]

    def compute() -> dict[str, np.ndarray]:
        device = resolve_device()
        model = trained_model(run).to(device)
        chosen = (dataset.test_images[:images].to(device), labels.to(device))
        with working_on(device):
            return insight.look(model, *chosen, attributed=attributed, mapped=mapped, tried=tried)

    return Seen(labels.numpy(), **kept.arrays(run, "insight", what, compute))


def compare_with_torch(run: Run, dataset: Dataset, *, steps: int = 100) -> dict[str, Any]:
    """Our own optimizers, and the Simple CNN by hand, beside PyTorch's: what ``against_torch.compare`` says.

    From the initial weights of the run, a plain Simple CNN's, on its first batches; nothing else of its recipe is
    taken.  On the CPU and in float32; kept beside the run's records.  Raises ValueError for another network.
    """
    config = run.config
    if config.network() != {"name": "simple_cnn", "width": config.width}:
        raise ValueError(f"{run.name}: only the plain Simple CNN is written by hand")

    def compute() -> dict[str, Any]:
        with working_on(torch.device("cpu")):
            network = build_model(**config.network(), seed=config.seed)
            return against_torch.compare(network, _first_batches(dataset, config, steps))

    return kept.values(run, "against-torch", {"steps": steps, "rates": against_torch.RATES}, compute)


def peak(run: Run, *, measure: bool = False) -> float | None:
    """Operations a second that the device of a run can do at most, in its precision; None if that is not known.

    A GPU's is that of its maker, in bfloat16.  A CPU's is that of the fastest matrix product, on as many threads:
    ``measure`` takes it, where this is such a processor, and it is kept beside the run's records.
    """
    device, precision = run.provenance["device_name"], run.provenance["precision"]
    found = re.fullmatch(r"(.*) \((\d+) threads?\)", device)
    if not found:
        return next((peak for name, peak in PEAKS.items() if name in device and precision == "bfloat16"), None)
    name, threads = found[1], int(found[2])

    def compute() -> dict[str, Any]:
        if not measure or name != cpu_name() or threads > joblib.cpu_count():
            raise LookupError
        return {"operations_per_second": _cpu_peak(precision, threads)}

    what = {"device": device, "precision": precision}
    try:
        return float(kept.values(run, "peak", what, compute)["operations_per_second"])
    except LookupError:
        return None


@functools.cache
def _cpu_peak(precision: str, threads: int) -> float:
    with on_threads(threads):
        return 1e12 * time_matrix_product(torch.device("cpu"), precision, repeats=5)


def _first_batches(dataset: Dataset, config: Config, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The first so many batches as training has them, on the CPU: images (N, 3, 32, 32) and labels (N,)."""
    batches = Batches(*split(dataset, config)["train"], config)
    for step in range(count):
        epoch, place = divmod(step, len(batches.sizes))
        if place == 0:
            batches.shuffle(epoch)
        yield batches.take(batches.sizes[place])
        batches.position.add_(batches.sizes[place])


def path_of(config: Config, dataset: Dataset, runs_dir: str | Path) -> Path:
    """Where the run of this config on this data is, or would be."""
    return _folder(runs_dir) / runs.run_name(config, dataset.identity)


def _folder(runs_dir: str | Path) -> Path:
    return runs.project_root() / environment.user_path(runs_dir)
