"""Pairs of images with everything known about them, without end and without data.

A pair is made from nothing but its number: random labels, two random images of them and the field between the images.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.utils.data import Dataset

from CycleRegLib.errors import InputError
from CycleRegLib.warp import sample

from .appearance import acquire, random_contrast, random_texture, render
from .chance import Chance, mixed
from .motion import random_motion
from .settings import SyntheticSettings
from .shapes import LabelMap, label_map

_KEPT_MAPS = 8
_SMALLEST = 16


@dataclass(frozen=True)
class Pair:
    """Pairs, batch first, on the device they were made on.

    Attributes
    ----------
    fixed, moving
        (B, 1, D, H, W) float32, 0 to 1.
    fixed_labels, moving_labels
        (B, 1, D, H, W) uint8; the labels of one pair mean the same in both, those of two pairs do not.
    flow, inverse_flow
        (B, 3, D, H, W) float32 voxels, channels in axis order: the truth for a network's flow of (moving, fixed), by
        which ``moving(x + flow(x))`` shows what ``fixed(x)`` does, and for that of (fixed, moving).
    same_contrast
        (B,) bool, whether equal tissues have equal intensities in both.
    """

    fixed: Tensor
    moving: Tensor
    fixed_labels: Tensor
    moving_labels: Tensor
    flow: Tensor
    inverse_flow: Tensor
    same_contrast: Tensor

    def as_dict(self) -> dict[str, Tensor]:
        """By name, without copies."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def stacked(cls, pairs: Sequence[Pair]) -> Pair:
        """One batch of several."""
        if len(pairs) == 1:
            return pairs[0]
        return cls(*(torch.cat([getattr(pair, f.name) for pair in pairs]) for f in fields(cls)))


class SyntheticPairs(Dataset):
    """Numbered random pairs.

    Pair ``i`` depends on the seed, the shape and ``i`` alone, whatever was asked for before: a training that is
    resumed, or spread over processes, sees what it would have seen.  ``settings.pairs_per_map`` neighbouring numbers
    share a label map, which is kept while they are made; contrast and motion are new each time.

    As a dataset it gives single pairs without the batch axis, as :meth:`Pair.as_dict`; a training loop that makes
    its pairs on the device asks for :meth:`batch`.

    Parameters
    ----------
    shape
        (D, H, W) of the images, each at least 16.
    length
        How many pairs an epoch has.
    seed
        Another seed, other pairs.
    settings
        What is random, and how much.
    device
        Where pairs are made.

    Raises
    ------
    InputError
        If the shape is not three numbers of at least 16.
    """

    def __init__(
        self,
        shape: Sequence[int],
        length: int = 1000,
        seed: int = 0,
        settings: SyntheticSettings | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if len(shape) != 3 or any(int(n) < _SMALLEST for n in shape):
            raise InputError(f"Synthetic pairs need three sides of at least {_SMALLEST} voxels, not {tuple(shape)}.")
        self.shape = tuple(int(n) for n in shape)
        self.length, self.seed = length, seed
        self.settings = SyntheticSettings() if settings is None else settings
        self.device = torch.device(device)
        self._maps: OrderedDict[int, LabelMap] = OrderedDict()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self.length:
            raise IndexError(f"there are {self.length} pairs, and no number {index}")
        return {name: value[0] for name, value in self.pair(index).as_dict().items()}

    def batch(self, indices: Iterable[int]) -> Pair:
        """Several pairs; any whole numbers, also beyond the dataset's length."""
        return Pair.stacked([self.pair(index) for index in indices])

    def pair(self, index: int) -> Pair:
        """Pair number ``index``, batch of one."""
        tissue = self._map(index // self.settings.pairs_per_map)
        return make_pair(Chance(mixed(self.seed, 1, index), self.device), self.shape, tissue, self.settings)

    def _map(self, number: int) -> LabelMap:
        found = self._maps.get(number)
        if found is None:
            chance = Chance(mixed(self.seed, 2, number), self.device)
            shape = [round(n * self.settings.shapes.margin) for n in self.shape]
            found = label_map(chance, shape, self.settings.shapes)
            self._maps[number] = found
            if len(self._maps) > _KEPT_MAPS:
                self._maps.popitem(last=False)
        return found


@torch.no_grad()
def make_pair(chance: Chance, shape: Sequence[int], tissue: LabelMap, settings: SyntheticSettings) -> Pair:
    """Two images of one label map, array shape (D, H, W), and the field between them; a batch of one."""
    motion = random_motion(chance, shape, tissue.labels.shape, settings.motion)
    look = settings.appearance
    same = chance.coin(look.same_contrast)
    contrast = random_contrast(chance, tissue, look)
    texture = random_texture(chance, tissue, look)
    fixed = acquire(chance, render(tissue, contrast, texture, motion.fixed_places), look)
    if not same:
        contrast = random_contrast(chance, tissue, look)
        if not chance.coin(look.shared_texture):
            texture = random_texture(chance, tissue, look)
    moving = acquire(chance, render(tissue, contrast, texture, motion.moving_places), look)
    labels = tissue.labels[None, None].float()
    fixed_labels, moving_labels = (
        sample(labels, places, mode="nearest", padding="border").to(torch.uint8)
        for places in (motion.fixed_places, motion.moving_places)
    )
    return Pair(
        fixed,
        moving,
        fixed_labels,
        moving_labels,
        motion.flow,
        motion.inverse,
        torch.tensor([same], device=chance.device),
    )
