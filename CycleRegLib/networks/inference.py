"""Run a checkpoint's networks on a pair of images: flows in voxels, then displacement fields in millimetres."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Optional, Union

import numpy as np
import SimpleITK as sitk
import torch

from ..checkpoints import Checkpoint
from ..devices import resolve_precision
from ..errors import CycleRegWarning, InputError
from ..fields import DisplacementField
from ..geometry import Grid
from ..methods import get_method
from ..storage import slabs
from .blocks import RegistrationNetwork
from .multiscale import MultiscaleNetwork, batch_size
from .organ_slices import blank_beyond, find_organ_slices
from .preparation import to_network_grid
from .settings import DEFAULTS, InferenceSettings

_Progress = Optional[Callable[[str, float], None]]
_Device = Union[str, torch.device]
_PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_STAGE = "network"


def load_networks(checkpoint: Checkpoint, device: _Device = "cpu") -> dict[str, RegistrationNetwork]:
    """The checkpoint's networks by direction, ready on ``device``; built once and kept with the checkpoint."""
    key = str(torch.device(device))
    if key not in checkpoint.built:
        networks = {}
        for direction, state in checkpoint.networks.items():
            network = get_method(checkpoint.method).build_network(**checkpoint.config)
            network.load_state_dict(state, strict=True)
            network.eval().requires_grad_(False)
            networks[direction] = network.to(device, memory_format=_memory_format(network, device))
        checkpoint.built[key] = networks
    return checkpoint.built[key]


def _memory_format(network: RegistrationNetwork, device: _Device) -> torch.memory_format:
    # Channels last halves the time of 3D convolutions on CPUs; not every other backend has it.
    if torch.device(device).type not in ("cpu", "cuda"):
        return torch.contiguous_format
    return torch.channels_last_3d if network.dimension == 3 else torch.channels_last


@contextmanager
def arithmetic(device: _Device, precision: str) -> Iterator[None]:
    """In this context networks infer in the precision asked for; float32 means float32 on GPUs too (no TF32)."""
    kind = torch.device(device).type
    with torch.inference_mode(), torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    ):  # fmt: skip
        if precision == "float32":
            yield
        else:
            with torch.autocast(kind, dtype=_PRECISIONS[precision]):
                yield


