"""Splines and motion of synthetic pairs: what is promised about smoothness, bounds, directions and compositions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from scipy.ndimage import map_coordinates

from cyclereg_training.synthetic.chance import Chance, mixed
from cyclereg_training.synthetic.motion import inside, random_motion
from cyclereg_training.synthetic.settings import MotionSettings
from cyclereg_training.synthetic.splines import along_axes, basis, cubic, refining, smooth_noise

SHAPE = (40, 48, 44)
MAP_SHAPE = (48, 56, 52)


def points_of(shape: tuple[int, ...]) -> np.ndarray:
    return np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")).astype(np.float64)


def interpolated(field: np.ndarray, at: np.ndarray) -> np.ndarray:
    return np.stack([map_coordinates(channel, at, order=1, mode="nearest") for channel in field])


# ---------------------------------------------------------------------- chance and splines


def test_neighbouring_seeds_and_orders_give_unrelated_series():
    seeds = {mixed(a, b) for a in range(60) for b in range(60)}
    assert len(seeds) == 3600
    assert max(seeds) < 2**32
    first, second = (Chance(seed).normal(20000) for seed in (5, 6))
    assert abs(float((first * second).mean())) < 0.03


def test_a_chance_from_a_generator_follows_it():
    def draw() -> tuple[float, torch.Tensor]:
        chance = Chance.from_generator(torch.Generator().manual_seed(3))
        return chance.uniform(2, 5), chance.normal(4)

    (first, many), (again, same) = draw(), draw()
    assert first == again
    assert 2 <= first <= 5
    assert torch.equal(many, same)


def test_log_uniform_draws_have_their_median_at_the_geometric_mean():
    chance = Chance(1)
    values = np.array([chance.log_uniform(0.01, 1.0) for _ in range(2000)])
    assert values.min() >= 0.0099
    assert values.max() <= 1.001
    assert np.median(values) == pytest.approx(0.1, rel=0.15)


def test_the_cubic_is_scipys_b_spline():
    at = np.linspace(-2.5, 2.5, 101)
    expected = np.nan_to_num(BSpline.basis_element([-2, -1, 0, 1, 2], extrapolate=False)(at))
    np.testing.assert_allclose(cubic(torch.from_numpy(at)).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("length", "spacing", "phase"), [(20, 3.7, 0.2), (33, 1.0, 0.99), (16, 40.0, 0.6)])
def test_every_row_of_the_basis_has_all_its_splines_and_norm_one(length, spacing, phase):
    rows = basis(length, spacing, phase)
    assert torch.allclose(rows.square().sum(1), torch.ones(length), atol=1e-5)
    # Before normalisation splines sum to one wherever none is missing at the ends.
    at = torch.arange(length) / spacing + phase
    values = cubic(at[:, None] - (torch.arange(rows.shape[1]) - 1))
    assert torch.allclose(values.sum(1), torch.ones(length), atol=1e-5)


def test_axes_are_multiplied_each_by_its_own_matrix():
    field = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    matrices = [torch.randn(n, m, generator=torch.Generator().manual_seed(n)) for n, m in ((6, 3), (7, 4), (8, 5))]
    expected = torch.einsum("cijk,ai,bj,dk->cabd", field, *matrices)
    assert torch.allclose(along_axes(field, matrices), expected, atol=1e-4)


def test_refinement_keeps_lines_everywhere_and_parabolas_inside():
    matrix = refining(9, 17)
    coarse, fine = torch.linspace(0, 1, 9), torch.linspace(0, 1, 17)
    assert torch.allclose(matrix @ coarse, fine, atol=1e-6)
    assert torch.allclose((matrix @ coarse.square())[2:-2], fine.square()[2:-2], atol=1e-6)
    assert torch.allclose(matrix[::2], torch.eye(9), atol=1e-6)


def test_noise_has_variance_one_and_the_smoothness_asked_for():
    chance = Chance(2)
    rough, smooth = (torch.stack([smooth_noise(chance, (30, 30, 30), s, 4) for _ in range(6)]) for s in (4.0, 8.0))
    for field in (rough, smooth):
        assert abs(float(field.mean())) < 0.12
        assert float(field.var()) == pytest.approx(1.0, abs=0.2)
    ratio = float(rough.diff(dim=-1).std() / smooth.diff(dim=-1).std())
    assert ratio == pytest.approx(2.0, rel=0.15)


# ---------------------------------------------------------------------- motion


@pytest.fixture(scope="module")
def motions():
    return [random_motion(Chance(seed), SHAPE, MAP_SHAPE, MotionSettings()) for seed in range(12)]


def test_both_directions_undo_each_other_to_less_than_a_tenth_of_a_voxel(motions):
    for motion in motions:
        for first, second in ((motion.flow, motion.inverse), (motion.inverse, motion.flow)):
            a, b = first[0].double().numpy(), second[0].double().numpy()
            error = np.linalg.norm(a + interpolated(b, points_of(SHAPE) + a), axis=0)[inside(first)[0, 0].numpy()]
            assert error.mean() < 0.03
            assert np.quantile(error, 0.98) < 0.1


def test_the_places_of_the_two_images_in_the_label_map_differ_by_the_field(motions):
    for motion in motions:
        fixed, moving = (p[0].movedim(-1, 0).double().numpy() for p in (motion.fixed_places, motion.moving_places))
        flow = motion.flow[0].double().numpy()
        error = np.linalg.norm(interpolated(moving, points_of(SHAPE) + flow) - fixed, axis=0)
        known = error[inside(motion.flow)[0, 0].numpy()]
        assert known.mean() < 0.03
        assert np.quantile(known, 0.98) < 0.1


def test_fields_do_not_fold(motions):
    folded = total = 0
    for motion in motions:
        for flow in (motion.flow, motion.inverse):
            mapped = points_of(SHAPE) + flow[0].double().numpy()
            jacobian = np.stack([np.stack(np.gradient(channel)) for channel in mapped])
            determinant = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)))
            folded, total = folded + (determinant <= 0).sum(), total + determinant.size
    assert folded < 1e-3 * total


def test_displacements_keep_the_bound_and_range_from_small_to_large():
    settings = MotionSettings(affine=0.0)
    side = sum(SHAPE) / 3
    largest = []
    for seed in range(40):
        motion = random_motion(Chance(seed), SHAPE, MAP_SHAPE, settings)
        largest.append(max(float(f.norm(dim=1).max()) for f in (motion.flow, motion.inverse)) / side)
    assert max(largest) < 0.2 * 1.1
    assert min(largest) < 0.04
    assert max(largest) > 0.12


def test_without_bands_the_field_is_affine_within_its_ranges_and_so_is_the_inverse():
    settings = MotionSettings(bands=(), affine=1.0, rotation_degrees=10.0, scaling=0.1, shear=0.0, shift=0.05)
    center = (np.array(SHAPE) - 1) / 2
    for seed in range(5):
        motion = random_motion(Chance(seed), SHAPE, MAP_SHAPE, settings)
        points = (points_of(SHAPE).reshape(3, -1).T - center) @ np.eye(3)
        design = np.column_stack([points, np.ones(len(points))])
        matrices = []
        for flow in (motion.flow, motion.inverse):
            target = points + flow[0].double().numpy().reshape(3, -1).T
            solution, *_ = np.linalg.lstsq(design, target, rcond=None)
            np.testing.assert_allclose(design @ solution, target, atol=2e-3)
            matrices.append(np.vstack([solution.T, [0, 0, 0, 1]]))
        np.testing.assert_allclose(matrices[0] @ matrices[1], np.eye(4), atol=2e-3)
        forward = min(matrices, key=lambda m: np.abs(m[:3, 3]).max())
        assert np.abs(forward[:3, 3]).max() <= 0.05 * sum(SHAPE) / 3 + 1e-3
        scales = np.linalg.svd(forward[:3, :3])[1]
        assert scales.min() > 1 / 1.1001
        assert scales.max() < 1.1001


def test_neither_image_is_an_unwarped_copy_of_the_label_map(motions):
    for motion in motions:
        for places in (motion.fixed_places, motion.moving_places):
            on_lattice = ((places - places.round()).abs() < 1e-3).float().mean()
            assert on_lattice < 0.05


def test_points_that_leave_the_grid_are_known_to_have_left():
    flow = torch.zeros(1, 3, 4, 5, 6)
    flow[:, 1] = 1.5
    expected = torch.zeros(1, 1, 4, 5, 6, dtype=torch.bool)
    expected[:, :, :, :3] = True
    assert torch.equal(inside(flow), expected)
