"""Pictures: what is in a pixel, where it is, and at what scale."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from CycleRegLib.colors import DIVERGING, FIXED, FOLDING, MOVING, nice_ceiling, ramp
from CycleRegLib.drawing import draw_circle, draw_line, level_coverage, outline_coverage
from CycleRegLib.errors import InputError
from CycleRegLib.fields import DisplacementField
from CycleRegLib.geometry import Grid
from CycleRegLib.landmarks import LandmarkList
from CycleRegLib.pictures import render_pictures, write_pictures
from CycleRegLib.png import png_bytes, save_png
from CycleRegLib.segmentations import Segmentation
from CycleRegLib.slices import HU_WINDOW, foreground_center, intensity_window, planes_through

EYE = (1.0, 0, 0, 0, 1, 0, 0, 0, 1)
# (x, y, z) grid axes along anatomical ones in several orders, signs and handednesses, one oblique.
DIRECTIONS = {
    "LPS": EYE,
    "RAS": (-1.0, 0, 0, 0, -1, 0, 0, 0, 1),
    "left-handed LPI": (1.0, 0, 0, 0, 1, 0, 0, 0, -1),
    "sagittal PSL": (0.0, 0, 1, 1, 0, 0, 0, 1, 0),
    "coronal RSA": (-1.0, 0, 0, 0, 0, -1, 0, 1, 0),
    "oblique": tuple(np.array(sitk.Euler3DTransform((0, 0, 0), 0.25, -0.2, 0.3).GetMatrix()) * np.tile([1, -1, 1], 3)),
}


def blob(grid: Grid, center: np.ndarray, radius: float, inside: float = 100.0, outside: float = 0.0) -> sitk.Image:
    distance = np.linalg.norm(grid.points() - center, axis=-1)
    return grid.image(np.where(distance < radius, inside, outside).astype(np.float32))


def centered_grid(size=(40, 36, 32), spacing=(3.0, 3.0, 3.0), direction=EYE) -> Grid:
    start = Grid(size, spacing, (0.0, 0.0, 0.0), direction)
    return Grid(size, spacing, tuple(-start.center), direction)


def bright_center(picture: np.ndarray) -> np.ndarray:
    """(x, y) centre of the bright part, relative to the middle of the picture, in pixels."""
    y, x = np.nonzero(picture[..., 0] > 128)
    return np.array([x.mean() - (picture.shape[1] - 1) / 2, y.mean() - (picture.shape[0] - 1) / 2])


class TestOrientation:
    @pytest.mark.parametrize("name", DIRECTIONS)
    def test_a_marker_appears_on_its_anatomical_side(self, name: str) -> None:
        grid = centered_grid(direction=DIRECTIONS[name])
        marker = np.array([-20.0, -16.0, 18.0])  # patient's right, anterior, superior
        image = blob(grid, marker, 8.0)
        pictures = render_pictures(image, image, DisplacementField.identity(grid), point=marker)
        for plane, signs in {"axial": (-1, -1), "coronal": (-1, -1), "sagittal": (-1, -1)}.items():
            # right at the left and anterior up; right at the left and head up; anterior at the left and head up
            assert (np.sign(bright_center(pictures[f"fixed-{plane}"])) == signs).all()
        if name != "oblique":
            pixel = max(np.array(grid.size) * grid.spacing) / 560
            assert bright_center(pictures["fixed-axial"]) * pixel == pytest.approx(marker[[0, 1]], abs=1.0)
            assert bright_center(pictures["fixed-coronal"]) * pixel == pytest.approx([-20, -18], abs=1.0)
            assert bright_center(pictures["fixed-sagittal"]) * pixel == pytest.approx([-16, -18], abs=1.0)

    def test_slices_go_through_the_point(self) -> None:
        for direction in DIRECTIONS.values():
            grid = centered_grid(spacing=(2.0, 3.0, 4.0), direction=direction)
            point = grid.to_world(np.array([12.0, 20.0, 9.0]))
            for plane in planes_through(grid, point):
                _, distance = plane.to_pixels(point)
                assert distance[0] < 1e-4

    def test_a_point_outside_is_moved_to_the_nearest_slice(self) -> None:
        grid = centered_grid()
        axial = planes_through(grid, np.array([0.0, 0.0, 1e4]))[0]
        assert axial.grid.origin[2] == pytest.approx(grid.to_world(np.array([0, 0, 31.0]))[2])


class TestAspect:
    def test_a_ball_is_round_and_true_to_scale_in_anisotropic_voxels(self) -> None:
        grid = centered_grid((60, 50, 14), (2.0, 2.5, 9.0))
        image = blob(grid, np.zeros(3), 35.0)
        pictures = render_pictures(image, image, DisplacementField.identity(grid), point=np.zeros(3))
        for plane in ("axial", "coronal", "sagittal"):
            bright = pictures[f"fixed-{plane}"][..., 0] > 128
            pixel = 126.0 / 560  # the longest side is 14 * 9 mm
            width, height = bright.any(0).sum() * pixel, bright.any(1).sum() * pixel
            assert width == pytest.approx(70, abs=9)
            assert height == pytest.approx(70, abs=9)
        # voxel edge to voxel edge: 60*2 x 50*2.5 x 14*9 mm, at 560 pixels for 126 mm
        assert pictures["fixed-axial"].shape == (556, 533, 3)
        assert pictures["fixed-coronal"].shape == (560, 533, 3)
        assert pictures["fixed-sagittal"].shape == (560, 556, 3)

    def test_pixels_and_world_agree(self) -> None:
        grid = centered_grid((31, 47, 23), (1.1, 2.3, 3.7), DIRECTIONS["oblique"])
        for plane in planes_through(grid, grid.center, 300):
            ramp_x = plane.grid.points()[0] @ plane.grid.direction_matrix[:, 0]
            enlarged = plane.enlarge(ramp_x)
            inner = plane.grid.to_world(np.array([[4.0, 5.0, 0.0], [9.5, 7.25, 0.0]]))
            (place, _), truth = plane.to_pixels(inner), inner @ plane.grid.direction_matrix[:, 0]
            for (x, y), value in zip(place, truth):
                left = int(np.floor(x))
                found = np.interp(x, [left, left + 1], enlarged[round(y), left : left + 2])
                assert found == pytest.approx(value, abs=0.02 * plane.grid.spacing[0])


class TestPanels:
    def test_moving_is_shown_where_it_is_and_warped_where_it_lands(self) -> None:
        grid, moving_grid = centered_grid(), centered_grid((50, 30, 40), (2.5, 4.0, 3.0), DIRECTIONS["oblique"])
        shift = np.array([12.0, -9.0, 6.0])
        fixed, moving = blob(grid, np.zeros(3), 15.0), blob(moving_grid, shift, 15.0)
        field = DisplacementField(np.broadcast_to(shift, (*grid.shape, 3)).copy(), grid)
        pictures = render_pictures(fixed, moving, field, point=np.zeros(3))
        pixel = 120.0 / 560
        assert bright_center(pictures["moving-axial"]) * pixel == pytest.approx(shift[:2], abs=1.0)
        assert bright_center(pictures["warped-axial"]) * pixel == pytest.approx([0, 0], abs=1.0)
        given = render_pictures(fixed, moving, field, warped=field.warp(moving), point=np.zeros(3))
        assert np.abs(given["warped-sagittal"].astype(int) - pictures["warped-sagittal"]).max() <= 1

    def test_checkerboard_squares_come_from_the_two_images_in_turn(self) -> None:
        grid = centered_grid()
        random = np.random.default_rng(0)
        fixed, moving = (grid.image(random.uniform(0, 100, grid.shape).astype(np.float32)) for _ in range(2))
        pictures = render_pictures(fixed, moving, DisplacementField.identity(grid), point=np.zeros(3))
        pixel = 120.0 / 560
        assert pictures.checker_mm == nice_ceiling(12.0) == 15.0
        for plane in ("axial", "coronal", "sagittal"):
            board = pictures[f"checkerboard-before-{plane}"]
            height, width = board.shape[:2]
            x = (np.arange(width) + 0.5 - width / 2) * pixel // pictures.checker_mm
            y = (np.arange(height) + 0.5 - height / 2) * pixel // pictures.checker_mm
            even = (x[None] + y[:, None]) % 2 == 0
            assert (board[even] == pictures[f"fixed-{plane}"][even]).all()
            assert (board[~even] == pictures[f"moving-{plane}"][~even]).all()
            assert (board != pictures[f"fixed-{plane}"]).any()

    def test_no_background_voxel_decides_the_window(self) -> None:
        grid = centered_grid()
        image = blob(grid, np.zeros(3), 30.0, 500.0)
        values = sitk.GetArrayFromImage(image)
        values[values > 0] += np.linspace(0, 100, (values > 0).sum())
        values[0, 0, 0] = 1e6  # one hot voxel
        assert intensity_window(grid.image(values)) == pytest.approx((0.0, 600.0), abs=2.0)

    def test_hounsfield_units_get_the_abdomen_window(self) -> None:
        grid = centered_grid()
        ct = blob(grid, np.array([10.0, 0, 0]), 40.0, 60.0, -1000.0)
        assert intensity_window(ct) == HU_WINDOW
        assert foreground_center(ct) == pytest.approx([10.0, 0, 0], abs=0.3)


class TestDifference:
    def test_nothing_is_left_after_an_exact_registration_in_spite_of_another_contrast(self) -> None:
        grid = centered_grid()
        distance = np.linalg.norm(grid.points(), axis=-1)
        fixed = grid.image((200 * np.exp(-((distance / 30) ** 2))).astype(np.float32))
        shifted = np.linalg.norm(grid.points() - [9.0, 0, 0], axis=-1)
        moving = grid.image((40 + 3 * (200 * np.exp(-((shifted / 30) ** 2))) ** 0.8).astype(np.float32))
        field = DisplacementField(np.broadcast_to([9.0, 0, 0], (*grid.shape, 3)).copy(), grid)
        pictures = render_pictures(fixed, moving, field, point=np.zeros(3))
        neutral = ramp(np.array(0.5), DIVERGING)
        before = np.abs(pictures["difference-before-axial"] - neutral)[100:-100, 100:-100]
        after = np.abs(pictures["difference-after-axial"] - neutral)[100:-100, 100:-100]
        assert before.max() > 100
        assert after.mean() < 0.1 * before.mean()
        # fixed is brighter on the left of a moving blob that lies to the right: orange there, blue on the right
        row = pictures["difference-before-axial"][pictures["difference-before-axial"].shape[0] // 2].astype(int)
        assert row[200, 0] > row[200, 2]
        assert row[400, 2] > row[400, 0]

    def test_the_unseen_is_no_difference(self) -> None:
        grid = centered_grid()
        fixed = blob(grid, np.zeros(3), 30.0)
        far = Grid(grid.size, grid.spacing, tuple(np.array(grid.origin) + 500.0), grid.direction)
        field = DisplacementField(np.full((*grid.shape, 3), 500.0, np.float32), grid)
        pictures = render_pictures(fixed, far.image(sitk.GetArrayFromImage(fixed)), field, point=np.zeros(3))
        assert len(np.unique(pictures["difference-before-axial"].reshape(-1, 3), axis=0)) == 1
        assert (pictures["moving-axial"] == 0).all()
        assert bright_center(pictures["warped-axial"]) == pytest.approx([0, 0], abs=0.5)


class TestGrid:
    @staticmethod
    def lines(vectors: np.ndarray, grid: Grid, plane: str = "axial"):
        image = grid.image(np.random.default_rng(0).uniform(0, 0.01, grid.shape).astype(np.float32) - 5)
        black = grid.image(np.zeros(grid.shape, np.float32))
        black[0, 0, 0] = 1.0
        pictures = render_pictures(image, black, DisplacementField(vectors, grid), warped=black, point=np.zeros(3))
        picture = pictures[f"grid-{plane}"].max(axis=-1)
        return picture, pictures.grid_mm, 120.0 / 560

    def test_lines_are_a_regular_grid_without_displacement(self) -> None:
        grid = centered_grid()
        picture, apart, pixel = self.lines(np.zeros((*grid.shape, 3)), grid)
        middle = (picture.shape[1] - 1) / 2
        columns = np.nonzero((picture > 128).all(axis=0))[0]
        places = (columns - middle) * pixel / apart
        assert np.abs(places - np.rint(places)).max() * apart < 0.3
        assert len(np.unique(np.rint(places))) == 2 * int(60 / apart) + 1

    def test_a_shift_moves_the_lines_against_it(self) -> None:
        """The grid is drawn on the moving image and pulled back with it: what lies at x came from x + u."""
        grid = centered_grid()
        shift = np.array([1.7, -0.9, 0.4])
        picture, apart, pixel = self.lines(np.broadcast_to(shift, (*grid.shape, 3)).copy(), grid)
        columns = np.nonzero((picture > 128).all(axis=0))[0]
        rows = np.nonzero((picture > 128).all(axis=1))[0]
        for found, length, amount in ((columns, picture.shape[1], shift[0]), (rows, picture.shape[0], shift[1])):
            places = ((found - (length - 1) / 2) * pixel + amount) / apart
            assert np.abs(places - np.rint(places)).max() * apart < 0.3

    def test_stretching_spreads_the_lines_and_the_head_is_up(self) -> None:
        grid = centered_grid()
        vectors = np.zeros((*grid.shape, 3))
        vectors[..., 2] = -0.5 * grid.points()[..., 2]  # takes from half the height: lines twice as far apart
        vectors[..., 2] += 2.0  # and from 2 mm higher up
        picture, apart, pixel = self.lines(vectors, grid, "coronal")
        rows = np.nonzero((picture > 128).all(axis=1))[0]
        superior = -(rows - (picture.shape[0] - 1) / 2) * pixel
        places = (0.5 * superior + 2.0) / apart
        assert len(np.unique(np.rint(places))) == pytest.approx(48 / apart, abs=1.1)
        assert np.abs(places - np.rint(places)).max() * apart < 0.3


class TestOverlays:
    @pytest.mark.parametrize("name", ["LPS", "left-handed LPI", "coronal RSA"])
    def test_folding_is_marked_exactly_where_the_determinant_is_not_positive(self, name: str) -> None:
        grid = centered_grid((28, 26, 24), direction=DIRECTIONS[name])
        points = grid.points()
        vectors = np.zeros((*grid.shape, 3))
        vectors[..., 0] = -2.2 * points[..., 0] * np.exp(-((np.linalg.norm(points, axis=-1) / 14) ** 2))
        field = DisplacementField(vectors, grid)
        image = blob(grid, np.zeros(3), 25.0)
        pictures = render_pictures(image, image, field, point=np.zeros(3))
        folded = field.grid.image((field.jacobian_determinant() <= 0).astype(np.float32))
        for plane in planes_through(grid, np.zeros(3), 560):
            marked = (pictures[f"jacobian-{plane.name}"] == np.array(FOLDING)).all(axis=-1)
            truth = plane.take(folded, nearest=True)
            y, x = np.indices(marked.shape)
            voxel_x = ((x + 0.5) * truth.shape[1] / marked.shape[1]).astype(int)
            voxel_y = ((y + 0.5) * truth.shape[0] / marked.shape[0]).astype(int)
            assert 0 < truth.sum() < truth.size
            assert (marked == (truth[voxel_y, voxel_x] > 0)).all()

    def test_identity_leaves_jacobian_and_round_trip_uncoloured(self) -> None:
        grid = centered_grid()
        image = blob(grid, np.zeros(3), 25.0)
        identity = DisplacementField.identity(grid)
        pictures = render_pictures(image, image, identity, inverse=identity, point=np.zeros(3))
        assert (pictures["jacobian-axial"] == pictures["jacobian-axial"][..., :1]).all()
        assert pictures.legends["roundtrip"].ticks[-1] == (1.0, "0.05")

    def test_growth_and_shrinkage_have_their_colours(self) -> None:
        grid = centered_grid()
        points = grid.points()
        vectors = np.zeros((*grid.shape, 3))
        vectors[..., 0] = 0.15 * np.abs(points[..., 0])  # grows where x > 0, shrinks where x < 0
        image = blob(grid, np.zeros(3), 25.0)
        pictures = render_pictures(image, image, DisplacementField(vectors, grid))
        picture = pictures["jacobian-axial"].astype(int)
        assert pictures.legends["jacobian"].ticks == ((0.0, "0.8"), (0.5, "1"), (1.0, "1.25"))
        left, right = picture[:, :200].reshape(-1, 3).mean(0), picture[:, -200:].reshape(-1, 3).mean(0)
        assert left[2] > left[0] + 50  # shrinkage is blue
        assert right[0] > right[2] + 50  # growth is orange

    def test_round_trip_is_drawn_where_it_is_known(self) -> None:
        grid = centered_grid()
        image = blob(grid, np.zeros(3), 25.0)
        there = DisplacementField(np.broadcast_to([30.0, 0, 0], (*grid.shape, 3)).copy(), grid)
        back = DisplacementField(np.broadcast_to([-29.0, 0, 0], (*grid.shape, 3)).copy(), grid)
        pictures = render_pictures(image, image, there, inverse=back, point=np.zeros(3))
        picture = pictures["roundtrip-axial"].astype(int)
        assert pictures.legends["roundtrip"].ticks[-1] == (1.0, "1")
        assert (np.ptp(picture, axis=-1)[:, 425:] == 0).all()  # leaves the moving grid: 30 of 120 mm, 140 pixels
        assert (np.ptp(picture, axis=-1)[:, :415] > 0).all()

    def test_landmarks_mark_both_points_before_and_after(self) -> None:
        grid = centered_grid()
        fixed_points = np.array([[-12.0, 6.0, 1.0], [20.0, -14.0, -1.0]])
        shift = np.array([9.0, 4.0, 0.0])
        moving_points = fixed_points + shift + np.array([0.0, 3.0, 0.0])  # 3 mm stay after registration
        field = DisplacementField(np.broadcast_to(shift, (*grid.shape, 3)).copy(), grid)
        image = grid.image(np.zeros(grid.shape, np.float32))
        image[0, 0, 0] = 1.0
        lists = LandmarkList(["a", "b"], fixed_points), LandmarkList(["b", "a"], moving_points[::-1])
        pictures = render_pictures(image, image, field, fixed_landmarks=lists[0], moving_landmarks=lists[1])
        plane = planes_through(grid, np.array(pictures.landmark_point), 560)[0]
        for kind, crosses in (("before", fixed_points), ("after", fixed_points + shift)):
            picture = pictures[f"landmarks-{kind}-axial"].astype(int)
            for x, y in plane.to_pixels(crosses)[0]:
                near = picture[round(y) - 3 : round(y) + 4, round(x) - 3 : round(x) + 4]
                assert np.abs(near - np.array(FIXED)).sum(axis=-1).min() < 12
            for x, y in plane.to_pixels(moving_points)[0]:
                assert np.abs(picture[round(y), round(x + 6.5)] - np.array(MOVING)).sum() < 90
        by_order = render_pictures(
            image, image, field, fixed_landmarks=fixed_points, moving_landmarks=moving_points, point=np.zeros(3)
        )
        assert (by_order["landmarks-after-axial"] == pictures["landmarks-after-axial"]).all()

    def test_outlines_follow_the_labels(self) -> None:
        grid = centered_grid()
        shift = np.array([15.0, 0.0, 0.0])
        labels = [sitk.Cast(blob(grid, c, 18.0, 7), sitk.sitkUInt16) for c in (np.zeros(3), shift)]
        field = DisplacementField(np.broadcast_to(shift, (*grid.shape, 3)).copy(), grid)
        image = blob(grid, np.zeros(3), 30.0)
        pictures = render_pictures(image, image, field, fixed_segmentation=labels[0], moving_segmentation=labels[1])
        middle, pixel = (560 - 1) / 2, 120.0 / 560

        def extent(picture: np.ndarray, color: tuple[int, int, int]) -> tuple[float, float]:
            x = np.nonzero((np.abs(picture.astype(int) - np.array(color)).sum(-1) < 30).any(axis=0))[0]
            return (x.min() - middle) * pixel, (x.max() - middle) * pixel

        assert extent(pictures["outlines-before-axial"], FIXED) == pytest.approx((-18, 18), abs=2.0)
        assert extent(pictures["outlines-before-axial"], MOVING) == pytest.approx((-3, 33), abs=2.0)
        after = pictures["outlines-after-axial"].astype(int)
        assert (np.abs(after - np.array(MOVING)).sum(-1) > 30).all()  # exactly under the fixed outline

    def test_overlapping_segments_are_all_outlined(self) -> None:
        grid = centered_grid()
        image = blob(grid, np.zeros(3), 30.0)
        layers = [sitk.Cast(blob(grid, np.zeros(3), r, v), sitk.sitkUInt8) for r, v in ((25.0, 1), (12.0, 2))]
        both = Segmentation(layers, {1: "Liver", 2: "Vessel"})
        identity = DisplacementField.identity(grid)
        picture = render_pictures(
            image, image, identity, fixed_segmentation=both, moving_segmentation=both, point=np.zeros(3)
        )["outlines-after-axial"]
        row = np.abs(picture[picture.shape[0] // 2].astype(int) - np.array(FIXED)).sum(-1) < 60
        x = (np.nonzero(row)[0] - (560 - 1) / 2) * 120 / 560
        assert sorted(set(np.rint(x / 12.5).astype(int))) == [-2, -1, 1, 2]

    def test_before_is_under_the_initial_transform(self) -> None:
        grid = centered_grid()
        shift = np.array([15.0, 0.0, 0.0])
        fixed, moving = blob(grid, np.zeros(3), 15.0), blob(grid, shift, 15.0)
        field = DisplacementField(np.broadcast_to(shift, (*grid.shape, 3)).copy(), grid)
        marks = {"fixed_landmarks": np.zeros((1, 3)), "moving_landmarks": shift[None]}
        for initial in (sitk.TranslationTransform(3, shift.tolist()), field):
            pictures = render_pictures(fixed, moving, field, initial=initial, point=np.zeros(3), **marks)
            for kind in ("checkerboard", "difference", "landmarks"):
                before, after = (pictures[f"{kind}-{when}-axial"].astype(int) for when in ("before", "after"))
                assert np.abs(before - after).max() <= 1
            assert bright_center(pictures["moving-axial"]) == pytest.approx([0, 0], abs=0.5)


class TestWhereToCut:
    def test_a_tumor_comes_first_then_everything_segmented(self) -> None:
        grid = centered_grid()
        image = blob(grid, np.zeros(3), 30.0)
        values = np.zeros(grid.shape, np.uint8)
        values[5:8, 5:8, 5:8], values[20:23, 20:23, 20:23] = 1, 2

        named = Segmentation(grid.image(values), {1: "Liver", 2: "Tumor"})
        identity = DisplacementField.identity(grid)
        pictures = render_pictures(image, image, identity, fixed_segmentation=named)
        assert pictures.point == pytest.approx(grid.to_world(np.array([21.0, 21, 21])))
        pictures = render_pictures(image, image, identity, fixed_segmentation=named.labels)
        assert pictures.point == pytest.approx(grid.to_world(np.array([13.5, 13.5, 13.5])))

    def test_else_the_body(self) -> None:
        grid = centered_grid()
        image = blob(grid, np.array([9.0, -6.0, 3.0]), 20.0)
        assert render_pictures(image, image, DisplacementField.identity(grid)).point == pytest.approx(
            [9.0, -6.0, 3.0], abs=0.5
        )


class TestDrawing:
    def test_a_line_covers_its_length_times_its_width(self) -> None:
        canvas = np.zeros((60, 80, 3), np.float32)
        draw_line(canvas, np.array([10.2, 20.7]), np.array([60.1, 41.3]), (255, 255, 255), 3.0)
        area = canvas[..., 0].sum() / 255
        assert area == pytest.approx(3.0 * np.hypot(49.9, 20.6) + np.pi * 1.5**2, rel=0.02)
        draw_line(canvas, np.array([-50.0, -50.0]), np.array([-40.0, -40.0]), (255, 255, 255))  # outside: no error

    def test_a_circle_has_its_radius(self) -> None:
        canvas = np.zeros((60, 60, 3), np.float32)
        draw_circle(canvas, np.array([30.0, 28.0]), 12.0, (255, 255, 255), 2.0)
        assert canvas[..., 0].sum() / 255 == pytest.approx(2 * np.pi * 12 * 2.0, rel=0.02)
        assert canvas[28, 42, 0] == 255
        assert canvas[28, 30, 0] == 0

    def test_lines_keep_their_width_at_any_slope(self) -> None:
        y, x = np.mgrid[0:200, 0:200].astype(float)
        for slope in (0.3, 1.0, 2.5):
            cover = level_coverage(slope * (0.6 * x + 0.8 * y), 40.0 * slope, 2.0)
            assert cover.mean() == pytest.approx(2.0 / 40.0, rel=0.1)

    def test_flat_places_are_no_outline(self) -> None:
        assert outline_coverage(np.zeros((20, 20)), 2.0).max() == 0
        assert outline_coverage(np.ones((20, 20)), 2.0).max() == 0


class TestFiles:
    def test_png_keeps_every_pixel(self, tmp_path) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (13, 17, 3)).astype(np.uint8)
        save_png(picture, tmp_path / "a.png")
        assert (sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.png"))) == picture).all()
        assert png_bytes(picture)[:8] == b"\x89PNG\r\n\x1a\n"
        grey = np.repeat(picture[..., :1], 3, axis=-1)
        save_png(grey, tmp_path / "b.png")
        assert (sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "b.png"))) == grey[..., 0]).all()
        with pytest.raises(ValueError, match="uint8"):
            save_png(picture.astype(float), tmp_path / "c.png")

    def test_pictures_are_written_under_their_names(self, tmp_path) -> None:
        grid = centered_grid((20, 20, 20))
        image = blob(grid, np.zeros(3), 20.0)
        pictures = render_pictures(image, image, DisplacementField.identity(grid), longest=200)
        paths = write_pictures(tmp_path, pictures)
        assert [p.stem for p in paths] == list(pictures)
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)
        for path in paths:
            found = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
            picture = pictures[path.stem]
            assert (found == (picture if found.ndim == 3 else picture[..., 0])).all()
        with pytest.raises(InputError, match="does not exist"):
            write_pictures(tmp_path / "missing", pictures)

    def test_bad_input_is_refused(self) -> None:
        grid = centered_grid()
        image = blob(grid, np.zeros(3), 20.0)
        identity = DisplacementField.identity(grid)
        with pytest.raises(InputError, match="2 fixed and 3 moving"):
            render_pictures(image, image, identity, fixed_landmarks=np.zeros((2, 3)), moving_landmarks=np.zeros((3, 3)))
        with pytest.raises(InputError, match="3D but the images are 2D"):
            render_pictures(image[:, :, 3], image[:, :, 3], identity)

    def test_progress_runs_from_zero_to_one(self) -> None:
        grid = centered_grid((20, 20, 20))
        image = blob(grid, np.zeros(3), 20.0)
        seen: list[float] = []
        render_pictures(
            image, image, DisplacementField.identity(grid), progress=lambda stage, fraction: seen.append(fraction)
        )
        assert seen[0] == 0.0
        assert seen[-1] == 1.0
        assert seen == sorted(seen)
