"""A stand-in for Slicer's layout manager, over Slicer's own MRML logic.

Real are the layout logic, which reads the layout's XML and makes its view nodes, and the slice logics, which make the
composite nodes and fit slices to volumes.  Only the widgets are missing; ``rendering`` draws what they would show.
"""

from __future__ import annotations

from typing import Any

import slicer
import vtk

from .rendering import SliceView


class SliceWidget:
    """As ``qMRMLSliceWidget``: one slice view and its logic."""

    #: The size that a slice view of this "window" has, in pixels.
    SIZE = (400, 300)

    def __init__(self, node: Any, application: Any) -> None:
        self._node = node
        self._logic = slicer.vtkMRMLSliceLogic()
        # As in Slicer: displayable managers ask the application for the view's logic when the view is made.
        application.GetSliceLogics().AddItem(self._logic)
        self._logic.SetMRMLScene(node.GetScene())
        self._logic.SetSliceNode(node)
        node.SetDimensions(*self.SIZE, 1)
        self._view = SliceView(self._logic, application)

    def sliceLogic(self) -> Any:
        return self._logic

    def mrmlSliceNode(self) -> Any:
        return self._node

    def sliceView(self) -> SliceView:
        return self._view


class LayoutManager:
    """As ``qMRMLLayoutManager``: makes a widget for every slice view of the layout that is shown, and keeps it."""

    def __init__(self, scene: Any, application: Any) -> None:
        self._application = application
        self.open(scene)

    def open(self, scene: Any) -> None:
        """Begin with Slicer's first layout; again after a scene was cleared of its singletons, as tests do."""
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
        self._layouts = slicer.vtkMRMLLayoutLogic()
        self._layouts.SetMRMLScene(scene)
        self._widgets: dict[str, SliceWidget] = {}
        self._logics = vtk.vtkCollection()
        self._application.SetSliceLogics(self._logics)
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

    def mrmlSliceLogics(self) -> Any:
        """The logics of all slice views that were shown until now."""
        return self._logics

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
                node = scene.GetSingletonNode(name, "vtkMRMLSliceNode")
                self._widgets[name] = SliceWidget(node, self._application)

    def close(self) -> None:
        """Let go of the scene."""
        self._node.RemoveObserver(self._tag)
        for widget in self._widgets.values():
            widget.sliceView().close()
            widget.sliceLogic().SetMRMLScene(None)
        self._widgets.clear()
        self._logics.RemoveAllItems()
        self._layouts.SetMRMLScene(None)
