"""Distance from a known flow, for supervised training."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import single


def endpoint_error(flow: Tensor, truth: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean length of ``flow - truth`` (VTN, section V.A.3, after FlowNet); voxels, 0 and above.

    Parameters
    ----------
    flow, truth
        (B, n, *spatial) in voxels.  Symmetric.
    weight
        (B, 1, *spatial), 0 and above: where the truth counts, each image normalised by its sum.

    The gradient of a length of zero is zero.
    """
    length = torch.linalg.vector_norm(single(flow) - single(truth), dim=1)
    if weight is None:
        return length.mean()
    weight = single(weight)[:, 0]
    return ((length * weight).flatten(1).sum(dim=1) / weight.flatten(1).sum(dim=1).clamp_min(1e-6)).mean()
