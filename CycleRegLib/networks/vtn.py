"""Volume Tweening Network, a cascade of an affine and dense sub-networks (Zhao et al., IEEE JBHI 24:1394, 2020).

:mod:`~CycleRegLib.networks.vtn_affine` and :mod:`~CycleRegLib.networks.vtn_dense` hold the sub-networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from ..errors import ConfigurationError
from ..warp import compose_flows, warp
from .blocks import RegistrationNetwork
from .vtn_affine import AffineSubnetwork, affine_flow
from .vtn_dense import STRIDE, DenseSubnetwork, initialise

MAX_SUBNETWORKS = 10
DEFAULT_SIZE = 128


def parse_cascade(text: Any) -> str:
    """A cascade in capitals: one letter for each sub-network, A for affine and D for dense, in the order they run.

    Raises
    ------
    ConfigurationError
        If there is none or more than ten, a letter is neither, or an A is not the first.
    """
    letters = text.upper() if isinstance(text, str) else ""
    if not 1 <= len(letters) <= MAX_SUBNETWORKS or letters[1:].strip("D") or letters[0] not in "AD":
        raise ConfigurationError(
            f"{text!r} is no cascade of VTN; give one to {MAX_SUBNETWORKS} letters, A (affine) at most once and first, "
            "then D (dense), such as D, AD or ADDD."
        )
    return letters


def _parse_size(size: Any) -> list[int]:
    """Three sides that the affine sub-network can have; one number makes a cube."""
    sides = [size] * 3 if type(size) is int else list(size) if isinstance(size, (list, tuple)) else []
    if len(sides) != 3 or not all(type(side) is int and side > 0 and side % STRIDE == 0 for side in sides):
        raise ConfigurationError(
            f"{size!r} is no size for VTN's affine sub-network; give a multiple of {STRIDE} such as 128, or three of "
            "them, such as [128, 128, 192], for x, y and z."
        )
    return sides


@dataclass(frozen=True, eq=False)
class Stage:
    """What one sub-network of a cascade gave; in voxels, float32, channels in array-axis order.

    Attributes
    ----------
    kind
        ``A`` or ``D``.
    moving
        (B, C, D, H, W) The cascade's moving image, as it came.
    flow
        (B, 3, D, H, W) The sub-network's own flow, on the grid of the fixed image.
    composed
        (B, 3, D, H, W) Everything up to here: ``warped(x) = moving(x + composed(x))``.
    matrix, offset
        Of an affine one, A (B, 3, 3) and b (B, 3) of ``flow(x) = A (x - centre) + b``; the map's matrix is I + A.
    """

    kind: str
    moving: torch.Tensor
    flow: torch.Tensor
    composed: torch.Tensor
    matrix: torch.Tensor | None = None
    offset: torch.Tensor | None = None

    @cached_property
    def warped(self) -> torch.Tensor:
        """The moving image warped once by ``composed``, its border value outside; computed when first asked for."""
        return warp(self.moving, self.composed, padding="border")


class VTN(RegistrationNetwork):
    """A cascade of sub-networks, each of which registers what the earlier ones left.

    Parameters
    ----------
    dimension
        3.
    cascade
        One letter for each sub-network, such as ``D``, ``AD`` or ``ADDD``: see :func:`parse_cascade`.
    channels
        Base width of every sub-network.
    in_channels
        Channels of the fixed and of the moving image together, stacked in this order.
    size
        The affine sub-network's own number of voxels along (x, y, z), multiples of 64, or one number for all three:
        the size that it is trained on, 128 when left out.  It sees other images resampled to it.  Nothing else depends
        on it, and without an A it is ignored.

    A dense flow counts in units of 20 voxels / number of dense sub-networks.  The paper does not say how that number
    counts; in the authors' code the affine sub-network does not count and is not scaled.

    Sides may have any length: the dense sub-networks pad to multiples of 64 and crop by themselves, so that the centre
    of the affine map, border values and composition are those of the images as given (hence a :attr:`stride` of 1).

    Raises
    ------
    ConfigurationError
        (an InputError and a ValueError) For a cascade, size, width or dimension that is none.
    """

    stride = 1
    reducible = False  # each sub-network sees what the last one warped, so that roundings add up

    def __init__(
        self,
        dimension: int = 3,
        cascade: str = "ADDD",
        channels: int = 16,
        in_channels: int = 2,
        size: int | Sequence[int] | None = None,
    ) -> None:
        if dimension != 3:
            raise ConfigurationError(f"VTN registers 3D images; it has no network of dimension {dimension!r}.")
        for name, value in (("channels", channels), ("in_channels", in_channels)):
            if type(value) is not int or value < 1:
                raise ConfigurationError(f"VTN's {name} is a positive whole number, not {value!r}.")
        cascade = parse_cascade(cascade)
        sides = _parse_size(DEFAULT_SIZE if size is None else size) if "A" in cascade else None
        super().__init__(dimension, cascade=cascade, channels=channels, in_channels=in_channels, size=sides)
        self.cascade = cascade
        self.subnetworks = nn.ModuleList(
            AffineSubnetwork(in_channels, channels, sides[::-1])
            if letter == "A"
            else DenseSubnetwork(in_channels, channels, cascade.count("D"))
            for letter in cascade
        )
        initialise(self)

    @classmethod
    def configuration_from(cls, state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        first = state["subnetworks.0.encoder.level1.halve.weight"]
        indices = {name.split(".")[1] for name in state if name.startswith("subnetworks.")}
        full_extent = state.get("subnetworks.0.matrix.weight")
        affine = full_extent is not None
        return {
            "dimension": first.dim() - 2,
            "cascade": "A" * affine + "D" * (len(indices) - affine),
            "channels": first.shape[0],
            "in_channels": first.shape[1],
            "size": [side * STRIDE for side in reversed(full_extent.shape[2:])] if affine else None,
        }

    def cascaded(self, moving: torch.Tensor, fixed: torch.Tensor) -> Iterator[Stage]:
        """The stages one after the other, so that a caller need not keep them all."""
        moving = moving.float()
        stage: Stage | None = None
        for kind, network in zip(self.cascade, self.subnetworks):
            current = moving if stage is None else stage.warped
            pair = torch.cat([fixed.to(current), current], dim=1)
            matrix = offset = None
            if kind == "A":
                matrix, offset = network(pair)
                flow = affine_flow(matrix, offset, moving.shape[2:])
            else:
                flow = network(pair)
            composed = flow if stage is None else compose_flows(flow, stage.composed)
            stage = Stage(kind, moving, flow, composed, matrix, offset)
            yield stage

    def stages(self, moving: torch.Tensor, fixed: torch.Tensor) -> list[Stage]:
        """What every sub-network gave, for losses on each.

        ``moving`` and ``fixed`` are (B, C, D, H, W) on one grid, of any size; see :class:`Stage`.
        """
        return list(self.cascaded(moving, fixed))

    def estimate(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        composed = moving
        for stage in self.cascaded(moving, fixed):
            composed = stage.composed
        return composed
