"""Slice views that show a registration: fixed, moving and warped image, and one view that compares them.

The four views are this library's own, so that the user's views stay as they are; what else is changed in the scene
while they are shown is remembered there, and :func:`restore` takes all of it back.

Everything here is MRML: Slicer's window follows the layout node by itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer

from ..colors import nice_ceiling
from ..comparison_images import checkerboard, difference
from ..errors import InputError
from ..geometry import Grid
from ..images_2d import warp_channels
from ..node_roles import INVERSE_ROLE, ROUNDTRIP_ROLE, VIEWS_TAG, WARPED_ROLE
from ..slices import intensity_window
from .nodes import field_from_node, image_from_volume_node
from .results import (
    DIVERGING,
    SEQUENTIAL,
    VECTOR_VOLUME,
    VOLUME,
    show_like,
    show_range,
    write_volume,
)
from .vtk_bridge import parents_of

#: Slicer keeps numbers below some hundreds for its own layouts; this one is the module's.
LAYOUT = 7134
#: Views of one group follow each other when they are linked, and no others.
VIEW_GROUP = 7134
FIXED, MOVING, WARPED, COMPARISON = "CycleRegFixed", "CycleRegMoving", "CycleRegWarped", "CycleRegComparison"
#: Singleton tags of the slice views, in reading order, with their labels and frame colours.
VIEWS = {
    FIXED: ("F", "#40E0D0"),
    MOVING: ("M", "#FFA826"),
    WARPED: ("W", "#FFFFFF"),
    COMPARISON: ("C", "#B0B0B0"),
}
ORIENTATIONS = ("Axial", "Coronal", "Sagittal")
#: What the fourth view shows.
COMPARISONS = ("checkerboard", "blend", "difference", "roundtrip")

_LEGEND = "vtkMRMLColorLegendDisplayNode"
# What of a slice composite node is remembered: (name in the state, getter, setter).
_COMPOSITE = tuple(
    (name, f"Get{name}", f"Set{name}")
    for name in (
        "BackgroundVolumeID",
        "ForegroundVolumeID",
        "LabelVolumeID",
        "ForegroundOpacity",
        "LabelOpacity",
        "Compositing",
        "LinkedControl",
        "HotLinkedControl",
    )
)


@dataclass(frozen=True)
class Registered:
    """A registration in the scene: two volumes and the transform from fixed to moving points.

    ``warped`` and ``roundtrip`` are the volumes that the registration left; those that are missing are made for the
    views and removed by :func:`restore`.
    """

    fixed: Any
    moving: Any
    transform: Any
    warped: Any = None
    roundtrip: Any = None

    @classmethod
    def of(cls, transform: Any, fixed: Any = None, moving: Any = None) -> Registered:
        """What a transform node says of its registration; ``fixed`` and ``moving`` where it does not.

        Raises
        ------
        InputError
            If there is no transform, or a volume is not known.
        """
        if transform is None or not transform.IsA("vtkMRMLTransformNode"):
            raise InputError("No transform is given. Register first, or choose the transform of a registration.")
        base = slicer.vtkMRMLTransformNode
        fixed = transform.GetNodeReference(base.GetFixedNodeReferenceRole()) or fixed
        moving = transform.GetNodeReference(base.GetMovingNodeReferenceRole()) or moving
        for what, node in (("fixed", fixed), ("moving", moving)):
            if node is None:
                raise InputError(
                    f'The transform "{transform.GetName()}" does not know its {what} volume. Choose the {what} volume.'
                )
        return cls(
            fixed,
            moving,
            transform,
            transform.GetNodeReference(WARPED_ROLE),
            transform.GetNodeReference(ROUNDTRIP_ROLE),
        )


# ---------------------------------------------------------------------- the layout


def layout_description() -> str:
    """The layout as Slicer's XML: fixed and moving above, warped and comparison below."""
    rows = []
    names = list(VIEWS)
    for row in (names[:2], names[2:]):
        items = "".join(
            f'<item><view class="vtkMRMLSliceNode" singletontag="{name}">'
            f'<property name="orientation" action="default">{ORIENTATIONS[0]}</property>'
            f'<property name="viewlabel" action="default">{VIEWS[name][0]}</property>'
            f'<property name="viewcolor" action="default">{VIEWS[name][1]}</property>'
            f'<property name="viewgroup" action="default">{VIEW_GROUP}</property>'
            "</view></item>"
            for name in row
        )
        rows.append(f'<item><layout type="horizontal">{items}</layout></item>')
    return f'<layout type="vertical">{"".join(rows)}</layout>'


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
    if not node.IsLayoutDescription(LAYOUT):
        node.AddLayoutDescription(LAYOUT, layout_description())
    else:
        node.SetLayoutDescription(LAYOUT, layout_description())
    return node


