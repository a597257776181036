"""Arrays that lie in files: they are arrays like others, and their memory can be given back without losing anything."""

from __future__ import annotations

import gc
import os
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from geometries import random_grid, random_image

from CycleRegLib import measures, storage
from CycleRegLib.fields import DisplacementField
from CycleRegLib.measures import JacobianStatistics, jacobian_statistics, mean_and_percentile
from CycleRegLib.networks.preparation import to_network_grid

MEGABYTE = 2**20


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything lies in files and is worked on in many slabs."""
    monkeypatch.setattr(storage, "MAPPED_BYTES", 100)
    monkeypatch.setattr(storage, "SLAB_VOXELS", 200)


def resident() -> int:
    """Resident bytes of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class TestEmpty:
    def test_small_arrays_are_ordinary(self) -> None:
        array = storage.empty((4, 5), np.int16)
        assert array.shape == (4, 5)
        assert array.dtype == np.int16
        assert array.base is None

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
    def test_memory_comes_back_and_content_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(storage, "MAPPED_BYTES", MEGABYTE)
        array = storage.empty((64, 4, MEGABYTE // 16))
        before = resident()
        array[...] = np.arange(64, dtype=np.float32)[:, None, None]
        assert resident() - before > 60 * MEGABYTE
        # A view, and a tensor of a view, are the same memory.
        storage.release(torch.from_numpy(np.ascontiguousarray(array))[3:, :2])
        assert resident() - before < 4 * MEGABYTE
        assert np.array_equal(array[:, 3, -1], np.arange(64))

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
    def test_slabs_give_memory_back_as_they_go(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(storage, "MAPPED_BYTES", MEGABYTE)
        monkeypatch.setattr(storage, "SLAB_VOXELS", MEGABYTE)
        array = storage.empty((64, MEGABYTE // 4))
        before, most, rows = resident(), 0, []
        for part in storage.slabs(array.shape, array):
            array[part] = 7.0
            rows += range(part.start, part.stop)
            most = max(most, resident() - before)
        assert rows == list(range(64))
        assert 3 * MEGABYTE < most < 12 * MEGABYTE
        assert array.min() == array.max() == 7.0

    def test_the_file_goes_with_the_last_view(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(storage, "MAPPED_BYTES", 100)
        view = storage.empty((50, 50))[10:20]
        view[...] = 1.0
        assert len(storage._maps) == 1
        assert float(torch.from_numpy(view).sum()) == 500
        del view
        gc.collect()
        assert len(storage._maps) == 0

    def test_without_room_for_a_file_the_array_is_ordinary(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(file: int, size: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(storage, "MAPPED_BYTES", 100)
        monkeypatch.setattr(storage, "_reserve", full)
        array = storage.empty((50, 50))
        array[...] = 2.0
        assert array.base is None


class TestSlabs:
    def test_they_cover_everything_once_and_are_even(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(storage, "SLAB_VOXELS", 700)
        parts = list(storage.slabs((23, 10, 10)))
        assert [row for part in parts for row in range(part.start, part.stop)] == list(range(23))
        assert {part.stop - part.start for part in parts[:-1]} == {6}
        assert next(iter(storage.slabs((5, 100, 100)))) == slice(0, 2)


@pytest.mark.parametrize("dimension", [2, 3])
def test_images_made_of_slabs_are_the_same(small_pieces: None, dimension: int) -> None:
    grid = random_grid(5, dimension=dimension, low=20, high=30)
    rng = np.random.default_rng(0)
    for shape, kind in ((grid.shape, np.int16), ((*grid.shape, dimension), np.float32), (grid.shape, bool)):
        array = storage.empty(shape, kind)
        array[...] = rng.normal(0, 50, shape) > 0 if kind is bool else rng.normal(0, 50, shape)
        image = grid.image(array)
        whole = sitk.GetImageFromArray(
            np.array(array, np.uint8 if kind is bool else kind), isVector=len(shape) > dimension
        )
        assert image.GetPixelID() == whole.GetPixelID()
        assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(whole))
        assert image.GetSpacing() == pytest.approx(grid.spacing)
        assert image.GetDirection() == pytest.approx(grid.direction)


class TestMeasures:
    def test_jacobian_statistics_in_slabs(self, small_pieces: None) -> None:
        rng = np.random.default_rng(1)
        values = rng.normal(1, 0.6, (20, 9, 11)).astype(np.float32)
        mask = rng.random(values.shape) > 0.3
        for inside in (None, mask):
            chosen = values[slice(None) if inside is None else inside].astype(np.float64).ravel()
            positive = chosen[chosen > 0]
            expected = (100 * np.mean(chosen <= 0), chosen.mean(), chosen.std(), np.log(positive).std(), chosen.min(),
                        chosen.max(), len(chosen) - len(positive), len(chosen))  # fmt: skip
            found = jacobian_statistics(values, inside)
            assert np.allclose([getattr(found, n) for n in JacobianStatistics.__dataclass_fields__], expected)

    def test_percentile_by_counting(self, small_pieces: None, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = np.random.default_rng(2)
        values = rng.gamma(2.0, 0.4, (40, 30, 30)).astype(np.float32)
        values[:3] = np.nan
        values[5:8] = 0.0
        kept = values[~np.isnan(values)].astype(np.float64)
        for percent in (5, 50, 95):
            truth = kept.mean(), np.percentile(kept, percent)
            assert np.allclose(mean_and_percentile(values, percent), truth, rtol=1e-6)
            monkeypatch.setattr(measures, "_SORTED_VOXELS", 10)
            # Counting gives a value between neighbours in the order, to a millionth of the largest.
            gap = np.percentile(kept, percent, method="higher") - np.percentile(kept, percent, method="lower")
            assert abs(mean_and_percentile(values, percent)[1] - truth[1]) <= gap + 1e-6 * kept.max()
            monkeypatch.undo()
            monkeypatch.setattr(storage, "SLAB_VOXELS", 200)

    def test_percentile_of_nothing_and_of_zeros(self) -> None:
        assert np.isnan(mean_and_percentile(np.full((3, 3), np.nan), 95)).all()
        assert mean_and_percentile(np.zeros((3, 3)), 95) == (0.0, 0.0)


def test_a_transform_is_sampled_slab_by_slab_as_in_one_piece(small_pieces: None) -> None:
    grid = random_grid(3, low=12, high=16)
    transform = sitk.AffineTransform(3)
    transform.SetMatrix((1.1, 0.1, 0, -0.05, 0.95, 0.02, 0.03, 0, 1.2))
    transform.SetTranslation((3.0, -4.0, 5.0))
    whole = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, grid.size, grid.origin, grid.spacing, grid.direction
    )
    found = DisplacementField.from_transform(transform, grid).vectors
    assert np.abs(found - sitk.GetArrayFromImage(whole)).max() < 1e-4


@pytest.mark.parametrize("dimension", [2, 3])
def test_network_grids_are_filled_in_slabs_as_in_one_piece(
    dimension: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Normalised, blurred along every axis, and interpolated; on a grid that is turned."""
    own = random_grid(8, dimension=dimension, low=25, high=30)
    coarse = own.with_size([9, 7, 8][:dimension])
    turn = np.eye(dimension + 1)
    turn[:2, :2] = [[0.9, 0.2], [-0.1, 1.05]]
    turn[:-1, -1] = own.center - turn[:-1, :-1] @ own.center
    whole = to_network_grid(random_image(own, 1), coarse, turn, "percentile:5,95")
    request.getfixturevalue("small_pieces")
    parts = to_network_grid(random_image(own, 1), coarse, turn, "percentile:5,95")
    assert np.abs(parts - whole).max() < 1e-5
    assert whole.std() > 0.01
