"""The cells of a manifest's rows, before anything is said about what stands in them."""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError


class DecimalCell(str):
    """A cell of a table with semicolons, in which numbers may have a decimal comma."""


@dataclass
class Table:
    """Rows as messages count them, with their cells by column, and what is wrong with the table as a whole.

    ``word`` is what a row is called: in a spreadsheet ``row``, in JSON ``pair``.
    """

    word: str
    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_table(path: Path, columns: Sequence[str]) -> Table:
    """The table in a CSV or JSON file.

    Parameters
    ----------
    columns
        The names of all columns that there are.

    Raises
    ------
    InputError
        If the file is missing, or no such table.
    """
    if not path.is_file():
        what = "is a folder; to get a manifest for it, use --make-manifest" if path.is_dir() else "does not exist"
        raise InputError(f"The manifest {path} {what}.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"The manifest {path} cannot be read: {error.strerror}.") from error
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise InputError(f"The manifest {path} is a spreadsheet. Save it as CSV (UTF-8) and give that file.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"The manifest {path} is not text in UTF-8. Save it as CSV UTF-8.") from error
    if path.suffix.lower() != ".json" and not text.lstrip().startswith(("[", "{")):
        return _csv_table(text, path, columns)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"The manifest {path} is no JSON: {error.msg}, line {error.lineno}.") from error
    if isinstance(content, dict):
        content = content.get("pairs")
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise InputError(f"The manifest {path} is no list of objects, and no object with such a list as 'pairs'.")
    return table_of(content, columns)


def table_of(content: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    """The table of rows that are mappings already."""
    table = Table("pair")
    for number, row in enumerate(content, start=1):
        cells = {_column(str(key), f"Pair {number}", columns, table): value for key, value in row.items()}
        table.rows.append((number, {c: value for c, value in cells.items() if c and value not in (None, "")}))
    return table


def _csv_table(text: str, path: Path, columns: Sequence[str]) -> Table:
    start = next((line for line in text.splitlines() if line.strip() and not line.lstrip(' "').startswith("#")), "")
    delimiter = max(",;\t", key=start.count)
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise InputError(f"The manifest {path} is not a table that can be read: {error}.") from error
    table = Table("row")
    rows = [(number, [cell.strip() for cell in cells]) for number, cells in enumerate(lines, start=1)]
    rows = [(number, cells) for number, cells in rows if any(cells) and not cells[0].startswith("#")]
    if not rows:
        return table
    (head, titles), body = rows[0], rows[1:]
    names = [_column(title, f"Row {head}", columns, table) if title else None for title in titles]
    for name in sorted({name for name in names if name and names.count(name) > 1}):
        table.problems.append(f"Row {head}: the column '{name}' is there twice.")
    kind = DecimalCell if delimiter == ";" else str
    for number, cells in body:
        beyond = [cell for i, cell in enumerate(cells) if cell and (i >= len(titles) or not titles[i])]
        if beyond:
            table.problems.append(f"Row {number}: {beyond[0]!r} stands in a column without a title.")
        table.rows.append((number, {name: kind(cell) for name, cell in zip(names, cells) if name and cell}))
    return table


def _column(title: str, where: str, columns: Sequence[str], table: Table) -> str | None:
    """The column that a title names; None for a comment or an unknown one."""
    if title.startswith("#"):
        return None
    name = re.sub(r"[\s-]+", "_", title.strip().lower().lstrip("-"))
    if name in columns:
        return name
    near = difflib.get_close_matches(name, columns, n=1, cutoff=0.6)
    hint = f" Did you mean '{near[0]}'?" if near else f" Columns are {', '.join(columns)}."
    table.problems.append(f"{where}: there is no column '{title}'.{hint}")
    return None
