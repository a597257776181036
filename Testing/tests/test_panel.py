"""The panel, set up and clicked in the stand-in host of ``Testing/host``: real module, real ``.ui``, real MRML."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import SimpleITK as sitk

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "CycleReg" / "CycleReg.py"
UI = ROOT / "CycleReg" / "Resources" / "UI"
PANEL = ROOT / "CycleReg" / "CycleRegPanel"

sys.path.insert(0, str(ROOT / "Testing"))

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

# Qt's own containers and layouts, which no pointer rests on.
_WITHOUT_TOOLTIP = {"qMRMLWidget"}
_WITH_SCENE = {"qMRMLNodeComboBox"}


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


@pytest.fixture(scope="module", autouse=True)
def application():
    yield host.start()
    host.stop()


@pytest.fixture
def panel(tmp_path, monkeypatch):
    """The open panel, its children played by ``panel.processes``, temporary files in ``tmp_path``."""
    slicer.mrmlScene.Clear(0)
    monkeypatch.setattr(slicer.app, "temporaryPath", str(tmp_path))
    widget = host.open_module("CycleReg", MODULE)
    widget.processes = []

    def make() -> FakeProcess:
        widget.processes.append(FakeProcess())
        return widget.processes[-1]

    widget.processFactory = make
    yield widget
    widget.cleanup()
    widget.parent.deleteLater()


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


# ---------------------------------------------------------------------- the file


_TREES = {path.name: ElementTree.parse(path).getroot() for path in sorted(UI.glob("*.ui"))}
_WIDGETS = {element.get("name"): element for tree in _TREES.values() for element in tree.iter("widget")}


def test_every_widget_that_the_code_addresses_exists():
    addressed = set()
    for path in PANEL.glob("*.py"):
        addressed |= set(re.findall(r"\bui\.(\w+)", path.read_text(encoding="utf-8")))
    assert len(addressed) > 15
    assert addressed <= set(_WIDGETS)


def test_names_are_unique_over_all_files():
    assert len(_WIDGETS) == sum(len(list(tree.iter("widget"))) for tree in _TREES.values())


@pytest.mark.parametrize("name", _TREES)
class TestUi:
    def test_every_widget_has_a_tooltip(self, name):
        without = [
            element.get("name")
            for element in _TREES[name].iter("widget")
            if element.find("property[@name='toolTip']") is None and element.get("class") not in _WITHOUT_TOOLTIP
        ]
        assert without == []

    def test_the_scene_reaches_every_node_selector(self, name):
        tree = _TREES[name]
        selectors = {w.get("name") for w in tree.iter("widget") if w.get("class") in _WITH_SCENE}
        connected = {
            connection.findtext("receiver")
            for connection in tree.iter("connection")
            if connection.findtext("sender") == tree.find("widget").get("name")
            and connection.findtext("signal") == "mrmlSceneChanged(vtkMRMLScene*)"
            and connection.findtext("slot") == "setMRMLScene(vtkMRMLScene*)"
        }
        assert selectors == connected

    def test_custom_classes_are_declared(self, name):
        declared = {element.findtext("class") for element in _TREES[name].iter("customwidget")}
        used = {w.get("class") for w in _TREES[name].iter("widget") if not w.get("class").startswith("Q")}
        assert used == declared

    def test_labels_belong_to_their_fields(self, name):
        buddies = [label.find("property[@name='buddy']") for label in _TREES[name].iter("widget")]
        assert {buddy.findtext("cstring") for buddy in buddies if buddy is not None} <= set(_WIDGETS)


# ---------------------------------------------------------------------- registration with Slicer


def test_the_module_describes_itself(panel):
    entry = slicer.modules.cyclereg
    assert entry.title == "CycleReg"
    assert entry.categories == ["Registration"]
    assert entry.contributors == ["CycleReg developers"]
    assert len(entry.helpText) > 100
    assert entry.acknowledgementText


def test_the_icon_is_what_slicer_expects():
    icon = sitk.ReadImage(str(ROOT / "CycleReg" / "Resources" / "Icons" / "CycleReg.png"))
    assert icon.GetSize() == (128, 128)
    # RGBA, clear at the corners and not everywhere.
    alpha = sitk.GetArrayFromImage(icon)[..., 3]
    assert alpha[0, 0] == alpha[-1, -1] == 0
    assert alpha.max() == 255


# ---------------------------------------------------------------------- choices


class TestChoices:
    def test_apply_says_what_is_missing_and_becomes_enabled(self, panel):
        button = panel.ui.applyButton
        assert not button.enabled
        assert button.toolTip == "Select a fixed and a moving volume."
        fixed, moving = add_volume("Portal"), add_volume("Arterial")
        panel.ui.fixedSelector.setCurrentNode(fixed)
        assert not button.enabled
        assert button.toolTip == "Select a moving volume."
        panel.ui.movingSelector.setCurrentNode(moving)
        assert button.enabled
        panel.ui.movingSelector.setCurrentNode(fixed)
        assert not button.enabled
        assert "same" in button.toolTip

    def test_a_removed_volume_disables_apply(self, panel):
        _, moving = choose_pair(panel)
        slicer.mrmlScene.RemoveNode(moving)
        assert not panel.ui.applyButton.enabled

    def test_a_volume_without_image_is_refused(self, panel):
        fixed, _ = choose_pair(panel)
        fixed.SetAndObserveImageData(None)
        panel.enter()
        assert not panel.ui.applyButton.enabled
        assert '"Portal" holds no image' in panel.ui.applyButton.toolTip

    def test_a_network_needs_a_checkpoint(self, panel, tmp_path):
        choose_pair(panel)
        ui = panel.ui
        assert not ui.checkpointPathLineEdit.enabled
        ui.methodComboBox.setCurrentIndex(ui.methodComboBox.findData("cyclemorph"))
        assert ui.checkpointPathLineEdit.enabled
        assert not ui.applyButton.enabled
        assert "choose a checkpoint" in ui.applyButton.toolTip
        ui.checkpointPathLineEdit.currentPath = str(tmp_path / "absent.pth")
        assert "does not exist" in ui.applyButton.toolTip
        (tmp_path / "weights.pth").touch()
        ui.checkpointPathLineEdit.currentPath = str(tmp_path / "weights.pth")
        assert ui.applyButton.enabled

    def test_outputs_must_differ_from_inputs_and_from_each_other(self, panel):
        fixed, _ = choose_pair(panel)
        panel.ui.outputVolumeSelector.setCurrentNode(fixed)
        assert "overwrite an input" in panel.ui.applyButton.toolTip
        panel.ui.outputVolumeSelector.setCurrentNode(None)
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "T")
        panel.ui.outputTransformSelector.setCurrentNode(transform)
        panel.ui.outputInverseTransformSelector.setCurrentNode(transform)
        assert "same node" in panel.ui.applyButton.toolTip

    def test_slices_volumes_and_colours_must_go_together(self, panel, tmp_path):
        (tmp_path / "weights.pth").touch()
        ui = panel.ui
        ui.checkpointPathLineEdit.currentPath = str(tmp_path / "weights.pth")
        one, other, volume = add_volume("One", (12, 11, 1)), add_volume("Other", (14, 1, 13)), add_volume("Volume")
        ui.fixedSelector.setCurrentNode(one)
        ui.movingSelector.setCurrentNode(volume)
        assert "One of the volumes is a single slice" in ui.applyButton.toolTip
        ui.movingSelector.setCurrentNode(other)
        assert "Pair optimisation registers volumes, not single slices" in ui.applyButton.toolTip
        assert "CycleMorph 2D" in ui.applyButton.toolTip
        ui.methodComboBox.setCurrentIndex(ui.methodComboBox.findData("cyclemorph-2d"))
        assert ui.applyButton.enabled, ui.applyButton.toolTip
        ui.fixedSelector.setCurrentNode(add_volume("Second volume"))
        ui.movingSelector.setCurrentNode(volume)
        assert "CycleMorph 2D registers single slices, not volumes" in ui.applyButton.toolTip

    def test_colours_can_be_selected(self, panel, tmp_path):
        (tmp_path / "weights.pth").touch()
        ui = panel.ui
        ui.checkpointPathLineEdit.currentPath = str(tmp_path / "weights.pth")
        ui.methodComboBox.setCurrentIndex(ui.methodComboBox.findData("cyclemorph-2d"))
        colours = [add_colours(name, 1) for name in ("Neutral", "Happy")]
        ui.fixedSelector.setCurrentNode(colours[0])
        ui.movingSelector.setCurrentNode(colours[1])
        assert ui.applyButton.enabled, ui.applyButton.toolTip
        ui.outputVolumeSelector.setCurrentNode(add_volume("Grey", (12, 11, 1)))
        assert "is a vector volume" in ui.applyButton.toolTip
        ui.outputVolumeSelector.setCurrentNode(add_colours("Warped", 1))
        assert ui.applyButton.enabled
        ui.movingSelector.setCurrentNode(add_volume("Grey too", (12, 11, 1)))
        assert "is a scalar volume" in ui.applyButton.toolTip
        ui.methodComboBox.setCurrentIndex(ui.methodComboBox.findData("optimize"))
        ui.outputVolumeSelector.setCurrentNode(None)
        ui.fixedSelector.setCurrentNode(add_colours("Many slices", 9))
        ui.movingSelector.setCurrentNode(add_volume("Volume"))
        assert '"Many slices" is a colour volume' in ui.applyButton.toolTip

    def test_the_methods_are_the_librarys(self, panel):
        from CycleRegLib.methods import DEFAULT_METHOD, list_methods

        combo = panel.ui.methodComboBox
        assert [combo.itemData(i) for i in range(combo.count)] == [method.id for method in list_methods()]
        assert panel.parameters().method == DEFAULT_METHOD
        assert combo.toolTip == list_methods()[0].summary


# ---------------------------------------------------------------------- running


class TestRun:
    def test_apply_runs_a_child_and_brings_its_result_into_the_scene(self, panel, tmp_path):
        _, moving = choose_pair(panel)
        warped = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Warped")
        panel.ui.outputVolumeSelector.setCurrentNode(warped)
        before = number_of_nodes()
        panel.ui.applyButton.click()

        (process,) = panel.processes
        assert process.arguments[0] == str(PANEL / "Child.py")
        assert process.arguments[1] == "register"
        assert process.option("--method") == "optimize"
        assert process.option("--progress") == "json"
        assert process.option("--output-inverse-transform") is None
        written = sitk.ReadImage(process.option("--moving"))
        assert np.array_equal(sitk.GetArrayFromImage(written), slicer.util.arrayFromVolume(moving))
        assert written.GetSpacing() == pytest.approx((1.5, 2.0, 2.5))
        assert written.GetOrigin() == pytest.approx((-5.0, 7.0, 11.0))
        assert panel.ui.applyButton.text == "Cancel"
        assert panel.ui.applyButton.enabled
        assert not panel.ui.fixedSelector.isEnabled()
        assert number_of_nodes() == before

        # Pipes cut where they like.
        process.say(b'{"stage": "Affine stage", "percent": 12.5}\n{"stage": "Optimi')
        assert panel.ui.progressBar.value == 12
        assert panel.ui.statusLabel.text == "Affine stage"
        process.say(b'sation", "percent": 80}\r\nsomething else\n')
        assert panel.ui.progressBar.value == 80
        assert panel.ui.statusLabel.text == "Optimisation"

        write_results(process)
        process.say(b'{"done": true}\n')
        assert number_of_nodes() == before
        process.end()

        transform = panel.ui.outputTransformSelector.currentNode()
        assert transform.GetName() == "Arterial to Portal transform"
        point = [0.0, 0.0, 0.0]
        transform.GetTransformFromParent().TransformPoint((10.0, -20.0, 15.0), point)
        assert point == pytest.approx((9.0, -22.0, 18.0))
        assert slicer.util.arrayFromVolume(warped).min() == 1
        shown = results_shown(panel)
        assert shown["Folding"] == "0.5000 %"
        assert shown["Round trip, mean"] == "0.062 mm"
        assert shown["Time"] == "3.2 s"
        assert panel.ui.applyButton.text == "Apply"
        assert panel.ui.fixedSelector.isEnabled()
        assert list(tmp_path.iterdir()) == []

    def test_every_output_is_asked_for_and_read_back(self, panel):
        choose_pair(panel)
        nodes = {}
        for name, node_class in (
            ("outputTransform", "vtkMRMLTransformNode"),
            ("outputInverseTransform", "vtkMRMLTransformNode"),
            ("outputVolume", "vtkMRMLScalarVolumeNode"),
            ("outputJacobian", "vtkMRMLScalarVolumeNode"),
            ("outputRoundtrip", "vtkMRMLScalarVolumeNode"),
        ):
            nodes[name] = slicer.mrmlScene.AddNewNodeByClass(node_class, name)
            getattr(panel.ui, f"{name}Selector").setCurrentNode(nodes[name])
        panel.ui.applyButton.click()
        write_results(panel.processes[0])
        panel.processes[0].end()
        for name, sign in (("outputTransform", -1.0), ("outputInverseTransform", 1.0)):
            point = [0.0, 0.0, 0.0]
            nodes[name].GetTransformFromParent().TransformPoint((10.0, -20.0, 15.0), point)
            assert point[0] == pytest.approx(10.0 + sign)
        for name in ("outputVolume", "outputJacobian", "outputRoundtrip"):
            assert nodes[name].GetImageData() is not None
        # A second run overwrites them instead of adding more.
        before = number_of_nodes()
        panel.ui.applyButton.click()
        write_results(panel.processes[1])
        panel.processes[1].end()
        assert number_of_nodes() == before

    def test_an_error_of_the_child_is_one_message_and_leaves_the_scene(self, panel, tmp_path):
        choose_pair(panel)
        before = number_of_nodes()
        panel.ui.applyButton.click()
        panel.processes[0].say(errors=b"UserWarning: something\ncyclereg: error: The images do not overlap.\n")
        panel.processes[0].end(2)
        assert panel.ui.statusLabel.text == "The images do not overlap."
        assert panel.ui.applyButton.text == "Apply"
        assert panel.ui.applyButton.enabled
        assert number_of_nodes() == before
        assert list(tmp_path.iterdir()) == []

    def test_a_crash_of_the_child_says_so(self, panel):
        choose_pair(panel)
        panel.ui.applyButton.click()
        panel.processes[0].end(11, crashed=True)
        assert "ended unexpectedly" in panel.ui.statusLabel.text
        assert panel.ui.applyButton.enabled

    def test_a_child_that_does_not_start_says_so(self, panel):
        import qt

        choose_pair(panel)
        panel.ui.applyButton.click()
        panel.processes[0].errorOccurred.emit(qt.QProcess.FailedToStart)
        assert "could not be started" in panel.ui.statusLabel.text
        assert panel.ui.applyButton.text == "Apply"

    def test_results_that_cannot_be_read_leave_the_scene(self, panel, tmp_path):
        choose_pair(panel)
        before = number_of_nodes()
        panel.ui.applyButton.click()
        panel.processes[0].end()
        assert panel.ui.statusLabel.text
        assert panel.ui.applyButton.text == "Apply"
        assert number_of_nodes() == before
        assert list(tmp_path.iterdir()) == []

    def test_a_node_that_cannot_be_used_is_refused_before_anything_starts(self, panel, tmp_path):
        _, moving = choose_pair(panel)
        array = slicer.util.arrayFromVolume(moving)
        array[...] = 7
        slicer.util.arrayFromVolumeModified(moving)
        panel.ui.applyButton.click()
        assert panel.processes == []
        assert "Arterial" in panel.ui.statusLabel.text
        assert list(tmp_path.iterdir()) == []

    def test_cancel_stops_the_child_and_leaves_nothing(self, panel, tmp_path):
        choose_pair(panel)
        before = number_of_nodes()
        panel.ui.applyButton.click()
        write_results(panel.processes[0])
        panel.ui.applyButton.click()
        assert panel.processes[0].killed
        assert panel.ui.applyButton.text == "Apply"
        assert "Cancelled" in panel.ui.statusLabel.text
        assert number_of_nodes() == before
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("event", ["close the scene", "close the application"])
    def test_closing_stops_the_child(self, panel, tmp_path, event):
        choose_pair(panel)
        panel.ui.applyButton.click()
        if event == "close the scene":
            slicer.mrmlScene.Clear(0)
        else:
            panel.cleanup()
        assert panel.processes[0].killed
        assert not panel.running
        assert list(tmp_path.iterdir()) == []

    def test_missing_packages_are_asked_for_and_a_no_is_respected(self, panel, monkeypatch):
        from CycleRegPanel import Environment

        choose_pair(panel)
        questions = []
        monkeypatch.setattr(Environment, "requirements", lambda: ["numpy>=1.0", "no-such-package>=1.0"])
        monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, *_: questions.append(text) or False)
        panel.ui.applyButton.click()
        assert len(questions) == 1
        assert "no-such-package>=1.0" in questions[0]
        assert panel.processes == []
        assert "no-such-package" in panel.ui.statusLabel.text

    def test_where_slicer_has_its_own_installer_that_one_asks(self, panel, monkeypatch):
        from CycleRegPanel import Environment

        asked = []

        def decline(requirements: list[str], requester: str) -> None:
            asked.append((requirements, requester))
            raise RuntimeError("User declined package installation")

        packaging = types.ModuleType("slicer.packaging")
        packaging.__spec__ = ModuleSpec("slicer.packaging", None)
        packaging.pip_ensure = decline
        monkeypatch.setitem(sys.modules, "slicer.packaging", packaging)
        monkeypatch.setattr(slicer, "packaging", packaging, raising=False)
        monkeypatch.setattr(Environment, "requirements", lambda: ["no-such-package>=1.0"])
        choose_pair(panel)
        panel.ui.applyButton.click()
        assert asked == [(["no-such-package>=1.0"], "CycleReg")]
        assert panel.processes == []

    def test_missing_pytorch_names_the_extension(self, panel, monkeypatch):
        from CycleRegPanel import Environment

        choose_pair(panel)
        monkeypatch.setattr(Environment, "has_torch", lambda: False)
        monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, *_: False)
        panel.ui.applyButton.click()
        assert panel.processes == []
        assert "PyTorch extension" in panel.ui.statusLabel.text

    def test_reload_forgets_the_code_behind_the_module(self, panel, monkeypatch):
        seen = []
        base = slicer.ScriptedLoadableModule.ScriptedLoadableModuleWidget
        kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] in _RELOADED}
        assert kept
        monkeypatch.setattr(
            base, "onReload", lambda self: seen.extend(n for n in sys.modules if n in kept), raising=False
        )
        panel.onReload()
        sys.modules.update(kept)
        assert seen == []


_RELOADED = ("CycleRegPanel", "CycleRegLib")


# ---------------------------------------------------------------------- pictures


@pytest.mark.parametrize("width", [360, 420, 700])
def test_nothing_is_cut_off(panel, tmp_path, width):
    """Every label, button, selector and table row has the room that it asks for."""
    choose_pair(panel)
    panel.ui.advancedCollapsibleButton.collapsed = False
    panel.ui.applyButton.click()
    panel.processes[0].say(b'{"stage": "Optimising the fields, level 2 of 3", "percent": 42}\n')
    host.photograph(panel.parent, tmp_path / "running.png", width)
    _check_room(panel)
    write_results(panel.processes[0])
    panel.processes[0].end()
    host.photograph(panel.parent, tmp_path / "done.png", width)
    _check_room(panel)
    table = panel.ui.resultsTable
    last = table.visualItemRect(table.item(table.rowCount - 1, 0))
    assert last.bottom() <= table.viewport().height()
    assert table.horizontalHeader().length() == table.viewport().width()


def _check_room(panel: Any) -> None:
    from PySide6 import QtWidgets

    checked = 0
    for widget in panel.parent.findChildren(QtWidgets.QWidget):
        shown = QtWidgets.QWidget.isVisible(widget)
        if shown and isinstance(widget, (QtWidgets.QLabel, QtWidgets.QPushButton, QtWidgets.QComboBox)):
            needed, got = widget.minimumSizeHint(), QtWidgets.QWidget.size(widget)
            assert got.height() >= needed.height(), widget.objectName
            assert got.width() >= needed.width(), widget.objectName
            checked += 1
    assert checked > 15


# ---------------------------------------------------------------------- the child process

_PRELUDE = "import sys, time, json\nprint(json.dumps({'stage': 'Working', 'percent': 50.0}))\n"


@pytest.fixture
def module_copy(tmp_path):
    """A copy of the module whose library is a few lines that the test gives."""
    folder = tmp_path / "CycleReg"
    (folder / "CycleRegPanel").mkdir(parents=True)
    (folder / "CycleRegLib").mkdir()
    for name in ("__init__.py", "Child.py", "Library.py"):
        (folder / "CycleRegPanel" / name).write_bytes((PANEL / name).read_bytes())
    (folder / "CycleRegLib" / "__init__.py").touch()

    def make(body: str) -> Path:
        (folder / "CycleRegLib" / "__main__.py").write_text(_PRELUDE + body, encoding="utf-8")
        return folder / "CycleRegPanel" / "Child.py"

    return make


def run_worker(monkeypatch: Any, child: Path, arguments: list[str]) -> Any:
    """A worker whose real child has written its first line of progress."""
    from CycleRegPanel import Worker

    monkeypatch.setattr(Worker, "_CHILD", str(child))
    progress, ends = [], []
    worker = Worker.Worker(lambda *p: progress.append(p), lambda *e: ends.append(e))
    worker.start(arguments)
    assert host.process_events_until(lambda: progress or ends)
    worker.progress, worker.ends = progress, ends
    return worker


class TestChild:
    def test_the_child_runs_the_modules_own_library_with_the_arguments(self, module_copy, monkeypatch):
        child = module_copy("print(sys.argv[1:]); sys.exit(0 if sys.argv[1:] == ['register', 'ü b'] else 1)")
        worker = run_worker(monkeypatch, child, ["register", "ü b"])
        assert host.process_events_until(lambda: worker.ends)
        assert worker.progress == [("Working", 50.0)]
        assert worker.ends == [("succeeded", "")], worker.log
        assert "['register', 'ü b']" in worker.log

    def test_its_last_line_on_stderr_is_the_message(self, module_copy, monkeypatch):
        child = module_copy("print('a warning', file=sys.stderr)\nsys.exit('cyclereg: error: No overlap (3 µm).')")
        worker = run_worker(monkeypatch, child, [])
        assert host.process_events_until(lambda: worker.ends)
        assert worker.ends == [("failed", "No overlap (3 µm).")]

    def test_cancel_ends_a_busy_child_within_a_second(self, module_copy, monkeypatch):
        worker = run_worker(monkeypatch, module_copy("while True: pass"), [])
        start = time.monotonic()
        worker.cancel()
        assert time.monotonic() - start < 1.0
        assert worker.ends == [("cancelled", "")]

    def test_the_interpreter_behind_a_launcher_ends_with_it(self, module_copy, tmp_path):
        """PythonSlicer is a launcher: killing it must not leave the computation running."""
        pid_file = tmp_path / "pid"
        child = module_copy(f"import os; open({str(pid_file)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)")
        launcher = "import subprocess, sys; subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE).wait()"
        process = subprocess.Popen(
            [sys.executable, "-c", launcher, sys.executable, str(child)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert _until(lambda: pid_file.exists() and pid_file.read_text() != "")
        pid = int(pid_file.read_text())
        process.kill()
        process.communicate()
        assert _until(lambda: not _is_running(pid))

    def test_without_a_pipe_the_child_runs_on(self, module_copy):
        child = module_copy("time.sleep(0.3); print('end')")
        done = subprocess.run(
            [sys.executable, str(child)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0
        assert done.stdout.endswith("end\n")


def _until(condition: Any, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Killed but not yet collected by whoever inherited it.
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")


# ---------------------------------------------------------------------- other hosts


def run_python(code: str, *arguments: str) -> str:
    """Run ``code`` in a fresh interpreter; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, cwd=ROOT.anchor
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_opening_the_panel_neither_imports_nor_needs_pytorch():
    run_python(
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "import host; host.start()\n"
        "widget = host.open_module('CycleReg', Path(sys.argv[3]))\n"
        "assert widget.ui.methodComboBox.count >= 2\n",
        str(ROOT / "Testing"),
        str(ROOT),
        str(MODULE),
    )


