"""Settings out of files: dataclasses as the schema, mappings as YAML gives them, refusals that say what is near."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, Union

from CycleRegLib.errors import InputError

T = TypeVar("T")
ROOT = "config"  # names of what lies in it need not say so


def filled(kind: type[T], values: Mapping[str, Any] | None, where: str) -> T:
    """A dataclass from a mapping; what is left out keeps its default, nested dataclasses are filled likewise.

    Parameters
    ----------
    kind
        The dataclass; its type hints say what each value has to be.
    values
        Values by name, as a YAML file gives them; lists become tuples where tuples are asked for.
    where
        What the settings are called in messages.

    Raises
    ------
    InputError
        If a name is unknown (the message says which are near), a value is of another kind, or a setting without a
        default is left out.
    """
    values = {} if values is None else values
    if not isinstance(values, Mapping):
        raise InputError(f"'{where}' holds settings by name, not {values!r}.")
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            near = get_close_matches(str(name), known, 3, 0.5) or list(known)
            raise InputError(f"'{where}' has no setting '{name}'; did you mean {' or '.join(near)}?")
        inner = name if where == ROOT else f"{where}.{name}"
        found[name] = _fitting(hints[name], value, inner)
    try:
        return kind(**found)
    except TypeError as error:
        missing = [name for name in known if f"'{name}'" in str(error)]
        if not missing:
            raise
        raise InputError(f"'{where}' needs a value for '{missing[0]}'.") from error


def _fitting(hint: Any, value: Any, where: str) -> Any:
    """The value as the type hint wants it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if is_dataclass(hint):
        return filled(hint, value, where)
    if origin in (Union, types.UnionType):
        return _first_fitting(arguments, value, where)
    if origin is Literal:
        if value in arguments:
            return value
        raise InputError(f"'{where}' is one of {', '.join(map(str, arguments))}, not {value!r}.")
    if origin is tuple:
        return _fitting_tuple(arguments, value, where)
    if origin in (list, dict) or hint in (list, dict) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return _fitting_collection(origin or hint, arguments, value, where)
    return _fitting_number(hint, value, where)


def _first_fitting(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in choices:
        return None
    choices = tuple(choice for choice in choices if choice is not type(None))
    refusals = []
    for choice in choices:
        try:
            return _fitting(choice, value, where)
        except InputError as refusal:
            refusals.append(refusal)
    if len(choices) == 1:
        raise refusals[0]
    raise InputError(f"'{where}' cannot be {value!r}.") from refusals[0]


def _fitting_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise InputError(f"'{where}' is a list, not {value!r}.")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = arguments[:1] * len(value)
    if len(arguments) != len(value):
        raise InputError(f"'{where}' is a list of {len(arguments)}, not {value!r}.")
    return tuple(_fitting(hint, item, where) for hint, item in zip(arguments, value, strict=True))


def _fitting_collection(kind: type, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if kind is list:
        if not isinstance(value, (list, tuple)):
            raise InputError(f"'{where}' is a list, not {value!r}.")
        return [_fitting(arguments[0], item, where) for item in value] if arguments else list(value)
    if not isinstance(value, Mapping):
        raise InputError(f"'{where}' holds settings by name, not {value!r}.")
    if not arguments:
        return dict(value)
    return {_fitting(arguments[0], k, where): _fitting(arguments[1], v, f"{where}.{k}") for k, v in value.items()}


def _fitting_number(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise InputError(f"'{where}' is a finite number, not {value!r}.")
        return float(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[hint]
    raise InputError(f"'{where}' is {wanted}, not {value!r}.")
