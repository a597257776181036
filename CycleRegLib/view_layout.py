"""The layout of four slice views that compare a registration, as Slicer's XML.

Text alone, so that the module can tell Slicer of it when it starts, before PyTorch is there: a scene that was saved
with these views finds them again.
"""

from __future__ import annotations

from typing import Any

#: Slicer keeps numbers below some hundreds for its own layouts; this one is the module's.
LAYOUT = 7134
#: Views of one group follow each other when they are linked, and no others.
VIEW_GROUP = 7134
FIXED, MOVING, WARPED, COMPARISON = "CycleRegFixed", "CycleRegMoving", "CycleRegWarped", "CycleRegComparison"
#: Singleton tags of the slice views, in reading order, with their labels and frame colours.
VIEWS = {
    FIXED: ("F", "#40E0D0"),
    MOVING: ("M", "#FFA826"),
    WARPED: ("W", "#FFFFFF"),
    COMPARISON: ("C", "#B0B0B0"),
}
ORIENTATIONS = ("Axial", "Coronal", "Sagittal")


def layout_description() -> str:
    """The layout as Slicer's XML: fixed and moving above, warped and comparison below."""
    rows = []
    names = list(VIEWS)
    for row in (names[:2], names[2:]):
        items = "".join(
            f'<item><view class="vtkMRMLSliceNode" singletontag="{name}">'
            f'<property name="orientation" action="default">{ORIENTATIONS[0]}</property>'
            f'<property name="viewlabel" action="default">{VIEWS[name][0]}</property>'
            f'<property name="viewcolor" action="default">{VIEWS[name][1]}</property>'
            f'<property name="viewgroup" action="default">{VIEW_GROUP}</property>'
            "</view></item>"
            for name in row
        )
        rows.append(f'<item><layout type="horizontal">{items}</layout></item>')
    return f'<layout type="vertical">{"".join(rows)}</layout>'


def add_layout(node: Any) -> None:
    """Let a ``vtkMRMLLayoutNode`` know the layout, in place of what an earlier version told."""
    tell = node.SetLayoutDescription if node.IsLayoutDescription(LAYOUT) else node.AddLayoutDescription
    tell(LAYOUT, layout_description())
