"""CycleReg's own network: a pyramid that compares contrast-free descriptors and refines one flow from coarse to fine.

It joins what the field found to work for any contrast and large motion: MIND-SSC descriptors (Heinrich et al., MICCAI
2013), cost volumes over a small search range with their expected displacement (as in ConvexAdam, Siebert et al. 2021,
and PDD-Net, Heinrich 2019), moving features warped by the flow so far (PWC-Net, Sun et al. 2018; in registration
LapIRN, Mok and Chung 2020), and training on synthetic shapes of random contrast (SynthMorph, Hoffmann et al. 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..similarity import mind_ssc
from ..warp import compose_flows, warp
from .blocks import RegistrationNetwork, convolution, in_float32

SLOPE = 0.1
MIND_CHANNELS = 12
# Distance of MIND's neighbours at half resolution: wide enough to see past noise, narrow enough for small organs.
_DILATION = 2
_HEAD_DEVIATION = 1e-3


class _Layer(nn.Sequential):
    """Convolution and leaky ReLU.  Keys: ``0.weight``, ``0.bias``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(convolution(3, inputs, outputs), nn.LeakyReLU(SLOPE, inplace=True))


class _Halving(nn.Sequential):
    """Kernel 2, stride 2, so that a coarse voxel lies in the middle of its eight fine ones, as flows assume."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Conv3d(inputs, outputs, 2, 2), nn.LeakyReLU(SLOPE, inplace=True))


class _Level(nn.Module):
    """One resolution of the decoder: what improves the flow of the next coarser one.

    Keys: ``key`` (features to compare), ``layers``, ``head``; ``weight`` (how much descriptors and features count),
    ``sharpness`` and ``stillness`` (see :func:`expected_displacement`), ``trust`` in what the search found.
    """

    def __init__(self, features: int, width: int, coarser: int, radius: int, compared: int, described: bool) -> None:
        super().__init__()
        self.radius, self.described = radius, described
        inputs = 2 * features + 3 + coarser
        if radius:
            inputs += 3 + (2 * radius + 1) ** 3
            self.key = nn.Conv3d(features, compared, 1)
            # With these the search alone, before any training, takes a fifth of the error off real pairs.
            self.weight = nn.Parameter(torch.tensor([1.0, 0.3] if described else [0.0, 1.0]))
            self.sharpness = nn.Parameter(torch.tensor(4.0))
            self.stillness = nn.Parameter(torch.tensor(1.0))
            self.trust = nn.Parameter(torch.tensor(1.0))
        self.layers = nn.Sequential(_Layer(inputs, width), _Layer(width, width))
        self.head = convolution(3, width, 3)

    def forward(
        self, features: torch.Tensor, descriptors: torch.Tensor, flow: torch.Tensor, coarser: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The improved flow (voxels of this level) and the features it came from.

        ``features`` and ``descriptors`` are of moving images, the other half of the batch has the fixed ones; the
        descriptors may be finer by a power of two.
        """
        fixed = _exchanged(features)
        moved = _warped(features, flow)
        parts = [moved, fixed, flow]
        guess = None
        if self.radius:
            with torch.autocast(fixed.device.type, enabled=False):
                keys = (_unit(self.key(one.float())) for one in (fixed, moved))
                cost = self.weight[1] * matching_cost(*keys, self.radius)
                if self.described:
                    times = descriptors.shape[2] // features.shape[2]
                    finer = flow
                    while finer.shape[2] < descriptors.shape[2]:
                        finer = doubled(finer, [2 * side for side in finer.shape[2:]])
                    compared = _exchanged(descriptors), _warped(descriptors, finer)
                    cost = cost + self.weight[0] * matching_cost(*compared, self.radius, times)
                guess = expected_displacement(cost, self.radius, self.sharpness, self.stillness)
            parts += [guess, cost]
        if coarser is not None:
            parts.append(coarser)
        found = self.layers(torch.cat([part.to(fixed.dtype) for part in parts], dim=1))
        step = in_float32(self.head, found)
        if guess is not None:
            step = step + self.trust * guess
        return compose_flows(step, flow), found


