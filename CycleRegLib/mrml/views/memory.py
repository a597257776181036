"""What the views replace is remembered in the scene, and given back."""

from __future__ import annotations

import json
from typing import Any

from ...node_roles import VIEWS_TAG
from ...view_layout import LAYOUT, VIEWS
from ..color_tables import remove_unused_tables
from ..vtk_bridge import parents_of
from .drawings import draw_everywhere
from .layout import composite_node, fill
from .overlays import remove_grid, remove_legends
from .registered import Registered
from .volumes import made_volumes, remove

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


def is_arranged(scene: Any) -> bool:
    """Whether the views show a registration now, so that :func:`restore` has something to take back."""
    return state_of(scene) is not None


def state_of(scene: Any) -> Any:
    """The node that remembers; None while nothing is shown."""
    node = scene.GetSingletonNode(VIEWS_TAG, "vtkMRMLScriptedModuleNode")
    # Closing a scene empties the node and keeps it.
    return node if node is not None and node.GetParameter("remembered") else None


def remember(scene: Any, layout: Any) -> Any:
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


def take_out(state: Any, registered: Registered) -> None:
    """Take the moving volume out from under the transform, and remember that."""
    before = state.GetNodeReference("transform")
    if before is not None and before is not registered.transform:
        # Another registration is compared: give back what the first one had.
        remove_grid(before)
        _put_back(state)
        state.SetNodeReferenceID("detached", None)
    state.SetNodeReferenceID("transform", registered.transform.GetID())
    chain = [registered.moving, *parents_of(registered.moving)]
    if registered.transform in chain:
        detached = chain[chain.index(registered.transform) - 1]
        detached.SetAndObserveTransformNodeID(None)
        state.SetNodeReferenceID("detached", detached.GetID())
        state.SetNodeReferenceID("above", registered.transform.GetID())


def restore(scene: Any) -> bool:
    """Back to the user's layout, views, links and place of the moving volume.

    What was made for the views is removed.  Nodes that the user removed meanwhile are passed over.

    Returns
    -------
    Whether there was anything to take back.
    """
    state = state_of(scene)
    if state is None:
        return False
    remembered = json.loads(state.GetParameter("remembered"))
    transform = state.GetNodeReference("transform")
    if transform is not None:
        remove_grid(transform)
    _put_back(state)
    draw_everywhere(state)
    for name in VIEWS:
        fill(composite_node(scene, name), None)
    remove_legends(scene)  # before their volumes, which they ask for their colours
    for node in made_volumes(scene):
        remove(scene, node)
    remove_unused_tables(scene)
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


def _put_back(state: Any) -> None:
    """The moving volume under the transform again, if it was taken out."""
    detached, above = state.GetNodeReference("detached"), state.GetNodeReference("above")
    if detached is not None and above is not None:
        detached.SetAndObserveTransformNodeID(above.GetID())
