"""Prepared pairs by number, for training augmented: everything a process that loads them needs, and nothing else."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..synthetic.chance import Chance, mixed
from .augmentation import augment
from .preparation import Item, Preparer
from .sampling import Key
from .settings import AugmentationSettings


@dataclass(frozen=True)
class PairSource:
    """What pairs there are, and how one is made.

    Attributes
    ----------
    preparer, pairs
        Of the volumes; numbers of them (fixed, moving) by split.
    align, atlas
        See :class:`~cyclereg_training.data.settings.VolumeSettings`; the number of the atlas's volume.
    shape
        (D, H, W) to which zeros fill up what is smaller.
    labelled
        Whether pairs have label maps.
    augmentation, seed, pairs_per_epoch
        Of training pairs.
    """

    preparer: Preparer
    pairs: Mapping[str, Sequence[tuple[int, int]]]
    align: str = "centre"
    atlas: int = 0
    shape: tuple[int, ...] = ()
    labelled: bool = False
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    seed: int = 0
    pairs_per_epoch: int = 1

    def items(self, pair: tuple[int, int]) -> tuple[Item, Item]:
        """What is prepared for a pair (fixed, moving), in this order."""
        fixed, moving = pair
        if self.align == "centre":
            return Item(fixed, fixed), Item(moving, moving)
        if self.align == "atlas":
            return Item(fixed, self.atlas), Item(moving, self.atlas)
        partner = moving if self.preparer.organs else None
        return Item(fixed, fixed, partner), Item(moving, fixed, partner)

    def items_of(self, pairs: Iterable[tuple[int, int]]) -> list[Item]:
        """What is prepared for several pairs, each once."""
        if self.align in ("centre", "atlas"):  # of a volume the same for all of its pairs, which may be millions
            numbers = dict.fromkeys(number for pair in pairs for number in pair)
            return [self.items((number, number))[0] for number in numbers]
        return list(dict.fromkeys(item for pair in pairs for item in self.items(pair)))

    def pair(self, split: str, number: int) -> dict[str, Any]:
        """Pair ``number`` of a split as it was prepared: images (1, D, H, W) float32, labels int32, without the batch
        axis; with ``index`` and ``name``."""
        fixed, moving = self.pairs[split][number]
        volumes = self.preparer.volumes
        result: dict[str, Any] = {
            "index": torch.tensor(number),
            "name": f"{volumes[moving].path} onto {volumes[fixed].path}",
        }
        for side, item in zip(("fixed", "moving"), self.items((fixed, moving))):
            entry = self.preparer.item(item)
            result[side] = self._padded(entry.arrays["image"])
            if self.labelled and "labels" in entry.arrays:
                result[f"{side}_labels"] = self._padded(entry.arrays["labels"].astype(np.int32))
        return result

    def _padded(self, array: np.ndarray) -> Tensor:
        """A copy as a tensor with a channel, zeros around what is smaller than the others."""
        missing = [most - side for most, side in zip(self.shape, array.shape)]
        if any(missing):
            array = np.pad(array, [(n // 2, n - n // 2) for n in missing])
        return torch.from_numpy(np.array(array))[None]

    def training_pair(self, epoch: int, index: int) -> dict[str, Any]:
        """The pair that training sees, augmented.

        Pairs follow one random order after the other, each of which holds every pair once.
        """
        count = len(self.pairs["train"])
        turn, place = divmod(epoch * self.pairs_per_epoch + index, count)
        found = self.pair("train", int(_order(mixed(self.seed, 7, turn), count)[place]))
        if not self.augmentation.changes_anything:
            return found
        chance = Chance(mixed(self.seed, 8, epoch, index))
        spatial = {name: value for name, value in found.items() if name not in ("index", "name")}
        return {**found, **augment(spatial, self.augmentation, chance)}


@functools.lru_cache(maxsize=2)
def _order(seed: int, count: int) -> Tensor:
    """The numbers below ``count``, shuffled."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


class TrainingPairs(Dataset):
    """By the keys of :class:`~cyclereg_training.data.sampling.EpochSampler`."""

    def __init__(self, source: PairSource) -> None:
        self.source = source

    def __getitem__(self, key: Key) -> dict[str, Any]:
        return self.source.training_pair(*key)


class FixedPairs(Dataset):
    """Pairs of validation or testing, the same in every epoch."""

    def __init__(self, source: PairSource, split: str) -> None:
        self.source, self.split = source, split

    def __getitem__(self, key: Key) -> dict[str, Any]:
        return self.source.pair(self.split, key[1])
