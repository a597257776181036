"""Stand-ins for the widgets of Slicer and CTK that the panel uses, and the loader of ``.ui`` files."""

from __future__ import annotations

import os
import re
import weakref
from typing import Any
from xml.etree import ElementTree

import shiboken6
import vtk
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

from .pythonqt import with_manners


class qMRMLWidget(QtWidgets.QWidget):
    """Passes its scene on to all widgets inside, as the ``.ui`` file's connections do in Slicer."""

    def setMRMLScene(self, scene: Any) -> None:
        for child in self.findChildren(QtWidgets.QWidget):
            if hasattr(child, "setMRMLScene"):
                child.setMRMLScene(scene)


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The representation of a scripted module; ``self()`` gives the Python object that fills it."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.filled_by: Any = None

    def self(me) -> Any:
        return me.filled_by


def _option(kind: type, name: str, default: Any) -> Any:
    """A property of a node selector; what it lists follows."""
    return QtCore.Property(
        kind, lambda self: self._options.get(name, default), lambda self, value: self._set_option(name, value)
    )


class qMRMLNodeComboBox(QtWidgets.QComboBox):
    """Lists the scene's nodes of its types, "None" first; follows nodes that are added, removed and renamed.

    As in Slicer, hidden nodes are left out unless ``showHidden``; nodes of a type to which an attribute was added are
    listed only with that attribute, and made with it; when its own node goes, a selector takes the next one; after a
    scene was loaded all nodes are listed anew, and none is chosen.
    """

    currentNodeChanged = QtCore.Signal(object)

    noneEnabled = _option(bool, "noneEnabled", False)
    noneDisplay = _option(str, "noneDisplay", "None")
    showHidden = _option(bool, "showHidden", False)
    showChildNodeTypes = _option(bool, "showChildNodeTypes", True)
    baseName = _option(str, "baseName", "")

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._scene = None
        self._observations: list[Any] = []
        self._current = None
        self._filling = False
        self._attributes: dict[str, tuple[str, str]] = {}
        self._options: dict[str, Any] = {}
        self._types: list[str] = []
        self.currentIndexChanged.connect(self._on_index)
        self.setEnabled(False)

    def _set_option(self, name: str, value: Any) -> None:
        self._options[name] = value
        self._fill()

    @property
    def nodeTypes(self) -> list[str]:
        return self._types

    @nodeTypes.setter
    def nodeTypes(self, types: Any) -> None:
        self._types = list(types)
        self._fill()

    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        for tag in self._observations:
            self._scene.RemoveObserver(tag)
        self._scene = scene
        # The scene outlives selectors, and must not keep them, nor call those that Qt has deleted.
        me = weakref.ref(self)

        def changed(*_: Any) -> None:
            selector = me()
            if selector is not None and shiboken6.isValid(selector):
                selector._fill()

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def removing(caller: Any, event: Any, node: Any) -> None:
            selector = me()
            if selector is not None and shiboken6.isValid(selector) and selector.currentNode() is node:
                selector._take_neighbour()

        def imported(*_: Any) -> None:
            selector = me()
            if selector is not None and shiboken6.isValid(selector):
                selector._fill()
                selector.setCurrentIndex(0)

        self._observations = [
            scene.AddObserver(event, changed)
            for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent)
        ]
        # Slicer's model of the scene follows it after all others.
        self._observations += [
            scene.AddObserver(scene.NodeAboutToBeRemovedEvent, removing, -10.0),
            scene.AddObserver(scene.EndImportEvent, imported),
        ]
        self.setEnabled(True)
        self._fill()

    def addAttribute(self, node_type: str, name: str, value: str) -> None:
        self._attributes[node_type] = (name, value)
        self._fill()

    def addNode(self, node_type: str = "") -> Any:
        """As the user's choice of "Create new": the node is selected."""
        node_type = node_type or self.nodeTypes[0]
        node = self._scene.CreateNodeByClass(node_type)
        node.UnRegister(None)
        node.SetName(self._scene.GenerateUniqueName(self.baseName or node.GetNodeTagName()))
        if node_type in self._attributes:
            node.SetAttribute(*self._attributes[node_type])
        self._scene.AddNode(node)
        self.setCurrentNode(node)
        return node

    def _nodes(self) -> list[Any]:
        found = []
        for node_type in self.nodeTypes:
            name, value = self._attributes.get(node_type, (None, None))
            for index in range(self._scene.GetNumberOfNodesByClass(node_type)):
                node = self._scene.GetNthNodeByClass(index, node_type)
                is_child = node.GetClassName() != node_type
                hidden = node.GetHideFromEditors() and not self.showHidden
                if is_child and not self.showChildNodeTypes:
                    continue
                if not hidden and (name is None or node.GetAttribute(name) == value):
                    found.append(node)
        return found

    def _fill(self) -> None:
        if self._filling or self._scene is None:
            return
        self._filling = True
        chosen = self._current
        self.blockSignals(True)
        self.clear()
        if self.noneEnabled:
            self.addItem(self.noneDisplay)
        for node in self._nodes():
            self.addItem(node.GetName(), node.GetID())
        index = self.findData(chosen.GetID()) if chosen is not None else 0
        self.setCurrentIndex(max(index, 0))
        self.blockSignals(False)
        self._filling = False
        self._on_index()

    def showPopup(self) -> None:
        self._fill()
        super().showPopup()

    def _take_neighbour(self) -> None:
        index, count = QtWidgets.QComboBox.currentIndex(self), QtWidgets.QComboBox.count(self)
        self.setCurrentIndex(index + 1 if index + 1 < count else index - 1)

    def _on_index(self, *_: Any) -> None:
        node = self.currentNode()
        if node is not self._current:
            self._current = node
            self.currentNodeChanged.emit(node)

    def currentNode(self) -> Any:
        node_id = self.itemData(QtWidgets.QComboBox.currentIndex(self))
        return self._scene.GetNodeByID(node_id) if node_id and self._scene is not None else None

    def setCurrentNode(self, node: Any) -> None:
        if node is not None and self.findData(node.GetID()) < 0:
            self._fill()
        self.setCurrentIndex(max(self.findData(node.GetID()), 0) if node is not None else 0)


