"""A registration with a known answer in a scene: points, ellipsoids and lines in both images, and where they belong."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from mrml_cases import FLIP, FakeResult, volume_of

from CycleRegLib import mrml
from CycleRegLib.fields import DisplacementField
from CycleRegLib.geometry import Grid
from CycleRegLib.landmarks import LandmarkList
from CycleRegLib.segmentations import Segment, Segmentation

GRID = Grid((40, 36, 24), (1.5, 1.5, 2.0), (-20.0, 10.0, -5.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
MOVING_GRID = Grid((44, 40, 26), (1.5, 1.5, 2.0), (-22.0, 8.0, -6.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
#: The transform takes every fixed point here, LPS mm: stretched by 1.2 along x about the grid's centre, then shifted.
STRETCH, SHIFT = 1.2, np.array([1.0, -2.0, 1.5])


def to_moving(points: np.ndarray) -> np.ndarray:
    scaled = np.array(points, dtype=float)
    scaled[..., 0] = GRID.center[0] + (scaled[..., 0] - GRID.center[0]) * STRETCH
    return scaled + SHIFT


def register_known(**outputs: Any) -> Any:
    """A fixed volume A and a moving one B in the scene, with the known transform between them and its inverse."""
    rng = np.random.default_rng(1)
    fixed, moving = (g.image(rng.normal(100, 10, g.shape).astype(np.float32)) for g in (GRID, MOVING_GRID))
    matrix = np.diag([STRETCH, 1.0, 1.0, 1.0])
    matrix[:3, 3] = to_moving(np.zeros(3))
    field, inverse = (
        DisplacementField.from_matrix(m, g) for m, g in ((matrix, GRID), (np.linalg.inv(matrix), MOVING_GRID))
    )

    def register(fixed: Any, moving: Any, **_: Any) -> FakeResult:
        return FakeResult(fixed, moving, field, inverse, field.warp(moving))

    nodes = volume_of(fixed, "A"), volume_of(moving, "B")
    for node in nodes:
        node.CreateDefaultDisplayNodes()
    return mrml.process(*nodes, True, True, True, register=register, **outputs)


POINTS = GRID.to_world(np.array([[12, 10, 6], [25, 12, 9], [18, 22, 15], [20.5, 8, 18]], dtype=float))


def lists(labels=("a", "b", "c", "d"), off=(1.0, 0.0, 0.0)):
    """The points in both images, the moving ones ``off`` mm beside where the transform leads."""
    return (
        mrml.markups_node(LandmarkList(list(labels), POINTS), "F"),
        mrml.markups_node(LandmarkList(list(labels), to_moving(POINTS) + off), "M"),
    )


def line(ends: np.ndarray, name: str):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", name)
    for point in np.asarray(ends) * FLIP:
        node.AddControlPoint(vtk.vtkVector3d(*point))
    return node


def ends_of(node) -> np.ndarray:
    """The line's end points in the world, LPS mm."""
    points = []
    for i in range(node.GetNumberOfControlPoints()):
        position = [0.0, 0.0, 0.0]
        node.GetNthControlPointPositionWorld(i, position)
        points.append(FLIP * position)
    return np.array(points)


def ellipsoid(grid: Grid, center: np.ndarray, radii, stretched: bool = False) -> np.ndarray:
    points = grid.points()
    if stretched:
        points = points - SHIFT
        points[..., 0] = GRID.center[0] + (points[..., 0] - GRID.center[0]) / STRETCH
    return (np.linalg.norm((points - center) / radii, axis=-1) <= 1).astype(np.uint8)


def segmentation_node(name: str, grid: Grid, masks: dict[str, np.ndarray]):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    segments = [Segment(text, value, layer) for layer, (value, text) in enumerate(enumerate(masks, start=1))]
    images = [grid.image(mask * segment.value) for mask, segment in zip(masks.values(), segments)]
    mrml.fill_segmentation(node, Segmentation(images, segments=segments))
    return node


CENTER = GRID.to_world(np.array([20.0, 17.0, 12.0]))
RADII = (13.2, 8.7, 11.5)  # no multiples of a voxel, so that none lies just on the surface


def tumors(name: str = "Tumor", other: str = "Tumor"):
    """An ellipsoid in the fixed image, and what the transform makes of it in the moving one; a ball beside each."""
    return (
        segmentation_node(
            "SF", GRID, {name: ellipsoid(GRID, CENTER, RADII), "Ball": ellipsoid(GRID, POINTS[0], (6, 6, 6))}
        ),
        segmentation_node(
            "SM",
            MOVING_GRID,
            {
                other: ellipsoid(MOVING_GRID, CENTER, RADII, stretched=True),
                "Ball": ellipsoid(MOVING_GRID, POINTS[0], (6, 6, 6), stretched=True),
            },
        ),
    )
