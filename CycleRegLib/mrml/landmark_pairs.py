"""Two markups lists as pairs of landmarks: which points belong together, and showing a pair in the slice views."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer

from ..errors import CycleRegWarning
from ..landmarks import match_landmarks
from ..node_roles import INVERSE_ROLE
from .nodes import landmarks_from_markups
from .vtk_bridge import FLIP


@dataclass(frozen=True)
class LandmarkPairs:
    """The pairs of two lists, in the fixed list's order.

    Attributes
    ----------
    labels
        What each pair is called.
    fixed, moving
        (N, 3) LPS mm, the fixed points in the fixed image and the moving ones in the moving image: as they lie without
        the transform, also while they are shown under it.
    notes
        What the user should know: points that are left out, labels that were not used.
    """

    labels: list[str]
    fixed: np.ndarray
    moving: np.ndarray
    notes: list[str]

    def __len__(self) -> int:
        return len(self.labels)


def pair_landmarks(fixedMarkups: Any, movingMarkups: Any, transformNode: Any = None) -> LandmarkPairs:
    """Pair the points of two markups nodes by label, else by order (:func:`CycleRegLib.landmarks.match_landmarks`).

    Parameters
    ----------
    transformNode
        The registration's transform: points that are shown under it (or under its inverse) are taken as they were.

    Raises
    ------
    InputError
        If a node is no markups node or holds no placed point, or the labels have nothing in common.
    """
    inverse = None if transformNode is None else transformNode.GetNodeReference(INVERSE_ROLE)
    fixed = landmarks_from_markups(fixedMarkups, "fixed landmarks", [inverse])
    moving = landmarks_from_markups(movingMarkups, "moving landmarks", [transformNode])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CycleRegWarning)
        labels, points, partners = match_landmarks(fixed, moving)
    return LandmarkPairs(labels, points, partners, [str(warning.message) for warning in caught])


def jump_to_pair(scene: Any, pairs: LandmarkPairs, index: int, moving_views: Mapping[str, Any] | None = None) -> None:
    """Centre the slice views on a pair: all on the fixed point, those in ``moving_views`` on the moving one.

    Parameters
    ----------
    moving_views
        Slice nodes, by any name, that show the moving image as it lies.
    """
    slicer.vtkMRMLSliceNode.JumpAllSlices(
        scene, *(FLIP * pairs.fixed[index]).tolist(), slicer.vtkMRMLSliceNode.CenteredJumpSlice
    )
    for node in (moving_views or {}).values():
        node.JumpSliceByCentering(*(FLIP * pairs.moving[index]).tolist())
