"""How a report comes into its folder: written beside it, put in its place when it is whole; all else there stays.

What an earlier report wrote is known from the list in its ``summary.json``, and of that only pages, figures and
executed notebooks are ever deleted.  Records of runs and weights are added; one that another would replace keeps a name
of its own.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import safetensors
import safetensors.torch

import cifarnb
from cifarnb.config import ConfigError
from cifarnb.runs import Run, RunError, copy_file, free_name, project_root, records, run_of_weights

SUMMARY = "summary.json"
FOLDERS = ("figures", "notebooks")  # whose files a later report may take away
PDF = "report.pdf"  # it, too: a later report that is not printed would have one beside it that says something else
_OURS = ".cifarnb"  # marks a folder that a report is written in
_WHOLE = ".whole"  # there when it is: what is to be renamed and what to be taken away when it takes its place


def check_folder(out: Path, runs_dir: Path) -> None:
    """Raise ConfigError unless a report may be put there: the folder is new, empty, or a report, and no source of it.

    ``runs_dir``, where the runs are kept, may lie in it.
    """
    sources = (Path(cifarnb.__file__).parent, project_root() / "notebooks", project_root() / "params")
    here = out.resolve()
    if any(source.resolve().is_relative_to(here) for source in sources):
        raise ConfigError(f"{out}: holds the sources of the report; choose another folder with --out")
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(f"{out}: is not a folder")
    try:
        there = {path.name for path in out.iterdir()}
    except OSError as error:
        raise ConfigError(f"{out}: cannot be read ({error.strerror})") from None
    ours = {".locks", ".new"}
    if here in runs_dir.resolve().parents:
        ours.add(runs_dir.resolve().relative_to(here).parts[0])
    if there - ours and earlier(out) is None and not waits(out):
        raise ConfigError(f"{out}: is neither new, nor empty, nor a report (no {SUMMARY} of one); choose another --out")


def earlier(out: Path) -> dict[str, Any] | None:
    """The summary of the report that is there; None if none is."""
    try:
        summary = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(summary, dict) and {"profile", "data", "networks", "sections"} <= {*summary}
    return summary if known else None


def runs_of(summary: Mapping[str, Any]) -> list[str]:
    """The names of all runs that a report was made of."""
    return list(summary["runs"]) if "runs" in summary else _named_runs(summary["networks"])


def _named_runs(numbers: Any) -> list[str]:
    """The runs named anywhere in the numbers of a report that has no list of them."""
    if isinstance(numbers, Mapping):
        own = numbers.get("runs") or []
        return list(dict.fromkeys([*own, *(name for part in numbers.values() for name in _named_runs(part))]))
    if isinstance(numbers, list):
        return list(dict.fromkeys(name for part in numbers for name in _named_runs(part)))
    return []


@contextmanager
def beside(out: Path) -> Iterator[Path]:
    """An empty folder beside ``out`` to write a report in; it is gone afterwards, and so is what is still in it."""
    finish(out)
    stage = _stage(out)
    _discard(stage)
    stage.mkdir(parents=True)
    (stage / _OURS).touch()
    try:
        yield stage
    finally:
        if not (stage / _WHOLE).exists():  # one that is whole and not yet in its place is finished by the next command
            _discard(stage)


def _stage(out: Path) -> Path:
    """The folder that a report is written in: beside ``out``, or inside where that is a mount, say."""
    folder = out.resolve()
    parent = folder.parent
    there = folder.exists()
    beside = os.access(parent, os.W_OK) and (not there or folder.stat().st_dev == parent.stat().st_dev)
    return parent / f".{folder.name}.new" if beside else folder / ".new"


def _discard(stage: Path) -> None:
    """Take away what was written beside a report; the mark that it is ours goes last."""
    there = set(stage.iterdir()) if stage.exists() else set()
    if there and stage / _OURS not in there:
        raise ConfigError(f"{stage}: is in the way, and not of this program; move it away")
    for path in sorted(there, key=lambda path: path.name == _OURS):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if stage.exists():
        stage.rmdir()


def add_records(run: Run, out: Path, stage: Path) -> dict[str, str]:
    """Put into ``stage`` what ``out`` lacks of a run's records; returns what is to be renamed there, old → new.

    Another run of the same name that is there, trained anew, keeps its records under another name.
    """
    there = out / "runs" / run.name
    if run.path.resolve() == there.resolve():
        return {}
    same = _same(run.path / "provenance.json", there / "provenance.json")
    for file in records(run):
        if not same or not _same(file, there / file.name):
            copy_file(file, stage / "runs" / run.name / file.name)
    if same or not there.exists():
        return {}
    return {f"runs/{run.name}": f"runs/{free_name(there, 'earlier').name}"}


def has_weights(run: Run, name: str, out: Path) -> bool:
    """Whether the file of that name in ``out`` holds this run's weights already, where they are large in float16."""
    recorded = out / "runs" / run.name / "provenance.json"
    if run_of_weights(out / name) != run.name or not _same(run.path / "provenance.json", recorded):
        return False
    if not run.weights_file.exists():  # then that file has all that there is of them
        return True
    try:
        own, there = run.weights(), safetensors.torch.load_file(out / name)
    except (RunError, OSError, safetensors.SafetensorError):
        return False
    own = {part: w.to(there[part].dtype) if part in there else w for part, w in own.items()}
    return safetensors.torch.save(own) == safetensors.torch.save(there)  # as bytes: NaN, of a run that diverged, too


