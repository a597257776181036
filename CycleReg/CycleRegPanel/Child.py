"""The child process of the panel: the command line of ``CycleRegLib``, tied to the life of its parent.

Run as ``PythonSlicer Child.py register --fixed ...``; arguments, output and exit status are those of
``python -m CycleRegLib``.  Two things are added:

* the library is found as the module finds it (:mod:`CycleRegPanel.Library`), whatever the environment says;
* when standard input closes, the process ends at once.  The panel holds the other end: it closes when the user
  cancels and when Slicer itself goes away.  Killing the process that Slicer started would not be enough, because
  ``PythonSlicer`` is a launcher whose own child, the interpreter, survives it.
"""

from __future__ import annotations

import os
import runpy
import stat
import sys
import threading

CANCELLED = 130


def _end_with_parent() -> None:
    """Block until standard input closes, then end the process without clean-up: there may be a long computation."""
    while os.read(0, 4096):
        pass
    os._exit(CANCELLED)


def _is_pipe(descriptor: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        # No standard input at all.
        return False


def main() -> None:
    # Anything but a pipe (a terminal, the null device) is not the panel's.
    if _is_pipe(0):
        threading.Thread(target=_end_with_parent, daemon=True).start()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="replace", line_buffering=True)
    # Python put this file's folder first; the package is one level up.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # The package makes the library importable.
    from CycleRegPanel.Library import NAME

    sys.argv[0] = NAME
    runpy.run_module(NAME, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
