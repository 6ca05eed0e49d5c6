import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from cifarnb import data, environment, experiment
from cifarnb.config import Config

ROOT = Path(__file__).parents[1]


@pytest.fixture
def machine(monkeypatch):
    """A function that makes a machine: percent of every core in use, this process's cores, threads that it may have."""

    def make(used, cores=None, threads=None):
        monkeypatch.setattr(environment.psutil, "cpu_percent", lambda interval, percpu: used)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(cores or range(len(used))), raising=False)
        monkeypatch.setattr(environment.joblib, "cpu_count", lambda: threads or len(cores or used))
        for name in (*environment.WAITING, "OMP_NUM_THREADS"):
            monkeypatch.delenv(name, raising=False)

    return make


@pytest.mark.parametrize(
    ("used", "cores", "threads", "passive"),
    [
        ([3.0, 4.0], None, None, False),  # nothing but the system's own work
        ([100.0, 5.0], None, None, True),
        ([20.0, 20.0], None, None, True),  # a browser, which the scheduler moves about
        ([0.0] * 63 + [100.0], None, None, True),  # of 64 threads one has to wait, and 63 for it
        ([100.0] * 2 + [0.0] * 6, None, 4, False),  # room for four threads on the rest
        ([100.0] * 2 + [0.0] * 6, [2, 3, 4, 5], None, False),  # busy are cores on which this process may not run
        ([100.0] * 2 + [0.0] * 6, [1, 2, 3], None, True),
        ([100.0], None, None, False),  # one thread waits for none
    ],
)
def test_threads_sleep_while_they_wait_where_other_work_takes_their_cores(machine, used, cores, threads, passive):
    machine(used, cores, threads)
    assert environment.waiting_variables() == ({"OMP_WAIT_POLICY": "PASSIVE"} if passive else {})


@pytest.mark.parametrize(("threads", "passive"), [("1", False), ("2", False), ("4", True), ("4,2", True)])
def test_as_many_threads_count_as_the_user_wants(machine, monkeypatch, threads, passive):
    machine([100.0, 0.0, 0.0, 0.0])
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert bool(environment.waiting_variables()) == passive


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "1000")])
def test_how_the_user_lets_threads_wait_holds(machine, monkeypatch, name, value):
    machine([100.0, 100.0])
    monkeypatch.setenv(name, value)
    assert environment.waiting_variables() == {}


def test_a_machine_that_does_not_tell_is_taken_as_quiet(machine, monkeypatch):
    def hidden(interval, percpu):
        raise FileNotFoundError("/proc/stat")

    machine([100.0, 100.0])
    monkeypatch.setattr(environment.psutil, "cpu_percent", hidden)
    assert environment.waiting_variables() == {}


def test_what_is_started_in_the_block_waits_so_and_nothing_else(machine):
    machine([100.0, 100.0])
    with pytest.raises(KeyError), environment.waiting():
        assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
        raise KeyError
    assert "OMP_WAIT_POLICY" not in os.environ


def test_processes_that_train_get_it(machine, monkeypatch, tmp_path, tiny_dataset):
    seen = []
    machine([100.0, 100.0])

    def work(*_, **__):
        return lambda tasks: seen.append(os.environ.get("OMP_WAIT_POLICY")) or []

    monkeypatch.setattr(experiment.joblib, "Parallel", work)
    experiment.train_together([Config(model="simple_cnn", epochs=1)], tiny_dataset, tmp_path, jobs=2)
    assert seen == ["PASSIVE"]


def test_other_work_is_seen_without_loading_pytorch():
    code = "import sys, cifarnb.environment as e; e.waiting_variables(); sys.exit('torch' in sys.modules)"
    env = {name: value for name, value in os.environ.items() if name not in environment.WAITING}
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, env=env).returncode == 0


# --- paths, a home, a name


def test_a_path_is_expanded_as_a_shell_does(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert environment.user_path("~/a b") == Path("/home/somebody/a b")
    assert environment.user_path(Path("~/x")) == Path("/home/somebody/x")
    assert environment.user_path("x/~") == Path("x/~")
    assert environment.user_path("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")


def test_a_number_without_an_account_has_a_home_and_a_name(monkeypatch, tmp_path):
    import getpass
    import pwd

    def no_entry(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    monkeypatch.setattr(environment.tempfile, "gettempdir", lambda: str(tmp_path))
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    environment.complete()
    assert Path.home().parent == tmp_path
    assert Path.home().stat().st_mode & 0o777 == 0o700
    assert getpass.getuser() == f"uid-{os.getuid()}"
    assert data.cache_folder() == Path.home() / ".cache" / "cifarnb"
    environment.complete()  # a second time changes nothing
    assert Path.home().parent == tmp_path


def test_the_cache_has_a_place_without_a_home(monkeypatch, tmp_path):
    monkeypatch.setattr(
        Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home directory."))
    )
    monkeypatch.setattr(environment.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert data.cache_folder() == tmp_path / f"cifarnb-{os.getuid()}" / ".cache" / "cifarnb"


def test_whoever_has_a_home_and_a_name_keeps_them(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USER", "somebody")
    before = dict(os.environ)
    environment.complete()
    assert dict(os.environ) == before


# --- a parent that is gone

STARTED = """
import os, sys, time
from cifarnb import environment
environment.end_with(os.getppid())
print(os.getpid(), flush=True)
time.sleep(60)
"""
WITH_WORKERS = """
import os, sys, time, joblib
from cifarnb import environment
work = joblib.Parallel(2, return_as="generator", initializer=environment.end_with, initargs=(os.getpid(),))
print(*set(work(joblib.delayed(os.getpid)() for _ in range(8))), flush=True)
time.sleep(60)
"""
STARTS = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(60)"


@pytest.mark.parametrize("command", [(STARTS, STARTED), (WITH_WORKERS,)])
def test_a_process_ends_with_the_one_that_started_it(command):
    starter = subprocess.Popen([sys.executable, "-c", *command], stdout=subprocess.PIPE, cwd=ROOT)
    with starter.stdout:
        started = [psutil.Process(int(number)) for number in starter.stdout.readline().split()]
        assert started
        starter.kill()
        starter.wait()
    deadline = time.monotonic() + 20
    while (left := [process for process in started if _runs(process)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in left:
        process.kill()
    assert not left


def _runs(process):
    """Whether it does; nobody may be there to take note that it ended."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_workers_that_train_are_told_whom_to_end_with(monkeypatch, tmp_path, tiny_dataset):
    told = {}

    def work(*_, **options):
        told.update(options)
        return lambda tasks: []

    monkeypatch.setattr(experiment.joblib, "Parallel", work)
    experiment.train_together([Config(model="simple_cnn", epochs=1)], tiny_dataset, tmp_path, jobs=2)
    assert (told["initializer"], told["initargs"]) == (environment.end_with, (os.getpid(),))


def test_a_path_that_is_not_utf8_can_be_written_down(tmp_path, tiny_dataset):
    path = os.fsencode(tmp_path) + b"/caf\xe9.npz"
    arrays = (tiny_dataset.train_images, tiny_dataset.train_labels, tiny_dataset.test_images, tiny_dataset.test_labels)
    names = ("x_train", "y_train", "x_test", "y_test")
    with Path(os.fsdecode(path)).open("wb") as file:
        np.savez(file, **dict(zip(names, (part.numpy() for part in arrays), strict=True)))
    assert "caf?.npz" in data.load(os.fsdecode(path)).source
