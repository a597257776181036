"""Where the result goes, and what is carried along with the moving volume."""

from __future__ import annotations

from typing import Any

import qt
import slicer

from CycleRegLib.belonging import CARRIED, belongs_to
from CycleRegLib.errors import CycleRegError

from .Host import _
from .Section import Section

_CARRIED = ("vtkMRMLSegmentationNode", "vtkMRMLMarkupsNode")


class OutputsSection(Section):
    UI = "CycleRegOutputs.ui"
    PLACE = "outputsCollapsibleButton"

    def setup(self) -> None:
        self._listed: list[Any] = []
        self._moving: Any = None
        self.ui.carryList.visible = False
        self.ui.carryButton.connect("clicked(bool)", self.onCarryButton)
        self.ui.carryList.connect("itemChanged(QListWidgetItem*)", self._updateButton)
        self.ui.carryCollapsibleButton.connect("contentsCollapsed(bool)", self.refresh)

    def onParameterNodeModified(self) -> None:
        self.refresh()

    def updateState(self, running: bool) -> None:
        self.ui.outputsCollapsibleButton.enabled = not running
        self._updateButton()

    def onSceneEndClose(self) -> None:
        self.refresh()

    def onResult(self, result: Any) -> None:
        node = self.parameterNode
        moving = node.movingNode if node is not None and node.showMoving else None
        if moving is not None and moving.GetScene() is not None:
            from CycleRegLib.mrml import show_under

            if moving.GetParentTransformNode() is not result.transform:
                show_under(moving, result.transform)
        self.refresh()

    def refresh(self, *_arguments: Any) -> None:
        """List the segmentations and markups of the scene; those of the moving volume are checked."""
        node = self.parameterNode
        moving = None if node is None else node.movingNode
        found = [one for kind in _CARRIED for one in slicer.util.getNodesByClass(kind)]
        found = [one for one in found if not one.GetHideFromEditors() and not one.GetAttribute(CARRIED)]
        if found == self._listed and moving is self._moving:
            return
        self._listed, self._moving = found, moving
        self.ui.carryList.clear()
        for one in found:
            item = qt.QListWidgetItem(one.GetName())
            item.setFlags(item.flags() | qt.Qt.ItemIsUserCheckable)
            item.setCheckState(qt.Qt.Checked if belongs_to(one, moving) else qt.Qt.Unchecked)
            self.ui.carryList.addItem(item)
        self.ui.carryList.visible = bool(found)
        self._updateButton()

    def checked(self) -> list[Any]:
        """The nodes that are checked and still there."""
        items = [self.ui.carryList.item(row) for row in range(len(self._listed))]
        return [
            node
            for node, item in zip(self._listed, items)
            if item.checkState() == qt.Qt.Checked and node.GetScene() is not None
        ]

    def problem(self) -> str | None:
        """Why nothing can be carried along; None when it can."""
        if self.panel.running:
            return _("A registration is running.")
        node = self.parameterNode
        transform = None if node is None else node.outputTransform
        if transform is None or transform.GetScene() is None or transform.GetTransformFromParent() is None:
            return _("Register first, or select a transform that holds a result.")
        if not self._listed:
            return _("The scene holds no segmentation and no markups to carry along.")
        if not self.checked():
            return _("Check a segmentation or markups that belong to the moving volume.")
        return None

    def onCarryButton(self, checked: bool = False) -> None:
        from CycleRegLib.mrml.carry import carry_along

        problem = self.problem()
        if problem:
            self.panel.fail(problem)
            return
        node = self.parameterNode
        fixed = _("fixed") if node.fixedNode is None else node.fixedNode.GetName()
        try:
            made = []
            for one in self.checked():
                copy = carry_along(one, node.outputTransform, f"{one.GetName()} on {fixed}")
                copy.SetAttribute(CARRIED, one.GetID())
                made.append(copy.GetName())
        except CycleRegError as error:
            self.panel.fail(str(error))
            return
        self.panel.say(_("Carried along: {names}.").format(names=", ".join(made)))

    def _updateButton(self, *_arguments: Any) -> None:
        problem = self.problem()
        self.ui.carryButton.enabled = problem is None
        self.ui.carryButton.toolTip = problem or _(
            "Copy what is checked and put the copies under the transform; the originals stay as they are."
        )
