"""The command line: ``python -m cifarnb``, and ``cifarnb`` once installed."""

import json
import os
import re
import shutil
import signal
import tempfile
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cifarnb import environment

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="CIFAR-10 with a simple CNN, residual networks, and VGG-A with and without batch norm: a report and its runs.",
)

DATA = "auto, cifar10, synthetic, or a path: cifar-10-python.tar.gz, its folder, or an .npz archive"
PATH: dict[str, Any] = {"parser": environment.user_path, "metavar": "PATH"}


def main() -> None:
    """Settle what the environment lacks, then do what the command line says."""
    environment.complete()
    environment.print_anything()
    app(prog_name="cifarnb")


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """End with exit code 2 and one line for what a user can mend; a traceback is for faults of ours."""
    from cifarnb.config import ConfigError
    from cifarnb.data import DataError
    from cifarnb.runs import RunError, reason

    def show(message: Any, *_: Any, **__: Any) -> None:
        typer.secho(f"cifarnb: {message}", err=True, fg="yellow", bold=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        try:
            yield
        except (ConfigError, DataError, RunError) as error:
            told = str(error)
        except BrokenPipeError:  # whoever read what is printed has gone; typer ends quietly
            raise
        except OSError as error:  # a folder that one may not enter, a full disk
            told = f"{error.filename}: {reason(error)}" if error.filename else reason(error)
        else:
            return
    typer.secho(f"cifarnb: {told}", err=True, fg="red")
    raise typer.Exit(2)


def _stop_at_once(advice: str, runs: Path) -> None:
    """At Ctrl-C, a job system's SIGTERM or a closed terminal end this process and all that it started, at once.

    Every file is written in one step, so nothing is lost by it but the epoch that is under way.  What these processes
    keep in ``runs`` and in the system's folders for the time being is removed.
    """
    import psutil

    def stop(number: int, _: Any) -> None:
        children = psutil.Process().children(recursive=True)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, timeout=2)  # so that none writes while its files are removed
        _remove_what_is_left({os.getpid(), *(child.pid for child in children)}, runs)
        with suppress(OSError):  # the terminal may be gone
            typer.secho(f"\ncifarnb: stopped; {advice}", err=True, fg="yellow", bold=True)
        os._exit(128 + number)  # as a shell calls it; exit handlers would wait for threads

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under nohup
        signal.signal(signal.SIGHUP, stop)


def _remove_what_is_left(pids: Collection[int], runs: Path) -> None:
    """Remove what these processes would have removed at their end: the tracker that joblib has for it was killed, too.

    That is the data set in memory, 150 MB and more, which would stay until the machine is started again, joblib's
    semaphores, and what this package names by a process.
    """
    named = re.compile(r"(?:joblib_memmapping_folder_|sem\.loky-|cifarnb-|\.here-)(\d+)[_-]")
    temporary = Path(tempfile.gettempdir())
    shared = environment.user_path(os.environ.get("JOBLIB_TEMP_FOLDER", "/dev/shm"))
    for folder in {shared, Path("/dev/shm"), temporary, runs}:
        with suppress(OSError):
            for path in folder.iterdir():
                if (found := named.match(path.name)) and int(found[1]) in pids:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _prefer(data: str | None) -> None:
    """What ``--data`` names wins over the environment, in this process and in the kernels that it starts."""
    if data is not None:
        os.environ.pop("CIFARNB_DATA", None)


