"""The part of the panel that measures a registration; figures, tables, plot and lines come from ``CycleRegLib``."""

from __future__ import annotations

import logging
import os
import re
from typing import Any

import qt
import slicer

from CycleRegLib.errors import CycleRegError
from CycleRegLib.node_roles import CHART_ROLE, TABLE_ROLES

from . import Environment
from .Host import _
from .MeasureExchange import MeasureExchange
from .Section import Section
from .Worker import CANCELLED, SUCCEEDED, Worker

_TUMOR_NAME = re.compile(r"tumou?r|lesion", re.IGNORECASE)
_MOST_ROWS = 11
_UNLIMITED = 16777215  # Qt's own largest size
SEGMENTS, LINES = "segments", "lines"
_SELECTORS = (
    "Transform",
    "FixedLandmarks",
    "MovingLandmarks",
    "FixedSegmentation",
    "MovingSegmentation",
    "FixedLong",
    "FixedShort",
    "MovingLong",
    "MovingShort",
)


class MeasureSection(Section):
    """Landmarks, segments and tumours of a registration: chosen, paired, measured in a child process, shown."""

    UI = "CycleRegMeasure.ui"
    PLACE = "measureCollapsibleButton"

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self._worker: Worker | None = None
        # The last one is kept: its process must not be deleted while it is telling that it has ended.
        self._endedWorker: Worker | None = None
        self._exchange: MeasureExchange | None = None
        self._pairs: Any = None
        self._pairsProblem = ""
        self._pairsOf: tuple[Any, ...] = ()
        self._report = ""
        self._filling = False
        self._shownSegments: Any = None

    # ------------------------------------------------------------------ life cycle

    def setup(self) -> None:
        ui = self.ui
        for key, title in ((SEGMENTS, _("Segments")), (LINES, _("Lines drawn by hand"))):
            ui.measureTumorComboBox.addItem(title, key)
        for name in ("measureTransform", "measureFixedLandmarks", "measureMovingLandmarks"):
            getattr(ui, f"{name}Selector").connect("currentNodeChanged(vtkMRMLNode*)", self._onLandmarks)
        for name in ("measureFixedSegmentation", "measureMovingSegmentation"):
            getattr(ui, f"{name}Selector").connect("currentNodeChanged(vtkMRMLNode*)", self._onSegmentation)
        for name in _SELECTORS:
            getattr(ui, f"measure{name}Selector").connect("currentNodeChanged(vtkMRMLNode*)", self._onChoice)
        ui.measureSegmentsList.connect("itemChanged(QListWidgetItem*)", self._onSegmentTicked)
        ui.measureTumorComboBox.connect("currentIndexChanged(int)", self._onTumorKind)
        for side in ("Fixed", "Moving"):
            getattr(ui, f"measure{side}TumorComboBox").connect("currentIndexChanged(int)", self._onTumor)
        ui.measurePairsTable.connect("itemSelectionChanged()", self._onChoice)
        ui.measurePairsTable.connect("cellDoubleClicked(int,int)", self.showPair)
        ui.measureJumpButton.connect("clicked(bool)", self._onJumpButton)
        ui.measureButton.connect("clicked(bool)", self.onMeasureButton)
        ui.measureReportButton.connect("clicked(bool)", self.onReportButton)
        ui.measureTableComboBox.connect("currentIndexChanged(int)", self._fillTable)
        ui.measureCopyButton.connect("clicked(bool)", self.onCopyButton)
        ui.measureCsvButton.connect("clicked(bool)", self.onCsvButton)
        ui.measurePlotButton.connect("clicked(bool)", self.onPlotButton)
        ui.measureProgressBar.visible = False
        ui.measureResultsWidget.visible = False
        self._fillPairs()
        self._fillSegments()
        self._showTumorKind()

    def onParameterNodeModified(self) -> None:
        self._fillSegments()
        self._showTumorKind()

    def updateState(self, running: bool) -> None:
        ui, measuring = self.ui, self.measuring
        for group in (
            ui.measureTransformWidget,
            ui.measureLandmarksGroupBox,
            ui.measureSegmentsGroupBox,
            ui.measureTumorGroupBox,
        ):
            group.enabled = not measuring
        ui.measureProgressBar.visible = measuring
        problem = _("A registration is running; wait until it is done.") if running else self.problem()
        ui.measureButton.text = _("Cancel") if measuring else _("Measure")
        ui.measureButton.enabled = measuring or problem is None
        ui.measureButton.toolTip = (
            _("Stop measuring; the scene stays as it was.") if measuring else problem or _("Measure the registration.")
        )
        ui.measureReportButton.enabled = not measuring and problem is None
        ui.measureReportButton.toolTip = problem or _(
            "Measure, and write a page with all figures and pictures (HTML) into a folder."
        )
        row = ui.measurePairsTable.currentRow()
        ui.measureJumpButton.enabled = self._pairs is not None and row >= 0
        ui.measureJumpButton.toolTip = (
            _("Centre the slice views on the selected pair: the fixed point, and in the view of the moving image the "
              "moving one.")
            if ui.measureJumpButton.enabled
            else _("Select a pair in the table.")
        )  # fmt: skip
        self._showTables()

    def onResult(self, result: Any) -> None:
        if result.transform is not None:
            self.ui.measureTransformSelector.setCurrentNode(result.transform)

    def onSceneStartClose(self) -> None:
        self.cancel()

    def onSceneEndClose(self) -> None:
        self._fillPairs()
        self._fillSegments()
        self.ui.measureStatusLabel.text = ""

    def cleanup(self) -> None:
        self.cancel()

    # ------------------------------------------------------------------ choices

    def _node(self, what: str) -> Any:
        return getattr(self.ui, f"measure{what}Selector").currentNode()

    def _volumes(self) -> tuple[Any, Any]:
        """The fixed and the moving volume: those that the transform knows, else those of the parameter set."""
        transform, base, node = self._node("Transform"), slicer.vtkMRMLTransformNode, self.parameterNode
        fixed = transform.GetNodeReference(base.GetFixedNodeReferenceRole()) or (node and node.fixedNode)
        moving = transform.GetNodeReference(base.GetMovingNodeReferenceRole()) or (node and node.movingNode)
        return fixed, moving

    def problem(self) -> str | None:
        """What keeps the registration from being measured, for the user; None when it can be measured."""
        transform = self._node("Transform")
        if transform is None:
            return _("Select the transform of a registration.")
        for node, side in zip(self._volumes(), (_("fixed"), _("moving"))):
            if node is None:
                return _('"{name}" does not know its {side} volume; select it under Inputs.').format(
                    name=transform.GetName(), side=side
                )
        for fixed, moving, what in (
            ("FixedLandmarks", "MovingLandmarks", _("landmarks")),
            ("FixedSegmentation", "MovingSegmentation", _("segmentations")),
        ):
            if (self._node(fixed) is None) != (self._node(moving) is None):
                return _("Select {what} of both images, or none.").format(what=what)
        if self._pairsProblem:
            return self._pairsProblem
        if self._tumorByLines:
            if (self._node("FixedLong") is None) != (self._node("MovingLong") is None):
                return _("Select the long diameter in both images, or none.")
            for side in ("Fixed", "Moving"):
                if self._node(f"{side}Short") is not None and self._node(f"{side}Long") is None:
                    return _("Select the long diameters, too.")
            if (self._node("FixedShort") is None) != (self._node("MovingShort") is None):
                return _("Select the short diameter in both images, or none.")
        else:
            chosen = [getattr(self.ui, f"measure{side}TumorComboBox").currentData for side in ("Fixed", "Moving")]
            if bool(chosen[0]) != bool(chosen[1]):
                return _("Select the tumour in both segmentations, or none.")
        if self._node("FixedSegmentation") is not None and not self._ticked() and not self._tumorSegments():
            return _("Tick a segment that both segmentations have, or select the tumour in both.")
        return None

    @property
    def _tumorByLines(self) -> bool:
        return self.ui.measureTumorComboBox.currentData == LINES

    def _onChoice(self, *_arguments: Any) -> None:
        self.panel.updateState()

    # ------------------------------------------------------------------ landmarks

    def _onLandmarks(self, *_arguments: Any) -> None:
        self._fillPairs()

    def onPointsChanged(self, caller: Any = None, event: Any = None) -> None:
        """A point was placed, moved, renamed or removed."""
        self._fillPairs()
        self.panel.updateState()

    def _observe(self, nodes: tuple[Any, ...]) -> None:
        for node in self._pairsOf:
            for event in _point_events():
                self.panel.removeObserver(node, event, self.onPointsChanged)
        self._pairsOf = tuple(node for node in nodes if node is not None)
        for node in self._pairsOf:
            for event in _point_events():
                self.panel.addObserver(node, event, self.onPointsChanged)

    def _fillPairs(self) -> None:
        """Show which points belong together, and what is known of their errors."""
        nodes = self._node("FixedLandmarks"), self._node("MovingLandmarks")
        if tuple(node for node in nodes if node is not None) != self._pairsOf:
            self._observe(nodes)
        self._pairs, self._pairsProblem, note = None, "", ""
        if None not in nodes:
            if Environment.has_torch():
                from CycleRegLib.mrml import pair_landmarks

                try:
                    self._pairs = pair_landmarks(*nodes, self._node("Transform"))
                    note = " ".join(self._pairs.notes)
                except CycleRegError as error:
                    self._pairsProblem = note = str(error)
            else:
                note = _("The pairs are shown when PyTorch is installed; Measure offers it.")
        self._fillPairsTable()
        self.ui.measurePairsLabel.text = note
        self.ui.measurePairsLabel.visible = bool(note)

    def _fillPairsTable(self) -> None:
        table, labels = self.ui.measurePairsTable, self._pairs.labels if self._pairs is not None else []
        errors = self._errors()
        rows = [[label, *errors.get(label, ["", ""])] for label in labels]
        _fill(table, [_("Landmark"), _("Before (mm)"), _("After (mm)")], rows)
        table.visible = bool(labels)
        self.ui.measureJumpButton.visible = bool(labels)

    def _errors(self) -> dict[str, list[Any]]:
        """The errors of the last measuring, by landmark."""
        transform = self._node("Transform")
        table = transform and transform.GetNodeReference(TABLE_ROLES["landmarks"])
        if table is None or not Environment.has_torch():
            return {}
        from CycleRegLib.mrml import table_rows

        return {row[0]: row[1:] for row in table_rows(table)[1:]}

    def _onJumpButton(self, checked: bool = False) -> None:
        self.showPair(self.ui.measurePairsTable.currentRow())

    def showPair(self, row: int, column: int = 0) -> None:
        """Centre the slice views on a pair of the table."""
        if self._pairs is None or not 0 <= row < len(self._pairs):
            return
        from CycleRegLib.mrml import jump_to_pair, views

        moving = {}
        if views.is_arranged(slicer.mrmlScene):
            moving[views.MOVING] = views.slice_views(slicer.mrmlScene)[views.MOVING]
        jump_to_pair(slicer.mrmlScene, self._pairs, row, moving)

    # ------------------------------------------------------------------ segments and tumour

    def _onSegmentation(self, *_arguments: Any) -> None:
        self._fillSegments()

    def _names(self, side: str) -> list[str]:
        node = self._node(f"{side}Segmentation")
        if node is None:
            return []
        segmentation = node.GetSegmentation()
        return [segmentation.GetNthSegment(i).GetName() for i in range(segmentation.GetNumberOfSegments())]

    def _fillSegments(self) -> None:
        """List what both segmentations have, and offer each one's segments as the tumour."""
        ui, names = self.ui, {side: self._names(side) for side in ("Fixed", "Moving")}
        node = self.parameterNode
        left_out = set(node.measureSegmentsLeftOut) if node is not None else set()
        wanted = {side: getattr(node, f"measure{side}Tumor") if node is not None else "" for side in names}
        # A list must not be filled anew while it tells that an item was ticked.
        if (names, left_out, wanted) == self._shownSegments:
            return
        self._shownSegments = (names, left_out, wanted)
        self._filling = True
        ui.measureSegmentsList.clear()
        for name in names["Fixed"]:
            if name in names["Moving"]:
                item = qt.QListWidgetItem(name)
                item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable | qt.Qt.ItemIsUserCheckable)
                item.setCheckState(qt.Qt.Unchecked if name in left_out else qt.Qt.Checked)
                ui.measureSegmentsList.addItem(item)
        for side, offered in names.items():
            comboBox = getattr(ui, f"measure{side}TumorComboBox")
            # "" is nobody's choice yet; "-" is the choice of none.
            chosen = wanted[side] or next((name for name in offered if _TUMOR_NAME.search(name)), "-")
            comboBox.clear()
            comboBox.addItem(_("None"), "")
            for name in offered:
                comboBox.addItem(name, name)
            comboBox.setCurrentIndex(max(comboBox.findData(chosen), 0))
        ui.measureSegmentsList.visible = ui.measureSegmentsListLabel.visible = ui.measureSegmentsList.count > 0
        self._filling = False

    def _ticked(self) -> list[str]:
        items = [self.ui.measureSegmentsList.item(i) for i in range(self.ui.measureSegmentsList.count)]
        return [item.text() for item in items if item.checkState() == qt.Qt.Checked]

    def _onSegmentTicked(self, item: Any = None) -> None:
        if self._filling:
            return
        ticked = self._ticked()
        items = [self.ui.measureSegmentsList.item(i).text() for i in range(self.ui.measureSegmentsList.count)]
        self._keep(measureSegmentsLeftOut=[name for name in items if name not in ticked])

    def _onTumor(self, index: int = 0) -> None:
        if not self._filling:
            boxes = {side: getattr(self.ui, f"measure{side}TumorComboBox") for side in ("Fixed", "Moving")}
            self._keep(**{f"measure{side}Tumor": box.currentData or "-" for side, box in boxes.items()})

    def _keep(self, **choices: Any) -> None:
        """Write what the user chose into the parameter set; the widgets show it already."""
        names, left_out, wanted = self._shownSegments
        left_out = set(choices.get("measureSegmentsLeftOut", left_out))
        wanted = {side: choices.get(f"measure{side}Tumor", value) for side, value in wanted.items()}
        self._shownSegments = (names, left_out, wanted)
        for field, value in choices.items():
            if self.parameterNode is not None and self.parameterNode.getValue(field) != value:
                self.parameterNode.setValue(field, value)
        self.panel.updateState()

    def _onTumorKind(self, index: int = 0) -> None:
        self._showTumorKind()
        self.panel.updateState()

    def _showTumorKind(self) -> None:
        self.ui.measureTumorLinesWidget.visible = self._tumorByLines
        self.ui.measureTumorSegmentsWidget.visible = not self._tumorByLines

    def _tumorSegments(self) -> tuple[str, str] | None:
        if self._tumorByLines:
            return None
        names = [getattr(self.ui, f"measure{side}TumorComboBox").currentData for side in ("Fixed", "Moving")]
        return (names[0], names[1]) if all(names) else None

    # ------------------------------------------------------------------ measuring

    @property
    def measuring(self) -> bool:
        """Whether a child process is measuring."""
        return self._worker is not None

    def onMeasureButton(self, checked: bool = False) -> None:
        if self.measuring:
            self.cancel()
        else:
            self.measure()

    def onReportButton(self, checked: bool = False) -> None:
        folder = qt.QFileDialog.getExistingDirectory(self.panel.parent, _("Folder for the report"))
        if folder:
            self.measure(folder)

    def measure(self, report: str = "") -> None:
        """Measure what the panel shows; returns at once, see :meth:`waitForCompletion`.

        ``report`` is a folder for ``report.html``, or empty for none.
        """
        try:
            problem = self.problem() or Environment.ensure()
            if problem:
                self._fail(problem)
                return
            self._say(_("Reading the nodes"))
            with slicer.util.WaitCursor():
                self._exchange = MeasureExchange(self._prepare())
                arguments = self._exchange.writeInputs(report)
        except CycleRegError as error:
            self._discard()
            self._fail(str(error))
            return
        except Exception as error:
            logging.exception("CycleReg could not start measuring")
            self._discard()
            self._fail(str(error))
            return
        self._report = report
        process = self.panel.processFactory() if self.panel.processFactory is not None else None
        self._worker = Worker(self._onProgress, self._onEnd, process)
        self.ui.measureProgressBar.value = 0
        self.panel.updateState()
        self._worker.start(arguments)

    def _prepare(self) -> Any:
        from CycleRegLib import mrml

        fixed, moving = self._volumes()
        given: dict[str, Any] = {
            "fixedLandmarks": self._node("FixedLandmarks"),
            "movingLandmarks": self._node("MovingLandmarks"),
            "fixedSegmentation": self._node("FixedSegmentation"),
            "movingSegmentation": self._node("MovingSegmentation"),
        }
        if given["fixedSegmentation"] is not None:
            given["segments"] = self._ticked()
        tumor = self._tumorSegments()
        if tumor is not None:
            given["tumorSegment"], given["movingTumorSegment"] = tumor
        if self._tumorByLines and self._node("FixedLong") is not None:
            for side in ("fixed", "moving"):
                lines = (self._node(f"{side.capitalize()}{length}") for length in ("Long", "Short"))
                given[f"{side}TumorLines"] = mrml.TumorLines(*lines)
        outputs = {"chart": True, "diameters": True}
        return mrml.prepare_evaluation(fixed, moving, self._node("Transform"), outputs=outputs, **given)

    def cancel(self) -> None:
        """Stop measuring; the scene and the disk are then as before."""
        if self._worker is not None:
            self._worker.cancel()

    def waitForCompletion(self, milliseconds: int = -1) -> None:
        """Block until measuring has ended; for scripts and tests."""
        if self._worker is not None:
            self._worker.waitForFinished(milliseconds)

    def _onProgress(self, stage: str, percent: float) -> None:
        self.ui.measureProgressBar.value = int(percent)
        self._say(stage)

    def _onEnd(self, outcome: str, message: str) -> None:
        if self._worker is not None and self._worker.log:
            logging.info("CycleReg: %s", self._worker.log)
        self._worker, self._endedWorker = None, self._worker
        try:
            if outcome == SUCCEEDED:
                with slicer.util.WaitCursor():
                    self._show(self._exchange.readResults())
            elif outcome == CANCELLED:
                self._say(_("Cancelled; the scene is as it was."))
            else:
                self._fail(message)
        except CycleRegError as error:
            self._fail(str(error))
        except Exception as error:
            logging.exception("CycleReg could not load the figures")
            self._fail(str(error))
        finally:
            self._discard()
            self.panel.updateState()

    def _show(self, measured: Any) -> None:
        # What there is to say belongs to the figures, and is one line.
        self._say(" ".join([_("Done."), *measured.evaluation.get("warnings", [])]))
        self._fillPairsTable()
        if self._report:
            self.openReport(os.path.join(self._report, "report.html"))

    def openReport(self, path: str) -> None:
        """Open the page in the user's browser."""
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(path))

    def _discard(self) -> None:
        if self._exchange is not None:
            self._exchange.remove()
            self._exchange = None

    def _say(self, text: str) -> None:
        self.ui.measureStatusLabel.text = text
        self.ui.measureStatusLabel.visible = bool(text)

    def _fail(self, message: str) -> None:
        self._say(message)
        self.panel.fail(message)

    # ------------------------------------------------------------------ tables

    def _tables(self) -> dict[str, Any]:
        """The tables about the chosen transform that the scene holds."""
        transform = self._node("Transform")
        if transform is None:
            return {}
        found = {what: transform.GetNodeReference(role) for what, role in TABLE_ROLES.items()}
        return {what: node for what, node in found.items() if node is not None}

    def _showTables(self) -> None:
        ui, tables = self.ui, self._tables()
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
        transform = self._node("Transform")
        chart = transform and transform.GetNodeReference(CHART_ROLE)
        ui.measurePlotButton.enabled = chart is not None
        ui.measurePlotButton.toolTip = (
            _("Show the errors of the landmarks before and after as a plot.")
            if chart is not None
            else _("Measure with landmarks first.")
        )
        self._fillTable()

    def _table(self) -> Any:
        return self._tables().get(self.ui.measureTableComboBox.currentData)

    def _fillTable(self, index: int = 0) -> None:
        if self._filling:
            return
        node = self._table()
        rows: list[list[Any]] = [[]]
        if node is not None and Environment.has_torch():
            from CycleRegLib.mrml import table_rows

            rows = table_rows(node)
        _fill(self.ui.measureTable, rows[0], rows[1:])

    def onCopyButton(self, checked: bool = False) -> None:
        """The whole table at full precision, tabs between the cells, as spreadsheets take it."""
        from CycleRegLib.mrml import table_text

        qt.QApplication.clipboard().setText(table_text(self._table(), "\t"))
        self._say(_("The table is in the clipboard."))

    def onCsvButton(self, checked: bool = False) -> None:
        path = self.askCsvPath(self._table().GetName())
        if not path:
            return
        from CycleRegLib.mrml import write_table_csv

        try:
            write_table_csv(self._table(), path if path.lower().endswith(".csv") else f"{path}.csv")
            self._say(_("Saved {path}.").format(path=path))
        except (CycleRegError, OSError) as error:
            self._fail(str(error))

    def askCsvPath(self, name: str) -> str:
        """Where the user wants a table of that name; empty for nowhere."""
        return qt.QFileDialog.getSaveFileName(
            self.panel.parent, _("Save the table"), f"{name}.csv", _("Tables (*.csv)")
        )  # fmt: skip

    def onPlotButton(self, checked: bool = False) -> None:
        chart = self._node("Transform").GetNodeReference(CHART_ROLE)
        slicer.modules.plots.logic().ShowChartInLayout(chart)


