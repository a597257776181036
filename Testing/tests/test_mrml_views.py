"""The views that compare a registration, in a scene whose layouts and slices are Slicer's own logic."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer")

import vtk  # noqa: E402
from geometries import random_grid  # noqa: E402
from mrml_cases import FLIP, FakeRegister, array_of, new_scene, pair, volume_of  # noqa: E402
from vtk.util import numpy_support  # noqa: E402

from CycleRegLib import mrml  # noqa: E402
from CycleRegLib.comparison_images import checkerboard, difference  # noqa: E402
from CycleRegLib.errors import InputError  # noqa: E402
from CycleRegLib.fields import DisplacementField  # noqa: E402
from CycleRegLib.geometry import Grid  # noqa: E402
from CycleRegLib.mrml import views  # noqa: E402
from CycleRegLib.mrml.carry import carry_along  # noqa: E402
from CycleRegLib.mrml.views import COMPARISON, FIXED, MOVING, WARPED, Registered  # noqa: E402
from CycleRegLib.node_roles import DIAMETER_ROLES  # noqa: E402


@pytest.fixture
def scene():
    """A scene as in Slicer's window: a layout logic that makes the views, the user's own three among them."""
    scene = new_scene()
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
    scene.layouts = slicer.vtkMRMLLayoutLogic()
    scene.layouts.SetMRMLScene(scene)
    layout = scene.layouts.GetLayoutNode()
    layout.SetViewArrangement(layout.SlicerLayoutFourUpView)
    for name in ("Red", "Green", "Yellow"):
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLScene(scene)
        logic.AddSliceNode(name)
    yield scene
    scene.layouts.SetMRMLScene(None)


@pytest.fixture
def done(scene):
    fixed, moving = pair(80, apart_mm=5.0)
    nodes = volume_of(fixed, "A"), volume_of(moving, "B")
    for node in nodes:
        node.CreateDefaultDisplayNodes()
    return mrml.process(*nodes, True, True, True, outputRoundtrip=True, register=FakeRegister())


def composite(scene, name: str):
    return scene.GetSingletonNode(name, "vtkMRMLSliceCompositeNode")


def volume_in(scene, name: str, layer: str = "Background"):
    return scene.GetNodeByID(getattr(composite(scene, name), f"Get{layer}VolumeID")() or "")


def everything(scene) -> dict[str, list[str]]:
    """Every node of the scene but the four views, as VTK prints it, without times and addresses."""
    nodes = [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())]
    return {
        node.GetID(): [line for line in str(node).splitlines() if not any(word in line for word in _NOT_COMPARED)]
        for node in nodes
        if node.GetSingletonTag() not in views.VIEWS
    }


_NOT_COMPARED = (
    "Modified Time",
    "MTime",
    "Reference Count",
    "Registered Events",
    "(0x",
    "Observer",
    "Debug",
    "ModifiedEvent",
)


class TestLayout:
    def test_slicer_reads_the_layout_as_four_linked_views(self, scene, done):
        views.arrange(Registered.of(done.transform))
        shown = scene.layouts.GetViewNodes()
        tags = [shown.GetItemAsObject(i).GetSingletonTag() for i in range(shown.GetNumberOfItems())]
        assert tags == [FIXED, MOVING, WARPED, COMPARISON]
        assert scene.layouts.GetLayoutNode().GetViewArrangement() == views.LAYOUT
        for name in tags:
            assert composite(scene, name).GetLinkedControl()
            assert composite(scene, name).GetHotLinkedControl()
            assert scene.GetSingletonNode(name, "vtkMRMLSliceNode").GetViewGroup() == views.VIEW_GROUP

    def test_each_view_shows_its_image(self, scene, done):
        views.arrange(Registered.of(done.transform), "blend", opacity=0.25)
        assert volume_in(scene, FIXED).GetName() == "A"
        assert volume_in(scene, MOVING).GetName() == "B"
        assert volume_in(scene, WARPED) is done.volume
        assert volume_in(scene, COMPARISON).GetName() == "A"
        assert volume_in(scene, COMPARISON, "Foreground") is done.volume
        assert composite(scene, COMPARISON).GetForegroundOpacity() == 0.25
        views.set_opacity(scene, 0.75)
        assert composite(scene, COMPARISON).GetForegroundOpacity() == 0.75

    def test_slicers_slice_logic_takes_these_nodes(self, scene, done):
        """When Slicer's window makes a view, its logic must find our composite node, not make one of its own."""
        views.arrange(Registered.of(done.transform))
        before = scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLScene(scene)
        logic.SetSliceNode(scene.GetSingletonNode(WARPED, "vtkMRMLSliceNode"))
        assert logic.GetSliceCompositeNode() is composite(scene, WARPED)
        assert scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode") == before

    @pytest.mark.parametrize(
        ("orientation", "normal"), [("Axial", (0, 0, 1)), ("Coronal", (0, 1, 0)), ("Sagittal", (1, 0, 0))]
    )
    def test_all_views_turn_through_the_middle_of_the_fixed_volume(self, scene, done, orientation, normal):
        nodes = views.arrange(Registered.of(done.transform), orientation=orientation)
        center = FLIP * Grid.of(done.registration.fixed).center
        for node in nodes.values():
            assert node.GetOrientation() == orientation
            matrix = node.GetSliceToRAS()
            assert abs(np.dot([matrix.GetElement(i, 2) for i in range(3)], normal)) == pytest.approx(1)
            # The slice goes through the middle of the box around the oblique volume.
            np.testing.assert_allclose([matrix.GetElement(i, 3) for i in range(3)], center, atol=1.0)

    def test_a_single_slice_is_shown_in_its_own_plane(self, scene):
        rng = np.random.default_rng(0)
        grid = random_grid(5)
        flat = Grid((20, 18, 1), grid.spacing, grid.origin, grid.direction)
        fixed, moving = (volume_of(flat.image(rng.random(flat.shape, np.float32)), name) for name in "AB")
        transform = scene.AddNewNodeByClass("vtkMRMLTransformNode", "T")
        for node in views.arrange(Registered(fixed, moving, transform), "blend", "Coronal").values():
            matrix = node.GetSliceToRAS()
            normal = [matrix.GetElement(i, 2) for i in range(3)]
            assert abs(np.dot(normal, FLIP * flat.direction_matrix[:, 2])) == pytest.approx(1, abs=1e-6)

    def test_without_a_window_there_is_one_message(self):
        scene = new_scene()
        fixed, moving = (volume_of(image, name) for image, name in zip(pair(80), "AB"))
        transform = scene.AddNewNodeByClass("vtkMRMLTransformNode", "T")
        count = scene.GetNumberOfNodes()
        with pytest.raises(InputError, match="no layout"):
            views.arrange(Registered(fixed, moving, transform))
        assert scene.GetNumberOfNodes() == count


