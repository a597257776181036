"""How images come to a network: intensity normalisation and the grid that the network works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from ..errors import InputError
from ..geometry import Grid
from ..storage import empty, slabs
from ..warp import index_positions, inside, sample

DEFAULT_MAX_VOXELS = 192**3
NORMALISATIONS = "none, unit, max, percentile, percentile:LOW,HIGH, window:LOW,HIGH"

# Patient axes in LPS; the letter names the side towards which an index grows.
_TOWARDS = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}


def _parse_normalisation(specification: str) -> tuple[str, tuple[float, float]]:
    name, _, arguments = str(specification).partition(":")
    try:
        limits = tuple(float(v) for v in arguments.split(",")) if arguments else ()
    except ValueError:
        limits = (np.nan, np.nan)
    if name == "percentile" and not arguments:
        limits = (1.0, 99.0)
    two = len(limits) == 2 and bool(np.isfinite(limits).all()) and limits[0] < limits[1]
    if (
        name not in ("none", "unit", "max", "percentile", "window")
        or (name in ("percentile", "window") and not two)
        or (name in ("none", "unit", "max") and arguments)
        or (name == "percentile" and not 0 <= limits[0] < limits[1] <= 100)
    ):
        raise InputError(
            f"'{specification}' is no intensity normalisation; use one of {NORMALISATIONS}, with LOW below HIGH."
        )
    return name, (limits[0], limits[1]) if two else (0.0, 0.0)


def check_normalisation(specification: str) -> str:
    """The specification itself, if it is one.

    Raises
    ------
    InputError
        If it is not one of ``NORMALISATIONS``.
    """
    _parse_normalisation(specification)
    return specification


def normalise(array: np.ndarray, specification: str) -> np.ndarray:
    """Intensities as a network was trained on, float32, same shape; the input is left alone.

    ========================  ===================================================================
    ``none``                  as they are
    ``unit``                  minimum to 0, maximum to 1
    ``max``                   divided by the maximum (the papers' liver CT)
    ``percentile:LOW,HIGH``   these percentiles of all voxels to 0 and 1, clipped; 1 and 99 alone
    ``window:LOW,HIGH``       these intensities (Hounsfield units, say) to 0 and 1, clipped
    ========================  ===================================================================

    An image of one value becomes 0.

    Raises
    ------
    InputError
        If the specification is none of these, or the maximum by which to divide is not positive.
    """
    array = np.asarray(array)
    low, high, clipped = _limits(array, specification)
    result = empty(array.shape)
    for part in slabs(array.shape, result):
        if high <= low:
            result[part] = 0.0
            continue
        np.subtract(array[part], np.float32(low), out=result[part], dtype=np.float32)
        result[part] /= np.float32(high - low)
        if clipped:
            np.clip(result[part], 0.0, 1.0, out=result[part])
    return result


def _limits(array: np.ndarray, specification: str) -> tuple[float, float, bool]:
    """The intensities that become 0 and 1, and whether what lies beyond is clipped."""
    name, limits = _parse_normalisation(specification)
    if name == "none":
        return 0.0, 1.0, False
    if name == "max":
        largest = float(array.max())
        if largest <= 0:
            raise InputError(
                f"The checkpoint divides intensities by their maximum, which is {largest:g} here. Give an image whose "
                "intensities are positive."
            )
        return 0.0, largest, False
    if name == "unit":
        return float(array.min()), float(array.max()), False
    if name == "percentile":
        low, high = (float(v) for v in np.percentile(np.asarray(array, np.float32), limits))
        return low, high, True
    return (*limits, True)


@dataclass(frozen=True)
class GridRule:
    """On which grid a network works, as its checkpoint states it; every part may be left open.

    Attributes
    ----------
    size, spacing
        Voxels and mm along the network grid's (x, y, z) indices; ``None`` as a whole or for one axis where open.
        With a size alone the fixed image's extent is divided into that many voxels.
    orientation
        Three letters such as ``LPS``: the sides towards which the x, y and z indices grow.  The network grid takes
        those axes of the fixed image that lie nearest.  Without it the fixed image's own axes are kept.
        (In arrays, and for the network, the order is z, y, x.)
    voxels
        In place of size and spacing: cubic voxels, about so many in the fixed image's extent, for networks that do best
        on grids of one size, whatever the image's; none shorter than half of the image's shortest.

    Raises
    ------
    InputError
        For sizes, spacings or numbers of voxels that are not positive, voxels beside a size or a spacing, or letters
        that name no three axes.
    """

    size: tuple[int | None, ...] | None = None
    spacing: tuple[float | None, ...] | None = None
    orientation: str | None = None
    voxels: int | None = None

    def __post_init__(self) -> None:
        if self.voxels is not None and (type(self.voxels) is not int or self.voxels < 1 or self.size or self.spacing):
            raise InputError(
                "A network grid's number of voxels is a positive whole number, and has no size or spacing beside it; "
                f"not {self.voxels!r}."
            )
        for name in ("size", "spacing"):
            values = getattr(self, name)
            if values is None:
                continue
            kind = int if name == "size" else float
            try:
                values = tuple(None if v is None else kind(v) for v in values)
            except (TypeError, ValueError):
                values = ()
            if len(values) not in (2, 3) or any(v is not None and not (np.isfinite(v) and v > 0) for v in values):
                raise InputError(f"A network grid's {name} is 2 or 3 positive numbers, not {getattr(self, name)}.")
            object.__setattr__(self, name, values)
        if self.size is not None and self.spacing is not None and len(self.size) != len(self.spacing):
            raise InputError(f"A network grid's size {self.size} and spacing {self.spacing} differ in length.")
        if self.orientation is not None:
            letters = str(self.orientation).upper()
            if sorted(_TOWARDS[c][0] for c in letters if c in _TOWARDS) != [0, 1, 2] or len(letters) != 3:
                raise InputError(f"'{self.orientation}' is no orientation; give three letters such as LPS or RAS.")
            object.__setattr__(self, "orientation", letters)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None) -> GridRule:
        """From ``to_dict``'s result; unknown names are refused with InputError."""
        values = {} if values is None else values
        if not isinstance(values, Mapping) or not set(values) <= {"size", "spacing", "orientation", "voxels"}:
            raise InputError(f"A network grid is given by size, spacing, orientation or voxels, not by {values!r}.")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """JSON types; only what is stated."""
        names = ("size", "spacing", "orientation", "voxels")
        stated = {name: getattr(self, name) for name in names}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in stated.items() if v is not None}

    def describe(self) -> str:
        """For people, e.g. ``224x192x160 voxels of 1x1x1 mm, AIL``."""
        parts = []
        if self.size is not None:
            parts.append("x".join("?" if v is None else str(v) for v in self.size) + " voxels")
        if self.spacing is not None:
            parts.append("x".join("?" if v is None else f"{v:.4g}" for v in self.spacing) + " mm")
        if self.voxels is not None:
            parts.append(f"about {self.voxels:,} cubic voxels in the fixed image's extent")
        text = " of ".join(parts)
        if self.orientation is not None:
            text = f"{text}, {self.orientation}" if text else self.orientation
        return text or "the fixed image's"

    def place(self, fixed: Grid, max_voxels: int | None = None) -> Grid:
        """The network grid for a fixed image, centred on it.

        Parameters
        ----------
        fixed
            The fixed image's grid.
        max_voxels
            Coarsen the finest axes, keeping the extent, until there are no more voxels than this.  Left out: 192^3,
            but never for a grid whose size the checkpoint states.

        Raises
        ------
        InputError
            If the rule has another number of dimensions than the image.
        """
        n = fixed.dimension
        for values in (self.size, self.spacing):
            if values is not None and len(values) != n:
                raise InputError(
                    f"The checkpoint works on a {len(values)}D grid ({self.describe()}) but the image is {n}D."
                )
        grid = _reoriented(fixed, self.orientation) if self.orientation and n == 3 else fixed
        if self.voxels is not None:
            return self._cubic(grid, max_voxels)
        stated = [(self.size or (None,) * n)[a] is not None for a in range(n)]
        size, spacing = [], []
        for axis in range(n):
            count = self.size[axis] if self.size else None
            step = self.spacing[axis] if self.spacing else None
            extent = grid.size[axis] * grid.spacing[axis]
            if step is None:
                step = extent / count if count else grid.spacing[axis]
            size.append(count or max(1, round(extent / step)))
            spacing.append(step)
        if max_voxels is None and not all(stated):
            max_voxels = DEFAULT_MAX_VOXELS
        if max_voxels is not None and int(np.prod(size)) > max_voxels:
            size, spacing = _coarsened(size, spacing, max_voxels)
        if list(grid.size) == size and np.allclose(grid.spacing, spacing):
            return grid
        return _centred(grid, size, spacing)

    def _cubic(self, grid: Grid, max_voxels: int | None) -> Grid:
        extents = np.array(grid.size) * np.array(grid.spacing)
        wanted = min(self.voxels, max_voxels or self.voxels)
        step = max((np.prod(extents) / wanted) ** (1 / grid.dimension), 0.5 * min(grid.spacing))
        size = [max(1, int(extent / step + 1e-9)) for extent in extents]
        return _centred(grid, size, [float(extent / count) for extent, count in zip(extents, size)])


