"""What registration networks are commonly run as: a plain PyTorch U-Net and a warp that gathers eight corners.

The same network as :class:`CycleRegLib.networks.CycleMorphUNet` (same weights, same names), without anything done for
speed or memory, and a warp whose grid of positions, corner indices and weights are all whole tensors.  It needs
nothing but PyTorch and NumPy, so that a process that runs it has nothing else in memory.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Convolution(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.block = nn.ModuleDict({"0": nn.Conv3d(inputs, outputs, 3, stride, 1)})
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.block["0"](x))


class Down(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.block = Convolution(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class Up(nn.Module):
    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.upconv = nn.ConvTranspose3d(inputs, inputs, 3, 2, 1, 1)
        self.block = Convolution(skip + inputs, outputs, 1)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        x = self.upconv(x)
        x = torch.cat([skip, x], dim=1)
        return self.block(x)


class Out(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.upconv = nn.Conv3d(8, 3, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.upconv(x)


class UNet(nn.Module):
    """(B, 2, D, H, W), sides multiples of 16, to a flow of three channels; loads CycleMorph's ``model.*`` weights."""

    def __init__(self) -> None:
        super().__init__()
        self.inconv = Down(2, 16, 1)
        self.downconv1, self.downconv2 = Down(16, 32, 2), Down(32, 32, 2)
        self.downconv3, self.downconv4 = Down(32, 32, 2), Down(32, 32, 2)
        self.upconv1, self.upconv2, self.upconv3 = Up(32, 32, 32), Up(32, 32, 32), Up(32, 32, 32)
        self.keepblock = Convolution(32, 8, 1)
        self.upconv4 = Up(8, 16, 8)
        self.outconv = Out()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x1 = self.inconv(x)
        x2 = self.downconv1(x1)
        x3 = self.downconv2(x2)
        x4 = self.downconv3(x3)
        x5 = self.downconv4(x4)
        y = self.upconv1(x5, x4)
        y = self.upconv2(y, x3)
        y = self.upconv3(y, x2)
        y = self.keepblock(y)
        y = self.upconv4(y, x1)
        return self.outconv(y)


def gather_warp(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """``image(x + flow(x))``, trilinear, zeros outside; (B, 1, D, H, W) and (B, 3, D, H, W) in voxels."""
    batch, _, *shape = image.shape
    grid = torch.stack(torch.meshgrid(*[torch.arange(side) for side in shape], indexing="ij")).float()
    where = grid[None] + flow + 1  # one voxel of zeros all around the image
    padded = F.pad(image, (1, 1, 1, 1, 1, 1)).reshape(batch, -1)
    sides = [side + 2 for side in shape]
    low = torch.floor(where).long()
    high = low + 1
    limits = torch.tensor(sides).view(1, 3, 1, 1, 1) - 1
    where = torch.minimum(where.clamp(min=0), limits.float())
    low, high = torch.minimum(low.clamp(min=0), limits), torch.minimum(high.clamp(min=0), limits)
    share = [1 - (where - low.float()).clamp(0, 1), (where - low.float()).clamp(0, 1)]
    result = torch.zeros(batch, *shape)
    for corner in range(8):
        bits = [corner >> 2 & 1, corner >> 1 & 1, corner & 1]
        z, y, x = ((high if bit else low)[:, axis] for axis, bit in enumerate(bits))
        index = (z * sides[1] + y) * sides[2] + x
        values = torch.gather(padded, 1, index.reshape(batch, -1)).reshape(batch, *shape)
        result = result + values * share[bits[0]][:, 0] * share[bits[1]][:, 1] * share[bits[2]][:, 2]
    return result[:, None]


def grid_sample_warp(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """The same with PyTorch's own interpolation."""
    shape = image.shape[2:]
    grid = torch.stack(torch.meshgrid(*[torch.arange(side) for side in shape], indexing="ij")).float()
    where = (grid[None] + flow) * (2 / (torch.tensor(shape) - 1)).view(1, 3, 1, 1, 1) - 1
    return F.grid_sample(image, where.flip(1).movedim(1, -1), align_corners=True)


def register(network: UNet, fixed: np.ndarray, moving: np.ndarray, careful: bool) -> tuple[np.ndarray, np.ndarray]:
    """Flow and warped moving image of two (z, y, x) arrays.

    ``careful`` is what someone does who knows PyTorch well: bfloat16 by autocast, PyTorch's interpolation, no
    autograd in the background; the network has been brought to channels-last memory.
    """
    images = [torch.from_numpy(array)[None, None] for array in (moving, fixed)]
    if careful:
        with torch.inference_mode():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                pair = torch.cat(images, dim=1).contiguous(memory_format=torch.channels_last_3d)
                flow = network(pair)
            flow = flow.float()
            return flow[0].numpy(), grid_sample_warp(images[0], flow)[0, 0].numpy()
    with torch.no_grad():
        flow = network(torch.cat(images, dim=1))
        return flow[0].numpy(), gather_warp(images[0], flow)[0, 0].numpy()
