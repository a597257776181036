"""Smooth random fields: cubic B-splines with random coefficients, evaluated by one matrix product per axis."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .chance import Chance


def cubic(distance: Tensor) -> Tensor:
    """The cubic B-spline, support (-2, 2), at distances in units of its knots."""
    d = distance.abs()
    inner = 2 / 3 - d * d * (1 - d / 2)
    outer = (2 - d).clamp_min(0) ** 3 / 6
    return torch.where(d < 1, inner, outer)


def basis(length: int, spacing: float, phase: float, device: torch.device | str = "cpu") -> Tensor:
    """Values of B-splines with knots every ``spacing`` voxels at the voxels 0 to ``length - 1``, (length, splines).

    Rows have the Euclidean norm 1, so that independent standard normal coefficients give a field of variance 1
    everywhere.  ``phase`` in 0..1 shifts the knots, so that no lattice is common to all fields.
    """
    knots = int((length - 1) / spacing + phase) + 4
    at = torch.arange(length, device=device, dtype=torch.float32) / spacing + phase
    values = cubic(at[:, None] - (torch.arange(knots, device=device) - 1))
    return values / values.norm(dim=1, keepdim=True)


def refining(coarse: int, fine: int, device: torch.device | str = "cpu") -> Tensor:
    """Cubic interpolation (Keys 1981, a = -1/2) from ``coarse`` to ``fine`` samples with common ends, (fine, coarse).

    Exact for parabolas inside and for straight lines up to the ends.
    """
    at = torch.arange(fine, device=device, dtype=torch.float32) * ((coarse - 1) / max(fine - 1, 1))
    d = (at[:, None] - (torch.arange(coarse + 2, device=device) - 1)).abs()
    near = (1.5 * d - 2.5) * d * d + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    weights = torch.where(d < 1, near, torch.where(d < 2, far, torch.zeros_like(d)))
    # The samples beyond both ends continue the last two in a straight line.
    result = weights[:, 1:-1].clone()
    result[:, 0] += 2 * weights[:, 0]
    result[:, 1] -= weights[:, 0]
    result[:, -1] += 2 * weights[:, -1]
    result[:, -2] -= weights[:, -1]
    return result


def along_axes(coefficients: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Apply one matrix to each spatial axis: (C, d, h, w) and (D, d), (H, h), (W, w) to (C, D, H, W)."""
    first, second, third = matrices
    rows = torch.matmul(second, torch.matmul(coefficients, third.T))  # (C, d, H, W)
    return torch.matmul(first, rows.flatten(2)).view(rows.shape[0], first.shape[0], *rows.shape[2:])


def smooth_noise(
    chance: Chance, shape: Sequence[int], spacing: float | Sequence[float], channels: int = 1, stride: float = 1.0
) -> Tensor:
    """Gaussian noise of mean 0 and variance 1, smooth over about ``spacing`` voxels, (channels, \\*shape).

    Parameters
    ----------
    chance
        Where the numbers come from.
    shape
        Array shape of the result.
    spacing
        Distance of the spline's knots, for all axes or each; at least 1.
    stride
        Voxels from one sample of the result to the next.
    """
    spacings = (spacing,) * len(shape) if isinstance(spacing, (int, float)) else spacing
    matrices = [
        basis(length, max(space / stride, 1.0), phase, chance.device)
        for length, space, phase in zip(shape, spacings, chance.numbers(len(shape)).tolist())
    ]
    return along_axes(chance.normal(channels, *(m.shape[1] for m in matrices)), matrices)
