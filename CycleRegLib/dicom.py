"""One series out of a folder of DICOM files."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import CycleRegWarning, InputError
from .itk_messages import itk_reason, quiet_itk

# Slices further from even spacing than this share of it: a warning, and a refusal.
_UNEVEN, _MISSING = 0.05, 0.5


def read_dicom_folder(folder: Path, what: str) -> sitk.Image:
    """The series in a folder, the longest where there are several, as ITK reads it.

    Raises
    ------
    InputError
        If there is none, or several of equal length, it cannot be read, or slices are missing; the message calls the
        folder ``what``.

    Warns
    -----
    CycleRegWarning
        If there are several series, or the slices are not quite evenly spaced.
    """
    with quiet_itk():
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        files = {uid: sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid) for uid in series}
    if not series:
        raise InputError(f"The {what} {folder} is a folder without a DICOM series. Give a file, or the series' folder.")
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
    reader.MetaDataDictionaryArrayUpdateOn()
    with quiet_itk():
        try:
            image = reader.Execute()
        except RuntimeError as error:
            raise InputError(f"The DICOM series in {folder} cannot be read ({itk_reason(str(error))}).") from error
    _check_slices(reader, image, len(files[ranked[0]]), f"{what} {folder}")
    return image


def _check_slices(reader: sitk.ImageSeriesReader, image: sitk.Image, count: int, what: str) -> None:
    """ITK puts slices at even steps wherever they lie; that must not move one by half a slice."""
    position = "0020|0032"
    if image.GetDimension() != 3 or count < 3 or not all(reader.HasMetaDataKey(i, position) for i in range(count)):
        return
    places = np.array([[float(v) for v in reader.GetMetaData(i, position).split("\\")] for i in range(count)])
    along = (places - places[0]) @ np.array(image.GetDirection()).reshape(3, 3)[:, 2]
    step = image.GetSpacing()[2]
    shift = float(np.abs(along - step * np.arange(count)).max())
    if shift > _MISSING * step:
        raise InputError(
            f"The {what} is a DICOM series with missing, repeated or unevenly spaced slices (they lie up to "
            f"{shift:.1f} mm from even steps). Complete it, or convert it with a tool that resamples it."
        )
    if shift > _UNEVEN * step:
        warnings.warn(
            f"The slices of the {what} are unevenly spaced: they are taken up to {shift:.2f} mm from where they lie.",
            CycleRegWarning,
            stacklevel=4,
        )
