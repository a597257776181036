"""Rigid or affine alignment of two volumes, the stage before deformable registration.

The stage is this library's own, in PyTorch: a search over shift, rotation and scale by mutual information on about a
thousand points (:mod:`CycleRegLib.affine_starts`), then Gauss-Newton steps on local squared correlation from the best
starts, coarse to fine (:mod:`CycleRegLib.affine_refine`).

It was measured against SimpleITK's Mattes mutual information (started from moments and from centres, similarity then
affine map, two resolutions, regular steps) on 32 known maps per image: rotations to 20 degrees, shifts to 60 mm,
scales of 0.85-1.15, with changed or inverted contrast, noise, and 25-40 % of the slices of one image cut off.  Mean
error in mm over the foreground, and the median seconds of one thread:

======================================  ===============  =====  =====  =======
image                                   under one voxel  mean   worst  seconds
======================================  ===============  =====  =====  =======
abdominal CT, 122x101x112, 3 mm: this   32 of 32         0.06   0.12   1.0
abdominal CT: SimpleITK                 31 of 32         0.70   3.19   6.6
T1 brain, 160x192x224, 1 mm: this       32 of 32         0.29   0.57   1.0
T1 brain: SimpleITK                     31 of 32         0.28   3.10   13.1
======================================  ===============  =====  =====  =======

On inverted brain contrast, local correlation is off by 0.5 mm at the brain's edge, where dark liquor meets dark
background in the one image and bright liquor the same background in the other; mutual information is off by 0.3 mm.
``Testing/benchmarks/affine_recovery.py`` makes the table.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import SimpleITK as sitk

from .affine_refine import LocalCorrelation, Refined, refine
from .affine_starts import (
    MIN_OVERLAP,
    Start,
    Volume,
    common_step,
    find_starts,
    nearest_rotation,
    onto,
    shown,
    shrink,
    volume_of,
)
from .errors import InputError
from .geometry import Grid, affine_transform

MODES = ("rigid", "affine")
CANDIDATES = 6
RACE_STEPS = 6
FINALISTS = 3
# how far lengths may change in an affine fit, relative to the initial map; beyond it the fit has collapsed
LENGTH_LIMITS = (0.6, 1.7)


@dataclass(frozen=True)
class Level:
    """A resolution: about how many voxels, the window radius of the correlation, and the most steps taken."""

    voxels: int
    radius: int
    steps: int


# Coarse windows are wide for a wide basin of attraction.  The finest are narrow, because wide ones that hold two
# tissue borders have no single line f = a + b m when contrast turns round (the brain of inverted contrast, above).
LEVELS = (Level(40_000, 2, 24), Level(200_000, 2, 6), Level(900_000, 1, 8))


@dataclass(frozen=True)
class AffineResult:
    """The outcome of :func:`register_affine`.

    ``matrix`` (4, 4) float64 maps fixed points to moving points, LPS mm, and ``transform`` is the same for SimpleITK.
    ``similarity_before`` and ``similarity_after`` are the mean squared local correlation (0..1) of the shrunken images
    under the initial and the found map, over the fixed voxels that both maps show; where these are too few, over those
    that each shows, times its overlap.  ``start`` names the start that won, "initial" also where nothing better than
    the initial map was found; ``seconds`` is the wall time.
    """

    matrix: np.ndarray
    transform: sitk.AffineTransform
    similarity_before: float
    similarity_after: float
    start: str
    seconds: float


def register_affine(
    fixed: sitk.Image,
    moving: sitk.Image,
    mode: str = "affine",
    fixed_mask: sitk.Image | None = None,
    moving_mask: sitk.Image | None = None,
    initial: sitk.Transform | None = None,
    progress: Callable[[str, float], None] | None = None,
    device: str = "cpu",
) -> AffineResult:
    """Find the rigid or affine map from fixed to moving points.

    Parameters
    ----------
    fixed, moving
        3D scalar images of any size, spacing, origin and direction; their contrast may differ or be inverted.
    mode
        "affine" (12 numbers) or "rigid" (an exact rotation and translation).
    fixed_mask, moving_mask
        Images on any grid; where they are not zero, the image counts.  A fixed point counts when it lies in the fixed
        mask and maps into the moving mask.
    initial
        Maps fixed points to moving points.  The result contains it: ``result.matrix`` alone maps fixed to moving.  Of
        a non-linear transform the affine map nearest to it over the fixed grid (least squares) is taken, in mode
        "rigid" the nearest rotation with the fixed centre mapped to the same place.
    progress
        Called as ``progress("affine", fraction)``; what it raises ends the work.
    device
        Torch device.  On "mps", which lacks parts of what is needed, the CPU does the work.

    The result is never less similar than the initial map, which is returned if nothing better is found.

    Raises
    ------
    InputError
        For an unknown mode, images that are not 3D, constant or not finite, an empty mask, a singular initial
        transform, or images and masks with nothing in common that centring can bring together.
    """
    began = time.perf_counter()
    _check(fixed, moving, mode)
    report = progress or (lambda stage, fraction: None)
    report("affine", 0.0)
    first = _initial_matrix(initial, Grid.of(fixed), mode)
    pyramid = _Pyramid(fixed, moving, fixed_mask, moving_mask, "cpu" if str(device).startswith("mps") else str(device))
    coarse = pyramid.volumes(LEVELS[0])
    report("affine", 0.1)
    starts = find_starts(*coarse, first, mode, CANDIDATES)
    report("affine", 0.25)
    name, matrix = _race(LocalCorrelation(*coarse, LEVELS[0].radius), starts, first, mode)
    for number, level in enumerate(LEVELS[1:]):
        report("affine", 0.5 + 0.2 * number)
        metric = LocalCorrelation(*pyramid.volumes(level, matrix), level.radius)
        matrix = refine(metric, matrix, mode, level.steps).matrix
    if mode == "rigid":  # rounding of many products
        matrix = onto(nearest_rotation(matrix[:3, :3]), np.zeros(3), matrix[:3, 3])
    before, after = metric.compare(first, matrix)
    if not after > before:
        matrix, after, name = first, before, "initial"
    report("affine", 1.0)
    return AffineResult(matrix, affine_transform(matrix), before, after, name, time.perf_counter() - began)


def _check(fixed: sitk.Image, moving: sitk.Image, mode: str) -> None:
    if mode not in MODES:
        raise InputError(f"Unknown affine mode '{mode}'. Choose one of: {', '.join(MODES)}.")
    for what, image in (("fixed", fixed), ("moving", moving)):
        if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
            raise InputError(f"The {what} image must be 3D with one value per voxel to be aligned. Convert it first.")


def _initial_matrix(initial: sitk.Transform | None, grid: Grid, mode: str) -> np.ndarray:
    """The affine map nearest to ``initial`` over the grid, exact where it is linear; made rigid in mode "rigid"."""
    if initial is None:
        return np.eye(4)
    index = np.array(list(product(*[np.linspace(-0.5, n - 0.5, 6) for n in grid.size])))
    points = grid.to_world(index)
    mapped = np.array([initial.TransformPoint(p) for p in points.tolist()])
    middle, target = points.mean(0), mapped.mean(0)
    linear = np.linalg.lstsq(points - middle, mapped - target, rcond=None)[0].T
    if not np.isfinite(linear).all() or np.linalg.cond(linear) > 1e6:
        raise InputError("The initial transform is singular: it flattens the image. Give another one, or none.")
    return onto(nearest_rotation(linear) if mode == "rigid" else linear, middle, target)


class _Pyramid:
    """Coarse copies of a pair: the coarser ones are made of the finest, which is small, not of the images."""

    def __init__(
        self,
        fixed: sitk.Image,
        moving: sitk.Image,
        fixed_mask: sitk.Image | None,
        moving_mask: sitk.Image | None,
        device: str,
    ) -> None:
        self.grids = Grid.of(fixed), Grid.of(moving)
        step = common_step(*self.grids, LEVELS[-1].voxels)
        self.fixed, self.moving = shrink(fixed, step), shrink(moving, step)
        self.fixed_mask, self.moving_mask, self.device = fixed_mask, moving_mask, device

    def volumes(self, level: Level, matrix: np.ndarray | None = None) -> tuple[Volume, Volume]:
        """Fixed and moving volume of a level, the fixed one cropped to its foreground, and with ``matrix`` to what of
        it the moving image shows."""
        step = common_step(*self.grids, level.voxels)
        fixed = volume_of(shrink(self.fixed, step), self.fixed_mask, "fixed", self.device)
        moving = volume_of(shrink(self.moving, step), self.moving_mask, "moving", self.device)
        where = fixed.counted
        if matrix is not None:
            both = where & shown(fixed, moving, matrix)
            where = both if bool(both.any()) else where
        return fixed.cropped(where, 2 * level.radius), moving


def _race(metric: LocalCorrelation, starts: list[Start], first: np.ndarray, mode: str) -> tuple[str, np.ndarray]:
    """Refine all starts a little, the best of them to the end; the name and the map of the winner.

    Raises
    ------
    InputError
        If no start shows any of the fixed anatomy.
    """
    able = [start for start in starts if metric.overlap(start.matrix) > 0]
    if not able:
        raise InputError(
            "The images have nothing in common, even with their centres aligned. Check the masks and the initial "
            "transform."
        )

    def run(name: str, matrix: np.ndarray, steps: int) -> tuple[float, str, np.ndarray]:
        found = refine(metric, matrix, mode, steps)
        if not _plausible(metric, found.matrix, first):
            found = Refined(matrix, metric.score(matrix))
        # with equal similarity, more common anatomy is the better explanation
        return found.score * metric.overlap(found.matrix) ** 0.5, name, found.matrix

    runners = [run(start.name, start.matrix, RACE_STEPS) for start in able]
    runners = sorted(runners, key=lambda runner: -runner[0])[:FINALISTS]
    _, name, matrix = max((run(name, matrix, LEVELS[0].steps) for _, name, matrix in runners), key=lambda r: r[0])
    return name, matrix


def _plausible(metric: LocalCorrelation, matrix: np.ndarray, first: np.ndarray) -> bool:
    """Whether lengths change within bounds, relative to the initial map, and enough anatomy remains in common."""
    change = np.linalg.svd(matrix[:3, :3] @ np.linalg.inv(first[:3, :3]), compute_uv=False)
    within = LENGTH_LIMITS[0] < change.min() and change.max() < LENGTH_LIMITS[1]
    return within and metric.overlap(matrix) >= MIN_OVERLAP