def _reoriented(grid: Grid, orientation: str) -> Grid:
    """The same voxels with axes permuted and flipped to lie as near as possible to ``orientation``."""
    wanted = np.zeros((3, 3))
    for axis, letter in enumerate(orientation):
        world, sign = _TOWARDS[letter]
        wanted[world, axis] = sign
    likeness = grid.direction_matrix.T @ wanted  # [own axis, wanted axis]
    # Signs are free, so the best permutation is that of the largest absolute cosines.
    order = max(permutations(range(3)), key=lambda p: sum(abs(likeness[own, want]) for want, own in enumerate(p)))
    signs = [1 if likeness[own, want] >= 0 else -1 for want, own in enumerate(order)]
    first = np.zeros(3)
    for own, sign in zip(order, signs):
        first[own] = 0 if sign > 0 else grid.size[own] - 1
    direction = grid.direction_matrix[:, list(order)] * np.array(signs)
    return Grid(
        tuple(grid.size[own] for own in order),
        tuple(grid.spacing[own] for own in order),
        tuple(grid.to_world(first)),
        tuple(direction.ravel()),
    )


def _centred(grid: Grid, size: list[int], spacing: list[float]) -> Grid:
    """A grid of that size and spacing with the axes and the centre of ``grid``."""
    half = grid.direction_matrix @ (np.array(spacing) * (np.array(size) - 1) / 2)
    return Grid(tuple(size), tuple(spacing), tuple(grid.center - half), grid.direction)


