"""What is drawn over the images: the deformed grid and the colour scale."""

from __future__ import annotations

from typing import Any

import slicer

from ...colors import nice_ceiling
from ...geometry import Grid
from ...view_layout import COMPARISON, WARPED
from .layout import slice_node
from .registered import Registered
from .volumes import MADE

_LEGEND = "vtkMRMLColorLegendDisplayNode"
# Parts of the view's width and height: some versions of Slicer let the letters grow with it, over the image.
_LEGEND_SIZE = (0.1, 0.4)


def show_grid(registered: Registered, visible: bool) -> None:
    """Draw the deformed grid over the warped image and the comparison, or take it away.

    Slicer draws where the grid of the moving image comes to lie.  Lines lie about a twentieth of the fixed volume's
    longest side apart.

    The grid is a display node of its own: the user's stays as it is, and Slicer's views look at the list of views of a
    transform's display node once only, when they first see it.
    """
    transform = registered.transform
    remove_grid(transform)
    if not visible:
        return
    scene = transform.GetScene()
    grid = Grid.of(registered.fixed_image())
    spacing = nice_ceiling(max(n * s for n, s in zip(grid.size, grid.spacing)) / 20)
    display = scene.CreateNodeByClass("vtkMRMLTransformDisplayNode")
    display.UnRegister(None)
    display.SetName("CycleReg grid")
    display.SetAttribute(MADE, "1")
    display.SetSaveWithScene(False)
    display.SetVisualizationMode(display.VIS_MODE_GRID)
    display.SetGridSpacingMm(spacing)
    # Slicer samples the lines at this distance, so that they bend within a square as well.
    display.SetGridResolutionMm(spacing / 5)
    display.SetGridScalePercent(100.0)
    display.SetVisibility(True)
    display.SetVisibility3D(False)
    display.SetVisibility2D(True)
    for name in (WARPED, COMPARISON):
        display.AddViewNodeID(slice_node(scene, name).GetID())
    transform.AddAndObserveDisplayNodeID(scene.AddNode(display).GetID())


def grid_display(transform: Any) -> Any:
    """The display node of the grid that :func:`show_grid` draws; None while none is drawn."""
    nodes = [transform.GetNthDisplayNode(i) for i in range(transform.GetNumberOfDisplayNodes())]
    return next((node for node in nodes if node is not None and node.GetAttribute(MADE) is not None), None)


def remove_grid(transform: Any) -> None:
    """Take the grid away that :func:`show_grid` drew, if it did."""
    display = grid_display(transform)
    if display is not None:
        transform.GetScene().RemoveNode(display)


def remove_legends(scene: Any) -> None:
    """Remove the colour scales that were made for the views, and no other."""
    for legend in [scene.GetNthNodeByClass(i, _LEGEND) for i in range(scene.GetNumberOfNodesByClass(_LEGEND))]:
        if legend.GetAttribute(MADE) is not None:
            scene.RemoveNode(legend)


def show_legend(volume: Any, title: str) -> None:
    """A colour scale in the fourth view; one that the user made of the volume stays as it is."""
    logic = slicer.vtkSlicerColorLogic
    if logic.GetColorLegendDisplayNode(volume) is not None:
        return
    legend = logic.AddDefaultColorLegendDisplayNode(volume)
    if legend is None:
        return
    legend.SetAttribute(MADE, "1")
    legend.SetSaveWithScene(False)
    legend.SetTitleText(title)
    # Quarters of a range are not rounded to what they are not.
    legend.SetLabelFormat("%.4g")
    legend.SetNumberOfLabels(5)
    legend.SetSize(*_LEGEND_SIZE)
    legend.RemoveAllViewNodeIDs()
    legend.AddViewNodeID(slice_node(volume.GetScene(), COMPARISON).GetID())
    legend.SetVisibility(True)
