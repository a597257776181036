"""A tumour whose diameters somebody drew as lines, in both images: read from files, and compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .errors import InputError
from .evaluation_result import TumorComparison
from .fields import DisplacementField
from .geometry import Grid
from .landmarks import LandmarkList, check_inside, read_landmarks
from .point_inverse import carry_back
from .tumor import TumorSize, size_of_diameters

_FAR_MM = 0.1


@dataclass(frozen=True)
class DrawnDiameters:
    """The lines that were drawn in one image.

    Attributes
    ----------
    long, short
        (2, 3) ends of the long diameter, and of the short one or None; LPS mm.
    name
        What the tumour, or its long diameter, is called; may be empty.
    """

    long: np.ndarray
    short: np.ndarray | None = None
    name: str = ""

    def __post_init__(self) -> None:
        for length in ("long", "short"):
            ends = getattr(self, length)
            if ends is not None:
                object.__setattr__(self, length, np.array(ends, np.float64).reshape(2, 3))

    @property
    def lines(self) -> dict[str, np.ndarray]:
        """The lines that there are, by length."""
        return {"long": self.long} if self.short is None else {"long": self.long, "short": self.short}

    def moved(self, move: Callable[[np.ndarray], np.ndarray]) -> DrawnDiameters:
        """The lines between the ends that ``move`` makes of their (2, 3) ends."""
        return replace(self, **{length: move(ends) for length, ends in self.lines.items()})


def read_diameters(files: Sequence[str | Path], side: str = "drawn", flat: bool = False) -> DrawnDiameters:
    """Read the long diameter from one file and, where there is a second one, the short diameter from that.

    Each holds the two ends of a line: a line markup that Slicer saved (``.mrk.json``), or any other landmark file.

    Parameters
    ----------
    side
        Which image they lie in, for messages.
    flat
        Take tables of x and y alone, as points of a picture.

    Raises
    ------
    InputError
        If a file cannot be read, or holds another number of points than two.
    """
    if not 1 <= len(files) <= 2:
        raise InputError(
            f"There are {len(files)} files of lines for the {side} image. Give one with the ends of the tumour's long "
            "diameter, and where it was drawn one with those of the short diameter."
        )
    ends = []
    for length, path in zip(("long", "short"), files):
        points = read_landmarks(path, flat).points
        if len(points) != 2:
            raise InputError(
                f"The {side} {length} diameter {path} has {len(points)} point{'s' * (len(points) != 1)}. Give a file "
                "with the two ends of one line, such as a line markup of Slicer."
            )
        ends.append(points)
    return DrawnDiameters(*ends, name=Path(files[0]).name.split(".")[0])


def compare_drawn(
    fixed: DrawnDiameters,
    moving: DrawnDiameters,
    field: DisplacementField,
    fixed_grid: Grid,
    moving_grid: Grid,
    warn: Callable[[str], None],
) -> TumorComparison:
    """The sizes of a tumour in both images, and of the moving lines when their ends are carried onto the fixed image.

    Lines have no volume.

    Raises
    ------
    InputError
        If a line has an end outside its image, a short diameter is there on one side only, or longer than the long one.
    """
    if (fixed.short is None) != (moving.short is None):
        raise InputError("Short diameters are needed in both images: give a fixed and a moving one, or neither.")
    for side, drawn, grid in (("fixed", fixed, fixed_grid), ("moving", moving, moving_grid)):
        labels = [f"{length} diameter, end {end}" for length in drawn.lines for end in (1, 2)]
        check_inside(LandmarkList(labels, np.concatenate([*drawn.lines.values()])), grid, f"{side} image", "ends")
    off = 0.0

    def carry(ends: np.ndarray) -> np.ndarray:
        nonlocal off
        carried, errors = carry_back(field, ends)
        off = max(off, float(errors.max()))
        return carried

    warped = moving.moved(carry)
    if off > _FAR_MM:
        warn(
            "The moving lines cannot be carried onto the fixed image exactly: the field takes the end of a warped line "
            f"{off:.1f} mm past where it was drawn."
        )
    if not all(field.grid.contains(ends).all() for ends in warped.lines.values()):
        warn("A warped line ends outside the displacement field, where the displacement at the field's border is used.")
    names = dict.fromkeys(name for name in (moving.name, fixed.name) if name)
    return TumorComparison(
        " to ".join(names) or "lines", _size(fixed), _size(moving), _size_of_warped(warped)
    )  # fmt: skip


def _size(drawn: DrawnDiameters) -> TumorSize:
    return size_of_diameters(drawn.long, drawn.short)


def _size_of_warped(drawn: DrawnDiameters) -> TumorSize:
    """A deformation may turn the short diameter into the longer one: the longer is always the long one."""
    lines = sorted(drawn.lines.values(), key=lambda ends: -float(np.linalg.norm(ends[1] - ends[0])))
    return size_of_diameters(*lines)
