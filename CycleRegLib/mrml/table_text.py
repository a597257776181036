"""A table node as text: for the clipboard, a spreadsheet, a file."""

from __future__ import annotations

import csv
import io
import math
import os
from typing import Any

from ..errors import InputError
from ..outputs import OutputTransaction


def table_rows(node: Any) -> list[list[Any]]:
    """Column names, then the rows: ``str`` from text columns, ``float`` from the others, None where there is none."""
    if node is None or not node.IsA("vtkMRMLTableNode"):
        raise InputError("No table is given. Choose one.")
    table = node.GetTable()
    columns = [table.GetColumn(i) for i in range(table.GetNumberOfColumns())]
    rows: list[list[Any]] = [[column.GetName() for column in columns]]
    for row in range(table.GetNumberOfRows()):
        values = [column.GetValue(row) for column in columns]
        rows.append([None if isinstance(v, float) and math.isnan(v) else v for v in values])
    return rows


def table_text(node: Any, delimiter: str = ",") -> str:
    """A table as CSV, names of the columns first, at full precision; an empty cell where there is no number.

    ``delimiter="\\t"`` is what spreadsheets take from the clipboard.
    """
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(
        ["" if cell is None else cell for cell in row] for row in table_rows(node)
    )
    return text.getvalue()


def write_table_csv(node: Any, path: os.PathLike[str] | str) -> None:
    """Write a table as a CSV file (UTF-8), whole or not at all.

    Raises
    ------
    InputError
        If there is no table, or the path cannot be written.
    """
    text = table_text(node)
    # Spreadsheets take a file for UTF-8 when it begins with that mark.
    with OutputTransaction() as out, open(out.path(path), "w", encoding="utf-8-sig", newline="") as file:
        file.write(text)
