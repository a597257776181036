"""The main job: two images in, a displacement field in both directions, the warped image and its figures out."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from .affine import register_affine
from .affine_2d import register_affine_2d
from .checkpoints import Checkpoint, read_checkpoint
from .comparison import compare, there_and_back
from .deformation import Deformation
from .devices import describe_device, peak_memory_mb, resolve_device
from .errors import CycleRegWarning, InputError, is_about_this_pair
from .fields import DisplacementField
from .geometry import Grid
from .image_checks import check_mask, check_overlap
from .images import resample_to
from .images_2d import check_input, grey, warp_channels
from .measures import JacobianStatistics, jacobian_statistics, lncc, mean_and_percentile
from .methods import DEFAULT_METHOD, Method, get_method
from .networks.settings import DEFAULTS, InferenceSettings
from .optimize import Settings
from .planar import FlatPair
from .presets import get_preset, method_of
from .storage import slabs

Progress = Callable[[str, float], None]
AFFINE_MODES = ("auto", "none", "rigid", "affine")
# Similarity before and after is measured on at most this many voxels.
_SIMILARITY_VOXELS = 500_000


@dataclass
class RegistrationResult:
    """What :func:`register` gives back.

    Attributes
    ----------
    field
        On the fixed grid, fixed to moving points, LPS mm: initial transform, affine stage and deformation in one.
        Of single slices it has three components and leads from the one slice to the other; of 2D images two.
    inverse
        On the moving grid, moving to fixed points.
    warped
        The moving image resampled once onto the fixed grid; float32, but a picture or single slice keeps its type and
        channels.
    affine
        (4, 4) matrix of the affine stage, LPS mm; (3, 3) of 2D images.
    seconds
        Wall time by stage, and ``total``.
    similarity
        Squared LNCC, window 9, 0..1, ``before`` and ``after``.
    jacobian_statistics
        Of the determinant on the fixed grid; ``folding_percent`` is the share of voxels where it is not positive.
    roundtrip_mm
        ``mean`` and ``p95`` of ``|u(x) + v(x + u(x))|`` over the voxels that land inside the moving image.
    image_measures
        Of pictures and single slices, on their grey images: ``nmse`` and ``ssim`` with the fixed image, ``before`` and
        ``after``; ``reversibility`` of the moving image and ``reversibility_fixed`` of the fixed one, ``nmse`` and
        ``ssim`` with themselves after being warped there and back.  Empty for volumes.
    flat
        The plane of pictures and single slices; None for volumes.
    warnings
        What the user should know, as shown.
    """

    fixed: sitk.Image
    moving: sitk.Image
    field: DisplacementField
    inverse: DisplacementField
    warped: sitk.Image
    method: str
    checkpoint: str | None
    checkpoint_sha256: str | None
    device: str
    affine: np.ndarray
    seconds: dict[str, float]
    peak_memory_mb: float | None
    similarity: dict[str, float]
    jacobian_statistics: JacobianStatistics
    roundtrip_mm: dict[str, float]
    warnings: list[str] = field(default_factory=list)
    image_measures: dict[str, dict[str, float]] = field(default_factory=dict)
    flat: FlatPair | None = None

    @property
    def folding_percent(self) -> float:
        return self.jacobian_statistics.folding_percent

    def jacobian(self) -> sitk.Image:
        """Jacobian determinant on the fixed grid, no unit; 1 keeps volume (in 2D area), 0.5 halves it."""
        if self.flat is not None:
            return self.flat.determinant(self.field)
        return self.field.grid.image(self.field.jacobian_determinant())

    def roundtrip_image(self) -> sitk.Image:
        """Round-trip error on the fixed grid in mm; -1 where the voxel's partner lies outside the moving image."""
        if self.flat is None:
            error = self.field.round_trip(self.inverse)
            for part in slabs(error.shape, error):
                np.nan_to_num(error[part], copy=False, nan=-1.0)
            return self.field.grid.image(error)
        error = self.flat.field_in_plane(self.field).round_trip(self.flat.field_in_plane(self.inverse, "moving"))
        return self.flat.restore(np.where(np.isnan(error), np.float32(-1), error), "fixed")

    def summary(self) -> dict[str, Any]:
        """JSON-ready figures, by the names of the command line's ``--json``."""
        from . import __version__

        return {
            "method": self.method,
            "checkpoint": self.checkpoint,
            "checkpoint_sha256": self.checkpoint_sha256,
            "device": self.device,
            "seconds": {stage: round(value, 3) for stage, value in self.seconds.items()},
            "peak_memory_mb": None if self.peak_memory_mb is None else round(self.peak_memory_mb, 1),
            "similarity": dict(self.similarity, measure="squared LNCC, window 9"),
            "folding_percent": self.folding_percent,
            "jacobian": dataclasses.asdict(self.jacobian_statistics),
            "roundtrip_mm": self.roundtrip_mm,
            **self.image_measures,
            "affine_matrix_lps": np.round(self.affine, 6).tolist(),
            "fixed_grid": self.field.grid.describe(),
            "moving_grid": self.inverse.grid.describe(),
            "versions": {
                "cyclereg": __version__,
                "torch": torch.__version__,
                "simpleitk": sitk.Version_VersionString(),
                "numpy": np.__version__,
            },
            "warnings": list(self.warnings),
        }


