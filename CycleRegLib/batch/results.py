"""The tables of a batch: ``results.csv`` with every measure of every pair, ``summary.md``, and ``report.html``."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..outputs import OutputTransaction
from .page import render_page
from .record import STATUSES

_FIRST = ("id", "status", "reason", "attempts", "folder", "worker")


def write_results(
    output: Path, records: Sequence[Mapping[str, Any]], options: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Write ``results.csv``, ``summary.md`` and ``report.html`` into a batch's folder; all appear, or none.

    Parameters
    ----------
    records
        What became of every pair, in the manifest's order; see :class:`~.record.BatchRecord`.
    options
        The pairs' rows of the manifest, see :meth:`~.manifest.PairSpec.to_dict`.

    Raises
    ------
    InputError
        If they cannot be written.
    """
    with OutputTransaction() as out:
        with open(out.path(output / "results.csv"), "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerows(table(records, output))
        out.path(output / "summary.md").write_text(summary_text(records), encoding="utf-8")
        text = render_page(records, output, options, ("results.csv", "summary.md", "manifest.json"))
        out.path(output / "report.html").write_text(text, encoding="utf-8")


def table(records: Sequence[Mapping[str, Any]], output: Path) -> list[list[Any]]:
    """Header and rows; columns of seconds and measures in the order in which pairs first have them.

    A cell is empty where a pair has no such number.  Folders are relative to the batch's.
    """
    stages = _names(record["seconds"] for record in records)
    measures = _names(record["measures"] for record in records)
    rows: list[list[Any]] = [[*_FIRST, *(f"seconds_{stage}" for stage in stages), *measures]]
    for record in records:
        folder = record["folder"]
        place = "" if folder is None else Path(folder).relative_to(output).as_posix()
        row = [place if name == "folder" else record[name] for name in _FIRST]
        row += [record["seconds"].get(stage, "") for stage in stages]
        row += [record["measures"].get(name, "") for name in measures]
        rows.append(row)
    return rows


def summary_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Counts, every measure's mean, standard deviation (n - 1), median and number of pairs, and every failure."""
    counts = {status: sum(record["status"] == status for record in records) for status in STATUSES}
    lines = ["# Batch", "", f"{len(records)} pairs: " + ", ".join(f"{n} {s}" for s, n in counts.items() if n) + ".", ""]
    complete = [record for record in records if record["status"] in ("done", "kept")]
    names = _names(record["measures"] for record in complete)
    if names:
        lines += ["| measure | mean | sd | median | pairs |", "|---|---|---|---|---|"]
        for name in names:
            values = [record["measures"][name] for record in complete if name in record["measures"]]
            deviation = f"{statistics.stdev(values):.4g}" if len(values) > 1 else ""
            lines.append(
                f"| {_cell(name)} | {statistics.fmean(values):.4g} | {deviation} | {statistics.median(values):.4g} "
                f"| {len(values)} |"
            )
        lines.append("")
    failed = [record for record in records if record["status"] == "failed"]
    if failed:
        lines += ["## Failures", "", "| pair | attempts | reason |", "|---|---|---|"]
        lines += [f"| {_cell(r['id'])} | {r['attempts']} | {_cell(r['reason'])} |" for r in failed]
        lines.append("")
    return "\n".join(lines)


def _names(mappings: Any) -> list[str]:
    """All keys, in the order in which they first come."""
    found: dict[str, None] = {}
    for mapping in mappings:
        found.update(dict.fromkeys(mapping))
    return list(found)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
