"""Progress of long work: a bar on a terminal, plain lines in a log, JSON lines for another program."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import TextIO

from .errors import Cancelled

Progress = Callable[[str, float], None]
STYLES = ("bar", "json", "none")
_WIDTH = 30


def make_progress(style: str) -> Progress | None:
    """A callable ``(stage, fraction of the whole)`` of the given style; None for ``"none"``.

    ``"bar"`` draws on stderr, or writes a line per stage where stderr is no terminal.  ``"json"`` writes one object per
    line to stdout: ``{"stage": str, "percent": float}``, the percentage never falling.
    """
    if style == "none":
        return None
    if style == "json":
        return _JsonLines(sys.stdout)
    return _Bar(sys.stderr) if sys.stderr.isatty() else _StageLines(sys.stderr)


class _JsonLines:
    def __init__(self, stream: TextIO) -> None:
        self._stream, self._percent, self._stage = stream, -1.0, ""

    def __call__(self, stage: str, fraction: float) -> None:
        percent = max(self._percent, round(100 * fraction, 1))
        if percent < self._percent + 0.5 and stage == self._stage:
            return
        self._percent, self._stage = percent, stage
        try:
            print(json.dumps({"stage": stage, "percent": percent}), file=self._stream, flush=True)
        except BrokenPipeError as error:  # the program that started this one is gone
            raise Cancelled("Nobody reads the progress any more; nothing was written.") from error


class _StageLines:
    def __init__(self, stream: TextIO) -> None:
        self._stream, self._stage, self._began = stream, "", time.perf_counter()

    def __call__(self, stage: str, fraction: float) -> None:
        if stage == self._stage:
            return
        self._stage = stage
        elapsed = time.perf_counter() - self._began
        print(f"{elapsed:6.1f} s  {100 * fraction:3.0f} %  {stage}", file=self._stream, flush=True)


class _Bar:
    def __init__(self, stream: TextIO) -> None:
        self._stream, self._began, self._drawn, self._most = stream, time.perf_counter(), 0.0, 0.0

    def __call__(self, stage: str, fraction: float) -> None:
        now = time.perf_counter()
        self._most = fraction = max(self._most, fraction)
        if now - self._drawn < 0.1 and fraction < 1:
            return
        self._drawn = now
        full = round(_WIDTH * fraction)
        elapsed = now - self._began
        left = f", {elapsed * (1 - fraction) / fraction:.0f} s left" if 0.1 < fraction < 1 else ""
        line = f"\r[{'#' * full}{'.' * (_WIDTH - full)}] {100 * fraction:3.0f} %  {stage:<9} {elapsed:.0f} s{left}"
        print(f"{line:<78}", end="\n" if fraction >= 1 else "", file=self._stream, flush=True)