def run_network(
    checkpoint: Checkpoint,
    fixed_array: np.ndarray,
    moving_array: np.ndarray,
    device: _Device = "cpu",
    progress: _Progress = None,
    settings: InferenceSettings = DEFAULTS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both flows between two images that lie on one network grid.

    A checkpoint with a network per direction runs each; a single network runs twice with the images exchanged;
    a network that gives both directions runs once.

    Parameters
    ----------
    checkpoint
        See :func:`CycleRegLib.checkpoints.read_checkpoint`.
    fixed_array, moving_array
        (z, y, x) float32, in 2D (y, x), of one shape (any: padded with zeros to the network's stride, and cropped);
        intensities as the network was trained on.
    device
        A torch device.
    progress
        Called with a stage and a fraction 0..1 before, between and after the passes; may raise Cancelled.
    settings
        Precision and, for networks that work in patches, how these are laid.  A precision below float32 differs
        from it by some hundredths of a voxel.

    Returns
    -------
    forward, backward
        (n, z, y, x) float32 on the CPU, voxels, channels in array-axis order; forward:
        ``fixed(x) ~ moving(x + flow(x))``, backward: ``moving(x) ~ fixed(x + flow(x))``.

    Raises
    ------
    InputError
        If the arrays differ in shape or are not of the network's dimension, or the flow is not finite.
    """
    report = progress or (lambda stage, fraction: None)
    report(_STAGE, 0.0)
    networks = load_networks(checkpoint, device)
    first = networks["forward"]
    chosen = "float32" if settings.precision == "auto" and not first.reducible else settings.precision
    precision = resolve_precision(chosen, device)
    if fixed_array.shape != moving_array.shape or fixed_array.ndim != first.dimension:
        raise InputError(
            f"The {checkpoint.method} checkpoint registers two {first.dimension}D images on one grid, but the arrays "
            f"have shapes {fixed_array.shape} and {moving_array.shape}."
        )
    _warn_of_padding(fixed_array.shape, first.stride)
    fixed, moving = (
        torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)) for array in (fixed_array, moving_array)
    )

    def run(network: RegistrationNetwork, *pair: torch.Tensor) -> Any:
        with arithmetic(device, precision):
            found = network(*[image.to(device) for image in pair])
        return tuple(flow.float().cpu() for flow in found) if network.both_directions else found.float().cpu()

    if first.both_directions:
        forward, backward = (flow[0] for flow in run(first, moving[None, None], fixed[None, None]))
    elif isinstance(first, MultiscaleNetwork):
        layout = first.lay_patches(fixed_array.shape, settings)
        batch = batch_size(device, layout)
        forward, backward = (
            network.flow(
                *pair, layout, run, settings.composition, batch, lambda part, done=done: report(_STAGE, done + part / 2)
            )
            for network, pair, done in (
                (first, (moving, fixed), 0.0),
                (networks.get("backward", first), (fixed, moving), 0.5),
            )
        )
    else:
        forward = run(first, moving[None, None], fixed[None, None])[0]
        report(_STAGE, 0.5)
        backward = run(networks.get("backward", first), fixed[None, None], moving[None, None])[0]
    report(_STAGE, 1.0)
    for direction, flow in (("forward", forward), ("backward", backward)):
        if not all(bool(torch.isfinite(flow[:, part]).all()) for part in slabs(tuple(flow.shape[1:]), flow)):
            raise InputError(
                f"The {direction} network of '{checkpoint.path}' gave NaN or infinite displacements for these images; "
                f"check that their intensities suit the checkpoint's normalisation ({checkpoint.normalisation})."
            )
    return forward, backward


def _warn_of_padding(shape: tuple[int, ...], stride: int) -> None:
    if min(shape) < stride:
        thin = ", ".join(
            f"{side} voxels along {'zyx'[-len(shape) :][axis]}" for axis, side in enumerate(shape) if side < stride
        )
        warnings.warn(
            f"What the network sees has only {thin}, but it is made for {stride} or more; zeros fill it up.",
            CycleRegWarning,
            stacklevel=3,
        )


def network_grid(fixed_grid: Grid, checkpoint: Checkpoint, max_voxels: int | None = None) -> Grid:
    """The grid on which the checkpoint's network sees a fixed image.

    It is the one that the checkpoint states, with the fixed image's axes and about its centre; else the fixed grid,
    coarsened to at most 192^3 voxels if the network sees it in one piece.  ``max_voxels`` coarsens any grid, when
    memory is short.

    Raises
    ------
    InputError
        If the checkpoint and the image have different dimensions.
    """
    allowed = checkpoint.config["dimension"]
    if fixed_grid.dimension != allowed:
        raise InputError(
            f"The checkpoint '{checkpoint.path}' registers {allowed}D images but the fixed image is "
            f"{fixed_grid.dimension}D."
        )
    if max_voxels is None and get_method(checkpoint.method).network_class().streams:
        max_voxels = sys.maxsize
    return checkpoint.grid.place(fixed_grid, max_voxels)


def predict_fields(
    checkpoint: Checkpoint,
    fixed: sitk.Image,
    moving: sitk.Image,
    matrix: np.ndarray | None = None,
    device: _Device = "cpu",
    progress: _Progress = None,
    max_voxels: int | None = None,
    settings: InferenceSettings = DEFAULTS,
    masks: tuple[sitk.Image | None, sitk.Image | None] = (None, None),
) -> tuple[DisplacementField, DisplacementField]:
    """Displacement fields of both directions, the affine stage included.

    The network sees the fixed image and the affinely aligned moving image on the network grid.  With the affine
    map A (fixed to moving points) and the network's displacements f and b in millimetres,

    * forward, on the fixed grid: ``p_moving = A(p + f(p))``;
    * backward, on the moving grid: ``p_fixed = q + b(q)`` with ``q = A^-1 p``.

    Beyond the network grid f and b keep their border value.  With ``settings.organ_slices`` the network grid is cut to
    the organ's slices (:mod:`CycleRegLib.networks.organ_slices`), and beyond them the same holds.

    Parameters
    ----------
    fixed, moving
        Scalar images of any geometry; resampled for the network's input only.
    matrix
        (n+1, n+1), LPS mm; the identity when left out.
    device, progress, settings
        See :func:`run_network`.
    masks
        Of the fixed and the moving image, on any grid; used where the settings ask for the organ's slices alone.
    max_voxels
        See :func:`network_grid`.

    Raises
    ------
    InputError
        As :func:`run_network` and :func:`network_grid`; if the matrix is singular; if the organ's slices are asked
        for and there is no mask, or an empty one.

    Warns
    -----
    CycleRegWarning
        If the checkpoint is a plain state dict, so that normalisation and grid are assumed; if the grid is coarser than
        the checkpoint's, or too thin for the network or its patches, so that zeros fill it up; if patches are changed.
    """
    report = progress or (lambda stage, fraction: None)
    fixed_grid, moving_grid = Grid.of(fixed), Grid.of(moving)
    n = fixed_grid.dimension
    matrix = np.eye(n + 1) if matrix is None else np.asarray(matrix, dtype=np.float64)
    if abs(np.linalg.det(matrix[:n, :n])) < 1e-9:
        raise InputError("The affine transform before the network is singular; start from another one.")
    grid = network_grid(fixed_grid, checkpoint, max_voxels)
    _warn(checkpoint, fixed_grid, grid)
    report(_STAGE, 0.0)
    maps = (np.eye(n + 1), matrix)
    organ = None
    if settings.organ_slices:
        organ = find_organ_slices(grid, fixed, moving, masks, matrix)
        grid = organ.grid
    inputs = [
        to_network_grid(image, grid, to_image, checkpoint.normalisation)
        for image, to_image in zip((fixed, moving), maps)
    ]
    if organ is not None:
        for array, own, to_image, slices in zip(inputs, (fixed_grid, moving_grid), maps, (organ.fixed, organ.moving)):
            blank_beyond(array, grid, own, to_image, slices)
    report(_STAGE, 0.1)
    forward, backward = run_network(
        checkpoint, *inputs, device, lambda stage, part: report(stage, 0.1 + 0.75 * part), settings
    )
    del inputs
    field = DisplacementField.from_flow(forward, grid, fixed_grid, after=matrix)
    del forward
    report(_STAGE, 0.9)
    inverse = DisplacementField.from_flow(backward, grid, moving_grid, before=np.linalg.inv(matrix))
    report(_STAGE, 1.0)
    return field, inverse


def _warn(checkpoint: Checkpoint, fixed: Grid, grid: Grid) -> None:
    if not checkpoint.metadata:
        warnings.warn(
            f"The checkpoint '{checkpoint.path.name}' is a plain state dict and says neither for which voxels nor for "
            f"which intensities it was trained; {grid.describe()} and intensities '{checkpoint.normalisation}' are "
            "assumed. Convert it with `cyclereg checkpoint convert` to state them.",
            CycleRegWarning,
            stacklevel=3,
        )
        return
    whole = checkpoint.grid.place(fixed, sys.maxsize)
    if not grid.same_as(whole):
        warnings.warn(
            f"The network works on {grid.describe()} instead of {whole.describe()}, to keep within memory.",
            CycleRegWarning,
            stacklevel=3,
        )
