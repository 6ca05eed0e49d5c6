"""The report as a whole, from the smoke profile."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import safetensors.torch
import torch

from cifarnb import runs
from cifarnb.config import ConfigError
from cifarnb.models import build_model, count_parameters
from cifarnb.report import build, pdf


@pytest.fixture
def summary(smoke):
    return json.loads((smoke / "summary.json").read_text())


def recorded(smoke, name):
    return runs.load(smoke.parent / "runs" / name)


def test_the_summary_has_every_network_with_the_numbers_of_its_run(smoke, summary):
    assert [n["name"] for n in summary["networks"]] == ["simple_cnn", "resnet6", "resnet9", "vgg_a", "vgg_a_bn"]
    for network in summary["networks"]:
        run = recorded(smoke, network["run"])
        assert network["parameters"] == count_parameters(build_model(network["name"], width=run.config.width))
        assert network["final_accuracy"] == {
            "mean": run.history.test_accuracy.iloc[-1], "ci95": None, "values": [run.history.test_accuracy.iloc[-1]],
        }  # fmt: skip
        assert network["best_accuracy"]["values"] == [run.history.test_accuracy.max()]
        assert network["epochs"] == len(run.history)
        assert network["seconds_per_epoch"]["values"] == [run.history.seconds.median()]
    assert [n["reported_accuracy"] for n in summary["networks"]] == [0.64, 0.7706, 0.9029, None, None]


def test_the_landscape_is_the_band_over_the_four_rates(smoke, summary):
    for network in summary["networks"][3:]:
        losses = [recorded(smoke, name).losses for name in network["landscape"]["runs"]]
        assert len(losses) == 4
        widths = sorted(max(step) - min(step) for step in zip(*losses, strict=True))
        middle = len(widths) // 2
        median = (widths[middle] + widths[~middle]) / 2
        assert network["landscape"]["median_band_width"]["mean"] == pytest.approx(median)


def test_the_page_quotes_the_numbers_of_the_runs(smoke, summary):
    page, text = (smoke / "report.html").read_text(), (smoke / "report.md").read_text()
    for network in summary["networks"]:
        number = f"{network['final_accuracy']['mean']:.2%}"
        assert number in page
        assert number in text
        assert network["run"] in page


def test_no_number_of_the_page_is_one_that_could_not_be_computed(smoke):
    told = re.sub(r"<details>.*?</details>", "", (smoke / "report.md").read_text(), flags=re.DOTALL)
    assert re.findall(r"(?<![\w.])-?(?:inf|nan|None)\b.*", told) == []


def test_the_page_names_profile_data_and_sections_in_order(smoke, summary):
    page = (smoke / "report.html").read_text()
    assert "Profile smoke" in page
    assert "not known to be CIFAR-10" in page
    assert summary["data"]["fingerprint"] in page
    titles = ["Train a Network on CIFAR-10", "1.1 Simple CNN", "简单CNN", "1.2 Residual connections"]
    titles += [
        "1.3 A deeper network",
        "1.4 Trained well",
        "1.5 One change at a time",
        "2. Batch Normalization",
        "2.3 Why batch norm helps",
        "3. Summary",
        "Provenance",
    ]
    body = page[page.index("<main") :]
    assert sorted(titles, key=body.index) == titles


def test_the_weights_beside_the_report_are_those_of_the_runs(smoke, summary):
    readme = (smoke / "weights" / "README.md").read_text()
    for network in summary["networks"]:
        placed = safetensors.torch.load_file(smoke / "weights" / f"{network['name']}.safetensors")
        own = recorded(smoke, network["run"]).weights()
        assert {*placed} == {*own}
        large = network["parameters"] > build.HALF_ABOVE  # in half the precision, to take half the room
        for name, part in placed.items():
            assert torch.equal(part, own[name].half() if large and part.is_floating_point() else own[name])
        (line,) = [line for line in readme.splitlines() if network["run"] in line]
        assert f"`{network['name']}.safetensors`" in line
        assert f"{network['parameters']:,} parameters in {'float16' if large else 'float32'}" in line
        assert f"test accuracy {network['final_accuracy']['mean']:.2%}" in line


def test_whoever_may_read_what_the_user_writes_may_read_all_of_a_report(smoke, tmp_path):
    (tmp_path / "plain").touch()
    files = [file for file in smoke.rglob("*") if file.is_file() and ".locks" not in file.parts]
    assert {file.stat().st_mode for file in files} == {(tmp_path / "plain").stat().st_mode}


def test_large_networks_weights_are_kept_in_half_the_precision(remake, smoke, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "HALF_ABOVE", 100_000)
    ok, _ = remake(tmp_path / "out", smoke.parent / "runs")
    assert ok
    kinds = {}
    for name in ("simple_cnn", "resnet6"):
        weights = safetensors.torch.load_file(tmp_path / "out" / "weights" / f"{name}.safetensors")
        kinds[name] = {part.dtype for part in weights.values() if part.is_floating_point()}
    assert kinds == {"simple_cnn": {torch.float32}, "resnet6": {torch.float16}}


def test_the_records_beside_the_report_are_those_of_the_runs(smoke, summary):
    wanted = sum(section["runs_wanted"] for section in summary["sections"])
    records = {path.name: path for path in (smoke / "runs").iterdir()}
    assert summary["runs"] == [name for name in summary["runs"] if name in records]
    assert len(summary["runs"]) == len(records)
    assert len(records) == wanted == sum(section["runs"] for section in summary["sections"])
    for name, path in records.items():
        own = recorded(smoke, name).path
        assert {file.name for file in own.iterdir()} - {file.name for file in path.iterdir()} <= {*runs.HEAVY}
        assert all(file.read_bytes() == (own / file.name).read_bytes() for file in path.iterdir())


def test_a_report_is_made_of_the_runs_that_are_there(smoke, tmp_path):
    for model in ("simple_cnn", "resnet6"):
        for path in (smoke.parent / "runs").glob(f"{model}-*"):
            shutil.copytree(path, tmp_path / "runs" / path.name)
    command = [sys.executable, "-m", "cifarnb", "report", "--profile", "smoke", "--no-train", "--jobs", "2"]
    command += ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    for section in ("01_simple_cnn", "03_deeper_residual_cnn"):
        command += ["--section", section]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {s["name"]: s["status"] for s in found["sections"] if s["status"] == "ok"} == {"01_simple_cnn": "ok"}
    (deeper,) = [s for s in found["sections"] if s["name"] == "03_deeper_residual_cnn"]
    assert (deeper["status"], deeper["runs"], deeper["runs_wanted"]) == ("not run", 0, 1)
    assert "ResNet, 9 blocks, 2 epochs" in deeper["error"]
    page = (tmp_path / "out" / "report.md").read_text()
    assert "1.3 A deeper network has 0 of 1" in page
    assert "The rest of this section did not run" in page
    assert not list((tmp_path / "runs").glob("resnet9-*"))


def test_negative_numbers_have_a_minus_sign(smoke):
    prose = re.sub(r"```.*?```|\$\$.*?\$\$|\$[^$\n]*\$", "", (smoke / "report.md").read_text(), flags=re.S)
    assert re.findall(r".*[\s(|*]−\d.*", prose)
    assert re.findall(r".*[\s(|*]-\d.*", prose) == []


def test_markdown_has_its_figures_beside_it(smoke):
    text = (smoke / "report.md").read_text()
    figures = {path.name for path in (smoke / "figures").iterdir()}
    assert len(figures) >= 12
    assert all(f"(figures/{name})" in text for name in figures)


def test_a_second_report_trains_nothing(smoke, tmp_path):
    command = [sys.executable, "-m", "cifarnb", "report", "--profile", "smoke", "--section", "01_simple_cnn"]
    command += ["--out", str(tmp_path), "--runs", str(smoke.parent / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "training" not in done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["networks"] == json.loads((smoke / "summary.json").read_text())["networks"]
    assert "Sections that did not run" in (tmp_path / "report.html").read_text()


def test_with_jobs_the_runs_are_trained_before_the_sections(smoke, tmp_path):
    command = [sys.executable, "-m", "cifarnb", "report", "--profile", "smoke", "--section", "01_simple_cnn"]
    command += ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs"), "--jobs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "seed 0: trained" in done.stderr
    assert "training" not in done.stderr  # what a section that trains says
    (made,) = (tmp_path / "runs").glob("*-*")
    assert made.name == json.loads((smoke / "summary.json").read_text())["networks"][0]["run"]


def test_a_section_that_fails_is_shown_and_the_exit_code_says_so(smoke, tmp_path):
    """In a copy of the project whose first notebook fails."""
    root = runs.project_root()
    for name in ("notebooks", "params"):
        shutil.copytree(root / name, tmp_path / name)
    path = tmp_path / "notebooks" / "01_simple_cnn.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].source = "raise RuntimeError('the dog ate it')"
    nbformat.write(notebook, path)
    command = [sys.executable, "-m", "cifarnb", "report", "--profile", "smoke", "--runs", str(smoke.parent / "runs")]
    command += ["--section", "01_simple_cnn"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ, check=False)
    assert done.returncode == 1
    page = (tmp_path / "reports" / "smoke" / "report.html").read_text()
    assert "RuntimeError: the dog ate it" in page
    assert "Sections that failed" in page
    assert "layers-simple_cnn" in page  # what came before the failure is there


def test_numbers_that_json_does_not_have_become_null():
    assert build._finite({"a": [float("nan"), 1.5, {"b": float("inf")}]}) == {"a": [None, 1.5, {"b": None}]}


def test_runs_within_the_project_are_named_relative_to_it(tmp_path, monkeypatch):
    seen = []

    def execute(wanted, profile, out, overrides, **_):
        seen.append(overrides["runs_dir"])
        return []

    monkeypatch.setattr(build.execution, "execute", execute)
    for folder in (runs.project_root() / "reports" / "there" / "runs", tmp_path / "runs"):
        assert build.build_report("smoke", out=tmp_path / "out", runs_dir=folder, train=False, say=lambda _: None)
    assert seen == [str(Path("reports/there/runs")), str((tmp_path / "runs").resolve())]


@pytest.mark.parametrize(("options", "trained"), [({"train": False}, True), ({}, False), ({"only": ["00_data"]}, True)])
def test_sections_know_whether_any_of_them_has_to_train(options, trained, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(build.execution, "execute", lambda *_, trained, **__: seen.append(trained) or [])
    monkeypatch.setattr(build, "announcement", lambda *_: "")
    build.build_report("smoke", out=tmp_path / "out", runs_dir=tmp_path / "runs", say=lambda _: None, **options)
    assert seen == [trained]


def tree(folder):
    """All files of a folder with their content."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def there(smoke, tmp_path):
    """A copy of the smoke report in a folder that also has what is not the report's."""
    out = shutil.copytree(smoke, tmp_path / "report")
    (out / "figures" / "mine.png").write_bytes(b"mine")
    (out / "runs" / ".DS_Store").write_bytes(b"")
    (out / "runs" / "vgg_a-0123456789ab.part").mkdir()
    (out / "runs" / "vgg_a-0123456789ab.part" / "checkpoint.pt").write_bytes(b"hours")
    return out


