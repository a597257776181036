"""The working grid, folding and the pair optimisation itself, on images whose true deformation is known."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from geometries import random_direction, random_grid, seeds, smooth_field
from hypothesis import given, settings

from CycleRegLib.errors import Cancelled
from CycleRegLib.fields import DisplacementField
from CycleRegLib.geometry import Grid
from CycleRegLib.optimize import (
    Settings,
    corner_determinants,
    mend_folding,
    optimize_pair,
    round_trip_error,
)
from CycleRegLib.working_grid import WorkingGrid, noise_variance, robust_range

EYE = np.eye(4)


def textured(points: np.ndarray, seed: int = 0, noise: float = 0.0) -> np.ndarray:
    """A solid with structure at several scales, as a function of position (LPS mm, about the origin)."""
    rng = np.random.default_rng(seed)
    radius = np.linalg.norm(points / np.array([38.0, 32.0, 34.0]), axis=-1)
    value = np.zeros(points.shape[:-1])
    for _ in range(14):
        k = rng.normal(size=3)
        k *= 2 * np.pi / rng.uniform(14, 45) / np.linalg.norm(k)
        value += np.sin(points @ k + rng.uniform(0, 6.28))
    return (100 + 22 * value) / (1 + np.exp((radius - 1) * 25)) + noise * rng.normal(size=value.shape)


def known_pair(grid: Grid, amplitude_mm: float, noise: float = 0.0, invert: bool = False, matrix: np.ndarray = EYE):
    """Fixed and moving image and the true map of fixed points; the moving image has another grid and contrast."""
    field = smooth_field(grid, 5, amplitude_mm, waves=1.6)

    def to_moving(points: np.ndarray) -> np.ndarray:
        moved = points + field.displacement_at(points.reshape(-1, 3)).reshape(points.shape)
        return moved @ matrix[:3, :3].T + matrix[:3, 3]

    back = np.linalg.inv(matrix)
    moving_grid = Grid((44, 40, 42), (2.3, 2.4, 2.2), (-50, -47, -45), tuple(np.eye(3).ravel()))
    moved = moving_grid.points() @ back[:3, :3].T + back[:3, 3]
    moving = textured(moved, noise=noise)
    fixed = textured(grid.points() + field.vectors, noise=noise)
    if invert:
        moving = 300 - 0.7 * moving
    return grid.image(fixed.astype(np.float32)), moving_grid.image(moving.astype(np.float32)), to_moving


def centred_grid(seed: int = 0, spacing: tuple = (2.2, 2.0, 2.6), size: tuple = (44, 44, 36)) -> Grid:
    direction = random_direction(np.random.default_rng(seed))
    origin = -direction @ ((np.array(size) - 1) / 2 * np.array(spacing))
    return Grid(size, spacing, tuple(origin), tuple(direction.ravel()))


def inner_points(count: int = 300) -> np.ndarray:
    points = np.random.default_rng(9).uniform(-1, 1, (count * 3, 3)) * np.array([30, 25, 27])
    return points[np.linalg.norm(points / np.array([30, 25, 27]), axis=1) < 1][:count]


@pytest.mark.parametrize("invert", [False, True])
def test_a_known_deformation_is_found_in_both_directions(invert: bool) -> None:
    """Oblique, left-handed fixed grid; another moving grid; noise; inverted contrast."""
    fixed, moving, to_moving = known_pair(centred_grid(3), 7.0, noise=3.0, invert=invert)
    domain = WorkingGrid(fixed, moving, EYE)
    forward, backward, _ = optimize_pair(domain)
    points = inner_points()
    before = np.linalg.norm(to_moving(points) - points, axis=1)
    error = np.linalg.norm(forward.transform_points(points) - to_moving(points), axis=1)
    assert before.mean() > 3.0
    assert error.mean() < 0.6
    reverse = np.linalg.norm(backward.transform_points(to_moving(points)) - points, axis=1)
    assert reverse.mean() < 0.7
    assert (forward.jacobian_determinant() > 0).all()
    assert np.nanmean(forward.round_trip(backward)) < 0.6


def test_the_affine_map_is_part_of_the_result() -> None:
    matrix = np.eye(4)
    angle = np.deg2rad(10)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, :3] *= 0.95
    matrix[:3, 3] = [6, -5, 4]
    fixed, moving, to_moving = known_pair(centred_grid(1), 5.0, noise=2.0, matrix=matrix)
    forward, backward, _ = optimize_pair(WorkingGrid(fixed, moving, matrix))
    points = inner_points()
    assert np.linalg.norm(forward.transform_points(points) - to_moving(points), axis=1).mean() < 0.7
    assert np.linalg.norm(backward.transform_points(to_moving(points)) - points, axis=1).mean() < 0.8
    assert forward.grid == Grid.of(fixed)
    assert backward.grid == Grid.of(moving)


def test_equal_images_stay_where_they_are() -> None:
    fixed, _, _ = known_pair(centred_grid(2), 0.01)
    forward, _, _ = optimize_pair(WorkingGrid(fixed, fixed, EYE))
    drift = np.linalg.norm(forward.displacement_at(inner_points()), axis=1)
    # Voxels are 2.0 to 2.6 mm: a twentieth of one in the mean.
    assert drift.mean() < 0.1
    assert drift.max() < 0.3


def test_a_start_is_taken_up_as_it_is() -> None:
    fixed, moving, to_moving = known_pair(centred_grid(4), 7.0, noise=2.0)
    domain = WorkingGrid(fixed, moving, EYE)
    points = inner_points()
    truth = DisplacementField(
        (to_moving(Grid.of(fixed).points()) - Grid.of(fixed).points()).astype(np.float32), Grid.of(fixed)
    )
    start = truth, truth.inverse(Grid.of(moving)).field
    one_step = Settings(stages=tuple(replace(s, steps=1, rate=1e-6) for s in Settings().stages[1:]))
    kept, back, _ = optimize_pair(domain, one_step, start)
    assert np.linalg.norm(kept.transform_points(points) - to_moving(points), axis=1).mean() < 0.15
    assert np.linalg.norm(back.transform_points(to_moving(points)) - points, axis=1).mean() < 0.15


def test_masks_are_respected() -> None:
    """Half of the moving image is replaced by something else; with a mask it does not pull."""
    grid = centred_grid(5)
    fixed, moving, to_moving = known_pair(grid, 5.0, noise=2.0)
    moving_grid = Grid.of(moving)
    array = sitk.GetArrayFromImage(moving)
    spoiled = moving_grid.points()[..., 0] > 8
    rng = np.random.default_rng(0)
    array[spoiled] = sitk.GetArrayFromImage(
        sitk.DiscreteGaussian(moving_grid.image(rng.normal(100, 400, array.shape)), 9.0)
    )[spoiled]
    bad = moving_grid.image(array)
    mask = moving_grid.image((~spoiled).astype(np.uint8))
    points = inner_points()
    keep = to_moving(points)[:, 0] < 4
    errors = {}
    for name, moving_mask in (("with", mask), ("without", None)):
        forward, _, _ = optimize_pair(WorkingGrid(fixed, bad, EYE, moving_mask=moving_mask))
        errors[name] = np.linalg.norm(forward.transform_points(points) - to_moving(points), axis=1)[keep].mean()
    assert errors["with"] < 0.8
    assert errors["with"] < errors["without"]


def test_what_the_mask_hides_changes_nothing() -> None:
    grid = centred_grid(6)
    fixed, moving, _ = known_pair(grid, 4.0)
    hidden = Grid.of(fixed).points()[..., 2] > 10
    mask = Grid.of(fixed).image((~hidden).astype(np.uint8))
    other = sitk.GetArrayFromImage(fixed)
    other[hidden] = np.clip(other[hidden] * -0.5 + 160, 0, 150)
    short = Settings(stages=tuple(replace(s, steps=4) for s in Settings().stages[1:]))
    found = [
        optimize_pair(WorkingGrid(image, moving, EYE, fixed_mask=mask), short)[0].transform_points(inner_points())
        for image in (fixed, grid.image(other))
    ]
    seen = inner_points()[:, 2] < 4
    # Hidden intensities may shift the scaling of the whole image by a hair, never the shape that is matched.
    assert np.abs(found[0] - found[1])[seen].mean() < 0.05


def test_progress_rises_and_can_cancel() -> None:
    fixed, moving, _ = known_pair(centred_grid(7), 3.0)
    domain = WorkingGrid(fixed, moving, EYE)
    seen: list[float] = []
    optimize_pair(domain, progress=lambda stage, fraction: seen.append(fraction))
    assert seen == sorted(seen)
    assert 0 <= seen[0] < 0.05
    assert 0.9 < seen[-1] <= 1

    def stop(stage: str, fraction: float) -> None:
        if fraction > 0.3:
            raise Cancelled

    with pytest.raises(Cancelled):
        optimize_pair(domain, progress=stop)


def test_results_are_the_same_every_time() -> None:
    fixed, moving, _ = known_pair(centred_grid(8), 4.0, noise=2.0)
    short = Settings(stages=Settings().stages[:2])
    first, second = (optimize_pair(WorkingGrid(fixed, moving, EYE), short)[0].vectors for _ in range(2))
    np.testing.assert_array_equal(first, second)


@given(seeds)
@settings(max_examples=8)
def test_fields_survive_the_way_through_the_working_grid(seed: int) -> None:
    """Into the box's own axes and back out, with an affine map, on any geometry."""
    rng = np.random.default_rng(seed)
    grid = random_grid(seed, low=16, high=24)
    fixed = grid.image(rng.uniform(50, 100, grid.shape).astype(np.float32))
    matrix = np.eye(4)
    matrix[:3, :3] += rng.normal(0, 0.08, (3, 3))
    matrix[:3, 3] = grid.center - matrix[:3, :3] @ grid.center + rng.uniform(-1, 1, 3)
    domain = WorkingGrid(fixed, fixed, matrix)
    truth = smooth_field(grid, seed, 3.0)
    forward = DisplacementField.from_matrix(matrix, grid)
    forward = DisplacementField(forward.vectors + truth.vectors @ matrix[:3, :3].T.astype(np.float32), grid)
    backward = forward.inverse(grid).field
    inner = domain.from_fields(forward, backward, domain.levels[0].shape)
    found, back = domain.to_fields(inner)
    middle = (slice(4, -4),) * 3
    np.testing.assert_allclose(found.vectors[middle], forward.vectors[middle], atol=0.12)
    center = grid.center[None]
    np.testing.assert_allclose(back.transform_points(center), backward.transform_points(center), atol=0.15)


