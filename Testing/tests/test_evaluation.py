"""The whole evaluation on a pair whose every answer is known: analytic images, segments and map between them."""

from __future__ import annotations

import csv
import json
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import SimpleITK as sitk
from geometries import random_direction
from scipy.spatial.transform import Rotation

from CycleRegLib import measures
from CycleRegLib.errors import Cancelled, CycleRegWarning, InputError
from CycleRegLib.evaluation import Evaluation, evaluate
from CycleRegLib.fields import DisplacementField
from CycleRegLib.geometry import Grid
from CycleRegLib.landmarks import LandmarkList
from CycleRegLib.mask_warp import MaskWarper
from CycleRegLib.segmentations import Segmentation
from CycleRegLib.tumor import measure_tumor

PLAIN = tuple(np.eye(3).ravel())
LIVER, TUMOR = (34.0, 28.0, 30.0), (11.0, 8.0, 9.0)


def intensity(points: np.ndarray) -> np.ndarray:
    x, y, z = np.moveaxis(points, -1, 0)
    return -300 + 100 * np.sin(x / 9) + 80 * np.cos(y / 7 + 1) + 60 * np.sin((z + x) / 11)


def inside(points: np.ndarray, radii: tuple[float, float, float]) -> np.ndarray:
    return ((points / np.array(radii)) ** 2).sum(axis=-1) <= 1


@dataclass
class Pair:
    """The anatomy lies about the origin of the moving image; ``matrix`` maps fixed to moving points."""

    fixed: sitk.Image
    moving: sitk.Image
    fixed_segmentation: Segmentation
    moving_segmentation: Segmentation
    matrix: np.ndarray
    field: DisplacementField
    inverse: DisplacementField
    fixed_landmarks: LandmarkList
    moving_landmarks: LandmarkList

    def evaluate(self, **keywords) -> Evaluation:
        return evaluate(self.fixed, self.moving, keywords.pop("field", self.field), **keywords)


def segments(grid: Grid, points: np.ndarray) -> Segmentation:
    layers = [
        grid.image(inside(points, LIVER).astype(np.uint8)),
        grid.image(2 * inside(points, TUMOR).astype(np.uint8)),
    ]
    flat = np.maximum(*[sitk.GetArrayFromImage(layer) for layer in layers])
    return Segmentation(grid.image(flat), {1: "liver", 2: "Tumor 1"})


def make_pair(matrix: np.ndarray) -> Pair:
    tilt = Rotation.from_euler("xyz", [12, -8, 20], degrees=True).as_matrix()
    fixed_grid = Grid((48, 46, 34), (1.9, 2.0, 2.6), (0, 0, 0), tuple(tilt.ravel()))
    middle = np.linalg.solve(matrix[:3, :3], -matrix[:3, 3])
    fixed_grid = Grid(fixed_grid.size, fixed_grid.spacing, tuple(middle - fixed_grid.center), fixed_grid.direction)
    mirror = np.diag([-1.0, 1.0, 1.0])
    moving_grid = Grid((52, 48, 40), (1.8, 1.9, 2.2), (46, -45, -43), tuple(mirror.ravel()))
    fixed_points = fixed_grid.points() @ matrix[:3, :3].T + matrix[:3, 3]
    moving_points = moving_grid.points()
    marks = np.random.default_rng(3).uniform(-22, 22, (6, 3))
    back = np.linalg.inv(matrix)
    names = [f"mark {i}" for i in range(6)]
    return Pair(
        fixed_grid.image(intensity(fixed_points).astype(np.float32)),
        moving_grid.image(intensity(moving_points).astype(np.float32)),
        segments(fixed_grid, fixed_points),
        segments(moving_grid, moving_points),
        matrix,
        DisplacementField.from_matrix(matrix, fixed_grid),
        DisplacementField.from_matrix(back, moving_grid),
        LandmarkList(names, marks @ back[:3, :3].T + back[:3, 3]),
        LandmarkList(names[::-1], marks[::-1]),
    )


