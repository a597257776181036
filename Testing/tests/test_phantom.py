"""The sample pair: reproducible, true to its own anatomy, and with a truth that other software confirms."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from CycleRegLib.errors import InputError
from CycleRegLib.geometry import Grid
from CycleRegLib.images import read_image
from CycleRegLib.landmarks import check_inside, read_landmarks
from CycleRegLib.phantom import Motion, Sample, make_sample, sample_grids, write_sample
from CycleRegLib.phantom_anatomy import Anatomy
from CycleRegLib.phantom_shapes import (
    Blend,
    Common,
    Ellipsoid,
    Shape,
    Slab,
    Trunk,
    Tube,
    Without,
    extreme,
    grown,
    rotation,
)
from CycleRegLib.phantom_tissues import ARTERIAL, PORTAL, tissues_of
from CycleRegLib.segmentations import read_segmentation

SIDES = ("fixed", "moving")
TILTED = rotation(x=20, y=-35, z=50)


@pytest.fixture(scope="module")
def sample() -> Sample:
    return make_sample()


def hu(sample: Sample, side: str) -> np.ndarray:
    return sitk.GetArrayFromImage(getattr(sample, side)).astype(float)


def at(sample: Sample, side: str, label: str, radius: float = 0.0) -> float:
    """Mean HU of an image within ``radius`` mm of a landmark (the nearest voxel at least)."""
    image = getattr(sample, side)
    grid = Grid.of(image)
    point = getattr(sample, f"{side}_landmarks")[label]
    apart = np.linalg.norm(grid.points() - point, axis=-1)
    return float(hu(sample, side)[apart <= max(radius, apart.min())].mean())


class TestPair:
    def test_grids_are_anisotropic_and_differ(self, sample):
        fixed, moving = Grid.of(sample.fixed), Grid.of(sample.moving)
        assert fixed.spacing == (2.2, 2.2, 3.0)
        assert moving.spacing == (2.4, 2.4, 2.5)
        assert fixed.size != moving.size
        assert np.abs(moving.direction_matrix - np.eye(3)).max() > 0.02  # oblique
        assert 0.8e6 < np.prod(fixed.size) < 1.6e6
        assert sample.fixed.GetPixelID() == sample.moving.GetPixelID() == sitk.sitkInt16
        assert sample.field.grid.same_as(fixed)
        for side in SIDES:
            assert getattr(sample, f"{side}_segmentation").grid.same_as(Grid.of(getattr(sample, side)))
            check_inside(getattr(sample, f"{side}_landmarks"), Grid.of(getattr(sample, side)), side)

    def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(self):
        first, again, other = make_sample(3, 4.0), make_sample(3, 4.0), make_sample(4, 4.0)
        for side in SIDES:
            np.testing.assert_array_equal(hu(first, side), hu(again, side))
            assert (hu(first, side) != hu(other, side)).mean() > 0.5
            np.testing.assert_array_equal(
                getattr(first, f"{side}_landmarks").points, getattr(again, f"{side}_landmarks").points
            )
        np.testing.assert_array_equal(first.field.vectors, again.field.vectors)
        assert np.abs(first.field.vectors - other.field.vectors).max() > 1.0

    def test_a_scaled_sample_shows_the_same_anatomy_with_fewer_voxels(self, sample):
        small = make_sample(scale=2.0)
        assert Grid.of(small.fixed).size == (77, 59, 35)
        np.testing.assert_array_equal(small.fixed_landmarks.points, sample.fixed_landmarks.points)
        assert small.fixed_segmentation.names == sample.fixed_segmentation.names
        for name in ("liver", "spleen"):
            volumes = [
                s.moving_segmentation.mask(name).sum() * s.moving_segmentation.grid.voxel_volume
                for s in (small, sample)
            ]
            assert volumes[0] == pytest.approx(volumes[1], rel=0.03)


class TestMotion:
    def test_landmarks_and_field_agree_as_simpleitk_reads_it(self, sample):
        transform = sample.field.to_transform()
        mapped = np.array([transform.TransformPoint(p) for p in sample.fixed_landmarks.points.tolist()])
        assert np.linalg.norm(mapped - sample.moving_landmarks.points, axis=1).max() < 0.05

    def test_inverse_points_are_exact(self, sample):
        fixed = sample.fixed_landmarks.points
        mapped = fixed + sample.motion.displacement(fixed.T).T
        assert np.abs(mapped - sample.moving_landmarks.points).max() < 1e-4

    def test_initial_error_is_that_of_a_breath(self, sample):
        error = np.linalg.norm(sample.fixed_landmarks.points - sample.moving_landmarks.points, axis=1)
        assert 8 < error.mean() < 12
        dome = sample.moving_landmarks["hepatic dome"] - sample.fixed_landmarks["hepatic dome"]
        assert -18 < dome[2] < -12  # inspiration pushes it down

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_no_folding(self, seed):
        """By the exact derivative of the analytic motion, on a lattice finer than the random waves."""
        grid = sample_grids(3.0)[0]
        motion, step = Motion(seed), 1e-3
        points = np.moveaxis(grid.points(), -1, 0)
        jacobian = np.stack(
            [
                (motion.displacement(points + shift) - motion.displacement(points - shift)) / (2 * step)
                for shift in (step * np.eye(3))[:, :, None, None, None]
            ],
            axis=1,
        )
        determinant = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)) + np.eye(3))
        assert determinant.min() > 0.7
        assert determinant.max() < 1.4

    def test_spine_and_body_wall_hardly_move_and_the_belly_rises(self):
        motion = Motion()
        still = np.array([[2.0, 70, 0], [2, 85, -60], [155, 0, 0], [-155, 10, 40], [0, 116, 20]]).T
        assert np.linalg.norm(motion.displacement(still), axis=0).max() < 3.0
        assert motion.displacement(np.array([[0.0], [-100], [-5]]))[1, 0] < -4


class TestAnatomy:
    def test_more_than_twenty_landmarks_with_unique_names(self, sample):
        labels = sample.fixed_landmarks.labels
        assert len(labels) == len(set(labels)) >= 20
        assert labels == sample.moving_landmarks.labels
        assert all(sample.fixed_landmarks.descriptions)

    @pytest.mark.parametrize(
        ("label", "segment", "axis", "sign"),
        [
            ("hepatic dome", "liver", 2, 1),
            ("left lateral tip", "liver", 0, 1),
            ("inferior tip of the right lobe", "liver", 2, -1),
            ("right kidney upper pole", "right kidney", 2, 1),
            ("right kidney lower pole", "right kidney", 2, -1),
            ("left kidney upper pole", "left kidney", 2, 1),
            ("left kidney lower pole", "left kidney", 2, -1),
            ("splenic tip", "spleen", 2, -1),
        ],
    )
    @pytest.mark.parametrize("side", SIDES)
    def test_extreme_points_are_extreme_in_the_segment(self, sample, side, label, segment, axis, sign):
        segmentation = getattr(sample, f"{side}_segmentation")
        grid = segmentation.grid
        points = grid.to_world(np.argwhere(segmentation.mask(segment))[:, ::-1])
        landmark = getattr(sample, f"{side}_landmarks")[label]
        # Exact in the moving image; the motion may make a neighbour the extreme one in the fixed image.
        top = (sign * points[:, axis]).max()
        assert abs(top - sign * landmark[axis]) < 1.5 * grid.spacing[axis]
        assert np.linalg.norm(points - landmark, axis=1).min() < max(grid.spacing)

    @pytest.mark.parametrize(
        ("label", "low", "high"),
        [
            ("left portal vein", 155, 200),
            ("right portal vein", 155, 200),
            ("right anterior portal vein", 140, 200),
            ("right posterior portal vein", 140, 200),
            ("P2 origin", 140, 200),
            ("suprahepatic vena cava", 140, 180),
            ("right hepatic vein", 135, 190),
            ("hepatic cyst", -25, 40),
            ("gallbladder stone", 150, 260),
        ],
    )
    def test_landmarks_lie_in_what_they_are_named_after(self, sample, label, low, high):
        assert low < at(sample, "fixed", label, radius=3.0) < high

    def test_the_fissure_is_fat_between_liver(self, sample):
        """Fat at the landmark, liver to both sides of it."""
        grid = Grid.of(sample.moving)
        point = sample.moving_landmarks["ligamentum teres fissure"]
        index = np.rint(grid.to_index(np.array([point, point - (9, 0, 0), point + (9, 0, 0)]))).astype(int)
        values = [hu(sample, "moving")[z - 1 : z + 2, y - 1 : y + 2, x].mean() for x, y, z in index]
        assert values[0] < 20 < 50 < min(values[1:])

    def test_tumor_volume_is_the_ellipsoids(self, sample):
        expected = 4 / 3 * np.pi * 18 * 16.5 * 17.5
        assert sample.tumor_volume_mm3 == pytest.approx(expected)
        moving = sample.moving_segmentation
        assert moving.mask("tumor").sum() * moving.grid.voxel_volume == pytest.approx(expected, rel=0.015)
        # In the fixed image it is the pre-image: its volume weighted by the Jacobian determinant is the ellipsoid's.
        fixed = sample.fixed_segmentation
        determinant = sample.field.jacobian_determinant()[fixed.mask("tumor")]
        assert determinant.sum() * fixed.grid.voxel_volume == pytest.approx(expected, rel=0.015)

    def test_organs_have_the_size_of_organs(self, sample):
        for name, (low, high) in {
            "liver": (1000, 1700),
            "spleen": (90, 250),
            "right kidney": (110, 200),
            "left kidney": (110, 200),
        }.items():
            for side in SIDES:
                segmentation = getattr(sample, f"{side}_segmentation")
                assert low < segmentation.mask(name).sum() * segmentation.grid.voxel_volume / 1000 < high

    def test_the_true_field_carries_the_segments_onto_each_other(self, sample):
        """Both label images were drawn independently; the field must bring them together."""
        warped = sample.moving_segmentation.warped(sample.field)
        for name, least in {"liver": 0.975, "tumor": 0.94, "spleen": 0.94, "right kidney": 0.95}.items():
            a, b = warped.mask(name), sample.fixed_segmentation.mask(name)
            assert 2 * (a & b).sum() / (a.sum() + b.sum()) > least
            before = sample.moving_segmentation.resampled(warped.grid).mask(name)
            assert 2 * (before & b).sum() / (before.sum() + b.sum()) < least - 0.03

    def test_the_phases_differ_in_contrast(self, sample):
        means = {}
        for side in SIDES:
            segmentation, array = getattr(sample, f"{side}_segmentation"), hu(sample, side)
            means[side] = {s.name: array[segmentation.mask(s.name)].mean() for s in segmentation.segments}
        arterial, portal = means["moving"], means["fixed"]
        assert arterial["tumor"] > arterial["liver"] + 25  # hypervascular
        assert portal["tumor"] < portal["liver"] - 15  # washed out
        assert portal["liver"] > arterial["liver"] + 30
        assert arterial["right kidney"] < portal["right kidney"]
        fixed, moving = (hu(sample, s)[getattr(sample, f"{s}_segmentation").mask("spleen")].std() for s in SIDES)
        assert moving > fixed + 5  # the arterial spleen is banded

    def test_air_lung_fat_and_bone_are_there(self, sample):
        for side in SIDES:
            array = hu(sample, side)

            def share(low: float, high: float, array: np.ndarray = array) -> float:
                return float(((array > low) & (array < high)).mean())

            assert share(-1025, -950) > 0.15
            assert share(-900, -790) > 0.03
            assert share(-140, -70) > 0.1
            assert share(250, 800) > 0.005
            assert array.min() >= -1024
            outside = array[:, 2:5, 2:5]  # in front of the patient
            assert outside.mean() == pytest.approx(-1000, abs=6)
            assert 3 < outside.std() < 20

    @pytest.mark.parametrize(
        ("label", "of"),
        [
            ("hepatic dome", lambda a: a.liver),
            ("caudate border", lambda a: a.caudate),
            ("gallbladder fundus", lambda a: a.gallbladder),
            ("right hepatic vein", lambda a: a.ivc),
            ("middle hepatic vein", lambda a: a.ivc),
            ("left hepatic vein", lambda a: a.ivc),
            ("inferior right hepatic vein", lambda a: a.ivc),
            ("splenic tip", lambda a: a.spleen),
        ],
    )
    def test_landmarks_on_surfaces_lie_on_them(self, sample, label, of):
        point = sample.moving_landmarks[label]
        assert abs(of(Anatomy()).distance(point[:, None])[0]) < 0.01

    def test_small_vessels_differ_between_seeds_and_stay_inside_the_liver(self):
        first, second = Anatomy(0), Anatomy(1)
        ends = [np.array([tube.line[-1] for tube in a.portal_branches.shapes]) for a in (first, second)]
        assert min(map(len, ends)) > 15
        assert len(ends[0]) != len(ends[1]) or not np.allclose(*ends)
        for anatomy, points in zip((first, second), ends):
            assert anatomy.liver.distance(points.T).max() < 0

    def test_rendering_stays_in_float32(self):
        points = np.random.default_rng(0).uniform(-100, 100, (3, 5000)).astype(np.float32)
        assert Motion().displacement(points).dtype == np.float32
        for tissue in tissues_of(Anatomy()):
            distance = tissue.shape.distance(points)
            assert distance.dtype == np.float32
            if callable(tissue.value):
                assert {tissue.value(points, distance, phase).dtype for phase in (ARTERIAL, PORTAL)} == {points.dtype}


class TestShapes:
    def test_ellipsoid_distance_is_first_order_true_at_the_surface(self):
        shape = Ellipsoid((1, -2, 3), (5, 7, 9), TILTED)
        rng = np.random.default_rng(0)
        direction = rng.normal(size=(50, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        surface = shape.center + (direction * shape.radii) @ TILTED.T
        normal = (direction / shape.radii) @ TILTED.T
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        for offset in (-0.2, 0.0, 0.2):
            np.testing.assert_allclose(shape.distance((surface + offset * normal).T), offset, atol=0.012)
        assert shape.distance(shape.center[:, None])[0] == pytest.approx(-5)

    def test_extreme_of_an_ellipsoid_is_its_support_point(self):
        shape = Ellipsoid((1, -2, 3), (15, 17, 29), TILTED)
        for direction in np.eye(3):
            along = TILTED.T @ direction * shape.radii
            expected = shape.center + TILTED @ (shape.radii * along / np.linalg.norm(along))
            np.testing.assert_allclose(extreme(shape, direction), expected, atol=0.25)
            assert direction @ (expected - extreme(shape, direction)) == pytest.approx(0, abs=0.01)

    def test_a_straight_tube_is_a_capsule(self):
        tube = Tube([(0, 0, 0), (0, 0, 10)], 2.0)
        points = np.array([[0, 0, 5], [5, 0, 5], [0, 0, -4], [0, 3, 14]], dtype=float)
        np.testing.assert_allclose(tube.distance(points.T), [-2, 3, 2, 3], atol=1e-9)

    def test_a_curved_tube_runs_through_its_points_and_enters_others(self):
        points = [(0, 0, 0), (10, 5, 0), (20, 0, 5), (30, 0, 0)]
        tube = Tube(points, [1, 2, 3, 4], samples=6)
        np.testing.assert_allclose(tube.distance(np.array(points, float).T), [-1, -2, -3, -4], atol=1e-6)
        ball = Ellipsoid((30, 0, 0), (6, 6, 6))
        assert np.linalg.norm(tube.enter(ball) - ball.center) == pytest.approx(6, abs=1e-6)
        with pytest.raises(ValueError, match="start outside"):
            Tube([(30, 0, 0), (40, 0, 0)], 1).enter(ball)

    def test_slab_and_trunk(self):
        slab = Slab((1, 2, 3), (4, 5, 6), TILTED)
        inside = slab.center + TILTED @ np.array([3.0, 0, 0])
        outside = slab.center + TILTED @ np.array([7.0, 9.0, 0])
        np.testing.assert_allclose(slab.distance(np.stack([inside, outside], axis=1)), [-1, 5], atol=1e-9)
        trunk = Trunk(10, 6, 8, exponent=2.0)
        points = np.array([[10, 0, 99], [0, -6, 0], [0, 8, 0], [0, 10, 0], [0, 0, 0]], dtype=float)
        distance = trunk.distance(points.T)
        np.testing.assert_allclose(distance[:4], [0, 0, 0, 2], atol=1e-6)
        assert distance[4] < 0

    def test_combinations(self):
        a, b = Ellipsoid((0, 0, 0), (5, 5, 5)), Ellipsoid((8, 0, 0), (5, 5, 5))
        p = np.array([[0, 0, 0], [4, 0, 0], [8, 0, 0], [4, 3.2, 0]], dtype=float).T

        def inside(shape: Shape) -> list[bool]:
            return (shape.distance(p) < 0).tolist()

        assert inside(a | b) == [True, True, True, False]
        assert inside(Common([a, b])) == [False, True, False, False]
        assert inside(Without(a, [b])) == [True, False, False, False]
        assert inside(Blend([a, b], 6)) == [True, True, True, True]  # the seam is filled
        assert inside(grown(a, -2)) == [True, False, False, False]

    def test_a_tube_is_the_same_for_few_and_for_many_points(self):
        tube = Tube([(0, 0, 0), (10, 5, 0), (20, 0, 5), (30, 0, 0)], [1, 2, 3, 4])
        points = np.random.default_rng(0).uniform(-10, 40, (3, 20, 500))
        np.testing.assert_allclose(tube.distance(points)[:2], tube.distance(points[:, :2]), atol=1e-9)


class TestFiles:
    def test_written_sample_reads_back(self, tmp_path):
        paths = write_sample(tmp_path, scale=4.0)
        expected = make_sample(scale=4.0)
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths.values())
        for side in SIDES:
            image = read_image(paths[side])
            assert Grid.of(image).same_as(Grid.of(getattr(expected, side)))
            np.testing.assert_array_equal(sitk.GetArrayFromImage(image), hu(expected, side))
            marks, truth = read_landmarks(paths[f"{side}_landmarks"]), getattr(expected, f"{side}_landmarks")
            assert marks.labels == truth.labels
            np.testing.assert_allclose(marks.points, truth.points, atol=1e-9)
            segmentation = read_segmentation(paths[f"{side}_segmentation"])
            assert list(segmentation.names.values()) == ["liver", "tumor", "spleen", "right kidney", "left kidney"]
            np.testing.assert_array_equal(
                segmentation.mask("tumor"), getattr(expected, f"{side}_segmentation").mask("tumor")
            )
        field = sitk.ReadImage(str(paths["true_transform"]), sitk.sitkVectorFloat64)
        transform = sitk.DisplacementFieldTransform(field)
        point = expected.fixed_landmarks["hepatic dome"]
        # at four times the spacing the field is only interpolated
        np.testing.assert_allclose(
            transform.TransformPoint(point.tolist()), expected.moving_landmarks["hepatic dome"], atol=0.5
        )

    def test_a_missing_folder_is_refused_before_anything_is_made(self, tmp_path):
        with pytest.raises(InputError, match="does not exist"):
            write_sample(tmp_path / "nowhere")
        assert not list(tmp_path.iterdir())
