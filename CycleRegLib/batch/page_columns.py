"""How the page of a batch calls measures, and which of them its table and its box plots show.

Names of measures are those of :func:`~.record.measures_of`: ``tre_sd_after_mm`` is ``TRE SD, after`` in ``mm``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

_UNITS = {"_mm": "mm", "_ml": "mL", "_percent": "%"}
_DIGITS = {"mm": 2, "mL": 1, "%": 3, "": 3, "s": 1}
_WHEN = ("before", "after")
_QUANTITIES = {
    "tre": "TRE",
    "dice": "Dice",
    "iou": "IoU",
    "hd95": "HD95",
    "bir": "BIR",
    "tumor": "Tumour",
    "similarity": "Similarity (LNCC)",
    "lncc": "LNCC",
    "ncc": "NCC",
    "mutual_information": "Mutual information",
    "nmse": "NMSE",
    "ssim": "SSIM",
    "folding": "Folding",
    "jacobian": "Jacobian",
    "roundtrip": "Round trip",
    "reversibility": "There and back",
    "compared": "Compared",
}
#: Measured per segment; what follows their name is a segment's.
PER_SEGMENT = ("dice", "iou", "hd95", "bir")
_WORDS = {
    "sd": "SD",
    "sd_log": "SD of log",
    "p95": "95th percentile",
    "max": "maximum",
    "min": "minimum",
    "major": "long diameter",
    "minor": "short diameter",
    "inside": "inside",
    "nmse": "NMSE",
    "ssim": "SSIM",
}


@dataclass(frozen=True)
class Measure:
    """A measure as readers know it.

    ``quantity`` is the first part of its key, ``detail`` what follows, such as ``mean`` or a segment's name, ``when``
    is ``before``, ``after`` or empty.
    """

    key: str
    quantity: str
    detail: str
    when: str
    unit: str

    @property
    def name(self) -> str:
        """For readers, without the unit."""
        detail = self.detail
        if self.quantity in PER_SEGMENT:
            detail = {"mean": "mean of segments", "all": "all segments"}.get(detail, detail.replace("_", " "))
        elif detail in _WORDS:
            detail = _WORDS[detail]
        else:
            detail = " ".join(_WORDS.get(word, word) for word in detail.split("_"))
        first = _QUANTITIES.get(self.quantity) or self.quantity[:1].upper() + self.quantity[1:].replace("_", " ")
        return f"{first} {detail}".strip() + (f", {self.when}" if self.when else "")

    @property
    def digits(self) -> int:
        """Decimals that readers need."""
        return _digits(self.quantity, self.unit)

    @property
    def place(self) -> int:
        """Where the quantity stands among the others."""
        return [*_QUANTITIES, self.quantity].index(self.quantity)


def _digits(quantity: str, unit: str) -> int:
    return 3 if quantity == "roundtrip" else _DIGITS[unit]


def measure(key: str) -> Measure:
    """What a key says."""
    ending = next((ending for ending in _UNITS if key.endswith(ending)), "")
    rest = key[: len(key) - len(ending)]
    when = next((when for when in _WHEN if rest.endswith(f"_{when}")), "")
    rest = rest[: len(rest) - len(when) - 1] if when else rest
    quantity = next((q for q in _QUANTITIES if rest == q or rest.startswith(f"{q}_")), rest)
    return Measure(key, quantity, rest[len(quantity) + 1 :], when, _UNITS.get(ending, ""))


@dataclass(frozen=True)
class Group:
    """Columns of the table under one heading: keys and what stands above each (nothing above a single one)."""

    heading: str
    unit: str
    columns: tuple[tuple[str, str], ...]

    @property
    def digits(self) -> int:
        """Decimals, the same all down the columns, so that numbers can be compared by eye."""
        return _digits(measure(self.columns[0][0]).quantity, self.unit)

    @property
    def title(self) -> str:
        """The heading with its unit."""
        return f"{self.heading}, {self.unit}" if self.unit else self.heading


#: The key of a pair's whole time among the table's columns; it is no measure.
SECONDS = "seconds_total"


def _change(heading: str, unit: str, key: str) -> Group:
    return Group(heading, unit, tuple((key.format(when), when) for when in _WHEN))


_GROUPS = (
    Group("TRE", "mm", (("tre_before_mm", "before"), ("tre_after_mm", "after"), ("tre_max_after_mm", "max. after"))),
    _change("Dice", "", "dice_mean_{}"),
    _change("HD95", "mm", "hd95_mean_{}_mm"),
    _change("Tumour volume difference", "mL", "tumor_volume_difference_{}_ml"),
    _change("Similarity (LNCC)", "", "similarity_{}"),
    Group("Folding", "%", (("folding_percent", ""),)),
    Group("Round trip", "mm", (("roundtrip_mean_mm", ""),)),
    Group("Time", "s", ((SECONDS, ""),)),
)


def table_groups(keys: Collection[str]) -> list[Group]:
    """The columns of the table, of those that any pair has."""
    found = []
    for group in _GROUPS:
        columns = tuple((key, text) for key, text in group.columns if key in keys)
        if columns:
            found.append(Group(group.heading, group.unit, columns))
    return found
