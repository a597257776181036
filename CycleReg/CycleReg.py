"""CycleReg: deformable registration of two volumes in both directions.

This file only registers the module with Slicer; its code is in the folder ``CycleRegPanel``, the registration itself
in ``CycleRegLib``.
"""

from __future__ import annotations

import slicer
from CycleRegPanel.Host import IN_APPLICATION, ScriptedLoadableModule, _, translate
from CycleRegPanel.Logic import CycleRegLogic
from CycleRegPanel.SelfTest import CycleRegTest

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
        # By Slicer's own translation of its category, or there would be two of them.
        parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
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
        # Other modules, and the window, may be made after this.
        slicer.app.connect("startupCompleted()", onStartupCompleted)


def onStartupCompleted() -> None:
    """Offer the sample pair in Slicer's Sample Data module; let scenes that were saved with the module's views find
    their layout."""
    from CycleRegPanel import Sample

    from CycleRegLib.view_layout import add_layout

    Sample.register()
    layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    if layout is not None:  # there is none without a window
        add_layout(layout)
