import json
from pathlib import Path

import numpy as np
import pytest

from cifarnb import kept, runs
from cifarnb.runs import RunError

ROOT = Path(__file__).parents[1]
WHAT = {"along": [0, 1], "images": 5}
VALUES = {"losses": [[1.0, float("inf")], [0.1, 1 / 3]]}
ARRAYS = {"logits": np.ones((2, 10), np.float16), "tried": np.array(3)}


def no_more():
    raise AssertionError("computed again")


def lists(found):
    return {name: (array.dtype, array.tolist()) for name, array in found.items()}


@pytest.fixture
def run(make_run):
    return make_run()


def test_values_are_kept_by_what_they_were_computed_of(run):
    assert kept.values(run, "landscape", WHAT, lambda: VALUES) == VALUES | WHAT
    assert kept.values(run, "landscape", WHAT, no_more) == VALUES | WHAT
    assert kept.values(run, "landscape", WHAT | {"images": 6}, lambda: {"losses": []})["losses"] == []
    assert kept.values(run, "another", WHAT, lambda: {"losses": []})["losses"] == []
    assert kept.values(run, "landscape", WHAT, no_more)["losses"] == VALUES["losses"]


def test_arrays_are_kept_by_what_they_were_computed_of(run):
    assert lists(kept.arrays(run, "insight", WHAT, lambda: ARRAYS)) == lists(ARRAYS)
    assert lists(kept.arrays(run, "insight", WHAT, no_more)) == lists(ARRAYS)
    assert kept.arrays(run, "insight", WHAT | {"images": 6}, dict) == {}


KINDS = [(kept.values, kept.read_values, VALUES, "json"), (kept.arrays, kept.read_arrays, ARRAYS, "npz")]


@pytest.mark.parametrize(("keep", "read", "made", "suffix"), KINDS)
def test_what_is_kept_belongs_to_the_records_and_is_computed_again_where_it_is_damaged(run, keep, read, made, suffix):
    keep(run, "a-kind", WHAT, lambda: made)
    (file,) = run.path.glob(f"a-kind-*.{suffix}")
    assert file in runs.records(run)
    whole = file.read_bytes()
    for damage in (whole[:-30], b"", b"[1]", b"PK\x03\x04"):
        file.write_bytes(damage)
        with pytest.raises(RunError, match=rf"a-kind-.*{suffix}: cannot be read"):
            read(file)
        assert {*keep(run, "a-kind", WHAT, lambda: made)} >= {*made}
        assert {*keep(run, "a-kind", WHAT, no_more)} >= {*made}


@pytest.mark.parametrize(("keep", "read", "made", "suffix"), KINDS)
def test_what_cannot_be_kept_is_given_and_leaves_no_trace(run, monkeypatch, keep, read, made, suffix):
    def full_disk(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(kept.Path, "replace", full_disk)
    given = keep(run, "a-kind", WHAT, lambda: made)
    assert all(given[name] is value for name, value in made.items())
    assert not list(run.path.glob("a-kind*"))


def test_an_error_of_the_computation_is_told(run):
    def compute():
        raise OSError("the images cannot be read")

    with pytest.raises(OSError, match="the images"):
        kept.values(run, "a-kind", WHAT, compute)


def test_what_the_full_report_kept_is_found_under_its_name(monkeypatch):
    """So nothing that was computed for it is computed again."""
    files = sorted((ROOT / "reports" / "full" / "runs").glob("*/landscape-*.json"))
    assert files
    for file in files:
        what = json.loads(file.read_text(encoding="utf-8"))
        losses = what.pop("losses")
        record = runs.load(file.parent)
        monkeypatch.setattr(kept, "atomic_write", None)  # keeping would fail
        assert kept.values(record, "landscape", what, no_more)["losses"] == losses
