"""Multiscale registration: the whole of it step by step with SciPy, the composition, directions, and its memory."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from geometries import random_grid, random_image
from network_cases import lively_network
from scipy.ndimage import map_coordinates

from CycleRegLib import deformation, storage
from CycleRegLib.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from CycleRegLib.deformation import Deformation
from CycleRegLib.errors import Cancelled, CycleRegWarning, InputError, OutOfMemoryError
from CycleRegLib.geometry import Grid
from CycleRegLib.methods import get_method
from CycleRegLib.networks import CycleMorphUNet, MultiscaleNetwork
from CycleRegLib.networks.inference import network_grid, predict_fields, run_network
from CycleRegLib.networks.multiscale import CPU_BATCH, GlobalFlow, area_mean, batch_size
from CycleRegLib.networks.patches import lay_patches
from CycleRegLib.networks.preparation import GridRule
from CycleRegLib.networks.settings import InferenceSettings
from CycleRegLib.optimize import Settings
from CycleRegLib.warp import warp

State = dict[str, torch.Tensor]
EXACT = InferenceSettings("float32", patch_size=32)
pytestmark = pytest.mark.filterwarnings(
    "ignore:The volume that the network works on:CycleRegLib.errors.CycleRegWarning"
)


def smooth_volume(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Values of 0..1 that change over about eight voxels."""
    coarse = torch.from_numpy(np.random.default_rng(seed).random((1, 1, *[max(2, s // 8) for s in shape])))
    return F.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0, 0].float().numpy()


def checkpoint_of(forward: State, backward: State | None = None, **config) -> Checkpoint:
    return Checkpoint(
        method="cyclemorph-multiscale",
        networks={"forward": forward, **({"backward": backward} if backward is not None else {})},
        config={"dimension": 3, **config},
        normalisation="none",
        grid=GridRule(),
        training={},
        licence="",
        metadata={"method": "cyclemorph-multiscale"},
        sha256="0" * 64,
        path=Path("weights.safetensors"),
    )


def constant_state(coarse_flow: tuple[float, ...], local_flow: tuple[float, ...]) -> State:
    """Weights whose two flows are the same everywhere, whatever the images."""
    states = []
    for flow in (coarse_flow, local_flow):
        state = {name: torch.zeros_like(value) for name, value in CycleMorphUNet().state_dict().items()}
        state["model.outconv.upconv.bias"] = torch.tensor(flow)
        states.append(state)
    return MultiscaleNetwork.joined_state(*states)


def interpolated(volume: np.ndarray, positions: np.ndarray, outside: str = "nearest") -> np.ndarray:
    """``volume`` (z, y, x) at ``positions`` (3, ...), by SciPy."""
    return map_coordinates(volume.astype(np.float64), positions, order=1, mode=outside)


def indices(shape: tuple[int, ...]) -> np.ndarray:
    return np.stack(np.meshgrid(*[np.arange(s, dtype=np.float64) for s in shape], indexing="ij"))


class TestNetwork:
    def test_weights(self) -> None:
        network = MultiscaleNetwork()
        state = network.state_dict()
        assert sum(v.numel() for v in state.values()) == 2 * 361_299
        unet = CycleMorphUNet().state_dict()
        assert set(state) == {f"{part}_network.{name}" for part in ("global", "local") for name in unet}
        other = CycleMorphUNet().state_dict()
        joined = MultiscaleNetwork.joined_state(unet, other)
        network.load_state_dict(joined, strict=True)
        assert torch.equal(network.global_network.state_dict()["model.outconv.upconv.weight"],
                           unet["model.outconv.upconv.weight"])  # fmt: skip
        assert torch.equal(network.local_network.state_dict()["model.inconv.block.block.0.weight"],
                           other["model.inconv.block.block.0.weight"])  # fmt: skip

    @pytest.mark.parametrize(
        ("full", "coarse"),
        [
            ((60, 512, 512), (60, 128, 128)),  # the paper's liver CT
            ((160, 512, 512), (160, 128, 128)),
            ((320, 512, 512), (256, 128, 128)),
            ((112, 101, 122), (112, 101, 122)),  # CT of 3 mm
            ((160, 192, 224), (160, 110, 128)),  # brains of 1 mm
            ((40, 512, 256), (40, 128, 64)),
            ((600, 4, 700), (256, 1, 128)),
        ],
    )
    def test_what_the_global_network_sees(self, full: tuple[int, ...], coarse: tuple[int, ...]) -> None:
        assert MultiscaleNetwork().global_shape(full) == coarse

    def test_its_limits_can_be_chosen(self) -> None:
        assert MultiscaleNetwork(global_size=None).global_shape((300, 512, 512)) == (300, 512, 512)
        assert MultiscaleNetwork(global_size=[None, 64, None]).global_shape((300, 128, 512)) == (300, 64, 256)
        network = MultiscaleNetwork(global_size=[None, 64, 64])
        assert MultiscaleNetwork(**network.configuration).global_shape((9, 128, 512)) == (9, 16, 64)

    def test_refusals(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="3D images, not for 2D"):
            MultiscaleNetwork(2)
        for size in ([128, 128], [0, 1, 1], [1.5, 2, 2], "128", 7):
            with pytest.raises(ValueError, match="no size for the global network"):
                MultiscaleNetwork(global_size=size)
        state = MultiscaleNetwork().state_dict()
        with pytest.raises(InputError, match="no size for the global network"):
            write_checkpoint(
                tmp_path / "a.safetensors", "ms-dirnet", {"forward": state}, {"dimension": 3, "global_size": [1]}
            )

    def test_checkpoints_of_both_methods(self, tmp_path: Path) -> None:
        """They share a network, but a file says which method it was trained for; a plain state dict fits both."""
        state = MultiscaleNetwork().state_dict()
        for method in ("cyclemorph-multiscale", "ms-dirnet"):
            write_checkpoint(tmp_path / f"{method}.safetensors", method, {"forward": state, "backward": state})
            assert read_checkpoint(tmp_path / f"{method}.safetensors").method == method
        with pytest.raises(InputError, match="belongs to the method ms-dirnet, not to cyclemorph-multiscale"):
            read_checkpoint(tmp_path / "ms-dirnet.safetensors", "cyclemorph-multiscale")
        torch.save(state, tmp_path / "plain.pth")
        assert read_checkpoint(tmp_path / "plain.pth", "ms-dirnet").method == "ms-dirnet"
        assert read_checkpoint(tmp_path / "plain.pth").method == "cyclemorph-multiscale"

    def test_the_grid_is_not_limited(self) -> None:
        large = Grid((512, 512, 160), (0.7, 0.7, 2.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
        checkpoint = checkpoint_of(constant_state((0, 0, 0), (0, 0, 0)))
        assert network_grid(large, checkpoint) == large
        assert np.prod(network_grid(large, checkpoint, max_voxels=1_000_000).size) <= 1_000_000


class TestDownsampling:
    def test_blocks_are_averaged(self) -> None:
        volume = torch.rand(6, 8, 12)
        blocks = volume.reshape(3, 2, 2, 4, 4, 3).mean(dim=(1, 3, 5))
        assert torch.allclose(area_mean(volume, (3, 2, 4)), blocks, atol=1e-6)
        assert torch.allclose(area_mean(volume, (6, 2, 4)), volume.reshape(6, 2, 4, 4, 3).mean(dim=(2, 4)), atol=1e-6)
        assert area_mean(volume, (6, 8, 12)) is volume

    def test_voxels_are_shared_where_sides_do_not_divide(self) -> None:
        line = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
        # two voxels of two and a half each: the middle one counts half for both
        expected = torch.tensor([(1 + 2 + 4 / 2) / 2.5, (4 / 2 + 8 + 16) / 2.5])
        assert torch.allclose(area_mean(line.view(5, 1, 1), (2, 1, 1)).flatten(), expected)
        assert torch.allclose(area_mean(line.view(1, 1, 5), (1, 1, 2)).flatten(), expected)

    def test_slabs_do_not_show(self, monkeypatch: pytest.MonkeyPatch) -> None:
        volume = torch.rand(31, 17, 23)
        once = area_mean(volume, (12, 9, 10))
        monkeypatch.setattr(storage, "SLAB_VOXELS", 900)
        assert torch.allclose(area_mean(volume, (12, 9, 10)), once, atol=1e-6)

    def test_a_global_flow_is_a_map_of_space(self) -> None:
        """A flow that stretches space, given in coarse voxels, is the same stretch in full ones."""
        full, coarse = (20, 36, 50), (10, 9, 20)
        ratio = np.array([f / c for f, c in zip(full, coarse)]).reshape(3, 1, 1, 1)
        centre = (np.array(full) / 2 - 0.5).reshape(3, 1, 1, 1)
        slopes = np.array([0.1, -0.05, 0.2]).reshape(3, 1, 1, 1)
        places = (indices(coarse) + 0.5) * ratio - 0.5  # coarse centres in full indices: edges coincide
        flow = torch.from_numpy((slopes * (places - centre) / ratio).astype(np.float32))[None]
        result = torch.empty((3, *full))
        GlobalFlow(flow, full).join(torch.zeros((3, *full)), slice(0, 20), "compose", result)
        expected = slopes * (
            np.clip(indices(full), places.min((1, 2, 3), keepdims=True), places.max((1, 2, 3), keepdims=True)) - centre
        )
        assert np.abs(result.numpy() - expected).max() < 1e-4


def step_by_step(network: MultiscaleNetwork, moving: np.ndarray, fixed: np.ndarray, layout, composition: str):
    """The method in plain NumPy and SciPy, float64 but for the networks, which are tested on their own."""
    shape = fixed.shape
    coarse = network.global_shape(shape)
    factors = [s // c for s, c in zip(shape, coarse)]
    assert [f * c for f, c in zip(factors, coarse)] == list(shape)

    def shrunken(volume: np.ndarray) -> torch.Tensor:
        blocks = volume.reshape(*[n for c, f in zip(coarse, factors) for n in (c, f)])
        return torch.from_numpy(blocks.mean(axis=(1, 3, 5), dtype=np.float64).astype(np.float32))[None, None]

    scale = np.array(factors).reshape(3, 1, 1, 1)
    coarse_flow = network.global_network(shrunken(moving), shrunken(fixed))[0].numpy() * scale

    def global_at(points: np.ndarray) -> np.ndarray:
        return np.stack([interpolated(c, (points + 0.5) / scale - 0.5) for c in coarse_flow])

    points = indices(shape)
    padded = np.pad(moving, 1)  # fades to zero within a voxel outside
    warped = interpolated(padded, points + global_at(points) + 1, outside="constant").astype(np.float32)
    upper, lower = np.zeros((3, *shape)), np.zeros(shape)
    for corner in product(*layout.starts):
        box = tuple(slice(c, c + p) for c, p in zip(corner, layout.patch))
        flow = network.local_network(*[torch.from_numpy(v[box].copy())[None, None] for v in (warped, fixed)])[0].numpy()
        lines = [np.sin(math.pi * (np.arange(p) + 0.5) / p) ** 2 for p in layout.patch]
        weight = lines[0][:, None, None] * lines[1][:, None] * lines[2]
        upper[(slice(None), *box)] += weight * flow
        lower[box] += weight
    local = upper / lower
    return local + global_at(points + local if composition == "compose" else points), local


class TestFlow:
    @pytest.mark.parametrize("composition", ["compose", "add"])
    def test_equals_the_method_step_by_step(self, composition: str, monkeypatch: pytest.MonkeyPatch) -> None:
        shape = (48, 64, 80)
        network = lively_network("cyclemorph-multiscale", 3, global_size=[48, 32, 40])
        moving, fixed = smooth_volume(shape, 1), smooth_volume(shape, 2)
        layout = network.lay_patches(shape, EXACT)
        assert layout.count > 20
        expected, local = step_by_step(network, moving, fixed, layout, composition)
        assert np.abs(local).mean() > 0.2
        assert np.abs(expected - local).mean() > 0.2
        monkeypatch.setattr(storage, "SLAB_VOXELS", 30_000)
        monkeypatch.setattr(storage, "MAPPED_BYTES", 30_000)
        settings = InferenceSettings("float32", 32, composition=composition)
        checkpoint = checkpoint_of(network.state_dict(), global_size=[48, 32, 40])
        forward, _ = run_network(checkpoint, fixed, moving, settings=settings)
        assert np.abs(forward.numpy() - expected).max() < 2e-3
        other = step_by_step(network, moving, fixed, layout, {"compose": "add", "add": "compose"}[composition])[0]
        assert np.abs(forward.numpy() - other).max() > 0.05

    def test_both_directions(self) -> None:
        """One pair of networks is run with the images exchanged; two pairs are each run once."""
        fixed, moving = smooth_volume((40, 40, 40), 1), smooth_volume((40, 40, 40), 2)
        states = [lively_network("ms-dirnet", seed).state_dict() for seed in (1, 2)]
        single = checkpoint_of(states[0])
        forward, backward = run_network(single, fixed, moving, settings=EXACT)
        exchanged = run_network(single, moving, fixed, settings=EXACT)
        assert torch.equal(forward, exchanged[1])
        assert torch.equal(backward, exchanged[0])
        assert (forward - backward).abs().max() > 0.1
        both = run_network(checkpoint_of(*states), fixed, moving, settings=EXACT)
        assert torch.equal(both[0], forward)
        assert torch.equal(both[1], run_network(checkpoint_of(states[1]), fixed, moving, settings=EXACT)[1])

    def test_as_a_module(self) -> None:
        network = lively_network("cyclemorph-multiscale")
        moving, fixed = (
            torch.from_numpy(np.stack([smooth_volume((40, 44, 36), s + i) for i in (0, 5)]))[:, None] for s in (1, 2)
        )
        flow = network(moving, fixed)
        assert flow.shape == (2, 3, 40, 44, 36)
        settings = InferenceSettings("float32")
        for i in range(2):
            alone, _ = run_network(
                checkpoint_of(network.state_dict()), fixed[i, 0].numpy(), moving[i, 0].numpy(), settings=settings
            )
            assert torch.allclose(flow[i], alone, atol=1e-5)

    def test_bfloat16_agrees(self) -> None:
        fixed, moving = smooth_volume((48, 48, 48), 1), smooth_volume((48, 48, 48), 2)
        checkpoint = checkpoint_of(lively_network("cyclemorph-multiscale", 4).state_dict())
        full = run_network(checkpoint, fixed, moving, settings=EXACT)[0]
        half = run_network(checkpoint, fixed, moving, settings=InferenceSettings("bfloat16", 32))[0]
        assert 0 < float((half - full).abs().mean()) < 0.05

    def test_progress_comes_for_every_batch_and_can_end_the_work(self) -> None:
        fixed, moving = smooth_volume((64, 64, 64), 1), smooth_volume((64, 64, 64), 2)
        checkpoint = checkpoint_of(constant_state((0, 0, 0), (0, 0, 0)))
        seen: list[float] = []
        run_network(checkpoint, fixed, moving, progress=lambda stage, part: seen.append(part), settings=EXACT)
        assert seen[0] == 0
        assert seen[-1] == 1
        assert seen == sorted(seen)
        assert len(seen) >= 2 * 3 * math.ceil(9 / CPU_BATCH)  # both directions, three rows of nine patches
        assert max(b - a for a, b in zip(seen, seen[1:])) < 0.15

        def stop(stage: str, part: float) -> None:
            if part > 0.3:
                raise Cancelled

        with pytest.raises(Cancelled):
            run_network(checkpoint, fixed, moving, progress=stop, settings=EXACT)

    def test_images_that_do_not_suit_the_weights(self) -> None:
        checkpoint = checkpoint_of(lively_network("cyclemorph-multiscale").state_dict())
        arrays = np.zeros((40, 40, 40), np.float32), np.full((40, 40, 40), np.inf, np.float32)
        with pytest.raises(InputError, match="NaN or infinite displacements"):
            run_network(checkpoint, *arrays, settings=EXACT)

    def test_patches_at_a_time(self) -> None:
        assert batch_size("cpu", lay_patches((64, 64, 64), EXACT, 16)) == CPU_BATCH


class TestComposition:
    """Global G and local L, smooth and of several voxels, as stub networks give them."""

    shape = (48, 52, 56)
    coarse = (24, 26, 28)

    @staticmethod
    def wave(shape: tuple[int, ...], length: float, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        x = indices(shape) / np.array(shape).reshape(3, 1, 1, 1)
        return np.stack(
            [length * np.sin(2 * (x * rng.normal(0, 1, (3, 1, 1, 1))).sum(0) + rng.random()) for _ in range(3)]
        )

    def flow(self, moving: np.ndarray, composition: str) -> tuple[torch.Tensor, np.ndarray, np.ndarray, list]:
        network = MultiscaleNetwork(global_size=list(self.coarse))
        small, local = self.wave(self.coarse, 2.0, 1), self.wave(self.shape, 3.0, 2)
        inputs = []
        layout = network.lay_patches(self.shape, InferenceSettings(patch_size=64))

        def run(which, m: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
            inputs.append((which, m))
            if which is network.global_network:
                return torch.from_numpy(small.astype(np.float32))[None]
            padded = np.pad(local, [(0, 0), *[(0, p - s) for p, s in zip(layout.patch, self.shape)]])
            return torch.from_numpy(padded.astype(np.float32))[None]

        found = network.flow(torch.from_numpy(moving), torch.zeros(self.shape), layout, run, composition)
        return found, small * 2, local, inputs

    def global_at(self, big: np.ndarray, points: np.ndarray) -> np.ndarray:
        return np.stack([interpolated(c, (points + 0.5) / 2 - 0.5) for c in big])

    def test_points_go_through_the_local_map_first(self) -> None:
        found, big, local, _ = self.flow(smooth_volume(self.shape, 3), "compose")
        x = indices(self.shape)
        after_local = x + local
        assert np.abs(x + found.numpy() - (after_local + self.global_at(big, after_local))).max() < 1e-3
        other = x + self.global_at(big, x)
        swapped = other + np.stack([interpolated(c, other) for c in local])
        assert np.abs(x + found.numpy() - swapped).max() > 0.3

    def test_addition_is_the_sum(self) -> None:
        found, big, local, _ = self.flow(smooth_volume(self.shape, 3), "add")
        assert np.abs(found.numpy() - (local + self.global_at(big, indices(self.shape)))).max() < 1e-3

    def test_warping_once_equals_warping_twice(self) -> None:
        """The local network saw the image warped by G; that image warped by L is the image warped once."""
        ramps = indices(self.shape)
        inner = (0, 0, slice(8, -8), slice(8, -8), slice(8, -8))
        for image in (ramps[0] * 2 - ramps[1] + 0.5 * ramps[2], smooth_volume(self.shape, 3)):
            image = image.astype(np.float32)
            found, _, local, inputs = self.flow(image, "compose")
            shown = next(m for which, m in inputs if m.shape[2:] == (48, 64, 64))[..., :52, :56]
            twice = warp(shown, torch.from_numpy(local.astype(np.float32))[None])[inner]
            once = warp(torch.from_numpy(image)[None, None], found[None])[inner]
            added = warp(torch.from_numpy(image)[None, None], self.flow(image, "add")[0][None])[inner]
            if image.max() > 2:  # linear images are interpolated without error, so there both are equal
                assert (twice - once).abs().max() < 1e-2
                assert (twice - added).abs().max() > 0.3
            else:  # others blur when they are warped twice
                assert (twice - once).abs().mean() < 0.3 * (twice - added).abs().mean()


class TestFields:
    @pytest.mark.parametrize("composition", ["compose", "add"])
    def test_constant_flows_add_up_to_the_right_vector(self, composition: str) -> None:
        """On unlike oblique grids with an affine map between; global voxels are larger than the image's."""
        fixed, moving = (random_image(random_grid(seed, low=40, high=48), seed) for seed in (3, 4))
        matrix = np.eye(4)
        matrix[:3, :3] += np.random.default_rng(0).normal(0, 0.1, (3, 3))
        matrix[:3, 3] = Grid.of(moving).center - matrix[:3, :3] @ Grid.of(fixed).center
        states = constant_state((1.0, 0.5, -0.25), (0.5, -2.0, 0.75)), constant_state((0.5, 0.0, 1.0), (1.0, 1.0, 0.0))
        checkpoint = checkpoint_of(*states, global_size=[20, 20, 20])
        settings = InferenceSettings("float32", 32, composition=composition)
        forward, backward = predict_fields(checkpoint, fixed, moving, matrix, settings=settings)
        grid = Grid.of(fixed)
        coarse = MultiscaleNetwork(global_size=[20, 20, 20]).global_shape(grid.shape)
        ratio = np.array([f / c for f, c in zip(grid.shape, coarse)])
        shifts = []
        for coarse_flow, local_flow in (((1.0, 0.5, -0.25), (0.5, -2.0, 0.75)), ((0.5, 0.0, 1.0), (1.0, 1.0, 0.0))):
            voxels = (np.array(coarse_flow) * ratio + np.array(local_flow))[::-1]
            start = np.array(fixed.TransformContinuousIndexToPhysicalPoint([2.0, 3.0, 4.0]))
            shifts.append(
                np.array(fixed.TransformContinuousIndexToPhysicalPoint((voxels + [2, 3, 4]).tolist())) - start
            )
        p = grid.points()
        assert np.abs(forward.vectors - ((p + shifts[0]) @ matrix[:3, :3].T + matrix[:3, 3] - p)).max() < 1e-3
        q = Grid.of(moving).points()
        inverse = np.linalg.inv(matrix)
        assert np.abs(backward.vectors - (q @ inverse[:3, :3].T + inverse[:3, 3] + shifts[1] - q)).max() < 1e-3

    def test_a_volume_smaller_than_a_patch_is_said(self) -> None:
        image = random_image(random_grid(5, low=20, high=24), 1)
        checkpoint = checkpoint_of(constant_state((0, 0, 0), (0, 0, 0)))
        with pytest.warns(CycleRegWarning, match="smaller than a patch of 64x64x64"):
            predict_fields(checkpoint, image, image)

    def test_every_network_says_when_zeros_fill_up_a_thin_volume(self) -> None:
        arrays = np.zeros((9, 20, 12), np.float32), np.zeros((9, 20, 12), np.float32)
        network = get_method("cyclemorph").build_network()
        checkpoint = Checkpoint(
            "cyclemorph", {"forward": network.state_dict()}, network.configuration, "none", GridRule(), {}, "", {}, "",
            Path("a.pth"),
        )  # fmt: skip
        with pytest.warns(CycleRegWarning, match="only 9 voxels along z, 12 voxels along x, but it is made for 16"):
            run_network(checkpoint, *arrays)

    def test_deep_image_of_few_pixels(self) -> None:
        """Nothing depends on which side is the longest."""
        image = sitk.GetImageFromArray(np.random.default_rng(0).random((90, 5, 40), dtype=np.float32))
        checkpoint = checkpoint_of(constant_state((0.0, 0.0, 2.0), (0.0, 0.0, -0.5)), global_size=[45, 20, 20])
        forward, _ = predict_fields(checkpoint, image, image, settings=EXACT)
        # the longer side of a slice is halved, so the global flow counts double
        assert np.abs(forward.vectors - [3.5, 0.0, 0.0]).max() < 1e-4


class TestFallbacks:
    """Memory that ends beyond what fewer patches at a time can mend."""

    @staticmethod
    def run(monkeypatch: pytest.MonkeyPatch, device: str, enough: int) -> list[tuple[str, int | None]]:
        """The attempts that are made, by device and limit of voxels, until the ``enough``-th goes well."""
        image = random_image(random_grid(5, low=20, high=24), 1)
        attempts: list[tuple[str, int | None]] = []

        def scarce(weights, fixed, moving, matrix, where, progress, max_voxels, settings, masks):
            attempts.append((str(where), max_voxels))
            if len(attempts) < enough:
                raise RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB)")
            return "forward", "backward"

        monkeypatch.setattr(deformation, "predict_fields", scarce)
        job = Deformation(
            image, image, None, None, np.eye(4), None, get_method("ms-dirnet"), checkpoint_of({}), 0, Settings()
        )  # fmt: skip
        assert job.run_with_fallbacks(torch.device(device), lambda *_: None)[:2] == ("forward", "backward")
        assert str(job.device_used) == attempts[-1][0]
        return attempts

    def test_networks_go_to_the_cpu_before_anything_is_made_coarser(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.warns(CycleRegWarning, match="Memory ran out on mps; trying again on cpu"):
            assert self.run(monkeypatch, "mps", 2) == [("mps", None), ("cpu", None)]

    def test_then_they_see_fewer_voxels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.warns(CycleRegWarning, match="trying again with 25% of the voxels"):
            attempts = self.run(monkeypatch, "mps", 3)
        voxels = np.prod(random_grid(5, low=20, high=24).size)
        assert attempts == [("mps", None), ("cpu", None), ("cpu", int(voxels / 4))]
        with pytest.warns(CycleRegWarning):
            assert self.run(monkeypatch, "cpu", 2) == [("cpu", None), ("cpu", int(voxels / 4))]

    def test_then_there_is_one_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.warns(CycleRegWarning), pytest.raises(OutOfMemoryError, match="every device and resolution"):
            self.run(monkeypatch, "cpu", 9)


MEASURED = """
    import resource, sys
    import torch
    from CycleRegLib import deformation, storage
    from CycleRegLib.networks.multiscale import MultiscaleNetwork
    from CycleRegLib.networks.settings import InferenceSettings

    depth = int(sys.argv[1])
    torch.set_num_threads(1)
    storage.MAPPED_BYTES = 2**20
    network = MultiscaleNetwork(global_size=[64, 32, 32])
    shape = (depth, 192, 192)
    layout = network.lay_patches(shape, InferenceSettings(patch_size=32, patch_overlap=(0.25, 0.25, 0.25)))
    images = [torch.from_numpy(storage.empty(shape)) for _ in range(2)]
    for image in images:
        for part in storage.slabs(shape, image):
            image[part] = 1.0
    network.flow(*images, layout, lambda net, m, f: 0.1 * m.expand(-1, 3, -1, -1, -1))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is measured as Linux does")
def test_memory_does_not_grow_with_depth() -> None:
    """Twelve times the slices, whose flow alone takes 160 MB more, in the same memory."""
    peaks = []
    for depth in ("32", "400"):
        command = [sys.executable, "-c", textwrap.dedent(MEASURED), depth]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) * 1024)
    assert peaks[1] - peaks[0] < 20e6
