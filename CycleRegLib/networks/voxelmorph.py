"""VoxelMorph: the published torch models of both ages, and the papers' VoxelMorph-1 and -2, in 2D and 3D.

Balakrishnan et al., CVPR 2018 and IEEE Transactions on Medical Imaging 38(8), 2019; with stationary velocity:
Dalca et al., Medical Image Analysis 57, 2019.  One U-Net is all of them, and Kuang's network too
(:mod:`CycleRegLib.networks.kuang`): they differ in how they halve, in which layers sit at which resolution, and in
their numbers of features.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import lcm
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .blocks import RegistrationNetwork, convolution, in_float32
from .velocity import MAX_STEPS, PUBLISHED_DOWNSIZE, PUBLISHED_STEPS, exponential

SLOPE = 0.2
INITIAL_DEVIATION = 1e-5
POOL, STRIDE = "pool", "stride"
_MOST_LEVELS = 8
_POOLING = {2: F.max_pool2d, 3: F.max_pool3d}
_Widths = Sequence[Sequence[int]]
_State = Mapping[str, torch.Tensor]


class FeatureBlock(nn.Module):
    """A 3^n convolution and a leaky ReLU of slope 0.2.  Keys: ``main.weight``, ``main.bias``."""

    def __init__(self, dimension: int, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.main = convolution(dimension, inputs, outputs, stride)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu_(self.main(features), SLOPE)


def flow_head(dimension: int, inputs: int) -> nn.Module:
    """The 3^n convolution that gives the flow; weights from N(0, 1e-5), so that untrained it moves nothing."""
    head = convolution(dimension, inputs, dimension)
    nn.init.normal_(head.weight, 0.0, INITIAL_DEVIATION)
    nn.init.zeros_(head.bias)
    return head


class UNet(nn.Module):
    """VoxelMorph's U-Net: (B, inputs, ...) to (B, :attr:`outputs`, ...), sides multiples of 2^levels.

    Down: the stem's convolutions, then the encoder's levels, each of which halves once and leaves its input as skip
    (``stride``: its first convolution has stride 2; ``pool``: convolutions, whose result is the skip, then the
    maximum of 2^n voxels).  Up: at each of as many decoder levels the convolutions, nearest up-sampling by 2, and
    [up, skip] concatenated; a level without convolutions only doubles.  Last come the remaining convolutions.

    Parameters
    ----------
    encoder, decoder
        For each level the features of its convolutions; the decoder's from the coarsest.
    remaining
        Features of the convolutions after the last concatenation.
    stem
        Features of the convolutions before the first halving, for ``stride``.
    down
        ``stride`` or ``pool``.
    half_resolution
        The last decoder level neither up-samples nor concatenates: the result has half the size.

    Raises
    ------
    ValueError
        If the widths make no such network.
    """

    def __init__(
        self,
        dimension: int,
        inputs: int,
        encoder: _Widths,
        decoder: _Widths,
        remaining: Sequence[int],
        stem: Sequence[int] = (),
        down: str = STRIDE,
        half_resolution: bool = False,
    ) -> None:
        super().__init__()
        if down not in (STRIDE, POOL):
            raise ValueError(f"a VoxelMorph U-Net halves by '{STRIDE}' or '{POOL}', not by '{down}'")
        if not 1 <= len(encoder) <= _MOST_LEVELS or len(decoder) != len(encoder) or not all(map(len, encoder)):
            raise ValueError(
                f"a VoxelMorph U-Net has as many decoder as encoder levels, 1 to {_MOST_LEVELS} with convolutions, not "
                f"{len(decoder)} and {len(encoder)}"
            )
        self.down, self.half_resolution = down, half_resolution
        self.pooling = _POOLING[dimension]
        self.levels = len(encoder)
        self.stem, channels = _chain(dimension, inputs, stem)
        self.encoder, skips = nn.ModuleList(), []
        for widths in encoder:
            skips.append(channels if down == STRIDE else widths[-1])
            level, channels = _chain(dimension, channels, widths, 2 if down == STRIDE else 1)
            self.encoder.append(level)
        self.decoder = nn.ModuleList()
        for number, widths in enumerate(decoder, start=1):
            level, channels = _chain(dimension, channels, widths)
            self.decoder.append(level)
            if not (half_resolution and number == len(decoder)):
                channels += skips.pop()
        self.remaining, self.outputs = _chain(dimension, channels, remaining)

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        features, skips = _run(self.stem, pair), []
        for level in self.encoder:
            if self.down == STRIDE:
                skips.append(features)
            features = _run(level, features)
            if self.down == POOL:
                skips.append(features)
                features = self.pooling(features, 2)
        for number, level in enumerate(self.decoder, start=1):
            features = _run(level, features)
            if not (self.half_resolution and number == self.levels):
                # Popped within the call, so that no skip outlives its use: the last ones are the largest tensors.
                features = torch.cat([F.interpolate(features, scale_factor=2, mode="nearest"), skips.pop()], dim=1)
        return _run(self.remaining, features)


def _chain(dimension: int, inputs: int, widths: Sequence[int], first_stride: int = 1) -> tuple[nn.ModuleList, int]:
    blocks = nn.ModuleList()
    for number, width in enumerate(widths):
        blocks.append(FeatureBlock(dimension, inputs, width, 1 if number else first_stride))
        inputs = width
    return blocks, inputs


def _run(blocks: nn.ModuleList, features: torch.Tensor) -> torch.Tensor:
    for block in blocks:
        features = block(features)
    return features


class VelocityNetwork(RegistrationNetwork):
    """A network whose flow may be the integral of a stationary velocity; then one pass gives both directions.

    Subclasses hand the result of their flow head to :meth:`directions`.

    Parameters
    ----------
    dimension, configuration
        See :class:`~CycleRegLib.networks.blocks.RegistrationNetwork`.
    levels
        How often the network halves.
    integration_steps
        Squarings of the velocity, see :func:`CycleRegLib.networks.velocity.integrate`; 0: the head gives the flow.
    integration_downsize
        On which coarser grid it is integrated, see :func:`CycleRegLib.networks.velocity.exponential`.

    Raises
    ------
    ValueError
        For steps beyond 0..20, or a factor beyond 1..16.
    """

    def __init__(
        self, dimension: int, levels: int, integration_steps: int, integration_downsize: int, **configuration: Any
    ) -> None:
        for name, value, low, high in (
            ("integration_steps", integration_steps, 0, MAX_STEPS),
            ("integration_downsize", integration_downsize, 1, 16),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name} is a whole number from {low} to {high}, not {value}")
        super().__init__(
            dimension,
            **configuration,
            integration_steps=integration_steps,
            integration_downsize=integration_downsize,
        )
        self.stride = lcm(2**levels, integration_downsize if integration_steps else 1)
        self.integration_steps = integration_steps
        self.integration_downsize = integration_downsize
        self.both_directions = integration_steps > 0

    def directions(self, flow: torch.Tensor, coarse: bool = False) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """The head's flow, or exp(flow) and exp(-flow); ``coarse`` as in :func:`~.velocity.exponential`."""
        if not self.integration_steps:
            return flow
        steps, downsize = self.integration_steps, self.integration_downsize
        forward, backward = (
            in_float32(lambda velocity: exponential(velocity, steps, downsize, coarse), v) for v in (flow, -flow)
        )
        return forward, backward


