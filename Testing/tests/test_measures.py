"""Measures against analytic answers and slow, direct references."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from geometries import random_grid, seeds
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial import cKDTree

from CycleRegLib import measures, similarity
from CycleRegLib.fields import DisplacementField
from CycleRegLib.geometry import Grid


def ball(grid: Grid, center: np.ndarray, radius: float) -> np.ndarray:
    return np.linalg.norm(grid.points() - center, axis=-1) <= radius


def random_blobs(grid: Grid, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=grid.shape)
    return ndimage.gaussian_filter(noise, 1.2) > 0.1


def fine_grid(seed: int) -> Grid:
    """Oblique and mirrored, fine enough for the volume of a ball of 12 mm."""
    coarse = random_grid(seed)
    return Grid((60, 58, 45), (0.8, 0.85, 1.1), coarse.origin, coarse.direction)


class TestStatistics:
    def test_known_numbers(self) -> None:
        found = measures.Statistics.of(np.array([1.0, 2.0, np.nan, 3.0, 6.0]))
        assert (found.mean, found.median, found.max, found.count) == (3.0, 2.5, 6.0, 4)
        assert found.sd == pytest.approx(np.sqrt((4 + 1 + 0 + 9) / 3))
        assert found.p95 == pytest.approx(3 + 0.85 * 3)

    def test_one_value_has_no_sd_and_none_has_nothing(self) -> None:
        assert np.isnan(measures.Statistics.of(np.array([2.0])).sd)
        nothing = measures.Statistics.of(np.array([np.nan]))
        assert nothing.count == 0
        assert np.isnan(nothing.mean)


class TestOverlap:
    @pytest.mark.parametrize("distance", [0.0, 5.0, 11.0, 17.0, 30.0])
    def test_two_balls_against_the_volume_of_their_lens(self, distance: float) -> None:
        grid, r = fine_grid(4), 12.0
        step = np.array([0.48, 0.6, 0.64]) * distance
        a, b = ball(grid, grid.center - step / 2, r), ball(grid, grid.center + step / 2, r)
        # METHODS.md's Dice: the lens is two caps of height r - d/2
        lens = np.pi * (4 * r + distance) * (2 * r - distance) ** 2 / 12 if distance < 2 * r else 0.0
        volume = 4 / 3 * np.pi * r**3
        assert measures.dice(a, b) == pytest.approx(lens / volume, abs=0.005)
        assert measures.iou(a, b) == pytest.approx(lens / (2 * volume - lens), abs=0.005)
        assert measures.binary_intensity_ratio(a, b) == pytest.approx(1 - 2 * (volume - lens) / volume, abs=0.015)

    @given(seeds, seeds)
    def test_symmetric_and_consistent(self, first: int, second: int) -> None:
        grid = Grid((9, 8, 7), (1, 1, 1), (0, 0, 0), tuple(np.eye(3).ravel()))
        a, b = random_blobs(grid, first), random_blobs(grid, second)
        d, j = measures.dice(a, b), measures.iou(a, b)
        assert d == measures.dice(b, a)
        assert j == measures.iou(b, a)
        assert d == pytest.approx(2 * j / (1 + j))
        assert measures.hd95(a, b, grid) == measures.hd95(b, a, grid)
        assert measures.dice(a, a) == 1.0

    def test_empty_masks(self) -> None:
        grid = Grid((4, 4, 4), (1, 1, 1), (0, 0, 0), tuple(np.eye(3).ravel()))
        empty, full = np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)
        assert np.isnan(measures.dice(empty, empty))
        assert np.isnan(measures.iou(empty, empty))
        assert np.isnan(measures.binary_intensity_ratio(empty, full))
        assert np.isnan(measures.hd95(empty, full, grid))
        assert measures.dice(empty, full) == 0.0

    def test_binary_intensity_ratio_counts_wrong_labels_once(self) -> None:
        fixed = np.array([0, 1, 1, 2, 2, 3, 0, 0])
        warped = np.array([1, 1, 2, 2, 2, 0, 0, 0])
        assert measures.binary_intensity_ratio(fixed, warped) == pytest.approx(1 - 3 / 5)


class TestSurfaces:
    @given(seeds)
    def test_surface_is_what_erosion_removes(self, seed: int) -> None:
        mask = random_blobs(random_grid(seed), seed)
        np.testing.assert_array_equal(measures.surface(mask), mask & ~ndimage.binary_erosion(mask, border_value=0))

    @given(seeds)
    def test_distances_against_a_search_over_points(self, seed: int) -> None:
        grid = random_grid(seed)
        a, b = random_blobs(grid, seed), random_blobs(grid, seed + 1)
        a[:3] = True  # a thick part that touches the border
        points = [grid.points()[m & ~ndimage.binary_erosion(m, border_value=0)] for m in (a, b)]
        expected = [cKDTree(q).query(p)[0] for p, q in itertools.permutations(points)]
        for found, truth in zip(measures.surface_distances(a, b, grid), expected):
            np.testing.assert_allclose(found, truth, atol=1e-4)
        truth = max(np.percentile(d, 95) for d in expected)
        assert measures.hd95(a, b, grid) == pytest.approx(truth, abs=1e-4)

    def test_axes_that_are_not_perpendicular(self) -> None:
        sheared = Grid((12, 11, 10), (1.0, 1.3, 2.5), (0, 0, 0), (1, 0, 0, 0, 1, 0.3, 0, 0, 1))
        a, b = random_blobs(sheared, 1), random_blobs(sheared, 2)
        points = [sheared.points()[measures.surface(m)] for m in (a, b)]
        truth = max(np.percentile(cKDTree(q).query(p)[0], 95) for p, q in itertools.permutations(points))
        assert measures.hd95(a, b, sheared) == pytest.approx(truth, abs=1e-9)

    def test_shifted_ball(self) -> None:
        grid = fine_grid(9)
        along = grid.direction_matrix[:, 0] * 0.8 * 7
        a, b = ball(grid, grid.center, 10.0), ball(grid, grid.center + along, 10.0)
        # The distance from a sphere of radius r to its copy shifted by d is |sqrt(r^2 + d^2 - 2 r d cos) - r|.
        cosines = np.linspace(-1, 1, 100001)
        exact = np.abs(np.sqrt(100 + 5.6**2 - 2 * 10 * 5.6 * cosines) - 10)
        assert measures.hd95(a, b, grid) == pytest.approx(np.percentile(exact, 95), abs=0.6)


class TestFields:
    @given(seeds)
    def test_affine_field_has_one_determinant(self, seed: int) -> None:
        grid = random_grid(seed)
        matrix = np.eye(4)
        matrix[:3, :3] += np.random.default_rng(seed).uniform(-0.2, 0.2, (3, 3))
        det = np.linalg.det(matrix[:3, :3])
        found = measures.jacobian_statistics(DisplacementField.from_matrix(matrix, grid).jacobian_determinant())
        assert found.mean == pytest.approx(det, abs=1e-3)
        assert found.sd == pytest.approx(0, abs=1e-3)
        assert found.sd_log == pytest.approx(0, abs=2e-3)
        assert (found.folding_percent, found.left_out) == (0.0, 0)

    def test_quadratic_field_that_folds(self) -> None:
        # u = (a x^2, 0, 0): determinant 1 + 2 a x, from -1 to 3, zero at the middle of the lower half.
        grid = Grid((201, 4, 4), (1, 1, 1), (-100, 0, 0), tuple(np.eye(3).ravel()))
        vectors = np.zeros((*grid.shape, 3), np.float32)
        x = grid.points()[..., 0]
        vectors[..., 0] = 0.01 * x**2
        det = DisplacementField(vectors, grid).jacobian_determinant()
        inner = np.abs(x) < 100  # central differences are exact there
        found = measures.jacobian_statistics(det, inner)
        truth = 1 + 0.02 * np.arange(-99, 100)
        assert found.folding_percent == pytest.approx(100 * np.mean(truth <= 1e-6), abs=0.6)
        assert found.sd == pytest.approx(truth.std(), abs=1e-4)
        assert (found.min, found.max) == (pytest.approx(-0.98, abs=1e-4), pytest.approx(2.98, abs=1e-4))
        positive = truth[truth > 1e-3]
        clear = measures.jacobian_statistics(det, inner & (np.abs(x + 50) > 0.5))
        assert clear.sd_log == pytest.approx(np.log(positive).std(), abs=1e-3)
        assert clear.left_out == 16 * int(np.sum(truth < -1e-3))

    def test_everything_folded_or_nothing_there(self) -> None:
        assert np.isnan(measures.jacobian_statistics(np.full((3, 3), -1.0)).sd_log)
        nothing = measures.jacobian_statistics(np.ones((3, 3)), np.zeros((3, 3), bool))
        assert np.isnan(nothing.folding_percent)
        assert nothing.count == 0

    def test_landmark_errors(self) -> None:
        mapped, moving = np.array([[3.0, 4.0, 0.0], [1, 1, 1]]), np.array([[0.0, 0.0, 0.0], [1, 1, 3]])
        np.testing.assert_allclose(measures.target_registration_errors(mapped, moving), [5, 2])


# ---------------------------------------------------------------------- intensities


def smooth_pair(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two correlated images of 0 to about 300, and a mask."""
    rng = np.random.default_rng(seed)
    a = ndimage.gaussian_filter(rng.normal(size=shape), 1.0)
    b = a + 0.3 * ndimage.gaussian_filter(rng.normal(size=shape), 0.6)
    scale = [300 * (v - v.min()) / np.ptp(v) for v in (a, b)]
    return scale[0], scale[1], rng.random(shape) > 0.35


