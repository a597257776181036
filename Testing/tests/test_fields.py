"""Displacement fields against SimpleITK and analytic maps, on random oblique, anisotropic, left-handed grids."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from geometries import random_direction, random_grid, random_image, seeds, smooth_field
from hypothesis import given

from CycleRegLib import storage
from CycleRegLib.errors import InputError
from CycleRegLib.fields import DisplacementField
from CycleRegLib.geometry import Grid

TOLERANCE_MM = 1e-3


@pytest.fixture(autouse=True, params=["whole", "slabs of files"])
def _slab_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fact holds for volumes in memory, worked on in one piece, and for those in files, in many."""
    if request.param == "slabs of files":
        monkeypatch.setattr(storage, "SLAB_VOXELS", 500)
        monkeypatch.setattr(storage, "MAPPED_BYTES", 1000)


def overlapping_grid(grid: Grid, seed: int) -> Grid:
    """Another oblique grid that covers about the same place."""
    other = random_grid(seed)
    shift = grid.center - other.center
    return Grid(other.size, other.spacing, tuple(np.array(other.origin) + shift), other.direction)


def between_outer_centres(field: DisplacementField, other: Grid) -> np.ndarray:
    """Voxels that land between the outer voxel centres of ``other``, where nothing is extrapolated."""
    index = other.to_index(field.grid.points() + field.vectors)
    return ((index >= 0) & (index <= np.array(other.size) - 1)).all(-1)


@given(seeds)
def test_points_as_simpleitk_inside_and_outside(seed: int) -> None:
    field = smooth_field(random_grid(seed), seed)
    transform = field.to_transform()
    rng = np.random.default_rng(seed)
    points = field.grid.to_world(rng.uniform(-2, np.array(field.grid.size) + 1, (40, 3)))
    # ITK decides on the voxel edge in float64; stay a hair away from it.
    index = field.grid.to_index(points)
    edge = np.minimum(np.abs(index + 0.5), np.abs(index - np.array(field.grid.size) + 0.5)).min(1)
    points = points[edge > 1e-6]
    expected = np.array([transform.TransformPoint(p.tolist()) for p in points])
    np.testing.assert_allclose(field.transform_points(points), expected, atol=TOLERANCE_MM)


@given(seeds)
def test_compose_as_simpleitk(seed: int) -> None:
    first = smooth_field(random_grid(seed), seed, 3.0)
    second = smooth_field(overlapping_grid(first.grid, seed + 1), seed + 1, 3.0)
    found = first.compose(second)
    composite = sitk.CompositeTransform([second.to_transform(), first.to_transform()])
    middle = second.grid.to_index(first.grid.points() + first.vectors)
    edge = np.minimum(np.abs(middle + 0.5), np.abs(middle - np.array(second.grid.size) + 0.5)).min(-1)
    points = first.grid.points()[edge > 1e-3]
    expected = np.array([composite.TransformPoint(p.tolist()) for p in points]) - points
    np.testing.assert_allclose(found.vectors[edge > 1e-3], expected, atol=TOLERANCE_MM)


@given(seeds)
def test_warp_as_simpleitk(seed: int) -> None:
    field = smooth_field(random_grid(seed), seed, 3.0)
    image = random_image(overlapping_grid(field.grid, seed + 1), seed)
    found = field.warp(image, default=-5.0)
    assert Grid.of(found) == field.grid
    expected = sitk.Resample(image, field.grid.empty_image(), field.to_transform(), sitk.sitkLinear, -5.0)
    middle = Grid.of(image).to_index(field.grid.points() + field.vectors)
    edge = np.minimum(np.abs(middle + 0.5), np.abs(middle - np.array(image.GetSize()) + 0.5)).min(-1)
    keep = edge > 1e-3
    a, b = sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected)
    # 1e-4 voxel of position error times the steepest slope of the image
    np.testing.assert_allclose(a[keep], b[keep], atol=0.05)


@given(seeds)
def test_nearest_warp_moves_labels_unmixed_as_simpleitk(seed: int) -> None:
    field = smooth_field(random_grid(seed), seed, 3.0)
    grid = overlapping_grid(field.grid, seed + 1)
    labels = grid.image(np.random.default_rng(seed).integers(0, 9, grid.shape).astype(np.uint8))
    found = field.warp(labels, "nearest")
    expected = sitk.Resample(labels, field.grid.empty_image(), field.to_transform(), sitk.sitkNearestNeighbor, 0)
    assert found.GetPixelID() == sitk.sitkUInt8
    middle = grid.to_index(field.grid.points() + field.vectors)
    tie = np.abs(middle - np.floor(middle) - 0.5).min(-1) < 1e-3
    assert (sitk.GetArrayFromImage(found) == sitk.GetArrayFromImage(expected))[~tie].all()


