"""PySide6 with the manners of PythonQt, by which Slicer's Python speaks to Qt.

* Qt properties are attributes: ``button.text = "Apply"``, ``combo.currentData``.
* Signals are also connected by their C++ signature: ``button.connect("clicked(bool)", f)``; ``f`` gets the arguments
  that the signature names, or the first of them if it takes fewer.
* The object name is the attribute ``name``.

Both need a Python subclass of every Qt class, because PySide6's own classes cannot be changed.
"""

from __future__ import annotations

import functools
import inspect
import types
from typing import Any, Callable

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

# Virtual functions that are properties too: Qt itself calls them, so they stay functions.
_VIRTUAL = {"sizeHint", "minimumSizeHint"}


def _as_attribute(name: str) -> property:
    return property(
        lambda self: QtCore.QObject.property(self, name),
        lambda self, value: QtCore.QObject.setProperty(self, name, value),
    )


def _arguments_taken(function: Callable[..., Any]) -> int | None:
    """How many positional arguments ``function`` takes; None for any number."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    return sum(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD) for parameter in parameters
    )


def _connect(self: Any, signature: str, function: Callable[..., Any]) -> None:
    name, _, listed = signature.rstrip(")").partition("(")
    taken = _arguments_taken(function)

    def call(*arguments: Any) -> Any:
        return function(*arguments[:taken])

    # By the number of arguments PySide6 tells clicked() from clicked(bool), and PythonQt what a function is given.
    by_count = (lambda: call(), lambda a: call(a), lambda a, b: call(a, b), lambda a, b, c: call(a, b, c))
    getattr(self, name).connect(by_count[len(listed.split(",")) if listed else 0])


def with_manners(cls: type) -> type:
    """A subclass of a Qt class (or of a Python subclass of one) with PythonQt's manners."""
    meta = cls.staticMetaObject
    # PySide6 finds `connect` in the class itself only, an inherited one is passed over.
    attributes: dict[str, Any] = {"name": _as_attribute("objectName"), "connect": _connect}
    for index in range(meta.propertyCount()):
        name = meta.property(index).name()
        # A property that was declared in Python is an attribute already.
        if name not in _VIRTUAL and not isinstance(getattr(cls, name, None), QtCore.Property):
            attributes.setdefault(name, _as_attribute(name))
    return type(cls.__name__, (cls,), attributes)


@functools.cache
def _class(name: str) -> Any:
    for module in (QtCore, QtGui, QtWidgets, QtUiTools):
        found = getattr(module, name, None)
        if found is not None:
            break
    else:
        raise AttributeError(f"qt has no {name}")
    if isinstance(found, type) and issubclass(found, QtWidgets.QWidget):
        return with_manners(found)
    return found


def qt_module() -> types.ModuleType:
    """The module ``qt``: the classes of QtCore, QtGui, QtWidgets and QtUiTools, each made when first asked for."""
    module = types.ModuleType("qt")
    module.__getattr__ = _class
    return module
