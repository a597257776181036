"""A stand-in for ``slicer.parameterNodeWrapper``: typed access to a ``vtkMRMLScriptedModuleNode``, and its widgets.

As Slicer documents and does it (Developer Guide, "Parameter nodes"):

* a class's annotated members become properties; what the node lacks is written with its default when it is wrapped;
* numbers and texts are parameters of the node, truth values ``True`` and ``False``, nodes are references of the
  member's name beside an empty parameter, lists are ``name_len`` and ``name_0``, ``name_1``, … ;
* values are checked when they are written, and kept until the node is modified;
* ``connectGui`` binds the widgets inside a widget that have the dynamic property ``SlicerParameterName``; it sets
  their range, choices and node types from the member's type.
"""

from __future__ import annotations

import sys
import types
import typing
import weakref
from collections.abc import Callable, MutableSequence
from contextlib import contextmanager
from typing import Any

import slicer
import vtk

_PROPERTY = "SlicerParameterName"


class Default:
    """The default of a member, where it is not given with an equals sign."""

    def __init__(self, value: Any) -> None:
        self.value = value


class WithinRange:
    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within range [{self.minimum}, {self.maximum}], is {value}")


class Minimum:
    def __init__(self, minimum: float) -> None:
        self.minimum = minimum

    def validate(self, value: Any) -> None:
        if value < self.minimum:
            raise ValueError(f"Value must be at least {self.minimum}, is {value}")


class Choice:
    def __init__(self, choices: list[Any]) -> None:
        self.choices = choices

    def validate(self, value: Any) -> None:
        if value not in self.choices:
            raise ValueError(f"Value must be one of {self.choices}, is {value}")


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
        allowed = (int, float) if self.kind is float else self.kind
        if not isinstance(value, allowed):
            raise TypeError(f"Value must be of type {self.kind.__name__}, is {value!r}")

    def write(self, node: Any, name: str, value: Any) -> None:
        self.check(value)
        node.SetParameter(name, str(value))

    def read(self, node: Any, name: str) -> Any:
        text = node.GetParameter(name)
        return text == "True" if self.kind is bool else self.kind(text)

    def remove(self, node: Any, name: str) -> None:
        node.UnsetParameter(name)


class _Node:
    """A node of the scene, or None."""

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def default(self) -> Any:
        return None

    def is_in(self, node: Any, name: str) -> bool:
        return bool(node.HasParameter(name))

    def write(self, node: Any, name: str, value: Any) -> None:
        if value is not None and not isinstance(value, self.kind):
            raise TypeError(f"Value must be a {self.kind.__name__}, is {value!r}")
        node.SetParameter(name, "")
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def read(self, node: Any, name: str) -> Any:
        return node.GetNodeReference(name)

    def remove(self, node: Any, name: str) -> None:
        node.UnsetParameter(name)
        node.RemoveNodeReferenceIDs(name)


class _List:
    """Values of one type."""

    def __init__(self, element: Any) -> None:
        self.element, self.length = element, _Plain(int)

    def default(self) -> list[Any]:
        return []

    def is_in(self, node: Any, name: str) -> bool:
        return self.length.is_in(node, f"{name}_len")

    def write(self, node: Any, name: str, values: Any) -> None:
        with slicer.util.NodeModify(node):
            before = self.length.read(node, f"{name}_len") if self.is_in(node, name) else 0
            for index, value in enumerate(values):
                self.element.write(node, f"{name}_{index}", value)
            self.length.write(node, f"{name}_len", len(values))
            for index in range(len(values), before):
                self.element.remove(node, f"{name}_{index}")

    def read(self, node: Any, name: str) -> _Observed:
        count = self.length.read(node, f"{name}_len")
        return _Observed(self, node, name, [self.element.read(node, f"{name}_{index}") for index in range(count)])


