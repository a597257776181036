"""Which device computes, and what is done when its memory ends."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from .errors import InputError

# In the messages of PyTorch on the CPU, on GPUs, of ITK and of C++ itself.
_SIGNS_OF_NO_MEMORY = (
    "out of memory", "not enough memory", "can't allocate memory", "failed to allocate", "bad allocation", "bad_alloc",
)  # fmt: skip


def available_devices() -> list[str]:
    """Devices that can register, the best first: ``cuda:0``, …, ``mps`` where it can, ``cpu``."""
    found = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available() and _can_sample("mps"):
        found.append("mps")
    return [*found, "cpu"]


def resolve_device(name: str = "auto") -> torch.device:
    """The torch device for ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    ``auto`` is the first CUDA GPU, else the CPU.

    Raises
    ------
    InputError
        If the name is unknown or the device is not there; the message says what is.
    """
    found = available_devices()
    text = str(name).strip().lower()
    if text == "auto":
        return torch.device(found[0] if found[0].startswith("cuda") else "cpu")
    if text == "cuda":
        text = "cuda:0"
    if text in found:
        return torch.device(text)
    there = f"Available here: {', '.join(found)}."
    if text.startswith("cuda:") and text[5:].isdigit():
        if not torch.cuda.is_available():
            built = torch.version.cuda is not None
            why = "no usable CUDA GPU was found" if built else "this PyTorch was built without CUDA"
            raise InputError(f"The device {name} was asked for, but {why}. {there} Use --device auto or cpu.")
        raise InputError(f"There is no device {name}. {there}")
    if text == "mps":
        raise InputError(f"The device mps cannot be used here: no Apple GPU that samples in 3D. {there}")
    raise InputError(f"Unknown device '{name}'. Use auto, cpu, cuda, cuda:N or mps. {there}")


def resolve_precision(name: str, device: torch.device | str) -> str:
    """The precision that networks compute in: ``name`` itself, or for ``auto`` the fastest that the device has.

    That is bfloat16 where the processor multiplies in it (AVX512-BF16 or AMX; GPUs from compute capability 8),
    float16 on older GPUs, else float32.

    Raises
    ------
    InputError
        If the device cannot compute in the precision that was asked for.
    """
    kind = torch.device(device).type
    if name == "float16" and kind == "cpu":
        raise InputError("Processors do not compute in float16. Use --precision auto, bfloat16 or float32.")
    if name != "auto":
        return name
    if kind == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if kind == "cpu" and _multiplies_bfloat16() else "float32"


def _multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16; emulated, it is slower than float32."""
    capability = getattr(torch.backends.cpu, "get_cpu_capability", lambda: "")()
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return capability.startswith("AVX512") and any(bool(answer and answer()) for answer in asked)


def _can_sample(device: str) -> bool:
    """Whether the device interpolates in 3D, forward and backward, which older MPS backends cannot."""
    try:
        volume = torch.zeros(1, 1, 2, 2, 2, device=device)
        where = torch.zeros(1, 2, 2, 2, 3, device=device, requires_grad=True)
        torch.nn.functional.grid_sample(volume, where, padding_mode="border", align_corners=False).sum().backward()
    except (NotImplementedError, RuntimeError):
        return False
    return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on any device."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _SIGNS_OF_NO_MEMORY)


def describe_device(device: torch.device) -> str:
    """For summaries: ``cpu (2 threads)`` or ``cuda:0 (NVIDIA H200)``."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)


@dataclass(frozen=True)
class DeviceMemory:
    """A device, its name for people, and its free and whole memory in bytes (None where the system does not tell)."""

    id: str
    name: str
    free: int | None
    total: int | None

    def describe(self) -> str:
        """One line: ``cuda:0  NVIDIA H200, 120.1 of 139.8 GB free``."""
        return f"{self.id}  {self.name}" + ("" if self.free is None else f", {self.memory()}")

    def memory(self) -> str:
        """``120.1 of 139.8 GB free``; 10^9 bytes are one GB."""
        if self.free is None or self.total is None:
            return ""
        return f"{self.free / 1e9:.1f} of {self.total / 1e9:.1f} GB free"


def list_memory() -> list[DeviceMemory]:
    """The devices of :func:`available_devices`, with their memory."""
    found = []
    for device in available_devices():
        if device.startswith("cuda"):
            free, total = torch.cuda.mem_get_info(device)
            found.append(DeviceMemory(device, torch.cuda.get_device_name(device), free, total))
        elif device == "mps":
            found.append(DeviceMemory(device, "Apple GPU", None, None))
        else:
            found.append(DeviceMemory(device, f"{torch.get_num_threads()} threads", *_system_memory()))
    return found


def _system_memory() -> tuple[int | None, int | None]:
    """Memory that programs can still take, and all of it, in bytes; None where Python cannot find out."""
    table = Path("/proc/meminfo")
    if not table.exists():
        return None, None
    values = dict(line.split(":") for line in table.read_text().splitlines() if ":" in line)
    free, total = (int(values[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    return free, total


def peak_memory_mb(device: torch.device) -> float | None:
    """Peak resident memory of this process in MB (10^6 bytes), or of the GPU's allocator; None where unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    if status.exists():
        # Of this program alone: Linux hands getrusage's figure down to what a larger program starts, such as Slicer.
        lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        if lines:
            return int(lines[0].split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows has no such module
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
