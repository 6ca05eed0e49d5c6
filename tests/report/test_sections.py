import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell

from cifarnb.config import ConfigError
from cifarnb.report import sections

DECLARATIONS = """\
epochs: int = 3  # passes (0 = none)
train: bool = True  # train what is missing
jobs: int = 1  # at a time
lr: float = 0.1  # rate
seeds: list[int] = [0]  # one run each
data: str = "auto"  # which
"""


def refusal(call, *args):
    """The one line with which it refuses."""
    with pytest.raises(ConfigError) as refused:
        call(*args)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture
def validate(project):
    """A function that runs these cells after the declarations, and checks: the namespace, or the one line."""
    rewrite(project(), lambda cells: cells[0].update(source=DECLARATIONS))

    def run(*cells, history=True):
        namespace = {"In": ["", DECLARATIONS, *cells]} if history else {}
        for cell in (DECLARATIONS, *cells):
            exec(cell, namespace)
        try:
            sections.validate_parameters("01_test", namespace)
        except ConfigError as error:
            assert "\n" not in str(error)
            return str(error)
        return namespace

    return run


def rewrite(folder, change):
    path = folder / "notebooks" / "01_test.ipynb"
    notebook = nbformat.read(path, as_version=4)
    change(notebook.cells)
    nbformat.write(notebook, path)


def test_declared_parameters_have_type_default_and_help(project):
    project()
    found = sections.declared("01_test")
    assert list(found) == ["epochs", "lr", "lrs", "name", "flag"]
    assert found["lrs"] == sections.Parameter("list[float]", [0.1], "rates")


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("a: int = 1  # b = 2, c: int = 3", ("int", 1, "b = 2, c: int = 3")),
        ("a: int = 1", ("int", 1, "")),
        ("# Of all:\n\na: int = -1  # # one", ("int", -1, "one")),
        ('a: str = "# no = comment"  # text', ("str", "# no = comment", "text")),
        ("a: list[float] = [  # rates\n    0.1,\n    1e-3,  # small\n]", ("list[float]", [0.1, 1e-3], "rates small")),
        ("a: list[int] = [\n    0,\n]  # seeds", ("list[int]", [0], "seeds")),
        ("a: float = 1  # whole", ("float", 1.0, "whole")),
        ("a: bool = (\n    False  # or not\n)", ("bool", False, "or not")),
    ],
)
def test_a_declaration_is_read_as_python_does(cell, expected):
    before, after = "first: str = 'x'  # before\n", "\nlast: str = 'y'  # after"
    found = sections.read_declarations(before + cell + after)
    assert found == {
        "first": sections.Parameter("str", "x", "before"),
        "a": sections.Parameter(*expected),
        "last": sections.Parameter("str", "y", "after"),
    }


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a = 3", ["expected is 'name: type = value"]),
        ("a: int", ["expected is 'name: type = value"]),
        ("print(1)", ["expected is 'name: type = value"]),
        ("x.a: int = 3", ["expected is 'name: type = value"]),
        ("a: dict = {}", ["dict", "unknown", "list[float]"]),
        ("a: list = []", ["list", "did you mean list[int]"]),
        ("a: int = 2 * 3", ["a", "plain value", "2 * 3"]),
        ("a: float = {[1]: 2}", ["a", "plain value"]),
        ("a: int = 2.5", ["a", "int", "2.5"]),
        ("a: bool = 'perhaps'", ["a", "bool", "'perhaps'"]),
        ("first: int = 3", ["first", "twice"]),
        ("a: int = (3", ["not Python"]),
        ("<<<<<<< HEAD", ["not Python"]),
    ],
)
def test_a_parameters_cell_that_cannot_be_read_names_notebook_and_line(project, line, words):
    folder = project()
    rewrite(folder, lambda cells: cells[0].update(source=f"first: int = 1\n{line}"))
    message = refusal(sections.declared, "01_test")
    for word in [str(folder / "notebooks" / "01_test.ipynb"), "line 2", *words]:
        assert word in message


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda cells: cells[0].metadata.pop("tags"), 0),
        (lambda cells: cells.append(new_code_cell("a: int = 1", metadata={"tags": ["parameters"]})), 2),
    ],
)
def test_one_cell_alone_declares_parameters(project, change, found):
    rewrite(project(), change)
    message = refusal(sections.declared, "01_test")
    assert f"01_test.ipynb: one cell must have the tag parameters, not {found}" in message


