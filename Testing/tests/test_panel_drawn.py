"""What the views really draw: Slicer's own displayable managers show a registration after one press of Compare."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import vtk
from measuring_cases import register_known
from panel_cases import choose, host, open_panel, slicer

from CycleRegLib import mrml
from CycleRegLib.mrml import views

SIZE = (320, 240)


def view(name: str) -> Any:
    return slicer.app.layoutManager().sliceWidget(name).sliceView()


def colourful(pixels: np.ndarray) -> float:
    """The part of a picture's pixels that are not grey."""
    values = pixels.astype(int)
    return float(np.mean(values.max(axis=-1) - values.min(axis=-1) > 40))


@pytest.fixture
def panel(monkeypatch):
    """The open panel in an application that has just started: nobody has opened the four views before."""
    host.start()
    widget = open_panel(monkeypatch)
    yield widget
    widget.cleanup()
    widget.parent.deleteLater()
    host.stop()


@pytest.fixture(autouse=True)
def no_complaints(capfd):
    """Slicer's views find nothing to complain of in what the module does to the scene."""
    yield
    assert "ERR|" not in capfd.readouterr().err


@pytest.fixture
def compared(panel):
    """A registration that can be compared."""
    done = register_known(outputRoundtrip=True)
    panel.sectionOf("ViewsSection").onResult(done)
    return done


def scale_is_drawn(name: str) -> bool:
    legends = slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")
    assert len(legends) == 1
    actor = view(name).displayableManager("vtkMRMLColorLegendDisplayableManager").GetColorLegendActor(legends[0])
    return actor is not None and bool(actor.GetVisibility())


@pytest.mark.parametrize("comparison", ["roundtrip", "difference"])
def test_the_colour_scale_is_there_at_the_first_press(panel, compared, comparison):
    """A view that is made after its colour scale never draws it."""
    choose(panel.ui.viewsComparisonComboBox, comparison)
    panel.ui.viewsCompareButton.click()
    for name in views.VIEWS:
        view(name).draw(*SIZE)
    assert [scale_is_drawn(name) for name in views.VIEWS] == [False, False, False, True]


@pytest.mark.parametrize("comparison", ["roundtrip", "difference"])
def test_the_scale_goes_with_the_overlay(panel, compared, comparison):
    choose(panel.ui.viewsComparisonComboBox, comparison)
    panel.ui.viewsCompareButton.click()
    assert scale_is_drawn(views.COMPARISON)
    choose(panel.ui.viewsComparisonComboBox, "checkerboard")
    assert slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode") == []
    choose(panel.ui.viewsComparisonComboBox, comparison)
    panel.ui.viewsRestoreButton.click()
    assert slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode") == []


def test_the_round_trip_lies_in_colour_over_the_fixed_image(panel, compared):
    choose(panel.ui.viewsComparisonComboBox, "roundtrip")
    panel.ui.viewsOpacitySlider.value = 100
    panel.ui.viewsCompareButton.click()
    assert colourful(view(views.FIXED).draw(*SIZE)) == 0
    assert colourful(view(views.COMPARISON).draw(*SIZE)) > 0.05


def test_the_grid_is_drawn_over_the_warped_image_and_the_comparison_alone(panel, compared):
    panel.ui.viewsGridCheckBox.checked = True
    panel.ui.viewsCompareButton.click()
    lines = {name: colourful(view(name).draw(*SIZE)) for name in views.VIEWS}
    assert lines[views.FIXED] == lines[views.MOVING] == 0
    assert min(lines[views.WARPED], lines[views.COMPARISON]) > 0.01
    panel.ui.viewsGridCheckBox.checked = False
    assert colourful(view(views.WARPED).draw(*SIZE)) == 0


def test_a_display_that_the_transform_had_before_does_not_hinder_the_grid(panel, compared):
    compared.transform.CreateDefaultDisplayNodes()
    panel.ui.viewsGridCheckBox.checked = True
    panel.ui.viewsCompareButton.click()
    assert colourful(view(views.FIXED).draw(*SIZE)) == 0
    assert colourful(view(views.WARPED).draw(*SIZE)) > 0.01


