"""From MRML nodes to this library's images, landmarks and transforms; see ``segments`` for masks and segmentations.

Everything comes out in LPS millimetres of Slicer's world: linear transforms above a node are folded into its
geometry.  ``stop_at`` names transform nodes that do not count, nor what is above them.  A registration passes its
output transforms there, so that a volume which still shows the previous result is taken as it was before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
import vtk

from ..errors import InputError
from ..fields import DisplacementField
from ..geometry import Grid
from ..landmarks import LandmarkList
from .vtk_bridge import (
    FLIP,
    array_of_image,
    field_of_grid_transform,
    flip_both,
    flip_target,
    matrix_from_vtk,
    parent_matrix,
    parents_of,
    transform_points,
)

# Headers keep direction cosines with about this precision; beyond it the axes are truly not perpendicular.
_SHEAR_TOLERANCE = 1e-3
_SAMPLED_POINTS = 2_000_000


# ---------------------------------------------------------------------- volumes


def grid_from_volume_node(node: Any, what: str = "volume", stop_at: Sequence[Any] = (), colours: bool = False) -> Grid:
    """Where the voxels of a volume node lie in the world, its linear parent transforms included.

    Raises
    ------
    InputError
        If the node holds no image, is under a non-linear transform, or a parent transform shears its grid.
    """
    image_data = volume_data(node, what, colours)
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    index_to_world = parent_matrix(node, what, stop_at) @ flip_target(matrix_from_vtk(matrix))
    return grid_of_matrix(index_to_world, image_data.GetExtent(), node, what, stop_at)


def grid_of_matrix(matrix: np.ndarray, extent: Sequence[int], node: Any, what: str, stop_at: Sequence[Any]) -> Grid:
    """A grid from a (4, 4) index-to-LPS matrix and a VTK extent, refused when its axes are not perpendicular."""
    axes = matrix[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    direction = axes / np.where(spacing > 0, spacing, 1.0)
    if np.abs(direction.T @ direction - np.eye(3)).max() > _SHEAR_TOLERANCE:
        parents = parents_of(node, stop_at)
        if not parents:
            raise InputError(
                f'The axes of the {what} "{node.GetName()}" are not perpendicular. Resample it to a plain grid first '
                "(Resample Scalar/Vector/DWI Volume module)."
            )
        names = ", ".join(f'"{parent.GetName()}"' for parent in parents)
        raise InputError(
            f'The {what} "{node.GetName()}" is sheared by its transform {names}, which no voxel grid can express. '
            f"Harden it by resampling the {what} under it (Resample Scalar/Vector/DWI Volume module), or take the "
            f"{what} out of it and give the transform as the initial transform."
        )
    origin = (matrix @ [*extent[::2], 1.0])[:3]
    size = [high - low + 1 for low, high in zip(extent[::2], extent[1::2])]
    return Grid(tuple(size), tuple(spacing), tuple(origin), tuple(direction.ravel()))


def volume_data(node: Any, what: str, colours: bool = False) -> Any:
    """The ``vtkImageData`` of a volume node, of one value per voxel (with ``colours``, up to four)."""
    if node is None:
        raise InputError(f"No {what} is given. Choose one.")
    if not node.IsA("vtkMRMLVolumeNode"):
        raise InputError(f'"{node.GetName()}" is a {node.GetNodeTagName()} node; the {what} must be a volume.')
    image_data = node.GetImageData()
    if image_data is None or image_data.GetPointData().GetScalars() is None or min(image_data.GetDimensions()) < 1:
        raise InputError(f'The {what} "{node.GetName()}" holds no voxels. Load or choose another volume.')
    if image_data.GetScalarType() == vtk.VTK_BIT:
        raise InputError(f'The {what} "{node.GetName()}" is a bit image. Cast it first (Cast Scalar Volume module).')
    components = image_data.GetNumberOfScalarComponents()
    if components > (4 if colours else 1):
        raise InputError(
            f'The {what} "{node.GetName()}" has {components} values per voxel (colour, vectors or time points); '
            "a 3D grey volume is needed. Convert it first (Vector to Scalar Volume module, or extract one time point)."
        )
    return image_data


def image_from_volume_node(
    node: Any, what: str = "volume", stop_at: Sequence[Any] = (), colours: bool = False
) -> sitk.Image:
    """A volume node as a SimpleITK image in world LPS, of the node's own scalar type.

    Linear parent transforms are folded into spacing, origin and direction.  Label maps pass too; a registration
    refuses them with the checks that every image goes through.

    Parameters
    ----------
    colours
        Take vector volumes (RGB, RGBA) too.

    Raises
    ------
    InputError
        If there is no node, it is no volume, holds no voxels or several values per voxel, is under a non-linear
        transform, or a parent transform shears its grid.
    """
    grid = grid_from_volume_node(node, what, stop_at, colours)
    return grid.image(array_of_image(node.GetImageData()))


# ---------------------------------------------------------------------- landmarks


def landmarks_from_markups(node: Any, what: str = "landmark list", stop_at: Sequence[Any] = ()) -> LandmarkList:
    """The defined control points of a markups node, world positions in LPS mm, with labels and descriptions.

    Any parent transform is honoured, a non-linear one too.

    Raises
    ------
    InputError
        If the node is no markups node or holds no defined point.
    """
    if node is None:
        raise InputError(f"No {what} is given. Choose one.")
    if not node.IsA("vtkMRMLMarkupsNode"):
        raise InputError(f'"{node.GetName()}" is a {node.GetNodeTagName()} node; the {what} must be a point list.')
    labels, points, descriptions = [], [], []
    position = [0.0, 0.0, 0.0]
    for i in range(node.GetNumberOfControlPoints()):
        if node.GetNthControlPointPositionStatus(i) != slicer.vtkMRMLMarkupsNode.PositionDefined:
            continue
        node.GetNthControlPointPosition(i, position)
        labels.append(node.GetNthControlPointLabel(i))
        descriptions.append(node.GetNthControlPointDescription(i))
        points.append(FLIP * position)
    if not points:
        raise InputError(f'The {what} "{node.GetName()}" holds no placed point. Place or load points.')
    placed = np.array(points)
    for parent in parents_of(node, stop_at):
        placed = transform_points(parent.GetTransformToParent(), placed)
    return LandmarkList(labels, placed, descriptions if any(descriptions) else None)


# ---------------------------------------------------------------------- transforms


def transform_from_node(node: Any, reference: Grid | None = None, what: str = "transform") -> sitk.Transform:
    """A transform node as a SimpleITK transform that maps fixed points to moving points, LPS mm.

    That is the node's map from the world to its own coordinates (Slicer's "transform from parent"), its parent
    transforms included.

    Linear transforms and displacement grids held from parent come out exactly, the latter interpolated linearly.
    Everything else (B-spline, thin-plate, grids held to parent, several in a chain) is sampled at the voxel centres
    of ``reference``; VTK inverts numerically where it must, to its own tolerance of 0.001 to 0.01 mm.

    Raises
    ------
    InputError
        If the node is no transform node, is empty, or has to be sampled and no ``reference`` is given.
    """
    matrix = _linear_map(node, what)
    if matrix is not None:
        return sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())
    field = _held_field(node)
    if field is None:
        if reference is None:
            raise InputError(
                f'The {what} "{node.GetName()}" is not linear and not a displacement field from parent; '
                "give the volume whose grid it shall be sampled on."
            )
        field = _sampled(node, reference)
    return field.to_transform()


def field_from_node(node: Any, reference: Grid, what: str = "transform") -> DisplacementField:
    """A transform node as a displacement field: on its own grid where it holds one, else sampled on ``reference``.

    Same map and same errors as :func:`transform_from_node`.
    """
    matrix = _linear_map(node, what)
    if matrix is not None:
        return DisplacementField.from_matrix(matrix, reference)
    return _held_field(node) or _sampled(node, reference)


def _linear_map(node: Any, what: str) -> np.ndarray | None:
    """The (4, 4) LPS map from the world to the node's coordinates; None when it is not linear."""
    if node is None:
        raise InputError(f"No {what} is given. Choose one.")
    if not node.IsA("vtkMRMLTransformNode"):
        raise InputError(f'"{node.GetName()}" is a {node.GetNodeTagName()} node; the {what} must be a transform.')
    if not node.IsTransformToWorldLinear():
        return None
    matrix = vtk.vtkMatrix4x4()
    node.GetMatrixTransformToWorld(matrix)
    return np.linalg.inv(flip_both(matrix_from_vtk(matrix)))


def _held_field(node: Any) -> DisplacementField | None:
    """The displacement grid that the node holds from parent, if it does and stands alone."""
    held = node.GetTransformFromParent()
    if node.GetParentTransformNode() is not None or node.IsAbstractTransformComputedFromInverse(held):
        return None
    # Slicer's reader asks for cubic interpolation, but what a displacement field file means is linear.
    grid_transform = node.GetTransformFromParentAs("vtkOrientedGridTransform", False)
    return None if grid_transform is None else field_of_grid_transform(grid_transform)


def _sampled(node: Any, grid: Grid) -> DisplacementField:
    """The node's world-to-local map at the voxel centres of ``grid``, a slab at a time."""
    general = vtk.vtkGeneralTransform()
    node.GetTransformFromWorld(general)
    points = grid.points().reshape(-1, 3)
    vectors = np.empty((len(points), 3), np.float32)
    for start in range(0, len(points), _SAMPLED_POINTS):
        part = points[start : start + _SAMPLED_POINTS]
        vectors[start : start + len(part)] = transform_points(general, part) - part
    return DisplacementField(vectors.reshape(*grid.shape, 3), grid)
