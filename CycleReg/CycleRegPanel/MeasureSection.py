"""The part of the panel that measures a registration; figures, tables, plot and lines come from ``CycleRegLib``."""

from __future__ import annotations

import logging
import os
from typing import Any

import qt
import slicer

from CycleRegLib.belonging import companions
from CycleRegLib.errors import CycleRegError

from . import Environment
from .Host import _
from .MeasureExchange import MeasureExchange
from .MeasurePairs import MeasurePairs
from .MeasurePart import MeasurePart
from .MeasureSegments import MeasureSegments
from .MeasureTables import MeasureTables
from .Worker import CANCELLED, SUCCEEDED, Worker

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


class MeasureSection(MeasurePart):
    """Landmarks, segments and tumours of a registration: chosen, paired, measured in a child process, shown.

    Attributes
    ----------
    pairs, segments, tables
        Its parts: the landmarks; the segments and the tumour; the figures.
    """

    UI = "CycleRegMeasure.ui"
    PLACE = "measureCollapsibleButton"

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self.pairs, self.segments, self.tables = MeasurePairs(panel), MeasureSegments(panel), MeasureTables(panel)
        self._worker: Worker | None = None
        # The last one is kept: its process must not be deleted while it is telling that it has ended.
        self._endedWorker: Worker | None = None
        self._exchange: MeasureExchange | None = None
        self._report = ""

    # ------------------------------------------------------------------ life cycle

    def setup(self) -> None:
        ui = self.ui
        for part in (self.pairs, self.segments, self.tables):
            part.setup()
        for name in _SELECTORS:
            getattr(ui, f"measure{name}Selector").connect("currentNodeChanged(vtkMRMLNode*)", self._onChoice)
        ui.measurePairsTable.connect("itemSelectionChanged()", self._onChoice)
        ui.measureButton.connect("clicked(bool)", self.onMeasureButton)
        ui.measureReportButton.connect("clicked(bool)", self.onReportButton)
        ui.measureProgressBar.visible = False

    def onParameterNodeModified(self) -> None:
        self.segments.onParameterNodeModified()

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
        self.pairs.updateState(running)
        self.tables.updateState(running)

    def onResult(self, result: Any) -> None:
        if result.transform is not None:
            self.ui.measureTransformSelector.setCurrentNode(result.transform)
            self._guess()

    def _guess(self) -> None:
        """Take the landmarks and segmentations that belong to the two volumes, where there is one of each and the user
        has chosen none."""
        fixed, moving = self._volumes()
        if fixed is None or moving is None:
            return
        for what, kind in (("Landmarks", "vtkMRMLMarkupsFiducialNode"), ("Segmentation", "vtkMRMLSegmentationNode")):
            if self.node(f"Fixed{what}") is None and self.node(f"Moving{what}") is None:
                found = companions(fixed, moving, kind), companions(moving, fixed, kind)
                if [len(nodes) for nodes in found] == [1, 1]:
                    for side, nodes in zip(("Fixed", "Moving"), found):
                        getattr(self.ui, f"measure{side}{what}Selector").setCurrentNode(nodes[0])

    def onSceneStartClose(self) -> None:
        self.cancel()

    def onSceneEndClose(self) -> None:
        self.pairs.onSceneEndClose()
        self.segments.onSceneEndClose()
        self.ui.measureStatusLabel.text = ""

    def cleanup(self) -> None:
        self.cancel()

    # ------------------------------------------------------------------ choices

    def _volumes(self) -> tuple[Any, Any]:
        """The fixed and the moving volume: those that the transform knows, else those of the parameter set."""
        transform, base, node = self.node("Transform"), slicer.vtkMRMLTransformNode, self.parameterNode
        fixed = transform.GetNodeReference(base.GetFixedNodeReferenceRole()) or (node and node.fixedNode)
        moving = transform.GetNodeReference(base.GetMovingNodeReferenceRole()) or (node and node.movingNode)
        return fixed, moving

    def problem(self) -> str | None:
        """What keeps the registration from being measured, for the user; None when it can be measured."""
        transform = self.node("Transform")
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
            if not self.both(fixed, moving):
                return _("Select {what} of both images, or none.").format(what=what)
        return self.pairs.problem() or self.segments.problem()

    def _onChoice(self, *_arguments: Any) -> None:
        self.panel.updateState()

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
                self.fail(problem)
                return
            self.say(_("Reading the nodes"))
            with slicer.util.WaitCursor():
                self._exchange = MeasureExchange(self._prepare())
                arguments = self._exchange.writeInputs(report)
        except CycleRegError as error:
            self._discard()
            self.fail(str(error))
            return
        except Exception as error:
            logging.exception("CycleReg could not start measuring")
            self._discard()
            self.fail(str(error))
            return
        self._report = report
        process = self.panel.processFactory() if self.panel.processFactory is not None else None
        self._worker = Worker(self._onProgress, self._onEnd, process)
        self.ui.measureProgressBar.value = 0
        self.panel.updateState()
        self._worker.start(arguments)

    def _prepare(self) -> Any:
        from CycleRegLib import mrml

        given = {**self.pairs.given(), **self.segments.given(), "outputs": {"chart": True, "diameters": True}}
        return mrml.prepare_evaluation(*self._volumes(), self.node("Transform"), **given)

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
        self.say(stage)

    def _onEnd(self, outcome: str, message: str) -> None:
        if self._worker is not None and self._worker.log:
            logging.info("CycleReg: %s", self._worker.log)
        self._worker, self._endedWorker = None, self._worker
        try:
            if outcome == SUCCEEDED:
                with slicer.util.WaitCursor():
                    self._show(self._exchange.readResults())
            elif outcome == CANCELLED:
                self.say(_("Cancelled; the scene is as it was."))
            else:
                self.fail(message)
        except CycleRegError as error:
            self.fail(str(error))
        except Exception as error:
            logging.exception("CycleReg could not load the figures")
            self.fail(str(error))
        finally:
            self._discard()
            self.panel.updateState()

    def _show(self, measured: Any) -> None:
        # What there is to say belongs to the figures, and is one line.
        self.say(" ".join([_("Done."), *measured.evaluation.get("warnings", [])]))
        self.pairs.fillTable()
        if self._report:
            self.openReport(os.path.join(self._report, "report.html"))

    def openReport(self, path: str) -> None:
        """Open the page in the user's browser."""
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(path))

    def _discard(self) -> None:
        if self._exchange is not None:
            self._exchange.remove()
            self._exchange = None
