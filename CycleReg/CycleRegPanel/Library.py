"""The one place that decides where ``CycleRegLib`` comes from.

Three situations:

* **installed extension** (and the extension's build tree): ``CycleRegLib`` lies beside ``CycleReg.py``;
* **checkout dragged into Slicer**: only the folder ``CycleReg/`` is on ``sys.path``, the library is its sibling;
* **installed with pip**: the module lies anywhere, the library is importable as any other package.

The library that belongs to this copy of the module is preferred, so that a module and a library of different versions
never meet by accident; an importable ``CycleRegLib`` from elsewhere is used only when there is none.
"""

from __future__ import annotations

import os
import sys

NAME = "CycleRegLib"

_MODULE_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def folder() -> str | None:
    """The folder that holds this module's own ``CycleRegLib``; None when it comes from elsewhere (pip)."""
    for candidate in (_MODULE_FOLDER, os.path.dirname(_MODULE_FOLDER)):
        if os.path.isfile(os.path.join(candidate, NAME, "__init__.py")):
            return candidate
    return None


def make_importable() -> None:
    """Put this module's own library first on ``sys.path``, where it has one.  May be called any number of times."""
    own = folder()
    if own is not None and own not in sys.path:
        sys.path.insert(0, own)