@pytest.fixture(scope="module")
def pair() -> Pair:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("z", 9, degrees=True).as_matrix() @ np.diag([1.06, 0.97, 1.03])
    matrix[:3, 3] = (5.0, -3.0, 4.0)
    return make_pair(matrix)


@pytest.fixture(scope="module")
def full(pair: Pair) -> Evaluation:
    """Everything there is to measure, under the exact field."""
    return pair.evaluate(
        inverse=pair.inverse,
        fixed_landmarks=pair.fixed_landmarks,
        moving_landmarks=pair.moving_landmarks,
        fixed_segmentation=pair.fixed_segmentation,
        moving_segmentation=pair.moving_segmentation,
    )


class TestKnownAnswers:
    def test_landmarks(self, pair: Pair, full: Evaluation) -> None:
        tre = full.to_dict()["tre_mm"]
        truth = np.linalg.norm(pair.fixed_landmarks.points - pair.moving_landmarks.points[::-1], axis=1)
        assert tre["before"]["mean"] == pytest.approx(truth.mean())
        assert tre["before"]["max"] == pytest.approx(truth.max())
        assert tre["before"]["sd"] == pytest.approx(truth.std(ddof=1))
        assert tre["after"]["max"] < 1e-3
        assert [row["label"] for row in tre["per_landmark"]] == pair.fixed_landmarks.labels
        for row, p, distance in zip(tre["per_landmark"], pair.fixed_landmarks.points, truth):
            assert row["before"] == pytest.approx(distance)
            np.testing.assert_allclose(row["fixed"], p)
            np.testing.assert_allclose(row["mapped"], row["moving"], atol=1e-3)

    def test_direction_of_the_field_matters(self, pair: Pair) -> None:
        """The inverse field must not do as well: TRE is |u(p) + p - q| with p fixed and q moving."""
        wrong = DisplacementField.from_matrix(np.linalg.inv(pair.matrix), pair.field.grid)
        found = pair.evaluate(field=wrong, fixed_landmarks=pair.fixed_landmarks, moving_landmarks=pair.moving_landmarks)
        assert found.landmarks.after.mean() > 1.5 * found.landmarks.before.mean()

    def test_overlap(self, full: Evaluation) -> None:
        for name, least in (("liver", 0.96), ("Tumor 1", 0.94)):
            score = full.labels[name]
            assert score.dice.after > least > score.dice.before
            assert score.iou.after == pytest.approx(score.dice.after / (2 - score.dice.after))
            assert score.hd95_mm.after <= 2.7 < score.hd95_mm.before
        assert full.mean("dice").after == pytest.approx(np.mean([s.dice.after for s in full.labels.values()]))
        assert full.bir_all.after > 0.9 > full.bir_all.before

    def test_tumor(self, pair: Pair, full: Evaluation) -> None:
        numbers = full.to_dict()["tumor"]
        shrink = np.linalg.det(pair.matrix[:3, :3])
        volume = 4 / 3 * np.pi * np.prod(TUMOR) / 1000
        assert numbers["name"] == "Tumor 1"
        assert numbers["volume_ml"]["moving"] == pytest.approx(volume, rel=0.03)
        assert numbers["volume_ml"]["fixed"] == pytest.approx(volume / shrink, rel=0.03)
        assert numbers["volume_ml"]["warped"] == pytest.approx(volume / shrink, rel=0.03)
        # The moving image's slices are at right angles to the ellipsoid's axes.
        assert numbers["major_mm"]["moving"] == pytest.approx(22, abs=0.9)
        assert numbers["minor_mm"]["moving"] == pytest.approx(16, abs=0.9)
        for key in ("major_mm", "minor_mm", "volume_ml"):
            n = numbers[key]
            assert n["difference_before"] == pytest.approx(n["moving"] - n["fixed"])
            assert n["difference_after"] == pytest.approx(n["warped"] - n["fixed"])
            assert abs(n["difference_after"]) < 1.0
        ends = np.array(numbers["diameters"]["warped"]["major"])
        assert np.linalg.norm(ends[1] - ends[0]) == pytest.approx(numbers["major_mm"]["warped"])
        # The warped tumour is where the fixed one is, not where the moving one was.
        middle = np.linalg.solve(pair.matrix[:3, :3], -pair.matrix[:3, 3])
        assert np.linalg.norm(ends.mean(axis=0) - middle) < 3.5

    def test_field(self, pair: Pair, full: Evaluation) -> None:
        assert full.jacobian.mean == pytest.approx(np.linalg.det(pair.matrix[:3, :3]), abs=1e-3)
        assert full.jacobian.folding_percent == 0
        assert full.jacobian.sd < 1e-3
        assert full.roundtrip_mm.p95 < 1e-4
        # Within half a voxel of the moving grid's edge its border displacement is repeated.
        assert full.roundtrip_mm.max < 0.3
        assert 50 < full.roundtrip_inside_percent <= 100

    def test_intensities(self, full: Evaluation) -> None:
        found = {key: (change.before, change.after) for key, change in full.similarity.items()}
        assert found["nmse"][1] < 1e-3 < found["nmse"][0]
        for key in ("ssim", "lncc", "ncc", "mutual_information"):
            assert found[key][1] > found[key][0]
        assert found["ncc"][1] > 0.999
        assert full.reversibility["nmse"] < 1e-3
        assert full.reversibility["ssim"] > 0.99

    def test_identity_of_an_image_with_itself(self, pair: Pair) -> None:
        still = DisplacementField.identity(pair.field.grid)
        found = evaluate(
            pair.fixed,
            pair.fixed,
            still,
            inverse=still,
            fixed_landmarks=pair.fixed_landmarks,
            moving_landmarks=pair.fixed_landmarks,
            fixed_segmentation=pair.fixed_segmentation,
            moving_segmentation=pair.fixed_segmentation,
        ).to_dict()
        assert found["tre_mm"]["after"] == {"mean": 0, "sd": 0, "median": 0, "max": 0}
        assert found["labels_mean"]["dice"] == {"before": 1, "after": 1}
        assert found["labels_mean"]["hd95_mm"] == {"before": 0, "after": 0}
        assert found["bir"] == {"before": 1, "after": 1}
        for key in ("major_mm", "minor_mm", "volume_ml"):
            assert found["tumor"][key]["difference_after"] == pytest.approx(0, abs=1e-3)
        assert found["jacobian"]["folding_percent"] == found["jacobian"]["sd"] == 0
        assert found["roundtrip_mm"]["max"] == 0
        assert found["nmse"]["after"] == pytest.approx(0, abs=1e-9)
        assert found["ssim"]["after"] == pytest.approx(1, abs=1e-6)
        assert found["compared_percent"] == 100

    def test_folding_and_its_mask(self, pair: Pair) -> None:
        grid = pair.field.grid
        vectors = np.zeros((*grid.shape, 3), np.float32)
        # Beyond the middle slice along z, everything runs back on itself.
        step = grid.direction_matrix[:, 2] * grid.spacing[2]
        vectors[18:] = (-1.5 * np.arange(grid.shape[0] - 18)[:, None] * step)[:, None, None]
        folded = DisplacementField(vectors, grid)
        share = pair.evaluate(field=folded).jacobian.folding_percent
        assert share == pytest.approx(100 * 15 / 34, abs=100 / 34 + 0.1)
        mask = np.zeros(grid.shape, np.uint8)
        mask[:16] = 1
        assert pair.evaluate(field=folded, mask=grid.image(mask)).jacobian.folding_percent == 0


