"""The whole way from a profile to a rendered report."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cifarnb import data, experiment, front, sections
from cifarnb.config import ConfigError
from cifarnb.data import DataError, Dataset
from cifarnb.display import weights_file
from cifarnb.report import Section, render
from cifarnb.runs import Run, atomic_write, copy_file, project_root
from cifarnb.summary import summarize


def build_report(
    profile: str,
    data_spec: str | None = None,
    out: Path | None = None,
    only: Sequence[str] | None = None,
    runs_dir: Path | None = None,
    *,
    jobs: int = 1,
    timeout: int | None = None,
    say: Callable[[str], None] = print,
) -> bool:
    """Execute the sections of a profile (or ``only`` some) and render them; returns whether all went well.

    With ``jobs`` above 1 so many runs are trained at a time before the sections, which then find them, and so many
    sections are executed at a time.  Writes ``report.html``, ``report.md``, ``figures/``, ``summary.json``,
    ``weights/`` and the executed ``notebooks/`` into ``out``.  Raises ConfigError or DataError before anything is
    trained.
    """
    overrides: dict[str, Any] = {"profile": profile}
    if runs_dir is not None:
        overrides["runs_dir"] = str(runs_dir.resolve())
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

    say(f"{profile}: {len(wanted)} sections on {dataset.source}")
    if jobs > 1:
        ahead = [config for section in wanted for config in sections.all_configs(section, profile, overrides)]
        experiment.train_together(ahead, dataset, overrides.get("runs_dir", "runs"), jobs=jobs)
    done: dict[str, Section] = {}
    for section in sections.execute(wanted, profile, out / "notebooks", overrides, jobs=jobs, timeout=timeout):
        done[section.name] = section
        problem = f": {section.error}" if section.error else ""
        say(f"{section.name:24} {section.status}, {section.seconds:.0f} s{problem}")
    all_sections = [done.get(name) or Section(name, None, "not run") for name in sections.names()]

    summary = summarize(profile, dataset, overrides.get("runs_dir", "runs"), overrides)
    summary["sections"] = [
        {"name": s.name, "status": s.status, "error": s.error, "seconds": round(s.seconds, 1)} for s in all_sections
    ]
    finished = _finished_runs(profile, dataset, overrides)
    page, markdown = render(
        all_sections,
        out,
        title=front.TITLE,
        banner=front.banner(summary, all_sections),
        front=front.front_page(summary),
        provenance=front.provenance(summary, finished),
        files=_place_weights(finished, summary, out),
    )
    with atomic_write(out / "summary.json") as part:
        part.write_text(json.dumps(_finite(summary), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    say(f"\n{page}\n{markdown}\n{out / 'summary.json'}")
    return all(section.status == "ok" for section in done.values())


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


def _finished_runs(profile: str, dataset: Dataset, overrides: dict[str, Any]) -> list[Run]:
    """Every run of the report that is finished, in the report's order, each once."""
    wanted = (config for section in sections.names() for config in sections.all_configs(section, profile, overrides))
    found = (experiment.find(config, dataset, overrides.get("runs_dir", "runs")) for config in wanted)
    return list({run.name: run for run in found if run}.values())


def _place_weights(runs: Sequence[Run], summary: dict[str, Any], out: Path) -> dict[str, str]:
    """Copy the headline runs' weights to ``weights/<model>.safetensors``; returns as what the notebooks name which."""
    headlines = {network["run"] for network in summary["networks"]}
    placed = {}
    for run in runs:
        if run.name in headlines:
            name = f"weights/{run.config.model}.safetensors"
            copy_file(run.path / "weights.safetensors", out / name)
            placed[weights_file(run)] = name
    return placed


def _finite(value: Any) -> Any:
    """The same with None for numbers that are not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
