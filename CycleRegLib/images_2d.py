"""Pictures and single slices: what is read and refused, the grey image that is registered, and colours.

A colour image is registered by its grey image, the luma of ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B.  The field is
then applied to every channel by itself (CycleMorph, section IV.B), and the result has the type of what was given.
"""

from __future__ import annotations

import os
import warnings

import numpy as np
import SimpleITK as sitk

from .errors import CycleRegWarning, InputError
from .fields import DisplacementField
from .geometry import Grid
from .image_checks import check_geometry, check_intensity_image, check_values
from .images import PICTURE_SUFFIXES, read_any_image, suffix_of
from .methods import Method, list_methods
from .planar import is_flat, through

LUMA = (0.299, 0.587, 0.114)
_CHANNELS = {1: "grey", 2: "grey and alpha", 3: "RGB", 4: "RGBA"}
# What PNG and JPEG can hold: whole numbers from 0 of so many bits, and so many channels.
_PICTURE_TYPES = {".png": ("uint8", "uint16"), ".jpg": ("uint8",), ".jpeg": ("uint8",)}


def read_input(path: os.PathLike[str] | str, side: str, method: Method) -> sitk.Image:
    """Read an image to be registered by a method, and check it with :func:`check_input`.

    Raises
    ------
    InputError
        See :func:`CycleRegLib.images.read_any_image` and :func:`check_input`.
    """
    return check_input(read_any_image(path, f"{side} image"), f"{side} image {path}", method.dimensions, method)


def read_image_2d(path: os.PathLike[str] | str, what: str = "image") -> sitk.Image:
    """Read a picture (PNG, JPEG) or a single slice in any format, grey or RGB, and check it with :func:`check_flat`.

    PNG and JPEG state no pixel size (their resolution is one for printing), so a pixel counts as 1 mm.

    Raises
    ------
    InputError
        See :func:`CycleRegLib.images.read_any_image` and :func:`check_flat`.
    """
    return check_flat(read_any_image(path, what), f"{what} {path}")


def check_any(image: sitk.Image, what: str) -> sitk.Image:
    """An image that some method can register: :func:`check_flat`, or
    :func:`~CycleRegLib.image_checks.check_intensity_image` for volumes."""
    return check_flat(image, what) if is_flat(image) else check_intensity_image(image, what)


def check_input(image: sitk.Image, what: str, dimensions: tuple[int, ...], method: Method) -> sitk.Image:
    """An image as a registration needs it: volumes as float32, flat images as they are.

    Parameters
    ----------
    dimensions
        2 where pictures and single slices can be registered, 3 where volumes can: those of the weights, or, before
        these are read, of the method.

    Raises
    ------
    InputError
        If it is flat where volumes are registered, or the reverse (names the methods that would do); see also
        :func:`check_any`.
    """
    if is_flat(image) and 2 not in dimensions:
        kind = f"The {what} is {'2D' if image.GetDimension() == 2 else 'a single slice'} ({_size(image)})"
        if 2 in method.dimensions:
            raise InputError(f"{kind}, but these weights of {method.id} are for volumes. Give weights for 2D images.")
        raise InputError(
            f"{kind}, but {method.id} registers volumes. For pictures and single slices choose {_methods(2)}, with "
            "weights for 2D images."
            + (" Of a DICOM series give the folder, not a file." if image.GetDimension() == 3 else "")
        )
    if image.GetDimension() == 3 and not is_flat(image) and 3 not in dimensions:
        kind = f"The {what} is a volume of {'x'.join(map(str, image.GetSize()))} voxels"
        if 3 in method.dimensions:
            raise InputError(f"{kind}, but these weights of {method.id} are for 2D images. Give weights for volumes.")
        raise InputError(
            f"{kind}, but {method.id} registers pictures and single slices. Give one slice, or choose {_methods(3)}."
        )
    return check_any(image, what)


def _methods(dimension: int) -> str:
    names = [method.id for method in list_methods() if dimension in method.dimensions]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _size(image: sitk.Image) -> str:
    return "x".join(str(n) for n in image.GetSize() if n != 1 or image.GetDimension() == 2) + " pixels"


