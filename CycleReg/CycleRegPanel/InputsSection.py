"""Fixed and moving volume, masks and initial transform; guesses which volumes are meant, and offers sample data."""

from __future__ import annotations

from typing import Any

import qt
import slicer

from . import Environment
from .Host import _
from .Sample import SampleLoader
from .Section import Section
from .Volumes import isProxy

# Parts of names that tell which volume is which.
_FIXED_NAMES = ("fixed", "reference", "target", "portal", "venous", "baseline", "atlas", "template")
_MOVING_NAMES = ("moving", "floating", "source", "arterial", "delayed", "native", "unenhanced", "follow")


class InputsSection(Section):
    UI = "CycleRegInputs.ui"
    PLACE = "inputsCollapsibleButton"

    def setup(self) -> None:
        self._loader: SampleLoader | None = None
        # The last one is kept: its process must not be deleted while it is telling that it has ended.
        self._endedLoader: SampleLoader | None = None
        self.panel.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeAddedEvent, self._onNodeAdded)
        self.ui.sampleButton.connect("clicked(bool)", self.onSampleButton)

    def cleanup(self) -> None:
        self._cancelSample()

    def onSceneStartClose(self) -> None:
        self._cancelSample()

    def updateState(self, running: bool) -> None:
        self.ui.inputsCollapsibleButton.enabled = not running
        button, loading = self.ui.sampleButton, self._loader is not None
        button.visible = loading or not _volumes()
        button.text = _("Cancel") if loading else _("Load sample data")

    def onParameterNodeModified(self) -> None:
        node = self.parameterNode
        if node.fixedMask or node.movingMask or node.initialTransform:
            self.ui.optionalInputsCollapsibleButton.collapsed = False

    # ------------------------------------------------------------------ sample data

    def onSampleButton(self, checked: bool = False) -> None:
        """Make and load the sample pair; a second click cancels."""
        if self._loader is not None:
            self._cancelSample()
            return
        problem = Environment.ensure()
        if problem:
            self.panel.fail(problem)
            return
        process = self.panel.processFactory() if self.panel.processFactory is not None else None
        self._loader = SampleLoader(self._onSample, self._onSampleProgress, process)
        self._onSampleProgress("", 0.0)
        self.panel.updateState()
        self._loader.start()

    def _cancelSample(self) -> None:
        if self._loader is not None:
            self._loader.cancel()

    def _onSampleProgress(self, stage: str, percent: float) -> None:
        self.panel.say(_("Making the sample data: {percent:.0f} %").format(percent=percent))

    def _onSample(self, nodes: Any, message: str) -> None:
        self._loader, self._endedLoader = None, self._loader
        if nodes is not None:
            self.panel.say(_("The sample data are loaded. Press Apply."))
        elif message:
            self.panel.fail(message)
        else:
            self.panel.say(_("Cancelled; the scene is as it was."))
        self.panel.updateState()

    # ------------------------------------------------------------------ guesses

    def _onNodeAdded(self, caller: Any, event: Any) -> None:
        # A node that is being loaded gets its name and its image after it was added.
        qt.QTimer.singleShot(0, self.guess)

    def guess(self) -> None:
        """Fill what is empty of fixed and moving, from the volumes of the scene; what was chosen stays."""
        node = self.parameterNode
        if node is None:
            return
        self.updateState(self.panel.running)
        if self.panel.running or (node.fixedNode is not None and node.movingNode is not None):
            return
        taken = [node.fixedNode, node.movingNode, node.outputVolume, node.outputJacobian, node.outputRoundtrip]
        free = [volume for volume in _volumes() if volume not in taken]
        if node.fixedNode is None and free:
            likely = [volume for volume in free if _sounds(volume, _FIXED_NAMES)]
            unlikely = [volume for volume in free if _sounds(volume, _MOVING_NAMES)]
            rest = [volume for volume in free if volume not in unlikely]
            # A single volume that sounds like a moving one waits for its partner.
            if likely or rest or len(free) > 1:
                node.fixedNode = (likely or rest or free)[0]
                free.remove(node.fixedNode)
        if node.movingNode is None and node.fixedNode is not None and free:
            node.movingNode = ([volume for volume in free if _sounds(volume, _MOVING_NAMES)] or free)[0]


def _volumes() -> list[Any]:
    """Volumes that may be registered: grey, with an image, no label maps, no results, not driven by a sequence."""
    nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return [
        node
        for node in nodes
        if node.GetClassName() == "vtkMRMLScalarVolumeNode"
        and node.GetImageData() is not None
        and not node.GetHideFromEditors()
        and not node.GetAttribute("CycleReg.Result")
        and not isProxy(node)
    ]


def _sounds(node: Any, names: tuple[str, ...]) -> bool:
    return any(name in node.GetName().lower() for name in names)
