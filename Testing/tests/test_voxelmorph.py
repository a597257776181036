"""VoxelMorph's networks, the integration of velocities, and files that VoxelMorph wrote, against plain references."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from network_cases import lively_network
from scipy.linalg import expm
from scipy.ndimage import gaussian_filter, map_coordinates

from CycleRegLib.checkpoints import read_checkpoint, write_checkpoint
from CycleRegLib.cli import main
from CycleRegLib.errors import InputError
from CycleRegLib.geometry import Grid
from CycleRegLib.methods import get_method
from CycleRegLib.networks import CycleMorphUNet
from CycleRegLib.networks.inference import network_grid, run_network
from CycleRegLib.networks.settings import InferenceSettings
from CycleRegLib.networks.velocity import exponential, integrate
from CycleRegLib.networks.voxelmorph import VoxelMorph

State = dict[str, torch.Tensor]

EXACT = InferenceSettings("float32")


# ---------------------------------------------------------------------- references, plainly, in float64


def conv(x: torch.Tensor, w: State, name: str, stride: int = 1) -> torch.Tensor:
    """Convolution without activation."""
    function = (F.conv2d, F.conv3d)[x.dim() - 4]
    return function(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=stride, padding=1)


def leaky(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def doubled(x: torch.Tensor) -> torch.Tensor:
    for axis in range(2, x.dim()):
        x = x.repeat_interleave(2, dim=axis)
    return x


def in_double(state: State) -> State:
    return {name: value.double() for name, value in state.items()}


def newer_reference(state: State, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
    """The newer published model (max-pooling), by its own names."""
    w = in_double(state)
    pool = (F.max_pool2d, F.max_pool3d)[moving.dim() - 4]
    x0 = leaky(conv(torch.cat([moving, fixed], 1).double(), w, "unet_model.encoder.0.0.main"))
    x1 = leaky(conv(pool(x0, 2), w, "unet_model.encoder.1.0.main"))
    x2 = leaky(conv(pool(x1, 2), w, "unet_model.encoder.2.0.main"))
    x3 = leaky(conv(pool(x2, 2), w, "unet_model.encoder.3.0.main"))
    y = leaky(conv(pool(x3, 2), w, "unet_model.decoder.0.0.main"))
    y = leaky(conv(torch.cat([doubled(y), x3], 1), w, "unet_model.decoder.1.0.main"))
    y = leaky(conv(torch.cat([doubled(y), x2], 1), w, "unet_model.decoder.2.0.main"))
    y = leaky(conv(torch.cat([doubled(y), x1], 1), w, "unet_model.decoder.3.0.main"))
    y = leaky(conv(torch.cat([doubled(y), x0], 1), w, "unet_model.remaining.0.main"))
    y = leaky(conv(y, w, "unet_model.remaining.1.main"))
    y = leaky(conv(y, w, "unet_model.remaining.2.main"))
    return conv(y, w, "flow")


def older_reference(state: State, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
    """The older published model (strided convolutions), by its own names."""
    w = in_double(state)
    pair = torch.cat([moving, fixed], 1).double()
    x1 = leaky(conv(pair, w, "unet_model.downarm.0.main", 2))
    x2 = leaky(conv(x1, w, "unet_model.downarm.1.main", 2))
    x3 = leaky(conv(x2, w, "unet_model.downarm.2.main", 2))
    x4 = leaky(conv(x3, w, "unet_model.downarm.3.main", 2))
    y = leaky(conv(x4, w, "unet_model.uparm.0.main"))
    y = leaky(conv(torch.cat([doubled(y), x3], 1), w, "unet_model.uparm.1.main"))
    y = leaky(conv(torch.cat([doubled(y), x2], 1), w, "unet_model.uparm.2.main"))
    y = leaky(conv(torch.cat([doubled(y), x1], 1), w, "unet_model.uparm.3.main"))
    y = leaky(conv(torch.cat([doubled(y), pair], 1), w, "unet_model.extras.0.main"))
    y = leaky(conv(y, w, "unet_model.extras.1.main"))
    y = leaky(conv(y, w, "unet_model.extras.2.main"))
    return conv(y, w, "flow")


def paper_reference(state: State, moving: torch.Tensor, fixed: torch.Tensor, version: int) -> torch.Tensor:
    """VoxelMorph-1 and -2 as the class's table has them."""
    w = in_double(state)
    x0 = leaky(conv(torch.cat([moving, fixed], 1).double(), w, "unet.stem.0.main"))
    x1 = leaky(conv(x0, w, "unet.encoder.0.0.main", 2))
    x2 = leaky(conv(x1, w, "unet.encoder.1.0.main", 2))
    x3 = leaky(conv(x2, w, "unet.encoder.2.0.main", 2))
    y = leaky(conv(x3, w, "unet.encoder.3.0.main", 2))
    if version == 2:
        y = leaky(conv(y, w, "unet.decoder.0.0.main"))
    y = leaky(conv(torch.cat([doubled(y), x3], 1), w, "unet.decoder.1.0.main"))
    y = leaky(conv(torch.cat([doubled(y), x2], 1), w, "unet.decoder.2.0.main"))
    y = leaky(conv(torch.cat([doubled(y), x1], 1), w, "unet.decoder.3.0.main"))
    y = leaky(conv(y, w, "unet.decoder.3.1.main"))
    y = leaky(conv(torch.cat([doubled(y), x0], 1), w, "unet.remaining.0.main"))
    if version == 2:
        y = leaky(conv(y, w, "unet.remaining.1.main"))
    return conv(y, w, "flow")


