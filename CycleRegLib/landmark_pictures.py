"""Pictures of landmarks: where they are in the moving image, and where the fixed ones are taken to be."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from .colors import FIXED, MOVING, to_uint8
from .drawing import draw_circle, draw_cross, draw_line
from .errors import InputError
from .fields import DisplacementField
from .geometry import Grid
from .landmarks import LandmarkList, match_landmarks
from .slices import Plane, to_grey

# Landmarks farther than this from a slice are drawn faintly, mm.
NEAR_MM = 12.0
_FAR_OPACITY = 0.28


def corresponding_points(
    fixed: np.ndarray | LandmarkList, moving: np.ndarray | LandmarkList
) -> tuple[np.ndarray, np.ndarray]:
    """The points of two lists (matched by label) or arrays, (N, 3) LPS mm each.

    Raises
    ------
    InputError
        If arrays differ in length.
    """
    if isinstance(fixed, LandmarkList) and isinstance(moving, LandmarkList):
        return match_landmarks(fixed, moving)[1:]
    fixed_points, moving_points = (
        np.asarray(p.points if isinstance(p, LandmarkList) else p, np.float64).reshape(-1, 3) for p in (fixed, moving)
    )
    if len(fixed_points) != len(moving_points):
        raise InputError(
            f"There are {len(fixed_points)} fixed and {len(moving_points)} moving landmarks; "
            "give lists of equal length whose entries correspond."
        )
    return fixed_points, moving_points


def crowded(grid: Grid, points: np.ndarray) -> np.ndarray:
    """The point whose three slices of ``grid`` have most of ``points`` near them."""
    axes, spacing = grid.direction_matrix, np.array(grid.spacing)
    along = np.linalg.solve(axes, (points - np.array(grid.origin)).T).T  # mm along the grid's axes
    index = []
    for axis in range(3):
        candidates = np.arange(grid.size[axis]) * spacing[axis]
        weight = np.exp(-(((candidates[:, None] - along[None, :, axis]) / (NEAR_MM / 2)) ** 2)).sum(axis=1)
        index.append(int(np.argmax(weight)))
    return grid.to_world(np.array(index, dtype=np.float64))


def draw_landmarks(
    planes: list[Plane],
    moving: sitk.Image,
    window: tuple[float, float],
    field: DisplacementField,
    initial: sitk.Transform | DisplacementField | None,
    points: tuple[np.ndarray, np.ndarray],
) -> dict[str, np.ndarray]:
    """``landmarks-before`` and ``-after`` of each plane, over the moving image: circles where its landmarks are,
    crosses where those of the fixed image are taken to be."""
    pictures: dict[str, np.ndarray] = {}
    fixed_points, moving_points = points
    if isinstance(initial, sitk.Transform):
        started = np.array([initial.TransformPoint(p) for p in fixed_points.tolist()])
    else:
        started = fixed_points if initial is None else initial.transform_points(fixed_points)
    for plane in planes:
        below = to_grey(plane.enlarge(np.clip(plane.take(moving), *window)), window) * 0.8
        for kind, mapped in (("before", started), ("after", field.transform_points(fixed_points))):
            picture = below.copy()
            crosses, _ = plane.to_pixels(mapped)
            circles, distance = plane.to_pixels(moving_points)
            for cross, circle, far in sorted(zip(crosses, circles, distance > NEAR_MM), key=lambda item: not item[2]):
                _draw_pair(picture, cross, circle, _FAR_OPACITY if far else 1.0)
            pictures[f"landmarks-{kind}-{plane.name}"] = to_uint8(picture)
    return pictures


def _draw_pair(picture: np.ndarray, cross: np.ndarray, circle: np.ndarray, opacity: float) -> None:
    for color, extra in (((0, 0, 0), 2.0), (None, 0.0)):  # a dark rim first, so that marks stand out on bright tissue
        shade = opacity * (0.6 if extra else 1.0)
        draw_line(picture, cross, circle, color or (255, 255, 255), 1.4 + extra, shade)
        draw_circle(picture, circle, 6.5, color or MOVING, 1.8 + extra, shade)
        draw_cross(picture, cross, 5.0, color or FIXED, 1.8 + extra, shade)