def register(
    fixed: sitk.Image,
    moving: sitk.Image,
    method: str | None = None,
    checkpoint: os.PathLike[str] | str | Checkpoint | None = None,
    backward_checkpoint: os.PathLike[str] | str | None = None,
    device: str = "auto",
    initial_transform: sitk.Transform | None = None,
    affine: str = "auto",
    fixed_mask: sitk.Image | None = None,
    moving_mask: sitk.Image | None = None,
    refine_steps: int = 0,
    smoothness: float = 1.0,
    settings: Settings | None = None,
    inference: InferenceSettings | None = None,
    progress: Progress | None = None,
    preset: str | None = None,
) -> RegistrationResult:
    """Register ``moving`` onto ``fixed``, in both directions.

    Parameters
    ----------
    fixed, moving
        3D scalar images of any spacing, origin and direction.  With weights for 2D: two 2D images or two single slices
        of any orientation, grey or RGB; colours are registered by their grey image (:func:`~.images_2d.grey`).
    method
        Id of :func:`CycleRegLib.methods.list_methods`; the pair optimisation when left out.
    checkpoint, backward_checkpoint
        Weights of a network method, the shipped ones (if any) when left out; the second only where both networks lie
        in files of their own.
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    initial_transform
        Fixed to moving points, LPS mm, linear or not.
    affine
        ``rigid``, ``affine``, ``none``; ``auto`` is ``affine``, or ``none`` after an initial transform that deforms.
    fixed_mask, moving_mask
        Non-zero voxels count; on any grid.
    refine_steps
        Steps of pair optimisation after a network; extra steps at the finest level for ``optimize``.
    smoothness
        How smooth the pair optimisation keeps the fields, as a multiple of the default; no unit.
    settings
        Numbers of the pair optimisation.
    inference
        How a network is run: precision, patches, composition, the organ's slices alone.
    progress
        Called with (stage, fraction of the whole, 0..1); may raise :class:`~CycleRegLib.errors.Cancelled`.
    preset
        Id of :func:`CycleRegLib.presets.list_presets`, in place of a method; ``settings`` are its own where given.

    Raises
    ------
    InputError
        If anything given cannot be used; the message says what and how to mend it.
    OutOfMemoryError
        If memory ran out on every device and resolution that was tried.
    """
    began = time.perf_counter()
    report = progress or (lambda stage, fraction: None)
    report("check", 0.0)
    method = method_of(method, preset)
    if preset is not None:
        settings = settings or get_preset(preset).settings()
        refine_steps += get_preset(preset).refine_steps
    chosen = check_options(method, checkpoint, backward_checkpoint, affine, refine_steps, smoothness)
    where = resolve_device(device)
    settings = (settings or Settings()).smoother(smoothness)
    weights = _weights(chosen, checkpoint, backward_checkpoint)
    dimension = chosen.dimensions[0] if weights is None else weights.config["dimension"]
    given = fixed, moving = tuple(
        check_input(image, f"{side} image", (dimension,), chosen)
        for side, image in (("fixed", fixed), ("moving", moving))
    )
    flat = None
    if dimension == 2:
        if refine_steps:
            raise InputError("Refinement steps are pair optimisation, which is for volumes. Leave them out in 2D.")
        if inference is not None and inference.organ_slices:
            raise InputError("A picture or single slice has no slices to leave out. Leave out --organ-slices in 2D.")
        flat = FlatPair(fixed, moving)
        fixed, moving = grey(flat.fixed), grey(flat.moving)
        fixed_mask, moving_mask = (
            None if mask is None else flat.flatten(mask, side)
            for side, mask in (("fixed", fixed_mask), ("moving", moving_mask))
        )
        initial_transform = None if initial_transform is None else flat.transform_in_plane(initial_transform)
    fixed_grid, moving_grid = Grid.of(fixed), Grid.of(moving)
    if fixed_mask is not None:
        fixed_mask = check_mask(fixed_mask, fixed_grid, "fixed mask")
    if moving_mask is not None:
        moving_mask = check_mask(moving_mask, moving_grid, "moving mask")
    if initial_transform is not None:
        check_overlap(fixed_grid, moving_grid, initial_transform, "after the initial transform")
    elif affine == "none":
        check_overlap(fixed_grid, moving_grid, None, "as they lie, and the affine stage is switched off")

    with _collected_warnings() as messages:
        seconds = {"check": time.perf_counter() - began}
        clock = time.perf_counter()
        matrix, start = _align(
            fixed, moving, affine, fixed_mask, moving_mask, initial_transform, where,
            lambda stage, f: report(stage, 0.02 + 0.18 * f),
        )  # fmt: skip
        seconds["affine"] = time.perf_counter() - clock
        job = Deformation(
            fixed, moving, fixed_mask, moving_mask, matrix, start, chosen, weights, refine_steps, settings,
            inference or DEFAULTS,
        )  # fmt: skip
        forward, backward, stages = job.run_with_fallbacks(where, lambda stage, f: report(stage, 0.2 + 0.65 * f))
        seconds.update(stages)
        report("measure", 0.86)
        clock = time.perf_counter()
        warped = forward.warp(moving) if flat is None else warp_channels(flat.moving, forward)
        report("measure", 0.9)
        statistics = jacobian_statistics(forward.jacobian_determinant())
        trip_mean, trip_p95 = mean_and_percentile(forward.round_trip(backward), 95)
        report("measure", 0.95)
        similarity = _similarity(fixed, moving, initial_transform, forward)
        image_measures = {}
        if flat is not None:
            image_measures = _image_measures(fixed, moving, initial_transform, forward, backward)
            forward, backward = flat.field_in_space(forward), flat.field_in_space(backward, "moving")
            warped = flat.restore(sitk.GetArrayViewFromImage(warped), "fixed")
            matrix = flat.matrix_in_space(matrix)
        seconds["measure"] = time.perf_counter() - clock
    seconds["total"] = time.perf_counter() - began
    report("done", 1.0)
    return RegistrationResult(
        fixed=given[0],
        moving=given[1],
        field=forward,
        inverse=backward,
        warped=warped,
        method=chosen.id,
        checkpoint=str(weights.path) if weights else None,
        checkpoint_sha256=weights.sha256 if weights else None,
        device=describe_device(job.device_used or where),
        affine=matrix,
        seconds=seconds,
        peak_memory_mb=peak_memory_mb(job.device_used or where),
        similarity=similarity,
        jacobian_statistics=statistics,
        roundtrip_mm={"mean": trip_mean, "p95": trip_p95},
        warnings=messages,
        image_measures=image_measures,
        flat=flat,
    )


