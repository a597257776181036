"""Orthogonal slices of volumes as pictures: anatomical orientation, true aspect, intensity windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from .fields import DisplacementField
from .geometry import Grid

PLANES = ("axial", "coronal", "sagittal")
HU_WINDOW = (-160.0, 240.0)

# The one plane of a picture, which has no anatomical sides.
PICTURE = "picture"

# Letters at the left, right, top and bottom edge of each plane, radiological convention.
LETTERS = {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "S", "I"), "sagittal": ("A", "P", "S", "I")}
LETTERS[PICTURE] = ("", "", "", "")
# Which anatomical axis (0 left, 1 posterior, 2 superior) runs along columns, down the rows and through the plane;
# rows of a coronal or sagittal picture run against the superior axis, so that the head is up.
_AXES = {"axial": (0, 1, 2, False), "coronal": (0, 2, 1, True), "sagittal": (1, 2, 0, True)}
_SAMPLES = 400_000


@dataclass(frozen=True)
class Plane:
    """One slice of a grid, laid out as a picture.

    ``grid`` is a three-dimensional grid of size (w, h, 1) at the voxel centres of the slice: its x axis runs along the
    picture's rows to the right, its y axis down.  ``width`` and ``height`` are those of the picture in (nearly square)
    pixels that cover the same extent, voxel edge to voxel edge.
    """

    name: str
    grid: Grid
    width: int
    height: int

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Size of a pixel along the row and down, mm."""
        return (
            self.grid.size[0] * self.grid.spacing[0] / self.width,
            self.grid.size[1] * self.grid.spacing[1] / self.height,
        )

    def to_pixels(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Picture coordinates (N, 2) (x right, y down; pixel centres at integers) of (N, 3) LPS points, and their
        distance from the slice, (N,) mm."""
        index = self.grid.to_index(np.atleast_2d(points))
        scale = np.array([self.width / self.grid.size[0], self.height / self.grid.size[1]])
        return (index[:, :2] + 0.5) * scale - 0.5, np.abs(index[:, 2]) * self.grid.spacing[2]

    def take(self, image: sitk.Image, nearest: bool = False, default: float | None = None) -> np.ndarray:
        """The values of a scalar volume of any geometry at the slice's voxels, (h, w)."""
        identity = DisplacementField.identity(self.grid)
        return sitk.GetArrayFromImage(identity.warp(image, "nearest" if nearest else "linear", default))[0]

    def enlarge(self, array: np.ndarray, nearest: bool = False) -> np.ndarray:
        """An (h, w) array of the slice's voxels as (height, width) float32 pixels; cubic unless ``nearest``."""
        values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None, None]
        size = (self.height, self.width)
        if nearest:
            return F.interpolate(values, size, mode="nearest-exact")[0, 0].numpy()
        return F.interpolate(values, size, mode="bicubic", align_corners=False, antialias=True)[0, 0].numpy()

    def offsets_mm(self) -> tuple[np.ndarray, np.ndarray]:
        """Distance of the pixel centres from the middle of the picture, along the row (width,) and down (height,)."""
        sx, sy = self.pixel_mm
        return (np.arange(self.width) + 0.5 - self.width / 2) * sx, (
            np.arange(self.height) + 0.5 - self.height / 2
        ) * sy


