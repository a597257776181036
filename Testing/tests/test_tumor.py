"""Tumour diameters and volume against ellipsoids whose size is known, and slow references."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from geometries import random_direction, seeds
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

from CycleRegLib.errors import InputError
from CycleRegLib.geometry import Grid
from CycleRegLib.tumor import axial_axis, measure_tumor

PLAIN = tuple(np.eye(3).ravel())


@dataclass
class Digitised:
    """An ellipsoid on an oblique grid, and the exact sizes of its largest slice among those of the grid."""

    mask: np.ndarray
    grid: Grid
    pixel: float
    major: float
    minor: float
    volume_ml: float


def ellipsoid(seed: int, low: float, high: float) -> Digitised:
    """Semi-axes of ``low`` to ``high`` in-plane voxels; any orientation, anisotropic and mirrored grids."""
    rng = np.random.default_rng(seed)
    direction = random_direction(rng)
    axis = int(np.argmax(np.abs(direction[2])))
    plane = [a for a in range(3) if a != axis]
    s = rng.uniform(0.6, 1.5)
    spacing = np.empty(3)
    spacing[plane] = s, s * rng.uniform(0.8, 1.25)
    spacing[axis] = s * rng.uniform(1, 4)
    radii = rng.uniform(low, high, 3) * s
    turn = random_direction(rng)
    form = turn @ np.diag(1 / radii**2) @ turn.T
    size = np.ceil(2 * radii.max() / spacing).astype(int) + 4
    middle = direction @ (spacing * ((size - 1) / 2 + rng.uniform(-0.5, 0.5, 3)))
    grid = Grid(tuple(size), tuple(spacing), tuple(-middle), tuple(direction.ravel()))
    points = grid.points()
    mask = np.einsum("...i,ij,...j", points, form, points) <= 1
    # The cut of x'Fx = 1 with the plane of a slice is an ellipse, in the coordinates of the grid's axes.
    form, origin = direction.T @ form @ direction, direction.T @ -middle
    best = (0.0, 0.0)
    for k in range(size[axis]):
        z = origin[axis] + k * spacing[axis]
        a, b = form[np.ix_(plane, plane)], form[plane, axis] * z
        level = b @ np.linalg.solve(a, b) - form[axis, axis] * z * z + 1
        if level > 0:
            ends = 2 / np.sqrt(np.linalg.eigvalsh(a / level))
            best = max(best, (ends.max(), ends.min()))
    return Digitised(mask, grid, spacing[plane].max(), *best, 4 / 3 * np.pi * np.prod(radii) / 1000)


def blob(seed: int, shape: tuple[int, int, int] = (9, 20, 22)) -> np.ndarray:
    """A random shape of one piece, within a frame of two voxels."""
    noise = np.random.default_rng(seed).normal(size=[n - 4 for n in shape])
    labels, count = ndimage.label(ndimage.gaussian_filter(noise, 2) > 0, np.ones((3, 3, 3)))
    largest = np.argmax(np.bincount(labels.ravel())[1:]) + 1 if count else 0
    return np.pad(labels == largest, 2)


class TestEllipsoids:
    @pytest.mark.parametrize(("low", "high"), [(3, 6), (6, 12), (12, 18)])
    def test_error_is_what_the_docstring_says(self, low: float, high: float) -> None:
        errors = []
        for seed in range(60):
            truth = ellipsoid(seed, low, high)
            found = measure_tumor(truth.mask, truth.grid)
            errors.append(
                [
                    (found.major_mm - truth.major) / truth.pixel,
                    (found.minor_mm - truth.minor) / truth.pixel,
                    found.volume_ml / truth.volume_ml - 1,
                ]
            )
        errors = np.array(errors)
        assert np.all(np.abs(errors.mean(axis=0)[:2]) < 0.2)
        assert np.all(np.abs(errors).mean(axis=0)[:2] < 0.3)
        assert np.all(np.percentile(np.abs(errors), 95, axis=0)[:2] < 0.75)
        assert abs(errors[:, 2].mean()) < 0.02

    def test_fine_ball(self) -> None:
        rng = np.random.default_rng(1)
        grid = Grid((80, 80, 24), (0.5, 0.5, 1.5), (0, 0, 0), tuple(random_direction(rng).ravel()))
        mask = np.linalg.norm(grid.points() - grid.center, axis=-1) <= 15
        found = measure_tumor(mask, grid)
        assert found.volume_ml == pytest.approx(4 / 3 * np.pi * 3.375, rel=0.01)
        if found.slice_axis == 2:
            assert found.major_mm == pytest.approx(30, abs=0.25)
            assert found.minor_mm == pytest.approx(30, abs=0.25)

    @given(seeds)
    def test_end_points(self, seed: int) -> None:
        truth = ellipsoid(seed, 3, 8)
        found = measure_tumor(truth.mask, truth.grid)
        major, minor = (np.diff(p, axis=0)[0] for p in (found.major_points, found.minor_points))
        assert np.linalg.norm(major) == pytest.approx(found.major_mm)
        assert np.linalg.norm(minor) == pytest.approx(found.minor_mm)
        assert major @ minor == pytest.approx(0, abs=1e-6 * found.major_mm**2)
        assert found.minor_mm <= found.major_mm + 1e-9
        index = truth.grid.to_index(np.concatenate([found.major_points, found.minor_points]))
        np.testing.assert_allclose(index[:, found.slice_axis], found.slice_index, atol=1e-9)
        for point in index:  # all ends lie on the boundary: within a voxel's step of the tumour's centres
            inside = np.argwhere(truth.mask)[:, ::-1]
            assert np.abs(inside - point).max(axis=1).min() < 0.75


class TestDefinition:
    @given(seeds)
    def test_long_diameter_against_all_pairs_of_points(self, seed: int) -> None:
        mask, spacing = blob(seed), np.array([0.9, 1.2])
        best = 0.0
        for image in mask:
            centers = np.argwhere(image)[:, ::-1].astype(float)
            # A quarter of a voxel outwards from the centres, towards neighbours that are outside.
            points = []
            for step in ([1, 0], [-1, 0], [0, 1], [0, -1]):
                neighbour = (centers + step).astype(int)
                points.append((centers + np.multiply(step, 0.25))[~image[neighbour[:, 1], neighbour[:, 0]]])
            points = np.concatenate(points) * spacing
            best = max(best, pdist(points).max() if len(points) > 1 else 0)
        found = measure_tumor(mask, Grid(mask.shape[::-1], (0.9, 1.2, 3), (5, -3, 2), PLAIN))
        assert found.major_mm == pytest.approx(best)

    def test_short_diameter_stays_within_a_bent_tumor(self) -> None:
        # Half a ring, 24 to 30 mm from its centre: 60 mm from tip to tip, and 6 mm thick where it crosses the middle.
        grid = Grid((141, 81, 3), (0.5, 0.5, 5), (-35, -5, -5), PLAIN)
        x, y, _ = np.moveaxis(grid.points(), -1, 0)
        radius = np.hypot(x, y)
        mask = (radius >= 24) & (radius <= 30) & (y >= 0)
        found = measure_tumor(mask, grid)
        assert found.major_mm == pytest.approx(60, abs=0.5)
        # The longest line across, parallel to the ring's axis of symmetry: where the inner arc ends, at x = 24.
        assert found.minor_mm == pytest.approx(np.sqrt(30**2 - 24**2), abs=0.8)

    def test_rectangle(self) -> None:
        mask = np.zeros((3, 30, 40), bool)
        mask[1, 5:17, 4:34] = True  # 30 x 12 voxels
        found = measure_tumor(mask, Grid((40, 30, 3), (1, 1, 4), (0, 0, 0), PLAIN))
        assert found.major_mm == pytest.approx(np.hypot(29.25, 11.25), abs=0.3)
        # Through the middle, from one long side to the other, perpendicular to the diagonal.
        assert found.minor_mm == pytest.approx(11.75 / np.cos(np.arctan2(11.5, 29.5)), abs=0.3)
        assert found.volume_ml == pytest.approx(30 * 12 * 4 / 1000)

    def test_only_within_one_slice(self) -> None:
        mask = np.zeros((40, 12, 12), bool)
        mask[2:38, 5, 5:8] = True  # 36 slices long, 3 voxels in each
        found = measure_tumor(mask, Grid((12, 12, 40), (1, 1, 1), (0, 0, 0), PLAIN))
        assert found.major_mm == pytest.approx(2.5)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_axial_slices_of_sagittal_and_coronal_volumes(self, axis: int) -> None:
        """The same anatomy, stored with another axis slowest, has the same size."""
        mask, spacing = blob(7), np.array([0.9, 1.2, 3.0])
        expected = measure_tumor(mask, Grid(mask.shape[::-1], tuple(spacing), (0, 0, 0), PLAIN))
        order = np.roll([0, 1, 2], axis)  # index axes of the other volume, in those of the first
        direction = np.eye(3)[:, order]
        turned = mask.transpose([2 - a for a in order[::-1]])
        grid = Grid(turned.shape[::-1], tuple(spacing[order]), (0, 0, 0), tuple(direction.ravel()))
        assert axial_axis(grid) == list(order).index(2)
        found = measure_tumor(turned, grid)
        assert found.major_mm == pytest.approx(expected.major_mm)
        assert found.minor_mm == pytest.approx(expected.minor_mm)
        np.testing.assert_allclose(np.sort(found.major_points, 0), np.sort(expected.major_points, 0), atol=1e-9)

    @given(seeds, st.floats(-180, 180), st.floats(-35, 35), st.booleans())
    def test_rigid_motion_changes_nothing(self, seed: int, spin: float, tilt: float, mirror: bool) -> None:
        mask = blob(seed)
        plain = measure_tumor(mask, Grid(mask.shape[::-1], (0.9, 1.2, 3), (0, 0, 0), PLAIN))
        direction = Rotation.from_euler("zx", [spin, tilt], degrees=True).as_matrix()
        direction = direction @ np.diag([-1 if mirror else 1, 1, 1])
        grid = Grid(mask.shape[::-1], (0.9, 1.2, 3), (-100, 50, 7), tuple(direction.ravel()))
        moved = measure_tumor(mask, grid)
        assert moved.major_mm == pytest.approx(plain.major_mm)
        assert moved.minor_mm == pytest.approx(plain.minor_mm)
        assert moved.volume_ml == pytest.approx(plain.volume_ml)


class TestParts:
    def test_largest_component_alone(self) -> None:
        mask = np.zeros((10, 40, 40), bool)
        mask[3:7, 4:14, 4:12] = True
        grid = Grid((40, 40, 10), (1, 1, 2), (0, 0, 0), PLAIN)
        alone = measure_tumor(mask, grid)
        mask[4, 20:23, 38] = True  # far away: would make the long diameter longer
        found = measure_tumor(mask, grid)
        assert (alone.components, found.components) == (1, 2)
        assert found.major_mm == alone.major_mm
        assert found.volume_ml == pytest.approx(0.64)

    def test_parts_that_touch_at_a_corner_are_one(self) -> None:
        mask = np.zeros((6, 8, 8), bool)
        mask[1:3, 1:3, 1:3] = True
        mask[3:5, 3:5, 3:5] = True
        assert measure_tumor(mask, Grid((8, 8, 6), (1, 1, 1), (0, 0, 0), PLAIN)).components == 1

    def test_fringe_of_other_parts_is_left_out_of_the_volume(self) -> None:
        occupancy = np.zeros((5, 20, 20), np.float32)
        occupancy[2, 4:8, 4:8] = 1.0
        occupancy[2, 4:8, 8] = 0.25
        occupancy[2, 15, 15], occupancy[2, 15, 16] = 0.75, 0.4
        found = measure_tumor(occupancy, Grid((20, 20, 5), (1, 1, 1), (0, 0, 0), PLAIN))
        assert found.volume_ml * 1000 == pytest.approx(17)
        assert found.components == 2

    def test_fractions_move_the_boundary(self) -> None:
        occupancy = np.zeros((3, 9, 30), np.float32)
        occupancy[1, 4, 5:20] = 1.0
        occupancy[1, 4, 20] = 0.6  # crosses one half a sixth of the way to the next
        grid = Grid((30, 9, 3), (1, 1, 1), (0, 0, 0), PLAIN)
        # Insets: a quarter of the steps of 1 and of 0.6.
        assert measure_tumor(occupancy, grid).major_mm == pytest.approx(20 + 1 / 6 - 0.15 - (4.5 + 0.25))

    def test_single_voxel_and_touching_the_border(self) -> None:
        mask = np.zeros((3, 4, 5), bool)
        mask[0, 0, 0] = True
        found = measure_tumor(mask, Grid((5, 4, 3), (1, 1, 1), (0, 0, 0), PLAIN))
        assert found.major_mm == pytest.approx(0.5)
        assert 0 < found.minor_mm <= 0.5
        assert found.slice_index == 0
        full = measure_tumor(np.ones((3, 4, 5), bool), Grid((5, 4, 3), (1, 1, 1), (0, 0, 0), PLAIN))
        assert full.volume_ml == pytest.approx(0.06)
        assert full.major_mm == pytest.approx(np.hypot(4, 3), abs=0.5)

    def test_diagonal_line_of_voxels(self) -> None:
        """Cells with two opposite corners inside: the boundary goes round each voxel."""
        mask = np.zeros((3, 12, 12), bool)
        mask[1, range(2, 9), range(2, 9)] = True
        found = measure_tumor(mask, Grid((12, 12, 3), (1, 1, 1), (0, 0, 0), PLAIN))
        assert found.major_mm == pytest.approx(np.hypot(6.25, 6.25), abs=0.3)
        assert found.minor_mm < 1.0

    def test_nothing_there(self) -> None:
        grid = Grid((5, 4, 3), (1, 1, 1), (0, 0, 0), PLAIN)
        assert measure_tumor(np.zeros((3, 4, 5), bool), grid) is None
        assert measure_tumor(np.full((3, 4, 5), 0.49), grid) is None

    def test_shape_that_does_not_fit(self) -> None:
        with pytest.raises(InputError, match="does not fit"):
            measure_tumor(np.ones((3, 4, 4), bool), Grid((5, 4, 3), (1, 1, 1), (0, 0, 0), PLAIN))
