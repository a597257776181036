"""VTN's sub-networks and cascades against references written step by step in NumPy, SciPy and SimpleITK."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from network_cases import lively_network
from scipy.ndimage import map_coordinates
from torch import nn

from CycleRegLib import checkpoint_making
from CycleRegLib.checkpoints import read_checkpoint, write_checkpoint
from CycleRegLib.errors import InputError
from CycleRegLib.methods import get_method
from CycleRegLib.networks.inference import load_networks, run_network
from CycleRegLib.networks.settings import InferenceSettings
from CycleRegLib.networks.vtn import VTN, parse_cascade
from CycleRegLib.networks.vtn_affine import AffineSubnetwork, affine_flow, resized

State = dict[str, torch.Tensor]
EXACT = InferenceSettings("float32")


def lively(cascade: str, seed: int = 0, channels: int = 2, size: int | list[int] = 64, inputs: int = 2) -> VTN:
    """A small cascade with random weights that keep activations of order one and give flows of some voxels."""
    network = VTN(cascade=cascade, channels=channels, size=size, in_channels=inputs).eval()
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in network.state_dict().items():
        if name.endswith("bias"):
            state[name] = torch.randn(value.shape, generator=generator) * 0.1
            continue
        # Eight of the 4^3 weights of a transposed kernel meet in one voxel.
        fan_in = value[:, 0].numel() / 8 if ".raise_" in name or ".head." in name else value[0].numel()
        scale = (1.9 / fan_in) ** 0.5
        scale *= 0.2 if name.endswith("matrix.weight") else 0.1 if name.endswith("head.weight") else 1.0
        state[name] = torch.randn(value.shape, generator=generator) * scale
    network.load_state_dict(state, strict=True)
    return network


def smooth_pair(shape: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(2, 1, *[max(2, side // 6) for side in shape], generator=generator)
    moving, fixed = F.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[:, None]
    return moving, fixed


# ---------------------------------------------------------------------- the reference, in float64


def act(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x >= 0, x, 0.1 * x)


def convolved(x: torch.Tensor, state: State, name: str, stride: int) -> torch.Tensor:
    """A convolution with "same" padding: one voxel on both sides at stride 1, only at the end at stride 2."""
    x = F.pad(x, (1, 1) * 3 if stride == 1 else (0, 1) * 3)
    return F.conv3d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride=stride)


def raised(x: torch.Tensor, state: State, name: str) -> torch.Tensor:
    """A transposed k4 s2 convolution, by its definition: zeros between the voxels, then the mirrored kernel."""
    stuffed = torch.zeros(*x.shape[:2], *[2 * side for side in x.shape[2:]], dtype=x.dtype)
    stuffed[:, :, ::2, ::2, ::2] = x
    kernel = state[f"{name}.weight"].transpose(0, 1).flip(2, 3, 4)
    return F.conv3d(F.pad(stuffed, (2, 1) * 3), kernel)


def encoded(x: torch.Tensor, state: State, prefix: str) -> list[torch.Tensor]:
    found = []
    for level in range(1, 7):
        x = act(convolved(x, state, f"{prefix}.level{level}.halve", 2))
        if level >= 3:
            x = act(convolved(x, state, f"{prefix}.level{level}.keep", 1))
        found.append(x)
    return found


def reference_dense(pair: torch.Tensor, state: State, prefix: str, cascades: int) -> torch.Tensor:
    shape = pair.shape[2:]
    pair = F.pad(pair, [amount for side in reversed(shape) for amount in (0, -side % 64)])
    e1, e2, e3, e4, e5, e6 = encoded(pair, state, f"{prefix}.encoder")
    x = e6
    for level, skip in ((6, e5), (5, e4), (4, e3), (3, e2), (2, e1)):
        name = f"{prefix}.up{level}"
        prediction = raised(convolved(x, state, f"{name}.predict", 1), state, f"{name}.raise_prediction")
        features = act(raised(x, state, f"{name}.raise_features"))
        x = torch.cat([skip, features, prediction], 1)
    flow = raised(x, state, f"{prefix}.head") * 20 / cascades
    return flow[:, :, : shape[0], : shape[1], : shape[2]]


def reference_affine(pair: torch.Tensor, state: State, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """A and b of a pair of the sub-network's own size: the last convolutions are one scalar product each."""
    features = encoded(pair, state, f"{prefix}.encoder")[-1][0]
    numbers = [
        [float((kernel * features).sum()) for kernel in state[f"{prefix}.{name}.weight"]]
        for name in ("matrix", "offset")
    ]
    return np.array(numbers[0]).reshape(3, 3), np.array(numbers[1])


