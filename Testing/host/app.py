"""Stand-ins for ``slicer.app``, ``slicer.modules`` and ``slicer.ScriptedLoadableModule``."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
import time
import types
import unittest
from pathlib import Path
from typing import Any, Callable

import slicer
import slicer.util
from PySide6 import QtCore, QtWidgets

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

    def testingEnabled(self) -> bool:
        return True

    def processEvents(self) -> None:
        QtWidgets.QApplication.processEvents()

    def moduleManager(self) -> _ModuleManager:
        return self._manager


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

    def resourcePath(self, filename: str) -> str:
        folder = os.path.dirname(slicer.util.modulePath(self.moduleName))
        return os.path.join(folder, "Resources", filename)


class ScriptedLoadableModuleLogic:
    """As in Slicer, without parameter nodes."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")


class ScriptedLoadableModuleTest(unittest.TestCase):
    """As in Slicer; messages are logged."""

    def delayDisplay(self, message: str, msec: int = 0) -> None:
        logging.info(message)


_MODULES = ("qt", "ctk", "slicer.ScriptedLoadableModule")
_ATTRIBUTES = ("app", "modules", "mrmlScene", "ScriptedLoadableModule", *SLICER)
_before: dict[str, Any] = {}


def start() -> Any:
    """Start Qt and put the stand-ins in place, with a scene of their own.  Returns the ``QApplication``."""
    application = QtWidgets.QApplication.instance() or QtWidgets.QApplication([])
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
    sys.modules.update(zip(_MODULES, (qt, ctk, base)))
    slicer.mrmlScene = slicer.vtkMRMLScene()
    slicer.app = _App()
    slicer.modules = types.SimpleNamespace()
    return application


def stop() -> None:
    """Take the stand-ins away again, and the modules that were imported with them.  Qt goes on."""
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
    entry = types.SimpleNamespace(path=str(path))
    getattr(module, name)(entry)
    logging.info("opened %s", entry.title)
    setattr(slicer.modules, name.lower(), entry)
    parent = SLICER["qMRMLWidget"]()
    QtWidgets.QVBoxLayout(parent)
    widget = getattr(module, name + "Widget")(parent)
    widget.setup()
    widget.enter()
    return widget


def process_events_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Let Qt work until ``condition()`` is true; returns whether it became true within ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        QtWidgets.QApplication.processEvents(QtCore.QEventLoop.AllEvents, 20)
        time.sleep(0.005)
    return True


def photograph(widget: Any, path: Path, width: int = 420) -> None:
    """Save a picture of ``widget`` at its natural height."""
    widget.resize(width, widget.sizeHint().height())
    widget.show()
    QtWidgets.QApplication.processEvents()
    widget.resize(width, max(widget.sizeHint().height(), widget.minimumSizeHint().height()))
    QtWidgets.QApplication.processEvents()
    widget.grab().save(str(path))