def is_arranged(scene: Any) -> bool:
    """Whether the views show a registration now, so that :func:`restore` has something to take back."""
    return _state(scene) is not None


def slice_views(scene: Any) -> dict[str, Any]:
    """The slice nodes of the four views by their tags; made where they are not there yet."""
    return {name: _slice_node(scene, name) for name in VIEWS}


# ---------------------------------------------------------------------- arranging


def arrange(
    registered: Registered,
    comparison: str = "checkerboard",
    orientation: str = "Axial",
    opacity: float = 0.5,
    grid: bool = False,
) -> dict[str, Any]:
    """Show a registration in the four views, linked; what they replace is remembered until :func:`restore`.

    Parameters
    ----------
    registered
        What to show.  A moving volume that is shown under the transform is taken out of it meanwhile.
    comparison
        What the fourth view shows, one of ``COMPARISONS``: squares of both images in turn; the warped over the fixed
        image; warped minus fixed; the round-trip error in mm over the fixed image.
    orientation
        One of ``ORIENTATIONS``; single slices are shown in their own plane.
    opacity
        Of what lies over the fixed image, 0 to 1.
    grid
        Whether the deformed grid is drawn over the warped image and the comparison.

    Returns
    -------
    The slice nodes by their tags.

    Raises
    ------
    InputError
        If a node cannot be shown; nothing is then changed.
    """
    scene = registered.fixed.GetScene()
    check_comparison(registered, comparison)
    layout = register_layout(scene)
    contents = _contents(registered, comparison)
    state = _state(scene) or _remember(scene, layout)
    # A colour scale is drawn only by views that are there when it is made, so the window makes its views first.
    slice_views(scene)
    layout.SetViewArrangement(LAYOUT)
    _take_out(state, registered)
    made = {role: _write(scene, role, content) for role, content in contents.items()}
    for role, node in made.items():
        state.SetNodeReferenceID(role, node.GetID())
    for node in _made_nodes(scene):
        if node not in made.values():
            _remove(scene, node)
    warped = made.get("warped", registered.warped)
    for name, volume in ((FIXED, registered.fixed), (MOVING, registered.moving), (WARPED, warped)):
        _fill(_composite_node(scene, name), volume)
    shown = made.get(comparison, registered.roundtrip if comparison == "roundtrip" else None)
    _show_comparison(scene, registered.fixed, warped, shown, comparison, opacity)
    set_orientation(registered.fixed, orientation)
    show_grid(registered, grid)
    return slice_views(scene)


def check_comparison(registered: Registered, comparison: str) -> None:
    """Refuse a comparison that cannot be shown, before anything is computed.

    Raises
    ------
    InputError
        If there is no such comparison, or the round trip has no inverse transform.
    """
    if comparison not in COMPARISONS:
        raise InputError(f"There is no comparison {comparison!r}. Choose one of {', '.join(COMPARISONS)}.")
    if comparison == "roundtrip" and registered.roundtrip is None and _inverse_of(registered) is None:
        raise InputError(
            "The round-trip error needs the inverse transform. Register again with an inverse transform, or with a "
            "round-trip volume, among the outputs."
        )


def set_opacity(scene: Any, opacity: float) -> None:
    """How much of what lies over the fixed image is seen in the fourth view, 0 to 1."""
    _composite_node(scene, COMPARISON).SetForegroundOpacity(float(np.clip(opacity, 0.0, 1.0)))


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