def from_centre(shape: tuple[int, ...]) -> np.ndarray:
    """(3, D, H, W) voxel indices less those of the centre."""
    return np.stack(np.meshgrid(*[np.arange(side) - (side - 1) / 2 for side in shape], indexing="ij"))


def applied(matrix: np.ndarray, offset: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.einsum("ij,jdhw->idhw", matrix, from_centre(shape)) + offset[:, None, None, None]


def warped(volume: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """volume(x + flow(x)), trilinear, the nearest voxel's value outside; of a scalar volume or of each channel."""
    positions = np.stack(np.meshgrid(*[np.arange(side) for side in flow.shape[1:]], indexing="ij")) + flow
    if volume.ndim == 3:
        return map_coordinates(volume, positions, order=1, mode="nearest")
    return np.stack([map_coordinates(channel, positions, order=1, mode="nearest") for channel in volume])


def reference_cascade(network: VTN, moving: torch.Tensor, fixed: torch.Tensor) -> list[dict[str, np.ndarray]]:
    state = {name: value.double() for name, value in network.state_dict().items()}
    original, current = moving[0, 0].double().numpy(), moving.double()
    composed, found = None, []
    for index, letter in enumerate(network.cascade):
        pair = torch.cat([fixed.double(), current], 1)
        if letter == "A":
            flow = applied(*reference_affine(pair, state, f"subnetworks.{index}"), tuple(moving.shape[2:]))
        else:
            flow = reference_dense(pair, state, f"subnetworks.{index}", network.cascade.count("D"))[0].numpy()
        composed = flow if composed is None else warped(composed, flow) + flow
        image = warped(original, composed)
        found.append({"flow": flow, "composed": composed, "warped": image})
        current = torch.from_numpy(image)[None, None]
    return found


def constant_affine(matrix: np.ndarray, offset: np.ndarray, cascade: str = "A", size: int | list[int] = 64) -> VTN:
    """A cascade whose affine sub-network gives this map in voxels of its own grid, whatever the images."""
    network = VTN(cascade=cascade, channels=2, size=size).eval()
    affine = network.subnetworks[0]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        affine.encoder.level6.keep.bias[0] = 1.0
        for head, values in ((affine.matrix, matrix.ravel()), (affine.offset, offset)):
            head.weight[:, 0] = torch.from_numpy(values)[:, None, None, None] / head.weight[0, 0].numel()
    return network


class Given(nn.Module):
    """In a sub-network's place: a flow that is given, and a memory of what came in."""

    def __init__(self, flow: np.ndarray) -> None:
        super().__init__()
        self.flow = torch.from_numpy(flow)[None].float()
        self.seen: list[torch.Tensor] = []

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        self.seen.append(pair)
        return self.flow


def waves(shape: tuple[int, ...], seed: int, amplitude: float = 2.0) -> np.ndarray:
    """A smooth flow that moves nothing across the border."""
    rng = np.random.default_rng(seed)
    unit = np.stack(np.meshgrid(*[np.linspace(0, 1, side) for side in shape], indexing="ij"))
    inside = np.sin(np.pi * unit).prod(0)
    return np.stack(
        [amplitude * inside * np.sin(2 * np.pi * (rng.normal(0, 0.6, 3) @ unit.reshape(3, -1))).reshape(shape) + inside
         for _ in range(3)]
    )  # fmt: skip


# ---------------------------------------------------------------------- sub-networks


class TestSubnetworks:
    @pytest.mark.parametrize(
        ("cascade", "parameters"),
        [("D", 28_252_203), ("A", 14_166_288), ("ADDD", 14_166_288 + 3 * 28_252_203), ("DD", 2 * 28_252_203)],
    )
    def test_parameter_count_is_the_published_one(self, cascade: str, parameters: int) -> None:
        with torch.device("meta"):
            network = VTN(cascade=cascade)
        assert sum(p.numel() for p in network.parameters()) == parameters

    def test_transposed_convolutions_and_the_affine_heads_have_no_bias(self) -> None:
        biases = {n.rsplit(".", 1)[0] for n in VTN(cascade="AD", channels=1).state_dict() if n.endswith("bias")}
        kinds = {name.split(".")[-1] for name in biases}
        assert kinds == {"halve", "keep", "predict"}
        assert "subnetworks.1.up2.predict" in biases
        assert not any(".up1." in name for name in biases), "no prediction at half of the sides"

    @pytest.mark.parametrize("shape", [(64, 64, 64), (40, 65, 30)])
    def test_dense_flow_equals_step_by_step_reference(self, shape: tuple[int, ...]) -> None:
        network = lively("D", seed=1)
        moving, fixed = smooth_pair(shape, 1)
        with torch.inference_mode():
            flow = network(moving, fixed)
        truth = reference_cascade(network, moving, fixed)[0]["flow"]
        assert flow.shape == (1, 3, *shape)
        assert 0.5 < np.abs(truth).max() < 30
        assert np.abs(flow[0].numpy() - truth).max() < 1e-4
        with torch.inference_mode():
            assert np.abs(network(fixed, moving)[0].numpy() - truth).max() > 1e-2

    def test_affine_map_equals_step_by_step_reference(self) -> None:
        network = lively("A", seed=2, size=[64, 128, 64])  # x, y, z
        moving, fixed = smooth_pair((64, 128, 64), 2)
        with torch.inference_mode():
            (stage,) = network.stages(moving, fixed)
        state = {name: value.double() for name, value in network.state_dict().items()}
        matrix, offset = reference_affine(torch.cat([fixed, moving], 1).double(), state, "subnetworks.0")
        assert 0.01 < np.abs(matrix).max() < 2
        assert np.abs(offset).max() > 0.1
        assert np.abs(stage.matrix[0].numpy() - matrix).max() < 1e-5
        assert np.abs(stage.offset[0].numpy() - offset).max() < 1e-5
        assert np.abs(stage.flow[0].numpy() - applied(matrix, offset, (64, 128, 64))).max() < 1e-4

    def test_flow_counts_in_twenty_voxels_over_the_dense_subnetworks_alone(self) -> None:
        moving, fixed = smooth_pair((64, 64, 64))
        alone = lively("D", seed=4)
        dense = alone.subnetworks[0].state_dict()
        with torch.inference_mode():
            flow = alone(moving, fixed)
            for cascade, share in (("AD", 1.0), ("DDDD", 0.25), ("ADD", 0.5)):
                network = constant_affine(np.zeros((3, 3)), np.zeros(3), cascade) if "A" in cascade else lively(cascade)
                network.subnetworks[cascade.index("D")].load_state_dict(dense)
                stage = network.stages(moving, fixed)[cascade.index("D")]
                assert torch.allclose(stage.flow, share * flow, atol=1e-5)

    def test_initial_weights_have_the_published_spread(self) -> None:
        for name, value in VTN(cascade="AD", channels=8).state_dict().items():
            if name.endswith("bias"):
                assert not value.any(), name
            elif value.numel() > 5000:
                bound = (3 / value[0].numel()) ** 0.5
                assert 0.98 * bound < float(value.abs().max()) <= bound, name
                assert abs(float(value.std()) * 3**0.5 / bound - 1) < 0.05, name


# ---------------------------------------------------------------------- the affine map in space


class TestAffine:
    matrix = np.array([[0.02, -0.11, 0.05], [0.08, -0.04, 0.07], [-0.06, 0.03, 0.09]])
    offset = np.array([1.53, -2.27, 0.71])

    def test_direction_centre_and_axis_order_are_those_of_simpleitk(self) -> None:
        """The same map as a SimpleITK transform on an image of unit spacing resamples to the same picture."""
        shape = (30, 44, 37)
        scale = np.array(shape) / 64
        network = constant_affine(self.matrix * scale[None, :] / scale[:, None], self.offset / scale)
        moving, fixed = smooth_pair(shape, 3)
        with torch.inference_mode():
            (stage,) = network.stages(moving, fixed)
        assert np.allclose(stage.matrix[0].numpy(), self.matrix, atol=1e-6)
        assert np.allclose(stage.offset[0].numpy(), self.offset, atol=1e-6)
        transform = sitk.AffineTransform(3)
        transform.SetMatrix((np.eye(3) + self.matrix)[::-1, ::-1].ravel().tolist())
        transform.SetTranslation(self.offset[::-1].tolist())
        transform.SetCenter([(side - 1) / 2 for side in reversed(shape)])
        image = sitk.GetImageFromArray(moving[0, 0].numpy())
        truth = sitk.GetArrayFromImage(sitk.Resample(image, image, transform, sitk.sitkLinear, -99.0, sitk.sitkFloat32))
        inside = truth > -50
        assert 0.5 < inside.mean() < 1
        assert np.abs(stage.warped[0, 0].numpy() - truth)[inside].max() < 1e-4
        flow = stage.flow[0].numpy()
        for index in [(0, 0, 0), (29, 0, 36), (12, 43, 5)]:
            point = transform.TransformPoint([float(i) for i in reversed(index)])
            assert np.allclose(flow[(slice(None), *index)], np.array(point)[::-1] - index, atol=1e-4)

    @pytest.mark.parametrize("shape", [(64, 64, 64), (17, 150, 80), (200, 64, 40)])
    def test_the_map_is_the_same_in_space_whatever_the_voxels(self, shape: tuple[int, ...]) -> None:
        """A point at a share of the extent goes to the same share, seen from the network's grid and from the own."""
        network = constant_affine(self.matrix, self.offset)
        moving, fixed = smooth_pair(shape, 4)
        with torch.inference_mode():
            flow = network(moving, fixed)[0].numpy()
        scale = np.array(shape) / 64
        for index in np.random.default_rng(0).integers(0, shape, (20, 3)):
            seen = (index + 0.5) / scale - 0.5
            moved = seen + self.matrix @ (seen - 31.5) + self.offset
            truth = (moved + 0.5) * scale - 0.5 - index
            assert np.abs(flow[(slice(None), *index)] - truth).max() < 2e-4

    def test_an_image_of_another_size_is_seen_resampled(self) -> None:
        """The map of an image and of the same image with three times as many voxels along each axis agree."""
        network = lively("A", seed=5)
        moving, fixed = smooth_pair((64, 64, 64), 5)
        fine = [v.repeat_interleave(3, 2).repeat_interleave(3, 3).repeat_interleave(3, 4) for v in (moving, fixed)]
        with torch.inference_mode():
            (own,), (other,) = network.stages(moving, fixed), network.stages(*fine)
        assert float(own.matrix.abs().max()) > 0.01
        # The samples of each large voxel lie within its block of equal small ones.
        assert torch.allclose(own.matrix, other.matrix, atol=1e-5)
        assert torch.allclose(3 * own.offset, other.offset, atol=1e-4)

    @pytest.mark.parametrize("shape", [(64, 64, 64), (100, 50, 81), (200, 130, 90), (9, 8, 7)])
    def test_resizing_keeps_positions(self, shape: tuple[int, ...]) -> None:
        """A ramp stays a ramp over the same extent, up to half a large voxel from the border."""
        size = (64, 32, 48)
        axes = [torch.arange(side, dtype=torch.float32) for side in shape]
        ramp = (2 * axes[0][:, None, None] - 3 * axes[1][None, :, None] + axes[2][None, None, :])[None, None]
        result = resized(ramp, size)[0, 0].numpy()
        positions = [(np.arange(new) + 0.5) * old / new - 0.5 for old, new in zip(shape, size)]
        truth = 2 * positions[0][:, None, None] - 3 * positions[1][None, :, None] + positions[2][None, None, :]
        inner = tuple(
            slice(int(np.searchsorted(p, 0.5 * step)), int(np.searchsorted(p, old - 1 - 0.5 * step)))
            for p, old, step in zip(positions, shape, [old / new for old, new in zip(shape, size)])
        )
        assert result.shape == size
        assert result[inner].size > 1000
        assert np.abs(result - truth)[inner].max() < 1e-3
        assert resized(ramp, shape) is ramp

    def test_resizing_does_not_alias(self) -> None:
        stripes = torch.zeros(1, 1, 8, 8, 192)
        stripes[..., ::2] = 1.0
        assert float((resized(stripes, (8, 8, 64)) - 0.5).abs().max()) < 0.2
        plain = F.interpolate(stripes, size=(8, 8, 64), mode="trilinear")
        assert float((plain - 0.5).abs().max()) > 0.4, "what it guards against"

    def test_float32_under_autocast(self) -> None:
        """Neither the last convolutions nor the flow are rounded: these numbers have no short binary fraction."""
        network = constant_affine(self.matrix, self.offset)
        moving, fixed = smooth_pair((64, 64, 64), 6)
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            (stage,) = network.stages(moving, fixed)
            flow = network(moving, fixed)
        assert flow.dtype == torch.float32
        assert np.abs(flow[0].numpy() - applied(self.matrix, self.offset, (64, 64, 64))).max() < 1e-4
        assert np.abs(stage.warped[0, 0].numpy() - warped(moving[0, 0].numpy(), stage.flow[0].numpy())).max() < 1e-5

    def test_batches_have_a_map_each(self) -> None:
        network = lively("A", seed=7)
        pairs = [smooth_pair((64, 50, 64), seed) for seed in (7, 8)]
        with torch.inference_mode():
            single = [network(*pair) for pair in pairs]
            both = network(*(torch.cat(images) for images in zip(*pairs)))
        assert torch.allclose(torch.cat(single), both, atol=1e-5)
        assert float((both[0] - both[1]).abs().max()) > 0.1

    def test_flow_of_a_matrix_alone(self) -> None:
        flow = affine_flow(torch.eye(3)[None], torch.zeros(1, 3), (2, 3, 4))
        assert flow[0, :, 0, 0, 0].tolist() == [-0.5, -1.0, -1.5]
        assert flow[0, :, 1, 2, 3].tolist() == [0.5, 1.0, 1.5]


# ---------------------------------------------------------------------- cascades


class TestCascade:
    @pytest.mark.parametrize(
        ("cascade", "shape", "size"),
        [("ADD", (64, 64, 64), 64), ("DD", (50, 37, 70), 64), ("ADDD", (64, 64, 128), [128, 64, 64])],
    )
    def test_every_stage_equals_step_by_step_reference(
        self, cascade: str, shape: tuple[int, ...], size: int | list[int]
    ) -> None:
        network = lively(cascade, seed=11, size=size)
        moving, fixed = smooth_pair(shape, 11)
        with torch.inference_mode():
            stages = network.stages(moving, fixed)
            flow = network(moving, fixed)
        truth = reference_cascade(network, moving, fixed)
        assert [stage.kind for stage in stages] == list(cascade)
        assert [stage.matrix is not None for stage in stages] == [letter == "A" for letter in cascade]
        for stage, expected in zip(stages, truth):
            assert np.abs(expected["flow"]).max() > 0.3
            for name in ("flow", "composed", "warped"):
                assert np.abs(getattr(stage, name)[0].numpy() - expected[name]).max() < 1e-4, (stage.kind, name)
        assert torch.allclose(flow, stages[-1].composed, atol=1e-4, rtol=0)
        assert np.abs(truth[-1]["composed"] - sum(t["flow"] for t in truth)).max() > 0.1, "a sum would show"

    def test_images_of_another_size_through_the_whole_cascade(self) -> None:
        """Sides that are no multiple of the stride: the dense stages pad, the affine one keeps the true centre."""
        shape = (45, 70, 33)
        network = lively("AD", seed=12)
        moving, fixed = smooth_pair(shape, 12)
        with torch.inference_mode():
            first, second = network.stages(moving, fixed)
        flow = applied(first.matrix[0].double().numpy(), first.offset[0].double().numpy(), shape)
        assert np.abs(first.flow[0].numpy() - flow).max() < 1e-4
        image = warped(moving[0, 0].double().numpy(), flow)
        state = {name: value.double() for name, value in network.state_dict().items()}
        pair = torch.cat([fixed.double(), torch.from_numpy(image)[None, None]], 1)
        dense = reference_dense(pair, state, "subnetworks.1", 1)[0].numpy()
        assert np.abs(second.flow[0].numpy() - dense).max() < 1e-4
        assert np.abs(second.composed[0].numpy() - warped(flow, dense) - dense).max() < 1e-4

    def test_one_warp_equals_warping_step_by_step_and_points_through_the_chain(self) -> None:
        shape = (40, 44, 48)
        flows = [waves(shape, seed) for seed in (1, 2, 3)]
        network = VTN(cascade="DDD", channels=1).eval()
        for index, flow in enumerate(flows):
            network.subnetworks[index] = Given(flow)
        moving, fixed = smooth_pair(shape, 13)
        stages = network.stages(moving, fixed)
        # Images: each step on the last one's result; points: through the last flow first, into the moving image.
        image = moving[0, 0].numpy().astype(np.float64)
        grid = np.stack(np.meshgrid(*[np.arange(side) for side in shape], indexing="ij")).astype(np.float64)
        for index, stage in enumerate(stages):
            image = warped(image, flows[index])
            error = np.abs(stage.warped[0, 0].numpy() - image)
            assert error.mean() < 0.004 * (index + 1), "apart from what repeated interpolation smooths"
            points = grid.copy()
            for flow in reversed(flows[: index + 1]):
                points += np.stack([map_coordinates(channel, points, order=1, mode="nearest") for channel in flow])
            assert np.abs(stage.composed[0].numpy() - (points - grid)).max() < 0.05
        wrong = flows[0] + warped(flows[1], flows[0])
        assert np.abs(stages[1].composed[0].numpy() - wrong).max() > 0.5, "the other order would show"
        # Every sub-network saw (fixed, moving), the moving image interpolated once from the original.
        for index, subnetwork in enumerate(network.subnetworks):
            (pair,) = subnetwork.seen
            assert torch.equal(pair[:, :1], fixed)
            once = warped(moving[0, 0].numpy(), stages[index - 1].composed[0].numpy()) if index else moving[0, 0]
            assert np.abs(pair[0, 1].numpy() - np.asarray(once)).max() < 1e-5

    def test_border_values_outside(self) -> None:
        network = constant_affine(np.zeros((3, 3)), np.array([0.0, 0.0, 100.0]))
        moving, fixed = smooth_pair((64, 64, 64), 14)
        (stage,) = network.stages(moving, fixed)
        assert torch.allclose(stage.warped, moving[..., -1:].expand_as(moving), atol=1e-4)

    def test_the_last_image_is_not_warped_in_vain(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = []
        plain = VTN.__init__.__globals__["warp"]
        monkeypatch.setitem(VTN.__init__.__globals__, "warp", lambda *a, **k: calls.append(1) or plain(*a, **k))
        with torch.inference_mode():
            lively("ADD")(*smooth_pair((20, 20, 20)))
        assert len(calls) == 2

    def test_gradients_of_a_loss_on_every_stage_reach_every_weight(self) -> None:
        network = lively("ADD", seed=15)
        moving, fixed = smooth_pair((64, 64, 64), 15)
        stages = network.stages(moving, fixed)
        loss = sum((stage.warped - fixed).square().mean() + 1e-3 * stage.flow.square().mean() for stage in stages)
        (loss + stages[0].matrix.square().sum()).backward()
        assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in network.parameters())

    def test_bfloat16_agrees(self) -> None:
        network = lively("AD", seed=16, channels=4)
        moving, fixed = smooth_pair((64, 64, 64), 16)
        with torch.inference_mode():
            exact = network(moving, fixed)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                half = network(moving, fixed)
                stages = network.stages(moving, fixed)
        assert all(value.dtype == torch.float32 for s in stages for value in (s.flow, s.composed, s.warped))
        difference = (half - exact).norm(dim=1)
        assert half.dtype == torch.float32
        assert float(exact.norm(dim=1).mean()) > 0.5
        assert 0 < float(difference.mean()) < 0.05
        assert float(difference.max()) < 0.25

    def test_multichannel_images(self) -> None:
        network = lively("AD", inputs=4)
        images = torch.rand(2, 1, 2, 64, 64, 64)
        assert network(*images).shape == (1, 3, 64, 64, 64)
        assert VTN.configuration_from(network.state_dict()) == network.configuration


# ---------------------------------------------------------------------- what may be asked for


class TestConfiguration:
    @given(st.text(alphabet="AaDd B1", max_size=13) | st.from_regex(r"[Aa]?[Dd]{0,12}", fullmatch=True))
    def test_cascades(self, text: str) -> None:
        if re.fullmatch(r"[Aa]?[Dd]*", text) and 1 <= len(text) <= 10:
            assert parse_cascade(text) == text.upper()
            return
        with pytest.raises(InputError, match=r"A .affine. at most once and first, then D .dense., such as D") as one:
            parse_cascade(text)
        assert isinstance(one.value, ValueError)
        assert repr(text) in str(one.value)

    @pytest.mark.parametrize("value", [None, 3, ["D"], ""])
    def test_what_is_no_text_is_no_cascade(self, value: object) -> None:
        with pytest.raises(InputError, match="no cascade"):
            VTN(cascade=value)

    def test_ten_subnetworks_are_the_limit(self) -> None:
        with torch.device("meta"):
            assert len(VTN(cascade="a" + 9 * "d", channels=1).subnetworks) == 10
        with pytest.raises(InputError, match="10 letters"):
            VTN(cascade="A" + 10 * "D")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"size": [128, 128]}, "multiple of 64"),
            ({"size": [100, 128, 128]}, "multiple of 64"),
            ({"size": 0}, "multiple of 64"),
            ({"size": "128"}, "multiple of 64"),
            ({"channels": 0}, "channels is a positive"),
            ({"channels": 1.5}, "channels is a positive"),
            ({"in_channels": "two"}, "in_channels is a positive"),
            ({"dimension": 2}, "3D images"),
        ],
    )
    def test_what_cannot_be_built_is_one_sentence(self, arguments: dict, message: str, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=message):
            VTN(**arguments)
        with pytest.raises(InputError, match=message):
            get_method("vtn").build_network(**arguments)
        with pytest.raises(InputError, match=message):
            checkpoint_making.create(tmp_path / "a.safetensors", "vtn", arguments)
        assert not list(tmp_path.iterdir())

    def test_size_belongs_to_the_affine_subnetwork(self) -> None:
        with torch.device("meta"):
            assert VTN(cascade="AD", channels=1).configuration["size"] == [128, 128, 128]
            assert VTN(cascade="AD", channels=1, size=192).configuration["size"] == [192, 192, 192]
            network = VTN(cascade="AD", channels=1, size=(64, 128, 192))
            assert isinstance(network.subnetworks[0], AffineSubnetwork)
            assert network.subnetworks[0].matrix.weight.shape == (9, 32, 3, 2, 1)
            assert VTN(cascade="DD", channels=1, size=64).configuration["size"] is None

    @pytest.mark.parametrize("cascade", ["A", "D", "AD", "DDD", "ADDDDDDDDD"])
    def test_weights_tell_the_configuration(self, cascade: str) -> None:
        with torch.device("meta"):
            network = VTN(cascade=cascade, channels=3, size=[64, 128, 192])
        told = VTN.configuration_from(network.state_dict())
        assert told == network.configuration == json.loads(json.dumps(told))
        with torch.device("meta"):
            assert VTN(**told).state_dict().keys() == network.state_dict().keys()


