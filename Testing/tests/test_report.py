"""The HTML report: well-formed, self-contained, escaped, and every number in it one that was put in."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from CycleRegLib.colors import DIVERGING, Legend, linear_ticks
from CycleRegLib.errors import InputError
from CycleRegLib.evaluation import evaluate
from CycleRegLib.fields import DisplacementField
from CycleRegLib.geometry import Grid
from CycleRegLib.landmarks import LandmarkList
from CycleRegLib.pictures import Pictures, render_pictures
from CycleRegLib.report import render_report, write_report
from CycleRegLib.report_page import number
from CycleRegLib.report_values import position
from CycleRegLib.segmentations import Segmentation

VOID = {"meta", "img", "input", "link", "br", "hr"}
SHAPES = {"line", "circle", "rect", "stop", "path"}
EVIL = "<script>alert('x')</script>\"&"


class Document(HTMLParser):
    """Checks nesting, and collects elements, the cells of tables, and exact numbers."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: list[list[list[dict]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attributes}))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append({"text": "", "value": None, "tag": tag})
        elif tag == "data" and {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1]["value"] = float(dict(attributes)["value"])

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        assert tag in VOID | SHAPES
        self.elements.append((tag, {k: v or "" for k, v in attributes}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)
            if {"td", "th"} & set(self.open) and "a" not in self.open:
                self.tables[-1][-1][-1]["text"] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def table(self, heading: str) -> dict[str, list]:
        """The rows of the table whose heading has a cell that starts with ``heading``: name to exact numbers."""
        for table in self.tables:
            if any(cell["text"].startswith(heading) for row in table for cell in row if cell["tag"] == "th"):
                body = [row for row in table if row[0]["tag"] == "th" and any(cell["tag"] == "td" for cell in row)]
                return {row[0]["text"]: [cell["value"] for cell in row[1:]] for row in body}
        raise AssertionError(f"no table with {heading}")


EVALUATION = {
    "tre_mm": {
        "before": {"mean": 7.25, "sd": 2.123456, "median": 6.5, "max": 12.5},
        "after": {"mean": 0.8125, "sd": 0.25, "median": 0.75, "max": 14.0},
        "count": 2,
        "per_landmark": [
            {"label": f"Vein {EVIL}", "before": 12.5, "after": 0.625, "fixed": [1, 2, 3], "moving": [1, 2, 3]},
            {"label": "Pole", "before": 2.0, "after": 14.0, "fixed": [1, 2, 3], "moving": [1, 2, 3]},
        ],
    },
    "dice": {"Liver": {"before": 0.75, "after": 0.9375}, f"Tumor {EVIL}": {"before": None, "after": 0.5}},
    "iou": {"Liver": {"before": 0.6, "after": 0.88}, f"Tumor {EVIL}": {"before": None, "after": 1 / 3}},
    "hd95_mm": {"Liver": {"before": 9.5, "after": 3.25}, f"Tumor {EVIL}": {"before": None, "after": 6.125}},
    "bir_per_label": {"Liver": {"before": 0.4, "after": 0.7}, f"Tumor {EVIL}": {"before": None, "after": -0.25}},
    "bir": {"before": 0.375, "after": 0.6875},
    "labels_mean": {
        "dice": {"before": 0.75, "after": 0.71875},
        "iou": {"before": 0.6, "after": 0.61},
        "hd95_mm": {"before": 9.5, "after": 4.6875},
        "bir": {"before": 0.4, "after": 0.225},
    },
    "tumor": {
        "name": f"Tumor {EVIL}",
        "major_mm": {"fixed": 31.5, "moving": 34.0, "warped": 31.0, "difference_before": 2.5, "difference_after": -0.5},
        "minor_mm": {"fixed": 20.5, "moving": 19.0, "warped": 20.5, "difference_before": -1.5, "difference_after": 0.0},
        "volume_ml": {
            "fixed": 8.125,
            "moving": 9.0,
            "warped": None,
            "difference_before": 0.875,
            "difference_after": None,
        },
        "diameters": {"fixed": {"major": [[0, 0, 0], [1, 1, 1]]}},
    },
    "jacobian": {
        "folding_percent": 0.00025,
        "mean": 1.0125,
        "sd": 0.21875,
        "sd_log": 0.225,
        "min": -0.0625,
        "max": 2.5,
        "sd_log_left_out": 3,
    },
    "roundtrip_mm": {"mean": 0.0625, "sd": 0.03125, "median": 0.05, "p95": 0.15625, "max": 1.75},
    "roundtrip_inside_percent": 96.5,
    "lncc": {"before": 0.25, "after": 0.8125},
    "ncc": {"before": 0.875, "after": 0.96875},
    "mutual_information": {"before": 0.5, "after": 1.25},
    "nmse": {"before": 0.0625, "after": 0.0078125},
    "ssim": {"before": 0.75, "after": 0.9375},
    "compared_percent": 95.25,
    "reversibility": {"nmse": 0.001953125, "ssim": 0.984375},
    "warnings": [f"Segments left out: {EVIL}.", "Said twice."],
}
SUMMARY = {
    "method": "optimize",
    "fixed": f"/data/portal {EVIL}.nrrd",
    "moving": "/data/arterial.nrrd",
    "checkpoint": None,
    "checkpoint_sha256": "ab12" * 16,
    "device": "cpu",
    "seconds": {"affine": 0.75, "optimize": 6.5, "total": 8.25},
    "peak_memory_mb": 1843.5,
    "similarity": {"before": 0.1, "after": 0.2},
    "folding_percent": 0.5,
    "roundtrip_mm": {"mean": 77.0, "p95": 78.0},
    "warnings": ["Said twice."],
    "versions": {"torch": "2.13.0", "extra": {"depth": EVIL}},
    "command": ["cyclereg", "register", "--fixed", "a file.nrrd"],
}


def some_pictures() -> Pictures:
    pictures = Pictures()
    random = np.random.default_rng(0)
    for kind in ("fixed", "moving", "warped", "difference-before", "difference-after", "grid"):
        for plane, shape in (("axial", (40, 60)), ("coronal", (50, 60)), ("sagittal", (50, 40))):
            pictures[f"{kind}-{plane}"] = random.integers(0, 256, (*shape, 3)).astype(np.uint8)
    pictures.legends["difference"] = Legend("Fixed − moving", "HU", DIVERGING, linear_ticks(-150, 150))
    pictures.point, pictures.grid_mm = (-12.25, 3.5, 40.0), 15.0
    return pictures


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return some_pictures()


@pytest.fixture(scope="module")
def text(pictures: Pictures) -> str:
    return render_report(SUMMARY, EVALUATION, pictures, title=f"Patient {EVIL}")


@pytest.fixture(scope="module")
def document(text: str) -> Document:
    return Document(text)


class TestPage:
    def test_it_is_one_well_formed_document(self, text: str, document: Document) -> None:
        assert text.startswith("<!DOCTYPE html>")
        assert len(document.all("html")) == len(document.all("title")) == len(document.all("main")) == 1
        assert document.all("html")[0]["lang"] == "en"
        names = [a["id"] for _, a in document.elements if "id" in a]
        assert len(names) == len(set(names))

    def test_nothing_outside_is_referred_to(self, text: str, document: Document) -> None:
        text = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "data:", text)
        assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", text, re.IGNORECASE)
        assert not document.all("link")
        assert not document.all("iframe")
        for _, attributes in document.elements:
            assert attributes.get("src", "data:").startswith("data:")
            assert attributes.get("href", "#").startswith("#")

    def test_the_policy_lets_the_one_script_run_and_nothing_else(self, text: str, document: Document) -> None:
        scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
        assert len(scripts) == len(document.all("script")) == 1
        digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
        policy = next(m["content"] for m in document.all("meta") if "http-equiv" in m)
        assert f"script-src 'sha256-{digest}'" in policy
        assert "default-src 'none'" in policy

    def test_text_from_outside_is_escaped_wherever_it_appears(self, text: str, document: Document) -> None:
        assert "alert('x')" not in text
        assert "<script>alert" not in text
        shown = "".join(document.text)
        for phrase in ("Patient ", "Vein ", "Tumor ", "portal ", "Segments left out: ", "depth "):
            assert phrase + EVIL in shown

    def test_every_reference_leads_to_its_definition(self, document: Document) -> None:
        anchors = [a["href"][1:] for a in document.all("a")]
        definitions = [a["id"] for a in document.all("li") if a.get("id", "").startswith("def-")]
        assert set(anchors) == set(definitions)
        assert list(dict.fromkeys(anchors)) == definitions  # numbered in the order of appearance
        assert set(definitions) >= {"def-tre", "def-dice", "def-hd95", "def-folding", "def-nmse", "def-tumor"}

    def test_reading_needs_no_script(self, document: Document) -> None:
        wipe = next(a for a in document.all("figure") if a.get("id") == "wipe")
        assert "hidden" in wipe
        assert [a["data-picture"] for a in document.all("img")][:2] == ["fixed-axial", "fixed-coronal"]


