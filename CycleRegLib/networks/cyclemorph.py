"""The registration U-Net of CycleMorph (Kim et al., Medical Image Analysis 2021), in 2D and 3D.

It is VoxelMorph-1 with strided and transposed convolutions.  Names of weights are those of the authors' published
state dict, so that it loads strictly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .blocks import ConvolutionBlock, RegistrationNetwork, convolution, in_float32, transposed_convolution

ENCODER = (16, 32, 32, 32, 32)
DECODER = (32, 32, 32, 8, 8)
SLOPE = 0.2
INITIAL_DEVIATION = 1e-5


class _Step(nn.Module):
    """An encoder step.  Keys: ``block.block.0``."""

    def __init__(self, dimension: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.block = ConvolutionBlock(dimension, inputs, outputs, stride, SLOPE)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.block(features)


class _UpStep(nn.Module):
    """Double the sides (no activation), concatenate [skip, up], convolve.  Keys: ``upconv``, ``block.block.0``."""

    def __init__(self, dimension: int, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.upconv = transposed_convolution(dimension, inputs, inputs)
        self.block = ConvolutionBlock(dimension, skip + inputs, outputs, 1, SLOPE)

    def forward(self, features: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.block(torch.cat([skip, self.upconv(features)], dim=1))


class _Head(nn.Module):
    """The last convolution, no activation.  Keys: ``upconv``."""

    def __init__(self, dimension: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.upconv = convolution(dimension, inputs, outputs)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return in_float32(self.upconv, features)


class _UNet(nn.Module):
    """(B, inputs, ...) to (B, outputs, ...), sides multiples of 16; METHODS.md, "CycleMorph / VoxelMorph-1 U-Net"."""

    def __init__(self, dimension: int, inputs: int, outputs: int) -> None:
        super().__init__()
        e, d = ENCODER, DECODER
        self.inconv = _Step(dimension, inputs, e[0], stride=1)
        self.downconv1 = _Step(dimension, e[0], e[1], stride=2)
        self.downconv2 = _Step(dimension, e[1], e[2], stride=2)
        self.downconv3 = _Step(dimension, e[2], e[3], stride=2)
        self.downconv4 = _Step(dimension, e[3], e[4], stride=2)
        self.upconv1 = _UpStep(dimension, e[4], e[3], d[0])
        self.upconv2 = _UpStep(dimension, d[0], e[2], d[1])
        self.upconv3 = _UpStep(dimension, d[1], e[1], d[2])
        self.keepblock = ConvolutionBlock(dimension, d[2], d[3], 1, SLOPE)
        self.upconv4 = _UpStep(dimension, d[3], e[0], d[4])
        self.outconv = _Head(dimension, d[4], outputs)

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        full = self.inconv(pair)
        half = self.downconv1(full)
        quarter = self.downconv2(half)
        eighth = self.downconv3(quarter)
        features = self.upconv1(self.downconv4(eighth), eighth)
        features = self.upconv2(features, quarter)
        features = self.keepblock(self.upconv3(features, half))
        features = self.upconv4(features, full)
        del full  # the largest tensor; the head does not need it
        return self.outconv(features)


class CycleMorphUNet(RegistrationNetwork):
    """CycleMorph's network G: 361,299 parameters in 3D at two input channels.

    Parameters
    ----------
    dimension
        3, or 2 for face and slice registration.
    in_channels
        Channels of the moving and of the fixed image together, stacked in this order.
    out_channels
        Components of the flow; ``dimension`` when left out.

    Every convolution starts from N(0, 1e-5) with zero bias, so that an untrained network moves nothing.
    """

    stride = 16

    def __init__(self, dimension: int = 3, in_channels: int = 2, out_channels: int | None = None) -> None:
        out_channels = dimension if out_channels is None else out_channels
        super().__init__(dimension, in_channels=in_channels, out_channels=out_channels)
        self.model = _UNet(dimension, in_channels, out_channels)
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, 0.0, INITIAL_DEVIATION)

    @classmethod
    def configuration_from(cls, state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        first, last = state["model.inconv.block.block.0.weight"], state["model.outconv.upconv.weight"]
        return {"dimension": first.dim() - 2, "in_channels": first.shape[1], "out_channels": last.shape[0]}

    def estimate(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        return self.model(torch.cat([moving, fixed], dim=1))
