"""Shows a registration in the four views."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import InputError
from ...view_layout import COMPARISON, FIXED, LAYOUT, MOVING, WARPED
from .drawings import draw_where_it_belongs
from .layout import composite_node, fill, register_layout, set_orientation, slice_views
from .memory import remember, state_of, take_out
from .overlays import remove_legends, show_grid, show_legend
from .registered import Registered
from .volumes import contents_of, made_volumes, remove, write

#: What the fourth view shows.
COMPARISONS = ("checkerboard", "blend", "difference", "roundtrip")


def arrange(
    registered: Registered,
    comparison: str = "checkerboard",
    orientation: str = "Axial",
    opacity: float = 0.5,
    grid: bool = False,
) -> dict[str, Any]:
    """Show a registration in the four views, linked; what they replace is remembered until :func:`restore`.

    Parameters
    ----------
    registered
        What to show.  A moving volume that is shown under the transform is taken out of it meanwhile.
    comparison
        What the fourth view shows, one of ``COMPARISONS``: squares of both images in turn; the warped over the fixed
        image; warped minus fixed; the round-trip error in mm over the fixed image.
    orientation
        One of ``ORIENTATIONS``; single slices are shown in their own plane.
    opacity
        Of what lies over the fixed image, 0 to 1.
    grid
        Whether the deformed grid is drawn over the warped image and the comparison.

    Returns
    -------
    The slice nodes by their tags.

    Raises
    ------
    InputError
        If a node cannot be shown; nothing is then changed.
    """
    scene = registered.fixed.GetScene()
    check_comparison(registered, comparison)
    layout = register_layout(scene)
    contents = contents_of(registered, comparison)
    state = state_of(scene) or remember(scene, layout)
    # A colour scale is drawn only by views that are there when it is made, so the window makes its views first.
    slice_views(scene)
    layout.SetViewArrangement(LAYOUT)
    take_out(state, registered)
    made = {role: write(scene, state.GetNodeReference(role), content) for role, content in contents.items()}
    for role, node in made.items():
        state.SetNodeReferenceID(role, node.GetID())
    remove_legends(scene)  # before their volumes, which they ask for their colours
    for node in made_volumes(scene):
        if node not in made.values():
            remove(scene, node)
    warped = made.get("warped", registered.warped)
    for name, volume in ((FIXED, registered.fixed), (MOVING, registered.moving), (WARPED, warped)):
        fill(composite_node(scene, name), volume)
    shown = made.get(comparison, registered.roundtrip if comparison == "roundtrip" else None)
    _show_comparison(scene, registered.fixed, warped, shown, comparison, opacity)
    draw_where_it_belongs(state, registered)
    set_orientation(registered.fixed, orientation)
    show_grid(registered, grid)
    return slice_views(scene)


def check_comparison(registered: Registered, comparison: str) -> None:
    """Refuse a comparison that cannot be shown, before anything is computed.

    Raises
    ------
    InputError
        If there is no such comparison, or the round trip has no inverse transform.
    """
    if comparison not in COMPARISONS:
        raise InputError(f"There is no comparison {comparison!r}. Choose one of {', '.join(COMPARISONS)}.")
    if comparison == "roundtrip" and registered.roundtrip is None and registered.inverse is None:
        raise InputError(
            "The round-trip error needs the inverse transform. Register again with an inverse transform, or with a "
            "round-trip volume, among the outputs."
        )


def set_opacity(scene: Any, opacity: float) -> None:
    """How much of what lies over the fixed image is seen in the fourth view, 0 to 1."""
    composite_node(scene, COMPARISON).SetForegroundOpacity(float(np.clip(opacity, 0.0, 1.0)))


def _show_comparison(scene: Any, fixed: Any, warped: Any, shown: Any, comparison: str, opacity: float) -> None:
    composite = composite_node(scene, COMPARISON)
    if comparison == "blend":
        fill(composite, fixed, warped, opacity)
    elif comparison == "roundtrip":
        fill(composite, fixed, shown, opacity)
        show_legend(shown, "Round trip (mm)")
    else:
        fill(composite, shown)
        if comparison == "difference":
            show_legend(shown, "Warped - fixed")
