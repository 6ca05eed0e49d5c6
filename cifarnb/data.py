"""CIFAR-10 as uint8 tensors with a fingerprint; the random numbers of an epoch; batches and their augmentation."""

import contextlib
import hashlib
import http.client
import os
import pickle
import tarfile
import threading
import urllib.request
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cifarnb.environment import home, user_path
from cifarnb.synthetic import CLASSES as SYNTHETIC_CLASSES
from cifarnb.synthetic import make_synthetic

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE = "cifar10.npz"  # as which the cache may hold the images, instead of torchvision's files
PADDING = 4  # pixels on every side, for the random crop
NETWORK_TIMEOUT = 8  # seconds until the download site counts as out of reach
# torchvision is imported where it is needed: that takes more than a second, and an archive does without it.

ACCEPTED = (
    "auto, cifar10, synthetic, the archive cifar-10-python.tar.gz as it is downloaded, the folder of its files as "
    "torchvision or Keras keeps it, or an .npz archive of x_train, y_train, x_test, y_test"
)


@dataclass(frozen=True)
class KnownCopy:
    """An archive that is CIFAR-10 but not bit for bit."""

    source: str  # what it is and how it differs, in words, as it stands in every report made on it
    train_indices: tuple[int, ...]  # of the training images that differ from the originals
    test_indices: tuple[int, ...]  # of the test images that do


KNOWN_COPIES = {  # by fingerprint
    "e9b9c8f27eb33311137a28fcb539d98b9bbcc95d0b91f9ea7e85dd62b5444281": KnownCopy(
        "CIFAR-10 in a copy of which 59,907 of the 60,000 images are bit for bit the originals; the other 93 (73 "
        "train, 20 test) were decoded from JPEG; the 20 can move the accuracy of given weights by at most 0.20 points",
        train_indices=(
            4298, 5949, 7066, 7237, 7248, 7630, 8006, 8831, 8968, 9415, 12762, 12834, 13546, 21493, 25728, 26098, 26927,
            27621, 28435, 28728, 29694, 29747, 31066, 31367, 31462, 31625, 31663, 32777, 33641, 33661, 34067, 34276,
            34387, 34825, 35160, 35646, 36733, 37329, 37474, 37567, 38384, 38925, 39358, 39385, 39613, 39840, 39888,
            39971, 41779, 42004, 42389, 42611, 43357, 43883, 44882, 45168, 45240, 46175, 46435, 46538, 46624, 47393,
            47597, 48081, 48124, 48333, 48821, 48836, 49321, 49429, 49631, 49830, 49857,
        ),
        test_indices=(
            1259, 1369, 1422, 2245, 2737, 2935, 3695, 3718, 4085, 4496, 5791, 5896, 6286, 7580, 7707, 7724, 7832, 8117,
            8551, 9254,
        ),
    ),
}  # fmt: skip


class DataError(ValueError):
    """Data that cannot be used; the message names the file and the fault."""