def test_titles_are_the_headings_of_the_report():
    titles = [sections.title(name) for name in sections.names()]
    assert titles == [
        "0. Data",
        "1.1 Simple CNN",
        "1.2 Residual connections + batch norm",
        "1.3 A deeper network",
        "1.4 Trained well",
        "1.5 One change at a time",
        "1.6 What the networks see",
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
        ("flag: 'false'", {"flag": False}),
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
        ("lr: 0.1\nepochs: 3\nlr: 0.2", ["lr: stands there twice"]),
        ("lr: 0.1\n'lr': 0.1", ["lr: stands there twice"]),
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


def test_a_sections_own_network_says_which_optimizers_it_may_have():
    assert sections.changes("01_simple_cnn", "quick", {"optimizer": "muon"})["optimizer"] == "muon"
    with pytest.raises(ConfigError, match="optimizer muon needs model"):
        sections.changes("02_residual_cnn", "quick", {"optimizer": "muon"})


@pytest.mark.parametrize("call", [lambda: sections.notebook("01_tset"), lambda: sections.changes("01_test", "fulll")])
def test_an_unknown_section_or_profile_is_refused_with_a_hint(project, call):
    project()
    with pytest.raises(ConfigError, match="did you mean"):
        call()


def test_overrides_apply_where_they_are_declared(project):
    project(yaml="name: file")
    assert sections.changes("01_test", "full", {"name": "override", "data": "elsewhere"}) == {"name": "override"}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"epoch": 3}, ["epoch", "did you mean epochs"]),
        ({"jobs": 2}, ["jobs", "unknown"]),
        ({"epochs": 2.5}, ["epochs", "int", "2.5"]),
        ({"flag": "no"}, ["flag", "bool", "'no'"]),
        ({"lr": -1.0}, ["lr", "greater than 0"]),
        ({"train": False}, ["01_test.ipynb", "must declare train"]),  # it would train all the same
        ({"runs_dir": "elsewhere"}, ["01_test.ipynb", "must declare runs_dir"]),
    ],
)
def test_an_override_that_cannot_be_placed_is_refused(project, overrides, words):
    project(yaml="name: file")
    message = refusal(sections.changes, "01_test", "full", overrides)
    for word in words:
        assert word in message


def test_what_a_report_gives_to_all_is_left_out_where_a_notebook_has_no_use_for_it():
    given = {"profile": "smoke", "data": "synthetic", "runs_dir": "elsewhere", "train": False}
    assert set(given) == set(sections.GIVEN_TO_ALL)
    placed = {name: set(sections.changes(name, "quick", given)) for name in sections.names()}
    training = {*sections.NETWORKS.values(), sections.WELL, sections.ONE_CHANGE, sections.WHY}
    assert {name for name, there in placed.items() if "train" in there} == training
    assert all(there == {"data", "runs_dir", "train"} for name, there in placed.items() if name in training)
    assert placed["00_data"] == {"data"}
    assert placed[sections.SUMMARY] == {"profile", "data", "runs_dir"}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("train", '"false"', False),
        ("train", '"True"', True),
        ("train", "False", False),
        ("lr", '"1e-3"', 1e-3),
        ("lr", "1", 1.0),
        ("seeds", "[1, 2]", [1, 2]),
    ],
)
@pytest.mark.parametrize("history", [True, False])  # nbval's kernel keeps none
def test_what_papermill_sets_arrives_in_the_notebook_as_meant(validate, name, text, value, history):
    namespace = validate(f"# Parameters\n{name} = {text}\n", history=history)
    assert (namespace[name], type(namespace[name])) == (value, type(value))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("train = 0", ["train", "bool", "0"]),
        ('train = "no"', ["train", "bool", "'no'"]),
        ("epochs = 2.5", ["epochs", "int", "2.5"]),
        ("epochs = 0", ["epochs", "greater than or equal to 1"]),
        ("seeds = 3", ["seeds", "list[int]", "3"]),
        ("seeds = []", ["seeds", "at least 1"]),
        ('jobs = "x"', ["jobs", "int", "'x'"]),
        ("jobs = 0", ["jobs", "at least 1"]),
        ("data = None", ["data", "str", "None"]),
        ('lr = float("nan")', ["lr", "float", "nan"]),
        ("epoch = 3", ["epoch", "did you mean epochs"]),
        ("train = False\nprofile = 'full'", ["profile", "unknown"]),
    ],
)
def test_what_papermill_sets_is_checked_in_the_notebook(validate, given, words):
    message = validate(f"# Parameters\n{given}\n")
    for word in words:
        assert word in message


