"""VTN's affine sub-network (Zhao et al. 2020, section IV.B, figure 3): flow(x) = A x + b about the image's centre."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .blocks import in_float32
from .vtn_dense import LEVELS, STRIDE, Encoder


def affine_flow(matrix: torch.Tensor, offset: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The flow ``A (x - c) + b`` on a grid, c its centre (half of the last index along each axis).

    Parameters
    ----------
    matrix, offset
        A, (B, 3, 3), and b, (B, 3); voxels, rows and columns in array-axis order.
    shape
        Of the grid, (D, H, W).

    Returns
    -------
    (B, 3, D, H, W) in voxels, channels in array-axis order.  Products and sums only, so that autocast rounds nothing.
    """
    flow = offset[:, :, None, None, None]
    for axis, length in enumerate(shape):
        view = [1] * 5
        view[2 + axis] = length
        from_centre = torch.arange(length, dtype=matrix.dtype, device=matrix.device) - (length - 1) / 2
        flow = flow + matrix[:, :, axis, None, None, None] * from_centre.view(view)
    return flow


def resized(volume: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """(B, C, ...) with the same extent in ``shape`` voxels, trilinear; the volume itself where the shape is its own.

    Where voxels become larger by half or more, as many samples as fit are averaged for each, lest fine structures
    come out as coarse ones.
    """
    if tuple(volume.shape[2:]) == tuple(shape):
        return volume
    samples = [max(1, round(old / new)) for old, new in zip(volume.shape[2:], shape)]
    fine = [new * count for new, count in zip(shape, samples)]
    return F.avg_pool3d(F.interpolate(volume, size=fine, mode="trilinear", align_corners=False), samples)


class AffineSubnetwork(nn.Module):
    """Two images to an affine map: 14,166,288 parameters at two input channels, base width 16 and 128^3 voxels.

    The dense sub-network's encoder down to 1/64 of the sides, then two convolutions as large as what is left (2^3 of
    128^3; with that extent the count is the published network's, although the paper speaks of 4^3), without bias, to
    the 9 and 3 numbers.

    Parameters
    ----------
    inputs
        Channels of the fixed and of the moving image together, stacked in this order.
    channels
        Base width c; the coarsest level has 32c.
    shape
        Sides (D, H, W) that the last two convolutions belong to, multiples of 64.
    """

    def __init__(self, inputs: int, channels: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        extent = tuple(side // STRIDE for side in self.shape)
        width = channels * 2 ** (LEVELS - 1)
        self.encoder = Encoder(inputs, channels)
        self.matrix = nn.Conv3d(width, 9, extent, bias=False)
        self.offset = nn.Conv3d(width, 3, extent, bias=False)

    def forward(self, pair: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A (B, 3, 3) and b (B, 3) in voxels of the pair (B, inputs, D, H, W), float32, in array-axis order.

        A pair of another shape is seen resampled to :attr:`shape` over the same extent; with s = own / seen sides,
        A and b of the seen grid are then s_i A_ij / s_j and s_i b_i of the own one, since both grids share the centre.
        """
        features = self.encoder(resized(pair, self.shape))[-1]
        matrix = in_float32(self.matrix, features).reshape(-1, 3, 3)
        offset = in_float32(self.offset, features).reshape(-1, 3)
        scale = torch.tensor([own / seen for own, seen in zip(pair.shape[2:], self.shape)]).to(matrix)
        return matrix * scale[:, None] / scale, offset * scale
