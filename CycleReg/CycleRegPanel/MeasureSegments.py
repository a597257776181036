"""The segments to compare, and the tumour: a segment in either image, or lines drawn by hand."""

from __future__ import annotations

import re
from typing import Any

import qt

from .Host import _
from .MeasurePart import MeasurePart

_TUMOR_NAME = re.compile(r"tumou?r|lesion", re.IGNORECASE)
SEGMENTS, LINES = "segments", "lines"


class MeasureSegments(MeasurePart):
    """What is chosen is kept in the parameter set; the widgets show what that says."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self._filling = False
        self._shown: Any = None

    def setup(self) -> None:
        ui = self.ui
        for key, title in ((SEGMENTS, _("Segments")), (LINES, _("Lines drawn by hand"))):
            ui.measureTumorComboBox.addItem(title, key)
        for name in ("measureFixedSegmentation", "measureMovingSegmentation"):
            getattr(ui, f"{name}Selector").connect("currentNodeChanged(vtkMRMLNode*)", self._onSegmentation)
        ui.measureSegmentsList.connect("itemChanged(QListWidgetItem*)", self._onSegmentTicked)
        ui.measureTumorComboBox.connect("currentIndexChanged(int)", self._onTumorKind)
        for side in ("Fixed", "Moving"):
            getattr(ui, f"measure{side}TumorComboBox").connect("currentIndexChanged(int)", self._onTumor)
        self.onParameterNodeModified()

    def onParameterNodeModified(self) -> None:
        self.fill()
        self._showTumorKind()

    def onSceneEndClose(self) -> None:
        self.fill()

    def problem(self) -> str | None:
        """What keeps segments and tumour from being measured, for the user."""
        if self._tumorByLines:
            if not self.both("FixedLong", "MovingLong"):
                return _("Select the long diameter in both images, or none.")
            for side in ("Fixed", "Moving"):
                if self.node(f"{side}Short") is not None and self.node(f"{side}Long") is None:
                    return _("Select the long diameters, too.")
            if not self.both("FixedShort", "MovingShort"):
                return _("Select the short diameter in both images, or none.")
        else:
            chosen = [getattr(self.ui, f"measure{side}TumorComboBox").currentData for side in ("Fixed", "Moving")]
            if bool(chosen[0]) != bool(chosen[1]):
                return _("Select the tumour in both segmentations, or none.")
        if self.node("FixedSegmentation") is not None and not self._ticked() and not self._tumorSegments():
            return _("Tick a segment that both segmentations have, or select the tumour in both.")
        return None

    def given(self) -> dict[str, Any]:
        from CycleRegLib import mrml

        given: dict[str, Any] = {
            "fixedSegmentation": self.node("FixedSegmentation"),
            "movingSegmentation": self.node("MovingSegmentation"),
        }
        if given["fixedSegmentation"] is not None:
            given["segments"] = self._ticked()
        tumor = self._tumorSegments()
        if tumor is not None:
            given["tumorSegment"], given["movingTumorSegment"] = tumor
        if self._tumorByLines and self.node("FixedLong") is not None:
            for side in ("fixed", "moving"):
                lines = (self.node(f"{side.capitalize()}{length}") for length in ("Long", "Short"))
                given[f"{side}TumorLines"] = mrml.TumorLines(*lines)
        return given

    @property
    def _tumorByLines(self) -> bool:
        return self.ui.measureTumorComboBox.currentData == LINES

    def _onSegmentation(self, *_arguments: Any) -> None:
        self.fill()

    def _names(self, side: str) -> list[str]:
        node = self.node(f"{side}Segmentation")
        if node is None:
            return []
        segmentation = node.GetSegmentation()
        return [segmentation.GetNthSegment(i).GetName() for i in range(segmentation.GetNumberOfSegments())]

    def fill(self) -> None:
        """List what both segmentations have, and offer each one's segments as the tumour."""
        ui, names = self.ui, {side: self._names(side) for side in ("Fixed", "Moving")}
        node = self.parameterNode
        left_out = set(node.measureSegmentsLeftOut) if node is not None else set()
        wanted = {side: getattr(node, f"measure{side}Tumor") if node is not None else "" for side in names}
        # A list must not be filled anew while it tells that an item was ticked.
        if (names, left_out, wanted) == self._shown:
            return
        self._shown = (names, left_out, wanted)
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
        names, left_out, wanted = self._shown
        left_out = set(choices.get("measureSegmentsLeftOut", left_out))
        wanted = {side: choices.get(f"measure{side}Tumor", value) for side, value in wanted.items()}
        self._shown = (names, left_out, wanted)
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
