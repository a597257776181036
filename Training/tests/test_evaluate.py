"""``cyclereg-train evaluate``: tables against numbers computed apart, statistics against SciPy, resuming, failures."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import stats

from cyclereg_training.cli import main
from cyclereg_training.evaluation.run import MEASURES, scores_of
from cyclereg_training.evaluation.scores import Mean, Measure, Score, Scores
from cyclereg_training.evaluation.specs import BEFORE, read_specs
from cyclereg_training.evaluation.tables import means_table
from cyclereg_training.evaluation.test_list import read_test_list
from cyclereg_training.evaluation.wilcoxon import compare, signed_rank
from CycleRegLib import evaluate, read_transform
from CycleRegLib.batch import BatchRecord
from CycleRegLib.checkpoint_making import create
from CycleRegLib.errors import InputError
from CycleRegLib.fields import DisplacementField
from CycleRegLib.geometry import Grid

SIDE = 16
NAMES = ("one", "two")


def blob(seed: int) -> sitk.Image:
    """A soft ball about a voxel from where another seed has it; voxels of 2 mm."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 3, indexing="ij")
    a, b, c = rng.uniform(-0.15, 0.15, 3)
    ball = 100 / (1 + np.exp(((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2 - 0.3) * 12))
    image = sitk.GetImageFromArray((ball + rng.normal(0, 1, x.shape)).astype(np.float32))
    image.SetSpacing((2.0, 2.0, 2.0))
    return image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pairs, of which one has segmentations and one landmarks; two checkpoints; evaluated once."""
    place = tmp_path_factory.mktemp("evaluate")
    for seed in range(3):
        image = blob(seed)
        sitk.WriteImage(image, str(place / f"{seed}.nrrd"))
        sitk.WriteImage(sitk.Cast(image > 50, sitk.sitkUInt8), str(place / f"{seed}_seg.nrrd"))
        points = "label,x,y,z\n" + "".join(f"{n},{10 + n + seed},{12 - seed},{14 + 2 * n}\n" for n in range(3))
        (place / f"{seed}.csv").write_text(points)
    (place / "list.csv").write_text(
        "patient,split,fixed,moving,fixed_segmentation,moving_segmentation,fixed_landmarks,moving_landmarks\n"
        "a,test,0.nrrd,1.nrrd,0_seg.nrrd,1_seg.nrrd,,\n"
        "b,train,0.nrrd,2.nrrd,,,,\n"
        "c,test,1.nrrd,2.nrrd,,,1.csv,2.csv\n"
        "d,test,2.nrrd,0.nrrd,,,,\n"
    )
    for number, name in enumerate(NAMES):
        create(place / f"{name}.safetensors", "voxelmorph1", seed=number)
    assert run(place) == 0
    return place


def run(place: Path, *more: str) -> int:
    specs = [
        f"one:voxelmorph1={place / 'one.safetensors'}",
        f"two:voxelmorph1={place / 'two.safetensors'},refine_steps=2",
    ]
    words = ["--options", "affine=none", "device=cpu", "--output", str(place / "out"), "--progress", "none", *more]
    return main(["evaluate", str(place / "list.csv"), "--methods", *specs, *words])


def table(place: Path) -> list[dict[str, str]]:
    with (place / "out" / "evaluation.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def column(place: Path, method: str, key: str) -> list[float]:
    return [float(row[key]) for row in table(place) if row["method"] == method and row[key]]


def test_numbers_are_those_of_evaluating_each_field_by_itself(folder: Path) -> None:
    row = next(r for r in table(folder) if r["method"] == "two" and r["pair"] == "pair-0001")
    before = next(r for r in table(folder) if r["method"] == BEFORE and r["pair"] == "pair-0001")
    fixed, moving = (sitk.ReadImage(str(folder / f"{n}.nrrd")) for n in (0, 1))
    place = folder / "out" / "methods" / "two" / "pairs" / "pair-0001"
    transforms = [read_transform(place / name) for name in ("transform.h5", "inverse_transform.h5")]
    field, inverse = (DisplacementField.from_transform(t, Grid.of(i)) for t, i in zip(transforms, (fixed, moving)))
    labels = [sitk.ReadImage(str(folder / f"{n}_seg.nrrd")) for n in (0, 1)]
    known = evaluate(fixed, moving, field, inverse, fixed_segmentation=labels[0], moving_segmentation=labels[1])
    found = known.to_dict()
    for key, value in (
        ("dice_mean", found["labels_mean"]["dice"]),
        ("iou_mean", found["labels_mean"]["iou"]),
        ("hd95_mean_mm", found["labels_mean"]["hd95_mm"]),
        ("bir_all", found["bir"]),
        ("nmse", found["nmse"]),
        ("ssim", found["ssim"]),
    ):
        assert float(row[key]) == pytest.approx(value["after"], rel=1e-4, abs=1e-6), key
        assert float(before[key]) == pytest.approx(value["before"], rel=2e-2, abs=1e-6), key
    assert float(row["roundtrip_mean_mm"]) == pytest.approx(found["roundtrip_mm"]["mean"], rel=1e-3)
    assert float(row["jacobian_sd"]) == pytest.approx(found["jacobian"]["sd"], rel=1e-3)
    # The same overlap by SimpleITK.
    mask = sitk.Resample(sitk.Cast(labels[1], sitk.sitkFloat32), fixed, transforms[0], sitk.sitkLinear)
    ours, theirs = sitk.GetArrayFromImage(labels[0]) > 0, sitk.GetArrayFromImage(mask) >= 0.5
    assert float(row["dice_mean"]) == pytest.approx(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()), abs=0.01)
    # Overlap before by counting, from the label maps alone.
    a, b = (sitk.GetArrayFromImage(image) > 0 for image in labels)
    assert float(before["dice_mean"]) == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    # Landmarks lie |(1, -1, 0)| mm apart.
    assert column(folder, BEFORE, "tre_mm") == pytest.approx([math.sqrt(2)])


def test_what_is_not_known_of_a_pair_is_left_out_and_not_zero(folder: Path) -> None:
    rows = {row["pair"]: row for row in table(folder) if row["method"] == "one"}
    assert list(rows) == ["pair-0001", "pair-0003", "pair-0004"], "pairs for training are no test"
    assert [bool(row["dice_mean"]) for row in rows.values()] == [True, False, False]
    assert [bool(row["tre_mm"]) for row in rows.values()] == [False, True, False]
    assert all(row["nmse"] and row["folding_percent"] and row["seconds"] for row in rows.values())
    before = [row for row in table(folder) if row["method"] == BEFORE]
    assert not any(row["seconds"] or row["folding_percent"] for row in before)
    text = (folder / "out" / "evaluation.md").read_text(encoding="utf-8")
    assert "Tumour" not in text
    assert "(n 1)" in text


def test_the_table_holds_means_and_standard_deviations(folder: Path) -> None:
    text = (folder / "out" / "evaluation.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("| two |"))
    heads = next(line for line in text.splitlines() if line.startswith("| method |"))
    cell = dict(zip(heads.split("|"), line.split("|")))[" NMSE ↓ "]
    values = column(folder, "two", "nmse")
    mean, sd = (float(part) for part in cell.split("±"))
    assert mean == pytest.approx(np.mean(values), rel=5e-3)
    assert sd == pytest.approx(np.std(values, ddof=1), rel=5e-3)
    held = json.loads((folder / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert held["means"]["two"]["nmse"] == pytest.approx(
        {"mean": np.mean(values), "sd": np.std(values, ddof=1), "pairs": 3}
    )
    for key in ("nmse", "dice_mean", "tre_mm", "seconds"):
        picture = (folder / "out" / "boxes" / f"{key}.svg").read_text(encoding="utf-8")
        assert picture.startswith("<svg xmlns")
        assert all(f">{name}</text>" in picture for name in NAMES)
        assert (f">{BEFORE}</text>" in picture) == (key != "seconds")


def test_wilcoxon_is_that_of_scipy_on_the_csv(folder: Path) -> None:
    held = json.loads((folder / "out" / "evaluation.json").read_text(encoding="utf-8"))["wilcoxon"]
    found = next(c for c in held if c["measure"] == "nmse")
    one, two = (np.array(column(folder, name, "nmse")) for name in NAMES)
    assert found["p"] == pytest.approx(stats.wilcoxon(one, two).pvalue)
    assert found["median_difference"] == pytest.approx(np.median(two - one))
    assert (found["pairs"], found["differing"]) == (3, 3)
    assert "too few pairs for p below 0.05" in found["note"]
    assert next(c for c in held if c["measure"] == "dice_mean")["pairs"] == 1


def test_a_second_run_keeps_the_pairs_and_gives_the_same_tables(folder: Path) -> None:
    place = folder / "out" / "methods" / "one" / "pairs" / "pair-0001" / "transform.h5"
    written, before = place.stat().st_mtime_ns, (folder / "out" / "evaluation.csv").read_text()
    assert run(folder, "--compare", "two", "one", "--compare", BEFORE, "two") == 0
    assert place.stat().st_mtime_ns == written
    assert (folder / "out" / "evaluation.csv").read_text() == before
    held = json.loads((folder / "out" / "evaluation.json").read_text(encoding="utf-8"))["wilcoxon"]
    assert {(c["first"], c["second"]) for c in held} == {("two", "one"), (BEFORE, "two")}


def test_a_pair_that_fails_is_told_and_the_others_count(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.nrrd").write_bytes((folder / "0.nrrd").read_bytes()[:400])
    rows = f"id,fixed,moving\ngood,{folder / '0.nrrd'},{folder / '1.nrrd'}\nbad,{folder / '0.nrrd'},bad.nrrd\n"
    (tmp_path / "list.csv").write_text(rows)
    words = ["--methods", f"voxelmorph1={folder / 'one.safetensors'}", "--options", "affine=none", "--progress", "none"]
    assert main(["evaluate", str(tmp_path / "list.csv"), *words, "--output", str(tmp_path / "out")]) == 1
    found = {row["pair"]: row for row in table(tmp_path) if row["method"] == "voxelmorph1"}
    assert found["good"]["nmse"]
    assert not found["bad"]["nmse"]
    assert "bad.nrrd" in found["bad"]["failure"]
    assert "## Failures" in (tmp_path / "out" / "evaluation.md").read_text(encoding="utf-8")


# ---------------------------------------------------------------------- parts


@pytest.mark.parametrize("count", [6, 20, 60])
@pytest.mark.parametrize("tied", [False, True])
def test_signed_ranks_against_scipy_with_and_without_ties(count: int, tied: bool) -> None:
    differences = np.random.default_rng(count).normal(0.4, 1, count)
    if tied:
        differences = np.round(differences * 2) / 2 + 0.0
    zeros = [0.0, 0.0]
    kept = differences[differences != 0]
    found, p, note = signed_rank([*differences, *zeros])
    assert found == len(kept)
    assert p == pytest.approx(stats.wilcoxon(kept).pvalue, rel=1e-9)
    assert ("ties" in note) == tied
    assert ("normal" in note) == (count == 60 or (tied and len(kept) > 13))


def test_few_tied_differences_are_tested_by_all_signs() -> None:
    differences = [1.0, 1.0, -1.0, 2.0, 2.0, 3.0]
    ranks = stats.rankdata(np.abs(differences))
    signs = np.array(np.meshgrid(*[[0, 1]] * 6)).reshape(6, -1).T
    sums = signs @ ranks
    seen = ranks[np.array(differences) > 0].sum()
    expected = min(1.0, 2 * min((sums >= seen - 1e-9).mean(), (sums <= seen + 1e-9).mean()))
    assert signed_rank(differences)[1] == pytest.approx(expected)


def test_where_nothing_differs_there_is_no_p() -> None:
    assert signed_rank([0.0, 0.0, 0.0]) == (0, None, "no pair differs")
    assert signed_rank([]) == (0, None, "no pair in common")
    # Equal but for rounding.
    assert signed_rank([0.1 + 0.2 - 0.3, 0.0])[1] is None
    scores = Scores([Measure("x", "X")], [Score("p", "a", {"x": 1.0}), Score("q", "b", {"x": 2.0})])
    assert compare(scores, "a", "b", "x").pairs == 0


def test_a_test_takes_only_pairs_that_both_methods_did() -> None:
    values = {"p": (1.0, 2.0), "q": (1.0, 4.0), "r": (5.0, None)}
    scores = [Score(pair, "a", {"x": a}) for pair, (a, _) in values.items()]
    scores += [Score(pair, "b", {} if b is None else {"x": b}) for pair, (_, b) in values.items()]
    found = compare(Scores([Measure("x", "X", "mm", "smaller")], scores), "a", "b", "x")
    assert (found.pairs, found.median_difference) == (2, 2.0)


def test_sizes_of_tumours_count_without_sign_and_seconds_are_those_of_registering() -> None:
    def record(name: str, difference: float) -> BatchRecord:
        measures = {"tumor_volume_difference_before_ml": 4.0, "tumor_volume_difference_after_ml": difference}
        measures["jacobian_sd"] = 0.1
        return BatchRecord(name, "done", seconds={"register": 2.0, "total": 9.0}, measures=measures)

    scores = scores_of(["a", "b", "c"], {"m": [record("a", -3.0), record("b", 1.0), BatchRecord("c", "failed", "why")]})
    key = "tumor_volume_difference_ml"
    assert scores.mean("m", key) == Mean(2.0, math.sqrt(2), 2)
    assert scores.by_pair(BEFORE, key) == {"a": 4.0, "b": 4.0}
    assert scores.by_pair("m", "seconds") == {"a": 2.0, "b": 2.0}
    assert [(s.pair, s.failure) for s in scores.failures] == [("c", "why")]
    assert [m.key for m in scores.measures] == [m.key for m in MEASURES if m.key in (key, "jacobian_sd", "seconds")]
    assert scores.by_pair(BEFORE, "jacobian_sd") == {}


def test_cells_say_how_many_pairs_where_not_all() -> None:
    scores = [Score("p", "a", {"x": 1.0, "y": 0.5}), Score("q", "a", {"x": 3.0}), Score("p", "b", {"y": -0.00012})]
    text = means_table(Scores([Measure("x", "X", "mm", "smaller"), Measure("y", "Y", "", "larger")], scores))
    assert text.splitlines() == [
        "| method | X, mm ↓ | Y ↑ |",
        "|---|---|---|",
        "| a | 2.00 ± 1.41 | 0.500 (n 1) |",
        "| b | – | −1.20e-04 (n 1) |",
    ]


def test_methods_as_the_command_line_has_them(tmp_path: Path) -> None:
    weights = tmp_path / "my,best.safetensors"
    weights.write_bytes(b"")
    found = read_specs(["optimize", f"mine:voxelmorph1={weights},refine_steps=5,affine=rigid"], ["affine=none"])
    assert [(s.name, s.method, s.checkpoint, s.options) for s in found] == [
        ("optimize", "optimize", None, {"affine": "none"}),
        ("mine", "voxelmorph1", str(weights), {"affine": "rigid", "refine_steps": "5"}),
    ]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["optimise"], "optimize"),
        (["voxelmorph1"], "needs weights: write voxelmorph1=FILE.safetensors"),
        (["voxelmorph1=nowhere.safetensors"], "There is no checkpoint"),
        (["optimize", "optimize"], "Two methods are called 'optimize'"),
        (["a/b:optimize"], "cannot be called 'a/b'"),
        (["optimize,refine_step=1"], "Did you mean 'refine_steps'"),
        (["optimize,fixed=x.nrrd"], "files stand in the list"),
    ],
)
def test_methods_that_cannot_be(texts: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_specs(texts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,patient\na.nrrd,1\n", "holds volumes, not pairs"),
        ("fixed,moving,split\na.nrrd,b.nrrd,train\n", "holds no pair whose split is test"),
        ("id,fixed,moving,method\na,a.nrrd,b.nrrd,optimize\n", "has the column method"),
        ("id,fixed,movin\na,a.nrrd,b.nrrd\n", "Did you mean 'moving'"),
        ("id,fixed,moving\n", "holds no pair"),
    ],
)
def test_lists_that_cannot_be(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_test_list(tmp_path / "list.csv")


def test_wrong_input_is_one_line_before_anything_is_registered(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.csv").write_text("id,fixed,moving\na,no.nrrd,no.nrrd\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    good, out = str(folder / "list.csv"), str(tmp_path / "out")
    for words, message in (
        ([good, "--methods", "optimize", "--output", str(tmp_path / "full")], "holds something else"),
        ([str(tmp_path / "no.csv"), "--methods", "optimize", "--output", out], "does not exist"),
        ([str(tmp_path / "list.csv"), "--methods", "optimize", "--output", out], "there is no file"),
        ([good, "--methods", "optimize", "--output", out, "--compare", "optimize", "x"], "no method 'x' to compare"),
        ([good, "--methods", "optimize", "--output", str(tmp_path / "a" / "b")], "Create it"),
    ):
        assert main(["evaluate", *words]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert message in lines[0]
    assert not (tmp_path / "out").exists()
