"""Manifests: one row per pair, and every mistake in them found before the first pair runs.

A manifest is a table (CSV, with commas, semicolons or tabs) or JSON (a list of objects, or an object with such a list
as ``pairs``).  Its columns are ``id``, ``fixed``, ``moving`` and, optionally, every other argument of
``cyclereg register`` and of the measurements of ``cyclereg evaluate``: they are taken from the command line's own
parser.  An empty cell is the command line's value, or the default.  Paths are relative to the manifest's folder.  Blank
rows, and rows and columns that begin with ``#``, are comments.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Union

from ..cli import OneLineParser, add_measure_arguments, add_pair_arguments
from ..errors import InputError
from .manifest_table import DecimalCell, Table, read_table, table_of

#: Columns that name a file (of the images also a folder); everything else is an option.
FILES = (
    "fixed", "moving", "fixed_mask", "moving_mask", "initial_transform", "checkpoint", "backward_checkpoint",
    "fixed_landmarks", "moving_landmarks", "fixed_segmentation", "moving_segmentation",
)  # fmt: skip
_FOLDERS = ("fixed", "moving")
_SHOWN = 10
_LONGEST_ID = 100
_ID = re.compile(r"[A-Za-z0-9_-](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")
# Names that Windows keeps for devices, whatever follows a dot.
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)
_TRUE, _FALSE = ("yes", "true", "1"), ("no", "false", "0")

Source = Union[str, "os.PathLike[str]", Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class PairSpec:
    """One pair of a manifest.

    Attributes
    ----------
    id
        The name of its folder.
    arguments
        Every argument of ``cyclereg register`` and of measuring, by name; paths absolute, None where not given.
    row
        Where it stands in the manifest, as messages count.
    """

    id: str
    arguments: Mapping[str, Any]
    row: int = 0

    @property
    def files(self) -> dict[str, str]:
        """The files that are given, by column."""
        return {name: self.arguments[name] for name in FILES if self.arguments[name] is not None}

    @property
    def options(self) -> dict[str, Any]:
        """Everything else, by column."""
        return {name: value for name, value in self.arguments.items() if name not in FILES}

    def namespace(self) -> argparse.Namespace:
        """As the command line would have it."""
        return argparse.Namespace(**self.arguments)

    def to_dict(self) -> dict[str, Any]:
        """A row of a JSON manifest; what has its default value is left out."""
        usual = default_arguments()
        return {"id": self.id, **{name: value for name, value in self.arguments.items() if value != usual[name]}}


class ManifestError(InputError):
    """Mistakes in a manifest; ``problems`` has one sentence for each, the message the first ten."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        shown = self.problems[:_SHOWN]
        more = len(self.problems) - len(shown)
        if len(self.problems) == 1:
            text = f"{where}: {shown[0]}"
        else:
            listed = " ".join(f"({number}) {problem}" for number, problem in enumerate(shown, start=1))
            text = f"{where} has {len(self.problems)} problems: {listed}" + (f" And {more} more." if more else "")
        super().__init__(text)


class _BadCell(Exception):
    """A cell that the command line's parser refuses."""


class _CellParser(OneLineParser):
    """Reads one argument at a time; its errors become part of a message that names row and column."""

    def error(self, message: str) -> NoReturn:
        text = re.sub(r"^argument \S+ ?\S*: ", "", message)
        text = re.sub(r"^invalid (?:float|int) value: (.*)$", r"\1 is not a number", text)
        raise _BadCell(text)


@functools.lru_cache(maxsize=1)
def _parser() -> _CellParser:
    parser = _CellParser(add_help=False, allow_abbrev=False)
    add_pair_arguments(parser, required=False)
    add_measure_arguments(parser)
    return parser


def default_arguments() -> dict[str, Any]:
    """Every column but ``id``, with the value that it has where nothing is given."""
    return vars(_parser().parse_args([]))


def read_manifest(
    source: Source,
    defaults: Mapping[str, Any] | None = None,
    local: bool = True,
    pairs: str | None = None,
    ids: str | None = None,
) -> list[PairSpec]:
    """The pairs of a manifest, in its order, checked as far as can be without reading images.

    Parameters
    ----------
    source
        A file, or rows as mappings (paths then relative to the working folder).
    defaults
        Values for empty cells and missing columns, by column; paths relative to the working folder.
    local
        Whether the pairs run on this machine, so that their ``device`` has to be here.
    pairs, ids
        Only some of them: ``A`` or ``A:B``, counted from 1, both included; ids separated by commas.  Only their files
        are looked for.

    Raises
    ------
    ManifestError
        For unknown columns, missing files, values that cannot be, ids that are unsafe as folder names or given twice,
        options that do not go together, checkpoints that cannot be used; names row and column of each.
    InputError
        If the file cannot be read, ``defaults`` are wrong, or there are no such pairs.
    """
    values = _checked_defaults(defaults or {}, local)
    columns = ["id", *values]
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        table, where, base = read_table(path, columns), f"The manifest {path}", path.parent
    else:
        table, where, base = table_of(source, columns), "The manifest", Path()
    if not table.rows and not table.problems:
        raise InputError(f"{where} holds no pair. Give one row per pair, with the columns id, fixed and moving.")
    checker = _Checker(base, values, local, table)
    chosen = _chosen([(row, checker.name(row, cells), cells) for row, cells in table.rows], pairs, ids)
    specs = [spec for spec in (checker.pair(*row) for row in chosen) if spec is not None]
    checker.check_checkpoints(specs)
    if checker.problems:
        raise ManifestError(where, checker.problems)
    return specs


