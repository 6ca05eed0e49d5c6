import os
import subprocess
from pathlib import Path

import pytest

from cifarnb import provenance


def repository(folder, *files):
    """A repository with these files committed; returns its commit."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    git = ["git", "-C", str(folder), "-c", "user.name=A", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", *files], ["commit", "-qm", "x", "--allow-empty"]):
        subprocess.run([*git, *command], check=True, env=env)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, env=env, capture_output=True).stdout.decode().strip()


@pytest.fixture
def unpacked(tmp_path, monkeypatch):
    """A project as git_state sees it: a folder with the package in it, below another one."""
    project = tmp_path / "other" / "project"
    package = project / "cifarnb"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    yield project
    provenance.git_state.cache_clear()


def git_state():
    provenance.git_state.cache_clear()
    return provenance.git_state()


def test_the_commit_is_that_of_the_projects_repository(unpacked):
    assert git_state() == (None, None)
    commit = repository(unpacked, "cifarnb")
    assert git_state() == (commit, False)
    (unpacked / "reports" / "full" / "runs").mkdir(parents=True)
    (unpacked / "reports" / "full" / "runs" / "losses.npy").touch()  # of a run that was trained just now
    assert git_state() == (commit, False)
    (unpacked / "new").touch()
    assert git_state() == (commit, True)


def test_another_repository_is_not_taken_for_the_projects(unpacked, tmp_path, monkeypatch):
    other = repository(tmp_path / "other", "project")  # it even has the package
    assert git_state() == (None, None)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(unpacked))
    assert git_state() == (None, None)
    own = repository(unpacked, "cifarnb")
    assert own != other
    assert git_state() == (own, False)


def test_a_repository_that_does_not_hold_the_package_says_nothing_of_it(unpacked):
    repository(unpacked)
    assert git_state() == (None, None)


def test_a_file_name_that_is_not_utf8_costs_nothing(unpacked):
    commit = repository(unpacked, "cifarnb")
    Path(os.fsdecode(os.fsencode(unpacked) + b"/caf\xe9")).touch()
    subprocess.run(["git", "-C", str(unpacked), "config", "core.quotePath", "false"], check=True)
    assert git_state() == (commit, True)


@pytest.mark.parametrize(
    "fault", [OSError("no git"), subprocess.TimeoutExpired("git", 60), ValueError("embedded null")]
)
def test_what_describes_a_run_never_costs_it(monkeypatch, fault):
    def fail(*_, **__):
        raise fault

    monkeypatch.setattr(provenance.subprocess, "run", fail)
    missing = provenance.importlib.metadata.distribution
    monkeypatch.setattr(provenance.importlib.metadata, "version", lambda name: missing("no such"))
    provenance.git_state.cache_clear()
    try:
        origin = provenance.describe_origin()
    finally:
        provenance.git_state.cache_clear()
    assert (origin["git_commit"], origin["git_dirty"], origin["versions"]["torchvision"]) == (None, None, None)
