"""The fixed and the warped image in one image, for viewers that show volumes: a checkerboard, and their difference."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .geometry import Grid
from .images_2d import grey

Window = tuple[float, float]


def checkerboard(
    fixed: sitk.Image,
    warped: sitk.Image,
    square_mm: float,
    fixed_window: Window | None = None,
    warped_window: Window | None = None,
) -> sitk.Image:
    """Squares (in 3D cubes) taken in turn from the fixed and the warped image, the first from the fixed one.

    Parameters
    ----------
    fixed, warped
        On one grid, both grey or both colours.
    square_mm
        Side of the squares along each axis of the grid, in mm; at least one voxel is taken.
    fixed_window, warped_window
        The intensities that each image shows as black and white.  When both are given, those of the warped image are
        brought linearly to those of the fixed one, so that one window suits both; left as they are otherwise.

    Raises
    ------
    InputError
        If the images do not lie on one grid or differ in their number of channels.
    """
    _check_one_grid(fixed, warped)
    if fixed.GetNumberOfComponentsPerPixel() != warped.GetNumberOfComponentsPerPixel():
        raise InputError("A checkerboard of a grey and a colour image cannot be made. Choose two of one kind.")
    grid = Grid.of(fixed)
    parity = np.zeros((1,) * grid.dimension, np.int64)
    for axis, (count, spacing) in enumerate(zip(grid.size[::-1], grid.spacing[::-1])):
        square = np.floor_divide(np.arange(count), max(1, round(square_mm / spacing)))
        parity = parity + square.reshape([-1 if a == axis else 1 for a in range(grid.dimension)])
    from_warped = parity % 2 == 1
    ours, theirs = sitk.GetArrayFromImage(fixed), sitk.GetArrayFromImage(warped)
    if fixed_window is not None and warped_window is not None:
        (low, high), (other_low, other_high) = fixed_window, warped_window
        gain = (high - low) / max(other_high - other_low, 1e-12)
        theirs = (theirs.astype(np.float32) - np.float32(other_low)) * np.float32(gain) + np.float32(low)
    channels = ours.ndim > grid.dimension
    mixed = np.where(from_warped[..., None] if channels else from_warped, theirs, ours)
    return grid.image(mixed if mixed.dtype == ours.dtype else mixed.astype(np.float32))


def difference(fixed: sitk.Image, warped: sitk.Image) -> sitk.Image:
    """Warped minus fixed, float32, in the images' own unit; of colours the difference of their grey images.

    Raises
    ------
    InputError
        If the images do not lie on one grid.
    """
    _check_one_grid(fixed, warped)
    grid = Grid.of(fixed)
    ours, theirs = (sitk.GetArrayFromImage(grey(image)) for image in (fixed, warped))
    return grid.image(theirs - ours)


def _check_one_grid(fixed: sitk.Image, warped: sitk.Image) -> None:
    if not Grid.of(fixed).same_as(Grid.of(warped)):
        raise InputError(
            "The warped volume does not lie on the fixed volume's grid, so that they cannot be compared voxel by "
            "voxel. Choose the warped volume of this registration."
        )
