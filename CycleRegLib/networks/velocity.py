"""Stationary velocities: the flow that follows one for a unit of time, by scaling and squaring.

A velocity v that does not change in time gives the flow ``exp(v)``: where a point is after a unit of time.  Its
inverse is ``exp(-v)``, so that one velocity gives both directions (Arsigny et al., MICCAI 2006; in VoxelMorph:
Dalca et al., Medical Image Analysis 57, 2019).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..warp import compose_flows

PUBLISHED_STEPS = 7
PUBLISHED_DOWNSIZE = 2
MAX_STEPS = 20
_LINEAR = {2: "bilinear", 3: "trilinear"}


def integrate(velocity: torch.Tensor, steps: int = PUBLISHED_STEPS, padding: str = "zeros") -> torch.Tensor:
    """The flow ``exp(velocity)``: the velocity over 2^steps, composed with itself ``steps`` times.

    Parameters
    ----------
    velocity
        (B, n, D, H, W) or (B, n, H, W), voxels per unit of time, channels in array-axis order.
    steps
        Number of squarings; with 0 the velocity itself is the flow.
    padding
        What the velocity is outside the grid, see :func:`CycleRegLib.warp.sample`; ``zeros`` as VoxelMorph has it,
        so that points stop once they have left.

    Returns
    -------
    The flow in voxels, same shape.
    """
    flow = velocity / 2**steps
    for _ in range(steps):
        flow = compose_flows(flow, flow, padding)
    return flow


def resize_flow(flow: torch.Tensor, size: tuple[int, ...], factor: float) -> torch.Tensor:
    """A flow on a grid of ``size`` with the same outermost voxel centres, vectors multiplied by ``factor``.

    Linear interpolation with ``align_corners``.  VoxelMorph's factor is the quotient of the sizes, although the
    voxels of such a grid are (new - 1) / (old - 1) times as large; kept, since weights are trained with it.
    """
    if tuple(flow.shape[2:]) != tuple(size):
        flow = F.interpolate(flow, size=tuple(size), mode=_LINEAR[flow.dim() - 2], align_corners=True)
    return flow * factor


def exponential(
    velocity: torch.Tensor,
    steps: int = PUBLISHED_STEPS,
    downsize: int = PUBLISHED_DOWNSIZE,
    coarse: bool = False,
) -> torch.Tensor:
    """``exp(velocity)`` as VoxelMorph's published models have it: integrated on a coarser grid.

    The velocity is down-sampled by ``downsize`` and its vectors scaled, integrated there (zeros outside), and the
    integrated flow is scaled back and up-sampled.

    Parameters
    ----------
    velocity
        (B, n, ...) voxels of the full grid, every side a multiple of ``downsize``.
    downsize
        Full voxels per coarse voxel; 1 integrates on the full grid.
    coarse
        The velocity lies on the coarse grid already, in its voxels; the result is ``downsize`` times as large.
    """
    shape = tuple(velocity.shape[2:])
    full = tuple(side * downsize for side in shape) if coarse else shape
    if not coarse:
        velocity = resize_flow(velocity, tuple(side // downsize for side in shape), 1.0 / downsize)
    return resize_flow(integrate(velocity, steps), full, float(downsize))
