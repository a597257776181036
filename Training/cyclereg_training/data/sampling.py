"""Which pairs an epoch shows, in which order, to which process: decided by the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from ..synthetic.chance import mixed

Key = tuple[int, int]


class EpochSampler(Sampler[Key]):
    """Keys ``(epoch, index)`` of one process.

    Global batches, of ``world * batch_size`` pairs, are the same however many processes share them; each takes every
    ``world``-th pair of them.  The last global batch may be smaller; its pairs are repeated until every process has as
    many.  A resumed training, or one on another number of processes with the same global batch, sees the same.

    Parameters
    ----------
    length
        Pairs of an epoch.
    batch_size
        Pairs of a batch of one process.
    seed, shuffle
        The order; without ``shuffle`` it is 0, 1, 2, ….
    rank, world
        Number of this process, and how many there are.
    """

    def __init__(
        self, length: int, batch_size: int = 1, seed: int = 0, shuffle: bool = True, rank: int = 0, world: int = 1
    ) -> None:
        self.length, self.batch_size, self.seed, self.shuffle = length, batch_size, seed, shuffle
        self.rank, self.world, self.epoch = rank, world, 0

    def set_epoch(self, epoch: int) -> None:
        """Called before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.length // self.world)

    def __iter__(self) -> Iterator[Key]:
        # Nothing is put off: a prefetching loader may ask for keys after the next epoch was announced.
        return iter(self._keys())

    def _keys(self) -> list[Key]:
        order = list(range(self.length))
        if self.shuffle:
            generator = torch.Generator().manual_seed(mixed(self.seed, 3, self.epoch))
            order = torch.randperm(self.length, generator=generator).tolist()
        missing = -self.length % self.world
        order += [order[i % self.length] for i in range(missing)]
        step = self.world * self.batch_size
        batches = [order[start : start + step] for start in range(0, len(order), step)]
        return [(self.epoch, index) for batch in batches for index in batch[self.rank :: self.world]]
