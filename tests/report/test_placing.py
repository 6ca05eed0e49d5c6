"""A report comes into its folder in one go, and nothing there is lost that no earlier report wrote."""

import errno
import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from cifarnb import runs
from cifarnb.config import ConfigError
from cifarnb.report import placing

ROOT = Path(__file__).parents[2]
SUMMARY = {"profile": "smoke", "data": {}, "networks": [], "sections": []}


def tree(folder):
    """All files of a folder with their content."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def a_report(word, figures):
    return {"report.html": word, "report.md": word, **{f"figures/{name}.png": word for name in figures}}


def fill(stage, files):
    """Write a report as ``build`` does, with its list of files."""
    write(stage, files)
    listed = [*placing.written(stage), "summary.json"]
    (stage / "summary.json").write_text(json.dumps(SUMMARY | {"files": listed}), encoding="utf-8")


def place(out, files, renamed=None):
    with placing.beside(out) as stage:
        fill(stage, files)
        placing.take_place(out, stage, renamed or {})


OLD, NEW = a_report(b"old", ["01-a", "02-b"]), a_report(b"new", ["01-a", "03-c"])
THEIRS = {
    "figures/notes.txt": b"mine",
    "figures/99-mine.png": b"mine",
    "runs/events.tfevents": b"mine",
    "runs/.DS_Store": b"mine",
    "runs/vgg_a-0123456789ab/losses.npy": b"days",
    "runs/vgg_a-0123456789ab.part/checkpoint.pt": b"hours",
    "weights/vgg_a.safetensors": b"days",
}


def test_a_later_report_takes_away_what_the_earlier_one_wrote_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    place(out, OLD)
    write(out, THEIRS)
    place(out, NEW)
    found = tree(out)
    assert json.loads(found.pop("summary.json"))["files"] == [*sorted(NEW), "summary.json"]
    assert found == NEW | THEIRS
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "name", ["../victim", "figures/../../victim", "/victim", "runs/a/losses.npy", "weights/a.safetensors", "report.md"]
)
def test_a_list_that_names_other_files_deletes_none_of_them(tmp_path, name):
    out = tmp_path / "out"
    write(out, {"runs/a/losses.npy": b"days", "weights/a.safetensors": b"days", "report.md": b"old"})
    write(tmp_path, {"victim": b"mine"})
    before = tree(tmp_path)
    name = str(tmp_path / "victim") if name == "/victim" else name
    (out / "summary.json").write_text(json.dumps(SUMMARY | {"files": [name]}), encoding="utf-8")
    place(out, {"report.html": b"new"})
    assert {file: content for file, content in tree(tmp_path).items() if file in before} == before


class Killed(BaseException):
    pass


def test_a_report_that_is_cut_off_anywhere_is_the_old_one_or_goes_on_to_be_the_new_one(tmp_path, monkeypatch):
    """Killed before each of its changes to the disk; what comes after a kill is what the next command finds."""
    whole, outcomes = tmp_path / "whole", set()
    place(whole, OLD)
    old = tree(whole)
    place(whole, NEW)
    new = tree(whole)
    for moment in range(100):
        out = tmp_path / f"out-{moment}"
        place(out, OLD)
        with monkeypatch.context() as patched:
            left = iter(range(moment))
            for name in ("replace", "rename", "unlink", "write_text", "write_bytes", "mkdir", "touch"):
                own = getattr(Path, name)

                def change(path, *given, own=own, left=left, **options):
                    if next(left, None) is None:
                        raise Killed
                    return own(path, *given, **options)

                patched.setattr(Path, name, change)
            kept = placing.beside(out)  # what a killed process never leaves
            try:
                stage = kept.__enter__()
                fill(stage, NEW)
                placing.take_place(out, stage, {})
            except Killed:
                pass
            else:
                break
        cut_off = tree(out)
        placing.finish(out)
        assert tree(out) in (old, new)
        if tree(out) == old:
            assert cut_off == old
        outcomes.add("old" if tree(out) == old else "new")
        place(out, NEW)
        assert tree(out) == new
    assert moment > 15
    assert outcomes == {"old", "new"}


def test_a_first_report_that_is_cut_off_is_gone_on_with(tmp_path, monkeypatch):
    """Its folder then holds files and no summary.json yet, as one does that is no report."""
    out, own = tmp_path / "out", Path.replace
    out.mkdir()

    def replace(path, target):
        if Path(target) == out / "summary.json":
            raise Killed
        return own(path, target)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Path, "replace", replace)
        place(out, OLD)
    assert tree(out) == OLD
    placing.check_folder(out, ROOT / "runs")
    place(out, NEW)
    assert {*tree(out)} == {*NEW, "summary.json"}


def test_a_folder_in_the_report_may_be_a_link_to_another_disk(tmp_path, monkeypatch):
    out, disk, own = tmp_path / "out", tmp_path / "disk", Path.replace
    out.mkdir()
    disk.mkdir()
    (out / "figures").symlink_to(disk)

    def replace(path, target):
        if (path.resolve().parent == disk) != (Path(target).resolve().parent == disk):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return own(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    place(out, OLD)
    assert tree(disk) == {"01-a.png": b"old", "02-b.png": b"old"}
    place(out, NEW)
    assert tree(disk) == {"01-a.png": b"new", "03-c.png": b"new"}
    assert (out / "figures").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "out"]


def test_what_is_in_the_way_and_not_ours_stays(tmp_path):
    write(tmp_path / ".out.new", {"thesis.txt": b"mine"})
    with pytest.raises(ConfigError, match=r"\.out\.new: is in the way"):
        place(tmp_path / "out", NEW)
    assert tree(tmp_path) == {".out.new/thesis.txt": b"mine"}


@pytest.mark.parametrize("there", [{"runs/a/losses.npy": b"1"}, {"summary.json": b"{}"}, {"notes.txt": b"mine"}])
def test_a_folder_with_other_things_is_refused(tmp_path, there):
    write(tmp_path, there)
    with pytest.raises(ConfigError, match="is neither new, nor empty, nor a report") as refused:
        placing.check_folder(tmp_path, ROOT / "runs")
    assert "\n" not in str(refused.value)
    assert tree(tmp_path) == there


@pytest.mark.parametrize("name", [".", "notebooks", "params", "cifarnb", ".."])
def test_a_folder_that_is_or_holds_the_sources_is_refused(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match="holds the sources"):
        placing.check_folder(Path(name), Path("runs"))


def test_a_folder_that_is_new_or_empty_or_holds_the_runs_or_a_report_is_taken(tmp_path):
    placing.check_folder(tmp_path / "new", ROOT / "runs")
    (tmp_path / "empty").mkdir()
    placing.check_folder(tmp_path / "empty", ROOT / "runs")
    write(tmp_path / "begun", {"runs/a.part/checkpoint.pt": b"hours", ".locks/report": b""})
    placing.check_folder(tmp_path / "begun", tmp_path / "begun" / "runs")
    place(tmp_path / "report", NEW)
    placing.check_folder(tmp_path / "report", ROOT / "runs")
    placing.check_folder(ROOT / "reports" / "full", ROOT / "runs")


@pytest.fixture
def two_of_a_name(make_run, tmp_path):
    """A run in a report's folder, and another of the same name, trained anew."""
    first, second = (make_run(losses=losses, seed=0) for losses in ((2.0, 1.0), (2.5, 1.5)))
    name = "simple_cnn-0123456789ab"
    there = tmp_path / "out" / "runs" / name
    there.parent.mkdir(parents=True)
    first.path.rename(there)
    own = tmp_path / "own" / name
    own.parent.mkdir()
    second.path.rename(own)
    made = json.loads((own / "provenance.json").read_text())
    (own / "provenance.json").write_text(json.dumps(made | {"finished": "2026-02-03T04:05:06+00:00"}))
    return runs.load(there), runs.load(own)