def without_dates(content):
    return re.sub(rb'("finished": "[^"]*")', b"", content)


def test_a_report_of_its_own_records_is_the_same_report(remake, there):
    before = tree(there)
    ok, said = remake(there, there / "runs")
    assert ok
    assert str(there / "report.html") in said[-1]
    after = tree(there)
    assert after.keys() == before.keys()
    changed = [name for name in after if without_dates(after[name]) != without_dates(before[name])]
    assert changed == []


def test_a_commit_made_while_a_report_is_made_is_not_what_made_it(remake, there, monkeypatch):
    execute, commits = build.execution.execute, ["before"]

    def commit_meanwhile(*arguments, **options):
        yield from execute(*arguments, **options)
        commits.append("after")

    monkeypatch.setattr(build.execution, "execute", commit_meanwhile)
    origin = build.describe_origin()
    monkeypatch.setattr(build, "describe_origin", lambda: origin | {"git_commit": commits[-1]})
    remake(there, there / "runs")
    assert commits == ["before", "after"]
    assert json.loads((there / "summary.json").read_text(encoding="utf-8"))["origin"]["git_commit"] == "before"


def test_a_report_with_fewer_runs_leaves_the_one_that_is_there_as_it_is(remake, there, smoke, tmp_path):
    (tmp_path / "runs").mkdir()
    missing = json.loads((there / "summary.json").read_text())["runs"]
    for name in missing[3:]:
        shutil.copytree(smoke.parent / "runs" / name, tmp_path / "runs" / name)
    before = tree(there)
    ok, (line,) = remake(there, tmp_path / "runs")
    assert not ok
    assert line.startswith(f"{there}: left as it is")
    assert all(name in line for name in missing[:3])
    assert "--out" in line
    assert "--replace" in line
    assert tree(there) == before
    ok, _ = remake(there, tmp_path / "runs", replace=True)
    assert ok
    after = tree(there)
    kept = [name for name in before if name.startswith(("runs/", "weights/")) or name == "figures/mine.png"]
    assert all(name in after for name in kept)
    assert json.loads(after["summary.json"])["runs"] == missing[3:]


