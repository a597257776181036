from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from CycleRegLib.devices import available_devices, describe_device, is_out_of_memory, peak_memory_mb, resolve_device
from CycleRegLib.errors import InputError


def pretend(monkeypatch: pytest.MonkeyPatch, gpus: int = 0, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr("CycleRegLib.devices._can_sample", lambda device: mps)


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    assert available_devices() == ["cpu"]
    assert resolve_device() == resolve_device(" CPU ") == torch.device("cpu")
    for name in ("cuda", "cuda:0", "Cuda:3"):
        with pytest.raises(InputError, match=rf"{name} was asked for, but .*Available here: cpu\. Use --device auto"):
            resolve_device(name)
    with pytest.raises(InputError, match="mps cannot be used here"):
        resolve_device("mps")


@pytest.mark.parametrize(
    ("cuda", "why"), [(None, "this PyTorch was built without CUDA"), ("12.8", "no usable CUDA GPU was found")]
)
def test_why_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch, cuda: str | None, why: str) -> None:
    pretend(monkeypatch)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(InputError, match=why):
        resolve_device("cuda")


def test_with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus=2)
    assert available_devices() == ["cuda:0", "cuda:1", "cpu"]
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda:0")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match=r"no device cuda:2\. Available here: cuda:0, cuda:1, cpu"):
        resolve_device("cuda:2")


def test_an_apple_gpu_is_used_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, mps=True)
    assert available_devices() == ["mps", "cpu"]
    assert resolve_device("auto") == torch.device("cpu")
    assert resolve_device("mps") == torch.device("mps")


@pytest.mark.parametrize("name", ["", "gpu", "cuda:x", "cuda:-1", "cuda:", "cpu:1", "None"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(InputError, match=f"Unknown device '{name}'.*Available here: "):
        resolve_device(name)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4000000000000 bytes."),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB)"),
        RuntimeError("ITK ERROR: ImportImageContainer: Failed to allocate memory for image."),
        RuntimeError("std::bad_alloc"),
        RuntimeError("bad allocation"),
    ],
)
def test_signs_that_memory_ended(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("out of memory"), KeyError("memory")])
def test_other_errors(error: BaseException) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("size", [2**50, 2**62])
def test_what_the_libraries_really_raise(size: int) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(size, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_descriptions() -> None:
    assert describe_device(torch.device("cpu")) == f"cpu ({torch.get_num_threads()} threads)"
    peak = peak_memory_mb(torch.device("cpu"))
    if os.name == "posix":
        assert peak is not None
        assert 20 < peak < 1e6


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not hand the figure down")
def test_peak_memory_is_that_of_this_program_not_of_the_one_that_started_it() -> None:
    """Slicer, with its scene, starts the registration: what Slicer holds is not the registration's."""
    import resource

    held = np.ones(100_000_000, np.float64)  # 800 MB, resident
    said = subprocess.run(
        [sys.executable, "-c", "import torch; from CycleRegLib.devices import peak_memory_mb;"
         "print(peak_memory_mb(torch.device('cpu')))"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert held.sum() == len(held)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 800_000
    assert 50 < float(said) < 700
