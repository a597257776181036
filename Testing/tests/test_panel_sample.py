"""The sample data: from Slicer's Sample Data module, from the empty panel, and in the module's self-test."""

from __future__ import annotations

import os
import types
from pathlib import Path
from typing import Any

import pytest
from panel_cases import add_volume, host, number_of_nodes, slicer

from CycleRegLib import mrml
from CycleRegLib.belonging import belongs_to, companions
from CycleRegLib.fields import DisplacementField
from CycleRegLib.geometry import Grid
from CycleRegLib.phantom import write_sample

NAMES = [
    "Sample portal",
    "Sample arterial",
    "Sample portal landmarks",
    "Sample arterial landmarks",
    "Sample portal segmentation",
    "Sample arterial segmentation",
]


def click() -> None:
    host.click_sample_data("CycleReg", "Abdomen in two phases")


def names() -> set[str]:
    scene = slicer.mrmlScene
    return {scene.GetNthNode(i).GetName() for i in range(scene.GetNumberOfNodes())}


def play(process: Any) -> None:
    """What the child does, with a small pair."""
    folder = Path(process.option("--output"))
    folder.mkdir()
    process.say(b'{"stage": "fixed image", "percent": 40}\n')
    write_sample(folder, scale=4.0)
    process.end()


class TestNodes:
    def test_volumes_landmarks_and_segmentations_belong_together(self, panel):
        sample = mrml.make_sample_nodes(scale=4.0)
        assert [node.GetName() for node in sample.all()] == NAMES
        for side in ("fixed", "moving"):
            volume, other = getattr(sample, side), getattr(sample, "moving" if side == "fixed" else "fixed")
            for what in ("Landmarks", "Segmentation"):
                node = getattr(sample, side + what)
                assert belongs_to(node, volume)
                assert not belongs_to(node, other)
        pairs = mrml.pair_landmarks(sample.fixedLandmarks, sample.movingLandmarks)
        assert len(pairs) == sample.fixedLandmarks.GetNumberOfControlPoints() > 10

    def test_they_are_shown_as_a_radiologist_sets_an_abdomen(self, panel):
        display = mrml.make_sample_nodes(scale=4.0).fixed.GetDisplayNode()
        assert (display.GetWindow(), display.GetLevel()) == (400.0, 40.0)

    def test_a_second_pair_gets_names_of_its_own(self, panel):
        first, second = (mrml.make_sample_nodes(seed, 4.0) for seed in (0, 1))
        assert len({node.GetName() for node in [*first.all(), *second.all()]}) == 12


class TestSampleDataModule:
    def test_the_pair_is_offered_with_a_picture_and_nothing_to_download(self, panel):
        (source,) = slicer.modules.sampleDataSources["CycleReg"]
        assert source.sampleName == "Abdomen in two phases"
        assert os.path.isfile(source.thumbnailFileName)
        assert not any(source.uris)

    def test_a_click_makes_and_loads_it(self, panel):
        from CycleRegPanel import Sample

        click()
        click()  # an impatient user gets one pair
        assert host.process_events_until(lambda: set(NAMES) <= names(), 60.0)
        assert host.process_events_until(lambda: not Sample._started, 5.0)
        assert not any(name.startswith("Sample portal_") for name in names())
        assert panel.parameterNode.fixedNode.GetName() == "Sample portal"
        assert panel.parameterNode.movingNode.GetName() == "Sample arterial"
        shown = slicer.app.layoutManager().sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
        assert shown.GetBackgroundVolumeID() == panel.parameterNode.fixedNode.GetID()

    def test_nothing_happens_where_that_module_is_switched_off(self, panel, monkeypatch):
        import sys

        from CycleRegPanel import Sample

        monkeypatch.setitem(sys.modules, "SampleData", None)
        slicer.modules.sampleDataSources.clear()
        Sample.register()
        assert slicer.modules.sampleDataSources == {}

    def test_what_fails_is_one_message(self, panel, monkeypatch):
        from CycleRegPanel import Environment

        said = []
        monkeypatch.setattr(slicer.util, "errorDisplay", lambda message, **_: said.append(message))
        monkeypatch.setattr(Environment, "ensure", lambda: "PyTorch is needed.")
        click()
        assert said == ["PyTorch is needed."]


