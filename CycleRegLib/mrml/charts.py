"""Target registration errors as a plot of Slicer's."""

from __future__ import annotations

from typing import Any

from ..colors import FIXED, MOVING
from ..node_roles import CHART_ROLE
from .results import NewNodes

CHART = "vtkMRMLPlotChartNode"
SERIES = "vtkMRMLPlotSeriesNode"
# From a transform to the two rows of points.
SERIES_ROLES = {"before": "CycleReg.LandmarkSeriesBefore", "after": "CycleReg.LandmarkSeriesAfter"}
_COLORS = {"before": MOVING, "after": FIXED}


def write_tre_chart(table: Any, transformNode: Any, pair: str, new: NewNodes) -> Any:
    """A plot of the TRE of every landmark, before and after: two rows of points, the landmarks' names below.

    Nodes of an earlier plot of the same transform are written again.

    Parameters
    ----------
    table
        The table of landmarks, with the columns "Landmark", "TRE before (mm)" and "TRE after (mm)".
    transformNode
        What was measured; refers to the plot afterwards.
    pair
        What the nodes are called after.

    Returns
    -------
    ``vtkMRMLPlotChartNode``
    """
    chart = transformNode.GetNodeReference(CHART_ROLE) or new.node(True, CHART, f"{pair} TRE plot")
    state = chart.StartModify()
    chart.RemoveAllPlotSeriesNodeIDs()
    for when, role in SERIES_ROLES.items():
        series = transformNode.GetNodeReference(role) or new.node(True, SERIES, f"{pair} TRE {when}")
        held = series.StartModify()
        series.SetAndObserveTableNodeID(table.GetID())
        # Of a line plot Slicer counts the points by themselves and writes the labels below; the lines are left out,
        # because there is nothing between two landmarks.
        series.SetPlotType(series.PlotTypeLine)
        series.SetYColumnName(f"TRE {when} (mm)")
        series.SetLabelColumnName("Landmark")
        series.SetLineStyle(series.LineStyleNone)
        series.SetMarkerStyle(series.MarkerStyleCircle)
        series.SetMarkerSize(9)
        series.SetColor(*(channel / 255 for channel in _COLORS[when]))
        series.EndModify(held)
        transformNode.SetNodeReferenceID(role, series.GetID())
        chart.AddAndObservePlotSeriesNodeID(series.GetID())
    chart.SetTitle("Target registration error")
    chart.SetXAxisTitle("Landmark")
    chart.SetYAxisTitle("TRE (mm)")
    chart.EndModify(state)
    transformNode.SetNodeReferenceID(CHART_ROLE, chart.GetID())
    return chart