class ctkCollapsibleButton(QtWidgets.QWidget):
    """A titled section that folds."""

    _HEADER = 24
    contentsCollapsed = QtCore.Signal(bool)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._text, self._collapsed = "", False
        self.setContentsMargins(0, self._HEADER, 0, 0)

    def _get_text(self) -> str:
        return self._text

    def _set_text(self, text: str) -> None:
        self._text = text
        self.update()

    def _get_collapsed(self) -> bool:
        return self._collapsed

    def _set_collapsed(self, collapsed: bool) -> None:
        changed = collapsed != self._collapsed
        self._collapsed = collapsed
        self._show_content()
        if changed:
            self.contentsCollapsed.emit(collapsed)

    text = QtCore.Property(str, _get_text, _set_text)
    collapsed = QtCore.Property(bool, _get_collapsed, _set_collapsed)

    def childEvent(self, event: QtCore.QChildEvent) -> None:
        # The UI loader sets the properties before it adds the content.
        super().childEvent(event)
        if self._collapsed:
            self._show_content()

    def _show_content(self) -> None:
        for child in self.findChildren(QtWidgets.QWidget, options=QtCore.Qt.FindDirectChildrenOnly):
            child.setVisible(not self._collapsed)
        self.setMaximumHeight(self._HEADER if self._collapsed else 16777215)

    def mousePressEvent(self, event: QtGui.QMouseEvent) -> None:
        if event.position().y() < self._HEADER:
            self._set_collapsed(not self._collapsed)

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        painter = QtWidgets.QStylePainter(self)
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = QtCore.QRect(0, 0, QtWidgets.QWidget.width(self), self._HEADER - 2)
        painter.drawControl(QtWidgets.QStyle.CE_PushButtonBevel, option)
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtCore.QRect(6, 5, 12, 12)
        right = QtWidgets.QStyle.PE_IndicatorArrowRight
        painter.drawPrimitive(right if self._collapsed else QtWidgets.QStyle.PE_IndicatorArrowDown, arrow)
        painter.drawText(option.rect.adjusted(24, 0, 0, 0), QtCore.Qt.AlignVCenter | QtCore.Qt.AlignLeft, self._text)


