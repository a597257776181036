"""Which volumes there are: from a folder, or from a list.

**Folder.**  Every image file and every folder of DICOM files below it is a volume.  The first subfolder is the patient
and the file's name the phase; a file directly in the folder is a patient of its own.  ``patient_pattern`` tells patient
and phase from the path instead.  Segmentations and landmarks are found by their names, by the rules of
:mod:`CycleRegLib.batch.manifest_proposal` (``NAME_seg.*``, ``NAME_labels.*``, ``NAME_landmarks.*``, ...).

**List.**  CSV or JSON, read as manifests of batches are.  Either one row per volume, with the columns ``path`` and
perhaps ``patient``, ``phase``, ``split`` (train, validation or test), ``segmentation``, ``landmarks``; or one row per
pair, with the columns ``fixed``, ``moving`` and perhaps ``patient``, ``split``, ``fixed_segmentation``,
``moving_segmentation``, ``fixed_landmarks``, ``moving_landmarks``, ``id``, as in a manifest.  Paths are absolute or
relative to the list's folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from CycleRegLib.batch.manifest_proposal import FoundVolume, find_volumes, is_dicom_folder, without_patient
from CycleRegLib.batch.manifest_table import Table, read_table
from CycleRegLib.errors import InputError
from CycleRegLib.images import IMAGE_SUFFIXES, PICTURE_SUFFIXES

from .settings import SPLITS, VolumeSettings

_VOLUME = ("path", "patient", "phase", "split", "segmentation", "landmarks")
_PAIR = (
    "fixed", "moving", "patient", "split", "fixed_segmentation", "moving_segmentation", "fixed_landmarks",
    "moving_landmarks", "id",
)  # fmt: skip


@dataclass(frozen=True)
class Volume:
    """An image on disk and what is known of it; ``split`` is empty where nothing says it."""

    path: str
    patient: str
    phase: str = ""
    split: str = ""
    segmentation: str | None = None
    landmarks: str | None = None


@dataclass
class Listing:
    """All volumes, the pairs where the list names them (numbers of volumes: fixed, moving), and remarks for the user.

    ``skipped`` holds path and reason of what cannot be used.
    """

    volumes: list[Volume] = field(default_factory=list)
    pairs: list[tuple[int, int]] | None = None
    notes: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def list_volumes(settings: VolumeSettings, dimension: int = 3) -> Listing:
    """What a folder or list holds; nothing is read but names.

    Parameters
    ----------
    dimension
        In 2D pictures (PNG, JPEG) are images too.

    Raises
    ------
    InputError
        If there is no such folder or list, it holds no image, or the list has mistakes.
    """
    path = Path(settings.path).expanduser()
    listing = _of_folder(path, settings, dimension) if settings.source == "folder" else _of_list(path)
    if not listing.volumes:
        kinds = "NRRD, NIfTI, MetaImage or folders of DICOM files" + (", PNG or JPEG" if dimension == 2 else "")
        raise InputError(f"There is no image in {path}. Training needs {kinds}.")
    return listing


# ---------------------------------------------------------------------- folders


def _of_folder(root: Path, settings: VolumeSettings, dimension: int) -> Listing:
    if not root.is_dir():
        what = "is a file; for a list give data.source=list" if root.exists() else "does not exist"
        raise InputError(f"The folder of training data {root} {what}.")
    pattern = _pattern(settings.patient_pattern)
    endings = (*IMAGE_SUFFIXES, *PICTURE_SUFFIXES) if dimension == 2 else IMAGE_SUFFIXES
    # Of a header and its data in two files, the header is the image.
    endings = tuple(ending for ending in endings if not ending.startswith(".img"))
    listing = Listing()
    # Longest first, so that name.nii.gz loses its whole ending.
    for folder, found in _below(root, sorted(endings, key=len, reverse=True), listing):
        for volume in found:
            inside = volume.path.relative_to(root).as_posix()
            patient, phase = _patient_and_phase(volume, folder.relative_to(root), inside, pattern, listing)
            if patient:
                beside = {kind: str(path.absolute()) for kind, path in volume.beside.items()}
                more = beside.get("segmentation"), beside.get("landmarks")
                listing.volumes.append(Volume(str(volume.path.absolute()), patient, phase, "", *more))
    return listing


def _below(root: Path, endings: list[str], listing: Listing) -> list[tuple[Path, list[FoundVolume]]]:
    """Folders below a root in the order of their names, each with its volumes."""
    result = []
    if is_dicom_folder(root):
        return [(root, [FoundVolume(root, root.name)])]
    try:
        result.append((root, find_volumes(root, listing.notes, endings)))
        for entry in sorted(root.iterdir()):
            if entry.is_dir() and not entry.name.startswith(".") and not is_dicom_folder(entry):
                result += _below(entry, endings, listing)
    except OSError as error:
        listing.skipped.append((str(root), f"The folder {root} cannot be read: {error.strerror}."))
    return result


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise InputError(f"data.patient_pattern '{text}' is no regular expression: {error}.") from error
    if not pattern.groups:
        raise InputError(
            f"data.patient_pattern '{text}' has no group that names the patient; write one, such as (?P<patient>P\\d+)."
        )
    return pattern


def _patient_and_phase(
    volume: FoundVolume, folder: Path, inside: str, pattern: re.Pattern[str] | None, listing: Listing
) -> tuple[str, str]:
    if pattern is None:
        patient = folder.parts[0] if folder.parts else volume.name
        # What distinguishes volumes below a patient's folder: BIDS has sessions there.
        phase = "/".join([*folder.parts[1:], without_patient(volume.name, patient)]) if folder.parts else ""
        return patient, phase
    match = pattern.search(inside)
    groups = {} if match is None else match.groupdict()
    patient = "" if match is None else groups.get("patient") or match[1] or ""
    if not patient:
        listing.skipped.append(
            (str(volume.path), f"data.patient_pattern finds no patient in the path {inside} of {volume.path}.")
        )
    return patient, groups.get("phase") or volume.name


# ---------------------------------------------------------------------- lists


class _Problems(InputError):
    """Mistakes in a list; the message says the first ten."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        more = f" And {len(problems) - 10} more." if len(problems) > 10 else ""
        super().__init__(f"The list {path} cannot be used: {' '.join(problems[:10])}{more}")


