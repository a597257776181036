"""Flat images: pictures of two dimensions, and single slices of volumes, registered in the plane in which they lie.

Coordinates of the plane are millimetres along two perpendicular axes.  Those of the fixed slice are its own; those of
the moving slice are what becomes of them when the fixed plane is turned onto the moving one by the smallest rotation
and shifted along the normal.  So two slices of one orientation keep the places that they have in space, however their
voxels are stored, and only the gap between their planes is crossed; a tilted slice is laid flat about its centre.

A displacement of the plane becomes one of space by ``moving.to_space(q + u(q)) - fixed.to_space(q)``: it leads from
points of the fixed slice to points of the moving slice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .fields import DisplacementField
from .geometry import Grid, affine_transform

SIDES = ("fixed", "moving")
_OTHER = {"fixed": "moving", "moving": "fixed"}


def is_flat(image: sitk.Image) -> bool:
    """Whether an image has two dimensions, or three of which one is a single voxel."""
    return image.GetDimension() == 2 or (image.GetDimension() == 3 and 1 in image.GetSize())


def slice_grid(grid: Grid) -> Grid:
    """A 2D grid as a slice of 1 mm in the plane z = 0; a 3D one as it is."""
    if grid.dimension == 3:
        return grid
    direction = np.eye(3)
    direction[:2, :2] = grid.direction_matrix
    return Grid((*grid.size, 1), (*grid.spacing, 1.0), (*grid.origin, 0.0), tuple(direction.ravel()))


def slice_image(image: sitk.Image) -> sitk.Image:
    """A 2D image as a slice of 1 mm in the plane z = 0; a 3D one as it is."""
    if image.GetDimension() == 3:
        return image
    return slice_grid(Grid.of(image)).image(sitk.GetArrayViewFromImage(image)[None])


def slice_field(field: DisplacementField) -> DisplacementField:
    """A 2D field as one of a slice in the plane z = 0, which nothing leaves; a 3D one as it is."""
    if field.grid.dimension == 3:
        return field
    vectors = np.concatenate([field.vectors, np.zeros_like(field.vectors[..., :1])], axis=-1)
    return DisplacementField(vectors[None], slice_grid(field.grid))


@dataclass(frozen=True)
class Plane:
    """A plane in space with coordinates of its own.

    Attributes
    ----------
    origin
        (3,) LPS mm, where both coordinates are zero.
    axes
        (3, 2): the perpendicular unit vectors along which they grow.
    """

    origin: np.ndarray
    axes: np.ndarray

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.axes[:, 0], self.axes[:, 1])

    def to_space(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) coordinates as (..., 3) LPS points."""
        return np.asarray(points, np.float64) @ self.axes.T + self.origin

    def to_plane(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) coordinates of (..., 3) LPS points, projected along the normal."""
        return (np.asarray(points, np.float64) - self.origin) @ self.axes

    def height(self, points: np.ndarray) -> np.ndarray:
        """Distance of (..., 3) LPS points from the plane along its normal, mm."""
        return (np.asarray(points, np.float64) - self.origin) @ self.normal


class _Slice:
    """The grid of a single slice, and the same voxels as a 2D grid in a plane's coordinates."""

    def __init__(self, grid: Grid, plane: Plane) -> None:
        self.grid, self.plane = grid, plane
        axis = through(grid)
        self.array_axis = 2 - axis
        keep = [a for a in range(3) if a != axis]
        self.flat = Grid(
            tuple(grid.size[a] for a in keep),
            tuple(grid.spacing[a] for a in keep),
            tuple(plane.to_plane(np.array(grid.origin))),
            tuple((plane.axes.T @ grid.direction_matrix[:, keep]).ravel()),
        )


def through(grid: Grid) -> int:
    """The index axis (0 x, 1 y, 2 z) of a slice's single voxel; the last of several."""
    return max(a for a in range(3) if grid.size[a] == 1)


def _own_axes(grid: Grid) -> np.ndarray:
    """(3, 2) perpendicular unit vectors in a slice's plane, the first along its first index axis."""
    first, second = (grid.direction_matrix[:, a] for a in range(3) if a != through(grid))
    first = first / np.linalg.norm(first)
    second = second - first * (first @ second)
    return np.column_stack([first, second / np.linalg.norm(second)])


