"""Stand-ins for ``slicer.app`` and ``slicer.modules``, and the start and end of the whole host."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import logging
import shutil
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import slicer
import slicer.util
from PySide6 import QtCore, QtGui, QtWidgets

from . import own_files, parameter_node, sample_data, scripted_module
from .layout import LayoutManager
from .logics import Logics
from .pythonqt import qt_module, with_manners
from .widgets import CTK, SLICER, QUiLoader


class _ModuleManager:
    """Modules are never unloaded here."""

    def module(self, name: str) -> Any:
        return getattr(slicer.modules, name.lower(), None)

    def connect(self, signature: str, function: Callable[..., Any]) -> None:
        return None

    def disconnect(self, signature: str, function: Callable[..., Any]) -> None:
        return None


class _Application(QtCore.QObject):
    """What the panel and ``slicer.util`` ask of ``slicer.app``; messages are logged instead of shown."""

    applicationName = "Slicer stand-in"
    startupCompleted = QtCore.Signal()

    def __init__(self) -> None:
        super().__init__()
        self.temporaryPath = tempfile.gettempdir()
        self._manager = _ModuleManager()
        self.logics = Logics(slicer.mrmlScene)
        self._layouts = LayoutManager(slicer.mrmlScene, self.logics.application)
        self._started = False

    def testingEnabled(self) -> bool:
        return True

    def processEvents(self) -> None:
        QtWidgets.QApplication.processEvents()

    def moduleManager(self) -> _ModuleManager:
        return self._manager

    def applicationLogic(self) -> Any:
        return self.logics.application

    def layoutManager(self) -> LayoutManager:
        return self._layouts

    def translate(self, context: str, text: str) -> str:
        return QtCore.QCoreApplication.translate(context, text)

    def commandOptions(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(noMainWindow=True)

    @contextlib.contextmanager
    def startup(self) -> Iterator[None]:
        """Modules are made inside; then all who asked until now are told that start-up is over.

        Tests start up once for every panel.  Who asked after the last time would never be told by Slicer, whose only
        start-up was over by then, and is forgotten.
        """
        if self._started and self.receivers(QtCore.SIGNAL("startupCompleted()")):
            self.startupCompleted.disconnect()
        yield
        self._started = True
        self.startupCompleted.emit()


_MODULES = ("qt", "ctk", *own_files.NAMES)
_ATTRIBUTES = ("app", "modules", "mrmlScene", "selfTests", *SLICER)
_ATTRIBUTES += tuple(name.split(".")[1] for name in own_files.NAMES if "." in name)
_before: dict[str, Any] = {}
# Scenes of hosts that were stopped, kept for as long as Python runs.
_ended: list[Any] = []


def start() -> Any:
    """Start Qt and put the stand-ins in place, with a scene of their own.  Returns the ``QApplication``."""
    application = QtWidgets.QApplication.instance()
    if application is None:
        application = QtWidgets.QApplication([])
        application.setStyle("Fusion")
        _keep_settings_apart()
    _before.update({name: getattr(slicer, name) for name in _ATTRIBUTES if hasattr(slicer, name)})
    qt = qt_module()
    qt.QUiLoader = QUiLoader
    ctk = types.ModuleType("ctk")
    for module, classes in ((ctk, CTK), (slicer, SLICER)):
        for name, cls in classes.items():
            setattr(module, name, cls)
    sys.modules.update(qt=qt, ctk=ctk)
    slicer.mrmlScene = slicer.vtkMRMLScene()
    slicer.app = with_manners(_Application)()
    slicer.modules = slicer.app.logics.modules()
    slicer.modules.sampleDataSources = {}
    made = (scripted_module.module(), parameter_node.module(), sample_data.module())
    own_files.load({module.__name__: module for module in made})
    return application


def _keep_settings_apart() -> None:
    """Settings of the user, as of Slicer's developer mode, are neither read nor written."""
    folder = tempfile.mkdtemp(prefix="cyclereg-host-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    QtCore.QSettings.setDefaultFormat(QtCore.QSettings.IniFormat)
    QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, QtCore.QSettings.UserScope, folder)
    QtCore.QCoreApplication.setOrganizationName("CycleReg")
    QtCore.QCoreApplication.setApplicationName(_Application.applicationName)


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
        ours = name in _MODULES or name.startswith("slicer.parameterNodeWrapper.")
        if ours or name.split(".")[0] in ("CycleReg", "CycleRegPanel"):
            del sys.modules[name]


def open_module(name: str, path: Path) -> Any:
    """Load the scripted module at ``path`` as Slicer does when it starts, and open its panel.

    Returns the module's widget object; the module itself is ``slicer.modules.<name in lower case>``, its entry
    ``slicer.modules.<name>Instance``.
    """
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)
    module = importlib.import_module(name)
    parent = SLICER["qSlicerScriptedLoadableModuleWidget"]()
    QtWidgets.QVBoxLayout(parent)
    entry = types.SimpleNamespace(path=str(path), widgetRepresentation=lambda: parent)
    with slicer.app.startup():
        setattr(slicer.modules, name.lower(), entry)
        setattr(slicer.modules, f"{name}Instance", getattr(module, name)(entry))
    logging.info("opened %s", entry.title)

    def fill() -> Any:
        """Make the module's widget, with the code as it was imported last; Slicer calls it on reload, too."""
        widget = getattr(sys.modules[name], name + "Widget")(parent)
        setattr(slicer.modules, name + "Widget", widget)
        parent.filled_by = widget
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
    if dark:
        # Fusion draws the frame of a check box in a darker shade of the window's colour, here as dark as its inside.
        framed = _dark()
        framed.setColor(QtGui.QPalette.ColorRole.Window, QtGui.QColor(190, 190, 190))
        for name in ("QCheckBox", "QAbstractItemView"):
            application.setPalette(framed, name)
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
