"""The one reader and writer of images, and of transforms on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .dicom import read_dicom_folder
from .errors import InputError
from .field_files import write_field_image, write_field_transform
from .fields import DisplacementField
from .geometry import Grid
from .image_checks import check_intensity_image, check_scalar
from .image_headers import bad_spacing, check_header, cut_short
from .itk_messages import itk_reason, quiet_itk

IMAGE_SUFFIXES = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd", ".hdr", ".img", ".img.gz")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
FIELD_SUFFIXES = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd")
TRANSFORM_SUFFIXES = (".h5", ".hdf5", ".tfm", ".txt", ".mat", *FIELD_SUFFIXES)
# Read, but not written: what belongs together would lie in two files, and only one of them was named.
_TWO_FILES = (".nhdr", ".mhd", ".hdr", ".img", ".img.gz")
# In the messages of ITK's readers when data end early or cannot be unpacked.
_SIGNS_OF_DAMAGE = (
    "not read completely",
    "fread got only",
    "data read error",
    "bytes but received",
    "Uncompress failed",
)


def suffix_of(path: os.PathLike[str] | str) -> str:
    """The file's suffix in lower case, ``.nii.gz`` and ``.seg.nrrd`` kept whole."""
    name = Path(path).name.lower()
    for double in (".nii.gz", ".img.gz", ".seg.nrrd", ".mrk.json"):
        if name.endswith(double):
            return double
    return Path(name).suffix


# ---------------------------------------------------------------------- reading


def read_any_image(path: os.PathLike[str] | str, what: str = "image") -> sitk.Image:
    """Read a file or a DICOM folder as it is, whatever its pixel type.

    Raises
    ------
    InputError
        If it is missing, unreadable, damaged or cut short, has an impossible geometry, or holds no image; the message
        names ``what`` and the path.
    """
    path = existing_path(path, what)
    if path.is_dir():
        return read_dicom_folder(path, what)
    if not os.access(path, os.R_OK):
        raise InputError(f"The {what} {path} cannot be read: permission denied.")
    if path.stat().st_size == 0:
        raise InputError(f"The {what} {path} is an empty file.")
    check_header(path, what)
    image, failure = None, ""
    with quiet_itk() as said:
        try:
            image = sitk.ReadImage(str(path))
        except RuntimeError as error:
            failure = str(error)
    # MetaImage's reader goes on with what it has when data cannot be unpacked.
    if image is None or any("Uncompress failed" in line for line in said):
        raise _unreadable(failure, said, path, what)
    if suffix_of(path) in PICTURE_SUFFIXES:
        # What they state is a resolution for printing, which two pictures of one size need not share.
        image.SetSpacing((1.0,) * image.GetDimension())
    return image


def existing_path(path: os.PathLike[str] | str, what: str) -> Path:
    """The path of an input, with ``~`` expanded.

    Raises
    ------
    InputError
        If there is nothing at it.
    """
    if not os.fspath(path):
        raise InputError(f"The path of the {what} is empty. Give a file.")
    path = Path(path).expanduser()
    try:
        there = path.exists()
    except OSError as error:  # too long a name, or a folder that may not be looked into
        raise InputError(f"The {what} {path} cannot be read: {error.strerror}.") from error
    if not there:
        raise InputError(f"The {what} {path} does not exist.")
    return path


def _unreadable(text: str, said: list[str], path: Path, what: str) -> InputError:
    """What a user is told when ITK cannot read: ITK's own words only where they say more."""
    if "change spacing" in text:
        return bad_spacing(path, what, text.rsplit("to ", 1)[-1].strip("[] .\n"))
    if "determinant is 0" in text:
        return InputError(f"The {what} {path} has a direction matrix that is singular. Correct its header.")
    if "ailed to allocate" in text or "bad alloc" in text:
        return InputError(
            f"The {what} {path} needs more memory than there is, or its header is damaged and claims too many voxels."
        )
    if any(sign in line for sign in _SIGNS_OF_DAMAGE for line in (text, *said)):
        return cut_short(path, what)
    if "Unknown PixelType" in text:
        return InputError(
            f"The {what} {path} has pixels of a kind that cannot be read, such as grey with transparency. Save it as "
            "plain grey or RGB."
        )
    reason = said[-1] if said else itk_reason(text)
    if "determine ImageIO reader" in reason:
        reason = "its content is of no known kind" + (", or the suffix in capitals" if path.suffix.isupper() else "")
    return InputError(
        f"The {what} {path} is not an image that can be read ({reason}). It may be damaged, or something else; images "
        "are NRRD, NIfTI, MetaImage or a DICOM folder, in 2D also PNG or JPEG."
    )