def test_the_logic_is_there_without_application_and_qt():
    """slicer-core: the module file imports, its logic can be made, there is no panel."""
    out = run_python(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import slicer\n"
        "import CycleReg\n"
        "assert CycleReg.CycleRegWidget is None\n"
        "assert 'qt' not in sys.modules and 'PySide6' not in sys.modules\n"
        "print(sorted(n for n in dir(CycleReg.CycleRegLogic()) if n[0] != '_'))\n",
        str(MODULE.parent),
    )
    assert out.strip() == "['evaluate', 'process']"


def test_the_logic_passes_every_argument_on(monkeypatch):
    import inspect

    from CycleRegPanel.Logic import CycleRegLogic

    from CycleRegLib import mrml

    names = [name for name in inspect.signature(CycleRegLogic.process).parameters if name != "self"]
    assert set(names) <= set(inspect.signature(mrml.process).parameters)
    seen = {}
    monkeypatch.setattr(mrml, "process", lambda fixedNode, movingNode, **k: seen.update(k, fixedNode=fixedNode))
    CycleRegLogic().process(**{name: name.upper() for name in names})
    assert {name: seen[name] for name in names if name != "movingNode"} == {
        name: name.upper() for name in names if name != "movingNode"
    }


# ---------------------------------------------------------------------- with the real library


