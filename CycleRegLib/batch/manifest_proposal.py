"""Proposals for manifests: what to register in a folder of phases, or in a BIDS tree.

**Phases.**  Every folder (the given one and those in it) with two or more volumes is a patient.  The fixed image is the
one whose name contains ``portal``, else the first by name; every other one is moving.  A folder of DICOM files in a
patient's folder is a volume too.

**BIDS.**  Where there are ``sub-*/[ses-*/]anat/*_T1w.nii[.gz]``, every later session of a subject is registered onto
its first.  If no subject has several sessions, every subject is registered onto the first subject.

**What lies beside.**  Of a volume ``NAME.nrrd``: the mask ``NAME_mask.*``; the segmentation ``NAME.seg.nrrd``,
``NAME_seg.*``, ``NAME_dseg.*``, ``NAME_segmentation.*`` or ``NAME_labels.*``; the landmarks ``NAME.mrk.json``,
``NAME.fcsv``, ``NAME.csv`` or ``NAME_landmarks.*``; also with ``-`` or ``.`` for ``_``, or the word in front.  Each is
taken if there is one only, landmarks and segmentations if both images have them.  Volumes whose names say that they are
masks, segmentations, transforms or results are not registered.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError

_IMAGES = (".nii.gz", ".img.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".hdr")
_LANDMARKS = (".mrk.json", ".fcsv", ".csv")
_WORDS = {
    "mask": ("mask", "brain_mask", "brainmask", "desc-brain_mask"),
    "segmentation": ("seg", "dseg", "segmentation", "labels", "label"),
    "landmarks": ("landmarks", "landmark", "points"),
}
_NO_VOLUME = re.compile(
    r"(?:^|[_.\- ])(?:(?:brain)?mask|d?seg|segmentation|labels?|landmarks?|transform|displacement|deformation|warp"
    r"|warped|jacobian|roundtrip)(?:$|[_.\- ])",
    re.IGNORECASE,
)
_DICOM_ENDINGS = (".dcm", ".ima")


@dataclass
class FoundVolume:
    """An image, by the name that it has without its ending, and what lies beside it by kind."""

    path: Path
    name: str
    beside: dict[str, Path] = field(default_factory=dict)


def propose_manifest(folder: str | os.PathLike[str], base: Path | None = None) -> tuple[str, list[str]]:
    """A manifest as CSV for what is in a folder, and remarks for the user; see this module for the rules.

    Parameters
    ----------
    folder
        Of phases, or a BIDS tree.
    base
        The folder that the manifest will lie in, to which its paths are relative; the working folder when left out.

    Raises
    ------
    InputError
        If it is no folder, or holds no two volumes that belong together.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise InputError(f"Cannot propose a manifest for {root}: it is no folder.")
    notes: list[str] = []
    bids = _subjects(root, notes)
    pairs = _bids_pairs(bids, notes) if bids else _phase_pairs(root, notes)
    if not pairs:
        raise InputError(
            f"No pair was found in {root}: neither a folder with two volumes (NRRD, NIfTI, MetaImage or folders of "
            "DICOM files), nor two BIDS images sub-*/[ses-*/]anat/*_T1w.nii.gz."
        )
    return _table(root, pairs, (base or Path()).absolute(), notes), notes


def _table(root: Path, pairs: Sequence[tuple[str, FoundVolume, FoundVolume]], base: Path, notes: list[str]) -> str:
    rows = []
    names: dict[str, int] = {}
    for title, fixed, moving in pairs:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", title).strip(".-")[:90] or "pair"
        names[name.lower()] = count = names.get(name.lower(), 0) + 1
        row = {"id": name if count == 1 else f"{name}-{count}"}
        row.update(fixed=_relative(fixed.path, base), moving=_relative(moving.path, base))
        for kind in _WORDS:
            there = [side for side, volume in (("fixed", fixed), ("moving", moving)) if kind in volume.beside]
            if len(there) == 1 and kind != "mask":
                notes.append(f"{row['id']}: only the {there[0]} image has {kind}; left out.")
                continue
            for side, volume in (("fixed", fixed), ("moving", moving)):
                if kind in volume.beside:
                    row[f"{side}_{kind}"] = _relative(volume.beside[kind], base)
        rows.append(row)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    stream = io.StringIO()
    stream.write(f"# proposed for {root.name or root}; look through it before use\n")
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _relative(path: Path, base: Path) -> str:
    try:
        return Path(os.path.relpath(path.absolute(), base)).as_posix()
    except ValueError:  # another drive
        return path.absolute().as_posix()


# ---------------------------------------------------------------------- phases


