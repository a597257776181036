"""The MRML bridge against SimpleITK and against Slicer's own logic, on random oblique and left-handed geometries."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer")

import vtk  # noqa: E402
from geometries import random_grid, smooth_field  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from mrml_cases import (  # noqa: E402
    FLIP,
    FakeRegister,
    array_of,
    linear_node,
    new_scene,
    pair,
    points_from_world,
    rigid,
    smooth_image,
    volume_of,
)

from CycleRegLib import mrml  # noqa: E402
from CycleRegLib.errors import Cancelled, InputError  # noqa: E402
from CycleRegLib.evaluation import evaluate as evaluate_images  # noqa: E402
from CycleRegLib.geometry import Grid  # noqa: E402
from CycleRegLib.landmarks import LandmarkList  # noqa: E402
from CycleRegLib.segmentations import Segment, Segmentation  # noqa: E402


@pytest.fixture(autouse=True)
def scene():
    return new_scene()


def inner_points(grid: Grid, seed: int, count: int = 60, margin: float = 0.0) -> np.ndarray:
    """Random (count, 3) LPS points between the outer voxel centres."""
    rng = np.random.default_rng(seed)
    return grid.to_world(margin + rng.uniform(0, 1, (count, 3)) * (np.array(grid.size) - 1 - 2 * margin))


def transform_node(name: str = "T"):
    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", name)


def nodes_of(scene) -> list[str]:
    return [scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())]


class TestImages:
    @given(st.integers(0, 10_000), st.booleans(), st.sampled_from(["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"]))
    @settings(max_examples=12)
    def test_geometry_and_voxels_come_over_whole(self, seed, mirrored, kind):
        grid = random_grid(seed, mirrored=mirrored)
        array = np.random.default_rng(seed).integers(0, 100, grid.shape).astype(kind)
        image = mrml.image_from_volume_node(volume_of(grid.image(array), "V"))
        assert Grid.of(image).same_as(grid, 1e-9)
        back = sitk.GetArrayFromImage(image)
        assert back.dtype == np.dtype(kind)
        np.testing.assert_array_equal(back, array)

    def test_an_extent_that_does_not_start_at_zero_shifts_the_origin(self):
        grid = random_grid(4)
        node = volume_of(grid.image(np.zeros(grid.shape, np.int16)), "V")
        node.GetImageData().SetExtent(2, grid.size[0] + 1, 0, grid.size[1] - 1, -3, grid.size[2] - 4)
        origin = mrml.image_from_volume_node(node).GetOrigin()
        np.testing.assert_allclose(origin, grid.to_world(np.array([2, 0, -3])), atol=1e-9)

    @pytest.mark.parametrize("mirrored", [False, True])
    def test_linear_parents_are_folded_into_the_geometry(self, mirrored):
        grid, rng = random_grid(7), np.random.default_rng(7)
        upper, lower = rigid(rng), rigid(rng, mirrored)
        node = volume_of(smooth_image(grid, 0), "V")
        parents = [linear_node(upper, "upper"), linear_node(lower, "lower")]
        parents[1].SetAndObserveTransformNodeID(parents[0].GetID())
        node.SetAndObserveTransformNodeID(parents[1].GetID())
        found = Grid.of(mrml.image_from_volume_node(node))
        index = rng.uniform(0, 8, (20, 3))
        expected = np.c_[grid.to_world(index), np.ones(20)] @ (upper @ lower).T
        np.testing.assert_allclose(found.to_world(index), expected[:, :3], atol=1e-9)

    def test_scale_along_the_axes_changes_the_spacing(self):
        grid = Grid((9, 10, 11), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0), tuple(np.diag([-1.0, 1.0, 1.0]).ravel()))
        node = volume_of(smooth_image(grid, 0), "V")
        node.SetAndObserveTransformNodeID(linear_node(np.diag([2.0, 1.0, 0.5, 1.0]), "zoom").GetID())
        assert Grid.of(mrml.image_from_volume_node(node)).spacing == pytest.approx((2.0, 2.0, 1.5))

    def test_shear_is_refused_and_names_the_transform(self):
        node = volume_of(smooth_image(random_grid(1), 0), "liver")
        matrix = np.eye(4)
        matrix[0, 1] = 0.2
        node.SetAndObserveTransformNodeID(linear_node(matrix, "tilt").GetID())
        with pytest.raises(InputError, match=r'"liver" is sheared by its transform "tilt".*[Hh]arden'):
            mrml.image_from_volume_node(node)

    def test_a_nonlinear_parent_is_refused_and_named(self):
        grid = random_grid(1)
        node, parent = volume_of(smooth_image(grid, 0), "liver"), transform_node("breath")
        mrml.write_transform(parent, smooth_field(grid, 1))
        node.SetAndObserveTransformNodeID(parent.GetID())
        with pytest.raises(InputError, match=r'"liver" is under the transform "breath", which is not linear. Harden'):
            mrml.image_from_volume_node(node)
        assert Grid.of(mrml.image_from_volume_node(node, stop_at=[parent])).same_as(grid)

    def test_what_is_no_grey_volume_is_refused(self, scene):
        empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
        color = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "photo")
        data = vtk.vtkImageData()
        data.SetDimensions(4, 4, 4)
        data.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
        color.SetAndObserveImageData(data)
        for node, text in (
            (None, "No volume is given"),
            (empty, "holds no voxels"),
            (color, "3 values per voxel"),
            (transform_node(), "must be a volume"),
        ):
            with pytest.raises(InputError, match=text):
                mrml.image_from_volume_node(node)


class TestTransforms:
    @given(st.integers(0, 10_000), st.booleans())
    @settings(max_examples=8)
    def test_points_through_the_node_are_simpleitks(self, seed, mirrored):
        grid = random_grid(seed, mirrored=mirrored)
        known = smooth_field(grid, seed, amplitude_mm=3.0)
        truth = sitk.DisplacementFieldTransform(sitk.Cast(known.to_image(), sitk.sitkVectorFloat64))
        node = transform_node()
        mrml.write_transform(node, known)
        points = inner_points(grid, seed)
        expected = np.array([truth.TransformPoint(p) for p in points.tolist()])
        assert np.abs(points_from_world(node, points) - expected).max() < 1e-3

    def test_landmarks_under_the_node_move_the_inverse_way(self, scene):
        grid = random_grid(3, low=20, high=26, mirrored=True)
        known = smooth_field(grid, 3, amplitude_mm=4.0)
        node = transform_node()
        mrml.write_transform(node, known)
        fixed = inner_points(grid, 3, margin=4)
        truth = known.to_transform()
        moving = np.array([truth.TransformPoint(p) for p in fixed.tolist()])
        markups = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "F")
        for p in moving:
            markups.AddControlPoint(vtk.vtkVector3d(*(FLIP * p)))
        markups.SetAndObserveTransformNodeID(node.GetID())
        assert np.abs(mrml.landmarks_from_markups(markups).points - fixed).max() < 0.05
        np.testing.assert_allclose(mrml.landmarks_from_markups(markups, stop_at=[node]).points, moving, atol=1e-9)
        markups.HardenTransform()
        assert np.abs(mrml.landmarks_from_markups(markups).points - fixed).max() < 0.05

    @pytest.mark.parametrize("mirrored", [False, True])
    def test_slicers_resampling_under_the_node_is_our_warped_volume(self, scene, mirrored):
        fixed, moving = pair(20, mirrored)
        result = FakeRegister()(fixed, moving)
        node, fixed_node, moving_node = transform_node(), volume_of(fixed, "A"), volume_of(moving, "B")
        mrml.write_transform(node, result.field)
        moving_node.SetAndObserveTransformNodeID(node.GetID())
        logic = slicer.vtkSlicerVolumesLogic()
        logic.SetMRMLScene(scene)
        found = array_of(logic.ResampleVolumeToReferenceVolume(moving_node, fixed_node))
        # Away from the moving volume's faces, where the two disagree on what lies beyond the last voxel centre.
        size = np.array(Grid.of(moving).size)
        index = Grid.of(moving).to_index(result.field.grid.points() + result.field.vectors)
        inside = np.all((index > 0.5) & (index < size - 1.5), axis=-1)
        assert inside.mean() > 0.2
        assert np.abs(found - sitk.GetArrayFromImage(result.warped))[inside].max() < 1e-3

    def test_a_segmentation_hardened_under_the_node_is_the_warped_segmentation(self, scene):
        # Axis-aligned: Slicer's hardening computes the extent of an oblique segmentation wrongly.
        moving_grid = Grid(
            (80, 72, 66), (0.7, 0.75, 0.85), (-30.0, 10.0, 5.0), tuple(np.diag([-1.0, 1.0, 1.0]).ravel())
        )
        fixed_grid = Grid((84, 72, 68), (0.7, 0.7, 0.8), (-84.0, 11.0, 4.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
        known = smooth_field(fixed_grid, 8, amplitude_mm=4.0)
        offset = (moving_grid.points() - moving_grid.center) / [18.0, 19.0, 20.0]
        ball = Segmentation(moving_grid.image((np.sum(offset**2, -1) < 1).astype(np.uint8)), {1: "ball"})
        transform, segmentation = transform_node(), scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "S")
        mrml.write_transform(transform, known)
        mrml.fill_segmentation(segmentation, ball)
        segmentation.SetAndObserveTransformNodeID(transform.GetID())
        assert segmentation.HardenTransform()
        found = mrml.segmentation_from_node(segmentation, fixed_grid).mask("ball")
        expected = ball.warped(known).mask("ball")
        dice = 2 * (found & expected).sum() / (found.sum() + expected.sum())
        assert expected.sum() > 50_000
        assert dice > 0.98

    @pytest.mark.parametrize("suffix", ["h5", "tfm", "nrrd", "nii.gz", "mha"])
    def test_slicer_reads_what_simpleitk_wrote_as_a_transform_from_parent(self, tmp_path, suffix):
        grid = random_grid(11, mirrored=True)
        known = smooth_field(grid, 11)
        path = tmp_path / f"field.{suffix}"
        if suffix in ("h5", "tfm"):
            sitk.WriteTransform(known.to_transform(), str(path))
        else:
            sitk.WriteImage(known.to_image(), str(path))
        node = mrml.load_transform(path)
        points = inner_points(grid, 1)
        assert np.abs(points_from_world(node, points) - known.transform_points(points)).max() < 1e-3
        assert not node.IsAbstractTransformComputedFromInverse(node.GetTransformFromParent())
        assert node.IsAbstractTransformComputedFromInverse(node.GetTransformToParent())

    @pytest.mark.parametrize("suffix", ["h5", "nrrd", "nii.gz", "mha"])
    def test_simpleitk_reads_what_slicer_wrote(self, scene, tmp_path, suffix):
        grid = random_grid(12, mirrored=True)
        known, node = smooth_field(grid, 12), transform_node()
        mrml.write_transform(node, known)
        storage = scene.AddNewNodeByClass("vtkMRMLTransformStorageNode")
        storage.SetFileName(str(tmp_path / f"field.{suffix}"))
        assert storage.WriteData(node)
        path = storage.GetFileName()
        if suffix == "h5":
            read = sitk.ReadTransform(path)
        else:
            read = sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))
        points = inner_points(grid, 2)
        found = np.array([read.TransformPoint(p) for p in points.tolist()])
        assert np.abs(found - known.transform_points(points)).max() < 1e-3

    def test_a_linear_node_is_its_map_from_the_world(self):
        rng = np.random.default_rng(0)
        upper, lower = rigid(rng), rigid(rng)
        nodes = [linear_node(upper, "upper"), linear_node(lower, "lower")]
        nodes[1].SetAndObserveTransformNodeID(nodes[0].GetID())
        transform = mrml.transform_from_node(nodes[1])
        back = np.linalg.inv(upper @ lower)
        for p in rng.uniform(-90, 90, (5, 3)):
            np.testing.assert_allclose(transform.TransformPoint(p.tolist()), back[:3, :3] @ p + back[:3, 3], atol=1e-9)

    def test_a_field_node_gives_its_field_back(self):
        known, node = smooth_field(random_grid(13, mirrored=True), 13), transform_node()
        mrml.write_transform(node, known)
        image = sitk.DisplacementFieldTransform(mrml.transform_from_node(node)).GetDisplacementField()
        assert Grid.of(image).same_as(known.grid, 1e-9)
        np.testing.assert_allclose(sitk.GetArrayFromImage(image), known.vectors, atol=1e-6)

    def test_a_grid_held_to_parent_is_inverted_on_the_reference(self):
        grid = random_grid(14, low=18, high=24)
        forward, holder, node = smooth_field(grid, 14, amplitude_mm=3.0), transform_node("H"), transform_node()
        mrml.write_transform(holder, forward)
        node.SetAndObserveTransformToParent(holder.GetTransformFromParent())
        with pytest.raises(InputError, match="give the volume"):
            mrml.transform_from_node(node)
        transform = mrml.transform_from_node(node, grid)
        points = inner_points(grid, 3, margin=5)
        there = np.array([transform.TransformPoint(p) for p in points.tolist()])
        assert np.abs(forward.transform_points(there) - points).max() < 0.1
        assert np.abs(there - points).max() > 0.5

    def test_a_bspline_node_is_sampled(self, scene, tmp_path):
        grid = random_grid(15, low=20, high=24)
        bspline = sitk.BSplineTransformInitializer(smooth_image(grid, 0), [4, 4, 4])
        rng = np.random.default_rng(1)
        bspline.SetParameters(rng.uniform(-4, 4, len(bspline.GetParameters())).tolist())
        sitk.WriteTransform(bspline, str(tmp_path / "b.tfm"))
        transform = mrml.transform_from_node(mrml.load_transform(tmp_path / "b.tfm"), grid)
        for p in grid.to_world(np.array([[7.0, 8, 9], [10, 11, 12]])).tolist():
            np.testing.assert_allclose(transform.TransformPoint(p), bspline.TransformPoint(p), atol=0.02)

    def test_only_transform_nodes_are_taken(self):
        with pytest.raises(InputError, match="must be a transform"):
            mrml.transform_from_node(volume_of(smooth_image(random_grid(1), 0), "V"))


class TestMasksAndSegmentations:
    def overlapping(self, grid: Grid) -> Segmentation:
        a, b = np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.uint8)
        a[2:7, 2:7, 2:7] = 1
        a[7:, 7:, 7:] = 3
        b[5:8, 5:8, 5:8] = 2
        segments = [Segment("liver", 1, 0), Segment("tumor", 2, 1, (1.0, 0.0, 0.0), "id-t"), Segment("spleen", 3, 0)]
        return Segmentation([grid.image(a), grid.image(b)], segments=segments)

    def node_of(self, segmentation: Segmentation):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "S")
        mrml.fill_segmentation(node, segmentation)
        return node

    @pytest.mark.parametrize("reference", [False, True])
    def test_overlapping_segments_make_the_round_trip(self, reference):
        known = self.overlapping(random_grid(30, mirrored=True))
        node = self.node_of(known)
        found = mrml.segmentation_from_node(node, known.grid if reference else None)
        assert [s.name for s in found.segments] == ["liver", "tumor", "spleen"]
        assert found.overlapping
        assert found.segment("tumor").color == pytest.approx((1.0, 0.0, 0.0))
        assert found.segment("tumor").id == "id-t"
        for name in ("liver", "tumor", "spleen"):
            np.testing.assert_array_equal(found.resampled(known.grid).mask(name), known.mask(name))

    def test_slicers_own_export_agrees(self, scene):
        known = self.overlapping(random_grid(31, mirrored=True))
        node, reference = self.node_of(known), volume_of(known.grid.image(np.zeros(known.grid.shape, np.uint8)), "R")
        exported = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "E")
        ids = vtk.vtkStringArray()
        ids.InsertNextValue("id-t")
        logic = slicer.vtkSlicerSegmentationsModuleLogic()
        logic.SetMRMLScene(scene)
        assert logic.ExportSegmentsToLabelmapNode(node, ids, exported, reference)
        np.testing.assert_array_equal(array_of(exported) > 0, known.mask("tumor"))

    def test_a_linear_parent_places_the_segments(self):
        known, matrix = self.overlapping(random_grid(32)), rigid(np.random.default_rng(2))
        node = self.node_of(known)
        node.SetAndObserveTransformNodeID(linear_node(matrix, "L").GetID())
        placed = Grid(
            known.grid.size,
            known.grid.spacing,
            tuple(matrix[:3, :3] @ known.grid.origin + matrix[:3, 3]),
            tuple((matrix[:3, :3] @ known.grid.direction_matrix).ravel()),
        )
        np.testing.assert_array_equal(mrml.segmentation_from_node(node, placed).mask("tumor"), known.mask("tumor"))
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(mrml.mask_from_node(node, placed, "tumor")) > 0, known.mask("tumor")
        )

    def test_a_mask_is_every_visible_segment_or_the_named_one(self):
        known = self.overlapping(random_grid(33))
        node = self.node_of(known)
        node.GetDisplayNode().SetSegmentVisibility(known.segment("spleen").id, False)
        mask = sitk.GetArrayFromImage(mrml.mask_from_node(node, known.grid))
        np.testing.assert_array_equal(mask > 0, known.mask("liver") | known.mask("tumor"))
        with pytest.raises(InputError, match='no segment "kidney"; it has: liver, tumor, spleen'):
            mrml.mask_from_node(node, known.grid, "kidney")
        for segment in known.segments:
            node.GetDisplayNode().SetSegmentVisibility(segment.id, False)
        with pytest.raises(InputError, match="no visible segment"):
            mrml.mask_from_node(node, known.grid)

    def test_label_maps_serve_as_mask_and_segmentation(self):
        known = self.overlapping(random_grid(34, mirrored=True))
        node = volume_of(known.grid.image(known.layers[0]), "labels", "vtkMRMLLabelMapVolumeNode")
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(mrml.mask_from_node(node, known.grid)) > 0, known.layers[0] > 0
        )
        found = mrml.segmentation_from_node(node)
        assert [s.value for s in found.segments] == [1, 3]
        np.testing.assert_array_equal(found.layers[0], known.layers[0])

    def test_an_empty_mask_is_refused(self):
        grid = random_grid(35)
        node = volume_of(grid.image(np.zeros(grid.shape, np.uint8)), "nothing", "vtkMRMLLabelMapVolumeNode")
        with pytest.raises(InputError, match='"nothing" is empty'):
            mrml.mask_from_node(node, grid)

    def test_surfaces_are_made_label_maps_in_a_copy(self, scene):
        grid = Grid((40, 40, 40), (1.0, 1.0, 1.0), (-20.0, -20.0, -20.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
        sphere = vtk.vtkSphereSource()
        sphere.SetRadius(12)
        sphere.SetCenter(*(FLIP * [3.0, -2.0, 1.0]))
        sphere.SetThetaResolution(48)
        sphere.SetPhiResolution(48)
        sphere.Update()
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "S")
        node.GetSegmentation().SetSourceRepresentationName("Closed surface")
        node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "ball", [1, 0, 0])
        before = node.GetSegmentation().GetMTime()
        found = mrml.segmentation_from_node(node, grid).mask("ball")
        expected = np.linalg.norm(grid.points() - [3.0, -2.0, 1.0], axis=-1) < 12
        assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.97
        assert node.GetSegmentation().GetMTime() == before
        assert not node.GetSegmentation().ContainsRepresentation("Binary labelmap")


class TestLandmarks:
    def test_labels_descriptions_and_undefined_points(self, scene):
        node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "F")
        node.AddControlPoint(vtk.vtkVector3d(-1, -2, 3), "dome")
        node.AddControlPoint(vtk.vtkVector3d(0, 0, 0), "missing")
        node.AddControlPoint(vtk.vtkVector3d(-4, -5, 6), "hilum")
        node.UnsetNthControlPointPosition(1)
        node.SetNthControlPointDescription(2, "at the porta")
        found = mrml.landmarks_from_markups(node)
        assert found.labels == ["dome", "hilum"]
        np.testing.assert_allclose(found.points, [[1, 2, 3], [4, 5, 6]])
        assert found.descriptions == ["", "at the porta"]

    def test_an_empty_list_is_refused(self, scene):
        with pytest.raises(InputError, match="no placed point"):
            mrml.landmarks_from_markups(scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "F"))


class TestProcess:
    def nodes(self, seed: int = 40):
        fixed, moving = pair(seed)
        return volume_of(fixed, "A"), volume_of(moving, "B"), fixed, moving

    def test_all_outputs_are_made_and_agree(self, scene):
        fixed_node, moving_node, _, _ = self.nodes()
        moving_node.CreateDefaultDisplayNodes()
        moving_node.GetDisplayNode().SetAutoWindowLevel(False)
        moving_node.GetDisplayNode().SetWindowLevel(123.0, 321.0)
        register = FakeRegister()
        done = mrml.process(fixed_node, moving_node, True, True, "warped", True, True, register=register)
        result = done.registration
        points = inner_points(result.field.grid, 0)
        expected = result.field.transform_points(points)
        assert np.abs(points_from_world(done.transform, points) - expected).max() < 1e-3
        inverse_points = inner_points(result.inverse.grid, 0)
        expected = result.inverse.transform_points(inverse_points)
        assert np.abs(points_from_world(done.inverse_transform, inverse_points) - expected).max() < 1e-3
        assert done.volume.GetName() == "warped"
        np.testing.assert_array_equal(array_of(done.volume), sitk.GetArrayFromImage(result.warped))
        assert Grid.of(mrml.image_from_volume_node(done.volume)).same_as(result.field.grid, 1e-9)
        np.testing.assert_array_equal(array_of(done.jacobian), sitk.GetArrayFromImage(result.jacobian()))
        np.testing.assert_array_equal(array_of(done.roundtrip), sitk.GetArrayFromImage(result.roundtrip_image()))
        display = done.volume.GetDisplayNode()
        assert (display.GetWindow(), display.GetLevel()) == (123.0, 321.0)
        assert (done.jacobian.GetDisplayNode().GetWindow(), done.jacobian.GetDisplayNode().GetLevel()) == (2.0, 1.0)

    def test_roles_are_recorded_and_everything_lies_in_one_folder(self, scene):
        fixed_node, moving_node, _, _ = self.nodes()
        done = mrml.process(fixed_node, moving_node, True, True, True, register=FakeRegister())
        node = slicer.vtkMRMLTransformNode
        for transform, fixed, moving in (
            (done.transform, fixed_node, moving_node),
            (done.inverse_transform, moving_node, fixed_node),
        ):
            assert transform.GetNodeReference(node.GetFixedNodeReferenceRole()).GetID() == fixed.GetID()
            assert transform.GetNodeReference(node.GetMovingNodeReferenceRole()).GetID() == moving.GetID()
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        for made in (done.transform, done.inverse_transform, done.volume, done.summary_table):
            assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(made)) == done.folder
        assert hierarchy.GetItemName(done.folder) == "CycleReg B to A"

    def test_the_summary_table_has_quantities_and_units(self):
        fixed_node, moving_node, _, _ = self.nodes()
        table = mrml.process(fixed_node, moving_node, register=FakeRegister()).summary_table.GetTable()
        rows = {
            table.GetValue(i, 0).ToString(): (table.GetValue(i, 1).ToString(), table.GetValue(i, 2).ToString())
            for i in range(table.GetNumberOfRows())
        }
        assert rows["Method"] == ("known", "")
        assert rows["Time, total"] == ("2.25", "s")
        assert rows["Folding"] == ("0", "%")
        assert rows["Round trip, mean"] == ("0.0123456", "mm")
        assert rows["Peak memory"] == ("512", "MB")

    def test_options_reach_the_registration(self):
        fixed_node, moving_node, fixed, _ = self.nodes()
        grid = Grid.of(fixed)
        box = np.zeros(grid.shape, np.uint8)
        box[2:9, 2:9, 2:9] = 1
        mask = volume_of(grid.image(box), "mask", "vtkMRMLLabelMapVolumeNode")
        initial = linear_node(np.linalg.inv(rigid(np.random.default_rng(3))), "start")
        register, progress = FakeRegister(), lambda stage, fraction: None
        mrml.process(
            fixed_node, moving_node, method="m", checkpoint="c", device="cpu", affine="rigid", fixedMask=mask,
            initialTransform=initial, refineSteps=7, smoothness=2.5, progress=progress, register=register,
        )  # fmt: skip
        (call,) = register.calls
        assert (call["method"], call["checkpoint"], call["device"], call["affine"]) == ("m", "c", "cpu", "rigid")
        assert (call["refine_steps"], call["smoothness"], call["progress"]) == (7, 2.5, progress)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(call["fixed_mask"]), box)
        expected = np.linalg.inv(np.linalg.inv(rigid(np.random.default_rng(3))))
        np.testing.assert_allclose(
            call["initial_transform"].TransformPoint((10.0, 20.0, 30.0)), (expected @ [10, 20, 30, 1])[:3], atol=1e-9
        )
        assert "moving_mask" not in call
        assert call["fixed"].GetPixelID() == sitk.sitkFloat32

    def test_a_moving_volume_under_a_linear_transform_shows_as_the_warped_one(self, scene):
        fixed_node, moving_node, _, _ = self.nodes()
        other = volume_of(smooth_image(random_grid(99), 9), "bystander")
        placement = linear_node(rigid(np.random.default_rng(4)), "placement")
        for node in (moving_node, other):
            node.SetAndObserveTransformNodeID(placement.GetID())
        register = FakeRegister()
        done = mrml.process(fixed_node, moving_node, True, None, True, register=register)
        result = done.registration
        assert Grid.of(result.moving).same_as(mrml.grid_from_volume_node(moving_node))
        mrml.show_under(moving_node, done.transform)
        assert other.GetParentTransformNode().GetID() == placement.GetID()
        assert placement.GetParentTransformNode() is None
        logic = slicer.vtkSlicerVolumesLogic()
        logic.SetMRMLScene(scene)
        found = array_of(logic.ResampleVolumeToReferenceVolume(moving_node, fixed_node))
        index = Grid.of(result.moving).to_index(result.field.grid.points() + result.field.vectors)
        inside = np.all((index > 0.5) & (index < np.array(Grid.of(result.moving).size) - 1.5), axis=-1)
        assert inside.mean() > 0.2
        assert np.abs(found - array_of(done.volume))[inside].max() < 1e-3

    def test_existing_nodes_are_reused_and_a_second_run_adds_nothing(self, scene):
        fixed_node, moving_node, _, _ = self.nodes()
        volume = volume_of(smooth_image(random_grid(50), 5), "old")
        volume.SetAndObserveTransformNodeID(linear_node(np.eye(4), "L").GetID())
        transform = transform_node("mine")
        first = mrml.process(fixed_node, moving_node, transform, None, volume, register=FakeRegister())
        assert first.transform.GetID() == transform.GetID()
        assert first.volume.GetID() == volume.GetID()
        assert volume.GetParentTransformNode() is None
        mrml.show_under(moving_node, transform)
        count = scene.GetNumberOfNodes()
        register = FakeRegister(amplitude_mm=2.0)
        second = mrml.process(fixed_node, moving_node, transform, None, volume, register=register)
        assert scene.GetNumberOfNodes() == count
        assert second.folder == first.folder
        assert second.summary_table.GetID() == first.summary_table.GetID()
        # Shown under the first result, yet taken as it was without it.
        assert Grid.of(register.calls[0]["moving"]).same_as(Grid.of(first.registration.moving))
        points = inner_points(second.registration.field.grid, 0)
        expected = second.registration.field.transform_points(points)
        assert np.abs(points_from_world(transform, points) - expected).max() < 1e-3

    def test_inputs_are_not_touched(self):
        fixed_node, moving_node, _, _ = self.nodes()
        before = [(n.GetMTime(), array_of(n).copy()) for n in (fixed_node, moving_node)]
        mrml.process(fixed_node, moving_node, True, True, True, True, True, register=FakeRegister())
        for node, (time, array) in zip((fixed_node, moving_node), before):
            assert node.GetMTime() == time
            np.testing.assert_array_equal(array_of(node), array)

    @pytest.mark.parametrize("error", [InputError("no"), Cancelled(), MemoryError()])
    def test_a_failure_leaves_the_scene_as_it_was(self, scene, error):
        fixed_node, moving_node, _, _ = self.nodes()
        transform, volume = transform_node("mine"), volume_of(smooth_image(random_grid(50), 5), "old")

        def fails(**_):
            raise error

        before = nodes_of(scene), transform.GetMTime(), volume.GetMTime()
        with pytest.raises(type(error)):
            mrml.process(fixed_node, moving_node, transform, True, volume, True, register=fails)
        assert (nodes_of(scene), transform.GetMTime(), volume.GetMTime()) == before

    def test_a_failure_while_results_are_computed_leaves_the_scene_as_it_was(self, scene):
        fixed_node, moving_node, _, _ = self.nodes()
        transform = transform_node("mine")
        before = nodes_of(scene), transform.GetMTime()

        def register(**arguments):
            result = FakeRegister()(**arguments)
            result.jacobian = lambda: 1 / 0
            return result

        with pytest.raises(ZeroDivisionError):
            mrml.process(fixed_node, moving_node, transform, True, True, True, register=register)
        assert (nodes_of(scene), transform.GetMTime()) == before

    def test_a_failure_while_writing_removes_the_new_nodes(self, scene, monkeypatch):
        fixed_node, moving_node, _, _ = self.nodes()
        scene.AddNewNodeByClass("vtkMRMLSubjectHierarchyNode")
        before = nodes_of(scene)
        monkeypatch.setattr("CycleRegLib.mrml.job.write_table", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            mrml.process(fixed_node, moving_node, True, register=FakeRegister())
        assert nodes_of(scene) == before

    def test_a_job_survives_the_removal_of_its_nodes(self, scene):
        fixed_node, moving_node, _, _ = self.nodes()
        transform = transform_node("mine")
        job = mrml.prepare(fixed_node, moving_node, outputTransform=transform, outputVolume=True)
        result = FakeRegister()(**job.inputs)
        scene.RemoveNode(transform)
        scene.RemoveNode(moving_node)
        done = job.commit(result)
        assert done.transform.GetName() == "mine"
        assert done.transform.GetScene() is scene
        assert done.transform.GetNodeReference(slicer.vtkMRMLTransformNode.GetMovingNodeReferenceRole()) is None
        np.testing.assert_array_equal(array_of(done.volume), sitk.GetArrayFromImage(result.warped))

    def test_impossible_requests_are_refused(self, scene):
        fixed_node, moving_node, _, _ = self.nodes()
        linear, label = linear_node(np.eye(4), "L"), scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "lab")
        shown = transform_node("shown")
        same = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "same")
        constant = volume_of(sitk.Image(8, 8, 8, sitk.sitkFloat32), "constant")
        for arguments, text in (
            ({"fixedNode": None}, "No fixed volume"),
            ({"movingNode": fixed_node}, "both the fixed and the moving"),
            ({"movingNode": constant}, 'moving volume "constant" is constant'),
            ({"outputTransform": linear}, "must be a vtkMRMLTransformNode but is a vtkMRMLLinearTransformNode"),
            ({"outputVolume": label}, "must be a vtkMRMLScalarVolumeNode"),
            ({"outputVolume": moving_node}, "is also an input"),
            ({"outputVolume": same, "outputJacobian": same}, "Two outputs are the same"),
            ({"outputTransform": shown, "outputInverseTransform": shown}, "Two outputs are the same"),
        ):
            request = {"fixedNode": fixed_node, "movingNode": moving_node, **arguments}
            with pytest.raises(InputError, match=text):
                mrml.process(**request, register=FakeRegister())
        fixed_node.SetAndObserveTransformNodeID(shown.GetID())
        with pytest.raises(InputError, match='"A" is under the output transform "shown"'):
            mrml.process(fixed_node, moving_node, shown, register=FakeRegister())
        moving_node.SetAndObserveTransformNodeID(linear.GetID())
        with pytest.raises(InputError, match="would count twice"):
            mrml.process(fixed_node, moving_node, True, initialTransform=linear, register=FakeRegister())


class TestEvaluate:
    """A known field between unrelated oblique grids; landmarks and balls that it maps onto each other."""

    @pytest.fixture
    def case(self):
        fixed, moving = pair(80, apart_mm=5.0)
        fixed_node, moving_node = volume_of(fixed, "A"), volume_of(moving, "B")
        done = mrml.process(fixed_node, moving_node, True, True, True, register=FakeRegister())
        known = done.registration.field
        points = inner_points(known.grid, 8, count=5, margin=5)
        mapped = known.transform_points(points)
        inside = Grid.of(moving).contains(mapped)
        labels = [f"p{i}" for i in range(int(inside.sum()))]
        assert len(labels) >= 3
        center = points[inside][0]
        balls = []
        for grid, middle in ((known.grid, center), (Grid.of(moving), known.transform_points(center)[0])):
            ball = np.linalg.norm(grid.points() - middle, axis=-1) < 7
            balls.append(Segmentation(grid.image(ball.astype(np.uint8)), {1: "tumor"}))
        markups, segmentations = [], []
        for side, where, ball in (("F", points[inside], balls[0]), ("M", mapped[inside], balls[1])):
            markups.append(mrml.markups_node(LandmarkList(labels, where), side))
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", side)
            mrml.fill_segmentation(node, ball)
            segmentations.append(node)
        return done, fixed_node, moving_node, markups, segmentations, points[inside], mapped[inside], balls

    def test_numbers_are_the_librarys_and_fill_the_tables(self, scene, case):
        done, fixed_node, moving_node, markups, segmentations, points, mapped, balls = case
        result = done.registration
        found = mrml.evaluate(fixed_node, moving_node, done.transform, *markups, *segmentations)
        before = np.linalg.norm(points - mapped, axis=1)
        np.testing.assert_allclose(found.evaluation.landmarks.before, before, rtol=1e-6)
        assert found.evaluation.landmarks.after.max() < 1e-3
        direct = evaluate_images(
            result.fixed, result.moving, result.field, result.inverse,
            fixed_segmentation=balls[0], moving_segmentation=balls[1],
        )  # fmt: skip
        assert found.evaluation.tumor.numbers("volume_ml") == pytest.approx(direct.tumor.numbers("volume_ml"))
        assert found.evaluation.labels["tumor"].dice.after == pytest.approx(direct.labels["tumor"].dice.after)
        assert found.evaluation.roundtrip_mm.mean == pytest.approx(direct.roundtrip_mm.mean, rel=1e-3)
        table = found.landmarks.GetTable()
        assert [table.GetColumnName(i) for i in range(3)] == ["Landmark", "TRE before (mm)", "TRE after (mm)"]
        np.testing.assert_allclose([table.GetValue(i, 1).ToDouble() for i in range(len(points))], before, rtol=1e-6)
        table = found.tumor.GetTable()
        assert [table.GetValue(i, 0).ToString() for i in range(3)] == ["fixed", "moving", "warped"]
        assert table.GetColumnName(3) == "Volume (mL)"
        assert table.GetValue(2, 3).ToDouble() == pytest.approx(direct.tumor.warped.volume_ml)
        table = found.segments.GetTable()
        assert table.GetColumnName(2) == "Dice after"
        assert table.GetValue(0, 2).ToDouble() == pytest.approx(direct.labels["tumor"].dice.after)
        assert found.summary.GetTable().GetNumberOfRows() == len(found.evaluation.rows())
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        assert found.folder == done.folder
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(found.tumor)) == done.folder

    def test_what_is_shown_under_the_transform_is_measured_as_it_was(self, scene, case):
        done, fixed_node, moving_node, markups, segmentations, *_ = case
        first = mrml.evaluate(fixed_node, moving_node, done.transform, *markups, *segmentations)
        count = scene.GetNumberOfNodes()
        for node in (moving_node, markups[1], segmentations[1]):
            mrml.show_under(node, done.transform)
        for node in (fixed_node, markups[0], segmentations[0]):
            mrml.show_under(node, done.inverse_transform)
        second = mrml.evaluate(fixed_node, moving_node, done.transform, *markups, *segmentations)
        assert second.evaluation.to_dict() == first.evaluation.to_dict()
        assert scene.GetNumberOfNodes() == count
        assert second.summary.GetID() == first.summary.GetID()

    def test_a_linear_transform_can_be_evaluated(self, case):
        _, fixed_node, moving_node, markups, _, points, mapped, _ = case
        matrix = np.eye(4)
        matrix[:3, 3] = (points - mapped).mean(axis=0)
        found = mrml.evaluate(fixed_node, moving_node, linear_node(matrix, "L"), *markups, outputSummary=None)
        expected = np.linalg.norm(mapped - (points - matrix[:3, 3]), axis=1)
        np.testing.assert_allclose(found.evaluation.landmarks.after, expected, atol=1e-3)
        assert found.summary is None
        assert found.segments is None
        assert found.landmarks is not None

    def test_a_failure_leaves_the_scene_as_it_was(self, scene, case):
        done, fixed_node, moving_node, markups, *_ = case
        before = nodes_of(scene), done.transform.GetMTime()
        for arguments, text in (
            ((None,), "No transform"),
            ((moving_node,), "must be a transform"),
            ((done.transform, markups[0], None), "both images"),
            ((done.transform, markups[0], fixed_node), "must be a point list"),
        ):
            with pytest.raises(InputError, match=text):
                mrml.evaluate(fixed_node, moving_node, *arguments)
        assert (nodes_of(scene), done.transform.GetMTime()) == before


class TestScene:
    def test_a_scene_is_made_once(self, scene):
        assert mrml.ensure_scene() is scene
        assert slicer.mrmlScene is scene
        assert scene.GetNodeByID("vtkMRMLColorTableNodeGrey") is not None

    def test_a_bundle_holds_everything_and_opens_again(self, scene, tmp_path):
        fixed, moving = pair(60)
        fixed_node, moving_node = volume_of(fixed, "A"), volume_of(moving, "B")
        done = mrml.process(fixed_node, moving_node, True, True, True, True, True, register=FakeRegister())
        mrml.markups_node(LandmarkList(["dome"], [[1.0, -2.0, 3.0]], ["at the top"]), "points")
        ball = Segmentation(fixed > 100, {1: "bright"})
        segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "segments")
        mrml.fill_segmentation(segmentation, ball)
        path = mrml.save_scene(tmp_path / "out.mrb")
        assert [p.name for p in tmp_path.iterdir()] == ["out.mrb"]
        opened = mrml.read_scene(path)
        points = inner_points(done.registration.field.grid, 0)
        for made, known in (
            (done.transform, done.registration.field),
            (done.inverse_transform, done.registration.inverse),
        ):
            points = inner_points(known.grid, 0)
            read = opened.GetFirstNodeByName(made.GetName())
            assert np.abs(points_from_world(read, points) - known.transform_points(points)).max() < 1e-3
        for made in (done.volume, done.jacobian, done.roundtrip, fixed_node, moving_node):
            # Slicer's reader reverses the slices of left-handed volumes: same voxels in the world, another order.
            expected = mrml.image_from_volume_node(made)
            found = mrml.image_from_volume_node(opened.GetFirstNodeByName(made.GetName()))
            found = sitk.Resample(found, expected, sitk.Transform(), sitk.sitkNearestNeighbor)
            np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
        landmarks = mrml.landmarks_from_markups(opened.GetFirstNodeByName("points"))
        assert (landmarks.labels, landmarks.descriptions) == (["dome"], ["at the top"])
        np.testing.assert_allclose(landmarks.points, [[1.0, -2.0, 3.0]])
        found = mrml.segmentation_from_node(opened.GetFirstNodeByName("segments"), Grid.of(fixed))
        np.testing.assert_array_equal(found.mask("bright"), ball.mask("bright"))
        read = opened.GetFirstNodeByName(done.transform.GetName())
        role = slicer.vtkMRMLTransformNode.GetMovingNodeReferenceRole()
        assert read.GetNodeReference(role).GetName() == "B"
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(opened)
        folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(read))
        assert hierarchy.GetItemName(folder) == "CycleReg B to A"
        table = opened.GetFirstNodeByName(done.summary_table.GetName()).GetTable()
        assert table.GetNumberOfRows() == done.summary_table.GetNumberOfRows()

    def test_loaders_refuse_what_the_command_line_refuses(self, scene, tmp_path):
        (tmp_path / "text.nrrd").write_text("hello")
        before = nodes_of(scene)
        for load in (mrml.load_volume, mrml.load_segmentation, mrml.load_transform, mrml.load_landmarks):
            for name in ("text.nrrd", "absent.nrrd"):
                with pytest.raises(InputError):
                    load(tmp_path / name)
        assert nodes_of(scene) == before

    def test_volumes_and_segmentations_load_as_they_lie(self, tmp_path):
        grid = random_grid(70, mirrored=True)
        image = smooth_image(grid, 7)
        sitk.WriteImage(image, str(tmp_path / "ct.nii.gz"))
        node = mrml.load_volume(tmp_path / "ct.nii.gz")
        assert node.GetName() == "ct"
        assert mrml.grid_from_volume_node(node).same_as(grid)
        np.testing.assert_array_equal(array_of(node), sitk.GetArrayFromImage(image))

    def test_a_missing_scene_or_folder_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="does not exist"):
            mrml.read_scene(tmp_path / "none.mrb")
        with pytest.raises(InputError, match=r"folder .* does not exist"):
            mrml.save_scene(tmp_path / "none" / "x.mrb")
        with pytest.raises(InputError, match=r"saved as \.mrb"):
            mrml.save_scene(tmp_path / "x.zip")
