"""Rows of text and figures in a ``QTableWidget``."""

from __future__ import annotations

from typing import Any

import qt

_MOST_ROWS = 11
_UNLIMITED = 16777215  # Qt's own largest size
_LONGEST_LINE = 10  # letters of a heading
_MOST_FITTING = 4  # columns that have room beside each other in a narrow panel


def fillTable(table: Any, heads: list[str], rows: list[list[Any]]) -> None:
    """Show rows in a ``QTableWidget``, figures to the right; about ten rows at once.

    The first column takes what room the others leave; many columns leave none, and then it is as wide as its names, and
    the user scrolls to the figures.
    """
    table.setColumnCount(len(heads))
    table.setHorizontalHeaderLabels([_inLines(head) for head in heads])
    table.setRowCount(len(rows))
    for number, row in enumerate(rows):
        for column, cell in enumerate(row):
            text = cell if isinstance(cell, str) else _figure(cell)
            item = qt.QTableWidgetItem(text)
            item.setToolTip(f"{heads[column]}: {text}")
            if not isinstance(cell, str):
                item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            table.setItem(number, column, item)
    header = table.horizontalHeader()
    header.setHighlightSections(False)
    for column in range(len(heads)):
        mode = qt.QHeaderView.ResizeToContents if column else qt.QHeaderView.Stretch
        header.setSectionResizeMode(column, mode if len(heads) <= _MOST_FITTING else qt.QHeaderView.ResizeToContents)
    table.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
    # As high as its rows (see the .ui file), until there are too many of them.
    table.setMaximumHeight(_UNLIMITED if len(rows) <= _MOST_ROWS else _MOST_ROWS * (table.rowHeight(0) + 2))
    table.updateGeometry()


def _inLines(head: str) -> str:
    """A heading in lines of its own for the unit and, if it is long, for its words."""
    text, bracket, unit = head.partition(" (")
    if len(text) > _LONGEST_LINE:
        text = text.replace(" ", "\n")
    return f"{text}\n({unit}" if bracket else text


def _figure(value: float | None) -> str:
    """A number for reading; the tables hold it in full."""
    if value is None:
        return "-"
    if 0 < abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
