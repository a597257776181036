"""The layout of four slice views, and the nodes of its views."""

from __future__ import annotations

from typing import Any

import slicer

from ...errors import InputError
from ...view_layout import FIXED, ORIENTATIONS, VIEW_GROUP, VIEWS, add_layout


def register_layout(scene: Any) -> Any:
    """Let the scene's layout node know the layout; returns the layout node.

    Raises
    ------
    InputError
        If the scene has no layout node, which Slicer's window makes.
    """
    node = scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    if node is None:
        raise InputError("The scene has no layout, so that there are no views to arrange. Open Slicer's main window.")
    add_layout(node)
    return node


def slice_views(scene: Any) -> dict[str, Any]:
    """The slice nodes of the four views by their tags; made where they are not there yet."""
    return {name: slice_node(scene, name) for name in VIEWS}


def slice_node(scene: Any, name: str) -> Any:
    """The slice node of a view, which Slicer's layout takes."""
    node = scene.GetSingletonNode(name, "vtkMRMLSliceNode")
    if node is None:
        # Made by the scene, it has the orientations of the user's settings (neurological or radiological).
        if scene.GetDefaultNodeByClass("vtkMRMLSliceNode") is None:
            slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
        node = scene.CreateNodeByClass("vtkMRMLSliceNode")
        node.UnRegister(None)
        node.SetSingletonTag(name)
        node.SetName(name)
        node.SetLayoutName(name)
        node = scene.AddNode(node)
        node.SetOrientation(ORIENTATIONS[0])
        label, color = VIEWS[name]
        node.SetLayoutLabel(label)
        node.SetLayoutColor(*(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)))
    node.SetViewGroup(VIEW_GROUP)
    return node


def composite_node(scene: Any, name: str) -> Any:
    """The composite node of a view, which Slicer takes when it makes the view."""
    node = scene.GetSingletonNode(name, "vtkMRMLSliceCompositeNode")
    if node is None:
        node = slicer.vtkMRMLSliceCompositeNode()
        node.SetSingletonTag(name)
        node.SetLayoutName(name)
        node = scene.AddNode(node)
    return node


def fill(composite: Any, background: Any, foreground: Any = None, opacity: float = 0.0) -> None:
    """Let a view show volumes, None for no volume."""
    state = composite.StartModify()
    composite.SetBackgroundVolumeID(background.GetID() if background is not None else None)
    composite.SetForegroundVolumeID(foreground.GetID() if foreground is not None else None)
    composite.SetLabelVolumeID(None)
    composite.SetForegroundOpacity(opacity)
    composite.SetCompositing(composite.Alpha)
    # All four move together, while the mouse is being moved.
    composite.SetLinkedControl(True)
    composite.SetHotLinkedControl(True)
    # Volumes that are loaded meanwhile go to the user's own views.
    composite.SetDoPropagateVolumeSelection(False)
    composite.EndModify(state)


def set_orientation(fixed: Any, orientation: str) -> None:
    """Turn all four views, one of ``ORIENTATIONS``, through the middle of the fixed volume's shown slice.

    A single slice is shown in its own plane whatever is asked for.
    """
    bounds = [0.0] * 6
    fixed.GetRASBounds(bounds)
    center = [(low + high) / 2 for low, high in zip(bounds[::2], bounds[1::2])]
    single = 1 in fixed.GetImageData().GetDimensions()
    for node in slice_views(fixed.GetScene()).values():
        state = node.StartModify()
        if single:
            node.RotateToVolumePlane(fixed)
        else:
            node.SetOrientation(orientation)
        node.JumpSliceByCentering(*center)
        node.EndModify(state)


def align_views(scene: Any) -> None:
    """Let all four views show as much as that of the fixed image does, about the same point.

    For the window, after it has fitted that view to its size.
    """
    nodes = slice_views(scene)
    first = nodes.pop(FIXED)
    for node in nodes.values():
        state = node.StartModify()
        node.GetSliceToRAS().DeepCopy(first.GetSliceToRAS())
        node.SetFieldOfView(*first.GetFieldOfView())
        node.UpdateMatrices()
        node.EndModify(state)
