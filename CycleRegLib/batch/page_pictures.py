"""Which pictures a pair of a batch has, and what they show."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..report_text import CAPTIONS
from ..slices import PICTURE, PLANES


def picture_names(folder: Path) -> tuple[str, ...]:
    """The pictures of a pair without ``.png``, in the order of the single pair's report."""
    try:
        names = [name[:-4] for name in os.listdir(folder / "pictures") if name.endswith(".png")]
    except OSError:
        return ()
    kinds, planes = [*_KINDS], (*PLANES, PICTURE)

    def place(name: str) -> tuple[int, int, str]:
        kind, _, plane = name.rpartition("-")
        return (
            kinds.index(kind) if kind in kinds else len(kinds),
            planes.index(plane) if plane in planes else len(planes),
            name,
        )

    return tuple(sorted(names, key=place))


def _kinds() -> dict[str, tuple[str, str]]:
    """What pictures' names begin with -> (the caption they belong to, what they show)."""
    found = {"fixed": ("panels", "fixed"), "moving": ("panels", "moving"), "warped": ("panels", "warped")}
    for key in CAPTIONS:
        if key != "panels":
            found.update({key: (key, ""), f"{key}-before": (key, "before"), f"{key}-after": (key, "after")})
    return found


_KINDS = _kinds()


def first_picture(names: Sequence[str]) -> str:
    """The one that a link leads to where no script runs."""
    wanted = (f"checkerboard-after-{plane}" for plane in (*PLANES, PICTURE))
    return next((name for name in wanted if name in names), names[0])


def sorted_out(names: Sequence[str]) -> list[dict[str, Any]]:
    """Pictures by what they show: ``[{"heading", "rows": [[[name, label], ...], ...]}, ...]``."""
    groups: dict[str, dict[str, list[list[str]]]] = {}
    for name in names:
        kind, _, plane = name.rpartition("-")
        key, what = _KINDS.get(kind, ("", name))
        label = " · ".join(part for part in (what, plane if key and plane != PICTURE else "") if part)
        heading = CAPTIONS[key][0] if key else "More pictures"
        groups.setdefault(heading, {}).setdefault(kind, []).append([name, label or heading])
    return [{"heading": heading, "rows": [*rows.values()]} for heading, rows in groups.items()]