def _phase_pairs(root: Path, notes: list[str]) -> list[tuple[str, FoundVolume, FoundVolume]]:
    pairs = []
    for folder in [root, *(entry for entry in _entries(root) if entry.is_dir() and not is_dicom_folder(entry))]:
        volumes = find_volumes(folder, notes)
        if len(volumes) < 2:
            if volumes and folder != root:
                notes.append(f"{folder.name}: only one volume ({volumes[0].path.name}); left out.")
            continue
        fixed = next((volume for volume in volumes if "portal" in volume.name.lower()), volumes[0])
        patient = "" if folder == root else folder.name
        for moving in volumes:
            if moving is not fixed:
                title = f"{without_patient(moving.name, patient)}_to_{without_patient(fixed.name, patient)}"
                pairs.append((f"{patient}_{title}" if patient else title, fixed, moving))
    return pairs


def without_patient(name: str, patient: str) -> str:
    """A phase's name without the patient's in front of it."""
    match = re.fullmatch(re.escape(patient) + r"[_.\- ]+(.+)", name, re.IGNORECASE) if patient else None
    return match[1] if match else name


def find_volumes(folder: Path, notes: list[str], endings: Sequence[str] = _IMAGES) -> list[FoundVolume]:
    """The volumes that lie in a folder itself, folders of DICOM files included, with what lies beside each.

    ``endings`` are those of images; what a user should know is added to ``notes``.
    """
    entries = _entries(folder)
    found = []
    for entry in entries:
        if entry.is_dir():
            if is_dicom_folder(entry):
                found.append(FoundVolume(entry, entry.name))
            continue
        name = _without_ending(entry, endings)
        if name is not None and not _NO_VOLUME.search(name):
            found.append(FoundVolume(entry, name))
    for volume in found:
        volume.beside = _beside(volume.name, entries, notes, endings)
    return found


def _entries(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def is_dicom_folder(folder: Path) -> bool:
    """Whether the files in a folder are DICOM, as far as the first of them tells."""
    for entry in _entries(folder):
        if entry.is_file():
            if entry.name.lower().endswith(_DICOM_ENDINGS):
                return True
            with open(entry, "rb") as file:  # files of DICOM often have no ending; one tells
                return file.read(132)[128:] == b"DICM"
    return False


def _without_ending(path: Path, endings: Sequence[str]) -> str | None:
    lower = path.name.lower()
    ending = next((e for e in endings if lower.endswith(e)), None)
    return None if ending is None else path.name[: -len(ending)]


def _beside(name: str, entries: Sequence[Path], notes: list[str], images: Sequence[str] = _IMAGES) -> dict[str, Path]:
    """What belongs to a volume by its name, where that is unambiguous."""
    stems = [name.lower()]
    if stems[0].endswith("_t1w"):
        stems.append(stems[0][: -len("_t1w")])
    beside = {}
    for kind, words in _WORDS.items():
        endings = _LANDMARKS if kind == "landmarks" else images
        wanted = {f"{stem}{by}{word}" for stem in stems for word in words for by in "_.-"}
        wanted |= {f"{word}{by}{stem}" for stem in stems for word in words for by in "_.-"}
        if kind == "landmarks":
            wanted.update(stems)
        found = [entry for entry in entries if (_without_ending(entry, endings) or "").lower() in wanted]
        if len(found) == 1:
            beside[kind] = found[0]
        elif found:
            notes.append(f"{name}: several {kind} ({', '.join(entry.name for entry in found)}); left out.")
    return beside


# ---------------------------------------------------------------------- BIDS


def _subjects(root: Path, notes: list[str]) -> dict[str, dict[str, FoundVolume]]:
    """The T1-weighted volume of each session of each subject; the session is empty where there are none."""
    found: dict[str, dict[str, FoundVolume]] = {}
    for subject in sorted(root.glob("sub-*")):
        for session in [subject, *sorted(subject.glob("ses-*"))]:
            anatomy = session / "anat"
            if not anatomy.is_dir():
                continue
            entries = _entries(anatomy)
            images = [entry for entry in entries if re.search(r"_T1w\.nii(\.gz)?$", entry.name)]
            if len(images) > 1:
                notes.append(f"{anatomy.relative_to(root)}: of {len(images)} T1w images, {images[0].name} is used.")
            if images:
                name = _without_ending(images[0], _IMAGES) or ""
                volume = FoundVolume(images[0], name, _beside(name, entries, notes))
                found.setdefault(subject.name, {})["" if session == subject else session.name] = volume
    return found


def _bids_pairs(
    subjects: dict[str, dict[str, FoundVolume]], notes: list[str]
) -> list[tuple[str, FoundVolume, FoundVolume]]:  # fmt: skip
    pairs = []
    if any(len(sessions) > 1 for sessions in subjects.values()):
        for subject, sessions in subjects.items():
            (first, fixed), *later = sessions.items()
            if not later:
                notes.append(f"{subject}: only one session; left out.")
            pairs += [(f"{subject}_{name}_to_{first or 'first'}", fixed, volume) for name, volume in later]
        return pairs
    (first, sessions), *others = subjects.items()
    fixed = next(iter(sessions.values()))
    return [(f"{subject}_to_{first}", fixed, next(iter(found.values()))) for subject, found in others]