@contextlib.contextmanager
def _collected_warnings() -> Iterator[list[str]]:
    """Collects the messages of CycleReg's warnings, which are shown as usual when the block ends, however it does."""
    messages: list[str] = []
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield messages
            messages += [str(item.message) for item in caught if is_about_this_pair(item.message)]
    finally:
        for item in caught:
            warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)


def check_options(
    method: str | None = None,
    checkpoint: os.PathLike[str] | str | Checkpoint | None = None,
    backward_checkpoint: os.PathLike[str] | str | None = None,
    affine: str = "auto",
    refine_steps: int = 0,
    smoothness: float = 1.0,
) -> Method:
    """What can be said about the arguments of :func:`register` before anything is read; returns the method.

    Raises
    ------
    InputError
        If a value is out of its range, or method and checkpoint do not go together.
    """
    chosen = get_method(method or DEFAULT_METHOD)
    if affine not in AFFINE_MODES:
        raise InputError(f"Unknown affine stage '{affine}'. Use one of: {', '.join(AFFINE_MODES)}.")
    if refine_steps < 0:
        raise InputError(f"The number of refinement steps must not be negative; it is {refine_steps}.")
    if not 0 < smoothness < float("inf"):
        raise InputError(f"The smoothness must be a positive number; it is {smoothness:g}. 1 is the default.")
    if not chosen.uses_checkpoint and (checkpoint is not None or backward_checkpoint is not None):
        raise InputError(
            f"The method {chosen.id} uses no checkpoint, but one was given. Leave it out or choose the network "
            "method that it belongs to."
        )
    if chosen.needs_checkpoint and checkpoint is None:
        raise InputError(
            f"The method {chosen.id} needs trained weights: give --checkpoint FILE (.safetensors, .pth or .pt). "
            f"Without weights, use --method {DEFAULT_METHOD}, which needs none."
        )
    return chosen


