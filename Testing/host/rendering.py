"""Pictures of the slice views, drawn by Slicer's own displayable managers, without a window.

What a view holds is Slicer's own: the image comes from its slice logic, the transform's grid, segments, markups and
colour scales from its displayable managers.  Only the frame around it, which Slicer makes of Qt widgets, is drawn here.
"""

from __future__ import annotations

import os
import sys
from typing import Any
from xml.etree import ElementTree

import numpy as np
import slicer
import vtk
from PySide6 import QtCore, QtGui
from vtk.util.numpy_support import vtk_to_numpy

if sys.platform.startswith("linux"):
    # There is no display; VTK would look for one first.
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")

_MANAGERS = (
    "vtkMRMLTransformsDisplayableManager2D",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLColorLegendDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
)
_BAR = 22


class SliceView:
    """One slice view of a scene, drawn into memory; as in Slicer, made with the view and kept as long as it.

    Parameters
    ----------
    logic
        ``vtkMRMLSliceLogic`` with its slice node.
    application
        The application's logic, which knows that slice logic.
    """

    def __init__(self, logic: Any, application: Any) -> None:
        self._logic = logic
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.SetMultiSamples(0)
        renderer = vtk.vtkRenderer()
        self._window.AddRenderer(renderer)
        self._interactor = vtk.vtkRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._group = slicer.vtkMRMLDisplayableManagerGroup()
        self._group.SetRenderer(renderer)
        for name in _MANAGERS:
            manager = getattr(slicer, name)()
            manager.SetMRMLApplicationLogic(application)
            self._group.AddDisplayableManager(manager)
        self._group.SetMRMLDisplayableNode(logic.GetSliceNode())
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._image = vtk.vtkActor2D()
        self._image.SetMapper(self._mapper)
        self._image.GetProperty().SetDisplayLocationToBackground()
        renderer.AddViewProp(self._image)

    def draw(self, width: int, height: int) -> np.ndarray:
        """The view as it is now, (height, width, 3) uint8."""
        self._logic.ResizeSliceNode(width, height)
        self._logic.UpdatePipeline()
        connection = self._logic.GetImageDataConnection()
        # A view without a volume has no image.
        self._image.SetVisibility(connection is not None)
        self._mapper.SetInputConnection(connection)
        self._window.SetSize(width, height)
        self._window.Render()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(self._window)
        grabber.ReadFrontBufferOff()
        grabber.Update()
        pixels = vtk_to_numpy(grabber.GetOutput().GetPointData().GetScalars())
        return np.ascontiguousarray(pixels.reshape(height, width, 3)[::-1])

    def displayableManager(self, name: str) -> Any:
        """The view's displayable manager of that class."""
        return self._group.GetDisplayableManagerByClassName(name)

    def close(self) -> None:
        """Let go of the scene and of the graphics memory."""
        self._group.SetMRMLDisplayableNode(None)
        self._mapper.SetInputConnection(None)
        self._window.Finalize()


# ---------------------------------------------------------------------- the whole layout


def draw_layout(width: int, height: int) -> QtGui.QImage:
    """The slice views of the layout that is shown, each with its frame; other kinds of views stay empty."""
    picture = QtGui.QImage(width, height, QtGui.QImage.Format_RGB32)
    picture.fill(QtGui.QColor(20, 20, 20))
    painter = QtGui.QPainter(picture)
    node = slicer.app.layoutManager().layoutLogic().GetLayoutNode()
    root = ElementTree.fromstring(node.GetCurrentLayoutDescription())
    for element, place in _places(root, QtCore.QRect(0, 0, width, height)):
        if element.get("class") == "vtkMRMLSliceNode":
            _draw_view(painter, element.get("singletontag"), place)
    painter.end()
    return picture


def _places(element: Any, place: QtCore.QRect) -> list[tuple[Any, QtCore.QRect]]:
    """The views below a ``layout`` element of Slicer's XML, each with its rectangle; items share the room equally."""
    items = [child for item in element.findall("item") for child in item]
    horizontal = element.get("type") == "horizontal"
    whole = place.width() if horizontal else place.height()
    found = []
    for number, child in enumerate(items):
        low, high = (whole * (number + one) // len(items) for one in (0, 1))
        part = (
            QtCore.QRect(place.x() + low, place.y(), high - low, place.height())
            if horizontal
            else QtCore.QRect(place.x(), place.y() + low, place.width(), high - low)
        )
        found += _places(child, part) if child.tag == "layout" else [(child, part)]
    return found


def _draw_view(painter: QtGui.QPainter, name: str, place: QtCore.QRect) -> None:
    """A view below its bar, which has the view's colour and label, the name of its volume and its position."""
    place = place.adjusted(1, 1, -1, -1)
    widget = slicer.app.layoutManager().sliceWidget(name)
    node, logic = widget.mrmlSliceNode(), widget.sliceLogic()
    color = QtGui.QColor.fromRgbF(*node.GetLayoutColor())
    bar = QtCore.QRect(place.x(), place.y(), place.width(), _BAR)
    painter.fillRect(bar, color)
    painter.setPen(QtGui.QColor("black") if color.lightness() > 110 else QtGui.QColor("white"))
    volume = logic.GetMRMLScene().GetNodeByID(logic.GetSliceCompositeNode().GetBackgroundVolumeID() or "")
    title = "" if volume is None else volume.GetName()
    offset = f"{node.GetOrientation()}  {logic.GetSliceOffset():.1f} mm"
    painter.drawText(bar.adjusted(6, 0, -6, 0), QtCore.Qt.AlignVCenter | QtCore.Qt.AlignRight, offset)
    room = bar.width() - 24 - painter.fontMetrics().horizontalAdvance(offset)
    title = painter.fontMetrics().elidedText(f"{node.GetLayoutLabel()}   {title}", QtCore.Qt.ElideRight, room)
    painter.drawText(bar.adjusted(6, 0, -6, 0), QtCore.Qt.AlignVCenter | QtCore.Qt.AlignLeft, title)
    pixels = widget.sliceView().draw(place.width(), place.height() - _BAR)
    height, width, _ = pixels.shape
    image = QtGui.QImage(pixels.data, width, height, 3 * width, QtGui.QImage.Format_RGB888)
    painter.drawImage(place.x(), place.y() + _BAR, image)
