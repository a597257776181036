"""Which volumes make pairs: numbers of volumes, (fixed, moving)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

from CycleRegLib.errors import InputError

from .listing import Volume
from .settings import SPLITS, VolumeSettings

Pairs = dict[str, list[tuple[int, int]]]


def find_atlas(volumes: Sequence[Volume], settings: VolumeSettings) -> int | None:
    """The volume that ``data.fixed`` names by its path (also relative to the data) or patient; None if it is left out.

    Raises
    ------
    InputError
        If it names none, or several.
    """
    if settings.fixed is None:
        return None
    root = Path(settings.path).expanduser()
    root = root if settings.source == "folder" else root.parent
    paths = {os.path.abspath(base / Path(settings.fixed).expanduser()) for base in (root, Path())}
    found = [number for number, volume in enumerate(volumes) if volume.path in paths]
    found = found or [number for number, volume in enumerate(volumes) if volume.patient == settings.fixed]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"data.fixed '{settings.fixed}' names {len(found)} volumes of one patient; name a file.")
    raise InputError(
        f"data.fixed '{settings.fixed}' is neither a file among the volumes that can be used, nor a patient of theirs."
    )


def make_pairs(
    volumes: Sequence[Volume], settings: VolumeSettings, atlas: int | None, listed: Sequence[tuple[int, int]] | None
) -> tuple[Pairs, list[str]]:
    """The pairs of each split, and remarks.

    Parameters
    ----------
    volumes
        With their splits.
    atlas
        See :func:`find_atlas`; of ``pairs: atlas``, the first volume for training when left out.
    listed
        The pairs that a list names, which then are all.
    """
    notes: list[str] = []
    pairs: Pairs = {split: [] for split in SPLITS}
    if listed is not None:
        common = {fixed for fixed, _ in listed}
        for fixed, moving in listed:
            split = volumes[moving].split
            # One fixed image for all belongs to no split.
            if volumes[fixed].split != split and len(common) > 1:
                raise InputError(
                    f"{volumes[fixed].path} and {volumes[moving].path} make a pair, but are in the splits "
                    f"{volumes[fixed].split} and {split}."
                )
            pairs[split].append((fixed, moving))
        return pairs, notes
    numbers = {split: [n for n, volume in enumerate(volumes) if volume.split == split] for split in SPLITS}
    if settings.pairs == "all-pairs":
        return {split: list(permutations(found, 2)) for split, found in numbers.items()}, notes
    if settings.pairs == "atlas":
        atlas = atlas if atlas is not None else next(iter(numbers["train"]), None)
        if atlas is not None:
            pairs = {split: [(atlas, n) for n in found if n != atlas] for split, found in numbers.items()}
            notes.append(f"the atlas, fixed in every pair, is {volumes[atlas].path}")
        return pairs, notes
    seen = False
    for split, found in numbers.items():
        patients: dict[str, list[int]] = {}
        for number in found:
            patients.setdefault(volumes[number].patient, []).append(number)
        for patient, phases in patients.items():
            fixed = [n for n in phases if settings.fixed is not None and _same(volumes[n].phase, settings.fixed)]
            seen = seen or bool(fixed)
            if len(phases) < 2:
                notes.append(f"patient {patient} has one volume only; left out")
            elif settings.fixed is None:
                pairs[split] += permutations(phases, 2)
            elif len(fixed) == 1:
                pairs[split] += [(fixed[0], n) for n in phases if n != fixed[0]]
            else:
                many = "several phases" if fixed else "no phase"
                notes.append(f"patient {patient} has {many} '{settings.fixed}'; left out")
    if settings.fixed is not None and not seen:
        phases = list(dict.fromkeys(volume.phase for volume in volumes))
        raise InputError(
            f"No volume has the phase '{settings.fixed}' (data.fixed). Phases are {', '.join(phases[:10])}"
            f"{', ...' if len(phases) > 10 else ''}."
        )
    return pairs, notes


def _same(phase: str, asked: str) -> bool:
    return phase.lower() == asked.lower()


def spread(pairs: Sequence[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """At most ``count`` of the pairs, evenly spaced, the first among them."""
    if len(pairs) <= count:
        return list(pairs)
    return [pairs[i * len(pairs) // count] for i in range(count)]