class _Observed(MutableSequence):
    """A list that writes itself into its node whenever it is changed."""

    def __init__(self, kind: _List, node: Any, name: str, values: list[Any]) -> None:
        self._kind, self._node, self._name, self._values = kind, node, name, values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._values[index] = value
        self._kind.write(self._node, self._name, self._values)

    def __delitem__(self, index: Any) -> None:
        del self._values[index]
        self._kind.write(self._node, self._name, self._values)

    def insert(self, index: int, value: Any) -> None:
        self._values.insert(index, value)
        self._kind.write(self._node, self._name, self._values)

    def __eq__(self, other: Any) -> bool:
        return list(self) == list(other)

    __hash__ = None


def _kind_of(annotation: Any) -> Any:
    if typing.get_origin(annotation) is list:
        return _List(_kind_of(typing.get_args(annotation)[0]))
    if annotation in (int, float, str, bool):
        return _Plain(annotation)
    if isinstance(annotation, type) and issubclass(annotation, slicer.vtkMRMLNode):
        return _Node(annotation)
    raise TypeError(f"Unable to create serializer for type: {annotation}")


class _Member:
    """One annotated member of a class."""

    def __init__(self, owner: type, name: str, annotation: Any) -> None:
        self.name, self.validators, given = name, [], []
        if typing.get_origin(annotation) is typing.Annotated:
            annotation, *extra = typing.get_args(annotation)
            given = [one for one in extra if isinstance(one, Default)]
            self.validators = [one for one in extra if hasattr(one, "validate")]
        self.annotation, self.kind = annotation, _kind_of(annotation)
        if hasattr(owner, name):
            self.default = getattr(owner, name)
        else:
            self.default = given[0].value if given else self.kind.default()

    def write(self, node: Any, value: Any) -> None:
        for validator in self.validators:
            validator.validate(value)
        self.kind.write(node, self.name, value)


# ---------------------------------------------------------------------- widgets


def _bound(widget: Any, member: _Member) -> tuple[Any, Callable[[], Any], Callable[[Any], None]]:
    """The signal that tells of a change, and how the widget is read and written."""
    import qt

    within = next((one for one in member.validators if isinstance(one, WithinRange)), None)
    if type(widget) is qt.QCheckBox and member.annotation is bool:
        return widget.stateChanged, lambda: widget.checked, lambda value: setattr(widget, "checked", value)
    if (type(widget) is qt.QSpinBox and member.annotation is int) or (
        type(widget) is qt.QDoubleSpinBox and member.annotation is float
    ):
        if within is not None:
            widget.setRange(within.minimum, within.maximum)
        return widget.valueChanged, lambda: widget.value, lambda value: setattr(widget, "value", value)
    if type(widget) is qt.QLineEdit and member.annotation is str:
        return widget.textChanged, lambda: widget.text, lambda value: setattr(widget, "text", value)
    choice = next((one for one in member.validators if isinstance(one, Choice)), None)
    if type(widget) is qt.QComboBox and choice is not None:
        widget.clear()
        widget.addItems([str(one) for one in choice.choices])
        return (
            widget.currentIndexChanged,
            lambda: choice.choices[widget.currentIndex],
            lambda value: setattr(widget, "currentIndex", choice.choices.index(value)),
        )
    if type(widget) is slicer.qMRMLNodeComboBox and isinstance(member.kind, _Node):
        # The types in the .ui file do not count.
        widget.nodeTypes = [member.annotation.__name__]
        return widget.currentNodeChanged, widget.currentNode, widget.setCurrentNode
    raise RuntimeError(
        f"Unable to create GUI connector from datatype '{member.annotation}' to widget type '{type(widget)}'"
    )


# ---------------------------------------------------------------------- the wrapper


