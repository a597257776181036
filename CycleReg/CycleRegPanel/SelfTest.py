"""The module's self-test, for the button *Test* of Slicer's developer mode and for CTest; on slicer-core, too."""

from __future__ import annotations

import math
import unittest
from typing import Any

import slicer

from .Host import IN_APPLICATION, ScriptedLoadableModuleTest
from .Logic import CycleRegLogic

# Voxels twice as large along each axis: the same anatomy in a fraction of the time.
_SCALE = 2.0


class CycleRegTest(ScriptedLoadableModuleTest):
    """Registers what has a known answer, by the logic and by the panel."""

    def setUp(self) -> None:
        if getattr(slicer, "mrmlScene", None) is not None:
            slicer.mrmlScene.Clear(0)

    def runTest(self) -> None:
        tests = [self.test_known_shift, self.test_sample_by_logic]
        for test in [*tests, self.test_sample_by_panel] if IN_APPLICATION else tests:
            self.setUp()
            test()
        self.delayDisplay("Test passed")

    # ------------------------------------------------------------------ by the logic

    def test_known_shift(self) -> None:
        """A body that was moved by 6 mm comes back, and the transform says by how much."""
        import numpy as np

        self.delayDisplay("Registering a body that was moved by 6 mm")
        shift = np.array([6.0, 0.0, 0.0])  # RAS, mm
        fixed = body("Fixed", np.zeros(3))
        moving = body("Moving", shift)
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Moving to fixed")
        warped = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Warped")

        CycleRegLogic().process(fixed, moving, outputTransform=transform, outputVolume=warped, device="cpu")

        toMoving = transform.GetTransformFromParent()
        for corner in ((12.0, 0.0, 0.0), (-12.0, 0.0, 0.0), (0.0, 12.0, 0.0), (0.0, 0.0, -12.0)):
            found = np.array(toMoving.TransformPoint(corner)) - corner
            assert float(np.linalg.norm(found - shift)) < 1.5, f"displacement at {corner}: {found} mm"
        error = np.abs(slicer.util.arrayFromVolume(warped) - slicer.util.arrayFromVolume(fixed))
        assert float(error.mean()) < 5.0

    def test_sample_by_logic(self) -> None:
        """Of the breathing between the two phases of the sample less than a quarter is left."""
        self.delayDisplay("Registering the sample data by the logic")
        logic = CycleRegLogic()
        sample = logic.loadSample(scale=_SCALE)
        done = logic.process(sample.fixed, sample.moving, outputTransform=True, outputInverseTransform=True)
        logic.evaluate(
            sample.fixed,
            sample.moving,
            done.transform,
            fixedLandmarks=sample.fixedLandmarks,
            movingLandmarks=sample.movingLandmarks,
        )
        self._checkErrors(done.transform)
        # A landmark of the arterial phase is carried to the portal one by the transform that was written.
        moved = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Moved")
        moved.Copy(sample.movingLandmarks)
        moved.SetAndObserveTransformNodeID(done.transform.GetID())
        distances = [_distance(sample.fixedLandmarks, moved, i) for i in range(moved.GetNumberOfControlPoints())]
        assert sum(distances) / len(distances) < 3.0

    # ------------------------------------------------------------------ by the panel

    @unittest.skipUnless(IN_APPLICATION, "there is no panel without the application")
    def test_sample_by_panel(self) -> None:
        """Apply, Cancel and Measure, pressed as a user would; the scene is changed by complete results only."""
        self.delayDisplay("Registering the sample data by the panel")
        sample = CycleRegLogic().loadSample(scale=_SCALE)
        panel = slicer.util.getModuleWidget("CycleReg")
        ui = panel.ui
        ui.fixedSelector.setCurrentNode(sample.fixed)
        ui.movingSelector.setCurrentNode(sample.moving)
        assert ui.applyButton.enabled, ui.applyButton.toolTip
        before = slicer.mrmlScene.GetNumberOfNodes()

        ui.applyButton.click()
        assert panel.running, ui.statusLabel.text
        ui.applyButton.click()
        assert not panel.running
        assert slicer.mrmlScene.GetNumberOfNodes() == before, "cancelling left something in the scene"

        ui.applyButton.click()
        panel.waitForCompletion()
        transform = ui.outputTransformSelector.currentNode()
        assert transform is not None, ui.statusLabel.text

        measure = panel.sectionOf("MeasureSection")
        for name, node in (
            ("Transform", transform),
            ("FixedLandmarks", sample.fixedLandmarks),
            ("MovingLandmarks", sample.movingLandmarks),
            ("FixedSegmentation", sample.fixedSegmentation),
            ("MovingSegmentation", sample.movingSegmentation),
        ):
            getattr(ui, f"measure{name}Selector").setCurrentNode(node)
        assert ui.measureButton.enabled, ui.measureButton.toolTip
        ui.measureButton.click()
        measure.waitForCompletion()
        self._checkErrors(transform)

    def _checkErrors(self, transform: Any) -> None:
        """The landmarks' errors that were measured: all are there, and their mean fell below a quarter."""
        from CycleRegLib.mrml import table_rows
        from CycleRegLib.node_roles import TABLE_ROLES

        table = transform.GetNodeReference(TABLE_ROLES["landmarks"])
        assert table is not None, "nothing was measured"
        _head, *rows = table_rows(table)
        before, after = (sum(row[column] for row in rows) / len(rows) for column in (1, 2))
        self.delayDisplay(f"Mean landmark error: {before:.2f} mm before, {after:.2f} mm after")
        assert before > 8.0
        assert after < before / 4


def _distance(points: Any, others: Any, index: int) -> float:
    """Between two control points of the same index, in the world, mm."""
    places = ([0.0] * 3, [0.0] * 3)
    for node, place in zip((points, others), places):
        node.GetNthControlPointPositionWorld(index, place)
    return math.dist(*places)


def body(name: str, shift: Any) -> Any:
    """A volume of 40 x 36 x 32 voxels of 2 mm with an ellipsoid that holds two balls, moved by ``shift`` (RAS, mm).

    The balls differ in size and brightness, so that there is one way only to bring two such bodies together.
    """
    import numpy as np

    size = (40, 36, 32)
    spacing = 2.0
    origin = [-0.5 * spacing * (n - 1) for n in size]
    z, y, x = np.meshgrid(*(np.arange(n) for n in reversed(size)), indexing="ij")
    points = np.stack((x, y, z), axis=-1) * spacing + origin - shift
    array = np.zeros(points.shape[:3], np.float32)
    for center, radii, brightness in (
        ((0, 0, 0), (24, 19, 16), 100),
        ((10, 4, -3), (6, 6, 6), 120),
        ((-9, -6, 5), (4, 4, 4), 70),
    ):
        depth = (1 - np.linalg.norm((points - center) / radii, axis=-1)) * min(radii)
        array += brightness / (1 + np.exp(-2 * depth))  # edges as soft as a scanner makes them
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetOrigin(*origin)
    node.SetSpacing(spacing, spacing, spacing)
    slicer.util.updateVolumeFromArray(node, array)
    return node