def read_image(path: os.PathLike[str] | str, what: str = "image") -> sitk.Image:
    """Read a 3D scalar intensity image as float32 and check it with
    :func:`~CycleRegLib.image_checks.check_intensity_image`.

    NRRD, NIfTI, MetaImage, or a folder with one DICOM series.

    Raises
    ------
    InputError
        See :func:`read_any_image` and :func:`~CycleRegLib.image_checks.check_intensity_image`.
    """
    image = read_any_image(path, f"{what} image" if "image" not in what else what)
    return check_intensity_image(image, f"{what} {path}" if "image" in what else f"{what} image {path}")


def read_label_image(path: os.PathLike[str] | str, what: str = "mask", flat: bool = False) -> sitk.Image:
    """Read a 3D label image or mask; whole-valued floats are accepted and converted.

    Parameters
    ----------
    flat
        Take label images of pictures and single slices too.

    Raises
    ------
    InputError
        If it is not 3D, not scalar, or holds values that are not whole numbers.
    """
    image = check_scalar(read_any_image(path, what), f"{what} {path}", flat)
    if "float" in image.GetPixelIDTypeAsString():
        array = sitk.GetArrayViewFromImage(image)
        if not np.isfinite(array).all():
            raise InputError(f"The {what} {path} holds NaN or infinite voxels; a label is a whole number.")
        if not np.array_equal(array, np.round(array)):
            raise InputError(
                f"The {what} {path} holds fractional values: it is an intensity image where a label image is expected."
            )
        image = sitk.Cast(image, sitk.sitkInt32)
    return image


# ---------------------------------------------------------------------- resampling and writing


def resample_to(
    image: sitk.Image,
    grid: Grid,
    transform: sitk.Transform | None = None,
    interpolation: str = "linear",
    default: float | None = None,
) -> sitk.Image:
    """The image on another grid, through a linear SimpleITK transform (deformation fields: ``DisplacementField.warp``).

    ``interpolation`` is ``"linear"``, ``"nearest"`` or ``"cubic"`` (B-spline, which does not blur but overshoots).
    ``default`` fills what the image does not cover; its minimum when left out (0 for ``"nearest"``).
    """
    kinds = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor, "cubic": sitk.sitkBSpline3}
    kind = kinds[interpolation]
    if default is None:
        default = 0.0 if interpolation == "nearest" else float(sitk.GetArrayViewFromImage(image).min())
    transform = transform or sitk.Transform(grid.dimension, sitk.sitkIdentity)
    return sitk.Resample(image, grid.empty_image(), transform, kind, default)


def check_output_suffix(path: os.PathLike[str] | str, allowed: Iterable[str], what: str) -> None:
    """Refuse an output name whose suffix no writer knows, or one of two files, before anything is computed."""
    written = [suffix for suffix in allowed if suffix not in _TWO_FILES]
    # In capitals, ITK does not know the suffixes of MetaImage and NIfTI.
    if suffix_of(path) not in written or not os.fspath(path).endswith(suffix_of(path)):
        raise InputError(f"The {what} {path} has no suffix that can be written. Use one of: {' '.join(written)}.")


def write_image(image: sitk.Image, path: os.PathLike[str] | str) -> None:
    """Write, compressed where the format can.  ``path`` is a staged one; see :mod:`CycleRegLib.outputs`.

    Raises
    ------
    OSError
        If the disk refuses.
    """
    path = Path(path)
    # Of JPEG it is the quality in per cent.
    level = 95 if suffix_of(path) in (".jpg", ".jpeg") else 1
    _write(path, lambda: sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=level))
    # The writers of NRRD, NIfTI and of pictures do not notice when the disk is full, or not for the last bytes.
    least = 352 if suffix_of(path) == ".nii" else 1  # bytes of a header
    if path.stat().st_size < least or (suffix_of(path) == ".nrrd" and not _ends_with_size(path, image)):
        raise _not_written(path, "not all of it arrived")
    try:
        if suffix_of(path) in PICTURE_SUFFIXES:
            read_any_image(path)
        check_header(path, "image")
    except InputError as error:
        raise _not_written(path, "not all of it arrived") from error


