"""InverseNet: one encoder and two decoders give the flows of both directions in one pass.

Nazib, Fookes, Salvado and Perrin, A multiple decoder CNN for inverse consistent 3D image registration, 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .blocks import ConvolutionBlock, RegistrationNetwork, convolution, in_float32

ENCODER = (32, 32, 32, 32)
BLOCKS = (32, 32, 8)
LAST = 8
SLOPE = 0.2
INITIAL_DEVIATION = 1e-5


def _doubled(features: torch.Tensor) -> torch.Tensor:
    return F.interpolate(features, scale_factor=2, mode="nearest")


class _Decoder(nn.Module):
    """From the coarsest features to a flow.  Keys: ``first``, ``blocks.0`` to ``blocks.2``, ``last``, ``head``.

    ``sign`` tells what a block does with the encoder's features: 1 adds them, -1 subtracts them.
    """

    def __init__(self, dimension: int, sign: int) -> None:
        super().__init__()
        self.sign = sign
        self.first = ConvolutionBlock(dimension, ENCODER[-1], ENCODER[-1], slope=SLOPE)
        self.blocks = nn.ModuleList()
        inputs = ENCODER[-1]
        for skip, outputs in zip(reversed(ENCODER[:-1]), BLOCKS):
            self.blocks.append(ConvolutionBlock(dimension, inputs + skip, outputs, slope=SLOPE))
            inputs = outputs
        self.last = ConvolutionBlock(dimension, inputs, LAST, slope=SLOPE)
        self.head = convolution(dimension, LAST, dimension)

    def forward(self, encoded: list[torch.Tensor]) -> torch.Tensor:
        features = self.first(encoded[-1])
        for block, skip in zip(self.blocks, reversed(encoded[:-1])):
            joined = torch.add(_doubled(features), skip, alpha=self.sign)
            features = block(torch.cat([joined, skip], dim=1))
        return in_float32(self.head, self.last(_doubled(features)))


class InverseNet(RegistrationNetwork):
    """InverseNet: 393,910 parameters in 3D at two input channels.

    As the paper states: (moving, fixed) stacked; an encoder of four convolutions of stride 2 and 32 channels; two
    decoders of one convolution, three blocks of 32, 32 and 8 channels that raise, add (forward) or subtract (backward)
    the encoder's features of the same size and concatenate these, and convolutions to 8 and 3 channels.

    Left open by the paper, and here as in VoxelMorph-1, which it builds on: leaky ReLU of slope 0.2 after every
    convolution but the last; nearest-neighbour up-sampling; the blocks end at half resolution, and the "up-sampling
    layer" that figure 1 names besides them leads to full resolution, where the last two convolutions are (nothing is
    added there, for the encoder has no features of that size); the first convolution of a decoder has 32 channels, so
    that sums are possible; what is subtracted is the encoder's part from the decoder's; initial weights are He's, those
    of the last convolutions N(0, 1e-5), so that an untrained network moves next to nothing.

    Parameters
    ----------
    dimension
        3, or 2 with the same layers.
    in_channels
        Channels of the moving and of the fixed image together.

    Raises
    ------
    ValueError
        For another dimension.
    """

    stride = 16
    both_directions = True

    def __init__(self, dimension: int = 3, in_channels: int = 2) -> None:
        super().__init__(dimension, in_channels=in_channels)
        self.encoder = nn.ModuleList(
            ConvolutionBlock(dimension, inputs, outputs, stride=2, slope=SLOPE)
            for inputs, outputs in zip((in_channels, *ENCODER), ENCODER)
        )
        self.forward_decoder = _Decoder(dimension, 1)
        self.backward_decoder = _Decoder(dimension, -1)
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                nn.init.zeros_(parameter)
            elif ".head." in name:
                nn.init.normal_(parameter, 0.0, INITIAL_DEVIATION)
            else:
                nn.init.kaiming_normal_(parameter, SLOPE)

    @classmethod
    def configuration_from(cls, state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        first = state["encoder.0.block.0.weight"]
        return {"dimension": first.dim() - 2, "in_channels": first.shape[1]}

    def estimate(self, moving: torch.Tensor, fixed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        encoded = [torch.cat([moving, fixed], dim=1)]
        for convolve in self.encoder:
            encoded.append(convolve(encoded[-1]))
        del encoded[0]
        return self.forward_decoder(encoded), self.backward_decoder(encoded)
