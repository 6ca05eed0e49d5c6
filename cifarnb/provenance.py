"""Where a run or a report comes from: commit, versions, machine, time."""

import functools
import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cifarnb


def now() -> str:
    """The time in UTC, as ISO 8601 writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe_origin() -> dict[str, Any]:
    """Commit (and whether the tree was dirty), versions and machine."""
    commit, dirty = git_state()
    return {
        "git_commit": commit,
        "git_dirty": dirty,
        "versions": {
            "cifarnb": cifarnb.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": _version("torchvision"),
            "numpy": np.__version__,
        },
        "platform": platform.platform(),
    }


@functools.cache
def git_state() -> tuple[str | None, bool | None]:
    """The commit of the project's own repository and whether its tree has changes; None where it has none.

    Its reports do not count: runs that are kept there make nothing of those that follow.
    It may lie in another repository, unpacked there, or in a site-packages folder of one: that says nothing of it.
    """
    package = Path(__file__).resolve().parent
    # Variables such as GIT_DIR, which hooks and aliases set, name another repository.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*command: str) -> bytes:
        called = ["git", "--no-optional-locks", "-C", str(package), *command]
        return subprocess.run(called, env=env, capture_output=True, check=True, timeout=60).stdout.strip()

    try:
        if Path(os.fsdecode(git("rev-parse", "--show-toplevel"))).resolve() != package.parent:
            return None, None
        git("ls-files", "--error-unmatch", "__init__.py")
        changes = git("status", "--porcelain", "--", ":/", ":(top,exclude)reports")
        return git("rev-parse", "HEAD").decode(), bool(changes)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None, None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:  # put there by other means than pip's
        return None
