import re

import pytest

from cifarnb.config import ConfigError
from cifarnb.report import sections


def test_declared_parameters_have_type_default_and_help(project):
    project()
    found = sections.declared("01_test")
    assert list(found) == ["epochs", "lr", "lrs", "name", "flag"]
    assert found["lrs"] == sections.Parameter("list[float]", [0.1], "rates")


def test_titles_are_the_headings_of_the_report():
    titles = [sections.title(name) for name in sections.names()]
    assert titles == [
        "0. Data",
        "1.1 Simple CNN",
        "1.2 Residual connections + batch norm",
        "1.3 A deeper network",
        "2. Batch Normalization",
        "2.3 Why batch norm helps",
        "3. Summary",
    ]


def test_a_section_without_a_heading_goes_by_its_name(project):
    project()
    assert sections.title("01_test") == "01_test"


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


def test_a_draft_in_the_folder_is_no_section(project):
    folder = project(name="01_test")
    for name in ("Untitled", "Untitled1", "01_test-Copy1", "notes", "1"):
        (folder / "notebooks" / f"{name}.ipynb").write_text("", encoding="utf-8")
    assert sections.names() == ["01_test"]


@pytest.mark.parametrize(
    "content",
    ["", "<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> other\n", "[]", "{}", '{"nbformat": 4}'],
)
def test_what_is_no_notebook_is_told_in_one_line(project, content):
    folder = project(name="01_test")
    file = folder / "notebooks" / "01_test.ipynb"
    file.write_text(content, encoding="utf-8")
    for ask in (sections.read, sections.title, sections.declared):
        with pytest.raises(ConfigError, match=rf"^{re.escape(str(file))}: is not a notebook \(.+\)$") as told:
            ask("01_test")
        assert len(str(told.value).splitlines()) == 1
