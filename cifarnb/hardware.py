"""The device and the number format of a computation: what "auto" means here, and what the device is called."""

import functools
import platform
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from statistics import median

import joblib
import torch

PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12}  # operations a second in bfloat16, of GPUs, by the maker
MATRIX_SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}  # of the products that a peak is measured with
WARM_UP = 3  # calls before one is recorded: libraries choose their kernels in them, optimizers make their state
_RECORDING = threading.Lock()  # CUDA records one graph at a time in a process
_IDLE: list[torch.cuda.Stream] = []  # streams that were used here and are not now


def resolve_device(device: str = "auto") -> torch.device:
    """``auto`` is the GPU where there is one that works, else the CPU.  Raises ValueError for ``cuda`` without one."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: cuda was asked for, but PyTorch finds no CUDA GPU here; use auto or cpu")
    if device == "cuda" and (fault := _gpu_fault()):
        raise ValueError(f"device: cuda was asked for, but the GPU here cannot be used ({fault}); use auto or cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() and not _gpu_fault() else "cpu"
    return torch.device(device)


@functools.cache
def _gpu_fault() -> str:
    """Why nothing can be computed on the GPU that is there, said once; nothing if it can.

    It may be too old for this PyTorch, full of another's work, or another's alone.
    """
    try:
        torch.ones(1, device="cuda").add_(1).item()
    except RuntimeError as error:
        fault = str(error).strip().partition("\n")[0]
        warnings.warn(f"the GPU cannot be used, so the CPU is ({fault})", stacklevel=2)
        return fault
    return ""


def resolve_precision(precision: str, device: torch.device) -> str:
    """``auto`` is ``bfloat16`` where the hardware computes in it, ``float32`` otherwise."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        found = torch.cpu.get_capabilities()
        native = any(found.get(feature, False) for feature in ("amx_bf16", "avx512_bf16", "bf16"))
    return "bfloat16" if native else "float32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Mixed precision: matrix products and convolutions in bfloat16, the rest and the weights in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def working_on(device: torch.device) -> Iterator[None]:
    """On a CPU: no more threads than there are cores for this process.  On a GPU: a stream of one's own.

    Containers and job systems grant fewer cores than the machine has; PyTorch's default does not see all such limits.
    What runs on different streams of a GPU can overlap.  PyTorch has 32 of them and gives them out in turn, in use or
    not, and nothing else may run on a stream that records a graph: so those that are left are taken again.
    """
    if device.type == "cuda":
        try:
            stream = _IDLE.pop()
        except IndexError:
            stream = torch.cuda.Stream(device)
        try:
            with torch.cuda.stream(stream):
                yield
        finally:
            _IDLE.append(stream)
        return
    with on_threads(min(torch.get_num_threads(), joblib.cpu_count())):
        yield


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """On a CPU: PyTorch with so many threads, and with as many as before when it is over."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def synchronize(device: torch.device) -> None:
    """Wait for what was begun on the device's current stream, so that a clock read next is right."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def replayed(function: Callable[[int], None], device: torch.device) -> Callable[[int], None]:
    """On a GPU: the function, after its first calls replayed from a CUDA graph, with one launch for all its kernels.

    Whatever changes from call to call must be in tensors on the device; sizes that differ have graphs of their own.
    Where recording fails, the function is called as it is, with one warning.  On a CPU it always is.
    """
    if device.type != "cuda":
        return function
    graphs: dict[int, torch.cuda.CUDAGraph] = {}
    calls: Counter[int] = Counter()
    failed = False

    def call(size: int) -> None:
        nonlocal failed
        if size in graphs:
            graphs[size].replay()
            return
        calls[size] += 1
        if failed or calls[size] <= WARM_UP:
            function(size)
            return
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream()
        try:
            # Recording runs nothing.  thread_local: other threads may allocate meanwhile.
            with _RECORDING, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                function(size)
        except RuntimeError as error:
            failed = True
            reason = str(error).strip().splitlines()[0]
            warnings.warn(f"no CUDA graph, the plain loop instead, which is slower ({reason})", stacklevel=2)
            function(size)
            return
        graphs[size] = graph
        graph.replay()

    return call


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{cpu_name()} ({threads} thread{'s' if threads > 1 else ''})"


def cpu_name() -> str:
    """The processor, as far as it says what it is."""
    return str(torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine())


def time_matrix_product(device: torch.device, precision: str, repeats: int = 20) -> float:
    """10¹² operations per second of the fastest square matrix product tried, each the median of its repeats."""
    best = 0.0
    for size in MATRIX_SIZES[device.type]:
        a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, precision)) for _ in range(2))
        laps = []
        with working_on(device):
            for _ in range(repeats + 3):
                synchronize(device)
                started = time.perf_counter()
                a @ b
                synchronize(device)
                laps.append(time.perf_counter() - started)
        best = max(best, 2 * size**3 / median(laps[3:]) / 1e12)
    return best