class TestNumbers:
    def test_landmarks(self, document: Document) -> None:
        rows = document.table("Landmark")
        assert rows[f"Vein {EVIL}"][:3] == [12.5, 0.625, -11.875]
        assert rows["Pole"][:3] == [2.0, 14.0, 12.0]
        assert rows["Mean"][:2] == [7.25, 0.8125]
        assert rows["Standard deviation (SD)"][:2] == [2.123456, 0.25]
        assert rows["Median"][:2] == [6.5, 0.75]
        assert rows["Maximum"][:2] == [12.5, 14.0]

    def test_tumor(self, document: Document) -> None:
        rows = document.table("Moving − fixed")
        assert rows["Long diameter, mm"] == [31.5, 34.0, 31.0, 2.5, -0.5]
        assert rows["Short diameter, mm"] == [20.5, 19.0, 20.5, -1.5, 0.0]
        assert rows["Volume, mL"] == [8.125, 9.0, None, 0.875, None]

    def test_overlap(self, document: Document) -> None:
        rows = document.table("Segment")
        assert rows["Liver"][:8] == [0.75, 0.9375, 0.6, 0.88, 9.5, 3.25, 0.4, 0.7]
        assert rows[f"Tumor {EVIL}"][:8] == [None, 0.5, None, 1 / 3, None, 6.125, None, -0.25]
        assert rows["Mean"][:8] == [0.75, 0.71875, 0.6, 0.61, 9.5, 4.6875, 0.4, 0.225]
        assert rows["All segments in one map"][:8] == [None] * 6 + [0.375, 0.6875]

    def test_field(self, document: Document) -> None:
        rows = document.table("Folding, %")
        names = ["Folding, %", "Mean", "Standard deviation (SD)", "SD of log", "Minimum", "Maximum"]
        assert [rows[name] for name in names] == [[0.00025], [1.0125], [0.21875], [0.225], [-0.0625], [2.5]]
        assert rows["Voxels without a logarithm"] == [3]
        rows = document.table("Mean, mm")
        assert [rows[f"{n}, mm"] for n in ("Mean", "95th percentile", "Maximum")] == [[0.0625], [0.15625], [1.75]]
        assert rows["Voxels whose way stays inside, %"] == [96.5]

    def test_similarity(self, document: Document) -> None:
        rows = document.table("Fixed and moving image")
        keys = {
            "LNCC": "lncc",
            "NCC": "ncc",
            "Mutual information": "mutual_information",
            "NMSE": "nmse",
            "SSIM": "ssim",
        }
        assert rows == {name: [EVALUATION[key]["before"], EVALUATION[key]["after"]] for name, key in keys.items()}
        assert document.table("Moving image, there and back") == {"NMSE": [0.001953125], "SSIM": [0.984375]}

    def test_headline(self, text: str) -> None:
        tiles = re.findall(r'<div class="tile">(.*?)</div>', text, re.DOTALL)
        values = [[float(v) for v in re.findall(r'<data value="([^"]+)">', t)] for t in tiles]
        assert values == [[7.25, 0.8125, 2], [0.75, 0.71875], [0.00025], [0.0625, 0.15625], [8.25]]
        assert "on cpu" in tiles[-1]
        assert ">0.0003<" in tiles[2]  # not 0.000: there is folding

    def test_the_evaluation_comes_before_the_summary(self, text: str) -> None:
        assert 'value="77.0"' not in text
        assert 'value="0.1"' not in text
        alone = render_report(SUMMARY)
        assert 'value="77.0"' in alone
        assert 'value="0.1"' in alone

    def test_rounding_never_hides_or_invents_a_number(self) -> None:
        assert number(1.005e-5) == '<data value="1.005e-05">1e-05</data>'.replace("-05<", "−05<")
        assert number(0.0) == '<data value="0.0">0.00</data>'
        assert number(-0.001, 2, sign=True).endswith(">−0.001</data>")
        assert number(-0.0).endswith(">0.00</data>")
        assert number(-1.239).endswith(">−1.24</data>")
        for missing in (None, float("nan"), float("inf"), True, "1"):
            assert number(missing) == '<span title="not available">–</span>'

    def test_how_it_was_made(self, document: Document, text: str) -> None:
        shown = "".join(document.text)
        for phrase in (
            "ab12" * 16,
            "1843.5",
            "torch 2.13.0",
            "cyclereg register --fixed 'a file.nrrd'",
            "/data/arterial",
        ):
            assert phrase in shown
        assert document.table("Stage") == {"Affine": [0.75], "Optimize": [6.5], "Total": [8.25]}
        assert shown.count("Said twice.") == 1
        assert "Checkpoint, SHA-256" in shown
        assert "Checkpoint<" not in text

    def test_plots_lie_where_their_numbers_are(self, text: str) -> None:
        """Scale 0..15 mm: 1 % to 99 % of the width."""
        pole = text[text.index(">Pole<") :]
        ring = float(re.search(r'class="ring" cx="([\d.]+)%"', pole).group(1))
        dot = float(re.search(r'class="dot" cx="([\d.]+)%"', pole).group(1))
        assert ring == pytest.approx(1 + 98 * 2.0 / 15, abs=0.01)
        assert dot == pytest.approx(1 + 98 * 14.0 / 15, abs=0.01)


