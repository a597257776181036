"""Widgets of CTK that tell less than the host's stand-ins: the panel follows them all the same."""

from __future__ import annotations

from typing import Any

import pytest
from panel_cases import choose, choose_pair, host, open_panel, slicer
from PySide6 import QtCore, QtGui, QtWidgets


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


@pytest.fixture
def panel(application, tmp_path, monkeypatch):
    """The open panel with that line for the checkpoint."""
    from host import widgets

    monkeypatch.setitem(widgets.CTK, "ctkPathLineEdit", widgets.with_manners(ctkPathLineEdit))
    slicer.mrmlScene.Clear(0)
    monkeypatch.setattr(slicer.app, "temporaryPath", str(tmp_path))
    widget = open_panel(monkeypatch)
    yield widget
    widget.cleanup()
    widget.parent.deleteLater()
    host.process_events_until(lambda: True)


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
