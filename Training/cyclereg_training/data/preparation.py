"""From files to what a network sees, by the very steps of inference, kept in a cache on disk.

A volume is normalised as a whole and interpolated once onto the network grid, as
:func:`CycleRegLib.networks.inference.predict_fields` does it with the fixed image's grid, the affine map and the
normalisation and grid of a checkpoint; so the checkpoint of a training states what makes inference do the same.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

from CycleRegLib.affine import register_affine
from CycleRegLib.affine_2d import register_affine_2d
from CycleRegLib.errors import CycleRegWarning, InputError
from CycleRegLib.geometry import Grid, affine_transform
from CycleRegLib.image_checks import check_overlap
from CycleRegLib.images import read_image, resample_to
from CycleRegLib.images_2d import grey, read_image_2d
from CycleRegLib.networks.organ_slices import blank_beyond, find_organ_slices
from CycleRegLib.networks.preparation import GridRule, to_network_grid
from CycleRegLib.planar import FlatPair
from CycleRegLib.segmentations import read_segmentation

from .cache import Cache, Entry, Made, file_identity
from .listing import Volume


@dataclass(frozen=True)
class Item:
    """What is prepared: a volume on the network grid of a target volume (itself, where it is fixed or alone).

    ``partner`` is the other volume of the pair whose organ has to be on the grid too.  All are numbers of volumes.
    """

    volume: int
    target: int
    partner: int | None = None


@dataclass(frozen=True)
class Preparer:
    """Makes items; small and picklable, so that other processes can.

    Attributes
    ----------
    volumes
        What items' numbers refer to.
    cache
        Where they are kept.
    rule, normalisation
        As the checkpoint will state them.
    fit, organs
        See :class:`~cyclereg_training.data.settings.VolumeSettings`.
    align
        How a target and another volume come to lie on each other: ``world``, ``affine`` or ``rigid``.
    dimension
        Of the network.
    streams
        Whether the network takes grids of any size (see :func:`CycleRegLib.networks.inference.network_grid`).
    """

    volumes: tuple[Volume, ...]
    cache: Cache
    rule: GridRule
    normalisation: str
    fit: tuple[int | None, ...] | None = None
    organs: tuple[int, ...] = ()
    align: str = "world"
    dimension: int = 3
    streams: bool = False

    def look(self, number: int) -> Mapping[str, Any]:
        """The geometry of a volume that can be used: ``size``, ``spacing``, ``orientation`` and ``notes``.

        Raises
        ------
        InputError
            If the volume or its segmentation cannot be used; says why.
        """
        volume = self.volumes[number]

        def make() -> Made:
            with noted() as notes:
                image = _load(volume, self.dimension)
                labels = _load_labels(volume, self.dimension)
            if self.organs:
                _organ_mask(volume, labels, self.organs)
            grid = Grid.of(image)
            return {}, {
                "path": volume.path,
                "size": grid.size,
                "spacing": grid.spacing,
                "orientation": orientation_of(grid),
                "labels": labels is not None,
                "notes": notes,
            }

        return self.cache.get(self._parts(number), make).about

    def known(self, task: int | Item) -> Mapping[str, Any] | None:
        """What :meth:`look` says of a number, or what is known of an item, where the cache has it already.

        Raises
        ------
        InputError
            If a file is not there.
        """
        entry = self.cache.find(self._parts(task))
        return None if entry is None else entry.about

    def item(self, item: Item) -> Entry:
        """Arrays ``image`` float32 and perhaps ``labels``, (z, y, x), with ``size``, ``spacing`` (x, y, z) and more.

        Raises
        ------
        InputError
            If the volume cannot be used, its images cannot be aligned, or it shows nothing on the network grid.
        """
        return self.cache.get(self._parts(item), lambda: self._make(item))

    def matrix(self, target: int, other: int) -> np.ndarray:
        """(n+1, n+1) LPS mm, from the target's points to the other volume's.

        Raises
        ------
        InputError
            If they do not overlap as they lie, or cannot be aligned.
        """
        if other == target:
            return np.eye(self.dimension + 1)
        if self.align == "world":
            fixed, moving = (Grid.of(image) for image in self._images(target, other))
            try:
                check_overlap(fixed, moving, None, "as they lie")
            except InputError as error:
                raise InputError(
                    f"{self.volumes[target].path} and {self.volumes[other].path} do not overlap as they lie in space. "
                    "Give data.align=pair or centre."
                ) from error
            return np.eye(self.dimension + 1)
        parts = {
            "matrix": [self._identity(target), self._identity(other)], "mode": self.align, "dimension": self.dimension
        }  # fmt: skip

        def make() -> Made:
            fixed, moving = self._images(target, other)
            with noted() as notes:
                if self.dimension == 2:
                    matrix = register_affine_2d(fixed, moving, self.align)
                else:
                    matrix = register_affine(fixed, moving, self.align).matrix
            return {"matrix": matrix}, {"notes": notes}

        return np.array(self.cache.get(parts, make).arrays["matrix"])

    # ------------------------------------------------------------------ how

    def _parts(self, task: int | Item) -> dict[str, Any]:
        """What an entry of the cache is made from."""
        if isinstance(task, int):
            return {"look": self._identity(task), "dimension": self.dimension, "organs": list(self.organs)}
        alone = task.target == task.volume and task.partner is None
        return {
            "item": self._identity(task.volume),
            "target": None if task.target == task.volume else self._identity(task.target),
            "partner": None if task.partner is None else self._identity(task.partner),
            "rule": self.rule.to_dict(),
            "normalisation": self.normalisation,
            "fit": self.fit,
            "organs": list(self.organs),
            "align": None if alone else self.align,
            "dimension": self.dimension,
            "streams": self.streams,
        }

    def _identity(self, number: int) -> list[Any]:
        volume = self.volumes[number]
        labels = volume.segmentation
        return [file_identity(volume.path), None if labels is None else file_identity(labels)]

    def _images(self, target: int, other: int) -> tuple[sitk.Image, sitk.Image]:
        """Both volumes in one space: single slices are laid into one plane, as for a registration."""
        if self.dimension == 3 or other == target:
            return _load(self.volumes[target], self.dimension), _load(self.volumes[other], self.dimension)
        flat = FlatPair(_read_flat(self.volumes[target].path), _read_flat(self.volumes[other].path))
        return grey(flat.fixed), grey(flat.moving)

    def _labels(self, target: int, other: int) -> tuple[sitk.Image | None, sitk.Image | None]:
        """The label maps beside :meth:`_images`."""
        if self.dimension == 3 or other == target:
            return _load_labels(self.volumes[target], self.dimension), _load_labels(self.volumes[other], self.dimension)
        flat = FlatPair(_read_flat(self.volumes[target].path), _read_flat(self.volumes[other].path))
        target_labels, other_labels = (
            None
            if self.volumes[number].segmentation is None
            else flat.flatten(read_segmentation(self.volumes[number].segmentation, flat=True).labels, side)
            for number, side in ((target, "fixed"), (other, "moving"))
        )
        return target_labels, other_labels

    def _make(self, item: Item) -> Made:
        with noted() as notes:
            target, image = self._images(item.target, item.volume)
            matrix = self.matrix(item.target, item.volume)
            _, labels = self._labels(item.target, item.volume)
            grid, cut_axis = self._grid(item, target)
            array = to_network_grid(image, grid, matrix, self.normalisation)
        own = Grid.of(image)
        own_slices = None
        if self.organs:
            mask = _organ_mask(self.volumes[item.volume], labels, self.organs)
            own_slices = find_organ_slices(own, image, image, (mask, None), np.eye(self.dimension + 1)).fixed
            blank_beyond(array, grid, own, matrix, own_slices)
        if float(array.min()) == float(array.max()):
            raise InputError(
                f"The volume {self.volumes[item.volume].path} shows nothing on the network grid: all of its "
                f"intensities become {float(array.min()):g} ('{self.normalisation}', {grid.describe()})."
            )
        arrays = {"image": array}
        if labels is not None:
            moved = resample_to(labels, grid, affine_transform(matrix), "nearest")
            values = sitk.GetArrayFromImage(moved)
            blank_beyond(values, grid, own, matrix, own_slices)
            arrays["labels"] = values.astype(np.min_scalar_type(int(values.max())))
        return arrays, {
            "path": self.volumes[item.volume].path,
            "target": self.volumes[item.target].path,
            "matrix": matrix.tolist(),
            "size": grid.size,
            "spacing": grid.spacing,
            "origin": grid.origin,
            "direction": grid.direction,
            "cut_axis": cut_axis,
            "normalisation": self.normalisation,
            "notes": notes,
        }

    def _grid(self, item: Item, target: sitk.Image) -> tuple[Grid, int | None]:
        """The network grid, and its array axis along which it is cut to an organ's slices."""
        placed = self.rule.place(Grid.of(target), sys.maxsize if self.streams else None)
        cut_axis = None
        if self.organs:
            labels = self._labels(item.target, item.target)[0]
            masks = [_organ_mask(self.volumes[item.target], labels, self.organs), None]
            other, matrix = target, np.eye(self.dimension + 1)
            if item.partner is not None:
                other = _load(self.volumes[item.partner], self.dimension)
                labels = _load_labels(self.volumes[item.partner], self.dimension)
                masks[1] = _organ_mask(self.volumes[item.partner], labels, self.organs)
                matrix = self.matrix(item.target, item.partner)
            cut = find_organ_slices(placed, target, other, (masks[0], masks[1]), matrix).grid
            slowest = Grid.of(target).direction_matrix[:, -1]
            cut_axis = self.dimension - 1 - int(np.argmax(np.abs(slowest @ placed.direction_matrix)))
            placed = cut
        return (placed if self.fit is None else fitted(placed, self.fit)), cut_axis


