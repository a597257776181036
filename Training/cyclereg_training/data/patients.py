"""Which patients are for training, for validation and for testing: never one for two of them."""

from __future__ import annotations

from collections.abc import Sequence

from CycleRegLib.errors import InputError

from ..synthetic.chance import Chance, mixed
from .listing import Volume
from .settings import SPLITS, SplitSettings


def split_patients(
    volumes: Sequence[Volume],
    settings: SplitSettings,
    groups: Sequence[Sequence[int]] = (),
    least: int = 1,
    training: Sequence[str] = (),
) -> dict[str, str]:
    """The split of each patient: as the list says, else as the settings name, else drawn by their shares and seed.

    The same patients and seed always give the same splits.

    Parameters
    ----------
    groups
        Numbers of volumes whose patients have to stay together, as those of a pair.
    least
        So many patients are drawn for validation and testing, where their share is not 0 and as many are left.
    training
        Patients who are not drawn for anything else, as that of an atlas.

    Raises
    ------
    InputError
        If the list puts one patient into two splits, or the settings name a patient who is not there.
    """
    found: dict[str, str] = {}
    # Where the list says some splits, what it leaves open is for training.
    told = any(volume.split for volume in volumes)
    for volume in volumes:
        if volume.split and found.setdefault(volume.patient, volume.split) != volume.split:
            raise InputError(
                f"The patient {volume.patient} is in the splits {found[volume.patient]} and {volume.split}. A "
                "patient's volumes belong to one split."
            )
    patients = list(dict.fromkeys(volume.patient for volume in volumes))
    for split in ("validation", "test"):
        for patient in settings.named(split):
            if patient not in patients:
                raise InputError(
                    f"data.split.{split} names the patient '{patient}', of whom there is no volume. Patients are "
                    f"{', '.join(patients[:10])}{', ...' if len(patients) > 10 else ''}."
                )
            if found.setdefault(patient, split) != split:
                raise InputError(f"The patient {patient} is in the splits {found[patient]} and {split}.")
    for patient in training:
        found.setdefault(patient, "train")
    families = _families(volumes, groups)
    for family in families:
        splits = {found[patient] for patient in family if patient in found}
        if len(splits) > 1:
            raise InputError(f"{' and '.join(sorted(family)[:2])} make a pair, but belong to different splits.")
        for patient in family if splits else ():
            found[patient] = next(iter(splits))
    rest = sorted((family for family in families if family[0] not in found), key=lambda family: family[0])
    drawn = {} if told else _drawn(rest, settings, least)
    for family in rest:
        for patient in family:
            found[patient] = drawn.get(family[0], "train")
    return {patient: found[patient] for patient in patients}


def _families(volumes: Sequence[Volume], groups: Sequence[Sequence[int]]) -> list[list[str]]:
    """Patients that have to stay together."""
    head = {volume.patient: volume.patient for volume in volumes}

    def top(patient: str) -> str:
        while head[patient] != patient:
            patient = head[patient]
        return patient

    for group in groups:
        tops = sorted({top(volumes[number].patient) for number in group})
        for other in tops[1:]:
            head[other] = tops[0]
    families: dict[str, list[str]] = {}
    for patient in sorted(head):
        families.setdefault(top(patient), []).append(patient)
    return list(families.values())


def _drawn(families: Sequence[Sequence[str]], settings: SplitSettings, least: int) -> dict[str, str]:
    """The split of each family by its first patient."""
    order = Chance(mixed(settings.seed, 6)).order(len(families))
    # Training comes first: it keeps half of the patients, unless more is asked for in so many words.
    asked = round((settings.share("validation") + settings.share("test")) * len(families))
    free = min(max(len(families) // 2, asked), len(families) - least)
    result: dict[str, str] = {}
    start = 0
    for split in SPLITS[1:]:
        share = settings.share(split)
        count = max(round(share * len(families)), least if share else 0)
        if count > free:
            count = 0
        result.update({families[number][0]: split for number in order[start : start + count]})
        start, free = start + count, free - count
    return result
