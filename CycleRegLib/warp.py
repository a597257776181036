"""The one warp: interpolation of images and fields at arbitrary voxel positions, in torch, 2D and 3D.

Positions and flows are in voxels, components in **array-axis order** (z, y, x); see :mod:`CycleRegLib.geometry`
for the way between voxels and millimetres.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from .threads import Threads

# So many voxels at a time where no gradients are asked for.
_SLAB_VOXELS = 2**17


def index_positions(
    shape: tuple[int, ...],
    matrix: np.ndarray | None = None,
    first: int = 0,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Positions of the voxels of a slab, mapped by an affine matrix, as (1, *shape, n) float32.

    Parameters
    ----------
    shape
        Array shape of the slab, (z, y, x) or (y, x).
    matrix
        (n+1, n+1) homogeneous map on (x, y, z) indices (the convention of :class:`~CycleRegLib.geometry.Grid`),
        for example ``other.world_to_index @ grid.index_to_world``; the identity when left out.
    first
        Index of the slab's first slice along the slowest axis.
    """
    n = len(shape)
    # Reverse rows and columns: from (x, y, z) homogeneous to array-axis order.
    matrix = np.eye(n + 1) if matrix is None else np.asarray(matrix, dtype=np.float64)
    linear = matrix[:n, :n][::-1, ::-1]
    offset = matrix[:n, n][::-1] + linear[:, 0] * first
    positions = torch.empty((1, *shape, n), dtype=torch.float32, device=device)
    for row in range(n):
        # Summed in float64 per axis, so that large offsets do not cost precision before the last rounding.
        value = torch.full((1,) * n, float(offset[row]), dtype=torch.float64, device="cpu")
        for axis, length in enumerate(shape):
            if linear[row, axis] == 0:  # as along all axes but one where two grids are parallel
                continue
            view = [1] * n
            view[axis] = length
            value = value + (torch.arange(length, dtype=torch.float64) * float(linear[row, axis])).view(view)
        positions[0, ..., row] = value.to(positions)
    return positions


