"""How the report writes keys and values: names with units, numbers with fitting decimals, files, positions."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .report_page import escape, is_number, number

_NAMES = {
    "sd": "Standard deviation (SD)",
    "sd_log": "SD of log",
    "p95": "95th percentile",
    "max": "Maximum",
    "min": "Minimum",
    "sd_log_left_out": "Voxels without a logarithm",
    "roundtrip_inside_percent": "Voxels whose way stays inside, %",
    "checkpoint_sha256": "Checkpoint, SHA-256",
    "sha256": "SHA-256",
}
_UNITS = {"_mm": "mm", "_ml": "mL", "_percent": "%", "_mb": "MB", "_s": "s"}


def name_of(key: str, unit: str = "") -> str:
    """A key as a reader would write it: "peak_memory_mb" -> "Peak memory, MB".  A percentage keeps its own unit."""
    text = _NAMES.get(key)
    if text is None:
        ending = next((ending for ending in _UNITS if key.endswith(ending)), "")
        text = key[: len(key) - len(ending)].replace("_", " ")
        text = text[:1].upper() + text[1:] + (f", {_UNITS[ending]}" if ending else "")
    return f"{text}, {unit}" if unit and not key.endswith("_percent") else text


def percent(value: float) -> str:
    """A percentage in HTML; zero is a bare 0, and small shares get three decimals."""
    return number(value, 0 if value == 0 else 1 if abs(value) >= 1 else 3)


def figures(key: str, value: float) -> str:
    """A measure in HTML with the decimals that its key asks for."""
    if isinstance(value, int):
        return number(value, 0)
    return percent(value) if key.endswith("_percent") else number(value, 3)


def position(point: Sequence[float]) -> str:
    """A point in LPS mm as Slicer's readers know it, e.g. "R 12.0, A 3.5, S 40.1 mm"."""
    letters = (("L", "R"), ("P", "A"), ("S", "I"))
    return ", ".join(f"{pair[v < 0]} {abs(v):.1f}" for v, pair in zip(point, letters)) + " mm"


def input_name(value: Any) -> str:
    """The file name of an input given as a path, or as a mapping that has a ``path``; else an empty string."""
    value = value.get("path") if isinstance(value, Mapping) else value
    return Path(str(value)).name if isinstance(value, (str, Path)) and str(value) else ""


def plain_value(key: str, value: Any) -> str:
    """Any value of a summary in HTML: numbers, texts, lists, mappings; commands and checksums in a fixed-width face."""
    if is_number(value):
        return number(value, 0 if float(value).is_integer() else 1 if abs(value) >= 100 else 2)
    if isinstance(value, Mapping):
        return ", ".join(f"{escape(k)} {plain_value(str(k), v)}" for k, v in value.items() if v is not None)
    if isinstance(value, (list, tuple)):
        texts = [str(v) for v in value]
        value = shlex.join(texts) if key == "command" else ", ".join(texts)
    return f"<code>{escape(value)}</code>" if key in ("command", "checkpoint_sha256", "sha256") else escape(value)
