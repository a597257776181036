"""The one reader and writer of images, transforms on disk, and the checks that every input passes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import CycleRegWarning, InputError
from .fields import DisplacementField
from .geometry import Grid

IMAGE_SUFFIXES = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd", ".hdr", ".img", ".img.gz")
FIELD_SUFFIXES = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd")
TRANSFORM_SUFFIXES = (".h5", ".hdf5", ".tfm", ".txt", ".mat", *FIELD_SUFFIXES)
# Fewer distinct values than this, all whole and small, and the image is taken for labels.
_LABEL_VALUES = 32


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
        If it is missing, unreadable, or holds no image; the message names ``what`` and the path.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(f"The {what} {path} does not exist.")
    if path.is_dir():
        return _read_dicom_folder(path, what)
    if not os.access(path, os.R_OK):
        raise InputError(f"The {what} {path} cannot be read: permission denied.")
    if path.stat().st_size == 0:
        raise InputError(f"The {what} {path} is an empty file.")
    _check_header_spacing(path, what)
    try:
        with _quiet_itk():
            return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(
            f"The {what} {path} is not an image that can be read ({_itk_reason(error)}). "
            "Use NRRD, NIfTI, MetaImage or a DICOM folder."
        ) from error


def read_image(path: os.PathLike[str] | str, what: str = "image") -> sitk.Image:
    """Read a 3D scalar intensity image as float32 and check it with :func:`check_intensity_image`.

    NRRD, NIfTI, MetaImage, or a folder with one DICOM series.

    Raises
    ------
    InputError
        See :func:`read_any_image` and :func:`check_intensity_image`.
    """
    image = read_any_image(path, f"{what} image" if "image" not in what else what)
    return check_intensity_image(image, f"{what} {path}" if "image" in what else f"{what} image {path}")


def read_label_image(path: os.PathLike[str] | str, what: str = "mask") -> sitk.Image:
    """Read a 3D label image or mask; whole-valued floats are accepted and converted.

    Raises
    ------
    InputError
        If it is not 3D, not scalar, or holds values that are not whole numbers.
    """
    image = _three_dimensional(read_any_image(path, what), f"{what} {path}")
    if "float" in image.GetPixelIDTypeAsString():
        array = sitk.GetArrayViewFromImage(image)
        if not np.array_equal(array, np.round(array)):
            raise InputError(
                f"The {what} {path} holds fractional values: it is an intensity image where a label image is expected."
            )
        image = sitk.Cast(image, sitk.sitkInt32)
    return image


def _read_dicom_folder(folder: Path, what: str) -> sitk.Image:
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not series:
        raise InputError(f"The {what} folder {folder} holds no DICOM series.")
    files = {uid: sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid) for uid in series}
    ranked = sorted(series, key=lambda uid: len(files[uid]), reverse=True)
    if len(ranked) > 1:
        if len(files[ranked[0]]) == len(files[ranked[1]]):
            raise InputError(
                f"The {what} folder {folder} holds {len(ranked)} DICOM series of equal length. "
                "Give a folder with one series."
            )
        warnings.warn(
            f"The {what} folder {folder} holds {len(ranked)} DICOM series; the longest, of "
            f"{len(files[ranked[0]])} slices, is used.",
            CycleRegWarning,
            stacklevel=3,
        )
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files[ranked[0]])
    try:
        with _quiet_itk():
            return reader.Execute()
    except RuntimeError as error:
        raise InputError(f"The DICOM series in {folder} cannot be read ({_itk_reason(error)}).") from error


def _check_header_spacing(path: Path, what: str) -> None:
    """ITK replaces some impossible spacings silently; look at the text headers before it does."""
    if suffix_of(path) not in (".mha", ".mhd", ".nrrd", ".nhdr"):
        return
    with open(path, "rb") as file:
        head = file.read(8192).split(b"\n\n")[0].decode("latin-1")
    for line in head.splitlines():
        key, _, value = line.partition("=" if suffix_of(path).startswith(".mh") else ":")
        if key.strip().lower() in ("elementspacing", "spacings", "elementsize"):
            numbers = [float(v) for v in value.split() if _is_number(v)]
            if any(v <= 0 for v in numbers):
                raise InputError(
                    f"The {what} {path} has a voxel spacing that is not positive ({value.strip()}). Correct its header."
                )
        if key.strip().lower() == "elementdatafile":
            break


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class _quiet_itk:
    """ITK's own warnings would bury the one clear line that a user gets."""

    def __enter__(self) -> None:
        self._before = sitk.ProcessObject.GetGlobalWarningDisplay()
        sitk.ProcessObject.SetGlobalWarningDisplay(False)

    def __exit__(self, *_: object) -> None:
        sitk.ProcessObject.SetGlobalWarningDisplay(self._before)


