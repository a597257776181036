"""Scenes, nodes and a stand-in registration with a known answer, shared by the tests of the MRML bridge."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from geometries import random_grid, smooth_vectors
from vtk.util import numpy_support

from CycleRegLib import mrml
from CycleRegLib.fields import DisplacementField
from CycleRegLib.geometry import Grid

FLIP = np.array([-1.0, -1.0, 1.0])


def new_scene() -> Any:
    """A fresh scene as ``slicer.mrmlScene``."""
    slicer.mrmlScene = None
    return mrml.ensure_scene()


def vtk_matrix(array: np.ndarray) -> Any:
    matrix = vtk.vtkMatrix4x4()
    for i in range(4):
        for j in range(4):
            matrix.SetElement(i, j, float(array[i, j]))
    return matrix


def volume_of(image: sitk.Image, name: str, kind: str = "vtkMRMLScalarVolumeNode") -> Any:
    """A volume node made here, not by the library: its geometry is the tests' own reading of the conventions."""
    data = vtk.vtkImageData()
    data.SetDimensions(image.GetSize())
    array = sitk.GetArrayFromImage(image)
    data.GetPointData().SetScalars(numpy_support.numpy_to_vtk(array.ravel(), deep=True))
    ijk_to_ras = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    ijk_to_ras[:3, :3] = FLIP[:, None] * direction * image.GetSpacing()
    ijk_to_ras[:3, 3] = FLIP * image.GetOrigin()
    node = slicer.mrmlScene.AddNewNodeByClass(kind, name)
    node.SetAndObserveImageData(data)
    node.SetIJKToRASMatrix(vtk_matrix(ijk_to_ras))
    return node


def array_of(node: Any) -> np.ndarray:
    data = node.GetImageData()
    return numpy_support.vtk_to_numpy(data.GetPointData().GetScalars()).reshape(data.GetDimensions()[::-1])


def linear_node(matrix_lps: np.ndarray, name: str) -> Any:
    """A linear transform node whose map to its parent is ``matrix_lps`` (4, 4), in LPS."""
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    node.SetMatrixTransformToParent(vtk_matrix(flip @ matrix_lps @ flip))
    return node


def points_from_world(node: Any, points: np.ndarray) -> np.ndarray:
    """Each (N, 3) LPS point through the node's map from the world, one by one through VTK."""
    general = vtk.vtkGeneralTransform()
    node.GetTransformFromWorld(general)
    return np.array([general.TransformPoint(FLIP * p) for p in points]) * FLIP


def rigid(rng: np.random.Generator, mirrored: bool = False) -> np.ndarray:
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    if (np.linalg.det(q) < 0) != mirrored:
        q[:, 0] *= -1
    matrix = np.eye(4)
    matrix[:3, :3] = q
    matrix[:3, 3] = rng.uniform(-80, 80, 3)
    return matrix


def smooth_image(grid: Grid, seed: int) -> sitk.Image:
    """A smooth float32 image of the world (waves of some centimetres), sampled on ``grid``."""
    rng = np.random.default_rng(seed)
    points = grid.points() - grid.center
    array = np.zeros(grid.shape)
    for _ in range(4):
        array += np.sin(points @ rng.normal(size=3) * 0.12 + rng.uniform(0, 6)) * 10
    return grid.image((array + 100).astype(np.float32))


@dataclass
class FakeResult:
    """What the library's registration returns, with a known field."""

    fixed: sitk.Image
    moving: sitk.Image
    field: DisplacementField
    inverse: DisplacementField
    warped: sitk.Image
    method: str = "known"
    checkpoint: str | None = None
    warnings: list[str] = field(default_factory=list)

    def summary(self) -> dict:
        return {
            "method": self.method,
            "device": "cpu",
            "seconds": {"affine": 0.5, "total": 2.25},
            "peak_memory_mb": 512.0,
            "similarity": {"before": 0.5, "after": 0.875},
            "folding_percent": 0.0,
            "roundtrip_mm": {"mean": 0.0123456, "p95": 0.04},
        }

    def jacobian(self) -> sitk.Image:
        return self.field.grid.image(self.field.jacobian_determinant())

    def roundtrip_image(self) -> sitk.Image:
        return self.field.grid.image(np.nan_to_num(self.field.round_trip(self.inverse), nan=-1.0))


class FakeRegister:
    """Stands in for ``CycleRegLib.registration.register``: answers with a smooth known field, remembers the call."""

    def __init__(self, amplitude_mm: float = 4.0) -> None:
        self.amplitude_mm = amplitude_mm
        self.calls: list[dict] = []

    def __call__(self, fixed: sitk.Image, moving: sitk.Image, **options: Any) -> FakeResult:
        self.calls.append({"fixed": fixed, "moving": moving, **options})
        grid = Grid.of(fixed)
        known = DisplacementField(smooth_vectors(grid, 5, self.amplitude_mm), grid)
        shift = Grid.of(moving).center - grid.center
        known = DisplacementField(known.vectors + shift.astype(np.float32), grid)
        return FakeResult(fixed, moving, known, known.inverse(Grid.of(moving)).field, known.warp(moving))


def pair(seed: int, mirrored: bool | None = None, apart_mm: float | None = None) -> tuple[sitk.Image, sitk.Image]:
    """A fixed and a moving image on unrelated oblique anisotropic grids, their centres ``apart_mm`` along x or far."""
    fixed = random_grid(seed, low=14, high=22, mirrored=mirrored)
    moving = random_grid(seed + 1, low=16, high=24)
    if apart_mm is not None:
        shift = fixed.center + [apart_mm, 0, 0] - moving.center
        moving = Grid(moving.size, moving.spacing, tuple(moving.origin + shift), moving.direction)
    return smooth_image(fixed, seed), smooth_image(moving, seed + 1)