@app.command(epilog="Example: cifarnb report --profile smoke --out /tmp/smoke")
def report(
    profile: Annotated[str, typer.Option(help="smoke, quick or full (the write-up's schedule).")] = "quick",
    data: Annotated[str | None, typer.Option(help=f"Overrides the profile's: {DATA}.")] = None,
    out: Annotated[Path | None, typer.Option(**PATH, help="Where the report goes; by default reports/PROFILE.")] = None,
    section: Annotated[
        list[str] | None, typer.Option(help="Execute this section only; may be repeated. By default all.")
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(**PATH, help="Where the runs are kept; by default runs in the project.")
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Train so many runs at a time, and execute so many sections at a time.")
    ] = 1,
    train: Annotated[
        bool, typer.Option(help="Train what is missing; --no-train makes the report of the runs that are there.")
    ] = True,
    timeout: Annotated[
        int | None, typer.Option(min=1, help="Seconds that a cell may take; by default no limit.")
    ] = None,
    pdf: Annotated[
        bool, typer.Option("--pdf", help="Also print the page into report.pdf, which takes Chromium or Chrome.")
    ] = False,
    author: Annotated[str, typer.Option(help="Whose report it is; stands under the title.")] = "",
    student_number: Annotated[str, typer.Option(help="Stands beside the author.")] = "",
    code_link: Annotated[str, typer.Option(help="Where the code is, as https://…; stands beside the author.")] = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="Also take the place of a report that has more finished runs.")
    ] = False,
) -> None:
    """Execute the sections and render them into one report.

    Runs that exist are loaded, not trained again; one that was interrupted goes on from its last finished epoch.  The
    report takes its place when it is whole; nothing in its folder is deleted but what an earlier report wrote.
    """
    with environment.waiting():
        from cifarnb.report.build import build_report
    from cifarnb.runs import project_root

    _prefer(data)
    hand_in = {"author": author, "student_number": student_number, "code_link": code_link}
    with _one_line_errors():
        _stop_at_once("finished epochs are kept: the same command goes on from there", runs or project_root() / "runs")
        ok = build_report(
            profile, data, out, section, runs,
            train=train, replace=replace, jobs=jobs, timeout=timeout, pdf=pdf, hand_in=hand_in, say=typer.echo,
        )  # fmt: skip
    if not ok:
        raise typer.Exit(1)


