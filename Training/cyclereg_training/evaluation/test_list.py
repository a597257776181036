"""The pairs on which methods are evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from CycleRegLib.batch.manifest import FILES, default_arguments
from CycleRegLib.batch.manifest_table import read_table
from CycleRegLib.errors import InputError

_OF_METHODS = ("method", "checkpoint", "backward_checkpoint")
_OF_TRAINING = ("patient", "split")


def read_test_list(source: str | Path) -> list[dict[str, Any]]:
    """Rows of a batch's manifest, from one, or from a list of pairs for training.

    Of a list with the column ``split``, the pairs for testing.  A pair without ``id`` gets ``pair-0001``, … .  Paths
    become absolute.

    Raises
    ------
    InputError
        If there is no such list, it has mistakes, holds volumes rather than pairs, no pair for testing, or says by
        which method its pairs are to be registered.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        what = "is a folder; give a list of pairs" if path.is_dir() else "does not exist"
        raise InputError(f"The test list {path} {what}.")
    table = read_table(path, ["id", *default_arguments(), *_OF_TRAINING, "path", "phase"])
    named = {name for _, cells in table.rows for name in cells}
    if table.problems:
        raise InputError(f"The test list {path}: {table.problems[0]}")
    if "path" in named:
        raise InputError(
            f"The test list {path} holds volumes, not pairs. 'cyclereg-train prepare CONFIG data.source=list "
            f"data.path={path} --output DIR' writes DIR/test.csv with the pairs for testing: give that."
        )
    given = [name for name in _OF_METHODS if name in named]
    if given:
        raise InputError(f"The test list {path} has the column {given[0]}; methods are given with --methods instead.")
    rows = []
    for number, (_, cells) in enumerate(table.rows, start=1):
        if "split" in named and str(cells.get("split", "")).lower() != "test":
            continue
        row = {"id": f"pair-{number:04d}", **cells}
        for name in _OF_TRAINING:
            row.pop(name, None)
        for name in FILES:
            if row.get(name) is not None:
                row[name] = str(path.parent.absolute() / Path(str(row[name])).expanduser())
        rows.append(row)
    if not rows:
        which = "pair whose split is test" if "split" in named else "pair"
        raise InputError(f"The test list {path} holds no {which}.")
    return rows
