"""The checks that every image, mask and pair passes before anything is computed."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .geometry import Grid
from .label_maps import looks_like_labels

# Spacings in mm beyond these are errors of units or of the header: 1 nm, 1 m.
_LEAST_SPACING, _MOST_SPACING = 1e-6, 1e3


def check_scalar(image: sitk.Image, what: str, flat: bool = False) -> sitk.Image:
    """The image, if it is 3D (of one time point) and has one value per voxel and a possible geometry.

    Parameters
    ----------
    flat
        Take 2D images and single slices too.

    Raises
    ------
    InputError
        If it is not.
    """
    wanted = "a grey image" if flat else "a 3D grey image"
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"The {what} holds complex numbers; {wanted} is needed, such as their magnitude.")
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise InputError(
            f"The {what} has {image.GetNumberOfComponentsPerPixel()} components per voxel (a colour or vector image); "
            f"{wanted} is needed."
        )
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetDimension() not in ((2, 3) if flat else (3,)):
        raise InputError(
            f"The {what} is {image.GetDimension()}D ({'x'.join(map(str, image.GetSize()))}); {wanted} is needed."
            + (" Extract one time point first." if image.GetDimension() == 4 else "")
        )
    check_geometry(image, what, flat)
    return image


def check_geometry(image: sitk.Image, what: str, flat: bool = False) -> None:
    """Refuse a geometry that cannot be, and images of a few voxels.

    Raises
    ------
    InputError
        If spacing or direction are impossible, or there are fewer than 4 voxels along an axis; with ``flat`` along the
        axes of a picture or single slice.
    """
    try:
        grid = Grid.of(image)
    except InputError as error:
        raise InputError(f"The {what} cannot be used. {error}") from error
    if not _LEAST_SPACING <= min(grid.spacing) <= max(grid.spacing) <= _MOST_SPACING:
        raise InputError(
            f"The {what} has a voxel spacing of {'x'.join(f'{v:g}' for v in grid.spacing)} mm, which cannot be. "
            "Correct its header."
        )
    if min(sorted(grid.size)[-2:] if flat else grid.size) < 4:
        raise InputError(
            f"The {what} has only {'x'.join(map(str, grid.size))} voxels; at least 4 along each axis are needed."
            + (" Of a DICOM series give the folder, not a file." if grid.size[2:] == (1,) else "")
        )


def check_intensity_image(image: sitk.Image, what: str = "image") -> sitk.Image:
    """The image as 3D float32, or an error that says what is wrong with it.

    Raises
    ------
    InputError
        If it is 4D or has several components, holds NaN or infinite voxels (says how many) or numbers beyond float32,
        is constant, or looks like a label image (see :func:`CycleRegLib.label_maps.looks_like_labels`).
    """
    image = check_scalar(image, what)
    check_values(sitk.GetArrayViewFromImage(image), what)
    return image if image.GetPixelID() == sitk.sitkFloat32 else sitk.Cast(image, sitk.sitkFloat32)


def check_values(array: np.ndarray, what: str, voxel: str = "voxel", scalar: bool = True) -> None:
    """Refuse intensities that cannot be registered; see :func:`check_intensity_image`.

    Parameters
    ----------
    array
        (z, y, x); with ``scalar`` false of any shape, and labels are not looked for.
    voxel
        What messages call its elements.
    """
    largest = float(np.finfo(np.float32).max)
    if array.dtype.kind == "f":
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        if bad:
            raise InputError(
                f"The {what} holds {bad} NaN or infinite {voxel}s of {array.size}. Replace them (for example by the "
                "background value) first."
            )
    low, high = float(array.min()), float(array.max())
    if low == high:
        raise InputError(f"The {what} is constant: every {voxel} is {low:g}. There is nothing to register.")
    if not -largest <= low <= high <= largest:
        raise InputError(f"The {what} holds values up to {max(abs(low), abs(high)):.3g}, too large for 32-bit numbers.")
    if scalar and looks_like_labels(array):
        raise InputError(
            f"The {what} looks like a label image ({np.unique(array).size} whole values from {low:g} to {high:g}); "
            "an intensity image is needed. If it is one after all, smooth it slightly."
        )


def check_mask(mask: sitk.Image, grid: Grid, what: str) -> sitk.Image:
    """A mask (non-zero is inside) on ``grid``, resampled there if it lies on another.

    Raises
    ------
    InputError
        If it is empty, or does not overlap the image.
    """
    mask = sitk.Cast(mask != 0, sitk.sitkUInt8)
    if not np.any(sitk.GetArrayViewFromImage(mask)):
        raise InputError(f"The {what} is empty: no voxel is set.")
    if not Grid.of(mask).same_as(grid):
        identity = sitk.Transform(grid.dimension, sitk.sitkIdentity)
        mask = sitk.Resample(mask, grid.empty_image(), identity, sitk.sitkNearestNeighbor, 0)
        if not np.any(sitk.GetArrayViewFromImage(mask)):
            raise InputError(f"The {what} does not overlap its image: every voxel of it lies outside.")
    return mask


def check_overlap(fixed: Grid, moving: Grid, transform: sitk.Transform | None, stage: str) -> None:
    """Refuse a pair whose volumes do not meet under ``transform`` (fixed to moving points).

    Raises
    ------
    InputError
        If no point of a lattice over the fixed image lands in the moving image, or the transform is none that can be
        used: singular, or leading to numbers that are not finite.
    """
    lattice = fixed.with_size([min(64, s) for s in fixed.size])
    points = lattice.points()
    if transform is not None:
        moved = sitk.TransformToDisplacementField(
            transform, sitk.sitkVectorFloat64, lattice.size, lattice.origin, lattice.spacing, lattice.direction
        )
        points = points + sitk.GetArrayViewFromImage(moved)
        if not np.isfinite(points).all():
            raise InputError("The initial transform leads to numbers that are not finite. Give another one, or none.")
        n = fixed.dimension
        corner = points[(slice(0, 2),) * n].reshape(-1, n)
        if transform.IsLinear() and np.linalg.matrix_rank(np.diff(corner, axis=0)) < n:
            raise InputError("The initial transform is singular: it flattens the image. Give another one, or none.")
    points = points.reshape(-1, fixed.dimension)
    if not moving.contains(points).any():
        gap = np.linalg.norm(moving.center - points.mean(axis=0))
        raise InputError(
            f"The images do not overlap {stage}: their centres are {gap:.0f} mm apart. "
            "Use --affine auto, rigid or affine, or give an --initial-transform that brings them together."
        )
