"""What the scene says of a volume besides its image."""

from __future__ import annotations

from typing import Any

import slicer


def browserOf(node: Any) -> Any:
    """The sequence browser that shows its current item through this node; None for an ordinary node."""
    for browser in slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode"):
        if browser.IsProxyNodeID(node.GetID()):
            return browser
    return None


def isProxy(node: Any) -> bool:
    """Whether the node is a sequence's proxy: its content changes whenever another item is chosen."""
    return browserOf(node) is not None


def deformingParent(node: Any, allowed: Any = None) -> Any:
    """The first non-linear transform above ``node``, up to ``allowed``; None if there is none."""
    parent = node.GetParentTransformNode()
    while parent is not None and parent is not allowed:
        if not parent.IsLinear():
            return parent
        parent = parent.GetParentTransformNode()
    return None
