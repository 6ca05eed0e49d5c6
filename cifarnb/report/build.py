"""The whole way from a profile to a rendered report."""

import functools
import json
import math
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cifarnb import data, experiment
from cifarnb.config import ConfigError
from cifarnb.data import DataError, Dataset
from cifarnb.models import LABELS
from cifarnb.provenance import describe_origin, now
from cifarnb.report import execution, front, placing, sections
from cifarnb.report.claims import described_networks
from cifarnb.report.display import weights_file
from cifarnb.report.page import Section, render
from cifarnb.report.pdf import PrintError, print_page
from cifarnb.report.plan import announcement, plan
from cifarnb.report.significance import counted
from cifarnb.report.summary import summarize
from cifarnb.runs import Run, RunError, atomic_write, locked, project_root, write_tensors

HALF_ABOVE = 1_500_000  # parameters: larger networks' weights are kept in float16
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
    replace: bool = False,
    jobs: int = 1,
    timeout: int | None = None,
    pdf: bool = False,
    hand_in: Mapping[str, str] | None = None,
    say: Callable[[str], None] = print,
) -> bool:
    """Execute the sections of a profile (or ``only`` some) and render them; returns whether all went well.

    Without ``train`` the report is made of the runs that are there.  With ``jobs`` above 1 so many runs are trained at
    a time before the sections, which then find them, and so many sections are executed at a time.  Writes
    ``report.html``, ``report.md``, ``figures/``, ``summary.json``, the records of the ``runs/``, ``weights/`` and the
    executed ``notebooks/`` into ``out``, when all of it is made; with ``pdf`` also ``report.pdf``, as far as it can be
    printed.  ``hand_in`` says whose it is: ``author``, ``student_number`` and ``code_link``, as far as they are stated.
    A report there that has more finished runs stays, and one of another profile, unless it is to be ``replace``d.
    Raises ConfigError or DataError before anything is trained or written.
    """
    if (link := (hand_in or {}).get("code_link")) and not re.fullmatch(r"https?://[^\s<>]+", link):
        raise ConfigError(f"code_link: expected is an address as https://…, but it is {link!r}")
    wanted = list(only or sections.names())
    for name in wanted:
        sections.notebook(name)
    dataset, overrides = load_data(profile, data_spec, runs_dir)
    if not train:
        overrides["train"] = False
    out = out or project_root() / "reports" / profile
    runs_folder = project_root() / overrides.get("runs_dir", "runs")
    placing.check_folder(out, runs_folder)
    there = placing.earlier(out)
    if there and there["profile"] != profile and not replace:
        raise ConfigError(
            f"{out}: is a report of the profile {there['profile']}; choose another folder with --out, or --replace"
        )
    _check_writable(out)
    if train:
        _check_writable(runs_folder)
    with locked(out / "report"), placing.beside(out) as stage:
        if not train and not replace and (lost := _lost(out, finished_runs(profile, dataset, overrides))):
            say(lost)
            return False
        origin = describe_origin()  # of what now begins, whatever is committed meanwhile
        say(f"{profile}: {counted(len(wanted), 'section')} on {dataset.source}")
        if train and (announced := announcement(plan(profile, dataset, overrides, wanted), jobs)):
            say(announced)
        runs_dir = overrides.get("runs_dir", "runs")
        ahead = [config for section in wanted for config in sections.all_configs(section, profile, overrides)]
        if jobs > 1 and train:
            experiment.train_together(ahead, dataset, runs_dir, jobs=jobs)
        trained = not train or all(experiment.find(config, dataset, runs_dir) for config in ahead)
        done: dict[str, Section] = {}
        for section in execution.execute(
            wanted, profile, stage / "notebooks", overrides, jobs=jobs, trained=trained, timeout=timeout
        ):
            done[section.name] = section
            problem = f": {section.error}" if section.error else ""
            say(f"{section.name:24} {section.status}, {section.seconds:.0f} s{problem}")
        finished = finished_runs(profile, dataset, overrides)
        if not replace and (lost := _lost(out, finished)):
            say(lost)
            return False
        all_sections = [done.get(name) or Section(name, None, "not run") for name in sections.names()]
        origin |= {"finished": now()}
        summary = make_summary(profile, dataset, overrides, all_sections, finished, origin, hand_in or {})
        page, _ = render_report(all_sections, summary, finished, stage)
        unprinted = _print(page) if pdf else ""
        _place(summary, finished, out, stage)
    made = ["report.html", "report.md", placing.SUMMARY] + ([placing.PDF] if pdf and not unprinted else [])
    say("\n" + "\n".join(str(out / name) for name in made))
    if unprinted:
        say(f"{out / placing.PDF} is not made: {unprinted}")
    well = ("ok",) if train else ("ok", "not run")
    return not unprinted and all(section.status in well for section in done.values())


def load_data(
    profile: str, data_spec: str | None = None, runs_dir: Path | None = None
) -> tuple[Dataset, dict[str, Any]]:
    """The data set of a profile, and the parameters that all its sections get, after a check of all parameters.

    Raises ConfigError or DataError.
    """
    overrides: dict[str, Any] = {"profile": profile}
    if runs_dir is not None:
        folder, root = runs_dir.resolve(), project_root().resolve()
        # As the notebooks take it: relative to the project where it is in it, so that no report tells where that is.
        overrides["runs_dir"] = str(folder.relative_to(root) if folder.is_relative_to(root) else folder)
    for name in sections.names():
        sections.changes(name, profile)
    asked = data_spec or sections.values(sections.SUMMARY, profile)["data"]
    dataset = _load(asked, profile)
    if dataset.source.startswith("synthetic") and asked == "auto":
        asked = "synthetic"  # so that not every kernel waits for the network again
    return dataset, overrides | {"data": asked}


