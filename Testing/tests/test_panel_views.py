"""Comparing views from the panel, in the stand-in host with Slicer's own layout and slice logic."""

from __future__ import annotations

import numpy as np
import pytest
from measuring_cases import GRID, register_known
from mrml_cases import FLIP
from panel_cases import choose, slicer

from CycleRegLib.mrml import views

VIEWS = ["CycleRegFixed", "CycleRegMoving", "CycleRegWarped", "CycleRegComparison"]


@pytest.fixture
def shown(panel):
    """The open panel in a window with Slicer's first layout."""
    layouts = slicer.app.layoutManager()
    layouts.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    yield panel
    views.restore(slicer.mrmlScene)


@pytest.fixture
def done(shown):
    done = register_known(outputRoundtrip=True)
    for section in shown.sections:
        if type(section).__name__ == "ViewsSection":
            section.onResult(done)
    return done


def background(name: str):
    return slicer.mrmlScene.GetNodeByID(composite(name).GetBackgroundVolumeID() or "")


def composite(name: str):
    return slicer.app.layoutManager().sliceWidget(name).sliceLogic().GetSliceCompositeNode()


def slice_node(name: str):
    return slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode()


class TestChoices:
    def test_compare_says_what_is_missing(self, shown):
        button = shown.ui.viewsCompareButton
        assert not button.enabled
        assert button.toolTip == "Select the transform of a registration."
        assert not shown.ui.viewsRestoreButton.enabled
        assert shown.ui.viewsRestoreButton.toolTip == "These are your own views."
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "T")
        shown.ui.viewsTransformSelector.setCurrentNode(transform)
        assert not button.enabled
        assert '"T" does not know its fixed volume' in button.toolTip

    def test_a_registration_is_chosen_when_it_is_done(self, shown, done):
        assert shown.ui.viewsTransformSelector.currentNode() is done.transform
        assert shown.ui.viewsCompareButton.enabled

    def test_the_round_trip_needs_an_inverse(self, shown, done):
        slicer.mrmlScene.RemoveNode(done.roundtrip)
        slicer.mrmlScene.RemoveNode(done.inverse_transform)
        choose(shown.ui.viewsComparisonComboBox, "roundtrip")
        assert not shown.ui.viewsCompareButton.enabled
        assert "needs the inverse transform" in shown.ui.viewsCompareButton.toolTip
        choose(shown.ui.viewsComparisonComboBox, "blend")
        assert shown.ui.viewsCompareButton.enabled

    def test_opacity_is_for_what_lies_over_the_fixed_image(self, shown, done):
        for key, usable in (("checkerboard", False), ("blend", True), ("difference", False), ("roundtrip", True)):
            choose(shown.ui.viewsComparisonComboBox, key)
            assert shown.ui.viewsOpacitySlider.enabled is usable

    def test_choices_are_kept_in_the_parameter_set(self, shown, done):
        choose(shown.ui.viewsComparisonComboBox, "difference")
        shown.ui.viewsOpacitySlider.value = 30
        shown.ui.viewsGridCheckBox.checked = True
        node = shown.parameterNode
        assert (node.viewsComparison, node.viewsOpacity, node.viewsGrid) == ("difference", 30, True)
        assert node.viewsTransform is done.transform
        node.viewsComparison = "blend"
        assert shown.ui.viewsComparisonComboBox.currentData == "blend"


