"""VTN's dense sub-network and the encoder that both of its sub-networks have (Zhao et al. 2020, figures 3 and 4).

The paper draws the layers; kernel sizes, paddings, slope and the factor of 20 are those of the authors' published
TensorFlow network.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from .blocks import convolution, in_float32, pad_to_multiple

SLOPE = 0.1
LEVELS = 6
STRIDE = 2**LEVELS
# The finest level from which on a convolution of stride 1 follows that of stride 2.
_FIRST_WITH_TWO = 3
# A dense sub-network's last layer counts in units of 20 voxels, shared among the cascade's dense sub-networks.
_VOXELS = 20.0


def initialise(network: nn.Module) -> None:
    """Weights uniform with the variance 1 / (inputs of the kernel), biases zero, as the published training starts."""
    for name, parameter in network.named_parameters():
        if name.endswith(".bias"):
            nn.init.zeros_(parameter)
        else:
            # Of a transposed convolution, too, the published initialiser counts kernel x second channel axis.
            bound = math.sqrt(3.0 / parameter[0].numel())
            nn.init.uniform_(parameter, -bound, bound)


class _Level(nn.Module):
    """Halve the sides, at the coarser levels convolve once more.  Keys: ``halve``, ``keep``."""

    def __init__(self, inputs: int, outputs: int, two: bool) -> None:
        super().__init__()
        self.halve = nn.Conv3d(inputs, outputs, 3, stride=2)
        self.keep: nn.Module | None = convolution(3, outputs, outputs) if two else None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        # "Same" padding of the published framework: a kernel of 3 at stride 2 on even sides is padded at the end only.
        features = F.leaky_relu(self.halve(F.pad(features, (0, 1) * 3)), SLOPE, inplace=True)
        if self.keep is None:
            return features
        return F.leaky_relu(self.keep(features), SLOPE, inplace=True)


class Encoder(nn.Module):
    """c, 2c, 4c, 8c, 16c, 32c channels at 1/2 to 1/64 of the sides, which are multiples of 64.

    Keys: ``level1`` (1/2) to ``level6`` (1/64).
    """

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        for level in range(1, LEVELS + 1):
            outputs = channels * 2 ** (level - 1)
            self.add_module(f"level{level}", _Level(inputs, outputs, two=level >= _FIRST_WITH_TWO))
            inputs = outputs

    def forward(self, pair: torch.Tensor) -> list[torch.Tensor]:
        """The features of every level, the finest first."""
        features = [pair]
        for level in self.children():
            features.append(level(features[-1]))
        return features[1:]


def _raising(inputs: int, outputs: int) -> nn.Module:
    """Doubles every side: transposed, kernel 4, stride 2, without bias."""
    return nn.ConvTranspose3d(inputs, outputs, 4, stride=2, padding=1, bias=False)


class _UpStep(nn.Module):
    """From a level to the next finer one: [skip, raised features, raised prediction].

    Keys: ``predict``, ``raise_prediction`` (both linear) and ``raise_features``.
    """

    def __init__(self, inputs: int, skip: int) -> None:
        super().__init__()
        self.predict = convolution(3, inputs, 3)
        self.raise_prediction = _raising(3, 3)
        self.raise_features = _raising(inputs, skip)

    def forward(self, features: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        prediction = self.raise_prediction(self.predict(features))
        features = F.leaky_relu(self.raise_features(features), SLOPE, inplace=True)
        return torch.cat([skip, features, prediction], dim=1)


class DenseSubnetwork(nn.Module):
    """Two images to a flow: 28,252,203 parameters at two input channels and base width 16.

    Parameters
    ----------
    inputs
        Channels of the fixed and of the moving image together, stacked in this order.
    channels
        Base width c; the coarsest level has 32c.
    cascades
        Number of dense sub-networks in the cascade; the flow is 20 / cascades times what the last layer gives.

    No prediction is made at 1/2 of the sides; the last layer raises its features to the flow at full resolution.
    """

    def __init__(self, inputs: int, channels: int, cascades: int) -> None:
        super().__init__()
        self.voxels = _VOXELS / cascades
        self.encoder = Encoder(inputs, channels)
        width = channels * 2 ** (LEVELS - 1)
        for level in range(LEVELS, 1, -1):
            skip = channels * 2 ** (level - 2)
            self.add_module(f"up{level}", _UpStep(width, skip))
            width = 2 * skip + 3
        self.head = _raising(width, 3)

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        """(B, inputs, D, H, W) to the (B, 3, D, H, W) float32 flow in voxels.

        Sides of any length: zeros are appended up to multiples of 64, and the flow is cropped.
        """
        shape = pair.shape[2:]
        skips = self.encoder(pad_to_multiple(pair, STRIDE))
        features = skips.pop()
        for level in range(LEVELS, 1, -1):
            features = getattr(self, f"up{level}")(features, skips.pop())
        # Nothing beyond this reaches the voxels that are kept, and at full resolution every voxel is dear.
        features = features[(..., *[slice(0, size // 2 + 1) for size in shape])]
        flow = in_float32(self.head, features)
        return flow[(..., *[slice(0, size) for size in shape])] * self.voxels
