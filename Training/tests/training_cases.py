"""Small pairs with a known flow, and networks that are awake: with the initial weights of the papers nothing moves for
hundreds of steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from CycleRegLib.methods import get_method
from CycleRegLib.networks import RegistrationNetwork
from CycleRegLib.warp import warp

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def smooth(batch: int, channels: int, points: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    coarse = torch.randn(batch, channels, *[points] * len(shape), generator=generator)
    return F.interpolate(coarse, size=shape, mode="trilinear" if len(shape) == 3 else "bilinear", align_corners=True)


def known_pair(*shape: int, batch: int = 1, seed: int = 0, voxels: float = 1.5) -> dict[str, Tensor]:
    """``fixed(x) = moving(x + flow(x))``, with labels of the moving image's bright and dark parts."""
    generator = torch.Generator().manual_seed(seed)
    moving = 0.5 + 0.2 * smooth(batch, 1, 6, shape, generator)
    flow = voxels * smooth(batch, len(shape), 4, shape, generator)
    inverse = -flow
    for _ in range(30):
        inverse = -warp(flow, inverse, padding="border")
    labels = (moving > 0.6).long() + 2 * (moving < 0.4).long()
    return {
        "moving": moving,
        "fixed": warp(moving, flow, padding="border"),
        "flow": flow,
        "inverse_flow": inverse,
        "moving_labels": labels,
        "fixed_labels": warp(labels.float(), flow, mode="nearest", padding="border").long(),
    }


def awake_network(method: str, seed: int = 0, **config: object) -> RegistrationNetwork:
    """He's initial weights, and flows of a part of a voxel."""
    torch.manual_seed(seed)
    network = get_method(method).build_network(**config)
    for module in network.modules():
        if isinstance(module, _CONVOLUTIONS):
            nn.init.kaiming_normal_(module.weight, 0.2)
            if module.out_channels == network.dimension:
                module.weight.data.mul_(0.05)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


class Shift(nn.Module):
    """A network that gives the same flow everywhere, whatever it sees; keeps what it was given."""

    def __init__(self, *flow: float) -> None:
        super().__init__()
        self.flow = nn.Parameter(torch.tensor(flow, dtype=torch.float32))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        self.seen.append((moving.detach(), fixed.detach()))
        n = len(self.flow)
        return self.flow.view(1, n, *[1] * n).expand(moving.shape[0], n, *moving.shape[2:])
