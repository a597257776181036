"""The panel's choices, clicked in the stand-in host of ``Testing/host``: real module, real ``.ui``, real MRML."""

from __future__ import annotations

from panel_cases import add_colours, add_volume, choose, choose_pair, slicer


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
        choose(ui.methodComboBox, "cyclemorph")
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
        choose(ui.methodComboBox, "cyclemorph-2d")
        assert ui.applyButton.enabled, ui.applyButton.toolTip
        ui.fixedSelector.setCurrentNode(add_volume("Second volume"))
        ui.movingSelector.setCurrentNode(volume)
        assert "CycleMorph 2D registers single slices, not volumes" in ui.applyButton.toolTip

    def test_colours_can_be_selected(self, panel, tmp_path):
        (tmp_path / "weights.pth").touch()
        ui = panel.ui
        ui.checkpointPathLineEdit.currentPath = str(tmp_path / "weights.pth")
        choose(ui.methodComboBox, "cyclemorph-2d")
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
        choose(ui.methodComboBox, "optimize")
        ui.outputVolumeSelector.setCurrentNode(None)
        ui.fixedSelector.setCurrentNode(add_colours("Many slices", 9))
        ui.movingSelector.setCurrentNode(add_volume("Volume"))
        assert '"Many slices" is a colour volume' in ui.applyButton.toolTip

    def test_presets_come_first_then_every_method_each_with_what_it_is(self, panel):
        from CycleRegLib.methods import list_methods
        from CycleRegLib.presets import list_presets

        combo = panel.ui.methodComboBox
        presets = [f"preset:{preset.id}" for preset in list_presets()]
        # None is the line between them.
        methods = [method.id for method in list_methods()]
        assert [combo.itemData(i) for i in range(combo.count)] == [*presets, None, *methods]
        assert combo.currentData == "preset:accurate"
        for preset in list_presets():
            choose(combo, f"preset:{preset.id}")
            assert panel.ui.methodSummaryLabel.text == preset.summary
        for method in list_methods():
            choose(combo, method.id)
            assert method.summary in panel.ui.methodSummaryLabel.text
