"""Random label maps, like anatomy seen from afar: blobs, bodies with shells and organs, folds, vessels, abdomens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .chance import Chance
from .phantoms import phantom_labels
from .settings import ShapeSettings
from .splines import smooth_noise

BACKGROUND = 0
_MOST_LABELS = 250


@dataclass(frozen=True)
class LabelMap:
    """A map of labels and what is known of them.

    Attributes
    ----------
    labels
        (D, H, W) uint8.
    count
        Labels are below it.
    air
        Whether label 0 is air around a body, rather than one label among others.
    shells
        Labels around the inner organs, which skull stripping, say, would take away.
    """

    labels: Tensor
    count: int
    air: bool
    shells: tuple[int, ...] = ()


def label_map(chance: Chance, shape: Sequence[int], settings: ShapeSettings) -> LabelMap:
    """A random label map of array shape (D, H, W); its kind is drawn as ``settings.kinds`` says.

    Blobs are the largest of several noise fields at each voxel, as in SynthMorph; the rest is painted over one
    another from signed depths and the zero sets of smooth noise.
    """
    shape = tuple(shape)
    kind = chance.choice(dict(settings.kinds))
    if kind == "abdomen":
        return _abdomen(chance, shape, settings)
    painter = _Painter(chance, shape, settings)
    if kind == "blobs":
        painter.fill_with_blobs(painter.everywhere(), chance.integer(*settings.regions))
        painter.add_details(painter.everywhere())
        return painter.result(air=False)
    body = painter.body(upright=kind == "trunk")
    if kind == "cortex":
        painter.add_folds(body)
    else:
        painter.add_organs(body)
    painter.add_details(body > 0)
    return painter.result(air=True)


def _abdomen(chance: Chance, shape: tuple[int, ...], settings: ShapeSettings) -> LabelMap:
    """A phantom, mirrored half of the time, and half of the time with details that it does not have."""
    drawn = phantom_labels(chance.integer(0, settings.phantoms - 1), shape)
    count, phantom = int(drawn.max()) + 1, drawn.to(chance.device)
    if chance.coin(0.5):
        phantom = phantom.flip(2)
    painter = _Painter(chance, shape, settings)
    painter.labels, painter.count = phantom.clone(), count
    if chance.coin(0.5):
        painter.add_details(phantom > 0)
    return painter.result(air=True)


class _Painter:
    """A label map in the making; later labels cover earlier ones."""

    def __init__(self, chance: Chance, shape: tuple[int, ...], settings: ShapeSettings) -> None:
        self.chance, self.shape, self.settings = chance, shape, settings
        self.side = sum(shape) / len(shape)
        self.labels = torch.zeros(shape, dtype=torch.uint8, device=chance.device)
        self.count = 1
        self.shells: list[int] = []

    def result(self, air: bool) -> LabelMap:
        return LabelMap(self.labels, self.count, air, tuple(self.shells))

    def everywhere(self) -> Tensor:
        return torch.ones((), dtype=torch.bool, device=self.chance.device)

    def noise(self, spacing: float, channels: int = 1) -> Tensor:
        """(channels, *shape); knots at least 3 voxels apart."""
        return smooth_noise(self.chance, self.shape, max(spacing, 3.0), channels)

    def paint(self, where: Tensor) -> int:
        """A new label wherever ``where`` is true."""
        number = self.count
        self.labels.masked_fill_(where, number)
        self.count += 1
        return number

    # ------------------------------------------------------------------ regions

    def fill_with_blobs(self, where: Tensor, regions: int) -> None:
        """Every voxel belongs to the largest of several noise fields."""
        _, winner = self._blobs(regions)
        self.labels = torch.where(where, winner + self.count, self.labels)
        self.count += regions

    def _blobs(self, regions: int) -> tuple[Tensor, Tensor]:
        low, high = self.settings.blob_size
        spacing = self.chance.log_uniform(low, high) * self.side
        best = torch.full(self.shape, -torch.inf, device=self.chance.device)
        winner = torch.zeros_like(self.labels)
        for number in range(regions):
            # Not all of one size: sizes vary about that of the map, and some are more frequent.
            field = self.noise(spacing * self.chance.log_uniform(0.7, 1.5))[0] + self.chance.uniform(-0.5, 0.5)
            winner.masked_fill_(field > best, number)
            best = torch.maximum(best, field)
        return best, winner

    def body(self, upright: bool) -> Tensor:
        """Paint a body in air with shells; returns the depth below the innermost of them, relative to the radius.

        An ellipsoid, or a column along one axis that leaves the grid at both ends, bent by noise.
        """
        chance = self.chance
        ends = chance.numbers(3, 0.7, 1.0).tolist()
        long_axis = chance.integer(0, 2) if upright else -1
        power = chance.uniform(2.0, 3.0)
        radius = torch.zeros((), device=chance.device)
        for axis, (length, end) in enumerate(zip(self.shape, ends)):
            if axis == long_axis:
                continue
            view = [1, 1, 1]
            view[axis] = length
            place = torch.linspace(-1, 1, length, device=chance.device) + chance.uniform(-0.08, 0.08)
            radius = radius + (place.abs() / (0.95 * end)).pow(power).view(view)
        radius = radius.expand(self.shape).pow(1 / power)
        bumps = chance.uniform(0.02, 0.15) * self.noise(chance.uniform(0.2, 0.5) * self.side)[0]
        depth = 1 - radius - bumps
        self.shells = [self.paint(depth > 0)]
        for _ in range(chance.integer(0, 4)):
            wavy = chance.uniform(0.0, 0.4) * self.noise(chance.uniform(0.1, 0.4) * self.side)[0]
            depth = depth - chance.log_uniform(0.02, 0.15) * (1 + wavy).clamp_min(0.2)
            self.shells.append(self.paint(depth > 0))
        self.shells.pop()  # the innermost fills the body: organs lie in it
        return depth

    def add_organs(self, depth: Tensor) -> None:
        """Blobs that touch, or blobs apart from each other in what fills the body."""
        regions = self.chance.integer(*self.settings.regions)
        best, winner = self._blobs(regions)
        inside = depth > self.chance.uniform(0.0, 0.08)
        if self.chance.coin(0.6):
            # Above the level which a part of the voxels reach; the rest stays what it was.
            sample = best.flatten()[:: max(1, best.numel() // 20000)]
            inside = inside & (best > torch.quantile(sample, self.chance.uniform(0.2, 0.8)))
        self.labels = torch.where(inside, winner + self.count, self.labels)
        self.count += regions

    def add_folds(self, depth: Tensor) -> None:
        """A folded ribbon over a core with a few deep regions, as the brain's cortex.

        Furrows follow the zero set of a noise field and get shallower away from it; the ribbon follows the surface
        that is left.
        """
        chance = self.chance
        spacing = chance.uniform(0.045, 0.09) * self.side
        ridges = self.noise(spacing)[0]
        width = chance.uniform(0.15, 0.4)
        furrow = chance.uniform(0.25, 0.6) * torch.exp(-(ridges / width).square())
        furrow = furrow * (0.7 + 0.4 * self.noise(3 * spacing)[0]).clamp(0.1, 1.2)
        surface = depth - furrow
        # Divided by its slope the surface's function is a distance near it, so that the ribbon is as thick everywhere.
        slope = torch.stack([_central(surface, axis).square() for axis in range(3)]).sum(dim=0).sqrt_()
        distance = surface / slope.clamp_min(1e-4)
        thickness = max(chance.uniform(0.012, 0.03) * self.side, 1.3)
        inside = depth > 0
        between = self.count - 1  # what the body was filled with shows in furrows and in the cleft
        self.paint(inside & (surface > 0))
        self.paint(inside & (distance > thickness))
        if chance.coin(0.7):
            regions = chance.integer(3, 10)
            best, winner = self._blobs(regions)
            deep = (depth > 0.2) & (distance > 2 * thickness) & (best > chance.uniform(0.6, 1.4))
            self.labels = torch.where(deep, winner + self.count, self.labels)
            self.count += regions
        if chance.coin(0.7):  # a cleft between two halves
            axis = chance.integer(0, 2)
            view = [1, 1, 1]
            view[axis] = self.shape[axis]
            place = torch.linspace(-1, 1, self.shape[axis], device=chance.device).view(view)
            bent = place + 0.03 * self.noise(0.4 * self.side)[0]
            self.labels.masked_fill_(inside & (bent.abs() < chance.uniform(0.008, 0.03)), between)

    # ------------------------------------------------------------------ details

    def add_details(self, where: Tensor) -> None:
        """Vessels, thin walls and small round structures, each with its share of maps."""
        if self.chance.coin(self.settings.vessels):
            for _ in range(self.chance.integer(1, 3)):
                self._vessels(where)
        if self.chance.coin(self.settings.sheets):
            spacing = self.chance.uniform(0.15, 0.5) * self.side
            # The field's slope is about 1 / spacing, so this is a wall of 1.5 to 3 voxels.
            self._paint_if_room(where & (self.noise(spacing)[0].abs() < self.chance.uniform(0.8, 1.6) / spacing))
        if self.chance.coin(self.settings.spots):
            for _ in range(self.chance.integer(1, 3)):
                field = self.noise(self.chance.uniform(0.03, 0.12) * self.side)[0]
                self._paint_if_room(where & (field > self.chance.uniform(2.2, 3.2)))

    def _vessels(self, where: Tensor) -> None:
        """Where two noise fields vanish at once: smooth curves, thicker and thinner along the way."""
        spacing = self.chance.log_uniform(0.08, 0.35) * self.side
        first, second = self.noise(spacing, 2)
        radius = self.chance.uniform(1.0, 3.0) / spacing
        wide = radius * (1 + 0.4 * self.noise(2 * spacing)[0]).clamp(0.3, 2.0)
        self._paint_if_room(where & (first.square() + second.square() < wide.square()))

    def _paint_if_room(self, where: Tensor) -> None:
        if self.count < _MOST_LABELS:
            self.paint(where)


def _central(field: Tensor, axis: int) -> Tensor:
    """Central differences along an axis, zero at its ends."""
    size = field.shape[axis]
    result = torch.zeros_like(field)
    result.narrow(axis, 1, size - 2).copy_((field.narrow(axis, 2, size - 2) - field.narrow(axis, 0, size - 2)) / 2)
    return result
