"""The figures about the chosen transform: tables that are shown, copied and saved, and the plot."""

from __future__ import annotations

from typing import Any

import qt
import slicer

from CycleRegLib.errors import CycleRegError
from CycleRegLib.node_roles import CHART_ROLE, TABLE_ROLES

from . import Environment
from .Host import _
from .MeasurePart import MeasurePart
from .TableWidget import fillTable


class MeasureTables(MeasurePart):
    """Shows what the scene holds about the transform, also of an earlier session."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self._filling = False

    def setup(self) -> None:
        ui = self.ui
        ui.measureTableComboBox.connect("currentIndexChanged(int)", self._fillTable)
        ui.measureCopyButton.connect("clicked(bool)", self.onCopyButton)
        ui.measureCsvButton.connect("clicked(bool)", self.onCsvButton)
        ui.measurePlotButton.connect("clicked(bool)", self.onPlotButton)
        ui.measureResultsWidget.visible = False

    def tables(self) -> dict[str, Any]:
        """The tables about the chosen transform that the scene holds."""
        transform = self.node("Transform")
        if transform is None:
            return {}
        found = {what: transform.GetNodeReference(role) for what, role in TABLE_ROLES.items()}
        return {what: node for what, node in found.items() if node is not None}

    def updateState(self, running: bool) -> None:
        ui, tables = self.ui, self.tables()
        titles = {
            "summary": _("Summary"),
            "landmarks": _("Landmarks"),
            "segments": _("Segments"),
            "tumor": _("Tumour"),
        }
        comboBox, chosen = ui.measureTableComboBox, ui.measureTableComboBox.currentData
        if [comboBox.itemData(i) for i in range(comboBox.count)] != list(tables):
            self._filling = True
            comboBox.clear()
            for what in tables:
                comboBox.addItem(titles[what], what)
            comboBox.setCurrentIndex(max(comboBox.findData(chosen), 0))
            self._filling = False
        ui.measureResultsWidget.visible = bool(tables)
        for button in (ui.measureCopyButton, ui.measureCsvButton):
            button.enabled = bool(tables)
        transform = self.node("Transform")
        chart = transform and transform.GetNodeReference(CHART_ROLE)
        ui.measurePlotButton.enabled = chart is not None
        ui.measurePlotButton.toolTip = (
            _("Show the errors of the landmarks before and after as a plot.")
            if chart is not None
            else _("Measure with landmarks first.")
        )
        self._fillTable()

    def _table(self) -> Any:
        return self.tables().get(self.ui.measureTableComboBox.currentData)

    def _fillTable(self, index: int = 0) -> None:
        if self._filling:
            return
        node = self._table()
        rows: list[list[Any]] = [[]]
        if node is not None and Environment.has_torch():
            from CycleRegLib.mrml import table_rows

            rows = table_rows(node)
        fillTable(self.ui.measureTable, rows[0], rows[1:])

    def onCopyButton(self, checked: bool = False) -> None:
        """The whole table at full precision, tabs between the cells, as spreadsheets take it."""
        from CycleRegLib.mrml import table_text

        qt.QApplication.clipboard().setText(table_text(self._table(), "\t"))
        self.say(_("The table is in the clipboard."))

    def onCsvButton(self, checked: bool = False) -> None:
        path = self.askCsvPath(self._table().GetName())
        if not path:
            return
        from CycleRegLib.mrml import write_table_csv

        try:
            write_table_csv(self._table(), path if path.lower().endswith(".csv") else f"{path}.csv")
            self.say(_("Saved {path}.").format(path=path))
        except (CycleRegError, OSError) as error:
            self.fail(str(error))

    def askCsvPath(self, name: str) -> str:
        """Where the user wants a table of that name; empty for nowhere."""
        return qt.QFileDialog.getSaveFileName(
            self.panel.parent, _("Save the table"), f"{name}.csv", _("Tables (*.csv)")
        )  # fmt: skip

    def onPlotButton(self, checked: bool = False) -> None:
        chart = self.node("Transform").GetNodeReference(CHART_ROLE)
        slicer.modules.plots.logic().ShowChartInLayout(chart)
