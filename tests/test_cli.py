import errno
import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
import typing
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from cifarnb.cli import app
from cifarnb.data import load
from cifarnb.environment import print_anything, user_path
from cifarnb.models import MODELS, build_model, count_parameters
from cifarnb.report import build
from cifarnb.report import compare as comparing

ROOT = Path(__file__).parents[1]
COMMANDS = ["report", "plan", "bench", "models", "data"]


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
    for name in MODELS:
        assert any(
            name in line and f"{count_parameters(build_model(name)):,}" in line for line in done.output.splitlines()
        )


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


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "--data", "{}/cifar10.npz"],
        ["data", "--data", "cifar10"],
        ["plan", "--profile", "smoke", "--data", "synthetic", "--runs", "{}/runs"],
        ["report", "--profile", "smoke", "--data", "synthetic", "--out", "{}/report"],
        ["verify", "{}/report"],
        ["compare", "{}/a", "{}/b"],
    ],
    ids=" ".join,
)
def test_a_folder_that_one_may_not_enter_ends_in_one_line_and_exit_code_2(arguments, no_entry, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there, so there is no network
    monkeypatch.setenv("XDG_CACHE_HOME", str(no_entry))
    done = CliRunner().invoke(app, [argument.format(no_entry) for argument in arguments])
    assert done.exit_code == 2, done.exception
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert str(no_entry) in done.stderr
    assert "Permission denied" in done.stderr


def test_a_full_disk_while_a_comparison_is_written_ends_in_one_line_and_exit_code_2(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(comparing.nbformat, "write", full_disk)
    page = ["--page", str(tmp_path / "page.html")]
    done = CliRunner().invoke(app, ["compare", str(make_run().path), str(make_run().path), *page])
    assert (done.exit_code, done.stderr) == (2, "cifarnb: No space left on device\n")


def test_a_full_disk_at_the_end_of_a_report_ends_in_one_line_and_exit_code_2(tmp_path, monkeypatch):
    monkeypatch.setattr(build.execution, "execute", lambda *_, **__: iter(()))
    monkeypatch.setattr(build, "render_report", full_disk)
    command = ["report", "--profile", "smoke", "--data", "synthetic", "--no-train"]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")])
    assert (done.exit_code, done.stderr) == (2, "cifarnb: No space left on device\n")
    assert not list(tmp_path.glob(".out.new"))


@pytest.mark.parametrize("command", ["report", "plan"])
def test_what_times_steps_loads_pytorch_with_threads_that_wait_as_those_of_a_kernel(command):
    """Else the time that is announced is that of threads that spin, beside other work ten times too long."""
    code = (
        "import contextlib, sys\nfrom cifarnb import cli, environment\n@contextlib.contextmanager\ndef waiting():\n"
        "    before = 'torch' in sys.modules\n    yield\n    print(before, 'torch' in sys.modules)\n"
        f"environment.waiting = waiting\ncli.app([{command!r}, '--profile', 'quik'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (2, "False True\n"), done.stderr


def test_whose_report_it_is_and_whether_to_print_it_are_passed_on(monkeypatch):
    given = {}
    monkeypatch.setattr(build, "build_report", lambda *_, **options: given.update(options) or False)
    command = ["report", "--pdf", "--author", "A. Student", "--code-link", "https://example.org"]
    assert CliRunner().invoke(app, command).exit_code == 1
    assert given["pdf"]
    assert given["hand_in"] == {"author": "A. Student", "student_number": "", "code_link": "https://example.org"}


def test_every_path_is_expanded():
    found = []
    for command in app.registered_commands:
        for name, parameter in inspect.signature(command.callback).parameters.items():
            kind, *options = typing.get_args(parameter.annotation)
            if Path in (kind, *typing.get_args(kind)):
                found.append(name)
                assert options[0].parser is user_path, (command.callback.__name__, name)
    assert {"out", "runs", "json_file", "folder", "a", "b", "page"} == set(found)


def test_a_home_that_no_shell_put_in_is_put_in(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for arguments in (["report", "--profile", "smoke", "--data", "synthetic", "--out=~/file"], ["verify", "~/file"]):
        done = CliRunner().invoke(app, arguments)
        assert (done.exit_code, f"{tmp_path}/file" in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_shows_what_its_encoding_has(encoding, monkeypatch):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    print_anything()
    print("café – 0.1 ± 0.2", flush=True)
    assert raw.getvalue() == {"ascii": b"caf? ? 0.1 ? 0.2\n", "latin-1": b"caf\xe9 ? 0.1 \xb1 0.2\n"}[encoding]


@pytest.mark.parametrize(
    ("number", "ignored", "code"),
    [
        (signal.SIGINT, False, 130),
        (signal.SIGTERM, False, 143),
        (signal.SIGHUP, False, 129),
        (signal.SIGHUP, True, 0),  # under nohup it goes on
    ],
)
def test_a_signal_ends_the_processes_that_were_started(number, ignored, code):
    """The command is one that starts a process and waits; cifarnb report starts its own in the same way."""
    process = subprocess.Popen(
        [sys.executable, "-c", STARTS_ANOTHER, str(int(number)), str(int(ignored))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    child = psutil.Process(int(process.stdout.readline()))
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running()
    assert err == ("" if ignored else "\ncifarnb: stopped; go on\n")


STARTS_ANOTHER = """
import signal, subprocess, sys, time
from pathlib import Path
from cifarnb.cli import _stop_at_once
signal.signal(int(sys.argv[1]), signal.SIG_IGN if int(sys.argv[2]) else signal.SIG_DFL)  # whatever the tests run under
_stop_at_once("go on", Path("runs"))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(2 if %d else 120)" % int(sys.argv[2])])
print(child.pid, flush=True)
child.wait()
"""


def test_a_signal_leaves_nothing_of_the_processes_that_were_started(tmp_path):
    temporary, kept = tmp_path / "tmp", tmp_path / "runs"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINS_TOGETHER, str(kept)],
        stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | {"TMPDIR": str(temporary)},
    )  # fmt: skip
    pids = [process.pid, *(int(process.stdout.readline()) for _ in range(2))]

    def left():
        folders = [folder for folder in (temporary, kept, Path("/dev/shm")) if folder.exists()]
        names = [path.name for folder in folders for path in folder.iterdir()]
        return {name for name in names if (number := re.search(r"\d+", name)) and int(number[0]) in pids}

    assert {re.split(r"\d", name)[0] for name in left()} >= {"joblib_memmapping_folder_", "cifarnb-", ".here-"}
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    process.stdout.close()
    assert not left()


TRAINS_TOGETHER = """
import os, signal, sys, time
from pathlib import Path
import torch
from cifarnb import experiment
from cifarnb.cli import _stop_at_once
from cifarnb.config import Config
from cifarnb.data import Dataset
from cifarnb.report import execution

def wait(*_):
    print(os.getpid(), flush=True)
    time.sleep(120)

def train(*_, **__):
    configs = [Config(model="simple_cnn", device="cpu", seed=seed) for seed in range(2)]
    experiment.train_together(configs, dataset, sys.argv[1], jobs=2)

images, labels = torch.zeros(1000, 32, 32, 3, dtype=torch.uint8), torch.zeros(1000, dtype=torch.int64)
dataset = Dataset(images, labels, images, labels, (), source="", canonical=False, fingerprint="")
experiment._train_there, execution.papermill.execute_notebook = wait, train
signal.signal(signal.SIGINT, signal.SIG_DFL)  # whatever the tests run under
_stop_at_once("go on", Path(sys.argv[1]))
execution._run(Path("source"), Path("target"), {}, None)
"""


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
    assert [s["status"] for s in summary["sections"]] == ["ok"] + ["not run"] * 9
