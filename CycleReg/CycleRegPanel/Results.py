"""The summary of a registration as rows of the panel's table."""

from __future__ import annotations

from typing import Any

import qt

from .Host import _


def rows(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(measurement, value with its unit, definition) for what ``cyclereg register --json`` reports.

    What the summary does not hold is left out.
    """
    similarity = summary.get("similarity") or {}
    roundtrip = summary.get("roundtrip_mm") or {}
    found = [
        (
            _("Similarity before"),
            _number(similarity.get("before"), 4),
            _("Similarity of the fixed and the moving image, as the method measures it, before the registration."),
        ),
        (_("Similarity after"), _number(similarity.get("after"), 4), _("The same, after the registration.")),
        (
            _("NMSE, before and after"),
            _pair(summary.get("nmse")),
            _("Normalised mean square error of the grey images, fixed against moving and warped; 0 is perfect."),
        ),
        (
            _("SSIM, before and after"),
            _pair(summary.get("ssim")),
            _("Structural similarity of the grey images, fixed against moving and warped; 1 is perfect."),
        ),
        (
            _("Folding"),
            _number(summary.get("folding_percent"), 4, "%"),
            _("Voxels of the fixed grid where the Jacobian determinant of the transform is zero or negative."),
        ),
        (
            _("Round trip, mean"),
            _number(roundtrip.get("mean"), 3, "mm"),
            _("Distance between a point and itself after the transform and its inverse; mean over the fixed grid."),
        ),
        (
            _("Round trip, 95th percentile"),
            _number(roundtrip.get("p95"), 3, "mm"),
            _("The same distance, not exceeded by 95 % of the voxels."),
        ),
        (_("Time"), _number(_total(summary.get("seconds")), 1, "s"), _("Computation, all stages together.")),
        (
            _("Peak memory"),
            _number(summary.get("peak_memory_mb"), 0, "MB"),
            _("Largest memory of the computation, on its device."),
        ),
        (_("Device"), str(summary.get("device") or ""), _("Where the computation ran.")),
        (_("Method"), str(summary.get("method") or ""), _("How the volumes were registered.")),
    ]
    return [row for row in found if row[1]]


def fill(table: Any, summary: dict[str, Any]) -> None:
    """Show ``summary`` in a ``QTableWidget`` of two columns; the table grows with its rows (see the ``.ui`` file)."""
    content = rows(summary)
    table.setRowCount(len(content))
    for row, (measurement, value, definition) in enumerate(content):
        for column, text in enumerate((measurement, value)):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(definition)
            table.setItem(row, column, item)
    # Also later: the panel may be moved to a screen with larger letters.
    table.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.ResizeToContents)
    table.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)


def _number(value: float | None, digits: int, unit: str = "") -> str:
    """``value`` with ``digits`` decimals and its unit; "" when there is none."""
    if value is None:
        return ""
    return f"{float(value):.{digits}f} {unit}".rstrip()


def _pair(change: dict[str, float] | None) -> str:
    """Two numbers of a summary's ``before`` and ``after``; "" when there are none."""
    if not change:
        return ""
    return f"{_number(change.get('before'), 4)}, {_number(change.get('after'), 4)}"


def _total(seconds: Any) -> float | None:
    """The whole time from a number, or from the times of the stages with or without their sum."""
    if isinstance(seconds, dict):
        return seconds.get("total", sum(seconds.values()))
    return seconds