def show_grid(registered: Registered, visible: bool) -> None:
    """Draw the deformed grid over the warped image and the comparison, or take it away.

    Slicer draws where the grid of the moving image comes to lie.  Lines lie about a twentieth of the fixed volume's
    longest side apart.

    The grid is a display node of its own: the user's stays as it is, and Slicer's views look at the list of views of a
    transform's display node once only, when they first see it.
    """
    transform = registered.transform
    _remove_grid(transform)
    if not visible:
        return
    scene = transform.GetScene()
    grid = Grid.of(image_from_volume_node(registered.fixed, "fixed volume", [_inverse_of(registered)], True))
    spacing = nice_ceiling(max(n * s for n, s in zip(grid.size, grid.spacing)) / 20)
    display = scene.CreateNodeByClass("vtkMRMLTransformDisplayNode")
    display.UnRegister(None)
    display.SetName("CycleReg grid")
    display.SetAttribute(_MADE, "1")
    display.SetSaveWithScene(False)
    display.SetVisualizationMode(display.VIS_MODE_GRID)
    display.SetGridSpacingMm(spacing)
    # Slicer samples the lines at this distance, so that they bend within a square as well.
    display.SetGridResolutionMm(spacing / 5)
    display.SetGridScalePercent(100.0)
    display.SetVisibility(True)
    display.SetVisibility3D(False)
    display.SetVisibility2D(True)
    for name in (WARPED, COMPARISON):
        display.AddViewNodeID(_slice_node(scene, name).GetID())
    transform.AddAndObserveDisplayNodeID(scene.AddNode(display).GetID())


def grid_display(transform: Any) -> Any:
    """The display node of the grid that :func:`show_grid` draws; None while none is drawn."""
    nodes = [transform.GetNthDisplayNode(i) for i in range(transform.GetNumberOfDisplayNodes())]
    return next((node for node in nodes if node is not None and node.GetAttribute(_MADE) is not None), None)


def _remove_grid(transform: Any) -> None:
    display = grid_display(transform)
    if display is not None:
        transform.GetScene().RemoveNode(display)


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


# ---------------------------------------------------------------------- going back


def restore(scene: Any) -> bool:
    """Back to the user's layout, views, links and place of the moving volume.

    What was made for the views is removed.  Nodes that the user removed meanwhile are passed over.

    Returns
    -------
    Whether there was anything to take back.
    """
    state = _state(scene)
    if state is None:
        return False
    remembered = json.loads(state.GetParameter("remembered"))
    transform = state.GetNodeReference("transform")
    if transform is not None:
        _remove_grid(transform)
    detached, above = state.GetNodeReference("detached"), state.GetNodeReference("above")
    if detached is not None and above is not None:
        detached.SetAndObserveTransformNodeID(above.GetID())
    for name in VIEWS:
        _fill(_composite_node(scene, name), None)
    for node in _made_nodes(scene):
        _remove(scene, node)
    _remove_legends(scene)
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")):
        composite = scene.GetNthNodeByClass(index, "vtkMRMLSliceCompositeNode")
        for name, _, setter in _COMPOSITE:
            held = remembered["composites"].get(composite.GetLayoutName())
            if held is not None and (not name.endswith("ID") or held[name] is None or scene.GetNodeByID(held[name])):
                getattr(composite, setter)(held[name])
    layout = scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    if layout is not None:
        layout.SetViewArrangement(remembered["layout"])
    scene.RemoveNode(state)
    return True


# ---------------------------------------------------------------------- what is remembered

_MADE = "CycleReg.MadeForViews"


def _state(scene: Any) -> Any:
    node = scene.GetSingletonNode(VIEWS_TAG, "vtkMRMLScriptedModuleNode")
    # Closing a scene empties the node and keeps it.
    return node if node is not None and node.GetParameter("remembered") else None


