"""Two runs, or two reports, side by side: every number of both, and whether their difference could be chance."""

import functools
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from cifarnb import runs
from cifarnb.config import ConfigError
from cifarnb.data import Dataset
from cifarnb.models import LABELS, build_model, count_parameters
from cifarnb.report import display, figures, front, tables
from cifarnb.report.page import Section, render
from cifarnb.report.significance import (
    LEVEL,
    Interval,
    mcnemar,
    mean_and_interval,
    sampling_difference,
    seed_difference,
    signed,
)
from cifarnb.runs import Run, RunError


@functools.cache
def _parameters(**network: Any) -> int:
    return count_parameters(build_model(**network))


IDENTICAL, DIFFERENT, SEED_NOISE, NOT_JUDGED = "identical", "different", "within seed noise", "–"
FINAL, BEST = "test accuracy, last epoch", "test accuracy, best epoch"
EPOCHS, PARAMETERS, SECONDS = "epochs", "parameters", "seconds per epoch"
PREDICTIONS = "predictions that differ"
MEASURES: dict[str, Callable[[Run], float]] = {  # of a run
    FINAL: lambda run: run.final_accuracy,
    BEST: lambda run: run.best_accuracy,
    "training loss, last epoch": lambda run: float(run.history["train_loss"].iloc[-1]),
    "test loss, last epoch": lambda run: float(run.history["test_loss"].iloc[-1]),
    EPOCHS: lambda run: len(run.history),
    PARAMETERS: lambda run: _parameters(**run.config.network()),
    SECONDS: lambda run: run.seconds_per_epoch,
}
NOTE = "Of differences that are mere chance, these tests call one in twenty a difference: in many rows, expect some."
_COLUMNS = {  # of the history, from which a metric is
    FINAL: "test_accuracy",
    BEST: "test_accuracy",
    "training loss, last epoch": "train_loss",
    "test loss, last epoch": "test_loss",
}
_COURSE = ["train_loss", "test_loss", "test_accuracy"]  # columns of the history that do not depend on the machine


@dataclass(frozen=True)
class Pair:
    """The runs of one network on both sides, which differ in the seed; the first ones are the headline's."""

    network: str  # its label; of two runs of different networks both
    a: Sequence[Run]
    b: Sequence[Run]


@dataclass(frozen=True)
class Row:
    """One metric of one network on both sides."""

    network: str
    metric: str  # a key of MEASURES, or PREDICTIONS
    a: Sequence[float]  # a value a seed; none for PREDICTIONS, which are counted between the two
    b: Sequence[float]
    difference: float  # the mean of b minus that of a, or the count; NaN if a value is not finite
    verdict: str
    test: str  # what decided, in words