@dataclass(frozen=True)
class Dataset:
    """Images (N, 32, 32, 3) in uint8 and labels (N,) in int64, on the CPU, in the order of their source."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    source: str  # what it is and where it came from, in words
    canonical: bool  # checked to be the original CIFAR-10
    fingerprint: str  # SHA-256 of the images' bytes (train, then test), then the labels' as uint8

    @property
    def is_cifar10(self) -> bool:
        """Whether it is the original CIFAR-10 or a known copy of it."""
        return self.canonical or self.fingerprint in KNOWN_COPIES

    @property
    def identity(self) -> str:
        """What runs are named by: CIFAR-10 is ``cifar10`` in every known copy, all else its fingerprint."""
        return "cifar10" if self.is_cifar10 else self.fingerprint


def differing_test_images(fingerprint: str, other: str) -> list[int]:
    """The test images, by index, in which two copies of CIFAR-10 may differ, by their fingerprints."""
    if fingerprint == other:
        return []
    return sorted({i for one in (fingerprint, other) if one in KNOWN_COPIES for i in KNOWN_COPIES[one].test_indices})


def cache_folder() -> Path:
    """Where CIFAR-10 is kept: $XDG_CACHE_HOME/cifarnb, by default ~/.cache/cifarnb."""
    return Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache") / "cifarnb"


def resolve(data: str = "auto") -> str:
    """What ``data`` means here: ``cifar10``, ``synthetic`` or a path.

    ``CIFARNB_DATA`` says where this machine has CIFAR-10: it stands in for ``auto`` and ``cifar10``.  Without it
    ``auto`` is the cache (the archive as downloaded, torchvision's folder, or ``cifar10.npz``), else the download if
    its site answers, else ``synthetic``, with a warning.
    """
    if data in ("auto", "cifar10"):
        data = os.environ.get("CIFARNB_DATA") or data
    if data != "auto":
        return data
    if cached := _cached(cache_folder()):
        return cached
    if not (fault := _download_fault()):
        return "cifar10"
    warnings.warn(
        f"NO CIFAR-10: none in {cache_folder()}, and it cannot be downloaded ({fault}). Going on with SYNTHETIC "
        "images: the numbers that follow say nothing about CIFAR-10. To use real data, pass data (or CIFARNB_DATA) a "
        "path.",
        stacklevel=2,
    )
    return "synthetic"


def _cached(folder: Path) -> str | None:
    """What a cache holds, as ``resolve`` names it; None if nothing, or if one may not enter it: another user's home."""
    with contextlib.suppress(PermissionError):
        if _may_hold_original(folder) and _undamaged(folder):
            return "cifar10"
        if (archive := folder / ARCHIVE).exists():
            return str(archive)
    return None


def _may_hold_original(folder: Path) -> bool:
    """Whether a cache holds more than ARCHIVE: for no less is torchvision, which knows the files, imported."""
    return any(file.name != ARCHIVE for file in folder.glob("*"))


def load(data: str = "auto") -> Dataset:
    """The data set that ``data`` names, as ``resolve`` understands it.

    ``cifar10`` is never anything else: files with the canonical MD5, or a known copy.

    Raises DataError with one line that names the file and the fault.
    """
    asked, data = data, resolve(data)
    found = _load(data)
    if asked == "cifar10" and not found.is_cifar10:
        raise DataError(f"{data}, which CIFARNB_DATA stands for: it is not CIFAR-10, and that was asked for")
    return found


def _load(data: str) -> Dataset:
    """What ``resolve`` has found."""
    if data == "synthetic":
        arrays = make_synthetic()
        return _dataset(arrays, "synthetic images, not CIFAR-10: no accuracy here says anything about CIFAR-10",
                        classes=SYNTHETIC_CLASSES)  # fmt: skip
    path = cache_folder() if data == "cifar10" else user_path(data)
    try:
        if data == "cifar10":
            return _load_cached(path)
        if path.is_file() and not _is_gzip(path):
            return _load_npz(path)
        if path.exists():
            return _load_original(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    raise DataError(f"{path}: no such file or folder; data is {ACCEPTED}")


def _load_cached(folder: Path) -> Dataset:
    """CIFAR-10 from the cache, and if it is not there, downloaded into it."""
    if _may_hold_original(folder):
        with contextlib.suppress(DataError):
            return _load_original(folder)
    archive = folder / ARCHIVE
    if archive.exists() and (dataset := _load_npz(archive)).is_cifar10:
        return dataset
    _download(folder)
    return _load_original(folder)


def _download(folder: Path) -> None:
    from torchvision.datasets import CIFAR10

    if fault := _download_fault():
        raise DataError(
            f"CIFAR-10 is not in {folder}, and it cannot be downloaded ({fault}). Put {CIFAR10.filename} into that "
            "folder, or pass data (or CIFARNB_DATA) a path."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        CIFAR10(folder, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{folder}: CIFAR-10 could not be downloaded ({error})") from None


def _download_fault() -> str | None:
    """Why the download site does not answer; None if it does, in time.

    In a thread, because a look-up of its name knows no time limit.
    """
    from torchvision.datasets import CIFAR10

    faults: list[str | None] = []

    def ask() -> None:
        request = urllib.request.Request(CIFAR10.url, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=NETWORK_TIMEOUT):
                faults.append(None)
        except (OSError, http.client.HTTPException) as error:
            faults.append(" ".join(str(error).split()) or type(error).__name__)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(NETWORK_TIMEOUT)
    fault = faults[0] if faults else f"no answer within {NETWORK_TIMEOUT} s"
    return fault and f"{CIFAR10.url}: {fault}"


def _is_gzip(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(2) == b"\x1f\x8b"


def _files() -> list[tuple[str, str]]:
    """The files of CIFAR-10 with their MD5: the training batches, the test batch, and the names of the classes."""
    from torchvision.datasets import CIFAR10

    batches = [(name, md5) for name, md5 in CIFAR10.train_list + CIFAR10.test_list]
    return [*batches, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]


def _places(path: Path) -> list[Path]:
    """Where the original may be: ``path`` itself, if it is the archive, or what it holds, files or archive."""
    from torchvision.datasets import CIFAR10

    if path.is_file():
        return [path]
    inner = path / CIFAR10.base_folder  # as torchvision and older versions of Keras have it
    newer = path / f"{CIFAR10.base_folder}-target" / CIFAR10.base_folder  # as newer ones do
    found = [place for place in (path, inner, newer) if any((place / name).exists() for name, _ in _files())]
    archive = path / CIFAR10.filename
    return [*found, *([archive] if archive.is_file() else [])] or [inner]


def _damage(place: Path) -> str | None:
    """What keeps a folder of files, or an archive, from being CIFAR-10; None if it has the canonical MD5."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    files = [(place, CIFAR10.tgz_md5)] if place.is_file() else [(place / name, md5) for name, md5 in _files()]
    for file, md5 in files:
        if not file.is_file():
            return f"{file}: missing"
        if not check_integrity(file, md5):
            return f"{file}: its MD5 is not the canonical one; damaged or not CIFAR-10, so it is not unpickled"
    return None


def _undamaged(path: Path) -> Path | None:
    return next((place for place in _places(path) if _damage(place) is None), None)


def _load_original(path: Path) -> Dataset:
    """The archive as downloaded, or the folder of its files, or a folder that holds one of them."""
    from torchvision.datasets import CIFAR10

    place = _undamaged(path)
    if place is None:
        raise DataError(f"{_damage(_places(path)[0])}; data is {ACCEPTED}")
    contents = _read_files(place)

    def join(batches: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
        read = [pickle.loads(contents.pop(name), encoding="latin1") for name, _ in batches]
        images = np.concatenate([batch["data"] for batch in read]).reshape(-1, 3, 32, 32)
        return images.transpose(0, 2, 3, 1), np.concatenate([batch["labels"] for batch in read])

    with warnings.catch_warnings():
        # The originals were pickled by a NumPy so old that newer ones warn about their dtype.
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        arrays = (*join(CIFAR10.train_list), *join(CIFAR10.test_list))
    return _dataset(arrays, "CIFAR-10 (all files have the canonical MD5)", canonical=True)


def _read_files(place: Path) -> dict[str, bytes]:
    """The batches in a folder or in the archive, by name.  Nothing of the archive is unpacked to the disk."""
    if place.is_dir():
        return {name: (place / name).read_bytes() for name, _ in _files()}
    contents = {}
    with tarfile.open(place) as archive:  # in the order of its members: going back would unzip it again
        for member in archive:
            if opened := archive.extractfile(member):
                contents[Path(member.name).name] = opened.read()
    return contents


def _load_npz(path: Path) -> Dataset:
    names = ("x_train", "y_train", "x_test", "y_test")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if missing := [name for name in names if name not in archive]:
                raise DataError(f"{path}: has no array {', '.join(missing)}; expected are {', '.join(names)}")
            arrays = [archive[name] for name in names]
    except DataError:
        raise
    except PermissionError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # what zipfile and NumPy raise on a damaged archive has no common base
        reason = type(error).__name__  # NumPy's own words advise to unpickle
        raise DataError(f"{path}: not a whole .npz archive of plain arrays ({reason}); data is {ACCEPTED}") from None
    for name, array in zip(names, arrays, strict=True):
        if fault := _fault(array, is_images=name.startswith("x")):
            raise DataError(f"{path}: {name} {fault}")
    for part in ("train", "test"):
        images, labels = (len(arrays[names.index(f"{kind}_{part}")]) for kind in "xy")
        if images != labels:
            raise DataError(f"{path}: x_{part} has {images} images but y_{part} has {labels} labels")
    return _dataset(tuple(arrays), f"the archive {path.name}, not checked to be the original CIFAR-10")


def _fault(array: np.ndarray, is_images: bool) -> str | None:
    if is_images:
        if array.dtype != np.uint8:
            return f"has dtype {array.dtype}; expected is uint8"
        if array.ndim != 4 or array.shape[1:] != (32, 32, 3) or not len(array):
            return f"has shape {array.shape}; expected is (N, 32, 32, 3)"
        return None
    if not np.issubdtype(array.dtype, np.integer):
        return f"has dtype {array.dtype}; expected is uint8"
    if array.ndim != 1 or not len(array):
        return f"has shape {array.shape}; expected is (N,)"
    if array.min() < 0 or array.max() > 9:
        return f"has labels from {array.min()} to {array.max()}; expected are 0 to 9"
    return None


def _dataset(
    arrays: tuple[np.ndarray, ...], source: str, *, classes: tuple[str, ...] = CIFAR10_CLASSES, canonical: bool = False
) -> Dataset:
    source = source.encode(errors="replace").decode()  # of a path whose bytes are not UTF-8, what can be written
    x_train, y_train, x_test, y_test = arrays
    digest = hashlib.sha256()
    for array in (x_train, x_test, y_train.astype(np.uint8), y_test.astype(np.uint8)):
        digest.update(np.ascontiguousarray(array).data)
    fingerprint = digest.hexdigest()
    known = KNOWN_COPIES.get(fingerprint)
    return Dataset(
        train_images=torch.from_numpy(np.ascontiguousarray(x_train)),
        train_labels=torch.from_numpy(y_train.astype(np.int64)),
        test_images=torch.from_numpy(np.ascontiguousarray(x_test)),
        test_labels=torch.from_numpy(y_test.astype(np.int64)),
        classes=classes,
        source=known.source if known else source,
        canonical=canonical,
        fingerprint=fingerprint,
    )


def normalize(images: Tensor) -> Tensor:
    """(N, 32, 32, 3) uint8 → (N, 3, 32, 32) float32 with mean and standard deviation 0.5, channels last in memory."""
    return images.permute(0, 3, 1, 2).div(127.5).sub_(1)


def channel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of red, green and blue, 0 to 1, of images (N, 32, 32, 3) in uint8."""
    # From the counts of the 256 values: exact, and without a copy of all images as float.
    counts = torch.stack([images[..., channel].flatten().bincount(minlength=256) for channel in range(3)]).double()
    values = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum(1, keepdim=True)  # (3, 256)
    mean = share @ values
    return mean.tolist(), (share @ values.square() - mean.square()).sqrt().tolist()


def count_duplicates(images: Tensor, others: Tensor) -> int:
    """How many of ``images`` (N, 32, 32, 3) are bit for bit among ``others`` (M, 32, 32, 3), both in uint8."""
    known = {hashlib.sha256(image.numpy().tobytes()).digest() for image in others}
    return sum(hashlib.sha256(image.numpy().tobytes()).digest() in known for image in images)


def pad(images: Tensor, reflect: int = 0) -> Tensor:
    """(N, 32, 32, 3) → (N, 40, 40, 3), black around, as the random crop wants it.

    With ``reflect`` it is so many pixels of the image mirrored at its edge, (N, 32 + 2·reflect, 32 + 2·reflect, 3).
    """
    if not reflect:
        return F.pad(images, (0, 0, PADDING, PADDING, PADDING, PADDING))
    at = torch.arange(-reflect, 32 + reflect, device=images.device).abs()  # PyTorch's own knows no uint8
    at = 31 - (31 - at).abs()
    return images[:, at][:, :, at]


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """The random numbers of one epoch; from seed and epoch alone, so that a resumed run draws the same ones."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0]))


def draw(n: int, generator: torch.Generator, padding: int = PADDING, cutout: int = 0) -> Tensor:
    """The random numbers of one epoch of ``n`` images, (4, n) in int64: which image, top, left, flip, batch by batch.

    With ``cutout``, the side of a square, two more rows: its top and left edge.  Drawn on the CPU, where ``generator``
    lives: they are the same for every device.
    """
    order = torch.randperm(n, generator=generator)
    crops = torch.randint(0, 2 * padding + 1, (2, n), generator=generator)  # top and left edge
    flips = torch.rand(n, generator=generator) < 0.5
    squares = torch.randint(0, 32 - cutout + 1, (2, n), generator=generator) if cutout else ()
    return torch.stack([order, *crops, flips, *squares])


def alternate_flips(drawn: Tensor, first: Tensor, epoch: int) -> None:
    """Flip each image as in the first epoch, in every second one (from 0) the other way round: changes ``drawn``.

    ``drawn`` and ``first`` are what ``draw`` gives for this epoch and for the first.
    """
    flips = torch.empty_like(first[3])
    flips[first[0]] = first[3]  # in the images' own order
    drawn[3] = flips[drawn[0]] ^ (epoch % 2)


def take_batch(
    images: Tensor, labels: Tensor, drawn: Tensor, *, augment: bool, cutout: int = 0
) -> tuple[Tensor, Tensor]:
    """Normalised images (B, 3, 32, 32) and labels (B,), for B columns of what ``draw`` gives, on their device.

    With ``augment`` the images come padded as by ``pad``, and each is cropped and flipped as drawn, and has a grey
    square of side ``cutout`` where there is one; without, (N, 32, 32, 3).
    """
    chosen, top, left, flip = drawn[:4]
    if not augment:
        return normalize(images[chosen]), labels[chosen]
    # A view, such as (N, 9, 9, 3, 32, 32): every window of every image; indexing it gathers and crops in one pass.
    batch = images.unfold(1, 32, 1).unfold(2, 32, 1)[chosen, top, left]  # (B, 3, 32, 32)
    batch = torch.where(flip.bool()[:, None, None, None], batch.flip(-1), batch)
    batch = normalize(batch.permute(0, 2, 3, 1))
    if cutout:
        distance = torch.arange(32, device=drawn.device) - drawn[4:, :, None]  # (2, B, 32): from the square's edges
        down, across = (distance >= 0) & (distance < cutout)
        batch.masked_fill_((down[:, :, None] & across[:, None, :])[:, None], 0)
    return batch, labels[chosen]