@given(seeds)
def test_any_simpleitk_transform_becomes_a_field_and_back(seed: int) -> None:
    grid = random_grid(seed)
    affine = sitk.AffineTransform(3)
    rng = np.random.default_rng(seed)
    matrix = np.eye(4)
    matrix[:3, :3] += rng.normal(0, 0.1, (3, 3))
    matrix[:3, 3] = rng.uniform(-20, 20, 3)
    affine.SetMatrix(matrix[:3, :3].ravel().tolist())
    affine.SetTranslation(matrix[:3, 3].tolist())
    field = DisplacementField.from_transform(affine, grid)
    np.testing.assert_allclose(field.vectors, DisplacementField.from_matrix(matrix, grid).vectors, atol=TOLERANCE_MM)
    np.testing.assert_allclose(field.fit_affine(), matrix, atol=2e-3)
    again = DisplacementField.from_image(field.to_image())
    np.testing.assert_array_equal(again.vectors, field.vectors)
    assert again.grid == grid


@given(seeds)
def test_flows_in_voxels_are_the_same_vectors(seed: int) -> None:
    field = smooth_field(random_grid(seed), seed)
    flow = field.to_flow()
    target = field.grid.to_index(field.grid.points() + field.vectors)
    here = field.grid.to_index(field.grid.points())
    np.testing.assert_allclose(flow.movedim(0, -1).numpy(), (target - here)[..., ::-1], atol=1e-3)
    np.testing.assert_allclose(DisplacementField.from_flow(flow, field.grid).vectors, field.vectors, atol=1e-4)


@given(seeds)
def test_inverse_round_trip_and_residual(seed: int) -> None:
    field = smooth_field(random_grid(seed, low=14, high=20), seed, 3.0)
    result = field.inverse()
    trip = between_outer_centres(result.field, field.grid)
    error = result.field.round_trip(field)[trip]
    assert error.max() < 2e-3
    assert abs(error.mean() - result.residual_mean_mm) < 1e-3
    assert result.residual_max_mm < 0.01
    assert 0.3 < result.inside_fraction <= 1
    assert result.iterations < 60


def test_inverse_as_simpleitk() -> None:
    grid = Grid((24, 22, 20), (1.5, 2.0, 2.5), (-10, 5, 30), random_direction(np.random.default_rng(0)).ravel())
    field = smooth_field(grid, 7, 4.0)
    inverse = field.inverse(max_iterations=100).field
    reference = sitk.InvertDisplacementField(
        sitk.Cast(field.to_image(), sitk.sitkVectorFloat64), 200, 1e-6, 1e-7, enforceBoundaryCondition=False
    )
    inner = (slice(4, -4),) * 3
    np.testing.assert_allclose(inverse.vectors[inner], sitk.GetArrayFromImage(reference)[inner], atol=0.02)


def test_inverse_of_a_large_rotation_on_another_grid() -> None:
    """Plain fixed-point iteration diverges on this; the affine part is inverted exactly."""
    grid = random_grid(1, low=20, high=24)
    angle = np.deg2rad(120)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = [90, -40, 300]
    field = DisplacementField.from_matrix(matrix, grid)
    moving = overlapping_grid(grid, 9)
    moving = Grid(moving.size, moving.spacing, tuple((matrix @ np.append(moving.origin, 1))[:3]), moving.direction)
    result = field.inverse(moving)
    expected = DisplacementField.from_matrix(np.linalg.inv(matrix), moving)
    np.testing.assert_allclose(result.field.vectors, expected.vectors, atol=5e-3)


def test_inverse_refuses_a_collapsed_map() -> None:
    grid = random_grid(2)
    with pytest.raises(InputError, match="no inverse"):
        DisplacementField.from_matrix(np.diag([1.0, 1.0, 0.0, 1.0]), grid).inverse()


@given(seeds)
def test_jacobian_of_an_affine_map_is_its_determinant(seed: int) -> None:
    """On oblique and left-handed grids too, where ITK's own filter forgets the direction cosines."""
    rng = np.random.default_rng(seed)
    matrix = np.eye(4)
    matrix[:3, :3] += rng.normal(0, 0.2, (3, 3))
    det = DisplacementField.from_matrix(matrix, random_grid(seed)).jacobian_determinant()
    np.testing.assert_allclose(det, np.linalg.det(matrix[:3, :3]), atol=2e-3)