class TestComparisons:
    def test_the_difference_is_warped_minus_fixed_with_a_scale(self, scene, done):
        views.arrange(Registered.of(done.transform), "difference")
        node = volume_in(scene, COMPARISON)
        fixed, warped = (sitk.GetArrayFromImage(i) for i in (done.registration.fixed, done.registration.warped))
        np.testing.assert_allclose(array_of(node), warped - fixed, atol=1e-4)
        display = node.GetDisplayNode()
        assert display.GetWindowLevelMin() == -display.GetWindowLevelMax() < 0
        legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node)
        assert legend.GetTitleText() == "Warped - fixed"
        assert legend.GetVisibility()
        assert node.GetHideFromEditors()
        assert not node.GetSaveWithScene()

    def test_the_checkerboard_takes_squares_in_turn(self):
        grid = Grid((12, 10, 8), (1.0, 2.0, 4.0), (0, 0, 0), tuple(np.eye(3).ravel()))
        fixed, warped = (grid.image(np.full(grid.shape, value, np.float32)) for value in (1, 2))
        mixed = sitk.GetArrayFromImage(checkerboard(fixed, warped, 4.0))
        for z, y, x in np.ndindex(*grid.shape):
            assert mixed[z, y, x] == 1 + (x // 4 + y // 2 + z // 1) % 2

    def test_the_checkerboard_brings_other_intensities_to_the_fixed_window(self):
        grid = Grid((4, 4, 4), (1.0,) * 3, (0, 0, 0), tuple(np.eye(3).ravel()))
        fixed, warped = (grid.image(np.full(grid.shape, value, np.float32)) for value in (50, 700))
        mixed = sitk.GetArrayFromImage(checkerboard(fixed, warped, 1.0, (0, 100), (500, 900)))
        np.testing.assert_allclose(np.unique(mixed), [50.0])

    def test_images_of_two_grids_are_refused(self):
        fixed, moving = pair(80)
        with pytest.raises(InputError, match="does not lie on the fixed volume's grid"):
            difference(fixed, moving)

    def test_the_round_trip_lies_over_the_fixed_image_with_a_scale_in_millimetres(self, scene, done):
        views.arrange(Registered.of(done.transform), "roundtrip", opacity=0.6)
        assert volume_in(scene, COMPARISON).GetName() == "A"
        assert volume_in(scene, COMPARISON, "Foreground") is done.roundtrip
        legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(done.roundtrip)
        assert legend.GetTitleText() == "Round trip (mm)"
        view = scene.GetSingletonNode(COMPARISON, "vtkMRMLSliceNode").GetID()
        assert [legend.GetNthViewNodeID(i) for i in range(legend.GetNumberOfViewNodeIDs())] == [view]
        # One scale only, that of what is shown now.
        views.arrange(Registered.of(done.transform), "blend")
        assert slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(done.roundtrip) is None

    def test_what_the_registration_did_not_leave_is_made_and_removed(self, scene, done):
        expected = array_of(done.volume).copy(), array_of(done.roundtrip).copy()
        for node in (done.volume, done.roundtrip):
            scene.RemoveNode(node)
        before = everything(scene).keys()
        views.arrange(Registered.of(done.transform), "roundtrip")
        np.testing.assert_allclose(array_of(volume_in(scene, WARPED)), expected[0], atol=1e-3)
        np.testing.assert_allclose(array_of(volume_in(scene, COMPARISON, "Foreground")), expected[1], atol=1e-3)
        views.arrange(Registered.of(done.transform), "difference")
        views.restore(scene)
        assert everything(scene).keys() == before

    def test_a_round_trip_without_an_inverse_is_one_message(self, scene, done):
        scene.RemoveNode(done.roundtrip)
        scene.RemoveNode(done.inverse_transform)
        before = everything(scene)
        with pytest.raises(InputError, match="needs the inverse transform"):
            views.arrange(Registered.of(done.transform), "roundtrip")
        assert everything(scene) == before

    def test_a_transform_without_volumes_asks_for_them(self, scene):
        transform = scene.AddNewNodeByClass("vtkMRMLTransformNode", "T")
        with pytest.raises(InputError, match='"T" does not know its fixed volume'):
            Registered.of(transform)
        with pytest.raises(InputError, match="No transform is given"):
            Registered.of(None)


class TestGrid:
    def test_slicer_draws_the_deformed_grid(self, scene):
        """What Slicer draws are curves on the fixed image that the transform takes to straight lines of the moving."""
        grid = Grid((40, 40, 8), (2.0, 2.0, 4.0), (-39.0, -39.0, -14.0), tuple(np.eye(3).ravel()))
        points = grid.points()
        vectors = np.zeros(points.shape, np.float32)
        vectors[..., 0] = 3 * np.sin(points[..., 1] / 9)
        vectors[..., 1] = 2 * np.cos(points[..., 0] / 11)
        known = DisplacementField(vectors, grid)
        fixed, moving = (volume_of(grid.image(points[..., 0].astype(np.float32)), name) for name in "AB")
        transform = scene.AddNewNodeByClass("vtkMRMLTransformNode", "T")
        mrml.write_transform(transform, known, fixed, moving)
        nodes = views.arrange(Registered.of(transform), "blend", grid=True)
        display = views.grid_display(transform)
        assert display.GetVisibility()
        assert display.GetVisibility2D()
        drawn_in = {display.GetNthViewNodeID(i) for i in range(display.GetNumberOfViewNodeIDs())}
        assert drawn_in == {nodes[name].GetID() for name in (WARPED, COMPARISON)}
        drawn, plane = vtk.vtkPolyData(), nodes[WARPED].GetSliceToRAS()
        logic = slicer.vtkSlicerTransformLogic
        assert logic.GetVisualization2d(drawn, display, plane, [-25.0, -25.0], [50.0, 50.0])
        ends = numpy_support.vtk_to_numpy(drawn.GetLines().GetConnectivityArray())
        places = FLIP * numpy_support.vtk_to_numpy(drawn.GetPoints().GetData()).astype(float)
        both = known.grid.contains(places)[ends].reshape(-1, 2).all(axis=1)
        assert both.sum() > 100
        here, there = (
            np.abs(np.diff(p[ends].reshape(-1, 2, 3), axis=1)[both, 0, :2]).min(axis=1)
            for p in (places, known.transform_points(places))
        )
        assert there.max() < 0.02  # Slicer inverts the transform numerically
        assert here.max() > 0.1

    def test_the_grid_is_taken_away_again(self, scene, done):
        registered = Registered.of(done.transform)
        views.arrange(registered, grid=True)
        assert views.grid_display(done.transform) is not None
        views.show_grid(registered, False)
        assert views.grid_display(done.transform) is None


class TestDrawings:
    """What is drawn on an image is drawn where that image is shown."""

    def markups(self, scene, name: str):
        node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
        node.AddControlPoint(vtk.vtkVector3d(0.0, 0.0, 0.0))
        node.CreateDefaultDisplayNodes()
        return node

    def drawn_in(self, node) -> set[str]:
        """The names of the views in which the node is drawn."""
        scene, display = node.GetScene(), node.GetDisplayNode()
        names = [*views.VIEWS, "Red", "Green", "Yellow"]
        ids = {name: scene.GetSingletonNode(name, "vtkMRMLSliceNode").GetID() for name in names}
        return {name for name in names if display.IsDisplayableInView(ids[name])}

    OWN = frozenset({"Red", "Green", "Yellow"})
    ON_FIXED = frozenset({FIXED, WARPED, COMPARISON})

    def test_each_image_has_its_own_and_the_others_have_all(self, scene, done):
        of_fixed, of_moving, of_none = (self.markups(scene, name) for name in ("A points", "B points", "Others"))
        views.arrange(Registered.of(done.transform))
        assert self.drawn_in(of_fixed) == self.OWN | self.ON_FIXED
        assert self.drawn_in(of_moving) == self.OWN | {MOVING}
        assert self.drawn_in(of_none) == self.OWN | set(views.VIEWS)
        views.restore(scene)
        for node in (of_fixed, of_moving, of_none):
            assert node.GetDisplayNode().GetNumberOfViewNodeIDs() == 0

    def test_a_copy_that_was_carried_along_lies_on_the_fixed_image(self, scene, done):
        copy = carry_along(self.markups(scene, "B points"), done.transform, "B points on A")
        views.arrange(Registered.of(done.transform))
        assert self.drawn_in(copy) == self.OWN | self.ON_FIXED

    def test_a_segmentation_goes_with_the_volume_that_it_was_drawn_on(self, scene, done):
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Liver")
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(scene.GetFirstNodeByName("B"))
        views.arrange(Registered.of(done.transform))
        assert self.drawn_in(node) == self.OWN | {MOVING}

    def test_diameters_lie_on_the_image_that_they_were_measured_in(self, scene, done):
        lines = {}
        for side in ("fixed", "moving", "warped"):
            lines[side] = scene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", f"Tumor long diameter, {side}")
            lines[side].CreateDefaultDisplayNodes()
            done.transform.SetNodeReferenceID(DIAMETER_ROLES[side, "long"], lines[side].GetID())
        views.arrange(Registered.of(done.transform))
        assert self.drawn_in(lines["moving"]) == self.OWN | {MOVING}
        assert self.drawn_in(lines["fixed"]) == self.drawn_in(lines["warped"]) == self.OWN | self.ON_FIXED

    def test_what_the_user_had_restricted_stays_restricted_and_comes_back(self, scene, done):
        node = self.markups(scene, "B points")
        red = scene.GetSingletonNode("Red", "vtkMRMLSliceNode").GetID()
        node.GetDisplayNode().AddViewNodeID(red)
        for comparison in ("blend", "difference"):
            views.arrange(Registered.of(done.transform), comparison)
            assert self.drawn_in(node) == {"Red", MOVING}
        views.restore(scene)
        assert self.drawn_in(node) == {"Red"}

    def test_what_was_removed_or_came_meanwhile_is_no_trouble(self, scene, done):
        gone = self.markups(scene, "A points")
        views.arrange(Registered.of(done.transform))
        scene.RemoveNode(gone)
        new = self.markups(scene, "B points")
        views.arrange(Registered.of(done.transform), "blend")
        assert self.drawn_in(new) == self.OWN | {MOVING}
        assert views.restore(scene)
        assert self.drawn_in(new) == self.OWN | set(views.VIEWS)


class TestRestore:
    def test_everything_is_as_it_was(self, scene, done):
        red = scene.GetSingletonNode("Red", "vtkMRMLSliceCompositeNode")
        red.SetBackgroundVolumeID(done.volume.GetID())
        red.SetForegroundOpacity(0.3)
        red.SetLinkedControl(True)
        mrml.show_under(scene.GetFirstNodeByName("B"), done.transform)
        before = everything(scene)
        for comparison in views.COMPARISONS:
            views.arrange(Registered.of(done.transform), comparison, "Sagittal", grid=True)
        assert scene.GetFirstNodeByName("B").GetParentTransformNode() is None
        # What the user does to the own views meanwhile is taken back as well.
        red.SetBackgroundVolumeID(None)
        red.SetForegroundOpacity(1.0)
        red.SetLinkedControl(False)
        assert views.is_arranged(scene)
        assert views.restore(scene)
        after = everything(scene)
        assert {k: (v, after.get(k)) for k, v in before.items() if v != after.get(k)} == {}
        assert after.keys() == before.keys()
        assert red.GetBackgroundVolumeID() == done.volume.GetID()
        assert (red.GetForegroundOpacity(), red.GetLinkedControl()) == (0.3, True)
        assert scene.GetFirstNodeByName("B").GetParentTransformNode() is done.transform
        layout = scene.layouts.GetLayoutNode()
        assert layout.GetViewArrangement() == layout.SlicerLayoutFourUpView
        assert not views.is_arranged(scene)
        assert not views.restore(scene)

    def test_a_display_of_the_transform_that_the_user_made_stays_as_it_is(self, scene, done):
        done.transform.CreateDefaultDisplayNodes()
        display = done.transform.GetDisplayNode()
        display.SetVisualizationMode(display.VIS_MODE_CONTOUR)
        display.SetVisibility(True)
        display.SetVisibility3D(True)
        display.SetGridSpacingMm(17.0)
        views.arrange(Registered.of(done.transform), grid=True)
        assert done.transform.GetDisplayNode() is display
        assert views.grid_display(done.transform).GetVisualizationMode() == display.VIS_MODE_GRID
        for _ in range(2):
            assert display.GetVisualizationMode() == display.VIS_MODE_CONTOUR
            assert (display.GetVisibility(), display.GetVisibility3D(), display.GetGridSpacingMm()) == (1, True, 17.0)
            views.restore(scene)
        assert done.transform.GetNumberOfDisplayNodes() == 1
        assert display.GetNumberOfViewNodeIDs() == 0

    def test_a_moving_volume_with_a_place_of_its_own_goes_back_under_the_transform(self, scene, done):
        moving = scene.GetFirstNodeByName("B")
        shift = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "place")
        moving.SetAndObserveTransformNodeID(shift.GetID())
        mrml.show_under(moving, done.transform)
        between = moving.GetParentTransformNode()
        assert between.GetParentTransformNode() is done.transform
        views.arrange(Registered.of(done.transform))
        assert moving.GetParentTransformNode() is between
        assert between.GetParentTransformNode() is None
        views.restore(scene)
        assert between.GetParentTransformNode() is done.transform

    def test_nodes_that_were_removed_meanwhile_are_passed_over(self, scene, done):
        views.arrange(Registered.of(done.transform), "roundtrip", grid=True)
        for node in (done.roundtrip, scene.GetFirstNodeByName("B"), done.transform):
            scene.RemoveNode(node)
        assert views.restore(scene)
        assert not views.is_arranged(scene)

    def test_the_users_layout_comes_back_from_any_other(self, scene, done):
        views.arrange(Registered.of(done.transform))
        layout = scene.layouts.GetLayoutNode()
        layout.SetViewArrangement(layout.SlicerLayoutConventionalPlotView)
        views.restore(scene)
        assert layout.GetViewArrangement() == layout.SlicerLayoutFourUpView

    def test_all_views_show_as_much_as_the_first(self, scene, done):
        nodes = views.arrange(Registered.of(done.transform))
        nodes[FIXED].SetFieldOfView(120.0, 90.0, 1.0)
        nodes[FIXED].JumpSliceByCentering(1.0, 2.0, 3.0)
        views.align_views(scene)
        for node in nodes.values():
            assert node.GetFieldOfView() == (120.0, 90.0, 1.0)
            matrix = node.GetSliceToRAS()
            np.testing.assert_allclose([matrix.GetElement(i, 3) for i in range(3)], [1.0, 2.0, 3.0], atol=1e-9)

    def test_what_is_remembered_is_plain_text_in_the_scene(self, scene, done):
        views.arrange(Registered.of(done.transform))
        state = scene.GetSingletonNode("CycleRegViews", "vtkMRMLScriptedModuleNode")
        remembered = json.loads(state.GetParameter("remembered"))
        assert remembered["layout"] == scene.layouts.GetLayoutNode().SlicerLayoutFourUpView
        assert set(remembered["composites"]) == {"Red", "Green", "Yellow"}
