"""Single slices and colours as nodes: results are ordinary nodes, and Slicer's own classes find the same places."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer")

import vtk  # noqa: E402
from flat_cases import constant_checkpoint, picture, random_frame, slice_at  # noqa: E402
from mrml_cases import FLIP, linear_node, new_scene, points_from_world, rigid, vtk_matrix  # noqa: E402
from vtk.util import numpy_support  # noqa: E402

from CycleRegLib import mrml  # noqa: E402
from CycleRegLib.errors import InputError  # noqa: E402
from CycleRegLib.geometry import Grid  # noqa: E402
from CycleRegLib.landmarks import LandmarkList  # noqa: E402
from CycleRegLib.mrml.headless import main  # noqa: E402

FORWARD, BACKWARD = (-2.0, 3.0), (2.0, -3.0)


@pytest.fixture(autouse=True)
def scene() -> Any:
    return new_scene()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return constant_checkpoint(tmp_path_factory.mktemp("weights"), FORWARD, BACKWARD)


def node_of(image: sitk.Image, name: str) -> Any:
    """A volume node made here, not by the library: scalar, or a vector volume of colours."""
    channels = image.GetNumberOfComponentsPerPixel()
    kind = "vtkMRMLScalarVolumeNode" if channels == 1 else "vtkMRMLVectorVolumeNode"
    node = slicer.mrmlScene.AddNewNodeByClass(kind, name)
    data = vtk.vtkImageData()
    data.SetDimensions(image.GetSize())
    array = sitk.GetArrayFromImage(image).reshape(-1, channels)
    data.GetPointData().SetScalars(numpy_support.numpy_to_vtk(array, deep=True))
    matrix = np.eye(4)
    matrix[:3, :3] = FLIP[:, None] * np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    matrix[:3, 3] = FLIP * image.GetOrigin()
    node.SetAndObserveImageData(data)
    node.SetIJKToRASMatrix(vtk_matrix(matrix))
    return node


def array_of(node: Any) -> np.ndarray:
    """(z, y, x) or (z, y, x, c)."""
    data = node.GetImageData()
    array = numpy_support.vtk_to_numpy(data.GetPointData().GetScalars())
    return array.reshape(*data.GetDimensions()[::-1], *array.shape[1:])


def tilted_pair(seed: int, colour: bool = True) -> tuple[sitk.Image, sitk.Image]:
    """Two oblique slices, one tilted by some degrees against the other and stored along other axes."""
    rng = np.random.default_rng(seed)
    frame, origin = random_frame(seed), rng.uniform(-50, 50, 3)
    turn = np.array(sitk.Euler3DTransform((0, 0, 0), *rng.uniform(-0.2, 0.2, 3)).GetMatrix()).reshape(3, 3)
    fixed = slice_at(frame, origin, (60, 80), axis=int(rng.integers(3)))
    moving = slice_at(turn @ frame, origin + rng.uniform(-3, 3, 3), (64, 84), axis=int(rng.integers(3)))
    if colour:
        return fixed, moving
    return tuple(sitk.VectorIndexSelectionCast(image, 1, sitk.sitkInt16) for image in (fixed, moving))


def run(fixed: Any, moving: Any, checkpoint: Path, **more: Any) -> Any:
    given = {"outputTransform": True, "outputInverseTransform": True, "outputVolume": True, **more}
    return mrml.process(
        fixed, moving, method="cyclemorph-2d", checkpoint=checkpoint, affine="none", device="cpu", **given
    )


class TestProcess:
    @pytest.mark.parametrize("seed", range(4))
    def test_the_transform_node_moves_points_of_the_slice_into_the_moving_slice(
        self, checkpoint: Path, seed: int
    ) -> None:
        fixed, moving = tilted_pair(seed)
        done = run(node_of(fixed, "A"), node_of(moving, "B"), checkpoint)
        assert done.transform.GetClassName() == "vtkMRMLTransformNode"
        assert done.transform.GetTransformFromParentAs("vtkOrientedGridTransform", False) is not None
        rng = np.random.default_rng(seed)
        points = Grid.of(fixed).to_world(rng.uniform(0, 1, (40, 3)) * (np.array(fixed.GetSize()) - 1))
        found = points_from_world(done.transform, points)
        np.testing.assert_allclose(found, done.registration.field.transform_points(points), atol=1e-4)
        index = Grid.of(moving).to_index(found)
        across = moving.GetSize().index(1)
        np.testing.assert_allclose(index[:, across], 0.0, atol=1e-3)
        index[:, across] = 0.0
        # The network moves by 3 and 2 voxels of the fixed slice, in its plane.
        still = points_from_world(
            run(node_of(fixed, "C"), node_of(moving, "D"), constant_still(checkpoint)).transform, points
        )
        assert np.linalg.norm(found - still, axis=1) == pytest.approx(np.full(40, np.hypot(4.5, 2.0)), abs=1e-3)
        seen = ((index >= 0) & (index <= np.array(moving.GetSize()) - 1)).all(axis=1)
        assert seen.sum() > 15
        np.testing.assert_allclose(points_from_world(done.inverse_transform, found[seen]), points[seen], atol=1e-3)

    @pytest.mark.parametrize("colour", [False, True])
    def test_the_warped_volume_is_slicers_own_resampling_and_keeps_its_kind(
        self, scene: Any, checkpoint: Path, colour: bool
    ) -> None:
        fixed, moving = tilted_pair(5, colour)
        moving_node = node_of(moving, "B")
        done = run(node_of(fixed, "A"), moving_node, checkpoint, outputJacobian=True, outputRoundtrip=True)
        kind = "vtkMRMLVectorVolumeNode" if colour else "vtkMRMLScalarVolumeNode"
        assert done.volume.GetClassName() == kind
        found = array_of(done.volume)
        assert found.dtype == (np.uint8 if colour else np.int16)
        assert Grid.of(mrml.image_from_volume_node(done.volume, colours=True)).same_as(Grid.of(fixed))
        # Slicer's transform at every voxel, then SimpleITK's interpolation in the moving slice.
        points = points_from_world(done.transform, Grid.of(fixed).points().reshape(-1, 3))
        channels = [sitk.VectorIndexSelectionCast(moving, i) for i in range(3)] if colour else [moving]
        across = moving.GetSize().index(1)
        index = Grid.of(moving).to_index(points)
        index[:, across] = 0.0
        size = np.array(moving.GetSize()) - 1
        seen = ((index >= 0) & (index <= size)).all(axis=1)
        assert seen.mean() > 0.5
        truth = np.array(
            [[c.EvaluateAtContinuousIndex(i, sitk.sitkLinear) for c in channels] for i in index[seen].tolist()]
        )
        np.testing.assert_allclose(found.reshape(len(points), -1)[seen], truth, atol=1.0)
        assert array_of(done.jacobian) == pytest.approx(np.ones(fixed.GetSize()[::-1]), abs=1e-3)
        assert array_of(done.roundtrip).max() < 1e-2
        assert done.volume.GetDisplayNode() is not None

    def test_linear_parents_place_the_slices(self, checkpoint: Path) -> None:
        fixed, moving = tilted_pair(2)
        fixed_node, moving_node = node_of(fixed, "A"), node_of(moving, "B")
        before = run(fixed_node, moving_node, checkpoint)
        both = rigid(np.random.default_rng(0))
        parent = linear_node(both, "both")
        for node in (fixed_node, moving_node):
            node.SetAndObserveTransformNodeID(parent.GetID())
        after = run(fixed_node, moving_node, checkpoint)
        points = Grid.of(fixed).points().reshape(-1, 3)[::97]
        moved = points_from_world(before.transform, points) @ both[:3, :3].T + both[:3, 3]
        there = points @ both[:3, :3].T + both[:3, 3]
        np.testing.assert_allclose(points_from_world(after.transform, there), moved, atol=1e-3)

    def test_an_existing_vector_volume_is_written_and_a_scalar_one_refused(self, scene: Any, checkpoint: Path) -> None:
        fixed, moving = (node_of(image, name) for image, name in zip(tilted_pair(1), "AB"))
        vector = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "W")
        assert run(fixed, moving, checkpoint, outputVolume=vector).volume.GetID() == vector.GetID()
        assert array_of(vector).shape[-1] == 3
        scalar = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "S")
        with pytest.raises(InputError, match="must be a vtkMRMLVectorVolumeNode but is a vtkMRMLScalarVolumeNode"):
            run(fixed, moving, checkpoint, outputVolume=scalar)

    def test_what_does_not_belong_together_is_refused(self, scene: Any, checkpoint: Path) -> None:
        fixed, moving = tilted_pair(1)
        volume = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(12, 13, 14)).astype(np.float32))
        count = scene.GetNumberOfNodes()
        with pytest.raises(InputError, match="moving image is a volume of 14x13x12 voxels but the fixed"):
            run(node_of(fixed, "A"), node_of(volume, "V"), checkpoint)
        with pytest.raises(InputError, match=r"a single slice .*, but optimize registers volumes.* cyclemorph-2d"):
            mrml.process(node_of(fixed, "C"), node_of(moving, "D"), outputTransform=True)
        array = np.random.default_rng(0).integers(0, 99, (9, 9, 9, 3), np.uint8)
        colours = sitk.GetImageFromArray(array, isVector=True)
        with pytest.raises(InputError, match='fixed volume "E" has 3 components'):
            run(node_of(colours, "E"), node_of(volume, "F"), checkpoint)
        assert scene.GetNumberOfNodes() == count + 6, "only the volumes of this test were added"


def constant_still(checkpoint: Path) -> Path:
    folder = checkpoint.parent / "still"
    folder.mkdir(exist_ok=True)
    path = folder / "constant.safetensors"
    return path if path.exists() else constant_checkpoint(folder, (0.0, 0.0), (0.0, 0.0))


class TestEvaluate:
    def test_slices_are_measured_as_the_library_measures_them(self, checkpoint: Path) -> None:
        fixed, moving = tilted_pair(3)
        nodes = node_of(fixed, "A"), node_of(moving, "B")
        done = run(*nodes, checkpoint)
        points = Grid.of(fixed).points().reshape(-1, 3)[[1500, 2500, 3300]]
        partners = done.registration.field.transform_points(points)
        marks = [mrml.markups_node(LandmarkList(list("abc"), p), n) for p, n in ((points, "F"), (partners, "M"))]
        found = mrml.evaluate(*nodes, done.transform, *marks).evaluation
        assert found.landmarks.after.max() < 1e-3 < found.landmarks.before.min()
        assert found.jacobian.sd == pytest.approx(0.0, abs=1e-4)
        assert found.roundtrip_mm.p95 < 1e-2
        measures = done.registration.image_measures
        assert found.similarity["ssim"].after == pytest.approx(measures["ssim"]["after"], abs=2e-3)
        assert found.reversibility_fixed["nmse"] == pytest.approx(measures["reversibility_fixed"]["nmse"], abs=1e-3)


class TestFiles:
    def test_pictures_lie_where_slicer_puts_them(self, scene: Any, tmp_path: Path) -> None:
        for name, image, kind in (
            ("grey", picture(grey=True), "vtkMRMLScalarVolumeNode"),
            ("rgb", picture(), "vtkMRMLVectorVolumeNode"),
        ):
            sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
            theirs = scene.AddNewNodeByClass(kind, "theirs")
            storage = scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
            storage.SetFileName(str(tmp_path / f"{name}.nrrd"))
            storage.SetSingleFile(1)
            assert storage.ReadData(theirs)
            ours = mrml.load_volume(tmp_path / f"{name}.nrrd")
            assert ours.GetClassName() == kind
            images = [mrml.image_from_volume_node(node, colours=True) for node in (ours, theirs)]
            assert Grid.of(images[0]).same_as(Grid.of(images[1]))
            np.testing.assert_array_equal(*[sitk.GetArrayFromImage(image) for image in images])

    def test_headless_job_from_pictures_to_a_scene(self, tmp_path: Path, checkpoint: Path) -> None:
        sitk.WriteImage(picture(), str(tmp_path / "a.png"))
        sitk.WriteImage(picture((112, 96), (3.0, -2.0)), str(tmp_path / "b.png"))
        labels = np.zeros((90, 100), np.uint8)
        labels[30:60, 35:65] = 1
        sitk.WriteImage(sitk.GetImageFromArray(labels), str(tmp_path / "fl.png"))
        moved = np.zeros((96, 112), np.uint8)
        moved[28:58, 38:68] = 1
        sitk.WriteImage(sitk.GetImageFromArray(moved), str(tmp_path / "ml.png"))
        arguments = ["--fixed", f"{tmp_path}/a.png", "--moving", f"{tmp_path}/b.png", "--method", "cyclemorph-2d"]
        arguments += ["--checkpoint", str(checkpoint), "--affine", "none", "--progress", "none"]
        arguments += ["--fixed-segmentation", f"{tmp_path}/fl.png", "--moving-segmentation", f"{tmp_path}/ml.png"]
        arguments += ["--scene", f"{tmp_path}/s.mrb", "--json", f"{tmp_path}/s.json", "--output-volume"]
        assert main([*arguments, f"{tmp_path}/w.png", "--report", f"{tmp_path}/report"]) == 0
        summary = json.loads((tmp_path / "s.json").read_text())
        assert summary["evaluation"]["dice"]["label 1"] == pytest.approx({"before": 0.84, "after": 1.0}, abs=1e-6)
        written = sitk.ReadImage(str(tmp_path / "w.png"))
        assert written.GetSize() == (100, 90)
        assert written.GetPixelID() == sitk.sitkVectorUInt8
        opened = mrml.read_scene(tmp_path / "s.mrb")
        warped = opened.GetFirstNodeByName("b warped to a")
        assert warped.GetClassName() == "vtkMRMLVectorVolumeNode"
        np.testing.assert_array_equal(array_of(warped)[0], sitk.GetArrayFromImage(written))
        transform = opened.GetFirstNodeByName("b to a transform")
        landed = points_from_world(transform, np.array([[20.0, 30.0, 0.0]]))
        np.testing.assert_allclose(landed, [[23.0, 28.0, 0.0]], atol=1e-2)
