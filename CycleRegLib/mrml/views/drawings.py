"""Segmentations and markups are drawn in the views of the image that they belong to.

Slicer draws everything in every view, also the points of the moving image over the fixed one, where they mark nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ...belonging import companions
from ...node_roles import DIAMETER_ROLES
from ...view_layout import COMPARISON, FIXED, MOVING, VIEWS, WARPED
from ..vtk_bridge import parents_of
from .layout import slice_node
from .registered import Registered

_KINDS = ("vtkMRMLSegmentationNode", "vtkMRMLMarkupsNode")
_DISPLAYS, _BEFORE = "drawings", "drawings"


def draw_where_it_belongs(state: Any, registered: Registered) -> None:
    """Let what belongs to the moving image be drawn in its view, and what lies on the fixed image in the other three.

    The user's own views are not touched.  ``state`` remembers what was before (:func:`draw_everywhere`).
    """
    draw_everywhere(state)
    scene = state.GetScene()
    four = {name: slice_node(scene, name).GetID() for name in VIEWS}
    others = [view for view in _views(scene) if view not in four.values()]
    before = []
    for node, names in _placed(registered):
        for display in _displays(node):
            held = [display.GetNthViewNodeID(i) for i in range(display.GetNumberOfViewNodeIDs())]
            before.append(held)
            state.AddNodeReferenceID(_DISPLAYS, display.GetID())
            own = [view for view in held if view not in four.values()] if held else others
            _set_views(display, [*own, *(four[name] for name in names)])
    state.SetParameter(_BEFORE, json.dumps(before))


def draw_everywhere(state: Any) -> None:
    """Back to the views that everything was drawn in."""
    before = json.loads(state.GetParameter(_BEFORE) or "[]")
    displays = [state.GetNthNodeReference(_DISPLAYS, i) for i in range(state.GetNumberOfNodeReferences(_DISPLAYS))]
    for display, views in zip(displays, before):
        if display is not None:  # the user may have removed it
            _set_views(display, views)
    state.RemoveNodeReferenceIDs(_DISPLAYS)
    state.SetParameter(_BEFORE, "[]")


def _placed(registered: Registered) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """The nodes that lie on one of the two images, each with the views that show that image."""
    fixed, moving, transform = registered.fixed, registered.moving, registered.transform
    scene = transform.GetScene()
    of_moving = {node.GetID() for kind in _KINDS for node in companions(moving, fixed, kind)}
    of_fixed = {node.GetID() for kind in _KINDS for node in companions(fixed, moving, kind)}
    # A node that is asked for a reference which it does not have keeps an empty entry of it.
    roles = {transform.GetNthNodeReferenceRole(i) for i in range(transform.GetNumberOfNodeReferenceRoles())}
    for (side, _), role in DIAMETER_ROLES.items():
        line = transform.GetNodeReferenceID(role) if role in roles else None
        if line is not None:
            (of_moving if side == "moving" else of_fixed).add(line)
    for kind in _KINDS:
        for index in range(scene.GetNumberOfNodesByClass(kind)):
            node = scene.GetNthNodeByClass(index, kind)
            if node.GetID() in of_fixed or transform in parents_of(node):
                yield node, (FIXED, WARPED, COMPARISON)
            elif node.GetID() in of_moving:
                yield node, (MOVING,)


def _displays(node: Any) -> list[Any]:
    displays = [node.GetNthDisplayNode(i) for i in range(node.GetNumberOfDisplayNodes())]
    return [display for display in displays if display is not None]


def _views(scene: Any) -> list[str]:
    """All slice and 3D views of the scene."""
    return [
        scene.GetNthNodeByClass(i, kind).GetID()
        for kind in ("vtkMRMLSliceNode", "vtkMRMLViewNode")
        for i in range(scene.GetNumberOfNodesByClass(kind))
    ]


def _set_views(display: Any, views: list[str]) -> None:
    state = display.StartModify()
    display.RemoveAllViewNodeIDs()
    for view in views:
        display.AddViewNodeID(view)
    display.EndModify(state)
