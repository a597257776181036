"""Volumes on their way to the network: as inference does it, once, and what cannot be used is named."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import data_cases
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from data_cases import data_of, smooth_volume, write, write_patients

import CycleRegLib.networks.inference as inference
from cyclereg_training.data import require_labels
from cyclereg_training.data.cache import Cache, file_identity, key_of
from cyclereg_training.data.preparation import Item
from cyclereg_training.data.volumes import VolumeData
from CycleRegLib.affine import register_affine
from CycleRegLib.checkpoints import read_checkpoint, write_checkpoint
from CycleRegLib.errors import InputError
from CycleRegLib.geometry import Grid, affine_transform
from CycleRegLib.images import read_image
from CycleRegLib.methods import get_method
from CycleRegLib.networks.settings import InferenceSettings


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, np.ndarray]]:
    """What inference shows to the network: (fixed, moving) arrays."""
    shown: list[tuple[np.ndarray, np.ndarray]] = []

    def run_network(checkpoint: object, fixed: np.ndarray, moving: np.ndarray, *_: object) -> tuple[torch.Tensor, ...]:
        shown.append((np.array(fixed), np.array(moving)))
        return torch.zeros(fixed.ndim, *fixed.shape), torch.zeros(fixed.ndim, *fixed.shape)

    monkeypatch.setattr(inference, "run_network", run_network)
    return shown


def checkpoint_of(data: VolumeData, folder: Path, method: str = "cyclemorph") -> object:
    """As training writes it: the data's normalisation and grid."""
    network = get_method(method).build_network()
    return write_checkpoint(
        folder / "w.safetensors", method, {"forward": network.state_dict()}, network.configuration, data.normalisation,
        data.grid,
    )  # fmt: skip


def images_of(data: VolumeData, number: int = 0) -> tuple[dict[str, np.ndarray], tuple[sitk.Image, sitk.Image]]:
    """Arrays of training pair ``number``, and the two files behind it."""
    pair = data.source.pair("train", number)
    paths = [data.source.preparer.volumes[n].path for n in data.source.pairs["train"][number]]
    arrays = {side: pair[side][0].numpy() for side in ("fixed", "moving")}
    return arrays, (read_image(paths[0]), read_image(paths[1]))