def _itk_reason(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines else "unknown reason"
    for prefix in ("sitk::ERROR:", "ITK ERROR:"):
        reason = reason.split(prefix)[-1].strip()
    return reason.rstrip(".")


# ---------------------------------------------------------------------- checks


def _three_dimensional(image: sitk.Image, what: str) -> sitk.Image:
    if image.GetNumberOfComponentsPerPixel() > 1 or "complex" in image.GetPixelIDTypeAsString():
        raise InputError(
            f"The {what} has {image.GetNumberOfComponentsPerPixel()} components per voxel (a colour or vector image); "
            "a 3D grey image is needed."
        )
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetDimension() != 3:
        raise InputError(
            f"The {what} is {image.GetDimension()}D ({'x'.join(map(str, image.GetSize()))}); a 3D grey image is needed."
            + (" Extract one time point first." if image.GetDimension() == 4 else "")
        )
    Grid.of(image)
    if min(image.GetSize()) < 4:
        raise InputError(
            f"The {what} has only {'x'.join(map(str, image.GetSize()))} voxels; at least 4 along each axis are needed."
        )
    return image


def check_intensity_image(image: sitk.Image, what: str = "image") -> sitk.Image:
    """The image as 3D float32, or an error that says what is wrong with it.

    Raises
    ------
    InputError
        If it is 4D or has several components, holds NaN or infinite voxels (says how many), is constant, or looks like
        a label image.
    """
    image = _three_dimensional(image, what)
    whole = "float" not in image.GetPixelIDTypeAsString()
    array = sitk.GetArrayViewFromImage(image)
    if not whole:
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        if bad:
            raise InputError(
                f"The {what} holds {bad} NaN or infinite voxels of {array.size}. Replace them (for example by the "
                "background value) first."
            )
    low, high = float(array.min()), float(array.max())
    if low == high:
        raise InputError(f"The {what} is constant: every voxel is {low:g}. There is nothing to register.")
    if _looks_like_labels(array, whole, low, high):
        raise InputError(
            f"The {what} looks like a label image ({np.unique(array).size} whole values from {low:g} to {high:g}); "
            "an intensity image is needed."
        )
    return image if image.GetPixelID() == sitk.sitkFloat32 else sitk.Cast(image, sitk.sitkFloat32)


def _looks_like_labels(array: np.ndarray, whole: bool, low: float, high: float) -> bool:
    """Few whole values, and almost every voxel equal to its neighbour, as in no acquired image."""
    if low < 0 or high > 65535 or (not whole and low != int(low)):
        return False
    values = np.unique(array[:: max(1, array.shape[0] // 16)])
    if values.size > _LABEL_VALUES or not np.array_equal(values, np.round(values)):
        return False
    if np.unique(array).size > _LABEL_VALUES:
        return False
    inside = array[:, :, 1:] > 0
    changes = (array[:, :, 1:] != array[:, :, :-1]) & inside
    return bool(changes.sum() < 0.35 * max(1, inside.sum()))


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
        mask = sitk.Resample(mask, grid.empty_image(), sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        if not np.any(sitk.GetArrayViewFromImage(mask)):
            raise InputError(f"The {what} does not overlap its image: every voxel of it lies outside.")
    return mask


def check_overlap(fixed: Grid, moving: Grid, transform: sitk.Transform | None, stage: str) -> None:
    """Refuse a pair whose volumes do not meet under ``transform`` (fixed to moving points).

    Raises
    ------
    InputError
        If no point of a coarse lattice over the fixed image lands in the moving image.
    """
    lattice = fixed.with_size([min(24, s) for s in fixed.size]).points().reshape(-1, 3)
    if transform is not None:
        lattice = np.array([transform.TransformPoint(p) for p in lattice.tolist()])
    if not moving.contains(lattice).any():
        gap = np.linalg.norm(moving.center - (lattice.mean(axis=0)))
        raise InputError(
            f"The images do not overlap {stage}: their centres are {gap:.0f} mm apart. "
            "Use --affine auto, rigid or affine, or give an --initial-transform that brings them together."
        )


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
    return sitk.Resample(image, grid.empty_image(), transform or sitk.Transform(3, sitk.sitkIdentity), kind, default)


def check_output_suffix(path: os.PathLike[str] | str, allowed: Iterable[str], what: str) -> None:
    """Refuse an output name whose suffix no writer knows, before anything is computed."""
    if suffix_of(path) not in tuple(allowed):
        raise InputError(f"The {what} {path} has no suffix that can be written. Use one of: {' '.join(allowed)}.")


def write_image(image: sitk.Image, path: os.PathLike[str] | str) -> None:
    """Write, compressed where the format can.  ``path`` is a staged one; see :mod:`CycleRegLib.outputs`.

    Raises
    ------
    OSError
        If the disk refuses.
    """
    try:
        sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)
    except RuntimeError as error:
        raise OSError(_itk_reason(error)) from error


def write_transform(field: DisplacementField, path: os.PathLike[str] | str) -> None:
    """Write a field as ``.h5``/``.tfm`` (ITK displacement field transform) or as a vector image, LPS mm.

    SimpleITK and Slicer read all of them.
    """
    if suffix_of(path) in FIELD_SUFFIXES:
        image = field.to_image()
        # The NIfTI intent code for displacement vectors, so that readers do not take them for colours or time.
        image.SetMetaData("intent_code", "1006")
        write_image(image, path)
        return
    try:
        sitk.WriteTransform(field.to_transform(), str(path))
    except RuntimeError as error:
        raise OSError(_itk_reason(error)) from error


def read_transform(path: os.PathLike[str] | str, what: str = "transform") -> sitk.Transform:
    """Read a transform (fixed to moving points, LPS mm): an ITK transform file, or a displacement field image.

    Raises
    ------
    InputError
        If it is missing, unreadable, not 3D, or no transform.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(f"The {what} {path} does not exist.")
    if suffix_of(path) in FIELD_SUFFIXES:
        image = read_any_image(path, what)
        if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 3:
            raise InputError(
                f"The {what} {path} is no displacement field: 3 components per voxel of a 3D image are needed."
            )
        return DisplacementField.from_image(image).to_transform()
    if suffix_of(path) not in TRANSFORM_SUFFIXES:
        raise InputError(f"The {what} {path} has an unknown suffix. Use one of: {' '.join(TRANSFORM_SUFFIXES)}.")
    try:
        with _quiet_itk():
            transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise InputError(f"The {what} {path} is not a transform that can be read ({_itk_reason(error)}).") from error
    if transform.GetDimension() != 3:
        raise InputError(f"The {what} {path} is {transform.GetDimension()}D; a 3D transform is needed.")
    return transform
