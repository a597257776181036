"""A tumour whose diameters were drawn as lines: lengths worked out by hand, and points carried against the field."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from flat_cases import picture, picture_grid
from geometries import random_grid, seeds, smooth_field, smooth_vectors
from hypothesis import given
from small_pair import refuse
from test_report import Document

import CycleRegLib
from CycleRegLib import drawn_tumor
from CycleRegLib.cli import main
from CycleRegLib.drawn_tumor import DrawnDiameters, read_diameters
from CycleRegLib.errors import CycleRegWarning, InputError
from CycleRegLib.fields import DisplacementField
from CycleRegLib.geometry import Grid
from CycleRegLib.landmarks import LandmarkList, write_landmarks
from CycleRegLib.point_inverse import carry_back
from CycleRegLib.segmentations import Segmentation

GRID = Grid((40, 36, 24), (1.5, 1.5, 2.0), (-30.0, -26.0, -24.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
#: Fixed to moving: stretched by 1.2 along x, then shifted.
SHIFT = np.array([1.0, -2.0, 1.5])
FIELD = DisplacementField.from_matrix(
    np.array([[1.2, 0, 0, SHIFT[0]], [0, 1, 0, SHIFT[1]], [0, 0, 1, SHIFT[2]], [0, 0, 0, 1.0]]), GRID
)
# From an end of each line to the other.  Against the stretch, the moving ones become (20, 7, 0) and (-3, 0, 4.8).
FIXED = {"long": np.array([12.0, 16, 0]), "short": np.array([0.0, 0, 9])}
MOVING = {"long": np.array([24.0, 7, 0]), "short": np.array([-3.6, 0, 4.8])}
LENGTHS = {
    "major_mm": {
        "fixed": 20.0,
        "moving": 25.0,
        "warped": math.sqrt(449),
        "difference_before": 5.0,
        "difference_after": math.sqrt(449) - 20,
    },
    "minor_mm": {
        "fixed": 9.0,
        "moving": 6.0,
        "warped": math.sqrt(9 + 4.8**2),
        "difference_before": -3.0,
        "difference_after": math.sqrt(9 + 4.8**2) - 9,
    },
}
START = np.array([2.0, -5.0, 3.0])
NOTHING = dict.fromkeys(LENGTHS["major_mm"])


def lines(vectors: dict[str, np.ndarray], name: str, *lengths: str) -> DrawnDiameters:
    return DrawnDiameters(*[np.array([START, START + vectors[length]]) for length in lengths], name=name)


def images() -> list[sitk.Image]:
    rng = np.random.default_rng(0)
    return [GRID.image(rng.normal(100, 10, GRID.shape).astype(np.float32)) for _ in range(2)]


def markup(ends: np.ndarray, system: str = "LPS") -> str:
    """A line as Slicer saves it."""
    signs = np.array([-1, -1, 1]) if system == "RAS" else 1
    points = [
        {"id": str(i), "label": f"L-{i}", "position": point, "positionStatus": "defined"}
        for i, point in enumerate((ends * signs).tolist(), start=1)
    ]
    line = {"type": "Line", "coordinateSystem": system, "coordinateUnits": "mm", "controlPoints": points}
    return json.dumps({"markups": [line]})


# ---------------------------------------------------------------------- points carried back


class TestCarryBack:
    @given(seeds)
    def test_points_come_back_through_smooth_fields(self, seed: int) -> None:
        grid = random_grid(seed)
        field = smooth_field(grid, seed, amplitude_mm=min(grid.spacing))
        index = np.random.default_rng(seed).uniform(1, np.array(grid.size) - 2, (8, 3))
        points = grid.to_world(index)
        found, errors = carry_back(field, field.transform_points(points))
        np.testing.assert_allclose(found, points, atol=5e-3)
        assert errors.max() < 1e-3

    def test_a_large_affine_part_and_points_beyond_the_grid(self) -> None:
        matrix = np.eye(4)
        matrix[:3, :3] = [[0, -1.5, 0], [0.7, 0, 0.1], [0, 0, 1]]
        matrix[:3, 3] = (300.0, -200.0, 50.0)
        field = DisplacementField.from_matrix(matrix, GRID)
        points = GRID.to_world(np.array([[0.0, 0, 0], [39, 35, 23], [12.3, 20.1, 7.7]]))
        found, _ = carry_back(field, points @ matrix[:3, :3].T + matrix[:3, 3])
        np.testing.assert_allclose(found, points, atol=2e-3)
        # Beyond the grid the displacement is that of its border.
        shift = DisplacementField.from_matrix(
            np.array([[1.0, 0, 0, 4], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), GRID
        )
        np.testing.assert_allclose(carry_back(shift, np.array([[500.0, 0, 0]]))[0], [[496.0, 0, 0]], atol=1e-3)

    def test_what_is_left_is_told_where_the_field_folds(self) -> None:
        field = DisplacementField(smooth_vectors(GRID, 3, 40.0, waves=4.0), GRID)
        assert (field.jacobian_determinant() <= 0).any()
        points = GRID.to_world(np.random.default_rng(0).uniform(2, 20, (30, 3)))
        found, errors = carry_back(field, points)
        left = np.linalg.norm(field.transform_points(found, "border") - points, axis=1)
        np.testing.assert_allclose(errors, left, atol=1e-9)

    def test_agrees_with_the_inverse_of_the_whole_field(self) -> None:
        field = smooth_field(GRID, 1, 3.0)
        points = GRID.to_world(np.random.default_rng(0).uniform(4, 18, (20, 3)))
        expected = field.inverse().field.transform_points(points)
        np.testing.assert_allclose(carry_back(field, points)[0], expected, atol=0.05)


# ---------------------------------------------------------------------- sizes


class TestEvaluate:
    def test_sizes_are_those_worked_out_by_hand(self) -> None:
        drawn = lines(FIXED, "tumour", "long", "short"), lines(MOVING, "tumour", "long", "short")
        found = CycleRegLib.evaluate(*images(), FIELD, fixed_tumor_lines=drawn[0], moving_tumor_lines=drawn[1])
        content = found.to_dict()["tumor"]
        assert (content["name"], content["drawn"]) == ("tumour", True)
        for quantity, lengths in LENGTHS.items():
            assert content[quantity] == pytest.approx(lengths, abs=2e-3)
        assert content["volume_ml"] == NOTHING
        warped = content["diameters"]["warped"]["major"]
        np.testing.assert_allclose(warped[0], (START - SHIFT) / [1.2, 1, 1], atol=2e-3)
        np.testing.assert_allclose(np.subtract(*warped[::-1]), [20, 7, 0], atol=2e-3)
        assert content["diameters"]["moving"]["minor"] == [START.tolist(), (START + MOVING["short"]).tolist()]
        assert found.warnings == []
        rows = {row.name: row for row in found.rows()}
        assert rows["Tumor long diameter, moving / warped"][2:] == pytest.approx((25, math.sqrt(449)), abs=2e-3)
        assert rows["Tumor volume, fixed"][2:] == (None, None)

    def test_the_long_diameter_is_enough(self) -> None:
        drawn = lines(FIXED, "F", "long"), lines(MOVING, "M", "long")
        found = CycleRegLib.evaluate(*images(), FIELD, fixed_tumor_lines=drawn[0], moving_tumor_lines=drawn[1])
        content = found.to_dict()["tumor"]
        assert content["name"] == "M to F"
        assert content["major_mm"] == pytest.approx(LENGTHS["major_mm"], abs=2e-3)
        assert content["minor_mm"] == content["volume_ml"] == NOTHING

    def test_a_warped_short_diameter_that_becomes_the_longer_one_is_the_long_one(self) -> None:
        """Stretched along x by 1.2, back again a line along x is shorter: 21 becomes 17.5, and 20 across it stays."""
        ours = DrawnDiameters([START, START + [20, 0, 0]], [START, START + [0, 10, 0]])
        theirs = DrawnDiameters([START, START + [21, 0, 0]], [START, START + [0, 20, 0]])
        found = CycleRegLib.evaluate(*images(), FIELD, fixed_tumor_lines=ours, moving_tumor_lines=theirs)
        assert found.tumor.numbers("major_mm")["warped"] == pytest.approx(20, abs=2e-3)
        assert found.tumor.numbers("minor_mm")["warped"] == pytest.approx(17.5, abs=2e-3)

    def test_lines_come_before_a_segment_that_is_called_a_tumour(self) -> None:
        mask = (np.linalg.norm(GRID.points(), axis=-1) < 12).astype(np.uint8)
        labels = Segmentation(GRID.image(mask), {1: "Tumor"})
        drawn = {"fixed_tumor_lines": lines(FIXED, "F", "long"), "moving_tumor_lines": lines(MOVING, "M", "long")}
        options = {"fixed_segmentation": labels, "moving_segmentation": labels}
        found = CycleRegLib.evaluate(*images(), FIELD, **options, **drawn)
        assert found.tumor.numbers("major_mm")["fixed"] == pytest.approx(20)
        assert list(found.labels) == ["Tumor"]
        assert not CycleRegLib.evaluate(*images(), FIELD, **options).tumor.drawn
        with pytest.raises(InputError, match="given twice, as the segment 'Tumor' and as lines"):
            CycleRegLib.evaluate(*images(), FIELD, **options, **drawn, tumor_label="Tumor")

    def test_what_the_user_should_know_is_a_warning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        corner = GRID.to_world(np.array([[0.0, 0, 0], [8, 8, 8]]))
        ours, theirs = lines(FIXED, "F", "long"), DrawnDiameters(corner)
        options = {"fixed_tumor_lines": ours, "moving_tumor_lines": theirs}
        with pytest.warns(CycleRegWarning, match="A warped line ends outside the displacement field"):
            CycleRegLib.evaluate(*images(), FIELD, **options)
        monkeypatch.setattr(drawn_tumor, "carry_back", lambda field, points: (points, np.array([0.0, 2.5])))
        with pytest.warns(CycleRegWarning, match=r"the end of a warped line 2\.5 mm past where it was drawn"):
            CycleRegLib.evaluate(*images(), FIELD, **options)

    @pytest.mark.parametrize(
        ("fixed", "moving", "message"),
        [
            (lines(FIXED, "", "long"), None, "needed in both images: give fixed and moving lines, or neither"),
            (lines(FIXED, "", "long", "short"), lines(MOVING, "", "long"), "Short diameters are needed in both images"),
            (lines(FIXED, "", "short", "long"), lines(MOVING, "", "long", "short"), "Exchange the two lines"),
            (
                lines(FIXED, "", "long"),
                DrawnDiameters([START, START + 400]),
                '1 of 2 ends lie outside the moving image: "long diameter, end 2"',
            ),
        ],
    )
    def test_what_cannot_be_measured_is_refused(
        self, fixed: DrawnDiameters, moving: DrawnDiameters | None, message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            CycleRegLib.evaluate(*images(), FIELD, fixed_tumor_lines=fixed, moving_tumor_lines=moving)

    def test_single_slices_of_any_orientation(self) -> None:
        """Stretched by 1.25 along the first axis: 10 mm along it in the moving slice are 8 in the fixed."""
        turned = random_grid(11).direction_matrix
        grid = Grid((40, 36, 1), (1.5, 1.0, 4.0), (30.0, -20.0, 60.0), tuple(turned.ravel()))
        x, y = turned[:, 0], turned[:, 1]
        middle = grid.center
        vectors = 0.25 * ((grid.points() - middle) @ x)[..., None] * x
        field = DisplacementField(vectors, grid)
        image = grid.image(np.random.default_rng(0).normal(100, 10, grid.shape).astype(np.float32))
        drawn = [
            DrawnDiameters([middle, middle + 10 * x], [middle, middle + 6 * y]),
            DrawnDiameters([middle - 5 * x, middle + 5 * x], [middle, middle + 5 * y]),
        ]
        found = CycleRegLib.evaluate(image, image, field, fixed_tumor_lines=drawn[0], moving_tumor_lines=drawn[1])
        assert found.tumor.numbers("major_mm") == pytest.approx(
            {"fixed": 10, "moving": 10, "warped": 8, "difference_before": 0, "difference_after": -2}, abs=2e-3
        )
        assert found.tumor.numbers("minor_mm")["warped"] == pytest.approx(5, abs=2e-3)
        np.testing.assert_allclose(found.tumor.warped.major_points, [middle - 4 * x, middle + 4 * x], atol=2e-3)


# ---------------------------------------------------------------------- files


class TestFiles:
    def test_a_markup_of_slicer_and_other_landmark_files(self, tmp_path: Path) -> None:
        ends = np.array([START, START + FIXED["long"]])
        (tmp_path / "Segment 4.mrk.json").write_text(markup(ends, "RAS"))
        write_landmarks(LandmarkList(["", ""], ends[::-1]), tmp_path / "short.csv")
        found = read_diameters([tmp_path / "Segment 4.mrk.json", tmp_path / "short.csv"])
        assert found.name == "Segment 4"
        np.testing.assert_allclose(found.long, ends)
        np.testing.assert_allclose(found.short, ends[::-1])

    @pytest.mark.parametrize(("count", "text"), [(1, "1 point."), (3, "3 points.")])
    def test_another_number_of_points(self, tmp_path: Path, count: int, text: str) -> None:
        (tmp_path / "a.mrk.json").write_text(markup(np.arange(3.0 * count).reshape(-1, 3)))
        with pytest.raises(InputError, match=f"The fixed long diameter .*a.mrk.json has {re.escape(text)}"):
            read_diameters([tmp_path / "a.mrk.json"], "fixed")

    def test_another_number_of_files(self) -> None:
        with pytest.raises(InputError, match="There are 3 files of lines for the moving image"):
            read_diameters(["a", "b", "c"], "moving")


@pytest.fixture
def case(tmp_path: Path) -> list[str]:
    """Files with the images, the transform and the lines in ``tmp_path / "in"``; the arguments without the lines."""
    folder = tmp_path / "in"
    folder.mkdir()
    for side, image in zip(("fixed", "moving"), images()):
        sitk.WriteImage(image, str(folder / f"{side}.nrrd"))
    sitk.WriteImage(FIELD.to_image(), str(folder / "t.nrrd"))
    for side, vectors in (("F", FIXED), ("M", MOVING)):
        for length, vector in vectors.items():
            (folder / f"{side} {length}.mrk.json").write_text(markup(np.array([START, START + vector]), "RAS"))
    given = {"fixed": "fixed.nrrd", "moving": "moving.nrrd", "transform": "t.nrrd"}
    return ["evaluate", *[part for name, file in given.items() for part in (f"--{name}", str(folder / file))]]


def drawn(folder: Path, side: str, *lengths: str) -> list[str]:
    option = {"F": "--fixed-tumor-lines", "M": "--moving-tumor-lines"}[side]
    return [option, *[str(folder / "in" / f"{side} {length}.mrk.json") for length in lengths]]


class TestCommandLine:
    def test_json_csv_table_and_report_show_the_same(self, case, tmp_path: Path, capfd) -> None:
        arguments = [*case, *drawn(tmp_path, "F", "long", "short"), *drawn(tmp_path, "M", "long", "short")]
        arguments += ["--json", str(tmp_path / "e.json"), "--csv", str(tmp_path / "e.csv")]
        assert main([*arguments, "--report", str(tmp_path / "report")]) == 0
        printed = capfd.readouterr().out
        content = json.loads((tmp_path / "e.json").read_text())["tumor"]
        assert content["name"] == "M long to F long"
        for quantity, lengths in LENGTHS.items():
            assert content[quantity] == pytest.approx(lengths, abs=2e-3)
        assert content["volume_ml"] == NOTHING

        with open(tmp_path / "e.csv", newline="", encoding="utf-8") as file:
            rows = {row[0]: row[1:] for row in csv.reader(file)}
        assert rows["Tumor long diameter, fixed"] == ["mm", "20.0", "20.0"]
        assert [float(cell) for cell in rows["Tumor short diameter, difference"][1:]] == pytest.approx(
            [-3.0, LENGTHS["minor_mm"]["difference_after"]], abs=2e-3
        )
        assert rows["Tumor volume, fixed"] == ["mL", "", ""]
        assert re.search(r"^Tumor long diameter, moving / warped +25\.000 +21\.1\d\d  mm$", printed, re.MULTILINE)
        assert re.search(r"^Tumor volume, fixed +- +-  mL$", printed, re.MULTILINE)

        page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
        rows = Document(page).table("Moving − fixed")
        assert rows["Long diameter, mm"] == pytest.approx([*LENGTHS["major_mm"].values()], abs=2e-3)
        assert rows["Short diameter, mm"] == pytest.approx([*LENGTHS["minor_mm"].values()], abs=2e-3)
        assert "Volume, mL" not in rows
        assert "M long to F long" in page
        assert "lengths in mm of the lines that were drawn" in page
        # The slices go through the middle of the line in the fixed image, as they do through a tumour's segment.
        assert "The slices meet at L 8.0, P 3.0, S 3.0 mm" in page

    def test_a_long_diameter_alone(self, case, tmp_path: Path, capfd) -> None:
        arguments = [*case, *drawn(tmp_path, "F", "long"), *drawn(tmp_path, "M", "long")]
        assert main([*arguments, "--report", str(tmp_path / "report")]) == 0
        page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
        assert "Long diameter, mm" in page
        assert "Short diameter, mm" not in page

    def test_a_picture_with_tables_of_x_and_y(self, tmp_path: Path) -> None:
        """Stretched by 1.25 along x."""
        grid = picture_grid()
        matrix = np.array([[1.25, 0, -10.0], [0, 1, 0], [0, 0, 1]])
        sitk.WriteImage(picture(grey=True), str(tmp_path / "p.png"))
        sitk.WriteImage(DisplacementField.from_matrix(matrix, grid).to_image(), str(tmp_path / "t.mha"))
        (tmp_path / "f.csv").write_text("x,y\n40,40\n52,56\n")
        (tmp_path / "m.csv").write_text("x,y\n40,40\n50,40\n")
        arguments = ["evaluate", "--fixed", "p.png", "--moving", "p.png", "--transform", "t.mha", "--json", "e.json"]
        arguments += ["--fixed-tumor-lines", "f.csv", "--moving-tumor-lines", "m.csv"]
        arguments = [str(tmp_path / word) if "." in word else word for word in arguments]
        assert main([*arguments, "--report", str(tmp_path / "report")]) == 0
        content = json.loads((tmp_path / "e.json").read_text())["tumor"]
        assert [content["major_mm"][side] for side in ("fixed", "moving", "warped")] == pytest.approx(
            [20, 10, 8], abs=2e-3
        )
        assert content["diameters"]["warped"]["major"][0] == pytest.approx([40, 40, 0], abs=2e-3)

    def test_bad_input_is_one_line(self, case, tmp_path: Path, capfd) -> None:
        def refused(arguments: list[str], *words: str) -> None:
            refuse(capfd, tmp_path, [*case, *arguments, "--json", tmp_path / "e.json"], *words)

        fixed, moving = drawn(tmp_path, "F", "long"), drawn(tmp_path, "M", "long")
        one = tmp_path / "in" / "one.csv"
        one.write_text("a,1,2,3\n")
        refused(fixed, "Give --fixed-tumor-lines and --moving-tumor-lines, or neither")
        refused(moving, "Give --fixed-tumor-lines and --moving-tumor-lines, or neither")
        refused([*fixed, *moving, "--tumor-segment", "Tumor"], "--tumor-segment or by lines", "not both")
        refused([*fixed, *moving, one, one], "There are 3 files of lines for the moving image")
        refused([*fixed, "--moving-tumor-lines", one], "The moving long diameter", "one.csv has 1 point", "two ends")
        refused([*fixed, "--moving-tumor-lines", tmp_path / "no.csv"], "no.csv does not exist")
        refused([*drawn(tmp_path, "F", "long", "short"), *moving], "Short diameters are needed in both images")
        swapped = drawn(tmp_path, "F", "short", "long")
        refused([*swapped, *drawn(tmp_path, "M", "long", "short")], "longer than the long one", "Exchange")
        refused([*fixed, *moving, "--csv", one.with_name("M long.mrk.json")], "one of the inputs")
