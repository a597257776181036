"""What the panel makes of what is loaded, and what it hands to the command line: guesses, masks, options, facts."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from panel_cases import add_volume, choose, choose_pair, host, slicer


def settle() -> None:
    host.process_events_until(lambda: False, 0.05)


class TestGuess:
    def test_two_volumes_are_taken_in_the_order_of_loading(self, panel):
        first = add_volume("CT 1")
        settle()
        assert panel.ui.fixedSelector.currentNode() is first
        assert panel.ui.movingSelector.currentNode() is None
        second = add_volume("CT 2")
        settle()
        assert panel.ui.movingSelector.currentNode() is second
        assert panel.ui.applyButton.enabled

    def test_names_tell_which_is_which(self, panel):
        arterial = add_volume("Liver arterial")
        settle()
        portal = add_volume("Liver portal venous")
        settle()
        assert panel.ui.fixedSelector.currentNode() is portal
        assert panel.ui.movingSelector.currentNode() is arterial

    def test_what_was_chosen_stays(self, panel):
        fixed, moving = choose_pair(panel)
        add_volume("fixed reference")
        settle()
        assert panel.ui.fixedSelector.currentNode() is fixed
        assert panel.ui.movingSelector.currentNode() is moving

    def test_label_maps_and_results_are_not_taken(self, panel):
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "fixed labels")
        add_volume("fixed result").SetAttribute("CycleReg.Result", "1")
        settle()
        assert panel.ui.fixedSelector.currentNode() is None


class TestCommandLine:
    def test_masks_and_initial_transform_go_to_the_child(self, panel):
        fixed, _ = choose_pair(panel)
        mask = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Liver")
        mask.SetSpacing(fixed.GetSpacing())
        mask.SetOrigin(fixed.GetOrigin())
        array = np.zeros((10, 11, 12), np.uint8)
        array[3:7, 4:8, 5:9] = 2
        slicer.util.updateVolumeFromArray(mask, array)
        start = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Start")
        matrix = slicer.util.arrayFromTransformMatrix(start)
        matrix[0, 3] = -2.0  # moves what is under it by -2 mm along R
        slicer.util.updateTransformMatrixFromArray(start, matrix)
        ui = panel.ui
        ui.fixedMaskSelector.setCurrentNode(mask)
        ui.initialTransformSelector.setCurrentNode(start)
        assert not ui.optionalInputsCollapsibleButton.collapsed
        ui.applyButton.click()
        (process,) = panel.processes
        written = sitk.GetArrayFromImage(sitk.ReadImage(process.option("--fixed-mask")))
        np.testing.assert_array_equal(written, array > 0)
        assert process.option("--moving-mask") is None
        # Fixed to moving points, LPS: +2 mm along R is -2 mm along L.
        transform = sitk.ReadTransform(process.option("--initial-transform"))
        assert transform.TransformPoint((1.0, 2.0, 3.0)) == pytest.approx((-1.0, 2.0, 3.0))
        panel.cancel()

    def test_a_segmentation_is_a_mask_and_an_empty_one_is_refused(self, panel, tmp_path):
        from CycleRegLib.mrml import fill_segmentation, grid_from_volume_node
        from CycleRegLib.segmentations import Segmentation

        fixed, _ = choose_pair(panel)
        grid = grid_from_volume_node(fixed)
        array = np.zeros(grid.shape, np.uint8)
        array[2:8, 2:8, 2:8] = 1
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Liver")
        panel.ui.fixedMaskSelector.setCurrentNode(node)
        panel.ui.applyButton.click()
        assert panel.processes == []
        assert '"Liver" has no visible segment' in panel.ui.statusLabel.text
        fill_segmentation(node, Segmentation(grid.image(array), {1: "Liver"}))
        panel.ui.applyButton.click()
        written = sitk.GetArrayFromImage(sitk.ReadImage(panel.processes[0].option("--fixed-mask")))
        np.testing.assert_array_equal(written, array)
        panel.cancel()
        assert list(tmp_path.iterdir()) == []

    def test_expert_options_are_handed_on_and_understood(self, panel, tmp_path):
        from CycleRegLib.cli import build_parser

        choose_pair(panel)
        ui = panel.ui
        weights = tmp_path / "weights.pth"
        weights.touch()
        choose(ui.methodComboBox, "cyclemorph-multiscale")
        ui.checkpointPathLineEdit.currentPath = str(weights)
        choose(ui.affineComboBox, "rigid")
        choose(ui.precisionComboBox, "float32")
        ui.refineStepsSpinBox.value = 20
        ui.smoothnessSpinBox.value = 4.0
        ui.patchSizeSpinBox.value = 96
        ui.patchOverlapSpinBox.value = 0.25
        ui.applyButton.click()
        given = build_parser().parse_args(panel.processes[0].arguments[1:])
        assert given.method == "cyclemorph-multiscale"
        assert given.preset is None
        assert given.checkpoint == str(weights)
        assert (given.affine, given.precision, given.refine_steps, given.smoothness) == ("rigid", "float32", 20, 4.0)
        assert (given.patch_size, given.patch_overlap, given.organ_slices) == (96, "0.25", False)
        panel.cancel()

    def test_a_preset_leaves_out_what_it_does_not_use(self, panel, tmp_path):
        from CycleRegLib.cli import build_parser

        choose_pair(panel)
        panel.ui.checkpointPathLineEdit.currentPath = str(tmp_path / "left over.pth")
        choose(panel.ui.methodComboBox, "preset:large")
        assert not panel.ui.patchSizeSpinBox.isEnabled()
        panel.ui.applyButton.click()
        given = build_parser().parse_args(panel.processes[0].arguments[1:])
        assert (given.preset, given.method, given.checkpoint) == ("large", None, None)
        panel.cancel()

    def test_slices_of_masks_need_a_mask(self, panel, tmp_path):
        choose_pair(panel)
        panel.ui.organSlicesCheckBox.checked = True
        # The pair optimisation has no such option.
        assert panel.ui.applyButton.enabled
        (tmp_path / "weights.pth").touch()
        choose(panel.ui.methodComboBox, "cyclemorph")
        panel.ui.checkpointPathLineEdit.currentPath = str(tmp_path / "weights.pth")
        assert "need a mask" in panel.ui.applyButton.toolTip


_FACTS = {
    "files": ["w.pth"],
    "method": "cyclemorph",
    "title": "CycleMorph",
    "networks": {"forward": 1_500_000},
    "stated_by_file": False,
    "licence": "",
}


class TestFacts:
    def test_the_panel_says_what_a_checkpoint_is(self, panel, tmp_path):
        ui = panel.ui
        choose(ui.methodComboBox, "cyclemorph")
        assert "none come with this method" in ui.checkpointInfoLabel.text
        ui.checkpointPathLineEdit.currentPath = str(tmp_path / "w.pth")
        assert "does not exist" in ui.checkpointInfoLabel.text
        (tmp_path / "w.pth").write_bytes(b"x" * 2_000_000)
        panel.enter()
        assert ui.checkpointInfoLabel.text == "2.0 MB"
        query = panel.queries[-1]
        assert query.arguments == ["checkpoint", "info", str(tmp_path / "w.pth"), "--json"]
        query.answer(dict(_FACTS))
        assert "CycleMorph; 1.5 million weights" in ui.checkpointInfoLabel.text
        assert "assumed" in ui.checkpointInfoLabel.text
        # The same file is not asked about again.
        count = len([q for q in panel.queries if q.arguments[0] == "checkpoint"])
        choose(ui.methodComboBox, "preset:accurate")
        choose(ui.methodComboBox, "cyclemorph")
        assert len([q for q in panel.queries if q.arguments[0] == "checkpoint"]) == count
        assert "CycleMorph" in ui.checkpointInfoLabel.text

    def test_a_file_that_would_run_code_is_named(self, panel, tmp_path):
        (tmp_path / "evil.pth").write_bytes(b"x")
        choose(panel.ui.methodComboBox, "cyclemorph")
        panel.ui.checkpointPathLineEdit.currentPath = str(tmp_path / "evil.pth")
        panel.queries[-1].fail("The checkpoint would run code and is refused.")
        assert panel.ui.checkpointInfoLabel.text == "The checkpoint would run code and is refused."

    def test_devices_show_their_free_memory(self, panel):
        combo = panel.ui.deviceComboBox
        (query,) = [q for q in panel.queries if q.arguments[0] == "devices"]
        query.answer(
            [
                {"id": "cuda:0", "name": "NVIDIA H200", "free": 120_000_000_000, "total": 150_000_000_000},
                {"id": "cpu", "name": "8 threads", "free": 20_000_000_000, "total": 32_000_000_000},
            ]
        )
        texts = {combo.itemData(index): combo.itemText(index) for index in range(combo.count)}
        assert texts == {
            "auto": "Automatic",
            "cpu": "CPU, 20.0 of 32.0 GB free",
            "cuda:0": "cuda:0: NVIDIA H200, 120.0 of 150.0 GB free",
        }
        assert combo.currentData == "auto"

    def test_the_log_keeps_stages_and_warnings(self, panel):
        choose_pair(panel)
        panel.ui.applyButton.click()
        process = panel.processes[0]
        process.say(b'{"stage": "affine", "percent": 5}\n', b"cyclereg: warning: The images are small.\n")
        process.say(b'{"stage": "optimize", "percent": 40}\n')
        log = panel.ui.logTextEdit.plainText
        assert log.startswith("cyclereg register --fixed")
        assert "Affine stage" in log
        assert "warning: The images are small." in log
        assert "40 %  Pair optimisation" in log
        assert panel.ui.statusLabel.text == "Pair optimisation"
        panel.cancel()
        assert "cancelled" in panel.ui.logTextEdit.plainText
