import gc
import gzip
import hashlib
import io
import os
import pickle
import re
import ssl
import subprocess
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.request
import warnings
from email.message import Message

import numpy as np
import pytest
import slow
import torch
import torchvision.transforms.functional as TF
from torchvision.datasets import CIFAR10

from cifarnb import data
from cifarnb.data import (
    DataError,
    alternate_flips,
    channel_statistics,
    draw,
    epoch_generator,
    load,
    normalize,
    pad,
    resolve,
    take_batch,
)  # fmt: skip
from cifarnb.synthetic import CLASSES as SYNTHETIC_CLASSES
from cifarnb.synthetic import make_synthetic

NEARLY = data.KnownCopy("nearly CIFAR-10", train_indices=(2, 5), test_indices=(3, 7))
REAL = os.environ.get("CIFARNB_DATA")  # which the tests do not see
CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no word on where the data is."""
    monkeypatch.delenv("CIFARNB_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return data.cache_folder()


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)

    def split(n):
        return rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, n, dtype=np.uint8)

    return dict(zip(("x_train", "y_train", "x_test", "y_test"), (*split(30), *split(10)), strict=True))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small folder in torchvision's layout, whose MD5s stand for the canonical ones."""
    base = tmp_path / "pictures" / CIFAR10.base_folder
    base.mkdir(parents=True)
    rng = np.random.default_rng(1)

    def write(name, content):
        (base / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((base / name).read_bytes()).hexdigest()]

    def batch(name):
        return write(name, {"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8), "labels": [3, 1, 4, 1]})

    monkeypatch.setattr(CIFAR10, "train_list", [batch(f"data_batch_{i}") for i in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [batch("test_batch")])
    name, md5 = write("batches.meta", {"label_names": list(data.CIFAR10_CLASSES)})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5})
    return base.parent


@pytest.fixture
def archive(folder, tmp_path, monkeypatch):
    """The same as it is downloaded, alone in its folder, whose MD5 stands for the canonical one."""
    path = tmp_path / "downloads" / CIFAR10.filename
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as written:
        written.add(folder / CIFAR10.base_folder, CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())
    return path


def refusal(source):
    """The one line with which ``load`` refuses."""
    with pytest.raises(DataError) as refused:
        load(str(source))
    message = str(refused.value)
    assert "\n" not in message
    return message


# ---------------------------------------------------------------- what is loaded


def test_an_archive_is_loaded_as_it_is(arrays, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    dataset = load(str(tmp_path / "a.npz"))
    for part in ("train", "test"):
        images, labels = getattr(dataset, f"{part}_images"), getattr(dataset, f"{part}_labels")
        assert np.array_equal(images, arrays[f"x_{part}"])
        assert np.array_equal(labels, arrays[f"y_{part}"])
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert dataset.classes == CIFAR10_NAMES
    assert "a.npz" in dataset.source
    assert not dataset.canonical
    assert not dataset.is_cifar10


def test_the_fingerprint_is_the_sha256_in_the_documented_order(arrays, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    content = b"".join(arrays[name].tobytes() for name in ("x_train", "x_test", "y_train", "y_test"))
    assert load(str(tmp_path / "a.npz")).fingerprint == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint16])
def test_the_fingerprint_does_not_depend_on_how_it_is_stored(dtype, arrays, tmp_path):
    np.savez(tmp_path / "plain.npz", **arrays)
    other = {k: v.astype(dtype) if k.startswith("y") else np.asfortranarray(v) for k, v in arrays.items()}
    np.savez_compressed(tmp_path / "other.npz", **other)
    assert load(str(tmp_path / "plain.npz")).fingerprint == load(str(tmp_path / "other.npz")).fingerprint


@pytest.mark.parametrize("name", ["x_train", "y_train", "x_test", "y_test"])
def test_a_single_changed_value_changes_the_fingerprint(name, arrays, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    arrays[name].flat[-1] = (int(arrays[name].flat[-1]) + 1) % 10
    np.savez(tmp_path / "b.npz", **arrays)
    assert load(str(tmp_path / "a.npz")).fingerprint != load(str(tmp_path / "b.npz")).fingerprint


def test_a_known_copy_is_named_as_what_it_is(arrays, tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", **arrays)
    monkeypatch.setitem(data.KNOWN_COPIES, load(str(tmp_path / "a.npz")).fingerprint, NEARLY)
    dataset = load(str(tmp_path / "a.npz"))
    assert (dataset.source, dataset.is_cifar10, dataset.canonical) == ("nearly CIFAR-10", True, False)


def test_the_test_images_in_which_two_copies_may_differ(monkeypatch):
    monkeypatch.setitem(data.KNOWN_COPIES, "a", NEARLY)
    monkeypatch.setitem(data.KNOWN_COPIES, "b", data.KnownCopy("too", (), (1, 7)))
    assert data.differing_test_images("a", "a") == []
    assert data.differing_test_images("a", "the original") == data.differing_test_images("the original", "a") == [3, 7]
    assert data.differing_test_images("a", "b") == [1, 3, 7]


def test_the_known_copy_lists_the_images_that_it_tells_of():
    (copy,) = data.KNOWN_COPIES.values()
    assert (len(set(copy.train_indices)), len(set(copy.test_indices))) == (73, 20)
    assert "(73 train, 20 test)" in copy.source
    assert max(copy.train_indices) < 50_000
    assert max(copy.test_indices) < 10_000


@pytest.mark.skipif(not REAL, reason="needs CIFAR-10")
def test_the_images_that_are_not_the_originals_look_as_jpeg_leaves_them():
    """A copy whose list names other images would have them judged that are the same, and the others not."""
    dataset = load(REAL)
    if dataset.fingerprint not in data.KNOWN_COPIES:
        pytest.skip("the original")
    rows, columns = torch.arange(8)[:, None], torch.arange(8)[None]
    transform = torch.cos((2 * columns + 1) * rows * torch.pi / 16) / 2  # DCT-II of 8 pixels
    transform[0] /= 2**0.5

    def smoothness(images):
        """The share of the luminance's high frequencies in 8×8 blocks that quantisation left nearly nothing of."""
        light = images.double() @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
        blocks = light.unfold(1, 8, 8).unfold(2, 8, 8).float()  # (N, 4, 4, 8, 8)
        high = (transform @ blocks @ transform.T)[..., rows + columns >= 9]
        return (high.abs() < 1.2).float().mean((1, 2, 3))

    others = torch.ones(len(dataset.test_images), dtype=torch.bool)
    listed = list(data.KNOWN_COPIES[dataset.fingerprint].test_indices)
    others[listed] = False
    assert smoothness(dataset.test_images[listed]).min() > 0.9
    assert smoothness(dataset.test_images[others]).quantile(0.99) < 0.9


def test_a_folder_in_torchvisions_layout_is_loaded(folder):
    dataset = load(str(folder))
    assert np.array_equal(dataset.train_images, CIFAR10(folder, train=True).data)
    assert np.array_equal(dataset.test_images, CIFAR10(folder, train=False).data)
    assert dataset.train_labels.tolist() == [3, 1, 4, 1] * 5
    assert dataset.test_labels.tolist() == [3, 1, 4, 1]
    assert dataset.canonical
    assert dataset.is_cifar10
    assert load(str(folder / CIFAR10.base_folder)).fingerprint == dataset.fingerprint


def test_the_known_copys_images_that_differ_are_listed():
    (copy,) = data.KNOWN_COPIES.values()
    for indices, images in ((copy.train_indices, 50_000), (copy.test_indices, 10_000)):
        assert list(indices) == sorted(set(indices))
        assert set(indices) <= set(range(images))
    assert len(copy.train_indices) + len(copy.test_indices) == 60_000 - 59_907


@pytest.mark.parametrize(
    "inner", ["cifar-10-batches-py", "cifar-10-batches-py-target/cifar-10-batches-py"], ids=["keras 2", "keras 3"]
)
def test_keras_folder_is_loaded_and_what_holds_it(inner, folder, tmp_path):
    expected = load(str(folder)).fingerprint
    kept = tmp_path / "datasets" / inner
    kept.parent.mkdir(parents=True)
    (folder / CIFAR10.base_folder).rename(kept)
    for path in (kept, kept.parent, tmp_path / "datasets"):
        dataset = load(str(path))
        assert (dataset.fingerprint, dataset.canonical) == (expected, True)


def test_files_of_cifar10_need_no_folder_of_a_certain_name(folder, tmp_path):
    expected = load(str(folder)).fingerprint
    (folder / CIFAR10.base_folder).rename(tmp_path / "mine")
    assert load(str(tmp_path / "mine")).fingerprint == expected


@pytest.mark.parametrize("name", [CIFAR10.filename, "cifar-10-batches-py-target_archive", "cifar (1).tgz"])
def test_the_archive_is_loaded_as_it_is_downloaded(name, folder, archive, tmp_path, monkeypatch):
    archive = archive.rename(archive.with_name(name))
    expected = load(str(folder))
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dataset = load(str(archive))
    assert all(torch.equal(a, b) for a, b in zip(*map(images_and_labels, (dataset, expected)), strict=True))
    assert (dataset.fingerprint, dataset.source) == (expected.fingerprint, expected.source)
    assert dataset.canonical
    assert sorted(tmp_path.rglob("*")) == before  # nothing is unpacked


def test_a_folder_with_the_archive_is_loaded(archive):
    assert load(str(archive.parent)).canonical


def test_the_archive_stands_in_for_a_folder_that_was_not_unpacked_to_its_end(folder, archive):
    archive.rename(folder / CIFAR10.filename)
    (folder / CIFAR10.base_folder / "data_batch_1").write_bytes(b"")
    (folder / CIFAR10.base_folder / "test_batch").unlink()
    assert load(str(folder)).canonical


def test_synthetic_images_are_named_as_such(monkeypatch):
    arrays = make_synthetic(train_size=20, test_size=10)
    monkeypatch.setattr(data, "make_synthetic", lambda: arrays)
    dataset = load("synthetic")
    assert all(np.array_equal(a, b) for a, b in zip(images_and_labels(dataset), arrays, strict=True))
    assert dataset.classes == SYNTHETIC_CLASSES
    assert dataset.source.startswith("synthetic images, not CIFAR-10")
    assert not dataset.is_cifar10


def images_and_labels(dataset):
    return dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels


# ---------------------------------------------------------------- what is refused


def test_a_path_that_does_not_exist(tmp_path):
    message = refusal(tmp_path / "nowhere")
    assert message.startswith(f"{tmp_path / 'nowhere'}: no such file or folder")
    assert "auto, cifar10, synthetic" in message


def test_a_folder_without_files(tmp_path):
    assert refusal(tmp_path).startswith(f"{tmp_path / CIFAR10.base_folder / 'data_batch_1'}: missing")


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_folder_that_lacks_a_file(name, folder):
    (folder / CIFAR10.base_folder / name).unlink()
    assert refusal(folder).startswith(f"{folder / CIFAR10.base_folder / name}: missing")


class Malicious:
    """What writes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_a_file_whose_md5_is_wrong_is_not_unpickled(name, folder, tmp_path):
    marker = tmp_path / "unpickled"
    path = folder / CIFAR10.base_folder / name
    path.write_bytes(pickle.dumps(Malicious(marker)))
    message = refusal(folder)
    assert message.startswith(f"{path}: ")
    assert "MD5" in message
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists()  # the trap does work


@pytest.mark.parametrize("name", [CIFAR10.filename, "other.npz"])
def test_nothing_of_an_archive_whose_md5_is_wrong_is_unpickled(name, folder, archive, tmp_path):
    marker = tmp_path / "unpickled"
    for path in (folder / CIFAR10.base_folder).iterdir():
        path.write_bytes(pickle.dumps(Malicious(marker)))
    archive = archive.rename(archive.with_name(name))
    with tarfile.open(archive, "w:gz") as written:
        written.add(folder / CIFAR10.base_folder, CIFAR10.base_folder)
    message = refusal(archive)
    assert message.startswith(f"{archive}: its MD5 is not the canonical one")
    assert not marker.exists()


def test_what_is_none_of_the_accepted_gets_the_line_that_says_what_is(archive, tmp_path):
    (tmp_path / "text.txt").write_text("CIFAR-10")
    (tmp_path / "empty").touch()
    (tmp_path / "half.tar.gz").write_bytes(archive.read_bytes()[:1000])
    (tmp_path / "unzipped.tar").write_bytes(gzip.decompress(archive.read_bytes()))
    (tmp_path / "folder").mkdir()
    for name in ("text.txt", "empty", "half.tar.gz", "unzipped.tar", "folder", "nowhere"):
        message = refusal(tmp_path / name)
        assert message.startswith(str(tmp_path / name))
        assert message.endswith(f"data is {data.ACCEPTED}")
        assert "allow_pickle" not in message  # no advice to do what is unsafe


def test_an_archive_of_objects_is_not_unpickled(arrays, tmp_path):
    marker, path = tmp_path / "unpickled", tmp_path / "a.npz"
    np.savez(path, **arrays | {"y_test": np.array([Malicious(marker)], dtype=object)})
    message = refusal(path)
    assert message.startswith(f"{path}: not a whole .npz archive of plain arrays")
    assert not marker.exists()


def test_a_pickle_is_not_unpickled(tmp_path):
    marker, path = tmp_path / "unpickled", tmp_path / "a.npz"
    path.write_bytes(pickle.dumps(Malicious(marker)))
    assert refusal(path).startswith(f"{path}: not a whole .npz archive")
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # see the next test
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_archive(keep, arrays, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    assert refusal(path).startswith(f"{path}: not a whole .npz archive")
    gc.collect()


def test_an_archive_that_is_refused_is_closed(arrays, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    path.write_bytes(path.read_bytes()[:5000])
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        refusal(path)
        gc.collect()
    assert not warned


def test_an_archive_with_a_damaged_byte(arrays, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path}: not a whole .npz archive")


def test_a_single_array_is_no_archive(arrays, tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, arrays["x_train"])
    assert refusal(path).startswith(f"{path}: not a whole .npz archive")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"x_test": None, "y_test": None},
            "has no array x_test, y_test; expected are x_train, y_train, x_test, y_test",
        ),
        ({"x_train": np.zeros((30, 32, 32, 3), np.float32)}, "x_train has dtype float32; expected is uint8"),
        ({"y_train": np.zeros(30, np.float64)}, "y_train has dtype float64; expected is uint8"),
        ({"y_test": np.zeros(10, bool)}, "y_test has dtype bool; expected is uint8"),
        (
            {"x_train": np.zeros((30, 3, 32, 32), np.uint8)},
            "x_train has shape (30, 3, 32, 32); expected is (N, 32, 32, 3)",
        ),
        ({"x_test": np.zeros((10, 3072), np.uint8)}, "x_test has shape (10, 3072); expected is (N, 32, 32, 3)"),
        ({"x_test": np.zeros((0, 32, 32, 3), np.uint8)}, "x_test has shape (0, 32, 32, 3); expected is (N, 32, 32, 3)"),
        ({"y_train": np.zeros((30, 1), np.uint8)}, "y_train has shape (30, 1); expected is (N,)"),
        ({"y_train": np.array(3, np.uint8)}, "y_train has shape (); expected is (N,)"),
        ({"y_train": np.arange(30) % 11}, "y_train has labels from 0 to 10; expected are 0 to 9"),
        ({"y_test": np.arange(10) - 1}, "y_test has labels from -1 to 8; expected are 0 to 9"),
        ({"y_test": np.zeros(9, np.uint8)}, "x_test has 10 images but y_test has 9 labels"),
        ({"y_train": np.zeros(31, np.uint8)}, "x_train has 30 images but y_train has 31 labels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_archive_of_the_wrong_content(changes, fault, arrays, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **{k: v for k, v in (arrays | changes).items() if v is not None})
    assert refusal(path) == f"{path}: {fault}"


def test_an_archive_with_a_huge_header_is_refused_in_one_line(arrays, tmp_path):
    path = tmp_path / "a.npz"
    many_fields = np.zeros(30, dtype=[(f"a field with a long name, number {i}", np.uint8) for i in range(500)])
    np.savez(path, **arrays | {"x_train": many_fields})
    assert refusal(path).startswith(f"{path}: not a whole .npz archive")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_and_a_folder_that_may_not_be_read(arrays, folder, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    path.chmod(0)
    assert refusal(path) == f"{path}: cannot be read (Permission denied)"
    locked = folder / CIFAR10.base_folder
    locked.chmod(0)
    try:
        message = refusal(folder)
    finally:
        locked.chmod(0o700)
    assert message.startswith(str(folder))


# ---------------------------------------------------------------- what a name stands for


def test_the_cache_follows_xdg(monkeypatch, tmp_path):
    assert data.cache_folder() == tmp_path / "cache" / "cifarnb"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert data.cache_folder() == tmp_path / "home" / ".cache" / "cifarnb"


def test_cifarnb_data_stands_for_auto_and_cifar10_alone(monkeypatch):
    monkeypatch.setenv("CIFARNB_DATA", "/here/a.npz")
    assert resolve() == resolve("auto") == resolve("cifar10") == "/here/a.npz"
    assert resolve("synthetic") == "synthetic"
    assert resolve("other.npz") == "other.npz"
    monkeypatch.setenv("CIFARNB_DATA", "synthetic")
    assert resolve("auto") == "synthetic"


def test_auto_takes_the_cache_first(folder, cache, arrays, no_network):
    cache.mkdir(parents=True)
    np.savez(cache / "cifar10.npz", **arrays)
    assert resolve("auto") == str(cache / "cifar10.npz")
    (folder / CIFAR10.base_folder).rename(cache / CIFAR10.base_folder)
    assert resolve("auto") == "cifar10"
    assert load("auto").canonical


def test_cifar10_takes_an_archive_in_the_cache_if_it_is_cifar10(cache, arrays, no_network, monkeypatch):
    cache.mkdir(parents=True)
    np.savez(cache / "cifar10.npz", **arrays)
    assert "it cannot be downloaded" in refusal("cifar10")
    fingerprint = load(str(cache / "cifar10.npz")).fingerprint
    monkeypatch.setitem(data.KNOWN_COPIES, fingerprint, NEARLY)
    assert load("cifar10").fingerprint == fingerprint


def test_an_archive_alone_in_the_cache_does_without_torchvision(cache, arrays):
    cache.mkdir(parents=True)
    np.savez(cache / "cifar10.npz", **arrays)
    code = "import sys; from cifarnb import data; data.load('auto'); print('torchvision' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_auto_downloads_where_the_site_answers(monkeypatch):
    asked = []

    def answer(request, timeout):
        asked.append((request.get_method(), request.full_url))
        return io.BytesIO()

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    assert resolve("auto") == "cifar10"
    assert asked == [("HEAD", CIFAR10.url)]


def test_auto_without_network_is_synthetic_and_says_so_loudly(no_network, monkeypatch, cache):
    monkeypatch.setattr(data, "make_synthetic", lambda: make_synthetic(train_size=20, test_size=10))
    with pytest.warns(UserWarning, match="NO CIFAR-10.*SYNTHETIC") as warned:
        dataset = load("auto")
    assert str(cache) in str(warned[0].message)
    assert dataset.source.startswith("synthetic images, not CIFAR-10")
    assert len(dataset.train_images) == 20


def test_a_cache_that_one_may_not_enter_counts_as_empty(no_network, monkeypatch, no_entry):
    monkeypatch.delenv("CIFARNB_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(no_entry))
    with pytest.warns(UserWarning, match="NO CIFAR-10"):
        assert resolve("auto") == "synthetic"


def test_a_network_that_never_answers_is_noticed_in_time(monkeypatch):
    over = threading.Event()

    def hang(*_, **__):
        over.wait(30)
        raise OSError

    assert data.NETWORK_TIMEOUT < 10
    monkeypatch.setattr(urllib.request, "urlopen", hang)
    monkeypatch.setattr(data, "NETWORK_TIMEOUT", 0.2)
    started = time.monotonic()
    with pytest.warns(UserWarning, match=r"no answer within 0\.2 s\)\. .*SYNTHETIC"):
        assert resolve("auto") == "synthetic"
    assert time.monotonic() - started < 5
    over.set()


def test_cifar10_without_network_says_what_to_do(no_network, cache):
    message = refusal("cifar10")
    assert f"Put {CIFAR10.filename} into that folder" in message
    assert str(cache) in message
    assert "CIFARNB_DATA" in message


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (urllib.error.URLError(ssl.SSLCertVerificationError("CERTIFICATE_VERIFY_FAILED")), "CERTIFICATE_VERIFY_FAILED"),
        (urllib.error.HTTPError(CIFAR10.url, 403, "Forbidden", Message(), None), "HTTP Error 403: Forbidden"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_why_nothing_can_be_downloaded_is_told(error, reason, cache, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    told = rf"cannot be downloaded \({CIFAR10.url}: .*{reason}.*\)"
    assert re.search(told, refusal("cifar10"))
    with pytest.warns(UserWarning, match=told):
        assert resolve("auto") == "synthetic"


def test_a_downloaded_archive_put_into_the_cache_needs_no_network(folder, archive, cache, no_network):
    cache.mkdir(parents=True)
    archive.rename(cache / CIFAR10.filename)
    assert resolve("auto") == "cifar10"
    for name in ("cifar10", "auto"):
        assert load(name).fingerprint == load(str(folder)).fingerprint
    assert [path.name for path in cache.iterdir()] == [CIFAR10.filename]


def test_cifar10_is_never_anything_else(monkeypatch):
    monkeypatch.setenv("CIFARNB_DATA", "synthetic")
    assert not load("auto").is_cifar10
    with pytest.raises(DataError, match=r"^synthetic, which CIFARNB_DATA stands for: it is not CIFAR-10"):
        load("cifar10")


@pytest.mark.parametrize("name", ["auto", "cifar10"])
def test_cifarnb_data_may_be_the_archive(name, folder, archive, monkeypatch):
    monkeypatch.setenv("CIFARNB_DATA", str(archive))
    assert load(name).fingerprint == load(str(folder)).fingerprint


def test_a_download_that_fails_is_one_line(cache, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO())
    monkeypatch.setattr(CIFAR10, "__init__", fail)
    assert refusal("cifar10") == f"{cache}: CIFAR-10 could not be downloaded (File not found or corrupted.)"


# ---------------------------------------------------------------- numbers for the network


def test_statistics_are_those_of_float64(tiny_dataset):
    pixels = tiny_dataset.train_images.numpy().astype(np.float64) / 255
    mean, deviation = channel_statistics(tiny_dataset.train_images)
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(deviation, pixels.std((0, 1, 2)), rtol=1e-10)


def test_images_of_one_colour_deviate_by_nothing():
    colours = torch.arange(256, dtype=torch.uint8)
    for colour in colours:
        mean, deviation = channel_statistics(colour.expand(3, 32, 32, 3))
        assert mean == pytest.approx([colour.item() / 255] * 3)
        assert deviation == pytest.approx([0] * 3, abs=1e-7)


def test_images_are_normalised_as_by_torchvision(tiny_dataset):
    images = tiny_dataset.test_images
    before = images.clone()
    normalised = normalize(images)
    torch.testing.assert_close(normalised, torch.stack([slow.transformed(image) for image in images]))
    assert normalised.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


def test_padding_is_that_of_torchvision(tiny_dataset):
    images = tiny_dataset.test_images
    expected = TF.pad(images.permute(0, 3, 1, 2), [4]).permute(0, 2, 3, 1)
    assert torch.equal(pad(images), expected)


@pytest.mark.parametrize("border", [1, 2, 31])
def test_a_mirrored_edge_is_that_of_torchvision(tiny_dataset, border):
    images = tiny_dataset.test_images[:4]
    expected = TF.pad(images.permute(0, 3, 1, 2).float(), [border], padding_mode="reflect").permute(0, 2, 3, 1)
    assert torch.equal(pad(images, border).float(), expected)


@pytest.mark.parametrize(("reflect", "cutout"), [(2, 0), (0, 8), (3, 32), (0, 1)])
def test_augmented_batches_are_those_of_a_slow_loop(reflect, cutout, tiny_dataset):
    images, labels = tiny_dataset.test_images, tiny_dataset.test_labels
    drawn = draw(len(images), epoch_generator(5, 2), reflect or 4, cutout)
    x, y = take_batch(pad(images, reflect), labels, drawn, augment=True, cutout=cutout)
    ((slow_x, slow_y),) = slow.epoch_batches(images, labels, 64, epoch_generator(5, 2), True, reflect, cutout)
    torch.testing.assert_close(x, slow_x)
    assert torch.equal(y, slow_y)


def test_flips_alternate_from_epoch_to_epoch_image_by_image():
    n, flips = 300, []
    for epoch in range(4):
        drawn = draw(n, epoch_generator(7, epoch))
        alternate_flips(drawn, draw(n, epoch_generator(7, 0)), epoch)
        other = draw(n, epoch_generator(7, epoch))
        assert torch.equal(drawn[:3], other[:3])
        flips.append(drawn[3][drawn[0].argsort()])  # by image
        if epoch == 0:
            assert torch.equal(drawn, other)
    assert torch.equal(flips[0], flips[2])
    assert torch.equal(flips[1], flips[3])
    assert torch.equal(flips[0], 1 - flips[1])
    assert 0.4 < flips[0].float().mean() < 0.6


def batches(images, labels, batch_size, generator, augment):
    """One epoch, batch by batch."""
    drawn = draw(len(images), generator)
    return [take_batch(images, labels, part, augment=augment) for part in drawn.split(batch_size, dim=1)]


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("batch_size", [1, 30, 64, 100])
def test_batches_are_those_of_a_slow_loop(augment, batch_size, tiny_dataset):
    images, labels = tiny_dataset.test_images, tiny_dataset.test_labels
    fast = batches(pad(images) if augment else images, labels, batch_size, epoch_generator(5, 2), augment)
    plain = slow.epoch_batches(images, labels, batch_size, epoch_generator(5, 2), augment)
    for (x, y), (slow_x, slow_y) in zip(fast, plain, strict=True):
        torch.testing.assert_close(x, slow_x)
        assert torch.equal(y, slow_y)


@pytest.mark.parametrize("augment", [False, True])
def test_every_image_comes_once_an_epoch_with_its_label(augment):
    numbers = torch.arange(250, dtype=torch.uint8)
    images = numbers[:, None, None, None].expand(-1, 32, 32, 3).contiguous()  # image k is of colour k
    epoch = list(batches(pad(images) if augment else images, numbers.long() % 10, 64, epoch_generator(0, 0), augment))
    assert [len(x) for x, _ in epoch] == [64, 64, 64, 58]
    assert {x.shape[1:] for x, _ in epoch} == {(3, 32, 32)}
    seen = torch.cat([((x.amax((1, 2, 3)) + 1) * 127.5).round().long() for x, _ in epoch])
    assert sorted(seen.tolist()) == list(range(250))
    assert seen.tolist() != list(range(250))
    assert torch.equal(torch.cat([y for _, y in epoch]), seen % 10)


def test_all_windows_come_and_half_are_mirrored():
    image = torch.zeros(40, 40, 3, dtype=torch.uint8)
    image[..., 0], image[..., 1] = torch.arange(40)[:, None], torch.arange(40)  # a pixel says its row and column
    images = image.expand(4000, -1, -1, -1)
    ((batch, _),) = batches(images, torch.zeros(4000), 4000, epoch_generator(0, 0), True)
    row, column = ((batch[:, :2] + 1) * 127.5).round().long().unbind(1)
    windows = torch.stack([row[:, 0, 0], column.amin((1, 2))], 1)
    found, counts = windows.unique(dim=0, return_counts=True)
    assert found.tolist() == [[top, left] for top in range(9) for left in range(9)]
    assert counts.max() < 2 * 4000 / 81
    mirrored = column[:, 0, 0] > column[:, 0, 31]
    assert 0.45 < mirrored.float().mean() < 0.55


def test_random_numbers_repeat_and_differ_between_epochs_and_seeds():
    def order(seed, epoch):
        return tuple(draw(100, epoch_generator(seed, epoch))[0].tolist())

    assert order(3, 7) == order(3, 7)
    assert len({order(seed, epoch) for seed in range(10) for epoch in range(10)}) == 100
    assert order(2**32 - 1, 0) != order(0, 0)


def test_random_numbers_are_taken_from_the_generator_alone(tiny_dataset):
    def first_labels():
        return batches(*images_and_labels(tiny_dataset)[:2], 50, epoch_generator(0, 0), False)[0][1]

    torch.manual_seed(1)
    state = torch.get_rng_state()
    labels = first_labels()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(first_labels(), labels)


def test_duplicates_are_counted_bit_for_bit(tiny_dataset):
    train, test = tiny_dataset.train_images, tiny_dataset.test_images.clone()
    assert data.count_duplicates(test, train) == 0
    test[3], test[10], test[11] = train[7], train[7], train[255]
    assert data.count_duplicates(test, train) == 3
    test[10, 31, 31, 2] += 1
    assert data.count_duplicates(test, train) == 2
