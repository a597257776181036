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
# Images are halved no further.
_LEAST_SIDE = 48


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

    Keys: ``key`` (learnt features to compare), ``layers``, ``head``; ``weight`` (how much those features count beside
    MIND-SSC), ``sharpness`` and ``stillness`` (see :func:`expected_displacement`), ``trust`` in what the search found.
    """

    def __init__(
        self, unit: float, features: int, width: int, coarser: int, radius: int, source: int, compared: int
    ) -> None:
        super().__init__()
        # The head gives voxels of half resolution at every level: a step of the optimiser, which is as long for every
        # weight, would otherwise move coarse flows by many voxels of the image.
        self.unit, self.radius = unit, radius
        self.key = nn.Conv3d(source, compared, 1)
        # With these the search alone, before any training, takes a third of the error off real pairs.
        self.weight = nn.Parameter(torch.tensor(0.1))
        self.sharpness = nn.Parameter(torch.tensor(4.0))
        self.stillness = nn.Parameter(torch.tensor(2.0))
        self.trust = nn.Parameter(torch.tensor(1.0))
        self.layers = nn.Sequential(
            _Layer(2 * features + 6 + (2 * radius + 1) ** 3 + coarser, width), _Layer(width, width)
        )
        self.head = convolution(3, width, 3)

    def forward(
        self,
        features: torch.Tensor,
        source: torch.Tensor,
        descriptors: torch.Tensor | None,
        flow: torch.Tensor,
        coarser: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The improved flow (voxels of this level) and the features it came from.

        ``features`` and what is compared, learnt features of ``source`` and ``descriptors``, are of moving images; the
        other half of the batch has the fixed ones.  What is compared may be finer by a power of two.
        """
        fixed = _exchanged(features)
        with torch.autocast(fixed.device.type, enabled=False):
            compared = self.weight * _unit(self.key(source.float()))
            if descriptors is not None:
                compared = torch.cat([compared, descriptors], dim=1)
            finer = flow.detach()  # where it is compared is not what the coarser levels are judged by
            while finer.shape[2] < compared.shape[2]:
                finer = doubled(finer, [2 * side for side in finer.shape[2:]])
            times = compared.shape[2] // features.shape[2]
            cost = matching_cost(_exchanged(compared), _warped(compared, finer), self.radius, times)
            guess = expected_displacement(cost, self.radius, 1 / times, self.sharpness, self.stillness)
        parts = [_warped(features, flow), fixed, flow, guess, cost]
        if coarser is not None:
            parts.append(coarser)
        found = self.layers(torch.cat([part.to(fixed.dtype) for part in parts], dim=1))
        step = self.trust * guess + self.unit * in_float32(self.head, found)
        return compose_flows(step, flow), found


