"""Masks seen through a displacement field, linearly interpolated, many segments at little cost.

Linear interpolation of a mask, inside where it is at least one half, follows a warped surface more closely than
nearest neighbour: ``Testing/tests/test_evaluation.py`` measures both against the exact shape.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch

from .fields import DisplacementField
from .geometry import Grid
from .measures import bounding_box
from .warp import index_positions

_BLOCK = 8


class MaskWarper:
    """Interpolates masks of one grid through one field, each only where it can be seen.

    For blocks of 8 voxels a side, the bounds of where they land in the masks' grid are kept, so that a small segment
    costs little, however large the image.

    Parameters
    ----------
    field
        Where the result lies, and the map to points of the masks' space.
    source
        The 3D grid of the masks.
    """

    def __init__(self, field: DisplacementField, source: Grid) -> None:
        self.field, self.source = field, source
        grid = field.grid
        matrix = source.world_to_index @ grid.index_to_world
        linear = torch.from_numpy(source.world_to_index[:3, :3][::-1].T.copy()).float()
        low, high = [], []
        for start in range(0, grid.shape[0], _BLOCK):
            vectors = torch.from_numpy(field.vectors[start : start + _BLOCK])
            positions = index_positions(tuple(vectors.shape[:-1]), matrix, start).add_(vectors @ linear)[0].numpy()
            low.append(_reduce_blocks(np.minimum, positions))
            high.append(_reduce_blocks(np.maximum, positions))
        self._low, self._high = np.stack(low), np.stack(high)

    def __call__(self, mask: np.ndarray) -> np.ndarray:
        """Occupancy 0..1, float32, of array shape ``field.grid.shape``, for a bool mask of shape ``source.shape``."""
        result = np.zeros(self.field.grid.shape, np.float32)
        if not mask.any():
            return result
        # With one voxel of background the box holds all that interpolation can see of the mask.
        box = tuple(
            slice(max(b.start - 1, 0), min(b.stop + 1, n)) for b, n in zip(bounding_box(mask), self.source.shape)
        )
        first, last = (np.array([getattr(b, end) for b in box]) for end in ("start", "stop"))
        hit = ((self._high >= first - 1) & (self._low <= last)).all(axis=-1)
        if not hit.any():
            return result
        where = tuple(slice(b.start * _BLOCK, min(b.stop * _BLOCK, n)) for b, n in zip(bounding_box(hit), result.shape))
        part = _subgrid(self.source, box).image(mask[box].astype(np.float32))
        local = DisplacementField(self.field.vectors[where], _subgrid(self.field.grid, where))
        result[where] = sitk.GetArrayFromImage(local.warp(part, "linear", default=0.0))
        return result


def _reduce_blocks(operation: np.ufunc, positions: np.ndarray) -> np.ndarray:
    """One extreme per block of a slab of one block's depth: (blocks of y, blocks of x, 3)."""
    reduced = operation.reduce(positions, axis=0)
    for axis in (0, 1):
        reduced = operation.reduceat(reduced, np.arange(0, reduced.shape[axis], _BLOCK), axis=axis)
    return reduced


def _subgrid(grid: Grid, box: tuple[slice, ...]) -> Grid:
    """The part of a grid that an array box cuts out."""
    first = np.array([part.start for part in box[::-1]])
    size = tuple(part.stop - part.start for part in box[::-1])
    return Grid(size, grid.spacing, tuple(grid.to_world(first)), grid.direction)
