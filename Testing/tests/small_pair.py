"""A pair of images of 32 x 30 x 28 voxels that registers in a second, and what the command line does with files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from CycleRegLib.cli import main

SHAPE = (28, 30, 32)
SPACING = (2.0, 2.2, 2.5)
ORIGIN = (-30.0, -32.0, -34.0)


def body(shift: tuple[float, float, float] = (0, 0, 0), gain: float = 1.0, seed: int = 0) -> np.ndarray:
    """(z, y, x) float32: a soft ellipsoid with a bright and a dark spot, texture, and noise of sd 2."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    x, y, z = x - shift[0], y - shift[1], z - shift[2]
    inside = 1 / (1 + np.exp(((x / 0.75) ** 2 + (y / 0.65) ** 2 + (z / 0.7) ** 2 - 1) * 8))
    bright = np.exp(-(((x - 0.3) / 0.2) ** 2 + ((y + 0.1) / 0.25) ** 2 + ((z - 0.1) / 0.3) ** 2))
    dark = np.exp(-(((x + 0.3) / 0.15) ** 2 + ((y - 0.2) / 0.2) ** 2 + (z / 0.2) ** 2))
    texture = 25 * np.sin(7 * x + 3 * y) * np.cos(5 * z - 4 * y)
    noise = np.random.default_rng(seed).normal(0, 2, SHAPE)
    return (gain * inside * (100 + 80 * bright - 60 * dark + texture) + noise).astype(np.float32)


def image_of(array: np.ndarray, origin: tuple[float, ...] = ORIGIN, vector: bool = False) -> sitk.Image:
    """A 3D array as an image with this module's spacing."""
    image = sitk.GetImageFromArray(array, isVector=vector)
    image.SetSpacing(SPACING)
    image.SetOrigin(origin)
    return image


def fixed_image() -> sitk.Image:
    return image_of(body())


def moving_image() -> sitk.Image:
    """The fixed one moved by (2.5, -1.9, 1.7) mm, with another gain and noise."""
    return image_of(body((0.08, -0.06, 0.05), gain=1.3, seed=1))


def write_dicom(folder: Path, image: sitk.Image, series: int, keep: Any = lambda slice_number: True) -> None:
    """One axial series, a file per slice for which ``keep`` holds; ``series`` makes its identifiers and file names."""
    folder.mkdir(exist_ok=True)
    image = sitk.Cast(image, sitk.sitkInt16)
    direction = image.GetDirection()
    root = f"1.2.826.0.1.3680043.2.1125.{series}"
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for i in range(image.GetDepth()):
        if not keep(i):
            continue
        part = image[:, :, i]
        tags = {
            "0008|0060": "CT",
            "0008|0018": f"{root}.{i + 1}",
            "0020|000d": f"{root}.1000",
            "0020|000e": f"{root}.2000",
            "0020|0013": str(i + 1),
            "0020|0032": "\\".join(f"{v:.6f}" for v in image.TransformIndexToPhysicalPoint((0, 0, i))),
            "0020|0037": "\\".join(f"{direction[j]:.6f}" for j in (0, 3, 6, 1, 4, 7)),
        }
        for key, value in tags.items():
            part.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{series}-{i:03}.dcm"))
        writer.Execute(part)


def tree(folder: Path) -> dict[str, str]:
    """Every path below a folder and what it holds, staging folders included."""
    return {str(path.relative_to(folder)): _content(path) for path in sorted(folder.rglob("*"))}


def _content(path: Path) -> str:
    if path.is_dir():
        return "folder"
    return hashlib.sha256(path.read_bytes()).hexdigest() if os.access(path, os.R_OK) else "not readable"


def refuse(
    capfd: pytest.CaptureFixture[str], folder: Path, arguments: list[str | Path], *words: str, status: int = 2
) -> str:
    """Run the command line: it must end with ``status``, one line of error holding ``words``, and nothing changed.

    Standard error is read as the process writes it, so that lines of C libraries count as well.
    """
    before = tree(folder)
    capfd.readouterr()
    found = main([str(a) for a in arguments])
    said = capfd.readouterr().err
    lines = said.splitlines()
    assert found == status, said
    assert len(lines) == 1, said
    assert lines[0].startswith("cyclereg: error: "), said
    assert "Traceback" not in said
    for word in words:
        assert word.lower() in said.lower(), f"{word!r} is not in {said!r}"
    assert tree(folder) == before
    return lines[0]