def _point_events() -> list[int]:
    markups = slicer.vtkMRMLMarkupsNode
    return [
        markups.PointPositionDefinedEvent,
        markups.PointPositionUndefinedEvent,
        markups.PointRemovedEvent,
        markups.PointEndInteractionEvent,
    ]


def _figure(value: float | None) -> str:
    """A number for reading; the tables hold it in full."""
    if value is None:
        return "-"
    if 0 < abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"


def _fill(table: Any, heads: list[str], rows: list[list[Any]]) -> None:
    """Show rows in a ``QTableWidget``, figures to the right; about ten rows at once."""
    table.setColumnCount(len(heads))
    table.setHorizontalHeaderLabels(heads)
    table.setRowCount(len(rows))
    for number, row in enumerate(rows):
        for column, cell in enumerate(row):
            text = cell if isinstance(cell, str) else _figure(cell)
            item = qt.QTableWidgetItem(text)
            item.setToolTip(f"{heads[column]}: {text}")
            if not isinstance(cell, str):
                item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            table.setItem(number, column, item)
    header = table.horizontalHeader()
    header.setHighlightSections(False)
    for column in range(len(heads)):
        mode = qt.QHeaderView.ResizeToContents if column else qt.QHeaderView.Stretch
        header.setSectionResizeMode(column, mode)
    table.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
    # As high as its rows (see the .ui file), until there are too many of them.
    table.setMaximumHeight(_UNLIMITED if len(rows) <= _MOST_ROWS else _MOST_ROWS * (table.rowHeight(0) + 2))
    table.updateGeometry()