@dataclass(frozen=True)
class Difference:
    """A parameter, a version or the like in which runs of the two sides differ."""

    what: str
    a: str  # over several seeds, every value once
    b: str
    networks: Sequence[str]


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` found."""

    a: Path
    b: Path
    pairs: Sequence[Pair]
    rows: Sequence[Row]
    parameters: Sequence[Difference]  # of the configs
    versions: Sequence[Difference]  # of software, precision, device, commit and data
    only_a: Sequence[str]  # labels of the networks that ran on one side alone
    only_b: Sequence[str]

    @property
    def names(self) -> tuple[str, str]:
        """What the two sides are called: the names of their folders, or their paths where those are the same."""
        a, b = self.a.resolve().name, self.b.resolve().name
        return (f"A: {a}", f"B: {b}") if a != b else (f"A: {self.a}", f"B: {self.b}")


def compare(a: Path, b: Path, dataset: Dataset | None = None) -> Comparison:
    """Compare two run directories or two report directories; needs neither weights nor data.

    With the ``dataset`` of both, single runs are compared image by image.  Raises ConfigError if a folder is neither a
    run nor a report, or damaged, if there is nothing to compare, or if the data set is another.
    """
    (kind, ran_a), (other_kind, ran_b) = _read(a), _read(b)
    if kind != other_kind:
        raise ConfigError(f"{a} is a {kind}, but {b} is a {other_kind}: two of a kind can be compared")
    if kind == "run":
        ((model_a, same_a), (model_b, same_b)) = (*ran_a.items(), *ran_b.items())
        pairs = [Pair(" / ".join(LABELS[name] for name in dict.fromkeys((model_a, model_b))), same_a, same_b)]
        only_a, only_b = [], []
    else:
        pairs = [Pair(_label(name), same, ran_b[name]) for name, same in ran_a.items() if name in ran_b]
        only_a = [_label(name) for name in ran_a if name not in ran_b]
        only_b = [_label(name) for name in ran_b if name not in ran_a]
    if not pairs:
        raise ConfigError(f"{a} and {b}: have no network in common that ran")
    rows = [row for pair in pairs for row in _rows(pair, dataset)]
    return Comparison(
        a, b, pairs, rows, _differences(pairs, _config_facts), _differences(pairs, _origin_facts), only_a, only_b
    )


# --------------------------------------------------------------------------- reading


def _read(folder: Path) -> tuple[str, dict[str, list[Run]]]:
    """What a folder is, "run" or "report", and its runs by the name of the network."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: {'is not a folder' if folder.exists() else 'does not exist'}")
    file = folder / "summary.json"
    if not file.exists():
        if not (folder / "config.json").exists():
            raise ConfigError(f"{folder}: is neither a run nor a report (no config.json, no summary.json)")
        run = _load(folder)
        return "run", {run.config.model: [run]}
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
        named = [(n["name"], n["runs"]) for n in summary["networks"]]
        named += [(f"{n['label']}, trained well", n["runs"]) for n in summary.get("well", [])]
        named += [(f"Simple CNN: {e['name']}", e["runs"]) for e in summary.get("changes", {}).get("entries", [])]
        paths = {what: [folder / "runs" / name for name in of] for what, of in named if of}
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError):
        raise ConfigError(f"{file}: is not the summary of a report") from None
    return "report", {name: [_load(path) for path in same] for name, same in paths.items()}


def _load(path: Path) -> Run:
    try:
        run = runs.load(path)
    except RunError as error:
        raise ConfigError(str(error)) from None
    columns, made = run.history.select_dtypes("number"), run.provenance
    if missing := [name for name in (*_COURSE, "seconds") if name not in columns]:
        raise ConfigError(f"{path / 'history.json'}: has no numbers {', '.join(missing)}")
    if not columns["test_accuracy"].dropna().between(0, 1).all():
        raise ConfigError(f"{path / 'history.json'}: has a test_accuracy that is not between 0 and 1")
    images, facts = made.get("test_images"), [made.get(key, {}) for key in ("data", "versions")]
    if not isinstance(images, int) or images < 1 or not all(isinstance(fact, dict) for fact in facts):
        raise ConfigError(f"{path / 'provenance.json'}: is not that of a run (test_images, data or versions)")
    return run


def _predictions(run: Run) -> np.ndarray:
    """The class of every test image, (N,) uint8.  Raises ConfigError if the file is missing or damaged."""
    file = run.path / "predictions.npy"
    try:
        found = run.predictions()
    except RunError as error:
        raise ConfigError(str(error)) from None
    if found.shape != (run.provenance["test_images"],):
        raise ConfigError(f"{file}: has shape {found.shape} for {run.provenance['test_images']:,} test images")
    return found


def _label(name: str) -> str:
    return LABELS.get(name, name)


# --------------------------------------------------------------------------- verdicts


def _rows(pair: Pair, dataset: Dataset | None) -> Iterator[Row]:
    mcnemars, predicted = None, None
    first_a, first_b = pair.a[0], pair.b[0]
    if _data(first_a) == _data(first_b) and _data(first_a)[0]:
        predicted = (_predictions(first_a), _predictions(first_b))
        if dataset:
            if dataset.identity != _data(first_a)[0]:
                raise ConfigError(f"{dataset.source}: is not the data of {first_a.path} and {first_b.path}")
            labels = dataset.test_labels[: len(predicted[0])].numpy()
            mcnemars = mcnemar(predicted[0] == labels, predicted[1] == labels)
    for metric, measure in MEASURES.items():
        a, b = ([measure(run) for run in same] for same in (pair.a, pair.b))
        finite = all(map(math.isfinite, (*a, *b)))
        difference = statistics.fmean(b) - statistics.fmean(a) if finite else math.nan
        if metric == SECONDS and predicted:
            yield _predictions_row(pair.network, *predicted, mcnemars)
        yield Row(pair.network, metric, a, b, difference, *_judge(metric, pair, a, b, mcnemars))


def _predictions_row(network: str, a: np.ndarray, b: np.ndarray, p: float | None) -> Row:
    count = int((a != b).sum())
    if not count:
        verdict, test = IDENTICAL, f"all {len(a):,} agree"
    elif p is None:
        verdict, test = NOT_JUDGED, f"of {len(a):,}; not tested without the data"
    else:
        verdict, test = _judge_mcnemar(p, len(a))
    return Row(network, PREDICTIONS, [], [], count, verdict, test)


def _judge(metric: str, pair: Pair, a: Sequence[float], b: Sequence[float], mcnemars: float | None) -> tuple[str, str]:
    """The verdict on a metric with its values a seed, and what decided; ``mcnemars`` is p of the headline's runs."""
    if metric == SECONDS:
        return NOT_JUDGED, "not judged: a matter of the machine"
    if _agree(metric, pair, a, b):
        return IDENTICAL, "all seeds agree exactly"
    if metric in (EPOCHS, PARAMETERS):
        return DIFFERENT, "no spread: a count"
    if not all(map(math.isfinite, (*a, *b))):
        return DIFFERENT, "no spread: diverged"
    if min(len(a), len(b)) > 1:
        interval = seed_difference(b, a)
        verdict = SEED_NOISE if interval[0] <= 0 <= interval[1] else DIFFERENT
        return verdict, f"Welch's 95 % interval over the seeds: {_interval(metric, interval)}"
    if metric not in (FINAL, BEST):
        return DIFFERENT, "no spread: one seed"
    images = (_data(pair.b[0])[1], _data(pair.a[0])[1])
    if (
        metric == FINAL and mcnemars is not None and len(a) == len(b) == 1
    ):  # the predictions are those after the last epoch
        return _judge_mcnemar(mcnemars, images[0])
    interval = sampling_difference(statistics.fmean(b), statistics.fmean(a), images)
    verdict = _sampling_noise(min(images)) if interval[0] <= 0 <= interval[1] else DIFFERENT
    return verdict, f"Newcombe's 95 % interval for single runs: {_interval(metric, interval)}"


def _judge_mcnemar(p: float, images: int) -> tuple[str, str]:
    verdict = _sampling_noise(images) if p >= 1 - LEVEL else DIFFERENT
    return verdict, f"McNemar's exact test on {images:,} images: p = {p:.2g}"


def _sampling_noise(images: int) -> str:
    return f"within the sampling noise of {images:,} test images"


def _agree(metric: str, pair: Pair, a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether all seeds agree in the metric at every epoch: equal last values may be chance.

    What is not finite agrees only with that of a run that came to it the same way.
    """
    if metric not in _COLUMNS:
        return len({*a, *b}) == 1
    column = _COLUMNS[metric]
    return len(a) == len(b) and all(
        np.array_equal(x.history[column], y.history[column]) or _same_course(x, y)
        for x, y in zip(pair.a, pair.b, strict=True)
    )


def _same_course(a: Run, b: Run) -> bool:
    """Whether the loss of every step and all that was measured after every epoch are the same."""
    courses = [(run.losses, run.history[_COURSE].to_numpy(float)) for run in (a, b)]
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(*courses, strict=True))


def _data(run: Run) -> tuple[str | None, int]:
    """What data it was, None if that is not known, and the number of test images."""
    return runs.data_identity(run.provenance), run.provenance["test_images"]


# --------------------------------------------------------------------------- what else differs


def _config_facts(run: Run) -> dict[str, str]:
    return {name: str(value) for name, value in run.config.computed().items() if name != "precision"}


def _origin_facts(run: Run) -> dict[str, str]:
    made = run.provenance
    fingerprint = made.get("data", {}).get("fingerprint")
    return {
        **{f"version of {name}": str(version) for name, version in made.get("versions", {}).items()},
        "precision": str(made.get("precision")),
        "device": run.device,
        "commit": front.commit({"git_commit": None, "git_dirty": None} | made).replace("`", ""),
        "fingerprint of the data": f"{str(fingerprint)[:16]}…" if fingerprint else "unknown",
    }


