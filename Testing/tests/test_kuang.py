"""Kuang's network and refinement module against a plain reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from network_cases import lively_network

from CycleRegLib.checkpoints import read_checkpoint
from CycleRegLib.errors import InputError
from CycleRegLib.methods import get_method
from CycleRegLib.networks.inference import run_network
from CycleRegLib.networks.preparation import normalise
from CycleRegLib.networks.settings import InferenceSettings

State = dict[str, torch.Tensor]


def reference(state: State, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
    """Layer by layer in float64, from the state dict alone; with refinement where it has weights for it."""
    w = {name: value.double() for name, value in state.items()}
    n = moving.dim() - 2

    def conv(x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        return (F.conv2d, F.conv3d)[n - 2](x, w[f"{name}.weight"], w[f"{name}.bias"], stride=stride, padding=1)

    def block(x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        x = conv(x, name, stride)
        return torch.where(x > 0, x, 0.2 * x)

    def joined(x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        for axis in range(2, x.dim()):
            x = x.repeat_interleave(2, dim=axis)
        return torch.cat([x, skip], 1)

    pair = torch.cat([moving, fixed], 1).double()
    x1 = block(pair, "displacement.encoder.0.0.main", 2)
    x2 = block(x1, "displacement.encoder.1.0.main", 2)
    x3 = block(x2, "displacement.encoder.2.0.main", 2)
    y = block(block(x3, "displacement.encoder.3.0.main", 2), "displacement.decoder.0.0.main")
    y = block(joined(y, x3), "displacement.decoder.1.0.main")
    y = block(joined(y, x2), "displacement.decoder.2.0.main")
    y = block(block(joined(y, x1), "displacement.decoder.3.0.main"), "displacement.decoder.3.1.main")
    flow = conv(block(joined(y, pair), "displacement.remaining.0.main"), "flow")
    if "refinement.correction.weight" in w:
        flow = flow + block(block(flow, "refinement.features.main"), "refinement.correction")
    return flow


def padded(*volumes: torch.Tensor) -> list[torch.Tensor]:
    return [F.pad(v, [amount for size in reversed(v.shape[2:]) for amount in (0, -size % 16)]) for v in volumes]


@pytest.mark.parametrize("method", ["kuang-cycle", "kuang-refine"])
@pytest.mark.parametrize("shape", [(19, 32, 21), (50, 37)])
def test_flow_equals_step_by_step_reference(method: str, shape: tuple[int, ...]) -> None:
    network = lively_network(method, 1, 2.5, dimension=len(shape))
    moving, fixed = torch.rand(2, 1, 1, *shape)
    flow = network(moving, fixed)
    truth = reference(network.state_dict(), *padded(moving, fixed))[(..., *[slice(0, s) for s in shape])]
    assert flow.shape == (1, len(shape), *shape)
    assert 0.5 < float(truth.abs().max()) < 50
    assert torch.allclose(flow.double(), truth, atol=1e-4, rtol=0)
    assert not torch.allclose(network(fixed, moving), flow, atol=1e-2)


def test_parameters() -> None:
    layers = [(2, 16), (16, 32), (32, 32), (32, 32), (32, 32), (64, 32), (64, 32), (48, 32), (32, 8), (10, 8), (8, 3)]
    count = sum(27 * i * o + o for i, o in layers)
    for method, expected in (("kuang-cycle", count), ("kuang-refine", count + 27 * 3 * 16 + 16 + 27 * 16 * 3 + 3)):
        network = get_method(method).build_network()
        assert sum(p.numel() for p in network.parameters()) == expected


def test_untrained_it_moves_nothing_and_refines_nothing() -> None:
    network = get_method("kuang-refine").build_network()
    assert abs(float(network.flow.weight.detach().std()) / 1e-5 - 1) < 0.15
    with torch.inference_mode():
        assert float(network(*torch.rand(2, 1, 1, 16, 16, 16)).abs().max()) < 1e-3
        flow = torch.randn(1, 3, 8, 8, 8)
        assert torch.allclose(network.refinement(flow), flow, atol=1e-3)


def test_gradients_reach_every_weight() -> None:
    network = lively_network("kuang-refine", dimension=2).requires_grad_(True)
    network(*torch.rand(2, 1, 1, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in network.parameters())


def test_weights_tell_the_method(tmp_path: Path) -> None:
    for method in ("kuang-cycle", "kuang-refine"):
        network = lively_network(method, 2, dimension=2)
        torch.save(network.state_dict(), tmp_path / f"{method}.pth")
        checkpoint = read_checkpoint(tmp_path / f"{method}.pth")
        assert checkpoint.method == method
        assert checkpoint.config == network.configuration
        assert checkpoint.normalisation == "max"
    with pytest.raises(InputError, match="belongs to kuang-refine, not to kuang-cycle"):
        read_checkpoint(tmp_path / "kuang-refine.pth", "kuang-cycle")
    with pytest.raises(InputError, match="belongs to kuang-cycle, not to voxelmorph1"):
        read_checkpoint(tmp_path / "kuang-cycle.pth", "voxelmorph1")


def test_run_twice_with_images_exchanged(tmp_path: Path) -> None:
    network = lively_network("kuang-cycle", 3)
    torch.save(network.state_dict(), tmp_path / "k.pth")
    checkpoint = read_checkpoint(tmp_path / "k.pth")
    images = np.random.default_rng(0).random((2, 20, 16, 30)) * 700
    fixed, moving = (normalise(image, checkpoint.normalisation) for image in images)
    assert fixed.max() == moving.max() == 1.0
    flows = run_network(checkpoint, fixed, moving, settings=InferenceSettings("float32"))
    f, m = padded(*[torch.from_numpy(a)[None, None] for a in (fixed, moving)])
    for flow, pair in zip(flows, ((m, f), (f, m))):
        truth = reference(network.state_dict(), *pair)[0, :, :20, :16, :30]
        assert torch.allclose(flow.double(), truth, atol=1e-4, rtol=0)
