"""Pictures and single slices from the command line and from Python: geometry, colours, figures, bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from flat_cases import constant_checkpoint, picture, picture_grid, random_frame, scene, slice_at
from network_cases import lively_network
from scipy import ndimage
from small_pair import fixed_image, refuse

import CycleRegLib
from CycleRegLib.affine_2d import register_affine_2d
from CycleRegLib.checkpoints import write_checkpoint
from CycleRegLib.cli import main
from CycleRegLib.errors import Cancelled, CycleRegWarning, InputError
from CycleRegLib.fields import DisplacementField
from CycleRegLib.geometry import Grid, affine_transform
from CycleRegLib.images import read_transform, write_image
from CycleRegLib.images_2d import grey, read_image_2d
from CycleRegLib.landmarks import LandmarkList
from CycleRegLib.methods import Method, list_methods
from CycleRegLib.planar import FlatPair

IN_2D = [method for method in list_methods() if method.network and 2 in method.dimensions]
# The moving picture shows the fixed one moved by 3 pixels to the right and 2 up; the networks know it.
SHIFT = (3.0, -2.0)
FORWARD, BACKWARD = (-2.0, 3.0), (2.0, -3.0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return constant_checkpoint(tmp_path_factory.mktemp("weights"), FORWARD, BACKWARD)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``fixed.png`` and the moving picture, of another size, as PNG and JPEG."""
    sitk.WriteImage(picture(), str(tmp_path / "fixed.png"))
    sitk.WriteImage(picture((112, 96), SHIFT), str(tmp_path / "moving.png"))
    write_image(picture((112, 96), SHIFT), tmp_path / "moving.jpg")
    return tmp_path


def register(folder: Path, checkpoint: Path, *more: str, fixed: str = "fixed.png", moving: str = "moving.png") -> dict:
    """Run the command line and return its summary."""
    arguments = ["register", "--method", "cyclemorph-2d", "--checkpoint", str(checkpoint), "--progress", "none"]
    arguments += ["--fixed", str(folder / fixed), "--moving", str(folder / moving), "--json", str(folder / "s.json")]
    assert main([*arguments, *([] if "--affine" in more else ["--affine", "none"]), *more]) == 0
    return json.loads((folder / "s.json").read_text())


def resampled(moving: sitk.Image, fixed: sitk.Image, transform: sitk.Transform) -> np.ndarray:
    """SimpleITK's own resampling of each channel, rounded, and NaN outside the moving image."""
    count = moving.GetNumberOfComponentsPerPixel()
    channels = [sitk.VectorIndexSelectionCast(moving, i, sitk.sitkFloat64) for i in range(count)] if count > 1 else [
        sitk.Cast(moving, sitk.sitkFloat64)
    ]  # fmt: skip
    found = [sitk.GetArrayFromImage(sitk.Resample(c, fixed, transform, sitk.sitkLinear, np.nan)) for c in channels]
    return np.rint(np.stack(found, axis=-1) if count > 1 else found[0])


