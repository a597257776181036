"""Register two images, or the pairs of a manifest, headless, with nodes, and save scenes that Slicer opens.

In Slicer::

    Slicer --no-main-window --python-script CycleReg/Scripts/run_cyclereg.py -- \\
        --fixed fixed.nrrd --moving moving.nrrd --scene registered.mrb

and with any Python that has slicer-core::

    python CycleReg/Scripts/run_cyclereg.py --fixed fixed.nrrd --moving moving.nrrd --scene registered.mrb

Takes the arguments of ``cyclereg register``, landmarks and segmentations to measure with, and ``--scene``; ``--help``
lists them.  Many pairs, each with a scene of its own, take the arguments of ``cyclereg batch``::

    Slicer --no-main-window --python-script CycleReg/Scripts/run_cyclereg.py -- batch pairs.csv --output results

Ends, in Slicer the whole application, with the exit status of the command line: 0 done, 1 some pairs of a batch failed,
2 wrong input, 3 out of memory, 130 cancelled.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path


def _arguments() -> list[str]:
    """What follows ``--``, which Slicer takes for itself in some versions and hands on in others."""
    given = sys.argv[1:]
    return given[given.index("--") + 1 :] if "--" in given else given


def _make_importable() -> None:
    """Prefer the library beside this script: in an installed extension one folder up, in a checkout two."""
    for folder in Path(__file__).resolve().parents[1:3]:
        if (folder / "CycleRegLib" / "__init__.py").is_file():
            sys.path.insert(0, os.fspath(folder))
            return


def _run() -> int:
    _make_importable()
    try:
        from CycleRegLib.mrml.headless import main
    except ModuleNotFoundError as error:
        print(
            f"cyclereg: the Python package {error.name} is missing. In Slicer, install the PyTorch extension and press "
            "Apply in the CycleReg module once; elsewhere: pip install cyclereg[mrml].",
            file=sys.stderr,
        )
        return 2
    return main(_arguments())


def _leave(status: int) -> None:
    """End the application that runs this script, or else Python."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        import slicer
    except ModuleNotFoundError:
        slicer = None
    if getattr(slicer, "app", None) is None:
        sys.exit(status)
    import slicer.util

    slicer.util.exit(status)


if __name__ == "__main__":
    try:
        status = _run()
    except SystemExit as leaving:  # argparse's way out
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        # Without a main window nobody could close an application that a defect left open.
        traceback.print_exc()
        status = 1
    _leave(status)