def test_a_report_of_another_profile_is_not_replaced_unasked(remake, there):
    summary = json.loads((there / "summary.json").read_text())
    (there / "summary.json").write_text(json.dumps(summary | {"profile": "full"}))
    before = tree(there)
    with pytest.raises(ConfigError, match=r"report: is a report of the profile full; choose another folder with --out"):
        remake(there, there / "runs")
    assert tree(there) == before
    ok, _ = remake(there, there / "runs", replace=True)
    assert ok
    assert json.loads((there / "summary.json").read_text())["profile"] == "smoke"


def test_other_data_finds_no_run_and_leaves_the_report_as_it_is(remake, there, tmp_path):
    images, labels = np.zeros((20, 32, 32, 3), np.uint8), np.arange(20, dtype=np.uint8) % 10
    np.savez(tmp_path / "other.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    before = tree(there)
    ok, (line,) = remake(there, there / "runs", data=str(tmp_path / "other.npz"))
    assert (ok, "only 0 were found" in line) == (False, True)
    assert tree(there) == before


@pytest.mark.parametrize(
    ("holds", "refusal"), [("runs", "neither new, nor empty, nor a report"), ("notebooks params", "holds the sources")]
)
def test_a_folder_that_is_no_place_for_a_report_is_refused_before_anything_is_touched(
    remake, tmp_path, smoke, monkeypatch, holds, refusal
):
    """With ``notebooks`` and ``params`` it is a project of its own: others write in this one meanwhile."""
    out = tmp_path / "theirs"
    for name in holds.split():
        (out / name).mkdir(parents=True)
        (out / name / "events.tfevents").write_bytes(b"weeks")
    monkeypatch.chdir(out)
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match=refusal):
        remake(out, smoke.parent / "runs")
    assert tree(tmp_path) == before