class TestAsInferenceDoesIt:
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"grid": {"size": [12, 10, 16]}, "normalisation": "max"},
            {"grid": {"spacing": [3, 3, 3]}, "normalisation": "window:80,130"},
            {"grid": {"size": [12, 10, 16], "spacing": [2.5, 2.5, 2.5], "orientation": "RIA"}, "normalisation": "unit"},
            {"fit": [12, 20, None], "normalisation": "none"},
        ],
        ids=str,
    )
    def test_a_volume_has_the_same_intensities_in_training_and_in_inference(
        self, tmp_path: Path, seen: list[tuple[np.ndarray, np.ndarray]], settings: dict[str, object]
    ) -> None:
        # Stored otherwise than patients lie, so that an orientation that is forgotten shows.
        data = data_of(write_patients(tmp_path / "d", 2, orientation="RAS", origin=(5, 6, 7)), **settings)
        checkpoint = checkpoint_of(data, tmp_path)
        arrays, (fixed, moving) = images_of(data)
        inference.predict_fields(read_checkpoint(checkpoint.path), fixed, moving)
        # However a fixed image is stored, the network sees it as those of training.
        inference.predict_fields(read_checkpoint(checkpoint.path), sitk.DICOMOrient(fixed, "PIR"), moving)
        close = {"rtol": 0, "atol": 1e-5 * max(1.0, float(seen[0][0].max()))}
        for side, shown in zip(("fixed", "moving"), seen[0]):
            assert shown.shape == arrays[side].shape == data.shape
            np.testing.assert_allclose(arrays[side], shown, **close)
        np.testing.assert_allclose(arrays["fixed"], seen[1][0], **close)

    def test_one_orientation_for_volumes_of_several(
        self, tmp_path: Path, seen: list[tuple[np.ndarray, np.ndarray]]
    ) -> None:
        array = smooth_volume()
        write(tmp_path / "d/a.nrrd", array, orientation="LPS")
        write(tmp_path / "d/b.nrrd", array, orientation="SRA")
        data = data_of(tmp_path / "d")
        arrays, (fixed, moving) = images_of(data)
        np.testing.assert_allclose(arrays["fixed"], arrays["moving"], atol=1e-5)
        assert any("different orientations" in note for note in data.report.notes)
        # A fixed image that is stored in yet another way.
        other = sitk.DICOMOrient(fixed, "PIR")
        inference.predict_fields(read_checkpoint(checkpoint_of(data, tmp_path).path), other, moving)
        np.testing.assert_allclose(seen[0][0], arrays["fixed"], atol=1e-5)

    @pytest.mark.parametrize("align", ["pair", "world"])
    def test_moving_images_come_through_the_affine_stage(
        self, tmp_path: Path, seen: list[tuple[np.ndarray, np.ndarray]], align: str
    ) -> None:
        array = smooth_volume((20, 22, 24), deviation=2.5)
        fixed = read_image(write(tmp_path / "d/P/a.nrrd", array, (2, 2, 2)))
        matrix = np.array([[0.99, 0.1, 0, 3], [-0.1, 1.02, 0, -2], [0, 0.05, 1, 4], [0, 0, 0, 1]])
        moved = sitk.Resample(fixed, Grid.of(fixed).empty_image(), affine_transform(matrix), sitk.sitkLinear, 100.0)
        sitk.WriteImage(sitk.Cast(moved, sitk.sitkFloat32), str(tmp_path / "d/P/b.nrrd"))
        for name, image in (("a", fixed), ("b", moved)):
            sitk.WriteImage(sitk.Cast(image > 110, sitk.sitkUInt8), str(tmp_path / f"d/P/{name}_seg.nrrd"))
        data = data_of(tmp_path / "d", align=align, pairs="within-patient", fixed="a")
        arrays, (fixed, moving) = images_of(data)
        found = register_affine(fixed, moving).matrix if align == "pair" else np.eye(4)
        inference.predict_fields(read_checkpoint(checkpoint_of(data, tmp_path).path), fixed, moving, found)
        for side, shown in zip(("fixed", "moving"), seen[0]):
            np.testing.assert_allclose(arrays[side], shown, atol=1e-5)
        inner = [arrays[side][4:-4, 4:-4, 4:-4].ravel() for side in ("fixed", "moving")]
        likeness = np.corrcoef(*inner)[0, 1]
        assert (likeness > 0.98) == (align == "pair"), likeness
        pair = data.source.pair("train", 0)
        same = [pair[f"{side}_labels"][..., 4:-4, 4:-4, 4:-4] for side in ("fixed", "moving")]
        assert (float((same[0] == same[1]).float().mean()) > 0.95) == (align == "pair")

    def test_the_slices_of_an_organ_as_inference_cuts_them(
        self, tmp_path: Path, seen: list[tuple[np.ndarray, np.ndarray]]
    ) -> None:
        slices = {"a": slice(3, 8), "b": slice(5, 11)}
        masks = {}
        for number, (name, where) in enumerate(slices.items()):
            labels = np.zeros((14, 12, 16), np.uint8)
            labels[where, 4:9, 5:12] = 6
            labels[[0, 4, 9], 0, 0] = 2  # another organ
            write(tmp_path / f"d/P/{name}.nrrd", smooth_volume((14, 12, 16), number))
            write(tmp_path / f"d/P/{name}_seg.nrrd", labels)
            masks[name] = sitk.ReadImage(str(tmp_path / f"d/P/{name}_seg.nrrd")) == 6
        data = data_of(tmp_path / "d", organ=6, align="world", pairs="within-patient", fixed="a")
        arrays, (fixed, moving) = images_of(data)
        settings = InferenceSettings(organ_slices=True)
        checkpoint = read_checkpoint(checkpoint_of(data, tmp_path).path)
        inference.predict_fields(checkpoint, fixed, moving, settings=settings, masks=(masks["a"], masks["b"]))
        assert data.shape == (8, 12, 16)
        for side, shown in zip(("fixed", "moving"), seen[0]):
            np.testing.assert_allclose(arrays[side], shown, atol=1e-5)
        assert not arrays["fixed"][5:].any()
        assert not arrays["moving"][:2].any()
        labels = data.source.pair("train", 0)
        others = [[z for z in range(8) if (labels[f"{side}_labels"][0, z] == 2).any()] for side in ("fixed", "moving")]
        assert others == [[1], [6]]

    def test_shallow_organs_are_filled_up_with_zeros_to_equal_depth(self, tmp_path: Path) -> None:
        for number, depth in enumerate((4, 9)):
            labels = np.zeros((14, 12, 16), np.uint8)
            labels[2 : 2 + depth, 4:9, 5:12] = 1
            write(tmp_path / f"d/P/{number}.nrrd", smooth_volume((14, 12, 16), number))
            write(tmp_path / f"d/P/{number}_seg.nrrd", labels)
        data = data_of(tmp_path / "d", organ=1)
        arrays, _ = images_of(data)
        assert data.shape == (9, 12, 16)
        filled = [z for z in range(9) if not arrays["fixed"][z].any()]
        assert filled == [0, 1, 6, 7, 8]
        assert arrays["moving"].any(axis=(1, 2)).all()
        labels = data.source.pair("train", 0)["fixed_labels"][0]
        assert [z for z in range(9) if not labels[z].any()] == filled

    def test_labels_lie_on_their_images(self, tmp_path: Path) -> None:
        for number in range(2):
            array = smooth_volume((16, 18, 20), number, 2.5)
            write(tmp_path / f"d/P/{number}.nrrd", array, orientation="RAS")
            write(tmp_path / f"d/P/{number}_seg.nrrd", (array > 110).astype(np.uint8) * 7, orientation="RAS")
        grid = {"size": [24, 24, 20], "orientation": "LPS"}
        data = data_of(tmp_path / "d", grid=grid, normalisation="none")
        pair = data.source.pair("train", 0)
        for side in ("fixed", "moving"):
            labels, image = pair[f"{side}_labels"], pair[side]
            assert set(labels.unique().tolist()) == {0, 7}
            assert labels.shape == image.shape == (1, 20, 24, 24)
            agreed = ((image > 110) == (labels == 7)).float().mean()
            assert float(agreed) > 0.95
        require_labels(data)

    def test_an_atlas_is_what_all_are_aligned_to(self, tmp_path: Path) -> None:
        array = smooth_volume((20, 22, 24), deviation=2.5)
        for number, shift in enumerate((0.0, 4.0, -6.0)):
            moved = np.roll(array, int(shift / 2), axis=2)
            write(tmp_path / f"d/{number}.nrrd", moved, (2, 2, 2))
        split = {"validation": 0, "test": 0}
        data = data_of(tmp_path / "d", align="atlas", align_mode="rigid", fixed="0.nrrd", split=split)
        assert len(data.source.pairs["train"]) == 6
        for number in range(6):
            pair = data.source.pair("train", number)
            inner = (pair["fixed"] - pair["moving"])[..., 4:-4].abs().mean()
            assert float(inner) < 0.02


