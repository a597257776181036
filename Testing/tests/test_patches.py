"""Patches: where they lie, and that their flows are blended without seams, gaps or memory for the whole volume."""

from __future__ import annotations

import math
import warnings
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from CycleRegLib.errors import CycleRegWarning, InputError
from CycleRegLib.networks.patches import PatchLayout, blended_flow, lay_patches
from CycleRegLib.networks.settings import PAPER_OVERLAP, InferenceSettings, parse_overlap

overlaps = st.sampled_from([0.0, 0.25, 0.5, 0.6, 0.75, 0.875])


def layout_of(shape: tuple[int, ...], side: int = 32, overlap: tuple[float, ...] = (0.5,) * 3) -> PatchLayout:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CycleRegWarning)
        return lay_patches(shape, InferenceSettings(patch_size=side, patch_overlap=overlap), 16)


def whole(layout: PatchLayout, moving: torch.Tensor, fixed: torch.Tensor, estimate, batch: int = 1) -> torch.Tensor:
    """The blended flow in one piece; checks that slabs come in order and without gaps."""
    parts, expected = [], 0
    for part, flow in blended_flow(layout, lambda rows: moving[rows], fixed, estimate, batch):
        assert part.start == expected
        expected = part.stop
        parts.append(flow.clone())
    assert expected == layout.shape[0]
    return torch.cat(parts, dim=1)


