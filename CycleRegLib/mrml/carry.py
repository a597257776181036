"""Carries what belongs to the moving volume along: copies of segmentations and markups under the output transform."""

from __future__ import annotations

from typing import Any

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