class TestLinearMasks:
    def test_half_a_voxel_beats_nearest_neighbour(self) -> None:
        """Volumes and overlap of warped ellipsoids, against the ellipsoid digitised where it belongs."""
        rng = np.random.default_rng(5)
        volumes, overlaps = [], []
        for _ in range(15):
            radii = rng.uniform(4, 9, 3)
            matrix = np.eye(4)
            matrix[:3, :3] = random_direction(rng, mirrored=False) @ np.diag(rng.uniform(0.85, 1.15, 3))
            grid = Grid(
                (32, 32, 20), (1, 1, 2), tuple(np.array([-15.5, -15.5, -19]) + rng.uniform(-0.5, 0.5, 3)), PLAIN
            )
            other = Grid(
                (32, 32, 20), (1, 1, 2), tuple(np.array([-15.5, -15.5, -19]) + rng.uniform(-0.5, 0.5, 3)), PLAIN
            )
            truth = inside(grid.points() @ matrix[:3, :3].T, tuple(radii))
            mask = inside(other.points(), tuple(radii))
            field = DisplacementField.from_matrix(matrix, grid)
            linear = MaskWarper(field, other)(mask)
            nearest = sitk.GetArrayFromImage(field.warp(other.image(mask), "nearest")) > 0
            exact = 4 / 3 * np.pi * np.prod(radii) / np.linalg.det(matrix[:3, :3])
            volumes.append([abs(v.sum() * 2 / exact - 1) for v in (linear, nearest)])
            overlaps.append([measures.dice(v, truth) for v in (linear >= 0.5, nearest)])
        volumes, overlaps = np.mean(volumes, axis=0), np.mean(overlaps, axis=0)
        assert volumes[0] < 0.75 * volumes[1]
        assert overlaps[0] > overlaps[1]

    def test_small_region_equals_the_whole(self, pair: Pair) -> None:
        mask = pair.moving_segmentation.mask("Tumor 1")
        grid = pair.moving_segmentation.grid
        whole = pair.field.warp(grid.image(mask.astype(np.float32)), default=0.0)
        found = MaskWarper(pair.field, grid)(mask)
        np.testing.assert_allclose(found, sitk.GetArrayFromImage(whole), atol=1e-4)
        assert found.max() > 0.99

    def test_mask_at_the_border_and_out_of_sight(self) -> None:
        grid = Grid((11, 10, 9), (1, 1, 1), (0, 0, 0), PLAIN)
        mask = np.zeros(grid.shape, bool)
        mask[0, 0, :4] = True
        np.testing.assert_allclose(MaskWarper(DisplacementField.identity(grid), grid)(mask), mask, atol=1e-5)
        away = Grid(grid.size, grid.spacing, (100, 0, 0), PLAIN)
        assert not MaskWarper(DisplacementField.identity(away), grid)(mask).any()
        assert not MaskWarper(DisplacementField.identity(grid), grid)(np.zeros_like(mask)).any()