class _Wrapper:
    """What ``parameterNodeWrapper`` adds to a class."""

    allParameters: typing.ClassVar[dict[str, _Member]] = {}

    def __init__(self, parameterNode: Any, prefix: str | None = None) -> None:
        self.parameterNode = parameterNode
        self._guis: dict[int, list[tuple[str, Any, Callable[[], Any], Callable[[Any], None], Any]]] = {}
        self._updating = self._writing = False
        self._values: dict[str, Any] = {}
        self._recall()
        # A wrapper that nobody holds any more stops listening.
        me = weakref.ref(self)
        self._tag = parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: me() and me()._recall())

    def __del__(self) -> None:
        # VTK may be gone before this when Python ends.
        if not sys.is_finalizing():
            self.parameterNode.RemoveObserver(self._tag)

    def _recall(self) -> None:
        """Read everything; what the node lacks, as after a scene was closed, is written with its default."""
        if self._writing:
            return
        self._writing = True
        try:
            for name, member in self.allParameters.items():
                if not member.kind.is_in(self.parameterNode, name):
                    member.write(self.parameterNode, member.default)
                self._values[name] = member.kind.read(self.parameterNode, name)
        finally:
            self._writing = False

    def getValue(self, name: str) -> Any:
        return self._values[name]

    def setValue(self, name: str, value: Any) -> None:
        self._writing = True
        try:
            with slicer.util.NodeModify(self.parameterNode):
                self.allParameters[name].write(self.parameterNode, value)
                self._values[name] = self.allParameters[name].kind.read(self.parameterNode, name)
        finally:
            self._writing = False

    def default(self, name: str) -> Default:
        return Default(self.allParameters[name].default)

    def connectGui(self, gui: Any) -> int:
        from PySide6 import QtWidgets

        widgets = [w for w in gui.findChildren(QtWidgets.QWidget) if w.property(_PROPERTY)]
        unknown = [w.property(_PROPERTY) for w in widgets if w.property(_PROPERTY) not in self.allParameters]
        if unknown:
            raise ValueError(f"Cannot find a param with the given name: {unknown[0]}")
        bound = []
        for widget in widgets:
            name = widget.property(_PROPERTY)
            signal, read, write = _bound(widget, self.allParameters[name])
            write(self.getValue(name))

            def changed(*_: Any, name: str = name, read: Callable[[], Any] = read) -> None:
                if not self._updating:
                    self.setValue(name, read())

            signal.connect(changed)
            bound.append((name, signal, read, write, changed))
        tag = len(self._guis)
        self._guis[tag] = bound
        self.parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._show(tag))
        return tag

    def disconnectGui(self, tag: int) -> None:
        for _name, signal, _read, _write, changed in self._guis.pop(tag, []):
            signal.disconnect(changed)

    def _show(self, tag: int) -> None:
        if self._updating:
            return
        with self._busy():
            for name, _signal, _read, write, _changed in self._guis.get(tag, []):
                write(self.getValue(name))

    @contextmanager
    def _busy(self) -> Any:
        self._updating = True
        try:
            yield
        finally:
            self._updating = False

    def StartModify(self) -> Any:
        return self.parameterNode.StartModify()

    def EndModify(self, state: Any) -> Any:
        return self.parameterNode.EndModify(state)

    def AddObserver(self, event: Any, callback: Any, priority: float = 0.0) -> int:
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        self.parameterNode.Modified()


def parameterNodeWrapper(cls: type) -> type:
    """The class decorator."""
    members = {
        name: _Member(cls, name, annotation)
        for name, annotation in typing.get_type_hints(cls, include_extras=True).items()
    }
    for name in members:
        if hasattr(_Wrapper, name):
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
    properties = {
        name: property(
            lambda self, name=name: self.getValue(name), lambda self, value, name=name: self.setValue(name, value)
        )
        for name in members
    }
    return type(cls.__name__, (_Wrapper,), {**properties, "allParameters": members, "__doc__": cls.__doc__})


def module() -> types.ModuleType:
    """The module ``slicer.parameterNodeWrapper``."""
    made = types.ModuleType("slicer.parameterNodeWrapper")
    for one in (parameterNodeWrapper, Default, WithinRange, Minimum, Choice):
        setattr(made, one.__name__, one)
    return made
