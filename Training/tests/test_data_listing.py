"""Which volumes, patients and pairs there are in a folder or list."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import pytest

from cyclereg_training.data.listing import Volume, list_volumes
from cyclereg_training.data.pairing import find_atlas, make_pairs, spread
from cyclereg_training.data.patients import split_patients
from cyclereg_training.data.settings import SplitSettings, VolumeSettings
from CycleRegLib.errors import InputError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def listed(folder: Path, dimension: int = 3, **settings: object) -> list[Volume]:
    return list_volumes(VolumeSettings(path=str(folder), **settings), dimension).volumes  # type: ignore[arg-type]


class TestFolders:
    def test_subfolders_are_patients_and_files_are_phases(self, tmp_path: Path) -> None:
        touch(tmp_path, "P1/P1_portal.nrrd", "P1/P1_arterial.nii.gz", "P2/late.mha", "P2/notes.txt")
        found = [(volume.patient, volume.phase) for volume in listed(tmp_path)]
        assert found == [("P1", "arterial"), ("P1", "portal"), ("P2", "late")]

    def test_files_directly_in_the_folder_are_patients_of_their_own(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.nii.gz", "b.nrrd")
        assert [volume.patient for volume in listed(tmp_path)] == ["a", "b"]

    def test_folders_of_sessions_tell_phases_apart(self, tmp_path: Path) -> None:
        touch(tmp_path, "sub-1/ses-1/anat/sub-1_T1w.nii.gz", "sub-1/ses-2/anat/sub-1_T1w.nii.gz")
        volumes = listed(tmp_path)
        assert {volume.patient for volume in volumes} == {"sub-1"}
        assert len({volume.phase for volume in volumes}) == 2

    def test_a_pattern_names_patient_and_phase(self, tmp_path: Path) -> None:
        touch(tmp_path, "scan_017_art.nrrd", "scan_017_ven.nrrd", "scan_018_art.nrrd", "phantom.nrrd")
        settings = VolumeSettings(path=str(tmp_path), patient_pattern=r"scan_(?P<patient>\d+)_(?P<phase>\w+)")
        listing = list_volumes(settings)
        found = [(volume.patient, volume.phase) for volume in listing.volumes]
        assert found == [("017", "art"), ("017", "ven"), ("018", "art")]
        assert len(listing.skipped) == 1
        assert "phantom.nrrd" in listing.skipped[0][1]

    def test_segmentations_and_landmarks_lie_beside_and_are_no_volumes(self, tmp_path: Path) -> None:
        touch(tmp_path, "P/a.nrrd", "P/a.seg.nrrd", "P/a_landmarks.csv", "P/b.nii.gz", "P/b_labels.nii.gz")
        touch(tmp_path, "P/c_mask.nrrd")
        a, b = listed(tmp_path)
        assert (Path(a.segmentation).name, Path(a.landmarks).name) == ("a.seg.nrrd", "a_landmarks.csv")
        assert (Path(b.segmentation).name, b.landmarks) == ("b_labels.nii.gz", None)

    def test_folders_of_dicom_files_are_volumes(self, tmp_path: Path) -> None:
        touch(tmp_path, "P/portal/1.dcm", "P/portal/2.dcm", "P/late/1.dcm")
        assert [(volume.patient, volume.phase) for volume in listed(tmp_path)] == [("P", "late"), ("P", "portal")]

    def test_a_folder_that_is_one_dicom_series_is_one_volume(self, tmp_path: Path) -> None:
        (volume,) = listed(touch(tmp_path / "series", "1.dcm", "2.dcm"))
        assert (volume.path, volume.patient) == (str(tmp_path / "series"), "series")

    def test_pictures_are_images_in_2d_only(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.png", "b.jpg", "c.nrrd")
        assert [volume.patient for volume in listed(tmp_path)] == ["c"]
        assert [volume.patient for volume in listed(tmp_path, 2)] == ["a", "b", "c"]

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({}, "no image in"),
            ({"patient_pattern": "("}, "no regular expression"),
            ({"patient_pattern": "P"}, "no group"),
        ],
    )
    def test_what_cannot_be_is_refused(self, tmp_path: Path, settings: dict[str, str], words: str) -> None:
        touch(tmp_path, "notes.txt")
        with pytest.raises(InputError, match=words):
            listed(tmp_path, **settings)

    def test_a_missing_folder_and_a_file_in_its_place_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="does not exist"):
            listed(tmp_path / "nowhere")
        with pytest.raises(InputError, match=r"data\.source=list"):
            listed(touch(tmp_path, "list.csv") / "list.csv")


class TestLists:
    def written(self, folder: Path, text: str, name: str = "list.csv") -> Path:
        (folder / name).write_text(text)
        return folder / name

    def test_volumes_with_everything_known_of_them(self, tmp_path: Path) -> None:
        path = self.written(
            tmp_path,
            "path,patient,phase,split,segmentation,landmarks\n"
            "a/1.nrrd,A,portal,train,a/1_seg.nrrd,a/1.csv\n/data/2.nrrd,B,,Test,,\n",
        )
        folder = tmp_path / "a"
        assert listed(path, source="list") == [
            Volume(f"{folder}/1.nrrd", "A", "portal", "train", f"{folder}/1_seg.nrrd", f"{folder}/1.csv"),
            Volume("/data/2.nrrd", "B", "2", "test"),
        ]

    def test_equal_names_in_two_folders_are_two_patients(self, tmp_path: Path) -> None:
        path = self.written(tmp_path, "path\nA/ct.nii.gz\nB/ct.nii.gz\n")
        assert [volume.patient for volume in listed(path, source="list")] == ["A/ct", "B/ct"]

    def test_pairs_as_a_manifest_of_batches_has_them(self, tmp_path: Path) -> None:
        rows = [
            {"id": "1", "fixed": "a.nrrd", "moving": "b.nrrd", "patient": "A", "fixed_segmentation": "a_seg.nrrd"},
            {"id": "2", "fixed": "c.nrrd", "moving": "d.nrrd", "patient": "B"},
        ]
        path = self.written(tmp_path, json.dumps({"pairs": rows}), "list.json")
        listing = list_volumes(VolumeSettings("list", str(path)))
        assert listing.pairs == [(0, 1), (2, 3)]
        assert [volume.patient for volume in listing.volumes] == ["A", "A", "B", "B"]
        assert listing.volumes[0].segmentation == str(tmp_path / "a_seg.nrrd")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("pth\na.nrrd\n", "Did you mean 'path'"),
            ("path,fixed\na.nrrd,b.nrrd\n", "not both"),
            ("patient\nA\n", "needs either the column path"),
            ("path,patient\n,A\nb.nrrd,B\n", "Row 2, column path: an image is needed"),
            ("path,split\na.nrrd,training\n", "'training' is none of train, validation, test"),
            ("path\na.nrrd\na.nrrd\n", "Row 3 is the volume of row 2"),
            ("fixed,moving\na.nrrd,a.nrrd\n", "the same file"),
            ("fixed,moving,patient\na.nrrd,b.nrrd,A\nc.nrrd,b.nrrd,B\n", "the patient of .*b.nrrd is 'B' here"),
            ("path,fixed_landmarks\na.nrrd,x.csv\n", "no column fixed_landmarks"),
            ("path\n", "holds no row"),
        ],
    )
    def test_mistakes_are_named_with_their_place(self, tmp_path: Path, text: str, words: str) -> None:
        with pytest.raises(InputError, match=words):
            listed(self.written(tmp_path, text), source="list")


def volumes(*patients: str, split: str = "") -> list[Volume]:
    return [Volume(f"/{number}.nrrd", patient, f"phase{number}", split) for number, patient in enumerate(patients)]


class TestSplits:
    def test_no_patient_is_in_two_splits_and_every_split_has_its_share(self) -> None:
        many = volumes(*(f"P{number % 20:02d}" for number in range(60)))
        splits = split_patients(many, SplitSettings(0.2, 0.1))
        assert sorted(splits) == sorted({volume.patient for volume in many})
        assert [list(splits.values()).count(name) for name in ("train", "validation", "test")] == [14, 4, 2]

    def test_the_seed_alone_decides(self) -> None:
        many = volumes(*(f"P{number}" for number in range(30)))
        first = split_patients(many, SplitSettings(0.3, 0.3))
        assert split_patients(list(reversed(many)), SplitSettings(0.3, 0.3)) == first
        assert split_patients(many, SplitSettings(0.3, 0.3, seed=1)) != first

    def test_training_comes_first_where_patients_are_few(self) -> None:
        assert set(split_patients(volumes("A", "B"), SplitSettings(), least=2).values()) == {"train"}
        three = split_patients(volumes("A", "B", "C"), SplitSettings())
        assert sorted(three.values()) == ["train", "train", "validation"]
        six = split_patients(volumes(*"ABCDEF"), SplitSettings(), least=2)
        assert sorted(six.values()) == ["train"] * 4 + ["validation"] * 2
        most = split_patients(volumes(*"ABCDEFGHIJ"), SplitSettings(0.4, 0.4))
        assert [list(most.values()).count(name) for name in ("train", "validation", "test")] == [2, 4, 4]

    def test_what_the_list_says_holds_and_the_rest_is_for_training(self) -> None:
        mixed = [*volumes("A", "B", "C"), Volume("/x.nrrd", "D", split="test")]
        assert split_patients(mixed, SplitSettings()) == {"A": "train", "B": "train", "C": "train", "D": "test"}

    def test_named_patients_are_taken(self) -> None:
        splits = split_patients(volumes("A", "B", "C"), SplitSettings(("B",), 0.0))
        assert splits == {"A": "train", "B": "validation", "C": "train"}

    def test_patients_who_make_a_pair_stay_together(self) -> None:
        for seed in range(10):
            many = volumes("A", "B", "C", "D", "E", "F")
            splits = split_patients(many, SplitSettings(0.4, 0.2, seed), [(0, 5), (1, 4)])
            assert splits["A"] == splits["F"]
            assert splits["B"] == splits["E"]

    def test_the_partner_of_a_patient_whose_split_is_told_is_in_the_same(self) -> None:
        told = [Volume("/a.nrrd", "A", split="test"), *volumes("B", "C")]
        assert split_patients(told, SplitSettings(), [(0, 1)]) == {"A": "test", "B": "test", "C": "train"}
        with pytest.raises(InputError, match="make a pair, but belong to different splits"):
            split_patients([*told[:2], Volume("/c.nrrd", "C", split="train")], SplitSettings(), [(0, 1), (1, 2)])

    @pytest.mark.parametrize(
        ("several", "settings", "words"),
        [
            ([Volume("/a", "A", split="train"), Volume("/b", "A", split="test")], SplitSettings(), "one split"),
            (volumes("A", "B"), SplitSettings(("X",)), "no volume"),
            (volumes("A", "B"), SplitSettings(("A",), ("A",)), "splits validation and test"),
        ],
    )
    def test_contradictions_are_refused(self, several: list[Volume], settings: SplitSettings, words: str) -> None:
        with pytest.raises(InputError, match=words):
            split_patients(several, settings)

    def test_shares_that_leave_nothing_are_refused(self) -> None:
        with pytest.raises(InputError, match="no patient for training"):
            SplitSettings(0.5, 0.5)


class TestPairs:
    def of(self, several: list[Volume], atlas: int | None = None, **settings: object) -> list[tuple[int, int]]:
        pairs, _ = make_pairs(several, VolumeSettings(path="x", **settings), atlas, None)  # type: ignore[arg-type]
        return pairs["train"]

    def test_all_pairs_are_all_ordered_pairs(self) -> None:
        assert self.of(volumes("A", "A", "B", split="train")) == list(permutations(range(3), 2))

    def test_an_atlas_is_fixed_in_every_pair(self) -> None:
        assert self.of(volumes("A", "B", "C", split="train"), pairs="atlas") == [(0, 1), (0, 2)]
        assert self.of(volumes("A", "B", "C", split="train"), 2, pairs="atlas") == [(2, 0), (2, 1)]

    def test_pairs_within_patients_know_no_other_patient(self) -> None:
        found = self.of(volumes("A", "B", "A", "B", split="train"), pairs="within-patient")
        assert sorted(found) == [(0, 2), (1, 3), (2, 0), (3, 1)]

    def test_a_fixed_phase_is_never_moving(self) -> None:
        several = [Volume(f"/{p}{f}", p, f, "train") for p in "AB" for f in ("Portal", "late", "arterial")]
        found = self.of(several, pairs="within-patient", fixed="portal")
        assert found == [(0, 1), (0, 2), (3, 4), (3, 5)]

    def test_a_phase_that_nobody_has_is_refused(self) -> None:
        with pytest.raises(InputError, match="phase0, phase1"):
            self.of(volumes("A", "A", split="train"), pairs="within-patient", fixed="portal")

    def test_the_atlas_is_named_by_its_file_or_its_patient(self) -> None:
        several = volumes("A", "B", "B")
        assert find_atlas(several, VolumeSettings(path="/", fixed="1.nrrd")) == 1
        assert find_atlas(several, VolumeSettings(path="/x", fixed="A")) == 0
        for name, words in (("B", "2 volumes"), ("C", "neither a file")):
            with pytest.raises(InputError, match=words):
                find_atlas(several, VolumeSettings(path="/x", fixed=name))

    def test_few_of_many_are_spread_evenly(self) -> None:
        pairs = [(n, n + 1) for n in range(10)]
        assert spread(pairs, 5) == pairs[::2]
        assert spread(pairs, 20) == pairs
