import errno
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cifarnb import experiment, runs
from cifarnb.config import Config
from cifarnb.runs import RunError

ROOT = Path(__file__).parents[1]
CONFIG = Config(model="simple_cnn", precision="float32", epochs=3)


def save(path, **changes):
    history = pd.DataFrame(
        {
            "epoch": [1, 2, 3],
            "train_loss": [2.0, 1 / 3, float("nan")],
            "test_accuracy": [0.1, 0.3, 0.2],
            "seconds": [3.0, 1.0, 2.0],
        }
    )
    values = {
        "config": CONFIG,
        "history": history,
        "losses": np.array([2.0, 0.1, 0.3], dtype=np.float32),
        "logits": torch.tensor([[0.0, 2.5, 1.0], [3.0, 0.1, 0.2]]),
        "weights": {"a": torch.arange(6.0).reshape(2, 3).t()},
        "provenance": {"device": "cpu"},
    }
    return runs.save(path, **(values | changes))


def test_what_is_saved_is_what_is_loaded(tmp_path):
    save(tmp_path / "r")
    run = runs.load(tmp_path / "r")
    assert run.config == CONFIG
    assert run.history["train_loss"][1] == 1 / 3  # exactly
    assert np.isnan(run.history["train_loss"][2])
    assert run.losses.dtype == np.float32
    assert run.losses.tolist() == np.array([2.0, 0.1, 0.3], dtype=np.float32).tolist()
    assert torch.equal(run.weights()["a"], torch.arange(6.0).reshape(2, 3).t())
    assert run.provenance == {"device": "cpu"}
    assert run.predictions().dtype == np.uint8
    assert run.predictions().tolist() == [1, 0]
    assert np.load(tmp_path / "r" / "logits.npy").tolist()[0] == [0, 2.5, 1]


def test_what_test_time_augmentation_gives_stands_beside_the_rest(tmp_path):
    plain = save(tmp_path / "plain")
    assert plain.tta_accuracy is None
    history = plain.history.assign(tta_accuracy=[float("nan"), float("nan"), 0.25])
    run = save(tmp_path / "r", history=history, tta_logits=torch.tensor([[0.0, 0.1, 0.2], [1.0, 0.0, 0.0]]))
    assert (run.tta_accuracy, run.final_accuracy) == (0.25, 0.2)
    assert run.predictions(tta=True).dtype == np.uint8
    assert (run.predictions(tta=True).tolist(), run.predictions().tolist()) == ([2, 0], [1, 0])
    assert run.path / "tta_predictions.npy" in runs.records(run)
    with pytest.raises(RunError, match=r"tta_predictions\.npy"):
        plain.predictions(tta=True)


