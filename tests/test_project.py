"""The project as a whole: layering, pins, style, types."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cifarnb.report import front

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# Every module may import those before it (and not all of them do).
LAYERS = [
    "models.scaling report.html_tables report.pdf",
    "environment provenance by_hand models.fast models.lenet models.resnet models.vgg synthetic hardware report "
    "report.significance report.pictures",
    "models report.style report.page",
    "config data",
    "metrics runs progress optimizers",
    "landscape insight kept against_torch report.walks report.recipes report.changes",
    "report.findings",
    "report.claims",
    "training report.figures report.tables report.requirements",
    "experiment report.sections report.front report.display report.insight_figures report.change_figures "
    "report.norm_figures",
    "report.describe report.execution report.placing bench",
    "report.summary report.plan report.norm_tables",
    "report.build",
    "report.verify report.compare",
    "cli",
    "__main__",
]
DOOR = {"bench", "cli", "__main__"}  # what calls both storeys


def imports(module):
    path = ROOT / "cifarnb" / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module in ("cifarnb", "cifarnb.report"):
            folder = node.module.removeprefix("cifarnb").removeprefix(".")
            yield from (f"{folder}.{alias.name}".strip(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cifarnb."):
            yield node.module.removeprefix("cifarnb.")


def modules():
    for path in sorted((ROOT / "cifarnb").rglob("*.py")):
        parts = path.relative_to(ROOT / "cifarnb").with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("module", [name for name in modules() if name])
def test_imports_go_one_way(module):
    level = {name: number for number, names in enumerate(LAYERS) for name in names.split()}
    assert module in level, f"{module} has no place in the layering"
    for imported in imports(module):
        assert level[imported] < level[module], f"{module} imports {imported}"


def test_what_computes_never_imports_what_makes_the_document():
    ground = [name for name in modules() if name and name not in DOOR and not name.startswith("report")]
    assert {"training", "runs", "experiment", "landscape"} <= {*ground}
    for module in ground:
        assert not [name for name in imports(module) if name.startswith("report")], module


def test_the_document_is_drawn_from_records_alone():
    for module in (
        "figures", "norm_figures", "tables", "display", "front", "findings", "claims", "page", "significance",
    ):  # fmt: skip
        assert not {"training", "experiment", "metrics", "landscape"} & set(imports(f"report.{module}")), module


def test_importing_changes_nothing():
    code = (
        "import torch, random, warnings, matplotlib as mpl; before = (torch.get_rng_state().sum(), dict(mpl.rcParams),"
        " torch.get_num_threads(), torch.backends.cudnn.benchmark)\n"
        "import cifarnb.report.build, cifarnb.cli\n"
        "assert before == (torch.get_rng_state().sum(), dict(mpl.rcParams), torch.get_num_threads(),"
        " torch.backends.cudnn.benchmark)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_text_is_utf8_whatever_the_locale():
    """Every call that opens a file, or reads a process, as text says in which encoding."""
    for path in sorted((ROOT / "cifarnb").rglob("*.py")):
        for call in (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if type(node) is ast.Call):
            name = ast.unparse(call.func).split(".")[-1]
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            modes = (ast.unparse(argument) for argument in call.args)
            archive = ast.unparse(call.func) in ("tarfile.open", "Image.open")
            binary = archive or any(re.fullmatch(r"'[rwax+]*b[rwax+]*'", mode) for mode in modes)
            text = name in ("read_text", "write_text") or (name in ("open", "fdopen") and not binary)
            assert not (text or "True" in given.get("text", "")) or "encoding" in given, f"{path}:{call.lineno}"


def pins():
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    return {canonicalize_name(r.name): r for r in map(Requirement, filter(None, lines))}


def test_every_dependency_is_pinned_at_a_version_that_is_allowed():
    project = PYPROJECT["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    for requirement in map(Requirement, wanted):
        (pin,) = pins()[canonicalize_name(requirement.name)].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), requirement


def test_the_pinned_list_names_versions_only():
    for name, requirement in pins().items():
        assert [s.operator for s in requirement.specifier] == ["=="], name
        assert requirement.url is None
    assert not re.search(r"https?:|--|@", (ROOT / "requirements.txt").read_text())


def test_torch_is_pinned_where_the_reports_are_made():
    assert str(pins()["torch"].specifier) == "==2.11.0"
    assert str(pins()["torchvision"].specifier) == "==0.26.0"


def test_conda_gets_the_same_environment():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, from_pip = environment["dependencies"]
    assert Requirement(python).specifier == Requirement("python" + PYPROJECT["project"]["requires-python"]).specifier
    assert pip == "pip"
    assert from_pip == {"pip": ["--requirement requirements.txt", "--editable ."]}


def test_the_readme_quotes_the_full_report():
    summary = json.loads((ROOT / "reports" / "full" / "summary.json").read_text())
    readme = (ROOT / "README.md").read_text()
    assert front.headline_table(summary) in readme
    trained = [section for section in summary["sections"] if section["runs_wanted"]]
    counts = "; ".join(f"{section['runs']} of {section['runs_wanted']} in {section['title']}" for section in trained)
    assert f"Runs that are there so far: {counts}." in " ".join(readme.split())


@pytest.mark.parametrize("command", ["ruff check", "ruff format --check", "mypy"])
def test_style_and_types(command):
    done = subprocess.run(
        [sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- make, with a Python that notes how it is called

PYTHON = """\
#!/bin/sh
if [ "$2" = venv ]; then
  mkdir -p .venv/bin
  cp "$0" .venv/bin/python
  echo "command = python -m venv $(pwd -P)/.venv" > .venv/pyvenv.cfg