class TestInputs:
    def test_initial_transform_is_what_before_means(self, pair: Pair, full: Evaluation) -> None:
        affine = sitk.AffineTransform(pair.matrix[:3, :3].ravel().tolist(), pair.matrix[:3, 3].tolist())
        arguments = {
            "fixed_landmarks": pair.fixed_landmarks,
            "moving_landmarks": pair.moving_landmarks,
            "fixed_segmentation": pair.fixed_segmentation,
            "moving_segmentation": pair.moving_segmentation,
        }
        for initial in (affine, pair.field):
            found = pair.evaluate(initial=initial, **arguments)
            assert found.landmarks.before.max() < 1e-3
            assert found.labels["liver"].dice.before == pytest.approx(full.labels["liver"].dice.after, abs=1e-3)
            assert found.similarity["nmse"].before == pytest.approx(found.similarity["nmse"].after, rel=1e-2)

    def test_field_on_a_coarser_grid(self, pair: Pair, full: Evaluation) -> None:
        coarse = DisplacementField.from_matrix(pair.matrix, pair.field.grid.with_size((12, 11, 9)))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = pair.evaluate(
                field=coarse,
                fixed_segmentation=pair.fixed_segmentation,
                moving_segmentation=pair.moving_segmentation,
            )
        # The border displacement is repeated beyond the outer voxel centres, which the liver does not reach.
        assert found.labels["liver"].dice.after == pytest.approx(full.labels["liver"].dice.after, abs=5e-3)

    def test_field_that_ends_within_the_image(self, pair: Pair) -> None:
        grid = pair.field.grid
        part = Grid((30, 46, 34), grid.spacing, grid.origin, grid.direction)
        with pytest.warns(CycleRegWarning, match="ends within the fixed image: for 38 %"):
            found = pair.evaluate(field=DisplacementField.from_matrix(pair.matrix, part))
        assert any("ends within" in text for text in found.warnings)
        elsewhere = Grid(grid.size, grid.spacing, (900, 0, 0), grid.direction)
        with pytest.raises(InputError, match="lies nowhere within the fixed image"):
            pair.evaluate(field=DisplacementField.identity(elsewhere))

    def test_segmentations_on_other_grids(self, pair: Pair, full: Evaluation) -> None:
        found = []
        for segmentation, matrix in ((pair.fixed_segmentation, pair.matrix), (pair.moving_segmentation, np.eye(4))):
            grid = segmentation.grid
            # Twice as fine, and cropped as Slicer does.
            fine = grid.with_size([2 * n for n in grid.size])
            fine = Grid([n - 10 for n in fine.size], fine.spacing, tuple(fine.to_world([4, 5, 6])), fine.direction)
            found.append(segments(fine, fine.points() @ matrix[:3, :3].T + matrix[:3, 3]))
        result = pair.evaluate(fixed_segmentation=found[0], moving_segmentation=found[1])
        for name in ("liver", "Tumor 1"):
            assert result.labels[name].dice.after > full.labels[name].dice.after - 0.01
        for side in ("fixed", "moving", "warped"):
            assert result.tumor.numbers("major_mm")[side] == pytest.approx(
                full.tumor.numbers("major_mm")[side], abs=1.0
            )
            assert result.tumor.numbers("volume_ml")[side] == pytest.approx(
                full.tumor.numbers("volume_ml")[side], rel=0.04
            )

    def test_plain_label_images_are_paired_by_value(self, pair: Pair, full: Evaluation) -> None:
        images = pair.fixed_segmentation.labels, pair.moving_segmentation.labels
        found = pair.evaluate(fixed_segmentation=images[0], moving_segmentation=images[1], tumor_label=2)
        assert found.labels["label 1"] == full.labels["liver"]
        assert found.tumor.fixed.major_mm == full.tumor.fixed.major_mm
        with pytest.warns(CycleRegWarning, match="paired by label value"):
            mixed = pair.evaluate(fixed_segmentation=pair.fixed_segmentation, moving_segmentation=images[1])
        assert mixed.labels["liver"] == full.labels["liver"]

    def test_names_win_over_values(self, pair: Pair, full: Evaluation) -> None:
        array = sitk.GetArrayFromImage(pair.moving_segmentation.labels)
        swapped = Segmentation(
            pair.moving_segmentation.grid.image(np.choose(array, [0, 7, 4]).astype(np.uint8)),
            {7: "liver", 4: "Tumor 1"},
        )
        found = pair.evaluate(fixed_segmentation=pair.fixed_segmentation, moving_segmentation=swapped)
        assert found.labels == full.labels

    def test_segments_of_one_side_only(self, pair: Pair) -> None:
        moving = Segmentation(pair.moving_segmentation.labels, {1: "liver", 2: "cyst"})
        with pytest.warns(CycleRegWarning, match="left out: Tumor 1, cyst"):
            found = pair.evaluate(fixed_segmentation=pair.fixed_segmentation, moving_segmentation=moving)
        assert list(found.labels) == ["liver"]
        assert found.tumor is None
        with pytest.raises(InputError, match="'Tumor 1' is not a segment of both"), pytest.warns(CycleRegWarning):
            pair.evaluate(fixed_segmentation=pair.fixed_segmentation, moving_segmentation=moving, tumor_label="Tumor 1")
        other = Segmentation(pair.moving_segmentation.grid.image(np.full(array_shape(pair), 9, np.uint8)), {9: "x"})
        with pytest.raises(InputError, match="no segment in common"):
            pair.evaluate(fixed_segmentation=pair.fixed_segmentation, moving_segmentation=other)

    @pytest.mark.filterwarnings("ignore:Segment:CycleRegLib.errors.CycleRegWarning")
    def test_tumor_that_leaves_the_fixed_image(self, pair: Pair) -> None:
        away = DisplacementField(np.full_like(pair.field.vectors, 60.0), pair.field.grid)
        with pytest.warns(CycleRegWarning, match="'Tumor 1' has no voxel in the warped image"):
            found = pair.evaluate(
                field=away, fixed_segmentation=pair.fixed_segmentation, moving_segmentation=pair.moving_segmentation
            )
        numbers = found.to_dict()["tumor"]
        assert numbers["major_mm"]["warped"] is None
        assert numbers["major_mm"]["difference_after"] is None
        assert numbers["diameters"]["warped"] is None
        assert found.to_dict()["hd95_mm"]["Tumor 1"]["after"] is None
        assert found.to_dict()["dice"]["Tumor 1"]["after"] == 0
        assert any("no voxel" in text for text in found.to_dict()["warnings"])

    @pytest.mark.filterwarnings("ignore:Segment:CycleRegLib.errors.CycleRegWarning")
    def test_tumor_that_was_asked_for_and_is_empty(self, pair: Pair) -> None:
        array = sitk.GetArrayFromImage(pair.moving_segmentation.labels)
        array[array == 2] = 1
        moving = Segmentation(pair.moving_segmentation.grid.image(array), {1: "liver", 2: "Tumor 1"})
        arguments = {"fixed_segmentation": pair.fixed_segmentation, "moving_segmentation": moving}
        with pytest.raises(InputError, match="'Tumor 1' is empty"), pytest.warns(CycleRegWarning):
            pair.evaluate(tumor_label="Tumor 1", **arguments)
        with pytest.warns(CycleRegWarning, match="no size there"):
            assert pair.evaluate(**arguments).tumor.moving is None

    def test_several_tumors(self, pair: Pair, full: Evaluation) -> None:
        names = {1: "Lesion in the liver", 2: "tumour"}
        arguments = {
            "fixed_segmentation": Segmentation(pair.fixed_segmentation.labels, names),
            "moving_segmentation": Segmentation(pair.moving_segmentation.labels, names),
        }
        with pytest.warns(CycleRegWarning, match=r"Several segments .*'Lesion in the liver' was measured"):
            pair.evaluate(**arguments)
        for label in ("tumour", 2, "2"):
            found = pair.evaluate(tumor_label=label, **arguments)
            assert found.tumor.numbers("major_mm") == full.tumor.numbers("major_mm")
            assert not found.warnings

    def test_landmarks_outside(self, pair: Pair) -> None:
        arguments = {"fixed_landmarks": pair.fixed_landmarks, "moving_landmarks": pair.moving_landmarks}
        for key, where in (("fixed_landmarks", "fixed image"), ("moving_landmarks", "moving image")):
            points = arguments[key].points.copy()
            points[2] += 500
            moved = {**arguments, key: LandmarkList(arguments[key].labels, points)}
            with pytest.raises(InputError, match=f"1 of 6 landmarks lie outside the {where}"):
                pair.evaluate(**moved)
        grid = pair.field.grid
        slab = Grid((48, 46, 14), grid.spacing, grid.origin, grid.direction)
        with pytest.raises(InputError, match="outside the displacement field"), pytest.warns(CycleRegWarning):
            pair.evaluate(field=DisplacementField.identity(slab), **arguments)

    def test_unequal_landmarks_warn_and_the_evaluation_says_so(self, pair: Pair) -> None:
        fewer = LandmarkList(pair.moving_landmarks.labels[1:], pair.moving_landmarks.points[1:])
        with pytest.warns(CycleRegWarning, match='"mark 5" only among the fixed'):
            found = pair.evaluate(fixed_landmarks=pair.fixed_landmarks, moving_landmarks=fewer)
        assert len(found.landmarks.labels) == 5
        assert any("mark 5" in text for text in found.warnings)

    @pytest.mark.parametrize(
        ("keywords", "message"),
        [
            ({"fixed_landmarks": "fixed_landmarks"}, "Landmarks are needed in both"),
            ({"moving_segmentation": "moving_segmentation"}, "Segmentations are needed of both"),
        ],
    )
    def test_half_a_pair(self, pair: Pair, keywords: dict[str, str], message: str) -> None:
        with pytest.raises(InputError, match=message):
            pair.evaluate(**{key: getattr(pair, name) for key, name in keywords.items()})
        with pytest.raises(InputError, match="needs a fixed and a moving segmentation"):
            pair.evaluate(tumor_label="tumor")

    def test_mask_on_another_grid(self, pair: Pair) -> None:
        grid = pair.field.grid.with_size((24, 23, 17))
        mask = np.zeros(grid.shape, np.uint8)
        mask[6:12, 8:16, 8:16] = 1
        found = pair.evaluate(mask=grid.image(mask))
        assert found.jacobian.count == pytest.approx(8 * mask.sum(), rel=0.01)
        assert found.similarity["lncc"].after > 0.99
        assert found.compared_percent == 100
        with pytest.raises(InputError, match="mask is empty"):
            pair.evaluate(mask=grid.image(np.zeros(grid.shape, np.uint8)))

    def test_images_that_do_not_meet_before(self, pair: Pair) -> None:
        shift = np.eye(4)
        shift[:3, 3] = 400
        far = sitk.Image(pair.moving)
        far.SetOrigin((np.array(far.GetOrigin()) + 400).tolist())
        field = DisplacementField.from_matrix(shift @ pair.matrix, pair.field.grid)
        with pytest.warns(CycleRegWarning, match="each is measured by itself"):
            found = evaluate(pair.fixed, far, field)
        assert np.isnan(found.similarity["ncc"].before)
        assert found.similarity["ncc"].after > 0.99

    def test_an_image_that_is_none(self, pair: Pair) -> None:
        grid = pair.field.grid
        with pytest.raises(InputError, match="constant"):
            evaluate(grid.image(np.ones(grid.shape, np.float32)), pair.moving, pair.field)

    def test_inputs_stay_as_they_are(self, pair: Pair) -> None:
        kept = [sitk.GetArrayFromImage(image) for image in (pair.fixed, pair.moving)], pair.field.vectors.copy()
        pair.evaluate(inverse=pair.inverse)
        for image, before in zip((pair.fixed, pair.moving), kept[0]):
            np.testing.assert_array_equal(sitk.GetArrayFromImage(image), before)
        np.testing.assert_array_equal(pair.field.vectors, kept[1])


