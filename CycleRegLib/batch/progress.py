"""Progress of a batch: pairs done and failed and the time left, as a bar, as lines of a log, or as JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import TextIO

from ..errors import Cancelled
from .record import BatchRecord

_WIDTH = 24
_BAR_EVERY, _LINE_EVERY, _JSON_EVERY = 0.1, 10.0, 0.5


class BatchProgress:
    """Counts pairs and shows how far the batch is; ``style`` is ``bar``, ``json`` or ``none``.

    The bar is drawn on stderr, or a line written there from time to time where stderr is no terminal.  JSON lines go to
    stdout: ``{"stage": "pairs", "percent", "done", "failed", "total", "seconds_left"}``, where ``done`` counts pairs
    that are complete and ``seconds_left`` is null until the first pair was computed.

    Parameters
    ----------
    stream
        Where to write, instead of the standard streams.
    """

    def __init__(self, style: str, total: int, stream: TextIO | None = None) -> None:
        self.total, self.complete, self.failed = total, 0, 0
        self._computed, self._percent = 0, 0.0
        self._style, self._began, self._shown = style, time.perf_counter(), -1e9
        self._stream = stream or (sys.stdout if style == "json" else sys.stderr)
        self._bar = style == "bar" and self._stream.isatty()

    def add(self, record: BatchRecord) -> None:
        """A pair is complete, or failed."""
        self.failed += record.status == "failed"
        self.complete += record.complete
        self._computed += record.status in ("done", "failed")
        if self._style == "bar" and record.status == "failed":
            self._line(f"pair '{record.id}' failed: {record.reason}")
        self.show(force=self.complete + self.failed == self.total)

    def show(self, underway: float = 0.0, force: bool = False) -> None:
        """Draw, if it is time to; ``underway`` is what is computed of pairs that are not complete, in pairs."""
        now = time.perf_counter()
        every = {"json": _JSON_EVERY, "none": float("inf")}.get(self._style, _BAR_EVERY if self._bar else _LINE_EVERY)
        if self._style == "none" or (now - self._shown < every and not force):
            return
        self._shown = now
        over = self.complete + self.failed
        # A pair that is being written is neither underway nor over for a while, but shown progress never falls.
        percent = self._percent = max(self._percent, 100 * min(1.0, (over + underway) / self.total))
        left = self._left(now - self._began, over, underway)
        if self._style == "json":
            self._json(percent, left)
            return
        text = f"{self.complete} of {self.total} pairs" + (f", {self.failed} failed" if self.failed else "")
        if left:
            text += f", {_clock(left)} left"
        if self._bar:
            full = round(_WIDTH * percent / 100)
            line = f"[{'#' * full}{'.' * (_WIDTH - full)}] {percent:3.0f} %  {text}"
            print(f"\r{line:<78}", end="\n" if over == self.total else "", file=self._stream, flush=True)
        else:
            self._line(text)

    def _left(self, elapsed: float, over: int, underway: float) -> float | None:
        """Seconds; pairs that were complete before took no time."""
        computed = self._computed + underway
        return elapsed * (self.total - over - underway) / computed if computed > 0.2 else None

    def _line(self, text: str) -> None:
        if self._bar:
            print(f"\r{text:<78}", file=self._stream, flush=True)
        else:
            print(f"{_clock(time.perf_counter() - self._began):>8}  {text}", file=self._stream, flush=True)

    def _json(self, percent: float, left: float | None) -> None:
        content = {"stage": "pairs", "percent": round(percent, 1), "done": self.complete, "failed": self.failed}
        content.update(total=self.total, seconds_left=None if left is None else round(left, 1))
        try:
            print(json.dumps(content), file=self._stream, flush=True)
        except BrokenPipeError as error:  # the program that started this one is gone
            raise Cancelled("Nobody reads the progress any more; the same command goes on from here.") from error


@contextlib.contextmanager
def own_stderr() -> Iterator[TextIO]:
    """A standard error of its own, which reaches the terminal also while another thread turns ITK's aside."""
    try:
        copy = os.dup(2) if sys.stderr.fileno() == 2 else None
    except (AttributeError, OSError, ValueError):  # none, or one that is no file
        copy = None
    if copy is None:
        yield sys.stderr
        return
    with open(copy, "w", encoding=sys.stderr.encoding, errors="replace") as stream:
        yield stream


def _clock(seconds: float) -> str:
    """``12 s``, ``3:05 min`` or ``2:10 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"