class TestPictures:
    @pytest.mark.parametrize("moving", ["moving.png", "moving.jpg"])
    def test_colours_move_with_the_field_of_the_grey_image(self, folder: Path, checkpoint: Path, moving: str) -> None:
        outputs = ["--output-volume", str(folder / "w.png"), "--output-transform", str(folder / "t.nrrd")]
        outputs += ["--output-inverse-transform", str(folder / "ti.nrrd")]
        register(folder, checkpoint, *outputs, moving=moving)
        warped, fixed = sitk.ReadImage(str(folder / "w.png")), sitk.ReadImage(str(folder / "fixed.png"))
        assert warped.GetPixelID() == sitk.sitkVectorUInt8
        assert warped.GetSize() == fixed.GetSize() == (100, 90)
        field = sitk.ReadImage(str(folder / "t.nrrd"), sitk.sitkVectorFloat64)
        assert sitk.GetArrayFromImage(field) == pytest.approx(np.broadcast_to(SHIFT, (90, 100, 2)), abs=1e-5)
        source = sitk.ReadImage(str(folder / moving))
        source.SetSpacing((1.0, 1.0))
        truth = resampled(source, picture_grid().empty_image(), sitk.DisplacementFieldTransform(field))
        seen = np.isfinite(truth)
        assert seen.mean() > 0.9
        found = sitk.GetArrayFromImage(warped)
        assert np.abs(found[seen] - truth[seen]).max() <= 1
        assert (found[~seen] == sitk.GetArrayFromImage(source).min()).all()
        back = sitk.ReadImage(str(folder / "ti.nrrd"))
        assert back.GetSize() == (112, 96)
        assert sitk.GetArrayFromImage(back) == pytest.approx(np.broadcast_to([-3.0, 2.0], (96, 112, 2)), abs=1e-5)

    @pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.float32])
    @pytest.mark.parametrize("grey", [False, True])
    def test_the_result_has_the_type_and_the_channels_of_the_moving_image(
        self, tmp_path: Path, checkpoint: Path, kind: type, grey: bool
    ) -> None:
        suffix = "png" if kind in (np.uint8, np.uint16) else "nrrd"
        sitk.WriteImage(picture(kind=np.uint8), str(tmp_path / "fixed.png"))
        moving = picture((112, 96), SHIFT, kind, grey)
        sitk.WriteImage(moving, str(tmp_path / f"moving.{suffix}"))
        output = tmp_path / f"w.{suffix}"
        register(tmp_path, checkpoint, "--output-volume", str(output), moving=f"moving.{suffix}")
        warped = sitk.ReadImage(str(output))
        assert warped.GetPixelID() == moving.GetPixelID()
        # A shift by whole pixels moves numbers as they are.
        found, source = sitk.GetArrayFromImage(warped), sitk.GetArrayFromImage(moving)
        np.testing.assert_allclose(found[2:], source[:88, 3:103], atol=0 if kind != np.float32 else 1e-3)

    @pytest.mark.parametrize("suffix", ["nrrd", "nii.gz", "mha"])
    def test_medical_formats_keep_their_geometry_in_2d(self, tmp_path: Path, checkpoint: Path, suffix: str) -> None:
        turn = np.array([[0.8, -0.6], [0.6, 0.8]])
        grid = Grid((60, 50), (1.6, 1.8), (-20.0, 30.0), tuple(turn.ravel()))
        for name, shift in (("fixed", np.zeros(2)), ("moving", turn @ (np.array([1.6, 1.8]) * SHIFT))):
            local = (grid.points() - shift - np.array(grid.origin)) @ turn
            image = grid.image(scene(local)[..., 1].astype(np.float32))
            sitk.WriteImage(image, str(tmp_path / f"{name}.{suffix}"))
        outputs = ["--output-volume", f"{tmp_path}/w.{suffix}", "--output-transform", f"{tmp_path}/t.{suffix}"]
        outputs += ["--output-inverse-transform", f"{tmp_path}/ti.h5"]
        summary = register(tmp_path, checkpoint, *outputs, fixed=f"fixed.{suffix}", moving=f"moving.{suffix}")
        truth = turn @ (np.array([1.6, 1.8]) * SHIFT)
        assert Grid.of(sitk.ReadImage(f"{tmp_path}/w.{suffix}")).same_as(grid)
        forward = read_transform(f"{tmp_path}/t.{suffix}", dimension=2)
        backward = sitk.ReadTransform(f"{tmp_path}/ti.h5")
        point = tuple(grid.center)
        np.testing.assert_allclose(np.subtract(forward.TransformPoint(point), point), truth, atol=1e-4)
        np.testing.assert_allclose(np.subtract(backward.TransformPoint(point), point), -truth, atol=1e-4)
        assert summary["nmse"]["after"] < 1e-4 < 1e-2 < summary["nmse"]["before"]
        assert "assumed_pixel_size_mm" not in summary

    def test_what_pictures_say_of_printing_is_not_a_size(self, folder: Path, checkpoint: Path) -> None:
        """Two resolutions would otherwise make two sizes of one picture."""
        for name, spacing in (("fixed.png", 0.35), ("moving.png", 0.1)):
            image = sitk.ReadImage(str(folder / name))
            image.SetSpacing((spacing, spacing))
            sitk.WriteImage(image, str(folder / name))
        assert sitk.ReadImage(str(folder / "moving.png")).GetSpacing()[0] == pytest.approx(0.1)
        summary = register(folder, checkpoint)
        assert summary["moving_grid"] == "112x96 voxels of 1x1 mm"
        assert summary["assumed_pixel_size_mm"] == 1
        assert summary["ssim"]["after"] > 0.99

    def test_an_alpha_channel_is_left_out_with_a_warning(
        self, folder: Path, checkpoint: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        rgb = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "moving.png")))
        alpha = np.full((*rgb.shape[:2], 1), 200, np.uint8)
        image = sitk.GetImageFromArray(np.concatenate([rgb, alpha], axis=-1), isVector=True)
        sitk.WriteImage(image, str(folder / "alpha.png"))
        register(folder, checkpoint, "--output-volume", str(folder / "w1.png"), moving="alpha.png")
        assert "alpha.png has an alpha channel (transparency), which is left out" in capfd.readouterr().err
        register(folder, checkpoint, "--output-volume", str(folder / "w2.png"))
        found = [sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"w{i}.png"))) for i in (1, 2)]
        np.testing.assert_array_equal(*found)

    def test_jpeg_is_written_with_little_loss(self, folder: Path, checkpoint: Path) -> None:
        outputs = [str(folder / "w.jpg"), str(folder / "w.png")]
        for output in outputs:
            register(folder, checkpoint, "--output-volume", output)
        jpeg, png = (sitk.GetArrayFromImage(sitk.ReadImage(o)).astype(float) for o in outputs)
        assert np.abs(jpeg - png).mean() < 2.5

    def test_pair_in_python(self, checkpoint: Path) -> None:
        fixed, moving = picture(grey=True), picture((112, 96), SHIFT)
        before = sitk.GetArrayFromImage(moving)
        result = CycleRegLib.register(fixed, moving, method="cyclemorph-2d", checkpoint=checkpoint, affine="none")
        assert result.field.grid.dimension == result.inverse.grid.dimension == 2
        assert result.warped.GetNumberOfComponentsPerPixel() == 3
        assert result.fixed.GetNumberOfComponentsPerPixel() == 1
        assert Grid.of(result.warped).same_as(Grid.of(fixed))
        assert result.affine.shape == (3, 3)
        assert result.jacobian().GetSize() == (100, 90)
        assert sitk.GetArrayFromImage(result.roundtrip_image()).max() == pytest.approx(0.0, abs=1e-5)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(moving), before)

    def test_masks_and_initial_transforms_are_two_dimensional_too(self, folder: Path, checkpoint: Path) -> None:
        mask = np.zeros((90, 100), np.uint8)
        mask[20:70, 20:80] = 255
        sitk.WriteImage(sitk.GetImageFromArray(mask), str(folder / "mask.png"))
        sitk.WriteTransform(sitk.TranslationTransform(2, (1.0, 4.0)), str(folder / "start.tfm"))
        output = str(folder / "t.mha")
        more = ["--fixed-mask", str(folder / "mask.png"), "--initial-transform", str(folder / "start.tfm")]
        register(folder, checkpoint, *more, "--output-transform", output)
        field = sitk.GetArrayFromImage(sitk.ReadImage(output))
        assert field == pytest.approx(np.broadcast_to([4.0, 2.0], field.shape), abs=1e-4)

    @pytest.mark.parametrize("grey", [False, True])
    def test_the_report_shows_the_picture(self, folder: Path, checkpoint: Path, grey: bool) -> None:
        if grey:
            sitk.WriteImage(picture(grey=True), str(folder / "fixed.png"))
        register(folder, checkpoint, "--report", str(folder / "report"))
        page = (folder / "report" / "report.html").read_text(encoding="utf-8")
        for name in ("fixed", "moving", "warped", "difference-after", "grid", "jacobian", "roundtrip"):
            assert f'data-picture="{name}-picture"' in page
        for text in ("NMSE", "SSIM", "Fixed image, there and back", "Moving image, there and back"):
            assert text in page
        for text in ("radiological", "The slices meet"):
            assert text not in page

    @pytest.mark.parametrize("method", IN_2D, ids=lambda method: method.id)
    def test_every_2d_method_registers_pictures_in_both_directions(
        self, folder: Path, method: Method, tmp_path: Path
    ) -> None:
        network = lively_network(method.id, dimension=2)
        path = tmp_path / "lively.safetensors"
        write_checkpoint(path, method.id, {"forward": network.state_dict()}, network.configuration)
        fixed, moving = (read_image_2d(folder / f"{name}.png") for name in ("fixed", "moving"))
        result = CycleRegLib.register(fixed, moving, method=method.id, checkpoint=path, affine="none")
        for field, grid in ((result.field, Grid.of(fixed)), (result.inverse, Grid.of(moving))):
            assert field.grid.same_as(grid)
            assert 0.2 < np.linalg.norm(field.vectors, axis=-1).mean() < 20
        truth = resampled(moving, fixed, result.field.to_transform())
        seen = np.isfinite(truth)
        assert np.abs(sitk.GetArrayFromImage(result.warped)[seen] - truth[seen]).max() <= 1


