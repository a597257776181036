"""What an evaluation found: plain numbers, table rows, JSON, CSV and text."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, NamedTuple

import numpy as np

from . import measures
from .outputs import OutputTransaction
from .tumor import TumorSize


class Row(NamedTuple):
    """One line of a results table; ``None`` where a number does not apply or is not defined."""

    name: str
    unit: str
    before: float | None
    after: float | None


@dataclass(frozen=True)
class LandmarkErrors:
    """Target registration errors in mm; points are (N, 3) LPS mm.  ``mapped`` are the fixed points after the field."""

    labels: list[str]
    fixed: np.ndarray
    moving: np.ndarray
    mapped: np.ndarray
    before: np.ndarray
    after: np.ndarray


@dataclass(frozen=True)
class Change:
    """A number before and after registration; NaN where it is not defined."""

    before: float
    after: float


@dataclass(frozen=True)
class LabelScores:
    """Overlap of one label, each before and after: Dice, IoU, BIR without unit, HD95 in mm."""

    dice: Change
    iou: Change
    hd95_mm: Change
    bir: Change


@dataclass(frozen=True)
class TumorComparison:
    """The tumour in the fixed image, the moving image, and the moving image warped; None where it has no voxel."""

    name: str
    fixed: TumorSize | None
    moving: TumorSize | None
    warped: TumorSize | None

    @property
    def drawn(self) -> bool:
        """Whether lines that somebody drew were measured, not segments."""
        return self.fixed is not None and self.fixed.slice_axis < 0

    def numbers(self, quantity: str) -> dict[str, float | None]:
        """``major_mm``, ``minor_mm`` or ``volume_ml`` of the three, and moving - fixed and warped - fixed."""
        values = [None if size is None else getattr(size, quantity) for size in (self.fixed, self.moving, self.warped)]
        fixed, moving, warped = values
        return {
            "fixed": fixed,
            "moving": moving,
            "warped": warped,
            "difference_before": None if fixed is None or moving is None else moving - fixed,
            "difference_after": None if fixed is None or warped is None else warped - fixed,
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, what :meth:`Evaluation.to_dict` has as ``tumor``."""
        out: dict[str, Any] = {"name": self.name, "drawn": self.drawn}
        out.update({quantity: self.numbers(quantity) for quantity, _, _ in _TUMOR_QUANTITIES})
        out["diameters"] = {
            side: None if size is None else {"major": size.major_points, "minor": size.minor_points}
            for side, size in (("fixed", self.fixed), ("moving", self.moving), ("warped", self.warped))
        }
        return _plain(out)


