"""Binds widgets to the parameter node: what the user chooses is written, what the node says is shown.

A widget takes part if its ``.ui`` file gives it the dynamic property ``SlicerParameterName``, as with Slicer's own
``connectGui``.  That one is not used, because it replaces the node types of selectors and the items of combo boxes by
what the type of the field tells, and because widgets would stay bound to a parameter set that is no longer shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

import qt

PROPERTY = "SlicerParameterName"


def _writeComboBox(widget: Any, value: Any) -> None:
    """Select the item with that data; what is not among the items (a GPU of another machine) is added as it is."""
    index = widget.findData(value)
    if index < 0:
        widget.addItem(str(value), value)
        index = widget.findData(value)
    widget.setCurrentIndex(index)


def _writeNode(widget: Any, node: Any) -> None:
    # The parameter node remembers a node that was removed from the scene until something else is changed.
    widget.setCurrentNode(node if node is not None and node.GetScene() is not None else None)


#: By class of widget: its signal, how to read and how to write its value.
_KINDS: dict[str, tuple[str, Callable[[Any], Any], Callable[[Any, Any], None]]] = {
    "qMRMLNodeComboBox": ("currentNodeChanged(vtkMRMLNode*)", lambda w: w.currentNode(), _writeNode),
    # Items carry the value as their data, their text is for people.
    "QComboBox": ("currentIndexChanged(int)", lambda w: w.currentData, _writeComboBox),
    "QCheckBox": ("toggled(bool)", lambda w: bool(w.checked), lambda w, value: w.setChecked(value)),
    "QSlider": ("valueChanged(int)", lambda w: int(w.value), lambda w, value: w.setValue(value)),
    "QSpinBox": ("valueChanged(int)", lambda w: int(w.value), lambda w, value: w.setValue(value)),
    "QDoubleSpinBox": ("valueChanged(double)", lambda w: float(w.value), lambda w, value: w.setValue(value)),
    "QLineEdit": ("textChanged(QString)", lambda w: str(w.text), lambda w, value: w.setText(value)),
    "ctkPathLineEdit": (
        "currentPathChanged(QString)",
        lambda w: str(w.currentPath),
        lambda w, value: setattr(w, "currentPath", value),
    ),
}


class Bindings:
    """All bound widgets of the panel.

    Parameters
    ----------
    ui
        The panel's widgets, as ``slicer.util.childWidgetVariables`` gives them; combo boxes hold their items already.
    parameterNode
        Gives the parameter set that is shown now, or None.
    """

    def __init__(self, ui: Any, parameterNode: Callable[[], Any]) -> None:
        self._parameterNode = parameterNode
        self._showing = False
        self._bound: list[tuple[str, Any, Callable[[Any], Any], Callable[[Any, Any], None]]] = []
        for widget in list(vars(ui).values()):
            field = widget.property(PROPERTY)
            if field:
                kind = widget.metaObject().className()
                signal, read, write = _KINDS[kind]
                self._bound.append((field, widget, read, write))
                self._connect(widget, signal, field, widget, read)
                if kind == "ctkPathLineEdit":
                    # It tells of paths only that match its filters, so not that it was emptied; its own line does.
                    for line in widget.findChildren(qt.QComboBox):
                        self._connect(line, "editTextChanged(QString)", field, widget, read)

    def _connect(self, sender: Any, signal: str, field: str, widget: Any, read: Callable[[Any], Any]) -> None:
        sender.connect(signal, lambda *_: self._onChanged(field, read(widget)))

    def fields(self) -> list[str]:
        """The fields that a widget shows."""
        return [field for field, *_ in self._bound]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Write nothing meanwhile: for changes of a widget that are not the user's choice."""
        before, self._showing = self._showing, True
        try:
            yield
        finally:
            self._showing = before

    def show(self) -> None:
        """Show what the parameter set says."""
        node = self._parameterNode()
        if node is None or self._showing:
            return
        self._showing = True
        try:
            for field, widget, read, write in self._bound:
                value = node.getValue(field)
                if read(widget) != value:
                    write(widget, value)
        finally:
            self._showing = False

    def forget(self, node: Any) -> None:
        """A node is about to be removed from the scene: nothing is chosen in its place.

        Its selectors would take the next node by themselves, and a result would then overwrite that one.
        """
        parameters = self._parameterNode()
        if parameters is None:
            return
        for field in self.fields():
            if parameters.getValue(field) is node:
                parameters.setValue(field, None)

    def _onChanged(self, field: str, value: Any) -> None:
        node = self._parameterNode()
        if node is not None and not self._showing and node.getValue(field) != value:
            node.setValue(field, value)
