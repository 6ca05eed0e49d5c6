"""The notebooks and their parameters, as they are stored and as they run."""

import ast
import itertools
import math
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from papermill.exceptions import PapermillExecutionError

from cifarnb.config import Config
from cifarnb.models import build_model, count_multiply_adds
from cifarnb.report import execution, sections

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROFILES = ("smoke", "full")
LONG = 30  # nodes of a statement's syntax tree: more than a call with its arguments


def code_of(path):
    return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")


@pytest.fixture(autouse=True)
def _in_project(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_without_outputs_and_ready_for_papermill(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert notebook.metadata.kernelspec.name == "python3"
    assert [cell.metadata.get("tags") for cell in code].count(["parameters"]) == 1
    assert notebook.cells[0].cell_type == "markdown"
    assert re.match(r"#{1,2} \d\.", notebook.cells[0].source)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_define_no_functions(path):
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    for node in ast.walk(ast.parse(code_of(path))):
        assert not isinstance(node, definitions), node.name
        assert not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda)), ast.unparse(node)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_sentence_is_whole_without_the_text_of_its_links_to_figures(path):
    """The report puts "Table 3" in the text's place, so that such a link stands in brackets."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            assert not re.search(r"(?<!\()(?<!\), )\[[^]]+\]\(#(?:fig|table)-", cell.source), cell.source


def test_no_two_cells_say_the_same_in_code():
    """Statements as they read, with other words in them: what is said twice belongs into the library."""
    said = defaultdict(list)
    for path in NOTEBOOKS:
        for statement in ast.parse(code_of(path)).body:
            if isinstance(statement, ast.Import | ast.ImportFrom | ast.AnnAssign):
                continue
            place = path.stem, ast.unparse(statement)
            for node in ast.walk(statement):
                if isinstance(node, ast.Constant):
                    node.value = ...
            if len([*ast.walk(statement)]) > LONG:
                said[ast.dump(statement)].append(place)
    assert not [places for places in said.values() if len(places) > 1]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_parameter_is_typed_and_explained(path):
    (cell,) = [c for c in nbformat.read(path, as_version=4).cells if c.metadata.get("tags") == ["parameters"]]
    declared = sections.declared(path.stem)
    assert len(declared) == len(cell.source.splitlines())
    for name, parameter in declared.items():
        assert parameter.type in sections._TYPES, name
        assert parameter.help, name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("profile", PROFILES)
def test_parameter_files_fit_their_notebooks(path, profile):
    changed = sections.changes(path.stem, profile)
    stored = yaml.safe_load((ROOT / "params" / profile / f"{path.stem}.yaml").read_text())
    assert changed == stored  # so papermill alone, which converts nothing, passes on the same


def test_there_is_no_parameter_file_without_a_notebook():
    found = {path.relative_to(ROOT / "params") for path in (ROOT / "params").rglob("*.yaml")}
    assert found == {Path(profile) / f"{path.stem}.yaml" for profile in PROFILES for path in NOTEBOOKS}


def test_the_notebooks_defaults_are_values_that_a_run_can_have():
    for path in NOTEBOOKS:
        sections.check_values(sections.values(path.stem, "quick"), path.stem)


def test_full_is_the_write_ups_schedule():
    def get(model):
        config = sections.configs(model, "full")[0]
        return config.optimizer, config.lr, config.schedule, config.epochs, config.batch_size, config.augment

    assert get("simple_cnn") == ("sgd", 1e-3, "none", 200, 128, False)
    assert get("resnet6") == ("adam", 1e-4, "cosine", 100, 32, True)
    assert get("resnet9") == ("adam", 1e-4, "cosine", 180, 32, True)
    assert get("vgg_a") == get("vgg_a_bn") == ("adam", 5e-4, "none", 20, 128, False)
    given = sections.values("04_batchnorm", "full")
    assert {c.lr for c in sections.landscape_configs(given, "vgg_a")} == {1e-3, 2e-3, 1e-4, 5e-4}
    for model in sections.NETWORKS:
        assert all(c.train_size == c.test_size == 0 for c in sections.configs(model, "full"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_checked_before_anything_is_made_of_them(path):
    """And no later cell gives another meaning to a parameter's name, so that the check may be run again."""
    first, second, *later = [
        ast.parse(c.source) for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"
    ]
    imports = (ast.Import, ast.ImportFrom)
    called = next(statement for statement in second.body if not isinstance(statement, imports))
    assert ast.unparse(called) == f"sections.validate_parameters('{path.stem}', globals())"
    declared = {statement.target.id for statement in first.body}
    assert declared == set(sections.declared(path.stem))
    names = [node for cell in (second, *later) for node in ast.walk(cell) if isinstance(node, ast.Name)]
    assert not declared & {name.id for name in names if isinstance(name.ctx, ast.Store)}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_only_parameters_are_called_as_fields_of_a_run(path):
    """Configs are made of a notebook's names: one that is given to something else would become a field of its runs."""
    cells = [ast.parse(c.source) for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    inside = {  # of a comprehension, which keeps its names to itself
        node for cell in cells for made in ast.walk(cell) if isinstance(made, ast.comprehension)
        for node in ast.walk(made.target)
    }  # fmt: skip
    names = [node for cell in cells for node in ast.walk(cell) if isinstance(node, ast.Name) and node not in inside]
    given = {name.id for name in names if isinstance(name.ctx, ast.Store)} - {*sections.declared(path.stem)}
    assert not given & {*Config.model_fields}


def test_a_kernel_starts_without_what_it_needs_later_or_never():
    cells = [
        ast.parse(c.source) for p in NOTEBOOKS for c in nbformat.read(p, as_version=4).cells if c.cell_type == "code"
    ]
    lines = {ast.unparse(line) for cell in cells for line in cell.body if isinstance(line, ast.Import | ast.ImportFrom)}
    code = [*sorted(lines), "import sys", "sections.declared('01_simple_cnn')", "print(*sys.modules)"]
    found = subprocess.run([sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, check=True).stdout
    assert "cifarnb.report.sections" in found.split()
    assert not {"nbformat", "jsonschema", "papermill", "torchvision", "torch._dynamo"} & {
        *found.split()
    }  # a second each


def operations(config):
    """Of its training and its walks: a multiply-add is two, and a gradient takes three times the forward pass."""
    multiply_adds = count_multiply_adds(build_model(config.model, width=config.width))
    steps = config.epochs * math.ceil((config.train_size or 50_000) / config.batch_size)
    gradients = 0
    if config.probe_every:
        gradients = math.ceil(steps / config.probe_every) * (1 + len(config.probe_along) * config.probe_points)
    return 6 * multiply_adds * config.batch_size * (steps + gradients)


def test_what_full_adds_to_the_assignment_takes_two_cores_some_hours():
    why = [
        config for same in sections.why_configs(sections.values("05_why_batchnorm", "full")).values() for config in same
    ]
    given = sections.values("04_batchnorm", "full")
    narrow = [config for model in ("vgg_a", "vgg_a_bn") for config in sections.narrow_configs(given, model)]
    assert sum(map(operations, [*why, *narrow])) < 3e15


def test_in_full_the_walks_are_on_vgg_a_over_an_epoch_with_three_seeds():
    runs = sections.why_configs(sections.values("05_why_batchnorm", "full"))
    for kind, lr, along in (("sgd", 0.1, 1), ("second_sgd", 0.2, 1), ("adam", 5e-4, 2)):
        assert {(c.model, c.seed) for c in runs[kind]} == set(itertools.product(("vgg_a", "vgg_a_bn"), (0, 1, 2)))
        assert {(c.width, c.lr, c.momentum * (c.optimizer == "sgd"), c.epochs) for c in runs[kind]} == {(1, lr, 0, 1)}
        assert {(c.precision, len(c.probe_along), c.probe_points) for c in runs[kind]} == {("auto", along, 8)}
    rest = [c for kind in ("noise_sgd", "noise_adam", "rates") for c in runs[kind]]
    assert {c.width for c in rest} == {0.25}
    assert {c.width for c in runs["skip"]} == {1.0}
    assert all(c.keep_path for c in runs["noise_adam"])


def test_in_full_the_landscape_is_on_one_seed_and_a_quarter_as_wide_on_all():
    given = sections.values("04_batchnorm", "full")
    assert {(c.seed, c.width) for c in sections.landscape_configs(given, "vgg_a")} == {(0, 1.0)}
    narrow = sections.narrow_configs(given, "vgg_a_bn")
    assert {c.width for c in narrow} == {0.25}
    assert {(c.seed, c.lr) for c in narrow} == set(itertools.product(given["seeds"], given["landscape_lrs"]))
    assert sections.narrow_configs(given | {"narrow_epochs": 0}, "vgg_a") == []


def test_every_section_of_the_smoke_report_is_executed_to_its_end(smoke):
    for path in NOTEBOOKS:
        executed = smoke / "notebooks" / path.name
        assert execution.first_unexecuted(executed) is None
        for cell in nbformat.read(executed, as_version=4).cells:
            assert not [o for o in cell.get("outputs", []) if o.output_type == "error"]


def test_one_of_something_is_told_in_the_singular(smoke):
    things = "epoch|seed|step|thread|image|run|point|section|network|walk|change"
    for file in (smoke / "report.md", smoke / "weights" / "README.md"):
        told = file.read_text(encoding="utf-8")
        assert not re.findall(rf".*(?<![\d.,/–−-])\b1 (?:{things})s\b.*", told), file
        assert re.search(rf"\b1 (?:{things})\b", told), file


def test_a_second_execution_prints_the_same(smoke):
    command = [sys.executable, "-m", "pytest", "--nbval", "-q", "-p", "no:cacheprovider", str(smoke / "notebooks")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=smoke, check=False)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


def test_a_section_runs_by_hand_with_papermill_alone(smoke, tmp_path):
    """As the README says it, without the command line; -p wins over -f."""
    out = tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "papermill", "notebooks/01_simple_cnn.ipynb", str(out)]
    command += ["-f", "params/smoke/01_simple_cnn.yaml", "-p", "epochs", "1", "-p", "runs_dir", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").glob("simple_cnn-*")
    assert '"epochs": 1' in (run / "config.json").read_text()


def test_papermill_alone_does_not_train_where_it_is_told_so_in_text(tmp_path):
    parameters = {"data": "synthetic", "runs_dir": str(tmp_path), "train": "false", "epochs": 1, "train_size": 128}
    with pytest.raises(PapermillExecutionError, match="NotRunError"):
        papermill.execute_notebook(
            "notebooks/01_simple_cnn.ipynb", str(tmp_path / "o.ipynb"), parameters, progress_bar=False
        )
    assert not list(tmp_path.glob("simple_cnn-*"))


def test_a_number_that_yaml_reads_as_text_is_taken_as_the_number_by_papermill_alone(tmp_path):
    parameters = {
        "data": "synthetic",
        "runs_dir": str(tmp_path),
        "lr": "1e-3",
        "epochs": 1,
        "train_size": 128,
        "test_size": 64,
    }
    papermill.execute_notebook(
        "notebooks/01_simple_cnn.ipynb", str(tmp_path / "o.ipynb"), parameters, progress_bar=False
    )
    (run,) = tmp_path.glob("simple_cnn-*")
    assert '"lr": 0.001' in (run / "config.json").read_text()


def test_quick_shows_section_2_on_narrow_networks_with_enough_steps_to_tell():
    headline = sections.values("04_batchnorm", "quick")
    why = sections.why_configs(sections.values("05_why_batchnorm", "quick"))
    vgg = [c for same in why.values() for c in same if c.model.startswith("vgg")]
    for config in [
        *vgg,
        *sections.landscape_configs(headline, "vgg_a"),
        *sections.network_configs(headline, "vgg_a_bn"),
    ]:
        assert config.width == 0.25
        assert config.epochs * math.ceil(config.train_size / config.batch_size) >= 100