def fitted(grid: Grid, size: tuple[int | None, ...]) -> Grid:
    """A grid cropped or padded to a size (x, y, z) about its centre, as a rule of size and spacing does in inference.

    Along an axis whose number of voxels changes from even to odd or back, it is shifted by half a voxel.

    Raises
    ------
    InputError
        If the size has another number of dimensions.
    """
    if len(size) != grid.dimension:
        raise InputError(f"data.fit has {len(size)} numbers, but the images are {grid.dimension}D.")
    wanted = tuple(n if asked is None else asked for n, asked in zip(grid.size, size))
    return GridRule(wanted, grid.spacing).place(grid)


def orientation_of(grid: Grid) -> str:
    """Three letters such as LPS, the sides towards which the axes of a volume grow; empty in 2D."""
    if grid.dimension != 3:
        return ""
    return sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(grid.direction)


@contextmanager
def noted() -> Iterator[list[str]]:
    """CycleReg's warnings within, as texts; others are shown as usual when the block ends."""
    notes: list[str] = []
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield notes
    finally:
        for item in caught:
            if isinstance(item.message, CycleRegWarning):
                notes.append(str(item.message))
            else:
                warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)


# ---------------------------------------------------------------------- reading


def _load(volume: Volume, dimension: int) -> sitk.Image:
    """The image as float32; of a picture or single slice its grey image in the plane."""
    return _loaded(volume.path, dimension, str(file_identity(volume.path)))