class TestFigures:
    def test_luma(self) -> None:
        image = picture()
        red, green, blue = np.moveaxis(sitk.GetArrayFromImage(image).astype(float), -1, 0)
        truth = 0.299 * red + 0.587 * green + 0.114 * blue
        np.testing.assert_allclose(sitk.GetArrayFromImage(grey(image)), truth, atol=1e-3)
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(grey(picture(grey=True))), sitk.GetArrayFromImage(picture(grey=True))
        )

    def test_nmse_and_reversal_are_those_of_the_grey_images(self, tmp_path: Path) -> None:
        """Flows that do not undo each other; every image is shifted by whole pixels, so that NumPy tells the truth."""
        weights = constant_checkpoint(tmp_path, (0.0, 5.0), (0.0, -3.0))
        fixed, moving = picture(grey=True), picture(shift=SHIFT, grey=True)
        result = CycleRegLib.register(fixed, moving, method="cyclemorph-2d", checkpoint=weights, affine="none")
        f, m = (sitk.GetArrayFromImage(i).astype(float) for i in (fixed, moving))
        common = np.s_[:, :95]  # what sees the moving image after as well
        found = result.image_measures
        assert found["nmse"]["before"] == pytest.approx(_nmse(m[common], f[common]), rel=1e-4)
        assert found["nmse"]["after"] == pytest.approx(_nmse(m[:, 5:], f[common]), rel=1e-4)
        # There by 5 and back by 3: twice(x) = m(x + 2), for x whose whole way is seen.
        assert found["reversibility"]["nmse"] == pytest.approx(_nmse(m[:, 5:], m[:, 3:98]), rel=1e-4)
        assert found["reversibility_fixed"]["nmse"] == pytest.approx(_nmse(f[:, 2:97], f[:, :95]), rel=1e-4)
        assert found["ssim"]["before"] == pytest.approx(_ssim(m[common], f[common]), rel=1e-3)
        assert found["reversibility"]["ssim"] == pytest.approx(_ssim(m[:, 5:], m[:, 3:98]), rel=1e-3)
        assert result.roundtrip_mm["mean"] == pytest.approx(2.0, abs=1e-4)
        summary = result.summary()
        assert summary["nmse"] == found["nmse"]
        assert summary["reversibility_fixed"] == found["reversibility_fixed"]

    def test_a_known_deformation_is_measured_as_it_is(self, tmp_path: Path) -> None:
        """From the command line: transform, inverse, labels, landmarks; the truth is analytic or SimpleITK's."""
        fixed, transform, scale = picture(), sitk.AffineTransform(2), np.array([1.1, 0.9])
        transform.SetMatrix(np.diag(scale).ravel().tolist())
        transform.SetCenter((50.0, 45.0))
        transform.SetTranslation((2.0, -1.0))
        grid = picture_grid()
        field = DisplacementField.from_transform(transform, grid)
        back = DisplacementField.from_transform(transform.GetInverse(), grid)
        moving = sitk.Resample(fixed, fixed, transform.GetInverse(), sitk.sitkLinear, 0)
        labels = np.zeros((90, 100), np.uint8)
        labels[30:60, 35:65] = 3
        moved = sitk.Resample(grid.image(labels), fixed, transform.GetInverse(), sitk.sitkNearestNeighbor, 0)
        paths = {name: str(tmp_path / name) for name in ("fixed.png", "moving.png", "f.png", "m.png", "t.mha", "ti.h5")}
        for name, image in (
            ("fixed.png", fixed),
            ("moving.png", moving),
            ("f.png", grid.image(labels)),
            ("m.png", moved),
        ):
            sitk.WriteImage(image, paths[name])
        sitk.WriteImage(field.to_image(), paths["t.mha"])
        sitk.WriteTransform(back.to_transform(), paths["ti.h5"])
        points = np.array([[40.0, 40.0], [60.0, 50.0], [45.0, 55.0]])
        mapped = np.array([transform.TransformPoint(p) for p in points.tolist()])
        for name, values in (("f.csv", points), ("m.csv", mapped + [0.3, 0.4])):
            rows = "\n".join(f"p{i},{x},{y}" for i, (x, y) in enumerate(values))
            (tmp_path / name).write_text(f"label,x,y\n{rows}\n")
        with pytest.raises(InputError, match="is not a number"):  # of a volume x and y are too little
            CycleRegLib.read_landmarks(tmp_path / "f.csv")
        arguments = ["evaluate", "--fixed", paths["fixed.png"], "--moving", paths["moving.png"]]
        arguments += ["--transform", paths["t.mha"], "--inverse-transform", paths["ti.h5"]]
        arguments += ["--fixed-segmentation", paths["f.png"], "--moving-segmentation", paths["m.png"]]
        arguments += ["--fixed-landmarks", f"{tmp_path}/f.csv", "--moving-landmarks", f"{tmp_path}/m.csv"]
        arguments += ["--json", f"{tmp_path}/e.json", "--report", f"{tmp_path}/report", "--tumor-segment", "3"]
        assert main(arguments) == 0
        found = json.loads((tmp_path / "e.json").read_text())

        assert found["tre_mm"]["after"]["mean"] == pytest.approx(0.5, abs=1e-4)
        before = np.linalg.norm(points - mapped - [0.3, 0.4], axis=1).mean()
        assert found["tre_mm"]["before"]["mean"] == pytest.approx(before, abs=1e-4)
        first = found["tre_mm"]["per_landmark"][0]
        assert first["fixed"] == pytest.approx([40, 40, 0])
        assert first["mapped"] == pytest.approx([*mapped[0], 0], abs=1e-4)
        assert found["jacobian"]["mean"] == pytest.approx(0.99, abs=1e-4)
        assert found["jacobian"]["sd"] == pytest.approx(0.0, abs=1e-4)
        assert found["jacobian"]["folding_percent"] == 0
        assert found["dice"]["label 3"]["after"] > 0.97 > found["dice"]["label 3"]["before"]
        overlap = sitk.GetArrayFromImage(moved) > 0
        assert found["dice"]["label 3"]["before"] == pytest.approx(_dice(labels > 0, overlap), abs=1e-6)
        assert found["hd95_mm"]["label 3"]["before"] == pytest.approx(_hd95(labels > 0, overlap), abs=1e-4)
        assert found["roundtrip_mm"]["p95"] < 1e-3
        assert found["reversibility"]["ssim"] > 0.95
        assert found["reversibility_fixed"]["ssim"] > 0.95
        assert found["ssim"]["after"] > 0.97 > found["ssim"]["before"]
        assert found["nmse"]["after"] < 0.01 < found["nmse"]["before"]
        # The diagonal of the square, between corner pixels; a picture has no volume.
        assert found["tumor"]["major_mm"]["fixed"] == pytest.approx(29 * 2**0.5, abs=0.5)
        assert found["tumor"]["volume_ml"]["fixed"] is None
        page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
        for name in ("landmarks-after", "outlines-after", "roundtrip"):
            assert f'data-picture="{name}-picture"' in page

    def test_folding_is_counted(self, tmp_path: Path) -> None:
        grid = picture_grid()
        vectors = np.zeros((90, 100, 2), np.float32)
        vectors[:, 50:, 0] = -4.0  # the half at the right is pushed over the left one
        for name in ("fixed", "moving"):
            sitk.WriteImage(picture(), str(tmp_path / f"{name}.png"))
        sitk.WriteImage(grid.image(vectors), str(tmp_path / "t.nrrd"))
        arguments = [f"--{name}={tmp_path}/{name}.png" for name in ("fixed", "moving")]
        assert main(["evaluate", *arguments, f"--transform={tmp_path}/t.nrrd", f"--json={tmp_path}/e.json"]) == 0
        found = json.loads((tmp_path / "e.json").read_text())
        # Central differences: columns 49 and 50 see a step of -4 over two pixels.
        assert found["jacobian"]["folding_percent"] == pytest.approx(2.0)
        assert found["jacobian"]["min"] == pytest.approx(-1.0)


