"""The whole way from a profile to a rendered report."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch

from cifarnb import data, experiment
from cifarnb.config import ConfigError
from cifarnb.data import DataError, Dataset
from cifarnb.models import LABELS
from cifarnb.report import execution, front, sections
from cifarnb.report.display import weights_file
from cifarnb.report.page import Section, render
from cifarnb.report.summary import summarize
from cifarnb.runs import Run, atomic_write, copy_records, describe_origin, locked, project_root

HALF_ABOVE = 5_000_000  # parameters: larger networks' weights are kept in float16
WEIGHTS_HELP = """\
PyTorch state dicts, one a network, in safetensors; read them with

    model = cifarnb.models.build_model("resnet6")
    model.load_state_dict(safetensors.torch.load_file("resnet6.safetensors"))

Images come in as `cifarnb.data.normalize` makes them: (N, 3, 32, 32), scaled to −1…1."""


def build_report(
    profile: str,
    data_spec: str | None = None,
    out: Path | None = None,
    only: Sequence[str] | None = None,
    runs_dir: Path | None = None,
    *,
    train: bool = True,
    jobs: int = 1,
    timeout: int | None = None,
    say: Callable[[str], None] = print,
) -> bool:
    """Execute the sections of a profile (or ``only`` some) and render them; returns whether all went well.

    Without ``train`` the report is made of the runs that are there.  With ``jobs`` above 1 so many runs are trained at
    a time before the sections, which then find them, and so many sections are executed at a time.  Writes
    ``report.html``, ``report.md``, ``figures/``, ``summary.json``, the records of the ``runs/``, ``weights/`` and the
    executed ``notebooks/`` into ``out``.  Raises ConfigError or DataError before anything is trained.
    """
    overrides: dict[str, Any] = {"profile": profile} if train else {"profile": profile, "train": False}
    if runs_dir is not None:
        folder, root = runs_dir.resolve(), project_root().resolve()
        # As the notebooks take it: relative to the project where it is in it, so that no report tells where that is.
        overrides["runs_dir"] = str(folder.relative_to(root) if folder.is_relative_to(root) else folder)
    wanted = list(only or sections.names())
    for name in sections.names():
        sections.changes(name, profile)
    for name in wanted:
        sections.notebook(name)
    asked = data_spec or sections.values(sections.SUMMARY, profile)["data"]
    dataset = _load(asked, profile)
    if dataset.source.startswith("synthetic") and asked == "auto":
        asked = "synthetic"  # so that not every kernel waits for the network again
    overrides["data"] = asked
    out = out or project_root() / "reports" / profile
    _check_writable(out)
    if train:
        _check_writable(project_root() / overrides.get("runs_dir", "runs"))
    with locked(out / "report"):
        return _build(profile, dataset, out, wanted, overrides, train=train, jobs=jobs, timeout=timeout, say=say)


def _build(
    profile: str,
    dataset: Dataset,
    out: Path,
    wanted: Sequence[str],
    overrides: dict[str, Any],
    *,
    train: bool,
    jobs: int,
    timeout: int | None,
    say: Callable[[str], None],
) -> bool:
    say(f"{profile}: {len(wanted)} sections on {dataset.source}")
    if jobs > 1 and train:
        ahead = [config for section in wanted for config in sections.all_configs(section, profile, overrides)]
        experiment.train_together(ahead, dataset, overrides.get("runs_dir", "runs"), jobs=jobs)
    done: dict[str, Section] = {}
    for section in execution.execute(wanted, profile, out / "notebooks", overrides, jobs=jobs, timeout=timeout):
        done[section.name] = section
        problem = f": {section.error}" if section.error else ""
        say(f"{section.name:24} {section.status}, {section.seconds:.0f} s{problem}")
    all_sections = [done.get(name) or Section(name, None, "not run") for name in sections.names()]
    summary = make_summary(profile, dataset, overrides, all_sections, describe_origin())
    finished = finished_runs(profile, dataset, overrides)
    page, markdown = render_report(all_sections, summary, finished, out)
    _place_records(finished, out)
    _place_weights(finished, summary, out)
    with atomic_write(out / "summary.json") as part:
        part.write_text(json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    say(f"\n{page}\n{markdown}\n{out / 'summary.json'}")
    well = ("ok",) if train else ("ok", "not run")
    return all(section.status in well for section in done.values())


def make_summary(
    profile: str, dataset: Dataset, overrides: dict[str, Any], done: Sequence[Section], origin: dict[str, Any]
) -> dict[str, Any]:
    """What ``summary.json`` holds: numbers of the runs, the sections with how many of their runs there are, origin.

    A number that is not finite, which JSON does not have, is None.
    """
    summary = summarize(profile, dataset, overrides.get("runs_dir", "runs"), overrides)
    summary["sections"] = []
    for section in done:
        wanted = sections.all_configs(section.name, profile, overrides)
        there = [c for c in wanted if experiment.find(c, dataset, overrides.get("runs_dir", "runs"))]
        summary["sections"].append(
            {
                "name": section.name,
                "title": sections.title(section.name),
                "status": section.status,
                "error": section.error,
                "runs": len(there),
                "runs_wanted": len(wanted),
            }
        )
    return _finite(summary | {"origin": origin})


def render_report(
    done: Sequence[Section], summary: dict[str, Any], runs: Sequence[Run], out: Path
) -> tuple[Path, Path]:
    """Render executed sections, the front page and the provenance; returns the HTML and the Markdown file."""
    return render(
        done,
        out,
        title=front.TITLE,
        banner=front.banner(summary),
        front=front.front_page(summary),
        provenance=front.provenance(summary, runs),
        files={weights_file(run): weights_name(run) for run in headline_runs(runs, summary)},
    )


def _load(asked: str, profile: str) -> Dataset:
    try:
        return data.load(asked)
    except DataError as error:
        if profile == "full":
            raise DataError(f"{error} The profile full trains on CIFAR-10 alone and does not fall back.") from None
        raise


def _check_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with atomic_write(out / "writable") as part:
            part.touch()
        (out / "writable").unlink()
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written to ({error.strerror})") from None


def finished_runs(profile: str, dataset: Dataset, overrides: dict[str, Any]) -> list[Run]:
    """Every run of the report that is finished, in the report's order, each once."""
    wanted = (config for section in sections.names() for config in sections.all_configs(section, profile, overrides))
    found = (experiment.find(config, dataset, overrides.get("runs_dir", "runs")) for config in wanted)
    return list({run.name: run for run in found if run}.values())


