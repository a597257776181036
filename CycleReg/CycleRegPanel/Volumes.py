"""What the scene says of a volume besides its image."""

from __future__ import annotations

from typing import Any

import slicer

#: Attribute of a copy that was carried along with a moving volume: the id of the node that it is a copy of.
CARRIED = "CycleReg.CarriedFrom"


def browserOf(node: Any) -> Any:
    """The sequence browser that shows its current item through this node; None for an ordinary node."""
    for browser in slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode"):
        if browser.IsProxyNodeID(node.GetID()):
            return browser
    return None


def isProxy(node: Any) -> bool:
    """Whether the node is a sequence's proxy: its content changes whenever another item is chosen."""
    return browserOf(node) is not None


def deformingParent(node: Any, allowed: Any = None) -> Any:
    """The first non-linear transform above ``node``, up to ``allowed``; None if there is none."""
    parent = node.GetParentTransformNode()
    while parent is not None and parent is not allowed:
        if not parent.IsLinear():
            return parent
        parent = parent.GetParentTransformNode()
    return None


def belongsTo(node: Any, volume: Any) -> bool:
    """Whether a segmentation was drawn on the volume, or a node's name begins with the volume's."""
    if volume is None:
        return False
    if node.IsA("vtkMRMLSegmentationNode"):
        role = node.GetReferenceImageGeometryReferenceRole()
        referred = node.GetNodeReference(role)
        if referred is not None:
            return referred is volume
    return node.GetName().lower().startswith(volume.GetName().lower())


def companions(volume: Any, other: Any, kind: str) -> list[Any]:
    """The nodes of that class that belong to the volume rather than to the other one; hidden ones and copies are not
    meant."""
    nodes = [
        node
        for node in slicer.util.getNodesByClass(kind)
        if belongsTo(node, volume) and not node.GetHideFromEditors() and not node.GetAttribute(CARRIED)
    ]
    # "CT 2 landmarks" begins with "CT" as well.
    longer = len(other.GetName()) > len(volume.GetName())
    return [node for node in nodes if not (longer and belongsTo(node, other))]
