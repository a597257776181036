"""The slices that show an organ: what a network sees of a pair when everything else is left out.

The papers' liver CT (Kim et al. 2021, section IV.A and figure 5): slices that include the liver are extracted from both
volumes, and zeros fill the shallower one up above and below, so that both have the same number of slices.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Optional

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..geometry import Grid
from ..image_checks import check_mask
from ..storage import slabs
from ..warp import index_positions

Masks = tuple[Optional[sitk.Image], Optional[sitk.Image]]


@dataclass(frozen=True)
class OrganSlices:
    """What is left of a pair.

    Attributes
    ----------
    grid
        The network grid, cut to the slices that show either organ.
    fixed, moving
        First and last slice with the organ in the image itself, along its slowest axis; ``None`` without a mask.
    """

    grid: Grid
    fixed: tuple[int, int] | None
    moving: tuple[int, int] | None


def find_organ_slices(
    grid: Grid, fixed: sitk.Image, moving: sitk.Image, masks: Masks, matrix: np.ndarray
) -> OrganSlices:
    """Cut a network grid to the slices of the organ.

    The slices are those of the fixed image's slowest axis (of axial CT the axial ones); of the network grid it is the
    axis that lies nearest to it.  They reach from the first to the last that shows the organ in the fixed image, and on
    to where the moving image's organ reaches under the affine map.

    Parameters
    ----------
    grid
        The network grid.
    fixed, moving
        The images.
    masks
        Of the organ in the fixed and in the moving image, on any grid, non-zero inside; one of them may be missing.
    matrix
        (n+1, n+1), fixed to moving points, LPS mm.

    Raises
    ------
    InputError
        If there is no mask, or one is empty or lies outside its image.
    """
    if masks[0] is None and masks[1] is None:
        raise InputError(
            "The organ's slices alone were asked for, but there is no mask that shows the organ. Give --fixed-mask, "
            "--moving-mask or both."
        )
    n = grid.dimension
    slowest = Grid.of(fixed).direction_matrix[:, -1]
    axis = int(np.argmax(np.abs(slowest @ grid.direction_matrix)))
    ranges: list[tuple[int, int] | None] = []
    reached = []
    for image, mask, what, to_image in (
        (fixed, masks[0], "fixed mask", np.eye(n + 1)),
        (moving, masks[1], "moving mask", matrix),
    ):
        if mask is None:
            ranges.append(None)
            continue
        own = Grid.of(image)
        on_image = check_mask(mask, own, what)  # has a name, as a view does not keep its image alive
        box = _bounding_box(sitk.GetArrayViewFromImage(on_image))
        ranges.append(box[-1])
        to_grid = grid.world_to_index @ np.linalg.inv(to_image) @ own.index_to_world
        corners = np.array([[*corner, 1.0] for corner in product(*[(low - 0.5, high + 0.5) for low, high in box])])
        reached += list((corners @ to_grid.T)[:, axis])
    # Every slice that is touched.
    first = int(np.floor(min(reached) + 0.5 + 1e-6))
    last = max(first, int(np.ceil(max(reached) - 0.5 - 1e-6)))
    size = tuple(last - first + 1 if a == axis else count for a, count in enumerate(grid.size))
    origin = grid.to_world(np.array([first if a == axis else 0.0 for a in range(n)]))
    return OrganSlices(Grid(size, grid.spacing, tuple(origin), grid.direction), ranges[0], ranges[1])


def _bounding_box(array: np.ndarray) -> list[tuple[int, int]]:
    """First and last index with a non-zero value, along x, y, z."""
    lines = [np.zeros(side, bool) for side in array.shape]
    for part in slabs(array.shape):
        inside = array[part] != 0
        for axis, line in enumerate(lines):
            found = inside.any(axis=tuple(a for a in range(array.ndim) if a != axis))
            if axis == 0:
                line[part] = found
            else:
                line |= found
    return [(int(where[0]), int(where[-1])) for where in map(np.flatnonzero, reversed(lines))]


def blank_beyond(array: np.ndarray, grid: Grid, own: Grid, matrix: np.ndarray, slices: tuple[int, int] | None) -> None:
    """Set to zero, in place, the voxels of an image on the network grid that lie beyond its own slices of the organ.

    Parameters
    ----------
    array
        (z, y, x) on ``grid``; zero is the background of networks.
    own, matrix
        The image's own grid, and the map from the network grid's space to it, LPS mm.
    slices
        First and last of the image's own; ``None`` leaves everything.
    """
    if slices is None:
        return
    place = own.world_to_index @ matrix @ grid.index_to_world
    for part in slabs(grid.shape, array):
        index = index_positions((part.stop - part.start, *grid.shape[1:]), place, part.start)[0, ..., 0].numpy()
        array[part][(index < slices[0] - 0.5) | (index > slices[1] + 0.5)] = 0.0