class PyramidNetwork(RegistrationNetwork):
    """Both flows of a pair in one pass, for images of any contrast: 2.9 million parameters.

    Both images, halved, pass one encoder (intensity and MIND-SSC in; strides 2, 4, 8, 16).  From the coarsest level to
    the finest, the moving image's features are warped by the flow so far; how well descriptors and learnt features fit
    is measured over a cube of displacements, whose expected value is a first guess; convolutions of all this give the
    rest of the step, which is composed with the flow.  Large images start from the flows of the same images at half of
    their resolution.  Exchanging the images exchanges the two flows exactly.

    Parameters
    ----------
    dimension
        3.
    features
        Channels of the encoder, from stride 2 on.
    widths
        Channels of the decoder's levels, likewise.
    radii
        Search ranges of each level, in voxels of stride 4 (of stride 2 at the finest level).  All but the finest level
        compare MIND-SSC and learnt features of stride 4 and average the differences over their own voxels, for averages
        of descriptors would all look alike.
    compared
        Channels of the learnt features that are compared, of each level; the finest compares nothing else, as MIND-SSC
        at half resolution would take half of the time.
    rounds
        How often each level is applied.

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
        radii: Sequence[int] = (1, 1, 1, 2),
        compared: Sequence[int] = (6, 8, 8, 8),
        rounds: Sequence[int] = (1, 1, 1, 2),
    ) -> None:
        lists = {"features": features, "widths": widths, "radii": radii, "compared": compared, "rounds": rounds}
        super().__init__(dimension, **{name: list(values) for name, values in lists.items()})
        if dimension != 3 or len({len(values) for values in lists.values()}) > 1 or len(features) < 2:
            raise ValueError(
                "the pyramid network is 3D, with as many widths, radii, ... as it has features, at least 2"
            )
        self.rounds = tuple(rounds)
        self.encoder = nn.ModuleList([_Layer(1 + MIND_CHANNELS, features[0])])
        for inputs, outputs in zip(features, features[1:]):
            self.encoder.append(nn.Sequential(_Halving(inputs, outputs), _Layer(outputs, outputs)))
        sources = [features[0]] + [features[1]] * (len(features) - 1)
        units = [0.5**number for number in range(len(features))]
        self.levels = nn.ModuleList(
            _Level(*numbers) for numbers in zip(units, features, widths, [*widths[1:], 0], radii, sources, compared)
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
            searched = state[f"levels.{i}.layers.0.0.weight"].shape[1] - 2 * features[i] - 6 - coarser
            radii.append((round(searched ** (1 / 3)) - 1) // 2)
        compared = [state[f"levels.{i}.key.weight"].shape[0] for i in range(count)]
        rounds = [1] * (count - 1) + [2]  # weights do not tell
        return {
            "dimension": 3, "features": features, "widths": widths, "radii": radii, "compared": compared,
            "rounds": rounds,
        }  # fmt: skip

    @property
    def scales(self) -> list[int]:
        """How many voxels of the image one of each flow of :meth:`flows` is long, coarse to fine."""
        return [2 ** (k + 1) for k in reversed(range(len(self.levels))) for _ in range(self.rounds[k])]

    def estimate(self, moving: torch.Tensor, fixed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        start = self._start(torch.cat([moving, fixed]))
        forward, backward = (flows[-1] for flows in self.flows(moving, fixed, start))
        return doubled(forward, moving.shape[2:]), doubled(backward, moving.shape[2:])

    def _start(self, images: torch.Tensor) -> torch.Tensor | None:
        """Flows of the coarsest level's grid from the images at half of their resolution, and so on down.

        What the network learnt holds at every scale; so it sees motion beyond the reach of its own coarsest level.
        """
        if min(images.shape[2:]) < 2 * _LEAST_SIDE:
            return None
        half = F.avg_pool3d(_extended(images, 2 ** len(self.levels)), 2)
        flow = self._flows(half, self._start(half))[-1]
        return F.avg_pool3d(flow, 2 ** (len(self.levels) - 2)) / 2 ** (len(self.levels) - 2)

    def flows(
        self, moving: torch.Tensor, fixed: torch.Tensor, start: torch.Tensor | None = None
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The forward and the backward flow of every level and round, coarse to fine, in voxels of the level.

        ``moving``, ``fixed`` (B, 1, D, H, W).  Flows have the images' sides, rounded up to multiples of the coarsest
        scale, divided by :attr:`scales`; their voxels lie in the middle of those they stand for.  ``start`` (2 B, 3,
        ...), forward and backward flows of the coarsest level, is where to begin instead of 0.
        """
        # Both directions as one batch: PyTorch's sampling uses one core for each image, and its convolutions of single
        # small ones are slow.
        flows = self._flows(torch.cat([moving, fixed]), start)
        forward, backward = zip(*(flow.chunk(2) for flow in flows))
        return list(forward), list(backward)

    def _flows(self, images: torch.Tensor, start: torch.Tensor | None) -> list[torch.Tensor]:
        """The first half of the batch is moving towards the second, which is moving back."""
        return self._refined(*self._encoded(_extended(images, 2 ** len(self.levels))), start)

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

    def _refined(
        self, encoded: list[torch.Tensor], descriptors: torch.Tensor, start: torch.Tensor | None
    ) -> list[torch.Tensor]:
        flows: list[torch.Tensor] = []
        flow = found = None
        for number in reversed(range(len(self.levels))):
            features, shape = encoded[number], encoded[number].shape[2:]
            if flow is None and start is None:
                flow = torch.zeros(features.shape[0], 3, *shape, device=features.device)
            elif flow is None:
                # From images that were extended further, so that it may be larger.
                flow = start[(..., *[slice(0, side) for side in shape])]
            else:
                flow = doubled(flow, shape)
                found = F.interpolate(found, size=shape, mode="trilinear")
            compared = (encoded[1], descriptors) if number else (features, None)
            coarser = found
            for _ in range(self.rounds[number]):
                flow, found = self.levels[number](features, *compared, flow, coarser)
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


def matching_cost(fixed: torch.Tensor, moving: torch.Tensor, radius: int, times: int = 1) -> torch.Tensor:
    """Mean squared difference of features over a cube of displacements, standardised for each image.

    (B, C, D, H, W) twice to (B, (2 radius + 1)^3, D / times, H / times, W / times): displacements by whole voxels in
    array order, differences averaged over blocks.  Voxels outside the moving image are those of its border.
    """
    padded = F.pad(moving, (radius,) * 6, mode="replicate")
    depth, height, width = fixed.shape[2:]
    offsets = range(2 * radius + 1)
    cost = torch.cat(
        [
            F.avg_pool3d(
                (fixed - padded[:, :, i : i + depth, j : j + height, k : k + width]).square().mean(1, keepdim=True),
                times,
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
    cost: torch.Tensor, radius: int, length: float, sharpness: torch.Tensor, stillness: torch.Tensor
) -> torch.Tensor:
    """The mean displacement d under ``softmax(-sharpness * smoothed cost - stillness * |d|^2)``, smoothed.

    (B, 3, D, H, W) in voxels, ``length`` of which a step is long.  Where nothing tells displacements apart, shorter
    ones are likelier.
    """
    steps = length * torch.arange(-radius, radius + 1, dtype=cost.dtype, device=cost.device)
    cube = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij")).flatten(1)
    squares = cube.square().sum(0).view(1, -1, 1, 1, 1)
    likelihood = torch.softmax(-sharpness * _smoothed(cost) - stillness * squares, dim=1)
    return _smoothed(torch.einsum("bnxyz,cn->bcxyz", likelihood, cube))


def _smoothed(volume: torch.Tensor) -> torch.Tensor:
    """The mean over 3^3 voxels; three additions along each axis are nearly twice as fast as pooling."""
    volume = F.pad(volume, (1,) * 6, mode="replicate")
    for axis in (2, 3, 4):
        side = volume.shape[axis] - 2
        volume = volume.narrow(axis, 0, side) + volume.narrow(axis, 1, side) + volume.narrow(axis, 2, side)
    return volume / 27


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
