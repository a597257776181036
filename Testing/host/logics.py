"""The application's logic and ``slicer.modules.*.logic()``: Slicer's own classes, put together as there."""

from __future__ import annotations

import types
from typing import Any

import slicer


class Logics:
    """The logics of one scene.  Slicer's classes do not keep each other alive, this object does.

    Attributes
    ----------
    application
        What ``slicer.app.applicationLogic()`` gives.
    """

    def __init__(self, scene: Any) -> None:
        self.application = slicer.vtkSlicerApplicationLogic()
        self.application.SetMRMLScene(scene)
        # Slicer's colour tables; those that it reads from its own files are not here.
        self._colors = slicer.vtkMRMLColorLogic()
        self._colors.SetMRMLScene(scene)
        self._modules = {
            "Markups": slicer.vtkSlicerMarkupsLogic(),
            "Plots": slicer.vtkSlicerPlotsLogic(),
            "Segmentations": slicer.vtkSlicerSegmentationsModuleLogic(),
        }
        for name, logic in self._modules.items():
            logic.SetMRMLApplicationLogic(self.application)
            logic.SetMRMLScene(scene)
            self.application.SetModuleLogic(name, logic)
        self._register_markups()
        for node in (slicer.vtkMRMLColorLegendDisplayNode(), slicer.vtkMRMLMarkupsJsonStorageNode()):
            if scene.GetClassNameByTag(node.GetNodeTagName()) is None:
                scene.RegisterNodeClass(node)

    def _register_markups(self) -> None:
        """What the views draw of markups; the Markups module tells its logic when it is loaded."""
        markups = self._modules["Markups"]
        for node, widget in (
            (slicer.vtkMRMLMarkupsFiducialNode(), slicer.vtkSlicerPointsWidget()),
            (slicer.vtkMRMLMarkupsLineNode(), slicer.vtkSlicerLineWidget()),
        ):
            if not markups.IsMarkupsNodeRegistered(node.GetClassName()):
                markups.RegisterMarkupsNode(node, widget)

    def modules(self) -> types.SimpleNamespace:
        """``slicer.modules`` with the modules of Slicer whose logic the panel asks for."""
        made = {
            name.lower(): types.SimpleNamespace(logic=lambda _logic=logic: _logic)
            for name, logic in self._modules.items()
        }
        return types.SimpleNamespace(**made)
