"""A stand-in for ``slicer.ScriptedLoadableModule``: what a scripted module's entry, widget, logic and test inherit.

As Slicer documents it (Developer Guide, "Python scripted modules", and the classes' own documentation).
"""

from __future__ import annotations

import importlib
import logging
import os
import types
import unittest
from typing import Any

import slicer
import slicer.util


def _resource(module_path: str, filename: str) -> str:
    return os.path.join(os.path.dirname(module_path), "Resources", filename)


class ScriptedLoadableModule:
    """``parent`` carries what the module says of itself, and the icon in its folder ``Resources/Icons``."""

    def __init__(self, parent: Any) -> None:
        import qt

        self.parent = parent
        self.moduleName = type(self).__name__
        parent.title = parent.helpText = parent.acknowledgementText = ""
        parent.categories, parent.dependencies, parent.contributors = [], [], []
        for suffix in (".svg", ".png"):
            icon = self.resourcePath(f"Icons/{self.moduleName}{suffix}")
            if os.path.isfile(icon):
                parent.icon = qt.QIcon(icon)
                break
        if not hasattr(slicer, "selfTests"):
            slicer.selfTests = {}
        slicer.selfTests[self.moduleName] = self.runTest

    def resourcePath(self, filename: str) -> str:
        return _resource(self.parent.path, filename)

    def runTest(self, msec: int = 100, **kwargs: Any) -> None:
        """Run the module's class ``<module name>Test``, as it was imported last."""
        name = f"{self.moduleName}Test"
        test_class = getattr(importlib.import_module(type(self).__module__), name, None)
        if test_class is None:
            raise AssertionError(f"The module has no test class {name}")
        test = test_class()
        test.messageDelay = msec
        test.runTest(**kwargs)


class ScriptedLoadableModuleWidget:
    """The widget fills ``self.layout``; whoever made it calls ``setup`` once.

    Made without a parent, it makes one with the scene, is set up and shown at once.
    """

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = slicer.util.settingsValue("Developer/DeveloperMode", False, converter=slicer.util.toBool)
        self.parent = self._own_parent() if parent is None else parent
        self.layout = self.parent.layout()
        if parent is None:
            self.setup()
            self.parent.show()

    @staticmethod
    def _own_parent() -> Any:
        import qt

        made = slicer.qMRMLWidget()
        made.setLayout(qt.QVBoxLayout())
        made.setMRMLScene(slicer.mrmlScene)
        return made

    def setup(self) -> None:
        """What every panel shows: in Slicer's developer mode the reload section, which is not here."""

    def cleanup(self) -> None:
        """The module is about to be unloaded."""

    def onReload(self) -> None:
        slicer.util.reloadScriptedModule(self.moduleName)

    def resourcePath(self, filename: str) -> str:
        return _resource(slicer.util.modulePath(self.moduleName), filename)


class ScriptedLoadableModuleLogic:
    """One parameter node for the scene, or, if ``isSingletonParameterNode`` is false, any number."""

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
    """A self-test; ``messageDelay`` is set by whoever runs it."""

    def delayDisplay(self, message: str, requestedDelay: int | None = None, msec: int | None = None) -> None:
        # Logged and let Qt work, as Slicer does for short delays; nobody is there to read a pop-up.
        slicer.util.delayDisplay(message, 0)

    def runTest(self) -> None:
        logging.warning("%s defines no test", type(self).__name__)


def module() -> types.ModuleType:
    """The module ``slicer.ScriptedLoadableModule``."""
    made = types.ModuleType("slicer.ScriptedLoadableModule")
    for one in (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    ):
        setattr(made, one.__name__, one)
    made.__all__ = [name for name in vars(made) if name.startswith("Scripted")]
    return made