@app.command(epilog="Example: cifarnb plan --profile full --jobs 2")
def plan(
    profile: Annotated[str, typer.Option(help="smoke, quick or full (the write-up's schedule).")] = "full",
    data: Annotated[str | None, typer.Option(help=f"Overrides the profile's: {DATA}.")] = None,
    runs: Annotated[
        Path | None, typer.Option(**PATH, help="Where the runs are kept; by default runs in the project.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="For so many runs at a time.")] = 1,
) -> None:
    """Show which runs of a report are there, which are missing, and how long those take here; train nothing.

    The times are from a few steps of every network, timed on this machine now.
    """
    from tabulate import tabulate

    with environment.waiting():
        from cifarnb.report import plan
        from cifarnb.report.build import load_data
    from cifarnb.progress import format_seconds

    _prefer(data)
    with _one_line_errors():
        dataset, overrides = load_data(profile, data, runs)
        found = plan.plan(profile, dataset, overrides)
        each = plan.seconds(found.tasks, jobs)
    typer.echo(f"{profile} on {dataset.source}\n")
    align = ("left", "right", "left", "right", "right")
    typer.echo(tabulate(plan.table(found, each), "keys", "simple", disable_numparse=True, colalign=align))
    total = plan.in_all(each, jobs)
    typer.echo(f"\nin all about {format_seconds(total)}" + (f", {jobs} at a time" if jobs > 1 else ""))


@app.command(epilog="Example: cifarnb bench --model resnet6 --model resnet9 --json bench.json")
def bench(
    model: Annotated[list[str] | None, typer.Option(help="This network only; may be repeated. By default all.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="How often each loop is timed, by turns.")] = 5,
    json_file: Annotated[
        Path | None, typer.Option("--json", **PATH, help="Also write the measurements to this file.")
    ] = None,
) -> None:
    """Time the training beside the loop that everybody writes, on this machine.

    Both train the same network with the same batches' size, augmentation and optimizer. Medians, with the smallest and
    the largest in brackets; the peak is that of matrix products in the same precision.
    """
    from tabulate import tabulate
    from tqdm import tqdm

    with environment.waiting():
        from cifarnb import bench
    from cifarnb.config import ConfigError, unknown_name
    from cifarnb.report import recipes, sections

    networks = (*sections.NETWORKS, recipes.FAST)
    names = model or networks
    with _one_line_errors():
        for name in names:
            if name not in networks:
                raise ConfigError(f"model {unknown_name(name, networks)}")
        if json_file and not json_file.resolve().parent.is_dir():
            raise ConfigError(f"{json_file}: cannot be written, its folder does not exist")
    found = []
    with tqdm(total=len(names) * rounds, unit="round", leave=False, disable=None) as bar:
        for name in names:
            bar.set_description(name)
            found.append(bench.measure(name, batch_size, rounds, bar.update))
    typer.echo(f"{found[0].device}, {found[0].precision}, batch size {batch_size}; rounds: {rounds}")
    headings, rows = bench.table(found)
    typer.echo(tabulate(rows, headings, "simple", disable_numparse=True, colalign=("left", *["right"] * 8)))
    typer.echo("\nratio: to the usual loop in the same round; start: what a run's first epoch takes longer")
    if json_file:
        text = json.dumps([asdict(measurement) for measurement in found], indent=2) + "\n"
        with _one_line_errors():
            json_file.write_text(text, encoding="utf-8")


@app.command(epilog="Example: cifarnb verify reports/full --data ~/cifar10.npz")
def verify(
    folder: Annotated[Path, typer.Argument(**PATH, help="The folder of a report, which holds summary.json.")],
    data: Annotated[
        str | None, typer.Option(help="The report's data: by default cifar10, or synthetic if it was made on that.")
    ] = None,
    retrain_epochs: Annotated[
        int, typer.Option(min=0, help="Also repeat so many epochs of every run, and compare the losses.")
    ] = 0,
) -> None:
    """Check a report without training: weights, records of the runs, and every number in it.

    The exit code is 0 if all is well and 1 if not.
    """
    with environment.waiting():
        from cifarnb.report.verify import verify

    _prefer(data)
    ok = True
    with _one_line_errors():
        for check in verify(
            folder, data, retrain_epochs=retrain_epochs, tick=lambda what: typer.echo(f"… {what}", err=True)
        ):
            typer.secho(
                f"{'ok  ' if check.ok else 'FAIL'} {check.what}: {check.detail}", fg=None if check.ok else "red"
            )
            ok &= check.ok
    typer.echo("all is well" if ok else "not all is well")
    if not ok:
        raise typer.Exit(1)


@app.command(epilog="Example: cifarnb compare reports/full reports/quick --page compare.html")
def compare(
    a: Annotated[Path, typer.Argument(**PATH, help="The folder of a report, or of a run.")],
    b: Annotated[Path, typer.Argument(**PATH, help="Another of the same kind.")],
    page: Annotated[
        Path | None, typer.Option(**PATH, help="Also write the tables and the curves of both as HTML.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="The data of both, to compare single runs image by image.")] = None,
) -> None:
    """Compare two reports, or two runs: is a difference more than chance?

    Each number is identical, within the noise between seeds, within that of sampling the test images, or different.
    """
    from tabulate import tabulate

    from cifarnb.data import load
    from cifarnb.report import compare

    _prefer(data)
    with _one_line_errors():
        found = compare.compare(a, b, load(data) if data else None)
        if page:
            compare.write_page(found, page)
    typer.echo(tabulate(compare.table(found), "keys", "simple", showindex=False, disable_numparse=True))
    if len(other := compare.differences(found)):
        typer.echo("\n" + tabulate(other, "keys", "simple", showindex=False, disable_numparse=True))
    for name, only in zip(found.names, (found.only_a, found.only_b), strict=True):
        if only:
            typer.echo(f"\nonly in {name}: {', '.join(only)}")
    if page:
        typer.echo(f"\n{page}")


@app.command(epilog="Example: cifarnb models --layers")
def models(
    layers: Annotated[bool, typer.Option("--layers", help="Also every layer with its output shape.")] = False,
) -> None:
    """Show every network: parameters, multiply-adds per image, and with --layers its layers."""
    from tabulate import tabulate

    from cifarnb.report import tables

    def show(table: Any, align: tuple[str, ...]) -> None:
        typer.echo(tabulate(table, "keys", "simple", showindex=False, disable_numparse=True, colalign=align))

    show(tables.models(), ("left", "left", "right", "right"))
    for name in tables.LABELS if layers else ():
        typer.echo(f"\n{name}")
        show(tables.layers(name).replace("**all**", "all"), ("left", "left", "right"))


@app.command(epilog="Example: CIFARNB_DATA=~/cifar10.npz cifarnb data")
def data(
    data: Annotated[str | None, typer.Option(help=f"{DATA}.")] = None,
) -> None:
    """Show where the data comes from, its counts, fingerprint, mean and standard deviation."""
    from cifarnb.data import channel_statistics, load

    _prefer(data)
    with _one_line_errors():
        dataset = load(data or "auto")
    mean, std = channel_statistics(dataset.train_images)
    typer.echo(f"source       {dataset.source}")
    typer.echo(f"images       {len(dataset.train_images):,} train, {len(dataset.test_images):,} test")
    typer.echo(f"classes      {', '.join(dataset.classes)}")
    typer.echo(f"fingerprint  {dataset.fingerprint}")
    typer.echo(
        f"mean         {', '.join(f'{value:.5f}' for value in mean)} (red, green, blue; training images, 0 to 1)"
    )
    typer.echo(f"std          {', '.join(f'{value:.5f}' for value in std)}")
