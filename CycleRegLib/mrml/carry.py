"""Carries what belongs to the moving volume along: copies of segmentations and markups under the output transform."""

from __future__ import annotations

from typing import Any

import slicer

from .results import show_under


def carry_along(node: Any, transform_node: Any, name: str) -> Any:
    """Copy a segmentation or markups node, and show the copy through an output transform.

    The original stays as it is.  The copy is not hardened, so that it follows when the transform is computed anew, and
    shows where the original lies if it is taken out of the transform.

    Returns
    -------
    The copy, called ``name`` or something like it.

    Raises
    ------
    InputError
        If the node is under another non-linear transform.
    """
    _let_segments_be_copied()
    scene = node.GetScene()
    copy = scene.AddNewNodeByClass(node.GetClassName(), scene.GenerateUniqueName(name))
    try:
        copy.CopyContent(node, True)
        copy.SetAndObserveTransformNodeID(node.GetTransformNodeID())
        for index in range(node.GetNumberOfDisplayNodes()):
            shown = node.GetNthDisplayNode(index)
            if shown is not None:
                display = scene.AddNewNodeByClass(shown.GetClassName())
                display.CopyContent(shown, True)
                copy.AddAndObserveDisplayNodeID(display.GetID())
        show_under(copy, transform_node)
    except BaseException:
        scene.RemoveNode(copy)
        raise
    return copy


def _let_segments_be_copied() -> None:
    """Register the rules by which segments are copied, as Slicer's Segmentations module does; slicer-core has none."""
    factory = slicer.vtkSegmentationConverterFactory.GetInstance()
    if factory.ConstructRepresentationObjectByClass("vtkOrientedImageData") is None:
        factory.RegisterConverterRule(slicer.vtkBinaryLabelmapToClosedSurfaceConversionRule())
        factory.RegisterConverterRule(slicer.vtkClosedSurfaceToBinaryLabelmapConversionRule())
