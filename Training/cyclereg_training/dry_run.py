"""What a training will need, measured before hours are spent: a step of every phase at the largest shape."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor

from CycleRegLib.devices import is_out_of_memory, peak_memory_mb
from CycleRegLib.errors import OutOfMemoryError

from .config import Config
from .module import TrainingModule

_MULTIPLE = 16
_LEAST_SIDE = 16
_FACTORS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_SPARE = 0.9  # of the free memory, for what a longer run needs besides


@dataclass(frozen=True)
class Measured:
    """Seconds and peak memory of one step, forward and backward and the optimiser's."""

    shape: tuple[int, ...]
    seconds: float
    megabytes: float | None


def measure_step(
    module: TrainingModule, pair: Mapping[str, Tensor], shape: tuple[int, ...], device: torch.device
) -> Measured:
    """One training step at a shape, in the phase that takes most.

    The module is on the device afterwards, its weights as before.

    Parameters
    ----------
    pair
        A batch as the data give it; it is brought to the shape and to the configuration's batch size.
    """
    module.to(device)
    batch = {name: value.to(device) for name, value in resized(pair, shape, module.config.batch_size).items()}
    kept = {name: value.detach().clone() for name, value in module.state_dict().items()}
    slowest = Measured(shape, 0.0, None)
    try:
        for phase in module.objective.phases:
            phase.begin(module.networks)
            optimizer = module.configure_optimizers()
            for warm in (False, True):
                with _peak(device) as peak:
                    began = time.perf_counter()
                    with _autocast(module.config, device):
                        loss = module.objective(module.networks, batch, phase)["loss"]
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                    if device.type == "cuda":
                        torch.cuda.synchronize(device)
                    seconds = time.perf_counter() - began
                if warm:
                    most = max((m for m in (slowest.megabytes, peak[0]) if m is not None), default=None)
                    slowest = Measured(shape, max(slowest.seconds, seconds), most)
    finally:
        module.zero_grad(set_to_none=True)
        module.requires_grad_(True)
        module.load_state_dict(kept)
    return slowest


def resized(pair: Mapping[str, Any], shape: tuple[int, ...], batch_size: int) -> dict[str, Tensor]:
    """Images, labels and fields of a batch of one brought to another shape and batch size; the rest left out."""
    n = len(shape)
    found = {}
    for name, value in pair.items():
        if isinstance(value, Tensor) and value.dim() == n + 2:
            small = F.interpolate(value[:1].float(), size=shape, mode="nearest-exact").to(value.dtype)
            found[name] = small.expand(batch_size, *small.shape[1:]).contiguous()
    return found