class TestWhatIsNotThere:
    def test_an_empty_summary_makes_an_empty_report(self) -> None:
        document = Document(render_report({}))
        assert document.tables == []
        assert not {"img", "dl", "section", "figure"} & {tag for tag, _ in document.elements}

    @pytest.mark.parametrize("key", [k for k in EVALUATION if k != "warnings"])
    def test_sections_stand_without_one_another(self, key: str) -> None:
        only = Document(render_report({}, {key: EVALUATION[key]}))
        without = Document(render_report({}, {k: v for k, v in EVALUATION.items() if k != key}))
        headings = [tag for tag, _ in without.elements].count("h2")
        assert headings >= 5
        assert [tag for tag, _ in only.elements].count("h2") <= 2

    def test_figures_that_are_missing_become_dashes(self) -> None:
        tre = {"before": {"mean": None}, "after": {"mean": None}, "per_landmark": [{"label": "a", "before": None}]}
        document = Document(render_report({}, {"tre_mm": tre}))
        assert document.table("Landmark")["a"][:3] == [None, None, None]
        assert [row[0]["text"] for row in document.tables[0]] == ["Landmark", "a", "Mean"]


class TestPicturesInside:
    def test_every_picture_is_embedded_unchanged(self, document: Document, pictures: Pictures, tmp_path: Path) -> None:
        images = {a["data-picture"]: a for a in document.all("img")}
        assert set(images) == set(pictures)
        for name, attributes in images.items():
            file = tmp_path / "picture.png"
            file.write_bytes(base64.b64decode(attributes["src"].split(",", 1)[1]))
            assert (sitk.GetArrayFromImage(sitk.ReadImage(str(file))) == pictures[name]).all()
            assert (int(attributes["height"]), int(attributes["width"])) == pictures[name].shape[:2]
            assert name.rsplit("-", 1)[1] in attributes["alt"]

    def test_captions_and_scales_say_the_units(self, document: Document) -> None:
        shown = "".join(document.text)
        assert "Fixed − moving (HU)" in shown
        assert "−150" in shown
        assert "lines 15 mm apart" in shown
        assert "The slices meet at R 12.2, P 3.5, S 40.0 mm" in shown
        assert position((3.0, -4.0, -5.0)) == "L 3.0, A 4.0, I 5.0 mm"

    def test_pictures_of_other_kinds_are_shown_under_their_names(self) -> None:
        document = Document(render_report({}, None, {f"own {EVIL}": np.zeros((4, 6, 3), np.uint8)}))
        assert document.all("img")[0]["data-picture"] == f"own {EVIL}"
        assert f"own {EVIL}" in "".join(document.text)