def integrated_reference(velocity: torch.Tensor, steps: int, downsize: int) -> torch.Tensor:
    """Down, scale, square, up, as the published layers do it: grid_sample with zeros, corners aligned."""
    n = velocity.dim() - 2
    mode = ("bilinear", "trilinear")[n - 2]
    if downsize > 1:
        velocity = F.interpolate(velocity, scale_factor=1 / downsize, mode=mode, align_corners=True) / downsize
    flow = velocity / 2**steps
    own = torch.stack(torch.meshgrid(*[torch.arange(s, dtype=flow.dtype) for s in flow.shape[2:]], indexing="ij"))
    for _ in range(steps):
        at = own + flow
        scaled = [2 * at[:, axis] / (size - 1) - 1 for axis, size in enumerate(flow.shape[2:])]
        flow = flow + F.grid_sample(flow, torch.stack(scaled[::-1], -1), padding_mode="zeros", align_corners=True)
    if downsize > 1:
        flow = F.interpolate(flow * downsize, scale_factor=downsize, mode=mode, align_corners=True)
    return flow


def older_names(state: State) -> State:
    """The same weights as an older release names them."""
    renamed = {}
    for name, value in state.items():
        name = re.sub(r"encoder\.(\d)\.0", r"downarm.\1", name)
        name = re.sub(r"decoder\.(\d)\.0", r"uparm.\1", name)
        renamed[name.replace("remaining", "extras")] = value
    return renamed


def padded(*volumes: torch.Tensor) -> list[torch.Tensor]:
    return [F.pad(v, [amount for size in reversed(v.shape[2:]) for amount in (0, -size % 16)]) for v in volumes]


def agrees(flow: torch.Tensor, truth: torch.Tensor) -> bool:
    """To 1e-4 voxel, where the truth (padded) is a flow that would show a mistake."""
    truth = truth[(..., *[slice(0, size) for size in flow.shape[2:]])]
    assert 0.5 < float(truth.abs().max()) < 50
    return torch.allclose(flow.double(), truth, atol=1e-4, rtol=0)


SHAPES = {3: (19, 32, 21), 2: (50, 37)}
VELOCITY = {"integration_steps": 7, "integration_downsize": 2}


# ---------------------------------------------------------------------- integration


