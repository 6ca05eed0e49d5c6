"""The execution of the report's sections by papermill."""

import functools
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import nbformat
import papermill
import traitlets.config
from ipykernel.kernelspec import get_kernel_dict
from joblib.externals.loky.process_executor import TerminatedWorkerError
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from cifarnb import environment
from cifarnb.config import ConfigError
from cifarnb.data import DataError
from cifarnb.report.page import Section
from cifarnb.report.sections import READERS, changes, notebook
from cifarnb.runs import NotRunError, RunError

# Errors whose message is for the reader as it is.
_TOLD = {error.__name__ for error in (ConfigError, DataError, NotRunError, RunError)}
_PACKAGE = str(Path(environment.__file__).parents[1])


class _Kernel(AsyncKernelManager):
    """A kernel that is this Python with this package, whatever kernels, profile and start-up files the user has."""

    @functools.cached_property
    def kernel_spec(self) -> KernelSpec:
        search = [_PACKAGE, *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {
            "IPYTHONDIR": str(Path(self.connection_file).parent),
            "PYTHONSTARTUP": "",  # IPython runs that, too
            "PYTHONPATH": os.pathsep.join(search),
        }
        return KernelSpec(env=env | environment.waiting_variables(), **get_kernel_dict())


def execute(
    sections: Sequence[str],
    profile: str,
    out: Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    jobs: int = 1,
    trained: bool = False,
    timeout: int | None = None,
) -> Iterator[Section]:
    """Execute sections, ``jobs`` at a time in processes of their own; yields each as it ends.

    The executed notebooks go to ``out``.  All parameters are checked before the first kernel starts.  ``timeout`` is
    in seconds, for a cell.  A section that fails is yielded with its error, and the others go on.  Those that read the
    runs of others wait for them, unless everything is ``trained`` already.
    """
    tasks = {name: changes(name, profile, overrides) for name in sections}
    out.mkdir(parents=True, exist_ok=True)
    workers = max(1, min(jobs, len(tasks)))
    last = set() if trained else {*READERS} & set(tasks)
    for group in (set(tasks) - last, last):
        # Processes of this machine whatever joblib.parallel_config says: the notebooks are written here.
        work = joblib.Parallel(
            workers, backend="loky", return_as="generator_unordered", batch_size=1,
            initializer=environment.end_with, initargs=(os.getpid(),),
        )  # fmt: skip
        waiting = set(group)
        try:
            for section in work(
                joblib.delayed(_execute_one)(name, notebook(name), out / f"{name}.ipynb", tasks[name], timeout)
                for name in sorted(group, reverse=jobs > 1)  # those that take longest are among the last
            ):
                waiting.remove(section.name)
                yield section
        except TerminatedWorkerError:
            yield from (Section(name, None, "failed", "its process was killed") for name in sorted(waiting))


def _execute_one(name: str, source: Path, target: Path, parameters: dict[str, Any], timeout: int | None) -> Section:
    started = time.perf_counter()
    target.unlink(missing_ok=True)  # an older one must not pass for this one
    status, error = "ok", None
    try:
        _run(source, target, parameters, timeout)
    except PapermillExecutionError as failure:
        status = "not run" if failure.ename == NotRunError.__name__ else "failed"
        error = failure.evalue if failure.ename in _TOLD else f"{failure.ename}: {failure.evalue}"
    except CellTimeoutError:
        status, error = "timeout", f"a cell took longer than {timeout} s"
    except DeadKernelError:
        status, error = "failed", "the kernel died"
    except Exception as failure:
        status, error = "failed", f"{type(failure).__name__}: {failure}"
    executed = target if target.exists() else None
    if status == "ok" and executed and (cell := first_unexecuted(executed)):
        # A kernel that dies leaves a notebook in which papermill calls every cell completed.
        status, error = "failed", f"the kernel died at or before the cell that begins: {cell}"
    return Section(name, executed, status, error and " ".join(error.split()), time.perf_counter() - started)


def _run(source: Path, target: Path, parameters: dict[str, Any], timeout: int | None) -> None:
    with tempfile.TemporaryDirectory(prefix=f"cifarnb-{os.getpid()}-") as empty:
        kernel = {"connection_file": f"{empty}/kernel.json", "transport_encryption": "auto"}  # where it knows how
        papermill.execute_notebook(
            _literal(source), _literal(target), parameters,
            kernel_name="python3", progress_bar=False, execution_timeout=timeout,
            kernel_manager_class=_Kernel, config=traitlets.config.Config(KernelManager=kernel),
            stderr_file=sys.stderr, shutdown_kernel="immediate",  # a polite one takes 3 s
        )  # fmt: skip


def _literal(path: Path) -> str:
    """The path as papermill takes it, which fills in parameters where a path has braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def first_unexecuted(executed: Path) -> str | None:
    """The first line of the first code cell that was not executed to its end; None if all were."""
    for cell in nbformat.read(executed, as_version=4).cells:
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            return cell.source.strip().splitlines()[0]
    return None
