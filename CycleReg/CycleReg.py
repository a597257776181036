"""CycleReg: deformable registration of two volumes in both directions.

This file only registers the module with Slicer; its code is in the folder ``CycleRegPanel``, the registration itself
in ``CycleRegLib``.
"""

from __future__ import annotations

from CycleRegPanel.Host import (
    IN_APPLICATION,
    ScriptedLoadableModule,
    ScriptedLoadableModuleTest,
    _,
)
from CycleRegPanel.Logic import CycleRegLogic

if IN_APPLICATION:
    # Qt exists only there; slicer-core and PythonSlicer import the logic from this file as well.
    from CycleRegPanel.Widget import CycleRegWidget
else:
    CycleRegWidget = None

__all__ = ["CycleReg", "CycleRegLogic", "CycleRegTest", "CycleRegWidget"]


class CycleReg(ScriptedLoadableModule):
    """The module's entry in Slicer's list."""

    def __init__(self, parent) -> None:
        super().__init__(parent)
        parent.title = "CycleReg"
        parent.categories = ["Registration"]
        parent.dependencies = []
        parent.contributors = ["CycleReg developers"]
        parent.helpText = _(
            "Deformable registration of a moving onto a fixed volume, in seconds and in both directions. "
            "The result is a transform for volumes, segmentations and markups, its inverse, the warped volume, "
            "and the measurements that tell how good it is. "
            "Choose the two volumes and press Apply; everything else has a sensible default."
        )
        parent.acknowledgementText = _(
            "CycleReg builds on cycle-consistent registration as published by Kim et al. (CycleMorph, Medical Image "
            "Analysis 2021) and on related work that its documentation names. "
            "Not for clinical use without validation on your own data."
        )


class CycleRegTest(ScriptedLoadableModuleTest):
    """The self-test: a small pair with a known shift is registered through the module's logic."""

    def setUp(self) -> None:
        import slicer

        slicer.mrmlScene.Clear(0)

    def runTest(self) -> None:
        self.setUp()
        self.test_known_shift()

    def test_known_shift(self) -> None:
        """A body that was moved by 6 mm comes back, and the transform says by how much."""
        import numpy as np
        import slicer

        self.delayDisplay("Registering a body that was moved by 6 mm")
        shift = np.array([6.0, 0.0, 0.0])  # RAS, mm
        fixed = self._body("Fixed", np.zeros(3))
        moving = self._body("Moving", shift)
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Moving to fixed")
        warped = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Warped")

        CycleRegLogic().process(fixed, moving, outputTransform=transform, outputVolume=warped, device="cpu")

        toMoving = transform.GetTransformFromParent()
        for corner in ((12.0, 0.0, 0.0), (-12.0, 0.0, 0.0), (0.0, 12.0, 0.0), (0.0, 0.0, -12.0)):
            found = np.array(toMoving.TransformPoint(corner)) - corner
            assert float(np.linalg.norm(found - shift)) < 1.5, f"displacement at {corner}: {found} mm"
        error = np.abs(slicer.util.arrayFromVolume(warped) - slicer.util.arrayFromVolume(fixed))
        assert float(error.mean()) < 5.0
        self.delayDisplay("Test passed")

    @staticmethod
    def _body(name: str, shift):
        """A volume of 40 x 36 x 32 voxels of 2 mm with an ellipsoid that holds two balls, moved by ``shift`` (RAS, mm).

        The balls differ in size and brightness, so that there is one way only to bring two such bodies together.
        """
        import numpy as np
        import slicer

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
