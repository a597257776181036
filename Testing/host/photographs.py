"""Photographs of the panel and of the views, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PySide6 import QtGui, QtWidgets

from .rendering import draw_layout

_GAP = 4


def photograph(widget: Any, path: Path, width: int = 420) -> None:
    """Save a picture of ``widget`` at its natural height."""
    _show(widget, width)
    widget.grab().save(str(path))


def photograph_views(path: Path, width: int = 900, height: int = 640) -> None:
    """Save a picture of the slice views of the layout that is shown."""
    draw_layout(width, height).save(str(path))


def photograph_window(panel: Any, path: Path, width: int = 1440, panel_width: int = 430) -> None:
    """Save a picture of the panel, at its natural height, beside the views, as in Slicer's window."""
    _show(panel, panel_width)
    shown = panel.grab().toImage()
    picture = QtGui.QImage(width, shown.height(), QtGui.QImage.Format_RGB32)
    picture.fill(QtWidgets.QWidget.palette(panel).color(QtGui.QPalette.ColorRole.Window))
    left = shown.width() + _GAP
    painter = QtGui.QPainter(picture)
    painter.drawImage(0, 0, shown)
    painter.drawImage(left, 0, draw_layout(width - left, shown.height()))
    painter.end()
    picture.save(str(path))


def _show(widget: Any, width: int) -> None:
    """Show a widget at its natural height, which it knows only when it has its width."""
    widget.resize(width, widget.sizeHint().height())
    widget.show()
    QtWidgets.QApplication.processEvents()
    widget.resize(width, max(widget.sizeHint().height(), widget.minimumSizeHint().height()))
    QtWidgets.QApplication.processEvents()
