"""Landmark files and pairing, checked against hand-written files and Slicer's own storage nodes."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from CycleRegLib.errors import CycleRegWarning, InputError
from CycleRegLib.geometry import Grid
from CycleRegLib.landmarks import LandmarkList, check_inside, match_landmarks, read_landmarks, write_landmarks

POINTS = np.array([[1.5, -2.25, 3.125], [-100.123456789012, 1e-7, 0.0], [12.0, 34.0, -56.0]])
LABELS = ["Kuppel, hépatique", 'the "dome"', "P2"]
NOTES = ["first", "", "a, b"]


@pytest.fixture
def landmarks() -> LandmarkList:
    return LandmarkList(LABELS, POINTS, NOTES)


def numbered(prefix: str, n: int, offset: float = 0.0) -> LandmarkList:
    return LandmarkList([f"{prefix}{i + 1}" if prefix != "" else "" for i in range(n)], np.eye(n, 3) + offset)


class TestRoundTrip:
    @pytest.mark.parametrize("system", ["LPS", "RAS"])
    @pytest.mark.parametrize("ending", [".mrk.json", ".fcsv", ".csv"])
    def test_labels_points_and_notes_return_exactly(self, tmp_path, landmarks, ending, system):
        path = tmp_path / f"points{ending}"
        write_landmarks(landmarks, path, system)
        back = read_landmarks(path)
        assert back.labels == LABELS
        assert back.descriptions == NOTES
        np.testing.assert_array_equal(back.points, POINTS)

    @pytest.mark.parametrize("ending", [".mrk.json", ".fcsv", ".csv"])
    def test_the_two_systems_differ_in_the_file_by_the_signs_of_x_and_y(self, tmp_path, landmarks, ending):
        paths = {system: tmp_path / f"{system}{ending}" for system in ("LPS", "RAS")}
        for system, path in paths.items():
            write_landmarks(landmarks, path, system)
        lps, ras = (paths[s].read_text(encoding="utf-8") for s in ("LPS", "RAS"))
        assert ("-2.25" in lps, "-1.5" in lps) == (True, False)
        assert ("-2.25" in ras, "-1.5" in ras) == (False, True)

    def test_unknown_ending_and_system_are_refused(self, tmp_path, landmarks):
        with pytest.raises(InputError, match=r"\.mrk\.json"):
            write_landmarks(landmarks, tmp_path / "points.xyz")
        with pytest.raises(InputError, match="LPS or RAS"):
            write_landmarks(landmarks, tmp_path / "points.csv", "IJK")
        assert not list(tmp_path.iterdir())


class TestReadJson:
    @staticmethod
    def write(path, system="LPS", unit="mm", points=None):
        markup = {
            "type": "Fiducial",
            "coordinateSystem": system,
            "coordinateUnits": unit,
            "controlPoints": points or [{"label": "a", "position": [1.0, 2.0, 3.0]}],
        }
        path.write_text(json.dumps({"@schema": "markups-schema-v1.0.0.json#", "markups": [markup]}), encoding="utf-8")
        return path

    @pytest.mark.parametrize(
        ("system", "expected"),
        [("LPS", [1, 2, 3]), ("RAS", [-1, -2, 3]), ("0", [-1, -2, 3]), ("1", [1, 2, 3]), (0, [-1, -2, 3])],
    )
    def test_coordinate_system(self, tmp_path, system, expected):
        assert read_landmarks(self.write(tmp_path / "a.mrk.json", system)).points.tolist() == [expected]

    def test_micrometres(self, tmp_path):
        points = read_landmarks(self.write(tmp_path / "a.mrk.json", unit="um")).points
        np.testing.assert_allclose(points, [[0.001, 0.002, 0.003]])

    def test_only_defined_points_are_kept(self, tmp_path):
        points = [
            {"label": "a", "position": [1, 2, 3], "positionStatus": "defined"},
            {"label": "b", "position": "", "positionStatus": "undefined"},
            {"label": "c", "position": [0, 0, 0], "positionStatus": "missing"},
            {"label": "d", "position": [4, 5, 6]},
        ]
        assert read_landmarks(self.write(tmp_path / "a.mrk.json", points=points)).labels == ["a", "d"]

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"system": "IJK"}, "IJK"),
            ({"unit": "furlong"}, "furlong"),
            ({"points": [{"label": "liver", "position": [1, 2]}]}, "control point 1 .'liver'."),
            ({"points": [{"label": "q", "position": [1, 2, None]}]}, "three finite numbers"),
            ({"points": [{"label": "q", "position": [0, 0, 0], "positionStatus": "missing"}]}, "no landmark"),
            ({"points": [7]}, "not a Slicer markups file"),
        ],
    )
    def test_what_cannot_be_used_is_named(self, tmp_path, arguments, match):
        with pytest.raises(InputError, match=match):
            read_landmarks(self.write(tmp_path / "a.mrk.json", **arguments))

    @pytest.mark.parametrize("text", ["{", "[]", '{"markups": 3}', '{"a": 1}', '{"markups": [1]}'])
    def test_other_json_is_refused(self, tmp_path, text):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(InputError, match="not a Slicer markups file"):
            read_landmarks(tmp_path / "a.json")

    def test_several_markups_warn(self, tmp_path):
        path = self.write(tmp_path / "a.mrk.json")
        content = json.loads(path.read_text())
        content["markups"].append(content["markups"][0])
        path.write_text(json.dumps(content))
        with pytest.warns(CycleRegWarning, match="several markups"):
            assert len(read_landmarks(path)) == 1


class TestReadFcsv:
    VERSION = "# Markups fiducial file version = 4.10\n"
    COLUMNS = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    ROW = "vtkMRMLMarkupsFiducialNode_0,1,2,3,0,0,0,1,1,1,0,dome,,\n"

    @pytest.mark.parametrize(
        ("system", "expected"),
        [("0", [-1, -2, 3]), ("1", [1, 2, 3]), ("RAS", [-1, -2, 3]), ("LPS", [1, 2, 3])],
    )
    def test_coordinate_system(self, tmp_path, system, expected):
        path = tmp_path / "a.fcsv"
        path.write_text(f"{self.VERSION}# CoordinateSystem = {system}\n{self.COLUMNS}{self.ROW}")
        back = read_landmarks(path)
        assert back.labels == ["dome"]
        assert back.points.tolist() == [expected]

    def test_slicer_3_list_is_ras(self, tmp_path):
        path = tmp_path / "a.fcsv"
        path.write_text("# Fiducial List file a\n# columns = label,x,y,z,sel,vis\nA,1,2,3,1,1\n")
        back = read_landmarks(path)
        assert (back.labels, back.points.tolist()) == (["A"], [[-1, -2, 3]])

    def test_ijk_and_missing_columns_are_refused(self, tmp_path):
        path = tmp_path / "a.fcsv"
        path.write_text(f"{self.VERSION}# CoordinateSystem = 2\n{self.COLUMNS}{self.ROW}")
        with pytest.raises(InputError, match="'2' coordinates"):
            read_landmarks(path)
        path.write_text("# columns = id,x,y\n1,2,3\n")
        with pytest.raises(InputError, match="x, y and z"):
            read_landmarks(path)

    def test_bad_number_names_line_and_column(self, tmp_path):
        path = tmp_path / "a.fcsv"
        path.write_text(self.VERSION + self.COLUMNS + self.ROW + self.ROW.replace(",2,", ",two,"))
        with pytest.raises(InputError, match="line 4, column y: 'two'"):
            read_landmarks(path)


class TestReadCsv:
    @pytest.mark.parametrize(
        "text",
        [
            "dome,1,2,3\ntip,4,5,-6\n",
            "label,x,y,z\ndome,1,2,3\ntip,4,5,-6\n",
            "# marked by hand\n\nlabel, x, y, z\n\ndome, 1, 2, 3\n# tip next\ntip, 4, 5, -6\n\n",
            "Label;X;Y;Z\ndome;1,0;2,0;3,0\ntip;4,0;5,0;-6,0\n",
            "dome\t1\t2\t3\ntip\t4\t5\t-6\n",
            "z,name,y,x\n3,dome,2,1\n-6,tip,5,4\n",
            "label,r,a,s\ndome,-1,-2,3\ntip,-4,-5,-6\n",
            '"label","l","p","s","defined"\n"dome",1,2,3,1\n"lost",7,8,9,0\n"tip",4,5,-6,1\n',
            "\ufefflabel,x,y,z\r\ndome,1,2,3\r\ntip,4,5,-6\r\n",
        ],
    )
    def test_dialects(self, tmp_path, text):
        path = tmp_path / "a.csv"
        path.write_bytes(text.encode("utf-8"))
        back = read_landmarks(path)
        assert back.labels == ["dome", "tip"]
        assert back.points.tolist() == [[1, 2, 3], [4, 5, -6]]

    def test_three_columns_have_no_labels(self, tmp_path):
        path = tmp_path / "a.csv"
        path.write_text("1,2,3\n4,5,6\n")
        assert read_landmarks(path).labels == ["", ""]

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("label,x,y,z\na,1,2,3\nb,1,oops,3\n", "line 3, column y: 'oops'"),
            ("a,1,2,3\nb,1,2\n", "line 2, column z: ''"),
            ("a,1,2,nan\n", "line 1, column z: 'nan'"),
            ("a,1\n", "2 column"),
            ("# nothing\n", "no landmark"),
        ],
    )
    def test_errors_name_the_place(self, tmp_path, text, match):
        path = tmp_path / "a.csv"
        path.write_text(text)
        with pytest.raises(InputError, match=match):
            read_landmarks(path)

    def test_missing_unknown_and_binary_files(self, tmp_path):
        with pytest.raises(InputError, match="does not exist"):
            read_landmarks(tmp_path / "none.csv")
        (tmp_path / "a.vtk").write_text("x")
        with pytest.raises(InputError, match="no landmark file"):
            read_landmarks(tmp_path / "a.vtk")
        (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00\x01")
        with pytest.raises(InputError, match="UTF-8"):
            read_landmarks(tmp_path / "a.csv")


class TestMatch:
    def test_by_label_whatever_the_order(self):
        fixed = LandmarkList(["a", "b", "c"], [[1, 0, 0], [2, 0, 0], [3, 0, 0]])
        moving = LandmarkList(["c", "a", "b"], [[30, 0, 0], [10, 0, 0], [20, 0, 0]])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            labels, p, q = match_landmarks(fixed, moving)
        assert labels == ["a", "b", "c"]
        np.testing.assert_array_equal(q, p * 10)

    def test_labels_on_one_side_are_named_and_left_out(self):
        fixed = LandmarkList(["a", "only fixed", "c"], np.eye(3))
        moving = LandmarkList(["c", "a", "only moving"], np.eye(3))
        with pytest.warns(CycleRegWarning, match='"only fixed" only among the fixed.*"only moving" only among the mov'):
            labels, p, q = match_landmarks(fixed, moving)
        assert labels == ["a", "c"]
        np.testing.assert_array_equal(p, np.eye(3)[[0, 2]])
        np.testing.assert_array_equal(q, np.eye(3)[[1, 0]])

    def test_nothing_in_common_is_an_error(self):
        with pytest.raises(InputError, match="no label in common"):
            match_landmarks(LandmarkList(["liver"], np.zeros((1, 3))), LandmarkList(["spleen"], np.zeros((1, 3))))

    @pytest.mark.parametrize(("fixed", "moving"), [("F-", "M-"), ("", ""), ("Fixed marks_", ""), ("F ", "")])
    def test_unnamed_points_are_matched_by_order(self, fixed, moving):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            labels, p, q = match_landmarks(numbered(fixed, 3), numbered(moving, 3, 7.0))
        np.testing.assert_array_equal(q, p + 7.0)
        assert labels == (numbered(fixed, 3).labels if fixed else ["1", "2", "3"])

    def test_automatic_labels_that_agree_are_used(self):
        fixed = LandmarkList(["F-1", "F-3", "F-2"], np.diag([1.0, 3.0, 2.0]))
        moving = LandmarkList(["F-1", "F-2", "F-3"], np.diag([1.0, 2.0, 3.0]))
        _, p, q = match_landmarks(fixed, moving)
        np.testing.assert_array_equal(p.max(axis=1), q.max(axis=1))

    def test_a_deleted_automatic_point_does_not_shift_the_others(self):
        moving = numbered("F-", 3)
        fixed = LandmarkList(["F-1", "F-3"], moving.points[[0, 2]])
        with pytest.warns(CycleRegWarning, match='"F-2" only among the moving'):
            _, p, q = match_landmarks(fixed, moving)
        np.testing.assert_array_equal(p, q)

    def test_unequal_unlabelled_lists_warn_or_are_refused(self):
        with pytest.warns(CycleRegWarning, match="3 fixed and 2 moving"):
            labels, p, q = match_landmarks(numbered("", 3), numbered("", 2))
        assert len(labels) == len(p) == len(q) == 2
        with pytest.raises(InputError, match="3 fixed and 2 moving"):
            match_landmarks(numbered("", 3), numbered("", 2), strict=True)

    def test_repeated_labels_fall_back_to_order_with_a_warning(self):
        fixed = LandmarkList(["a", "a", "b"], np.eye(3))
        with pytest.warns(CycleRegWarning, match="missing or repeated"):
            labels, p, q = match_landmarks(fixed, LandmarkList(["a", "b", "c"], np.eye(3)))
        assert labels == ["1", "2", "3"]
        np.testing.assert_array_equal(p, q)

    def test_an_empty_list_is_an_error(self):
        with pytest.raises(InputError, match="moving landmarks is empty"):
            match_landmarks(numbered("", 2), LandmarkList([], np.zeros((0, 3))))


class TestCheckInside:
    GRID = Grid((100, 80, 60), (1.0, 1.0, 2.0), (20.0, -130.0, -50.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))

    def test_points_in_the_outer_voxels_are_inside(self):
        check_inside(LandmarkList(["corner"], [[19.6, -130.4, -50.9]]), self.GRID)

    def test_outside_names_the_labels(self):
        marks = LandmarkList(["in", "", "high"], [[30, -100, 0], [30, -100, 80], [30, -100, 90]])
        with pytest.raises(
            InputError, match=r'2 of 3 landmarks lie outside the fixed image: "number 2", "high".*Check'
        ):
            check_inside(marks, self.GRID, "fixed image")

    def test_a_mix_up_of_ras_and_lps_is_recognised(self):
        marks = LandmarkList(["a", "b"], [[-30, 100, 0], [-90, 60, 10]])
        with pytest.raises(InputError, match="signs of x and y changed all of them are inside"):
            check_inside(marks, self.GRID)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="2 labels do not fit 1 points"):
        LandmarkList(["a", "b"], np.zeros((1, 3)))
    with pytest.raises(ValueError, match="descriptions"):
        LandmarkList(["a"], np.zeros((1, 3)), ["x", "y"])


def test_a_landmark_is_found_by_its_label(landmarks):
    np.testing.assert_array_equal(landmarks["P2"], POINTS[2])
    with pytest.raises(KeyError):
        landmarks["P3"]


class TestAgainstSlicer:
    """Slicer's own storage nodes, which hold points in RAS, read what we write and the other way round."""

    @pytest.fixture
    def slicer_node(self):
        slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")
        scene = slicer.vtkMRMLScene()
        node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Marks")
        storage = {
            ".mrk.json": slicer.vtkMRMLMarkupsJsonStorageNode,
            ".fcsv": slicer.vtkMRMLMarkupsFiducialStorageNode,
        }

        def storage_node(path):
            result = scene.AddNode(storage[".fcsv" if path.suffix == ".fcsv" else ".mrk.json"]())
            result.SetFileName(str(path))
            return result

        return scene, node, storage_node

    @pytest.mark.parametrize("ending", [".mrk.json", ".fcsv"])
    def test_ours_reads_what_slicer_writes(self, tmp_path, slicer_node, ending):
        import vtk

        _scene, node, storage_node = slicer_node
        for label, point in zip(LABELS, POINTS):
            node.AddControlPointWorld(vtk.vtkVector3d(-point[0], -point[1], point[2]), label)
        node.SetNthControlPointDescription(2, NOTES[2])
        node.AddControlPointWorld(vtk.vtkVector3d(5, 5, 5), "unset")
        node.UnsetNthControlPointPosition(3)
        path = tmp_path / f"slicer{ending}"
        assert storage_node(path).WriteData(node)
        back = read_landmarks(path)
        assert back.labels == LABELS
        assert back.descriptions == ["", "", NOTES[2]]
        np.testing.assert_allclose(back.points, POINTS, atol=1e-9)

    @pytest.mark.parametrize("system", ["LPS", "RAS"])
    @pytest.mark.parametrize("ending", [".mrk.json", ".fcsv"])
    def test_slicer_reads_what_we_write(self, tmp_path, slicer_node, landmarks, ending, system):
        _scene, node, storage_node = slicer_node
        path = tmp_path / f"ours{ending}"
        write_landmarks(landmarks, path, system)
        assert storage_node(path).ReadData(node)
        n = node.GetNumberOfControlPoints()
        assert [node.GetNthControlPointLabel(i) for i in range(n)] == LABELS
        assert [node.GetNthControlPointDescription(i) for i in range(n)] == NOTES
        assert all(node.GetNthControlPointPositionStatus(i) == node.PositionDefined for i in range(n))
        points = np.array([list(node.GetNthControlPointPositionWorld(i)) for i in range(n)]) * [-1, -1, 1]
        np.testing.assert_allclose(points, POINTS, atol=1e-9)

    @pytest.mark.parametrize("lps", [True, False])
    def test_slicers_table_export_is_read(self, tmp_path, slicer_node, lps):
        import slicer
        import vtk

        _scene, node, _storage_node = slicer_node
        node.AddControlPointWorld(vtk.vtkVector3d(-1, -2, 3), "a, b")
        assert slicer.vtkSlicerMarkupsLogic().ExportControlPointsToCSV(node, str(tmp_path / "e.csv"), lps)
        back = read_landmarks(tmp_path / "e.csv")
        assert (back.labels, back.points.tolist()) == (["a, b"], [[1, 2, 3]])
