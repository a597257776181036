"""InverseNet's one encoder and two decoders against a reference written step by step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from CycleRegLib.checkpoints import read_checkpoint, write_checkpoint
from CycleRegLib.errors import InputError
from CycleRegLib.networks.inference import load_networks, run_network
from CycleRegLib.networks.inversenet import InverseNet
from CycleRegLib.networks.settings import InferenceSettings

State = dict[str, torch.Tensor]
DECODERS = ("forward_decoder", "backward_decoder")


def lively(seed: int, dimension: int = 3, in_channels: int = 2) -> InverseNet:
    """Random weights that keep activations of order one, and last layers that give flows of two or three voxels."""
    network = InverseNet(dimension, in_channels).eval()
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in network.state_dict().items():
        scale = (2 / value[0].numel()) ** 0.5 if value.dim() > 1 else 0.1
        state[name] = torch.randn(value.shape, generator=generator) * scale
    network.load_state_dict(state, strict=True)
    return network


def reference_flow(state: State, decoder: str, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
    """Layer by layer from the state dict alone, in float64."""
    w = {name: value.double() for name, value in state.items()}
    n = moving.dim() - 2
    conv = (F.conv2d, F.conv3d)[n - 2]

    def block(x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        x = conv(x, w[f"{name}.block.0.weight"], w[f"{name}.block.0.bias"], stride=stride, padding=1)
        return torch.where(x >= 0, x, 0.2 * x)

    def doubled(x: torch.Tensor) -> torch.Tensor:
        for axis in range(2, n + 2):
            x = x.repeat_interleave(2, axis)
        return x

    e1 = block(torch.cat([moving, fixed], 1).double(), "encoder.0", 2)
    e2 = block(e1, "encoder.1", 2)
    e3 = block(e2, "encoder.2", 2)
    e4 = block(e3, "encoder.3", 2)
    x = block(e4, f"{decoder}.first")
    for i, skip in enumerate((e3, e2, e1)):
        joined = doubled(x) + skip if decoder == "forward_decoder" else doubled(x) - skip
        x = block(torch.cat([joined, skip], 1), f"{decoder}.blocks.{i}")
    x = block(doubled(x), f"{decoder}.last")
    return conv(x, w[f"{decoder}.head.weight"], w[f"{decoder}.head.bias"], padding=1)


class TestNetwork:
    def test_parameter_count(self) -> None:
        def convolution(inputs: int, outputs: int) -> int:
            return 27 * inputs * outputs + outputs

        encoder = convolution(2, 32) + 3 * convolution(32, 32)
        blocks = 2 * convolution(64, 32) + convolution(64, 8)
        decoder = convolution(32, 32) + blocks + convolution(8, 8) + convolution(8, 3)
        assert sum(p.numel() for p in InverseNet().parameters()) == encoder + 2 * decoder == 393_910

    @pytest.mark.parametrize(("dimension", "shape"), [(3, (32, 16, 48)), (2, (64, 32))])
    def test_both_flows_equal_step_by_step_reference(self, dimension: int, shape: tuple[int, ...]) -> None:
        network = lively(3, dimension)
        moving, fixed = torch.rand(2, 1, 1, *shape)
        with torch.inference_mode():
            flows = network(moving, fixed)
        for flow, decoder in zip(flows, DECODERS):
            truth = reference_flow(network.state_dict(), decoder, moving, fixed)
            assert flow.shape == (1, dimension, *shape)
            assert 0.5 < truth.abs().max() < 30
            assert torch.allclose(flow.double(), truth, atol=1e-4, rtol=0)
        with torch.inference_mode():
            assert not torch.allclose(network(fixed, moving)[0], flows[0], atol=1e-2)

    def test_decoders_differ_in_what_they_do_with_the_encoders_features(self) -> None:
        """With equal weights, adding and subtracting are all that tells them apart."""
        network = lively(4, 2)
        network.backward_decoder.load_state_dict(network.forward_decoder.state_dict())
        with torch.inference_mode():
            forward, backward = network(*torch.rand(2, 1, 1, 32, 32))
            assert float((forward - backward).abs().max()) > 0.1
            for convolve in list(network.encoder)[:3]:
                for parameter in convolve.parameters():
                    parameter.zero_()  # nothing to add or to subtract
            forward, backward = network(*torch.rand(2, 1, 1, 32, 32))
            assert torch.equal(forward, backward)

    def test_any_size_is_padded_with_zeros_and_cropped(self) -> None:
        network = lively(5)
        moving, fixed = torch.rand(2, 1, 1, 17, 16, 5)
        with torch.inference_mode():
            flows = network(moving, fixed)
            whole = network(*[F.pad(v, [0, 11, 0, 0, 0, 15]) for v in (moving, fixed)])
        for flow, padded in zip(flows, whole):
            assert flow.shape == (1, 3, 17, 16, 5)
            assert torch.equal(flow, padded[..., :17, :16, :5])

    def test_an_untrained_network_moves_next_to_nothing(self) -> None:
        network = InverseNet(2).requires_grad_(False)
        for flow in network(*torch.rand(2, 1, 1, 64, 64)):
            assert 0 < float(flow.abs().max()) < 0.01

    def test_gradients_reach_every_weight(self) -> None:
        network = lively(6, 2)
        forward, backward = network(*torch.rand(2, 1, 1, 32, 32))
        (forward.square().sum() + backward.square().sum()).backward()
        assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in network.parameters())

    def test_flows_are_float32_under_autocast(self) -> None:
        network = lively(7)
        pair = torch.rand(2, 1, 1, 32, 32, 32)
        with torch.inference_mode():
            exact = network(*pair)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                half = network(*pair)
        for flow, truth in zip(half, exact):
            difference = (flow - truth).norm(dim=1)
            assert flow.dtype == torch.float32
            assert float(truth.norm(dim=1).mean()) > 0.5
            assert 0 < float(difference.mean()) < 0.05
            assert float(difference.max()) < 0.25

    def test_weights_tell_the_configuration(self) -> None:
        for arguments in ({"dimension": 2, "in_channels": 6}, {"dimension": 3, "in_channels": 2}):
            network = InverseNet(**arguments)
            assert InverseNet.configuration_from(network.state_dict()) == network.configuration == arguments
        with pytest.raises(ValueError, match="dimension 2 or 3"):
            InverseNet(4)


class TestMethod:
    @pytest.mark.parametrize("shape", [(20, 33, 18), (40, 27)])
    def test_one_pass_gives_both_directions(self, shape: tuple[int, ...], tmp_path: Path) -> None:
        network = lively(8, len(shape))
        write_checkpoint(tmp_path / "i.safetensors", "inversenet", {"forward": network.state_dict()})
        read = read_checkpoint(tmp_path / "i.safetensors")
        assert (read.method, read.config) == ("inversenet", network.configuration)
        passes = []
        load_networks(read)["forward"].register_forward_hook(lambda *_: passes.append(1))
        fixed, moving = np.random.default_rng(0).random((2, *shape), dtype=np.float32)
        flows = run_network(read, fixed, moving, settings=InferenceSettings("float32"))
        assert len(passes) == 1
        pads = [amount for side in reversed(shape) for amount in (0, -side % 16)]
        images = [F.pad(torch.from_numpy(v)[None, None], pads) for v in (moving, fixed)]
        for flow, decoder in zip(flows, DECODERS):
            truth = reference_flow(network.state_dict(), decoder, *images)[0]
            crop = (slice(None), *[slice(0, side) for side in shape])
            assert torch.allclose(flow.double(), truth[crop], atol=1e-4, rtol=0)

    def test_there_is_no_second_network(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            write_checkpoint(tmp_path / f"{name}.safetensors", "inversenet", {"forward": lively(9, 2).state_dict()})
        with pytest.raises(InputError, match="gives both directions"):
            read_checkpoint(tmp_path / "a.safetensors", backward=tmp_path / "b.safetensors")