def _nmse(image: np.ndarray, reference: np.ndarray) -> float:
    return float(((image - reference) ** 2).sum() / (reference**2).sum())


def _ssim(image: np.ndarray, reference: np.ndarray) -> float:
    """Wang et al. 2004, with a Gaussian window of sigma 1.5 and 11 pixels whose weights inside the image sum to 1."""

    def mean(values: np.ndarray) -> np.ndarray:
        blurred = ndimage.gaussian_filter(values, 1.5, radius=5, mode="constant")
        return blurred / ndimage.gaussian_filter(np.ones_like(values), 1.5, radius=5, mode="constant")

    c1, c2 = ((k * np.ptp(reference)) ** 2 for k in (0.01, 0.03))
    a, b = mean(image), mean(reference)
    va, vb, cov = mean(image**2) - a * a, mean(reference**2) - b * b, mean(image * reference) - a * b
    return float(((2 * a * b + c1) * (2 * cov + c2) / ((a * a + b * b + c1) * (va + vb + c2))).mean())


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def _hd95(a: np.ndarray, b: np.ndarray) -> float:
    """Between outlines: pixels that have a neighbour outside."""
    outlines = [mask & ~ndimage.binary_erosion(mask) for mask in (a, b)]
    maps = [ndimage.distance_transform_edt(~outline) for outline in outlines]
    return max(np.percentile(maps[1][outlines[0]], 95), np.percentile(maps[0][outlines[1]], 95))


