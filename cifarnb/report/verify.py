"""Check a rendered report without training: its weights, its run records, and every number in it."""

import base64
import difflib
import html
import json
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import safetensors
import safetensors.torch

from cifarnb import data
from cifarnb.config import ConfigError
from cifarnb.data import Dataset, differing_test_images
from cifarnb.hardware import resolve_device, resolve_precision, working_on
from cifarnb.kept import read_arrays, read_values
from cifarnb.metrics import predict
from cifarnb.models import build_model, count_parameters
from cifarnb.report import execution, sections
from cifarnb.report.build import (
    finished_runs,
    headline_runs,
    make_summary,
    render_report,
    weights_name,
)
from cifarnb.report.claims import described_networks
from cifarnb.report.page import Section
from cifarnb.report.placing import finish, runs_of, waits
from cifarnb.runs import Run, RunError, data_identity, load, locked, run_name
from cifarnb.training import fit, split

# Of 10,000 predictions of the simple CNN, float32 in place of bfloat16 changes 59, and 6 from right to wrong or back;
# another seed's weights change thousands.
PREDICTIONS_TOLERANCE = 0.015  # of the test images may be given another class than recorded
ACCURACY_TOLERANCE = 0.003
FIGURE_TOLERANCE = 0.02  # mean difference of the pixels (0 to 1): other fonts, not other curves
# A repeated run on another machine rounds differently, but sees the same batches: its loss goes up and down with the
# recorded one from step to step.  Another seed's does not.
ALIKE = 1e-9  # relative: versions of SciPy differ by 1e-11 in the quantiles of intervals
CORRELATION = 0.5  # of the changes from step to step, at the least
MEAN_TOLERANCE = 0.05  # relative, of the mean over the repeated steps
WHERE = re.compile(r"\s*(data|runs_dir|jobs|train|device|precision) = ")  # parameters that say where, not what


@dataclass(frozen=True)
class Check:
    """One row of the result."""

    what: str
    ok: bool
    detail: str


def verify(
    folder: Path, data_spec: str | None = None, *, retrain_epochs: int = 0, tick: Callable[[str], object] = print
) -> Iterator[Check]:
    """Check a report's folder; yields what was checked, one by one, and ``tick`` is told what comes next.

    The data must be that of the report, where CIFAR-10 is CIFAR-10 in every known copy.  The sections are executed
    again on the report's own records, without training, and what is rendered from them is compared with the report,
    number by number.  ``retrain_epochs`` repeats so many epochs of every run and compares the losses.  Raises
    ConfigError if there is no report, DataError if the data cannot be read.
    """
    if waits(folder):
        with locked(folder / "report"):  # against the command that may be putting it there
            finish(folder)
    summary = _read_summary(folder)
    profile, stated = summary["profile"], summary["data"]
    if data_spec is None and not stated["cifar10"] and stated["source"].startswith("synthetic"):
        data_spec = "synthetic"
    dataset = data.load(data_spec or "cifar10")
    yield (check := _check_data(dataset, stated))
    if not check.ok:
        return
    with tempfile.TemporaryDirectory() as scratch:
        runs_dir = Path(scratch) / "runs"
        for name in ("runs", "weights"):  # a copy, to which nothing can be added
            if (folder / name).is_dir():
                shutil.copytree(folder / name, Path(scratch) / name)
        overrides = {"profile": profile, "train": False, "runs_dir": str(runs_dir), "data": data_spec or "cifar10"}
        tick("records of the runs")
        for name in runs_of(summary):
            try:
                load(runs_dir / name)
            except RunError as error:
                yield Check(f"record {name}", False, str(error).replace(f"{runs_dir / name}/", ""))
        found = finished_runs(profile, dataset, overrides)
        yield _check_runs_are_there(found, summary, profile)
        faults = {run.name: fault for run in found if (fault := record_fault(run, dataset))}
        yield from (Check(f"record {name}", False, fault) for name, fault in faults.items())
        yield Check("records", not faults, f"{len(found) - len(faults)} of {len(found)} agree with themselves")
        for run in headline_runs(found, summary):
            tick(f"weights of {run.name}")
            yield check_weights(run, folder / weights_name(run, summary), summary, dataset)
        tick("numbers of the report")
        yield from _check_numbers(folder, summary, dataset, overrides, found, Path(scratch))
        for run in found if retrain_epochs else ():
            tick(f"first epochs of {run.name}")
            yield check_losses(run, dataset, retrain_epochs)


