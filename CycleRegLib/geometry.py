"""The one place for coordinates: sampling grids and the affine maps between voxel index and LPS millimetres.

Conventions (used by the whole library)
---------------------------------------
* Tuples ``size``, ``spacing``, ``origin`` and index coordinates are (x, y, z) as SimpleITK gives them.
* Arrays are (z, y, x): ``grid.shape == grid.size[::-1]``.
* World coordinates are LPS millimetres, ``p = origin + direction @ (spacing * index)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .storage import slabs


@dataclass(frozen=True)
class Grid:
    """A sampling grid of 2 or 3 dimensions: where the voxels of an image lie in space.

    Parameters
    ----------
    size, spacing, origin
        (x, y[, z]); spacing and origin in millimetres.
    direction
        Row-major direction cosines, ``dimension**2`` numbers; columns are the axes.  Left-handed (mirrored)
        and oblique directions are ordinary input.

    Raises
    ------
    InputError
        For an empty size, a spacing that is not positive, or a direction that is singular.
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    def __post_init__(self) -> None:
        n = len(self.size)
        object.__setattr__(self, "size", tuple(int(v) for v in self.size))
        object.__setattr__(self, "spacing", tuple(float(v) for v in self.spacing))
        object.__setattr__(self, "origin", tuple(float(v) for v in self.origin))
        object.__setattr__(self, "direction", tuple(float(v) for v in self.direction))
        if n not in (2, 3) or len(self.spacing) != n or len(self.origin) != n or len(self.direction) != n * n:
            raise InputError(f"A grid has 2 or 3 dimensions, with spacing, origin and direction to match; got {self}.")
        if min(self.size) < 1:
            raise InputError(f"The image is empty: its size is {self.size} voxels.")
        if not all(np.isfinite(self.spacing)) or min(self.spacing) <= 0:
            raise InputError(f"Voxel spacing must be positive but is {self.spacing} mm. Correct the image's header.")
        if not all(np.isfinite(self.origin + self.direction)):
            raise InputError("The image's origin or direction holds numbers that are not finite. Correct the header.")
        if abs(np.linalg.det(self.direction_matrix)) < 1e-6:
            raise InputError(f"The image's direction matrix {self.direction} is singular. Correct the image's header.")

    @classmethod
    def of(cls, image: sitk.Image) -> Grid:
        """The grid of a SimpleITK image."""
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    @property
    def dimension(self) -> int:
        return len(self.size)

    @property
    def shape(self) -> tuple[int, ...]:
        """Array shape (z, y, x)."""
        return self.size[::-1]

    @property
    def direction_matrix(self) -> np.ndarray:
        return np.array(self.direction, dtype=np.float64).reshape(self.dimension, self.dimension)

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in mm^3 (area in mm^2 in 2D)."""
        return float(abs(np.linalg.det(self.direction_matrix)) * np.prod(self.spacing))

    @property
    def index_to_world(self) -> np.ndarray:
        """(n+1, n+1) matrix from homogeneous (x, y, z) index to LPS mm."""
        matrix = np.eye(self.dimension + 1)
        matrix[:-1, :-1] = self.direction_matrix * np.array(self.spacing)
        matrix[:-1, -1] = self.origin
        return matrix

    @property
    def world_to_index(self) -> np.ndarray:
        """(n+1, n+1) matrix from LPS mm to homogeneous (x, y, z) index."""
        return np.linalg.inv(self.index_to_world)

    @property
    def center(self) -> np.ndarray:
        """World position of the middle of the grid, LPS mm."""
        middle = (np.array(self.size, dtype=np.float64) - 1) / 2
        return (self.index_to_world @ np.append(middle, 1.0))[:-1]

    def corners(self) -> np.ndarray:
        """World positions of the outer voxel centres, (2**n, n), LPS mm."""
        index = np.array(list(product(*[(0, s - 1) for s in self.size])), dtype=np.float64)
        return self.to_world(index)

    def to_world(self, index: np.ndarray) -> np.ndarray:
        """Map (..., n) continuous (x, y, z) indices to LPS mm."""
        matrix = self.index_to_world
        return np.asarray(index, dtype=np.float64) @ matrix[:-1, :-1].T + matrix[:-1, -1]

    def to_index(self, points: np.ndarray) -> np.ndarray:
        """Map (..., n) LPS mm points to continuous (x, y, z) indices."""
        matrix = self.world_to_index
        return np.asarray(points, dtype=np.float64) @ matrix[:-1, :-1].T + matrix[:-1, -1]

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Which (..., n) points lie inside the voxels of the grid (edges of the outer voxels included)."""
        index = self.to_index(points)
        return np.all((index >= -0.5) & (index <= np.array(self.size) - 0.5), axis=-1)

    def points(self) -> np.ndarray:
        """World positions of all voxel centres, (*shape, n) float64, LPS mm."""
        axes = np.meshgrid(*[np.arange(s, dtype=np.float64) for s in self.shape], indexing="ij")
        return self.to_world(np.stack(axes[::-1], axis=-1))

    def with_size(self, size: Sequence[int]) -> Grid:
        """The grid of the same extent (voxel edge to voxel edge) with another number of voxels."""
        size = tuple(max(1, int(s)) for s in size)
        spacing = tuple(sp * old / new for sp, old, new in zip(self.spacing, self.size, size))
        first = np.array([(old / new - 1) / 2 for old, new in zip(self.size, size)])
        return Grid(size, spacing, tuple(self.to_world(first)), self.direction)

    def with_spacing(self, spacing: Sequence[float]) -> Grid:
        """The grid of about the same extent with voxels of about ``spacing`` mm (the extent is kept exactly)."""
        return self.with_size([round(n * s / t) or 1 for n, s, t in zip(self.size, self.spacing, spacing)])

    def same_as(self, other: Grid, tolerance: float = 1e-3) -> bool:
        """Whether both grids put every voxel at the same place, to ``tolerance`` voxel."""
        if self.size != other.size:
            return False
        return bool(np.abs(self.to_index(other.corners()) - self.to_index(self.corners())).max() <= tolerance)

    def image(self, array: np.ndarray) -> sitk.Image:
        """A SimpleITK image on this grid from a (z, y, x) array, or a vector image from (z, y, x, c).

        Raises
        ------
        ValueError
            If the array's shape is not this grid's.
        """
        array = np.asarray(array)
        if array.shape[: self.dimension] != self.shape or array.ndim > self.dimension + 1:
            raise ValueError(f"array of shape {array.shape} does not fit a grid of shape {self.shape}")
        if array.dtype == bool:
            array = array.astype(np.uint8)
        is_vector = array.ndim == self.dimension + 1
        image = None
        # Slab by slab, so that of an array that lies in a file only a slab is in memory besides the image.
        for part in slabs(self.shape, array):
            slab = sitk.GetImageFromArray(array[part], isVector=is_vector)
            if part == slice(0, self.shape[0]):
                image = slab
                break
            if image is None:
                image = sitk.Image(list(self.size), slab.GetPixelID(), slab.GetNumberOfComponentsPerPixel())
            image[(..., part)] = slab
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        return image

    def empty_image(self) -> sitk.Image:
        """A SimpleITK image of this geometry, for use as a resampling reference."""
        image = sitk.Image(list(self.size), sitk.sitkUInt8)
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        return image

    def describe(self) -> str:
        """One line for messages, e.g. ``122x101x112 voxels of 3x3x3 mm``."""
        return "x".join(str(s) for s in self.size) + " voxels of " + "x".join(f"{s:.4g}" for s in self.spacing) + " mm"


def affine_transform(matrix: np.ndarray) -> sitk.AffineTransform:
    """The SimpleITK transform of an (n+1, n+1) homogeneous matrix in LPS mm."""
    matrix = np.asarray(matrix, dtype=np.float64)
    n = matrix.shape[0] - 1
    transform = sitk.AffineTransform(n)
    transform.SetMatrix(matrix[:n, :n].ravel().tolist())
    transform.SetTranslation(matrix[:n, n].tolist())
    return transform
