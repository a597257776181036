"""The sample pair in the scene: what Slicer's Sample Data module, the panel and the self-test load."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..colors import FIXED, MOVING
from ..images import read_image
from ..landmarks import read_landmarks
from ..phantom import SAMPLE_FILES, write_sample
from ..segmentations import read_segmentation
from .results import display_of
from .scene import markups_node, segmentation_node, volume_node

#: Nodes are called after the phases; the panel takes the portal one as the fixed volume by its name.
NAMES = {"fixed": "Sample portal", "moving": "Sample arterial"}
COLORS = {"fixed": FIXED, "moving": MOVING}
_WINDOW, _LEVEL = 400.0, 40.0  # HU, as a radiologist sets them for the abdomen


@dataclass(frozen=True)
class SampleNodes:
    """A two-phase abdomen (portal venous: fixed, arterial: moving), with landmarks and segmentations of both.

    Its truth is known: every landmark of one phase is the same point of the body in the other.
    """

    fixed: Any
    moving: Any
    fixedLandmarks: Any
    movingLandmarks: Any
    fixedSegmentation: Any
    movingSegmentation: Any

    def all(self) -> list[Any]:
        """All nodes, the volumes first."""
        return list(vars(self).values())


def make_sample_nodes(seed: int = 0, scale: float = 1.0) -> SampleNodes:
    """Make the sample pair and load it; takes seconds.  Arguments as :func:`CycleRegLib.phantom.make_sample`.

    Raises
    ------
    InputError
        If the temporary folder cannot be written to.
    """
    with tempfile.TemporaryDirectory(prefix="cyclereg-") as folder:
        write_sample(folder, seed, scale)
        return load_sample(folder)


def load_sample(folder: os.PathLike[str] | str) -> SampleNodes:
    """Load what :func:`CycleRegLib.phantom.write_sample` wrote into ``folder``; nothing is added before all is read.

    Raises
    ------
    InputError
        If a file is missing or cannot be read.
    """
    paths = {key: Path(folder) / name for key, name in SAMPLE_FILES.items()}
    images = {side: read_image(paths[side], side) for side in NAMES}
    landmarks = {side: read_landmarks(paths[f"{side}_landmarks"]) for side in NAMES}
    segmentations = {side: read_segmentation(paths[f"{side}_segmentation"]) for side in NAMES}
    nodes = {}
    for side, name in NAMES.items():
        volume = nodes[side] = volume_node(images[side], name)
        display = display_of(volume)
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(_WINDOW, _LEVEL)
        # Slicer and the panel see by these which volume they belong to.
        points = nodes[f"{side}Landmarks"] = markups_node(landmarks[side], f"{volume.GetName()} landmarks")
        _show_small(points, COLORS[side])
        drawn = nodes[f"{side}Segmentation"] = segmentation_node(
            segmentations[side], f"{volume.GetName()} segmentation"
        )
        drawn.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        # Outlines alone, so that the image below can be compared; of the image that is seen first.
        drawn.GetDisplayNode().SetAllSegmentsVisibility2DFill(False)
        drawn.GetDisplayNode().SetVisibility(side == "fixed")
    return SampleNodes(**nodes)


def _show_small(points: Any, color: tuple[int, int, int]) -> None:
    """Small points without their names, in the colour that their image has everywhere else."""
    display = points.GetDisplayNode()
    display.SetGlyphScale(1.5)
    display.SetPointLabelsVisibility(False)
    for set_color in (display.SetColor, display.SetSelectedColor):
        set_color(*(channel / 255 for channel in color))
