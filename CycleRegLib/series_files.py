"""``cyclereg series``: the files of several moving images that are registered onto one fixed image.

The output folder holds ``series.json``, a list with the ``name``, ``status`` (``done`` or ``failed``) and ``reason`` of
every moving image, and for each that was registered a folder of its name with ``transform.nrrd``, ``warped.nrrd``,
``summary.json`` and, where it was asked for, ``inverse.nrrd``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .commands import make_folder, registration_options, write_json
from .errors import CycleRegError, InputError
from .images import read_label_image, read_transform, suffix_of, write_image, write_transform
from .images_2d import read_input
from .methods import get_method
from .outputs import OutputTransaction
from .planar import is_flat
from .presets import method_of
from .progress import make_progress
from .registration import RegistrationResult
from .series import register_series

INDEX = "series.json"
TRANSFORM, INVERSE, WARPED, SUMMARY = "transform.nrrd", "inverse.nrrd", "warped.nrrd", "summary.json"


def run_series(arguments: argparse.Namespace) -> None:
    """Register, and write each result as soon as it is there.

    Raises
    ------
    CycleRegError
        If one or more could not be registered, after all others were; names each with its reason.
    """
    names = _names(arguments.moving)
    options = registration_options(arguments)
    method = get_method(method_of(options["method"], options["preset"]))
    fixed = read_input(arguments.fixed, "fixed", method)
    if arguments.fixed_mask is not None:
        options["fixed_mask"] = read_label_image(arguments.fixed_mask, "fixed mask", is_flat(fixed))
    if arguments.initial_transform is not None:
        options["initial_transform"] = read_transform(
            arguments.initial_transform, "initial transform", fixed.GetDimension()
        )
    folder = make_folder(arguments.output, "results")
    if any(folder.iterdir()):
        raise InputError(f"The folder {folder} is not empty. Give a new one, so that nothing in it is replaced.")

    def reader(path: str) -> Callable[[], dict[str, Any]]:
        return lambda: {"moving": read_input(path, "moving", method)}

    moving = {name: reader(path) for name, path in names.items()}
    records = []
    for one in register_series(fixed, moving, make_progress(arguments.progress), **options):
        if one.registration is not None:
            _write(one.registration, folder / one.name, not arguments.no_volumes, arguments.inverse_transforms)
        status = "failed" if one.registration is None else "done"
        records.append({"name": one.name, "status": status, "reason": one.reason})
    with OutputTransaction() as out:
        out.path(folder / INDEX).write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
    failed = [f"{record['name']} ({record['reason']})" for record in records if record["status"] == "failed"]
    if failed:
        raise CycleRegError(f"{len(failed)} of {len(records)} could not be registered: {'; '.join(failed)}")


def _names(paths: list[str]) -> dict[str, str]:
    """The moving images by the names of their files without ending."""
    found: dict[str, str] = {}
    for path in paths:
        base = os.path.basename(os.path.normpath(path))
        ending = suffix_of(base)
        name = base[: -len(ending)] if ending and len(ending) < len(base) else base
        if name in found:
            raise InputError(f"Two moving images are called '{name}': {found[name]} and {path}. Rename one of them.")
        found[name] = path
    return found


def _write(result: RegistrationResult, place: Path, volume: bool, inverse: bool) -> None:
    place.mkdir()
    with OutputTransaction() as out:
        write_transform(result.field, out.path(place / TRANSFORM))
        if inverse:
            write_transform(result.inverse, out.path(place / INVERSE))
        if volume:
            write_image(result.warped, out.path(place / WARPED))
        write_json(result.summary(), out.path(place / SUMMARY))