def test_a_run_that_was_trained_anew_leaves_the_earlier_ones_records_and_weights(two_of_a_name, tmp_path):
    first, second = two_of_a_name
    out, weights = tmp_path / "out", "weights/simple_cnn.safetensors"
    (out / "weights").mkdir()
    safetensors.torch.save_file({"weight": torch.ones(1)}, out / weights, metadata={"run": first.name})
    assert not placing.has_weights(second, weights, out)
    with placing.beside(out) as stage:
        renamed = placing.add_records(second, out, stage) | placing.keep_weights(weights, out)
        (stage / "weights").mkdir()
        safetensors.torch.save_file({"weight": torch.zeros(1)}, stage / weights, metadata={"run": second.name})
        fill(stage, NEW)
        placing.take_place(out, stage, renamed)
    assert runs.load(out / "runs" / first.name).losses.tolist() == second.losses.tolist()
    assert runs.load(out / "runs" / f"{first.name}.earlier-1").losses.tolist() == first.losses.tolist()
    assert safetensors.torch.load_file(out / weights)["weight"].item() == 0
    assert safetensors.torch.load_file(out / "weights" / f"{first.name}.safetensors")["weight"].item() == 1
    assert placing.has_weights(second, weights, out)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_a_run_trained_anew_within_the_report_has_not_the_earlier_ones_weights(two_of_a_name, tmp_path, kind):
    """Its records are those of the report already, because its runs are kept there."""
    first, second = two_of_a_name
    first.path.rename(f"{first.path}.damaged-1")
    second.path.rename(first.path)
    run, out, weights = runs.load(first.path), tmp_path / "out", "weights/simple_cnn.safetensors"
    (out / "weights").mkdir()
    for own, value, there in ((0.0, 1.0, False), (0.0, 0.0, True), (torch.nan, torch.nan, True)):
        safetensors.torch.save_file({"weight": torch.tensor([own])}, run.path / "weights.safetensors")
        safetensors.torch.save_file({"weight": torch.tensor([value], dtype=kind)}, out / weights, {"run": run.name})
        assert placing.has_weights(run, weights, out) == there
    (run.path / "weights.safetensors").unlink()
    assert placing.has_weights(run, weights, out)