class TestFiles:
    def test_the_folder_is_made_and_pictures_lie_beside_when_asked(self, pictures: Pictures, tmp_path: Path) -> None:
        path = write_report(tmp_path / "new", SUMMARY, EVALUATION, pictures, title="A")
        assert [p.name for p in (tmp_path / "new").iterdir()] == ["report.html"]
        assert path.read_text(encoding="utf-8") == render_report(SUMMARY, EVALUATION, pictures, title="A")
        write_report(tmp_path / "new", SUMMARY, EVALUATION, pictures, png_beside=True)
        assert {p.name for p in (tmp_path / "new").iterdir()} == {"report.html", *(f"{n}.png" for n in pictures)}

    def test_a_report_that_fails_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*args: object, **kwargs: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_text", fail)
        with pytest.raises(InputError, match="No space left"):
            write_report(tmp_path / "new", SUMMARY)
        assert list(tmp_path.iterdir()) == []

    def test_places_that_cannot_hold_it_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="Cannot make the folder"):
            write_report(tmp_path / "missing" / "deep", {})
        (tmp_path / "file").write_text("x")
        with pytest.raises(InputError, match="is a file"):
            write_report(tmp_path / "file", {})


def test_a_real_evaluation_fits(tmp_path: Path) -> None:
    """Everything that the evaluation measures finds its place."""
    grid = Grid((32, 30, 28), (3.0, 3.0, 3.0), (-48.0, -45.0, -42.0), (1.0, 0, 0, 0, 1, 0, 0, 0, 1))
    random = np.random.default_rng(0)
    fixed = sitk.DiscreteGaussian(grid.image(random.normal(0, 100, grid.shape).astype(np.float32)), 9.0)
    shift = DisplacementField(np.full((*grid.shape, 3), 3.0, np.float32), grid)
    moving = DisplacementField(-shift.vectors, grid).warp(fixed)
    labels = (np.linalg.norm(grid.points(), axis=-1) < 20).astype(np.uint8)
    moved = (np.linalg.norm(grid.points() - 3.0, axis=-1) < 20).astype(np.uint8)
    segmentations = [Segmentation(grid.image(v), {1: "Tumor"}) for v in (labels, moved)]
    points = np.array([[0.0, 0, 0], [10, -5, 4], [-8, 6, 1]])
    marks = [LandmarkList(["a", "b", "c"], points), LandmarkList(["a", "b", "c"], points + [3.0, 3.0, 4.0])]
    back = DisplacementField(-shift.vectors, grid)
    found = evaluate(fixed, moving, shift, back, *marks, *segmentations).to_dict()
    pictures = render_pictures(fixed, moving, shift, None, back, *marks, *segmentations, longest=120)
    path = write_report(tmp_path / "report", {"method": "optimize"}, found, pictures)
    document = Document(path.read_text(encoding="utf-8"))
    assert document.table("Landmark")["b"][:2] == [pytest.approx(np.sqrt(34)), pytest.approx(1.0, abs=1e-5)]
    assert document.table("Segment")["Tumor"][1] == found["dice"]["Tumor"]["after"]
    assert document.table("Moving − fixed")["Volume, mL"][0] == found["tumor"]["volume_ml"]["fixed"]
    assert len(document.all("img")) == len(pictures) == 3 * 14
    assert len(document.tables) == 7