def _read_summary(folder: Path) -> dict[str, Any]:
    file = folder / "summary.json"
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
        facts = summary["data"]
        assert {"cifar10", "source", "fingerprint"} <= {*facts} and {"sections", "networks", "origin"} <= {*summary}
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); verify takes the folder of a report") from None
    except (ValueError, TypeError, KeyError, AssertionError):
        raise ConfigError(f"{file}: is not the summary of a report") from None
    if summary.get("profile") not in sections.PROFILES:
        raise ConfigError(f"{file}: profile: {summary.get('profile')!r} does not exist")
    return dict(summary)


def _check_data(dataset: Dataset, stated: dict[str, Any]) -> Check:
    """Whether the report was made on this data set, or on another copy of it."""
    detail = f"fingerprint {dataset.fingerprint[:16]}…"
    if dataset.fingerprint == stated["fingerprint"]:
        return Check("data", True, detail)
    if not (dataset.is_cifar10 and stated["cifar10"]):
        return Check("data", False, f"{detail}, not the report's")
    other = len(differing_test_images(dataset.fingerprint, stated["fingerprint"]))
    return Check("data", True, f"{detail}; the report's is a copy of CIFAR-10 in which {other} test images differ")


def _check_runs_are_there(found: Sequence[Run], summary: dict[str, Any], profile: str) -> Check:
    """The report's runs are those of the profile that are there; a folder may hold more records than the report's."""
    names, stated = [run.name for run in found], runs_of(summary)
    if missing := [name for name in stated if name not in names]:
        return Check("runs", False, f"no record of {', '.join(missing)} on this data in the profile {profile}")
    if strange := [name for name in names if name not in stated]:
        return Check("runs", False, f"{', '.join(strange)}: there, and not in the report")
    return Check("runs", True, f"{len(names)} records")