def _remember(scene: Any, layout: Any) -> Any:
    """The state node with what is about to be changed; it is saved with the scene, as the layout is."""
    state = scene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
    state.UnRegister(None)
    state.SetSingletonTag(VIEWS_TAG)
    state.SetName("CycleReg views")
    state.SetHideFromEditors(True)
    composites = {}
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")):
        node = scene.GetNthNodeByClass(index, "vtkMRMLSliceCompositeNode")
        if node.GetLayoutName() not in VIEWS:
            composites[node.GetLayoutName()] = {name: getattr(node, getter)() for name, getter, _ in _COMPOSITE}
    arrangement = layout.GetViewArrangement()
    remembered = {
        "layout": layout.SlicerLayoutFourUpView if arrangement == LAYOUT else arrangement,
        "composites": composites,
    }
    state.SetParameter("remembered", json.dumps(remembered))
    return scene.AddNode(state)


def _take_out(state: Any, registered: Registered) -> None:
    """Take the moving volume out from under the transform, and remember that."""
    before = state.GetNodeReference("transform")
    if before is not None and before is not registered.transform:
        # Another registration is compared: give back what the first one had.
        _remove_grid(before)
        detached, above = state.GetNodeReference("detached"), state.GetNodeReference("above")
        if detached is not None and above is not None:
            detached.SetAndObserveTransformNodeID(above.GetID())
        state.SetNodeReferenceID("detached", None)
    state.SetNodeReferenceID("transform", registered.transform.GetID())
    chain = [registered.moving, *parents_of(registered.moving)]
    if registered.transform in chain:
        detached = chain[chain.index(registered.transform) - 1]
        detached.SetAndObserveTransformNodeID(None)
        state.SetNodeReferenceID("detached", detached.GetID())
        state.SetNodeReferenceID("above", registered.transform.GetID())


# ---------------------------------------------------------------------- nodes of the views


def _slice_node(scene: Any, name: str) -> Any:
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


def _composite_node(scene: Any, name: str) -> Any:
    """The composite node of a view, which Slicer takes when it makes the view."""
    node = scene.GetSingletonNode(name, "vtkMRMLSliceCompositeNode")
    if node is None:
        node = slicer.vtkMRMLSliceCompositeNode()
        node.SetSingletonTag(name)
        node.SetLayoutName(name)
        node = scene.AddNode(node)
    return node


def _fill(composite: Any, background: Any, foreground: Any = None, opacity: float = 0.0) -> None:
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


# ---------------------------------------------------------------------- the fourth view


@dataclass(frozen=True)
class _Content:
    """A volume to be made: its image, its name, and the volume it is displayed like or the range it is shown in."""

    image: sitk.Image
    name: str
    like: Any = None
    low: float = 0.0
    high: float = 1.0
    colors: Sequence[str] = ()
    hide_below: float | None = None


def _contents(registered: Registered, comparison: str) -> dict[str, _Content]:
    """The volumes that the views need and the scene does not have, by role; nothing is changed yet."""
    contents: dict[str, _Content] = {}
    fixed = image_from_volume_node(registered.fixed, "fixed volume", [_inverse_of(registered)], True)
    warped = None if registered.warped is None else image_from_volume_node(registered.warped, "warped volume", [], True)
    if warped is None or not Grid.of(warped).same_as(Grid.of(fixed)):
        warped = _warped_image(registered, fixed)
        contents["warped"] = _Content(warped, "CycleReg warped", registered.moving)
    if comparison == "checkerboard":
        grid = Grid.of(fixed)
        square = nice_ceiling(max(n * s for n, s in zip(grid.size, grid.spacing)) / 10)
        images = (fixed, warped)
        colours = any(image.GetNumberOfComponentsPerPixel() > 1 for image in images)
        windows = (None, None) if colours else tuple(intensity_window(image) for image in images)
        contents[comparison] = _Content(
            checkerboard(*images, square, *windows), "CycleReg checkerboard", registered.fixed
        )
    elif comparison == "difference":
        image = difference(fixed, warped)
        top = float(np.percentile(np.abs(sitk.GetArrayViewFromImage(image)), 99))
        top = nice_ceiling(max(top, 1e-6))
        contents[comparison] = _Content(image, "CycleReg difference", low=-top, high=top, colors=DIVERGING)
    elif comparison == "roundtrip" and registered.roundtrip is None:
        image = _roundtrip_image(registered, fixed)
        known = sitk.GetArrayViewFromImage(image)
        known = known[known >= 0]
        top = float(np.percentile(known, 99)) if known.size else 0.0
        contents[comparison] = _Content(
            image, "CycleReg round trip (mm)", high=max(1.0, top), colors=SEQUENTIAL, hide_below=0.0
        )
    return contents


