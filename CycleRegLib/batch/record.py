"""What is known of a pair when it is done: its record, and every measure of it as one flat table row."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: What can become of a pair: computed now; complete from an earlier run; failed; not reached.
STATUSES = ("done", "kept", "failed", "skipped")
_WHEN = ("before", "after")


@dataclass
class BatchRecord:
    """What became of one pair.

    Attributes
    ----------
    id
        As in the manifest.
    status
        ``done``; ``kept`` (complete from an earlier run); ``failed``; ``skipped`` (the run was stopped before it).
    reason
        Why it failed or was skipped, one line; empty otherwise.
    attempts
        How often it was begun, as workers died; 0 where it was not.
    folder
        Where its files are; None unless done or kept.
    worker
        Which one did it.
    seconds
        Wall time by stage (``read``, ``register``, ``evaluate``, ``pictures``, ``write``), and ``total``.
    measures
        Every number by name, see :func:`measures_of`.
    """

    id: str
    status: str
    reason: str = ""
    attempts: int = 0
    folder: str | None = None
    worker: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether its results are there."""
        return self.status in ("done", "kept")

    def path(self, name: str) -> Path:
        """One of the pair's files: ``transform.h5``, ``inverse_transform.h5``, ``warped.nrrd``, ``summary.json``.

        Raises
        ------
        FileNotFoundError
            If the pair has none, because it failed or was skipped.
        """
        if self.folder is None:
            raise FileNotFoundError(f"The pair '{self.id}' has no results: it was {self.status}. {self.reason}".strip())
        return Path(self.folder) / name

    def to_dict(self) -> dict[str, Any]:
        """In JSON types."""
        return dataclasses.asdict(self)


def failed_record(spec_id: str, reason: str, attempts: int = 1, worker: str = "", seconds: float = 0.0) -> BatchRecord:
    """The record of a pair that failed; the reason is put on one line."""
    return BatchRecord(
        spec_id, "failed", " ".join(reason.split()), attempts, None, worker, {"total": round(seconds, 3)}
    )


def measures_of(summary: Mapping[str, Any], evaluation: Mapping[str, Any] | None = None) -> dict[str, float]:
    """Every number of a registration and its evaluation, by a flat name that ends in its unit (none: no unit).

    Always: ``similarity_before``, ``similarity_after`` (squared LNCC); ``folding_percent``; ``jacobian_mean``,
    ``_sd``, ``_sd_log``, ``_min``, ``_max``; ``roundtrip_mean_mm``, ``roundtrip_p95_mm``.
    With landmarks: ``tre_before_mm``, ``tre_after_mm`` (means), ``tre_sd_after_mm``, … .  With segmentations:
    ``dice_mean_after``, ``dice_LABEL_after``, the same of ``iou``, ``hd95`` (``_mm``) and ``bir``, ``bir_all_after``,
    ``tumor_volume_fixed_ml``, ``tumor_volume_difference_after_ml``, ``tumor_major_…_mm``, … .  With either:
    ``nmse_after``, ``ssim_after``, ``lncc_after``, ``ncc_after``, ``mutual_information_after``, ``reversibility_nmse``,
    ….  Numbers that are not defined are left out.
    """
    found: dict[str, Any] = {f"similarity_{when}": summary["similarity"][when] for when in _WHEN}
    found["folding_percent"] = summary["folding_percent"]
    for key in ("mean", "sd", "sd_log", "min", "max"):
        found[f"jacobian_{key}"] = summary["jacobian"].get(key)
    found.update({f"roundtrip_{key}_mm": value for key, value in summary["roundtrip_mm"].items()})
    found.update(_evaluated(evaluation or {}))
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }  # fmt: skip


def _evaluated(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for when in _WHEN:
        for key, value in evaluation.get("tre_mm", {}).get(when, {}).items():
            found[f"tre_{when}_mm" if key == "mean" else f"tre_{key}_{when}_mm"] = value
    for key in ("dice", "iou", "hd95_mm", "bir"):
        per_label = evaluation.get("bir_per_label" if key == "bir" else key, {})
        name, unit = key.replace("_mm", ""), "_mm" if key.endswith("_mm") else ""
        for label, change in {"mean": evaluation.get("labels_mean", {}).get(key, {}), **per_label}.items():
            for when, value in change.items():
                found[f"{name}_{'_'.join(label.split())}_{when}{unit}"] = value
    for when, value in (evaluation.get("bir") or {}).items():
        found[f"bir_all_{when}"] = value
    tumor = evaluation.get("tumor") or {}
    for key in ("major_mm", "minor_mm", "volume_ml"):
        quantity, unit = key.split("_")
        found.update({f"tumor_{quantity}_{which}_{unit}": value for which, value in tumor.get(key, {}).items()})
    for key in ("lncc", "ncc", "mutual_information", "nmse", "ssim"):
        found.update({f"{key}_{when}": value for when, value in evaluation.get(key, {}).items()})
    for key, value in (evaluation.get("roundtrip_mm") or {}).items():
        found[f"roundtrip_{key}_mm"] = value
    for key in ("roundtrip_inside_percent", "compared_percent"):
        found[key] = evaluation.get(key)
    found.update({f"reversibility_{key}": value for key, value in (evaluation.get("reversibility") or {}).items()})
    return found
