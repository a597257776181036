"""Runs the library in a child process, so that Slicer's window stays alive and cancel means stop."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import Any, Callable

import qt

from .Host import _

_CHILD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "Child.py")
_STOP_MS = 2000
_LOG_LINES = 200

SUCCEEDED, FAILED, CANCELLED = "succeeded", "failed", "cancelled"


class Worker:
    """One run of ``cyclereg`` in a child process.

    >>> worker = Worker(onProgress=show, onEnd=finish)         # doctest: +SKIP
    >>> worker.start(["register", "--fixed", "f.nrrd", ..., "--progress", "json"])

    Parameters
    ----------
    onProgress
        Called with the name of the stage and the percentage done, for every line of progress of the child.
    onEnd
        Called once, with one of ``SUCCEEDED``, ``FAILED``, ``CANCELLED`` and the message for the user ("" unless
        failed).
    process
        A ``qt.QProcess``; tests give a stand-in.
    onLog
        Called with every other line that the child writes.

    Attributes
    ----------
    output
        What the child wrote to standard output besides progress, line by line.
    """

    def __init__(
        self,
        onProgress: Callable[[str, float], None],
        onEnd: Callable[[str, str], None],
        process: Any | None = None,
        onLog: Callable[[str], None] | None = None,
    ) -> None:
        self._onProgress = onProgress
        self._onEnd = onEnd
        self._onLog = onLog or (lambda line: None)
        self._partial = b""
        self._partialError = b""
        self._errors: list[str] = []
        self.output: list[str] = []
        self._cancelled = False
        self._ended = False
        self._process = qt.QProcess() if process is None else process
        self._process.readyReadStandardOutput.connect(self._onOutput)
        self._process.readyReadStandardError.connect(self._onErrorOutput)
        self._process.errorOccurred.connect(self._onProcessError)
        self._process.finished.connect(self._onFinished)

    @staticmethod
    def interpreter() -> str:
        """Slicer's ``PythonSlicer``, which Slicer keeps on the PATH; this interpreter where there is none."""
        return shutil.which("PythonSlicer") or sys.executable

    def start(self, arguments: list[str]) -> None:
        """Start ``cyclereg`` with ``arguments``; returns at once."""
        self._process.start(self.interpreter(), [_CHILD, *arguments])

    def cancel(self) -> None:
        """Stop the child; ``onEnd`` is called before this returns."""
        if self._ended:
            return
        self._cancelled = True
        self._process.kill()
        # Closes standard input as well, by which an interpreter behind a launcher ends (see Child.py).
        self._process.waitForFinished(_STOP_MS)
        self._end()

    def waitForFinished(self, milliseconds: int = -1) -> bool:
        """Block until the child has ended; for scripts and tests."""
        return self._process.waitForFinished(milliseconds)

    @property
    def log(self) -> str:
        """The last lines that the child wrote, other than progress."""
        return "\n".join([*self.output, *self._errors][-_LOG_LINES:])

    # ------------------------------------------------------------------ the child's voice

    def _onOutput(self) -> None:
        self._partial += bytes(self._process.readAllStandardOutput().data())
        *lines, self._partial = self._partial.split(b"\n")
        for line in lines:
            self._onLine(line.decode("utf-8", "replace").strip())

    def _onLine(self, line: str) -> None:
        try:
            message = json.loads(line)
            stage, percent = str(message["stage"]), float(message["percent"])
        except (ValueError, KeyError, TypeError):
            # What else was printed; the closing {"done": true, ...} is said by the exit status as well.
            if line and not line.startswith('{"done"'):
                self.output.append(line)
                self._onLog(line)
            return
        if not self._cancelled:
            self._onProgress(stage, min(max(percent, 0.0), 100.0))

    def _onErrorOutput(self) -> None:
        self._partialError += bytes(self._process.readAllStandardError().data())
        *lines, self._partialError = self._partialError.split(b"\n")
        for line in lines:
            self._onErrorLine(line)

    def _onErrorLine(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").strip()
        if text:
            self._errors.append(text)
            self._onLog(text)

    # ------------------------------------------------------------------ its end

    def _onProcessError(self, error: Any, *_arguments: Any) -> None:
        # A crash is followed by finished(), a failed start is not.
        if error == qt.QProcess.FailedToStart:
            self._end(_("{program} could not be started.").format(program=self.interpreter()))

    def _onFinished(self, *_arguments: Any) -> None:
        self._onOutput()
        self._onErrorOutput()
        self._onErrorLine(self._partialError)
        self._partialError = b""
        if self._cancelled:
            self._end()
        elif self._process.exitStatus() != qt.QProcess.NormalExit:
            self._end(
                _(
                    "The registration process ended unexpectedly; Slicer and your scene are untouched. Probably memory "
                    "ran out: close other programs, choose the preset Large volume or the device CPU, or crop the "
                    "volumes (Crop Volume module)."
                )
            )
        elif self._process.exitCode() != 0:
            self._end(self._lastError())
        else:
            self._end()

    def _lastError(self) -> str:
        """The command line ends with one clear line on stderr; that is the message."""
        if not self._errors:
            return _("The registration failed with status {status}.").format(status=self._process.exitCode())
        message = self._errors[-1]
        for prefix in ("cyclereg: error: ", "error: ", "Error: "):
            if message.startswith(prefix):
                return message[len(prefix) :]
        return message

    def _end(self, message: str = "") -> None:
        if self._ended:
            return
        self._ended = True
        self._onEnd(CANCELLED if self._cancelled else FAILED if message else SUCCEEDED, message)
