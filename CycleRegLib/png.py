"""PNG files from arrays, through SimpleITK, so that pictures need no imaging package of their own."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk


def save_png(array: np.ndarray, path: str | Path) -> None:
    """Write an (h, w, 3) or (h, w) uint8 array as an 8-bit PNG.

    A colour array whose three channels are equal is stored as grey: the same picture in a third of the bytes.

    Raises
    ------
    ValueError
        If the array is of another shape or type.
    """
    array = np.asarray(array)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ValueError(f"a picture is (h, w, 3) or (h, w) of uint8; got {array.shape} of {array.dtype}")
    if array.ndim == 3 and (array == array[..., :1]).all():
        array = array[..., 0]
    image = sitk.GetImageFromArray(np.ascontiguousarray(array), isVector=array.ndim == 3)
    sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=6)


def png_bytes(array: np.ndarray) -> bytes:
    """The PNG file of an array, as bytes; see :func:`save_png`."""
    with tempfile.TemporaryDirectory(prefix="cyclereg-") as folder:
        path = Path(folder) / "picture.png"
        save_png(array, path)
        return path.read_bytes()
