"""Landmark lists: named points in LPS millimetres, and pairing those of two images.

They are read from and written to Slicer's ``.mrk.json`` and ``.fcsv`` and plain ``.csv``
(see :mod:`CycleRegLib.landmark_files` for what is honoured in each).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import CycleRegWarning, InputError
from .geometry import Grid
from .landmark_files import TO_LPS, format_landmarks, parse_landmarks

# What Slicer calls points nobody named: "F-1", "F_1", "MarkupsFiducial-12", "F 3", "7".
_AUTOMATIC_LABEL = re.compile(r"^(.*[-_ ])?\d+$")


@dataclass(frozen=True)
class LandmarkList:
    """Named points.

    Parameters
    ----------
    labels
        N names; an empty string where a point has none.
    points
        (N, 3) LPS mm, kept as float64.
    descriptions
        N free texts, or None for none.

    Raises
    ------
    ValueError
        If the lengths do not agree.
    """

    labels: list[str]
    points: np.ndarray
    descriptions: list[str] | None = None

    def __post_init__(self) -> None:
        points = np.array(self.points, dtype=np.float64).reshape(-1, 3)
        labels = [str(label).strip() for label in self.labels]
        if len(labels) != len(points):
            raise ValueError(f"{len(labels)} labels do not fit {len(points)} points")
        if self.descriptions is not None:
            if len(self.descriptions) != len(points):
                raise ValueError(f"{len(self.descriptions)} descriptions do not fit {len(points)} points")
            object.__setattr__(self, "descriptions", [str(text) for text in self.descriptions])
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "points", points)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, label: str) -> np.ndarray:
        """The (3,) position of a label, LPS mm; KeyError when there is none of that name."""
        try:
            return self.points[self.labels.index(label)]
        except ValueError:
            raise KeyError(label) from None


def read_landmarks(path: str | Path, flat: bool = False) -> LandmarkList:
    """Read a landmark file (``.mrk.json``, ``.fcsv``, ``.csv``) into LPS mm.

    Parameters
    ----------
    flat
        Take tables of x and y alone, as points of a picture (z = 0).

    Raises
    ------
    InputError
        If the file is missing, of an unknown kind, holds no defined point, or a number in it cannot be read; the
        message names the row and the column, or the control point.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"The landmark file {path} does not exist.")
    try:
        # utf-8-sig: spreadsheets put a byte-order mark in front
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file in UTF-8, so it is no landmark list.") from None
    except OSError as error:
        raise InputError(f"The landmark file {path} cannot be read: {error.strerror}.") from None
    labels, points, descriptions = parse_landmarks(text, path, flat)
    if not labels:
        raise InputError(f"{path} holds no landmark with a defined position.")
    return LandmarkList(labels, np.array(points), descriptions if any(descriptions) else None)


def write_landmarks(landmarks: LandmarkList, path: str | Path, coordinate_system: str = "LPS") -> None:
    """Write landmarks; the ending of ``path`` says the format (``.mrk.json``, ``.fcsv``, ``.csv``).

    Parameters
    ----------
    coordinate_system
        "LPS" or "RAS"; plain ``.csv`` is LPS by definition, and gets a header ``label,r,a,s`` when RAS is asked for.

    Raises
    ------
    InputError
        For another ending or coordinate system.
    """
    if coordinate_system not in ("LPS", "RAS"):
        raise InputError(f"The coordinate system of landmarks is LPS or RAS, not {coordinate_system!r}.")
    points = landmarks.points * TO_LPS[coordinate_system] + 0.0  # + 0.0: no "-0.0" in files
    text = format_landmarks(landmarks.labels, points, landmarks.descriptions, coordinate_system, Path(path))
    Path(path).write_bytes(text.encode("utf-8"))


