"""What ITK prints and says when a file cannot be read or written, kept to the one line that a user needs."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator

import SimpleITK as sitk

# There is one standard error: of two threads that turn it aside at once, one would leave it turned for good.
_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def quiet_itk() -> Iterator[list[str]]:
    """Keep what ITK and its C libraries print from burying the one clear line that a user gets.

    The libraries write to the process's standard error itself.  What they said is in the list afterwards, line by line.
    """
    said: list[str] = []
    with _ONE_AT_A_TIME, tempfile.TemporaryFile() as heard:
        before = sitk.ProcessObject.GetGlobalWarningDisplay()
        sitk.ProcessObject.SetGlobalWarningDisplay(False)
        try:
            sys.stderr.flush()
            stderr = os.dup(2)
        except (AttributeError, OSError, ValueError):
            stderr = None  # a windowed program without a standard error
        if stderr is not None:
            os.dup2(heard.fileno(), 2)
        try:
            yield said
        finally:
            if stderr is not None:
                os.dup2(stderr, 2)
                os.close(stderr)
            sitk.ProcessObject.SetGlobalWarningDisplay(before)
            heard.seek(0)
            text = heard.read(10_000).decode("utf-8", "replace")
            said += [line.strip() for line in text.splitlines() if line.strip()]


def itk_reason(message: str) -> str:
    """The last line of ITK's message, which says why; the lines before it say where in ITK's source."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    reason = lines[-1] if lines else "unknown reason"
    for prefix in ("sitk::ERROR:", "ITK ERROR:", "Reason:"):
        reason = reason.split(prefix)[-1].strip()
    return re.sub(r"^\w+\(0x[0-9a-f]+\): ", "", reason).rstrip(".")  # without the address of ITK's object