class VoxelMorph(VelocityNetwork):
    """The published torch models of VoxelMorph (``VxmDense``): 327,331 parameters in 3D with the defaults.

    Input is (source, target) = (moving, fixed).  Names of weights are those of the newer published state dicts:
    ``unet_model.encoder.L.C.main``, ``unet_model.decoder.L.C.main``, ``unet_model.remaining.N.main``, ``flow``.
    Older ones (``unet_model.downarm.L.main``, ``uparm``, ``extras``) are another network: it halves by strided
    convolutions and its last skip is the input pair, 301,411 parameters; :meth:`adapted` turns their names into the
    newer ones, and the shapes of the weights tell the two apart.

    Integration is not told by the weights.  A published file states it (``int_steps``, ``int_downsize``); a bare state
    dict that holds the buffer ``integrate.transformer.grid`` was integrated, with steps that it does not tell: the
    published 7 are assumed.  Without either, there is none; state ``integration_steps`` where that is wrong.

    Parameters
    ----------
    dimension
        3 or 2.
    in_channels
        Channels of both images together.
    encoder, decoder, remaining, down, half_resolution
        See :class:`UNet`.  At half resolution the velocity is integrated where it is and up-sampled afterwards, so it
        needs integration with a factor of 2.
    integration_steps, integration_downsize
        See :class:`VelocityNetwork`.

    Raises
    ------
    ValueError
        For a configuration that makes no network.
    """

    _BUFFERS = ("transformer.grid", "integrate.transformer.grid")
    _OLDER = (
        (re.compile(r"^unet_model\.downarm\.(\d+)\."), r"unet_model.encoder.\1.0."),
        (re.compile(r"^unet_model\.uparm\.(\d+)\."), r"unet_model.decoder.\1.0."),
        (re.compile(r"^unet_model\.extras\.(\d+)\."), r"unet_model.remaining.\1."),
    )

    def __init__(
        self,
        dimension: int = 3,
        in_channels: int = 2,
        encoder: _Widths = ((16,), (32,), (32,), (32,)),
        decoder: _Widths = ((32,), (32,), (32,), (32,)),
        remaining: Sequence[int] = (32, 16, 16),
        down: str = POOL,
        half_resolution: bool = False,
        integration_steps: int = 0,
        integration_downsize: int = PUBLISHED_DOWNSIZE,
    ) -> None:
        if half_resolution and not (integration_steps and integration_downsize == 2):
            raise ValueError("a network of half resolution needs integration_steps, and integration_downsize 2")
        super().__init__(
            dimension,
            len(encoder),
            integration_steps,
            integration_downsize,
            in_channels=in_channels,
            encoder=[list(widths) for widths in encoder],
            decoder=[list(widths) for widths in decoder],
            remaining=list(remaining),
            down=down,
            half_resolution=half_resolution,
        )
        self.unet_model = UNet(
            dimension, in_channels, encoder, decoder, remaining, down=down, half_resolution=half_resolution
        )
        self.flow = flow_head(dimension, self.unet_model.outputs)

    @classmethod
    def adapted(cls, state: _State) -> dict[str, torch.Tensor]:
        adapted = {}
        for name, value in state.items():
            if name in cls._BUFFERS:
                continue
            for pattern, newer in cls._OLDER:
                name = pattern.sub(newer, name)
            adapted[name] = value
        return adapted

    @classmethod
    def configuration_from(cls, state: _State) -> dict[str, Any]:
        """See the base class; the published names of both ages, with or without buffers."""
        weights = cls.adapted(state)
        encoder, decoder = (_level_widths(weights, f"unet_model.{part}.") for part in ("encoder", "decoder"))
        remaining = _widths(weights, "unet_model.remaining.")
        first = weights["unet_model.encoder.0.0.main.weight"]
        joined = weights["unet_model.remaining.0.main.weight" if remaining else "flow.weight"].shape[1]
        # What the last concatenation adds: nothing, the pair itself, or the first level's features.
        skip = joined - decoder[-1][-1]
        configuration = {
            "dimension": first.dim() - 2,
            "in_channels": first.shape[1],
            "encoder": encoder,
            "decoder": decoder,
            "remaining": remaining,
            "down": STRIDE if skip == first.shape[1] else POOL,
            "half_resolution": skip == 0,
            "integration_steps": 0,
            "integration_downsize": PUBLISHED_DOWNSIZE,
        }
        coarse, full = (state.get(name) for name in ("integrate.transformer.grid", "transformer.grid"))
        if coarse is not None:
            configuration["integration_steps"] = PUBLISHED_STEPS
            if full is not None:
                configuration["integration_downsize"] = max(1, full.shape[-1] // max(1, coarse.shape[-1]))
        return configuration

    @classmethod
    def from_published(cls, stated: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """From the arguments of ``VxmDense`` that such a file keeps: integration, and the size it was trained on."""
        names = {"int_steps": "integration_steps", "int_downsize": "integration_downsize"}
        configuration = {ours: stated[theirs] for theirs, ours in names.items() if theirs in stated}
        shape = stated.get("inshape")
        # Theirs is the array's shape, (z, y, x).
        return configuration, {"size": list(reversed(shape))} if isinstance(shape, list) else {}

    def estimate(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        features = self.unet_model(torch.cat([moving, fixed], dim=1))
        return self.directions(in_float32(self.flow, features), coarse=self.unet_model.half_resolution)


def _widths(weights: _State, prefix: str) -> list[int]:
    """Features of the convolutions ``prefix + N + .main``."""
    count = len({name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)})
    return [weights[f"{prefix}{number}.main.weight"].shape[0] for number in range(count)]


def _level_widths(weights: _State, prefix: str) -> list[list[int]]:
    """Features of the convolutions ``prefix + L + . + C + .main`` by level; KeyError if there is none."""
    count = len({name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)})
    return [_widths(weights, f"{prefix}{level}.") for level in range(max(1, count))]


class VoxelMorphPaper(VelocityNetwork):
    """VoxelMorph-1 and -2 of the CVPR 2018 paper: 276,523 and 348,099 parameters in 3D.

    Encoder 16 at full resolution, then four strided convolutions of 32 down to 1/16.  The papers give the decoder's
    features, not where each layer sits.  Here:

    ==============  ====  ============  ============  ============  ==========  =====
    resolution      1/16  1/8           1/4           1/2           1           head
    ==============  ====  ============  ============  ============  ==========  =====
    VoxelMorph-1    --    32            32            32, 8         8           n
    VoxelMorph-2    32    32            32            32, 32        16, 16      n
    ==============  ====  ============  ============  ============  ==========  =====

    VoxelMorph-1 is thereby CycleMorph's baseline: its network with nearest up-sampling in place of the transposed
    convolutions.  VoxelMorph-2 has, as the paper says, one more convolution at full resolution and more features in
    the later layers; its seventh layer is at 1/16, as in the authors' own list of features.  Before the convolutions
    of a finer resolution come nearest up-sampling by 2 and [up, skip], the skip being the encoder's activation of
    that resolution.  Strided convolutions are padded by 1 on both sides; slope 0.2; the head is linear.

    Parameters
    ----------
    dimension, in_channels
        3 or 2; channels of (moving, fixed) together.
    version
        1 or 2.
    integration_steps, integration_downsize
        See :class:`VelocityNetwork`.

    Raises
    ------
    ValueError
        For another version.
    """

    _STEM, _ENCODER = (16,), ((32,), (32,), (32,), (32,))
    _DECODERS: Mapping[int, tuple[_Widths, Sequence[int]]] = {
        1: (((), (32,), (32,), (32, 8)), (8,)),
        2: (((32,), (32,), (32,), (32, 32)), (16, 16)),
    }

    def __init__(
        self,
        dimension: int = 3,
        in_channels: int = 2,
        version: int = 1,
        integration_steps: int = 0,
        integration_downsize: int = PUBLISHED_DOWNSIZE,
    ) -> None:
        if version not in self._DECODERS:
            raise ValueError(f"there are VoxelMorph-1 and VoxelMorph-2, but no version {version}")
        super().__init__(
            dimension,
            len(self._ENCODER),
            integration_steps,
            integration_downsize,
            in_channels=in_channels,
            version=version,
        )
        decoder, remaining = self._DECODERS[version]
        self.unet = UNet(dimension, in_channels, self._ENCODER, decoder, remaining, self._STEM)
        self.flow = flow_head(dimension, self.unet.outputs)

    @classmethod
    def configuration_from(cls, state: _State) -> dict[str, Any]:
        first = state["unet.stem.0.main.weight"]
        version = 2 if "unet.decoder.0.0.main.weight" in state else 1
        return {
            "dimension": first.dim() - 2,
            "in_channels": first.shape[1],
            "version": version,
            "integration_steps": 0,
            "integration_downsize": PUBLISHED_DOWNSIZE,
        }

    def estimate(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        features = self.unet(torch.cat([moving, fixed], dim=1))
        return self.directions(in_float32(self.flow, features))
