"""The sample pair: made by the library in a child process and loaded; offered in Slicer's Sample Data module.

Nothing is downloaded.
"""

from __future__ import annotations

import logging
import os
from typing import Any, Callable

import qt
import slicer

from CycleRegLib.errors import CycleRegError

from . import Environment
from .Folder import Folder
from .Host import _
from .Worker import SUCCEEDED, Worker

CATEGORY = "CycleReg"
SAMPLE = "Abdomen in two phases"
_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_THUMBNAIL = os.path.join(_FOLDER, "Resources", "Icons", "CycleRegSample.png")
# The one that Slicer's Sample Data module started last; kept while its child process runs.
_started: list[SampleLoader] = []


class SampleLoader:
    """Makes the sample pair and loads it; the window stays alive.

    >>> loader = SampleLoader(onEnd=lambda nodes, message: print(nodes or message))       # doctest: +SKIP
    >>> loader.start()

    Parameters
    ----------
    onEnd
        Called once, with ``CycleRegLib.mrml.SampleNodes`` and "", or with None and why there are none ("" when
        cancelled).
    onProgress
        Called with what is being made and the percentage done.
    process
        A ``qt.QProcess``; tests give a stand-in.
    """

    def __init__(
        self,
        onEnd: Callable[[Any, str], None],
        onProgress: Callable[[str, float], None] | None = None,
        process: Any = None,
    ) -> None:
        self._onEnd = onEnd
        self._folder = Folder()
        self._worker = Worker(onProgress or (lambda stage, percent: None), self._onChildEnd, process)

    def start(self) -> None:
        """Start making it; returns at once."""
        try:
            self._folder.make()
        except CycleRegError as error:
            self._onEnd(None, str(error))
            return
        self._worker.start(["sample", "--output", self._folder.file("sample"), "--progress", "json"])

    def cancel(self) -> None:
        """Stop; the scene and the disk are then as before."""
        self._worker.cancel()

    def waitForFinished(self, milliseconds: int = -1) -> bool:
        """Block until it is loaded; for scripts and tests."""
        return self._worker.waitForFinished(milliseconds)

    def _onChildEnd(self, outcome: str, message: str) -> None:
        nodes = None
        try:
            if outcome == SUCCEEDED:
                from CycleRegLib import mrml

                with slicer.util.WaitCursor():
                    nodes = mrml.load_sample(self._folder.file("sample"))
                    slicer.util.setSliceViewerLayers(background=nodes.fixed, fit=True)
        except Exception as error:
            logging.exception("CycleReg could not load the sample data")
            message = str(error)
        finally:
            self._folder.remove()
        self._onEnd(nodes, message)


# ---------------------------------------------------------------------- Slicer's Sample Data module


def register() -> None:
    """Offer the sample pair in Slicer's Sample Data module, if it is loaded; called when Slicer has started."""
    try:
        import SampleData
    except ImportError:  # users may switch modules off
        return
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=SAMPLE,
        # There is nothing to download, but Slicer wants an entry.
        uris="",
        fileNames="",
        thumbnailFileName=_THUMBNAIL,
        customDownloader=load,
    )


def load(source: Any = None) -> None:
    """What a click in the Sample Data module does: make the pair and load it, with words in that module's log."""
    if _started:
        _say(_("The sample data are being made."))
        return
    problem = Environment.ensure()
    if problem:
        slicer.util.errorDisplay(problem, windowTitle="CycleReg")
        return
    loader = SampleLoader(_onLoaded)
    _started.append(loader)
    _say(_("Making the sample data; they are not downloaded."))
    loader.start()


def _onLoaded(nodes: Any, message: str) -> None:
    # The child's process must not be deleted while it is telling that it has ended.
    qt.QTimer.singleShot(0, lambda: _started.clear())
    if nodes is None:
        slicer.util.errorDisplay(message, windowTitle="CycleReg")
        return
    _say(_("Loaded: {names}.").format(names=", ".join(node.GetName() for node in nodes.all())))


def _say(text: str) -> None:
    """A line in the log of the Sample Data module, where it is open."""
    logging.info(text)
    widget = getattr(slicer.modules, "SampleDataWidget", None)
    if widget is not None:
        widget.logic.logMessage(text)
