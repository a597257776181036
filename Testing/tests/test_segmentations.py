"""Segmentations: overlaps, geometry, and files exchanged with Slicer's own storage node."""

from __future__ import annotations

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk

from CycleRegLib.errors import CycleRegWarning, InputError
from CycleRegLib.fields import DisplacementField
from CycleRegLib.geometry import Grid
from CycleRegLib.segmentations import Segment, Segmentation, read_segmentation, write_segmentation

# Rotated about two axes, anisotropic; a proper rotation, as Slicer's oriented images want.
ANGLES = np.deg2rad([20.0, -30.0])
DIRECTION = np.array(
    [[np.cos(ANGLES[0]), -np.sin(ANGLES[0]), 0], [np.sin(ANGLES[0]), np.cos(ANGLES[0]), 0], [0, 0, 1]]
) @ np.array([[1, 0, 0], [0, np.cos(ANGLES[1]), -np.sin(ANGLES[1])], [0, np.sin(ANGLES[1]), np.cos(ANGLES[1])]])
OBLIQUE = Grid((12, 10, 8), (1.0, 1.5, 3.0), (10.0, -20.0, 30.0), tuple(DIRECTION.ravel()))


def box(x: slice, y: slice, z: slice, grid: Grid = OBLIQUE) -> np.ndarray:
    mask = np.zeros(grid.shape, dtype=bool)
    mask[z, y, x] = True
    return mask


LIVER = box(slice(1, 9), slice(2, 9), slice(1, 7))
TUMOR = box(slice(5, 11), slice(4, 8), slice(3, 6))  # partly inside, partly outside the liver


@pytest.fixture
def overlapping() -> Segmentation:
    return Segmentation(
        [OBLIQUE.image(LIVER * np.uint8(5)), OBLIQUE.image(TUMOR * np.uint8(2))],
        segments=[Segment("Leber, größer", 5, 0, (0.25, 0.5, 1.0)), Segment("tumor", 2, 1, (1.0, 0.0, 0.5))],
    )