def test_anisotropic_voxels_are_pooled_until_they_are_equal() -> None:
    grid = Grid((64, 64, 16), (1.0, 1.0, 4.0), (0, 0, 0), np.eye(3).ravel())
    image = grid.image(np.random.default_rng(0).uniform(1, 2, grid.shape).astype(np.float32))
    domain = WorkingGrid(image, image, EYE)
    assert domain.pooling[0] == (1, 2, 2)
    assert domain.levels[0].spacing_mm == pytest.approx((4, 1, 1))
    assert domain.levels[-1].spacing_mm == pytest.approx((4, 4, 4))


def test_large_volumes_are_worked_on_within_the_limit() -> None:
    grid = Grid((80, 80, 80), (1, 1, 1), (0, 0, 0), np.eye(3).ravel())
    image = grid.image(np.random.default_rng(0).uniform(1, 2, grid.shape).astype(np.float32))
    domain = WorkingGrid(image, image, EYE, max_voxels=60_000)
    assert np.prod(domain.grid.size) < 1.4 * 60_000
    forward, _ = domain.to_fields(torch.zeros(2, 3, *[s // 2 for s in domain.grid.shape]))
    assert forward.grid == grid


def test_empty_background_is_cropped_and_the_working_grid_stays_on_the_voxels() -> None:
    grid = Grid((96, 96, 96), (1, 1, 1), (5, 6, 7), np.eye(3).ravel())
    array = np.zeros(grid.shape, np.float32)
    array[40:60, 40:60, 40:60] = np.random.default_rng(0).uniform(50, 100, (20, 20, 20))
    domain = WorkingGrid(grid.image(array), grid.image(array), EYE)
    assert np.prod(domain.grid.size) < 0.25 * 96**3
    index = grid.to_index(domain.grid.to_world(np.zeros(3)))
    np.testing.assert_allclose(index, np.round(index), atol=1e-6)


def test_noise_is_measured_white_and_smooth() -> None:
    rng = np.random.default_rng(0)
    points = np.stack(np.meshgrid(*[np.arange(48.0)] * 3, indexing="ij"), -1)
    clean = 0.5 + 0.2 * (points[..., 0] > 24) + 0.1 * np.sin(points[..., 1] / 9)
    white = rng.normal(0, 0.03, clean.shape)
    smooth = sitk.GetArrayFromImage(sitk.DiscreteGaussian(sitk.GetImageFromArray(white), 0.7))
    ones = torch.ones(1, 1, *clean.shape)
    for noise in (white, smooth * 0.02 / smooth.std()):
        found = float(noise_variance(torch.from_numpy(clean + noise)[None, None].float(), ones))
        assert 0.2 * noise.var() < found < 1.2 * noise.var()


def test_robust_range_ignores_a_few_wild_voxels() -> None:
    array = np.random.default_rng(0).uniform(0, 100, (60, 60, 60))
    array[0, 0, :5] = 1e6
    low, high = robust_range(array)
    assert -1 < low < 1
    assert 99 < high < 101


def folded(shape: tuple = (2, 3, 12, 12, 12)) -> torch.Tensor:
    """A displacement (mm, 1 mm points) that crosses itself in the middle."""
    x = torch.zeros(shape)
    x[:, 0, 5:7, 5:7, 5] = 2.5
    x[:, 0, 5:7, 5:7, 6] = -2.5
    return x


class _OneMillimetre:
    """The part of a working grid that mending asks for: points of 1 mm."""

    def control_grid(self, shape: tuple) -> Grid:
        return Grid(shape[::-1], (1, 1, 1), (0, 0, 0), np.eye(3).ravel())


def test_folding_is_mended_and_what_does_not_fold_is_left_alone() -> None:
    field = folded()
    assert corner_determinants(field, [1, 1, 1]).min() < 0
    mended, rounds = mend_folding(field, _OneMillimetre(), 0.05)
    assert rounds > 0
    assert corner_determinants(mended, [1, 1, 1]).min() >= 0.05
    assert float((mended - field)[..., 0, 0, :].abs().max()) < 1e-6
    own = DisplacementField(mended[0].movedim(0, -1).numpy(), _OneMillimetre().control_grid((12, 12, 12)))
    assert own.jacobian_determinant().min() > 0
    fine = own.resampled(own.grid.with_size((36, 36, 36)))
    assert fine.jacobian_determinant().min() > 0
    good = 0.1 * torch.randn(2, 3, 8, 8, 8)
    assert mend_folding(good, _OneMillimetre(), 0.05)[0] is good


@given(seeds)
def test_corner_determinants_bound_the_determinant_everywhere(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = 0.25 * torch.randn(1, 3, 5, 5, 5, generator=generator)
    own = DisplacementField(x[0].movedim(0, -1).numpy(), _OneMillimetre().control_grid((5, 5, 5)))
    # Slow reference: eight one-sided stencils at every inner point.
    v = own.vectors.astype(np.float64)
    for index in np.ndindex(3, 3, 3):
        z, y, xx = (i + 1 for i in index)
        dets = []
        for signs in np.ndindex(2, 2, 2):
            columns = []
            for axis, s in zip((2, 1, 0), signs):
                step = np.zeros(3, int)
                step[axis] = 1 if s else -1
                near = tuple(np.array([z, y, xx]) + step)
                columns.append((v[near] - v[z, y, xx]) * (1 if s else -1))
            dets.append(np.linalg.det(np.eye(3) + np.stack(columns, 1)))
        cells = corner_determinants(x, [1, 1, 1])[0, z - 1 : z + 1, y - 1 : y + 1, xx - 1 : xx + 1]
        assert float(cells.min()) <= min(dets) + 1e-5


def test_round_trip_error_is_zero_for_inverse_shifts() -> None:
    grid = Grid((16, 16, 16), (2, 2, 2), (0, 0, 0), np.eye(3).ravel())
    image = grid.image(np.random.default_rng(0).uniform(1, 2, grid.shape).astype(np.float32))
    domain = WorkingGrid(image, image, EYE)
    shift = torch.zeros(2, 3, 8, 8, 8)
    shift[0, 1], shift[1, 1] = 1.5, -1.5
    assert float(round_trip_error(shift, domain)) == pytest.approx(0, abs=1e-9)
    shift[1, 1] = 0
    assert float(round_trip_error(shift, domain)) == pytest.approx(1.5**2, rel=1e-5)