def record_fault(run: Run, dataset: Dataset) -> str:
    """What in a run's record contradicts the rest of it; nothing if nothing does."""
    config, history, parts = run.config, run.history, split(dataset, run.config)
    # A run that was asked as auto may have been recorded with what that meant where it was trained.
    if run.name not in {run_name(asked, dataset.identity) for asked in (config, config.replace(precision="auto"))}:
        return "config.json is not that of the run's name"
    images, labels = len(parts["train"][1]), parts["test"][1].numpy()
    per_epoch = -(-images // config.batch_size)
    if len(history) != config.epochs and not (run.diverged and 0 < len(history) < config.epochs):
        return f"history.json has {len(history)} of {config.epochs} epochs"
    if len(run.losses) != per_epoch * len(history):
        return f"losses.npy has {len(run.losses):,} steps, not {per_epoch * len(history):,}"
    sizes = np.full(per_epoch, config.batch_size)
    sizes[-1] = images - (per_epoch - 1) * config.batch_size
    means = run.losses.reshape(-1, per_epoch).astype(np.float64) @ sizes / images
    if not np.allclose(means, history["train_loss"], rtol=1e-6, equal_nan=True):
        epoch = 1 + int(np.argmin(np.isclose(means, history["train_loss"], rtol=1e-6, equal_nan=True)))
        return f"train_loss of epoch {epoch} is not the mean of losses.npy"
    if config.tta and run.tta_accuracy is None and len(history) == config.epochs:
        return "history.json has no tta_accuracy"
    stated = {"test_accuracy": run.final_accuracy, "tta_accuracy": run.tta_accuracy}
    for (column, accuracy), file in zip(stated.items(), ("predictions.npy", "tta_predictions.npy"), strict=True):
        if accuracy is None:
            continue
        try:
            predictions = run.predictions(tta=file.startswith("tta"))
        except RunError as error:
            return f"{file} cannot be read: {_one_line(error)}"
        if predictions.shape != labels.shape:
            return f"{file} has shape {predictions.shape}, not {labels.shape}"
        if not math.isclose((predictions == labels).mean(), accuracy):
            return f"{column} {accuracy:.4f} is not that of {file}"
    if fault := _kept_fault(run):
        return fault
    made = run.provenance
    if (data_identity(made), made["train_images"], made["test_images"]) != (dataset.identity, images, len(labels)):
        return "provenance.json names other data"
    return ""


def _kept_fault(run: Run) -> str:
    """What is kept beside a run and cannot be read, or contradicts its predictions; nothing if nothing does."""
    for kind in ("landscape", "against-torch", "peak"):
        for file in sorted(run.path.glob(f"{kind}-*.json")):
            try:
                read_values(file)
            except RunError as error:
                return f"{file.name} cannot be read: {_one_line(error)}"
    recorded = run.predictions()
    for file in sorted(run.path.glob("insight-*.npz")):
        try:
            seen = read_arrays(file)["logits"][: len(recorded)].argmax(1)
        except (RunError, KeyError) as error:
            return f"{file.name} cannot be read: {_one_line(error)}"
        other = int((seen != recorded[: len(seen)]).sum())
        expected = PREDICTIONS_TOLERANCE * len(seen)
        if other > expected + 3 * math.sqrt(expected):  # of 100 images three more than 1.5 are chance
            return f"{file.name} predicts otherwise than predictions.npy for {other} of {len(seen):,} images"
    return ""


def check_weights(run: Run, file: Path, summary: dict[str, Any], dataset: Dataset) -> Check:
    """A weight file loads, has the stated parameters, and predicts what the run predicted.

    In the precision of this machine, on those test images that are the same in the run's copy of the data.
    """
    what = f"weights {file.name}"
    network = next(network for network in described_networks(summary) if network["run"] == run.name)
    model = build_model(**run.config.network())
    try:
        weights = safetensors.torch.load_file(file)
        model.load_state_dict(weights)
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        return Check(what, False, f"cannot be loaded: {_one_line(error)}")
    if (count := count_parameters(model)) != network["parameters"]:
        return Check(what, False, f"{count:,} parameters, not {network['parameters']:,}")
    images, labels = split(dataset, run.config)["test"]
    try:
        recorded = run.predictions()
    except RunError as error:
        return Check(what, False, f"cannot be compared: {_one_line(error)}")
    if recorded.shape != labels.shape:
        return Check(what, False, f"cannot be compared: predictions.npy has shape {recorded.shape}")
    device = resolve_device()
    with working_on(device):
        precision = resolve_precision(_precision(run), device)
        predictions = predict(model.to(device), images.to(device), precision).argmax(1).cpu().numpy()
    same = np.ones(len(labels), bool)
    same[[i for i in _differing(run, dataset) if i < len(labels)]] = False
    predictions, recorded, truth = predictions[same], recorded[same], labels.numpy()[same]
    right, stated, other = ((predictions == truth).sum(), (recorded == truth).sum(), (predictions != recorded).sum())
    allowed_right, allowed_other = (
        math.ceil(share * len(truth)) for share in (ACCURACY_TOLERANCE, PREDICTIONS_TOLERANCE)
    )
    return Check(
        what,
        bool(abs(right - stated) <= allowed_right and other <= allowed_other),
        f"{count:,} parameters; {right:,} of {len(truth):,} right, stated {stated:,} (± {allowed_right}); "
        f"{other} predicted otherwise (at most {allowed_other}), in {precision}",
    )


def _precision(run: Run) -> str:
    """What a run is tried again in: what it was trained in where that is float32, else what this machine has."""
    return "float32" if run.provenance["precision"] == "float32" else "auto"


def _differing(run: Run, dataset: Dataset) -> Sequence[int]:
    """The test images that are others than those of the run."""
    return differing_test_images(dataset.fingerprint, run.provenance["data"]["fingerprint"])


def _check_numbers(
    folder: Path, summary: dict[str, Any], dataset: Dataset, overrides: dict[str, Any], found: list[Run], scratch: Path
) -> Iterator[Check]:
    """Execute and render again, from the records alone, and compare."""
    ran = [s["name"] for s in summary["sections"] if s["status"] == "ok" or s["error"]]
    profile = summary["profile"]
    done = {s.name: s for s in execution.execute(ran, profile, scratch / "notebooks", overrides)}
    again = [done.get(name) or Section(name, None, "not run") for name in sections.names()]
    expected = make_summary(profile, dataset, overrides, again, found, summary["origin"], summary.get("hand_in", {}))
    expected["data"] |= {name: summary["data"][name] for name in ("source", "fingerprint")}  # as checked before
    expected["files"] = summary.get("files")  # of which pages, figures and weights are checked one by one
    # As JSON has it: tuples are lists, and a float is what its digits say.
    difference = first_difference(summary, json.loads(json.dumps(expected)))
    yield Check("summary.json", not difference, difference or "every number is that of the records")
    out = scratch / "report"
    render_report(again, expected, found, out)
    copies = {dataset.source: summary["data"]["source"]}
    for length in (len(dataset.fingerprint), 16):
        copies[dataset.fingerprint[:length]] = summary["data"]["fingerprint"][:length]
    for name in ("report.md", "report.html"):
        yield check_page(folder / name, out / name, copies)
    yield check_figures(folder, out)


def check_page(file: Path, expected: Path, copies: Mapping[str, str] | None = None) -> Check:
    """A page says what the one says that was rendered from the records.

    ``copies`` holds what names the data here → what the report, made on another copy of it, has in its place.
    """
    try:
        stated = _lines(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        return Check(file.name, False, f"cannot be read: {_one_line(error)}")
    given = _lines(expected.read_text(encoding="utf-8"))
    for here, there in (copies or {}).items():
        given = [line.replace(here, there) for line in given]
    fault = _first_different_line(stated, given)
    return Check(file.name, not fault, fault or f"{len(stated):,} lines are those that the records give")


def _lines(page: str) -> list[str]:
    """The lines of a page that a reader sees, without pictures and without parameters that say where, not what."""
    page = re.sub(r'src="data:image/png;base64,[^"]*"', "", page)
    page = html.unescape(re.sub(r"<[^>]*>", "", page)) if page.startswith("<!DOCTYPE") else page
    return [line.strip() for line in page.splitlines() if line.strip() and not WHERE.match(line)]


def _first_different_line(stated: list[str], expected: list[str]) -> str:
    for tag, i, _, j, _ in difflib.SequenceMatcher(None, stated, expected, autojunk=False).get_opcodes():
        if tag != "equal":
            here, there = (lines[at] if at < len(lines) else "the end" for lines, at in ((stated, i), (expected, j)))
            return f"says {_around(here, there)!r}, where the records give {_around(there, here)!r}"
    return ""


def _around(line: str, other: str, width: int = 60) -> str:
    """The part of a line where it begins to differ from another."""
    at = next((i for i, (a, b) in enumerate(zip(line, other, strict=False)) if a != b), min(len(line), len(other)))
    return line[max(0, at - width // 2) : at + width // 2]


def first_difference(stated: Any, expected: Any, where: str = "") -> str:
    """Say where two structures of JSON first differ, and how; nothing if they are equal, numbers up to ALIKE."""
    if isinstance(stated, dict) and isinstance(expected, dict):
        for key in dict.fromkeys([*stated, *expected]):
            missing = "nothing"
            if fault := first_difference(stated.get(key, missing), expected.get(key, missing), f"{where}.{key}"):
                return fault
        return ""
    if isinstance(stated, list) and isinstance(expected, list) and len(stated) == len(expected):
        faults = (
            first_difference(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(stated, expected, strict=True))
        )
        return next((fault for fault in faults if fault), "")
    if (
        isinstance(stated, float)
        and isinstance(expected, float)
        and math.isclose(stated, expected, rel_tol=ALIKE, abs_tol=1e-12)
    ):
        return ""
    return "" if stated == expected else f"{where.strip('.')} is {stated!r}, but the records give {expected!r}"


def check_figures(folder: Path, out: Path) -> Check:
    """Every figure is there, in both pages, and shows what the records give."""
    page = folder / "report.html"
    found = (
        re.findall(r'src="data:image/png;base64,([^"]*)"', page.read_text(encoding="utf-8")) if page.exists() else []
    )
    embedded = {base64.b64decode(image) for image in found}
    drawn = sorted((out / "figures").glob("*.png"))
    for path in drawn:
        file = folder / "figures" / path.name
        if not file.exists():
            return Check("figures", False, f"{path.name} is missing")
        try:
            stated, expected = (matplotlib.image.imread(image)[..., :3] for image in (file, path))
        except Exception as error:  # what decoders raise on a damaged file has no common base
            return Check("figures", False, f"{path.name} cannot be read: {_one_line(error)}")
        if stated.shape != expected.shape or np.abs(stated - expected).mean() > FIGURE_TOLERANCE:
            return Check("figures", False, f"{path.name} does not show what the records give")
        if file.read_bytes() not in embedded:
            return Check("figures", False, f"{path.name} is not the one in report.html")
    return Check("figures", True, f"{len(drawn)} figures show what the records give")


def check_losses(run: Run, dataset: Dataset, epochs: int) -> Check:
    """Repeat the first epochs of a run and compare the training loss of their steps."""
    config = run.config.replace(probe_every=0, keep_path=False, precision=_precision(run))
    model = build_model(seed=config.seed, **config.network())
    repeated = fit(model, dataset, config, stop_after=epochs, progress=False).losses
    recorded = run.losses[: len(repeated)]
    repeated = repeated[: len(recorded)]
    same = int((repeated == recorded).sum())
    with np.errstate(invalid="ignore"):
        together = float(np.corrcoef(np.diff(repeated), np.diff(recorded))[0, 1]) if len(recorded) > 2 else 1.0
        apart = abs(float(repeated.mean() / recorded.mean()) - 1)
    diverged = not np.isfinite(recorded).all() and not np.isfinite(repeated).all()
    return Check(
        f"losses {run.name}",
        diverged or same == len(recorded) or (together >= CORRELATION and apart <= MEAN_TOLERANCE),
        f"{same:,} of {len(recorded):,} steps bit for bit; changes from step to step correlate by {together:.3f} (at "
        f"least {CORRELATION:g}), the mean differs by {apart:.2%} (at most {MEAN_TOLERANCE:.0%})",
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