def check_flat(image: sitk.Image, what: str = "image") -> sitk.Image:
    """A picture or single slice as it is, of any number type, without its alpha channel.

    Raises
    ------
    InputError
        If it has more than one slice, is neither grey nor RGB, has fewer than 4 pixels along a side, holds NaN or
        infinite values, is constant, or looks like a label image.

    Warns
    -----
    CycleRegWarning
        If it has an alpha channel, which is left out: what should show through is not known.
    """
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"The {what} holds complex numbers; a grey or RGB image is needed, such as their magnitude.")
    if not is_flat(image):
        raise InputError(f"The {what} has {'x'.join(map(str, image.GetSize()))} voxels; a single slice is needed.")
    channels = image.GetNumberOfComponentsPerPixel()
    whole = np.dtype(_array(image).dtype).kind in "ui"
    if channels not in _CHANNELS or (channels == 2 and not whole):
        raise InputError(f"The {what} has {channels} components per pixel; it must be grey or RGB.")
    if channels in (2, 4):
        warnings.warn(
            f"The {what} has an alpha channel (transparency), which is left out.", CycleRegWarning, stacklevel=3
        )
        image = channels_of(image)[0] if channels == 2 else sitk.Compose(channels_of(image)[:3])
    check_geometry(image, what, flat=True)
    if image.GetNumberOfComponentsPerPixel() > 1:
        check_values(_array(image), what, "pixel", scalar=False)
    else:
        pixels = as_picture(image)
        check_values(_array(pixels)[None], what, "pixel")
    return image


def check_picture_output(path: os.PathLike[str] | str, image: sitk.Image, what: str) -> None:
    """Refuse PNG or JPEG as the name of an output where they cannot hold an image like ``image``.

    Raises
    ------
    InputError
        If the image is a volume, or its numbers are of a type that these have not.
    """
    suffix = suffix_of(path)
    if suffix not in PICTURE_SUFFIXES:
        return
    if not is_flat(image):
        raise InputError(f"The {what} {path} would be a picture, but the result is a volume. Write .nrrd instead.")
    kind = np.dtype(_array(image).dtype).name
    if kind not in _PICTURE_TYPES[suffix]:
        raise InputError(
            f"The {what} {path} cannot hold {kind} numbers: {suffix[1:].upper()} has "
            f"{' or '.join(_PICTURE_TYPES[suffix])}. Write .nrrd, .nii.gz or .mha instead."
        )


def check_slice_output(path: os.PathLike[str] | str, image: sitk.Image, what: str) -> None:
    """Refuse NIfTI for colours or vectors on the grid of a single slice in space: ITK reads them as a picture's.

    Raises
    ------
    InputError
        If it is so.
    """
    if image.GetDimension() == 3 and is_flat(image) and ".nii" in suffix_of(path):
        raise InputError(
            f"The {what} {path} cannot be NIfTI, which loses where a single slice with several values per voxel lies. "
            "Write .nrrd or .mha instead."
        )


# ---------------------------------------------------------------------- channels and types


def _array(image: sitk.Image) -> np.ndarray:
    """A view of the pixels; the image must outlive it."""
    return sitk.GetArrayViewFromImage(image)


def channels_of(image: sitk.Image) -> list[sitk.Image]:
    """Scalar images of the single channels."""
    if image.GetNumberOfComponentsPerPixel() == 1:
        return [image]
    return [sitk.VectorIndexSelectionCast(image, i) for i in range(image.GetNumberOfComponentsPerPixel())]


def grey(image: sitk.Image) -> sitk.Image:
    """The float32 grey image of a grey (as it is) or RGB image (its luma), of the same dimension."""
    channels = [sitk.Cast(channel, sitk.sitkFloat32) for channel in channels_of(image)]
    if len(channels) == 1:
        return channels[0]
    red, green, blue = (channel * weight for channel, weight in zip(channels, LUMA))
    return red + green + blue


def warp_channels(image: sitk.Image, field: DisplacementField) -> sitk.Image:
    """An image through a field, every channel by itself, in the image's own type (rounded and clipped).

    What the image does not show gets its least value, the same in every channel.
    """
    array = _array(image)
    default = float(array.min())
    warped = np.stack(
        [sitk.GetArrayFromImage(field.warp(channel, default=default)) for channel in channels_of(image)], axis=-1
    )  # fmt: skip
    if array.dtype.kind in "ui":
        limits = np.iinfo(array.dtype)
        warped = np.clip(np.rint(warped.astype(np.float64)), limits.min, limits.max)
    warped = warped.astype(array.dtype)
    return field.grid.image(warped if warped.shape[-1] > 1 else warped[..., 0])


def as_picture(image: sitk.Image) -> sitk.Image:
    """A 2D image of the pixels of a single slice, for files that know nothing of space (PNG, JPEG)."""
    if image.GetDimension() == 2:
        return image
    array = np.squeeze(_array(image), 2 - through(Grid.of(image)))
    return sitk.GetImageFromArray(array, isVector=image.GetNumberOfComponentsPerPixel() > 1)
