"""Bad input in the panel: one message each, saying what to do, and nothing lost."""

from __future__ import annotations

import pytest
from panel_cases import add_volume, choose, choose_pair, slicer, write_results


@pytest.fixture
def messages(monkeypatch):
    """What pops up."""
    shown = []
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, **_: shown.append(text))
    return shown


def refused(panel, text: str) -> None:
    """Apply is off and its tool tip says why."""
    assert not panel.ui.applyButton.enabled
    assert text in panel.ui.applyButton.toolTip


def test_the_same_volume_twice(panel):
    fixed, _ = choose_pair(panel)
    panel.ui.movingSelector.setCurrentNode(fixed)
    refused(panel, "are the same; select two different volumes")


def test_a_slice_with_a_volume(panel):
    choose_pair(panel)
    panel.ui.movingSelector.setCurrentNode(add_volume("Slice", (12, 11, 1)))
    refused(panel, "One of the volumes is a single slice")


def test_a_volume_under_a_non_linear_transform(panel):
    fixed, _ = choose_pair(panel)
    warp = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Breathing")
    fixed.SetAndObserveTransformNodeID(warp.GetID())
    panel.enter()
    refused(panel, '"Portal" is under the non-linear transform "Breathing"; harden it')


def test_a_proxy_of_a_sequence_is_explained_as_input_and_refused_as_output(panel):
    _, moving = choose_pair(panel)
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Contrast")
    for value in ("0", "30"):
        sequence.SetDataNodeAtValue(moving, value)
    # As Slicer's Sequences module does.
    slicer.mrmlScene.RegisterNodeClass(slicer.vtkMRMLSequenceBrowserNode())
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
    browser.AddSynchronizedSequenceNode(sequence)
    browser.AddProxyNode(moving, sequence, False)
    browser.SetSelectedItemNumber(1)
    panel.enter()
    assert panel.ui.applyButton.enabled
    assert '"Arterial" shows item 2 of a sequence' in panel.ui.applyButton.toolTip
    assert "Several phases" in panel.ui.applyButton.toolTip
    panel.ui.movingSelector.setCurrentNode(add_volume("Other"))
    panel.ui.outputVolumeSelector.setCurrentNode(moving)
    refused(panel, 'The output "Arterial" shows items of a sequence')


@pytest.mark.parametrize("gone", ["fixed", "moving", "transform", "all"])
def test_nodes_deleted_while_running(panel, messages, gone):
    """The result arrives all the same."""
    fixed, moving = choose_pair(panel)
    panel.ui.showMovingCheckBox.checked = True
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Result")
    panel.ui.outputTransformSelector.setCurrentNode(transform)
    panel.ui.applyButton.click()
    nodes = {"fixed": fixed, "moving": moving, "transform": transform}
    for node in nodes.values() if gone == "all" else [nodes[gone]]:
        slicer.mrmlScene.RemoveNode(node)
    write_results(panel.processes[0])
    panel.processes[0].end()
    assert messages == []
    assert panel.ui.statusLabel.text == "Done."
    shown = panel.ui.outputTransformSelector.currentNode()
    assert shown.GetName() == "Result"
    assert shown.GetTransformFromParent().TransformPoint((0.0, 0.0, 0.0)) == pytest.approx((-1.0, -2.0, 3.0))


def test_a_checkpoint_removed_from_disk(panel, tmp_path, messages):
    choose_pair(panel)
    weights = tmp_path / "weights.pth"
    weights.touch()
    choose(panel.ui.methodComboBox, "cyclemorph")
    panel.ui.checkpointPathLineEdit.currentPath = str(weights)
    assert panel.ui.applyButton.enabled
    weights.unlink()
    panel.ui.applyButton.click()
    assert panel.processes == []
    assert messages == [f"The checkpoint {weights} does not exist; choose another."]


def test_memory_that_ends_in_the_child_is_the_librarys_message(panel, messages, tmp_path):
    choose_pair(panel)
    panel.ui.applyButton.click()
    panel.processes[0].say(errors=b"cyclereg: error: Memory ran out on every device. Crop the images.\n")
    panel.processes[0].end(3)
    assert messages == ["Memory ran out on every device. Crop the images."]
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_the_system_killed_says_what_to_try(panel, messages, tmp_path):
    choose_pair(panel)
    panel.ui.applyButton.click()
    panel.processes[0].end(9, crashed=True)
    (message,) = messages
    assert "scene are untouched" in message
    assert "preset Large volume" in message
    assert list(tmp_path.iterdir()) == []
    assert panel.ui.applyButton.enabled


def test_a_method_of_a_later_version(panel):
    choose_pair(panel)
    panel.parameterNode.method = "telepathy"
    refused(panel, "There is no method 'telepathy'")
    choose(panel.ui.methodComboBox, "preset:fast")
    assert panel.ui.applyButton.enabled
