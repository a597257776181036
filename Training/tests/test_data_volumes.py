"""Volumes as the data of a training: which pair comes when, in which process, and what a run keeps of it."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml
from data_cases import config, data_of, smooth_volume, write, write_patients
from torch.utils.data import DataLoader

import CycleRegLib.networks.inference as inference
from cyclereg_training.cli import main
from cyclereg_training.config import Config, TrainerSettings
from cyclereg_training.data import build_data
from cyclereg_training.data.pair_source import TrainingPairs
from cyclereg_training.data.volumes import VolumeData
from cyclereg_training.fit import fit
from cyclereg_training.run_folder import METRICS, read_metrics
from CycleRegLib.checkpoints import read_checkpoint, write_checkpoint
from CycleRegLib.errors import InputError
from CycleRegLib.images_2d import grey, read_image_2d
from CycleRegLib.methods import get_method
from CycleRegLib.planar import FlatPair

SIDES = ("moving", "fixed")
AUGMENTED = {
    "flips": 0.5, "rotations": 0.5, "spline": 0.5, "gamma": 0.5, "contrast": 0.5, "bias": 0.5, "noise": 0.5
}  # fmt: skip


def loader_of(data: VolumeData, epoch: int = 0, rank: int = 0, world: int = 1) -> DataLoader:
    """The training loader of one process, as Lightning's trainer would have it."""
    progress = SimpleNamespace(current=SimpleNamespace(processed=epoch))
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=rank,
        world_size=world,
        fit_loop=SimpleNamespace(epoch_progress=progress),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return data.train_dataloader()


