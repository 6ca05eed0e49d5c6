"""What can go wrong ends in one line that says what and where, and loses nothing that was computed."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import safetensors.torch
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cifarnb import experiment, kept, runs, training
from cifarnb.config import Config, ConfigError
from cifarnb.models import build_model
from cifarnb.report import execution, sections
from cifarnb.runs import RunError
from cifarnb.training import fit

ROOT = Path(__file__).parents[1]
CONFIG = Config(model="simple_cnn", epochs=3, batch_size=64)


@pytest.fixture
def every_epoch(monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", float("inf"))


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(("module", "writes"), [(runs.np, "save"), (runs, "write_tensors")])
def test_a_full_disk_while_a_run_is_saved_keeps_the_last_checkpoint(
    tiny_dataset, tmp_path, monkeypatch, every_epoch, module, writes
):
    with monkeypatch.context() as full:
        full.setattr(module, writes, full_disk)
        with pytest.raises(RunError, match=r"simple_cnn-.*: cannot be saved \(No space left on device\)") as told:
            experiment.run(CONFIG, tiny_dataset, tmp_path)
    assert "\n" not in str(told.value)
    assert experiment.find(CONFIG, tiny_dataset, tmp_path) is None
    (kept,) = tmp_path.glob("*.part/checkpoint.pt")
    assert len(torch.load(kept, weights_only=True)["history"]) == 2
    resumed = experiment.run(CONFIG, tiny_dataset, tmp_path)
    whole = experiment.run(CONFIG, tiny_dataset, tmp_path / "other")
    assert resumed.losses.tolist() == whole.losses.tolist()
    assert not list(resumed.path.glob("checkpoint*"))


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_training(
    tiny_dataset, tmp_path, monkeypatch, capsys, every_epoch
):
    monkeypatch.setattr(training.torch, "save", full_disk)
    assert len(experiment.run(CONFIG, tiny_dataset, tmp_path).history) == 3
    assert (
        "checkpoint.pt: cannot be saved ([Errno 28] No space left on device); training goes on"
        in capsys.readouterr().err
    )


FILES = ["config.json", "history.json", "losses.npy", "provenance.json", "weights.safetensors"]


@pytest.fixture(scope="module")
def made(tiny_dataset, tmp_path_factory):
    return experiment.run(CONFIG, tiny_dataset, tmp_path_factory.mktemp("made"))


DAMAGES = [(file, damage) for file in FILES for damage in ("missing", "cut off", "empty", "garbage")]
RECORD = ("weights.safetensors", "missing")  # which is how a report keeps a run


@pytest.mark.parametrize(("file", "damage"), [each for each in DAMAGES if each != RECORD])
def test_a_damaged_run_is_set_aside_and_trained_again(made, tiny_dataset, tmp_path, capsys, file, damage):
    config = CONFIG.replace(epochs=1)
    first = experiment.run(config, tiny_dataset, tmp_path)
    broken = first.path / file
    whole = broken.read_bytes()
    match damage:
        case "missing":
            broken.unlink()
        case "cut off":
            broken.write_bytes(whole[: len(whole) * 2 // 3])
        case "empty":
            broken.write_bytes(b"")
        case "garbage":
            broken.write_bytes(b"PK\x03\x04" + bytes(range(256)) * 8)  # as if it were an archive
    assert experiment.find(config, tiny_dataset, tmp_path) is None
    capsys.readouterr()
    again = experiment.run(config, tiny_dataset, tmp_path)
    assert again.losses.tolist() == first.losses.tolist()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "set aside" in line]
    assert line.startswith(str(broken))
    assert line.endswith(f"set aside as {first.name}.damaged-1, trained again")
    assert (tmp_path / f"{first.name}.damaged-1").is_dir()


@pytest.mark.parametrize("name", ["history.json", "weights.safetensors"])
@pytest.mark.parametrize("fault", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_a_run_that_cannot_be_read_now_keeps_its_name_and_is_not_trained_again(
    made, tiny_dataset, tmp_path, monkeypatch, fault, name
):
    shutil.copytree(made.path, tmp_path / made.name)
    own = Path.open

    def opened(path, *given, **options):
        if path.name == name:
            raise OSError(fault, os.strerror(fault))
        return own(path, *given, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", opened)
        with pytest.raises(RunError, match=rf"{re.escape(name)}: cannot be read \({os.strerror(fault)}\)"):
            experiment.run(CONFIG, tiny_dataset, tmp_path)
    assert [path.name for path in tmp_path.glob("simple_cnn*")] == [made.name]
    assert experiment.run(CONFIG, tiny_dataset, tmp_path).losses.tolist() == made.losses.tolist()


def test_a_run_of_another_version_keeps_its_name_and_is_not_trained_again(made, tiny_dataset, tmp_path, copy_records):
    """Its config has a field of which this one knows nothing, at its default: so it has the same name."""
    copy_records(made, tmp_path)
    file = tmp_path / made.name / "config.json"
    file.write_text(file.read_text().replace("{", '{"depth": 1,', 1))
    with pytest.raises(RunError, match=r"config\.json: cannot be read \(depth: unknown"):
        experiment.run(CONFIG, tiny_dataset, tmp_path)
    assert [path.name for path in tmp_path.glob("simple_cnn*")] == [made.name]


def test_losses_around_weights_that_cannot_be_kept_are_given(made, tiny_dataset, monkeypatch):
    monkeypatch.setattr(kept, "atomic_write", full_disk)
    axis = np.array([0.0])
    found = experiment.losses_near(made, tiny_dataset, [0], [axis], 8)
    assert found.shape == (1,)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("change", [lambda state: state.pop("wall"), lambda state: state["model"].popitem()])
def test_a_checkpoint_of_another_layout_is_set_aside_and_leaves_no_trace(
    tiny_dataset, tmp_path, capsys, every_epoch, change
):
    expected = fit(build_model("simple_cnn"), tiny_dataset, CONFIG, progress=False)
    checkpoint = tmp_path / "checkpoint.pt"
    fit(build_model("simple_cnn"), tiny_dataset, CONFIG, checkpoint, stop_after=1, progress=False)
    state = torch.load(checkpoint, weights_only=True)
    change(state)
    torch.save(state, checkpoint)
    found = fit(build_model("simple_cnn"), tiny_dataset, CONFIG, checkpoint, progress=False)
    assert found.losses.tolist() == expected.losses.tolist()
    (line,) = capsys.readouterr().err.splitlines()
    assert "checkpoint.pt.damaged-1: a damaged checkpoint (it has another layout); training begins anew" in line


def test_a_record_without_weights_is_shown_and_not_trained_again(made, tiny_dataset, tmp_path, capsys, copy_records):
    """Such records are all that a report has of most of its runs."""
    copy_records(made, tmp_path)
    found = experiment.run(CONFIG, tiny_dataset, tmp_path)
    assert found.losses.tolist() == made.losses.tolist()
    assert [path.name for path in tmp_path.iterdir()] == [made.name]
    with pytest.raises(RunError, match=r"weights\.safetensors: cannot be loaded .*missing.* to train it anew, move"):
        experiment.trained_model(found)


def test_a_damaged_checkpoint_is_set_aside_and_training_begins_anew(made, tiny_dataset, tmp_path, capsys):
    part = runs.unfinished(tmp_path / made.name)
    part.mkdir()
    (part / "checkpoint.pt").write_bytes(b"PK\x03\x04 and no more")
    run = experiment.run(CONFIG, tiny_dataset, tmp_path)
    assert run.losses.tolist() == made.losses.tolist()
    assert "checkpoint.pt.damaged-1: a damaged checkpoint (" in capsys.readouterr().err
    assert not list(run.path.glob("checkpoint*"))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), r"checkpoint\.pt: cannot be read \(Permission denied\)"),
        (torch.OutOfMemoryError("CUDA out of memory."), "out of memory on"),  # of a GPU that others use, too
    ],
)
def test_a_checkpoint_that_cannot_be_read_now_is_kept(tiny_dataset, tmp_path, monkeypatch, every_epoch, fault, words):
    with monkeypatch.context() as full, pytest.raises(RunError):
        full.setattr(runs.np, "save", full_disk)
        experiment.run(CONFIG, tiny_dataset, tmp_path)
    (checkpoint,) = tmp_path.glob("*.part/checkpoint.pt")
    before = checkpoint.read_bytes()

    def load(*_, **__):
        raise fault

    monkeypatch.setattr(training.torch, "load", load)
    with pytest.raises(RunError, match=words):
        experiment.run(CONFIG, tiny_dataset, tmp_path)
    assert checkpoint.read_bytes() == before


def test_weights_that_cannot_be_loaded_are_named(made, tmp_path, copy_records):
    copy_records(made, tmp_path)
    with pytest.raises(RunError, match=r"weights\.safetensors: cannot be loaded"):
        runs.load(tmp_path / made.name).weights()


def test_a_report_has_the_weights_of_its_headline_runs(made, tmp_path, copy_records):
    copy_records(made, tmp_path / "runs")
    placed = tmp_path / "weights" / "simple_cnn.safetensors"
    placed.parent.mkdir()
    safetensors.torch.save_file(made.weights(), placed, metadata={"run": made.name})
    recorded = runs.load(tmp_path / "runs" / made.name)
    assert all(torch.equal(part, made.weights()[name]) for name, part in recorded.weights().items())
    safetensors.torch.save_file(made.weights(), placed, metadata={"run": "simple_cnn-000000000000"})
    with pytest.raises(RunError, match=r"weights\.safetensors: cannot be loaded"):
        recorded.weights()


def test_out_of_memory_names_the_run_and_a_smaller_batch(tiny_dataset, tmp_path, monkeypatch):
    def fit(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(experiment, "fit", fit)
    with pytest.raises(RunError, match=r"^Simple CNN, 3 epochs, .* seed 0: out of memory on .*; try batch_size 32$"):
        experiment.run(CONFIG, tiny_dataset, tmp_path)


def test_a_run_that_diverges_is_recorded_and_the_section_goes_on(tmp_path):
    given = {"lr": 1e9, "epochs": 2, "train_size": 512, "test_size": 64, "runs_dir": str(tmp_path), "data": "synthetic"}
    (section,) = execution.execute(["01_simple_cnn"], "smoke", tmp_path / "out", given)
    assert (section.status, section.error) == ("ok", None)
    (path,) = tmp_path.glob("simple_cnn-*")
    run = runs.load(path)
    assert run.diverged
    assert not np.isfinite(run.history["train_loss"].iloc[-1])


def report_command(folder, profile, *names):
    """The command that makes a report of some sections, and its environment."""
    command = [sys.executable, "-m", "cifarnb", "report", "--profile", profile, "--data", "synthetic"]
    command += ["--out", str(folder / "out"), "--runs", str(folder / "runs")]
    for name in names:
        command += ["--section", name]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def test_two_reports_at_once_share_the_runs(tmp_path):
    both = [report_command(tmp_path, "smoke", "01_simple_cnn") for _ in range(2)]
    said = [process.communicate(timeout=400) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("training 3 epochs" in err for _, err in said) == 1
    assert sum("another process is at it; waiting" in err for _, err in said) == 1


def test_ctrl_c_stops_at_once_and_keeps_the_epochs(tmp_path):
    process = report_command(tmp_path, "quick", "01_simple_cnn")
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("runs/*.part/checkpoint.pt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    pressed = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - pressed < 2
    assert process.returncode == 130
    assert err.splitlines()[-1] == ("cifarnb: stopped; finished epochs are kept: the same command goes on from there")
    gone, alive = psutil.wait_procs(children, timeout=2)
    assert not alive, (gone, alive)
    assert list(tmp_path.glob("runs/*.part/checkpoint.pt"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_runs_that_cannot_be_written_is_told_at_once(tmp_path):
    (tmp_path / "runs").mkdir(mode=0o500)
    process = report_command(tmp_path, "smoke", "00_data")
    _, err = process.communicate(timeout=100)
    assert process.returncode == 2
    assert f"{tmp_path / 'runs'}: cannot be written to (Permission denied)" in err


# --- a parameters file with any single key or value changed

PARAMETER_FILES = sorted((ROOT / "params").glob("*/*.yaml"))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
)
DECLARED = {file.stem: sections.declared(file.stem) for file in PARAMETER_FILES}
KINDS = {"bool": bool, "int": int, "float": float, "str": str, "list[int]": int, "list[float]": float}


def check_what_is_read(file, section):
    """Refused in one line that names the file, or read as what the notebook declares, from which runs can be made."""
    try:
        found = sections.read_parameters(file, DECLARED[section])
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1
        assert str(file) in str(error)
        return None
    for name, value in found.items():
        kind = DECLARED[section][name].type
        for item in value if kind.startswith("list") else [value]:
            assert type(item) is KINDS[kind]
    merged = {name: parameter.default for name, parameter in DECLARED[section].items()} | found
    for seed in merged.get("seeds", []):
        Config.from_parameters(merged, model="resnet6", seed=seed)
    return found


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_parameters_file_with_one_key_or_value_changed_is_refused_or_meant(tmp_path, data):
    file = data.draw(st.sampled_from(PARAMETER_FILES), label="file")
    given = yaml.safe_load(file.read_text())
    key = data.draw(st.sampled_from(sorted(given)), label="key")
    changed = tmp_path / file.name
    if data.draw(st.booleans(), label="the key"):
        other = data.draw(st.text(min_size=1, max_size=12) | SCALARS, label="new key")
        changed.write_text(yaml.safe_dump({other if k == key else k: v for k, v in given.items()}, allow_unicode=True))
        found = check_what_is_read(changed, file.stem)
        assert found is None or other in DECLARED[file.stem]
    else:
        given[key] = data.draw(VALUES, label="new value")
        changed.write_text(yaml.safe_dump(given, allow_unicode=True))
        check_what_is_read(changed, file.stem)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PARAMETER_FILES), st.data())
def test_a_parameters_file_with_any_character_changed_is_refused_or_meant(tmp_path, file, data):
    text = file.read_text()
    at = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.characters(codec="utf-8") | st.sampled_from("\t\n:[]{}&*!|>'\"%@`#-0"))
    changed = tmp_path / file.name
    changed.write_text(text[:at] + character + text[at + 1 :])
    check_what_is_read(changed, file.stem)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60))
@example(b"\xff\xfe")
@example(b"data: 2001-99-99")
@example(b"[" * 3000)
@example(b"data: &a [*a]")
@example(b"~")
def test_any_bytes_in_place_of_a_parameters_file_are_refused_or_meant(tmp_path, content):
    changed = tmp_path / "01_simple_cnn.yaml"
    changed.write_bytes(content)
    check_what_is_read(changed, "01_simple_cnn")
