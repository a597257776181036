"""Slice views that show a registration: fixed, moving and warped image, and one view that compares them.

The four views are this library's own, so that the user's views stay as they are; what else is changed in the scene
while they are shown is remembered there, and :func:`restore` takes all of it back.

Everything here is MRML: Slicer's window follows the layout node by itself.
"""

from __future__ import annotations

from ...view_layout import (
    COMPARISON,
    FIXED,
    LAYOUT,
    MOVING,
    ORIENTATIONS,
    VIEW_GROUP,
    VIEWS,
    WARPED,
    layout_description,
)
from .arranging import COMPARISONS, arrange, check_comparison, set_opacity
from .layout import align_views, register_layout, set_orientation, slice_views
from .memory import is_arranged, restore
from .overlays import grid_display, show_grid
from .registered import Registered

__all__ = [
    "COMPARISON",
    "COMPARISONS",
    "FIXED",
    "LAYOUT",
    "MOVING",
    "ORIENTATIONS",
    "VIEWS",
    "VIEW_GROUP",
    "WARPED",
    "Registered",
    "align_views",
    "arrange",
    "check_comparison",
    "grid_display",
    "is_arranged",
    "layout_description",
    "register_layout",
    "restore",
    "set_opacity",
    "set_orientation",
    "show_grid",
    "slice_views",
]