def _of_list(path: Path) -> Listing:
    table = read_table(path, tuple(dict.fromkeys(_VOLUME + _PAIR)))
    named = {name for _, cells in table.rows for name in cells}
    if table.problems:
        raise _Problems(path, table.problems)
    if not table.rows:
        raise InputError(f"The list {path} holds no row. Give one per volume (path) or per pair (fixed, moving).")
    of_pairs = bool(named & {"fixed", "moving"})
    if of_pairs == ("path" in named):
        raise InputError(
            f"The list {path} needs either the column path, for volumes, or the columns fixed and moving, for pairs"
            + (", not both." if of_pairs else ".")
        )
    wrong = sorted(named - set(_PAIR if of_pairs else _VOLUME))
    if wrong:
        kind = "pairs" if of_pairs else "volumes"
        raise InputError(f"The list {path} is one of {kind}, which have no column {', '.join(wrong)}.")
    for number, cells in table.rows:
        _check_row(table, number, cells, ("fixed", "moving") if of_pairs else ("path",))
    if table.problems:
        raise _Problems(path, table.problems)
    return _pairs(path, table) if of_pairs else _volumes(path, table)


def _check_row(table: Table, number: int, cells: Mapping[str, Any], needed: tuple[str, ...]) -> None:
    row = f"{table.word.capitalize()} {number}"
    for name in needed:
        if name not in cells:
            table.problems.append(f"{row}, column {name}: an image is needed.")
    if str(cells.get("split", "train")).lower() not in SPLITS:
        table.problems.append(f"{row}, column split: '{cells['split']}' is none of {', '.join(SPLITS)}.")


def _volumes(path: Path, table: Table) -> Listing:
    listing = Listing()
    seen: dict[str, int] = {}
    for number, cells in table.rows:
        file = _absolute(path, cells["path"])
        if file in seen:
            raise _Problems(path, [f"{table.word.capitalize()} {number} is the volume of {table.word} {seen[file]}."])
        seen[file] = number
        listing.volumes.append(
            Volume(
                file,
                str(cells.get("patient", "")) or _name(path, file),
                str(cells.get("phase", "")) or _stem(file),
                str(cells.get("split", "")).lower(),
                _optional(path, cells.get("segmentation")),
                _optional(path, cells.get("landmarks")),
            )
        )
    return listing


def _pairs(path: Path, table: Table) -> Listing:
    """Volumes of a list of pairs; the patient of one without a name is the pair's, or the file."""
    listing = Listing(pairs=[])
    numbers: dict[str, int] = {}
    common = {_absolute(path, cells["fixed"]) for _, cells in table.rows}
    for row, cells in table.rows:
        pair = []
        for side in ("fixed", "moving"):
            file = _absolute(path, cells[side])
            patient = str(cells.get("patient", ""))
            # One fixed image for all is an atlas, no patient's of any row.
            atlas = side == "fixed" and len(common) == 1 and len(table.rows) > 1
            volume = Volume(
                file,
                _name(path, file) if atlas or not patient else patient,
                _stem(file),
                "" if atlas else str(cells.get("split", "")).lower(),
                _optional(path, cells.get(f"{side}_segmentation")),
                _optional(path, cells.get(f"{side}_landmarks")),
            )
            if file not in numbers:
                numbers[file] = len(listing.volumes)
                listing.volumes.append(volume)
            known = listing.volumes[numbers[file]]
            for name in ("patient", "split", "segmentation", "landmarks"):
                if getattr(known, name) != getattr(volume, name):
                    text = f"{table.word.capitalize()} {row}: the {name} of {file} is '{getattr(volume, name)}' here"
                    raise _Problems(path, [f"{text} but '{getattr(known, name)}' in another row."])
            pair.append(numbers[file])
        if pair[0] == pair[1]:
            raise _Problems(path, [f"{table.word.capitalize()} {row}: fixed and moving are the same file."])
        listing.pairs.append((pair[0], pair[1]))
    return listing


def _absolute(path: Path, cell: Any) -> str:
    return os.path.abspath(path.parent / Path(str(cell)).expanduser())


def _optional(path: Path, cell: Any) -> str | None:
    return None if cell is None else _absolute(path, cell)


def _name(path: Path, file: str) -> str:
    """What a volume without a patient is called: its place beside the list, without the ending."""
    try:
        place = Path(os.path.relpath(file, path.parent.absolute()))
    except ValueError:  # another drive
        place = Path(file)
    return (place.parent / _stem(file)).as_posix()


def _stem(file: str) -> str:
    """A file's name without its ending."""
    name = Path(file).name
    ending = next(
        (e for e in (*IMAGE_SUFFIXES, *PICTURE_SUFFIXES) if e.count(".") == 2 and name.lower().endswith(e)), ""
    )
    return name[: -len(ending)] if ending else Path(name).stem
