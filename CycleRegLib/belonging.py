"""Which segmentations and markups of a scene belong to a volume.

Asks nodes alone and imports neither Slicer nor PyTorch, so that the panel can use it before PyTorch is there.
"""

from __future__ import annotations

from typing import Any

#: Attribute of a copy that was carried along with a moving volume: the id of the node that it is a copy of.
CARRIED = "CycleReg.CarriedFrom"


def belongs_to(node: Any, volume: Any) -> bool:
    """Whether a segmentation was drawn on the volume, or a node's name is the volume's with something behind it.

    "CT landmarks", "CT_1" and "CTLiver" are called after "CT"; "CTscan" and "CT2" are not.
    """
    if volume is None:
        return False
    if node.IsA("vtkMRMLSegmentationNode"):
        referred = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
        if referred is not None:
            return referred is volume
    name, begin = node.GetName(), volume.GetName()
    behind = name[len(begin) : len(begin) + 1]
    return name.lower().startswith(begin.lower()) and not (behind.islower() or behind.isdigit())


def companions(volume: Any, other: Any, kind: str) -> list[Any]:
    """The nodes of a class that belong to a volume rather than to the other one of a pair.

    Hidden nodes and copies that were carried along are not meant.
    """
    scene = volume.GetScene()
    nodes = [scene.GetNthNodeByClass(index, kind) for index in range(scene.GetNumberOfNodesByClass(kind))]
    # "CT 2 landmarks" begins with "CT" as well.
    longer = len(other.GetName()) > len(volume.GetName())
    return [
        node
        for node in nodes
        if belongs_to(node, volume)
        and not (longer and belongs_to(node, other))
        and not node.GetHideFromEditors()
        and not node.GetAttribute(CARRIED)
    ]
