import json
import sys

import nbformat
import pytest

import cifarnb
from cifarnb.config import ConfigError
from cifarnb.report import execution, sections
from cifarnb.report.page import Section


def execute(folder, names=("01_test",), profile="quick", **options):
    return {s.name: s for s in execution.execute(names, profile, folder / "out", **options)}


def test_good_failing_dying_and_slow_sections(project):
    """One call: it also shows that a section that fails does not keep the others from running."""
    project("print(epochs)", name="01_good")
    project("print('before')", "raise ValueError('no luck')", "print('after')", name="02_fails")
    project("import os", "os._exit(1)", "print('after')", name="03_dies")
    project("import os; os._exit(1)", name="04_dies_last")
    folder = project("import time; time.sleep(300)", name="05_sleeps")
    done = execute(folder, ["01_good", "02_fails", "03_dies", "04_dies_last", "05_sleeps"], timeout=8, jobs=2)
    assert {name: section.status for name, section in done.items()} == {
        "01_good": "ok",
        "02_fails": "failed",
        "03_dies": "failed",
        "04_dies_last": "failed",
        "05_sleeps": "timeout",
    }
    assert done["02_fails"].error == "ValueError: no luck"
    assert "died" in done["03_dies"].error
    assert "8 s" in done["05_sleeps"].error
    executed = nbformat.read(done["01_good"].notebook, as_version=4)
    assert executed.cells[-1].outputs[0].text == "3\n"


def test_a_folder_may_have_braces_in_its_name(project, monkeypatch):
    folder = project("print(epochs)")
    inner = folder / "a {b} {epochs} c}"
    inner.mkdir()
    for name in ("notebooks", "params"):
        (folder / name).rename(inner / name)
    monkeypatch.chdir(inner)
    (section,) = execute(inner).values()
    assert (section.status, section.notebook) == ("ok", inner / "out" / "01_test.ipynb"), section.error


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ({}, ["01_test", "05_test", "03d_reads"]),
        ({"jobs": 2}, ["05_test", "01_test", "03d_reads"]),  # the long ones are among the last, so they begin first
        ({"trained": True}, ["01_test", "03d_reads", "05_test"]),
        ({"jobs": 2, "trained": True}, ["05_test", "03d_reads", "01_test"]),
    ],
)
def test_what_reads_the_runs_of_the_others_waits_for_them(options, order, project, monkeypatch):
    for name in ("01_test", "05_test"):
        project(name=name)
    folder = project(name="03d_reads")
    monkeypatch.setattr(execution, "READERS", ("03d_reads",))
    begun = []

    def begin(name, *_):
        begun.append(name)
        return Section(name, None, "ok")

    monkeypatch.setattr(execution, "_execute_one", begin)
    monkeypatch.setattr(execution.joblib, "Parallel", lambda *_, **__: lambda tasks: [f(*a) for f, a, _ in tasks])
    execute(folder, ["01_test", "03d_reads", "05_test"], **options)
    assert begun == order


def test_a_kernel_is_this_python_with_nothing_of_the_users(project, monkeypatch):
    folder = project(
        "import os, sys, torch, cifarnb",
        "print(sys.executable, cifarnb.__file__, torch.get_default_dtype(), 'from_config' in globals(), sep='\\n')",
    )
    startup = "import torch; torch.set_default_dtype(torch.float64)"
    files = {
        "ipython/profile_default/startup/00.py": startup,
        "ipython/profile_default/ipython_config.py": "c.InteractiveShellApp.exec_lines = ['from_config = 1']",
        "startup.py": startup,
        "jupyter/kernels/python3/kernel.json": json.dumps(
            {"argv": ["false", "{connection_file}"], "display_name": "another", "language": "python"}
        ),
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    for name, file in {"IPYTHONDIR": "ipython", "PYTHONSTARTUP": "startup.py", "JUPYTER_PATH": "jupyter"}.items():
        monkeypatch.setenv(name, str(folder / file))
    (section,) = execute(folder).values()
    assert section.status == "ok", section.error
    printed = nbformat.read(section.notebook, as_version=4).cells[-1].outputs[0].text
    assert printed.split() == [sys.executable, cifarnb.__file__, "torch.float32", "False"]


def test_a_kernel_is_told_how_its_threads_wait(monkeypatch):
    monkeypatch.setattr(execution.environment, "waiting_variables", lambda: {"OMP_WAIT_POLICY": "PASSIVE"})
    kernel = execution._Kernel(kernel_name="python3", connection_file="/empty/kernel.json")
    assert kernel.kernel_spec.argv[0] == sys.executable
    assert kernel.kernel_spec.env["OMP_WAIT_POLICY"] == "PASSIVE"
    assert kernel.kernel_spec.env["IPYTHONDIR"] == "/empty"


def test_a_wrong_parameter_stops_before_any_kernel_starts(project):
    folder = project("print(1)", yaml="epochs: many")
    with pytest.raises(ConfigError):
        execute(folder, profile="full")
    assert not list(folder.glob("out/*"))


def test_an_old_notebook_does_not_pass_for_a_new_one(project, monkeypatch):
    folder = project("print(1)")
    old = folder / "out" / "01_test.ipynb"
    old.parent.mkdir()
    old.write_text("old")

    def break_down(*_, **__):
        raise OSError("no kernel")

    monkeypatch.setattr(execution.papermill, "execute_notebook", break_down)
    section = execution._execute_one("01_test", sections.notebook("01_test"), old, {}, None)
    assert (section.status, section.notebook, section.error) == ("failed", None, "OSError: no kernel")
