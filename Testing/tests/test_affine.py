"""The affine stage finds maps that are known, on images made here; its parts agree with independent computations."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from geometries import random_direction, random_grid, smooth_vectors
from scipy.ndimage import gaussian_filter, uniform_filter
from scipy.spatial.transform import Rotation

from CycleRegLib.affine import register_affine
from CycleRegLib.affine_refine import LocalCorrelation, basis_of, box_sum, central_gradient, refine
from CycleRegLib.affine_starts import (
    MutualInformation,
    Volume,
    foreground_of,
    principal_axes,
    rotation,
    shrink,
    volume_of,
)
from CycleRegLib.errors import Cancelled, InputError
from CycleRegLib.geometry import Grid

SPACING = 3.0


def anatomy(seed: int) -> tuple[sitk.Image, sitk.Image]:
    """A textured body with twenty organs (float32, background 0), and its foreground."""
    rng = np.random.default_rng(seed)
    grid = Grid((74, 66, 70), (SPACING,) * 3, (-110.0, -98.0, -104.0), tuple(np.eye(3).ravel()))
    points = grid.points()
    body = np.sum((points / [90.0, 75.0, 84.0]) ** 2, axis=-1) < 1
    values = 60 + 25 * gaussian_filter(rng.normal(size=grid.shape), 2.0) / 0.06
    for _ in range(20):
        center, radii = rng.uniform(-60, 60, 3), rng.uniform(9, 28, 3)
        turned = (points - center) @ random_direction(rng)
        values[np.sum((turned / radii) ** 2, axis=-1) < 1] += rng.uniform(-50, 90)
    values = np.where(body, np.clip(values, 20, None), 0)
    return grid.image(gaussian_filter(values, 0.6).astype(np.float32)), grid.image(body)


def affine(rng: np.random.Generator, degrees: float, shift: float, scales: np.ndarray) -> np.ndarray:
    """A (4, 4) map about the world's origin: scaled, turned about a random axis, shifted in a random direction."""
    axis, direction = rng.normal(size=3), rng.normal(size=3)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * axis / np.linalg.norm(axis)).as_matrix() @ np.diag(
        scales
    )
    matrix[:3, 3] = shift * direction / np.linalg.norm(direction)
    return matrix


def as_transform(matrix: np.ndarray) -> sitk.AffineTransform:
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    return transform


def moved(image: sitk.Image, truth: np.ndarray, grid: Grid | None = None) -> sitk.Image:
    """The moving image whose point truth(p) shows what ``image`` shows at p, on ``grid`` (default: the same)."""
    reference = (grid or Grid.of(image)).empty_image()
    return sitk.Resample(image, reference, as_transform(np.linalg.inv(truth)), sitk.sitkLinear, 0.0)


def mean_error(found: np.ndarray, truth: np.ndarray, foreground: sitk.Image, moving: sitk.Image) -> float:
    """Mean |found p - truth p| (mm) over the foreground that ``moving`` shows."""
    points = Grid.of(foreground).points()[sitk.GetArrayFromImage(foreground) > 0]
    there = points @ truth[:3, :3].T + truth[:3, 3]
    inside = Grid.of(moving).contains(there)
    here = points @ found[:3, :3].T + found[:3, 3]
    return float(np.linalg.norm(here - there, axis=1)[inside].mean())


