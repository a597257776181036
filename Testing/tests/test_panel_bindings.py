"""Widgets that tell more or less than the host's stand-ins, as those of CTK and Slicer do; the panel copes.

A path line of CTK's is silent about paths that its filters do not match.  A node selector of Slicer's takes the next
node when its own is removed, and lists all nodes anew when a scene was loaded, which leaves it without a node.
"""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import shiboken6
import vtk
from panel_cases import add_volume, choose, choose_pair, host, open_panel, slicer
from PySide6 import QtCore, QtGui, QtWidgets

widgets = host.widgets


class ctkPathLineEdit(QtWidgets.QWidget):
    """As CTK's: an editable combo box with a history, which tells only of paths that match the name filters."""

    currentPathChanged = QtCore.Signal(str)
    validInputChanged = QtCore.Signal(bool)

    def __init__(self, parent: Any = None) -> None:
        import qt

        super().__init__(parent)
        self._box = qt.QComboBox(self)
        self._box.setEditable(True)
        self._box.setInsertPolicy(QtWidgets.QComboBox.NoInsert)
        # CTK passes over "All files (*)".
        pattern = QtCore.QRegularExpression(r"(.*\.safetensors?|.*\.pth?|.*\.pt?)")
        self._box.lineEdit().setValidator(QtGui.QRegularExpressionValidator(pattern, self))
        self._box.lineEdit().textChanged.connect(self._tell)

    def _tell(self, path: str) -> None:
        if self._box.lineEdit().hasAcceptableInput():
            self.currentPathChanged.emit(path)

    currentPath = QtCore.Property(
        str, lambda self: self._box.lineEdit().text(), lambda self, path: self._box.lineEdit().setText(path)
    )

    def addCurrentPathToHistory(self) -> None:
        path = self._box.lineEdit().text()
        index = self._box.findText(path)
        if index >= 0:
            self._box.removeItem(index)
        self._box.insertItem(0, path)
        self._box.setCurrentIndex(0)


class qMRMLNodeComboBox(widgets.qMRMLNodeComboBox):
    """As Slicer's, whose model of the scene follows it after the others (with VTK's priority -10)."""

    def setMRMLScene(self, scene: Any) -> None:
        super().setMRMLScene(scene)
        me = weakref.ref(self)

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def removing(caller: Any, event: Any, node: Any) -> None:
            selector = me()
            if selector is not None and shiboken6.isValid(selector) and selector.currentNode() is node:
                index, count = selector._index(), QtWidgets.QComboBox.count(selector)
                selector.setCurrentIndex(index + 1 if index + 1 < count else index - 1)

        def imported(*_: Any) -> None:
            selector = me()
            if selector is not None and shiboken6.isValid(selector):
                selector.setCurrentIndex(0)

        self._observations += [
            scene.AddObserver(scene.NodeAboutToBeRemovedEvent, removing, -10.0),
            scene.AddObserver(scene.EndImportEvent, imported),
        ]

    def _index(self) -> int:
        return QtWidgets.QComboBox.currentIndex(self)


@pytest.fixture
def panel(application, tmp_path, monkeypatch):
    """The open panel with these widgets."""
    monkeypatch.setitem(widgets.SLICER, "qMRMLNodeComboBox", widgets.with_manners(qMRMLNodeComboBox))
    monkeypatch.setitem(widgets.CTK, "ctkPathLineEdit", widgets.with_manners(ctkPathLineEdit))
    slicer.mrmlScene.Clear(0)
    monkeypatch.setattr(slicer.app, "temporaryPath", str(tmp_path))
    widget = open_panel(monkeypatch)
    yield widget
    widget.cleanup()
    widget.parent.deleteLater()


def test_a_checkpoint_can_be_taken_back(panel):
    line = panel.ui.checkpointPathLineEdit
    line.currentPath = "/somewhere/weights.pth"
    assert panel.parameterNode.checkpoint == "/somewhere/weights.pth"
    line.currentPath = ""
    assert panel.parameterNode.checkpoint == ""
    # Whatever else changes, the path does not come back.
    panel.parameterNode.organSlices = True
    assert line.currentPath == ""


def test_a_path_that_no_filter_matches_is_taken_too(panel):
    panel.ui.checkpointPathLineEdit.currentPath = "/somewhere/weights.bin"
    assert panel.parameterNode.checkpoint == "/somewhere/weights.bin"


def test_the_history_is_not_a_choice(panel, tmp_path):
    paths = [str(tmp_path / f"{name}.pth") for name in ("first", "second")]
    for path in paths:
        open(path, "wb").close()
    line = panel.ui.checkpointPathLineEdit
    for path in paths:
        line.currentPath = path
        line.addCurrentPathToHistory()
    choose_pair(panel)
    choose(panel.ui.methodComboBox, "cyclemorph")
    seen = set()
    tag = panel.parameterNode.AddObserver("ModifiedEvent", lambda *_: seen.add(panel.parameterNode.checkpoint))
    panel.ui.applyButton.click()
    panel.parameterNode.RemoveObserver(tag)
    assert panel.processes[0].option("--checkpoint") == paths[1]
    assert seen <= {paths[1]}
    assert panel.parameterNode.checkpoint == line.currentPath == paths[1]


class TestRemoval:
    def test_no_volume_takes_the_place_of_one_that_was_removed(self, panel):
        fixed, moving = choose_pair(panel)
        add_volume("Third")
        slicer.mrmlScene.RemoveNode(moving)
        assert panel.parameterNode.movingNode is None
        assert panel.ui.movingSelector.currentNode() is None
        assert panel.parameterNode.fixedNode is fixed

    def test_no_volume_is_overwritten_in_place_of_an_output_that_was_removed(self, panel):
        choose_pair(panel)
        warped = add_volume("Warped")
        add_volume("Third")
        panel.ui.outputVolumeSelector.setCurrentNode(warped)
        slicer.mrmlScene.RemoveNode(warped)
        assert panel.parameterNode.outputVolume is None
        assert panel.ui.outputVolumeSelector.currentNode() is None


def test_choices_survive_a_scene_that_is_added(panel):
    fixed, moving = choose_pair(panel)
    scene = slicer.mrmlScene
    scene.StartState(scene.ImportState)
    assert panel.parameterNode is None
    assert not panel.ui.applyButton.enabled
    add_volume("Third")
    scene.EndState(scene.ImportState)
    assert panel.parameterNode.fixedNode is fixed
    assert panel.parameterNode.movingNode is moving
    assert panel.ui.fixedSelector.currentNode() is fixed
    assert panel.ui.applyButton.enabled