_Named = tuple[int, str, Mapping[str, Any]]


def _chosen(rows: list[_Named], pairs: str | None, ids: str | None) -> list[_Named]:
    """The rows (number, id, cells) that are asked for."""
    chosen = rows
    if pairs is not None:
        match = re.fullmatch(r"([0-9]+)(?::([0-9]+))?", pairs.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last:
            raise InputError(f"Pairs are chosen as 3 or 1:100, counted from 1, not as '{pairs}'.")
        if first > len(rows):
            raise InputError(f"There is no pair {first}: the manifest has {len(rows)}.")
        chosen = chosen[first - 1 : last]
    if ids is not None:
        wanted = [name.strip() for name in ids.split(",") if name.strip()]
        known = {name for _, name, _ in rows}
        missing = [name for name in wanted if name not in known]
        if missing or not wanted:
            raise InputError(f"The manifest has no pair with the id '{missing[0] if missing else ids}'.")
        chosen = [row for row in chosen if row[1] in wanted]
        if not chosen:
            raise InputError("None of the pairs chosen by their number has one of the ids.")
    return chosen


# ---------------------------------------------------------------------- checking rows


def _checked_defaults(defaults: Mapping[str, Any], local: bool) -> dict[str, Any]:
    values = default_arguments()
    for name, value in defaults.items():
        if name not in values:
            near = difflib.get_close_matches(name, values, n=1)
            raise InputError(f"There is no option '{name}'." + (f" Did you mean '{near[0]}'?" if near else ""))
        try:
            values[name] = _file(name, value, Path()) if name in FILES and value else _value(name, value)
            check_value(name, values[name], local)
        except (_BadCell, InputError) as error:
            raise InputError(f"--{name.replace('_', '-')}: {error}") from None
    return values


def _value(name: str, cell: Any) -> Any:
    """A cell as the command line would read it."""
    usual = default_arguments()[name]
    if cell is None or (isinstance(usual, bool) and isinstance(cell, bool)):
        return cell
    text = str(cell).strip()
    if isinstance(usual, bool):
        if text.lower() not in _TRUE + _FALSE:
            raise _BadCell(f"'{text}' is neither yes nor no")
        return text.lower() in _TRUE
    option = f"--{name.replace('_', '-')}"
    try:
        return getattr(_parser().parse_args([f"{option}={text}"]), name)
    except _BadCell:
        if not isinstance(cell, DecimalCell) or not isinstance(usual, float):
            raise
        return getattr(_parser().parse_args([f"{option}={text.replace(',', '.')}"]), name)


def _file(name: str, cell: Any, base: Path) -> str:
    """An absolute path to something that is there and may be read."""
    path = os.path.abspath(base / Path(str(cell)).expanduser())
    try:
        folder = os.path.isdir(path)
        if not folder and not os.path.exists(path):
            raise _BadCell(f"there is no file {path}")
        if folder and name not in _FOLDERS:
            raise _BadCell(f"{path} is a folder; give a file")
        if not os.access(path, os.R_OK):
            raise _BadCell(f"{path} may not be read (permission denied)")
    except (OSError, ValueError) as error:  # too long, or with a character that no path has
        raise _BadCell(f"'{cell}' is no path that can be read ({error})") from None
    return path


def check_value(name: str, value: Any, local: bool) -> None:
    """Refuse a value of an option that no pair can have.

    Raises
    ------
    InputError
        With the message that ``register`` would give.
    """
    # Imported here, so that proposing a manifest need not wait for torch.
    from ..commands import inference_settings
    from ..devices import resolve_device
    from ..methods import get_method
    from ..registration import check_options

    if value is None:
        return
    if name == "method":
        get_method(value)
    elif name in ("affine", "refine_steps", "smoothness"):
        check_options(**{name: value})
    elif name == "device" and local:
        resolve_device(value)
    elif name not in FILES:
        inference_settings(argparse.Namespace(**{**default_arguments(), name: value}))


class _Checker:
    """Turns rows into pairs and collects what is wrong with them."""

    def __init__(self, base: Path, values: Mapping[str, Any], local: bool, table: Table) -> None:
        self.problems = table.problems
        self._base, self._values, self._local, self._word = base, values, local, table.word
        self._seen: dict[str, int] = {}
        self._checked: dict[tuple[str, Any], Any] = {}

    def _add(self, row: int, column: str, text: str) -> None:
        end = "" if text.endswith((".", "?")) else "."
        self.problems.append(f"{self._word.capitalize()} {row}, column {column}: {text}{end}")

    def name(self, row: int, cells: Mapping[str, Any]) -> str:
        """The id of a row."""
        name = str(cells.get("id", "")).strip()
        if not name:
            self._add(row, "id", "every pair needs an id")
        elif len(name) > _LONGEST_ID or not _ID.fullmatch(name) or _RESERVED.fullmatch(name):
            self._add(
                row,
                "id",
                f"'{name[:40]}' cannot name a folder; use letters, digits, '.', '_' and '-', at most {_LONGEST_ID}, "
                "with no dot at either end",
            )
        elif name.lower() in self._seen:
            # Folders whose names differ in capitals only are one and the same on many disks.
            self._add(row, "id", f"'{name}' is the id of {self._word} {self._seen[name.lower()]} already")
        else:
            self._seen[name.lower()] = row
        return name

    def pair(self, row: int, name: str, cells: Mapping[str, Any]) -> PairSpec | None:
        """The pair of a row; None where its other columns have a mistake."""
        before = len(self.problems)
        arguments = dict(self._values)
        for column, cell in cells.items():
            if column != "id":
                try:
                    arguments[column] = self._cell(column, cell)
                except (_BadCell, InputError) as error:
                    self._add(row, column, str(error))
        for column in ("fixed", "moving"):
            if column not in cells and arguments[column] is None:
                self._add(row, column, "an image is needed")
        if len(self.problems) == before:
            for column, text in _combinations(arguments):
                self._add(row, column, text)
        if len(self.problems) == before and arguments["checkpoint"] is None:
            # Named, so that its contents count in the pair's fingerprint, and a worker reads it once.
            arguments["checkpoint"] = _shipped(arguments)
        return PairSpec(name, arguments, row) if len(self.problems) == before else None

    def _cell(self, column: str, cell: Any) -> Any:
        """The value of a cell; the same cell is looked at once."""
        key = column, str(cell)
        if key not in self._checked:
            try:
                value = _file(column, cell, self._base) if column in FILES else _value(column, cell)
                check_value(column, value, self._local)
                self._checked[key] = value
            except (_BadCell, InputError) as error:
                self._checked[key] = error
        if isinstance(self._checked[key], Exception):
            raise self._checked[key]
        return self._checked[key]

    def check_checkpoints(self, specs: Sequence[PairSpec]) -> None:
        """Read every checkpoint once: a damaged one, or one of another method, fails every pair that uses it."""
        from ..checkpoints import read_checkpoint
        from ..presets import method_of

        looked: set[tuple[Any, ...]] = set()
        for spec in specs:
            a = spec.arguments
            key = a["checkpoint"], a["backward_checkpoint"], a["method"], a["preset"]
            if key[0] is not None and key not in looked:
                looked.add(key)
                try:
                    read_checkpoint(a["checkpoint"], method_of(a["method"], a["preset"]), a["backward_checkpoint"])
                except InputError as error:
                    self._add(spec.row, "checkpoint", str(error))


def _shipped(arguments: Mapping[str, Any]) -> str | None:
    """The weights that come with the method, if any."""
    from ..methods import get_method
    from ..presets import method_of

    path = get_method(method_of(arguments["method"], arguments["preset"])).shipped_checkpoint()
    return None if path is None else str(path)


def _combinations(arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Column and text of everything in a row that does not go together."""
    from ..presets import method_of
    from ..registration import check_options

    found = []
    try:
        method = method_of(arguments["method"], arguments["preset"])
    except InputError as error:
        return [("preset", str(error))]
    try:
        check_options(method, arguments["checkpoint"], arguments["backward_checkpoint"])
    except InputError as error:
        found.append(("checkpoint", str(error)))
    for kind in ("landmarks", "segmentation"):
        for side, other in (("fixed", "moving"), ("moving", "fixed")):
            if arguments[f"{side}_{kind}"] is None and arguments[f"{other}_{kind}"] is not None:
                found.append((f"{side}_{kind}", f"it is needed beside {other}_{kind}, or neither"))
    if arguments["tumor_segment"] is not None and arguments["fixed_segmentation"] is None:
        found.append(("tumor_segment", "it needs fixed_segmentation and moving_segmentation"))
    return found
