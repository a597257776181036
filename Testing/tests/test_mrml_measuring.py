"""Landmark pairs, plots, diameters as lines, chosen segments and tables as text, in real scenes with known answers."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer")

import vtk  # noqa: E402
from measuring_cases import (  # noqa: E402
    CENTER,
    GRID,
    MOVING_GRID,
    POINTS,
    RADII,
    STRETCH,
    ellipsoid,
    ends_of,
    line,
    lists,
    register_known,
    segmentation_node,
    to_moving,
    tumors,
)
from mrml_cases import FLIP, new_scene  # noqa: E402

from CycleRegLib import mrml  # noqa: E402
from CycleRegLib.errors import InputError  # noqa: E402
from CycleRegLib.evaluation import evaluate as evaluate_images  # noqa: E402
from CycleRegLib.landmarks import LandmarkList  # noqa: E402
from CycleRegLib.node_roles import CHART_ROLE  # noqa: E402
from CycleRegLib.tumor import size_of_diameters  # noqa: E402


@pytest.fixture(autouse=True)
def scene():
    return new_scene()


@pytest.fixture
def done():
    return register_known()


@pytest.fixture
def volumes(done):
    return [slicer.mrmlScene.GetFirstNodeByName(name) for name in "AB"]


# ---------------------------------------------------------------------- landmarks


class TestPairs:
    def test_points_pair_by_label_whatever_their_order(self):
        fixed = mrml.markups_node(LandmarkList(["a", "b", "c", "d"], POINTS), "F")
        moving = mrml.markups_node(LandmarkList(["d", "c", "b", "a"], POINTS[::-1] + 2.0), "M")
        pairs = mrml.pair_landmarks(fixed, moving)
        assert (pairs.labels, pairs.notes) == (["a", "b", "c", "d"], [])
        np.testing.assert_allclose(pairs.fixed, POINTS, atol=1e-9)
        np.testing.assert_allclose(pairs.moving, POINTS + 2.0, atol=1e-9)

    def test_slicers_own_labels_pair_by_order(self):
        fixed = mrml.markups_node(LandmarkList(["F-1", "F-2", "F-3", "F-4"], POINTS), "F")
        moving = mrml.markups_node(LandmarkList(["M-1", "M-2", "M-3", "M-4"], POINTS + 1.0), "M")
        pairs = mrml.pair_landmarks(fixed, moving)
        assert pairs.labels == ["F-1", "F-2", "F-3", "F-4"]
        np.testing.assert_allclose(pairs.moving - pairs.fixed, 1.0)

    def test_unequal_lists_pair_what_they_can_and_say_so_once(self):
        fixed = mrml.markups_node(LandmarkList(["F-1", "F-2", "F-3", "F-4"], POINTS), "F")
        moving = mrml.markups_node(LandmarkList(["M-1", "M-2"], POINTS[:2]), "M")
        pairs = mrml.pair_landmarks(fixed, moving)
        assert len(pairs) == 2
        (note,) = pairs.notes
        assert "4 fixed and 2 moving landmarks" in note
        assert "Give corresponding points the same label" in note

    def test_points_shown_under_the_transform_pair_as_they_lie(self, done):
        fixed, moving = lists()
        before = mrml.pair_landmarks(fixed, moving, done.transform)
        mrml.show_under(moving, done.transform)
        mrml.show_under(fixed, done.inverse_transform)
        after = mrml.pair_landmarks(fixed, moving, done.transform)
        np.testing.assert_array_equal(after.moving, before.moving)
        np.testing.assert_array_equal(after.fixed, before.fixed)

    @pytest.mark.parametrize(("which", "text"), [(0, "fixed landmarks"), (1, "moving landmarks")])
    def test_an_empty_list_is_one_message(self, scene, which, text):
        nodes = list(lists())
        nodes[which].RemoveAllControlPoints()
        with pytest.raises(InputError, match=f"The {text} .* holds no placed point"):
            mrml.pair_landmarks(*nodes)

    def test_jumping_centres_every_view_and_the_moving_one_on_its_own_point(self, scene):
        pairs = mrml.pair_landmarks(*lists())
        views = {}
        for name in ("Red", "Moving"):
            views[name] = slicer.vtkMRMLSliceNode()
            views[name].SetLayoutName(name)
            scene.AddNode(views[name])
        mrml.jump_to_pair(scene, pairs, 2, {"Moving": views["Moving"]})
        for name, expected in (("Red", POINTS[2]), ("Moving", to_moving(POINTS[2]) + [1, 0, 0])):
            matrix = views[name].GetSliceToRAS()
            np.testing.assert_allclose([matrix.GetElement(i, 3) for i in range(3)], FLIP * expected, atol=1e-6)


class TestLandmarkErrors:
    def test_errors_are_distances_and_the_plot_shows_both_columns(self, done, volumes):
        found = mrml.evaluate(*volumes, done.transform, *lists(off=(0.0, 3.0, 4.0)), outputChart=True)
        rows = mrml.table_rows(found.landmarks)
        assert rows[0] == ["Landmark", "TRE before (mm)", "TRE after (mm)"]
        before = np.linalg.norm(POINTS - (to_moving(POINTS) + [0, 3, 4]), axis=1)
        np.testing.assert_allclose([row[1] for row in rows[1:]], before, rtol=1e-5)
        np.testing.assert_allclose([row[2] for row in rows[1:]], 5.0, atol=1e-3)
        chart = found.chart
        assert chart.GetYAxisTitle() == "TRE (mm)"
        assert chart.GetNumberOfPlotSeriesNodes() == 2
        for i, when in enumerate(("before", "after")):
            series = chart.GetNthPlotSeriesNode(i)
            assert series.GetTableNode() is found.landmarks
            assert series.GetYColumnName() == f"TRE {when} (mm)"
            assert series.GetLabelColumnName() == "Landmark"
            assert found.landmarks.GetColumnIndex(series.GetYColumnName()) >= 0
            assert not series.IsXColumnRequired()

    def test_measuring_again_writes_the_same_nodes(self, scene, done, volumes):
        options = {"outputChart": True, "outputDiameters": True}
        first = mrml.evaluate(*volumes, done.transform, *lists(), *tumors(), **options)
        count = scene.GetNumberOfNodes()
        again = mrml.evaluate(
            *volumes, done.transform, *(scene.GetFirstNodeByName(n) for n in ("F", "M", "SF", "SM")), **options
        )
        assert scene.GetNumberOfNodes() == count
        assert again.chart is first.chart is done.transform.GetNodeReference(CHART_ROLE)
        assert again.chart.GetNumberOfPlotSeriesNodes() == 2
        assert again.diameters == first.diameters


# ---------------------------------------------------------------------- tumours


class TestSegments:
    def test_an_ellipsoids_diameters_are_known_and_drawn_where_it_lies(self, done, volumes):
        found = mrml.evaluate(*volumes, done.transform, None, None, *tumors(), "Tumor", outputDiameters=True)
        rows = {row[0]: row[1:] for row in mrml.table_rows(found.tumor)[1:]}
        volume = 4 / 3 * np.pi * np.prod(RADII) / 1000
        # In the axial slice through the centre; the moving one is stretched along x, the warped one is as the fixed.
        for image, long, short, volume_ml in (
            ("fixed", 26.4, 17.4, volume),
            ("moving", 26.4 * STRETCH, 17.4, volume * STRETCH),
            ("warped", 26.4, 17.4, volume),
            ("moving - fixed", 26.4 * (STRETCH - 1), 0.0, volume * (STRETCH - 1)),
            ("warped - fixed", 0.0, 0.0, 0.0),
        ):
            # A voxel of 1.5 mm either way.
            assert rows[image][:2] == pytest.approx([long, short], abs=1.7)
            assert rows[image][2] == pytest.approx(volume_ml, abs=0.1)
        assert len(found.diameters) == 6
        for side, pair in zip(("fixed", "moving", "warped"), zip(found.diameters[::2], found.diameters[1::2])):
            long, short = (ends_of(node) for node in pair)
            # The lines are as long as the table says, and cross each other in one axial slice through the ellipsoid.
            assert [np.linalg.norm(e[1] - e[0]) for e in (long, short)] == pytest.approx(rows[side][:2], abs=1e-3)
            assert np.dot(long[1] - long[0], short[1] - short[0]) == pytest.approx(0, abs=1e-6)
            np.testing.assert_allclose([*long[:, 2], *short[:, 2]], long[0, 2], atol=1e-6)
            middle = to_moving(CENTER) if side == "moving" else CENTER
            np.testing.assert_allclose(long.mean(axis=0), middle, atol=2.1)
            assert abs(long[1] - long[0])[0] == pytest.approx(rows[side][0], rel=0.05)
            assert all(node.GetLocked() for node in pair)

    def test_one_end_of_a_line_bears_its_length(self, done, volumes):
        """So that the names of lines that cross each other do not; of two lines in one place the other end."""
        found = mrml.evaluate(*volumes, done.transform, None, None, *tumors(), "Tumor", outputDiameters=True)
        for side, pair in zip(("fixed", "moving", "warped"), zip(found.diameters[::2], found.diameters[1::2])):
            for node in pair:
                length = np.linalg.norm(np.diff(ends_of(node), axis=0))
                labels = [node.GetNthControlPointLabel(i) for i in (0, 1)]
                assert labels == (["", f"{length:.1f} mm"] if side == "warped" else [f"{length:.1f} mm", ""])
                assert node.GetDisplayNode().GetPointLabelsVisibility()
                assert not node.GetDisplayNode().GetPropertiesLabelVisibility()

    def test_what_the_user_changed_of_a_lines_display_stays(self, done, volumes):
        first = mrml.evaluate(*volumes, done.transform, None, None, *tumors(), "Tumor", outputDiameters=True)
        display = first.diameters[0].GetDisplayNode()
        display.SetGlyphScale(4.0)
        display.SetSelectedColor(0.1, 0.2, 0.3)
        mrml.evaluate(*volumes, done.transform, None, None, *tumors(), "Tumor", outputDiameters=True)
        assert (display.GetGlyphScale(), display.GetSelectedColor()) == (4.0, (0.1, 0.2, 0.3))

    def test_lines_follow_the_moving_image_under_the_transform(self, done, volumes):
        mrml.show_under(volumes[1], done.transform)
        found = mrml.evaluate(*volumes, done.transform, None, None, *tumors(), outputDiameters=True)
        sides = dict(zip(("fixed", "moving", "warped"), found.diameters[::2]))
        assert sides["moving"].GetParentTransformNode() is done.transform
        assert sides["fixed"].GetParentTransformNode() is None
        # So the line of the moving image shows as long as the warped tumour is.
        length = np.linalg.norm(np.diff(ends_of(sides["moving"]), axis=0))
        assert length == pytest.approx(np.linalg.norm(np.diff(ends_of(sides["warped"]), axis=0)), abs=1.0)

    def test_segments_of_different_names_are_one_tumour(self, done, volumes):
        nodes = tumors("Metastasis", "Lesion seg. 4")
        found = mrml.evaluate(
            *volumes, done.transform, None, None, *nodes, "Metastasis", movingTumorSegment="Lesion seg. 4"
        )
        assert found.evaluation.tumor.name == "Metastasis / Lesion seg. 4"
        assert found.evaluation.tumor.fixed.major_mm == pytest.approx(26.4, abs=1.0)
        assert found.evaluation.labels["Metastasis / Lesion seg. 4"].dice.after > 0.95

    def test_only_the_chosen_segments_are_compared(self, done, volumes):
        nodes = tumors()
        found = mrml.evaluate(*volumes, done.transform, None, None, *nodes, segments=["Ball"])
        rows = mrml.table_rows(found.segments)
        assert [row[0] for row in rows[1:]] == ["Ball"]
        # Dice of the two balls on the fixed grid, counted here.
        ours = ellipsoid(GRID, POINTS[0], (6, 6, 6)) > 0
        image = MOVING_GRID.image(ellipsoid(MOVING_GRID, POINTS[0], (6, 6, 6), stretched=True).astype(np.float32))
        theirs = (
            sitk.GetArrayFromImage(sitk.Resample(image, GRID.empty_image(), sitk.Transform(), sitk.sitkLinear)) >= 0.5
        )
        dice = 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())
        assert rows[1][rows[0].index("Dice before")] == pytest.approx(dice, abs=0.02)
        assert rows[1][rows[0].index("Dice after")] > 0.9 > rows[1][rows[0].index("Dice before")]
        assert found.tumor is None

    def test_an_empty_tumour_is_one_message_and_leaves_the_scene(self, scene, done, volumes):
        fixed, _ = tumors()
        masks = {"Tumor": np.zeros(MOVING_GRID.shape, np.uint8), "Ball": np.ones(MOVING_GRID.shape, np.uint8)}
        empty = segmentation_node("E", MOVING_GRID, masks)
        count = scene.GetNumberOfNodes()
        with pytest.raises(InputError, match="The tumour 'Tumor' is empty: no voxel of it lies in the moving image"):
            mrml.evaluate(*volumes, done.transform, None, None, fixed, empty, "Tumor")
        assert scene.GetNumberOfNodes() == count

    def test_nothing_chosen_and_absent_names_are_refused(self, done, volumes):
        nodes = tumors()
        with pytest.raises(InputError, match="No segment is chosen"):
            mrml.evaluate(*volumes, done.transform, None, None, *nodes, segments=[])
        with pytest.raises(InputError, match="no segment 'Liver'; it has 'Tumor', 'Ball'"):
            mrml.evaluate(*volumes, done.transform, None, None, *nodes, segments=["Liver"])


class TestLines:
    LONG = np.array([[-10.0, 0, 0], [10, 0, 0]]) + CENTER
    SHORT = np.array([[0, -6.0, 0], [0, 6, 0]]) + CENTER

    def drawn(self):
        fixed = mrml.TumorLines(line(self.LONG, "long F"), line(self.SHORT, "short F"))
        moving = mrml.TumorLines(line(to_moving(self.LONG), "long M"), line(to_moving(self.SHORT), "short M"))
        return fixed, moving

    def test_drawn_diameters_are_the_lengths_of_their_lines(self, done, volumes):
        fixed, moving = self.drawn()
        found = mrml.evaluate(
            *volumes, done.transform, fixedTumorLines=fixed, movingTumorLines=moving, outputDiameters=True
        )
        rows = {row[0]: row[1:] for row in mrml.table_rows(found.tumor)[1:]}
        assert rows["fixed"][:2] == pytest.approx([20.0, 12.0])
        assert rows["moving"][:2] == pytest.approx([24.0, 12.0])
        assert rows["warped"][:2] == pytest.approx([20.0, 12.0], abs=2e-3)
        assert rows["moving - fixed"][:2] == pytest.approx([4.0, 0.0])
        assert [row[2] for row in rows.values()] == [None] * 5
        warped = ends_of(found.diameters[4])
        np.testing.assert_allclose(warped, self.LONG, atol=2e-3)

    def test_lines_under_the_transform_are_measured_as_they_lie(self, done, volumes):
        fixed, moving = self.drawn()
        for node in (moving.long, moving.short):
            mrml.show_under(node, done.transform)
        found = mrml.evaluate(*volumes, done.transform, fixedTumorLines=fixed, movingTumorLines=moving)
        assert found.evaluation.tumor.moving.major_mm == pytest.approx(24.0)

    def test_a_long_diameter_is_enough(self, done, volumes):
        fixed, moving = self.drawn()
        found = mrml.evaluate(
            *volumes,
            done.transform,
            fixedTumorLines=mrml.TumorLines(fixed.long),
            movingTumorLines=mrml.TumorLines(moving.long),
            outputDiameters=True,
        )
        rows = mrml.table_rows(found.tumor)
        assert rows[1][1] == pytest.approx(20.0)
        assert rows[1][2] is None
        assert len(found.diameters) == 3

    def test_what_cannot_be_measured_is_one_message(self, scene, done, volumes):
        fixed, moving = self.drawn()
        half = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", "half")
        half.AddControlPoint(vtk.vtkVector3d(1, 2, 3))
        count = scene.GetNumberOfNodes()
        for ours, theirs, text in (
            (fixed, None, "needed in both images"),
            (mrml.TumorLines(half), moving, 'The fixed long diameter "half" has one end only. Place the other end.'),
            (mrml.TumorLines(volumes[0]), moving, "must be a line markup"),
            (mrml.TumorLines(fixed.short, fixed.long), moving, "Exchange the two lines"),
        ):
            with pytest.raises(InputError, match=text):
                mrml.evaluate(*volumes, done.transform, fixedTumorLines=ours, movingTumorLines=theirs)
        assert scene.GetNumberOfNodes() == count

    def test_sizes_of_drawn_diameters(self):
        size = size_of_diameters([[0, 0, 0], [3, 4, 0]], [[0, 0, 0], [0, 0, 2]])
        assert (size.major_mm, size.minor_mm) == (5.0, 2.0)
        assert np.isnan(size.volume_ml)


# ---------------------------------------------------------------------- elsewhere, and as text


class TestJob:
    def test_figures_measured_elsewhere_make_the_same_tables(self, done, volumes):
        """As the panel does it: a child process measures and gives back JSON."""
        nodes = [*lists(), *tumors()]
        named = dict(zip(("fixedLandmarks", "movingLandmarks", "fixedSegmentation", "movingSegmentation"), nodes))
        direct = mrml.evaluate(*volumes, done.transform, **named)
        tables = [mrml.table_text(getattr(direct, what)) for what in ("summary", "landmarks", "segments", "tumor")]
        job = mrml.prepare_evaluation(*volumes, done.transform, **named)
        again = job.commit(evaluate_images(**job.inputs).to_dict())
        assert [mrml.table_text(getattr(again, w)) for w in ("summary", "landmarks", "segments", "tumor")] == tables

    def test_a_volume_that_was_removed_meanwhile_is_one_message(self, scene, done, volumes):
        job = mrml.prepare_evaluation(*volumes, done.transform)
        measured = evaluate_images(**job.inputs)
        scene.RemoveNode(volumes[1])
        count = scene.GetNumberOfNodes()
        with pytest.raises(InputError, match="The moving volume was removed from the scene"):
            job.commit(measured)
        assert scene.GetNumberOfNodes() == count


class TestText:
    @pytest.fixture
    def table(self, scene):
        node = scene.AddNewNodeByClass("vtkMRMLTableNode", "T")
        columns = [
            mrml.Column("Segment", ['a, "b"', "c"]),
            mrml.Column("HD95 (mm)", [1 / 3, None]),
        ]
        mrml.write_table(node, columns)
        return node

    def test_csv_reads_back_at_full_precision(self, table):
        rows = list(csv.reader(io.StringIO(mrml.table_text(table))))
        assert rows == [["Segment", "HD95 (mm)"], ['a, "b"', repr(1 / 3)], ["c", ""]]
        assert mrml.table_text(table, "\t").splitlines()[2] == "c\t"

    def test_a_file_appears_whole_or_not_at_all(self, table, tmp_path):
        mrml.write_table_csv(table, tmp_path / "t.csv")
        assert (tmp_path / "t.csv").read_text(encoding="utf-8-sig") == mrml.table_text(table)
        with pytest.raises(InputError, match="does not exist"):
            mrml.write_table_csv(table, tmp_path / "absent" / "t.csv")
        with pytest.raises(InputError, match="No table"):
            mrml.write_table_csv(None, tmp_path / "u.csv")
        assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
