"""The landmarks to measure with: which of them belong together, how far they are apart, and where they lie."""

from __future__ import annotations

from typing import Any

import slicer

from CycleRegLib.errors import CycleRegError
from CycleRegLib.node_roles import TABLE_ROLES

from . import Environment
from .Host import _
from .MeasurePart import MeasurePart
from .TableWidget import fillTable


class MeasurePairs(MeasurePart):
    """The table of pairs follows the points while they are placed, moved and removed."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self._pairs: Any = None
        self._problem = ""
        self._observed: tuple[Any, ...] = ()

    def setup(self) -> None:
        ui = self.ui
        for name in ("measureTransform", "measureFixedLandmarks", "measureMovingLandmarks"):
            getattr(ui, f"{name}Selector").connect("currentNodeChanged(vtkMRMLNode*)", self._onLandmarks)
        ui.measurePairsTable.connect("cellDoubleClicked(int,int)", self.showPair)
        ui.measureJumpButton.connect("clicked(bool)", self._onJumpButton)
        self.fill()

    def updateState(self, running: bool) -> None:
        button = self.ui.measureJumpButton
        button.enabled = self._pairs is not None and self.ui.measurePairsTable.currentRow() >= 0
        button.toolTip = (
            _("Centre the slice views on the selected pair: the fixed point, and in the view of the moving image the "
              "moving one.")
            if button.enabled
            else _("Select a pair in the table.")
        )  # fmt: skip

    def onSceneEndClose(self) -> None:
        self.fill()

    def problem(self) -> str | None:
        """What keeps the landmarks from being measured with, for the user."""
        return self._problem or None

    def given(self) -> dict[str, Any]:
        return {"fixedLandmarks": self.node("FixedLandmarks"), "movingLandmarks": self.node("MovingLandmarks")}

    def _onLandmarks(self, *_arguments: Any) -> None:
        self.fill()

    def onPointsChanged(self, caller: Any = None, event: Any = None) -> None:
        """A point was placed, moved, renamed or removed."""
        self.fill()
        self.panel.updateState()

    def _observe(self, nodes: tuple[Any, ...]) -> None:
        for node in self._observed:
            for event in _point_events():
                self.panel.removeObserver(node, event, self.onPointsChanged)
        self._observed = tuple(node for node in nodes if node is not None)
        for node in self._observed:
            for event in _point_events():
                self.panel.addObserver(node, event, self.onPointsChanged)

    def fill(self) -> None:
        """Show which points belong together, and what is known of their errors."""
        nodes = self.node("FixedLandmarks"), self.node("MovingLandmarks")
        if tuple(node for node in nodes if node is not None) != self._observed:
            self._observe(nodes)
        self._pairs, self._problem, note = None, "", ""
        if None not in nodes:
            if Environment.has_torch():
                from CycleRegLib.mrml import pair_landmarks

                try:
                    self._pairs = pair_landmarks(*nodes, self.node("Transform"))
                    note = " ".join(self._pairs.notes)
                except CycleRegError as error:
                    self._problem = note = str(error)
            else:
                note = _("The pairs are shown when PyTorch is installed; Measure offers it.")
        self.fillTable()
        self.ui.measurePairsLabel.text = note
        self.ui.measurePairsLabel.visible = bool(note)

    def fillTable(self) -> None:
        table, labels = self.ui.measurePairsTable, self._pairs.labels if self._pairs is not None else []
        errors = self._errors()
        rows = [[label, *errors.get(label, ["", ""])] for label in labels]
        fillTable(table, [_("Landmark"), _("Before (mm)"), _("After (mm)")], rows)
        table.visible = bool(labels)
        self.ui.measureJumpButton.visible = bool(labels)

    def _errors(self) -> dict[str, list[Any]]:
        """The errors of the last measuring, by landmark."""
        transform = self.node("Transform")
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


def _point_events() -> list[int]:
    markups = slicer.vtkMRMLMarkupsNode
    return [
        markups.PointPositionDefinedEvent,
        markups.PointPositionUndefinedEvent,
        markups.PointRemovedEvent,
        markups.PointEndInteractionEvent,
    ]