def shape_that_fits(
    module: TrainingModule, pair: Mapping[str, Tensor], shape: tuple[int, ...], device: torch.device
) -> Measured | None:
    """The largest of some smaller shapes of about the same proportions at which a step fits; ``None``: none does."""
    tried = {shape}
    for factor in _FACTORS:
        smaller = tuple(max(_LEAST_SIDE, int(side * factor) // _MULTIPLE * _MULTIPLE) for side in shape)
        if smaller in tried or math.prod(smaller) >= math.prod(shape):
            continue
        tried.add(smaller)
        try:
            return measure_step(module, pair, smaller, device)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return None


def too_large(
    module: TrainingModule, pair: Mapping[str, Tensor], shape: tuple[int, ...], device: torch.device
) -> OutOfMemoryError:
    """The error that says which size fits instead, which is tried out for it."""
    has = _memory_of(device)
    room = f" has ({has / 1e9:.1f} GB)" if has else " has"
    text = (
        f"A training step at {_by(shape)} voxels, batch size {module.config.batch_size}, needs more memory than "
        f"{device}{room}."
    )
    fits = shape_that_fits(module, pair, shape, device)
    if fits is None:
        return OutOfMemoryError(f"{text} No smaller shape fits either; close other programs or use a smaller network.")
    took = "" if fits.megabytes is None else f" (measured: {fits.megabytes / 1000:.2g} GB)"
    ways = []
    if module.config.batch_size > 1:
        ways.append("batch_size=1 with trainer.accumulate_grad_batches")
    if module.config.trainer.precision == "32-true":
        ways.append("trainer.precision=bf16-mixed")
    also = f", or try {' or '.join(ways)}" if ways else ""
    return OutOfMemoryError(f"{text} {_by(fits.shape)} fits{took}: crop or resample the images to that{also}.")


def dry_run(config: Config, module: TrainingModule, data: Any, trainer: lightning.Trainer) -> Iterator[str]:
    """Lines for people: the data are read, a step is made at the largest shape, time and memory are reported.

    Raises
    ------
    OutOfMemoryError
        If the largest shape does not fit; says which does.
    InputError
        Whatever is wrong with data, networks or objective.
    """
    device = trainer.strategy.root_device
    data.trainer = trainer
    data.prepare_data()
    data.setup("fit")
    pair, shape = data.validation_pair, tuple(data.shape)
    loader = data.train_dataloader()
    steps = len(loader)
    began = time.perf_counter()
    batch = next(iter(loader))
    batch = data.on_after_batch_transfer(data.transfer_batch_to_device(batch, device, 0), 0)
    loading = time.perf_counter() - began
    held = ", ".join(name for name in batch if isinstance(batch[name], Tensor) and batch[name].dim() > 2)
    yield f"data: {steps} batches of {config.batch_size} in an epoch, with {held}; {_by(shape)} voxels at most"
    parameters = sum(p.numel() for p in module.parameters())
    phases = ", ".join(phase.name for phase in module.objective.phases)
    yield f"network: {config.method}, {parameters:,} parameters; phases: {phases}"
    try:
        _foresee(module, pair, shape, device)
        found = measure_step(module, pair, shape, device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise too_large(module, pair, shape, device) from error
    has = _memory_of(device)
    memory = "" if found.megabytes is None else f"; peak memory {found.megabytes / 1000:.2f} GB"
    memory += f" of {has / 1e9:.1f} GB" if memory and has else ""
    yield f"a step at {_by(shape)}: {found.seconds:.2f} s on {device}, its data {loading:.2f} s{memory}"
    # Worker processes make batches while the network learns.
    workers = getattr(loader, "num_workers", 0)
    each = max(found.seconds, loading / workers) if workers else found.seconds + loading
    epoch = steps * each
    epochs = config.trainer.max_epochs or module.objective.epochs
    whole = f"; {epochs} epochs {_time(epochs * epoch)}" if epochs else ""
    yield f"an epoch at that shape: about {_time(epoch)}{whole}"


def _foresee(module: TrainingModule, pair: Mapping[str, Tensor], shape: tuple[int, ...], device: torch.device) -> None:
    """Refuse on a CPU what cannot fit, before the system ends this program or others for it."""
    has = _memory_of(device)
    small = tuple(max(_LEAST_SIDE, side // 2 // _MULTIPLE * _MULTIPLE) for side in shape)
    if device.type != "cpu" or has is None or math.prod(small) >= math.prod(shape):
        return
    before = peak_memory_mb(device) or 0.0
    found = measure_step(module, pair, small, device).megabytes
    if found is not None and 1e6 * max(0.0, found - before) * math.prod(shape) / math.prod(small) > _SPARE * has:
        raise MemoryError("out of memory, as foreseen from a smaller step")


@contextmanager
def _peak(device: torch.device) -> Iterator[list[float | None]]:
    """The peak memory while the context lasts, in MB; on Linux and CUDA really of that time alone."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        with suppress(OSError):  # some containers forbid it: then it is the peak since the start
            Path("/proc/self/clear_refs").write_text("5")
    found: list[float | None] = [None]
    yield found
    found[0] = peak_memory_mb(device)


def _autocast(config: Config, device: torch.device) -> torch.autocast:
    dtype = _DTYPES.get(config.trainer.precision)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def _memory_of(device: torch.device) -> int | None:
    """Bytes that the device has, on a CPU those that are free."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else None


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in shape)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