def _load_labels(volume: Volume, dimension: int) -> sitk.Image | None:
    if volume.segmentation is None:
        return None
    return _loaded_labels(volume.segmentation, volume.path, dimension, str(file_identity(volume.segmentation)))


# A pair asks for each of its volumes several times; the files are not to be read as often.  ``state`` tells a file that
# was changed meanwhile.


@functools.lru_cache(maxsize=3)
def _loaded(path: str, dimension: int, state: str) -> sitk.Image:
    if dimension == 3:
        return read_image(path)
    image = _read_flat(path)
    return grey(FlatPair(image, image).fixed)


@functools.lru_cache(maxsize=3)
def _loaded_labels(path: str, beside: str, dimension: int, state: str) -> sitk.Image:
    found = read_segmentation(path, f"segmentation of {beside},", flat=dimension == 2).labels
    if dimension == 3:
        return found
    image = _read_flat(beside)
    return FlatPair(image, image).flatten(found, "fixed")


def forget() -> None:
    """Give back the memory of the volumes read last."""
    _loaded.cache_clear()
    _loaded_labels.cache_clear()


def _read_flat(path: str) -> sitk.Image:
    return read_image_2d(path, "image")


def _organ_mask(volume: Volume, labels: sitk.Image | None, organs: tuple[int, ...]) -> sitk.Image:
    if labels is None:
        raise InputError(
            f"The volume {volume.path} has no segmentation, so that the organ's slices (data.organ) cannot be found."
        )
    array = np.isin(sitk.GetArrayViewFromImage(labels), organs)
    if not array.any():
        raise InputError(
            f"The segmentation {volume.segmentation} shows no voxel of the organ "
            f"(data.organ: {', '.join(map(str, organs))})."
        )
    return Grid.of(labels).image(array)
