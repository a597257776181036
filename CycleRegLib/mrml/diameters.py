"""A tumour's diameters as line markups: those that somebody drew are read, those that were measured are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import vtk

from ..colors import FIXED, MOVING
from ..drawn_tumor import DrawnDiameters
from ..errors import InputError
from ..node_roles import DIAMETER_ROLES, INVERSE_ROLE
from .nodes import landmarks_from_markups
from .results import NewNodes, show_under
from .vtk_bridge import FLIP, parents_of

LINE = "vtkMRMLMarkupsLineNode"
_COLORS = {"fixed": FIXED, "moving": MOVING, "warped": (255, 255, 255)}
_DIAMETERS = {"major": "long", "minor": "short"}


@dataclass(frozen=True)
class TumorLines:
    """The long diameter of a tumour, and where there is one the short diameter, as ``vtkMRMLMarkupsLineNode``."""

    long: Any
    short: Any = None


def read_lines(lines: TumorLines, side: str, stop_at: Sequence[Any] = ()) -> DrawnDiameters:
    """Lines in the scene as the library measures them; those under ``stop_at`` as they lie without it.

    Raises
    ------
    InputError
        If a line is missing, is no line or not finished.
    """
    short = None if lines.short is None else _ends(lines.short, f"{side} short diameter", stop_at)
    return DrawnDiameters(_ends(lines.long, f"{side} long diameter", stop_at), short, lines.long.GetName())


def _ends(line: Any, what: str, stop_at: Sequence[Any]) -> np.ndarray:
    if line is None:
        raise InputError(f"No {what} is given. Choose a line.")
    if not line.IsA(LINE):
        raise InputError(f'"{line.GetName()}" is a {line.GetNodeTagName()} node; the {what} must be a line markup.')
    points = landmarks_from_markups(line, what, stop_at).points
    if len(points) != 2:
        raise InputError(f'The {what} "{line.GetName()}" has one end only. Place the other end.')
    return points


def draw_diameters(
    tumor: Mapping[str, Any], fixedNode: Any, movingNode: Any, transformNode: Any, new: NewNodes
) -> list[Any]:
    """Draw the diameters of an evaluation's ``tumor`` as lines, and return their nodes.

    Those in the fixed image and the warped ones lie on the fixed image, those in the moving image on the moving one:
    when a volume is shown under the transform, its lines are shown under it as well.  Lines of an earlier evaluation of
    the same transform are written again, and removed where nothing was measured this time.
    """
    drawn = []
    inverse = transformNode.GetNodeReference(INVERSE_ROLE)
    for side, color in _COLORS.items():
        ends = tumor["diameters"][side] or {}
        above = {"fixed": (fixedNode, inverse), "moving": (movingNode, transformNode)}.get(side, (fixedNode, inverse))
        for key, length in _DIAMETERS.items():
            role = DIAMETER_ROLES[side, length]
            earlier = transformNode.GetNodeReference(role)
            points = np.array(ends.get(key) or [[np.nan] * 3], dtype=np.float64)
            if not np.isfinite(points).all():
                if earlier is not None:
                    earlier.GetScene().RemoveNode(earlier)
                continue
            node = earlier or new.node(True, LINE, f"{tumor['name']} {length} diameter, {side}")
            # The warped line lies on the fixed one, so its label goes to the other end.
            _write_line(node, points, 1 if side == "warped" else 0)
            if earlier is None:
                _show_line(node, color)
            if above[1] is not None and above[1] in parents_of(above[0]):
                show_under(node, above[1])
            transformNode.SetNodeReferenceID(role, node.GetID())
            drawn.append(node)
    return drawn


def _write_line(node: Any, points: np.ndarray, labelled: int) -> None:
    """Let a line have two ends, (2, 3) LPS mm, which the mouse does not move: they were measured.

    The end ``labelled`` bears the length.  Slicer would write its long name and length in the middle, where both lines
    of a tumour meet.
    """
    state = node.StartModify()
    node.SetAndObserveTransformNodeID(None)
    node.SetLocked(False)
    node.RemoveAllControlPoints()
    for index, point in enumerate(points):
        node.AddControlPoint(vtk.vtkVector3d(*(FLIP * point)))
        node.SetNthControlPointLabel(index, "")  # an empty one would be replaced when the point is added
    node.SetNthControlPointLabel(labelled, f"{np.linalg.norm(points[1] - points[0]):.1f} mm")
    node.SetLocked(True)
    node.EndModify(state)


def _show_line(node: Any, color: tuple[int, int, int]) -> None:
    """Small ends in the colour of the line's image; what the user changes later stays."""
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    for set_color in (display.SetColor, display.SetSelectedColor):
        set_color(*(channel / 255 for channel in color))
    display.SetGlyphScale(1.5)
    display.SetPropertiesLabelVisibility(False)
    display.SetPointLabelsVisibility(True)
