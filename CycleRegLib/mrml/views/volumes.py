"""The volumes that are made for the views where the registration did not leave them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

from ...colors import nice_ceiling
from ...comparison_images import checkerboard, difference
from ...geometry import Grid
from ...slices import intensity_window
from ..color_tables import DIFFERENCE, ROUNDTRIP, Scale
from ..results import VECTOR_VOLUME, VOLUME, roundtrip_top, show_like, show_range, write_volume
from .registered import Registered

#: Attribute of every node that is made for the views.
MADE = "CycleReg.MadeForViews"


@dataclass(frozen=True)
class Content:
    """A volume to be made: its image, its name, and the volume it is displayed like or the range it is shown in."""

    image: sitk.Image
    name: str
    like: Any = None
    low: float = 0.0
    high: float = 1.0
    scale: Scale | None = None
    hide_below: float | None = None


def contents_of(registered: Registered, comparison: str) -> dict[str, Content]:
    """The volumes that the views need and the scene does not have, by role; nothing is changed yet."""
    contents: dict[str, Content] = {}
    fixed = registered.fixed_image()
    warped = registered.warped_image()
    if warped is None or not Grid.of(warped).same_as(Grid.of(fixed)):
        warped = registered.warp(fixed)
        contents["warped"] = Content(warped, "CycleReg warped", registered.moving)
    if comparison == "checkerboard":
        grid = Grid.of(fixed)
        square = nice_ceiling(max(n * s for n, s in zip(grid.size, grid.spacing)) / 10)
        images = (fixed, warped)
        colours = any(image.GetNumberOfComponentsPerPixel() > 1 for image in images)
        windows = (None, None) if colours else tuple(intensity_window(image) for image in images)
        contents[comparison] = Content(
            checkerboard(*images, square, *windows), "CycleReg checkerboard", registered.fixed
        )
    elif comparison == "difference":
        image = difference(fixed, warped)
        top = float(np.percentile(np.abs(sitk.GetArrayViewFromImage(image)), 99))
        top = nice_ceiling(max(top, 1e-6))
        contents[comparison] = Content(image, "CycleReg difference", low=-top, high=top, scale=DIFFERENCE)
    elif comparison == "roundtrip" and registered.roundtrip is None:
        image = registered.round_trip(fixed)
        contents[comparison] = Content(
            image, "CycleReg round trip (mm)", high=roundtrip_top(image), scale=ROUNDTRIP, hide_below=0.0
        )
    return contents


def made_volumes(scene: Any) -> list[Any]:
    """Every volume that was made for the views."""
    nodes = [scene.GetNthNodeByClass(i, VOLUME) for i in range(scene.GetNumberOfNodesByClass(VOLUME))]
    return [node for node in nodes if node.GetAttribute(MADE) is not None]


def write(scene: Any, node: Any, content: Content) -> Any:
    """A volume for the views alone, ``node`` or a new one: hidden from selectors, not saved, removed by ``restore``."""
    kind = VOLUME if content.image.GetNumberOfComponentsPerPixel() == 1 else VECTOR_VOLUME
    if node is None or node.GetClassName() != kind:
        node = scene.CreateNodeByClass(kind)
        node.UnRegister(None)
        node.SetName(scene.GenerateUniqueName(content.name))
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        node.SetAttribute(MADE, "1")
        node = scene.AddNode(node)
    write_volume(node, content.image)
    if content.like is not None:
        show_like(node, content.like)
    else:
        show_range(node, content.low, content.high, content.scale, hide_below=content.hide_below)
    return node


def remove(scene: Any, node: Any) -> None:
    """Remove a volume and its display nodes."""
    for display in [node.GetNthDisplayNode(i) for i in range(node.GetNumberOfDisplayNodes())]:
        if display is not None:
            scene.RemoveNode(display)
    scene.RemoveNode(node)
