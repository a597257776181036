"""What became of the data: which volumes and pairs are used, what was skipped, and why."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from CycleRegLib.outputs import OutputTransaction

from .listing import Volume
from .settings import SPLITS

_SHOWN = 20
_PURPOSES = {"train": "training", "validation": "validation", "test": "testing"}


@dataclass
class PreparationReport:
    """Of one preparation.

    Attributes
    ----------
    volumes
        Those that are used, with their splits.
    pairs
        Of each split, numbers of volumes (fixed, moving).
    skipped
        Path, or both paths of a pair, and the reason.
    notes
        What the user should know although the work goes on.
    facts
        ``shape``, ``spacing_mm``, ``normalisation``, ``grid``, ``cache`` and more, JSON types.
    """

    volumes: list[Volume] = field(default_factory=list)
    pairs: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For ``preparation.json``."""
        return {
            **self.facts,
            "volumes": [
                {name: value for name, value in vars(volume).items() if value not in (None, "")}
                for volume in self.volumes
            ],
            "patients": {split: self.patients(split) for split in SPLITS},
            "pairs": {split: len(self.pairs.get(split, ())) for split in SPLITS},
            "skipped": [{"path": path, "reason": reason} for path, reason in self.skipped],
            "notes": self.notes,
        }

    def patients(self, split: str) -> list[str]:
        """The patients of a split."""
        return list(dict.fromkeys(volume.patient for volume in self.volumes if volume.split == split))

    def lines(self) -> list[str]:
        """For people, a line each."""
        result = [
            f"{_count(len(self.volumes), 'volume')}: "
            + ", ".join(
                f"{_count(len(self.pairs.get(split, ())), 'pair')} of {_count(len(self.patients(split)), 'patient')} "
                f"for {_PURPOSES[split]}"
                for split in SPLITS
            ),
            ", ".join(f"{name} {_words(value)}" for name, value in self.facts.items()),
        ]
        result += [f"note: {note}" for note in self.notes[:_SHOWN]]
        for path, reason in self.skipped[:_SHOWN]:
            result.append(f"skipped: {reason}" if path in reason else f"skipped: {path}: {reason}")
        more = max(0, len(self.notes) - _SHOWN), max(0, len(self.skipped) - _SHOWN)
        if any(more):
            result.append(f"{more[0]} more notes and {more[1]} more skipped are in preparation.json")
        return result

    def write(self, folder: str | Path) -> list[Path]:
        """Write ``preparation.json``, and where there are pairs for testing, ``test.csv``: a manifest of them.

        Raises
        ------
        InputError
            If the folder cannot be written to.
        """
        contents = {"preparation.json": json.dumps(self.to_dict(), indent=1)}
        if self.pairs.get("test"):
            contents["test.csv"] = _manifest(self.volumes, self.pairs["test"])
        folder = Path(folder).expanduser()
        with OutputTransaction() as outputs:
            outputs.folder(folder, "report of the preparation")
            for name, text in contents.items():
                outputs.path(folder / name).write_text(text, encoding="utf-8")
        return [folder / name for name in contents]


def _manifest(volumes: Sequence[Volume], pairs: Sequence[tuple[int, int]]) -> str:
    """A manifest of batches, absolute paths."""
    kinds = ("segmentation", "landmarks")
    columns = ("id", "fixed", "moving", *(f"{side}_{kind}" for kind in kinds for side in ("fixed", "moving")))
    rows = []
    for number, (fixed, moving) in enumerate(pairs, start=1):
        row = {"id": f"pair-{number:04d}", "fixed": volumes[fixed].path, "moving": volumes[moving].path}
        for kind in kinds:
            files = getattr(volumes[fixed], kind), getattr(volumes[moving], kind)
            if None not in files:
                row[f"fixed_{kind}"], row[f"moving_{kind}"] = files
        rows.append(row)
    used = [column for column in columns if any(column in row for row in rows)]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, used, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name} {_words(part)}" for name, part in value.items()) or "of each fixed image"
    if isinstance(value, (list, tuple)):
        return "x".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in value)
    return str(value)
