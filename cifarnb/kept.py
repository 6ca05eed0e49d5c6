"""What is computed of a finished run and kept beside its records: every machine then shows the same numbers.

Another processor would round otherwise, a report's records lack most weights, and computing takes time.  A file is
named by its kind and by what was computed: ``landscape-<key>.json``, say.  It belongs to the run's records.
"""

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cifarnb.runs import DAMAGE, Run, RunError, atomic_write, reason

T = TypeVar("T")


def values(run: Run, kind: str, what: Mapping[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Plain values by name, as JSON holds them: those that were kept of ``what``, else computed and kept now.

    What they were computed of stands with them.
    """

    def write(file: Path, made: dict[str, Any]) -> None:
        file.write_text(json.dumps(made) + "\n", encoding="utf-8")

    return _once(_file(run, kind, what, "json"), read_values, write, lambda: {**what, **compute()})


def arrays(
    run: Run, kind: str, what: Mapping[str, Any], compute: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The same for arrays by name, as an archive of NumPy's holds them."""

    def write(file: Path, made: dict[str, np.ndarray]) -> None:
        with file.open("wb") as opened:
            np.savez_compressed(opened, allow_pickle=False, **made)

    return _once(_file(run, kind, what, "npz"), read_arrays, write, compute)


def read_values(file: Path) -> dict[str, Any]:
    """What ``values`` wrote.  Raises RunError if the file is missing or damaged."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except DAMAGE as error:
        raise RunError(f"{file}: cannot be read ({reason(error)})") from None


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """What ``arrays`` wrote.  Raises RunError if the file is missing or damaged."""
    try:
        with zipfile.ZipFile(file), np.load(file, allow_pickle=False) as opened:
            return dict(opened)
    except DAMAGE as error:
        raise RunError(f"{file}: cannot be read ({reason(error)})") from None


def _once(file: Path, read: Callable[[Path], T], write: Callable[[Path, T], None], compute: Callable[[], T]) -> T:
    with suppress(RunError):
        return read(file)
    made = compute()
    with suppress(OSError), atomic_write(file) as part:  # another user's run, or a full disk: it is computed again
        write(part, made)
    return made


def _file(run: Run, kind: str, what: Mapping[str, Any], suffix: str) -> Path:
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
    return run.path / f"{kind}-{key}.{suffix}"