class TestSegmentation:
    def test_overlapping_segments_keep_their_voxels(self, overlapping):
        np.testing.assert_array_equal(overlapping.mask("Leber, größer"), LIVER)
        np.testing.assert_array_equal(overlapping.mask("tumor"), TUMOR)
        np.testing.assert_array_equal(overlapping.mask(2), TUMOR)
        assert overlapping.overlapping
        assert overlapping.names == {5: "Leber, größer", 2: "tumor"}

    def test_in_one_label_image_the_later_segment_wins(self, overlapping):
        labels = overlapping.labels
        assert Grid.of(labels).same_as(OBLIQUE)
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(labels), np.where(TUMOR, 2, np.where(LIVER, 5, 0)).astype(np.uint8)
        )

    def test_from_a_label_image_with_some_names(self):
        array = np.zeros(OBLIQUE.shape, np.int32)
        array[2, 3, 4], array[5, 5, 5] = 300, 7
        segmentation = Segmentation(OBLIQUE.image(array), {7: "spleen", 9: "absent"})
        assert segmentation.names == {7: "spleen", 9: "absent", 300: "label 300"}
        assert segmentation.layers[0].dtype == np.uint16
        assert segmentation.mask("absent").sum() == 0
        assert np.argwhere(segmentation.mask(300)).tolist() == [[2, 3, 4]]
        assert not segmentation.overlapping
        np.testing.assert_array_equal(sitk.GetArrayFromImage(segmentation.labels), array)

    def test_an_unknown_segment_is_an_error_that_lists_the_known_ones(self, overlapping):
        with pytest.raises(InputError, match=r"no segment 'kidney'; it has 'Leber, größer', 'tumor'"):
            overlapping.mask("kidney")

    def test_bad_arguments(self):
        image = OBLIQUE.image(LIVER)
        with pytest.raises(ValueError, match="same grid"):
            Segmentation([image, sitk.Image(12, 10, 8, sitk.sitkUInt8)])
        with pytest.raises(ValueError, match="own label value"):
            Segmentation([image, image], segments=[Segment("a", 1, 0), Segment("b", 1, 1)])
        with pytest.raises(ValueError, match="whole numbers"):
            Segmentation(OBLIQUE.image(LIVER * -1.0))
        with pytest.raises(ValueError, match="whole numbers"):
            Segmentation(OBLIQUE.image(LIVER * 0.5))

    def test_resampling_asks_for_the_nearest_voxel(self, overlapping):
        other = Grid((9, 11, 14), (1.7, 1.1, 1.9), (7.0, -18.0, 28.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
        resampled = overlapping.resampled(other)
        assert resampled.grid == other
        index = np.rint(OBLIQUE.to_index(other.points())).astype(int)
        inside = OBLIQUE.contains(other.points())
        index = np.clip(index, 0, np.array(OBLIQUE.size) - 1)
        for name, mask in (("Leber, größer", LIVER), ("tumor", TUMOR)):
            expected = mask[index[..., 2], index[..., 1], index[..., 0]] & inside
            assert expected.any()
            np.testing.assert_array_equal(resampled.mask(name), expected)
        assert overlapping.resampled(OBLIQUE) is overlapping

    def test_warping_follows_the_field_in_every_layer(self, overlapping):
        step = OBLIQUE.direction_matrix @ np.array([2 * 1.0, 0, 1 * 3.0])  # two voxels in x, one in z
        field = DisplacementField(np.broadcast_to(step, (*OBLIQUE.shape, 3)).astype(np.float32), OBLIQUE)
        warped = overlapping.warped(field)
        for name, mask in (("Leber, größer", LIVER), ("tumor", TUMOR)):
            expected = np.zeros_like(mask)
            expected[:-1, :, :-2] = mask[1:, :, 2:]
            np.testing.assert_array_equal(warped.mask(name), expected)
        assert [s.name for s in warped.segments] == [s.name for s in overlapping.segments]


class TestFiles:
    def test_round_trip_of_overlapping_segments(self, tmp_path, overlapping):
        write_segmentation(overlapping, tmp_path / "a.seg.nrrd")
        back = read_segmentation(tmp_path / "a.seg.nrrd")
        assert back.grid.same_as(OBLIQUE, 1e-9)
        assert back.segments == overlapping.segments
        for key in (5, 2):
            np.testing.assert_array_equal(back.mask(key), overlapping.mask(key))

    def test_the_same_segmentation_gives_the_same_bytes(self, tmp_path, overlapping):
        for name in ("a", "b"):
            write_segmentation(overlapping, tmp_path / f"{name}.seg.nrrd")
        assert (tmp_path / "a.seg.nrrd").read_bytes() == (tmp_path / "b.seg.nrrd").read_bytes()

    def test_wide_labels_empty_segments_and_awkward_names(self, tmp_path):
        segmentation = Segmentation(OBLIQUE.image(LIVER * np.uint16(40000)), {40000: "C:\\new\nline", 3: "empty"})
        write_segmentation(segmentation, tmp_path / "a.seg.nrrd")
        back = read_segmentation(tmp_path / "a.seg.nrrd")
        assert back.names == {3: "empty", 40000: "C:\\new\nline"}
        np.testing.assert_array_equal(back.mask(40000), LIVER)
        assert not back.mask("empty").any()

    def test_simpleitk_finds_the_voxels_where_we_put_them(self, tmp_path, overlapping):
        write_segmentation(overlapping, tmp_path / "a.seg.nrrd")
        image = sitk.ReadImage(str(tmp_path / "a.seg.nrrd"))
        assert Grid.of(image).same_as(OBLIQUE)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image)[..., 1] == 2, TUMOR)

    @pytest.mark.parametrize("space", ["right-anterior-superior", "left-anterior-superior", "LPS"])
    def test_other_spaces_than_lps(self, tmp_path, space):
        flip = {"right-anterior-superior": [-1, -1, 1], "left-anterior-superior": [1, -1, 1], "LPS": [1, 1, 1]}[space]
        header = {
            "space": space,
            "space directions": (OBLIQUE.direction_matrix * np.array(OBLIQUE.spacing)).T * flip,
            "space origin": np.array(OBLIQUE.origin) * flip,
            "kinds": ["domain"] * 3,
            "Segment0_ID": "s",
            "Segment0_Name": "tumor",
            "Segment0_LabelValue": "4",
            "Segment0_Layer": "0",
        }
        nrrd.write(str(tmp_path / "a.seg.nrrd"), (TUMOR * np.int16(4)), header, index_order="C")
        back = read_segmentation(tmp_path / "a.seg.nrrd")
        assert back.grid.same_as(OBLIQUE, 1e-6)
        assert back.names == {4: "tumor"}
        np.testing.assert_array_equal(back.mask("tumor"), TUMOR)

    def test_before_layers_every_segment_was_a_component_of_ones(self, tmp_path):
        header = {
            "space": "left-posterior-superior",
            "space directions": np.vstack([[np.nan] * 3, np.diag(OBLIQUE.spacing)]),
            "space origin": [0.0, 0.0, 0.0],
            "kinds": ["vector", "domain", "domain", "domain"],
            "Segment0_ID": "a",
            "Segment0_Name": "liver",
            "Segment1_ID": "b",
            "Segment1_Name": "tumor",
        }
        data = np.stack([LIVER, TUMOR], axis=-1).astype(np.uint8)
        nrrd.write(str(tmp_path / "a.seg.nrrd"), data, header, index_order="C")
        back = read_segmentation(tmp_path / "a.seg.nrrd")
        assert back.names == {1: "liver", 2: "tumor"}
        np.testing.assert_array_equal(back.mask("liver"), LIVER)
        np.testing.assert_array_equal(back.mask("tumor"), TUMOR)

    @pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
    @pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
    def test_label_images(self, tmp_path, ending, kind):
        path = tmp_path / f"labels{ending}"
        sitk.WriteImage(OBLIQUE.image(np.where(TUMOR, 2, LIVER * 1).astype(kind)), str(path))
        back = read_segmentation(path)
        assert back.grid.same_as(OBLIQUE, 1e-4)
        assert back.names == {1: "label 1", 2: "label 2"}
        np.testing.assert_array_equal(back.mask(2), TUMOR)
        np.testing.assert_array_equal(back.mask(1), LIVER & ~TUMOR)

    def test_a_label_image_cannot_hold_overlaps_and_says_so(self, tmp_path, overlapping):
        with pytest.warns(CycleRegWarning, match="later segment wins"):
            write_segmentation(overlapping, tmp_path / "a.nii.gz")
        np.testing.assert_array_equal(read_segmentation(tmp_path / "a.nii.gz").mask(2), TUMOR)

    def test_intensity_images_are_refused(self, tmp_path):
        rng = np.random.default_rng(0)
        grid = Grid((20, 20, 20), (1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
        for name, array in {
            "fractional": rng.normal(size=grid.shape).astype(np.float32),
            "negative": rng.integers(-1000, 1000, grid.shape).astype(np.int16),
            "many": rng.integers(0, 4000, grid.shape).astype(np.int16),
        }.items():
            sitk.WriteImage(grid.image(array), str(tmp_path / f"{name}.nii.gz"))
            with pytest.raises(InputError, match="intensity image where a label image is expected"):
                read_segmentation(tmp_path / f"{name}.nii.gz")

    def test_empty_and_missing_files(self, tmp_path):
        sitk.WriteImage(sitk.Image(8, 8, 8, sitk.sitkUInt8), str(tmp_path / "zero.nrrd"))
        with pytest.raises(InputError, match="empty"):
            read_segmentation(tmp_path / "zero.nrrd")
        with pytest.raises(InputError, match="does not exist"):
            read_segmentation(tmp_path / "none.seg.nrrd")

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ((b"space: left-posterior-superior\n", b""), "does not say where it lies"),
            ((b"_Layer:=1", b"_Layer:=7"), "layer 7, but it has 2"),
            ((b"_LabelValue:=2", b"_LabelValue:=two"), "segment 1"),
            ((b"_Color:=1 0 0.5", b"_Color:=red"), "segment 1"),
            ((b"encoding: gzip", b"encoding: zebra"), "cannot be read"),
            ((b"_Layer:=1", b"_Layer:=0"), None),
        ],
    )
    def test_damaged_headers(self, tmp_path, overlapping, change, match):
        path = tmp_path / "a.seg.nrrd"
        write_segmentation(overlapping, path)
        content = path.read_bytes()
        assert change[0] in content
        path.write_bytes(content.replace(*change))
        if match is None:  # only misplaced: readable, and the voxels of the other layer belong to nobody
            assert not read_segmentation(path).mask("tumor").any()
        else:
            with pytest.raises(InputError, match=match):
                read_segmentation(path)

    def test_a_truncated_file(self, tmp_path, overlapping):
        path = tmp_path / "a.seg.nrrd"
        write_segmentation(overlapping, path)
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(InputError, match="cannot be read"):
            read_segmentation(path)


