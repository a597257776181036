"""Parameter sets of the panel: saved and restored with the scene, closed with it, several side by side, reloaded."""

from __future__ import annotations

import sys

import pytest
from panel_cases import add_volume, choose, choose_pair, host, slicer

from CycleRegLib import mrml


def settle() -> None:
    """What Qt does as soon as the application is idle again."""
    host.process_events_until(lambda: False, 0.05)


def change_everything(panel) -> None:
    ui = panel.ui
    choose(ui.methodComboBox, "voxelmorph1")
    choose(ui.deviceComboBox, "cpu")
    choose(ui.affineComboBox, "rigid")
    choose(ui.precisionComboBox, "float32")
    ui.checkpointPathLineEdit.currentPath = "/somewhere/weights.pth"
    ui.refineStepsSpinBox.value = 30
    ui.smoothnessSpinBox.value = 4.5
    ui.patchSizeSpinBox.value = 96
    ui.patchOverlapSpinBox.value = 0.25
    ui.organSlicesCheckBox.checked = True
    ui.showMovingCheckBox.checked = True
    ui.bothDirectionsCheckBox.checked = False


CHANGED = {
    "method": "voxelmorph1",
    "device": "cpu",
    "affine": "rigid",
    "precision": "float32",
    "checkpoint": "/somewhere/weights.pth",
    "refineSteps": 30,
    "smoothness": 4.5,
    "patchSize": 96,
    "patchOverlap": 0.25,
    "organSlices": True,
    "showMoving": True,
    "bothDirections": False,
}


def values(node) -> dict:
    return {name: node.getValue(name) for name in CHANGED}


def test_every_choice_is_in_the_parameter_node(panel):
    fixed, moving = choose_pair(panel)
    change_everything(panel)
    assert values(panel.parameterNode) == CHANGED
    assert panel.parameterNode.fixedNode is fixed
    assert panel.parameterNode.movingNode is moving


def test_what_a_script_sets_is_shown(panel):
    moving = add_volume("Moving")
    for name, value in CHANGED.items():
        panel.parameterNode.setValue(name, value)
    panel.parameterNode.movingNode = moving
    ui = panel.ui
    assert ui.movingSelector.currentNode() is moving
    assert ui.methodComboBox.currentData == "voxelmorph1"
    assert ui.checkpointPathLineEdit.currentPath == "/somewhere/weights.pth"
    assert ui.refineStepsSpinBox.value == 30
    assert ui.smoothnessSpinBox.value == pytest.approx(4.5)
    assert ui.organSlicesCheckBox.checked
    assert ui.showMovingCheckBox.checked


def test_defaults_are_restored_by_one_button(panel):
    before = values(panel.parameterNode)
    change_everything(panel)
    panel.ui.expertDefaultsButton.click()
    after = values(panel.parameterNode)
    kept = ("method", "device", "checkpoint", "showMoving", "bothDirections")
    assert after == {**before, **{name: CHANGED[name] for name in kept}}
    assert panel.ui.patchSizeSpinBox.value == 64


def test_a_device_of_another_machine_is_kept_and_shown(panel):
    panel.parameterNode.device = "cuda:3"
    assert panel.ui.deviceComboBox.currentData == "cuda:3"
    assert panel.parameterNode.device == "cuda:3"


def test_a_saved_scene_brings_every_choice_back(panel, tmp_path):
    choose_pair(panel)
    mask = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Liver")
    panel.ui.fixedMaskSelector.setCurrentNode(mask)
    change_everything(panel)
    phase = add_volume("Delayed")
    panel.parameterNode.phases = [phase]
    mrml.save_scene(tmp_path / "scene.mrb")
    slicer.mrmlScene.Clear(0)
    settle()
    assert values(panel.parameterNode) != CHANGED
    mrml.read_scene(tmp_path / "scene.mrb", slicer.mrmlScene)
    settle()
    assert values(panel.parameterNode) == CHANGED
    assert panel.ui.methodComboBox.currentData == "voxelmorph1"
    assert panel.ui.fixedSelector.currentNode().GetName() == "Portal"
    assert panel.ui.movingSelector.currentNode().GetName() == "Arterial"
    assert panel.ui.fixedMaskSelector.currentNode().GetName() == "Liver"
    assert [node.GetName() for node in panel.parameterNode.phases] == ["Delayed"]
    # There is one set, not the loaded one beside an empty one.
    assert panel.ui.parameterNodeSelector.count == 1


def test_a_closed_scene_leaves_an_empty_panel_that_works(panel):
    choose_pair(panel)
    change_everything(panel)
    slicer.mrmlScene.Clear(0)
    settle()
    assert panel.ui.fixedSelector.currentNode() is None
    assert panel.ui.methodComboBox.currentData == "preset:accurate"
    assert panel.ui.refineStepsSpinBox.value == 0
    assert "Select" in panel.ui.applyButton.toolTip
    choose_pair(panel)
    assert panel.ui.applyButton.enabled
    assert panel.parameterNode.fixedNode.GetName() == "Portal"


def test_several_sets_are_kept_apart(panel):
    ui = panel.ui
    fixed, moving = choose_pair(panel)
    first = panel.parameterNode.parameterNode
    second = ui.parameterNodeSelector.addNode()
    assert second is not first
    assert panel.parameterNode.parameterNode is second
    assert ui.fixedSelector.currentNode() is None
    ui.fixedSelector.setCurrentNode(moving)
    change_everything(panel)
    ui.parameterNodeSelector.setCurrentNode(first)
    assert ui.fixedSelector.currentNode() is fixed
    assert ui.methodComboBox.currentData == "preset:accurate"
    ui.smoothnessSpinBox.value = 2.0
    ui.parameterNodeSelector.setCurrentNode(second)
    assert values(panel.parameterNode) == CHANGED
    assert ui.fixedSelector.currentNode() is moving
    # Removing the shown one falls back to the other.
    slicer.mrmlScene.RemoveNode(second)
    assert panel.parameterNode.parameterNode is first
    assert panel.parameterNode.smoothness == 2.0
    assert ui.fixedSelector.currentNode() is fixed


def test_a_removed_volume_leaves_no_choice_behind(panel):
    fixed, moving = choose_pair(panel)
    slicer.mrmlScene.RemoveNode(fixed)
    assert panel.parameterNode.fixedNode is None
    assert panel.ui.movingSelector.currentNode() is moving
    assert panel.ui.applyButton.toolTip == "Select a fixed volume."


def test_reload_brings_new_code_and_the_same_choices(panel):
    """By Slicer's own function, as its Reload button does."""
    choose_pair(panel)
    panel.ui.applyButton.click()
    assert panel.running
    for name, value in CHANGED.items():
        panel.parameterNode.setValue(name, value)
    kept = {n: m for n, m in sys.modules.items() if n.split(".")[0] in ("CycleRegPanel", "CycleRegLib", "CycleReg")}
    try:
        panel.onReload()
        fresh = slicer.modules.CycleRegWidget
        assert fresh is not panel
        assert not panel.running
        assert panel.processes[0].killed
        for name in ("CycleReg", "CycleRegPanel.Widget", "CycleRegLib.methods"):
            assert sys.modules[name] is not kept[name]
        assert values(fresh.parameterNode) == CHANGED
        assert fresh.ui.fixedSelector.currentNode().GetName() == "Portal"
        # The old panel is gone for good: what happens in the new one does not reach it.
        fresh.ui.smoothnessSpinBox.value = 9.0
        assert panel.parameterNode is None
        fresh.cleanup()
    finally:
        sys.modules.update(kept)