# ---------------------------------------------------------------------- as a method


class TestMethod:
    def test_checkpoint_round_trip_with_a_cascade_of_its_own(self, tmp_path: Path) -> None:
        network = lively("ADD", seed=21, channels=3, size=[64, 128, 64])
        saved = write_checkpoint(tmp_path / "v.safetensors", "vtn", {"forward": network.state_dict()})
        read = read_checkpoint(tmp_path / "v.safetensors")
        assert read.method == "vtn"
        assert read.config == saved.config == network.configuration
        assert read.config["cascade"] == "ADD"
        assert read.config["size"] == [64, 128, 64]
        again = load_networks(read)["forward"]
        moving, fixed = smooth_pair((20, 30, 40), 21)
        with torch.inference_mode():
            assert torch.allclose(again(moving, fixed), network(moving, fixed), atol=1e-5)

    def test_plain_state_dicts_are_recognised(self, tmp_path: Path) -> None:
        network = lively("DD", channels=1)
        torch.save(network.state_dict(), tmp_path / "plain.pth")
        read = read_checkpoint(tmp_path / "plain.pth")
        assert (read.method, read.config) == ("vtn", network.configuration)

    def test_a_file_with_a_cascade_that_is_none_is_named(self, tmp_path: Path) -> None:
        state = lively("DD", channels=1).state_dict()
        with pytest.raises(InputError, match=r"vtn cannot have: 'DAD' is no cascade of VTN; give .* ADDD\.$"):
            write_checkpoint(tmp_path / "v.safetensors", "vtn", {"forward": state}, {"cascade": "DAD", "channels": 1})
        with pytest.raises(InputError, match=r"missing: .*subnetworks\.2"):
            write_checkpoint(tmp_path / "v.safetensors", "vtn", {"forward": state}, {"cascade": "DDD", "channels": 1})

    def test_one_cascade_runs_twice_with_the_images_exchanged(self, tmp_path: Path) -> None:
        network = lively("AD", seed=22)
        saved = write_checkpoint(tmp_path / "v.safetensors", "vtn", {"forward": network.state_dict()})
        moving, fixed = (v[0, 0].numpy() for v in smooth_pair((33, 20, 40), 22))
        passes = []
        load_networks(saved)["forward"].register_forward_hook(lambda *_: passes.append(1))
        forward, backward = run_network(saved, fixed, moving, settings=EXACT)
        assert len(passes) == 2
        images = [torch.from_numpy(v)[None, None] for v in (moving, fixed)]
        with torch.inference_mode():
            assert torch.allclose(forward, network(*images)[0], atol=1e-5)
            assert torch.allclose(backward, network(*reversed(images))[0], atol=1e-5)
        assert forward.shape == (3, 33, 20, 40)
        assert float((forward - backward).abs().max()) > 0.1


def test_precision_is_float32_unless_another_is_asked_for(tmp_path: Path) -> None:
    network = lively_network("vtn", cascade="DD", channels=2)
    checkpoint = write_checkpoint(
        tmp_path / "v.safetensors", "vtn", {"forward": network.state_dict()}, network.configuration
    )
    fixed, moving = np.random.default_rng(0).random((2, 64, 64, 64), dtype=np.float32)
    flows = {
        name: run_network(checkpoint, fixed, moving, settings=InferenceSettings(name))[0]
        for name in ("auto", "float32", "bfloat16")
    }
    assert torch.equal(flows["auto"], flows["float32"])
    assert not torch.equal(flows["bfloat16"], flows["float32"])
