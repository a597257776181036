"""From labels to images: intensities and texture for each label, then what an acquisition does to them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from CycleRegLib.warp import sample

from .chance import Chance
from .settings import AppearanceSettings
from .shapes import LabelMap
from .splines import along_axes, smooth_noise


@dataclass(frozen=True)
class Contrast:
    """Intensities of the labels: means and deviations of the two textures, (count,) each, on the device."""

    means: Tensor
    fine: Tensor
    coarse: Tensor


def random_contrast(chance: Chance, tissue: LabelMap, settings: AppearanceSettings) -> Contrast:
    """Independent means for all labels, some of them merged, spread over the scale or crowded in a part of it."""
    count = tissue.count
    means = chance.numbers(count)
    crowded = chance.coin(settings.crowded)
    width, place = chance.uniform(*settings.crowded_width), chance.uniform(0, 1)
    others = chance.numbers(count)
    merged = chance.numbers(count) < settings.merged
    if crowded:
        narrow = (1 - width) * place + width * means
        means = torch.where(others < 0.12, means, narrow)
    means = torch.where(merged, means[torch.tensor(chance.order(count))], means)
    spread = width if crowded else 1.0
    plain = chance.numbers(count) < settings.plain
    strength = chance.uniform(0, 1) * settings.texture * max(spread, 0.3)
    fine, coarse = (strength * chance.numbers(count).masked_fill(plain, 0.0) for _ in range(2))
    if tissue.air:
        # Air is the darkest that there is, as in nearly every modality, and plain; sometimes just any value.
        if chance.coin(0.9):
            means[0] = means.min() - chance.uniform(0, 1.0) * (1.0 if chance.coin(0.5) else 0.1)
        fine[0] = coarse[0] = 0.0
        if tissue.shells and chance.coin(settings.stripped):
            shells = torch.tensor(tissue.shells)
            means[shells] = float(means[0])
            fine[shells] = coarse[shells] = 0.0
    return Contrast(*(values.to(chance.device) for values in (means, fine, coarse)))


def random_texture(chance: Chance, tissue: LabelMap, settings: AppearanceSettings) -> Tensor:
    """Fine and coarse structure of the tissue, (2, D, H, W) of variance 1, which moves with the labels."""
    shape = tuple(tissue.labels.shape)
    spacings = chance.uniform(*settings.texture_fine), chance.uniform(*settings.texture_coarse)
    return torch.cat([smooth_noise(chance, shape, spacing) for spacing in spacings])


def render(tissue: LabelMap, contrast: Contrast, texture: Tensor, places: Tensor) -> Tensor:
    """The image of a label map at given places (1, d, h, w, 3) of it, (1, 1, d, h, w).

    The map of intensities is smoothed over a voxel before it is interpolated, so that borders are partial volumes
    rather than steps; beyond it, its border goes on.
    """
    index = tissue.labels.int().flatten()
    image = contrast.means.index_select(0, index)
    image += contrast.fine.index_select(0, index) * texture[0].flatten()
    image += contrast.coarse.index_select(0, index) * texture[1].flatten()
    image = image.view(1, 1, *tissue.labels.shape)
    for axis in (2, 3, 4):
        image = _three_taps(image, axis)
    return sample(image, places, padding="border")


def _three_taps(image: Tensor, axis: int) -> Tensor:
    """Weights 1/4, 1/2, 1/4 along an axis; the ends stay."""
    size = image.shape[axis]
    result = image.clone()
    inner = result.narrow(axis, 1, size - 2)
    inner *= 0.5
    inner += 0.25 * image.narrow(axis, 0, size - 2)
    inner += 0.25 * image.narrow(axis, 2, size - 2)
    return result


def acquire(chance: Chance, image: Tensor, settings: AppearanceSettings) -> Tensor:
    """What an acquisition makes of the tissue's intensities (1, 1, D, H, W): values 0 to 1.

    In turn: bias field, blur and thick slices, noise, percentiles to 0 and 1, gamma, inversion, an empty margin.
    """
    shape = tuple(image.shape[2:])
    side = sum(shape) / len(shape)
    image = _scaled(image[0], 0.001, 0.999)
    bias, size = chance.uniform(*settings.bias), chance.uniform(*settings.bias_size) * side
    image = image * (bias * smooth_noise(chance, shape, size)).exp_()
    image = _blurred(chance, image, settings)
    image = _noisy(chance, image, settings)
    image = _scaled(image, *(p / 100 for p in settings.percentiles))
    exponent = float((settings.gamma * chance.normals()).exp())
    image = image.pow_(exponent)
    if chance.coin(settings.inverted):
        image = 1 - image
    if chance.coin(settings.cropped):
        image = _cropped(chance, image, settings)
    return image[None]


def _scaled(image: Tensor, low: float, high: float) -> Tensor:
    """These quantiles of a sample of voxels to 0 and 1, clipped."""
    values = image.flatten()
    values = values[:: max(1, values.numel() // 30000)]
    ends = torch.quantile(values, torch.tensor([low, high], device=image.device))
    return ((image - ends[0]) / (ends[1] - ends[0] + 1e-6)).clamp_(0, 1)


def _blurred(chance: Chance, image: Tensor, settings: AppearanceSettings) -> Tensor:
    """Gaussian blur, along one axis perhaps thick slices: one matrix for each axis."""
    thick_axis = chance.integer(0, 2) if chance.coin(settings.thick_slices) else -1
    thickness = chance.uniform(*settings.thickness)
    linear = chance.coin(0.7)
    matrices = []
    for axis, length in enumerate(image.shape[1:]):
        matrix = _gaussian(length, chance.uniform(*settings.blur), image.device)
        if axis == thick_axis:
            matrix = _slices(length, thickness, chance.uniform(0, 1), linear, image.device)
        matrices.append(matrix)
    return along_axes(image, matrices)


def _gaussian(length: int, deviation: float, device: torch.device) -> Tensor:
    """Gaussian weights for the neighbours of each voxel, rows of sum 1."""
    at = torch.arange(length, device=device, dtype=torch.float32)
    weights = (-0.5 * ((at[:, None] - at) / max(deviation, 1e-3)).square()).exp()
    return weights / weights.sum(dim=1, keepdim=True)


def _slices(length: int, thickness: float, phase: float, linear: bool, device: torch.device) -> Tensor:
    """Means over slices ``thickness`` voxels thick, interpolated linearly or repeated; rows of sum 1."""
    at = torch.arange(length, device=device, dtype=torch.float32)
    centers = (torch.arange(int(length / thickness) + 2, device=device) - phase) * thickness
    # A slice's profile has soft edges half a voxel wide on either side, and no slice is empty.
    profile = (thickness / 2 + 0.5 - (at - centers[:, None]).abs()).clamp(1e-4, 1)
    profile = profile / profile.sum(dim=1, keepdim=True)
    distance = (at[:, None] - centers).abs() / thickness
    nearest = (distance == distance.amin(dim=1, keepdim=True)).float()
    weights = (1 - distance).clamp_min(0) if linear else nearest
    return (weights / weights.sum(dim=1, keepdim=True)) @ profile


def _noisy(chance: Chance, image: Tensor, settings: AppearanceSettings) -> Tensor:
    """White or short-range Gaussian noise, or that of magnitudes of complex values."""
    deviation = chance.log_uniform(*settings.noise)
    correlated, rician = chance.coin(settings.correlated_noise), chance.coin(settings.rician)
    noise = chance.normal(*image.shape)
    if correlated:
        # Blurred in the plane of the slices, as a reconstruction's kernel does, and of the same deviation.
        skipped = chance.integer(1, 3)
        for axis in (1, 2, 3):
            if axis != skipped:
                noise = _three_taps(noise, axis) * (8 / 3) ** 0.5
    image = image + deviation * noise
    if rician:
        image = (image.square() + (deviation * chance.normal(*image.shape)).square_()).sqrt_()
    return image


def _cropped(chance: Chance, image: Tensor, settings: AppearanceSettings) -> Tensor:
    """Zeros at some of the faces, where the field of view ended."""
    image = image.clone()
    for axis in (1, 2, 3):
        for end in (False, True):
            width = round(chance.uniform(0, settings.crop) * image.shape[axis])
            if chance.coin(0.4):
                start = image.shape[axis] - width if end else 0
                image.narrow(axis, start, width).zero_()
    return image
