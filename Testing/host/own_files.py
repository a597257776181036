"""Slicer's own Python files in place of the stand-ins, where the environment names a Slicer that has them.

``CYCLEREG_SLICER_PYTHON`` is a folder, or several as in ``PATH``: of a Slicer installation ``bin/Python`` and
``lib/Slicer-5.10/qt-scripted-modules``, of a checkout of its sources ``Base/Python`` and
``Modules/Scripted/SampleData``.  Taken from there are, each where it is found, ``slicer/i18n.py``,
``slicer/ScriptedLoadableModule.py``, ``slicer/parameterNodeWrapper/`` and ``SampleData.py``.  Qt, CTK, the application
and ``slicer.util`` stay the host's.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from pathlib import Path

import slicer

VARIABLE = "CYCLEREG_SLICER_PYTHON"
#: In the order in which they import each other.
NAMES = ("slicer.i18n", "slicer.ScriptedLoadableModule", "slicer.parameterNodeWrapper", "SampleData")


def find(name: str) -> Path | None:
    """The file of Slicer's own module of that name; None where the stand-in is to be used."""
    folders = [Path(folder) for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]
    for folder in folders:
        if not folder.is_dir():
            raise NotADirectoryError(f"{VARIABLE}: {folder} is not a folder")
        base = folder.joinpath(*name.split("."))
        for file in (base.with_suffix(".py"), base / "__init__.py"):
            if file.is_file():
                return file
    return None


def load(stand_ins: dict[str, types.ModuleType]) -> None:
    """Make every module of :data:`NAMES` importable: Slicer's own, or else its stand-in where there is one."""
    for name in NAMES:
        file = find(name)
        module = stand_ins.get(name)
        if file is not None:
            package = [str(file.parent)] if file.name == "__init__.py" else None
            # By its file, so that what else lies beside it, as Slicer's own slicer/__init__.py, is not imported.
            spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=package)
            module = importlib.util.module_from_spec(spec)
        if module is None:
            continue
        sys.modules[name] = module
        if file is not None:
            spec.loader.exec_module(module)
        if name.startswith("slicer."):
            setattr(slicer, name.split(".")[1], module)
