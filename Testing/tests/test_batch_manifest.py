"""Manifests: what they may hold, what is wrong with them and where, and proposals for folders."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from batch_cases import blob, write_images, write_manifest
from small_pair import refuse, write_dicom

from CycleRegLib import checkpoint_making
from CycleRegLib.batch import ManifestError, propose_manifest, read_manifest
from CycleRegLib.batch.manifest import FILES, default_arguments
from CycleRegLib.cli import build_parser, main
from CycleRegLib.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path)
    return tmp_path


def manifest(folder: Path, text: str, name: str = "m.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def problems(path: Path, **defaults: Any) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, defaults)
    return caught.value.problems


HEAD = "id,fixed,moving"
ROW = "a,0.nrrd,1.nrrd"


# ---------------------------------------------------------------------- what is understood


class TestTables:
    def test_columns_rows_comments_and_blank_lines(self, folder):
        text = (
            "# pairs of Monday, with a comma\n\n"
            "id,fixed,moving,smoothness,organ_slices,# remark\n"
            f"{ROW},4,yes,looks odd\n"
            "\n"
            '"# not this one",0.nrrd,1.nrrd,,\n'
            "b,0.nrrd,2.nrrd,,,\n"
        )
        first, second = read_manifest(manifest(folder, text))
        assert (first.id, first.row, second.id, second.row) == ("a", 4, "b", 7)
        assert first.files == {"fixed": str(folder / "0.nrrd"), "moving": str(folder / "1.nrrd")}
        assert first.options["smoothness"] == 4.0
        assert first.options["organ_slices"] is True
        assert second.options == {name: v for name, v in default_arguments().items() if name not in FILES}

    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    @pytest.mark.parametrize("newline", ["\n", "\r\n"])
    def test_what_spreadsheets_save(self, folder, delimiter, encoding, newline):
        text = f"{HEAD}{newline}{ROW}{newline}".replace(",", delimiter)
        (spec,) = read_manifest(manifest(folder, text, encoding=encoding))
        assert (spec.id, spec.files["moving"]) == ("a", str(folder / "1.nrrd"))

    def test_decimal_commas_in_a_table_with_semicolons(self, folder):
        (spec,) = read_manifest(manifest(folder, "id;fixed;moving;smoothness\na;0.nrrd;1.nrrd;2,5\n"))
        assert spec.options["smoothness"] == 2.5

    def test_titles_as_people_write_them(self, folder):
        (spec,) = read_manifest(manifest(folder, "ID,Fixed,MOVING,Fixed mask,--refine-steps\na,0.nrrd,1.nrrd,2.nrrd,7"))
        assert spec.files["fixed_mask"] == str(folder / "2.nrrd")
        assert spec.options["refine_steps"] == 7

    def test_rows_count_as_a_spreadsheet_counts_cells_with_line_breaks(self, folder):
        text = 'id,fixed,moving,# remark\na,0.nrrd,1.nrrd,"two\nlines"\nb,0.nrrd,x.nrrd,\n'
        assert problems(manifest(folder, text))[0].startswith("Row 3, column moving: there is no file")

    def test_json_as_a_list_and_as_an_object(self, folder):
        pairs = [{"id": 7, "fixed": "0.nrrd", "moving": "1.nrrd", "refine_steps": 3, "organ_slices": False}]
        for content in (pairs, {"pairs": pairs, "cyclereg_batch": 1}):
            (spec,) = read_manifest(manifest(folder, json.dumps(content), "m.json"))
            assert (spec.id, spec.options["refine_steps"], spec.options["organ_slices"]) == ("7", 3, False)

    def test_rows_as_mappings(self, folder, monkeypatch):
        monkeypatch.chdir(folder)
        (spec,) = read_manifest([{"id": "a", "fixed": "0.nrrd", "moving": folder / "1.nrrd"}], {"affine": "rigid"})
        assert spec.files["fixed"] == str(folder / "0.nrrd")
        assert spec.options["affine"] == "rigid"

    def test_paths_are_relative_to_the_manifest_and_may_be_absolute(self, folder, monkeypatch):
        (folder / "deep").mkdir()
        path = manifest(folder, f"{HEAD}\na,../0.nrrd,{folder / '1.nrrd'}\n", "deep/m.csv")
        monkeypatch.chdir("/")
        (spec,) = read_manifest(path)
        assert spec.files == {"fixed": str(folder / "0.nrrd"), "moving": str(folder / "1.nrrd")}

    def test_the_command_lines_values_are_for_empty_cells(self, folder, monkeypatch):
        monkeypatch.chdir(folder)
        path = manifest(folder, "id,moving,affine\na,1.nrrd,\nb,2.nrrd,rigid\n")
        first, second = read_manifest(path, {"fixed": "0.nrrd", "affine": "none"})
        assert (first.options["affine"], second.options["affine"]) == ("none", "rigid")
        assert first.files["fixed"] == second.files["fixed"] == str(folder / "0.nrrd")

    def test_the_resolved_manifest_reads_back_the_same(self, folder):
        specs = read_manifest(manifest(folder, f"{HEAD},smoothness,organ_slices\n{ROW},2,1\n"))
        again = read_manifest(manifest(folder, json.dumps([spec.to_dict() for spec in specs]), "again.json"))
        assert [spec.arguments for spec in again] == [spec.arguments for spec in specs]


class TestColumns:
    def test_every_argument_of_register_and_of_measuring_is_a_column(self):
        """Outputs and what belongs to the whole run are not; a new argument of 'register' is one by itself."""
        outputs = {
            "output_transform", "output_inverse_transform", "output_volume", "output_jacobian", "output_roundtrip",
            "json", "report", "progress",
        }  # fmt: skip
        register = set(vars(build_parser().parse_args(["register", "--fixed", "f", "--moving", "m"]))) - {"command"}
        measuring = {f"{side}_{kind}" for side in ("fixed", "moving") for kind in ("landmarks", "segmentation")}
        assert set(default_arguments()) == (register - outputs) | measuring | {"tumor_segment"}

    def test_every_argument_that_names_a_file_is_known_as_one(self):
        """Else its path would be taken from the wrong folder, and its content not be part of the fingerprint."""
        text = build_parser()._subparsers._group_actions[0].choices["batch"]
        named = {a.dest for a in text._actions if a.metavar in ("F", "M", "FM", "MM", "FILE", "T")}
        assert named == set(FILES)

    def test_every_column_is_documented(self):
        text = (Path(__file__).parents[2] / "Docs" / "batch.md").read_text(encoding="utf-8")
        table = text[text.index("| column |") : text.index("Only `id`")]
        assert set(re.findall(r"`(\w+)`", table)) >= {"id", *default_arguments()}

    def test_the_command_line_has_the_same_defaults(self):
        given = vars(build_parser().parse_args(["batch", "m.csv", "--output", "out"]))
        assert {name: given[name] for name in default_arguments()} == default_arguments()


# ---------------------------------------------------------------------- what is refused


class TestProblems:
    def test_all_are_listed_and_each_says_where(self, folder):
        text = "id,fixed,moving,smoothness,fxed_mask\na,0.nrrd,1.nrrd,,\na,0.nrrd,missing.nrrd,x,\nc,,1.nrrd,-1,\n"
        assert problems(manifest(folder, text)) == [
            "Row 1: there is no column 'fxed_mask'. Did you mean 'fixed_mask'?",
            "Row 3, column id: 'a' is the id of row 2 already.",
            f"Row 3, column moving: there is no file {folder / 'missing.nrrd'}.",
            "Row 3, column smoothness: 'x' is not a number.",
            "Row 4, column smoothness: The smoothness must be a positive number; it is -1. 1 is the default.",
            "Row 4, column fixed: an image is needed.",
        ]

    def test_ten_are_shown_of_many(self, folder):
        path = manifest(folder, HEAD + "\n" + "".join(f"p{n},0.nrrd,no{n}.nrrd\n" for n in range(14)))
        with pytest.raises(ManifestError) as caught:
            read_manifest(path)
        assert len(caught.value.problems) == 14
        assert "14 problems: (1) Row 2" in str(caught.value)
        assert "(10) Row 11" in str(caught.value)
        assert "(11)" not in str(caught.value)
        assert str(caught.value).endswith("And 4 more.")

    @pytest.mark.parametrize(
        "name", ["../x", "a/b", "a\\b", ".hidden", "..", "x.", "a b", "é", "CON", "nul.txt", "x" * 101, ""]
    )
    def test_ids_that_cannot_name_a_folder(self, folder, name):
        (found,) = problems(manifest(folder, f'{HEAD}\n"{name}",0.nrrd,1.nrrd\n'))
        assert found.startswith("Row 2, column id: ")

    @pytest.mark.parametrize("name", ["a", "p-01_x.2", "_a", "-", "0", "con1"])
    def test_ids_that_can(self, folder, name):
        assert read_manifest(manifest(folder, f"{HEAD}\n{name},0.nrrd,1.nrrd\n"))[0].id == name

    def test_ids_that_differ_in_capitals_only(self, folder):
        (found,) = problems(manifest(folder, f"{HEAD}\na,0.nrrd,1.nrrd\nA,0.nrrd,2.nrrd\n"))
        assert found == "Row 3, column id: 'A' is the id of row 2 already."

    @pytest.mark.parametrize(
        ("columns", "cells", "where", "words"),
        [
            ("method", "optimise", "method", "Did you mean optimize?"),
            ("method", "cyclemorph", "checkpoint", "needs trained weights"),
            ("checkpoint", "0.nrrd", "checkpoint", "uses no checkpoint"),
            ("method,checkpoint", "cyclemorph,0.nrrd", "checkpoint", "0.nrrd' is no checkpoint"),
            ("affine", "elastic", "affine", "invalid choice: 'elastic'"),
            ("refine_steps", "2.5", "refine_steps", "'2.5' is not a number"),
            ("refine_steps", "-2", "refine_steps", "must not be negative"),
            ("patch_overlap", "1.5", "patch_overlap", "overlap"),
            ("patch_size", "3", "patch_size", "16 voxels or more"),
            ("precision", "half", "precision", "invalid choice"),
            ("device", "cuda:77", "device", "cuda:77"),
            ("organ_slices", "perhaps", "organ_slices", "neither yes nor no"),
            ("fixed_mask", ".", "fixed_mask", "is a folder"),
            ("fixed_mask", "a\x00b", "fixed_mask", "there is no file"),
            ("fixed_landmarks", "0.nrrd", "moving_landmarks", "needed beside fixed_landmarks"),
            ("moving_segmentation", "0.nrrd", "fixed_segmentation", "needed beside moving_segmentation"),
            ("tumor_segment", "tumor", "tumor_segment", "needs fixed_segmentation"),
        ],
    )
    def test_values_and_combinations(self, folder, columns, cells, where, words):
        row = {"id": "a", "fixed": "0.nrrd", "moving": "1.nrrd", **dict(zip(columns.split(","), cells.split(",")))}
        (found,) = problems(manifest(folder, json.dumps([row]), "m.json"))
        assert found.startswith(f"Pair 1, column {where}: ")
        assert words in found

    def test_a_checkpoint_of_another_method_is_found_once(self, folder):
        checkpoint_making.create(folder / "w.safetensors", "cyclemorph")
        rows = [{"id": f"p{n}", "fixed": "0.nrrd", "moving": "1.nrrd", "checkpoint": "w.safetensors"} for n in range(3)]
        for row in rows:
            row["method"] = "cyclecnn"
        (found,) = problems(write_manifest(folder / "m.csv", rows))
        assert found.startswith("Row 2, column checkpoint: ")
        assert "belongs to the method cyclemorph" in found

    def test_a_device_elsewhere_is_not_looked_for_here(self, folder):
        path = manifest(folder, f"{HEAD},device\n{ROW},cuda:7\n")
        assert read_manifest(path, local=False)[0].options["device"] == "cuda:7"

    def test_one_column_twice(self, folder):
        (found,) = problems(manifest(folder, f"{HEAD},Fixed\n{ROW},2.nrrd\n"))
        assert found == "Row 1: the column 'fixed' is there twice."

    def test_a_cell_under_no_title(self, folder):
        assert problems(manifest(folder, f"{HEAD}\n{ROW},rigid\n")) == [
            "Row 2: 'rigid' stands in a column without a title."
        ]

    def test_the_command_lines_own_values(self, folder):
        path = manifest(folder, f"{HEAD}\n{ROW}\n")
        for defaults, words in (
            ({"smoothness": -1.0}, "--smoothness: The smoothness must be a positive number"),
            ({"fixed_mask": "nowhere.nrrd"}, "--fixed-mask: there is no file"),
            ({"smothness": 2}, "There is no option 'smothness'. Did you mean 'smoothness'?"),
        ):
            with pytest.raises(InputError, match=words):
                read_manifest(path, defaults)

    @pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="a user who may read everything")
    def test_a_file_that_may_not_be_read(self, folder):
        (folder / "1.nrrd").chmod(0)
        assert "permission denied" in problems(manifest(folder, f"{HEAD}\n{ROW}\n"))[0]


class TestFiles:
    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "holds no pair"),
            (b"id,fixed,moving\n# only a comment\n", "holds no pair"),
            (b"PK\x03\x04 a spreadsheet", "is a spreadsheet"),
            ("id,fixed,moving\né".encode("latin-1"), "not text in UTF-8"),
            ("id,fixed,moving\n".encode("utf-16"), "not text in UTF-8"),
            (b'id,fixed,moving\n"a,0.nrrd,1.nrrd\n', "not a table"),
            (b'{"pairs": 3}', "no list of objects"),
            (b"[1, 2]", "no list of objects"),
            (b'[{"id": "a"', "is no JSON"),
        ],
    )
    def test_files_that_are_no_manifest(self, folder, capfd, content, words):
        (folder / "m.csv").write_bytes(content)
        refuse(capfd, folder, ["batch", folder / "m.csv", "--output", folder / "out"], words)

    def test_mistakes_are_told_in_one_line_before_anything_is_made(self, folder, capfd):
        path = manifest(folder, f"{HEAD}\na,0.nrrd,1.nrrd\na,0.nrrd,x.nrrd\n")
        arguments = ["batch", path, "--output", folder / "out"]
        refuse(capfd, folder, arguments, "2 problems: (1) Row 3, column id", "(2) Row 3, column moving")

    def test_a_folder_and_nothing(self, folder, capfd):
        refuse(capfd, folder, ["batch", folder, "--output", folder / "out"], "is a folder", "--make-manifest")
        refuse(capfd, folder, ["batch", folder / "no.csv", "--output", folder / "out"], "does not exist")
        refuse(capfd, folder, ["batch"], "give a manifest")
        refuse(capfd, folder, ["batch", "m.csv"], "--output")
        refuse(capfd, folder, ["batch", "m.csv", "--make-manifest", folder], "not both")


class TestSelection:
    @pytest.fixture
    def path(self, folder):
        return manifest(folder, HEAD + "\n" + "".join(f"{c},0.nrrd,1.nrrd\n" for c in "abcde"))

    @pytest.mark.parametrize(
        ("pairs", "ids", "chosen"),
        [("2", None, "b"), ("2:4", None, "bcd"), ("4:99", None, "de"), (None, "e,a", "ae"), ("1:3", "c,d", "c")],
    )
    def test_by_number_and_by_id(self, path, pairs, ids, chosen):
        assert "".join(spec.id for spec in read_manifest(path, pairs=pairs, ids=ids)) == chosen

    @pytest.mark.parametrize(
        ("pairs", "ids"), [("0", None), ("3:2", None), ("x", None), ("6", None), (None, "z"), ("1", "b")]
    )
    def test_pairs_that_are_not_there(self, path, pairs, ids):
        with pytest.raises(InputError):
            read_manifest(path, pairs=pairs, ids=ids)

    def test_only_their_files_are_looked_for(self, folder):
        """Thousands of jobs of an array do not look for the files of all."""
        path = manifest(folder, f"{HEAD}\na,0.nrrd,1.nrrd\nb,gone.nrrd,1.nrrd\n")
        assert read_manifest(path, pairs="1")[0].id == "a"
        with pytest.raises(ManifestError, match="Row 3, column fixed"):
            read_manifest(path, ids="b")


# ---------------------------------------------------------------------- proposals


def proposed(folder: Path) -> tuple[list[dict[str, str]], list[str]]:
    text, notes = propose_manifest(folder, folder)
    assert text.startswith("# ")
    return list(csv.DictReader(io.StringIO(text.split("\n", 1)[1]))), notes


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


class TestProposals:
    def test_phases_of_patients(self, tmp_path):
        touch(tmp_path, "P1/P1_arterial.nrrd", "P1/P1_portal.nrrd", "P1/P1_late.nrrd", "P2/a.nii.gz", "P2/b.nii.gz")
        touch(tmp_path, "P3/alone.mha", "notes.txt")
        rows, notes = proposed(tmp_path)
        assert [(row["id"], row["fixed"], row["moving"]) for row in rows] == [
            ("P1_arterial_to_portal", "P1/P1_portal.nrrd", "P1/P1_arterial.nrrd"),
            ("P1_late_to_portal", "P1/P1_portal.nrrd", "P1/P1_late.nrrd"),
            ("P2_b_to_a", "P2/a.nii.gz", "P2/b.nii.gz"),
        ]
        assert notes == ["P3: only one volume (alone.mha); left out."]

    def test_the_sample_and_what_lies_beside_it(self, tmp_path):
        assert main(["sample", "--output", str(tmp_path / "s"), "--scale", "8"]) == 0
        (row,), notes = proposed(tmp_path / "s")
        assert notes == []
        assert row == {
            "id": "moving_to_fixed",
            **{side: f"{side}.nrrd" for side in ("fixed", "moving")},
            **{f"{side}_segmentation": f"{side}.seg.nrrd" for side in ("fixed", "moving")},
            **{f"{side}_landmarks": f"{side}.mrk.json" for side in ("fixed", "moving")},
        }
        text, _ = propose_manifest(tmp_path / "s", tmp_path)
        assert [spec.id for spec in read_manifest(manifest(tmp_path, text))] == ["moving_to_fixed"]

    def test_what_is_ambiguous_or_one_sided_is_left_out_and_told(self, tmp_path):
        touch(tmp_path, "a.nrrd", "a_mask.nrrd", "a_seg.nrrd", "b.nrrd", "b.fcsv", "b.mrk.json", "warped.nrrd")
        (row,), notes = proposed(tmp_path)
        assert row == {"id": "b_to_a", "fixed": "a.nrrd", "moving": "b.nrrd", "fixed_mask": "a_mask.nrrd"}
        assert notes == [
            "b: several landmarks (b.fcsv, b.mrk.json); left out.",
            "b_to_a: only the fixed image has segmentation; left out.",
        ]

    def test_folders_of_dicom_files_are_volumes(self, tmp_path):
        for series, phase in enumerate(("arterial", "portal"), start=1):
            (tmp_path / "P").mkdir(exist_ok=True)
            write_dicom(tmp_path / "P" / phase, blob(series, 8), series)
        (row,), _ = proposed(tmp_path)
        assert row == {"id": "P_arterial_to_portal", "fixed": "P/portal", "moving": "P/arterial"}

    def test_bids_with_sessions(self, tmp_path):
        touch(tmp_path, "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz", "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz")
        touch(tmp_path, "sub-01/ses-c/anat/sub-01_ses-c_T1w.nii.gz", "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz")
        touch(tmp_path, "sub-01/ses-b/anat/sub-01_ses-b_T2w.nii.gz", "sub-01/ses-a/anat/sub-01_ses-a_mask.nii.gz")
        rows, notes = proposed(tmp_path)
        first = "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz"
        mask = "sub-01/ses-a/anat/sub-01_ses-a_mask.nii.gz"
        assert rows == [
            {"id": f"sub-01_ses-{s}_to_ses-a", "fixed": first, "fixed_mask": mask,
             "moving": f"sub-01/ses-{s}/anat/sub-01_ses-{s}_T1w.nii.gz"}
            for s in "bc"
        ]  # fmt: skip
        assert notes == ["sub-02: only one session; left out."]

    def test_bids_with_one_session(self, tmp_path):
        for subject in ("01", "02", "03"):
            touch(tmp_path, f"sub-{subject}/anat/sub-{subject}_T1w.nii")
        touch(tmp_path, "sub-02/anat/sub-02_run-2_T1w.nii")
        rows, notes = proposed(tmp_path)
        assert [(row["id"], row["fixed"]) for row in rows] == [
            ("sub-02_to_sub-01", "sub-01/anat/sub-01_T1w.nii"),
            ("sub-03_to_sub-01", "sub-01/anat/sub-01_T1w.nii"),
        ]
        assert notes == ["sub-02/anat: of 2 T1w images, sub-02_T1w.nii is used."]

    def test_ids_are_made_safe_and_different(self, tmp_path):
        touch(tmp_path, "Mr. X/phase 1.nrrd", "Mr. X/phase+2.nrrd", "Mr. X/phase 2.nrrd")
        rows, _ = proposed(tmp_path)
        ids = [row["id"] for row in rows]
        assert len(set(ids)) == 2
        assert all(" " not in name and "+" not in name for name in ids)

    def test_on_the_command_line(self, tmp_path, capsys):
        touch(tmp_path, "x/a.nrrd", "x/b.nrrd", "x/c_only/z.nrrd")
        assert main(["batch", "--make-manifest", str(tmp_path / "x"), "--output", str(tmp_path / "m.csv")]) == 0
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err == "cyclereg: note: c_only: only one volume (z.nrrd); left out.\n"
        assert (tmp_path / "m.csv").read_text().splitlines()[1:] == ["id,fixed,moving", "b_to_a,x/a.nrrd,x/b.nrrd"]

    def test_nothing_to_propose(self, tmp_path, capfd):
        touch(tmp_path, "x/a.nrrd")
        for path, words in ((tmp_path / "x", "no pair was found"), (tmp_path / "x/a.nrrd", "it is no folder")):
            refuse(capfd, tmp_path, ["batch", "--make-manifest", path], words)
