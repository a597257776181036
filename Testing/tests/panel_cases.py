"""What the tests of the panel share: the open panel in the stand-in host, a child played by the test, volumes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "CycleReg" / "CycleReg.py"
UI = ROOT / "CycleReg" / "Resources" / "UI"
PANEL = ROOT / "CycleReg" / "CycleRegPanel"

sys.path.insert(0, str(ROOT / "Testing"))
sys.path.append(str(MODULE.parent))

try:
    import host
except ImportError as missing:
    # PySide6 is installed with the environment; only the system's own libraries can be missing.
    if ".so" not in str(missing) or os.environ.get("CI"):
        raise
    pytest.skip(
        f"Qt cannot start ({missing}). On Debian or Ubuntu: apt-get install libegl1 libgl1 libxkbcommon0 "
        "libfontconfig1 libdbus-1-3",
        allow_module_level=True,
    )

import slicer  # noqa: E402


class Signal:
    """What a PythonQt signal looks like from Python."""

    def __init__(self) -> None:
        self._functions: list[Any] = []

    def connect(self, function: Any) -> None:
        self._functions.append(function)

    def emit(self, *arguments: Any) -> None:
        for function in self._functions:
            function(*arguments)


class FakeProcess:
    """A ``qt.QProcess`` whose child is played by the test."""

    def __init__(self) -> None:
        self.readyReadStandardOutput, self.readyReadStandardError = Signal(), Signal()
        self.errorOccurred, self.finished = Signal(), Signal()
        self.program, self.arguments, self.killed = "", [], False
        self._output, self._errors, self._code, self._crashed = b"", b"", 0, False

    def start(self, program: str, arguments: list[str]) -> None:
        self.program, self.arguments = program, arguments

    def option(self, name: str) -> str | None:
        return self.arguments[self.arguments.index(name) + 1] if name in self.arguments else None

    def say(self, output: bytes = b"", errors: bytes = b"") -> None:
        self._output += output
        self._errors += errors
        self.readyReadStandardOutput.emit()
        self.readyReadStandardError.emit()

    def end(self, code: int = 0, crashed: bool = False) -> None:
        self._code, self._crashed = code, crashed
        self.finished.emit(code, self.exitStatus())

    def kill(self) -> None:
        self.killed = True

    def waitForFinished(self, milliseconds: int = -1) -> bool:
        if self.killed:
            self.end(9, crashed=True)
        return True

    def exitCode(self) -> int:
        return self._code

    def exitStatus(self) -> Any:
        import qt

        return qt.QProcess.CrashExit if self._crashed else qt.QProcess.NormalExit

    def readAllStandardOutput(self) -> Any:
        return self._take("_output")

    def readAllStandardError(self) -> Any:
        return self._take("_errors")

    def _take(self, name: str) -> Any:
        import qt

        data = getattr(self, name)
        setattr(self, name, b"")
        return qt.QByteArray(data)


class FakeQuery:
    """A question to the library, answered by the test."""

    def __init__(self, arguments: list[str], onAnswer: Any, onError: Any = None) -> None:
        self.arguments, self.answer, self.fail, self.stopped = arguments, onAnswer, onError, False

    def stop(self) -> None:
        self.stopped = True


def open_panel(monkeypatch: Any) -> Any:
    """Open the module; ``processes`` and ``queries`` of the widget hold the children that it started."""
    from CycleRegPanel import MethodSection

    queries: list[FakeQuery] = []

    def ask(*arguments: Any) -> FakeQuery:
        queries.append(FakeQuery(*arguments))
        return queries[-1]

    monkeypatch.setattr(MethodSection, "Query", ask)
    widget = host.open_module("CycleReg", MODULE)
    widget.processes, widget.queries = [], queries

    def make() -> FakeProcess:
        widget.processes.append(FakeProcess())
        return widget.processes[-1]

    widget.processFactory = make
    return widget


def add_volume(name: str, size: tuple[int, int, int] = (12, 11, 10)) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetSpacing(1.5, 2.0, 2.5)
    node.SetOrigin(5.0, -7.0, 11.0)
    x, y, z = np.meshgrid(*(np.arange(n) for n in size), indexing="ij")
    slicer.util.updateVolumeFromArray(node, (x + 2 * y + 3 * z).T.astype(np.float32))
    return node


def add_colours(name: str, slices: int) -> Any:
    import vtk

    data = vtk.vtkImageData()
    data.SetDimensions(12, 11, slices)
    data.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", name)
    node.SetAndObserveImageData(data)
    return node


def choose_pair(panel: Any) -> tuple[Any, Any]:
    fixed, moving = add_volume("Portal"), add_volume("Arterial")
    panel.ui.fixedSelector.setCurrentNode(fixed)
    panel.ui.movingSelector.setCurrentNode(moving)
    return fixed, moving


def number_of_nodes() -> int:
    return slicer.mrmlScene.GetNumberOfNodes()


def write_results(process: FakeProcess, shift: tuple[float, float, float] = (1.0, 2.0, 3.0)) -> None:
    """What ``cyclereg register`` leaves behind: a constant shift, and a summary."""
    fixed = sitk.ReadImage(process.option("--fixed"))
    for option, vector in (("--output-transform", shift), ("--output-inverse-transform", [-c for c in shift])):
        if process.option(option):
            vectors = np.broadcast_to(np.float32(vector), (*fixed.GetSize()[::-1], 3))
            field = sitk.GetImageFromArray(vectors, isVector=True)
            field.CopyInformation(fixed)
            sitk.WriteImage(field, process.option(option))
    for option in ("--output-volume", "--output-jacobian", "--output-roundtrip"):
        if process.option(option):
            sitk.WriteImage(fixed + 1, process.option(option))
    summary = {
        "method": "optimize",
        "device": "cpu",
        "seconds": {"affine": 1.0, "total": 3.25},
        "similarity": {"before": 0.25, "after": 0.75},
        "folding_percent": 0.5,
        "roundtrip_mm": {"mean": 0.0625, "p95": 0.125},
    }
    Path(process.option("--json")).write_text(json.dumps(summary), encoding="utf-8")


def results_shown(panel: Any) -> dict[str, str]:
    table = panel.ui.resultsTable
    return {table.item(row, 0).text(): table.item(row, 1).text() for row in range(table.rowCount)}


def choose(combo: Any, data: Any) -> None:
    """Choose the item of a combo box that carries ``data``."""
    index = combo.findData(data)
    assert index >= 0, data
    combo.setCurrentIndex(index)
