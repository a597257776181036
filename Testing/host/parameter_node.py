"""A stand-in for ``slicer.parameterNodeWrapper``: typed access to a ``vtkMRMLScriptedModuleNode``.

As Slicer documents and does it (Developer Guide, "Parameter nodes"):

* a class's annotated members become properties; what the node lacks is written with its default when it is wrapped;
* numbers and texts are parameters of the node, truth values ``True`` and ``False``, nodes are references of the
  member's name beside an empty parameter, lists are ``name_len`` and ``name_0``, ``name_1``, … ;
* values are checked when they are written, first their type, and kept until the node is modified;
* a list writes itself into the node whenever it is changed.

Not here, because the panel does without: widgets (``connectGui``, ``createGui``), paths, enumerations, tuples,
dictionaries, unions and parameter packs.
"""

from __future__ import annotations

import sys
import types
import typing
import weakref
from collections.abc import Callable, MutableSequence
from typing import Any

import slicer
import vtk


class Default:
    """The default of a member, where it is not given with an equals sign; a generator makes it anew every time."""

    def __init__(self, value: Any = None, *, generator: Callable[[], Any] | None = None) -> None:
        self._value, self._generator = value, generator

    @property
    def value(self) -> Any:
        return self._generator() if self._generator is not None else self._value


class Validator:
    """What may be demanded of a value besides its type."""

    def validate(self, value: Any) -> None:
        raise NotImplementedError


class WithinRange(Validator):
    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} is not within {self.minimum} and {self.maximum}")


class Minimum(Validator):
    def __init__(self, minimum: float) -> None:
        self.minimum = minimum

    def validate(self, value: Any) -> None:
        if value < self.minimum:
            raise ValueError(f"{value} is less than {self.minimum}")


class Maximum(Validator):
    def __init__(self, maximum: float) -> None:
        self.maximum = maximum

    def validate(self, value: Any) -> None:
        if value > self.maximum:
            raise ValueError(f"{value} is more than {self.maximum}")


class Choice(Validator):
    def __init__(self, choices: list[Any]) -> None:
        self.choices = choices

    def validate(self, value: Any) -> None:
        if value not in self.choices:
            raise ValueError(f"{value} is none of {self.choices}")


# ---------------------------------------------------------------------- values in a node


class _Plain:
    """A number, text or truth value."""

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def default(self) -> Any:
        return self.kind()

    def is_in(self, node: Any, name: str) -> bool:
        return bool(node.HasParameter(name))

    def check(self, value: Any) -> None:
        if value is None:
            raise ValueError("A value must not be None")
        if not isinstance(value, (int, float) if self.kind is float else self.kind):
            raise TypeError(f"{value!r} is not of type {self.kind.__name__}")

    def write(self, node: Any, name: str, value: Any) -> None:
        node.SetParameter(name, str(value))

    def read(self, node: Any, name: str) -> Any:
        text = node.GetParameter(name)
        return text == "True" if self.kind is bool else self.kind(text)

    def remove(self, node: Any, name: str) -> None:
        node.UnsetParameter(name)


class _Node(_Plain):
    """A node of the scene, or None."""

    def default(self) -> Any:
        return None

    def check(self, value: Any) -> None:
        if value is not None and not isinstance(value, self.kind):
            raise TypeError(f"{value!r} is not a {self.kind.__name__}")

    def write(self, node: Any, name: str, value: Any) -> None:
        # The parameter tells "none chosen" from "never written".
        node.SetParameter(name, "")
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def read(self, node: Any, name: str) -> Any:
        return node.GetNodeReference(name)

    def remove(self, node: Any, name: str) -> None:
        super().remove(node, name)
        node.RemoveNodeReferenceIDs(name)


class _List:
    """Values of one type."""

    def __init__(self, element: _Validated) -> None:
        self.element, self.length = element, _Plain(int)

    def default(self) -> list[Any]:
        return []

    def is_in(self, node: Any, name: str) -> bool:
        return self.length.is_in(node, f"{name}_len")

    def check(self, values: Any) -> None:
        """Every element is checked when it is written."""

    def write(self, node: Any, name: str, values: Any) -> None:
        before = list(self.read(node, name)) if self.is_in(node, name) else []
        with slicer.util.NodeModify(node):
            try:
                self._write(node, name, values, len(before))
            except Exception:
                # Whole or not at all.
                self._write(node, name, before, len(values))
                raise

    def _write(self, node: Any, name: str, values: Any, count_before: int) -> None:
        for index, value in enumerate(values):
            self.element.write(node, f"{name}_{index}", value)
        self.length.write(node, f"{name}_len", len(values))
        for index in range(len(values), count_before):
            self.element.remove(node, f"{name}_{index}")

    def remove(self, node: Any, name: str) -> None:
        self._write(node, name, [], len(self.read(node, name)))
        self.length.remove(node, f"{name}_len")

    def read(self, node: Any, name: str) -> _Observed:
        count = self.length.read(node, f"{name}_len")
        return _Observed(self, node, name, [self.element.read(node, f"{name}_{index}") for index in range(count)])


class _Observed(MutableSequence):
    """A list that writes itself into its node whenever it is changed, and otherwise cannot be added to."""

    def __init__(self, kind: _List, node: Any, name: str, values: list[Any]) -> None:
        self._kind, self._node, self._name, self._values = kind, node, name, values

    def _save(self) -> None:
        try:
            self._kind.write(self._node, self._name, self._values)
        finally:
            # What the node refused is not in the list either.
            self._values = self._kind.read(self._node, self._name)._values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._values[index] = value
        self._save()

    def __delitem__(self, index: Any) -> None:
        del self._values[index]
        self._save()

    def insert(self, index: int, value: Any) -> None:
        self._values.insert(index, value)
        self._save()

    def __add__(self, other: Any) -> Any:
        raise NotImplementedError("Only += changes the list of a parameter node")

    __radd__ = __mul__ = __rmul__ = __add__

    def __eq__(self, other: Any) -> bool:
        return self._values == (other._values if isinstance(other, _Observed) else other)

    __hash__ = None