def match_landmarks(
    fixed: LandmarkList, moving: LandmarkList, strict: bool = False
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Pair the landmarks of two lists.

    By label when all labels of both lists are set and unique; labels found on one side only are named in a
    warning and left out.  Otherwise by order: when points are unlabelled, when labels repeat, or when both lists
    carry nothing but automatic labels (``F-1``, ``F-2`` against ``M_1``, ``M_2``) with none in common.

    Parameters
    ----------
    strict
        Pairing by order needs lists of equal length: False warns and takes the first ones, True refuses.

    Returns
    -------
    labels, fixed_points, moving_points
        n labels in the fixed list's order, and (n, 3) LPS mm each.

    Raises
    ------
    InputError
        If a list is empty, labels have nothing in common, or ``strict`` and the numbers differ.

    Warns
    -----
    CycleRegWarning
        If landmarks are left out, or labels that were given are not used.
    """
    for landmarks, side in ((fixed, "fixed"), (moving, "moving")):
        if len(landmarks) == 0:
            raise InputError(f"The list of {side} landmarks is empty.")
    if _labels_identify(fixed.labels) and _labels_identify(moving.labels):
        automatic = _all_automatic(fixed.labels) and _all_automatic(moving.labels)
        if not automatic or set(fixed.labels) & set(moving.labels):
            return _match_by_label(fixed, moving)
        return _match_by_order(fixed, moving, strict)
    if any(fixed.labels) and any(moving.labels):
        warnings.warn(
            "Landmarks were matched by their order, because some labels are missing or repeated; "
            "give every landmark its own label to have them matched by label.",
            CycleRegWarning,
            stacklevel=2,
        )
    return _match_by_order(fixed, moving, strict)


def check_inside(landmarks: LandmarkList, grid: Grid, what: str = "image", kind: str = "landmarks") -> None:
    """Make sure that landmarks lie inside an image.

    Parameters
    ----------
    grid
        The image's grid (3D).
    what
        What the image is called in the message, e.g. "fixed image".
    kind
        What the points are called there.

    Raises
    ------
    InputError
        If any lies outside the voxels of ``grid``.  When changing the signs of x and y (LPS against RAS) would
        bring all of them inside, the message says so.
    """
    outside = ~grid.contains(landmarks.points)
    if not outside.any():
        return
    names = [label or f"number {i + 1}" for i, label in enumerate(landmarks.labels) if outside[i]]
    message = f"{len(names)} of {len(landmarks)} {kind} lie outside the {what}: {_enumerate(names)}. "
    if grid.contains(landmarks.points * TO_LPS["RAS"]).all():
        message += (
            "With the signs of x and y changed all of them are inside, so the file is probably RAS but read as LPS "
            "(or the other way round); correct its coordinate system."
        )
    else:
        message += f"Check that the {kind} belong to this image and are in millimetres (LPS)."
    raise InputError(message)


def _labels_identify(labels: Sequence[str]) -> bool:
    return all(labels) and len(set(labels)) == len(labels)


def _all_automatic(labels: Sequence[str]) -> bool:
    """Whether labels are numbers behind one common prefix, as Slicer makes them up."""
    matches = [_AUTOMATIC_LABEL.match(label) for label in labels]
    return all(matches) and len({match.group(1) for match in matches if match}) == 1


def _match_by_label(fixed: LandmarkList, moving: LandmarkList) -> tuple[list[str], np.ndarray, np.ndarray]:
    row_of = {label: i for i, label in enumerate(moving.labels)}
    common = [label for label in fixed.labels if label in row_of]
    if not common:
        raise InputError(
            f"The fixed and the moving landmarks have no label in common "
            f"({_enumerate(fixed.labels, 3)} against {_enumerate(moving.labels, 3)}); "
            "give corresponding points the same label, or none."
        )
    alone = [
        f"{_enumerate(names)} only among the {side} landmarks"
        for names, side in (
            ([label for label in fixed.labels if label not in row_of], "fixed"),
            ([label for label in moving.labels if label not in set(common)], "moving"),
        )
        if names
    ]
    if alone:
        warnings.warn(
            f"Landmarks without a partner are left out: {'; '.join(alone)}. {len(common)} are used.",
            CycleRegWarning,
            stacklevel=3,
        )
    fixed_rows = [fixed.labels.index(label) for label in common]
    return common, fixed.points[fixed_rows], moving.points[[row_of[label] for label in common]]


def _match_by_order(
    fixed: LandmarkList, moving: LandmarkList, strict: bool
) -> tuple[list[str], np.ndarray, np.ndarray]:
    n = min(len(fixed), len(moving))
    if len(fixed) != len(moving):
        message = f"There are {len(fixed)} fixed and {len(moving)} moving landmarks without common labels"
        if strict:
            raise InputError(f"{message}; give corresponding points the same label, or lists of equal length.")
        warnings.warn(
            f"{message}; the first {n} of each were matched by order. Give corresponding points the same label.",
            CycleRegWarning,
            stacklevel=3,
        )
    labels = [a or b for a, b in zip(fixed.labels[:n], moving.labels[:n])]
    if not _labels_identify(labels):
        labels = [str(i + 1) for i in range(n)]
    return labels, fixed.points[:n].copy(), moving.points[:n].copy()


def _enumerate(names: Sequence[str], limit: int = 6) -> str:
    shown = ", ".join(f'"{name}"' for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
