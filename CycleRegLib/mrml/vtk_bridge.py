"""VTK's matrices, arrays and transforms as NumPy's, and back; RAS (Slicer's world) as LPS (this library's)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from ..errors import InputError
from ..fields import DisplacementField
from ..geometry import Grid

#: Signs that turn LPS points and vectors into RAS ones, and back.
FLIP = np.array([-1.0, -1.0, 1.0])
_FLIP_MATRIX = np.diag([-1.0, -1.0, 1.0, 1.0])


def matrix_from_vtk(matrix: Any) -> np.ndarray:
    """(4, 4) float64 from a ``vtkMatrix4x4``."""
    return np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)])


def matrix_to_vtk(matrix: np.ndarray) -> Any:
    """``vtkMatrix4x4`` from a (4, 4) or (3, 3) array (the latter as its rotation part)."""
    result = vtk.vtkMatrix4x4()
    for i, row in enumerate(np.asarray(matrix, dtype=np.float64)):
        for j, value in enumerate(row):
            result.SetElement(i, j, float(value))
    return result


def flip_target(matrix: np.ndarray) -> np.ndarray:
    """A (4, 4) map into RAS as a map into LPS (or the reverse), e.g. IJK to RAS as IJK to LPS."""
    return _FLIP_MATRIX @ matrix


def flip_both(matrix: np.ndarray) -> np.ndarray:
    """A (4, 4) map between RAS points as one between LPS points, or the reverse."""
    return _FLIP_MATRIX @ matrix @ _FLIP_MATRIX


def array_of_image(image_data: Any) -> np.ndarray:
    """A view of a ``vtkImageData``'s scalars, (z, y, x), or (z, y, x, c) with several components."""
    scalars = image_data.GetPointData().GetScalars()
    components = scalars.GetNumberOfComponents()
    shape = image_data.GetDimensions()[::-1]
    return numpy_support.vtk_to_numpy(scalars).reshape(shape if components == 1 else (*shape, components))


def image_of_array(array: np.ndarray, components: int = 1) -> Any:
    """``vtkImageData`` (unit spacing, zero origin) with a copy of a (z, y, x[, c]) array.

    One copy is made, straight into VTK's memory: fields and volumes are large.
    """
    scalars = vtk.vtkDataArray.CreateDataArray(numpy_support.get_vtk_array_type(array.dtype))
    scalars.SetNumberOfComponents(components)
    scalars.SetNumberOfTuples(array.size // components)
    numpy_support.vtk_to_numpy(scalars).reshape(array.shape)[...] = array
    image_data = vtk.vtkImageData()
    image_data.SetDimensions(*[int(n) for n in array.shape[2::-1]])
    image_data.GetPointData().SetScalars(scalars)
    return image_data


def transform_points(transform: Any, points: np.ndarray) -> np.ndarray:
    """Map (N, 3) LPS points by a ``vtkAbstractTransform`` of RAS points; all in one call into VTK."""
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for held in (source, target):
        held.SetDataTypeToDouble()
    source.SetData(numpy_support.numpy_to_vtk(np.ascontiguousarray(np.asarray(points, np.float64) * FLIP), deep=True))
    transform.TransformPoints(source, target)
    return numpy_support.vtk_to_numpy(target.GetData()) * FLIP


def grid_transform_of_field(field: DisplacementField) -> Any:
    """A ``vtkOrientedGridTransform`` that maps RAS points as ``field`` maps LPS points.

    Displacements are float32 RAS millimetres, the grid's direction is ``diag(-1, -1, 1) @ D``, interpolation linear:
    within the grid it agrees with ITK's ``DisplacementFieldTransform``.  Beyond the grid VTK repeats the border's
    displacement while ITK is the identity.
    """
    grid = field.grid
    image_data = image_of_array(field.vectors, components=3)
    array_of_image(image_data)[...] *= FLIP.astype(np.float32)
    image_data.SetSpacing(*grid.spacing)
    image_data.SetOrigin(*(FLIP * grid.origin))
    transform = slicer.vtkOrientedGridTransform()
    transform.SetDisplacementGridData(image_data)
    transform.SetGridDirectionMatrix(matrix_to_vtk(FLIP[:, None] * grid.direction_matrix))
    transform.SetInterpolationModeToLinear()
    return transform


def field_of_grid_transform(transform: Any) -> DisplacementField | None:
    """The displacement field that a ``vtkGridTransform`` or ``vtkOrientedGridTransform`` holds; None when empty."""
    image_data = transform.GetDisplacementGrid()
    if image_data is None or image_data.GetPointData().GetScalars() is None:
        return None
    vectors = array_of_image(image_data) * float(transform.GetDisplacementScale()) + transform.GetDisplacementShift()
    directions = np.eye(3)
    if transform.IsA("vtkOrientedGridTransform") and transform.GetGridDirectionMatrix() is not None:
        directions = matrix_from_vtk(transform.GetGridDirectionMatrix())[:3, :3]
    spacing = np.array(image_data.GetSpacing())
    first = np.array(image_data.GetExtent()[::2]) * spacing
    origin = FLIP * (np.array(image_data.GetOrigin()) + directions @ first)
    grid = Grid(image_data.GetDimensions(), tuple(spacing), tuple(origin), tuple((FLIP[:, None] * directions).ravel()))
    return DisplacementField(vectors * FLIP, grid)


def parents_of(node: Any, stop_at: Sequence[Any] = ()) -> list[Any]:
    """The transform nodes above ``node``, nearest first, up to the first of ``stop_at`` (not included)."""
    stops = {stop.GetID() for stop in stop_at if stop is not None}
    parents: list[Any] = []
    parent = node.GetParentTransformNode()
    while parent is not None and parent.GetID() not in stops:
        parents.append(parent)
        parent = parent.GetParentTransformNode()
    return parents


def parent_matrix(node: Any, what: str, stop_at: Sequence[Any] = ()) -> np.ndarray:
    """The (4, 4) LPS map from the node's own coordinates through its parent transforms.

    Parameters
    ----------
    stop_at
        Transform nodes that do not count, nor anything above them.

    Raises
    ------
    InputError
        If a parent transform is not linear; names it.
    """
    total = np.eye(4)
    for parent in parents_of(node, stop_at):
        if not parent.IsLinear():
            raise InputError(
                f'The {what} "{node.GetName()}" is under the transform "{parent.GetName()}", which is not linear. '
                f"Harden it (Data module, Harden transform), or take the {what} out of it."
            )
        matrix = vtk.vtkMatrix4x4()
        parent.GetMatrixTransformToParent(matrix)
        total = flip_both(matrix_from_vtk(matrix)) @ total
    return total