def test_parameters_that_are_changed_by_hand_are_checked(validate):
    assert "'many'" in validate("epochs = 'many'")
    assert "seeds: is not set" in validate("del seeds")
    again = validate("later = 1", DECLARATIONS.replace("= 3", "= 5"), "# Parameters\n# a heading alone")
    assert (again["epochs"], again["later"]) == (5, 1)


def test_a_notebook_without_the_tag_is_told_so_when_it_runs(validate, tmp_path):
    """Papermill then puts its values before the notebook's own, which take their place."""
    rewrite(tmp_path, lambda cells: cells[0].metadata.pop("tags"))
    assert "must have the tag parameters" in validate()


@pytest.mark.parametrize(
    ("name", "lowest"), [*sections.LOWEST.items(), *((name, [0] * n) for name, n in sections.SHORTEST.items())]
)
def test_a_parameter_has_a_lowest_value(name, lowest):
    lower = lowest[1:] if isinstance(lowest, list) else lowest - 1
    assert f"{name}: at least" in refusal(sections.check_values, {name: lower}, "01_test")
    assert "radius" in refusal(sections.check_values, {"radius": 0.0}, "01_test")


def test_a_draft_in_the_folder_is_no_section(project):
    folder = project(name="01_test")
    for name in ("Untitled", "Untitled1", "01_test-Copy1", "notes", "1"):
        (folder / "notebooks" / f"{name}.ipynb").write_text("", encoding="utf-8")
    assert sections.names() == ["01_test"]


def test_a_letter_puts_a_section_between_two_numbers(project):
    for name in ("04_test", "03_test", "03d_test", "03dd_test", "d03_test"):
        project(name=name)
    assert sections.names() == ["03_test", "03d_test", "04_test"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> other\n",
        "[]",
        "{}",
        '{"nbformat": 4}',
        '{"cells": [{"source": 1}]}',
        '{"cells": 1}',
    ],
)
def test_what_is_no_notebook_is_told_in_one_line(project, content):
    folder = project(name="01_test")
    file = folder / "notebooks" / "01_test.ipynb"
    file.write_text(content, encoding="utf-8")
    for ask in (sections.cells, sections.title, sections.declared):
        with pytest.raises(ConfigError, match=rf"^{re.escape(str(file))}: is not a notebook \(.+\)$") as told:
            ask("01_test")
        assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("section", "name", "wrong"),
    [
        ("02_residual_cnn", "plain_batch_size", -1),
        ("04_batchnorm", "landscape_lrs", [0.1, 0.0]),
        ("04_batchnorm", "landscape_seeds", [0, -1]),
        ("04_batchnorm", "narrow_epochs", -1),
        ("05_why_batchnorm", "sgd_lr", 0.0),
        ("05_why_batchnorm", "second_sgd_lr", -0.1),
        ("05_why_batchnorm", "lrs", [0.0]),
        ("05_why_batchnorm", "walk_width", 0.0),
        ("05_why_batchnorm", "walk_epochs", 0),
        ("05_why_batchnorm", "rate_epochs", 0),
        ("05_why_batchnorm", "skip_epochs", 0),
        ("05_why_batchnorm", "seeds", [-1]),
        ("05_why_batchnorm", "width", 0.0),
        ("05_why_batchnorm", "epochs", 1),  # a path has three points
    ],
)
def test_a_parameter_that_stands_for_a_field_is_named_when_it_is_wrong(section, name, wrong):
    given = sections.values(section, "quick")
    sections.check_values(given, section)
    with pytest.raises(ConfigError, match=rf"\b{name}\b"):
        sections.check_values(given | {name: wrong}, section)


def test_what_0_leaves_out_is_no_mistake():
    for section, name in (("02_residual_cnn", "plain_batch_size"), ("04_batchnorm", "narrow_epochs")):
        sections.check_values(sections.values(section, "full") | {name: 0}, section)