class TestEmptyPanel:
    def test_it_is_offered_while_there_is_no_volume(self, panel):
        button = panel.ui.sampleButton
        assert not button.isHidden()
        add_volume("Portal")
        assert host.process_events_until(button.isHidden)

    def test_one_click_loads_the_pair_and_apply_is_next(self, panel, tmp_path):
        panel.ui.sampleButton.click()
        assert panel.ui.sampleButton.text == "Cancel"
        play(panel.processes[0])
        assert panel.ui.statusLabel.text == "The sample data are loaded. Press Apply."
        assert host.process_events_until(lambda: panel.ui.applyButton.enabled)
        assert panel.ui.fixedSelector.currentNode().GetName() == "Sample portal"
        assert panel.ui.movingSelector.currentNode().GetName() == "Sample arterial"
        assert panel.ui.sampleButton.isHidden()
        assert list(tmp_path.iterdir()) == []

    def test_progress_is_shown(self, panel):
        panel.ui.sampleButton.click()
        panel.processes[0].say(b'{"stage": "fixed image", "percent": 40}\n')
        assert panel.ui.statusLabel.text == "Making the sample data: 40 %"

    def test_cancel_leaves_nothing(self, panel, tmp_path):
        before = number_of_nodes()
        panel.ui.sampleButton.click()
        panel.ui.sampleButton.click()
        assert panel.processes[0].killed
        assert panel.ui.statusLabel.text == "Cancelled; the scene is as it was."
        assert panel.ui.sampleButton.text == "Load sample data"
        assert number_of_nodes() == before
        assert list(tmp_path.iterdir()) == []

    def test_a_closed_scene_stops_it(self, panel, tmp_path):
        panel.ui.sampleButton.click()
        slicer.mrmlScene.Clear(0)
        assert panel.processes[0].killed
        assert list(tmp_path.iterdir()) == []

    def test_a_child_that_fails_is_one_message(self, panel, tmp_path, monkeypatch):
        said = []
        monkeypatch.setattr(slicer.util, "errorDisplay", lambda message, **_: said.append(message))
        panel.ui.sampleButton.click()
        panel.processes[0].say(errors=b"cyclereg: error: The disk is full.\n")
        panel.processes[0].end(2)
        assert said == ["The disk is full."]
        assert panel.ui.sampleButton.text == "Load sample data"
        assert list(tmp_path.iterdir()) == []

    def test_files_that_cannot_be_read_are_one_message(self, panel, tmp_path, monkeypatch):
        said = []
        monkeypatch.setattr(slicer.util, "errorDisplay", lambda message, **_: said.append(message))
        before = number_of_nodes()
        panel.ui.sampleButton.click()
        panel.processes[0].end()
        assert len(said) == 1
        assert "does not exist" in said[0]
        assert number_of_nodes() == before


class TestGuesses:
    """After a registration, what there is to measure it with is chosen already."""

    SELECTORS = ("FixedLandmarks", "MovingLandmarks", "FixedSegmentation", "MovingSegmentation")

    @pytest.fixture
    def sample(self, panel):
        return mrml.make_sample_nodes(scale=4.0)

    def register(self, panel: Any, sample: Any) -> list[Any]:
        """End a registration well; returns what the measuring selectors hold then."""
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "T")
        grid = Grid.of(mrml.image_from_volume_node(sample.fixed))
        mrml.write_transform(transform, DisplacementField.identity(grid), sample.fixed, sample.moving)
        panel.sectionOf("MeasureSection").onResult(types.SimpleNamespace(transform=transform))
        return [getattr(panel.ui, f"measure{name}Selector").currentNode() for name in self.SELECTORS]

    def test_landmarks_and_segmentations_of_the_two_volumes(self, panel, sample):
        assert self.register(panel, sample) == sample.all()[2:]
        assert panel.ui.measureButton.enabled, panel.ui.measureButton.toolTip
        assert panel.ui.measureFixedTumorComboBox.currentText == "tumor"

    def test_nothing_where_there_are_several(self, panel, sample):
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Sample portal others")
        assert self.register(panel, sample) == [None, None, *sample.all()[4:]]

    def test_nothing_where_one_side_has_none(self, panel, sample):
        slicer.mrmlScene.RemoveNode(sample.movingSegmentation)
        assert self.register(panel, sample) == [*sample.all()[2:4], None, None]

    def test_a_choice_stays(self, panel, sample):
        own = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "My points")
        panel.ui.measureFixedLandmarksSelector.setCurrentNode(own)
        assert self.register(panel, sample)[:2] == [own, None]

    def test_a_name_that_begins_another_name_is_not_mistaken(self, panel, sample):
        sample.fixed.SetName("Sample")
        sample.fixedLandmarks.SetName("Sample landmarks")
        assert companions(sample.fixed, sample.moving, "vtkMRMLMarkupsFiducialNode") == [sample.fixedLandmarks]
        assert companions(sample.moving, sample.fixed, "vtkMRMLMarkupsFiducialNode") == [sample.movingLandmarks]


def test_slicers_test_runner_runs_the_self_test_on_the_sample(panel):
    """As the button Test of the developer mode does: logic, panel and real child processes."""
    panel.processFactory = None
    slicer.selfTests["CycleReg"](msec=1)
    # What the last of its tests left is there to be looked at, as after every self-test of Slicer.
    assert slicer.mrmlScene.GetFirstNodeByName("Sample arterial to Sample portal transform") is not None


@pytest.mark.parametrize("broken", ["process", "evaluate"])
def test_the_self_test_can_fail(panel, monkeypatch, broken):
    """A registration that finds no motion, or figures that are missing, do not pass."""
    from CycleRegPanel.Logic import CycleRegLogic
    from CycleRegPanel.SelfTest import CycleRegTest

    def still(self: Any, fixed: Any, moving: Any, **_: Any) -> Any:
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "T")
        grid = Grid.of(mrml.image_from_volume_node(fixed))
        mrml.write_transform(transform, DisplacementField.identity(grid), fixed, moving)
        return types.SimpleNamespace(transform=transform)

    monkeypatch.setattr(CycleRegLogic, "process", still)
    if broken == "evaluate":
        monkeypatch.setattr(CycleRegLogic, "evaluate", lambda *_, **__: None)
    test = CycleRegTest()
    test.setUp()
    with pytest.raises(AssertionError):
        test.test_sample_by_logic()
