"""Synthetic pairs as the data of a training: no files, new pairs in every epoch, made where they are needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from CycleRegLib.errors import InputError
from CycleRegLib.methods import get_method

from ..settings import filled
from ..synthetic import SyntheticPairs, SyntheticSettings
from ..synthetic.chance import mixed
from .sampling import EpochSampler, Key
from .synthetic_2d import FlatPairs

if TYPE_CHECKING:
    from ..config import Config

Shape = tuple[int, ...]


@dataclass(frozen=True)
class SyntheticDataSettings:
    """Settings of ``data: {source: synthetic}``.

    Attributes
    ----------
    shape
        (D, H, W) of the images, or shapes by the epoch from which they hold: ``{0: [64, 64, 64], 30: [96, 96, 96]}``.
    pairs_per_epoch, fresh, keep
        How many, and whether every epoch has new ones.  Where not, ``keep`` holds them in the memory of the CPU, about
        35 bytes a voxel: worth it where pairs take longer to make than to learn from.
    validation_pairs, validation_shape
        How many fixed pairs each epoch is judged by, and of which shape (the last of the schedule when left out).
    workers
        Processes that make pairs on the CPU; with 0 they are made in the training process, on its device.
    settings
        What is random, and how much, see :mod:`cyclereg_training.synthetic.settings`.
    """

    shape: Any = (64, 64, 64)
    source: str = "synthetic"
    pairs_per_epoch: int = 200
    fresh: bool = True
    keep: bool = False
    validation_pairs: int = 8
    validation_shape: Any = None
    workers: int = 0
    settings: SyntheticSettings = field(default_factory=SyntheticSettings)

    def __post_init__(self) -> None:
        if self.pairs_per_epoch < 1 or self.validation_pairs < 1 or self.workers < 0:
            raise InputError("'data' needs at least 1 pair per epoch and for validation, and no negative workers.")
        if self.keep and self.fresh:
            raise InputError("'data.keep' holds pairs that come again: it needs data.fresh=false.")

    def schedule(self, dimension: int) -> dict[int, Shape]:
        """Shapes by the epoch from which they hold."""
        given = self.shape if isinstance(self.shape, Mapping) else {0: self.shape}
        try:
            found = {int(epoch): _shape(shape, dimension) for epoch, shape in given.items()}
        except ValueError as error:
            raise InputError(f"'data.shape' has shapes by epoch, not {self.shape!r}.") from error
        if 0 not in found or min(found) < 0:
            raise InputError(f"'data.shape' must say the shape of epoch 0; it has those of {sorted(found)}.")
        return dict(sorted(found.items()))


def _shape(value: Any, dimension: int) -> Shape:
    if not (isinstance(value, (list, tuple)) and len(value) == dimension and all(type(n) is int for n in value)):
        raise InputError(f"'data.shape' is {dimension} whole numbers of voxels, not {value!r}.")
    return tuple(value)


class SyntheticData(lightning.LightningDataModule):
    """Random pairs with their true fields and labels.

    Pair ``i`` of epoch ``e`` depends on the seed, the shape and these two numbers alone.

    Attributes
    ----------
    shape
        The largest (D, H, W) of the training.
    spacing_mm
        ``None``: the pairs have no millimetres.
    normalisation, description
        For the checkpoint.
    """

    spacing_mm = None

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.settings = filled(SyntheticDataSettings, config.data, "data")
        self.batch_size, self.seed = config.batch_size, config.seed
        dimension = config.network.get("dimension", get_method(config.method).dimensions[0])
        self._pairs = SyntheticPairs if dimension == 3 else FlatPairs
        self.shapes = self.settings.schedule(dimension)
        largest = max(self.shapes.values(), key=lambda shape: torch.Size(shape).numel())
        self.shape: Shape = largest
        asked = self.settings.validation_shape
        self.validation_shape = list(self.shapes.values())[-1] if asked is None else _shape(asked, dimension)
        low, high = self.settings.settings.appearance.percentiles
        self.normalisation = f"percentile:{low:g},{high:g}"
        self.description = {
            "summary": f"synthetic {dimension}D pairs only, no images of anybody",
            "source": "synthetic",
            "pairs_per_epoch": self.settings.pairs_per_epoch,
            "shapes": {str(epoch): list(shape) for epoch, shape in self.shapes.items()},
            "settings": asdict(self.settings.settings),
        }
        self._made: dict[tuple[Shape, torch.device, bool], SyntheticPairs | FlatPairs] = {}
        self._kept: list[dict[str, Tensor]] = []
        self._remembered: dict[tuple[Shape, int], dict[str, Tensor]] = {}

    def shape_at(self, epoch: int) -> Shape:
        """The images' shape in an epoch."""
        return self.shapes[max(first for first in self.shapes if first <= epoch)]

    def make(self, epoch: int, indices: list[int], device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """A batch of training pairs."""
        pairs = self._source(self.shape_at(epoch), device)
        first = epoch * self.settings.pairs_per_epoch if self.settings.fresh else 0
        numbers = [first + index for index in indices]
        if self.settings.keep:
            shape = pairs.shape
            for number in numbers:
                if (shape, number) not in self._remembered:
                    made = pairs.batch([number]).as_dict()
                    self._remembered[shape, number] = {name: value.cpu() for name, value in made.items()}
            found = _collated([self._remembered[shape, number] for number in numbers])
            return {**{name: value.to(device) for name, value in found.items()}, "index": torch.tensor(numbers)}
        return {**pairs.batch(numbers).as_dict(), "index": torch.tensor(numbers)}

    def validation_batches(self) -> list[dict[str, Tensor]]:
        """The fixed pairs, a batch of one each; made once, on the CPU."""
        if not self._kept:
            pairs = self._source(self.validation_shape, "cpu", validation=True)
            step = pairs.settings.pairs_per_map
            self._kept = [
                # Every one of another map.
                {**pairs.pair(number * step).as_dict(), "index": torch.tensor([number])}
                for number in range(self.settings.validation_pairs)
            ]
        return self._kept

    @property
    def validation_pair(self) -> dict[str, Tensor]:
        """The pair whose pictures every epoch shows."""
        return self.validation_batches()[0]

    def _source(self, shape: Shape, device: torch.device | str, validation: bool = False) -> SyntheticPairs | FlatPairs:
        key = (shape, torch.device(device), validation)
        if key not in self._made:
            # The other stream of random numbers; a training never sees a pair that judges it.
            seed = mixed(self.seed, 4) if validation else self.seed
            self._made[key] = self._pairs(shape, seed=seed, settings=self.settings.settings, device=device)
        return self._made[key]

    # ------------------------------------------------------------------ what Lightning asks for

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        sampler = EpochSampler(
            self.settings.pairs_per_epoch,
            self.batch_size,
            shuffle=False,  # neighbours share a label map, and no pair comes twice
            rank=trainer.global_rank,
            world=trainer.world_size,
        )
        # A resumed training asks for its first batch before it announces the epoch.
        sampler.set_epoch(trainer.fit_loop.epoch_progress.current.processed)
        workers = self.settings.workers
        dataset: Dataset = _Made(self) if workers else _Numbers(self)
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=_collated if workers else _numbered,
            pin_memory=bool(workers) and trainer.strategy.root_device.type == "cuda",
        )

    def val_dataloader(self) -> DataLoader:
        trainer = self.trainer
        count = len(self.validation_batches())
        sampler = EpochSampler(count, 1, shuffle=False, rank=trainer.global_rank, world=trainer.world_size)
        return DataLoader(_Kept(self), batch_size=None, sampler=sampler)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Make pairs of which only the numbers came, on the device that trains."""
        if "to_make" not in batch:
            return batch
        with torch.no_grad():
            return self.make(int(batch["epoch"]), batch["to_make"].tolist(), self.trainer.strategy.root_device)


class _Made(Dataset):
    """Pairs made by worker processes."""

    def __init__(self, data: SyntheticData) -> None:
        self.data = data

    def __getitem__(self, key: Key) -> dict[str, Tensor]:
        return self.data.make(key[0], [key[1]])


class _Numbers(_Made):
    def __getitem__(self, key: Key) -> Key:  # type: ignore[override]
        return key


class _Kept(_Made):
    def __getitem__(self, key: Key) -> dict[str, Tensor]:
        return self.data.validation_batches()[key[1]]


def _collated(pairs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([pair[name] for pair in pairs]) for name in pairs[0]}


def _numbered(keys: list[Key]) -> dict[str, Tensor]:
    # Stays on the CPU side of a transfer: the numbers are small and are read back at once.
    return {"epoch": torch.tensor(keys[0][0]), "to_make": torch.tensor([index for _, index in keys])}
