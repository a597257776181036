"""Stand-ins for ``slicer.app``, ``slicer.modules`` and ``slicer.ScriptedLoadableModule``."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import tempfile
import time
import types
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import slicer
import slicer.util
from PySide6 import QtCore, QtGui, QtWidgets

from . import parameter_node
from .layout import LayoutManager, modules
from .pythonqt import qt_module
from .widgets import CTK, SLICER, QUiLoader


class _ModuleManager:
    """Modules are never unloaded here."""

    def connect(self, signature: str, function: Callable[..., Any]) -> None:
        return None

    def disconnect(self, signature: str, function: Callable[..., Any]) -> None:
        return None


class _App:
    """What the panel and ``slicer.util`` ask of ``slicer.app``; messages are logged instead of shown."""

    applicationName = "Slicer stand-in"

    def __init__(self) -> None:
        self.temporaryPath = tempfile.gettempdir()
        self._manager = _ModuleManager()
        self._layouts = LayoutManager(slicer.mrmlScene)

    def testingEnabled(self) -> bool:
        return True

    def processEvents(self) -> None:
        QtWidgets.QApplication.processEvents()

    def moduleManager(self) -> _ModuleManager:
        return self._manager

    def layoutManager(self) -> LayoutManager:
        return self._layouts


class ScriptedLoadableModule:
    """As in Slicer: ``parent`` carries what the module says of itself."""

    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.moduleName = type(self).__name__


class ScriptedLoadableModuleWidget:
    """As in Slicer: the widget fills ``self.layout``; ``setup`` is called once by whoever made it."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False
        self.parent = parent
        self.layout = parent.layout()

    def setup(self) -> None:
        return None

    def onReload(self) -> None:
        slicer.util.reloadScriptedModule(self.moduleName)

    def resourcePath(self, filename: str) -> str:
        folder = os.path.dirname(slicer.util.modulePath(self.moduleName))
        return os.path.join(folder, "Resources", filename)


class ScriptedLoadableModuleLogic:
    """As in Slicer: one parameter node for the scene, or, if ``isSingletonParameterNode`` is false, any number."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getAllParameterNodes(self) -> list[Any]:
        scene = slicer.mrmlScene
        count = scene.GetNumberOfNodesByClass("vtkMRMLScriptedModuleNode")
        nodes = (scene.GetNthNodeByClass(index, "vtkMRMLScriptedModuleNode") for index in range(count))
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def getParameterNode(self) -> Any:
        if self.isSingletonParameterNode:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
            if node is not None:
                # Closing a scene empties the node and keeps it.
                node.SetAttribute("ModuleName", self.moduleName)
                return node
        else:
            for node in self.getAllParameterNodes():
                return node
        return slicer.mrmlScene.AddNode(self.createParameterNode())

    def createParameterNode(self) -> Any:
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """As in Slicer; messages are logged."""

    def delayDisplay(self, message: str, msec: int = 0) -> None:
        logging.info(message)


_MODULES = ("qt", "ctk", "slicer.ScriptedLoadableModule", "slicer.parameterNodeWrapper")
_ATTRIBUTES = ("app", "modules", "mrmlScene", "ScriptedLoadableModule", "parameterNodeWrapper", *SLICER)
_before: dict[str, Any] = {}
# Scenes of hosts that were stopped, kept for as long as Python runs.
_ended: list[Any] = []


def start() -> Any:
    """Start Qt and put the stand-ins in place, with a scene of their own.  Returns the ``QApplication``."""
    application = QtWidgets.QApplication.instance()
    if application is None:
        application = QtWidgets.QApplication([])
        application.setStyle("Fusion")
    _before.update({name: getattr(slicer, name) for name in _ATTRIBUTES if hasattr(slicer, name)})
    qt = qt_module()
    qt.QUiLoader = QUiLoader
    ctk = types.ModuleType("ctk")
    for module, classes in ((ctk, CTK), (slicer, SLICER)):
        for name, cls in classes.items():
            setattr(module, name, cls)
    base = types.ModuleType("slicer.ScriptedLoadableModule")
    for cls in (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    ):
        setattr(base, cls.__name__, cls)
    slicer.ScriptedLoadableModule = base
    slicer.parameterNodeWrapper = parameter_node.module()
    sys.modules.update(zip(_MODULES, (qt, ctk, base, slicer.parameterNodeWrapper)))
    slicer.mrmlScene = slicer.vtkMRMLScene()
    slicer.app = _App()
    slicer.modules = modules(slicer.mrmlScene)
    return application


def stop() -> None:
    """Take the stand-ins away again, and the modules that were imported with them.  Qt goes on."""
    slicer.app.layoutManager().close()
    # Panels that were closed wait for an event loop, which tests do not have.
    QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.DeferredDelete)
    # A scene that Python collects tells its observers so, in the middle of the collection, when they are half gone.
    scene = slicer.mrmlScene
    scene.Clear(1)
    scene.RemoveAllObservers()
    _ended.append(scene)
    for name in _ATTRIBUTES:
        if name in _before:
            setattr(slicer, name, _before[name])
        elif hasattr(slicer, name):
            delattr(slicer, name)
    _before.clear()
    for name in list(sys.modules):
        if name in _MODULES or name.split(".")[0] in ("CycleReg", "CycleRegPanel"):
            del sys.modules[name]


def open_module(name: str, path: Path) -> Any:
    """Load the scripted module at ``path`` as Slicer does, and open its panel; returns the module's widget object."""
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)
    module = importlib.import_module(name)
    parent = SLICER["qMRMLWidget"]()
    QtWidgets.QVBoxLayout(parent)
    entry = types.SimpleNamespace(path=str(path), widgetRepresentation=lambda: parent)
    getattr(module, name)(entry)
    logging.info("opened %s", entry.title)
    setattr(slicer.modules, name.lower(), entry)

    def fill() -> Any:
        """Make the module's widget, with the code as it was imported last; Slicer calls it on reload, too."""
        widget = getattr(sys.modules[name], name + "Widget")(parent)
        setattr(slicer.modules, name + "Widget", widget)
        widget.setup()
        parent.isEntered = True
        widget.enter()
        return widget

    parent.reload = fill
    return fill()


