"""The text of landmark files, turned into labels and LPS points, and made from them.

``.mrk.json`` / ``.json``
    Slicer markups (schema 1.0.x).  The first markup of the file is read; ``coordinateSystem`` (``LPS``, ``RAS`` or
    Slicer's numbers 0 = RAS, 1 = LPS) and ``coordinateUnits`` (mm or um) are honoured; control points without a
    defined position are left out.
``.fcsv``
    Slicer's older list, with its ``# CoordinateSystem = …`` line.  Without that line a versioned file is LPS and a
    Slicer 3 file RAS, as in Slicer.
``.csv`` / ``.tsv`` / ``.txt``
    ``label,x,y,z`` or ``x,y,z`` in LPS mm; comma, semicolon or tab; a header row is optional.  Header columns
    ``r,a,s`` or ``l,p,s`` (Slicer's table export) say the coordinate system.  Of pictures a header ``label,x,y`` or
    ``x,y`` is enough.
"""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import CycleRegWarning, InputError

#: Factors that turn coordinates into LPS (and back): the two systems by name and by Slicer 4's numbers.
TO_LPS = {
    "LPS": np.array([1.0, 1.0, 1.0]),
    "RAS": np.array([-1.0, -1.0, 1.0]),
    "0": np.array([-1.0, -1.0, 1.0]),
    "1": np.array([1.0, 1.0, 1.0]),
}
_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
_FCSV_COLUMNS = ["id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label", "desc", "associatedNodeID"]
_FCSV_STATUS_COLUMN = 14  # written by Slicer 5 after the columns that its header names
_FCSV_DEFINED = "2"

#: labels, LPS points (each (3,) mm), descriptions
Parsed = tuple[list[str], list[np.ndarray], list[str]]


def parse_landmarks(text: str, path: Path, flat: bool = False) -> Parsed:
    """Labels, points and descriptions from a file's text; ``path`` gives the format and names the file in errors.

    With ``flat``, tables of x and y alone lie in the plane z = 0.

    Raises
    ------
    InputError
        For an unknown ending or content that cannot be read.
    """
    name = path.name.lower()
    try:
        if name.endswith(".json"):
            return _parse_json(text, path)
        if name.endswith(".fcsv"):
            return _parse_fcsv(text, path)
        if name.endswith((".csv", ".tsv", ".txt")):
            return _parse_csv(text, path, flat)
    except csv.Error as error:
        raise InputError(f"{path} is not a table of landmarks: {error}.") from None
    raise InputError(f"{path.name} is no landmark file that CycleReg knows; give a .mrk.json, .fcsv or .csv file.")


def format_landmarks(
    labels: list[str], points: np.ndarray, descriptions: list[str] | None, system: str, path: Path
) -> str:
    """The text of a landmark file; ``points`` (N, 3) mm are already in ``system`` ("LPS" or "RAS").

    Raises
    ------
    InputError
        For an ending of ``path`` that is none of ``.mrk.json``, ``.fcsv``, ``.csv``.
    """
    name = path.name.lower()
    texts = descriptions or [""] * len(labels)
    if name.endswith(".json"):
        return _format_json(labels, points, texts, system)
    if name.endswith(".fcsv"):
        return _format_fcsv(labels, points, texts, system)
    if name.endswith(".csv"):
        header = ["label", *("xyz" if system == "LPS" else "ras"), "description"]
        rows = [[label, *map(repr, point), note] for label, point, note in zip(labels, points.tolist(), texts)]
        width = 5 if descriptions else 4
        return _format_rows([row[:width] for row in [header, *rows]])
    raise InputError(f"Landmarks are written as .mrk.json, .fcsv or .csv, not as {path.name}.")


def _system(value: Any, path: Path) -> np.ndarray:
    """Factors that turn a file's coordinates into LPS."""
    key = str(value).strip().upper()
    if key not in TO_LPS:
        raise InputError(f"{path} gives its points in {value!r} coordinates; CycleReg reads LPS and RAS.")
    return TO_LPS[key]


def _parse_json(text: str, path: Path) -> Parsed:
    try:
        markups = json.loads(text)["markups"]
        markup = next((m for m in markups if m.get("controlPoints")), None)
        if markup is not None and not all(isinstance(c, dict) for c in markup["controlPoints"]):
            raise TypeError("control points must be objects")
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is not a Slicer markups file (.mrk.json).") from None
    if markup is None:
        return [], [], []
    if sum(bool(m.get("controlPoints")) for m in markups) > 1:
        warnings.warn(f"{path} holds several markups; only the first is read.", CycleRegWarning, stacklevel=3)
    unit = str(markup.get("coordinateUnits", "mm"))
    if unit not in ("mm", "um"):
        raise InputError(f"{path} gives its points in {unit!r}; CycleReg reads millimetres (mm) and micrometres (um).")
    factors = _system(markup.get("coordinateSystem", "LPS"), path) * (1e-3 if unit == "um" else 1.0)
    labels: list[str] = []
    points: list[np.ndarray] = []
    descriptions: list[str] = []
    for number, control_point in enumerate(markup["controlPoints"], start=1):
        label = str(control_point.get("label", ""))
        if control_point.get("positionStatus", "defined") != "defined":
            continue
        try:
            point = np.array([float(v) for v in control_point["position"]])
        except (KeyError, TypeError, ValueError):
            point = np.zeros(0)
        if point.shape != (3,) or not np.isfinite(point).all():
            raise InputError(
                f"{path}: control point {number} ({label!r}) has no readable position "
                f"({control_point.get('position')!r}); three finite numbers are needed."
            )
        labels.append(label)
        points.append(point * factors)
        descriptions.append(str(control_point.get("description", "")))
    return labels, points, descriptions