def sample(
    volume: torch.Tensor,
    positions: torch.Tensor,
    mode: str = "bilinear",
    padding: str = "zeros",
) -> torch.Tensor:
    """Interpolate ``volume`` at voxel ``positions``; differentiable in both.

    Parameters
    ----------
    volume
        (B, C, D, H, W) or (B, C, H, W).
    positions
        (B, d, h, w, 3) or (B, h, w, 2), voxels, components in array-axis order.
    mode
        ``"bilinear"`` (trilinear in 3D) or ``"nearest"``.
    padding
        ``"zeros"`` fades to zero within one voxel outside the outer voxel centres; ``"border"`` repeats the edge.

    Returns
    -------
    (B, C, d, h, w), equal to ``torch.nn.functional.grid_sample(align_corners=True)`` to 1e-6.

    Raises
    ------
    ValueError
        If the numbers of dimensions do not fit.
    """
    n = volume.dim() - 2
    if positions.shape[-1] != n or positions.dim() != n + 2:
        raise ValueError(f"positions of shape {tuple(positions.shape)} do not fit a volume of {tuple(volume.shape)}")
    shape = tuple(positions.shape[1:-1])
    if _in_slabs(volume, positions, shape):
        return _sample_slabs(volume, shape, lambda axis, slab: positions[0, slab, ..., axis], mode, padding)
    scale = torch.tensor(_scale(volume), dtype=positions.dtype)
    grid = (positions * scale.to(positions.device) - 1.0).flip(-1)
    threads = torch.get_num_threads()
    # PyTorch's CPU kernel is parallel over the batch only: hand it the slabs of one volume as a batch.
    if volume.device.type == "cpu" and volume.shape[0] == 1 and threads > 1 and grid.shape[1] % threads == 0:
        slabs = grid.reshape(threads, grid.shape[1] // threads, *grid.shape[2:])
        out = F.grid_sample(volume.expand(threads, *volume.shape[1:]), slabs, mode, padding, align_corners=True)
        return out.transpose(0, 1).reshape(1, volume.shape[1], *grid.shape[1:-1])
    return F.grid_sample(volume, grid, mode, padding, align_corners=True)


def _scale(volume: torch.Tensor) -> list[float]:
    """By which positions are multiplied for ``grid_sample``, where -1 and 1 are the outermost voxel centres."""
    return [2.0 / max(side - 1, 1) for side in volume.shape[2:]]


def _in_slabs(volume: torch.Tensor, other: torch.Tensor, shape: tuple[int, ...]) -> bool:
    """Whether one large volume is sampled without gradients on a processor."""
    return (
        volume.device.type == "cpu"
        and volume.shape[0] == other.shape[0] == 1
        and volume.dtype == other.dtype
        and math.prod(shape) > 2 * _SLAB_VOXELS
        and not (torch.is_grad_enabled() and (volume.requires_grad or other.requires_grad))
    )


def _sample_slabs(
    volume: torch.Tensor,
    shape: tuple[int, ...],
    positions: Callable[[int, slice], torch.Tensor],
    mode: str,
    padding: str,
) -> torch.Tensor:
    """:func:`sample` slab by slab, so that what a slab needs stays in the cache.

    ``positions(axis, slab)`` gives the positions along one array axis of a slab of the result.
    """
    n = len(shape)
    result = torch.empty((1, volume.shape[1], *shape), dtype=volume.dtype)
    step = max(1, _SLAB_VOXELS * shape[0] // math.prod(shape))

    def fill(start: int, stop: int) -> None:
        buffer = torch.empty((1, n, min(step, stop - start), *shape[1:]), dtype=volume.dtype)
        for first in range(start, stop, step):
            last = min(first + step, stop)
            grid = buffer[:, :, : last - first]
            for axis, scale in enumerate(_scale(volume)):  # grid_sample wants x first
                torch.mul(positions(axis, slice(first, last)), scale, out=grid[0, n - 1 - axis]).sub_(1.0)
            grid = grid.movedim(1, -1)
            result[:, :, first:last] = F.grid_sample(volume, grid, mode, padding, align_corners=True)

    with Threads() as threads:
        threads.share(shape[0], fill)
    return result


def inside(positions: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Which positions (1, ..., n) lie within the voxel edges of a grid of array ``shape``: (1, ...) bool."""
    limit = torch.tensor(shape, dtype=positions.dtype) - 0.5
    return ((positions >= -0.5) & (positions <= limit)).all(dim=-1)


def warp(
    image: torch.Tensor,
    flow: torch.Tensor,
    mode: str = "bilinear",
    padding: str = "zeros",
) -> torch.Tensor:
    """``warped(x) = image(x + flow(x))``.

    ``image`` is (B, C, D, H, W) or (B, C, H, W); ``flow`` (B, n, ...) in voxels, channels in array-axis order;
    the result has the flow's spatial shape.
    """
    shape = tuple(flow.shape[2:])
    if _in_slabs(image, flow, shape) and len(shape) == image.dim() - 2:

        def positions(axis: int, slab: slice) -> torch.Tensor:
            index = torch.arange(shape[axis], dtype=flow.dtype)
            own = index[slab] if axis == 0 else index
            return flow[0, axis, slab] + own.view([-1 if other == axis else 1 for other in range(len(shape))])

        return _sample_slabs(image, shape, positions, mode, padding)
    return sample(image, index_positions(shape, device=flow.device).to(flow.dtype) + flow.movedim(1, -1), mode, padding)


def compose_flows(first: torch.Tensor, second: torch.Tensor, padding: str = "border") -> torch.Tensor:
    """The flow that maps a point by ``first`` and the result by ``second``: ``first + second(x + first(x))``.

    Both are (B, n, ...) in voxels on the same grid.  Warping an image once with the result equals warping it with
    ``second`` and the outcome with ``first`` (METHODS.md, "Composition and direction").
    """
    return first + warp(second, first, padding=padding)