class ctkPathLineEdit(QtWidgets.QWidget):
    """An editable combo box for a path, with its history, and a button to choose one.

    As CTK's, it tells of paths only that match the name filters, of which it passes over "All files (*)": it is silent
    when it is emptied.
    """

    currentPathChanged = QtCore.Signal(str)
    validInputChanged = QtCore.Signal(bool)

    def __init__(self, parent: Any = None) -> None:
        import qt

        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        self._box = qt.QComboBox(self)
        self._box.setEditable(True)
        self._box.setInsertPolicy(QtWidgets.QComboBox.NoInsert)
        self._box.lineEdit().textChanged.connect(self._tell)
        self._filters: list[str] = []
        button = QtWidgets.QToolButton()
        button.setText("…")
        layout.addWidget(self._box, 1)
        layout.addWidget(button)

    def _set_filters(self, filters: list[str]) -> None:
        self._filters = list(filters)
        masks = [mask for text in filters for mask in re.findall(r"\(([^)]*)\)", text)[0].split() if mask != "*"]
        pattern = "|".join(QtCore.QRegularExpression.escape(mask).replace(r"\*", ".*") for mask in masks)
        validator = QtGui.QRegularExpressionValidator(QtCore.QRegularExpression(f"({pattern})"), self)
        self._box.lineEdit().setValidator(validator if masks else None)

    nameFilters = QtCore.Property("QStringList", lambda self: self._filters, _set_filters)

    def _tell(self, path: str) -> None:
        if self._box.lineEdit().hasAcceptableInput():
            self.currentPathChanged.emit(path)

    currentPath = QtCore.Property(
        str,
        lambda self: self._box.lineEdit().text(),
        lambda self, path: self._box.lineEdit().setText(path),
        notify=currentPathChanged,
    )

    def addCurrentPathToHistory(self) -> None:
        """First in the history; in between, the line shows the history's other paths, as CTK's does."""
        path = self._box.lineEdit().text()
        index = self._box.findText(path)
        if index >= 0:
            self._box.removeItem(index)
        self._box.insertItem(0, path)
        self._box.setCurrentIndex(0)


class ctkDirectoryButton(QtWidgets.QPushButton):
    """A button that shows the folder that is chosen."""

    directoryChanged = QtCore.Signal(str)

    def _set_directory(self, directory: str) -> None:
        if directory != self.text():
            self.setText(directory)
            self.directoryChanged.emit(directory)

    directory = QtCore.Property(str, lambda self: self.text(), _set_directory, notify=directoryChanged)


class ctkSliderWidget(QtWidgets.QDoubleSpinBox):
    """A number within bounds; the slider beside it is not drawn."""


class ctkRangeWidget(QtWidgets.QWidget):
    """Two numbers, the second not below the first; the slider between them is not drawn."""

    valuesChanged = QtCore.Signal(float, float)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        self._ends = [QtWidgets.QDoubleSpinBox(), QtWidgets.QDoubleSpinBox()]
        for end in self._ends:
            layout.addWidget(end)
            end.valueChanged.connect(self._on_value)

    def setRange(self, minimum: float, maximum: float) -> None:
        for end in self._ends:
            end.setRange(minimum, maximum)

    def setValues(self, low: float, high: float) -> None:
        self._ends[0].setValue(low)
        self._ends[1].setValue(max(low, high))

    def _on_value(self) -> None:
        self.valuesChanged.emit(*(end.value() for end in self._ends))

    minimumValue = QtCore.Property(float, lambda self: self._ends[0].value())
    maximumValue = QtCore.Property(float, lambda self: self._ends[1].value())


CTK = {
    cls.__name__: with_manners(cls)
    for cls in (ctkCollapsibleButton, ctkPathLineEdit, ctkDirectoryButton, ctkSliderWidget, ctkRangeWidget)
}
SLICER = {
    cls.__name__: with_manners(cls) for cls in (qMRMLWidget, qMRMLNodeComboBox, qSlicerScriptedLoadableModuleWidget)
}


class QUiLoader(QtUiTools.QUiLoader):
    """Loads a ``.ui`` file with these stand-ins, and with PythonQt's manners for Qt's own widgets."""

    def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> Any:
        import qt

        cls = CTK.get(class_name) or SLICER.get(class_name) or getattr(qt, class_name)
        widget = cls(parent)
        widget.setObjectName(name)
        return widget

    def load(self, file: Any, parent: Any = None) -> Any:
        """Load without what only Slicer's and CTK's compiled widgets understand; node types are set from here."""
        tree = ElementTree.parse(os.fspath(file.fileName())).getroot()
        for connections in tree.findall("connections"):
            # They pass the scene on, which the stand-in of qMRMLWidget does by itself.
            tree.remove(connections)
        node_types = {}
        for element in tree.iter("widget"):
            for prop in element.findall("property"):
                enumeration = prop.findtext("set") or prop.findtext("enum") or ""
                if prop.get("name") == "nodeTypes":
                    node_types[element.get("name")] = [text.text for text in prop.iter("string")]
                    element.remove(prop)
                elif enumeration.startswith("ctk"):
                    element.remove(prop)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(tree))
        widget = super().load(buffer, parent)
        for name, types in node_types.items():
            widget.findChild(qMRMLNodeComboBox, name).nodeTypes = types
        return widget