def _rows(text: str, delimiter: str = ",") -> list[tuple[int, list[str]]]:
    """(line number, cells) of every row that is neither blank nor a comment."""
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    rows = []
    for cells in reader:
        cells = [cell.strip() for cell in cells]
        if any(cells) and not cells[0].startswith("#"):
            rows.append((reader.line_num, cells))
    return rows


def _number(cells: list[str], position: int, column: str, line: int, path: Path) -> float:
    value = cells[position] if position < len(cells) else ""
    try:
        # a comma left inside a cell is the decimal comma of a semicolon-separated table
        number = float(value.replace(",", "."))
    except ValueError:
        number = float("nan")
    if not np.isfinite(number):
        raise InputError(f"{path}, line {line}, column {column}: {value!r} is not a number. Correct it (LPS mm).")
    return number


def _parse_fcsv(text: str, path: Path) -> Parsed:
    comments = [line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#")]
    fields: dict[str, str] = {}
    for comment in comments:
        key, equals, value = comment.partition("=")
        if equals:
            fields[key.strip()] = value.strip()
    versioned = any("file version" in comment for comment in comments)
    factors = _system(fields.get("CoordinateSystem", "LPS" if versioned else "RAS"), path)
    columns = [c.strip() for c in fields["columns"].split(",")] if "columns" in fields else _FCSV_COLUMNS
    if not {"x", "y", "z"} <= set(columns):
        raise InputError(f"{path}: its line '# columns = …' does not name x, y and z.")
    has_status = columns == _FCSV_COLUMNS
    labels: list[str] = []
    points: list[np.ndarray] = []
    descriptions: list[str] = []
    for line, cells in _rows(text):
        if has_status and len(cells) > _FCSV_STATUS_COLUMN and cells[_FCSV_STATUS_COLUMN] != _FCSV_DEFINED:
            continue
        points.append(np.array([_number(cells, columns.index(c), c, line, path) for c in "xyz"]) * factors)
        named = dict(zip(columns, cells))
        labels.append(named.get("label", ""))
        descriptions.append(named.get("desc", ""))
    return labels, points, descriptions


def _parse_csv(text: str, path: Path, flat: bool) -> Parsed:
    sample = next((s for s in text.splitlines() if s.strip() and not s.lstrip().startswith("#")), "")
    delimiter = max("\t;,", key=sample.count)
    rows = _rows(text, delimiter)
    if not rows:
        return [], [], []
    factors = TO_LPS["LPS"]
    names = [cell.lower() for cell in rows[0][1]]
    systems = ("xyz", "lps", "ras", *(["xy"] if flat else []))
    system = next((s for s in systems if set(s) <= set(names)), None)
    if system is not None:
        rows = rows[1:]
        columns = {c: names.index(c) for c in system}
        factors = TO_LPS["RAS" if system == "ras" else "LPS"]
        optional = {key: names.index(key) for key in ("label", "name", "id", "description", "defined") if key in names}
        label_column = optional.get("label", optional.get("name", optional.get("id")))
    else:
        width = len(names)
        if width < 3:
            raise InputError(f"{path}, line {rows[0][0]}: expected label,x,y,z (or x,y,z) but found {width} column(s).")
        first = 0 if width == 3 else 1
        columns = {c: first + i for i, c in enumerate("xyz")}
        optional = {"description": 4} if width > 4 else {}
        label_column = None if width == 3 else 0
    labels: list[str] = []
    points: list[np.ndarray] = []
    descriptions: list[str] = []
    for line, cells in rows:

        def cell(position: int | None, cells: list[str] = cells) -> str:
            return cells[position] if position is not None and position < len(cells) else ""

        if cell(optional.get("defined")) == "0":
            continue
        numbers = [_number(cells, i, c, line, path) for c, i in columns.items()]
        points.append(np.array((numbers + [0.0])[:3]) * factors)
        labels.append(cell(label_column))
        descriptions.append(cell(optional.get("description")))
    return labels, points, descriptions


def _format_json(labels: list[str], points: np.ndarray, descriptions: list[str], system: str) -> str:
    axes = [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0] if system == "LPS" else np.eye(3).ravel().tolist()
    control_points = [
        {
            "id": str(i + 1),
            "label": label,
            "description": description,
            "associatedNodeID": "",
            "position": point,
            "orientation": axes,
            "selected": True,
            "locked": False,
            "visibility": True,
            "positionStatus": "defined",
        }
        for i, (label, point, description) in enumerate(zip(labels, points.tolist(), descriptions))
    ]
    markup = {
        "type": "Fiducial",
        "coordinateSystem": system,
        "coordinateUnits": "mm",
        "locked": False,
        "fixedNumberOfControlPoints": False,
        "labelFormat": "%N-%d",
        "lastUsedControlPointNumber": len(labels),
        "controlPoints": control_points,
        "measurements": [],
    }
    return json.dumps({"@schema": _SCHEMA, "markups": [markup]}, indent=4, ensure_ascii=False) + "\n"


def _format_rows(rows: Sequence[Sequence[str]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def _format_fcsv(labels: list[str], points: np.ndarray, descriptions: list[str], system: str) -> str:
    rows = [
        [str(i + 1), *map(repr, point), *"0001110", label, note, "", _FCSV_DEFINED, "0"]
        for i, (label, point, note) in enumerate(zip(labels, points.tolist(), descriptions))
    ]
    header = (
        f"# Markups fiducial file version = 5.0\n# CoordinateSystem = {system}\n# columns = {','.join(_FCSV_COLUMNS)}\n"
    )
    return header + _format_rows(rows)
