"""Running from the panel: a child process played by the test, its results, its end, what is missing."""

from __future__ import annotations

import subprocess
import sys
import types
from importlib.machinery import ModuleSpec

import numpy as np
import pytest
import SimpleITK as sitk
from panel_cases import PANEL, choose, choose_pair, number_of_nodes, results_shown, slicer, write_results


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
        assert process.option("--preset") == "accurate"
        assert process.option("--progress") == "json"
        assert process.option("--output-jacobian") is None
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

    def test_the_inverse_comes_by_itself_unless_it_is_not_wanted(self, panel):
        """Both directions are made; a second run overwrites the same two nodes."""
        choose_pair(panel)
        panel.ui.bothDirectionsCheckBox.checked = False
        panel.ui.applyButton.click()
        assert panel.processes[0].option("--output-inverse-transform") is None
        write_results(panel.processes[0])
        panel.processes[0].end()
        assert panel.ui.outputInverseTransformSelector.currentNode() is None
        panel.ui.bothDirectionsCheckBox.checked = True
        for run in (1, 2):
            panel.ui.applyButton.click()
            write_results(panel.processes[run])
            panel.processes[run].end()
            inverse = panel.ui.outputInverseTransformSelector.currentNode()
            assert inverse.GetName() == "Portal to Arterial transform"
            point = [0.0, 0.0, 0.0]
            inverse.GetTransformFromParent().TransformPoint((10.0, -20.0, 15.0), point)
            assert point[0] == pytest.approx(11.0)
        choose(panel.ui.viewsComparisonComboBox, "roundtrip")
        assert panel.ui.viewsCompareButton.enabled, panel.ui.viewsCompareButton.toolTip

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

    def test_a_failing_installation_is_one_message(self, panel, monkeypatch):
        from CycleRegPanel import Environment

        def fail(requirement: str) -> None:
            raise subprocess.CalledProcessError(1, ["pip", "install", requirement])

        choose_pair(panel)
        monkeypatch.setattr(Environment, "requirements", lambda: ["no-such-package>=1.0"])
        monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, *_: True)
        monkeypatch.setattr(slicer.util, "pip_install", fail, raising=False)
        panel.ui.applyButton.click()
        assert panel.processes == []
        assert panel.ui.statusLabel.text == "The packages no-such-package>=1.0 could not be installed."

    def test_the_extensions_manager_asks_again_after_it_installed_pytorch(self, panel, monkeypatch):
        from CycleRegPanel import Environment

        asked = []

        def install(name: str, restart: bool) -> bool:
            asked.append((name, restart, manager.interactive))
            return True

        manager = types.SimpleNamespace(interactive=True, installExtensionFromServer=install)
        choose_pair(panel)
        monkeypatch.setattr(Environment, "has_torch", lambda: False)
        monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, *_: True)
        monkeypatch.setattr(slicer.app, "extensionsManagerModel", lambda: manager, raising=False)
        panel.ui.applyButton.click()
        assert asked == [("PyTorch", False, False)]
        assert manager.interactive
        assert "Restart Slicer" in panel.ui.statusLabel.text

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