class TestSlices:
    """Single slices of volumes, wherever they lie in space."""

    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize("axes", [(2, 2), (0, 1)])
    def test_points_of_the_slice_land_in_the_moving_slice(
        self, tmp_path: Path, checkpoint: Path, seed: int, axes: tuple[int, int]
    ) -> None:
        """A tilted slice is laid flat about its centre; the fields then lead from plane to plane."""
        rng = np.random.default_rng(seed)
        frame, origin = random_frame(seed), rng.uniform(-80, 80, 3)
        turn = np.array(sitk.Euler3DTransform((0, 0, 0), *rng.uniform(-0.3, 0.3, 3)).GetMatrix()).reshape(3, 3)
        fixed = slice_at(frame, origin, (60, 80), axes[0])
        moving = slice_at(turn @ frame, origin + rng.uniform(-3, 3, 3), (64, 84), axes[1])
        result = CycleRegLib.register(fixed, moving, method="cyclemorph-2d", checkpoint=checkpoint, affine="none")

        # The truth, step by step: the smallest rotation that lays the moving normal on the fixed one.
        fixed_axes, moving_axes = frame[:, :2], (turn @ frame)[:, :2]
        normals = [np.cross(a[:, 0], a[:, 1]) for a in (fixed_axes, moving_axes)]
        normals[1] *= np.sign(normals[0] @ normals[1])
        axis = np.cross(normals[0], normals[1])
        angle = np.arcsin(np.linalg.norm(axis))
        tilt = rotation(axis / np.linalg.norm(axis), angle)  # fixed plane to moving plane
        np.testing.assert_allclose(tilt @ normals[0], normals[1], atol=1e-9)
        center = np.array(moving.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in moving.GetSize()]))
        index = np.array([[0, 0], [59, 0], [0, 79], [30, 40]])
        points = origin + index * [1.5, 1.0] @ fixed_axes.T
        flow = np.array([3.0 * 1.5, -2.0 * 1.0])  # voxels of the fixed grid
        flat = points + flow @ fixed_axes.T
        flat = flat + np.outer((center - flat) @ normals[0], normals[0])  # onto the parallel plane through the centre
        truth = center + (flat - center) @ tilt.T
        found = result.field.transform_points(points)
        np.testing.assert_allclose(found, truth, atol=1e-3)
        assert np.abs((found - center) @ normals[1]).max() < 1e-3, "they lie in the moving slice"
        assert result.field.grid.same_as(Grid.of(fixed))
        assert result.inverse.grid.same_as(Grid.of(moving))
        back = result.inverse.vectors + result.inverse.grid.points()
        assert np.abs((back - origin) @ normals[0]).max() < 1e-3, "the inverse leads into the fixed slice"
        assert result.roundtrip_mm["mean"] < 1e-3
        # Only the plane counts: a tilt neither stretches nor folds.
        np.testing.assert_allclose(sitk.GetArrayFromImage(result.jacobian()), 1.0, atol=1e-4)
        assert result.jacobian_statistics.mean == pytest.approx(1.0, abs=1e-5)
        assert result.warped.GetPixelID() == sitk.sitkVectorUInt8
        assert Grid.of(result.warped).same_as(Grid.of(fixed))
        assert result.affine.shape == (4, 4)

    def test_slices_of_one_orientation_keep_their_places_however_they_are_stored(self, checkpoint: Path) -> None:
        """Mirrored and exchanged axes, and a gap: what lies one behind the other belongs together."""
        frame = random_frame(3)
        fixed = slice_at(frame, np.array([10.0, -20.0, 30.0]), (60, 80))
        stored = sitk.PermuteAxes(sitk.Flip(fixed, (True, False, False)), (1, 2, 0))
        stored.SetOrigin((np.array(stored.GetOrigin()) + 7.5 * frame[:, 2]).tolist())
        flat = FlatPair(fixed, stored)
        still = flat.field_in_space(DisplacementField.identity(Grid.of(flat.fixed)))
        np.testing.assert_allclose(still.vectors, np.broadcast_to(7.5 * frame[:, 2], still.vectors.shape), atol=1e-4)
        warped = sitk.Resample(sitk.VectorIndexSelectionCast(flat.moving, 1), flat.fixed, sitk.Transform(2, 0))
        truth = sitk.VectorIndexSelectionCast(flat.fixed, 1)
        assert np.abs(sitk.GetArrayFromImage(warped) * 1.0 - sitk.GetArrayFromImage(truth)).max() <= 1

    @pytest.mark.parametrize("suffix", ["nrrd", "mha", "h5"])
    def test_files(self, tmp_path: Path, checkpoint: Path, suffix: str) -> None:
        """A sagittal slice in 3D files; SimpleITK reads the transforms and finds the same places."""
        frame = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
        for name, shift in (("fixed", 0.0), ("moving", 20.0)):
            image = slice_at(frame, np.array([shift, -40.0, 60.0]), (60, 80))
            sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
        outputs = [f"--output-transform={tmp_path}/t.{suffix}", f"--output-inverse-transform={tmp_path}/ti.{suffix}"]
        outputs += [f"--output-volume={tmp_path}/w.nrrd", f"--output-jacobian={tmp_path}/j.nii.gz"]
        outputs += [f"--report={tmp_path}/report"]
        register(tmp_path, checkpoint, *outputs, fixed="fixed.nrrd", moving="moving.nrrd")
        forward, backward = (read_transform(f"{tmp_path}/{name}.{suffix}") for name in ("t", "ti"))
        point = (0.0, 5.0, 10.0)
        landed = forward.TransformPoint(point)
        np.testing.assert_allclose(landed, [20.0, 5.0 + 4.5, 10.0 + 2.0], atol=1e-4)
        np.testing.assert_allclose(backward.TransformPoint(landed), point, atol=1e-4)
        for name in ("w.nrrd", "j.nii.gz"):
            written = sitk.ReadImage(str(tmp_path / name))
            assert Grid.of(written).same_as(Grid.of(sitk.ReadImage(str(tmp_path / "fixed.nrrd"))))
        page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
        assert 'data-picture="warped-sagittal"' in page
        assert 'data-picture="warped-axial"' not in page
        # As a picture the pixels are those of the slice.
        register(tmp_path, checkpoint, f"--output-volume={tmp_path}/w.png", fixed="fixed.nrrd", moving="moving.nrrd")
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "w.png")))
        np.testing.assert_array_equal(pixels, sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "w.nrrd")))[0])

    def test_evaluation_measures_in_the_planes(self, tmp_path: Path, checkpoint: Path) -> None:
        """Segments and landmarks in space, on tilted slices; the figures are those of the flat truth."""
        frame = random_frame(8)
        tilt = rotation(frame[:, 0], 0.25)
        fixed = slice_at(frame, np.zeros(3), (60, 80))
        moving = slice_at(tilt @ frame, np.array([5.0, 4.0, 3.0]), (60, 80))
        result = CycleRegLib.register(fixed, moving, method="cyclemorph-2d", checkpoint=checkpoint, affine="none")
        rng = np.random.default_rng(0)
        points = (rng.uniform(15, 60, (5, 2))) @ frame[:, :2].T
        partners = result.field.transform_points(points) + 2.0 * (tilt @ frame)[:, 0]
        lists = [LandmarkList(list("abcde"), p) for p in (points, partners)]
        middle = Grid.of(fixed).center
        centers = middle, result.field.transform_points(middle[None])[0]
        discs = [
            Grid.of(i).image((np.linalg.norm(Grid.of(i).points() - c, axis=-1) < 15).astype(np.uint8))
            for i, c in zip((fixed, moving), centers)
        ]
        found = CycleRegLib.evaluate(fixed, moving, result.field, result.inverse, *lists, *discs)
        assert found.landmarks.after == pytest.approx(np.full(5, 2.0), abs=1e-3)
        np.testing.assert_allclose(found.landmarks.mapped, result.field.transform_points(points), atol=1e-3)
        np.testing.assert_allclose(found.landmarks.fixed, points, atol=1e-6)
        assert found.labels["label 1"].dice.after > 0.97
        assert found.labels["label 1"].hd95_mm.after < 1.1
        assert found.jacobian.mean == pytest.approx(1.0, abs=1e-4)
        assert found.roundtrip_mm.max < 1e-3
        assert found.similarity["nmse"].after == pytest.approx(result.image_measures["nmse"]["after"], rel=1e-3)
        assert found.reversibility["nmse"] == pytest.approx(result.image_measures["reversibility"]["nmse"], abs=1e-5)
        assert found.reversibility_fixed is not None

    def test_an_initial_transform_of_space_counts_within_the_plane(self, checkpoint: Path) -> None:
        frame = random_frame(5)
        fixed = slice_at(frame, np.zeros(3), (60, 80))
        moving = slice_at(frame, 9.0 * frame[:, 2], (60, 80))
        shift = frame @ np.array([2.0, -3.0, 4.0])
        linear = sitk.TranslationTransform(3, shift.tolist())
        deforming = DisplacementField.from_transform(linear, Grid.of(fixed)).to_transform()
        for start in (linear, deforming):
            flat = FlatPair(fixed, moving).transform_in_plane(start)
            moved = np.array(flat.TransformPoint((20.0, 30.0))) - (20.0, 30.0)
            np.testing.assert_allclose(moved, [2.0, -3.0], atol=1e-4)
        result = CycleRegLib.register(
            fixed, moving, method="cyclemorph-2d", checkpoint=checkpoint, affine="none", initial_transform=linear
        )
        truth = frame @ np.array([2.0 + 4.5, -3.0 - 2.0, 9.0])
        np.testing.assert_allclose(result.field.vectors[0, 40, 30], truth, atol=1e-3)
        point = np.array([[3.0, 5.0, 7.0]])
        lifted = point @ result.affine[:3, :3].T + result.affine[:3, 3]
        np.testing.assert_allclose(lifted - point, [frame @ [2.0, -3.0, 9.0]], atol=1e-6)


def rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """The rotation by an angle about a unit axis, by SimpleITK."""
    turn = sitk.VersorTransform(axis.tolist(), angle)
    return np.array(turn.GetMatrix()).reshape(3, 3)


class TestAffine:
    @pytest.mark.parametrize("seed", range(4))
    def test_a_known_map_is_found(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        moving = grey(picture((100, 90)))
        angle, scale = rng.uniform(-0.35, 0.35), rng.uniform(0.85, 1.15)
        matrix = np.eye(3)
        matrix[:2, :2] = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        grid = picture_grid((130, 120))
        matrix[:2, 2] = [50, 45] + rng.uniform(-8, 8, 2) - matrix[:2, :2] @ grid.center
        fixed = sitk.Resample(
            moving, grid.empty_image(), affine_transform(matrix), sitk.sitkLinear, 0.0, sitk.sitkFloat32
        )
        found = register_affine_2d(fixed, moving)
        points = np.array([[x, y] for x in (40, 65, 90) for y in (40, 60, 80)])
        truth, mapped = (points @ m[:2, :2].T + m[:2, 2] for m in (matrix, found))
        assert np.linalg.norm(mapped - truth, axis=1).max() < 0.5
        rigid = register_affine_2d(fixed, moving, "rigid")
        np.testing.assert_allclose(rigid[:2, :2] @ rigid[:2, :2].T, np.eye(2), atol=1e-6)

    def test_pictures_of_two_sizes_are_brought_together(self, tmp_path: Path, checkpoint: Path) -> None:
        """The moving picture has twice the pixels; from the command line, whose default it is."""
        large = Grid((200, 180), (0.5, 0.5), (-0.25, -0.25), (1.0, 0.0, 0.0, 1.0))
        twice = sitk.GetArrayFromImage(large.image(np.rint(scene(large.points())).astype(np.uint8)))
        sitk.WriteImage(picture(), str(tmp_path / "fixed.png"))
        sitk.WriteImage(sitk.GetImageFromArray(twice, isVector=True), str(tmp_path / "moving.png"))
        still = constant_checkpoint(tmp_path, (0.0, 0.0), (0.0, 0.0))
        summary = register(tmp_path, still, "--affine", "auto", f"--output-transform={tmp_path}/t.nrrd")
        assert summary["nmse"]["after"] < 0.002 < 0.1 < summary["nmse"]["before"]
        assert np.linalg.det(np.array(summary["affine_matrix_lps"])) == pytest.approx(4.0, rel=0.02)

    def test_what_is_aligned_stays_as_it_is(self) -> None:
        image = grey(picture())
        np.testing.assert_array_equal(register_affine_2d(image, image), np.eye(3))

    def test_it_starts_from_the_initial_transform_alone(self) -> None:
        """The scene is there twice, side by side; the start says which of them is meant."""
        fixed = grey(picture())
        twice = np.concatenate([sitk.GetArrayFromImage(fixed)] * 2, axis=1)
        moving = sitk.GetImageFromArray(twice)
        for x in (0.0, 100.0):
            start = sitk.TranslationTransform(2, (x + 2.0, -1.5))
            found = register_affine_2d(fixed, moving, initial=start)
            np.testing.assert_allclose(found[:2, 2], [x, 0.0], atol=0.3)

    def test_cancelling_ends_it(self) -> None:
        def stop(stage: str, fraction: float) -> None:
            if fraction > 0:
                raise Cancelled

        with pytest.raises(Cancelled):
            register_affine_2d(grey(picture()), grey(picture(shift=SHIFT)), progress=stop)


Refuse = Callable[..., str]


class TestRefusals:
    @pytest.fixture
    def check_refused(self, folder: Path, checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> Refuse:
        def call(options: dict[str, str | Path | None], *words: str) -> str:
            given: dict[str, str | Path | None] = {
                "--fixed": folder / "fixed.png",
                "--moving": folder / "moving.png",
                "--method": "cyclemorph-2d",
                "--checkpoint": checkpoint,
                "--affine": "none",
                "--progress": "none",
                "--output-volume": folder / "warped.png",
                **options,
            }
            arguments = [part for name, value in given.items() if value is not None for part in (name, value)]
            return refuse(capfd, folder, ["register", *arguments], *words)

        return call

    def write(self, image: sitk.Image, path: Path) -> Path:
        sitk.WriteImage(image, str(path))
        return path

    def test_pictures_and_methods_for_volumes(self, folder: Path, check_refused: Refuse) -> None:
        none = {"--checkpoint": None, "--output-volume": folder / "w.nrrd"}
        for method in (None, "optimize"):
            words = ("fixed.png is 2D (100x90 pixels)", "optimize registers volumes", "cyclemorph-2d", "weights for 2D")
            check_refused({**none, "--method": method}, *words)
        one = self.write(slice_at(np.eye(3), np.zeros(3), (60, 80)), folder / "one.nrrd")
        check_refused(
            {**none, "--method": None, "--fixed": one}, "one.nrrd is a single slice (60x80", "registers volumes"
        )
        check_refused({"--refine-steps": "5"}, "pair optimisation", "volumes", "Leave them out")
        check_refused({"--organ-slices": "--device=cpu"}, "no slices to leave out", "--organ-slices")

    def test_volumes_and_methods_for_pictures(self, folder: Path, check_refused: Refuse) -> None:
        volume = self.write(fixed_image(), folder / "volume.nrrd")
        check_refused(
            {"--moving": volume}, "volume.nrrd is a volume of 32x30x28 voxels", "registers pictures", "optimize"
        )

    def test_colours_and_methods_for_volumes(self, folder: Path, check_refused: Refuse) -> None:
        array = np.random.default_rng(0).integers(0, 255, (8, 9, 10, 3), dtype=np.uint8)
        colour = self.write(sitk.GetImageFromArray(array, isVector=True), folder / "colour.nrrd")
        none = {"--method": None, "--checkpoint": None, "--output-volume": folder / "w.nrrd"}
        check_refused({**none, "--fixed": colour}, "colour.nrrd has 3 components", "a 3D grey image is needed")

    def test_one_of_two_and_one_of_three_dimensions(self, folder: Path, check_refused: Refuse) -> None:
        one = self.write(slice_at(np.eye(3), np.zeros(3), (60, 80)), folder / "one.nrrd")
        check_refused({"--moving": one}, "fixed image is 2D but the moving image is a slice of a volume", "Save both")
        volume = fixed_image()
        identity = DisplacementField.identity(Grid.of(volume))
        with pytest.raises(
            InputError, match="fixed image is a volume of 32x30x28 voxels but the moving image is a single"
        ):
            CycleRegLib.evaluate(volume, sitk.ReadImage(str(one)), identity)

    def test_weights_of_the_other_dimension(self, folder: Path, checkpoint: Path, check_refused: Refuse) -> None:
        other = folder / "other.safetensors"
        assert main(["checkpoint", "create", "cyclemorph", str(other)]) == 0
        check_refused({"--checkpoint": other}, "belongs to the method cyclemorph, not to cyclemorph-2d")
        for name in ("fixed", "moving"):
            self.write(fixed_image(), folder / f"{name}.nrrd")
        volumes = {f"--{name}": folder / f"{name}.nrrd" for name in ("fixed", "moving")}
        check_refused(
            {**volumes, "--method": "cyclemorph", "--output-volume": folder / "w.nrrd"},
            "belongs to the method cyclemorph-2d, not to cyclemorph",
        )

    @pytest.mark.skipif(not any(m.dimensions == (3, 2) for m in IN_2D), reason="no method of both dimensions")
    def test_weights_of_a_method_of_both_dimensions(self, folder: Path, check_refused: Refuse) -> None:
        method = next(m for m in IN_2D if m.dimensions == (3, 2)).id
        weights = folder / "weights.safetensors"
        assert main(["checkpoint", "create", method, str(weights)]) == 0
        check_refused(
            {"--method": method, "--checkpoint": weights}, "fixed image is 2D", f"weights of {method} are for volumes"
        )
        assert main(["checkpoint", "create", method, str(folder / "flat.safetensors"), "--set", "dimension=2"]) == 0
        volumes = {f"--{name}": self.write(fixed_image(), folder / f"{name}.nrrd") for name in ("fixed", "moving")}
        check_refused(
            {**volumes, "--method": method, "--checkpoint": folder / "flat.safetensors", "--output-volume": None,
             "--output-transform": folder / "t.nrrd"},
            "is a volume", f"weights of {method} are for 2D images",
        )  # fmt: skip

    def test_outputs_that_cannot_hold_the_result(self, folder: Path, check_refused: Refuse) -> None:
        check_refused({"--output-transform": folder / "t.png"}, "output transform", "t.png", "no suffix", ".nrrd")
        check_refused({"--output-jacobian": folder / "j.png"}, "output jacobian", "j.png", "no suffix")
        real = self.write(picture(kind=np.float32, grey=True), folder / "real.nrrd")
        words = ("warped.png cannot hold float32 numbers", "PNG has uint8 or uint16", ".nrrd")
        check_refused({"--moving": real}, *words)
        deep = self.write(picture(kind=np.uint16), folder / "deep.png")
        check_refused(
            {"--moving": deep, "--output-volume": folder / "w.jpg"}, "w.jpg cannot hold uint16", "JPG has uint8"
        )
        one = {}
        for name in ("fixed", "moving"):
            one[f"--{name}"] = self.write(slice_at(np.eye(3), np.zeros(3), (60, 80)), folder / f"{name}.nrrd")
        check_refused(
            {**one, "--output-volume": folder / "w.nii.gz"}, "w.nii.gz cannot be NIfTI", "single slice", ".nrrd"
        )
        check_refused({**one, "--output-transform": folder / "t.nii.gz"}, "t.nii.gz cannot be NIfTI")
        volumes = {f"--{name}": self.write(fixed_image(), folder / f"{name}.nrrd") for name in ("fixed", "moving")}
        check_refused({**volumes, "--method": None, "--checkpoint": None}, "warped.png would be a picture", "volume")

    def test_pixels(self, folder: Path, check_refused: Refuse) -> None:
        array = sitk.GetArrayFromImage(picture(kind=np.float32))
        bad = array.copy()
        bad[3, 4:7, 1] = np.nan
        path = self.write(picture_grid().image(bad), folder / "nan.nrrd")
        check_refused({"--fixed": path}, "nan.nrrd", "3 NaN or infinite pixels")
        path = self.write(picture_grid().image(np.full((90, 100), 9, np.uint8)), folder / "flat.png")
        check_refused({"--fixed": path}, "flat.png is constant", "every pixel is 9")
        path = self.write(picture_grid().image(np.dstack([array] * 2)), folder / "six.nrrd")
        check_refused({"--fixed": path}, "six.nrrd has 6 components", "grey or RGB")
        path = self.write(picture_grid((3, 90)).image(array[:, :3]), folder / "thin.nrrd")
        check_refused({"--fixed": path}, "thin.nrrd has only 3x90", "at least 4")
        labels = (array[..., 1] > 60).astype(np.uint8) + (array[..., 1] > 120)
        path = self.write(picture_grid().image(ndimage.median_filter(labels, 5)), folder / "labels.png")
        check_refused({"--fixed": path}, "labels.png looks like a label image")

    def test_grey_with_transparency_cannot_be_read(self, folder: Path, check_refused: Refuse) -> None:
        array = np.random.default_rng(0).integers(0, 255, (20, 30, 2), dtype=np.uint8)
        path = self.write(sitk.GetImageFromArray(array, isVector=True), folder / "la.png")
        check_refused({"--fixed": path}, "la.png", "cannot be read", "transparency", "grey or RGB")

    def test_masks_transforms_and_places(self, folder: Path, check_refused: Refuse) -> None:
        sitk.WriteTransform(sitk.TranslationTransform(3, (1.0, 0.0, 0.0)), str(folder / "t3.tfm"))
        check_refused({"--initial-transform": folder / "t3.tfm"}, "t3.tfm is 3D", "a 2D transform is needed")
        volume = self.write(sitk.Cast(fixed_image() > 50, sitk.sitkUInt8), folder / "mask.nrrd")
        check_refused({"--fixed-mask": volume}, "mask or segmentation is 3D but the fixed image is 2D")
        check_refused({"--fixed-mask": folder / "fixed.png"}, "3 components", "a grey image is needed")
        sitk.WriteTransform(sitk.TranslationTransform(2, (900.0, 0.0)), str(folder / "far.tfm"))
        check_refused({"--initial-transform": folder / "far.tfm"}, "do not overlap after the initial transform")

    def test_evaluation_of_what_does_not_fit(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        field = DisplacementField.identity(Grid.of(fixed_image()))
        sitk.WriteImage(field.to_image(), str(folder / "t3.nrrd"))
        arguments = ["evaluate", f"--fixed={folder}/fixed.png", f"--moving={folder}/moving.png"]
        refuse(
            capfd, folder, [*arguments, f"--transform={folder}/t3.nrrd"], "t3.nrrd", "2 components per voxel of a 2D"
        )
        with pytest.raises(InputError, match="transform is 3D but the images are 2D"):
            CycleRegLib.evaluate(picture(), picture(), field)

    def test_alpha_in_python(self, checkpoint: Path) -> None:
        array = sitk.GetArrayFromImage(picture())
        image = sitk.GetImageFromArray(np.concatenate([array, array[..., :1]], axis=-1), isVector=True)
        with pytest.warns(CycleRegWarning, match="fixed image has an alpha channel"):
            CycleRegLib.register(image, picture(), method="cyclemorph-2d", checkpoint=checkpoint, affine="none")
