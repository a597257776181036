"""Small volumes on disk, and configurations of trainings on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from cyclereg_training.config import Config
from cyclereg_training.data.volumes import VolumeData


def smooth_volume(shape: tuple[int, ...] = (12, 14, 16), seed: int = 0, deviation: float = 1.5) -> np.ndarray:
    """(z, y, x) float32 around 100."""
    noise = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    blurred = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(noise), deviation))
    return 100 + 50 * blurred / blurred.std()


def write(
    path: Path,
    array: np.ndarray,
    spacing: tuple[float, ...] = (2.0, 2.0, 3.0),
    origin: tuple[float, ...] = (0.0, 0.0, 0.0),
    orientation: str = "LPS",
) -> Path:
    """Write an array as an image; ``orientation`` is how its axes are stored, the anatomy staying where it is."""
    image = sitk.GetImageFromArray(array)
    n = image.GetDimension()
    image.SetSpacing(spacing[:n])
    image.SetOrigin(origin[:n])
    if orientation != "LPS":
        image = sitk.DICOMOrient(image, orientation)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def write_patients(
    folder: Path, patients: int = 3, phases: tuple[str, ...] = ("arterial", "portal"), **where: Any
) -> Path:
    """``P0/P0_arterial.nrrd`` and so on, every volume another."""
    for patient in range(patients):
        for number, phase in enumerate(phases):
            array = smooth_volume(seed=10 * patient + number)
            write(folder / f"P{patient}" / f"P{patient}_{phase}.nrrd", array, **where)
    return folder


def config(path: Path, method: str = "cyclemorph", network: dict[str, Any] | None = None, **data: Any) -> Config:
    """A training on what lies at ``path``; the cache lies beside it."""
    given = {"source": "folder", "path": str(path), "normalisation": "percentile", "workers": 0}
    given["cache"] = str(path.parent / "cache")
    return Config(method=method, network=network or {}, data={**given, **data})


def data_of(path: Path, **data: Any) -> VolumeData:
    return VolumeData(config(path, **data))
