"""Grids against SimpleITK's own index and point arithmetic."""

import numpy as np
import pytest
import SimpleITK as sitk
from geometries import random_grid, seeds
from hypothesis import given

from CycleRegLib.errors import InputError
from CycleRegLib.geometry import Grid, affine_transform


@given(seeds)
def test_index_and_world_agree_with_simpleitk(seed: int) -> None:
    grid = random_grid(seed)
    image = grid.empty_image()
    index = np.random.default_rng(seed).uniform(-3, 20, (5, 3))
    world = grid.to_world(index)
    for i, p in zip(index, world):
        np.testing.assert_allclose(p, image.TransformContinuousIndexToPhysicalPoint(i.tolist()), atol=1e-9)
        np.testing.assert_allclose(i, image.TransformPhysicalPointToContinuousIndex(p.tolist()), atol=1e-9)
    np.testing.assert_allclose(grid.to_index(world), index, atol=1e-9)
    assert Grid.of(image) == grid


@given(seeds)
def test_points_are_the_voxel_centres_in_array_order(seed: int) -> None:
    grid = random_grid(seed, low=2, high=5)
    points = grid.points()
    image = grid.empty_image()
    for z, y, x in [(0, 0, 0), (1, 0, 1), tuple(s - 1 for s in grid.shape)]:
        expected = image.TransformIndexToPhysicalPoint((int(x), int(y), int(z)))
        np.testing.assert_allclose(points[z, y, x], expected, atol=1e-9)


@given(seeds)
def test_another_size_keeps_the_extent(seed: int) -> None:
    grid = random_grid(seed)
    coarse = grid.with_size([max(1, s // 2) for s in grid.size])
    first = grid.to_world(np.full(3, -0.5))
    last = grid.to_world(np.array(grid.size) - 0.5)
    np.testing.assert_allclose(coarse.to_world(np.full(3, -0.5)), first, atol=1e-9)
    np.testing.assert_allclose(coarse.to_world(np.array(coarse.size) - 0.5), last, atol=1e-9)
    np.testing.assert_allclose(coarse.center, grid.center, atol=1e-9)


def test_contains_goes_to_the_voxel_edges() -> None:
    grid = Grid((4, 4, 4), (2, 2, 2), (0, 0, 0), np.eye(3).ravel())
    assert grid.contains(np.array([-0.99, 0, 6.99]))
    assert not grid.contains(np.array([-1.01, 0, 0]))


def test_image_keeps_geometry_and_refuses_another_shape() -> None:
    grid = random_grid(3)
    image = grid.image(np.zeros((*grid.shape, 3), np.float32))
    assert image.GetNumberOfComponentsPerPixel() == 3
    assert Grid.of(image) == grid
    with pytest.raises(ValueError, match="does not fit"):
        grid.image(np.zeros(grid.size[:2], np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spacing": (1, 0, 1)}, "spacing must be positive"),
        ({"spacing": (1, -2, 1)}, "spacing must be positive"),
        ({"spacing": (1, float("nan"), 1)}, "spacing must be positive"),
        ({"size": (0, 2, 2)}, "empty"),
        ({"direction": (1, 0, 0, 1, 0, 0, 0, 0, 1)}, "singular"),
        ({"origin": (0, 0, float("inf"))}, "not finite"),
        ({"origin": (0, 0)}, "2 or 3 dimensions"),
    ],
)
def test_impossible_grids_are_refused(change: dict, message: str) -> None:
    good = {"size": (2, 2, 2), "spacing": (1, 1, 1), "origin": (0, 0, 0), "direction": np.eye(3).ravel()}
    with pytest.raises(InputError, match=message):
        Grid(**{**good, **change})


def test_same_as_sees_half_a_voxel() -> None:
    grid = random_grid(5)
    moved = Grid(grid.size, grid.spacing, tuple(grid.to_world(np.array([0.5, 0, 0]))), grid.direction)
    assert grid.same_as(grid)
    assert not grid.same_as(moved)


def test_sitk_identity_resample_needs_no_shift_after_with_size() -> None:
    """A linear ramp in world space is reproduced exactly on a coarser grid of the same extent."""
    grid = random_grid(11, low=12, high=13)
    ramp = grid.points() @ np.array([1.0, 2.0, -1.5])
    coarse = grid.with_size([6, 6, 6])
    found = sitk.Resample(grid.image(ramp), coarse.empty_image(), sitk.Transform(), sitk.sitkLinear, -1e9)
    np.testing.assert_allclose(sitk.GetArrayFromImage(found), coarse.points() @ np.array([1.0, 2.0, -1.5]), atol=1e-6)


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_matrix_becomes_the_same_transform(dimension: int) -> None:
    rng = np.random.default_rng(dimension)
    matrix = np.eye(dimension + 1)
    matrix[:dimension] = rng.normal(size=(dimension, dimension + 1))
    point = rng.normal(size=dimension) * 50
    expected = (matrix @ np.append(point, 1))[:dimension]
    np.testing.assert_allclose(affine_transform(matrix).TransformPoint(point.tolist()), expected, atol=1e-9)