def keep_weights(name: str, out: Path) -> dict[str, str]:
    """What is to be renamed in ``out`` before other weights take this name: old → new."""
    if not (out / name).exists():
        return {}
    owner = run_of_weights(out / name) or Path(name).stem
    kept = (out / name).with_name(f"{owner}.safetensors")
    return {name: f"weights/{(free_name(kept, 'earlier') if kept.exists() else kept).name}"}


def _same(file: Path, other: Path) -> bool:
    return other.is_file() and file.read_bytes() == other.read_bytes()


def written(stage: Path) -> list[str]:
    """The files in a folder that a report is written in, as paths from there."""
    files = (path for path in stage.rglob("*") if path.is_file() and path.name not in (_OURS, _WHOLE))
    return sorted(path.relative_to(stage).as_posix() for path in files)


def take_place(out: Path, stage: Path, renamed: Mapping[str, str]) -> None:
    """Put a whole report in its place.  If this is cut off, ``finish`` goes on with it."""
    before = earlier(out) or {}
    stale = [name for name in before.get("files", []) if _may_go(name) and name not in {*written(stage)}]
    plan = stage / f"{_WHOLE}.part"
    plan.write_text(json.dumps({"renamed": dict(renamed), "stale": stale}), encoding="utf-8")
    plan.replace(stage / _WHOLE)
    finish(out)


def waits(out: Path) -> bool:
    """Whether a report is whole and not yet in its place, because it is being put there, or was cut off meanwhile."""
    return (_stage(out) / _WHOLE).exists()


def finish(out: Path) -> None:
    """Put the report in its place that ``waits``, if there is one; ``summary.json`` comes last."""
    if not waits(out):
        return
    stage = _stage(out)
    plan = json.loads((stage / _WHOLE).read_text(encoding="utf-8"))
    for old, new in plan["renamed"].items():
        if (out / old).exists() and not (out / new).exists():
            (out / old).rename(out / new)
    for name in sorted(written(stage), key=lambda name: name == SUMMARY):
        _move(stage / name, out / name)
    for name in plan["stale"]:
        (out / name).unlink(missing_ok=True)
    _discard(stage)


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:  # which it is where runs/, say, is a link to another disk
            raise
        copy_file(source, target)
        source.unlink()


def _may_go(name: Any) -> bool:
    """Whether a file on an earlier report's list is one that a later report may take away; it is data, not trusted."""
    path = PurePosixPath(str(name))
    in_folder = len(path.parts) == 2 and path.parts[0] in FOLDERS and ".." not in path.parts
    return name == PDF or (in_folder and os.sep not in path.name)
