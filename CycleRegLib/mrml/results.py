"""From this library's results to MRML nodes: transforms, volumes, tables, and the folder that holds them together.

Each ``write_*`` takes content that is complete; nothing is computed while the scene is being changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
import vtk

from ..colors import nice_ceiling
from ..errors import InputError
from ..fields import DisplacementField
from ..geometry import Grid
from .color_tables import Scale, color_table
from .vtk_bridge import (
    flip_both,
    flip_target,
    grid_transform_of_field,
    image_of_array,
    matrix_to_vtk,
    parent_matrix,
    parents_of,
)

#: Node classes of the outputs; a subclass that means something else (a label map, a linear transform) is refused.
TRANSFORM = "vtkMRMLTransformNode"
VOLUME = "vtkMRMLScalarVolumeNode"
VECTOR_VOLUME = "vtkMRMLVectorVolumeNode"
TABLE = "vtkMRMLTableNode"
_ACCEPTED = {
    TRANSFORM: (TRANSFORM, "vtkMRMLGridTransformNode"),
    VOLUME: (VOLUME,),
    VECTOR_VOLUME: (VECTOR_VOLUME,),
    TABLE: (TABLE,),
}

_FOLDER_ATTRIBUTE = "CycleReg.Results"


@dataclass(frozen=True)
class Column:
    """A column of a table: its name (with the unit, where there is one), its values, and what they are.

    Text columns hold ``str``; all others become float64, None as NaN.
    """

    name: str
    values: Sequence[Any]
    description: str = ""


# ---------------------------------------------------------------------- making nodes


def check_output(output: Any, kind: str, what: str, inputs: Iterable[Any]) -> None:
    """Refuse an output node of the wrong class, or one that is also an input, before anything is computed.

    Parameters
    ----------
    output
        A node; or True or a name for a new one, or None or False for none, which all pass.
    kind
        ``TRANSFORM``, ``VOLUME``, ``VECTOR_VOLUME`` or ``TABLE``.

    Raises
    ------
    InputError
        Names the output and what it should be.
    """
    if output is None or isinstance(output, (bool, str)):
        return
    if not hasattr(output, "GetClassName") or output.GetClassName() not in _ACCEPTED[kind]:
        held = output.GetClassName() if hasattr(output, "GetClassName") else type(output).__name__
        raise InputError(f"The {what} must be a {kind} but is a {held}. Choose or create a node of that kind.")
    for node in inputs:
        if node is not None and node.GetID() == output.GetID():
            raise InputError(f'The {what} "{output.GetName()}" is also an input. Choose or create another node for it.')


class NewNodes:
    """Makes the nodes that outputs ask for; removes them again if the block fails.

    >>> with NewNodes(scene) as new:                          # doctest: +SKIP
    ...     node = new.node(True, TRANSFORM, "B to A transform")
    """

    def __init__(self, scene: Any) -> None:
        self._scene = scene
        self._made: list[Any] = []

    def node(self, output: Any, kind: str, name: str) -> Any:
        """The node given as ``output``; a new one for True (called ``name``) or a name; None for None or False."""
        if output is None or output is False:
            return None
        if output is not True and not isinstance(output, str):
            return output
        wanted = output if isinstance(output, str) else name
        node = self._scene.AddNewNodeByClass(kind, self._scene.GenerateUniqueName(wanted))
        self._made.append(node)
        return node

    def __enter__(self) -> NewNodes:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            for node in self._made:
                self._scene.RemoveNode(node)


# ---------------------------------------------------------------------- transforms


def write_transform(node: Any, field: DisplacementField, fixed: Any = None, moving: Any = None) -> None:
    """Let ``node`` hold ``field`` as its transform from parent, and record the fixed and moving volume.

    Slicer's "from parent" takes points of the world (of the fixed image) to points of what lies under the node (the
    moving image), as the field does.  An existing node loses its former content and its own parent transform.
    """
    transform = grid_transform_of_field(field)
    state = node.StartModify()
    node.SetAndObserveTransformNodeID(None)
    node.SetAndObserveTransformFromParent(transform)
    for role, referred in (
        (slicer.vtkMRMLTransformNode.GetFixedNodeReferenceRole(), fixed),
        (slicer.vtkMRMLTransformNode.GetMovingNodeReferenceRole(), moving),
    ):
        node.SetNodeReferenceID(role, referred.GetID() if referred is not None else None)
    node.EndModify(state)


def show_under(node: Any, transform_node: Any) -> None:
    """Show ``node`` (a moving volume, its segmentation, its landmarks) through an output transform.

    Output transforms speak of the world, so linear transforms that place the node there have to stay below: they are
    copied, as one, to a new transform between the two.  Other nodes under the same transforms stay as they are.

    Raises
    ------
    InputError
        If the node is under another non-linear transform.
    """
    placement = parent_matrix(node, "node", stop_at=[transform_node])
    if not parents_of(node, [transform_node]):
        node.SetAndObserveTransformNodeID(transform_node.GetID())
        return
    between = node.GetScene().AddNewNodeByClass(
        "vtkMRMLLinearTransformNode", node.GetScene().GenerateUniqueName(f"{node.GetName()} placement")
    )
    between.SetMatrixTransformToParent(matrix_to_vtk(flip_both(placement)))
    between.SetAndObserveTransformNodeID(transform_node.GetID())
    node.SetAndObserveTransformNodeID(between.GetID())


# ---------------------------------------------------------------------- volumes


def write_volume(node: Any, image: sitk.Image) -> None:
    """Let a volume node hold a 3D image (a vector volume node one of colours), in world coordinates.

    An existing node loses its parent transform.
    """
    grid = Grid.of(image)
    image_data = image_of_array(sitk.GetArrayViewFromImage(image), image.GetNumberOfComponentsPerPixel())
    state = node.StartModify()
    node.SetAndObserveTransformNodeID(None)
    node.SetIJKToRASMatrix(matrix_to_vtk(flip_target(grid.index_to_world)))
    node.SetAndObserveImageData(image_data)
    node.EndModify(state)


def display_of(node: Any) -> Any:
    """The display node of a volume, made if there is none."""
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    return node.GetDisplayNode()


def show_like(node: Any, other: Any) -> None:
    """Give a volume the intensity window and colours of another; its own automatic window if that one has none."""
    display = display_of(node)
    model = other.GetDisplayNode() if other is not None else None
    if model is None or not model.IsA("vtkMRMLScalarVolumeDisplayNode"):
        display.SetAutoWindowLevel(True)
        return
    state = display.StartModify()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(model.GetWindow(), model.GetLevel())
    display.SetInterpolate(model.GetInterpolate())
    if model.GetColorNodeID():
        display.SetAndObserveColorNodeID(model.GetColorNodeID())
    display.EndModify(state)


def roundtrip_top(image: sitk.Image) -> float:
    """Where the colours of a round-trip image (mm, -1 where unknown) end: what 99 % of its voxels stay below, rounded
    up for reading, and 1 mm at least, so that a good result does not look like a bad one."""
    known = sitk.GetArrayViewFromImage(image)
    known = known[known >= 0]
    return nice_ceiling(max(1.0, float(np.percentile(known, 99)) if known.size else 0.0))


def show_range(node: Any, low: float, high: float, scale: Scale, hide_below: float | None = None) -> None:
    """Show a volume of numbers from ``low`` to ``high`` in the colours of ``scale``.

    ``hide_below`` makes smaller values transparent.
    """
    display = display_of(node)
    state = display.StartModify()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(low, high)
    display.SetAndObserveColorNodeID(color_table(node.GetScene(), scale).GetID())
    if hide_below is not None:
        display.SetAutoThreshold(False)
        display.SetThreshold(hide_below, float(np.finfo(np.float32).max))
        display.SetApplyThreshold(True)
    display.EndModify(state)


# ---------------------------------------------------------------------- tables


def write_table(node: Any, columns: Sequence[Column]) -> None:
    """Let a table node hold ``columns``."""
    table = vtk.vtkTable()
    for column in columns:
        text = any(isinstance(value, str) for value in column.values)
        array = vtk.vtkStringArray() if text else vtk.vtkDoubleArray()
        array.SetName(column.name)
        for value in column.values:
            array.InsertNextValue(str(value) if text else float("nan") if value is None else float(value))
        table.AddColumn(array)
    state = node.StartModify()
    node.RemoveAllColumns()
    node.SetAndObserveTable(table)
    for column in columns:
        if column.description:
            node.SetColumnDescription(column.name, column.description)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetLocked(True)
    node.EndModify(state)


# ---------------------------------------------------------------------- subject hierarchy


def place_in_folder(nodes: Sequence[Any], name: str, beside: Any, about: Any = None) -> int:
    """Put nodes in one subject hierarchy folder and return its item id.

    The folder of results that one of them, or the node ``about`` which they are, is in already; else a new one beside
    ``beside`` (the fixed volume).
    """
    scene = beside.GetScene()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    items = [_item(hierarchy, node) for node in nodes]
    invalid = hierarchy.GetInvalidItemID()
    known = items if about is None else [*items, _item(hierarchy, about)]
    parents = [hierarchy.GetItemParent(item) for item in known]
    folder = next(
        (p for p in parents if p not in (0, invalid) and hierarchy.HasItemAttribute(p, _FOLDER_ATTRIBUTE)), None
    )
    if folder is None:
        above = hierarchy.GetItemParent(_item(hierarchy, beside))
        folder = hierarchy.CreateFolderItem(
            hierarchy.GetSceneItemID() if above in (0, invalid) else above,
            hierarchy.GenerateUniqueItemName(name),
        )
        hierarchy.SetItemAttribute(folder, _FOLDER_ATTRIBUTE, "1")
    for item in items:
        hierarchy.SetItemParent(item, folder)
    return int(folder)


def _item(hierarchy: Any, node: Any) -> int:
    """The node's item; Slicer makes it when a node is added, slicer-core leaves that to us."""
    item = hierarchy.GetItemByDataNode(node)
    if item in (0, hierarchy.GetInvalidItemID()):
        item = hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
    return int(item)
