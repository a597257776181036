"""Widgets of CTK and Slicer tell more or less than one would think; the panel copes.

A path line of CTK's is silent about paths that its filters do not match.  A node selector of Slicer's takes the next
node when its own is removed, and lists all nodes anew when a scene was loaded, which leaves it without a node.
"""

from __future__ import annotations

from panel_cases import add_volume, choose, choose_pair, slicer


def test_a_checkpoint_can_be_taken_back(panel):
    line = panel.ui.checkpointPathLineEdit
    line.currentPath = "/somewhere/weights.pth"
    assert panel.parameterNode.checkpoint == "/somewhere/weights.pth"
    line.currentPath = ""
    assert panel.parameterNode.checkpoint == ""
    # Whatever else changes, the path does not come back.
    panel.parameterNode.organSlices = True
    assert line.currentPath == ""


def test_a_path_that_no_filter_matches_is_taken_too(panel):
    panel.ui.checkpointPathLineEdit.currentPath = "/somewhere/weights.bin"
    assert panel.parameterNode.checkpoint == "/somewhere/weights.bin"


def test_the_history_is_not_a_choice(panel, tmp_path):
    paths = [str(tmp_path / f"{name}.pth") for name in ("first", "second")]
    for path in paths:
        open(path, "wb").close()
    line = panel.ui.checkpointPathLineEdit
    for path in paths:
        line.currentPath = path
        line.addCurrentPathToHistory()
    choose_pair(panel)
    choose(panel.ui.methodComboBox, "cyclemorph")
    seen = set()
    tag = panel.parameterNode.AddObserver("ModifiedEvent", lambda *_: seen.add(panel.parameterNode.checkpoint))
    panel.ui.applyButton.click()
    panel.parameterNode.RemoveObserver(tag)
    assert panel.processes[0].option("--checkpoint") == paths[1]
    assert seen <= {paths[1]}
    assert panel.parameterNode.checkpoint == line.currentPath == paths[1]


class TestRemoval:
    def test_no_volume_takes_the_place_of_one_that_was_removed(self, panel):
        fixed, moving = choose_pair(panel)
        add_volume("Third")
        slicer.mrmlScene.RemoveNode(moving)
        assert panel.parameterNode.movingNode is None
        assert panel.ui.movingSelector.currentNode() is None
        assert panel.parameterNode.fixedNode is fixed

    def test_no_volume_is_overwritten_in_place_of_an_output_that_was_removed(self, panel):
        choose_pair(panel)
        warped = add_volume("Warped")
        add_volume("Third")
        panel.ui.outputVolumeSelector.setCurrentNode(warped)
        slicer.mrmlScene.RemoveNode(warped)
        assert panel.parameterNode.outputVolume is None
        assert panel.ui.outputVolumeSelector.currentNode() is None


def test_choices_survive_a_scene_that_is_added(panel):
    fixed, moving = choose_pair(panel)
    scene = slicer.mrmlScene
    scene.StartState(scene.ImportState)
    assert panel.parameterNode is None
    assert not panel.ui.applyButton.enabled
    add_volume("Third")
    scene.EndState(scene.ImportState)
    assert panel.parameterNode.fixedNode is fixed
    assert panel.parameterNode.movingNode is moving
    assert panel.ui.fixedSelector.currentNode() is fixed
    assert panel.ui.applyButton.enabled