def test_on_a_machine_without_bfloat16_the_runs_are_found(remake, there, monkeypatch):
    """As on one with it, since they were asked as auto."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    before = json.loads((there / "summary.json").read_text())
    ok, _ = remake(there, there / "runs")
    assert ok
    after = json.loads((there / "summary.json").read_text())
    assert after["runs"] == before["runs"]
    assert after["networks"] == before["networks"]


def test_whether_a_folder_can_be_written_to_is_tried_without_a_trace(tmp_path):
    (tmp_path / "writable").write_bytes(b"mine")
    build._check_writable(tmp_path)
    assert tree(tmp_path) == {"writable": b"mine"}


def test_the_pdf_belongs_to_the_report_and_a_report_without_one_takes_it_away(remake, there, tmp_path, monkeypatch):
    printer = tmp_path / "chromium"
    printer.write_text('#!/bin/sh\nfor a; do case "$a" in --print-to-pdf=*) echo "%PDF" > "${a#*=}";; esac; done\n')
    printer.chmod(0o755)
    monkeypatch.setattr(pdf, "BROWSERS", (str(printer),))
    ok, said = remake(there, there / "runs", pdf=True)
    assert ok
    assert said[-1].endswith("report.pdf")
    assert (there / "report.pdf").read_text() == "%PDF\n"
    assert "report.pdf" in json.loads((there / "summary.json").read_text())["files"]
    printer.unlink()
    ok, said = remake(there, there / "runs", pdf=True)
    assert not ok
    assert re.fullmatch(r".*report\.pdf is not made: Chromium is not found .*install.*", said[-1])
    assert (there / "report.html").exists()
    assert not (there / "report.pdf").exists()


@pytest.mark.parametrize("link", ["javascript:alert(1)", "example.org", "https://a b", "https://a>"])
def test_a_link_to_the_code_is_an_address(link, tmp_path):
    with pytest.raises(ConfigError, match="code_link: expected is an address"):
        build.build_report("smoke", out=tmp_path, hand_in={"code_link": link})