def headline_runs(runs: Sequence[Run], summary: dict[str, Any]) -> list[Run]:
    """Those whose weights the report brings: of every network the first seed's."""
    headlines = {network["run"] for network in summary["networks"]}
    return [run for run in runs if run.name in headlines]


def weights_name(run: Run) -> str:
    """The weights of a headline run in the folder of the report."""
    return f"weights/{run.config.model}.safetensors"


def _place_records(runs: Sequence[Run], out: Path) -> None:
    """Put the records of all runs into ``runs/``, and take away those of others."""
    folder = out / "runs"
    if runs and runs[0].path.parent.resolve() == folder.resolve():
        return
    for run in runs:
        copy_records(run, folder)
    for stale in {path.name for path in folder.glob("*")} - {run.name for run in runs}:
        shutil.rmtree(folder / stale)


def _place_weights(runs: Sequence[Run], summary: dict[str, Any], out: Path) -> None:
    """Put the headline runs' weights into ``weights/``, large networks' in float16, and say how each was made."""
    rows = []
    for run in headline_runs(runs, summary):
        weights = run.weights()
        count = sum(network["parameters"] for network in summary["networks"] if network["run"] == run.name)
        half = count > HALF_ABOVE
        if half:
            weights = {name: part.half() if part.is_floating_point() else part for name, part in weights.items()}
        with atomic_write(out / weights_name(run)) as part:
            safetensors.torch.save_file(weights, part, metadata={"run": run.name})
        rows.append(
            f"- `{run.config.model}.safetensors`: {LABELS[run.config.model]}, {count:,} parameters in "
            f"{'float16' if half else 'float32'}, after the last of {len(run.history)} epochs; test accuracy "
            f"{run.final_accuracy:.2%}. Run `{run.name}`: {experiment.describe(run.config)}; trained on "
            f"{run.provenance['device_name']} in {run.provenance['precision']}, commit {front.commit(run.provenance)}."
        )
    if rows:
        with atomic_write(out / "weights" / "README.md") as part:
            part.write_text("\n".join([WEIGHTS_HELP, "", *rows]) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    """The same with None for numbers that are not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
