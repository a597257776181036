"""Colour tables of this library in a scene, so that volumes of numbers look in Slicer as in the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..colors import DIVERGING, SEQUENTIAL, Color, ramp

_ATTRIBUTE = "CycleReg.ColorTable"
_SIZE = 256
_TABLE = "vtkMRMLColorTableNode"


@dataclass(frozen=True)
class Scale:
    """A colour table: its name, its colours from the least to the greatest value, and whether small values fade away.

    What fades lies over an image, which is seen where there is nothing to say.
    """

    name: str
    anchors: tuple[Color, ...]
    fades: bool = False


DIFFERENCE = Scale("CycleReg difference", DIVERGING)
JACOBIAN = Scale("CycleReg Jacobian determinant", DIVERGING)
ROUNDTRIP = Scale("CycleReg round trip", SEQUENTIAL, fades=True)


def color_table(scene: Any, scale: Scale) -> Any:
    """The scene's colour table node of a scale; made where there is none.  It is saved with the scene."""
    for node in _tables(scene):
        if node.GetAttribute(_ATTRIBUTE) == scale.name:
            return node
    node = scene.CreateNodeByClass(_TABLE)
    node.UnRegister(None)
    node.SetName(scale.name)
    node.SetAttribute(_ATTRIBUTE, scale.name)
    node.SetTypeToUser()
    node.SetNumberOfColors(_SIZE)
    places = np.linspace(0.0, 1.0, _SIZE)
    opacities = 0.4 + 0.6 * places if scale.fades else np.ones(_SIZE)
    for number, (color, opacity) in enumerate(zip(ramp(places, scale.anchors) / 255, opacities)):
        node.SetColor(number, f"{number}", *color.tolist(), float(opacity))
    return scene.AddNode(node)


def remove_unused_tables(scene: Any) -> None:
    """Remove the colour tables of this library in which nothing is displayed any more."""
    kind = "vtkMRMLDisplayNode"
    displays = [scene.GetNthNodeByClass(i, kind) for i in range(scene.GetNumberOfNodesByClass(kind))]
    used = {display.GetColorNodeID() for display in displays}
    for node in _tables(scene):
        if node.GetID() not in used:
            scene.RemoveNode(node)


def _tables(scene: Any) -> list[Any]:
    nodes = [scene.GetNthNodeByClass(i, _TABLE) for i in range(scene.GetNumberOfNodesByClass(_TABLE))]
    return [node for node in nodes if node.GetAttribute(_ATTRIBUTE) is not None]
