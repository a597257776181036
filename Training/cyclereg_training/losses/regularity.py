"""How regular a flow is: its derivatives, and where it folds."""

from __future__ import annotations

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import single


def _differences(flow: Tensor) -> list[Tensor]:
    """Forward differences along every spatial axis, each one voxel shorter along its own."""
    return [flow.diff(dim=axis) for axis in range(2, flow.dim())]


def _mean_square(x: Tensor) -> Tensor:
    """Zero where an axis of one voxel leaves nothing to average."""
    return x.square().mean() if x.numel() else x.sum()


def smoothness(flow: Tensor) -> Tensor:
    """Mean squared forward difference over voxels and components, averaged over the axes (CycleMorph, equation 5).

    ``flow`` is (B, n, *spatial) in voxels; the value has no unit, 0 for a translation.  As in the published training
    code, the paper's sum over voxels is a mean, and so are components and axes.
    """
    differences = _differences(single(flow))
    return sum(_mean_square(d) for d in differences) / len(differences)


def total_variation(flow: Tensor) -> Tensor:
    """VTN's smooth term (equation 8): ``1 / (n |Omega|) sum_x sum_i |f(x + e_i) - f(x)|^2``, mean over the batch.

    ``flow`` is (B, n, *spatial) in voxels; no unit, 0 for a translation.  Differences across the border do not exist
    and count as zero.  About n times :func:`smoothness`, which averages over components.
    """
    flow = single(flow)
    n = flow.dim() - 2
    return sum(d.square().sum() for d in _differences(flow)) / (n * flow[:, 0].numel())


def bending_energy(flow: Tensor) -> Tensor:
    """Mean over voxels of the squared second differences (Rueckert et al., IEEE TMI 1999, equation 10); 1/voxel^2.

    ``sum_i |f_ii|^2 + 2 sum_(i<j) |f_ij|^2`` for ``flow`` (B, n, *spatial) in voxels, each term averaged over the
    voxels where its difference exists; 0 for every affine map.
    """
    flow = single(flow)
    axes = range(2, flow.dim())
    straight = sum(_mean_square(flow.diff(n=2, dim=axis)) for axis in axes)
    mixed = sum(_mean_square(flow.diff(dim=a).diff(dim=b)) for a, b in combinations(axes, 2))
    return (straight + 2 * mixed) * flow.shape[1]


def jacobian_determinant(flow: Tensor) -> Tensor:
    """det(I + df/dx) from forward differences: (B, n, *spatial) in voxels to (B, *spatial), sides one voxel shorter.

    1 where nothing changes, 0 and below where the map folds.  The determinant does not depend on the voxels' sides.

    Raises
    ------
    ValueError
        If the flow is neither 2D nor 3D.
    """
    flow = single(flow)
    n = flow.dim() - 2
    if n not in (2, 3) or flow.shape[1] != n:
        raise ValueError(f"a flow is (B, n, *spatial) with n = 2 or 3 axes, not {tuple(flow.shape)}")
    inner = tuple(slice(0, side - 1) for side in flow.shape[2:])
    columns = []
    for axis, difference in enumerate(_differences(flow)):
        difference = difference[(..., *inner)]
        columns.append([difference[:, c] + 1 if c == axis else difference[:, c] for c in range(n)])
    if n == 2:
        (a, c), (b, d) = columns
        return a * d - b * c
    (a, d, g), (b, e, h), (c, f, i) = columns
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def folding(flow: Tensor, least: float = 0.0) -> Tensor:
    """Mean of ``max(0, least - det J)`` (Mok and Chung, CVPR 2020, equation 5, with ``least`` 0).

    ``flow`` is (B, n, *spatial) in voxels; see :func:`jacobian_determinant`.  No unit, 0 where nothing folds; a
    ``least`` above zero, such as 0.1, keeps a distance from folding.
    """
    determinant = jacobian_determinant(flow)
    low = F.relu(least - determinant)
    return low.mean() if low.numel() else torch.zeros_like(flow.sum())