def _show_comparison(scene: Any, fixed: Any, warped: Any, shown: Any, comparison: str, opacity: float) -> None:
    composite = _composite_node(scene, COMPARISON)
    _remove_legends(scene)
    if comparison == "blend":
        _fill(composite, fixed, warped, opacity)
    elif comparison == "roundtrip":
        _fill(composite, fixed, shown, opacity)
        _legend(shown, "Round trip (mm)")
    else:
        _fill(composite, shown)
        if comparison == "difference":
            _legend(shown, "Warped - fixed")


def _remove_legends(scene: Any) -> None:
    for legend in [scene.GetNthNodeByClass(i, _LEGEND) for i in range(scene.GetNumberOfNodesByClass(_LEGEND))]:
        if legend.GetAttribute(_MADE) is not None:
            scene.RemoveNode(legend)


def _legend(volume: Any, title: str) -> None:
    """A colour scale in the fourth view; one that the user made of the volume stays as it is."""
    logic = slicer.vtkSlicerColorLogic
    if logic.GetColorLegendDisplayNode(volume) is not None:
        return
    legend = logic.AddDefaultColorLegendDisplayNode(volume)
    if legend is None:
        return
    legend.SetAttribute(_MADE, "1")
    legend.SetSaveWithScene(False)
    legend.SetTitleText(title)
    legend.SetLabelFormat("%.1f")
    legend.SetNumberOfLabels(5)
    legend.RemoveAllViewNodeIDs()
    legend.AddViewNodeID(_slice_node(volume.GetScene(), COMPARISON).GetID())
    legend.SetVisibility(True)


# ---------------------------------------------------------------------- volumes made for the views


def _made_nodes(scene: Any) -> list[Any]:
    nodes = [scene.GetNthNodeByClass(i, VOLUME) for i in range(scene.GetNumberOfNodesByClass(VOLUME))]
    return [node for node in nodes if node.GetAttribute(_MADE) is not None]


def _write(scene: Any, role: str, content: _Content) -> Any:
    """A volume for the views alone: hidden from selectors, not saved, removed by :func:`restore`."""
    kind = VOLUME if content.image.GetNumberOfComponentsPerPixel() == 1 else VECTOR_VOLUME
    node = _state(scene).GetNodeReference(role)
    if node is None or node.GetClassName() != kind:
        node = scene.CreateNodeByClass(kind)
        node.UnRegister(None)
        node.SetName(scene.GenerateUniqueName(content.name))
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        node.SetAttribute(_MADE, "1")
        node = scene.AddNode(node)
    write_volume(node, content.image)
    if content.like is not None:
        show_like(node, content.like)
    else:
        show_range(node, content.low, content.high, content.colors, hide_below=content.hide_below)
    return node


def _remove(scene: Any, node: Any) -> None:
    for display in [node.GetNthDisplayNode(i) for i in range(node.GetNumberOfDisplayNodes())]:
        if display is not None:
            scene.RemoveNode(display)
    scene.RemoveNode(node)


def _inverse_of(registered: Registered) -> Any:
    return registered.transform.GetNodeReference(INVERSE_ROLE)


def _warped_image(registered: Registered, fixed: sitk.Image) -> sitk.Image:
    moving = _moving_image(registered)
    field = field_from_node(registered.transform, Grid.of(fixed)).resampled(Grid.of(fixed))
    return field.warp(moving) if moving.GetNumberOfComponentsPerPixel() == 1 else warp_channels(moving, field)


def _roundtrip_image(registered: Registered, fixed: sitk.Image) -> sitk.Image:
    field = field_from_node(registered.transform, Grid.of(fixed))
    inverse = field_from_node(_inverse_of(registered), Grid.of(_moving_image(registered)), "inverse transform")
    return field.grid.image(np.nan_to_num(field.round_trip(inverse), nan=-1.0))


def _moving_image(registered: Registered) -> sitk.Image:
    return image_from_volume_node(registered.moving, "moving volume", [registered.transform], True)