def _lost(out: Path, finished: Sequence[Run]) -> str:
    """One line that says which runs a report there has and this one would not; nothing if it has no fewer."""
    there = placing.runs_of(placing.earlier(out) or {"networks": []})
    if len(finished) >= len(there):
        return ""
    missing = [name for name in there if name not in {run.name for run in finished}]
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return (
        f"{out}: left as it is, because of its {len(there)} runs only {len(finished)} were found; not found: "
        f"{', '.join(missing[:3])}{more}. Choose another folder with --out, or have it replaced with --replace"
    )


def _print(page: Path) -> str:
    """Print the page into a PDF beside it; returns why that cannot be, if so."""
    try:
        print_page(page, page.parent / placing.PDF)
    except PrintError as error:
        return str(error)
    return ""


def _place(summary: dict[str, Any], finished: Sequence[Run], out: Path, stage: Path) -> None:
    """Gather records and weights beside the pages, and put it all in its place."""
    renamed: dict[str, str] = {}
    for run in finished:
        renamed |= placing.add_records(run, out, stage)
    renamed |= _gather_weights(finished, summary, out, stage)
    summary["files"] = [name for name in placing.written(stage) if not name.startswith(("runs/", "weights/"))]
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (stage / placing.SUMMARY).write_text(text, encoding="utf-8")
    placing.take_place(out, stage, renamed)


def make_summary(
    profile: str,
    dataset: Dataset,
    overrides: dict[str, Any],
    done: Sequence[Section],
    finished: Sequence[Run],
    origin: dict[str, Any],
    hand_in: Mapping[str, str],
) -> dict[str, Any]:
    """What ``summary.json`` holds: numbers of the runs, the sections with how many of their runs there are, origin.

    ``finished`` are the ``finished_runs``, which are then those that are named, whatever another process adds.
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
    summary["runs"] = [run.name for run in finished]
    return _finite(summary | {"origin": origin, "hand_in": {key: value for key, value in hand_in.items() if value}})


def render_report(
    done: Sequence[Section], summary: dict[str, Any], runs: Sequence[Run], out: Path
) -> tuple[Path, Path]:
    """Render executed sections, the front page and the provenance; returns the HTML and the Markdown file."""
    return render(
        done,
        out,
        title=front.TITLE,
        banner=front.banner(summary),
        byline=front.byline(summary),
        front=functools.partial(front.front_page, summary),
        provenance=front.provenance(summary, runs),
        files={weights_file(run): weights_name(run, summary) for run in headline_runs(runs, summary)},
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
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written to ({error.strerror})") from None


def finished_runs(profile: str, dataset: Dataset, overrides: dict[str, Any]) -> list[Run]:
    """Every run of the report that is finished, in the report's order, each once."""
    wanted = (config for section in sections.names() for config in sections.all_configs(section, profile, overrides))
    found = (experiment.find(config, dataset, overrides.get("runs_dir", "runs")) for config in wanted)
    return list({run.name: run for run in found if run}.values())


def headline_runs(runs: Sequence[Run], summary: dict[str, Any]) -> list[Run]:
    """Those whose weights the report brings: of every network the first seed's, and of those trained well."""
    headlines = {network["run"] for network in described_networks(summary)}
    return [run for run in runs if run.name in headlines]


def weights_name(run: Run, summary: dict[str, Any]) -> str:
    """The weights of a headline run in the folder of the report."""
    well = any(network["run"] == run.name for network in summary.get("well", []))
    return f"weights/{run.config.model}{'-well' if well else ''}.safetensors"


def _gather_weights(runs: Sequence[Run], summary: dict[str, Any], out: Path, stage: Path) -> dict[str, str]:
    """Put into ``stage`` the headline runs' weights that ``out`` lacks, and say in a README how each was made.

    Large networks' are kept in float16.  Returns what is to be renamed in ``out``, old → new.
    """
    rows: list[str] = []
    renamed: dict[str, str] = {}
    for run in headline_runs(runs, summary):
        count = next(n["parameters"] for n in described_networks(summary) if n["run"] == run.name)
        half, name = count > HALF_ABOVE, weights_name(run, summary)
        if not placing.has_weights(run, name, out):
            try:
                weights = run.weights()
            except RunError as error:
                rows.append(f"- `{Path(name).name}`: none ({error})")
                continue
            if half:
                weights = {part: w.half() if w.is_floating_point() else w for part, w in weights.items()}
            (stage / name).parent.mkdir(exist_ok=True)
            write_tensors(stage / name, weights, {"run": run.name})
            renamed |= placing.keep_weights(name, out)
        rows.append(
            f"- `{Path(name).name}`: {LABELS[run.config.model]}, {count:,} parameters in "
            f"{'float16' if half else 'float32'}, after the last of {counted(len(run.history), 'epoch')}; "
            f"test accuracy {run.final_accuracy:.2%}. Run `{run.name}`: {experiment.describe(run.config)}; trained on "
            f"{run.device} in {run.provenance['precision']}, commit {front.commit(run.provenance)}."
        )
    if rows:
        with atomic_write(stage / "weights" / "README.md") as part:
            part.write_text("\n".join([WEIGHTS_HELP, "", *rows]) + "\n", encoding="utf-8")
    return renamed


def _finite(value: Any) -> Any:
    """The same with None for numbers that are not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
