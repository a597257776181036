"""Stand-ins for Slicer's layout manager and for ``slicer.modules.*.logic()``, over Slicer's own MRML logic.

Real are the layout logic, which reads the layout's XML and makes its view nodes, the slice logics, which make the
composite nodes and fit slices to volumes, and the logic of plots.  Only the widgets are missing.
"""

from __future__ import annotations

import types
from typing import Any

import slicer


class SliceWidget:
    """As ``qMRMLSliceWidget``: one slice view and its logic."""

    #: The size that a slice view of this "window" has, in pixels.
    SIZE = (400, 300)

    def __init__(self, node: Any) -> None:
        self._node = node
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLScene(node.GetScene())
        self._logic.SetSliceNode(node)
        node.SetDimensions(*self.SIZE, 1)

    def sliceLogic(self) -> Any:
        return self._logic

    def mrmlSliceNode(self) -> Any:
        return self._node


class LayoutManager:
    """As ``qMRMLLayoutManager``: makes a widget for every slice view of the layout that is shown, and keeps it."""

    def __init__(self, scene: Any) -> None:
        self.open(scene)

    def open(self, scene: Any) -> None:
        """Begin with Slicer's first layout; again after a scene was cleared of its singletons, as tests do."""
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
        self._layouts = slicer.vtkMRMLLayoutLogic()
        self._layouts.SetMRMLScene(scene)
        self._widgets: dict[str, SliceWidget] = {}
        self._node = self._layouts.GetLayoutNode()
        self._tag = self._node.AddObserver("ModifiedEvent", lambda *_: self._make_widgets())
        self._node.SetViewArrangement(self._node.SlicerLayoutFourUpView)
        self._make_widgets()

    @property
    def layout(self) -> int:
        return int(self._layouts.GetLayoutNode().GetViewArrangement())

    def setLayout(self, layout: int) -> None:
        self._layouts.GetLayoutNode().SetViewArrangement(layout)

    def layoutLogic(self) -> Any:
        return self._layouts

    def sliceViewNames(self) -> list[str]:
        """The slice views of the layout that is shown."""
        nodes = self._layouts.GetViewNodes()
        found = [nodes.GetItemAsObject(i) for i in range(nodes.GetNumberOfItems())] if nodes is not None else []
        return [node.GetLayoutName() for node in found if node.IsA("vtkMRMLSliceNode")]

    def sliceWidget(self, name: str) -> SliceWidget | None:
        """The widget of a view, also of one that an earlier layout showed; None when there never was one."""
        return self._widgets.get(name)

    def _make_widgets(self) -> None:
        for name in self.sliceViewNames():
            if name not in self._widgets:
                scene = self._layouts.GetMRMLScene()
                self._widgets[name] = SliceWidget(scene.GetSingletonNode(name, "vtkMRMLSliceNode"))

    def close(self) -> None:
        """Let go of the scene."""
        self._node.RemoveObserver(self._tag)
        for widget in self._widgets.values():
            widget.sliceLogic().SetMRMLScene(None)
        self._widgets.clear()
        self._layouts.SetMRMLScene(None)


def modules(scene: Any) -> types.SimpleNamespace:
    """``slicer.modules`` with the modules of Slicer whose logic the panel asks for, and what they add to a scene."""
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    colors, plots = slicer.vtkMRMLColorLogic(), slicer.vtkSlicerPlotsLogic()
    # Slicer's colour tables; those that it reads from its own files are not here.
    colors.SetMRMLScene(scene)
    plots.SetMRMLApplicationLogic(application)
    plots.SetMRMLScene(scene)
    for node in (slicer.vtkMRMLColorLegendDisplayNode(), slicer.vtkMRMLMarkupsJsonStorageNode()):
        if scene.GetClassNameByTag(node.GetNodeTagName()) is None:
            scene.RegisterNodeClass(node)
    # A logic keeps neither the application's logic nor the colours' alive, so the lambda does.
    held = (application, colors)
    return types.SimpleNamespace(plots=types.SimpleNamespace(logic=lambda _held=held: plots))
