import shutil
from pathlib import Path

import pytest

from cifarnb.report import build
from cifarnb.report.page import Section


@pytest.fixture
def remake(smoke, monkeypatch):
    """Make a smoke report without training; in place of its kernels the notebooks that the smoke report executed."""

    def execute(wanted, profile, out, overrides, **_):
        out.mkdir()
        for name in wanted:
            yield Section(name, Path(shutil.copy(smoke / "notebooks" / f"{name}.ipynb", out)), "ok")

    monkeypatch.setattr(build.execution, "execute", execute)

    def make(out, runs_dir, data="synthetic", **given):
        said = []
        ok = build.build_report("smoke", data, out, runs_dir=runs_dir, train=False, say=said.append, **given)
        return ok, said

    return make
