"""What a process gets from the user and the machine: paths, a home, a terminal, a parent, other work beside it.

Imports no PyTorch: some of this must be settled before that is loaded.
"""

import getpass
import io
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import joblib
import psutil

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # what says how the threads of a pool wait for each other
BUSY = 0.25  # cores' worth of work that has no core to itself: less is what any system does in the background
BUSY_SECONDS = 0.3  # over which that is looked at; the system counts in hundredths of a second


def user_path(path: str | Path) -> Path:
    """The path that a user means: ``~`` is his home, wherever he writes it and whether or not a shell saw it."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  (pathlib's raises for a user who does not exist)


def home() -> Path:
    """The user's home; for a number without an account and without ``HOME``, as containers have it, a temporary one."""
    try:
        return Path.home()
    except RuntimeError:
        folder = Path(tempfile.gettempdir()) / f"cifarnb-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder


def complete() -> None:
    """Give this process, and those that it starts, what PyTorch and Jupyter need: a home, and a name for the user."""
    os.environ.setdefault("HOME", str(home()))
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid-{os.getuid()}"


def print_anything() -> None:
    """Let the terminal show "?" for what its encoding does not have, where it would raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def end_with(parent: int) -> None:
    """End this process when ``parent``, which started it, ends, however that does: joblib's workers call it first.

    Whoever is killed cannot tell the processes that it started.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def waiting_variables() -> dict[str, str]:
    """How the threads of a process that is started now should wait for each other, as environment variables.

    By default they spin, which is fastest while each has a core.  Beside other work one of them has to wait for its
    core, and the others burn the time that it needs: a step takes ten times as long.  Threads that sleep are slower
    alone and hardly slower beside other work.  What the user has set holds: then, and where there is room, nothing is
    set.  libgomp reads these variables when PyTorch is loaded, and never again.
    """
    if any(name in os.environ for name in WAITING) or not _is_crowded():
        return {}
    return {"OMP_WAIT_POLICY": "PASSIVE"}


@contextmanager
def waiting() -> Iterator[None]:
    """Processes that are started, and a PyTorch that is loaded, in this block get the ``waiting_variables``."""
    added = waiting_variables()
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _is_crowded() -> bool:
    """Whether the other work on this process's cores leaves too few of them for its threads."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(psutil.cpu_count() or 1)
    threads = joblib.cpu_count()
    if (wanted := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        threads = min(threads, int(wanted))
    if threads == 1:
        return False
    try:
        used = psutil.cpu_percent(BUSY_SECONDS, percpu=True)
    except (OSError, psutil.Error):  # a container need not show it
        return False
    other = sum(used[core] for core in cores if core < len(used)) / 100
    return other + threads > len(cores) + BUSY
