import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from cifarnb.cli import app
from cifarnb.data import load
from cifarnb.models import MODELS, count_parameters

COMMANDS = ["report", "bench", "models", "data"]


def call(*arguments, **env):
    """The command line in a process of its own, away from the project's folder."""
    command = [sys.executable, "-m", "cifarnb", *map(str, arguments)]
    clean = {name: value for name, value in os.environ.items() if name != "CIFARNB_DATA"}
    return subprocess.run(command, capture_output=True, text=True, env=clean | env, check=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    done = CliRunner().invoke(app, [command, "--help"])
    assert done.exit_code == 0
    assert "Example:" in done.output


def test_models_lists_every_network():
    done = CliRunner().invoke(app, ["models"])
    assert done.exit_code == 0
    for name, build in MODELS.items():
        assert any(name in line and f"{count_parameters(build()):,}" in line for line in done.output.splitlines())


def test_models_shows_layers_with_shapes():
    output = CliRunner().invoke(app, ["models", "--layers"]).output
    assert "(6, 28, 28)" in output
    assert output.count("62,006") == 2  # in the table of networks, and as the sum of the layers


def test_data_shows_source_counts_and_fingerprint():
    output = CliRunner().invoke(app, ["data", "--data", "synthetic"]).output
    dataset = load("synthetic")
    for word in (dataset.source, dataset.fingerprint, f"{len(dataset.train_images):,} train", "mean", "std"):
        assert word in output


def test_what_data_names_wins_over_the_environment():
    done = call("data", "--data", "synthetic", CIFARNB_DATA="/does/not/exist")
    assert done.returncode == 0
    assert call("data", CIFARNB_DATA="/does/not/exist").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["report", "--profile", "quik"], ["quik", "did you mean quick"]),
        (["report", "--profile", "smoke", "--section", "01_simple_cn"], ["01_simple_cn", "did you mean 01_simple_cnn"]),
        (["report", "--profile", "smoke", "--data", "/no/where.npz"], ["/no/where.npz", "no such file"]),
        (["report", "--profile", "smoke", "--out", "/proc/nowhere"], ["/proc/nowhere", "cannot be written"]),
        (["data", "--data", "/no/where.npz"], ["/no/where.npz", "no such file"]),
    ],
)
def test_a_mistake_ends_in_one_line_and_exit_code_2(arguments, words):
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_full_does_not_fall_back(tmp_path):
    """Without data and without network the full profile stops and says what to do."""
    proxy = "http://127.0.0.1:9"  # nothing listens there, so there is no network
    done = call("report", "--profile", "full", "--out", tmp_path, XDG_CACHE_HOME=str(tmp_path), https_proxy=proxy)
    assert done.returncode == 2
    assert "does not fall back" in done.stderr
    assert "pass data (or CIFARNB_DATA) a path" in done.stderr


def test_offline_without_data_the_report_is_made_on_synthetic_images_and_says_so(tmp_path):
    proxy = "http://127.0.0.1:9"
    done = call(
        "report", "--profile", "smoke", "--data", "auto", "--section", "00_data", "--out", tmp_path / "out",
        "--runs", tmp_path / "runs", XDG_CACHE_HOME=str(tmp_path), https_proxy=proxy,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "NO CIFAR-10" in done.stderr
    page = (tmp_path / "out" / "report.html").read_text()
    assert "not known to be CIFAR-10" in page
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["data"]["cifar10"] is False
    assert [s["status"] for s in summary["sections"]] == ["ok"] + ["not run"] * 6