fi
{ printf '%s' "$0 $PIP_USER ${PIP_TARGET-none}"; printf ' [%s]' "$@"; echo; } >> calls
"""


@pytest.fixture
def make(tmp_path):
    """A function that makes a target in a folder, where it puts the Makefile, and returns the calls of Python."""

    def run(folder, *arguments, **env):
        folder.mkdir(exist_ok=True)
        for name in ("Makefile", "requirements.txt", "pyproject.toml"):
            if not (folder / name).exists():
                shutil.copy2(ROOT / name, folder / name)
        (tmp_path / "python").write_text(PYTHON, encoding="utf-8")
        (tmp_path / "python").chmod(0o755)
        (folder / "calls").unlink(missing_ok=True)
        command = ["make", *arguments, f"PYTHON={tmp_path / 'python'}"]
        done = subprocess.run(command, cwd=folder, env=os.environ | env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return (folder / "calls").read_text(encoding="utf-8").splitlines()

    return run


def test_make_installs_once_and_passes_on_what_is_asked(make, tmp_path):
    folder = tmp_path / "a project"
    calls = make(folder, "report", "DATA=~/my data.npz", PIP_USER="1", PIP_TARGET="/elsewhere")
    assert [call.split(" [")[2].rstrip("]") for call in calls[1:-1]] == ["venv", "pip", "compileall", "pip"]
    assert all(" 0 none [" in call for call in calls)
    report = ".venv/bin/python 0 none [-m] [cifarnb] [report] [--profile] [quick] [--jobs] [2]"
    assert calls[-1] == f"{report} [--data] [~/my data.npz]"
    assert make(folder, "report") == [report]
    printed = report.replace("[report]", "[report] [--pdf]").replace("quick", "full").replace("[2]", "[1]")
    assert make(folder, "pdf", "PROFILE=full", "JOBS=1") == [printed]


@pytest.mark.parametrize("way", [shutil.copytree, shutil.move])
def test_a_project_that_was_copied_or_moved_gets_an_environment_of_its_own(make, tmp_path, way):
    make(tmp_path / "old", "install")
    (tmp_path / "x").mkdir()
    folder = tmp_path / "x" / "old"
    way(tmp_path / "old", folder)
    (folder / ".venv" / "of the old one").touch()
    assert "[-m] [venv] [.venv]" in make(folder, "test")[1]
    assert not (folder / ".venv" / "of the old one").exists()
    (call,) = make(folder, "test")
    assert call.startswith(".venv/bin/python 0 none [-m] [pytest]")