class PyramidNetwork(RegistrationNetwork):
    """Both flows of a pair in one pass, for images of any contrast: 2.6 million parameters.

    Both images, halved, pass one encoder (intensity and MIND-SSC in; strides 2, 4, 8, 16).  From the coarsest level to
    the finest, the moving image's features are warped by the flow so far; how well descriptors and learnt features fit
    is measured over a cube of displacements, whose expected value is a first guess; convolutions of all this give the
    rest of the step, which is composed with the flow.  Exchanging the images exchanges the two flows exactly.

    Parameters
    ----------
    dimension
        3.
    features
        Channels of the encoder, from stride 2 on.
    widths
        Channels of the decoder's levels, likewise.
    radii
        Search ranges in voxels of each level; 0 compares the features without a search.
    compared
        Channels of the learnt features that are compared, of each level.  The coarser levels compare MIND-SSC too,
        always that of the second-finest level, whose differences are then averaged: averages of descriptors would all
        look alike.  At half resolution that would take half of the time.

    Raises
    ------
    ValueError
        For another dimension, or if the four lists differ in length.
    """

    both_directions = True
    in_slabs = False

    def __init__(
        self,
        dimension: int = 3,
        features: Sequence[int] = (16, 32, 64, 96),
        widths: Sequence[int] = (24, 48, 96, 96),
        radii: Sequence[int] = (1, 1, 1, 1),
        compared: Sequence[int] = (6, 12, 12, 12),
    ) -> None:
        features, widths, radii, compared = list(features), list(widths), list(radii), list(compared)
        super().__init__(dimension, features=features, widths=widths, radii=radii, compared=compared)
        if dimension != 3 or not len(features) == len(widths) == len(radii) == len(compared):
            raise ValueError("the pyramid network is 3D, with a width, a radius and a number to compare for each level")
        self.encoder = nn.ModuleList([_Layer(1 + MIND_CHANNELS, features[0])])
        for inputs, outputs in zip(features, features[1:]):
            self.encoder.append(nn.Sequential(_Halving(inputs, outputs), _Layer(outputs, outputs)))
        self.levels = nn.ModuleList(
            _Level(f, w, coarser, r, c, described=bool(number))
            for number, (f, w, coarser, r, c) in enumerate(zip(features, widths, [*widths[1:], 0], radii, compared))
        )
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                nn.init.zeros_(parameter)
            elif ".head." in name:
                nn.init.normal_(parameter, 0.0, _HEAD_DEVIATION)
            elif parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter, SLOPE)

    @classmethod
    def configuration_from(cls, state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        count = sum(name.endswith(".head.weight") for name in state)
        widths = [state[f"levels.{i}.head.weight"].shape[1] for i in range(count)]
        features = [state["encoder.0.0.weight"].shape[0]]
        features += [state[f"encoder.{i}.0.0.weight"].shape[0] for i in range(1, count)]
        radii = []
        for i, coarser in enumerate([*widths[1:], 0]):
            searched = state[f"levels.{i}.layers.0.0.weight"].shape[1] - 2 * features[i] - 3 - coarser - 3
            radii.append((round(searched ** (1 / 3)) - 1) // 2 if searched > 0 else 0)
        keys = [state.get(f"levels.{i}.key.weight") for i in range(count)]
        compared = [0 if key is None else key.shape[0] for key in keys]
        return {"dimension": 3, "features": features, "widths": widths, "radii": radii, "compared": compared}

    def estimate(self, moving: torch.Tensor, fixed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        forward, backward = (flows[-1] for flows in self.flows(moving, fixed))
        return doubled(forward, moving.shape[2:]), doubled(backward, moving.shape[2:])

    def flows(self, moving: torch.Tensor, fixed: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The forward and the backward flow of every level, coarse to fine, each in voxels of its own level.

        ``moving``, ``fixed`` (B, 1, D, H, W).  Level k of n halves the grid n - k times, sides rounded up to what the
        coarsest level needs; its voxels lie in the middle of those they stand for.
        """
        coarsest = 2 ** len(self.levels)
        # Both directions as one batch: PyTorch's sampling uses one core for each image, and its convolutions of single
        # small ones are slow.
        images = _extended(torch.cat([moving, fixed]), coarsest)
        flows = self._refined(*self._encoded(images))
        forward, backward = zip(*(flow.chunk(2) for flow in flows))
        return list(forward), list(backward)

    def _encoded(self, image: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Features from stride 2 on, and the descriptors to be compared, of stride 4."""
        half = F.avg_pool3d(image.float(), 2)
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            descriptors = mind_ssc(half, 1, _DILATION)
        features = torch.cat([half, descriptors], dim=1)
        if image.device.type == "cpu":
            features = features.contiguous(memory_format=torch.channels_last_3d)
        found = []
        for encode in self.encoder:
            features = encode(features)
            found.append(features)
        return found, F.avg_pool3d(descriptors, 2)

    def _refined(self, encoded: list[torch.Tensor], descriptors: torch.Tensor) -> list[torch.Tensor]:
        """Flows coarse to fine; the first half of the batch is moving towards the second, which is moving back."""
        flows: list[torch.Tensor] = []
        found = None
        for level, features in zip(reversed(self.levels), reversed(encoded)):
            shape = features.shape[2:]
            if found is None:
                flow = torch.zeros(features.shape[0], 3, *shape, device=features.device)
            else:
                flow = doubled(flows[-1], shape)
                found = F.interpolate(found, size=shape, mode="trilinear")
            flow, found = level(features, descriptors, flow, found)
            flows.append(flow)
        return flows


def _exchanged(batch: torch.Tensor) -> torch.Tensor:
    """The images of the other half of the batch."""
    return torch.cat(batch.chunk(2)[::-1])


def doubled(flow: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The flow on a grid of twice its resolution, cropped to ``shape``, in voxels of that grid."""
    double = [2 * side for side in flow.shape[2:]]
    finer = 2 * F.interpolate(flow.float(), size=double, mode="trilinear")
    return finer[(..., *[slice(0, side) for side in shape])]


def matching_cost(fixed: torch.Tensor, moving: torch.Tensor, radius: int, step: int = 1) -> torch.Tensor:
    """Mean squared difference of features over a cube of displacements, standardised for each image.

    (B, C, D, H, W) twice to (B, (2 radius + 1)^3, D / step, H / step, W / step): displacements by multiples of
    ``step`` voxels in array order, differences averaged over blocks of ``step``.  Voxels outside the moving image are
    those of its border.
    """
    padded = F.pad(moving, (radius * step,) * 6, mode="replicate")
    depth, height, width = fixed.shape[2:]
    offsets = range(0, (2 * radius + 1) * step, step)
    cost = torch.cat(
        [
            F.avg_pool3d(
                (fixed - padded[:, :, i : i + depth, j : j + height, k : k + width]).square().mean(1, keepdim=True),
                step,
            )
            for i in offsets
            for j in offsets
            for k in offsets
        ],
        dim=1,
    )
    cost = cost - cost.mean(1, keepdim=True)
    return cost / (cost.square().mean((1, 2, 3, 4), keepdim=True) + 1e-8).sqrt()


def expected_displacement(
    cost: torch.Tensor, radius: int, sharpness: torch.Tensor, stillness: torch.Tensor
) -> torch.Tensor:
    """The mean displacement d under ``softmax(-sharpness * smoothed cost - stillness * |d|^2)``, smoothed.

    (B, 3, D, H, W) in voxels.  Where nothing tells displacements apart, the shorter ones are the likelier.
    """
    steps = torch.arange(-radius, radius + 1, dtype=cost.dtype, device=cost.device)
    cube = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij")).flatten(1)
    length = cube.square().sum(0).view(1, -1, 1, 1, 1)
    likelihood = torch.softmax(-sharpness * _smoothed(cost) - stillness * length, dim=1)
    return _smoothed(torch.einsum("bnxyz,cn->bcxyz", likelihood, cube))


def _smoothed(volume: torch.Tensor) -> torch.Tensor:
    return F.avg_pool3d(F.pad(volume, (1,) * 6, mode="replicate"), 3, 1)


def _unit(features: torch.Tensor) -> torch.Tensor:
    return features / (features.square().mean(1, keepdim=True) + 1e-4).sqrt()


def _warped(features: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    with torch.autocast(features.device.type, enabled=False):
        return warp(features.float(), flow, padding="border")


def _extended(image: torch.Tensor, multiple: int) -> torch.Tensor:
    """Border values appended at the end of each axis up to a multiple: zeros would look like a surface."""
    extra = [-side % multiple for side in image.shape[2:]]
    return (
        F.pad(image, [amount for e in reversed(extra) for amount in (0, e)], mode="replicate") if any(extra) else image
    )