def test_the_path_of_the_weights_is_kept(tmp_path):
    directions = [[torch.arange(6.0).reshape(2, 3) + i, torch.ones(4) * i] for i in range(2)]
    kept = runs.WeightsPath(np.array([[1.0, 2.0], [0.5, 1 / 3], [0.0, 0.0]]), (0.75, 0.2), directions)
    run = save(tmp_path / "r", weights_path=kept)
    coordinates, explained = run.path_coordinates()
    assert coordinates.tolist() == kept.coordinates.tolist()
    assert explained == kept.explained
    for found, expected in zip(run.path_directions(), directions, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_whoever_may_read_what_the_user_writes_may_read_all_files_of_a_run(tmp_path):
    """Also the weights: safetensors' own save_file gives them the mode 600."""
    kept = runs.WeightsPath(np.zeros((2, 2)), (0.5, 0.5), [[torch.ones(2)], [torch.ones(2)]])
    run = save(tmp_path / "r", weights_path=kept, probes=pd.DataFrame({"step": [0]}))
    (tmp_path / "plain").touch()
    modes = {file.name: file.stat().st_mode for file in run.path.iterdir()}
    assert {"weights.safetensors", "path.safetensors"} < {*modes}
    assert {*modes.values()} == {(tmp_path / "plain").stat().st_mode}


@pytest.mark.parametrize("stored", [("gradient",), "step"])
def test_walks_of_a_time_when_a_run_had_one_direction(tmp_path, stored):
    """Their table does not name it, and their config holds it as plain text."""
    probes = pd.DataFrame({"step": [0, 5], "beta": [2.0, 3.0]})
    save(tmp_path / "r", config=CONFIG.replace(probe_every=5, probe_along=stored), probes=probes)
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    (direction,) = config["probe_along"]
    (tmp_path / "r" / "config.json").write_text(json.dumps(config | {"probe_along": direction}))
    run = runs.load(tmp_path / "r")
    pd.testing.assert_frame_equal(run.along(direction).probes, probes)
    with pytest.raises(ValueError, match="no walks along 'sideways'"):
        run.along("sideways")


def test_walks_along_one_direction(tmp_path):
    probes = pd.DataFrame({"step": [0, 0, 5, 5], "along": ["gradient", "step"] * 2, "beta": [1.0, 2.0, 3.0, 4.0]})
    run = save(tmp_path / "r", config=CONFIG.replace(probe_along=("gradient", "step")), probes=probes)
    for direction, betas in {"gradient": [1, 3], "step": [2, 4]}.items():
        found = run.along(direction)
        assert found.probes.to_dict(orient="list") == {"step": [0, 5], "beta": betas}
        assert found.probes.index.tolist() == [0, 1]
        assert found.losses is run.losses
    with pytest.raises(ValueError, match="no walks along 'gradient'"):
        save(tmp_path / "none").along("gradient")


def test_the_records_are_all_but_the_heavy_files(tmp_path):
    run = save(tmp_path / "r", probes=pd.DataFrame({"step": [0]}))
    (tmp_path / "records").mkdir()
    for file in runs.records(run):
        runs.copy_file(file, tmp_path / "records" / file.name)
    copied = runs.load(tmp_path / "records")
    assert copied.history.equals(run.history)
    assert copied.losses.tolist() == run.losses.tolist()
    assert copied.predictions().tolist() == run.predictions().tolist()
    left_out = {path.name for path in run.path.iterdir()} - {path.name for path in copied.path.iterdir()}
    assert left_out == {"weights.safetensors", "logits.npy"}


def test_whoever_waits_for_a_run_says_so(tmp_path, capsys):
    held = threading.Event()

    def wait():
        held.wait()
        with runs.locked(tmp_path / "r"):
            pass

    waiting = threading.Thread(target=wait)
    waiting.start()
    with runs.locked(tmp_path / "r"):
        held.set()
        while "r: another process is at it" not in capsys.readouterr().err:
            time.sleep(0.01)
    waiting.join(timeout=10)
    assert not waiting.is_alive()


def test_the_numbers_of_a_run(tmp_path):
    run = save(tmp_path / "r")
    assert (run.final_accuracy, run.best_accuracy, run.best_epoch, run.seconds_per_epoch) == (0.2, 0.3, 2, 2.0)
    assert not run.diverged
    assert save(tmp_path / "d", losses=np.array([1.0, np.nan])).diverged


@pytest.mark.parametrize("name", ["a CPU (1 thread)", "a CPU (1 threads)"])
def test_one_thread_is_one_thread_in_older_records_as_well(tmp_path, name):
    assert save(tmp_path / "r", provenance={"device_name": name}).device == "a CPU (1 thread)"
    assert save(tmp_path / "s", provenance={"device_name": "a CPU (11 threads)"}).device == "a CPU (11 threads)"


def test_the_selected_epoch_is_the_best_on_the_images_held_out(tmp_path):
    history = save(tmp_path / "r").history.assign(validation_accuracy=[0.1, 0.2, 0.3])
    run = save(tmp_path / "other", history=history)
    assert (run.selected_epoch, run.best_epoch) == (3, 2)


def test_a_run_appears_in_one_go(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(runs, "write_tensors", fail)
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), runs.atomic_write(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with runs.atomic_write(path) as part:
        part.write_text("new")
    assert path.read_text() == "new"


def test_the_name_is_stable_and_tells_the_model():
    name = runs.run_name(CONFIG, "f" * 64)
    assert name == runs.run_name(Config(**CONFIG.model_dump()), "f" * 64)
    assert name.startswith("simple_cnn-")
    assert name != runs.run_name(CONFIG, "e" * 64)
    assert name != runs.run_name(CONFIG.replace(lr=0.5), "f" * 64)


def test_a_field_that_is_added_leaves_the_runs_their_names():
    class Later(Config):
        depth: float = 1.0

    before = runs.run_name(CONFIG, "f")
    assert runs.run_name(Later(**CONFIG.model_dump()), "f") == before
    assert runs.run_name(Later(**CONFIG.model_dump(), depth=0.25), "f") != before


def test_a_run_is_named_by_what_was_asked_wherever_it_is(monkeypatch):
    asked = Config(model="simple_cnn")
    before = runs.run_name(asked, "f")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert runs.run_name(asked, "f") == before
    assert runs.run_name(asked.replace(data="elsewhere", device="cpu"), "f") == before
    assert len({before, *(runs.run_name(asked.replace(precision=p), "f") for p in ("float32", "bfloat16"))}) == 3


def test_the_committed_runs_have_the_names_of_what_was_asked():
    folder = runs.project_root() / "reports" / "full" / "runs"
    found = [runs.load(path) for path in folder.glob("*-*")]
    assert len(found) >= 14
    for run in found:
        assert run.name in {runs.run_name(run.config.replace(precision=p), "cifar10") for p in ("auto", "float32")}


def test_the_version_of_the_results_is_in_the_key(monkeypatch):
    before = runs.run_name(CONFIG, "f")
    monkeypatch.setattr(runs, "RESULTS_VERSION", runs.RESULTS_VERSION + 1)
    assert runs.run_name(CONFIG, "f") != before


def test_the_root_is_found_from_below(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "params" / "full").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "params" / "full")
    assert runs.project_root() == tmp_path


def test_runs_are_grouped_by_a_field_of_their_configs(make_run):
    a, b, c = make_run("vgg_a", seed=1), make_run("resnet6", seed=0), make_run("vgg_a", seed=0)
    assert list(runs.group([a, b, c], "model").items()) == [("vgg_a", [a, c]), ("resnet6", [b])]
    assert list(runs.group([a, b, c], "seed").items()) == [(1, [a]), (0, [b, c])]
    assert runs.group([], "lr") == {}


# --- two users, one folder of runs


@pytest.mark.parametrize(("mode", "lock_mode"), [(0o700, 0o600), (0o755, 0o644), (0o2775, 0o664), (0o1777, 0o666)])
def test_whoever_may_write_runs_may_hold_and_continue_them(tmp_path, mode, lock_mode):
    folder = tmp_path / "runs"
    folder.mkdir()
    folder.chmod(mode)
    with runs.locked(folder / "r"):
        runs.claim(folder / "r")
    for made in (folder / ".locks", runs.unfinished(folder / "r")):
        assert made.stat().st_mode & 0o7777 == mode & 0o2777, made
    assert (folder / ".locks" / "r").stat().st_mode & 0o777 == lock_mode


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS], ids=errno.errorcode.get)
def test_a_lock_that_may_not_be_held_is_told_in_one_line(number, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), str(tmp_path / ".locks" / "r"))

    monkeypatch.setattr(runs.filelock.FileLock, "acquire", refuse)
    with (
        pytest.raises(RunError, match=rf"^.*/\.locks: cannot be written to \({os.strerror(number)}\); if it is"),
        runs.locked(tmp_path / "r"),
    ):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_told_of_once_and_used(number, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for _ in range(2):  # the second would wait for ever for a marker that the first has left
        with runs.locked(tmp_path / "r"), runs.locked(tmp_path / "s"):
            pass
    assert capsys.readouterr().err == (
        f"{tmp_path}: its file system knows no locks, so no other command may use that folder until this one ends\n"
    )


def test_an_unfinished_run_of_another_user_is_told_before_any_training(tmp_path, monkeypatch, tiny_dataset):
    def refuse(dir):
        raise PermissionError(errno.EACCES, "Permission denied", f"{dir}/tmp")

    monkeypatch.setattr(runs.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(experiment, "fit", None)
    with pytest.raises(RunError, match=r"\.part: cannot be written to \(Permission denied\)"):
        experiment.run(CONFIG, tiny_dataset, tmp_path)


TWO_USERS = """
import os, sys
from pathlib import Path
from cifarnb import runs
folder = Path(sys.argv[1])
for user in (12001, 12002):
    if not (child := os.fork()):
        os.setgroups([])
        os.setgid(12000)
        os.setuid(user)
        os.umask(0o022)
        with runs.locked(folder / "r"):
            runs.claim(folder / "r")
            with runs.atomic_write(runs.unfinished(folder / "r") / "checkpoint.pt") as part:
                part.write_text(str(user))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, user
print((runs.unfinished(folder / "r") / "checkpoint.pt").read_text())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become two users")
def test_two_users_share_a_folder_of_runs():
    with tempfile.TemporaryDirectory() as shared:  # pytest's folders are for one user
        Path(shared).chmod(0o755)
        folder = Path(shared) / "runs"
        folder.mkdir()
        os.chown(folder, 0, 12000)
        folder.chmod(0o2775)
        done = subprocess.run(
            [sys.executable, "-c", TWO_USERS, str(folder)], capture_output=True, text=True, check=False, cwd=ROOT
        )
    assert (done.returncode, done.stdout) == (0, "12002\n"), done.stderr


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ([2.0] * 30, 0),
        ([2.303] * 30, None),
        ([2.303] * 20 + [1.0] * 20, 20),  # the mean of the steps 11 to 20 is 2.17
        ([2.303] * 20 + [2.2] * 20, 21),  # that of the same is 2.293, and of 12 to 21 2.282
        ([1.0] * 20 + [2.303] * 20, None),  # it has fallen back
        ([1.0] * 10 + [2.303] * 20 + [2.0] * 10, 30),
        ([2.0] * 20 + [float("nan")], None),
        ([2.0, 2.1], 0),
        ([2.5, 2.4], None),
    ],
)
def test_a_run_learns_from_the_step_on_at_which_its_loss_stays_below_its_start(losses, step, make_run):
    assert make_run(losses=losses).learns_from == step