class TestAgainstSlicer:
    @pytest.fixture
    def scene(self):
        slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")
        return slicer.vtkMRMLScene()

    @staticmethod
    def storage(scene, path):
        import slicer

        storage = scene.AddNode(slicer.vtkMRMLSegmentationStorageNode())
        storage.SetFileName(str(path))
        return storage

    @staticmethod
    def add(node, name, color, mask):
        """A segment of its own layer, on the oblique grid."""
        import slicer
        import vtk
        from vtk.util.numpy_support import numpy_to_vtk

        matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ OBLIQUE.index_to_world  # index to RAS
        vtk_matrix = vtk.vtkMatrix4x4()
        for i in range(4):
            for j in range(4):
                vtk_matrix.SetElement(i, j, matrix[i, j])
        image = slicer.vtkOrientedImageData()
        image.SetDimensions(*OBLIQUE.size)
        scalars = numpy_to_vtk(mask.astype(np.uint8).ravel(), deep=True)
        image.GetPointData().SetScalars(scalars)
        image.SetImageToWorldMatrix(vtk_matrix)
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.SetColor(*color)
        segment.AddRepresentation("Binary labelmap", image)
        assert node.GetSegmentation().AddSegment(segment)

    @staticmethod
    def world_points(node, number):
        """LPS positions of the voxels that Slicer says belong to a segment, sorted."""
        import slicer
        import vtk
        from vtk.util.numpy_support import vtk_to_numpy

        image = slicer.vtkOrientedImageData()
        node.GetBinaryLabelmapRepresentation(node.GetSegmentation().GetNthSegmentID(number), image)
        x0, x1, y0, y1, z0, z1 = image.GetExtent()
        array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(z1 - z0 + 1, y1 - y0 + 1, x1 - x0 + 1)
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        matrix = np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)])
        index = np.argwhere(array > 0)[:, ::-1] + [x0, y0, z0]
        return index @ matrix[:3, :3].T * [-1, -1, 1] + matrix[:3, 3] * [-1, -1, 1]

    @staticmethod
    def assert_same_points(found, mask):
        index = OBLIQUE.to_index(found)
        np.testing.assert_allclose(index, np.rint(index), atol=1e-4)
        expected = np.argwhere(mask)[:, ::-1]
        assert sorted(map(tuple, np.rint(index).astype(int).tolist())) == sorted(map(tuple, expected.tolist()))

    @pytest.mark.parametrize("disjoint", [False, True])
    def test_slicer_reads_what_we_write(self, tmp_path, scene, overlapping, disjoint):
        segmentation, tumor, liver = overlapping, TUMOR, LIVER
        if disjoint:
            liver = LIVER & ~TUMOR
            segmentation = Segmentation(overlapping.labels, segments=[
                Segment(s.name, s.value, 0, s.color) for s in overlapping.segments
            ])  # fmt: skip
        path = tmp_path / "ours.seg.nrrd"
        write_segmentation(segmentation, path)
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        assert self.storage(scene, path).ReadData(node)
        content = node.GetSegmentation()
        assert content.GetNumberOfSegments() == 2
        assert content.GetNumberOfLayers("Binary labelmap") == (1 if disjoint else 2)
        for number, mask in enumerate((liver, tumor)):
            segment = content.GetNthSegment(number)
            expected = segmentation.segments[number]
            assert segment.GetName() == expected.name
            np.testing.assert_allclose(segment.GetColor(), expected.color, atol=1e-5)
            assert segment.GetLabelValue() == expected.value
            self.assert_same_points(self.world_points(node, number), mask)

    @pytest.mark.parametrize("disjoint", [False, True])
    def test_ours_reads_what_slicer_writes(self, tmp_path, scene, disjoint):
        """Slicer crops to the voxels in use, and gives both overlapping segments the label value 1."""
        liver = LIVER & ~TUMOR if disjoint else LIVER
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        self.add(node, "Leber, größer", (0.25, 0.5, 1.0), liver)
        self.add(node, "tumor", (1.0, 0.0, 0.5), TUMOR)
        node.GetSegmentation().CollapseBinaryLabelmaps(False)
        path = tmp_path / "slicer.seg.nrrd"
        assert self.storage(scene, path).WriteData(node)
        back = read_segmentation(path)
        assert len(back.layers) == (1 if disjoint else 2)
        assert [s.name for s in back.segments] == ["Leber, größer", "tumor"]
        np.testing.assert_allclose([s.color for s in back.segments], [[0.25, 0.5, 1.0], [1.0, 0.0, 0.5]], atol=1e-5)
        assert back.grid.size != OBLIQUE.size
        for name, mask in (("Leber, größer", liver), ("tumor", TUMOR)):
            index = np.argwhere(back.mask(name))[:, ::-1]
            self.assert_same_points(back.grid.to_world(index), mask)
        np.testing.assert_array_equal(back.resampled(OBLIQUE).mask("tumor"), TUMOR)