def test_the_views_show_fixed_moving_and_warped_image(panel, compared):
    """Each as Slicer's reslicing shows that volume, which differ from each other."""
    panel.ui.viewsCompareButton.click()
    pictures = [view(name).draw(*SIZE).astype(float) for name in list(views.VIEWS)[:3]]
    own = view("Red")
    logic = slicer.app.layoutManager().sliceWidget("Red").sliceLogic()
    volumes = [slicer.mrmlScene.GetFirstNodeByName("A"), slicer.mrmlScene.GetFirstNodeByName("B"), compared.volume]
    for name, volume, picture in zip(views.VIEWS, volumes, pictures):
        node = slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode()
        logic.GetSliceCompositeNode().SetBackgroundVolumeID(volume.GetID())
        logic.GetSliceNode().GetSliceToRAS().DeepCopy(node.GetSliceToRAS())
        logic.GetSliceNode().SetFieldOfView(*node.GetFieldOfView())
        logic.GetSliceNode().UpdateMatrices()
        np.testing.assert_array_equal(own.draw(*SIZE), picture)
    assert min(np.abs(pictures[i] - pictures[j]).mean() for i, j in ((0, 1), (1, 2), (2, 0))) > 1


def test_a_photograph_shows_every_view_below_its_bar(panel, compared, tmp_path):
    from PySide6 import QtGui

    panel.ui.viewsCompareButton.click()
    host.photograph_views(tmp_path / "views.png", 800, 600)
    picture = QtGui.QImage(str(tmp_path / "views.png"))
    assert (picture.width(), picture.height()) == (800, 600)
    for (x, y), (_label, color) in zip(((200, 4), (600, 4), (200, 304), (600, 304)), views.VIEWS.values()):
        assert picture.pixelColor(x, y).name().upper() == color


def test_a_scene_that_was_saved_with_the_views_opens_with_them(panel, compared, tmp_path, monkeypatch):
    """In an application that has just started, where nobody has pressed Compare."""
    panel.ui.viewsCompareButton.click()
    mrml.save_scene(tmp_path / "compared.mrb")
    panel.cleanup()
    host.stop()
    host.start()
    again = open_panel(monkeypatch)
    mrml.read_scene(tmp_path / "compared.mrb", slicer.mrmlScene)
    assert slicer.app.layoutManager().sliceViewNames() == list(views.VIEWS)
    assert again.ui.viewsRestoreButton.enabled
    again.ui.viewsRestoreButton.click()
    assert slicer.app.layoutManager().sliceViewNames() == ["Red", "Green", "Yellow"]
    again.cleanup()


def test_points_are_drawn_in_the_view_of_their_image(panel, compared):
    """In the four views; in the user's own, before and after, as ever."""
    bounds = [0.0] * 6
    slicer.mrmlScene.GetFirstNodeByName("A").GetRASBounds(bounds)
    center = [(low + high) / 2 for low, high in zip(bounds[::2], bounds[1::2])]
    points = {}
    for name in "AB":
        points[name] = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", f"{name} points")
        points[name].CreateDefaultDisplayNodes()
        points[name].GetDisplayNode().SetPointLabelsVisibility(False)
        points[name].AddControlPoint(vtk.vtkVector3d(*center))
    panel.ui.viewsCompareButton.click()
    on_fixed = {views.FIXED, views.WARPED, views.COMPARISON}
    for name, other, where in (("A", "B", on_fixed), ("B", "A", {views.MOVING})):
        points[name].SetDisplayVisibility(True)
        points[other].SetDisplayVisibility(False)
        assert {name for name in views.VIEWS if colourful(view(name).draw(*SIZE)) > 0} == where
    panel.ui.viewsRestoreButton.click()
    slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode().JumpSliceByCentering(*center)
    assert colourful(view("Red").draw(*SIZE)) > 0