@dataclass(frozen=True)
class Evaluation:
    """Everything that was measured; a part is None when its input was not given.

    Attributes
    ----------
    landmarks
        Errors per landmark.
    labels
        Scores per label name; ``bir_all`` is the BIR of the whole label map (InverseNet).
    tumor
        Diameters and volumes.
    jacobian
        Of the field, on its own grid.
    roundtrip_mm
        ``|u(x) + v(x + u(x))|`` over the voxels whose partner lies inside the inverse's grid,
        ``roundtrip_inside_percent`` of all.
    similarity
        ``nmse``, ``ssim``, ``lncc``, ``ncc``, ``mutual_information`` of fixed and warped image, over voxels that see
        the moving image both before and after (``compared_percent`` of the fixed image or its mask).
    reversibility, reversibility_fixed
        ``nmse`` and ``ssim`` between the moving image and itself warped there and back; of pictures and single slices
        the same for the fixed image.
    warnings
        What the user should know.
    """

    jacobian: measures.JacobianStatistics
    similarity: dict[str, Change]
    compared_percent: float
    landmarks: LandmarkErrors | None = None
    labels: dict[str, LabelScores] = field(default_factory=dict)
    bir_all: Change | None = None
    tumor: TumorComparison | None = None
    roundtrip_mm: measures.Statistics | None = None
    roundtrip_inside_percent: float | None = None
    reversibility: dict[str, float] | None = None
    reversibility_fixed: dict[str, float] | None = None
    warnings: list[str] = field(default_factory=list)

    # ------------------------------------------------------------------ as numbers

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: finite numbers or None, units in the names of keys.  Keys of parts not measured are absent.

        ==========================  =================================================================================
        ``tre_mm``                  ``before``, ``after``: mean, sd (n - 1), median, max; ``count``; ``per_landmark``:
                                    label, before, after, and fixed, moving, mapped (fixed after the field) in LPS mm
        ``dice`` ``iou``            per label: before, after
        ``hd95_mm``
        ``labels_mean``             the same and ``bir``, mean over the labels where they are defined
        ``bir``, ``bir_per_label``  of the whole label map; of every label
        ``tumor``                   ``name``; whether its lines were ``drawn``, which have no volume; ``major_mm``,
                                    ``minor_mm``, ``volume_ml``: fixed, moving, warped, difference_before,
                                    difference_after; ``diameters``: end points in LPS mm
        ``jacobian``                folding_percent, mean, sd, sd_log, min, max, and the number of voxels left out of
                                    sd_log
        ``roundtrip_mm``            mean, sd, median, p95, max, of ``roundtrip_inside_percent`` of all voxels
        ``nmse`` ``ssim`` ``lncc``  before, after, over ``compared_percent`` of the fixed image or its mask
        ``ncc``
        ``mutual_information``
        ``reversibility``           nmse, ssim of the moving image warped there and back
        ``reversibility_fixed``     the same of the fixed image, for pictures and single slices
        ``warnings``                sentences
        ==========================  =================================================================================
        """
        out: dict[str, Any] = {}
        if self.landmarks is not None:
            e = self.landmarks
            for when, errors in (("before", e.before), ("after", e.after)):
                statistics = asdict(measures.Statistics.of(errors))
                out.setdefault("tre_mm", {})[when] = {key: statistics[key] for key in ("mean", "sd", "median", "max")}
            out["tre_mm"]["count"] = len(e.labels)
            out["tre_mm"]["per_landmark"] = [
                {"label": label, "before": b, "after": a, "fixed": f, "moving": m, "mapped": p}
                for label, b, a, f, m, p in zip(e.labels, e.before, e.after, e.fixed, e.moving, e.mapped)
            ]
        if self.labels:
            for key, _, _ in _SCORES:
                out["bir_per_label" if key == "bir" else key] = {n: getattr(s, key) for n, s in self.labels.items()}
            out["bir"] = self.bir_all
            out["labels_mean"] = {key: self.mean(key) for key, _, _ in _SCORES}
        if self.tumor is not None:
            out["tumor"] = self.tumor.to_dict()
        jacobian = asdict(self.jacobian)
        out["jacobian"] = {key: jacobian[key] for key in ("folding_percent", "mean", "sd", "sd_log", "min", "max")}
        out["jacobian"]["sd_log_left_out"] = self.jacobian.left_out
        if self.roundtrip_mm is not None:
            statistics = asdict(self.roundtrip_mm)
            out["roundtrip_mm"] = {key: statistics[key] for key in ("mean", "sd", "median", "p95", "max")}
            out["roundtrip_inside_percent"] = self.roundtrip_inside_percent
        out.update(self.similarity)
        out["compared_percent"] = self.compared_percent
        for key in ("reversibility", "reversibility_fixed"):
            if getattr(self, key) is not None:
                out[key] = getattr(self, key)
        out["warnings"] = self.warnings
        return _plain(out)

    def mean(self, key: str) -> Change:
        """Mean over labels of ``dice``, ``iou``, ``hd95_mm`` or ``bir``, leaving out labels where it is not defined."""
        scores = [getattr(score, key) for score in self.labels.values()]
        return Change(
            *[measures.Statistics.of([getattr(s, when) for s in scores]).mean for when in ("before", "after")]
        )

    def rows(self, details: bool = False) -> list[Row]:
        """Rows of a results table, see :func:`rows_of`."""
        return rows_of(self.to_dict(), details)

    def format_table(self, details: bool = False) -> str:
        """The rows as an aligned plain-text table."""
        cells = [("", "before", "after", "unit")]
        cells += [(r.name, _text(r.before), _text(r.after), r.unit) for r in self.rows(details)]
        widths = [max(len(row[i]) for row in cells) for i in range(4)]
        lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in cells]
        lines.insert(1, "-" * max(len(line) for line in lines))
        return "\n".join(lines)

    # ------------------------------------------------------------------ files

    def write_json(self, path: os.PathLike[str] | str) -> None:
        """Write :meth:`to_dict`; whole or not at all.  Raises InputError if the path cannot be written."""
        with OutputTransaction() as out:
            out.path(path).write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def write_csv(self, path: os.PathLike[str] | str) -> None:
        """Write all rows (name, unit, before, after) at full precision; an empty cell where there is no number."""
        with OutputTransaction() as out, open(out.path(path), "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(Row._fields)
            writer.writerows(["" if cell is None else cell for cell in row] for row in self.rows(details=True))


_SCORES = (("dice", "Dice", ""), ("iou", "IoU", ""), ("hd95_mm", "HD95", "mm"), ("bir", "BIR", ""))
_TUMOR_QUANTITIES = (
    ("major_mm", "long diameter", "mm"),
    ("minor_mm", "short diameter", "mm"),
    ("volume_ml", "volume", "mL"),
)
SIMILARITIES = (
    ("lncc", "LNCC"),
    ("ncc", "NCC"),
    ("mutual_information", "Mutual information"),
    ("nmse", "NMSE"),
    ("ssim", "SSIM"),
)


# ---------------------------------------------------------------------- rows


def rows_of(content: Mapping[str, Any], details: bool = False) -> list[Row]:
    """Rows of a results table from what :meth:`Evaluation.to_dict` gives, also read back from JSON.

    ``details`` adds one per landmark and, per label, IoU, HD95 and BIR.
    """
    rows: list[Row] = []

    def change(name: str, unit: str, numbers: Mapping[str, Any]) -> None:
        rows.append(Row(name, unit, numbers["before"], numbers["after"]))

    def add(name: str, unit: str, after: float | None) -> None:
        rows.append(Row(name, unit, None, after))

    if "tre_mm" in content:
        tre = content["tre_mm"]
        for key in ("mean", "sd", "median", "max"):
            rows.append(Row(f"TRE, {key}", "mm", tre["before"][key], tre["after"][key]))
        for landmark in tre["per_landmark"] if details else ():
            change(f"TRE, {landmark['label']}", "mm", landmark)
    if "labels_mean" in content:
        for key, name, unit in _SCORES:
            change(f"{name}, mean", unit, content["labels_mean"][key])
            if key == "bir" and content["bir"] is not None:
                change("BIR, all labels", "", content["bir"])
            for label, score in content["bir_per_label" if key == "bir" else key].items():
                if details or key == "dice":
                    change(f"{name}, {label}", unit, score)
    if "tumor" in content:
        for quantity, name, unit in _TUMOR_QUANTITIES:
            n = content["tumor"][quantity]
            rows.append(Row(f"Tumor {name}, fixed", unit, n["fixed"], n["fixed"]))
            rows.append(Row(f"Tumor {name}, moving / warped", unit, n["moving"], n["warped"]))
            rows.append(Row(f"Tumor {name}, difference", unit, n["difference_before"], n["difference_after"]))
    for key, name in SIMILARITIES:
        change(name, "nat" if key == "mutual_information" else "", content[key])
    jacobian = content["jacobian"]
    add("Folding", "% of voxels", jacobian["folding_percent"])
    for key, name in (("sd", "SD"), ("sd_log", "SD of log"), ("min", "min"), ("max", "max")):
        add(f"Jacobian determinant, {name}", "", jacobian[key])
    for key in ("mean", "p95", "max") if "roundtrip_mm" in content else ():
        add(f"Round trip, {key}", "mm", content["roundtrip_mm"][key])
    for which, image in (("reversibility", ""), ("reversibility_fixed", ", fixed image")):
        for key in ("nmse", "ssim") if which in content else ():
            add(f"{key.upper()}, there and back{image}", "", content[which][key])
    return rows


# ---------------------------------------------------------------------- plain data


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _plain(value: Any) -> Any:
    """Dataclasses, arrays and NumPy numbers as what JSON has; numbers that are not finite as None."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return _number(float(value))
    return int(value) if isinstance(value, np.integer) else value


def _text(value: float | None) -> str:
    if value is None:
        return "-"
    if 0 < abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