@pytest.fixture(scope="module")
def body() -> tuple[sitk.Image, sitk.Image]:
    return anatomy(3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_recovers_rotation_of_20_degrees_shift_of_60_mm_and_scales(body, seed):
    rng = np.random.default_rng(seed)
    truth = affine(rng, 20, 60, rng.choice([0.85, 1.15], 3))
    moving = moved(body[0], truth)
    result = register_affine(body[0], moving)
    assert mean_error(result.matrix, truth, body[1], moving) < 0.15 * SPACING
    assert result.similarity_after > 0.5 > result.similarity_before
    point = (12.0, -30.0, 44.0)
    assert np.allclose(result.transform.TransformPoint(point), (result.matrix @ [*point, 1])[:3], atol=1e-9)


def test_recovers_under_inverted_contrast_and_noise(body):
    rng = np.random.default_rng(5)
    truth = affine(rng, 15, 40, np.array([0.9, 1.1, 1.0]))
    array = sitk.GetArrayFromImage(body[0])
    inverted = np.where(array > 10, 220 - array + 0.002 * array**2, 0).astype(np.float32)
    moving = moved(Grid.of(body[0]).image(inverted), truth)
    noise = rng.normal(0, 8, inverted.shape).astype(np.float32)
    moving = Grid.of(moving).image(sitk.GetArrayFromImage(moving) + noise)
    result = register_affine(body[0], moving)
    assert mean_error(result.matrix, truth, body[1], moving) < 0.5 * SPACING


@pytest.mark.parametrize("cut", ["moving", "fixed"])
def test_recovers_when_one_image_shows_half_of_the_other(body, cut):
    truth = affine(np.random.default_rng(8), 14, 30, np.array([1.1, 0.95, 1.0]))
    fixed, foreground, moving = body[0], body[1], moved(body[0], truth)
    half = moving.GetSize()[2] // 2
    if cut == "moving":
        moving = moving[:, :, half:]
    else:
        fixed, foreground = fixed[:, :, :half], foreground[:, :, :half]
    result = register_affine(fixed, moving)
    assert mean_error(result.matrix, truth, foreground, moving) < 0.2 * SPACING


def test_rigid_mode_gives_an_exact_rotation(body):
    truth = affine(np.random.default_rng(11), 18, 35, np.ones(3))
    moving = moved(body[0], truth)
    result = register_affine(body[0], moving, mode="rigid")
    linear = result.matrix[:3, :3]
    assert np.abs(linear.T @ linear - np.eye(3)).max() < 1e-12
    assert np.linalg.det(linear) == pytest.approx(1, abs=1e-12)
    assert mean_error(result.matrix, truth, body[1], moving) < 0.15 * SPACING
    # an initial transform that scales cannot make the result scale
    scaled = register_affine(body[0], moving, mode="rigid", initial=as_transform(np.diag([1.2, 1.2, 1.2, 1.0])))
    linear = scaled.matrix[:3, :3]
    assert np.abs(linear.T @ linear - np.eye(3)).max() < 1e-12
    assert mean_error(scaled.matrix, truth, body[1], moving) < 0.15 * SPACING


def test_masks_choose_which_of_two_bodies_is_aligned(body):
    small = sitk.BinShrink(body[0], [2, 2, 2])
    one, other = sitk.GetArrayFromImage(small), sitk.GetArrayFromImage(sitk.BinShrink(anatomy(4)[0], [2, 2, 2]))
    grid = Grid((*small.GetSize()[:2], 2 * small.GetSize()[2]), (3.0,) * 3, (0.0,) * 3, tuple(np.eye(3).ravel()))
    depth = small.GetSize()[2]
    fixed = grid.image(np.concatenate([one, other]))
    moving = grid.image(np.concatenate([np.roll(one, 5, axis=2), np.roll(other, -5, axis=1)]))
    for part, shift in ((slice(0, depth), (15.0, 0, 0)), (slice(depth, None), (0, -15.0, 0))):
        array = np.zeros(grid.shape, dtype=np.uint8)
        array[part] = 1
        mask = grid.image(array)
        coarse = sitk.Resample(
            mask, grid.with_spacing([6.0] * 3).empty_image(), sitk.Transform(), sitk.sitkNearestNeighbor
        )
        for masks in ({"fixed_mask": mask}, {"moving_mask": coarse}):
            result = register_affine(fixed, moving, **masks)
            truth = np.eye(4)
            truth[:3, 3] = shift
            error = mean_error(result.matrix, truth, grid.image(array * (sitk.GetArrayFromImage(fixed) > 10)), moving)
            assert error < 0.3 * 3.0, masks.keys()


@pytest.mark.parametrize("seed", [0, 1])
def test_recovers_between_oblique_left_handed_anisotropic_grids_far_apart(body, seed):
    rng = np.random.default_rng(seed)
    truth = affine(rng, 12, 0, np.array([1.05, 0.95, 1.0]))
    truth[:3, 3] = [3000.0, -5000.0, 800.0]

    def grid_about(center: np.ndarray, spacing: tuple[float, ...], mirrored: bool) -> Grid:
        direction = random_direction(rng, mirrored=mirrored)
        size = tuple(int(300 / s) for s in spacing)
        origin = center - direction @ ((np.array(size) - 1) / 2 * np.array(spacing))
        return Grid(size, spacing, tuple(origin), tuple(direction.ravel()))

    fixed_grid = grid_about(np.zeros(3), (2.5, 2.5, 6.0), mirrored=seed == 0)
    moving_grid = grid_about(truth[:3, 3] + 15, (3.0, 5.0, 2.0), mirrored=True)
    fixed = sitk.Resample(body[0], fixed_grid.empty_image(), sitk.Transform(), sitk.sitkLinear, 0.0)
    moving = moved(body[0], truth, moving_grid)
    result = register_affine(fixed, moving)
    assert mean_error(result.matrix, truth, body[1], moving) < 0.3 * SPACING


def test_aligned_images_stay_where_they_are(body):
    result = register_affine(body[0], body[0])
    assert mean_error(result.matrix, np.eye(4), body[1], body[0]) < 1e-3
    noise = np.random.default_rng(0).normal(0, 5, Grid.of(body[0]).shape).astype(np.float32)
    noisy = Grid.of(body[0]).image(sitk.GetArrayFromImage(body[0]) + noise)
    result = register_affine(body[0], noisy)
    assert mean_error(result.matrix, np.eye(4), body[1], body[0]) < 0.03 * SPACING


def test_a_deformation_is_met_by_its_nearest_affine_map(body):
    grid = Grid.of(body[0])
    vectors = smooth_vectors(grid, 6, amplitude_mm=12.0, waves=1.5)
    warp = sitk.DisplacementFieldTransform(sitk.Cast(grid.image(vectors), sitk.sitkVectorFloat64))
    fixed = sitk.Resample(body[0], body[0], warp, sitk.sitkLinear, 0.0)
    result = register_affine(fixed, body[0])
    inside = sitk.GetArrayFromImage(fixed) > 10
    points, shifts = grid.points()[inside], vectors[inside]
    design = np.c_[points, np.ones(len(points))]
    nearest = design @ np.linalg.lstsq(design, shifts, rcond=None)[0]
    found = design @ (result.matrix - np.eye(4))[:3].T
    least = np.linalg.norm(nearest - shifts, axis=1).mean()
    assert np.linalg.norm(found - shifts, axis=1).mean() < 1.15 * least
    assert np.linalg.norm(shifts, axis=1).mean() > 1.3 * least


def test_the_initial_transform_is_part_of_the_result(body):
    rng = np.random.default_rng(21)
    truth = affine(rng, 100, 200, np.array([1.0, 0.9, 1.1]))
    shape = Grid.of(body[0])
    center = truth[:3, 3]
    moving_grid = Grid(shape.size, shape.spacing, tuple(np.array(shape.origin) + center), shape.direction)
    moving = moved(body[0], truth, moving_grid)
    initial = truth @ affine(rng, 10, 15, np.ones(3))
    result = register_affine(body[0], moving, initial=as_transform(initial))
    assert mean_error(result.matrix, truth, body[1], moving) < 0.15 * SPACING
    # the same with a little deformation on top, of which the nearest affine map is taken
    vectors = smooth_vectors(shape, 2, amplitude_mm=4.0).astype(np.float64)
    field = sitk.DisplacementFieldTransform(shape.image(vectors))
    bent = sitk.CompositeTransform([as_transform(initial), field])
    result = register_affine(body[0], moving, initial=bent)
    assert mean_error(result.matrix, truth, body[1], moving) < 0.15 * SPACING


@pytest.mark.parametrize("mode", ["rigid", "affine"])
def test_never_less_similar_than_the_initial_map(body, mode):
    rng = np.random.default_rng(2)
    grid = Grid.of(body[0])
    unrelated = grid.image(gaussian_filter(rng.normal(size=grid.shape), 1.5).astype(np.float32))
    result = register_affine(body[0], unrelated, mode=mode)
    assert result.similarity_after >= result.similarity_before
    truth = affine(rng, 8, 10, np.ones(3))
    result = register_affine(body[0], moved(body[0], truth), mode=mode, initial=as_transform(truth))
    assert result.similarity_after >= result.similarity_before > 0.8


def test_progress_rises_and_cancelling_ends_the_work(body):
    seen: list[float] = []
    register_affine(body[0], body[0], progress=lambda stage, fraction: seen.append(fraction))
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert seen[-1] == 1

    def cancel(stage: str, fraction: float) -> None:
        if fraction > 0.2:
            raise Cancelled

    with pytest.raises(Cancelled):
        register_affine(body[0], body[0], progress=cancel)


def test_unusable_input_is_refused_with_a_reason(body):
    image = body[0]
    empty = Grid.of(image).image(np.zeros(Grid.of(image).shape, dtype=np.uint8))
    flat = as_transform(np.diag([1.0, 1.0, 0.0, 1.0]))
    broken = sitk.GetArrayFromImage(image)
    broken[3, 4, 5] = np.nan
    cases = [
        ("Unknown affine mode", {"mode": "similarity"}),
        ("fixed mask covers nothing", {"fixed_mask": empty}),
        ("moving mask covers nothing", {"moving_mask": empty}),
        ("singular", {"initial": flat}),
        ("constant", {"moving": empty}),
        ("NaN", {"moving": Grid.of(image).image(broken)}),
        ("3D", {"moving": image[:, :, 3]}),
    ]
    for text, change in cases:
        with pytest.raises(InputError, match=text):
            register_affine(**{"fixed": image, "moving": image, **change})


def test_rotation_matches_scipy():
    for vector in ([0.1, -0.4, 0.7], [0, 0, 0], [2.0, 1.0, -1.5]):
        assert np.allclose(rotation(np.array(vector)), Rotation.from_rotvec(vector).as_matrix(), atol=1e-12)


def test_principal_axes_carry_one_covariance_onto_the_other_with_the_least_turn():
    rng = np.random.default_rng(3)
    root = rng.normal(size=(3, 3))
    fixed = root @ root.T + np.diag([1.0, 4.0, 9.0])
    turn = rotation(np.deg2rad([10, -15, 12]))
    linear = principal_axes(fixed, turn @ fixed @ turn.T)
    assert np.allclose(linear @ fixed @ linear.T, turn @ fixed @ turn.T)
    assert np.linalg.det(linear) > 0
    assert np.trace(linear) >= np.trace(turn) - 1e-9


def test_foreground_is_the_side_that_the_corners_are_not_on(body):
    truth = sitk.GetArrayFromImage(body[1]) > 0
    array = np.where(truth, 100 + 0.2 * sitk.GetArrayFromImage(body[0]), 0)
    for image in (array, 300 - array):
        found = foreground_of(image)
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.99
    assert foreground_of(np.r_[np.zeros(999), 1.0].reshape(10, 10, 10)).all()


def test_box_sums_and_gradients_match_scipy_and_numpy():
    rng = np.random.default_rng(0)
    array = rng.normal(size=(7, 9, 4)).astype(np.float32)
    summed = box_sum(torch.from_numpy(array)[None], 2)[0].numpy()
    assert np.allclose(summed, 125 * uniform_filter(array.astype(float), 5, mode="constant"), atol=1e-4)
    gradient = central_gradient(torch.from_numpy(array), torch.ones(7, 9, 4)).numpy()
    for component, axis in enumerate((2, 1, 0)):
        inner = [slice(None)] * 3
        inner[axis] = slice(1, -1)
        assert np.allclose(gradient[component][tuple(inner)], np.gradient(array, axis=axis)[tuple(inner)], atol=1e-6)


def volume(image: sitk.Image, mask: sitk.Image | None = None) -> Volume:
    return volume_of(shrink(image, 9.0), mask, "fixed")


def test_score_is_the_mean_squared_correlation_of_windows(body):
    grid = random_grid(4, low=8, high=10)
    rng = np.random.default_rng(4)
    fixed, moving = (grid.image(gaussian_filter(rng.normal(size=grid.shape), 0.8).astype(np.float32)) for _ in "fm")
    a, b = volume_of(fixed, None, "fixed"), volume_of(moving, None, "moving")
    squared, weights = [], []
    f, m = a.values.numpy().astype(float), b.values.numpy().astype(float)
    for z, y, x in np.ndindex(f.shape):
        box = tuple(slice(max(0, i - 1), i + 2) for i in (z, y, x))
        var_f, var_m = f[box].var() + 2e-4, m[box].var() + 2e-4
        covariance = np.mean((f[box] - f[box].mean()) * (m[box] - m[box].mean()))
        squared.append(covariance**2 / (var_f * var_m))
        weights.append(1 - 2e-4 / var_f)
    expected = np.average(squared, weights=weights)
    assert LocalCorrelation(a, b, 1).score(np.eye(4)) == pytest.approx(expected, abs=1e-4)


def test_refinement_reaches_a_neighbouring_map_and_counts_overlap(body):
    truth = affine(np.random.default_rng(1), 5, 8, np.array([1.04, 0.97, 1.0]))
    moving = moved(body[0], truth)
    metric = LocalCorrelation(volume(body[0]), volume(moving), 2)
    found = refine(metric, np.eye(4), "affine", 20)
    assert found.score > metric.score(np.eye(4))
    assert mean_error(found.matrix, truth, body[1], moving) < 0.2 * SPACING
    away = np.eye(4)
    away[0, 3] = 1000.0
    assert metric.overlap(np.eye(4)) > 0.95
    assert metric.overlap(away) == 0
    assert basis_of("rigid").shape == (12, 6)


def test_mutual_information_prefers_the_truth_and_refuses_too_little_overlap(body):
    truth = affine(np.random.default_rng(9), 15, 30, np.ones(3))
    information = MutualInformation(volume(body[0]), volume(moved(body[0], truth)))
    rng = np.random.default_rng(1)
    others = [truth @ affine(rng, 12, 15, np.ones(3)) for _ in range(50)]
    away = np.eye(4)
    away[2, 3] = 190.0
    scores = information(np.array([truth, *others, away]))
    assert scores[0] > 1.2 * scores[1:-1].max()
    assert scores[-1] == -np.inf
    assert np.allclose(information(np.array([others[7]])), scores[8])
