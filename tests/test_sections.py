import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from cifarnb import execution, sections
from cifarnb.config import ConfigError

NOTEBOOK = """
epochs: int = 3  # passes
lr: float = 0.1  # rate
lrs: list[float] = [0.1]  # rates
name: str = "x"  # a name
flag: bool = False  # yes or no
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one notebook; returns a function that writes its cells after the parameters, and params/full."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "params" / "full").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    def write(*cells, yaml="", name="01_test"):
        parameters = new_code_cell(NOTEBOOK.strip(), metadata={"tags": ["parameters"]})
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        notebook = new_notebook(cells=[parameters, *map(new_code_cell, cells)], metadata=kernel)
        nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")
        (tmp_path / "params" / "full" / f"{name}.yaml").write_text(yaml)
        return tmp_path

    return write


def test_declared_parameters_have_type_default_and_help(project):
    project()
    found = sections.declared("01_test")
    assert list(found) == ["epochs", "lr", "lrs", "name", "flag"]
    assert found["lrs"] == sections.Parameter("list[float]", [0.1], "rates")


@pytest.mark.parametrize(
    ("yaml", "value"),
    [
        ("lr: 1e-3", {"lr": 1e-3}),
        ("lr: 1", {"lr": 1.0}),
        ("lrs: [1e-3, 2.0e-3]", {"lrs": [1e-3, 2e-3]}),
        ("epochs: 7\nflag: true", {"epochs": 7, "flag": True}),
        ("", {}),
        ("# nothing", {}),
    ],
)
def test_parameters_are_read_as_meant(project, yaml, value):
    project(yaml=yaml)
    assert sections.changes("01_test", "full") == value


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("epoch: 3", ["epoch", "did you mean epochs", "lrs"]),
        ("epochs: 2.5", ["epochs", "int", "2.5"]),
        ("epochs: 'three'", ["epochs", "int", "'three'"]),
        ("epochs: true", ["epochs", "int", "True"]),
        ("epochs: 0", ["epochs", "greater than or equal to 1"]),
        ("lr: fast", ["lr", "float", "'fast'"]),
        ("lr: -1.0", ["lr", "greater than 0"]),
        ("lr: .nan", ["lr", "float", "nan"]),
        ("lrs: 0.1", ["lrs", "list[float]"]),
        ("flag: 1", ["flag", "bool", "1"]),
        ("name: null", ["name", "str", "None"]),
        ("- a\n- b", ["name: value"]),
        ("lr: [", ["is not YAML"]),
        ("1: 2", ["1", "unknown"]),
    ],
)
def test_a_wrong_parameter_is_refused_in_one_line_that_names_file_and_key(project, yaml, words):
    project(yaml=yaml)
    with pytest.raises(ConfigError) as refused:
        sections.changes("01_test", "full")
    message = str(refused.value)
    assert "\n" not in message
    for word in ["params/full/01_test.yaml", *words]:
        assert word in message


def test_a_missing_parameter_file_is_named(project):
    (project() / "params" / "full" / "01_test.yaml").unlink()
    with pytest.raises(ConfigError, match=r"01_test\.yaml: cannot be read"):
        sections.changes("01_test", "full")


def test_quick_is_the_notebooks_own_defaults(project):
    project(yaml="epochs: 9")
    assert sections.changes("01_test", "quick") == {}
    assert sections.values("01_test", "quick")["epochs"] == 3


@pytest.mark.parametrize("call", [lambda: sections.notebook("01_tset"), lambda: sections.changes("01_test", "fulll")])
def test_an_unknown_section_or_profile_is_refused_with_a_hint(project, call):
    project()
    with pytest.raises(ConfigError, match="did you mean"):
        call()


def test_overrides_apply_where_they_are_declared(project):
    project(yaml="name: file")
    assert sections.changes("01_test", "full", {"name": "override", "data": "elsewhere"}) == {"name": "override"}


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


def test_a_wrong_parameter_stops_before_any_kernel_starts(project):
    folder = project("print(1)", yaml="epochs: many")
    with pytest.raises(ConfigError):
        execute(folder, profile="full")
    assert not list((folder / "out").glob("*")) if (folder / "out").exists() else True


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
