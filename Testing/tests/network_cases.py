"""Untrained networks that move things: random weights, scaled so that the flow is of some voxels."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from CycleRegLib.methods import get_method
from CycleRegLib.networks import RegistrationNetwork

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def lively_network(method: str, seed: int = 0, voxels: float = 1.5, **config: Any) -> RegistrationNetwork:
    """A network whose flow on a random smooth pair of 64^n voxels is ``voxels`` long in the mean, within a factor of 2.

    Weights that keep activations of order one are drawn; then every layer with as many outputs as the flow has
    components (flow heads, whatever the architecture calls them) is scaled.
    """
    generator = torch.Generator().manual_seed(seed)
    network = get_method(method).build_network(**config).eval().requires_grad_(False)
    heads = []
    for module in network.modules():
        if isinstance(module, _CONVOLUTIONS):
            fan_in = (
                module.weight[0].numel() if "Transpose" not in type(module).__name__ else module.weight[:, 0].numel()
            )
            module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * (1.5 / fan_in) ** 0.5)
            if module.bias is not None:
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.05)
            if module.out_channels == network.dimension:
                heads.append(module)
    for parameter in network.parameters():
        if parameter.dim() == 0:  # a level's trust in what its search found, which scales flows too
            parameter.fill_(0.1)
    moving, fixed = (_smooth(network.dimension, generator) for _ in range(2))
    for _ in range(20):
        flow = network(moving, fixed)
        flow = flow[0] if isinstance(flow, tuple) else flow
        length = float(flow.norm(dim=1).mean())
        if 1 / 2 < length / voxels < 2:
            return network
        for head in heads:
            scale = min(4.0, max(0.25, voxels / max(length, 1e-6))) ** 0.7
            head.weight.mul_(scale)
            if head.bias is not None:
                head.bias.mul_(scale)
    raise AssertionError(f"the flow of {method} is {length:.3g} voxels long and does not come near {voxels}")


def _smooth(dimension: int, generator: torch.Generator) -> torch.Tensor:
    coarse = torch.rand((1, 1, *[8] * dimension), generator=generator)
    mode = "trilinear" if dimension == 3 else "bilinear"
    return nn.functional.interpolate(coarse, size=[64] * dimension, mode=mode, align_corners=True)
