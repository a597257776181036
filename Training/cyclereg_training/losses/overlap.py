"""Overlap of label maps, as a loss where segmentations exist for training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .precision import single


def one_hot_labels(labels: Tensor, values: Sequence[int]) -> Tensor:
    """(B, 1, *spatial) label numbers to (B, len(values), *spatial) of 0 and 1, float32."""
    shape = (1, -1) + (1,) * (labels.dim() - 2)
    return (labels == torch.tensor(values, device=labels.device, dtype=labels.dtype).view(shape)).float()


def soft_dice(warped: Tensor, fixed: Tensor) -> Tensor:
    """``1 - mean Dice`` of fuzzy labels (VoxelMorph, equation 8): 0 (best) to 1.

    Parameters
    ----------
    warped, fixed
        (B, L, *spatial) in 0..1, one channel per label: :func:`one_hot_labels`, the moving one warped linearly.  Dice
        of a label is ``2 sum(a b) / (sum a + sum b)``.

    Labels that neither image holds are left out of the mean of their image; without any, an image counts as 0.
    """
    a, b = single(warped).flatten(2), single(fixed).flatten(2)
    both, either = 2 * (a * b).sum(dim=2), a.sum(dim=2) + b.sum(dim=2)
    there = either > 0
    dice = torch.where(there, both / either.where(there, 1.0), 0.0)
    number = there.sum(dim=1)
    return torch.where(number > 0, 1 - dice.sum(dim=1) / number.clamp_min(1), 0.0).mean()
