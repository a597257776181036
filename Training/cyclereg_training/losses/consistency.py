"""What goes there and back again arrives where it started: consistency of images and of flows."""

from __future__ import annotations

from torch import Tensor

from CycleRegLib.warp import compose_flows

from .precision import single


def absolute_difference(image: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute difference: the L1 norm of CycleMorph's cycle loss (equation 8) and of InverseNet's (equation 2).

    Both (B, C, *spatial); 0 and above, in units of intensity.  A mean over voxels, as published training code has it,
    so that the weights of the papers hold for every size.
    """
    return (single(image) - single(reference)).abs().mean()


def round_trip(forward: Tensor, backward: Tensor) -> Tensor:
    """Mean of ``|x -> forward -> backward - x|^2`` over voxels and both orders; voxel^2, 0 for exact inverses.

    ``forward`` and ``backward`` are (B, n, *spatial) flows in voxels on one grid; symmetric in both.  Beyond the grid
    a flow keeps its border value.
    """
    forward, backward = single(forward), single(backward)
    orders = compose_flows(forward, backward), compose_flows(backward, forward)
    return sum(flow.square().sum(dim=1).mean() for flow in orders) / 2


def invertibility(forward: Tensor, backward: Tensor) -> Tensor:
    """VTN's invertibility loss (equation 12 and section V.A.3): ``||f12 * f21||^2 + ||f21 * f12||^2``, voxel^2.

    The flows, (B, n, *spatial) in voxels, are composed over the whole grid and measured in the central half of every
    side, so that what leaves the image does not count.  The norms are means over its voxels: the paper does not say
    whether it adds or averages, and a sum over 64^3 voxels would outweigh everything else at its weight of 1e-3.
    Symmetric.
    """
    forward, backward = single(forward), single(backward)
    centre = (..., *[slice(side // 4, side - side // 4) for side in forward.shape[2:]])
    orders = compose_flows(forward, backward), compose_flows(backward, forward)
    return sum(flow[centre].square().sum(dim=1).mean() for flow in orders)
