"""Runs a registration in a child process: Apply and Cancel, progress, log, and what came of it."""

from __future__ import annotations

import logging
import time
from typing import Any

import slicer

from CycleRegLib.errors import CycleRegError

from . import Environment, Results
from .Exchange import Exchange
from .Host import _
from .Parameters import Parameters
from .Section import Section
from .Worker import CANCELLED, SUCCEEDED, Worker


class RunSection(Section):
    """Its widgets are in ``CycleReg.ui``.

    The scene is changed only when the result is complete, so that cancelling, errors and a crash of the child leave it
    as it was.
    """

    def setup(self) -> None:
        self._worker: Worker | None = None
        # The last one is kept: its process must not be deleted while it is telling that it has ended.
        self._endedWorker: Worker | None = None
        self._exchange: Any = None
        self._began = 0.0
        self._stage = ""
        self.ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        self.ui.progressBar.visible = False
        self.ui.resultsCollapsibleButton.visible = False

    def cleanup(self) -> None:
        self.cancel()

    def onSceneStartClose(self) -> None:
        # The nodes that the run would write to are about to go.
        self.cancel()

    def onSceneEndClose(self) -> None:
        self.ui.resultsCollapsibleButton.visible = False
        self.ui.statusLabel.text = ""
        self.ui.logTextEdit.plainText = ""

    def updateState(self, running: bool) -> None:
        button = self.ui.applyButton
        self.ui.progressBar.visible = running
        if running:
            button.text = _("Cancel")
            button.toolTip = _("Stop the registration; the scene stays as it was.")
            button.enabled = True
            return
        parameters = None if self.parameterNode is None else Parameters.of(self.parameterNode)
        problem = _("The scene is being closed or loaded.") if parameters is None else parameters.problem()
        button.text = _("Apply")
        button.enabled = problem is None
        usual = _("Register the moving volume onto the fixed one.")
        button.toolTip = problem or parameters.note() or usual

    # ------------------------------------------------------------------ running

    @property
    def running(self) -> bool:
        """Whether a registration is under way."""
        return self._worker is not None

    def onApplyButton(self, checked: bool = False) -> None:
        if self.running:
            self.cancel()
            return
        if self.parameterNode is None:
            return
        parameters = Parameters.of(self.parameterNode)
        problem = parameters.problem()
        if problem:
            self.panel.fail(problem)
        else:
            self.start(Exchange(parameters))

    def start(self, exchange: Any) -> None:
        """Start what ``exchange`` describes; returns at once, see :meth:`waitForCompletion`."""
        try:
            problem = Environment.ensure()
            if problem:
                self.panel.fail(problem)
                return
            self.panel.say(_("Preparing the images"))
            self._exchange = exchange
            with slicer.util.WaitCursor():
                arguments = exchange.writeInputs()
        except CycleRegError as error:
            self._discard()
            self.panel.fail(str(error))
            return
        except Exception as error:
            logging.exception("CycleReg could not start")
            self._discard()
            self.panel.fail(str(error))
            return
        process = self.panel.processFactory() if self.panel.processFactory is not None else None
        self._began, self._stage = time.monotonic(), ""
        self.ui.logTextEdit.plainText = ""
        self._log("cyclereg " + " ".join(arguments))
        self._worker = Worker(self._onProgress, self._onEnd, process, self._log)
        self.ui.progressBar.value = 0
        if self.parameterNode is not None and self.parameterNode.checkpoint:
            # The line shows the history's other paths in between.
            with self.panel.bindings.paused():
                self.ui.checkpointPathLineEdit.addCurrentPathToHistory()
        self.panel.updateState()
        self._worker.start(arguments)

    def cancel(self) -> None:
        """Stop a running registration; the scene and the disk are then as before."""
        if self._worker is not None:
            self._worker.cancel()

    def waitForCompletion(self, milliseconds: int = -1) -> None:
        """Block until the running registration has ended; for scripts and tests."""
        if self._worker is not None:
            self._worker.waitForFinished(milliseconds)

    # ------------------------------------------------------------------ the child's news

    def _log(self, line: str) -> None:
        self.ui.logTextEdit.appendPlainText(line)

    def _onProgress(self, stage: str, percent: float) -> None:
        name = self._exchange.stage(stage)
        self.ui.progressBar.value = int(percent)
        self.panel.say(name)
        if name != self._stage:
            self._stage = name
            self._log(f"{time.monotonic() - self._began:7.1f} s  {percent:3.0f} %  {name}")

    def _onEnd(self, outcome: str, message: str) -> None:
        if self._worker is not None and self._worker.log:
            logging.info("CycleReg: %s", self._worker.log)
        self._worker, self._endedWorker = None, self._worker
        self._log(f"{time.monotonic() - self._began:7.1f} s  {outcome}")
        try:
            if outcome == CANCELLED:
                self.panel.say(_("Cancelled; the scene is as it was."))
            elif outcome == SUCCEEDED or self._exchange.hasResults():
                self._show(outcome, message)
            else:
                self.panel.fail(message)
        except CycleRegError as error:
            self.panel.fail(str(error))
        except Exception as error:
            logging.exception("CycleReg could not load the result")
            self.panel.fail(_("The result could not be loaded; the scene is as it was. {error}").format(error=error))
        finally:
            self._discard()
            self.panel.updateState()

    def _show(self, outcome: str, message: str) -> None:
        """The result is complete: only now is the scene changed."""
        with slicer.util.WaitCursor():
            results = self._exchange.readResults()
        last = results[-1]
        Results.fill(self.ui.resultsTable, last.registration.summary())
        self.ui.resultsCollapsibleButton.visible = True
        if isinstance(self._exchange, Exchange):
            if self.parameterNode is not None:
                self.parameterNode.outputTransform = last.transform
                self.parameterNode.outputInverseTransform = last.inverse_transform
            for section in self.panel.sections:
                section.onResult(last)
            self.panel.say(_("Done."))
            return
        made = ", ".join(result.transform.GetName() for result in results)
        said = _("{count} registered: {names}.").format(count=len(results), names=made)
        if outcome == SUCCEEDED:
            self.panel.say(said)
        else:
            failed = self._exchange.names(message)
            self.panel.fail(_("{said} Not registered: {failed}").format(said=said, failed=failed))

    def _discard(self) -> None:
        if self._exchange is not None:
            self._exchange.remove()
            self._exchange = None
