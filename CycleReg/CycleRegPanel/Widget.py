"""The panel."""

from __future__ import annotations

import sys
from typing import Any, Callable

import qt
import slicer
import vtk
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

from .Bindings import Bindings
from .Logic import CycleRegLogic
from .ParameterNode import CycleRegParameterNode
from .RunSection import RunSection
from .Section import Section
from .Sections import SECTIONS


class CycleRegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Composes the sections, follows the life of scene and module, and shows one of the scene's parameter sets."""

    def __init__(self, parent: Any = None) -> None:
        VTKObservationMixin.__init__(self)
        self.logic: CycleRegLogic | None = None
        self.parameterNode: CycleRegParameterNode | None = None
        self.sections: list[Section] = []
        # Tests put a stand-in for qt.QProcess here.
        self.processFactory: Callable[[], Any] | None = None
        self.bindings: Bindings | None = None
        # Last: without a parent, Slicer's base class makes one and calls setup() at once.
        ScriptedLoadableModuleWidget.__init__(self, parent)

    # ------------------------------------------------------------------ Slicer's life cycle

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/CycleReg.ui"))
        self.layout.addWidget(uiWidget)
        self.sections = [section(self) for section in SECTIONS]
        parts = [self._loadSection(uiWidget, section) for section in self.sections if section.UI]
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        self.logic = CycleRegLogic()
        selector = self.ui.parameterNodeSelector
        selector.addAttribute("vtkMRMLScriptedModuleNode", "ModuleName", self.moduleName)
        for widget in (uiWidget, *parts):
            widget.setMRMLScene(slicer.mrmlScene)

        for section in self.sections:
            section.setup()
        self.bindings = Bindings(self.ui, lambda: self.parameterNode)
        selector.connect("currentNodeChanged(vtkMRMLNode*)", self._onParameterSetChosen)
        for event, function in (
            (slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose),
            (slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose),
            (slicer.mrmlScene.StartImportEvent, self.onSceneStartImport),
            (slicer.mrmlScene.EndImportEvent, self.onSceneEndImport),
            (slicer.mrmlScene.NodeAboutToBeRemovedEvent, self._onNodeAboutToBeRemoved),
            (slicer.mrmlScene.NodeRemovedEvent, self._onNodeRemoved),
        ):
            self.addObserver(slicer.mrmlScene, event, function)
        self.setParameterNode(self.logic.getParameterNode())

    def _loadSection(self, uiWidget: Any, section: Section) -> Any:
        """Load the section's ``.ui`` file into its place; returns its widget."""
        place = slicer.util.findChild(uiWidget, section.PLACE)
        part = slicer.util.loadUI(self.resourcePath(f"UI/{section.UI}"))
        layout = qt.QVBoxLayout(place)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(part)
        place.visible = True
        return part

    def cleanup(self) -> None:
        """The application closes, or the module is about to be reloaded."""
        for section in self.sections:
            section.cleanup()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self) -> None:
        """The user opens the module."""
        if self.parameterNode is None:
            self.setParameterNode(self.logic.getParameterNode())
        self.sectionOf("MethodSection").askDevices()
        self.sectionOf("InputsSection").guess()
        self._onParametersModified()

    def exit(self) -> None:
        """The user opens another module; a running registration goes on."""

    def onReload(self) -> None:
        """Developers' Reload button: Slicer reloads ``CycleReg.py`` alone, so forget the packages behind it.

        The parameter set stays in the scene, and the new panel shows it.
        """
        self.cancel()
        for name in list(sys.modules):
            if name.split(".")[0] in ("CycleRegPanel", "CycleRegLib"):
                del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller: Any = None, event: Any = None) -> None:
        for section in self.sections:
            section.onSceneStartClose()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller: Any = None, event: Any = None) -> None:
        for section in self.sections:
            section.onSceneEndClose()
        self.setParameterNode(self.logic.getParameterNode())

    def onSceneStartImport(self, caller: Any = None, event: Any = None) -> None:
        """Selectors list all nodes anew when a scene was loaded, and show none meanwhile; that is nobody's choice."""
        self.setParameterNode(None)

    def onSceneEndImport(self, caller: Any = None, event: Any = None) -> None:
        """A scene was loaded: its parameter set took the place of the one that was here."""
        self.setParameterNode(self.logic.getParameterNode())

    # ------------------------------------------------------------------ parameter sets

    def setParameterNode(self, parameterNode: CycleRegParameterNode | None) -> None:
        """Show another parameter set; None while the scene is being closed or loaded."""
        if self.parameterNode is not None:
            self.removeObserver(
                self.parameterNode.parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParametersModified
            )
        self.parameterNode = parameterNode
        if parameterNode is not None:
            self.addObserver(parameterNode.parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParametersModified)
            self.ui.parameterNodeSelector.setCurrentNode(parameterNode.parameterNode)
        self._onParametersModified()

    def _onParameterSetChosen(self, node: Any = None) -> None:
        if self.parameterNode is None or node is None or node is self.parameterNode.parameterNode:
            return
        self.setParameterNode(CycleRegParameterNode(node))

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeAboutToBeRemoved(self, caller: Any, event: Any, node: Any) -> None:
        self.bindings.forget(node)

    def _onNodeRemoved(self, caller: Any = None, event: Any = None) -> None:
        """The user may have removed the parameter set that is shown."""
        if self.parameterNode is not None and self.parameterNode.parameterNode.GetScene() is None:
            self.setParameterNode(self.logic.getParameterNode())

    def _onParametersModified(self, caller: Any = None, event: Any = None) -> None:
        if self.parameterNode is not None:
            self.bindings.show()
            for section in self.sections:
                section.onParameterNodeModified()
        self.updateState()

    # ------------------------------------------------------------------ what sections use

    def sectionOf(self, name: str) -> Any:
        """The section of that class name."""
        return next(section for section in self.sections if type(section).__name__ == name)

    @property
    def run(self) -> RunSection:
        """The section that runs registrations."""
        return self.sectionOf("RunSection")

    @property
    def running(self) -> bool:
        """Whether a registration is under way."""
        return self.run.running

    def cancel(self) -> None:
        """Stop a running registration; the scene and the disk are then as before."""
        self.run.cancel()

    def waitForCompletion(self, milliseconds: int = -1) -> None:
        """Block until the running registration has ended; for scripts and tests."""
        self.run.waitForCompletion(milliseconds)

    def updateState(self) -> None:
        """Let every section enable what can be used."""
        running = self.running
        self.ui.parameterSetWidget.enabled = not running
        for section in self.sections:
            section.updateState(running)

    def say(self, text: str) -> None:
        """Show one line under the Apply button."""
        self.ui.statusLabel.text = text

    def fail(self, message: str) -> None:
        """One clear message; it stays in the panel after the pop-up was closed."""
        self.say(message)
        slicer.util.errorDisplay(message, windowTitle="CycleReg")
