"""The deformable part of a registration: network, pair optimisation or both, with fallbacks when memory ends."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch

from .checkpoints import Checkpoint
from .devices import describe_device, is_out_of_memory
from .errors import CycleRegWarning, OutOfMemoryError
from .fields import DisplacementField
from .methods import Method
from .networks.inference import predict_fields
from .networks.settings import DEFAULTS, InferenceSettings
from .optimize import Settings, Stage, optimize_pair
from .working_grid import WorkingGrid

Progress = Callable[[str, float], None]
# Each fallback after running out of memory works on this share of the voxels.
_COARSER = 0.25


@dataclass
class Deformation:
    """The deformable part of a registration, repeatable at lower resolution and on another device."""

    fixed: sitk.Image
    moving: sitk.Image
    fixed_mask: sitk.Image | None
    moving_mask: sitk.Image | None
    matrix: np.ndarray
    start: tuple[DisplacementField, DisplacementField] | None
    method: Method
    weights: Checkpoint | None
    refine_steps: int
    settings: Settings
    inference: InferenceSettings = DEFAULTS
    device_used: torch.device | None = None

    def run_with_fallbacks(
        self, device: torch.device, progress: Progress
    ) -> tuple[DisplacementField, DisplacementField, dict[str, float]]:
        """Run; when memory ends, again in another way, with a warning.

        The pair optimisation goes on with a coarser grid, then on the CPU.  A network is run on the CPU, where it gives
        the same field and takes seconds, and only then on a coarser grid; one that works on patches has by then tried
        fewer of them at a time (:func:`CycleRegLib.networks.patches.blended_flow`).

        Raises
        ------
        OutOfMemoryError
            When nothing is left to try.
        """
        devices = [device] if device.type == "cpu" else [device, torch.device("cpu")]
        if self.method.network:
            attempts = [*[(d, 1.0) for d in devices], (devices[-1], _COARSER)]
        else:
            attempts = [(d, share) for d in devices for share in (1.0, _COARSER)]
        for number, (where, share) in enumerate(attempts):
            if where.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(where)
            try:
                result = self._run(where, share, progress)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if number + 1 == len(attempts):
                    raise OutOfMemoryError(
                        f"Memory ran out on every device and resolution tried, {describe_device(where)} last. "
                        "Close other programs, crop the images, or resample them to larger voxels."
                    ) from error
                following, part = attempts[number + 1]
                how = f"on {following}" if following != where else f"with {part:.0%} of the voxels"
                warnings.warn(
                    f"Memory ran out on {describe_device(where)}; trying again {how}.", CycleRegWarning, stacklevel=2
                )
            else:
                self.device_used = where
                return result
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _run(
        self, device: torch.device, share: float, progress: Progress
    ) -> tuple[DisplacementField, DisplacementField, dict[str, float]]:
        seconds: dict[str, float] = {}
        start, settings = self.start, self.settings
        portion = 1.0
        if self.method.network:
            clock = time.perf_counter()
            portion = 0.5 if self.refine_steps else 1.0
            start = predict_fields(
                self.weights, self.fixed, self.moving, self.matrix, device,
                lambda stage, f: progress(stage, f * portion),
                max_voxels=None if share == 1.0 else int(share * np.prod(self.fixed.GetSize())),
                settings=self.inference,
                masks=(self.fixed_mask, self.moving_mask),
            )  # fmt: skip
            seconds["network"] = time.perf_counter() - clock
            if not self.refine_steps:
                return (*start, seconds)
            settings = dataclasses.replace(settings, stages=_refinement(settings, self.refine_steps))
        elif self.refine_steps:
            *coarse, finest = settings.stages
            finest = dataclasses.replace(finest, steps=finest.steps + self.refine_steps)
            settings = dataclasses.replace(settings, stages=(*coarse, finest))
        elif start is not None:
            # A field that was found before is refined, not searched for from afar.
            settings = dataclasses.replace(settings, stages=settings.stages[1:])
        clock = time.perf_counter()
        before = 1.0 - portion
        progress("optimize", before)
        # A share of what would be used, not of a limit that the image may never reach.
        voxels = share * min(settings.max_voxels, np.prod(self.fixed.GetSize())) if share < 1 else settings.max_voxels
        domain = WorkingGrid(
            self.fixed, self.moving, self.matrix, self.fixed_mask, self.moving_mask, int(voxels), device
        )
        forward, backward, _ = optimize_pair(
            domain, settings, start, lambda stage, f: progress(stage, before + portion * f)
        )
        seconds["optimize"] = time.perf_counter() - clock
        return forward, backward, seconds


def _refinement(settings: Settings, steps: int) -> tuple[Stage, ...]:
    """``steps`` shared by the LNCC stages in the proportions of the settings; at least one at the finest."""
    stages = [s for s in settings.stages if s.similarity == "lncc"]
    whole = sum(s.steps for s in stages)
    counts = [int(steps * s.steps / whole) for s in stages]
    counts[-1] += steps - sum(counts)
    return tuple(dataclasses.replace(s, steps=n) for s, n in zip(stages, counts) if n)