def array_shape(pair: Pair) -> tuple[int, ...]:
    return pair.moving_segmentation.grid.shape


class TestOutputs:
    def test_contract_of_the_json_file(self, full: Evaluation, tmp_path) -> None:
        full.write_json(tmp_path / "out.json")
        found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
        assert found == full.to_dict()
        assert {"mean", "sd", "median", "max"} <= set(found["tre_mm"]["after"])
        assert set(found["dice"]) == set(found["iou"]) == set(found["hd95_mm"]) == {"liver", "Tumor 1"}
        assert set(found["hd95_mm"]["liver"]) == {"before", "after"}
        for key in ("major_mm", "minor_mm", "volume_ml"):
            assert set(found["tumor"][key]) == {"fixed", "moving", "warped", "difference_before", "difference_after"}
        assert {"folding_percent", "sd", "sd_log", "min", "max"} <= set(found["jacobian"])
        assert {"mean", "p95", "max"} <= set(found["roundtrip_mm"])
        for key in ("nmse", "ssim", "lncc"):
            assert set(found[key]) == {"before", "after"}

    def test_parts_that_were_not_asked_for_are_absent(self, pair: Pair) -> None:
        found = pair.evaluate().to_dict()
        assert not {"tre_mm", "dice", "tumor", "roundtrip_mm", "reversibility"} & set(found)
        assert {"jacobian", "nmse", "ssim", "lncc"} <= set(found)

    def test_only_finite_numbers(self, pair: Pair, full: Evaluation) -> None:
        """One landmark has no standard deviation: null, not NaN, which is no JSON."""
        one = (
            LandmarkList(["a"], pair.fixed_landmarks.points[:1]),
            LandmarkList(["a"], pair.moving_landmarks.points[-1:]),
        )
        found = pair.evaluate(fixed_landmarks=one[0], moving_landmarks=one[1])
        assert found.to_dict()["tre_mm"]["after"]["sd"] is None
        json.dumps(found.to_dict(), allow_nan=False)
        assert [row.before for row in found.rows() if row.name == "TRE, sd"] == [None]

    def test_csv_holds_every_row(self, full: Evaluation, tmp_path) -> None:
        full.write_csv(tmp_path / "out.csv")
        with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
        assert [row["name"] for row in table] == [row.name for row in full.rows(details=True)]
        by_name = {row["name"]: row for row in table}
        assert float(by_name["TRE, mark 3"]["before"]) == full.landmarks.before[3]
        assert by_name["HD95, liver"]["unit"] == "mm"
        assert by_name["Folding"] == {"name": "Folding", "unit": "% of voxels", "before": "", "after": "0.0"}
        assert len(by_name) == len(table)

    def test_table_for_the_console(self, full: Evaluation) -> None:
        text = full.format_table()
        lines = text.splitlines()
        assert text.isascii()
        assert lines[0].split() == ["before", "after", "unit"]
        assert len(lines) == len(full.rows()) + 2
        (line,) = [line for line in lines if line.startswith("TRE, mean")]
        assert line.split()[-3:] == [f"{full.landmarks.before.mean():.3f}", lines_number(full), "mm"]
        assert "TRE, mark 3" not in text
        assert "TRE, mark 3" in full.format_table(details=True)

    def test_nothing_is_left_when_a_folder_is_missing(self, full: Evaluation, tmp_path) -> None:
        for write in (full.write_json, full.write_csv):
            with pytest.raises(InputError, match="does not exist"):
                write(tmp_path / "nowhere" / "out")
        assert not list(tmp_path.iterdir())

    def test_progress_runs_from_zero_to_one_and_may_cancel(self, pair: Pair) -> None:
        seen: list[tuple[str, float]] = []
        pair.evaluate(
            inverse=pair.inverse,
            fixed_segmentation=pair.fixed_segmentation,
            moving_segmentation=pair.moving_segmentation,
            progress=lambda stage, fraction: seen.append((stage, fraction)),
        )
        fractions = [fraction for _, fraction in seen]
        assert fractions == sorted(fractions)
        assert (fractions[0], fractions[-1]) == (0.0, 1.0)

        def cancel(stage: str, fraction: float) -> None:
            if stage == "similarity":
                raise Cancelled

        with pytest.raises(Cancelled):
            pair.evaluate(progress=cancel)

    def test_diameters_are_those_of_the_tumor_alone(self, pair: Pair, full: Evaluation) -> None:
        expected = measure_tumor(pair.fixed_segmentation.mask("Tumor 1"), pair.fixed_segmentation.grid)
        assert full.tumor.fixed.major_mm == pytest.approx(expected.major_mm, abs=1e-4)
        np.testing.assert_allclose(full.tumor.fixed.major_points, expected.major_points, atol=1e-3)


def lines_number(full: Evaluation) -> str:
    mean = full.landmarks.after.mean()
    return f"{mean:.2g}" if mean < 0.01 else f"{mean:.3f}"