class _Validated:
    """A kind of value with what else is demanded of it."""

    def __init__(self, annotation: Any) -> None:
        kind, *extra = typing.get_args(typing.Annotated[annotation, None])[:-1]
        self.validators = [one for one in extra if isinstance(one, Validator)]
        self.given = next((one for one in extra if isinstance(one, Default)), None)
        if typing.get_origin(kind) is list:
            self.kind = _List(_Validated(typing.get_args(kind)[0]))
        elif kind in (int, float, str, bool):
            self.kind = _Plain(kind)
        elif isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode):
            self.kind = _Node(kind)
        else:
            raise TypeError(f"The stand-in keeps no {kind}")
        self.is_in, self.read, self.remove = self.kind.is_in, self.kind.read, self.kind.remove

    def write(self, node: Any, name: str, value: Any) -> None:
        self.kind.check(value)
        for validator in self.validators:
            validator.validate(value)
        self.kind.write(node, name, value)


class _Member(_Validated):
    """One annotated member of a class."""

    def __init__(self, owner: type, name: str, annotation: Any) -> None:
        super().__init__(annotation)
        self.annotation = annotation
        if hasattr(owner, name):
            self.default = Default(getattr(owner, name))
        else:
            self.default = self.given or Default(generator=self.kind.default)


# ---------------------------------------------------------------------- the wrapper


class _Cache:
    """The values of one node, read again whenever it is modified by others."""

    def __init__(self, node: Any, members: dict[str, _Member], prefix: str) -> None:
        self._node, self._members, self._prefix = node, members, prefix
        self._writing = False
        self.values: dict[str, Any] = {}
        # The node outlives wrappers and must not keep them.
        me = weakref.ref(self)
        self._tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: me() and me()._recall())
        self._recall()

    def __del__(self) -> None:
        # VTK may be gone before this when Python ends.
        if not sys.is_finalizing():
            self._node.RemoveObserver(self._tag)

    def _recall(self) -> None:
        """Read everything; what the node lacks, as after a scene was closed, is written with its default."""
        if self._writing:
            return
        self._writing = True
        try:
            for name, member in self._members.items():
                key = self._prefix + name
                if not member.is_in(self._node, key):
                    member.write(self._node, key, member.default.value)
                self.values[name] = member.read(self._node, key)
        finally:
            self._writing = False

    def write(self, name: str, value: Any) -> None:
        member, key = self._members[name], self._prefix + name
        self._writing = True
        try:
            # Who is told of the change reads the new value already.
            with slicer.util.NodeModify(self._node):
                member.write(self._node, key, value)
                self.values[name] = member.read(self._node, key)
        finally:
            self._writing = False


def _members_of(cls: type) -> dict[str, _Member]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {name: _Member(cls, name, annotation) for name, annotation in hints.items()}


def _member(wrapper: Any, name: str) -> _Member:
    if name not in wrapper.allParameters:
        raise ValueError(f"There is no parameter {name}, but {', '.join(wrapper.allParameters)}")
    return wrapper.allParameters[name]


def _init(self: Any, parameterNode: Any, prefix: str | None = None) -> None:
    self.parameterNode = parameterNode
    self._cache = _Cache(parameterNode, self.allParameters, prefix or "")


def _get(self: Any, name: str) -> Any:
    _member(self, name)
    return self._cache.values[name]


def _set(self: Any, name: str, value: Any) -> None:
    _member(self, name)
    self._cache.write(name, value)


_METHODS: dict[str, Callable[..., Any]] = {
    "getValue": _get,
    "setValue": _set,
    "default": lambda self, name: _member(self, name).default,
    "dataType": lambda self, name: _member(self, name).annotation,
    "isCached": lambda self, name: _member(self, name) is not None,
    "StartModify": lambda self: self.parameterNode.StartModify(),
    "EndModify": lambda self, state: self.parameterNode.EndModify(state),
    "AddObserver": lambda self, event, function, priority=0.0: self.parameterNode.AddObserver(
        event, function, priority
    ),
    "RemoveObserver": lambda self, tag: self.parameterNode.RemoveObserver(tag),
    "Modified": lambda self: self.parameterNode.Modified(),
}


def parameterNodeWrapper(cls: type | None = None) -> Any:
    """The class decorator, with or without parentheses; what else the class defines stays."""
    if cls is None:
        return parameterNodeWrapper
    members = _members_of(cls)
    for name in members:
        setattr(
            cls, name, property(lambda self, n=name: _get(self, n), lambda self, value, n=name: _set(self, n, value))
        )
    for name, method in {"allParameters": members, **_METHODS}.items():
        if hasattr(cls, name):
            raise ValueError(f"The name {name} is the wrapper's own")
        setattr(cls, name, method)
    cls.__init__ = _init
    return cls


def module() -> types.ModuleType:
    """The module ``slicer.parameterNodeWrapper``."""
    made = types.ModuleType("slicer.parameterNodeWrapper")
    for one in (parameterNodeWrapper, Default, Validator, WithinRange, Minimum, Maximum, Choice):
        setattr(made, one.__name__, one)
    return made
