"""The panel."""

from __future__ import annotations

import logging
import sys
from typing import Any, Callable

import qt
import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

from CycleRegLib.errors import CycleRegError
from CycleRegLib.methods import get_method, list_methods

from . import Environment, Results
from .Exchange import Exchange
from .Host import _
from .Logic import CycleRegLogic
from .Parameters import AFFINE_STAGES, DEVICES, Parameters
from .Section import Section
from .Sections import SECTIONS
from .Worker import CANCELLED, SUCCEEDED, Worker


class CycleRegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Shows the choices, says when they can run, runs them in a child process, and shows what came of it.

    The scene is changed only when the result is complete, so that cancelling, errors and a crash of the child leave it
    as it was.
    """

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: CycleRegLogic | None = None
        self.sections: list[Section] = []
        # Tests put a stand-in for qt.QProcess here.
        self.processFactory: Callable[[], Any] | None = None
        self._worker: Worker | None = None
        # The last one is kept: its process must not be deleted while it is telling that it has ended.
        self._endedWorker: Worker | None = None
        self._exchange: Exchange | None = None

    # ------------------------------------------------------------------ Slicer's life cycle

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/CycleReg.ui"))
        self.layout.addWidget(uiWidget)
        self.sections = [section(self) for section in SECTIONS]
        parts = [self._loadSection(uiWidget, section) for section in self.sections]
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        self._fillChoices()
        for widget in (uiWidget, *parts):
            widget.setMRMLScene(slicer.mrmlScene)
        self.logic = CycleRegLogic()

        for selector in self._selectors():
            selector.connect("currentNodeChanged(vtkMRMLNode*)", self.updateState)
        self.ui.methodComboBox.connect("currentIndexChanged(int)", self.updateState)
        self.ui.checkpointPathLineEdit.connect("currentPathChanged(QString)", self.updateState)
        self.ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        for section in self.sections:
            section.setup()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)

        self.ui.progressBar.visible = False
        self.ui.resultsCollapsibleButton.visible = False
        self.updateState()

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
        self.cancel()
        for section in self.sections:
            section.cleanup()
        self.removeObservers()

    def enter(self) -> None:
        """The user opens the module."""
        self.updateState()

    def exit(self) -> None:
        """The user opens another module; a running registration goes on."""

    def onReload(self) -> None:
        """Developers' Reload button: Slicer reloads ``CycleReg.py`` alone, so forget the packages behind it."""
        self.cancel()
        for name in list(sys.modules):
            if name.split(".")[0] in ("CycleRegPanel", "CycleRegLib"):
                del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller: Any = None, event: Any = None) -> None:
        # The nodes that the run would write to are about to go.
        self.cancel()
        for section in self.sections:
            section.onSceneStartClose()

    def onSceneEndClose(self, caller: Any = None, event: Any = None) -> None:
        self.ui.resultsCollapsibleButton.visible = False
        self.ui.statusLabel.text = ""
        for section in self.sections:
            section.onSceneEndClose()
        self.updateState()

    # ------------------------------------------------------------------ choices

    def _selectors(self) -> list[Any]:
        return [
            self.ui.fixedSelector,
            self.ui.movingSelector,
            self.ui.outputTransformSelector,
            self.ui.outputInverseTransformSelector,
            self.ui.outputVolumeSelector,
            self.ui.outputJacobianSelector,
            self.ui.outputRoundtripSelector,
        ]

    def _fillChoices(self) -> None:
        titles = {
            "auto": _("Automatic"),
            "cpu": _("CPU"),
            "cuda": _("NVIDIA GPU (CUDA)"),
            "mps": _("Apple GPU (Metal)"),
            "none": _("None"),
            "rigid": _("Rigid"),
            "affine": _("Affine"),
        }
        for index, method in enumerate(list_methods()):
            self.ui.methodComboBox.addItem(method.title, method.id)
            self.ui.methodComboBox.setItemData(index, method.summary, qt.Qt.ToolTipRole)
        for comboBox, choices in ((self.ui.deviceComboBox, DEVICES), (self.ui.affineComboBox, AFFINE_STAGES)):
            for choice in choices:
                comboBox.addItem(titles[choice], choice)

    def parameters(self) -> Parameters:
        """What the panel shows, as one set of parameters."""
        return Parameters(
            fixedNode=self.ui.fixedSelector.currentNode(),
            movingNode=self.ui.movingSelector.currentNode(),
            outputTransform=self.ui.outputTransformSelector.currentNode(),
            outputInverseTransform=self.ui.outputInverseTransformSelector.currentNode(),
            outputVolume=self.ui.outputVolumeSelector.currentNode(),
            outputJacobian=self.ui.outputJacobianSelector.currentNode(),
            outputRoundtrip=self.ui.outputRoundtripSelector.currentNode(),
            method=self.ui.methodComboBox.currentData,
            checkpoint=self.ui.checkpointPathLineEdit.currentPath,
            device=self.ui.deviceComboBox.currentData,
            affine=self.ui.affineComboBox.currentData,
        )

    def updateState(self, *_arguments: Any) -> None:
        """Enable what can be used, and let the Apply button say why it cannot be."""
        running = self._worker is not None
        for section in self.sections:
            section.updateState(running)
        parameters = self.parameters()
        for section in (
            self.ui.inputsCollapsibleButton,
            self.ui.methodCollapsibleButton,
            self.ui.outputsCollapsibleButton,
            self.ui.advancedCollapsibleButton,
        ):
            section.enabled = not running
        self.ui.methodComboBox.toolTip = get_method(parameters.method).summary
        self.ui.checkpointPathLineEdit.enabled = parameters.uses_checkpoint
        self.ui.checkpointLabel.enabled = parameters.uses_checkpoint
        self.ui.progressBar.visible = running
        if running:
            self.ui.applyButton.text = _("Cancel")
            self.ui.applyButton.toolTip = _("Stop the registration; the scene stays as it was.")
            self.ui.applyButton.enabled = True
            return
        problem = parameters.problem()
        self.ui.applyButton.text = _("Apply")
        self.ui.applyButton.toolTip = problem or _("Register the moving volume onto the fixed one.")
        self.ui.applyButton.enabled = problem is None

    # ------------------------------------------------------------------ running

    @property
    def running(self) -> bool:
        """Whether a registration is under way."""
        return self._worker is not None

    def onApplyButton(self, checked: bool = False) -> None:
        if self.running:
            self.cancel()
            return
        try:
            self.start()
        except CycleRegError as error:
            self._discard()
            self.fail(str(error))
        except Exception as error:
            logging.exception("CycleReg could not start")
            self._discard()
            self.fail(str(error))

    def start(self) -> None:
        """Start the registration that the panel shows; returns at once, see :meth:`waitForCompletion`."""
        parameters = self.parameters()
        problem = parameters.problem() or Environment.ensure()
        if problem:
            self.fail(problem)
            return
        self.say(_("Preparing the images"))
        with slicer.util.WaitCursor():
            self._exchange = Exchange(parameters)
            arguments = self._exchange.writeInputs()
        process = self.processFactory() if self.processFactory is not None else None
        self._worker = Worker(self._onProgress, self._onEnd, process)
        self.ui.progressBar.value = 0
        self.ui.checkpointPathLineEdit.addCurrentPathToHistory()
        self.updateState()
        self._worker.start(arguments)

    def cancel(self) -> None:
        """Stop a running registration; the scene and the disk are then as before."""
        if self._worker is not None:
            self._worker.cancel()

    def waitForCompletion(self, milliseconds: int = -1) -> None:
        """Block until the running registration has ended; for scripts and tests."""
        if self._worker is not None:
            self._worker.waitForFinished(milliseconds)

    def _onProgress(self, stage: str, percent: float) -> None:
        self.ui.progressBar.value = int(percent)
        self.say(stage)

    def _onEnd(self, outcome: str, message: str) -> None:
        if self._worker is not None and self._worker.log:
            logging.info("CycleReg: %s", self._worker.log)
        self._worker, self._endedWorker = None, self._worker
        try:
            if outcome == SUCCEEDED:
                with slicer.util.WaitCursor():
                    self._show(self._exchange)
                self.say(_("Done."))
            elif outcome == CANCELLED:
                self.say(_("Cancelled; the scene is as it was."))
            else:
                self.fail(message)
        except Exception as error:
            logging.exception("CycleReg could not load the result")
            self.fail(str(error))
        finally:
            self._discard()
            self.updateState()

    def _show(self, exchange: Exchange) -> None:
        """The result is complete: only now is the scene changed."""
        result = exchange.readResults()
        self.ui.outputTransformSelector.setCurrentNode(result.transform)
        Results.fill(self.ui.resultsTable, result.registration.summary())
        self.ui.resultsCollapsibleButton.visible = True
        for section in self.sections:
            section.onResult(result)

    def _discard(self) -> None:
        if self._exchange is not None:
            self._exchange.remove()
            self._exchange = None

    def say(self, text: str) -> None:
        """Show one line under the Apply button."""
        self.ui.statusLabel.text = text

    def fail(self, message: str) -> None:
        """One clear message; it stays in the panel after the pop-up was closed."""
        self.say(message)
        slicer.util.errorDisplay(message, windowTitle="CycleReg")