def test_the_self_test_passes_without_the_application():
    """What Slicer's own test runner runs, on slicer-core."""
    run_python(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import torch; torch.set_num_threads(2)\n"
        "import CycleReg\n"
        "from CycleRegLib.mrml import ensure_scene; ensure_scene()\n"
        "CycleReg.CycleRegTest().runTest()\n",
        str(MODULE.parent),
    )


def test_a_pair_is_registered_in_a_real_child_process(panel, tmp_path):
    """From click to transform: a body that was moved by 6 mm."""
    import CycleReg

    fixed = CycleReg.CycleRegTest._body("Fixed", np.zeros(3))
    moving = CycleReg.CycleRegTest._body("Moving", np.array([6.0, 0.0, 0.0]))
    panel.ui.fixedSelector.setCurrentNode(fixed)
    panel.ui.movingSelector.setCurrentNode(moving)
    for combo, choice in ((panel.ui.deviceComboBox, "cpu"), (panel.ui.affineComboBox, "none")):
        combo.setCurrentIndex(combo.findData(choice))
    panel.processFactory = None
    seen = []
    panel.ui.progressBar.valueChanged.connect(seen.append)
    panel.ui.applyButton.click()
    assert panel.running, panel.ui.statusLabel.text
    assert host.process_events_until(lambda: not panel.running, 120.0)
    assert panel.ui.statusLabel.text == "Done."
    assert len(seen) > 3
    assert seen == sorted(seen)
    transform = panel.ui.outputTransformSelector.currentNode()
    point = [0.0, 0.0, 0.0]
    transform.GetTransformFromParent().TransformPoint((12.0, 0.0, 0.0), point)
    assert point == pytest.approx((18.0, 0.0, 0.0), abs=1.5)
    assert {"Folding", "Round trip, mean", "Time", "Device", "Method"} <= set(results_shown(panel))
    assert list(tmp_path.iterdir()) == []


