"""Random geometries and smooth fields shared by the tests."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from hypothesis import strategies as st

from CycleRegLib.fields import DisplacementField
from CycleRegLib.geometry import Grid


def random_direction(rng: np.random.Generator, dimension: int = 3, mirrored: bool | None = None) -> np.ndarray:
    """A random orthonormal matrix; left-handed when ``mirrored`` (a coin decides when None)."""
    q, _ = np.linalg.qr(rng.normal(size=(dimension, dimension)))
    if mirrored is None:
        mirrored = bool(rng.integers(2))
    if (np.linalg.det(q) < 0) != mirrored:
        q[:, 0] *= -1
    return q


def random_grid(seed: int, dimension: int = 3, low: int = 9, high: int = 18, mirrored: bool | None = None) -> Grid:
    """An oblique, anisotropic grid, right- or left-handed, away from the world's origin."""
    rng = np.random.default_rng(seed)
    return Grid(
        tuple(rng.integers(low, high, dimension)),
        tuple(rng.uniform(0.6, 4.0, dimension)),
        tuple(rng.uniform(-200, 200, dimension)),
        tuple(random_direction(rng, dimension, mirrored).ravel()),
    )


def smooth_vectors(grid: Grid, seed: int, amplitude_mm: float = 2.0, waves: float = 1.0) -> np.ndarray:
    """A smooth analytic displacement on ``grid``: sums of sines over its extent."""
    rng = np.random.default_rng(seed)
    n = grid.dimension
    extent = np.linalg.norm(grid.corners().max(0) - grid.corners().min(0))
    points = grid.points() - grid.center
    out = np.zeros((*grid.shape, n))
    for _ in range(3):
        k = rng.normal(size=n)
        k *= 2 * np.pi * waves / extent / np.linalg.norm(k)
        out += np.sin(points @ k + rng.uniform(0, 6.28))[..., None] * rng.uniform(-1, 1, n)
    return (amplitude_mm * out / np.abs(out).max()).astype(np.float32)


def smooth_field(grid: Grid, seed: int, amplitude_mm: float = 2.0, waves: float = 1.0) -> DisplacementField:
    return DisplacementField(smooth_vectors(grid, seed, amplitude_mm, waves), grid)


def random_image(grid: Grid, seed: int) -> sitk.Image:
    """Float32 noise, lightly smoothed, on ``grid``."""
    rng = np.random.default_rng(seed)
    image = sitk.GetImageFromArray(rng.normal(100, 30, grid.shape).astype(np.float32))
    image = sitk.DiscreteGaussian(image, 1.0)
    return grid.image(sitk.GetArrayFromImage(image))


seeds = st.integers(0, 2**31 - 1)
