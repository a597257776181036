"""A resumed training is the uninterrupted one, to the last bit; a killed one loses no more than its epoch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fit_cases import fit, rows, small

from cyclereg_training.data.synthetic import SyntheticData
from cyclereg_training.module import TrainingModule
from cyclereg_training.run_folder import METRICS
from CycleRegLib.checkpoints import read_checkpoint
from CycleRegLib.errors import CycleRegWarning, InputError

CASES = {
    # Random places of patches, phases, two networks.
    "two scales": (
        "cyclemorph-multiscale", "objective.patch_size=8", "trainer.max_epochs=4",
        "objective.phases={global: {epochs: 2, learning_rate: 1e-3}}",
    ),
    "phases in turns": (
        "kuang-refine", "objective.phases={network: {epochs: 1}, refinement: {epochs: 1, learning_rate: 3e-4}}",
        "trainer.max_epochs=4", "trainer.gradient_clip_val=1",
    ),
    "schedule, shapes, accumulation": (
        "voxelmorph1", "data.shape={0: [16, 16, 16], 2: [16, 16, 32]}", "data.pairs_per_epoch=5",
        "optimizer.name=adamw", "optimizer.schedule=cosine", "optimizer.warmup_steps=3", "optimizer.weight_decay=0.1",
        "trainer.max_epochs=4",
        "trainer.accumulate_grad_batches=2", "trainer.precision=bf16-mixed",
    ),
    "workers": ("voxelmorph1", "data.workers=1", "trainer.max_epochs=3"),
}  # fmt: skip


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("name", CASES)
def test_resuming_is_exact(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(*CASES[name])
    fit(config, tmp_path / "whole")
    step = TrainingModule.training_step

    def interrupted(self: TrainingModule, batch: dict, batch_idx: int) -> torch.Tensor:
        if (self.current_epoch, batch_idx) == (2, 1):
            raise Interrupted
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", interrupted)
        with pytest.raises(Interrupted):
            fit(config, tmp_path / "parts")
    torch.manual_seed(12345)  # another process has other random numbers
    fit(config, tmp_path / "parts", resume="last")
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    for file in ("last", "best"):
        whole, parts = (read_checkpoint(tmp_path / run / f"{file}.safetensors") for run in ("whole", "parts"))
        for direction, state in whole.networks.items():
            for key, value in state.items():
                assert torch.equal(value, parts.networks[direction][key]), (file, key)
    lines = (tmp_path / "parts" / "log.txt").read_text()
    assert "Resumed at step" in lines


def test_a_killed_run_loses_no_more_than_its_epoch(tmp_path: Path) -> None:
    """SIGKILL in the middle of an epoch, of the command line in a process of its own."""
    words = (
        "ms-dirnet", "data.pairs_per_epoch=6", "objective.patch_size=8", "trainer.max_epochs=30",
        "objective.phases.global.epochs=2", "optimizer.schedule=constant",
    )  # fmt: skip
    (tmp_path / "config.yaml").write_text(small(*words).to_yaml(), encoding="utf-8")
    run = tmp_path / "run"
    command = [sys.executable, "-m", "cyclereg_training", str(tmp_path / "config.yaml"), "--output", str(run)]
    process = subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            found = rows(run) if (run / METRICS).exists() else []
            if found and int(found[-1]["epoch"]) >= 2 and int(found[-1]["step"]) % 6 in (1, 2, 3):
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finally:
        process.kill()
    before = rows(run)
    reached = int(before[-1]["epoch"])
    kept = [row for row in before if int(row["epoch"]) < reached]
    assert reached >= 2
    config = small(*words, f"trainer.max_epochs={reached + 1}")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # sums of several threads are in another order
        fit(config, run, resume="last")
        fit(config, tmp_path / "whole")
    finally:
        torch.set_num_threads(threads)
    after = rows(run)
    assert after[: len(kept)] == kept, "finished epochs are not computed again"
    assert after == rows(tmp_path / "whole")


def test_nothing_to_resume_begins_anew_and_says_so(tmp_path: Path) -> None:
    config = small("voxelmorph1", "trainer.max_epochs=1")
    with pytest.warns(CycleRegWarning, match=r"holds no last.ckpt.*begins anew"):
        fit(config, tmp_path / "run", resume="last")
    assert len(rows(tmp_path / "run")) == 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(small("voxelmorph1", "trainer.max_epochs=1"), tmp_path_factory.mktemp("other") / "run")


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        ("inversenet", [], "belongs to the method voxelmorph1, but this training has inversenet"),
        ("voxelmorph2", [], "belongs to the method voxelmorph1"),
        (
            "voxelmorph1",
            ["objective={name: supervised}"],
            "objective voxelmorph1, but this training has supervised",
        ),
        ("voxelmorph1", ["network.integration_steps=4"], "belongs to a network"),
    ],
)
def test_another_trainings_checkpoint_is_refused(run: Path, config: str, overrides: list, message: str) -> None:
    before = (run / METRICS).read_text()
    with pytest.raises(InputError) as refusal:
        fit(small(config, "trainer.max_epochs=2", *overrides), run, resume=str(run / "last.ckpt"))
    assert message in str(refusal.value)
    assert (run / METRICS).read_text() == before


def test_files_that_are_no_checkpoints_are_refused(run: Path, tmp_path: Path) -> None:
    config = small("voxelmorph1", "trainer.max_epochs=2")
    (tmp_path / "text.ckpt").write_text("nothing")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    for name, message in (
        ("none.ckpt", "There is no checkpoint"),
        ("text.ckpt", "cannot be read"),
        ("other.ckpt", "was not left by 'cyclereg-train fit'"),
    ):
        with pytest.raises(InputError, match=message):
            fit(config, tmp_path / "new", resume=str(tmp_path / name))


def test_a_longer_training_goes_on_with_other_settings(run: Path, tmp_path: Path) -> None:
    config = small("voxelmorph1", "trainer.max_epochs=2", "optimizer.lr=5e-5")
    fit(config, tmp_path / "longer", resume=str(run / "last.ckpt"))
    found = rows(tmp_path / "longer")
    assert [row["step"] for row in found] == ["2", "3", "3"]
    assert float(found[0]["lr"]) == pytest.approx(5e-5)


def test_pairs_of_a_resumed_epoch_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    make = SyntheticData.make

    def noted(self: SyntheticData, epoch: int, indices: list[int], device: object = "cpu") -> dict:
        seen.append((epoch, *indices))
        return make(self, epoch, indices, device)

    monkeypatch.setattr(SyntheticData, "make", noted)
    fit(small("voxelmorph1", "trainer.max_epochs=1"), tmp_path)
    fit(small("voxelmorph1", "trainer.max_epochs=3"), tmp_path, resume="last")
    assert seen == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