class TestCache:
    def test_what_is_prepared_is_not_prepared_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = write_patients(tmp_path / "d", 2)
        first = data_of(folder).source.pair("train", 0)
        monkeypatch.setattr("cyclereg_training.data.preparation.read_image", None)  # nothing may be read
        again = data_of(folder).source.pair("train", 0)
        assert torch.equal(first["fixed"], again["fixed"])

    def test_other_files_and_other_settings_are_prepared_anew(self, tmp_path: Path) -> None:
        folder = write_patients(tmp_path / "d", 2)
        data = data_of(folder)
        first = data.source.pair("train", 0)["fixed"]
        assert not torch.equal(data_of(folder, normalisation="unit").source.pair("train", 0)["fixed"], first)
        path = Path(data.source.preparer.volumes[data.source.pairs["train"][0][0]].path)
        write(path, smooth_volume(seed=99))
        os.utime(path, ns=(1, 1))
        assert not torch.equal(data_of(folder).source.pair("train", 0)["fixed"], first)
        identity = file_identity(str(path))
        os.utime(path, ns=(2, 2))
        assert file_identity(str(path)) != identity

    def test_a_damaged_entry_is_made_again(self, tmp_path: Path) -> None:
        folder = write_patients(tmp_path / "d", 2)
        first = data_of(folder).source.pair("train", 0)
        for file in (tmp_path / "cache").rglob("image.npy"):
            file.write_bytes(file.read_bytes()[:-100])
        again = data_of(folder).source.pair("train", 0)
        assert torch.equal(first["fixed"], again["fixed"])

    def test_entries_are_whole_or_not_there(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path / "c")

        class Stopped(Exception):
            pass

        def stop() -> None:
            raise Stopped

        with pytest.raises(Stopped):
            cache.get({"a": 1}, stop)  # type: ignore[arg-type]
        assert cache.find({"a": 1}) is None
        entry = cache.get({"a": 1}, lambda: ({"x": np.arange(3)}, {"about": "it"}))
        assert entry.arrays["x"].tolist() == [0, 1, 2]
        assert entry.about["about"] == "it"
        assert not [file for file in (tmp_path / "c").iterdir() if file.name.startswith(".")]

    def test_keys_are_sha256_of_everything(self) -> None:
        assert len(key_of({"a": 1})) == 64
        assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1}) != key_of({"a": 1, "b": [3]})

    def test_several_processes_make_one_entry(self, tmp_path: Path) -> None:
        with ProcessPoolExecutor(3, get_context("fork")) as pool:
            found = list(pool.map(_make_entry, [str(tmp_path / "c")] * 6, range(6)))
        assert len(set(found)) == 1  # the first one's, whoever that was

    def test_a_folder_that_cannot_be_written_to_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match=r"data\.cache"):
            Cache(tmp_path / "file" / "c")