def _planes(fixed: Grid, moving: Grid) -> tuple[Plane, Plane]:
    """The planes of two slices, with coordinates that belong together (see the module)."""
    axes = _own_axes(fixed)
    plane = Plane(np.array(fixed.origin), axes)
    own = _own_axes(moving)
    normal = np.cross(own[:, 0], own[:, 1])
    # A plane has two sides: the one that is nearer to the fixed normal; of two perpendicular planes the storage's.
    if normal @ plane.normal < -1e-6:
        normal = -normal
    # The smallest rotation from the moving normal to the fixed one (Rodrigues), at most by a right angle.
    v = np.cross(normal, plane.normal)
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    turn = np.eye(3) + cross + cross @ cross / (1 + normal @ plane.normal)
    moving_axes = turn.T @ axes
    return plane, Plane(moving.center - moving_axes @ plane.to_plane(moving.center), moving_axes)


class FlatPair:
    """Two flat images, and the way between them and the plane in which they are registered.

    Parameters
    ----------
    fixed, moving
        Both of two dimensions, or both single slices in space (any axis may be the one of a single voxel); scalar or
        colour.

    Attributes
    ----------
    fixed, moving
        The same voxels as 2D images, in coordinates of the plane.

    Raises
    ------
    InputError
        If one has two dimensions and the other three, or one is a volume of several slices.
    """

    def __init__(self, fixed: sitk.Image, moving: sitk.Image) -> None:
        dimensions = {"fixed": fixed.GetDimension(), "moving": moving.GetDimension()}
        for side, image in zip(SIDES, (fixed, moving)):
            if not is_flat(image):
                raise InputError(
                    f"The {side} image is a volume of {'x'.join(map(str, image.GetSize()))} voxels but the "
                    f"{_OTHER[side]} image is {'2D' if 2 in dimensions.values() else 'a single slice'}. "
                    "Give two volumes, or one slice of each."
                )
        if dimensions["fixed"] != dimensions["moving"]:
            flat = next(side for side in SIDES if dimensions[side] == 2)
            raise InputError(
                f"The {flat} image is 2D but the {_OTHER[flat]} image is a slice of a volume, which lies in space. "
                "Save both as 2D images (PNG, or NRRD of two dimensions), or both as volumes of one slice."
            )
        self.dimension = fixed.GetDimension()
        grids = {side: slice_grid(Grid.of(image)) for side, image in zip(SIDES, (fixed, moving))}
        planes = _planes(grids["fixed"], grids["moving"])
        self._slices = {side: _Slice(grids[side], plane) for side, plane in zip(SIDES, planes)}
        self.fixed, self.moving = self.flatten(fixed, "fixed"), self.flatten(moving, "moving")

    # ------------------------------------------------------------------ images

    def flatten(self, image: sitk.Image, side: str) -> sitk.Image:
        """An image on the grid of one side as a 2D image in the plane; a label image on another grid by nearest
        neighbour.

        Raises
        ------
        InputError
            If it has another dimension than the images.
        """
        at = self._slices[side]
        if image.GetDimension() != self.dimension:
            raise InputError(
                f"A mask or segmentation is {image.GetDimension()}D but the {side} image is {self.dimension}D. Give "
                "one that lies on the image."
            )
        image = slice_image(image)
        if not Grid.of(image).same_as(at.grid):
            if self.dimension == 2:  # a picture in the plane z = 0, on pixels of its own
                at = _Slice(Grid.of(image), at.plane)
            else:
                identity = sitk.Transform(3, sitk.sitkIdentity)
                image = sitk.Resample(image, at.grid.empty_image(), identity, sitk.sitkNearestNeighbor, 0)
        return at.flat.image(np.squeeze(sitk.GetArrayViewFromImage(image), at.array_axis))

    def restore(self, array: np.ndarray, side: str) -> sitk.Image:
        """A (y, x) or (y, x, c) array of the plane as an image on the grid of one side, as that was given."""
        at = self._slices[side]
        if self.dimension == 2:
            return self._drop(at.grid).image(array)
        return at.grid.image(np.expand_dims(array, at.array_axis))

    @staticmethod
    def _drop(grid: Grid) -> Grid:
        """The 2D grid of a slice in the plane z = 0."""
        direction = grid.direction_matrix[:2, :2]
        return Grid(grid.size[:2], grid.spacing[:2], grid.origin[:2], tuple(direction.ravel()))

    # ------------------------------------------------------------------ fields and transforms

    def field_in_plane(self, field: DisplacementField, side: str = "fixed") -> DisplacementField:
        """A field of one side (from ``"fixed"`` to moving points, or the reverse) in the plane, on that side's grid."""
        here, there = self._slices[side], self._slices[_OTHER[side]]
        vectors = slice_field(field).resampled(here.grid).vectors.astype(np.float64)
        landed = there.plane.to_plane(here.grid.points() + vectors)
        return DisplacementField(np.squeeze(landed, here.array_axis) - here.flat.points(), here.flat)

    def field_in_space(self, field: DisplacementField, side: str = "fixed") -> DisplacementField:
        """The reverse of :meth:`field_in_plane`: 2D for pictures, 3D on one slice for slices."""
        here, there = self._slices[side], self._slices[_OTHER[side]]
        landed = there.plane.to_space(here.flat.points() + field.vectors)
        vectors = np.expand_dims(landed, here.array_axis) - here.grid.points()
        if self.dimension == 2:
            return DisplacementField(vectors[0, ..., :2], self._drop(here.grid))
        return DisplacementField(vectors, here.grid)

    def determinant(self, field: DisplacementField) -> sitk.Image:
        """Jacobian determinant of a field from fixed to moving points within the planes, on the fixed grid."""
        return self.restore(self.field_in_plane(field).jacobian_determinant(), "fixed")

    def transform_in_plane(self, transform: sitk.Transform) -> sitk.Transform:
        """A transform from fixed to moving points (2D for pictures, 3D for slices) as one of the plane.

        Where it leads out of the moving plane, it is projected onto it.

        Raises
        ------
        InputError
            If it has another dimension than the images.
        """
        if transform.GetDimension() != self.dimension:
            raise InputError(
                f"The initial transform is {transform.GetDimension()}D but the images are {self.dimension}D. Give one "
                "that maps points of the fixed image to points of the moving image."
            )
        here, there = self._slices["fixed"], self._slices["moving"]
        if not transform.IsLinear():
            grid = here.grid if self.dimension == 3 else self._drop(here.grid)
            return self.field_in_plane(DisplacementField.from_transform(transform, grid)).to_transform()
        # Three points tell an affine map.
        points = here.plane.to_space(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))[:, : self.dimension]
        mapped = np.zeros((3, 3))
        mapped[:, : self.dimension] = [transform.TransformPoint(p) for p in points.tolist()]
        origin, first, second = there.plane.to_plane(mapped)
        matrix = np.eye(3)
        matrix[:2] = np.column_stack([first - origin, second - origin, origin])
        return affine_transform(matrix)

    def matrix_in_space(self, matrix: np.ndarray) -> np.ndarray:
        """A (3, 3) homogeneous map of the plane as one of space, LPS mm: (4, 4), or (3, 3) for pictures.

        Distances from the fixed plane become the same distances from the moving plane.
        """
        fixed, moving = self._slices["fixed"].plane, self._slices["moving"].plane
        result = np.eye(4)
        result[:3, :3] = moving.axes @ matrix[:2, :2] @ fixed.axes.T + np.outer(moving.normal, fixed.normal)
        result[:3, 3] = moving.to_space(matrix[:2, 2]) - result[:3, :3] @ fixed.origin
        return result if self.dimension == 3 else np.delete(np.delete(result, 2, 0), 2, 1)

    # ------------------------------------------------------------------ laid flat: the plane as an axial slice

    def lay_image(self, image: sitk.Image, side: str) -> sitk.Image:
        """As :meth:`flatten`, but as a slice in the plane z = 0, of the thickness that it has in space."""
        image = self.flatten(image, side)
        return self._laid(Grid.of(image), side).image(sitk.GetArrayViewFromImage(image)[None])

    def lay_field(self, field: DisplacementField, side: str) -> DisplacementField:
        """As :meth:`field_in_plane`, but between slices in the plane z = 0."""
        laid = slice_field(self.field_in_plane(field, side))
        return DisplacementField(laid.vectors, self._laid(self._slices[side].flat, side))

    def _laid(self, flat: Grid, side: str) -> Grid:
        grid, at = slice_grid(flat), self._slices[side]
        return replace(grid, spacing=(*flat.spacing, at.grid.spacing[2 - at.array_axis]))

    def lay_points(self, points: np.ndarray, side: str) -> np.ndarray:
        """(..., 3) LPS points of one side as (..., 3): the two coordinates of the plane, and the height above it."""
        plane = self._slices[side].plane
        return np.concatenate([plane.to_plane(points), plane.height(points)[..., None]], axis=-1)

    def stand_points(self, points: np.ndarray, side: str) -> np.ndarray:
        """The reverse of :meth:`lay_points`."""
        plane, points = self._slices[side].plane, np.asarray(points, np.float64)
        return plane.to_space(points[..., :2]) + points[..., 2:] * plane.normal