def windows(
    a: np.ndarray, b: np.ndarray, mask: np.ndarray, radius: int, weight_of: np.ndarray
) -> list[tuple[float, float, float, float, float]]:
    """Weighted moments about every voxel of the mask, one window at a time."""
    found = []
    for center in np.argwhere(mask):
        lows, highs = np.maximum(center - radius, 0), np.minimum(center + radius + 1, a.shape)
        box = tuple(slice(lo, hi) for lo, hi in zip(lows, highs))
        w = mask[box].astype(float)
        for axis, (c, lo, hi) in enumerate(zip(center, lows, highs)):
            view = [1] * a.ndim
            view[axis] = hi - lo
            w = w * weight_of[lo - c + radius : hi - c + radius].reshape(view)
        w /= w.sum()
        x, y = a[box], b[box]
        ma, mb = (w * x).sum(), (w * y).sum()
        found.append((ma, mb, (w * (x - ma) ** 2).sum(), (w * (y - mb) ** 2).sum(), (w * (x - ma) * (y - mb)).sum()))
    return found


class TestImages:
    @pytest.mark.parametrize("shape", [(7, 12, 9), (3, 14, 13), (15, 16)])
    @pytest.mark.parametrize("masked", [False, True])
    def test_ssim_against_the_formula_window_by_window(self, shape: tuple[int, ...], masked: bool) -> None:
        a, b, mask = smooth_pair(shape, 5)
        mask = mask if masked else np.ones(shape, bool)
        span = np.ptp(b[mask])
        c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
        gauss = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
        expected = np.mean(
            [
                (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
                for ma, mb, va, vb, cov in windows(a, b, mask, 5, gauss)
            ]
        )
        assert measures.ssim(a, b, mask if masked else None) == pytest.approx(expected, abs=1e-5)
        assert 0.2 < expected < 0.95

    def test_ssim_against_filters_of_scipy(self) -> None:
        a, b, mask = smooth_pair((32, 30, 28), 6)

        def mean(v: np.ndarray) -> np.ndarray:
            weights = [ndimage.gaussian_filter(w, 1.5, radius=5, mode="constant") for w in (v * mask, mask * 1.0)]
            return weights[0] / weights[1]

        ma, mb = mean(a), mean(b)
        va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        each = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
        assert measures.ssim(a, b, mask, data_range=255) == pytest.approx(each[mask].mean(), abs=1e-6)

    def test_ssim_of_equal_images_is_one(self) -> None:
        a = smooth_pair((8, 9, 10), 1)[0]
        assert measures.ssim(a, a) == pytest.approx(1.0, abs=1e-9)
        assert np.isnan(measures.ssim(a, np.ones_like(a)))

    @pytest.mark.parametrize("masked", [False, True])
    def test_lncc_against_the_definition_window_by_window(self, masked: bool) -> None:
        a, b, mask = smooth_pair((6, 11, 12), 3)
        mask = mask if masked else np.ones(a.shape, bool)
        each = [cov**2 / (va * vb) for _, _, va, vb, cov in windows(a, b, mask, 2, np.ones(5))]
        assert measures.lncc(a, b, mask if masked else None, window=5) == pytest.approx(np.mean(each), abs=1e-5)

    @pytest.mark.parametrize("masked", [False, True])
    def test_lncc_agrees_with_the_one_that_is_optimised(self, masked: bool) -> None:
        a, b, mask = (torch.from_numpy(v).double()[None, None] for v in smooth_pair((12, 13, 14), 9))
        weight = mask if masked else None
        expected = -float(similarity.lncc_loss(a, similarity.local_reference(b, 4, 1e-9, weight)))
        found = measures.lncc(a[0, 0].numpy(), b[0, 0].numpy(), mask[0, 0].numpy() if masked else None, window=9)
        assert found == pytest.approx(expected, abs=1e-5)

    def test_lncc_is_blind_to_gain_offset_and_sign(self) -> None:
        a, b, _ = smooth_pair((9, 10, 11), 2)
        expected = measures.lncc(a, b)
        assert measures.lncc(a, 1000 - 3 * b) == pytest.approx(expected, abs=1e-4)
        assert measures.lncc(a, a) == pytest.approx(1, abs=1e-9)

    def test_lncc_leaves_flat_windows_out(self) -> None:
        wide = [np.pad(v, 4, constant_values=-1024.0) for v in smooth_pair((5, 6, 7), 4)[:2]]
        everywhere = np.ones(wide[0].shape, bool)
        moments = windows(*wide, everywhere, 1, np.ones(3))
        each = [cov**2 / (va * vb) for _, _, va, vb, cov in moments if va > 1e-6 and vb > 1e-6]
        assert len(each) < len(moments) / 2
        assert measures.lncc(*wide, window=3) == pytest.approx(np.mean(each), abs=1e-5)
        frame = everywhere.copy()
        frame[4:-4, 4:-4, 4:-4] = False
        assert np.isnan(measures.lncc(*wide, frame, window=3))

    def test_slabs_do_not_show(self, monkeypatch: pytest.MonkeyPatch) -> None:
        a, b, mask = smooth_pair((23, 9, 10), 8)
        whole = measures.ssim(a, b, mask), measures.lncc(a, b, mask), measures.ssim(a, b)
        monkeypatch.setattr(measures, "_SLAB_VOXELS", 4 * 90)
        assert (measures.ssim(a, b, mask), measures.lncc(a, b, mask), measures.ssim(a, b)) == pytest.approx(
            whole, abs=1e-9
        )

    def test_nmse(self) -> None:
        b = np.array([3.0, 4.0, 0.0])
        assert measures.nmse(b + [0, 0, 5], b) == pytest.approx(1.0)
        assert measures.nmse(b + [0, 0, 5], b, np.array([True, True, False])) == 0.0
        assert np.isnan(measures.nmse(b, np.zeros(3)))

    def test_ncc_against_numpy(self) -> None:
        a, b, mask = smooth_pair((5, 6, 7), 1)
        assert measures.ncc(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
        assert measures.ncc(a, b, mask) == pytest.approx(np.corrcoef(a[mask], b[mask])[0, 1])
        assert np.isnan(measures.ncc(a, np.ones_like(a)))
        assert np.isnan(measures.ncc(a, b, np.zeros(a.shape, bool)))

    def test_mutual_information_of_known_distributions(self) -> None:
        values = np.repeat(np.arange(4.0), 25)
        assert measures.mutual_information(values, -values) == pytest.approx(np.log(4))
        a, b = np.meshgrid(np.arange(8.0), np.arange(8.0))
        assert measures.mutual_information(a, b) == pytest.approx(0, abs=1e-12)
        # Two coins that agree three times out of four.
        x, y = np.array([0, 0, 0, 0, 1, 1, 1, 1.0]), np.array([0, 0, 0, 1, 1, 1, 1, 0.0])
        joint = np.array([3, 1, 1, 3]) / 8
        assert measures.mutual_information(x, y) == pytest.approx((joint * np.log(joint / 0.25)).sum())
        assert np.isnan(measures.mutual_information(a, np.ones_like(a)))

    @given(seeds, st.floats(0.2, 5), st.floats(-500, 500))
    def test_nothing_written_to_the_inputs(self, seed: int, gain: float, offset: float) -> None:
        a, b, mask = smooth_pair((5, 6, 7), seed)
        a, b = (gain * a + offset).astype(np.float32), b.astype(np.float32)
        kept = a.copy(), b.copy(), mask.copy()
        for measure in (measures.nmse, measures.ncc, measures.mutual_information, measures.ssim, measures.lncc):
            measure(a, b, mask)
        for before, now in zip(kept, (a, b, mask)):
            np.testing.assert_array_equal(before, now)


def test_distances_know_the_spacing_of_a_file(tmp_path) -> None:
    """Through SimpleITK and back: two single voxels, 3 slices of 5 mm apart."""
    image = sitk.Image([6, 6, 8], sitk.sitkUInt8)
    image.SetSpacing((1, 1, 5))
    sitk.WriteImage(image, str(tmp_path / "m.nrrd"))
    grid = Grid.of(sitk.ReadImage(str(tmp_path / "m.nrrd")))
    a, b = np.zeros(grid.shape, bool), np.zeros(grid.shape, bool)
    a[2, 3, 3], b[5, 3, 3] = True, True
    assert measures.hd95(a, b, grid) == pytest.approx(15.0)
