"""Photographs of the panel: nothing is cut off, in narrow and wide panels, at 100 % and 150 %, light and dark."""

from __future__ import annotations

from typing import Any

import pytest
from measuring_cases import lists, register_known, tumors
from panel_cases import choose, choose_pair, host, slicer, write_results

from CycleRegLib import mrml

_FOLDS = ("optionalInputs", "expert", "carry", "log", "phases")


@pytest.mark.parametrize(("width", "font", "dark"), [(360, 1.0, False), (420, 1.5, True), (700, 1.0, True)])
def test_nothing_is_cut_off(panel, tmp_path, width, font, dark):
    """Every label, button, selector and table row has the room that it asks for, with everything unfolded."""
    with host.appearance(font, dark):
        choose_pair(panel)
        for name in _FOLDS:
            getattr(panel.ui, f"{name}CollapsibleButton").collapsed = False
        choose(panel.ui.methodComboBox, "voxelmorph2")
        host.photograph(panel.parent, tmp_path / "method.png", width)
        _check_room(panel)
        choose(panel.ui.methodComboBox, "preset:large")
        panel.ui.applyButton.click()
        panel.processes[0].say(b'{"stage": "optimize", "percent": 42}\n')
        host.photograph(panel.parent, tmp_path / "running.png", width)
        _check_room(panel)
        write_results(panel.processes[0])
        panel.processes[0].end()
        host.photograph(panel.parent, tmp_path / "done.png", width)
        _check_room(panel)
        table = panel.ui.resultsTable
        last = table.visualItemRect(table.item(table.rowCount - 1, 0))
        assert last.bottom() <= table.viewport().height()
        assert table.horizontalHeader().length() == table.viewport().width()


@pytest.mark.parametrize(("width", "font", "dark"), [(360, 1.0, True), (420, 1.5, False)])
def test_nothing_of_views_and_measurements_is_cut_off(panel, tmp_path, width, font, dark):
    """Landmarks, segments and figures shown, and once more with the lines of a tumour instead of segments."""
    with host.appearance(font, dark):
        for name in ("inputs", "method", "outputs"):
            getattr(panel.ui, f"{name}CollapsibleButton").collapsed = True
        for name in ("views", "measure"):
            getattr(panel.ui, f"{name}CollapsibleButton").collapsed = False
        done = register_known()
        volumes = [slicer.mrmlScene.GetFirstNodeByName(name) for name in "AB"]
        nodes = [*lists(), *tumors()]
        mrml.evaluate(*volumes, done.transform, *nodes, outputChart=True)
        for section in panel.sections:
            section.onResult(done)
        for name, node in zip(("FixedLandmarks", "MovingLandmarks", "FixedSegmentation", "MovingSegmentation"), nodes):
            getattr(panel.ui, f"measure{name}Selector").setCurrentNode(node)
        for kind in ("segments", "lines"):
            choose(panel.ui.measureTumorComboBox, kind)
            host.photograph(panel.parent, tmp_path / f"{kind}.png", width)
            _check_room(panel)
            for table, rows in ((panel.ui.measurePairsTable, 4), (panel.ui.measureTable, 7)):
                last = table.visualItemRect(table.item(rows - 1, 0))
                assert last.bottom() <= table.viewport().height()
                assert table.horizontalHeader().length() == table.viewport().width()


def _check_room(panel: Any) -> None:
    from PySide6 import QtWidgets

    kinds = (
        QtWidgets.QLabel,
        QtWidgets.QPushButton,
        QtWidgets.QComboBox,
        QtWidgets.QCheckBox,
        QtWidgets.QAbstractSpinBox,
    )
    checked = 0
    for widget in panel.parent.findChildren(QtWidgets.QWidget):
        if QtWidgets.QWidget.isVisible(widget) and isinstance(widget, kinds):
            needed, got = widget.minimumSizeHint(), QtWidgets.QWidget.size(widget)
            if isinstance(widget, QtWidgets.QLabel) and widget.wordWrap:
                needed.setHeight(widget.heightForWidth(got.width()))
            name = widget.objectName
            assert got.height() >= needed.height(), name
            assert got.width() >= needed.width(), name
            checked += 1
    assert checked > 25