class NumberedPatches:
    """A stub network: patch k gives the constant flow values[k], in whatever batches patches come."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.values = torch.rand((count, 3), generator=torch.Generator().manual_seed(seed)) * 10 - 5
        self.seen = 0

    def __call__(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        chosen = self.values[self.seen : self.seen + len(moving)]
        self.seen += len(moving)
        return chosen.view(-1, 3, 1, 1, 1).expand(-1, 3, *moving.shape[2:])


class TestLayout:
    @given(st.tuples(*[st.integers(5, 150)] * 3), st.tuples(*[overlaps] * 3), st.sampled_from([16, 32, 48]))
    @settings(max_examples=60, deadline=None)
    def test_every_voxel_is_covered_and_its_weights_add_up_to_one(self, shape, overlap, side) -> None:
        layout = layout_of(shape, side, overlap)
        for length, patch, starts, weights, share in zip(
            shape, layout.patch, layout.starts, layout.weights, overlap
        ):  # fmt: skip
            assert patch % 16 == 0
            assert patch <= side
            assert starts[0] == 0
            assert starts[-1] == max(0, length - patch)
            assert all(0 < b - a <= max(1, round(patch * (1 - share))) for a, b in zip(starts, starts[1:]))
            total = torch.zeros(max(length, patch))
            for start, weight in zip(starts, weights):
                assert (weight > 0).all()
                total[start : start + patch] += weight
            assert torch.allclose(total, torch.ones(()), atol=1e-6)

    def test_the_papers_overlap_takes_sixteen_times_as_many_patches_as_the_default(self) -> None:
        assert parse_overlap("paper") == PAPER_OVERLAP == (7 / 8, 3 / 4, 3 / 4)
        ours, papers = (layout_of((2000,) * 3, 64, o).count for o in ((0.5,) * 3, PAPER_OVERLAP))
        assert 14 < papers / ours < 17

    def test_weights_fade_at_inner_borders_and_not_at_the_volumes(self) -> None:
        weights = layout_of((64, 64, 64)).weights[0]
        assert weights.shape == (3, 32)
        assert weights[0, 0] == weights[2, -1] == 1
        assert max(weights[0, -1], weights[1, 0], weights[1, -1], weights[2, 0]) < 0.01

    def test_small_volumes_get_smaller_patches_with_a_warning(self) -> None:
        chosen = InferenceSettings(patch_size=64)
        with pytest.warns(
            CycleRegWarning, match=r"100x90x40 voxels.*64x64x64.*64x64x48, filled up with zeros, are used"
        ):
            layout = lay_patches((40, 90, 100), chosen, 16)
        assert layout.patch == (48, 64, 64)
        assert layout.starts[0] == (0,)
        with pytest.warns(CycleRegWarning, match="patches of 64x64x48 are used"):
            lay_patches((48, 90, 100), chosen, 16)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            lay_patches((64, 90, 100), chosen, 16)

    def test_sizes_that_do_not_suit_the_network(self) -> None:
        with pytest.warns(CycleRegWarning, match="Patches of 32 voxels a side are used instead of 40"):
            assert lay_patches((64, 64, 64), InferenceSettings(patch_size=40), 16).patch == (32, 32, 32)
        with pytest.raises(
            InputError, match=r"Patches of 40 voxels are too small.*multiples of 64.*larger --patch-size"
        ):
            lay_patches((64, 64, 64), InferenceSettings(patch_size=40), 64)
        with pytest.raises(InputError, match="given for 2 axes but the images have 3"):
            lay_patches((64, 64, 64), InferenceSettings(patch_overlap=(0.5, 0.5)), 16)


class TestBlending:
    @pytest.mark.parametrize("shape", [(70, 64, 50), (32, 100, 40), (20, 33, 64)])
    @pytest.mark.parametrize("overlap", [(0.5, 0.5, 0.5), (0.75, 0.5, 0.25), (0.0, 0.875, 0.6)])
    def test_equals_the_weighted_mean_of_all_patches(self, shape, overlap) -> None:
        layout = layout_of(shape, 32, overlap)
        rng = np.random.default_rng(1)
        flows = rng.normal(0, 3, (layout.count, 3, *layout.patch)).astype(np.float32)
        upper, lower = np.zeros((3, *[s + 32 for s in shape])), np.zeros([s + 32 for s in shape])
        for corner, flow in zip(product(*layout.starts), flows):
            weight = 1.0
            for axis, side in enumerate(layout.patch):
                line = np.sin(math.pi * (np.arange(side) + 0.5) / side) ** 2
                weight = weight * line.reshape([-1 if a == axis else 1 for a in range(3)])
            box = tuple(slice(c, c + p) for c, p in zip(corner, layout.patch))
            upper[(slice(None), *box)] += weight * flow
            lower[box] += weight
        inside = tuple(slice(0, s) for s in shape)
        expected = upper[(slice(None), *inside)] / lower[inside]
        given_out = iter(torch.from_numpy(flows))
        found = whole(
            layout, torch.zeros(shape), torch.zeros(shape), lambda m, f: torch.stack([next(given_out) for _ in m]), 3
        )
        assert found.shape == (3, *shape)
        assert np.abs(found.numpy() - expected).max() < 1e-4

    @pytest.mark.parametrize("overlap", [0.5, 0.75, 0.25])
    def test_flows_that_differ_from_patch_to_patch_leave_no_jump(self, overlap: float) -> None:
        """Constant patches, ten voxels apart: the blended flow changes no faster than the window allows."""
        layout = layout_of((80, 75, 64), 32, (overlap,) * 3)
        stub = NumberedPatches(layout.count)
        flow = whole(layout, torch.zeros(layout.shape), torch.zeros(layout.shape), stub, 4)
        assert stub.seen == layout.count
        assert flow.amax() - flow.amin() > 5
        # The steepest the share of a patch can be: the window's own slope is pi / 32 a voxel; where patches share few
        # voxels the change happens within these.
        steepest = 10 * math.pi / min(32, 2 * 32 * overlap)
        for axis in (1, 2, 3):
            assert flow.diff(dim=axis).abs().max() < steepest
        # Without the window there would be jumps of up to ten voxels; with it none is larger than its neighbours'.
        assert flow.diff(dim=3).diff(dim=3).abs().max() < steepest / 2

    @given(st.integers(0, 1000), st.tuples(*[overlaps] * 3), st.integers(1, 5))
    @settings(max_examples=15, deadline=None)
    def test_a_flow_that_depends_on_the_images_alone_is_reproduced(self, seed, overlap, batch) -> None:
        """Voxel by voxel, wherever the patches lie and however they come in batches."""
        rng = np.random.default_rng(seed)
        shape = tuple(int(v) for v in rng.integers(10, 70, 3))
        moving, fixed = torch.from_numpy(rng.random((2, *shape), dtype=np.float32))

        def pointwise(m: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
            return torch.cat([5 * m - 2, m - 3 * f, 7 * m * f], dim=1)

        found = whole(layout_of(shape, 32, overlap), moving, fixed, pointwise, batch)
        assert torch.allclose(found, pointwise(moving[None, None], fixed[None, None])[0], atol=2e-6)

    def test_voxels_beyond_a_small_volume_are_zeros(self) -> None:
        seen = []

        def look(m: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
            seen.append((m, f))
            return torch.zeros((len(m), 3, *m.shape[2:]))

        moving, fixed = torch.rand(2, 20, 40, 33) + 1
        whole(layout_of((20, 40, 33)), moving, fixed, look)
        for m, f in seen:
            assert m.shape == f.shape == (1, 1, 32, 32, 32)
            assert (m[0, 0, :20] >= 1).all()
            assert not m[0, 0, 20:].any()
            assert not f[0, 0, 20:].any()

    def test_moving_slices_are_asked_for_once_each_and_in_order(self) -> None:
        asked = []
        layout = layout_of((150, 40, 40), 32, (0.75, 0.5, 0.5))

        def rows(part: slice) -> torch.Tensor:
            asked.extend(range(part.start, part.stop))
            assert part.stop - part.start <= 32
            return torch.zeros((part.stop - part.start, 40, 40))

        done = []
        stub = NumberedPatches(layout.count)
        for part, flow in blended_flow(layout, rows, torch.zeros(layout.shape), stub, 2, done.append):
            assert flow.shape[1] == part.stop - part.start <= 32
        assert asked == list(range(150))
        assert done[-1] == layout.count
        assert done == sorted(done)


class TestMemory:
    """A device that takes few patches at a time."""

    layout = layout_of((40, 80, 60))
    images = torch.zeros((2, 40, 80, 60))

    def estimate(self, most: int):
        stub, batches = NumberedPatches(self.layout.count), []

        def scarce(m: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
            batches.append(len(m))
            if len(m) > most:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return stub(m, f)

        return scarce, batches

    def test_fewer_at_a_time_give_the_same_flow(self) -> None:
        plain = whole(self.layout, *self.images, self.estimate(99)[0], 7)
        scarce, batches = self.estimate(2)
        with pytest.warns(CycleRegWarning, match="Memory ran out; going on with") as caught:
            flow = whole(self.layout, *self.images, scarce, 7)
        assert torch.equal(flow, plain)
        assert [str(w.message).split("with ")[1] for w in caught] == [
            "3 instead of 7 patches at a time.",
            "1 instead of 3 patches at a time.",
        ]
        assert set(batches[2:]) == {1}

    def test_when_not_even_one_fits_the_error_is_passed_on(self) -> None:
        scarce, batches = self.estimate(0)
        with pytest.warns(CycleRegWarning), pytest.raises(RuntimeError, match="CUDA out of memory"):
            whole(self.layout, *self.images, scarce, 4)
        assert batches == [4, 2, 1]

    def test_other_errors_are_not_taken_for_memory(self) -> None:
        def broken(m: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("a bug")

        with pytest.raises(RuntimeError, match="a bug"):
            whole(self.layout, *self.images, broken, 4)
