"""How good a flow is where something is known about the pair: its true field, labels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from CycleRegLib.warp import warp

from .losses import jacobian_determinant, one_hot_labels, soft_dice
from .synthetic import inside


@torch.no_grad()
def field_measures(flow: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Measures by name, means over the batch.

    ``folding``
        Share of voxels whose Jacobian determinant is not positive, %.
    ``endpoint``, ``endpoint_before``
        Mean distance from the true flow, and its mean length, voxels, where it leads to points inside the image.
    ``dice``
        Of the labels where the true flow is not known, warped linearly; 0 to 1, larger is better.

    Parameters
    ----------
    flow
        (B, n, *spatial) voxels.
    batch
        As objectives take it.
    """
    found = {"folding": 100 * (jacobian_determinant(flow) <= 0).float().mean()}
    if "flow" in batch:
        truth = batch["flow"].float()
        known = inside(truth)
        count = known.sum().clamp_min(1)
        found["endpoint"] = ((flow - truth).norm(dim=1, keepdim=True) * known).sum() / count
        found["endpoint_before"] = (truth.norm(dim=1, keepdim=True) * known).sum() / count
    elif "moving_labels" in batch and "fixed_labels" in batch:
        found["dice"] = _dice(flow, batch["moving_labels"], batch["fixed_labels"])
    return found


def _dice(flow: Tensor, moving: Tensor, fixed: Tensor) -> Tensor:
    values = [v for v in torch.unique(fixed).tolist() if v != 0]
    if not values:
        return flow.new_ones(())
    scores = [
        1 - soft_dice(warp(one_hot_labels(moving, [v]), flow, padding="border"), one_hot_labels(fixed, [v]))
        for v in values
    ]
    return torch.stack(scores).mean()