def write_transform(field: DisplacementField, path: os.PathLike[str] | str) -> None:
    """Write a field as ``.h5``/``.tfm`` (ITK displacement field transform) or as a vector image, LPS mm.

    SimpleITK and Slicer read all of them.  Memory does not grow with the field, but for ``.tfm``, which is text and
    for small fields only.

    Raises
    ------
    OSError
        If the disk refuses.
    """
    path = Path(path)
    if suffix_of(path) in (".h5", ".hdf5"):
        _write(path, lambda: write_field_transform(field, path))
    elif suffix_of(path) in FIELD_SUFFIXES and suffix_of(path) not in _TWO_FILES:
        _write(path, lambda: write_field_image(field, path))
    elif suffix_of(path) in FIELD_SUFFIXES:
        write_image(field.to_image(), path)
    else:
        _write(path, lambda: sitk.WriteTransform(field.to_transform(), str(path)))
        if suffix_of(path) == ".tfm" and not _ends_with_fixed_parameters(path):
            raise _not_written(path, "not all of it arrived")


def _write(path: Path, write: Callable[[], None]) -> None:
    with quiet_itk():
        try:
            write()
        except RuntimeError as error:
            raise _not_written(path, itk_reason(str(error))) from error
        except OSError as error:
            raise _not_written(path, error.strerror or str(error)) from error


def _not_written(path: Path, reason: str) -> OSError:
    return OSError(f"{path.name} could not be written ({reason}); the disk may be full")


def _ends_with_size(path: Path, image: sitk.Image) -> bool:
    """Whether a compressed image is there to its last bytes, in which gzip says how many there are without it."""
    size = image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel() * image.GetSizeOfPixelComponent()
    with open(path, "rb") as file:
        file.seek(-min(4, path.stat().st_size), os.SEEK_END)
        return file.read() == (size % 2**32).to_bytes(4, "little")


def _ends_with_fixed_parameters(path: Path) -> bool:
    """Whether the text of a transform is there to its last line; its writer does not notice that the disk is full."""
    with open(path, "rb") as file:
        file.seek(-min(4096, path.stat().st_size), os.SEEK_END)
        end = file.read()
    return b"\nFixedParameters:" in end and end.endswith(b"\n")


def read_transform(path: os.PathLike[str] | str, what: str = "transform", dimension: int = 3) -> sitk.Transform:
    """Read a transform (fixed to moving points, LPS mm): an ITK transform file, or a displacement field image.

    Raises
    ------
    InputError
        If it is missing, unreadable, not of ``dimension``, or no transform.
    """
    path = existing_path(path, what)
    if suffix_of(path) in FIELD_SUFFIXES:
        image = read_any_image(path, what)
        if image.GetDimension() != dimension or image.GetNumberOfComponentsPerPixel() != dimension:
            raise InputError(
                f"The {what} {path} is no displacement field: {dimension} components per voxel of a {dimension}D image "
                "are needed."
            )
        try:
            return DisplacementField.from_image(image).to_transform()
        except InputError as error:
            raise InputError(f"The {what} {path} cannot be used. {error}") from error
    if suffix_of(path) not in TRANSFORM_SUFFIXES:
        raise InputError(f"The {what} {path} has an unknown suffix. Use one of: {' '.join(TRANSFORM_SUFFIXES)}.")
    transform, failure = None, ""
    with quiet_itk():
        try:
            transform = sitk.ReadTransform(str(path))
        except RuntimeError as error:
            failure = itk_reason(str(error))
    if transform is None:
        if "unsupported type" in failure:
            failure = "its content does not fit its suffix"
        raise InputError(
            f"The {what} {path} is not a transform that can be read ({failure}). It may be damaged, or something else; "
            "transforms are ITK transform files or displacement fields."
        )
    try:
        transform.TransformPoint((0.0,) * transform.GetDimension())
    except RuntimeError as error:  # the text of a displacement field that ends early is read without a word
        raise InputError(f"The {what} {path} is damaged or cut short ({itk_reason(str(error))}).") from error
    if transform.GetDimension() != dimension:
        raise InputError(f"The {what} {path} is {transform.GetDimension()}D; a {dimension}D transform is needed.")
    return transform
