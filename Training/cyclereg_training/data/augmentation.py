"""Random changes of training pairs: what a pair becomes depends on its chance alone, so on seed, epoch and number.

Flips, rotations and B-spline fields are this package's own: they have to change images, label maps and known fields
alike, the vectors of fields included, and MONAI knows no fields of displacements; its elastic deformation smooths white
noise where VTN's has control points.  Bias, contrast, gamma and noise are MONAI's, with a random state from the chance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from CycleRegLib.warp import warp

from ..synthetic.chance import Chance
from ..synthetic.splines import along_axes, cubic
from .settings import AugmentationSettings

Pair = dict[str, Tensor]
_SIDES = ("moving", "fixed")
_FLOWS = ("flow", "inverse_flow")
# Slopes of a field stay below 1 and nothing folds while coefficients do not exceed this share of their distance.
_STEEPEST = 0.4


def augment(pair: Pair, settings: AugmentationSettings, chance: Chance) -> Pair:
    """A changed copy of a pair.

    Parameters
    ----------
    pair
        As objectives take it, without the batch axis: ``moving``, ``fixed`` (1, *spatial) in 0..1, and perhaps
        ``moving_labels``, ``fixed_labels`` (1, *spatial), ``flow``, ``inverse_flow`` (n, *spatial) voxels; anything
        else is left as it is.

    Raises
    ------
    ValueError
        For a B-spline deformation of a pair whose fields are known: they would be true no more.
    """
    n = pair["moving"].dim() - 1
    for axis, share in enumerate(settings.flips_of(n)):
        if chance.coin(share):
            pair = flipped(pair, axis)
    # Drawn whether it is used or not, so that one setting does not change what the others do.
    plane = chance.order(n)[:2]
    quarters = chance.integer(1, 3)
    if chance.coin(settings.rotations):
        pair = rotated(pair, (min(plane), max(plane)), quarters)
    if chance.coin(settings.spline):
        pair = _deformed(pair, settings, chance)
    return {
        name: _recoloured(value, settings, chance) if name in _SIDES else value for name, value in sorted(pair.items())
    }


# ---------------------------------------------------------------------- flips and rotations


def flipped(pair: Pair, axis: int) -> Pair:
    """Everything turned round along an array axis (0 is the slowest); components of fields along it change sign."""
    result = {name: value.flip(axis + 1) if _is_spatial(value, pair) else value for name, value in pair.items()}
    for name in _FLOWS:
        if name in result:
            sign = torch.ones(result[name].shape[0])
            sign[axis] = -1
            result[name] = result[name] * sign.view(-1, *[1] * (result[name].dim() - 1))
    return result


def rotated(pair: Pair, plane: tuple[int, int], quarters: int) -> Pair:
    """Everything turned by quarters of a full turn in the plane of two array axes, fields' components with it.

    Where the two sides differ, a quarter would change the shape; half a turn is taken instead.
    """
    first, second = plane
    shape = pair["moving"].shape[1:]
    if shape[first] != shape[second]:
        quarters = 2
    for _ in range(quarters % 4):
        pair = flipped(_transposed(pair, first, second), first)
    return pair


def _transposed(pair: Pair, first: int, second: int) -> Pair:
    result = {
        name: value.transpose(first + 1, second + 1) if _is_spatial(value, pair) else value
        for name, value in pair.items()
    }
    for name in _FLOWS:
        if name in result:
            order = list(range(result[name].shape[0]))
            order[first], order[second] = second, first
            result[name] = result[name][order]
    return result


def _is_spatial(value: Tensor, pair: Pair) -> bool:
    return value.dim() == pair["moving"].dim()


# ---------------------------------------------------------------------- B-splines


def spline_field(chance: Chance, shape: tuple[int, ...], points: int, voxels: float) -> Tensor:
    """A random smooth displacement, (n, *shape) voxels: the uniform cubic B-spline whose ``points`` control points
    along each axis reach from end to end (VTN, section V.A.2), uniform within ``voxels`` or what does not fold."""
    n = len(shape)
    coefficients = torch.stack(
        [
            (2 * chance.numbers(points**n) - 1).view(*[points] * n) * min(voxels, _STEEPEST * (side - 1) / (points - 1))
            for side in shape
        ]
    )
    matrices = [_ends_repeated(side, points) for side in shape]
    if n == 2:
        return along_axes(coefficients[:, None], [torch.ones(1, 1), *matrices])[:, 0]
    return along_axes(coefficients, matrices)


def _ends_repeated(length: int, points: int) -> Tensor:
    """Weights of the control points at each voxel, (length, points); those beyond the ends repeat the last."""
    at = torch.linspace(0, points - 1, length)
    weights = cubic(at[:, None] - torch.arange(-1, points + 1))
    result = weights[:, 1:-1].clone()
    result[:, 0] += weights[:, 0]
    result[:, -1] += weights[:, -1]
    return result


def _deformed(pair: Pair, settings: AugmentationSettings, chance: Chance) -> Pair:
    if any(name in pair for name in _FLOWS):
        raise ValueError("a pair whose fields are known cannot be deformed: they would be true no more")
    shape = tuple(pair["moving"].shape[1:])
    field = spline_field(chance, shape, settings.spline_points, settings.spline_voxels)[None]
    result = dict(pair)
    for side in _SIDES if settings.spline_on == "both" else ("moving",):
        result[side] = warp(pair[side][None], field, padding="border")[0]
        labels = pair.get(f"{side}_labels")
        if labels is not None:
            moved = warp(labels[None].float(), field, mode="nearest", padding="border")[0]
            result[f"{side}_labels"] = moved.to(labels.dtype)
    return result


# ---------------------------------------------------------------------- intensities


def _recoloured(image: Tensor, settings: AugmentationSettings, chance: Chance) -> Tensor:
    """Bias, contrast, gamma and noise in turn; values stay in 0..1, or in the image's own range where that is wider."""
    from monai.transforms import AdjustContrast, RandBiasField, RandGaussianNoise, ScaleIntensityFixedMean

    state = np.random.RandomState(chance.integer(0, 2**31 - 1))
    factor, exponent = chance.uniform(*settings.contrast_range), chance.log_uniform(*settings.gamma_range)
    strength = settings.bias_strength
    steps: list[tuple[float, Callable[[Tensor], Tensor]]] = [
        (settings.bias, RandBiasField(prob=1.0, coeff_range=(-strength, strength)).set_random_state(state=state)),
        (settings.contrast, ScaleIntensityFixedMean(factor=factor - 1)),
        (settings.gamma, AdjustContrast(exponent)),
        (settings.noise, RandGaussianNoise(prob=1.0, std=settings.noise_deviation).set_random_state(state=state)),
    ]
    wanted = [step for share, step in steps if chance.coin(share)]
    if not wanted:
        return image
    low, high = min(float(image.min()), 0.0), max(float(image.max()), 1.0)
    for step in wanted:
        image = step(image).clamp(low, high)
    return image.as_tensor() if hasattr(image, "as_tensor") else image
