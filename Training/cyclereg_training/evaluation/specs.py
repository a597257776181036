"""What is compared: methods with their weights and options, as the command line has them."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from CycleRegLib.batch.manifest import FILES, default_arguments
from CycleRegLib.errors import InputError
from CycleRegLib.methods import get_method

BEFORE = "before registration"
_NAME = re.compile(r"[A-Za-z0-9_-](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")
#: What a method's own options cannot be: its files come from the list, and its weights stand at their own place.
_NOT_OPTIONS = (*FILES, "method")


@dataclass(frozen=True)
class MethodSpec:
    """A method as it is evaluated.

    Attributes
    ----------
    name
        In tables, and of its folder.
    method, checkpoint
        Id of :mod:`CycleRegLib.methods`, and its weights, absolute.
    options
        Columns of a batch's manifest besides, such as ``refine_steps``.
    """

    name: str
    method: str
    checkpoint: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


def read_specs(texts: Sequence[str], common: Sequence[str] = ()) -> list[MethodSpec]:
    """Methods from ``[NAME:]ID[=CHECKPOINT][,OPTION=VALUE...]``.

    Parameters
    ----------
    common
        ``OPTION=VALUE`` of all methods; a method's own options come before them.

    Raises
    ------
    InputError
        For methods and options that do not exist, weights that are missing, and names that are given twice.
    """
    shared = _options(common)
    specs = [_spec(text, shared) for text in texts]
    names = [spec.name.lower() for spec in specs]
    for spec in specs:
        if names.count(spec.name.lower()) > 1:
            raise InputError(
                f"Two methods are called '{spec.name}'. Name them, such as first:{spec.method} and "
                f"second:{spec.method}."
            )
    return specs


def _spec(text: str, shared: dict[str, Any]) -> MethodSpec:
    # Only what looks like an option ends a file's name, which may have commas.
    head, *options = re.split(r",(?=[a-z_]+=)", text.strip())
    front, _, file = head.partition("=")
    name, colon, method = front.rpartition(":")
    name = name if colon else method
    known = get_method(method)
    if not _NAME.fullmatch(name) or name == BEFORE:
        raise InputError(f"A method cannot be called '{name}': use letters, digits, '.', '_' and '-', at most 64.")
    checkpoint = None
    if file:
        checkpoint = os.path.abspath(Path(file).expanduser())
        if not os.path.isfile(checkpoint):
            raise InputError(f"There is no checkpoint {checkpoint} for the method {name}. Check the path.")
        if not known.uses_checkpoint:
            raise InputError(f"The method {method} has no weights; write {method} without '={file}'.")
    elif known.needs_checkpoint:
        raise InputError(f"The method {method} needs weights: write {method}=FILE.safetensors.")
    return MethodSpec(name, method, checkpoint, {**shared, **_options(options)})


def _options(texts: Sequence[str]) -> dict[str, Any]:
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise InputError(f"'{text}' is no option; write OPTION=VALUE, such as refine_steps=50.")
        if key in _NOT_OPTIONS:
            raise InputError(f"'{key}' is no option of a method here: files stand in the list, a method in --methods.")
        if key not in default_arguments():
            near = difflib.get_close_matches(key, [k for k in default_arguments() if k not in _NOT_OPTIONS], n=1)
            raise InputError(f"There is no option '{key}'." + (f" Did you mean '{near[0]}'?" if near else ""))
        found[key] = value.strip()
    return found