def smooth_velocity(shape: tuple[int, ...], length: float, seed: int = 0, sigma: float = 5.0) -> torch.Tensor:
    """A random smooth velocity whose longest vector has that many voxels, vanishing towards the border."""
    rng = np.random.default_rng(seed)
    fade = np.ones(shape)
    for axis, size in enumerate(shape):
        window = np.clip(np.minimum(np.arange(size), size - 1 - np.arange(size)) / 8, 0, 1)
        fade *= (np.sin(window * np.pi / 2) ** 2).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    field = np.stack([gaussian_filter(rng.normal(size=shape), sigma) for _ in shape]) * fade
    return torch.from_numpy(field * length / np.linalg.norm(field, axis=0).max())[None].float()


class TestIntegration:
    @pytest.mark.parametrize(("shape", "rotation"), [((41, 41), (0.4,)), ((21, 21, 21), (0.2, -0.3, 0.25))])
    def test_linear_velocity_is_the_matrix_exponential(self, shape: tuple[int, ...], rotation: tuple[float]) -> None:
        """Linear fields are interpolated exactly: only the first, short step is inexact, by half with each squaring."""
        if len(shape) == 2:
            matrix = np.array([[0.1, -rotation[0]], [rotation[0], -0.05]])
        else:
            a, b, c = rotation
            matrix = np.array([[0.0, -c, b], [c, 0.1, -a], [-b, a, 0.0]])
        points = np.stack(np.meshgrid(*[np.arange(s) - s // 2 for s in shape], indexing="ij"))
        velocity, truth = (np.einsum("ij,j...->i...", m, points) for m in (matrix, expm(matrix) - np.eye(len(shape))))
        inner = (slice(None), *[slice(s // 3, -(s // 3)) for s in shape])  # never leaves the grid
        errors = [
            np.abs(integrate(torch.from_numpy(velocity)[None].float(), steps)[0].numpy() - truth)[inner].max()
            for steps in (5, 6, 7, 8)
        ]
        assert np.abs(truth[inner]).max() > 1
        assert errors[2] < 0.01
        for coarse, fine in zip(errors, errors[1:]):
            assert 1.6 < coarse / fine < 2.4

    @pytest.mark.parametrize("shape", [(64, 56), (32, 40, 36)])
    def test_agrees_with_many_small_steps(self, shape: tuple[int, ...]) -> None:
        velocity = smooth_velocity(shape, 4.0)
        start = np.stack(np.meshgrid(*[np.arange(s, dtype=float) for s in shape], indexing="ij"))
        where, steps = start.copy(), 120
        for _ in range(steps):  # midpoint rule along the path of every voxel
            at = where
            for share in (0.5, 1.0):
                slope = np.stack([map_coordinates(c, at, order=1, mode="nearest") for c in velocity[0].numpy()])
                at = where + slope * (share / steps)
            where = at
        flow = integrate(velocity, 7)[0].numpy()
        truth = where - start
        error = np.abs(flow - truth)
        assert np.abs(truth - velocity[0].numpy()).max() > 0.3  # integration matters here
        assert error.mean() < 0.005
        assert error.max() < 0.1

    @pytest.mark.parametrize("shape", [(64, 56), (32, 40, 36)])
    @pytest.mark.parametrize("downsize", [1, 2])
    def test_minus_velocity_gives_the_inverse(self, shape: tuple[int, ...], downsize: int) -> None:
        velocity = smooth_velocity(shape, 4.0, seed=1)
        there, back = (exponential(v, 7, downsize)[0].numpy() for v in (velocity, -velocity))
        start = np.stack(np.meshgrid(*[np.arange(s, dtype=float) for s in shape], indexing="ij"))
        arrived = start + there
        trip = there + np.stack([map_coordinates(c, arrived, order=1, mode="nearest") for c in back])
        assert np.linalg.norm(there, axis=0).max() > 3
        v = velocity[0].numpy()  # what going along v and back along -v would leave, without integration
        plain = v - np.stack([map_coordinates(c, start + v, order=1, mode="nearest") for c in v])
        left, plainly_left = np.linalg.norm(trip, axis=0), np.linalg.norm(plain, axis=0)
        assert left.mean() < 0.015 * downsize
        assert left.mean() < plainly_left.mean() / 8
        assert left.max() < plainly_left.max() / 7

    def test_no_steps_leave_the_velocity(self) -> None:
        velocity = smooth_velocity((20, 24), 3.0)
        assert torch.equal(integrate(velocity, 0), velocity)

    def test_coarse_velocities_come_back_at_full_size(self) -> None:
        velocity = smooth_velocity((16, 12), 2.0).double()
        full = F.interpolate(2 * integrate(velocity, 5), scale_factor=2, mode="bilinear", align_corners=True)
        assert torch.allclose(exponential(velocity, 5, 2, coarse=True), full)


# ---------------------------------------------------------------------- networks


class TestPublishedModels:
    def test_parameters_and_names(self) -> None:
        state = VoxelMorph().state_dict()
        names = [f"unet_model.{part}.{i}.0.main" for part in ("encoder", "decoder") for i in range(4)]
        names += [f"unet_model.remaining.{i}.main" for i in range(3)] + ["flow"]
        assert set(state) == {f"{n}.{kind}" for n in names for kind in ("weight", "bias")}
        assert sum(v.numel() for v in state.values()) == 327_331
        older = VoxelMorph(down="stride").state_dict()
        # (inputs, outputs) of the older release's layers.
        layers = [(2, 16), (16, 32), (32, 32), (32, 32), (32, 32), (64, 32), (64, 32), (48, 32)]
        layers += [(34, 32), (32, 16), (16, 16), (16, 3)]
        assert sum(v.numel() for v in older.values()) == sum(27 * i * o + o for i, o in layers) == 301_411

    def test_untrained_networks_move_nothing(self) -> None:
        for method in ("voxelmorph", "voxelmorph1", "voxelmorph2"):
            network = get_method(method).build_network()
            assert not network.flow.bias.any()
            assert abs(float(network.flow.weight.detach().std()) / 1e-5 - 1) < 0.15
            with torch.inference_mode():
                assert float(network(*torch.rand(2, 1, 1, 16, 16, 16)).abs().max()) < 1e-3

    @pytest.mark.parametrize("velocity", [{}, VELOCITY], ids=["flow", "velocity"])
    @pytest.mark.parametrize("age", ["newer", "older"])
    @pytest.mark.parametrize("dimension", [3, 2])
    def test_flow_equals_step_by_step_reference(self, dimension: int, age: str, velocity: dict[str, int]) -> None:
        """Sizes that are no multiples of 16 too."""
        down = "pool" if age == "newer" else "stride"
        network = lively_network("voxelmorph", 1, 3.0, dimension=dimension, down=down, **velocity)
        pair = torch.rand(2, 1, 1, *SHAPES[dimension])
        if age == "newer":
            head = newer_reference(network.state_dict(), *padded(*pair))
        else:
            head = older_reference(older_names(network.state_dict()), *padded(*pair))
        found = network(*pair)
        if not velocity:
            assert found.shape == (1, dimension, *SHAPES[dimension])
            assert agrees(found, head)
            assert not torch.allclose(network(*pair.flip(0)), found, atol=1e-2)
            return
        assert len(found) == 2
        for flow, sign in zip(found, (1, -1)):
            assert agrees(flow, integrated_reference(sign * head, 7, 2))

    def test_full_resolution_integration_and_odd_factors(self) -> None:
        pair = torch.rand(2, 1, 1, 48, 40)
        for downsize in (1, 3):
            network = lively_network("voxelmorph", 2, dimension=2, integration_steps=5, integration_downsize=downsize)
            assert network.stride == 16 * downsize
            wide = [F.pad(v, [0, 8]) for v in pair]
            truth = integrated_reference(newer_reference(network.state_dict(), *wide), 5, downsize)
            assert agrees(network(*pair)[0], truth)

    def test_half_resolution_models(self) -> None:
        """Published as ``unet_half_res``: the last level stays at half size, and so do the layers after it."""
        network = lively_network("voxelmorph", 3, dimension=2, half_resolution=True, **VELOCITY)
        assert VoxelMorph.configuration_from(network.state_dict())["half_resolution"]
        moving, fixed = torch.rand(2, 1, 1, 32, 48)
        w = in_double(network.state_dict())
        skips, x = [], torch.cat([moving, fixed], 1).double()
        for level in range(4):
            skips.append(leaky(conv(x, w, f"unet_model.encoder.{level}.0.main")))
            x = F.max_pool2d(skips[-1], 2)
        for level in range(4):
            x = leaky(conv(x, w, f"unet_model.decoder.{level}.0.main"))
            if level < 3:
                x = torch.cat([doubled(x), skips.pop()], 1)
        for number in range(3):
            x = leaky(conv(x, w, f"unet_model.remaining.{number}.main"))
        flow = integrated_reference(conv(x, w, "flow"), 7, 1)
        flow = F.interpolate(2 * flow, scale_factor=2, mode="bilinear", align_corners=True)
        assert agrees(network(moving, fixed)[0], flow)

    @pytest.mark.parametrize(
        "config",
        [
            {},
            {"down": "stride"},
            {"encoder": [[8], [16]], "decoder": [[12], [10]], "remaining": [6]},
            {"encoder": [[8, 9], [16, 17]], "decoder": [[12, 13], [10, 11]], "remaining": []},
            {"encoder": [[8], [16], [16]], "decoder": [[12], [10], [9]], "remaining": [], "down": "stride"},
            {"in_channels": 4, "dimension": 2},
        ],
    )
    def test_weights_tell_the_architecture(self, config: dict[str, Any]) -> None:
        network = get_method("voxelmorph").build_network(**config)
        assert VoxelMorph.configuration_from(network.state_dict()) == network.configuration
        flow = network(*torch.rand(2, 1, network.configuration["in_channels"] // 2, *[18] * network.dimension))
        assert flow.shape == (1, network.dimension, *[18] * network.dimension)

    def test_gradients_reach_every_weight(self) -> None:
        network = lively_network("voxelmorph", dimension=2, **VELOCITY).requires_grad_(True)
        forward, backward = network(*torch.rand(2, 1, 1, 32, 32))
        (forward.square().sum() + backward.square().sum()).backward()
        assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in network.parameters())

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"integration_steps": -1}, "integration_steps"),
            ({"integration_steps": 1000}, "integration_steps"),
            ({"integration_steps": "seven"}, "integration_steps"),
            ({"integration_steps": 7, "integration_downsize": 0}, "integration_downsize"),
            ({"half_resolution": True}, "needs integration_steps"),
            ({"down": "average"}, "halves by"),
            ({"encoder": [[16]] * 40, "decoder": [[16]] * 40}, "levels"),
            ({"encoder": [[16], []], "decoder": [[16], [16]]}, "levels"),
            ({"encoder": [[16]]}, "levels"),
        ],
    )
    def test_impossible_configurations(self, config: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            VoxelMorph(**config)


class TestPaperModels:
    def test_parameters(self) -> None:
        counts = [sum(p.numel() for p in get_method(f"voxelmorph{v}").build_network().parameters()) for v in (1, 2)]
        # VoxelMorph-1 is CycleMorph's network without its transposed convolutions.
        raised = [v.numel() for k, v in CycleMorphUNet().state_dict().items() if re.search(r"upconv\d\.upconv", k)]
        assert counts[0] == 361_299 - sum(raised)
        # VoxelMorph-2: (inputs, outputs) layer by layer.
        layers = [(2, 16), (16, 32), (32, 32), (32, 32), (32, 32), (32, 32), (64, 32), (64, 32), (64, 32), (32, 32)]
        layers += [(48, 16), (16, 16), (16, 3)]
        assert counts[1] == sum(27 * i * o + o for i, o in layers)

    @pytest.mark.parametrize("velocity", [{}, VELOCITY], ids=["flow", "velocity"])
    @pytest.mark.parametrize("version", [1, 2])
    @pytest.mark.parametrize("dimension", [3, 2])
    def test_flow_equals_step_by_step_reference(self, dimension: int, version: int, velocity: dict[str, int]) -> None:
        network = lively_network(f"voxelmorph{version}", 4, 3.0, dimension=dimension, **velocity)
        pair = torch.rand(2, 1, 1, *SHAPES[dimension])
        head = paper_reference(network.state_dict(), *padded(*pair), version)
        if not velocity:
            assert agrees(network(*pair), head)
            return
        for flow, sign in zip(network(*pair), (1, -1)):
            assert agrees(flow, integrated_reference(sign * head, 7, 2))

    def test_versions_are_told_apart(self, tmp_path: Path) -> None:
        for version in (1, 2):
            network = lively_network(f"voxelmorph{version}", dimension=2)
            torch.save(network.state_dict(), tmp_path / f"{version}.pth")
            assert read_checkpoint(tmp_path / f"{version}.pth").method == f"voxelmorph{version}"
        with pytest.raises(InputError, match="belongs to voxelmorph2, not to voxelmorph1"):
            read_checkpoint(tmp_path / "2.pth", "voxelmorph1")
        with pytest.raises(InputError, match="belongs to voxelmorph2, not to voxelmorph"):
            read_checkpoint(tmp_path / "2.pth", "voxelmorph")
        with pytest.raises(ValueError, match="no version 3"):
            get_method("voxelmorph1").network_class()(version=3)


def test_one_pass_gives_both_directions(tmp_path: Path) -> None:
    network = lively_network("voxelmorph2", 5, **VELOCITY)
    written = write_checkpoint(
        tmp_path / "a.safetensors", "voxelmorph2", {"forward": network.state_dict()}, network.configuration
    )
    fixed, moving = np.random.default_rng(0).random((2, 18, 20, 22), dtype=np.float32)
    forward, backward = run_network(written, fixed, moving, settings=EXACT)
    pair = padded(*[torch.from_numpy(a)[None, None] for a in (moving, fixed)])
    head = paper_reference(network.state_dict(), *pair, 2)
    assert agrees(forward[None], integrated_reference(head, 7, 2))
    assert agrees(backward[None], integrated_reference(-head, 7, 2))
    with pytest.raises(InputError, match="gives both directions"):
        read_checkpoint(tmp_path / "a.safetensors", backward=tmp_path / "a.safetensors")


def test_bfloat16_agrees() -> None:
    network = lively_network("voxelmorph", 6, **VELOCITY)
    pair = [F.avg_pool3d(torch.rand(1, 1, 36, 36, 36), 5, 1) for _ in range(2)]
    exact = network(*pair)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = network(*pair)
    for a, b in zip(exact, rounded):
        assert b.dtype == torch.float32
        assert 0 < float((a - b).abs().mean()) < 0.05
        assert float((a - b).abs().max()) < 0.25


# ---------------------------------------------------------------------- files that VoxelMorph wrote


def vxm_config(inshape: tuple[int, ...], **values: Any) -> dict[str, Any]:
    """The arguments that VoxelMorph keeps beside its weights."""
    return {
        "inshape": inshape, "nb_unet_features": None, "nb_unet_levels": None, "unet_feat_mult": 1, "int_steps": 7,
        "int_downsize": 2, "bidir": False, "use_probs": False, **values,
    }  # fmt: skip


def grids(inshape: tuple[int, ...], downsize: int | None = 2) -> State:
    """The buffers that older releases save with the weights."""
    shapes = {"transformer.grid": inshape}
    if downsize:
        shapes["integrate.transformer.grid"] = tuple(s // downsize for s in inshape)
    return {
        name: torch.stack(torch.meshgrid(*[torch.arange(s, dtype=torch.float32) for s in shape], indexing="ij"))[None]
        for name, shape in shapes.items()
    }


class TestPublishedFiles:
    @pytest.mark.parametrize("age", ["newer", "older"])
    @pytest.mark.parametrize("dimension", [3, 2])
    def test_wrapped_file_gives_the_references_flow(self, tmp_path: Path, age: str, dimension: int) -> None:
        inshape = (32, 16, 48)[:dimension]
        network = lively_network("voxelmorph", 7, dimension=dimension, down="pool" if age == "newer" else "stride")
        state = network.state_dict() if age == "newer" else older_names(network.state_dict())
        reference = newer_reference if age == "newer" else older_reference
        saved = {**state, **grids(inshape)} if age == "older" else state
        torch.save({"config": vxm_config(inshape, int_steps=5), "model_state": saved}, tmp_path / "vxm.pt")
        checkpoint = read_checkpoint(tmp_path / "vxm.pt")
        assert checkpoint.method == "voxelmorph"
        assert checkpoint.config["integration_steps"] == 5
        assert checkpoint.config["down"] == ("pool" if age == "newer" else "stride")
        fixed, moving = np.random.default_rng(1).random((2, *inshape), dtype=np.float32)
        forward, backward = run_network(checkpoint, fixed, moving, settings=EXACT)
        head = reference(state, *[torch.from_numpy(a)[None, None] for a in (moving, fixed)])
        assert agrees(forward[None], integrated_reference(head, 5, 2))
        assert agrees(backward[None], integrated_reference(-head, 5, 2))

    def test_settings_are_honoured_and_kept(self, tmp_path: Path) -> None:
        state = VoxelMorph(2).state_dict()
        for steps, downsize in ((0, 2), (4, 1), (7, 2)):
            config = vxm_config((160, 192), int_steps=steps, int_downsize=downsize)
            torch.save({"config": config, "model_state": state}, tmp_path / "vxm.pt")
            checkpoint = read_checkpoint(tmp_path / "vxm.pt")
            assert checkpoint.config["integration_steps"] == steps
            assert checkpoint.config["integration_downsize"] == downsize
            assert checkpoint.training["settings"] == {**config, "inshape": [160, 192]}
            # The stated size is the array's, (y, x), and the network works on it.
            assert checkpoint.grid.size == (192, 160)
            image_grid = Grid((384, 160), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
            placed = network_grid(image_grid, checkpoint)
            assert placed.size == (192, 160)
            assert placed.spacing == (2.0, 1.0)
        config = read_checkpoint(tmp_path / "vxm.pt", config={"integration_steps": 3}).config
        assert config["integration_steps"] == 3

    def test_converted_file_is_the_same_network(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        network = lively_network("voxelmorph", 8, down="stride", **VELOCITY)
        saved = {**older_names(network.state_dict()), **grids((16, 32, 16))}
        source, output = tmp_path / "old.pt", tmp_path / "new.safetensors"
        torch.save({"config": vxm_config((16, 32, 16)), "model_state": saved}, source)
        assert main(["checkpoint", "info", str(source)]) == 0
        text = capsys.readouterr().out
        same = ["voxelmorph (VoxelMorph", "301,411 parameters", "integration_steps 7"]
        for part in [*same, "16x32x16 voxels", '"int_downsize": 2']:
            assert part in text, part
        assert main(["checkpoint", "convert", str(source), str(output), "--normalisation", "percentile:0,99"]) == 0
        assert main(["checkpoint", "info", str(output)]) == 0
        text = capsys.readouterr().out
        for part in [*same, "16x32x16 voxels", "percentile:0,99", "old.pt"]:
            assert part in text, part
        assert "assumed" not in text
        written = read_checkpoint(output)
        assert written.config == network.configuration
        assert all(torch.equal(written.networks["forward"][k], v) for k, v in network.state_dict().items())
        assert written.networks["forward"].keys() == network.state_dict().keys()

    def test_bare_state_dicts(self, tmp_path: Path) -> None:
        """Buffers alone tell that a velocity was integrated, and on which grid; without them nothing does."""
        state = VoxelMorph().state_dict()
        for buffers, steps, downsize in (
            ({}, 0, 2),
            (grids((16, 16, 32), None), 0, 2),
            (grids((16, 16, 32), 2), 7, 2),
            (grids((16, 16, 32), 1), 7, 1),
        ):
            torch.save({**state, **buffers}, tmp_path / "bare.pth")
            checkpoint = read_checkpoint(tmp_path / "bare.pth")
            assert (checkpoint.config["integration_steps"], checkpoint.config["integration_downsize"]) == (
                steps,
                downsize,
            )
            assert checkpoint.networks["forward"].keys() == state.keys()
        assert read_checkpoint(tmp_path / "bare.pth", config={"integration_steps": 5}).config["integration_steps"] == 5

    @pytest.mark.parametrize("wrapper", ["state_dict", "model_state", "model_state_dict", "model"])
    def test_wrappers_and_data_parallel(self, tmp_path: Path, wrapper: str) -> None:
        state = {f"module.{k}": v for k, v in VoxelMorph(2).state_dict().items()}
        torch.save({"epoch": 3, wrapper: state, "optimizer": {"lr": 1e-4}}, tmp_path / "w.pth")
        checkpoint = read_checkpoint(tmp_path / "w.pth")
        assert checkpoint.method == "voxelmorph"
        assert checkpoint.training == {}
        assert all(torch.equal(checkpoint.networks["forward"][k[7:]], v) for k, v in state.items())

    def test_only_known_buffers_are_dropped(self, tmp_path: Path) -> None:
        state = VoxelMorph().state_dict()
        torch.save({**state, "other.transformer.grid": torch.zeros(1, 3, 4, 4, 4)}, tmp_path / "v.pth")
        with pytest.raises(InputError, match=r"1 extra: other\.transformer\.grid"):
            read_checkpoint(tmp_path / "v.pth")
        torch.save({**CycleMorphUNet().state_dict(), "transformer.grid": torch.zeros(1)}, tmp_path / "c.pth")
        with pytest.raises(InputError, match=r"1 extra: transformer\.grid"):
            read_checkpoint(tmp_path / "c.pth")

    def test_missing_weights_are_named(self, tmp_path: Path) -> None:
        state = VoxelMorph().state_dict()
        del state["unet_model.decoder.2.0.main.bias"]
        torch.save(older_names(state), tmp_path / "v.pth")
        with pytest.raises(InputError, match=r"1 missing: unet_model\.decoder\.2\.0\.main\.bias"):
            read_checkpoint(tmp_path / "v.pth")
        for part in ("encoder.0", "encoder", "decoder", "decoder.0", "remaining.0", "flow"):
            less = {k: v for k, v in VoxelMorph().state_dict().items() if part not in k}
            torch.save(less, tmp_path / "v.pth")
            with pytest.raises(InputError, match=r"missing|another shape|no method"):
                read_checkpoint(tmp_path / "v.pth")

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"int_steps": "many"}, "integration_steps"),
            ({"int_steps": 10**9}, "integration_steps"),
            ({"int_steps": None}, "integration_steps"),
            ({"int_downsize": -2}, "integration_downsize"),
            ({"inshape": [160, -1, 224]}, "positive numbers"),
            ({"inshape": ["a", "b", "c"]}, "positive numbers"),
        ],
    )
    def test_settings_that_make_no_sense(self, tmp_path: Path, config: dict[str, Any], message: str) -> None:
        settings = {**vxm_config((160, 192, 224)), **config}
        torch.save({"config": settings, "model_state": VoxelMorph().state_dict()}, tmp_path / "v.pt")
        with pytest.raises(InputError, match=message):
            read_checkpoint(tmp_path / "v.pt")

    def test_another_methods_file_is_refused_by_both_names(self, tmp_path: Path) -> None:
        torch.save({"config": vxm_config((16, 16, 16)), "model_state": VoxelMorph().state_dict()}, tmp_path / "v.pt")
        with pytest.raises(InputError, match="belongs to voxelmorph, not to cyclemorph"):
            read_checkpoint(tmp_path / "v.pt", "cyclemorph")
        torch.save(CycleMorphUNet().state_dict(), tmp_path / "c.pth")
        with pytest.raises(InputError, match="belongs to cyclemorph, not to voxelmorph"):
            read_checkpoint(tmp_path / "c.pth", "voxelmorph")