def _coarsened(size: list[int], spacing: list[float], max_voxels: int) -> tuple[list[int], list[float]]:
    """Size and spacing of the same extent with at most ``max_voxels`` voxels; the finest axes give way first."""
    extents = np.array(size) * np.array(spacing)

    def sizes(step: float) -> np.ndarray:
        return np.maximum(1, np.floor(extents / np.maximum(step, spacing) + 1e-9)).astype(int)

    low, high = min(spacing), float(extents.max())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.prod(sizes(middle)) > max_voxels else (low, middle)
    coarse = sizes(high)
    return [int(c) for c in coarse], [float(v) for v in extents / coarse]


def to_network_grid(image: sitk.Image, grid: Grid, matrix: np.ndarray, normalisation: str) -> np.ndarray:
    """An image as the network sees it: normalised, then interpolated once at ``matrix @ p`` for the grid's points p.

    Parameters
    ----------
    image
        Scalar image of any geometry.
    grid
        The network grid.
    matrix
        (n+1, n+1) map in LPS mm from the network grid's space to the image's space.
    normalisation
        See :func:`normalise`; statistics are those of the whole image, not of the part that the grid covers.

    Returns
    -------
    (z, y, x) float32; where the grid leaves the image, the image's least normalised intensity.
    """
    own = Grid.of(image)
    n = own.dimension
    values = normalise(sitk.GetArrayViewFromImage(image), normalisation)
    if grid == own and np.array_equal(matrix, np.eye(n + 1)):
        return values
    place = own.world_to_index @ matrix @ grid.index_to_world
    background = min(float(values[part].min()) for part in slabs(own.shape, values))
    # Interpolating at steps of several voxels would alias: blur to the step first (s.d. half the step's excess).
    steps = np.linalg.norm(place[:n, :n], axis=1)
    deviations = 0.5 * np.sqrt(np.maximum(steps**2 - 1.0, 0.0)) * (steps > 1.2)
    for axis in np.flatnonzero(deviations):
        if own.size[axis] >= 4:  # the recursive filter's least size
            _blur(values, n - 1 - int(axis), float(deviations[axis]))
    volume = torch.from_numpy(values)[None, None]
    result = empty(grid.shape)
    for part in slabs(grid.shape, result, values):
        positions = index_positions((part.stop - part.start, *grid.shape[1:]), place, part.start)
        found = sample(volume, positions, padding="border")[0, 0]
        result[part] = torch.where(inside(positions, own.shape)[0], found, background).numpy()
    return result


def _blur(values: np.ndarray, axis: int, deviation: float) -> None:
    """ITK's recursive Gaussian along one array axis, in place; ``deviation`` in voxels.  Slab by slab, as lines along
    an axis have nothing to do with each other."""
    lines = values if axis else values.swapaxes(0, 1)
    for part in slabs(lines.shape, values):
        block = sitk.GetImageFromArray(np.ascontiguousarray(lines[part]))
        block = sitk.RecursiveGaussian(block, deviation, direction=values.ndim - 1 - (axis or 1))
        lines[part] = sitk.GetArrayViewFromImage(block)
