"""What the panel shows, kept in the scene: one parameter node is one set of choices.

Widgets with the dynamic property ``SlicerParameterName`` follow the field of that name by themselves; node selectors,
combo boxes and paths are bound by their sections, because Slicer would replace the choices of their ``.ui`` files.
"""

from __future__ import annotations

from typing import Annotated

import slicer
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper


@parameterNodeWrapper
class CycleRegParameterNode:
    """Nodes are None and paths empty where nothing is chosen; see :class:`CycleRegPanel.Parameters.Parameters`.

    ``method`` is the id of a method, or ``preset:`` and the id of a preset.  Class names of nodes are those of Slicer's
    core, as modules are imported in any order.
    """

    fixedNode: slicer.vtkMRMLVolumeNode
    movingNode: slicer.vtkMRMLVolumeNode
    fixedMask: slicer.vtkMRMLNode
    movingMask: slicer.vtkMRMLNode
    initialTransform: slicer.vtkMRMLTransformNode

    method: str = "preset:accurate"
    checkpoint: str = ""
    device: str = "auto"
    affine: str = "auto"
    refineSteps: Annotated[int, WithinRange(0, 1000)] = 0
    smoothness: Annotated[float, WithinRange(0.05, 50.0)] = 1.0
    precision: str = "auto"
    patchSize: Annotated[int, WithinRange(16, 256)] = 64
    patchOverlap: Annotated[float, WithinRange(0.0, 0.9)] = 0.5
    organSlices: bool = False

    outputTransform: slicer.vtkMRMLTransformNode
    outputInverseTransform: slicer.vtkMRMLTransformNode
    bothDirections: bool = True
    outputVolume: slicer.vtkMRMLVolumeNode
    outputJacobian: slicer.vtkMRMLVolumeNode
    outputRoundtrip: slicer.vtkMRMLVolumeNode
    showMoving: bool = False

    phases: list[slicer.vtkMRMLVolumeNode]
    phasesSequence: slicer.vtkMRMLNode
    phasesWarped: bool = True

    viewsTransform: slicer.vtkMRMLTransformNode
    viewsComparison: str = "checkerboard"
    viewsOrientation: str = "Axial"
    viewsOpacity: Annotated[int, WithinRange(0, 100)] = 50
    viewsGrid: bool = False

    measureTransform: slicer.vtkMRMLTransformNode
    measureFixedLandmarks: slicer.vtkMRMLNode
    measureMovingLandmarks: slicer.vtkMRMLNode
    measureFixedSegmentation: slicer.vtkMRMLNode
    measureMovingSegmentation: slicer.vtkMRMLNode
    measureSegmentsLeftOut: list[str]
    measureTumorBy: str = "segments"
    measureFixedTumor: str = ""
    measureMovingTumor: str = ""
    measureFixedLong: slicer.vtkMRMLNode
    measureFixedShort: slicer.vtkMRMLNode
    measureMovingLong: slicer.vtkMRMLNode
    measureMovingShort: slicer.vtkMRMLNode