def _make_entry(folder: str, number: int) -> int:
    return int(Cache(folder).get({"same": True}, lambda: ({"x": np.full(200_000, number)}, {})).arrays["x"][-1])


def write_dicom(folder: Path, array: np.ndarray, spacing: tuple[float, ...]) -> None:
    """A series of one file per slice."""
    folder.mkdir(parents=True)
    for number, plane in enumerate(array.astype(np.int16)):
        image = sitk.GetImageFromArray(plane[None])
        image.SetSpacing(spacing)
        place = f"0\\0\\{number * spacing[2]}"
        tags = {
            "0008|0060": "CT", "0020|000e": "1.2.3", "0020|000d": "1.2", "0008|0018": f"1.2.3.{number + 1}",
            "0020|0013": str(number), "0020|0032": place, "0020|0037": "1\\0\\0\\0\\1\\0", "0018|0050": str(spacing[2]),
        }  # fmt: skip
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{number}.dcm"))
        writer.Execute(image)


def test_every_format_gives_the_same_volume(tmp_path: Path) -> None:
    array = smooth_volume().round()
    for number, name in enumerate(("a.nrrd", "b.nii.gz", "c.nii", "d.mha", "e.mhd", "f.nhdr")):
        write(tmp_path / f"d/P{number}/{name}", array)
    write_dicom(tmp_path / "d/P6/series", array, (2.0, 2.0, 3.0))
    data = data_of(tmp_path / "d", pairs="atlas", fixed="P0", normalisation="none", split={"validation": 0, "test": 0})
    assert len(data.source.pairs["train"]) == 6
    assert not data.report.skipped
    for number in range(6):
        np.testing.assert_allclose(data.source.pair("train", number)["moving"][0], array, atol=1e-3)