def equal(one: Iterable[dict[str, Any]], other: Iterable[dict[str, Any]]) -> bool:
    one, other = list(one), list(other)
    same = [a["name"] == b["name"] and all(torch.equal(a[side], b[side]) for side in SIDES) for a, b in zip(one, other)]
    return len(one) == len(other) and all(same)


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5 patients, 4 of them for training: 8 pairs within a patient."""
    return write_patients(tmp_path_factory.mktemp("patients") / "d", 5)


def within(patients: Path, **settings: Any) -> VolumeData:
    return data_of(patients, pairs="within-patient", split={"validation": 0.2, "test": 0}, **settings)


class TestOrder:
    def test_every_epoch_shows_every_pair_once_in_another_order(self, patients: Path) -> None:
        data = within(patients)
        epochs = [[data.source.training_pair(epoch, index)["name"] for index in range(8)] for epoch in range(3)]
        assert all(len(set(names)) == 8 for names in epochs)
        assert epochs[0] != epochs[1] != epochs[2]
        assert not set(epochs[0]) & {data.source.pair("validation", n)["name"] for n in range(2)}

    @pytest.mark.parametrize("count", [3, 12])
    def test_fewer_or_more_pairs_than_there_are_come_equally_often(self, patients: Path, count: int) -> None:
        data = within(patients, pairs_per_epoch=count)
        keys = [(epoch, index) for epoch in range(24 // count) for index in range(count)]
        names = Counter(data.source.training_pair(*key)["name"] for key in keys)
        assert set(names.values()) == {3}

    def test_a_pair_depends_on_seed_epoch_and_number_alone(self, patients: Path) -> None:
        one, other = (within(patients, augmentation=AUGMENTED) for _ in range(2))
        keys = [(0, 0), (0, 3), (4, 3)]
        forward = [one.source.training_pair(*key) for key in keys]
        backward = [other.source.training_pair(*key) for key in reversed(keys)]
        assert equal(forward, reversed(backward))
        assert not torch.equal(forward[1]["moving"], forward[2]["moving"])
        made = config(patients, pairs="within-patient", augmentation=AUGMENTED)
        seeded = VolumeData(Config(**{**vars(made), "seed": 5}))
        assert not equal(forward, [seeded.source.training_pair(*key) for key in keys])

    def test_one_pair_is_changed_otherwise_in_every_epoch(self, tmp_path: Path) -> None:
        folder = write_patients(tmp_path / "d", 1)
        data = data_of(folder, pairs="within-patient", fixed="portal", augmentation={"noise": 1.0})
        first, second = (data.source.training_pair(epoch, 0) for epoch in range(2))
        assert first["name"] == second["name"]
        assert not torch.equal(first["moving"], second["moving"])

    def test_processes_share_the_batches_of_one(self, patients: Path) -> None:
        data = within(patients, augmentation=AUGMENTED)
        data.batch_size = 4
        alone = list(loader_of(data, epoch=2))
        data.batch_size = 2
        shared = [list(loader_of(data, 2, rank, 2)) for rank in range(2)]
        assert [len(batches) for batches in (alone, *shared)] == [2, 2, 2]
        for whole, first, second in zip(alone, *shared):
            order = [0, 2, 1, 3]  # every second pair of the whole
            assert [whole["name"][n] for n in order] == [*first["name"], *second["name"]]
            assert torch.equal(whole["moving"][order], torch.cat([first["moving"], second["moving"]]))

    def test_workers_give_what_the_process_itself_would_in_every_epoch(self, patients: Path) -> None:
        alone, worked = within(patients, augmentation=AUGMENTED), within(patients, augmentation=AUGMENTED, workers=2)
        one, other = loader_of(alone), loader_of(worked)
        for epoch in range(2):
            for loader in (one, other):
                loader.sampler.set_epoch(epoch)
            assert equal(one, other)

    def test_what_workers_need_can_be_sent_to_them(self, patients: Path) -> None:
        data = within(patients, augmentation=AUGMENTED)
        again = pickle.loads(pickle.dumps(TrainingPairs(data.source)))
        assert equal([again[1, 2]], [data.source.training_pair(1, 2)])


class TestModule:
    def test_batches_are_what_objectives_take(self, patients: Path) -> None:
        data = within(patients)
        batch = next(iter(loader_of(data)))
        assert batch["moving"].shape == batch["fixed"].shape == (1, 1, *data.shape)
        assert batch["moving"].dtype == torch.float32
        assert 0 <= float(batch["moving"].min()) < float(batch["moving"].max()) <= 1

    def test_the_validation_pair_is_the_same_every_time_and_of_tensors_alone(self, patients: Path) -> None:
        data = within(patients, augmentation=AUGMENTED)
        pair = data.validation_pair
        assert all(isinstance(value, torch.Tensor) for value in pair.values())
        assert torch.equal(pair["moving"], data.validation_pair["moving"])
        loader_of(data)
        batches = [list(data.val_dataloader()) for _ in range(2)]
        assert equal(*batches)
        assert torch.equal(batches[0][0]["moving"], pair["moving"])

    def test_training_pairs_stand_in_where_patients_are_few_and_that_is_said(self, tmp_path: Path) -> None:
        data = data_of(write_patients(tmp_path / "d", 1), pairs="within-patient")
        assert any("stand in" in note for note in data.report.notes)
        assert data.report.to_dict()["pairs"] == {"train": 2, "validation": 0, "test": 0}
        assert data.validation_pair["moving"].shape == (1, 1, *data.shape)

    def test_what_a_checkpoint_says_names_no_file_and_no_patient(self, patients: Path) -> None:
        text = json.dumps(within(patients).description)
        assert str(patients.parent) not in text
        assert "P0" not in text
        assert json.loads(text)["pairs"] == {"train": 8, "validation": 2, "test": 0}

    def test_pairs_of_a_list_that_lack_a_volume_are_left_out_and_counted(self, patients: Path, tmp_path: Path) -> None:
        rows = [f"{patients}/P{n}/P{n}_portal.nrrd,{patients}/P{n}/P{n}_arterial.nrrd,P{n},train" for n in range(3)]
        rows.append(f"{patients}/P3/P3_portal.nrrd,{patients}/P3/missing.nrrd,P3,validation")
        (tmp_path / "list.csv").write_text("\n".join(["fixed,moving,patient,split", *rows]))
        data = data_of(tmp_path / "list.csv", source="list")
        assert len(data.source.pairs["train"]) == 3
        assert any("1 of the 4 pairs listed" in note for note in data.report.notes)
        assert "missing.nrrd" in data.report.skipped[0][1]

    def test_one_fixed_image_of_all_pairs_in_a_list_is_an_atlas(self, patients: Path, tmp_path: Path) -> None:
        atlas = f"{patients}/P0/P0_portal.nrrd"
        rows = [f"{atlas},{patients}/P{n}/P{n}_portal.nrrd,P{n}" for n in range(1, 5)]
        (tmp_path / "list.csv").write_text("\n".join(["fixed,moving,patient", *rows]))
        data = data_of(tmp_path / "list.csv", source="list", split={"validation": 0.25, "test": 0.25})
        assert [len(data.source.pairs[split]) for split in ("train", "validation", "test")] == [2, 1, 1]

    def test_an_unknown_source_is_refused_with_the_near_one(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="Did you mean 'folder'"):
            build_data(config(tmp_path, source="foldr"))


class TestFlat:
    def test_pictures_come_as_inference_shows_them(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in range(3):
            channels = [smooth_volume((40, 48), 3 * number + c, 3.0) for c in range(3)]
            colours = np.clip(np.stack(channels, -1), 0, 255).astype(np.uint8)
            (tmp_path / "d").mkdir(exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(tmp_path / f"d/{number}.png"))
        made = config(tmp_path / "d", "cyclemorph-2d", grid={"size": [32, 32]}, normalisation="unit")
        data = VolumeData(made)
        pair = data.source.pair("train", 0)
        assert data.shape == (32, 32)
        seen: list[np.ndarray] = []

        def run_network(_: object, fixed: np.ndarray, moving: np.ndarray, *__: object) -> tuple[torch.Tensor, ...]:
            seen.extend((fixed, moving))
            return torch.zeros(2, *fixed.shape), torch.zeros(2, *fixed.shape)

        monkeypatch.setattr(inference, "run_network", run_network)
        network = get_method("cyclemorph-2d").build_network()
        written = write_checkpoint(
            tmp_path / "w.safetensors", "cyclemorph-2d", {"forward": network.state_dict()}, network.configuration,
            data.normalisation, data.grid,
        )  # fmt: skip
        paths = [data.source.preparer.volumes[n].path for n in data.source.pairs["train"][0]]
        flat = FlatPair(*(read_image_2d(path) for path in paths))
        inference.predict_fields(read_checkpoint(written.path), grey(flat.fixed), grey(flat.moving))
        for side, shown in zip(("fixed", "moving"), seen):
            np.testing.assert_allclose(pair[side][0].numpy(), shown, atol=1e-5)

    def test_slices_of_volumes_with_labels_are_augmented_too(self, tmp_path: Path) -> None:
        for number in range(3):
            array = smooth_volume((20, 20), number)[None]
            write(tmp_path / f"d/{number}.nrrd", array)
            write(tmp_path / f"d/{number}_seg.nrrd", (array > 110).astype(np.uint8))
        made = config(tmp_path / "d", "cyclemorph-2d", augmentation=AUGMENTED)
        pair = VolumeData(made).source.training_pair(0, 0)
        assert pair["moving"].shape == pair["moving_labels"].shape == (1, 20, 20)
        assert set(pair["moving_labels"].unique().tolist()) == {0, 1}

    def test_volumes_are_skipped_where_the_network_is_flat(self, tmp_path: Path) -> None:
        write(tmp_path / "d/volume.nrrd", smooth_volume())
        with pytest.raises(InputError, match="single slice is needed"):
            VolumeData(config(tmp_path / "d", "cyclemorph-2d"))


class TestRuns:
    def run_of(self, patients: Path, folder: Path, epochs: int, resume: str | None = None) -> Path:
        made = config(patients, "voxelmorph1", pairs="within-patient", augmentation=AUGMENTED, pairs_per_epoch=3)
        trainer = {"max_epochs": epochs, "accelerator": "cpu", "channels_last": False}
        settings = {**vars(made), "trainer": TrainerSettings(**trainer), "initialisation": "he"}
        return fit(Config(**settings), folder, resume)

    def test_a_resumed_run_sees_what_an_uninterrupted_one_does(self, patients: Path, tmp_path: Path) -> None:
        whole = self.run_of(patients, tmp_path / "whole", 2)
        parts = self.run_of(patients, tmp_path / "parts", 1)
        self.run_of(patients, parts, 2, "last")
        seen = [
            [row["train/loss"] for row in read_metrics(run / METRICS) if "train/loss" in row] for run in (whole, parts)
        ]
        assert seen[0] == seen[1]
        assert len(seen[0]) == 6
        assert (whole / "preparation.json").is_file()
        checkpoint = read_checkpoint(whole / "last.safetensors")
        assert checkpoint.normalisation == "percentile"
        assert checkpoint.grid.to_dict() == {"spacing": [2.0, 2.0, 3.0], "orientation": "LPS"}
        assert checkpoint.training["data"]["pairs"]["train"] == 6


class TestCommand:
    def written(self, folder: Path, path: Path, **settings: Any) -> str:
        data = {"source": "folder", "path": str(path), "workers": 0, "cache": str(folder / "cache"), **settings}
        (folder / "c.yaml").write_text(yaml.safe_dump({"method": "voxelmorph1", "data": data}))
        return str(folder / "c.yaml")

    def test_prepare_reports_and_fills_the_cache(
        self, patients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        given = self.written(tmp_path, patients, pairs="within-patient")
        assert main(["prepare", given, "--output", str(tmp_path / "out"), "data.split.test=0"]) == 0
        out = capsys.readouterr().out
        assert "10 volumes: 8 pairs of 4 patients for training, 2 pairs of 1 patient for validation" in out
        assert json.loads((tmp_path / "out/preparation.json").read_text())["pairs"]["train"] == 8
        assert len(list((tmp_path / "cache").rglob("image.npy"))) == 10

    @pytest.mark.parametrize(
        ("overrides", "words"),
        [
            (["data={source: synthetic}"], "need no preparation"),
            (["objective.weights.dice=1"], "A Dice loss needs label maps"),
            (["data.path=/nowhere"], "does not exist"),
            (["data.pear=1"], "did you mean"),
        ],
    )
    def test_mistakes_are_one_line_and_status_2(
        self, patients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], words: str
    ) -> None:
        given = self.written(tmp_path, patients, pairs="within-patient")
        assert main(["prepare", given, *overrides, "--progress", "none"]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
