"""A sample pair from code: a two-phase CT of the abdomen with breathing between the phases, and its exact truth.

The anatomy (:mod:`CycleRegLib.phantom_anatomy`) lies in the moving image, arterial phase.  The fixed image, portal
phase, shows the anatomy at ``p + u(p)``, where ``u`` is an analytic motion.  Both images are rendered from the shapes,
each on its own grid, so that neither is an interpolated copy of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .fields import DisplacementField
from .geometry import Grid
from .images import write_image, write_transform
from .landmarks import LandmarkList, write_landmarks
from .outputs import OutputTransaction
from .phantom_anatomy import Anatomy
from .phantom_shapes import Shape, rotation
from .phantom_tissues import ARTERIAL, PORTAL, tissues_of
from .progress import Progress
from .segmentations import Segment, Segmentation, write_segmentation

#: What :func:`write_sample` writes: names of its result to names of files.
SAMPLE_FILES = {
    "fixed": "fixed.nrrd",
    "moving": "moving.nrrd",
    "fixed_landmarks": "fixed.mrk.json",
    "moving_landmarks": "moving.mrk.json",
    "fixed_segmentation": "fixed.seg.nrrd",
    "moving_segmentation": "moving.seg.nrrd",
    "true_transform": "true_transform.nrrd",
}
_COLORS = {
    "liver": (0.87, 0.51, 0.40),
    "tumor": (0.56, 0.93, 0.56),
    "spleen": (0.62, 0.42, 0.64),
    "right kidney": (0.73, 0.40, 0.32),
    "left kidney": (0.92, 0.74, 0.30),
}


class Motion:
    """Breathing from expiration (fixed) to inspiration (moving): ``p_moving = p_fixed + u(p_fixed)``, LPS mm.

    Organs descend, most at the dome and hardly at the spine and the body wall; the front of the belly rises; a small
    random smooth part, set by ``seed``, is added.  The map does not fold.
    """

    def __init__(self, seed: int = 0, descent_mm: float = 15.5) -> None:
        rng = np.random.default_rng([seed, 2])
        self.descent_mm = descent_mm
        directions = rng.normal(size=(3, 6, 3))
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        self._waves = (2 * np.pi / rng.uniform(95, 190, (3, 6, 1)) * directions).tolist()
        self._phases = rng.uniform(0, 2 * np.pi, (3, 6)).tolist()

    def displacement(self, points: np.ndarray) -> np.ndarray:
        """u in mm, (3, ...), at fixed points (3, ...); the type of the points is kept."""
        x, y, z = points
        inside = np.square(x * (1 / 128)) + np.square((y - 2) * (1 / 88))
        free = 1 / (1 + np.square(np.square(inside)))  # falls to a half at the inner face of the wall
        spine = 1 - 0.95 * np.exp(-np.square((x - 2) * (1 / 34)) - np.square((y - 70) * (1 / 38)))
        height = 0.40 + 0.60 / (1 + np.exp((5 - z) * (1 / 40)))
        lobe = 1 - 0.12 * np.exp(-np.square((x - 60) * (1 / 60)))
        down = self.descent_mm * free * spine * height * lobe
        front = np.exp(-np.square(x * (1 / 95)) - np.square((z + 5) * (1 / 85))) / (1 + np.exp((y + 25) * (1 / 22)))
        result = np.stack([1.6 * np.sin(x * (np.pi / 160)) * front, -7.0 * front, -down])
        for i in range(3):
            wave = sum(
                np.sin(x * k[0] + y * k[1] + z * k[2] + phase) for k, phase in zip(self._waves[i], self._phases[i])
            )
            result[i] += 0.75 * free * spine * wave
        return result

    def inverse_points(self, points: np.ndarray, iterations: int = 200) -> np.ndarray:
        """Fixed points (N, 3) of moving points (N, 3), LPS mm, by fixed-point iteration to 1e-6 mm.

        Raises
        ------
        RuntimeError
            If the iteration does not arrive.
        """
        target = np.asarray(points, dtype=np.float64).T
        found = target.copy()
        for _ in range(iterations):
            updated = target - self.displacement(found)
            change = np.abs(updated - found).max()
            found = updated
            if change < 1e-6:
                return found.T
        raise RuntimeError(f"the motion could not be inverted: {change:.2g} mm are left")


@dataclass(frozen=True)
class Sample:
    """A pair with everything known about it.

    ``fixed`` (portal) and ``moving`` (arterial) are int16 HU; segmentations, landmarks (LPS mm) and ``field`` (on the
    fixed grid, exact up to float32 at its voxels) belong to them.  ``tumor_volume_mm3`` is the ellipsoid's in the
    moving image.
    """

    fixed: sitk.Image
    moving: sitk.Image
    fixed_segmentation: Segmentation
    moving_segmentation: Segmentation
    fixed_landmarks: LandmarkList
    moving_landmarks: LandmarkList
    field: DisplacementField
    motion: Motion
    tumor_volume_mm3: float


def sample_grids(scale: float = 1.0) -> tuple[Grid, Grid]:
    """Grids of the fixed and the moving image; voxels are ``scale`` times as large (and fewer)."""
    identity = (1, 0, 0, 0, 1, 0, 0, 0, 1)
    fixed = Grid((154, 118, 70), (2.2, 2.2, 3.0), (-168.3, -121.7, -103.5), identity)
    tilted = rotation(x=2.0, z=1.5)
    size, spacing = (144, 110, 88), (2.4, 2.4, 2.5)
    middle = tilted @ ((np.array(size) - 1) / 2 * spacing)
    moving = Grid(size, spacing, tuple(np.array([1.0, 7.0, -2.0]) - middle), tuple(tilted.ravel()))
    if scale == 1.0:
        return fixed, moving
    return tuple(grid.with_size([round(n / scale) for n in grid.size]) for grid in (fixed, moving))


def make_sample(seed: int = 0, scale: float = 1.0, progress: Progress | None = None) -> Sample:
    """Make the pair; the same ``seed`` gives the same numbers.

    Parameters
    ----------
    seed
        Varies small vessels, the random part of the motion, texture and noise.
    scale
        2 makes voxels twice as large along each axis: a small pair for tests.
    progress
        Called with the stage and the fraction done, 0 to 1.
    """
    report = progress or (lambda stage, fraction: None)
    report("anatomy", 0.0)
    anatomy, motion = Anatomy(seed), Motion(seed)
    fixed_grid, moving_grid = sample_grids(scale)
    fixed_points = _points(fixed_grid)
    displacement = motion.displacement(fixed_points)
    texture = _Texture(seed)
    report("fixed image", 0.2)
    canvas = _Canvas(fixed_grid, fixed_points + displacement, displacement)
    fixed, fixed_segmentation = canvas.render(anatomy, PORTAL, texture, np.random.default_rng([seed, 4]))
    report("moving image", 0.6)
    canvas = _Canvas(moving_grid, _points(moving_grid), None)
    moving, moving_segmentation = canvas.render(anatomy, ARTERIAL, texture, np.random.default_rng([seed, 5]))
    report("landmarks", 0.95)
    labels = [landmark.name for landmark in anatomy.landmarks]
    notes = [landmark.description for landmark in anatomy.landmarks]
    moving_marks = np.array([landmark.point for landmark in anatomy.landmarks])
    return Sample(
        fixed,
        moving,
        fixed_segmentation,
        moving_segmentation,
        LandmarkList(labels, motion.inverse_points(moving_marks), notes),
        LandmarkList(labels, moving_marks, notes),
        DisplacementField(np.moveaxis(displacement, 0, -1), fixed_grid),
        motion,
        anatomy.tumor.volume,
    )


def write_sample(
    folder: str | Path, seed: int = 0, scale: float = 1.0, progress: Progress | None = None
) -> dict[str, Path]:
    """Write the pair into an existing folder, all files or none; arguments as :func:`make_sample`.

    Returns
    -------
    dict
        ``fixed``, ``moving`` (``.nrrd``), ``fixed_landmarks``, ``moving_landmarks`` (``.mrk.json``),
        ``fixed_segmentation``, ``moving_segmentation`` (``.seg.nrrd``) and ``true_transform`` (``.nrrd``, displacement
        field on the fixed grid) to their paths.

    Raises
    ------
    InputError
        If the folder is missing or cannot be written.
    """
    paths = {key: Path(folder) / name for key, name in SAMPLE_FILES.items()}
    with OutputTransaction() as out:
        staged = {key: out.path(path) for key, path in paths.items()}
        report = progress or (lambda stage, fraction: None)
        sample = make_sample(seed, scale, lambda stage, fraction: report(stage, 0.9 * fraction))
        report("write", 0.9)
        for side in ("fixed", "moving"):
            write_image(getattr(sample, side), staged[side])
            write_landmarks(getattr(sample, f"{side}_landmarks"), staged[f"{side}_landmarks"])
            write_segmentation(getattr(sample, f"{side}_segmentation"), staged[f"{side}_segmentation"])
        write_transform(sample.field, staged["true_transform"])
    report("done", 1.0)
    return paths


# ---------------------------------------------------------------------- rendering


def _points(grid: Grid) -> np.ndarray:
    """(3, z, y, x) float32 LPS mm."""
    return np.moveaxis(grid.points(), -1, 0).astype(np.float32)


class _Texture:
    """Fine structure that moves with the anatomy: a sum of waves of 7 to 30 mm, standard deviation 1."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 3])
        directions = rng.normal(size=(20, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        self._waves = (2 * np.pi / rng.uniform(7, 30, (20, 1)) * directions).tolist()
        self._phases = rng.uniform(0, 2 * np.pi, 20).tolist()

    def at(self, points: np.ndarray) -> np.ndarray:
        x, y, z = points
        waves = sum(np.sin(x * k[0] + y * k[1] + z * k[2] + f) for k, f in zip(self._waves, self._phases))
        return waves * (1 / np.sqrt(len(self._waves) / 2).item())


class _Canvas:
    """An image to be painted: where each voxel lies in the anatomy, and which voxels a shape can reach."""

    def __init__(self, grid: Grid, points: np.ndarray, displacement: np.ndarray | None) -> None:
        self.grid, self.points = grid, points
        self.softness = 0.6 * float(np.mean(grid.spacing))
        corners = grid.corners()
        self._limits = corners.min(axis=0) - 50, corners.max(axis=0) + 50
        self._to_index = grid.world_to_index
        if displacement is None:
            self._reach = np.zeros(3), np.zeros(3)
        else:
            self._reach = displacement.min(axis=(1, 2, 3)), displacement.max(axis=(1, 2, 3))

    def _box(self, shape: Shape) -> tuple[slice, ...] | None:
        """The (z, y, x) block of voxels that may touch a shape; None when it is off the image."""
        low = np.clip(shape.low - self.softness - self._reach[1], *self._limits)
        high = np.clip(shape.high + self.softness - self._reach[0], *self._limits)
        # the box of a mapped box: its centre mapped, its half sides times absolute slopes
        matrix, shift = self._to_index[:3, :3], self._to_index[:3, 3]
        center, half = matrix @ ((low + high) / 2) + shift, np.abs(matrix) @ ((high - low) / 2)
        first = np.maximum(np.floor(center - half).astype(int), 0)
        last = np.minimum(np.ceil(center + half).astype(int) + 1, self.grid.size)
        if np.any(first >= last):
            return None
        return tuple(slice(int(a), int(b)) for a, b in zip(first[::-1], last[::-1]))

    def distance(self, shape: Shape) -> tuple[tuple[slice, ...], np.ndarray] | None:
        """The block of a shape and the distances in it; far values where no piece is near."""
        box = self._box(shape)
        if box is None:
            return None
        pieces = shape.pieces()
        if len(pieces) == 1:
            return box, pieces[0].distance(self.points[(slice(None), *box)])
        result = np.full([s.stop - s.start for s in box], 1e3, dtype=np.float32)
        for piece in pieces:
            part = self._box(piece)
            if part is not None:
                view = result[tuple(slice(p.start - b.start, p.stop - b.start) for p, b in zip(part, box))]
                np.minimum(view, piece.distance(self.points[(slice(None), *part)]), out=view)
        return box, result

    def render(
        self, anatomy: Anatomy, phase: int, texture: _Texture, rng: np.random.Generator
    ) -> tuple[sitk.Image, Segmentation]:
        """The CT image (int16 HU) and the segmentation."""
        image = np.full(self.grid.shape, -1000, dtype=np.float32)
        fine = texture.at(self.points)
        for tissue in tissues_of(anatomy):
            found = self.distance(tissue.shape)
            if found is None:
                continue
            box, distance = found
            cover = np.clip(0.5 - distance * (0.5 / self.softness), 0, 1)
            cover *= cover * (3 - 2 * cover)
            if callable(tissue.value):
                value = tissue.value(self.points[(slice(None), *box)], distance, phase)
            else:
                value = np.float32(tissue.value[phase])
            if tissue.texture:
                value = value + tissue.texture * fine[box]
            view = image[box]
            view += cover * (value - view)
        image += _noise(self.grid.shape, rng)
        labels = np.zeros(self.grid.shape, dtype=np.uint8)
        for number, shape in enumerate(anatomy.segments.values(), start=1):
            found = self.distance(shape)
            if found is not None:
                box, distance = found
                labels[box][distance < 0] = number
        segments = [
            Segment(name, number, color=_COLORS[name], id=name.replace(" ", "_"))
            for number, name in enumerate(anatomy.segments, start=1)
        ]
        hu = np.clip(np.rint(image), -1024, 3071).astype(np.int16)
        return self.grid.image(hu), Segmentation(self.grid.image(labels), segments=segments)


def _noise(shape: tuple[int, ...], rng: np.random.Generator, deviation: float = 11.0) -> np.ndarray:
    """Noise of CT's short-range correlation within a slice, HU."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    for axis in (1, 2):
        noise = 0.5 * noise + 0.25 * (np.roll(noise, 1, axis) + np.roll(noise, -1, axis))
    return noise * (deviation / (0.375))