class TestWhatCannotBeUsed:
    def test_odd_files_are_named_and_skipped(self, tmp_path: Path) -> None:
        folder = write_patients(tmp_path / "d", 3, ("portal",))
        array = smooth_volume()
        (folder / "P0/cut.nrrd").write_bytes((folder / "P0/P0_portal.nrrd").read_bytes()[:900])
        (folder / "P0/junk.nii.gz").write_bytes(b"no image at all")
        (folder / "P0/empty.mha").touch()
        holes = array.copy()
        holes[3, 4, 5] = np.nan
        write(folder / "P1/nan.nrrd", holes)
        write(folder / "P1/constant.nrrd", np.full_like(array, 7))
        write(folder / "P1/flat.nrrd", array[0])
        write(folder / "P1/map.nrrd", (array > 110).astype(np.uint8))
        vectors = sitk.GetImageFromArray(np.stack([array] * 3, -1), isVector=True)
        sitk.WriteImage(vectors, str(folder / "P2/vectors.nrrd"))
        write(folder / "P2/bad.nrrd", array)
        (folder / "P2/bad_seg.nrrd").write_bytes(b"junk")
        data = data_of(folder)
        reasons = {Path(path).name: reason for path, reason in data.report.skipped}
        words = {
            "cut.nrrd": "cut short", "junk.nii.gz": "not an image", "empty.mha": "empty file", "nan.nrrd": "1 NaN",
            "constant.nrrd": "constant", "flat.nrrd": "2D", "map.nrrd": "label image", "vectors.nrrd": "3 components",
            "bad.nrrd": "segmentation",
        }  # fmt: skip
        assert set(reasons) == set(words)
        for name, word in words.items():
            assert word in reasons[name]
            assert name in reasons[name]
        assert [Path(volume.path).name for volume in data.report.volumes] == [f"P{n}_portal.nrrd" for n in range(3)]

    def test_the_report_says_what_became_of_everything(self, tmp_path: Path) -> None:
        folder = write_patients(tmp_path / "d", 5)
        (folder / "P4/junk.nrrd").write_bytes(b"junk")
        data = data_of(folder, pairs="within-patient")
        written = data.report.write(tmp_path / "out")
        assert [path.name for path in written] == ["preparation.json", "test.csv"]
        report = json.loads(written[0].read_text())
        assert report["pairs"] == {"train": 6, "validation": 2, "test": 2}
        assert sum(map(len, report["patients"].values())) == 5
        assert [Path(entry["path"]).name for entry in report["skipped"]] == ["junk.nrrd"]
        assert report["grid"] == {"spacing": [2.0, 2.0, 3.0], "orientation": "LPS"}
        lines = "\n".join(data.report.lines())
        assert "6 pairs of 3 patients for training" in lines
        assert "junk.nrrd" in lines
        # The list of test pairs can be used as one, and as a manifest of the library.
        from CycleRegLib.batch import read_manifest

        assert len(read_manifest(written[1])) == 2

    def test_volumes_of_unequal_size_need_a_rule(self, tmp_path: Path) -> None:
        write(tmp_path / "d/a.nrrd", smooth_volume((12, 14, 16)))
        write(tmp_path / "d/b.nrrd", smooth_volume((12, 14, 18)))
        with pytest.raises(InputError, match=r"a\.nrrd has 16x14x12 voxels.*b\.nrrd 18x14x12\. Give data\.grid\.size"):
            data_of(tmp_path / "d")
        assert data_of(tmp_path / "d", grid={"size": [16, 16, 16]}).shape == (16, 16, 16)
        assert data_of(tmp_path / "d", fit=[16, None, None]).shape == (12, 14, 16)

    def test_one_volume_makes_no_pair(self, tmp_path: Path) -> None:
        write(tmp_path / "d/a.nrrd", smooth_volume())
        (tmp_path / "d/b.nrrd").write_bytes(b"junk")
        for pairs in ("all-pairs", "atlas", "within-patient"):
            with pytest.raises(InputError, match=r"one volume that can be used .*a\.nrrd.*b\.nrrd"):
                data_of(tmp_path / "d", pairs=pairs)

    def test_patients_of_one_volume_make_no_pairs_within(self, tmp_path: Path) -> None:
        write_patients(tmp_path / "d", 3, ("portal",))
        with pytest.raises(InputError, match=r"No patient for training .* has two volumes"):
            data_of(tmp_path / "d", pairs="within-patient")

    def test_nothing_that_can_be_used(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        with pytest.raises(InputError, match="no image in"):
            data_of(tmp_path / "d")
        (tmp_path / "d/b.nrrd").write_bytes(b"junk")
        with pytest.raises(InputError, match=r"None of the 1 volumes .*b\.nrrd is not an image"):
            data_of(tmp_path / "d")

    def test_labels_missing_for_dice_are_named(self, tmp_path: Path) -> None:
        folder = write_patients(tmp_path / "d", 2, ("portal",))
        write(folder / "P0/P0_portal_seg.nrrd", (smooth_volume(seed=0) > 110).astype(np.uint8))
        data = data_of(folder)
        assert "fixed_labels" not in data.source.pair("train", 0)
        with pytest.raises(InputError, match=r"none for .*P1_portal\.nrrd\. Put them beside"):
            require_labels(data)

    def test_organs_without_a_segmentation_are_skipped_with_the_reason(self, tmp_path: Path) -> None:
        folder = write_patients(tmp_path / "d", 3, ("portal",))
        for patient, value in ((0, 1), (1, 1), (2, 5)):
            labels = (smooth_volume(seed=10 * patient) > 110).astype(np.uint8) * value
            write(folder / f"P{patient}/P{patient}_portal_seg.nrrd", labels)
        write(folder / "P0/late.nrrd", smooth_volume(seed=50))
        data = data_of(folder, organ=1)
        reasons = [reason for _, reason in data.report.skipped]
        assert len(reasons) == 2
        assert "no segmentation" in reasons[0]
        assert "no voxel of the organ (data.organ: 1)" in reasons[1]

    def test_images_that_do_not_overlap_in_space_make_no_pair(self, tmp_path: Path) -> None:
        write(tmp_path / "d/P/a.nrrd", smooth_volume())
        write(tmp_path / "d/P/b.nrrd", smooth_volume(seed=1))
        write(tmp_path / "d/P/far.nrrd", smooth_volume(seed=2), origin=(5000, 0, 0))
        data = data_of(tmp_path / "d", align="world", pairs="within-patient")
        assert len(data.source.pairs["train"]) == 2
        assert all("do not overlap" in reason for _, reason in data.report.skipped)

    def test_a_window_that_shows_nothing_is_named(self, tmp_path: Path) -> None:
        write_patients(tmp_path / "d", 1)
        write(tmp_path / "d/P0/dark.nrrd", smooth_volume() / 1000)
        data = data_of(tmp_path / "d", normalisation="window:50,200")
        ((path, reason),) = data.report.skipped
        assert path.endswith("dark.nrrd")
        assert "shows nothing" in reason

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"augmentaton": {}}, "did you mean augmentation"),
            ({"augmentation": {"flip": 0.5}}, "did you mean flips"),
            ({"pairs": "all"}, "all-pairs"),
            ({"normalisation": "ct"}, "no intensity normalisation"),
            ({"grid": {"size": [64, 64]}}, "2 numbers, but the network is 3D"),
            ({"fit": [64, 64]}, "2 numbers, but the network is 3D"),
            ({"split": {"validation": 1.5}}, "share"),
            ({"organ": 0}, "label value"),
            ({"augmentation": {"noise": 2}}, "probability"),
            ({"augmentation": {"gamma_range": [2, 1]}}, "goes up"),
        ],
    )
    def test_settings_that_cannot_be_are_refused(self, tmp_path: Path, settings: dict[str, object], words: str) -> None:
        with pytest.raises(InputError, match=words):
            data_of(tmp_path, **settings)


def test_items_are_equal_whoever_prepares_them(tmp_path: Path) -> None:
    """Processes that prepare at the same time, and the one that would do it alone."""
    folder = write_patients(tmp_path / "d", 3)
    alone = data_of(folder, workers=0)
    shutil.rmtree(tmp_path / "cache")
    several = VolumeData(data_cases.config(folder, workers=2))
    assert several.report.to_dict() == alone.report.to_dict()
    for volume in range(6):
        one, other = (data.source.preparer.item(Item(volume, volume)) for data in (alone, several))
        np.testing.assert_array_equal(one.arrays["image"], other.arrays["image"])
