import contextlib
import itertools

import pytest
import torch

from cifarnb import hardware

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def gpu_is_there(monkeypatch, there, fault=""):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(hardware, "_gpu_fault", lambda: fault)


@pytest.mark.parametrize(("there", "meant"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_the_gpu_where_there_is_one(there, meant, monkeypatch):
    gpu_is_there(monkeypatch, there)
    assert hardware.resolve_device("auto") == torch.device(meant)
    assert hardware.resolve_device("cpu") == CPU


@pytest.fixture
def a_gpu_that_fails(monkeypatch):
    def ones(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA error: no kernel image is available\nand more")

    hardware._gpu_fault.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(hardware.torch, "ones", ones)
    yield
    hardware._gpu_fault.cache_clear()


def test_a_gpu_that_cannot_compute_is_left_alone_and_said_once(a_gpu_that_fails):
    with pytest.warns(
        UserWarning, match=r"^the GPU cannot be used, .* \(CUDA error: no kernel image is available\)$"
    ) as told:
        assert [hardware.resolve_device("auto") for _ in range(3)] == [CPU] * 3
    assert len(told) == 1
    with pytest.raises(ValueError, match=r"cannot be used \(CUDA error.*; use auto or cpu$"):
        hardware.resolve_device("cuda")


def test_cuda_without_a_gpu_is_refused(monkeypatch):
    gpu_is_there(monkeypatch, False)
    with pytest.raises(ValueError, match=r"^device: cuda .* use auto or cpu$"):
        hardware.resolve_device("cuda")
    gpu_is_there(monkeypatch, True)
    assert hardware.resolve_device("cuda") == CUDA


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_precision_that_is_asked_for_is_taken(precision):
    assert hardware.resolve_precision(precision, CPU) == hardware.resolve_precision(precision, CUDA) == precision


@pytest.mark.parametrize(
    ("features", "meant"),
    [
        ({}, "float32"),
        ({"avx2": True, "avx512_bf16": False}, "float32"),
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({"bf16": True}, "bfloat16"),  # ARM
    ],
)
def test_auto_is_bfloat16_where_the_processor_has_it(features, meant, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert hardware.resolve_precision("auto", CPU) == meant


@pytest.mark.parametrize(("native", "meant"), [(True, "bfloat16"), (False, "float32")])
def test_auto_does_not_take_a_gpu_that_emulates_bfloat16(native, meant, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert hardware.resolve_precision("auto", CUDA) == meant


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_autocast_computes_products_in_the_precision_and_keeps_the_weights(precision):
    layer = torch.nn.Linear(4, 3)
    with hardware.autocast(CPU, precision):
        out = layer(torch.ones(2, 4))
    assert out.dtype == getattr(torch, precision)
    assert layer.weight.dtype == torch.float32
    assert layer(torch.ones(2, 4)).dtype == torch.float32


@pytest.mark.parametrize(("count", "told"), [(1, "(1 thread)"), (2, "(2 threads)")])
def test_the_name_of_the_processor_stands_with_its_threads(count, told):
    hardware.synchronize(CPU)  # nothing to wait for
    with hardware.on_threads(count):
        name = hardware.device_name(CPU)
    assert name.endswith(f" {told}")
    assert not name.startswith(" ")


@pytest.fixture
def streams(monkeypatch):
    """Streams as PyTorch gives them out: the 33rd is the first again.  Lists those that are worked on."""
    given, worked_on = itertools.count(), []

    @contextlib.contextmanager
    def work(stream):
        assert stream not in worked_on
        worked_on.append(stream)
        try:
            yield
        finally:
            worked_on.remove(stream)

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: next(given) % 32)
    monkeypatch.setattr(torch.cuda, "stream", work)
    monkeypatch.setattr(hardware, "_IDLE", [])
    return worked_on


def test_what_works_on_a_gpu_at_one_time_never_shares_a_stream(streams):
    with hardware.working_on(CUDA):
        for _ in range(100):
            with hardware.working_on(CUDA), hardware.working_on(CUDA):
                assert len({*streams}) == 3
            with pytest.raises(RuntimeError, match="in between"), hardware.working_on(CUDA):
                raise RuntimeError("in between")
