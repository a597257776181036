"""Colour tables of this library in a scene: the report's colours, saved with the scene, made once."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer")

from CycleRegLib import mrml  # noqa: E402
from CycleRegLib.colors import ramp  # noqa: E402
from CycleRegLib.geometry import Grid  # noqa: E402
from CycleRegLib.mrml.color_tables import (  # noqa: E402
    DIFFERENCE,
    JACOBIAN,
    ROUNDTRIP,
    color_table,
    remove_unused_tables,
)
from CycleRegLib.mrml.results import roundtrip_top, show_range  # noqa: E402


@pytest.fixture
def scene():
    slicer.mrmlScene = None
    yield mrml.ensure_scene()
    slicer.mrmlScene = None


def colors_of(node) -> np.ndarray:
    color = [0.0] * 4
    found = []
    for i in range(node.GetNumberOfColors()):
        node.GetColor(i, color)
        found.append(list(color))
    return np.array(found)


@pytest.mark.parametrize("scale", [DIFFERENCE, JACOBIAN, ROUNDTRIP], ids=lambda scale: scale.name)
def test_it_has_the_colours_of_the_report(scene, scale):
    found = colors_of(color_table(scene, scale))
    # Slicer keeps 8 bits of each.
    np.testing.assert_allclose(found[:, :3] * 255, ramp(np.linspace(0, 1, 256), scale.anchors), atol=0.51)
    assert (np.diff(found[:, 3]) >= 0).all()
    assert (found[:, 3] == 1).all() is not scale.fades or found[0, 3] < found[-1, 3] == 1


def test_only_what_lies_over_an_image_fades(scene):
    assert colors_of(color_table(scene, ROUNDTRIP))[0, 3] < 0.5
    assert (colors_of(color_table(scene, DIFFERENCE))[:, 3] == 1).all()


def test_there_is_one_for_all_volumes_and_none_for_nobody(scene):
    volumes = [mrml.volume_node(sitk.Image(4, 4, 4, sitk.sitkFloat32), name) for name in "AB"]
    for volume in volumes:
        show_range(volume, 0.0, 2.0, ROUNDTRIP)
    tables = {volume.GetDisplayNode().GetColorNodeID() for volume in volumes}
    assert len(tables) == 1
    color_table(scene, DIFFERENCE)
    count = scene.GetNumberOfNodes()
    remove_unused_tables(scene)
    assert scene.GetNumberOfNodes() == count - 1
    assert scene.GetNodeByID(tables.pop()) is not None


def test_a_scene_that_is_opened_again_shows_the_same(scene, tmp_path):
    volume = mrml.volume_node(sitk.Image(4, 4, 4, sitk.sitkFloat32), "Round trip")
    show_range(volume, 0.0, 1.5, ROUNDTRIP, hide_below=0.0)
    before = colors_of(color_table(scene, ROUNDTRIP))
    mrml.save_scene(tmp_path / "scene.mrb")
    opened = mrml.read_scene(tmp_path / "scene.mrb")
    display = opened.GetFirstNodeByName("Round trip").GetDisplayNode()
    assert display.GetColorNode() is color_table(opened, ROUNDTRIP)
    np.testing.assert_allclose(colors_of(display.GetColorNode()), before, atol=1e-6)
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0.0, 1.5)


@pytest.mark.parametrize(
    ("values", "top"), [([0.0, 0.2], 1.0), ([0.0, 1.3], 1.5), ([-1.0, -1.0], 1.0), ([0.5] * 999 + [40.0], 1.0)]
)
def test_the_round_trip_ends_at_a_round_number(values, top):
    """Unknown voxels (-1) and the odd outlier do not count."""
    grid = Grid((len(values), 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
    assert roundtrip_top(grid.image(np.float32(values).reshape(1, 1, -1))) == top