class TestComparing:
    def test_one_button_shows_the_four_views_and_one_brings_the_own_back(self, shown, done):
        layouts = slicer.app.layoutManager()
        before = layouts.layout
        composite("Red").SetBackgroundVolumeID(done.volume.GetID())
        count = slicer.mrmlScene.GetNumberOfNodes()
        shown.ui.viewsCompareButton.click()
        assert layouts.sliceViewNames() == VIEWS
        assert [background(name).GetName() for name in VIEWS[:2]] == ["A", "B"]
        assert background("CycleRegWarped") is done.volume
        assert all(composite(name).GetLinkedControl() for name in VIEWS)
        assert composite("Red").GetBackgroundVolumeID() == done.volume.GetID()
        assert shown.ui.viewsRestoreButton.enabled
        shown.ui.viewsRestoreButton.click()
        assert layouts.layout == before
        assert layouts.sliceViewNames() == ["Red", "Green", "Yellow"]
        assert composite("Red").GetBackgroundVolumeID() == done.volume.GetID()
        assert not shown.ui.viewsRestoreButton.enabled
        # The four views themselves stay, as Slicer's own do; with what a slice logic makes for each.
        left = slicer.mrmlScene.GetNumberOfNodes() - count
        assert left == 4 * 5

    def test_the_fixed_image_fits_its_view_and_the_others_show_as_much(self, shown, done):
        shown.ui.viewsCompareButton.click()
        fields = [slice_node(name).GetFieldOfView() for name in VIEWS]
        assert fields == [fields[0]] * 4
        width, height = (n * s for n, s in zip(GRID.size[:2], GRID.spacing[:2]))
        assert fields[0][0] >= width * 0.99
        assert fields[0][1] >= height * 0.99
        assert min(fields[0][0] / width, fields[0][1] / height) < 1.1

    def test_changes_are_seen_at_once_while_the_views_are_shown(self, shown, done):
        ui = shown.ui
        choose(ui.viewsComparisonComboBox, "blend")
        ui.viewsCompareButton.click()
        ui.viewsOpacitySlider.value = 80
        assert composite("CycleRegComparison").GetForegroundOpacity() == pytest.approx(0.8)
        choose(ui.viewsComparisonComboBox, "difference")
        assert "difference" in background("CycleRegComparison").GetName()
        choose(ui.viewsOrientationComboBox, "Coronal")
        assert {slice_node(name).GetOrientation() for name in VIEWS} == {"Coronal"}
        ui.viewsGridCheckBox.checked = True
        assert views.grid_display(done.transform).GetVisibility()
        ui.viewsGridCheckBox.checked = False
        assert views.grid_display(done.transform) is None

    def test_nothing_changes_before_compare_is_pressed(self, shown, done):
        before = slicer.mrmlScene.GetNumberOfNodes()
        choose(shown.ui.viewsComparisonComboBox, "roundtrip")
        choose(shown.ui.viewsOrientationComboBox, "Sagittal")
        shown.ui.viewsGridCheckBox.checked = True
        assert slicer.mrmlScene.GetNumberOfNodes() == before
        assert slicer.app.layoutManager().sliceViewNames() == ["Red", "Green", "Yellow"]

    def test_the_round_trip_has_a_scale_in_millimetres(self, shown, done):
        choose(shown.ui.viewsComparisonComboBox, "roundtrip")
        shown.ui.viewsCompareButton.click()
        legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(done.roundtrip)
        assert legend.GetTitleText() == "Round trip (mm)"
        assert composite("CycleRegComparison").GetForegroundVolumeID() == done.roundtrip.GetID()

    def test_the_moving_volume_shows_as_it_lies_and_goes_back_under_the_transform(self, shown, done):
        moving = slicer.mrmlScene.GetFirstNodeByName("B")
        moving.SetAndObserveTransformNodeID(done.transform.GetID())
        shown.ui.viewsCompareButton.click()
        assert moving.GetParentTransformNode() is None
        shown.ui.viewsRestoreButton.click()
        assert moving.GetParentTransformNode() is done.transform

    def test_closing_the_scene_gives_the_window_its_layout_back(self, shown, done):
        before = slicer.app.layoutManager().layout
        shown.ui.viewsCompareButton.click()
        slicer.mrmlScene.Clear(0)
        assert slicer.app.layoutManager().layout == before
        assert not shown.ui.viewsRestoreButton.enabled
        assert not shown.ui.viewsCompareButton.enabled

    def test_a_volume_that_cannot_be_shown_is_one_message(self, shown, done, monkeypatch):
        messages = []
        monkeypatch.setattr(slicer.util, "errorDisplay", lambda message, **_: messages.append(message))
        slicer.mrmlScene.GetFirstNodeByName("A").SetAndObserveImageData(None)
        shown.ui.viewsCompareButton.click()
        assert len(messages) == 1
        assert 'The fixed volume "A" holds no voxels' in messages[0]
        assert slicer.app.layoutManager().sliceViewNames() == ["Red", "Green", "Yellow"]

    def test_views_centre_on_the_middle_of_the_fixed_image(self, shown, done):
        shown.ui.viewsCompareButton.click()
        for name in VIEWS:
            matrix = slice_node(name).GetSliceToRAS()
            place = [matrix.GetElement(i, 3) for i in range(3)]
            np.testing.assert_allclose(place, FLIP * GRID.center, atol=1.5)
