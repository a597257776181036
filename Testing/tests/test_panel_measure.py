"""Measuring from the panel: choices, pairs, a child that is the command line itself, tables, plot, lines, report."""

from __future__ import annotations

import contextlib
import csv
import io

import numpy as np
import pytest
from measuring_cases import (
    CENTER,
    MOVING_GRID,
    POINTS,
    ends_of,
    line,
    lists,
    register_known,
    segmentation_node,
    to_moving,
    tumors,
)
from mrml_cases import FLIP
from panel_cases import PANEL, choose, slicer
from test_report import Document

from CycleRegLib import mrml
from CycleRegLib.cli import main
from CycleRegLib.landmarks import LandmarkList
from CycleRegLib.segmentations import read_segmentation


@pytest.fixture
def done(panel):
    """A registration that the section was told of, in the open panel."""
    done = register_known()
    section(panel).onResult(done)
    return done


@pytest.fixture
def messages(monkeypatch):
    found = []
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda message, **_: found.append(message))
    return found


def section(panel):
    return panel.sectionOf("MeasureSection")


def select(panel, **nodes) -> None:
    for name, node in nodes.items():
        getattr(panel.ui, f"measure{name}Selector").setCurrentNode(node)


def select_landmarks(panel, **options):
    fixed, moving = lists(**options)
    select(panel, FixedLandmarks=fixed, MovingLandmarks=moving)
    return fixed, moving


def select_segments(panel, nodes=None):
    fixed, moving = nodes or tumors()
    select(panel, FixedSegmentation=fixed, MovingSegmentation=moving)
    return fixed, moving