def planes_through(grid: Grid, point: np.ndarray, longest: int = 560) -> list[Plane]:
    """The axial, coronal and sagittal slice of ``grid`` nearest to a point.

    Slices follow the grid's own axes, each called by the anatomical axis it is nearest to, and are shown in
    radiological convention.  One scale serves all three: the longest side of the volume gets ``longest`` pixels.
    A plane in which the grid is a single voxel wide is left out.

    Parameters
    ----------
    grid
        Three-dimensional, any direction.
    point
        (3,) LPS mm; moved to the nearest voxel of the grid.
    """
    canonical = Grid.of(sitk.DICOMOrient(grid.empty_image(), "LPS"))
    extent = np.array(canonical.size) * canonical.spacing
    pixel = float(extent.max()) / longest
    place = np.clip(np.rint(canonical.to_index(np.asarray(point))), 0, np.array(canonical.size) - 1)
    direction = canonical.direction_matrix
    planes = []
    for name in PLANES:
        column, row, through, upward = _AXES[name]
        if min(canonical.size[column], canonical.size[row]) < 2:
            continue
        first = np.zeros(3)
        first[through] = place[through]
        if upward:
            first[row] = canonical.size[row] - 1
        down = -direction[:, row] if upward else direction[:, row]
        axes = np.column_stack([direction[:, column], down, direction[:, through]])
        spacing = tuple(canonical.spacing[a] for a in (column, row, through))
        size = (canonical.size[column], canonical.size[row], 1)
        slice_grid = Grid(size, spacing, tuple(canonical.to_world(first)), tuple(axes.ravel()))
        width, height = (max(2, round(size[a] * spacing[a] / pixel)) for a in (0, 1))
        planes.append(Plane(name, slice_grid, width, height))
    return planes


def some_values(image: sitk.Image) -> np.ndarray:
    """An evenly thinned-out (z, y, x) float32 copy of a volume, enough for robust statistics."""
    array = sitk.GetArrayViewFromImage(image)
    step = max(1, int((array.size / _SAMPLES) ** (1 / 3)))
    return np.array(array[::step, ::step, ::step], dtype=np.float32)


def is_hounsfield(values: np.ndarray) -> bool:
    """Whether intensities look like Hounsfield units: a share of them near air's -1000 (or a scanner's padding
    below), and tissue above 0."""
    low, high = np.percentile(values, [1, 99])
    return bool(-4096 <= low <= -700 and high > 0)


def otsu_threshold(values: np.ndarray) -> float:
    """Otsu's threshold: the cut that maximises the variance between the two classes."""
    low, high = np.percentile(values, [0.5, 99.5])
    if high <= low:
        return float(low)
    counts, edges = np.histogram(np.clip(values, low, high), bins=256)
    centers = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    mean_sum = np.cumsum(counts * centers)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = mean_sum / below - (mean_sum[-1] - mean_sum) / above
        between = np.nan_to_num(below * above * gap**2, nan=0.0, posinf=0.0)
    return float(edges[int(np.argmax(between)) + 1])


def intensity_window(image: sitk.Image) -> tuple[float, float]:
    """The intensities shown as black and white.

    Hounsfield units get the abdomen window, -160 to 240 HU; other images the 0.5th and 99.5th percentile of their
    foreground (above Otsu's threshold), reaching down to the background's median.
    """
    values = some_values(image)
    if is_hounsfield(values):
        return HU_WINDOW
    cut = otsu_threshold(values)
    bright = values[values > cut]
    if not bright.size:
        return float(values.min()), float(values.min()) + 1.0
    low, high = np.percentile(bright, [0.5, 99.5])
    dark = values[values <= cut]
    low = min(low, float(np.median(dark)))
    return float(low), float(high if high > low else low + 1.0)


def foreground_center(image: sitk.Image) -> np.ndarray:
    """Centre of mass of what is not background, (3,) LPS mm (-300 HU in CT, else Otsu's threshold)."""
    array = sitk.GetArrayViewFromImage(image)
    step = max(1, int((array.size / _SAMPLES) ** (1 / 3)))
    values = np.array(array[::step, ::step, ::step], dtype=np.float32)
    inside = np.argwhere(values > (-300.0 if is_hounsfield(values) else otsu_threshold(values)))
    grid = Grid.of(image)
    return grid.to_world(inside.mean(axis=0)[::-1] * step) if len(inside) else grid.center


def to_grey(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """(h, w) intensities as (h, w, 3) float32 in 0..255."""
    low, high = window
    grey = np.clip((np.asarray(values, np.float32) - low) / (high - low), 0.0, 1.0) * 255.0
    return np.repeat(grey[..., None], 3, axis=-1)
