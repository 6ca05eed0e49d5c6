"""The device and the number format of a computation: what "auto" means here, and what the device is called."""

import platform
from contextlib import AbstractContextManager

import torch


def resolve_device(device: str = "auto") -> torch.device:
    """``auto`` is the GPU where there is one, else the CPU.  Raises ValueError for ``cuda`` without a GPU."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: cuda was asked for, but PyTorch finds no CUDA GPU here; use auto or cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


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


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock read next is right."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine()
    return f"{name} ({torch.get_num_threads()} threads)"
