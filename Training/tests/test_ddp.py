"""Two processes on the CPU (gloo) learn what one process learns from the same global batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fit_cases import fit, losses, rows, small

from cyclereg_training.data.sampling import EpochSampler

WORDS = (
    # Phases, in each of which half of the parameters rest.
    "kuang-refine", "objective.phases={network: {epochs: 1}, refinement: {epochs: 1}}", "trainer.max_epochs=3",
    "data.pairs_per_epoch=6", "data.validation_pairs=2", "optimizer.lr=1e-3", "objective.weights.dice=0.1",
)  # fmt: skip


def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    fit(small(*WORDS, "batch_size=2"), tmp_path / "one")
    (tmp_path / "two.yaml").write_text(small(*WORDS, "trainer.devices=2").to_yaml(), encoding="utf-8")
    command = [sys.executable, "-m", "cyclereg_training", str(tmp_path / "two.yaml"), "--output", str(tmp_path / "two")]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True, timeout=300)
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert [(row["epoch"], row["step"], sorted(row)) for row in one] == [
        (row["epoch"], row["step"], sorted(row)) for row in two
    ]
    for name in ("train/loss", "train/similarity", "train/smoothness", "train/dice", "train/gradient", "val/endpoint"):
        assert losses(tmp_path / "two", name) == pytest.approx(losses(tmp_path / "one", name), rel=1e-3, abs=1e-6), name
    assert losses(tmp_path / "two")[:3] == pytest.approx(losses(tmp_path / "one")[:3], rel=2e-5)
    assert '"processes": 2' in (tmp_path / "two" / "environment.json").read_text()
    assert len((tmp_path / "two" / "log.txt").read_text().splitlines()) == 5  # one process writes


@pytest.mark.parametrize(("length", "batch", "world"), [(12, 2, 2), (11, 2, 3), (7, 4, 2), (5, 1, 4), (3, 1, 1)])
@pytest.mark.parametrize("shuffle", [False, True])
def test_processes_share_global_batches(length: int, batch: int, world: int, shuffle: bool) -> None:
    whole = EpochSampler(length, batch * world, seed=3, shuffle=shuffle)
    shares = [EpochSampler(length, batch, 3, shuffle, rank, world) for rank in range(world)]
    for sampler in (whole, *shares):
        sampler.set_epoch(4)
    keys = [list(share) for share in shares]
    assert {len(own) for own in keys} == {len(share) for share in shares} == {-(-length // world)}
    order = list(whole)
    for start in range(0, length - length % (batch * world), batch * world):
        first = start // world
        together = sorted(key for own in keys for key in own[first : first + batch])
        assert together == sorted(order[start : start + batch * world])
    assert {index for own in keys for _, index in own} == set(range(length))
    assert all(epoch == 4 for own in keys for epoch, _ in own)
    if not shuffle:
        assert order == [(4, index) for index in range(length)]


def test_the_order_changes_with_the_epoch_and_the_seed_alone() -> None:
    first, again, other = EpochSampler(20, seed=1), EpochSampler(20, seed=1), EpochSampler(20, seed=2)
    again.set_epoch(1)
    list(again)
    again.set_epoch(0)
    assert list(first) == list(again)
    assert [i for _, i in first] != [i for _, i in other]
    again.set_epoch(1)
    assert [i for _, i in first] != [i for _, i in again]