def test_colour_slices_are_registered_in_a_real_child_process(panel, tmp_path):
    """From click to transform and warped colours, with weights that move by 3 and 2 pixels."""
    from flat_cases import constant_checkpoint, picture

    from CycleRegLib import mrml

    (tmp_path / "weights").mkdir()
    weights = constant_checkpoint(tmp_path / "weights", (-2.0, 3.0), (2.0, -3.0))
    moving = picture((112, 96), (3.0, -2.0))
    ui = panel.ui
    ui.fixedSelector.setCurrentNode(mrml.volume_node(picture(), "Neutral"))
    ui.movingSelector.setCurrentNode(mrml.volume_node(moving, "Happy"))
    ui.methodComboBox.setCurrentIndex(ui.methodComboBox.findData("cyclemorph-2d"))
    ui.affineComboBox.setCurrentIndex(ui.affineComboBox.findData("none"))
    ui.checkpointPathLineEdit.currentPath = str(weights)
    warped = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "Warped")
    ui.outputVolumeSelector.setCurrentNode(warped)
    panel.processFactory = None
    ui.applyButton.click()
    assert panel.running, ui.statusLabel.text
    assert host.process_events_until(lambda: not panel.running, 120.0)
    assert ui.statusLabel.text == "Done."
    point = [0.0, 0.0, 0.0]
    ui.outputTransformSelector.currentNode().GetTransformFromParent().TransformPoint((-20.0, -30.0, 0.0), point)
    assert point == pytest.approx((-23.0, -28.0, 0.0), abs=1e-4)
    found = sitk.GetArrayFromImage(mrml.image_from_volume_node(warped, colours=True))
    np.testing.assert_array_equal(found[0, 2:], sitk.GetArrayFromImage(moving)[:88, 3:103])
    assert {"NMSE, before and after", "SSIM, before and after"} <= set(results_shown(panel))