def _differences(pairs: Sequence[Pair], facts: Callable[[Run], Mapping[str, str]]) -> list[Difference]:
    """The facts in which the sides differ; networks that differ in the same way share an entry."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for pair in pairs:
        a, b = ([facts(run) for run in same] for same in (pair.a, pair.b))
        for what in dict.fromkeys(name for each in (*a, *b) for name in each):
            here, there = (", ".join(dict.fromkeys(e.get(what, "unknown") for e in side)) for side in (a, b))
            if here != there:
                found.setdefault((what, here, there), []).append(pair.network)
    return [Difference(*key, networks) for key, networks in found.items()]


# --------------------------------------------------------------------------- showing


def table(comparison: Comparison) -> pd.DataFrame:
    """Every row of the comparison as text cells; with several seeds means, with half their 95 % interval."""
    rows = [
        (r.network, r.metric, _cell(r.metric, r.a), _cell(r.metric, r.b), _signed(r.metric, r.difference), r.verdict,
         r.test)
        for r in comparison.rows
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["network", "metric", "A", "B", "B − A", "verdict", "decided by"])


def differences(comparison: Comparison) -> pd.DataFrame:
    """The parameters, then the versions, in which the two sides differ, as text cells; no row if in none."""
    every = [pair.network for pair in comparison.pairs]
    rows = [
        (found.what, found.a, found.b, "all" if found.networks == every else ", ".join(found.networks))
        for found in (*comparison.parameters, *comparison.versions)
    ]
    return pd.DataFrame(rows, columns=["what", "A", "B", "network"])


def _cell(metric: str, values: Sequence[float]) -> str:
    if not values:
        return "–"
    if metric in (EPOCHS, PARAMETERS):
        return ", ".join(dict.fromkeys(f"{value:,}" for value in values))
    describe = tables.accuracy if metric in (FINAL, BEST) else tables.spread
    return tables.over_seeds(values, lambda finite: describe(mean_and_interval(finite)))


def _signed(metric: str, value: float) -> str:
    if not math.isfinite(value):
        return "–"
    if metric == PREDICTIONS:
        return f"{value:,}"
    if metric in (FINAL, BEST):
        return f"{signed(100 * value)} points"
    return signed(value, ",.10g" if metric in (EPOCHS, PARAMETERS) else ".3g")


def _interval(metric: str, interval: Interval) -> str:
    return " to ".join(_signed(metric, end) for end in interval)


def write_page(comparison: Comparison, out: Path) -> Path:
    """Write the comparison as one HTML file that needs no other; returns it.  Raises ConfigError if it cannot be."""
    names = dict(zip(("A", "B"), comparison.names, strict=True))
    outputs = [display.table_output(table(comparison), "metrics", "Every number of both, and what decided about it.")]
    if len(other := differences(comparison)):
        outputs.append(display.table_output(other, "differences", "Parameters and versions that differ."))
    for number, pair in enumerate(comparison.pairs):
        figure = figures.compare_curves({names["A"]: pair.a, names["B"]: pair.b})
        caption = (
            f"{pair.network}: training loss and test accuracy per epoch; where there are several seeds, their mean."
        )
        outputs.append(display.figure_output(figure, f"curves-{number}", caption, caption))
    cells = [new_markdown_cell("# Comparison")]
    cells += [new_code_cell("", outputs=[new_output("display_data", d, metadata=m)]) for d, m in outputs]
    sides = [
        f"- {side}: `{path}`" + (f"; it alone has {', '.join(only)}" if only else "")
        for side, path, only in (("A", comparison.a, comparison.only_a), ("B", comparison.b, comparison.only_b))
    ]
    with tempfile.TemporaryDirectory() as scratch:
        notebook = Path(scratch) / "comparison.ipynb"
        nbformat.write(new_notebook(cells=cells), notebook)
        page, _ = render(
            [Section("comparison", notebook, "ok")],
            Path(scratch),
            title=" and ".join(comparison.names),
            banner=[],
            front=NOTE,
            provenance="\n".join(sides),
        )
        try:
            runs.copy_file(page, out)
        except OSError as error:
            raise ConfigError(f"{out}: cannot be written ({error.strerror})") from None
    return out