def _weights(
    method: Method,
    checkpoint: os.PathLike[str] | str | Checkpoint | None,
    backward: os.PathLike[str] | str | None,
) -> Checkpoint | None:
    checkpoint = method.shipped_checkpoint() if checkpoint is None else checkpoint
    if checkpoint is None or isinstance(checkpoint, Checkpoint):
        return checkpoint
    return read_checkpoint(checkpoint, method=method.id, backward=backward)


def _align(
    fixed: sitk.Image,
    moving: sitk.Image,
    mode: str,
    fixed_mask: sitk.Image | None,
    moving_mask: sitk.Image | None,
    initial: sitk.Transform | None,
    device: torch.device,
    progress: Progress,
) -> tuple[np.ndarray, tuple[DisplacementField, DisplacementField] | None]:
    """The affine map, and both fields of an initial transform that deforms (None when it is linear or absent)."""
    start = None
    first = np.eye(fixed.GetDimension() + 1)
    if initial is not None:
        whole = DisplacementField.from_transform(initial, Grid.of(fixed))
        first = whole.fit_affine()
        if not initial.IsLinear():
            if mode in ("rigid", "affine"):
                warnings.warn(
                    f"The initial transform deforms; with --affine {mode} only its affine part is used.",
                    CycleRegWarning,
                    stacklevel=3,
                )
            else:
                back = whole.inverse(Grid.of(moving))
                if not back.residual_mean_mm < 1.0:
                    warnings.warn(
                        f"The initial transform is not invertible (mean residual {back.residual_mean_mm:.1f} mm); the "
                        "start of the backward direction is rough.",
                        CycleRegWarning,
                        stacklevel=3,
                    )
                start = whole, back.field
    if mode == "none" or (mode == "auto" and start is not None):
        progress("affine", 1.0)
        return first, start
    mode = "affine" if mode == "auto" else mode
    if fixed.GetDimension() == 2:
        return register_affine_2d(fixed, moving, mode, fixed_mask, moving_mask, initial, progress), None
    return register_affine(fixed, moving, mode, fixed_mask, moving_mask, initial, progress, str(device)).matrix, None


def _similarity(
    fixed: sitk.Image, moving: sitk.Image, initial: sitk.Transform | None, forward: DisplacementField
) -> dict[str, float]:
    """Squared LNCC before (under the initial transform) and after, over voxels that see the moving image both times."""
    grid = Grid.of(fixed)
    shrink = min(1.0, (_SIMILARITY_VOXELS / np.prod(grid.size)) ** (1 / grid.dimension))
    if shrink < 1.0:
        grid = grid.with_size([max(4, round(s * shrink)) for s in grid.size])
        forward = forward.resampled(grid)
    reference = sitk.GetArrayFromImage(resample_to(fixed, grid))
    low = float(sitk.GetArrayViewFromImage(moving).min())
    outside = low - 1e6
    before = sitk.GetArrayFromImage(resample_to(moving, grid, initial, default=outside))
    after = sitk.GetArrayFromImage(forward.warp(moving, default=outside))
    seen = (before > outside / 2 + low / 2) & (after > outside / 2 + low / 2)
    if not seen.any():
        seen = after > outside / 2 + low / 2
        before = np.where(before > outside / 2 + low / 2, before, low)
    before, after = np.where(seen, before, low), np.where(seen, after, low)
    return {"before": lncc(reference, before, seen), "after": lncc(reference, after, seen)}


def _image_measures(
    fixed: sitk.Image,
    moving: sitk.Image,
    initial: sitk.Transform | None,
    forward: DisplacementField,
    backward: DisplacementField,
) -> dict[str, dict[str, float]]:
    """What CycleMorph's paper measures of pictures (section IV.B, tables I and II)."""
    grid = forward.grid
    before = (
        DisplacementField.identity(grid) if initial is None else DisplacementField.from_transform(initial, grid)
    )  # fmt: skip
    changes, _ = compare(fixed, moving, before, forward, ("nmse", "ssim"))
    return {
        **{name: dataclasses.asdict(change) for name, change in changes.items()},
        "reversibility": there_and_back(moving, forward, backward),
        "reversibility_fixed": there_and_back(fixed, backward, forward),
    }
