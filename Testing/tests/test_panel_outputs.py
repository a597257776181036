"""After the registration: the moving volume under the transform, what is carried along, several phases at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import vtk
from panel_cases import add_volume, choose, choose_pair, host, number_of_nodes, slicer, write_results


def settle() -> None:
    host.process_events_until(lambda: False, 0.05)


def world(markups: Any) -> tuple[float, ...]:
    point = [0.0, 0.0, 0.0]
    markups.GetNthControlPointPositionWorld(0, point)
    return tuple(point)


def add_markups(name: str, point: tuple[float, float, float]) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    node.AddControlPoint(vtk.vtkVector3d(*point), "P")
    node.CreateDefaultDisplayNodes()
    return node


def register(panel: Any) -> Any:
    """Register with a child that finds a shift of (1, 2, 3) mm, LPS; returns the transform node."""
    panel.ui.applyButton.click()
    write_results(panel.processes[-1])
    panel.processes[-1].end()
    assert panel.ui.statusLabel.text == "Done."
    return panel.parameterNode.outputTransform


class TestMovingUnderTransform:
    @pytest.mark.parametrize("wanted", [True, False])
    def test_the_moving_volume_is_put_under_the_transform_if_asked(self, panel, wanted):
        _, moving = choose_pair(panel)
        panel.ui.showMovingCheckBox.checked = wanted
        transform = register(panel)
        assert moving.GetParentTransformNode() is (transform if wanted else None)

    def test_the_registration_can_be_repeated_while_its_result_is_shown(self, panel):
        _, moving = choose_pair(panel)
        panel.ui.showMovingCheckBox.checked = True
        transform = register(panel)
        before = number_of_nodes()
        assert panel.ui.applyButton.enabled, panel.ui.applyButton.toolTip
        assert register(panel) is transform
        assert moving.GetParentTransformNode() is transform
        assert number_of_nodes() == before


class TestCarryAlong:
    def test_copies_go_under_the_transform_and_originals_stay(self, panel):
        choose_pair(panel)
        own, other = (
            add_markups("Arterial landmarks", (10.0, 20.0, 30.0)),
            add_markups("Portal points", (1.0, 1.0, 1.0)),
        )
        panel.enter()
        ui = panel.ui
        assert not ui.carryButton.enabled
        assert "Register first" in ui.carryButton.toolTip
        transform = register(panel)
        assert ui.carryButton.enabled, ui.carryButton.toolTip
        ui.carryButton.click()
        copy = slicer.mrmlScene.GetFirstNodeByName("Arterial landmarks on Portal")
        assert copy.GetParentTransformNode() is transform
        assert own.GetParentTransformNode() is None
        # Moving points go to fixed ones against the field: (-1, -2, 3) RAS is taken off.
        assert world(own) == pytest.approx((10.0, 20.0, 30.0))
        assert world(copy) == pytest.approx((11.0, 22.0, 27.0), abs=0.02)
        assert copy.GetDisplayNode() is not None
        assert copy.GetDisplayNode() is not own.GetDisplayNode()
        assert slicer.mrmlScene.GetFirstNodeByName("Portal points on Portal") is None
        assert world(other) == pytest.approx((1.0, 1.0, 1.0))
        assert "Arterial landmarks on Portal" in ui.statusLabel.text

    def test_a_segmentation_of_the_moving_volume_is_checked_and_carried(self, panel):
        from CycleRegLib.mrml import fill_segmentation, grid_from_volume_node
        from CycleRegLib.segmentations import Segmentation

        _, moving = choose_pair(panel)
        grid = grid_from_volume_node(moving)
        array = np.zeros(grid.shape, np.uint8)
        array[4:7, 4:7, 4:7] = 1
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Lesions")
        fill_segmentation(node, Segmentation(grid.image(array), {1: "Tumour"}))
        node.SetReferenceImageGeometryParameterFromVolumeNode(moving)
        panel.enter()
        assert panel.sectionOf("OutputsSection").checked() == [node]
        transform = register(panel)
        panel.ui.carryButton.click()
        copy = slicer.mrmlScene.GetFirstNodeByName("Lesions on Portal")
        assert copy.GetParentTransformNode() is transform
        assert copy.GetSegmentation().GetNthSegment(0).GetName() == "Tumour"
        assert node.GetParentTransformNode() is None
        # A copy is not offered again.
        assert panel.ui.carryList.count == 1


def write_series(process: Any, failed: tuple[str, ...] = ()) -> None:
    """What ``cyclereg series`` leaves behind: the shift of a phase is its number in mm along L."""
    start = process.arguments.index("--moving") + 1
    paths = process.arguments[start : process.arguments.index("--output")]
    out = Path(process.option("--output"))
    out.mkdir()
    fixed = sitk.ReadImage(process.option("--fixed"))
    index = []
    for path in paths:
        name = Path(path).stem
        index.append({"name": name, "status": "failed" if name in failed else "done", "reason": ""})
        if name in failed:
            index[-1]["reason"] = "It is empty."
            continue
        (out / name).mkdir()
        back = "--inverse-transforms" in process.arguments
        for file, wanted, sign in (("transform", True, 1), ("inverse", back, -1)):
            if wanted:
                vectors = np.broadcast_to(np.float32([sign * int(name), 0, 0]), (*fixed.GetSize()[::-1], 3))
                field = sitk.GetImageFromArray(vectors, isVector=True)
                field.CopyInformation(fixed)
                sitk.WriteImage(field, str(out / name / f"{file}.nrrd"))
        if "--no-volumes" not in process.arguments:
            sitk.WriteImage(fixed + int(name), str(out / name / "warped.nrrd"))
        summary = {"method": "optimize", "seconds": {"total": 1.0}}
        (out / name / "summary.json").write_text(json.dumps(summary))
    (out / "series.json").write_text(json.dumps(index))


def check_phases(panel: Any, *nodes: Any) -> None:
    settle()
    items = [panel.ui.phasesList.item(row) for row in range(panel.ui.phasesList.count)]
    import qt

    names = [node.GetName() for node in nodes]
    for item in items:
        item.setCheckState(qt.Qt.Checked if item.text() in names else qt.Qt.Unchecked)


class TestPhases:
    def test_all_checked_volumes_are_registered_by_one_child(self, panel, tmp_path):
        fixed, arterial = choose_pair(panel)
        delayed, native = add_volume("Delayed"), add_volume("Native")
        ui = panel.ui
        assert not ui.phasesApplyButton.enabled
        assert "Check the moving volumes" in ui.phasesApplyButton.toolTip
        check_phases(panel, arterial, delayed)
        assert list(panel.parameterNode.phases) == [arterial, delayed]
        assert native not in list(panel.parameterNode.phases)
        assert fixed.GetName() not in [ui.phasesList.item(row).text() for row in range(ui.phasesList.count)]
        choose(ui.methodComboBox, "preset:large")
        before = number_of_nodes()
        ui.phasesApplyButton.click()
        (process,) = panel.processes
        assert process.arguments[1] == "series"
        assert process.option("--preset") == "large"
        assert not ui.phasesApplyButton.enabled
        assert ui.applyButton.text == "Cancel"
        process.say(b'{"stage": "2: optimize", "percent": 70}\n')
        assert ui.statusLabel.text == "Delayed: Pair optimisation"
        write_series(process)
        assert number_of_nodes() == before
        process.end()
        for number, name in ((1, "Arterial"), (2, "Delayed")):
            transform = slicer.mrmlScene.GetFirstNodeByName(f"{name} to Portal transform")
            point = [0.0, 0.0, 0.0]
            transform.GetTransformFromParent().TransformPoint((10.0, -20.0, 15.0), point)
            assert point == pytest.approx((10.0 - number, -20.0, 15.0))
            warped = slicer.mrmlScene.GetFirstNodeByName(f"{name} warped to Portal")
            assert slicer.util.arrayFromVolume(warped).min() == number
            inverse = slicer.mrmlScene.GetFirstNodeByName(f"Portal to {name} transform")
            inverse.GetTransformFromParent().TransformPoint((10.0, -20.0, 15.0), point)
            assert point == pytest.approx((10.0 + number, -20.0, 15.0))
        assert "2 registered" in ui.statusLabel.text
        assert list(tmp_path.iterdir()) == []

    def test_one_that_fails_is_named_and_the_others_come(self, panel, tmp_path):
        _, arterial = choose_pair(panel)
        delayed = add_volume("Delayed")
        check_phases(panel, arterial, delayed)
        panel.ui.phasesWarpedCheckBox.checked = False
        panel.ui.bothDirectionsCheckBox.checked = False
        panel.ui.phasesApplyButton.click()
        (process,) = panel.processes
        assert "--no-volumes" in process.arguments
        assert "--inverse-transforms" not in process.arguments
        write_series(process, failed=("1",))
        process.say(errors=b"cyclereg: error: 1 of 2 could not be registered: 1 (It is empty.)\n")
        process.end(1)
        assert "1 registered: Delayed to Portal transform." in panel.ui.statusLabel.text
        assert "Not registered: Arterial (It is empty.)" in panel.ui.statusLabel.text
        assert slicer.mrmlScene.GetFirstNodeByName("Arterial to Portal transform") is None
        assert slicer.mrmlScene.GetFirstNodeByName("Delayed to Portal transform") is not None
        assert list(tmp_path.iterdir()) == []

    def test_items_of_a_sequence_are_phases(self, panel):
        fixed, moving = choose_pair(panel)
        sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Contrast")
        for value in ("0", "30"):
            sequence.SetDataNodeAtValue(moving, value)
        panel.ui.phasesSequenceSelector.setCurrentNode(sequence)
        assert panel.parameterNode.phasesSequence is sequence
        assert panel.ui.phasesApplyButton.enabled, panel.ui.phasesApplyButton.toolTip
        panel.ui.phasesApplyButton.click()
        assert len(panel.processes) == 1, panel.ui.statusLabel.text
        write_series(panel.processes[0])
        panel.processes[0].end()
        for value in ("0", "30"):
            transform = slicer.mrmlScene.GetFirstNodeByName(f"Contrast {value} to Portal transform")
            assert transform.GetNodeReference(transform.GetFixedNodeReferenceRole()) is fixed

    def test_cancel_leaves_nothing(self, panel, tmp_path):
        _, arterial = choose_pair(panel)
        check_phases(panel, arterial)
        before = number_of_nodes()
        panel.ui.phasesApplyButton.click()
        panel.ui.applyButton.click()
        assert panel.processes[0].killed
        assert number_of_nodes() == before
        assert list(tmp_path.iterdir()) == []