def play(process) -> None:
    """The child does what the real one does, here: the command line with the arguments that it was given."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = main(process.arguments[1:])
    process.say(errors=errors.getvalue().encode())
    process.end(code)


def measure(panel) -> None:
    panel.ui.measureButton.click()
    play(panel.processes[-1])


def shown(table) -> list[list[str]]:
    return [
        [table.item(row, column).text() for column in range(table.columnCount)] for row in range(table.rowCount)
    ]  # fmt: skip


# ---------------------------------------------------------------------- choices


class TestChoices:
    def test_measure_says_what_is_missing(self, panel):
        button = panel.ui.measureButton
        assert not button.enabled
        assert button.toolTip == "Select the transform of a registration."
        assert panel.ui.measureReportButton.toolTip == button.toolTip
        done = register_known()
        panel.ui.measureTransformSelector.setCurrentNode(done.transform)
        assert button.enabled
        fixed, moving = lists()
        select(panel, FixedLandmarks=fixed)
        assert not button.enabled
        assert button.toolTip == "Select landmarks of both images, or none."
        select(panel, MovingLandmarks=moving)
        assert button.enabled

    def test_a_transform_without_volumes_takes_those_of_the_inputs(self, panel, done):
        panel.parameterNode.fixedNode = panel.parameterNode.movingNode = None
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "T")
        select(panel, Transform=transform)
        assert '"T" does not know its fixed volume' in panel.ui.measureButton.toolTip
        panel.parameterNode.fixedNode = slicer.mrmlScene.GetFirstNodeByName("A")
        panel.parameterNode.movingNode = slicer.mrmlScene.GetFirstNodeByName("B")
        assert panel.ui.measureButton.enabled

    def test_an_empty_list_is_the_reason_why_not(self, panel, done):
        fixed, _ = select_landmarks(panel)
        fixed.RemoveAllControlPoints()
        assert not panel.ui.measureButton.enabled
        assert 'The fixed landmarks "F" holds no placed point' in panel.ui.measureButton.toolTip

    def test_segments_of_both_are_listed_and_the_tumour_is_guessed(self, panel, done):
        select_segments(panel, tumors("Tumor", "Lesion 4"))
        ui = panel.ui
        assert [ui.measureSegmentsList.item(i).text() for i in range(ui.measureSegmentsList.count)] == ["Ball"]
        assert ui.measureFixedTumorComboBox.currentData == "Tumor"
        assert ui.measureMovingTumorComboBox.currentData == "Lesion 4"
        choose(ui.measureMovingTumorComboBox, "")
        assert ui.measureButton.toolTip == "Select the tumour in both segmentations, or none."
        choose(ui.measureFixedTumorComboBox, "")
        assert ui.measureButton.enabled
        import qt

        ui.measureSegmentsList.item(0).setCheckState(qt.Qt.Unchecked)
        assert "Tick a segment" in ui.measureButton.toolTip

    def test_lines_are_needed_in_both_images(self, panel, done):
        choose(panel.ui.measureTumorComboBox, "lines")
        assert panel.ui.measureTumorSegmentsWidget.isHidden()
        assert not panel.ui.measureTumorLinesWidget.isHidden()
        ends = np.array([[0.0, 0, 0], [9, 0, 0]]) + CENTER
        long, short = line(ends, "long"), line(ends[:, ::-1], "short")
        for nodes, text in (
            ({"FixedShort": short}, "Select the long diameters, too."),
            ({"FixedLong": long}, "Select the long diameter in both images, or none."),
            ({"MovingLong": long}, "Select the short diameter in both images, or none."),
        ):
            select(panel, **nodes)
            assert panel.ui.measureButton.toolTip == text
        select(panel, MovingShort=short)
        assert panel.ui.measureButton.enabled

    def test_choices_are_kept_in_the_parameter_set(self, panel, done):
        fixed, moving = select_landmarks(panel)
        select_segments(panel)
        import qt

        panel.ui.measureSegmentsList.item(1).setCheckState(qt.Qt.Unchecked)
        node = panel.parameterNode
        assert node.measureTransform is done.transform
        assert (node.measureFixedLandmarks, node.measureMovingLandmarks) == (fixed, moving)
        assert node.measureSegmentsLeftOut == ["Ball"]
        choose(panel.ui.measureFixedTumorComboBox, "Ball")
        assert node.measureFixedTumor == "Ball"
        node.measureSegmentsLeftOut = []
        assert panel.ui.measureSegmentsList.item(1).checkState() == qt.Qt.Checked
        choose(panel.ui.measureTumorComboBox, "lines")
        assert node.measureTumorBy == "lines"


class TestPairs:
    def test_pairs_are_shown_as_soon_as_both_lists_are_chosen(self, panel, done):
        assert panel.ui.measurePairsTable.isHidden()
        select_landmarks(panel)
        assert shown(panel.ui.measurePairsTable) == [[label, "", ""] for label in "abcd"]
        assert not panel.ui.measurePairsTable.isHidden()
        assert panel.ui.measurePairsLabel.isHidden()

    def test_they_follow_the_points(self, panel, done):
        fixed, moving = select_landmarks(panel)
        moving.RemoveNthControlPoint(0)
        assert [row[0] for row in shown(panel.ui.measurePairsTable)] == ["b", "c", "d"]
        assert '"a" only among the fixed landmarks' in panel.ui.measurePairsLabel.text
        fixed.RemoveNthControlPoint(0)
        assert panel.ui.measurePairsLabel.isHidden()

    def test_unequal_lists_say_which_points_are_used(self, panel, done):
        fixed = mrml.markups_node(LandmarkList(["F-1", "F-2", "F-3", "F-4"], POINTS), "F")
        moving = mrml.markups_node(LandmarkList(["M-1", "M-2"], to_moving(POINTS[:2])), "M")
        select(panel, FixedLandmarks=fixed, MovingLandmarks=moving)
        assert len(shown(panel.ui.measurePairsTable)) == 2
        assert "the first 2 of each were matched by order" in panel.ui.measurePairsLabel.text
        assert panel.ui.measureButton.enabled

    def test_a_pair_is_shown_in_the_slices(self, panel, done):
        select_landmarks(panel)
        ui = panel.ui
        assert not ui.measureJumpButton.enabled
        assert ui.measureJumpButton.toolTip == "Select a pair in the table."
        ui.measurePairsTable.selectRow(2)
        assert ui.measureJumpButton.enabled
        ui.measureJumpButton.click()
        for name in ("Red", "Green", "Yellow"):
            np.testing.assert_allclose(place_of(name), FLIP * POINTS[2], atol=1e-6)

    def test_in_the_comparing_views_the_moving_one_shows_the_moving_point(self, panel, done):
        select_landmarks(panel)
        panel.ui.viewsTransformSelector.setCurrentNode(done.transform)
        panel.ui.viewsCompareButton.click()
        section(panel).pairs.showPair(1)
        for name, place in (
            ("CycleRegFixed", POINTS[1]),
            ("CycleRegWarped", POINTS[1]),
            ("CycleRegMoving", to_moving(POINTS[1]) + [1, 0, 0]),
        ):
            np.testing.assert_allclose(place_of(name), FLIP * place, atol=1e-6)
        panel.ui.viewsRestoreButton.click()


def place_of(view: str) -> list[float]:
    matrix = slicer.mrmlScene.GetSingletonNode(view, "vtkMRMLSliceNode").GetSliceToRAS()
    return [matrix.GetElement(i, 3) for i in range(3)]


# ---------------------------------------------------------------------- measuring


class TestMeasuring:
    def test_the_command_line_measures_what_was_chosen(self, panel, done, tmp_path):
        select_landmarks(panel, off=(0.0, 3.0, 4.0))
        select_segments(panel, tumors("Tumor", "Lesion"))
        panel.ui.measureButton.click()
        (process,) = panel.processes
        assert process.arguments[:2] == [str(PANEL / "Child.py"), "evaluate"]
        assert process.option("--fixed").endswith("A.nrrd")
        assert process.option("--tumor-segment") == "Tumor / Lesion"
        names = read_segmentation(process.option("--moving-segmentation")).names
        assert sorted(names.values()) == ["Ball", "Tumor / Lesion"]
        assert panel.ui.measureButton.text == "Cancel"
        assert not panel.ui.measureLandmarksGroupBox.enabled
        process.say(b'{"stage": "segments", "percent": 40.0}\n')
        assert panel.ui.measureProgressBar.value == 40
        assert panel.ui.measureStatusLabel.text == "segments"
        play(process)
        assert panel.ui.measureButton.text == "Measure"
        assert panel.ui.measureStatusLabel.text.startswith("Done.")
        assert list(tmp_path.iterdir()) == []

        before = np.linalg.norm(POINTS - (to_moving(POINTS) + [0, 3, 4]), axis=1)
        assert shown(panel.ui.measurePairsTable) == [
            [label, f"{error:.3f}", "5.000"] for label, error in zip("abcd", before)
        ]
        choose(panel.ui.measureTableComboBox, "tumor")
        table = {row[0]: row[1:] for row in shown(panel.ui.measureTable)}
        assert list(table) == ["fixed", "moving", "warped", "moving - fixed", "warped - fixed"]
        assert float(table["fixed"][0]) == pytest.approx(26.4, abs=1.7)
        # The warped line lies on the fixed image.
        warped = done.transform.GetNodeReference("CycleReg.Diameter.warped.long")
        np.testing.assert_allclose(ends_of(warped).mean(axis=0), CENTER, atol=2.1)

    def test_figures_are_those_of_the_library(self, panel, done):
        nodes = [*select_landmarks(panel), *select_segments(panel)]
        measure(panel)
        shown = section(panel).tables.tables()
        tables = {what: mrml.table_text(shown[what]) for what in ("summary", "segments", "tumor")}
        volumes = [slicer.mrmlScene.GetFirstNodeByName(name) for name in "AB"]
        direct = mrml.evaluate(*volumes, done.transform, *nodes)
        for what, text in tables.items():
            expected = mrml.table_text(getattr(direct, what))
            for ours, theirs in zip(*(csv.reader(io.StringIO(table)) for table in (text, expected))):
                for a, b in zip(ours, theirs):
                    assert a == b or float(a) == pytest.approx(float(b), rel=1e-4, abs=1e-5)

    def test_drawn_lines_are_measured(self, panel, done):
        choose(panel.ui.measureTumorComboBox, "lines")
        ends = np.array([[-10.0, 0, 0], [10, 0, 0]]) + CENTER
        select(panel, FixedLong=line(ends, "F"), MovingLong=line(to_moving(ends), "M"))
        measure(panel)
        choose(panel.ui.measureTableComboBox, "tumor")
        *rows, difference = shown(panel.ui.measureTable)
        assert [row[:2] for row in rows] == [
            ["fixed", "20.000"],
            ["moving", "24.000"],
            ["warped", "20.000"],
            ["moving - fixed", "4.000"],
        ]
        assert abs(float(difference[1])) < 0.01

    def test_drawn_lines_are_in_the_report_as_well(self, panel, done, monkeypatch, tmp_path):
        """By the child, which knows nothing of the scene."""
        monkeypatch.setattr(section(panel), "openReport", lambda path: None)
        choose(panel.ui.measureTumorComboBox, "lines")
        ends = np.array([[-10.0, 0, 0], [10, 0, 0]]) + CENTER
        across = np.array([[0.0, -4, 0], [0, 5, 0]]) + CENTER
        select(panel, FixedLong=line(ends, "Lesion"), MovingLong=line(to_moving(ends), "Lesion"))
        select(panel, FixedShort=line(across, "Lesion"), MovingShort=line(to_moving(across), "Lesion"))
        folder = tmp_path / "report"
        folder.mkdir()
        section(panel).measure(str(folder))
        play(panel.processes[-1])
        rows = Document((folder / "report.html").read_text(encoding="utf-8")).table("Moving − fixed")
        # Stretched by 1.2 along x alone.
        assert rows["Long diameter, mm"] == pytest.approx([20, 24, 20, 4, 0], abs=2e-3)
        assert rows["Short diameter, mm"] == pytest.approx([9, 9, 9, 0, 0], abs=2e-3)
        assert list(tmp_path.iterdir()) == [folder]
        table = mrml.table_rows(section(panel).tables.tables()["tumor"])
        assert [row[1] for row in table[1:]] == pytest.approx([20, 24, 20, 4, 0], abs=2e-3)
        assert slicer.mrmlScene.GetFirstNodeByName("Lesion long diameter, warped") is not None

    def test_cancelling_leaves_scene_and_disk(self, panel, done, tmp_path):
        select_landmarks(panel)
        before = slicer.mrmlScene.GetNumberOfNodes()
        panel.ui.measureButton.click()
        panel.ui.measureButton.click()
        assert panel.processes[0].killed
        assert panel.ui.measureStatusLabel.text == "Cancelled; the scene is as it was."
        assert slicer.mrmlScene.GetNumberOfNodes() == before
        assert list(tmp_path.iterdir()) == []
        assert panel.ui.measureButton.enabled

    def test_closing_the_scene_stops_the_child(self, panel, done, tmp_path):
        panel.ui.measureButton.click()
        slicer.mrmlScene.Clear(0)
        assert panel.processes[0].killed
        assert list(tmp_path.iterdir()) == []
        assert not panel.ui.measureButton.enabled
        assert panel.ui.measureResultsWidget.isHidden()

    def test_an_empty_tumour_is_one_message(self, panel, done, messages, tmp_path):
        fixed, _ = tumors()
        masks = {"Tumor": np.zeros(MOVING_GRID.shape, np.uint8), "Ball": np.ones(MOVING_GRID.shape, np.uint8)}
        select_segments(panel, (fixed, segmentation_node("E", MOVING_GRID, masks)))
        before = slicer.mrmlScene.GetNumberOfNodes()
        measure(panel)
        assert messages == ["The tumour 'Tumor' is empty: no voxel of it lies in the moving image."]
        assert slicer.mrmlScene.GetNumberOfNodes() == before
        assert list(tmp_path.iterdir()) == []

    def test_a_landmark_outside_its_image_is_one_message(self, panel, done, messages):
        fixed, moving = lists()
        fixed.SetNthControlPointPosition(0, 900.0, 0.0, 0.0)
        select(panel, FixedLandmarks=fixed, MovingLandmarks=moving)
        measure(panel)
        assert len(messages) == 1
        assert '1 of 4 landmarks lie outside the fixed image: "a"' in messages[0]

    def test_a_volume_removed_meanwhile_is_one_message(self, panel, done, messages, tmp_path):
        panel.ui.measureButton.click()
        slicer.mrmlScene.RemoveNode(slicer.mrmlScene.GetFirstNodeByName("B"))
        play(panel.processes[0])
        assert len(messages) == 1
        assert "The moving volume was removed from the scene" in messages[0]
        assert list(tmp_path.iterdir()) == []

    def test_a_real_child_measures(self, panel, done):
        panel.processFactory = None
        select_landmarks(panel)
        panel.ui.measureButton.click()
        assert section(panel).measuring
        section(panel).waitForCompletion(120_000)
        assert panel.ui.measureStatusLabel.text.startswith("Done.")
        assert shown(panel.ui.measurePairsTable)[0][2] == "1.000"


# ---------------------------------------------------------------------- what is done with the figures


class TestTables:
    @pytest.fixture
    def measured(self, panel, done):
        select_landmarks(panel)
        measure(panel)
        return done

    def test_the_plot_is_shown_in_slicers_layout(self, panel, measured):
        assert panel.ui.measurePlotButton.enabled
        panel.ui.measurePlotButton.click()
        chart = measured.transform.GetNodeReference("CycleReg.LandmarkChart")
        view = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLPlotViewNode")
        assert view.GetPlotChartNodeID() == chart.GetID()
        assert chart.GetNumberOfPlotSeriesNodes() == 2

    def test_copy_puts_the_whole_table_into_the_clipboard(self, panel, measured):
        import qt

        choose(panel.ui.measureTableComboBox, "landmarks")
        panel.ui.measureCopyButton.click()
        rows = [row.split("\t") for row in qt.QApplication.clipboard().text().splitlines()]
        assert rows[0] == ["Landmark", "TRE before (mm)", "TRE after (mm)"]
        before = np.linalg.norm(POINTS - (to_moving(POINTS) + [1, 0, 0]), axis=1)
        np.testing.assert_allclose([float(row[1]) for row in rows[1:]], before, rtol=1e-5)

    def test_csv_is_saved_where_the_user_wants_it(self, panel, measured, monkeypatch, tmp_path, messages):
        choose(panel.ui.measureTableComboBox, "landmarks")
        monkeypatch.setattr(section(panel).tables, "askCsvPath", lambda name: str(tmp_path / "errors"))
        panel.ui.measureCsvButton.click()
        rows = list(csv.reader((tmp_path / "errors.csv").open(encoding="utf-8-sig")))
        assert [row[0] for row in rows] == ["Landmark", "a", "b", "c", "d"]
        monkeypatch.setattr(section(panel).tables, "askCsvPath", lambda name: "")
        panel.ui.measureCsvButton.click()
        assert messages == []
        monkeypatch.setattr(section(panel).tables, "askCsvPath", lambda name: str(tmp_path / "absent" / "t.csv"))
        panel.ui.measureCsvButton.click()
        assert len(messages) == 1
        assert "does not exist" in messages[0]

    def test_the_report_is_written_and_opened(self, panel, done, monkeypatch, tmp_path):
        import qt

        opened, folder = [], tmp_path / "report"
        folder.mkdir()
        monkeypatch.setattr(section(panel), "openReport", opened.append)
        monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", lambda *_: str(folder))
        panel.ui.measureReportButton.click()
        play(panel.processes[-1])
        assert opened == [str(folder / "report.html")]
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert "A.nrrd" in page
        assert str(slicer.mrmlScene.GetFirstNodeByName("A").GetID()) not in page

    def test_without_a_folder_no_report_is_made(self, panel, done, monkeypatch):
        import qt

        monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", lambda *_: "")
        panel.ui.measureReportButton.click()
        assert panel.processes == []

    def test_tables_of_a_transform_are_shown_when_it_is_chosen_again(self, panel, measured):
        select(panel, Transform=None)
        assert panel.ui.measureResultsWidget.isHidden()
        assert not panel.ui.measurePlotButton.enabled
        select(panel, Transform=measured.transform)
        assert not panel.ui.measureResultsWidget.isHidden()
        assert shown(panel.ui.measurePairsTable)[0][2] == "1.000"

    def test_folding_jacobian_and_round_trip_are_there(self, panel, measured):
        """Of a known stretch: 1.2 everywhere, no folding, an inverse that is exact."""
        rows = {row[0]: row for row in mrml.table_rows(section(panel).tables.tables()["summary"])[1:]}
        assert rows["Folding"][3] == 0.0
        assert rows["Jacobian determinant, max"][3] == pytest.approx(1.2, abs=1e-4)
        assert rows["Round trip, mean"][3] < 1e-3