def process_events_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Let Qt work until ``condition()`` is true; returns whether it became true within ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        QtWidgets.QApplication.processEvents(QtCore.QEventLoop.AllEvents, 20)
        time.sleep(0.005)
    return True


@contextlib.contextmanager
def appearance(font: float = 1.0, dark: bool = False) -> Iterator[None]:
    """Show everything with a larger font, as a screen at 150 % does to layouts, and in a light or dark palette."""
    application = QtWidgets.QApplication.instance()
    before = application.font(), application.palette()
    larger = application.font()
    larger.setPointSizeF(before[0].pointSizeF() * font)
    application.setFont(larger)
    application.setPalette(_dark() if dark else _light())
    try:
        yield
    finally:
        application.setFont(before[0])
        application.setPalette(before[1])


def _light() -> Any:
    return QtWidgets.QApplication.style().standardPalette()


def _dark() -> Any:
    """The colours of Slicer's dark style."""
    palette = QtGui.QPalette(QtGui.QColor(53, 53, 53))
    role, group = QtGui.QPalette.ColorRole, QtGui.QPalette.ColorGroup
    for names, color in (
        (("Window", "Button", "AlternateBase", "ToolTipBase"), QtGui.QColor(53, 53, 53)),
        (("Base",), QtGui.QColor(38, 38, 38)),
        (("WindowText", "Text", "ButtonText", "ToolTipText"), QtGui.QColor(240, 240, 240)),
        (("Highlight", "Link"), QtGui.QColor(42, 130, 218)),
    ):
        for name in names:
            palette.setColor(getattr(role, name), color)
    for name in ("WindowText", "Text", "ButtonText"):
        palette.setColor(group.Disabled, getattr(role, name), QtGui.QColor(128, 128, 128))
    return palette


def photograph(widget: Any, path: Path, width: int = 420) -> None:
    """Save a picture of ``widget`` at its natural height."""
    widget.resize(width, widget.sizeHint().height())
    widget.show()
    QtWidgets.QApplication.processEvents()
    widget.resize(width, max(widget.sizeHint().height(), widget.minimumSizeHint().height()))
    QtWidgets.QApplication.processEvents()
    widget.grab().save(str(path))