def test_jacobian_as_simpleitk_on_an_upright_grid() -> None:
    grid = Grid((20, 18, 16), (1.0, 2.0, 3.0), (5, 6, 7), np.eye(3).ravel())
    field = smooth_field(grid, 3, 4.0, waves=2)
    reference = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field.to_image()))
    inner = (slice(1, -1),) * 3
    np.testing.assert_allclose(field.jacobian_determinant()[inner], reference[inner], atol=1e-4)


def test_jacobian_of_a_quadratic_map_is_exact_inside_and_folds_where_it_should() -> None:
    grid = random_grid(4, low=12, high=16)
    points = grid.points() - grid.center
    field = DisplacementField((points * np.array([1, 0, 0]) * points[..., :1] * 0.05), grid)
    expected = 1 + 0.1 * points[..., 0]
    inner = (slice(1, -1),) * 3
    det = field.jacobian_determinant()
    np.testing.assert_allclose(det[inner], expected[inner], atol=2e-3)
    clear = np.abs(expected) > 0.01
    assert ((det <= 0) == (expected <= 0))[inner][clear[inner]].all()


def test_fields_of_two_dimensions() -> None:
    grid = random_grid(6, dimension=2)
    field = smooth_field(grid, 6, 2.0)
    result = field.inverse()
    assert result.field.round_trip(field)[between_outer_centres(result.field, grid)].max() < 2e-3
    rotation = np.eye(3)
    rotation[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    np.testing.assert_allclose(DisplacementField.from_matrix(rotation, grid).jacobian_determinant(), 1.0, atol=1e-3)


@given(seeds)
def test_resampling_a_linear_field_is_exact_and_back_to_itself_a_no_op(seed: int) -> None:
    grid = random_grid(seed)
    matrix = np.eye(4)
    matrix[:3, :3] += np.random.default_rng(seed).normal(0, 0.1, (3, 3))
    field = DisplacementField.from_matrix(matrix, grid)
    half = grid.with_size([max(2, s // 2) for s in grid.size])
    expected = DisplacementField.from_matrix(matrix, half)
    np.testing.assert_allclose(field.resampled(half).vectors, expected.vectors, atol=TOLERANCE_MM)
    assert field.resampled(grid) is field


def test_round_trip_is_nan_where_the_point_leaves_the_other_grid() -> None:
    grid = Grid((10, 10, 10), (1, 1, 1), (0, 0, 0), np.eye(3).ravel())
    matrix = np.eye(4)
    matrix[0, 3] = 3.0
    trip = DisplacementField.from_matrix(matrix, grid).round_trip(
        DisplacementField.from_matrix(np.linalg.inv(matrix), grid)
    )
    assert np.isnan(trip[:, :, 7:]).all()
    np.testing.assert_allclose(trip[:, :, :7], 0, atol=1e-5)


def test_identity_changes_nothing() -> None:
    grid = random_grid(8)
    image = random_image(grid, 8)
    identity = DisplacementField.identity(grid)
    np.testing.assert_allclose(sitk.GetArrayFromImage(identity.warp(image)), sitk.GetArrayFromImage(image), atol=2e-3)
    assert (identity.jacobian_determinant() == 1).all()


def test_inputs_are_not_changed() -> None:
    grid = random_grid(9)
    field, other = smooth_field(grid, 1), smooth_field(grid, 2)
    copies = field.vectors.copy(), other.vectors.copy()
    field.compose(other), field.inverse(), field.jacobian_determinant(), field.round_trip(other)
    np.testing.assert_array_equal(field.vectors, copies[0])
    np.testing.assert_array_equal(other.vectors, copies[1])


def test_wrong_input_is_named() -> None:
    grid = random_grid(3)
    with pytest.raises(InputError, match="does not fit"):
        DisplacementField(np.zeros((2, 2, 2, 3), np.float32), grid)
    bad = np.zeros((*grid.shape, 3), np.float32)
    bad[0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        DisplacementField(bad, grid)
    with pytest.raises(InputError, match="3 components"):
        DisplacementField.from_image(grid.image(np.zeros(grid.shape, np.float32)))


def test_gpu_is_not_needed_for_a_flow_on_any_device() -> None:
    grid = random_grid(3)
    assert DisplacementField.from_flow(torch.zeros(3, *grid.shape), grid).vectors.any() == np.False_
