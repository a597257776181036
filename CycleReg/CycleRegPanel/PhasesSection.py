"""Several moving volumes onto one fixed volume, in one go."""

from __future__ import annotations

import dataclasses
from typing import Any

import qt
import slicer

from .Host import _
from .Parameters import Parameters
from .PhasesExchange import Phase, PhasesExchange
from .Section import Section

_EVENTS = ("NodeAddedEvent", "NodeRemovedEvent", "EndImportEvent", "EndCloseEvent")


class PhasesSection(Section):
    UI = "CycleRegPhases.ui"
    PLACE = "phasesCollapsibleButton"

    def setup(self) -> None:
        self._listed: list[tuple[str, Any]] = []
        self._showing = False
        self.ui.phasesList.connect("itemChanged(QListWidgetItem*)", self._onChecked)
        self.ui.phasesApplyButton.connect("clicked(bool)", self.onApplyButton)
        for event in _EVENTS:
            self.panel.addObserver(slicer.mrmlScene, getattr(slicer.mrmlScene, event), self._onNodes)

    def _onNodes(self, caller: Any = None, event: Any = None) -> None:
        # Names and images come after a node was added.
        qt.QTimer.singleShot(0, self.refresh)

    def onParameterNodeModified(self) -> None:
        self.refresh()

    def updateState(self, running: bool) -> None:
        for widget in (self.ui.phasesList, self.ui.phasesSequenceSelector, self.ui.phasesWarpedCheckBox):
            widget.enabled = not running
        problem = _("A registration is running.") if running else self.problem()
        self.ui.phasesApplyButton.enabled = problem is None
        self.ui.phasesApplyButton.toolTip = problem or _("Register every checked volume onto the fixed volume.")

    def refresh(self) -> None:
        """List the scene's volumes but the fixed one; those of the parameter set are checked."""
        node = self.parameterNode
        if node is None or self._showing:
            return
        volumes = [
            volume
            for volume in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
            if volume.GetClassName() == "vtkMRMLScalarVolumeNode"
            and volume is not node.fixedNode
            and not volume.GetHideFromEditors()
            and (not volume.GetAttribute("CycleReg.Result") or volume in list(node.phases))
        ]
        chosen = list(node.phases)
        self._showing = True
        try:
            listed = [(volume.GetName(), volume) for volume in volumes]
            if listed != self._listed:
                self._listed = listed
                self.ui.phasesList.clear()
                for name, _volume in listed:
                    item = qt.QListWidgetItem(name)
                    item.setFlags(item.flags() | qt.Qt.ItemIsUserCheckable)
                    item.setCheckState(qt.Qt.Unchecked)
                    self.ui.phasesList.addItem(item)
            for row, (_name, volume) in enumerate(listed):
                self.ui.phasesList.item(row).setCheckState(qt.Qt.Checked if volume in chosen else qt.Qt.Unchecked)
        finally:
            self._showing = False
        self.ui.phasesList.visible = bool(listed)
        self.updateState(self.panel.running)

    def _onChecked(self, *_arguments: Any) -> None:
        if self._showing or self.parameterNode is None:
            return
        self._showing = True
        try:
            items = [self.ui.phasesList.item(row) for row in range(len(self._listed))]
            self.parameterNode.phases = [
                volume
                for (_name, volume), item in zip(self._listed, items)
                if item.checkState() == qt.Qt.Checked and volume.GetScene() is not None
            ]
        finally:
            self._showing = False
        self.updateState(self.panel.running)

    def phases(self) -> list[Phase]:
        """The checked volumes, then the items of the sequence."""
        node = self.parameterNode
        found = [
            Phase(volume, volume.GetName())
            for volume in list(node.phases)
            if volume is not None and volume.GetScene() is not None and volume is not node.fixedNode
        ]
        sequence = node.phasesSequence
        if sequence is not None and sequence.GetScene() is not None:
            for number in range(sequence.GetNumberOfDataNodes()):
                item = sequence.GetNthDataNode(number)
                value = sequence.GetNthIndexValue(number)
                found.append(Phase(item, f"{sequence.GetName()} {value}"))
        return found

    def problem(self) -> str | None:
        """What keeps the phases from being registered; None when they can be."""
        if self.parameterNode is None:
            return _("The scene is being closed or loaded.")
        common = Parameters.of(self.parameterNode)
        if common.fixedNode is None:
            return _("Select a fixed volume.")
        phases = self.phases()
        if not phases:
            return _("Check the moving volumes, or select a sequence of volumes.")
        for phase in phases:
            if not phase.node.IsA("vtkMRMLScalarVolumeNode"):
                return _('"{name}" is no volume; select a sequence of volumes.').format(name=phase.name)
            problem = _of(common, phase).problem()
            if problem:
                return f"{phase.name}: {problem}"
        return None

    def onApplyButton(self, checked: bool = False) -> None:
        problem = self.problem()
        if problem:
            self.panel.fail(problem)
            return
        common = _of(Parameters.of(self.parameterNode), self.phases()[0])
        self.panel.run.start(PhasesExchange(common, self.phases(), self.parameterNode.phasesWarped))


def _of(common: Parameters, phase: Phase) -> Parameters:
    """The parameters of one phase: all outputs are new nodes, the moving mask belongs to another volume."""
    return dataclasses.replace(
        common,
        movingNode=phase.node,
        movingMask=None,
        outputTransform=None,
        outputInverseTransform=None,
        outputVolume=None,
        outputJacobian=None,
        outputRoundtrip=None,
    )
