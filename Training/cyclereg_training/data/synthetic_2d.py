"""Random pairs of 2D images: planes of synthetic volumes, and what random smooth fields in the plane make of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from CycleRegLib.errors import InputError
from CycleRegLib.networks.velocity import integrate
from CycleRegLib.warp import warp

from ..synthetic import Chance, SyntheticPairs, SyntheticSettings
from ..synthetic.chance import mixed

_DEPTH = 16  # of the volume whose middle plane is shown


@dataclass(frozen=True)
class FlatPair:
    """(B, 1, H, W) images 0 to 1 and labels, (B, 2, H, W) flows in voxels; see :class:`~..synthetic.Pair`."""

    fixed: Tensor
    moving: Tensor
    fixed_labels: Tensor
    moving_labels: Tensor
    flow: Tensor
    inverse_flow: Tensor

    def as_dict(self) -> dict[str, Tensor]:
        """By name, without copies."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


class FlatPairs:
    """Numbered random pairs of 2D images; pair ``i`` depends on the seed, the shape and ``i`` alone.

    The moving image is a plane of a synthetic volume; the fixed one is the same image moved by the field that a random
    smooth velocity gives, whose largest displacement is drawn from ``settings.motion.largest``.

    Raises
    ------
    InputError
        If the shape is not two numbers of at least 16.
    """

    def __init__(
        self,
        shape: Sequence[int],
        length: int = 1000,
        seed: int = 0,
        settings: SyntheticSettings | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if len(shape) != 2 or min(shape) < _DEPTH:
            raise InputError(f"Synthetic 2D pairs need two sides of at least {_DEPTH} voxels, not {tuple(shape)}.")
        self.shape, self.seed, self.device = tuple(shape), seed, torch.device(device)
        self._volumes = SyntheticPairs((_DEPTH, *self.shape), length, seed, settings, device)
        self.settings = self._volumes.settings

    def batch(self, indices: Iterable[int]) -> FlatPair:
        """Several pairs."""
        found = [self.pair(index) for index in indices]
        return FlatPair(*(torch.cat([getattr(pair, f.name) for pair in found]) for f in fields(FlatPair)))

    @torch.no_grad()
    def pair(self, index: int) -> FlatPair:
        """Pair number ``index``, batch of one."""
        volume = self._volumes.pair(index)
        moving, labels = volume.moving[:, :, _DEPTH // 2], volume.moving_labels[:, :, _DEPTH // 2]
        chance = Chance(mixed(self.seed, 5, index), self.device)
        points = chance.integer(3, 6)
        velocity = F.interpolate(chance.normal(1, 2, points, points), self.shape, mode="bicubic", align_corners=True)
        side = sum(self.shape) / 2
        largest = chance.log_uniform(*self.settings.motion.largest) * side
        # Not so steep that it would fold: knots are side / (points - 1) apart.
        largest = min(largest, 0.3 * side / (points - 1))
        velocity = velocity * (largest / velocity.norm(dim=1).max().clamp_min(1e-6))
        flow, inverse = integrate(velocity, 7), integrate(-velocity, 7)
        return FlatPair(
            warp(moving, flow, padding="border"),
            moving,
            warp(labels.float(), flow, mode="nearest", padding="border").to(labels.dtype),
            labels,
            flow,
            inverse,
        )