def test_records_that_are_there_are_added_to(two_of_a_name, tmp_path, copy_records):
    first, _ = two_of_a_name
    out, own = tmp_path / "out", tmp_path / "same" / first.name
    copy_records(first, own.parent)
    (own / "landscape-0123.json").write_text("{}")
    with placing.beside(out) as stage:
        assert placing.add_records(runs.load(own), out, stage) == {}
        assert [Path(name).name for name in placing.written(stage)] == ["landscape-0123.json"]


def test_weights_are_found_under_the_runs_name_too(two_of_a_name):
    first, _ = two_of_a_name
    (first.path / "weights.safetensors").unlink()
    placed = first.path.parents[1] / "weights" / f"{first.name}.safetensors"
    placed.parent.mkdir()
    safetensors.torch.save_file({"w": torch.ones(1)}, placed, metadata={"run": first.name})
    assert first.weights_file == placed


def test_the_runs_of_a_report_are_those_of_its_list_or_of_its_numbers():
    networks = [
        {"runs": ["a"], "landscape": {"runs": ["a", "b"]}, "probes": {"sgd": {"runs": ["c"]}}, "rates": None},
        {"runs": None, "landscape": None, "probes": None, "rates": {"runs": ["d"]}},
    ]
    assert placing.runs_of({"networks": networks}) == ["a", "b", "c", "d"]
    assert placing.runs_of({"networks": networks, "runs": ["e"]}) == ["e"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_report_is_written_inside_where_nothing_can_be_beside(tmp_path):
    out = tmp_path / "closed" / "out"
    out.mkdir(parents=True)
    out.parent.chmod(0o555)
    place(out, NEW)
    out.parent.chmod(0o755)
    assert {name: content for name, content in tree(out).items() if name != "summary.json"} == NEW
