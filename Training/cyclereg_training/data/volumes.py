"""Volumes from files as the data of a training."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import lightning
import numpy as np
from torch.utils.data import DataLoader, Dataset, default_collate

from CycleRegLib.errors import InputError
from CycleRegLib.methods import get_method
from CycleRegLib.networks.preparation import GridRule

from ..settings import filled
from .cache import Cache
from .listing import Listing, Volume, list_volumes
from .pair_source import FixedPairs, PairSource, TrainingPairs
from .pairing import Pairs, find_atlas, make_pairs, spread
from .patients import split_patients
from .preparation import Preparer
from .preparing import for_all
from .report import PreparationReport
from .sampling import EpochSampler
from .settings import SPLITS, VolumeSettings

if TYPE_CHECKING:
    from ..config import Config

Shape = tuple[int, ...]
_MOST_WORKERS = 4


class VolumeData(lightning.LightningDataModule):
    """Pairs of volumes of a folder or list.

    Everything is read, checked and prepared when this is built, by ``data.workers`` processes; what the cache holds is
    not prepared again.  Volumes that cannot be used are skipped and named in :attr:`report`.  Which pairs an epoch
    shows, in which order and how they are changed depends on the seed, the epoch and their numbers alone.

    Attributes
    ----------
    shape, spacing_mm
        (D, H, W) of all images; (x, y, z) in mm.
    grid
        The network grid, as the checkpoint states it.
    normalisation, description
        For the checkpoint.
    without_labels
        Volumes in pairs for training and validation that have no label map; see
        :func:`cyclereg_training.data.require_labels`.
    report
        See :class:`~cyclereg_training.data.report.PreparationReport`.
    source
        The pairs, see :class:`~cyclereg_training.data.pair_source.PairSource`.

    Raises
    ------
    InputError
        If there are no volumes, or too few for a pair; if they differ in size and nothing says how to make them equal;
        for everything in the settings that does not fit the data.
    """

    def __init__(self, config: Config, progress: Callable[[str, float], None] | None = None) -> None:
        super().__init__()
        self.settings = settings = filled(VolumeSettings, config.data, "data")
        self.batch_size = config.batch_size
        method = get_method(config.method)
        self.dimension = config.network.get("dimension", method.dimensions[0])
        self.normalisation = settings.normalisation or method.normalisation
        self.report = PreparationReport()
        called = []

        def tell(stage: str, fraction: float) -> None:
            called.append(stage)
            if progress is not None:
                progress(stage, fraction)

        self._progress = tell
        self._check_settings()
        listing = list_volumes(settings, self.dimension)
        self.report.notes += listing.notes
        self.report.skipped += listing.skipped
        preparer = Preparer(
            tuple(listing.volumes),
            Cache(settings.cache),
            settings.grid.rule(),
            self.normalisation,
            settings.fit,
            settings.organs,
            "world" if settings.align in ("world", "centre") else settings.align_mode,
            self.dimension,
            method.network_class().streams,
        )
        orientations = self._look(listing, preparer)
        rule = self._rule(orientations)
        volumes, pairs, atlas = self._make_pairs(listing)
        preparer = replace(preparer, volumes=tuple(volumes), rule=rule)
        source = PairSource(preparer, pairs, settings.align, atlas)
        used, abouts = self._prepare(source)
        self.shape = self._common_shape(abouts)
        self.spacing_mm = tuple(float(np.median([a["spacing"][i] for a in abouts])) for i in range(self.dimension))
        self.grid = self._stated_grid(rule, orientations, abouts)
        numbers = sorted({number for split in SPLITS[:2] for pair in used[split] for number in pair})
        self.without_labels = [volumes[n].path for n in numbers if volumes[n].segmentation is None]
        self.source = replace(
            source,
            pairs=used,
            shape=self.shape,
            labelled=not self.without_labels,
            augmentation=settings.augmentation,
            seed=config.seed,
            pairs_per_epoch=settings.pairs_per_epoch or len(used["train"]),
        )
        self._finish_report(volumes, pairs)
        if called:
            tell("ready", 1.0)
        del self._progress

    # ------------------------------------------------------------------ preparation

    def _check_settings(self) -> None:
        settings = self.settings
        for name, values in (("grid", settings.grid.size or settings.grid.spacing), ("fit", settings.fit)):
            if values is not None and len(values) != self.dimension:
                raise InputError(f"data.{name} has {len(values)} numbers, but the network is {self.dimension}D.")
        settings.augmentation.flips_of(self.dimension)
        if self.dimension == 2 and (settings.organs or settings.grid.orientation):
            raise InputError("data.organ and data.grid.orientation are for volumes; leave them out in 2D.")

    def _look(self, listing: Listing, preparer: Preparer) -> list[str]:
        """Keep the volumes that can be used in the listing; returns how each is stored."""
        tasks = range(len(listing.volumes))
        found: dict[int, Any] = dict(
            for_all(preparer, tasks, lambda part: self._progress("reading", 0.4 * part), self._workers)
        )
        good = [number for number in tasks if not isinstance(found[number], str)]
        for number in tasks:
            if isinstance(found[number], str):
                self.report.skipped.append((listing.volumes[number].path, found[number]))
            else:
                self.report.notes += found[number]["notes"]
        if not good:
            raise InputError(
                f"None of the {len(listing.volumes)} volumes of {self.settings.path} can be used. The first: "
                f"{self.report.skipped[0][1]}"
            )
        places = {number: place for place, number in enumerate(good)}
        listing.volumes = [listing.volumes[number] for number in good]
        if listing.pairs is not None:
            lost = sum(f not in places or m not in places for f, m in listing.pairs)
            if lost:
                self.report.notes.append(f"{lost} of the {len(listing.pairs)} pairs listed lack a volume; left out")
            listing.pairs = [(places[f], places[m]) for f, m in listing.pairs if f in places and m in places]
        return [found[number]["orientation"] for number in good]

    def _rule(self, orientations: Sequence[str]) -> GridRule:
        """The network grid's rule as far as it has to be known to prepare volumes."""
        rule, counts = self.settings.grid.rule(), Counter(orientations)
        if rule.orientation is None and len(counts) > 1:
            told = ", ".join(f"{count} {name}" for name, count in counts.most_common())
            self.report.notes.append(f"volumes are stored in different orientations ({told}); all are turned to LPS")
            rule = replace(rule, orientation="LPS")
        return rule

    def _make_pairs(self, listing: Listing) -> tuple[list[Volume], Pairs, int]:
        """The volumes with their splits, the pairs of each split, and the atlas, or what would be it."""
        settings, volumes = self.settings, listing.volumes
        atlas = None if settings.pairs == "within-patient" else find_atlas(volumes, settings)
        everywhere = set() if atlas is None else {atlas}
        if listing.pairs is not None and len({fixed for fixed, _ in listing.pairs}) == 1:
            everywhere = {listing.pairs[0][0]}
        splits = split_patients(
            volumes,
            settings.split,
            () if listing.pairs is None or everywhere else listing.pairs,
            2 if listing.pairs is None and settings.pairs == "all-pairs" else 1,
            [volumes[number].patient for number in everywhere],
        )
        volumes = [replace(volume, split=splits[volume.patient]) for volume in volumes]
        pairs, notes = make_pairs(volumes, settings, atlas, listing.pairs)
        self.report.notes += notes
        if not pairs["train"]:
            self._refuse_no_pair(volumes)
        return volumes, pairs, pairs["train"][0][0] if atlas is None else atlas

    def _refuse_no_pair(self, volumes: Sequence[Volume]) -> None:
        count = sum(volume.split == "train" for volume in volumes)
        reason = f" Skipped was, first: {self.report.skipped[0][1]}" if self.report.skipped else ""
        if len(volumes) == 1:
            text = f"{self.settings.path} holds one volume that can be used ({volumes[0].path}); a pair needs two."
        elif self.settings.pairs == "within-patient":
            text = f"No patient for training in {self.settings.path} has two volumes, as pairs within a patient need."
        else:
            text = (
                f"Of the {len(volumes)} volumes in {self.settings.path}, {count} are for training, which make no pair. "
                "Give more volumes, or smaller shares to data.split.validation and data.split.test."
            )
        raise InputError(text + reason)

    def _prepare(self, source: PairSource) -> tuple[Pairs, list[dict[str, Any]]]:
        """Prepare what training and validation need; the pairs that can be used, and what is known of their images.

        Without pairs for validation, those for training stand in.
        """
        validation = spread(source.pairs["validation"], self.settings.validation_pairs)
        wanted = {"train": source.pairs["train"], "validation": validation}
        items = source.items_of(pair for pairs in wanted.values() for pair in pairs)
        results = for_all(
            source.preparer, items, lambda part: self._progress("preparing", 0.4 + 0.6 * part), self._workers
        )
        known: dict[Any, Any] = {items[place]: found for place, found in results}
        volumes = source.preparer.volumes
        for item in items:
            if isinstance(known[item], str):
                paths = dict.fromkeys(volumes[number].path for number in (item.volume, item.target))
                self.report.skipped.append((" with ".join(paths), known[item]))
        failed = {item for item in items if isinstance(known[item], str)}
        good: Pairs = {
            split: [pair for pair in pairs if not failed or failed.isdisjoint(source.items(pair))]
            for split, pairs in wanted.items()
        }
        if not good["train"]:
            raise InputError(f"No pair for training can be used. The last: {self.report.skipped[-1][1]}")
        if not good["validation"]:
            good["validation"] = spread(good["train"], self.settings.validation_pairs)
            self.report.notes.append("there are no pairs for validation; pairs for training stand in for them")
        abouts = [known[item] for item in items if not isinstance(known[item], str)]
        self.report.notes += [note for about in abouts for note in about["notes"]]
        return {**good, "test": list(source.pairs["test"])}, abouts

    def _common_shape(self, abouts: Sequence[Mapping[str, Any]]) -> Shape:
        """The shape of all images; along the axis that is cut to an organ's slices, of the deepest.

        Raises
        ------
        InputError
            If they differ otherwise.
        """
        shapes = {tuple(about["size"][::-1]): about["path"] for about in abouts}
        axes = {about["cut_axis"] for about in abouts}
        free = next(iter(axes)) if len(axes) == 1 else None
        # One of each size, but for the axis that may differ.
        sizes = {tuple(n for axis, n in enumerate(shape) if axis != free): shape for shape in shapes}
        if len(sizes) > 1:
            one, two = list(sizes.values())[:2]
            raise InputError(
                f"The volumes differ in size on the network grid: {shapes[one]} has {_size(one)} voxels, {shapes[two]} "
                f"{_size(two)}. Give data.grid.size, with data.grid.spacing to crop or pad, or data.fit."
            )
        return tuple(max(shape[axis] for shape in shapes) for axis in range(self.dimension))

    def _stated_grid(
        self, rule: GridRule, orientations: Sequence[str], abouts: Sequence[Mapping[str, Any]]
    ) -> GridRule:
        """The rule by which volumes were brought to the network; what it leaves open and all of them share is added."""
        if self.dimension == 3 and rule.orientation is None:
            rule = replace(rule, orientation=orientations[0])
        if rule.size is None and rule.spacing is None:
            spacings = np.array([about["spacing"] for about in abouts])
            if np.allclose(spacings, spacings[0], rtol=0.01):
                rule = replace(rule, spacing=self.spacing_mm)
            else:
                self.report.notes.append(
                    "voxels differ in size between volumes, and data.grid.spacing is not given; the network sees them "
                    "all as equal"
                )
        if self.settings.fit is not None and rule.spacing is not None and rule.size is None:
            size = list(self.settings.fit)
            for axis in {about["cut_axis"] for about in abouts} - {None}:
                size[self.dimension - 1 - axis] = None  # cut by the organ, wherever that is
            rule = replace(rule, size=tuple(size))
        return rule

    def _finish_report(self, volumes: Sequence[Volume], asked: Pairs) -> None:
        pairs, report = self.source.pairs, self.report
        own_validation = set(pairs["validation"]) <= set(asked["validation"])
        report.volumes = list(volumes)
        report.pairs = {split: list(pairs[split]) for split in SPLITS}
        if not own_validation:
            report.pairs["validation"] = []
        report.skipped = list(dict.fromkeys(report.skipped))
        report.notes = list(dict.fromkeys(report.notes))
        report.facts = {
            "shape": list(self.shape),
            "spacing_mm": list(self.spacing_mm),
            "normalisation": self.normalisation,
            "grid": self.grid.to_dict(),
            "align": self.settings.align,
            "cache": str(self.source.preparer.cache.folder),
        }

    @property
    def description(self) -> dict[str, Any]:
        """For the checkpoint; names no file and no patient."""
        report, settings = self.report, self.settings
        counts = {split: len(report.patients(split)) for split in SPLITS}
        return {
            "summary": f"{len(report.pairs['train'])} pairs of {counts['train']} patients",
            "source": settings.source,
            "patients": counts,
            "pairs": {split: len(report.pairs[split]) for split in SPLITS},
            "kind_of_pairs": settings.pairs,
            "align": settings.align,
            "shape": list(self.shape),
            "skipped": len(report.skipped),
        }

    # ------------------------------------------------------------------ what Lightning and the loop ask for

    @property
    def _workers(self) -> int:
        asked = self.settings.workers
        return min(_MOST_WORKERS, os.cpu_count() or 1) if asked is None else asked

    def shape_at(self, epoch: int) -> Shape:
        """The images' shape in an epoch: always the same."""
        return self.shape

    @property
    def validation_pair(self) -> dict[str, Any]:
        """The pair whose pictures every epoch shows, a batch of one; tensors alone."""
        pair = default_collate([self.source.pair("validation", 0)])
        return {name: value for name, value in pair.items() if name != "name"}

    def train_dataloader(self) -> DataLoader:
        trainer, count = self.trainer, self.source.pairs_per_epoch
        # Shuffled by the source, so that pairs per epoch need not be all of them.
        rank, world = trainer.global_rank, trainer.world_size
        sampler = EpochSampler(count, self.batch_size, shuffle=False, rank=rank, world=world)
        # A resumed training asks for its first batch before it announces the epoch.
        sampler.set_epoch(trainer.fit_loop.epoch_progress.current.processed)
        return self._loader(TrainingPairs(self.source), sampler, self.batch_size)

    def val_dataloader(self) -> DataLoader:
        return self._fixed("validation")

    def test_dataloader(self) -> DataLoader:
        return self._fixed("test")

    def _fixed(self, split: str) -> DataLoader:
        trainer, count = self.trainer, len(self.source.pairs[split])
        sampler = EpochSampler(count, 1, shuffle=False, rank=trainer.global_rank, world=trainer.world_size)
        return self._loader(FixedPairs(self.source, split), sampler, 1)

    def _loader(self, dataset: Dataset, sampler: EpochSampler, batch_size: int) -> DataLoader:
        workers = self._workers
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )


def _size(shape: Shape) -> str:
    return "x".join(map(str, shape[::-1]))
