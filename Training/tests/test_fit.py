"""Trainings: every configuration learns, and what a run leaves behind is what was promised."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from fit_cases import fit, losses, rows, small

import cyclereg_training.dry_run as dry_run_module
from cyclereg_training.callbacks.bar import Bar
from cyclereg_training.callbacks.limits import TimeLimit
from cyclereg_training.callbacks.pictures import picture
from cyclereg_training.config import OptimizerSettings, config_names
from cyclereg_training.data.synthetic import SyntheticData
from cyclereg_training.dry_run import measure_step, resized
from cyclereg_training.fit import try_out
from cyclereg_training.module import Diverged, TrainingModule
from cyclereg_training.networks import read_run_checkpoint
from cyclereg_training.schedule import learning_rate_factor
from cyclereg_training.small_features import guard_small_features
from cyclereg_training.validation import field_measures
from CycleRegLib import register
from CycleRegLib.checkpoints import read_checkpoint
from CycleRegLib.errors import InputError, OutOfMemoryError


@pytest.mark.parametrize("name", config_names())
def test_every_configuration_learns(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pair again and again, with the papers' weights: the loss of every phase falls."""
    make = SyntheticData.make
    monkeypatch.setattr(SyntheticData, "make", lambda self, epoch, indices, device: make(self, 0, [0], device))
    settings = [
        "data.pairs_per_epoch=8",
        "optimizer.lr=1e-3",
        "optimizer.schedule=constant",
        "optimizer.warmup_steps=0",
    ]
    phases = [phase.name for phase in TrainingModule(small(name)).objective.phases]
    if len(phases) > 1:
        settings += [f"objective.phases.{phase}={{epochs: 1, learning_rate: 1e-3}}" for phase in phases]
    config = small(name, *settings, f"trainer.max_epochs={len(phases)}")
    fit(config, tmp_path)
    found = losses(tmp_path)
    assert len(found) == 8 * len(phases)
    for first in range(0, len(found), 8):
        part = found[first : first + 8]
        assert min(part[4:]) < part[0] - 1e-4, part
    checkpoint = read_checkpoint(tmp_path / "last.safetensors")
    assert checkpoint.method == config.method
    assert checkpoint.training["epochs"] == len(phases)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "first"
    return fit(
        small(
            "voxelmorph1", "trainer.max_epochs=3", "objective.weights.smoothness=0.1", "licence=CC0-1.0",
            "optimizer.lr=2e-3", "grid={size: [16, 16, 16]}",
        ),
        folder,
    )  # fmt: skip


def test_a_runs_folder_holds_all_that_was_promised(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert {
        "config.yaml", "environment.json", "log.txt", "metrics.csv", "last.ckpt", "best.safetensors",
        "last.safetensors", "pictures", "tensorboard",
    } <= names  # fmt: skip
    assert [p.name for p in sorted((run / "pictures").iterdir())] == [f"epoch-{n:03d}.png" for n in (1, 2, 3)]
    assert any(path.name.startswith("events") for path in (run / "tensorboard").iterdir())
    found = json.loads((run / "environment.json").read_text())
    assert found["packages"]["torch"] == torch.__version__
    assert str(Path.home()) not in (run / "environment.json").read_text()
    lines = (run / "log.txt").read_text().splitlines()
    assert sum("epoch " in line and "loss " in line and "endpoint_before" in line for line in lines) == 3
    assert "\x1b" not in (run / "log.txt").read_text()
    assert [row["step"] for row in rows(run) if "train/loss" in row] == [str(n) for n in range(6)]
    assert sum("val/endpoint" in row for row in rows(run)) == 3


def test_checkpoints_state_what_must_be_known_and_register_as_they_are(run: Path) -> None:
    best = read_checkpoint(run / "best.safetensors")
    assert (best.method, best.normalisation, best.licence) == ("voxelmorph1", "percentile:0.5,99.5", "CC0-1.0")
    assert best.grid.size == (16, 16, 16)
    training = best.training
    assert training["objective"]["weights"] == {"similarity": 1.0, "smoothness": 0.1}
    assert training["data"]["source"] == "synthetic"
    assert training["steps"] == 2 * training["epochs"] == training["pairs"]
    measured = [row["val/endpoint"] for row in rows(run) if "val/endpoint" in row]
    assert training["validation"]["val/endpoint"] == pytest.approx(min(map(float, measured)), abs=1e-5)
    last = read_checkpoint(run / "last.safetensors")
    kept = read_run_checkpoint(run / "last.ckpt")
    for name, value in last.networks["forward"].items():
        assert torch.equal(value, kept["state_dict"][f"forward_network.{name}"]), name
    generator = np.random.default_rng(0)
    images = [sitk.GetImageFromArray(generator.random((16, 16, 16), np.float32)) for _ in range(2)]
    result = register(*images, method="voxelmorph1", checkpoint=run / "best.safetensors", affine="none")
    assert np.isfinite(result.field.vectors).all()


def test_a_folder_that_holds_a_run_is_left_alone(run: Path) -> None:
    before = (run / "metrics.csv").read_text()
    with pytest.raises(InputError, match=r"holds a run already. Resume it with --ckpt_path last"):
        fit(small("voxelmorph1", "trainer.max_epochs=1"), run)
    assert (run / "metrics.csv").read_text() == before


def test_the_best_by_loss_is_that_of_the_last_phase(tmp_path: Path) -> None:
    """The refinement's loss has four times the smoothness; however small that of the phase before, it begins anew."""
    phases = "objective.phases={network: {epochs: 1}, refinement: {epochs: 1}}"
    fit(small("kuang-refine", phases, "trainer.max_epochs=2", "trainer.monitor=val/loss"), tmp_path)
    kept = read_run_checkpoint(tmp_path / "last.ckpt")["callbacks"]["Export"]
    assert kept["phase"] == "refinement"
    assert kept["best_epoch"] == 1
    assert kept["best"] == losses(tmp_path, "val/loss")[1]
    assert read_checkpoint(tmp_path / "best.safetensors").training["epochs"] == 2


# ---------------------------------------------------------------------- where a training starts


@pytest.mark.parametrize("file", ["last.safetensors", "last.ckpt"])
def test_a_training_starts_from_given_weights(run: Path, file: str) -> None:
    module = TrainingModule(small("voxelmorph1", f"initial={run / file}"))
    kept = read_checkpoint(run / "last.safetensors").networks["forward"]
    for name, value in module.networks["forward"].state_dict().items():
        assert torch.equal(value, kept[name]), name


@pytest.mark.parametrize("file", ["last.safetensors", "last.ckpt"])
def test_initial_weights_of_another_method_are_refused(run: Path, file: str) -> None:
    with pytest.raises(InputError, match=r"belong.* to the method voxelmorph1, not to inversenet"):
        TrainingModule(small("inversenet", f"initial={run / file}"))


def test_initial_weights_of_another_configuration_are_refused(run: Path) -> None:
    with pytest.raises(InputError, match="do not fit the network of this configuration"):
        TrainingModule(small("voxelmorph1", f"initial={run / 'last.ckpt'}", "network.in_channels=4"))


def test_one_networks_weights_start_both(tmp_path: Path) -> None:
    from CycleRegLib.checkpoint_making import create

    create(tmp_path / "one.safetensors", "cyclemorph", seed=3)
    module = TrainingModule(small("cyclemorph-brain", f"initial={tmp_path / 'one.safetensors'}"))
    states = [network.state_dict() for network in module.networks.values()]
    assert len(states) == 2
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_seeds_fix_everything(tmp_path: Path) -> None:
    settings = ("trainer.max_epochs=1", "objective.patch_size=8", "objective.phases.global.epochs=1", "seed=5")
    for name in ("a", "b"):
        fit(small("ms-dirnet", *settings), tmp_path / name)
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    fit(small("ms-dirnet", *settings[:-1], "seed=6"), tmp_path / "c")
    assert losses(tmp_path / "c") != losses(tmp_path / "a")


# ---------------------------------------------------------------------- the optimiser


def test_learning_rates_of_the_schedules() -> None:
    cosine = OptimizerSettings(schedule="cosine", warmup_steps=10, final=0.1)
    assert [learning_rate_factor(cosine, step, 0, 110) for step in (0, 9, 10, 60, 110, 200)] == pytest.approx(
        [1 / 11, 10 / 11, 1, 0.55, 0.1, 0.1]
    )
    poly = OptimizerSettings(schedule="poly", power=0.9, total_steps=100)
    assert learning_rate_factor(poly, 75, 0, 7) == pytest.approx(0.25**0.9)
    halve = OptimizerSettings(schedule="halve", halve_after=4)
    assert [learning_rate_factor(halve, 0, epoch, None) for epoch in range(7)] == [1, 1, 1, 1, 0.5, 0.25, 0.125]
    assert learning_rate_factor(OptimizerSettings(), 10**6, 99, None) == 1


def test_learning_rates_of_phases_and_steps_are_used(tmp_path: Path) -> None:
    config = small(
        "kuang-refine", "objective.phases={network: {epochs: 1}, refinement: {epochs: 1, learning_rate: 5e-4}}",
        "trainer.max_epochs=4", "optimizer.lr=1e-3", "optimizer.schedule=cosine",
    )  # fmt: skip
    fit(config, tmp_path)
    rates = [base * (1 + math.cos(math.pi * step / 8)) / 2 for step, base in enumerate([1e-3, 1e-3, 5e-4, 5e-4] * 2)]
    assert losses(tmp_path, "lr") == pytest.approx(rates, rel=1e-5)


def test_accumulated_gradients_are_those_of_a_larger_batch(tmp_path: Path) -> None:
    base = ("trainer.max_epochs=1", "data.pairs_per_epoch=4")
    fit(small("voxelmorph1", *base, "batch_size=2"), tmp_path / "large")
    fit(small("voxelmorph1", *base, "trainer.accumulate_grad_batches=2"), tmp_path / "twice")
    large, twice = (losses(tmp_path / name, "train/gradient") for name in ("large", "twice"))
    assert len(large) == 2
    assert twice == pytest.approx(large, rel=1e-4)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    fit(
        small("voxelmorph1", "trainer.max_epochs=1", "data.pairs_per_epoch=1", "trainer.gradient_clip_val=0.01"),
        tmp_path,
    )
    assert losses(tmp_path, "train/gradient")[0] > 0.02
    moments = read_run_checkpoint(tmp_path / "last.ckpt")["optimizer_states"][0]["state"]
    norm = math.sqrt(sum(float(state["exp_avg"].square().sum()) for state in moments.values()))
    assert norm == pytest.approx(0.1 * 0.01, rel=1e-3)  # (1 - beta) times the clipped gradient


def test_mixed_precision_gives_nearly_the_same_losses(tmp_path: Path) -> None:
    for name, precision in (("full", "32-true"), ("mixed", "bf16-mixed")):
        fit(small("voxelmorph1", "trainer.max_epochs=1", f"trainer.precision={precision}"), tmp_path / name)
    full, mixed = losses(tmp_path / "full"), losses(tmp_path / "mixed")
    assert mixed != full
    assert mixed == pytest.approx(full, abs=0.02)


@pytest.mark.parametrize(
    ("stride", "shape"), [(1, (2, 2, 2)), (1, (2, 8, 8)), (2, (8, 8, 1)), (2, (1, 1, 1)), (1, (6, 6, 6))]
)
def test_gradients_of_small_features_are_right_in_bfloat16(stride: int, shape: tuple[int, ...]) -> None:
    layer = torch.nn.Conv3d(16, 16, 3, stride, 1)
    guarded = torch.nn.Sequential(layer)
    guard_small_features(guarded)
    features = torch.randn(1, 16, *shape)
    exact = layer(features)
    direction = torch.randn_like(exact)
    (wanted,) = torch.autograd.grad(exact, layer.weight, direction)
    for _ in range(5):
        with torch.autocast("cpu", torch.bfloat16):
            found = guarded(features)
            assert torch.is_autocast_enabled("cpu")
        assert found.dtype == (torch.bfloat16 if min(shape) > 2 else torch.float32)
        (gradient,) = torch.autograd.grad(found, layer.weight, direction.to(found.dtype))
        assert (gradient - wanted).norm() < 0.02 * wanted.norm()


# ---------------------------------------------------------------------- ends before the end


def test_a_loss_that_is_no_number_stops_and_names_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = SyntheticData.make

    def broken(self: SyntheticData, epoch: int, indices: list[int], device: object = "cpu") -> dict:
        batch = make(self, epoch, indices, device)
        if (epoch, indices) == (1, [1]):
            batch["moving"][0, 0, 3] = math.nan
        return batch

    monkeypatch.setattr(SyntheticData, "make", broken)
    with pytest.raises(Diverged) as stop:
        fit(small("voxelmorph1", "trainer.max_epochs=3"), tmp_path)
    assert "smoothness nan" in str(stop.value)
    assert "in epoch 2, batch 2 (pairs 3)" in str(stop.value)
    assert stop.value.exit_status == 1
    kept = read_run_checkpoint(tmp_path / "last.ckpt")
    assert kept["global_step"] == 2
    assert read_checkpoint(tmp_path / "last.safetensors").training["epochs"] == 1  # which refuses what is not finite


def test_a_gradient_that_is_no_number_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = TrainingModule.training_step

    def step(self: TrainingModule, batch: dict, batch_idx: int) -> torch.Tensor:
        loss = before(self, batch, batch_idx)
        # Finite, but not its derivative.
        return loss + 0 * torch.sqrt(0 * loss) if self.global_step == 3 else loss

    monkeypatch.setattr(TrainingModule, "training_step", step)
    with pytest.raises(Diverged, match="gradient is not finite in epoch 2, step 4"):
        fit(small("voxelmorph1", "trainer.max_epochs=3"), tmp_path)


def test_early_stopping(tmp_path: Path) -> None:
    # With such a learning rate nothing gets better.
    config = small("voxelmorph1", "optimizer.lr=1e-12", "trainer.max_epochs=9", "trainer.early_stopping.patience=2")
    fit(config, tmp_path)
    assert 2 < len([row for row in rows(tmp_path) if "val/endpoint" in row]) < 9


def test_no_epoch_begins_that_would_not_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Strategy:
        def reduce_boolean_decision(self, decision: bool, all: bool) -> bool:
            return decision

    class Trainer:
        strategy, should_stop = Strategy(), False

    clock = iter([0.0, 0.0, 40.0, 40.0, 80.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    limit, trainer = TimeLimit(100, logging.getLogger("none")), Trainer()
    for stops in (False, True):  # after 40 s an epoch of 40 s fits into 100, after 80 s none does
        limit.on_train_epoch_start(trainer, None)
        limit.on_train_epoch_end(trainer, None)
        assert trainer.should_stop == stops


def test_the_bar_shows_the_part_of_this_run(tmp_path: Path) -> None:
    shown: list[tuple[str, float]] = []

    class Trainer:
        current_epoch, max_epochs, num_training_batches = 6, 10, 4

    bar, trainer = Bar(lambda stage, fraction: shown.append((stage, fraction))), Trainer()
    bar.on_train_start(trainer, None)
    for epoch, batch in ((6, 0), (6, 3), (9, 3)):
        trainer.current_epoch = epoch
        bar.on_train_batch_end(trainer, None, None, None, batch)
    bar.on_train_end(trainer, None)
    assert shown == [("7/10", 1 / 16), ("7/10", 1 / 4), ("10/10", 0.999), ("done", 1.0)]


# ---------------------------------------------------------------------- memory, dry run


def small_memory(monkeypatch: pytest.MonkeyPatch, most: int) -> list[tuple[int, ...]]:
    """Steps at shapes of more voxels than ``most`` find no memory; what shapes were tried."""
    tried = []
    call = TrainingModule.training_step

    def objective_of(module: TrainingModule, batch: dict) -> None:
        shape = tuple(batch["fixed"].shape[2:])
        tried.append(shape)
        if math.prod(shape) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    def step(self: TrainingModule, batch: dict, batch_idx: int) -> torch.Tensor:
        objective_of(self, batch)
        return call(self, batch, batch_idx)

    measure = dry_run_module.measure_step

    def measured(module: TrainingModule, pair: dict, shape: tuple, device: torch.device) -> object:
        objective_of(module, {"fixed": torch.empty(1, 1, *shape)})
        return measure(module, pair, shape, device)

    monkeypatch.setattr(TrainingModule, "training_step", step)
    monkeypatch.setattr(dry_run_module, "measure_step", measured)
    return tried


def test_too_little_memory_says_what_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = small_memory(monkeypatch, 40 * 40 * 40)
    config = small("voxelmorph1", "data.shape=[48, 48, 64]", "trainer.max_epochs=1", "batch_size=2")
    with pytest.raises(OutOfMemoryError) as refusal:
        fit(config, tmp_path)
    text = str(refusal.value)
    assert "step at 48 x 48 x 64 voxels, batch size 2, needs more memory than cpu has" in text
    assert "32 x 32 x 48 fits (measured:" in text
    assert "batch_size=1" in text
    assert "bf16-mixed" in text
    assert tried[-1] == (32, 32, 48)


def test_a_dry_run_says_what_fits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    small_memory(monkeypatch, 16**3)
    with pytest.raises(OutOfMemoryError, match="16 x 16 x 16 fits"):
        try_out(small("voxelmorph1", "data.shape={0: [16, 16, 16], 3: [32, 32, 32]}", "trainer.max_epochs=4"))


def test_a_dry_run_reports_data_time_and_memory_and_changes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try_out(small("kuang-refine", "data.shape={0: [16, 16, 16], 1: [16, 16, 32]}", "data.pairs_per_epoch=6"))
    lines = capsys.readouterr().out.splitlines()
    assert "6 batches of 1 in an epoch, with fixed, moving" in lines[0]
    assert "16 x 16 x 32 voxels at most" in lines[0]
    assert "phases: network, refinement" in lines[1]
    assert "a step at 16 x 16 x 32:" in lines[2]
    assert "peak memory" in lines[2]
    assert "24 epochs" in lines[3]
    assert not any(tmp_path.iterdir())


def test_measuring_a_step_leaves_the_weights(tmp_path: Path) -> None:
    module = TrainingModule(small("kuang-refine"))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    pair = {"moving": torch.rand(1, 1, 16, 16, 16), "fixed": torch.rand(1, 1, 16, 16, 16)}
    found = measure_step(module, pair, (16, 16, 32), torch.device("cpu"))
    assert found.seconds > 0
    assert found.megabytes > 0
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())


def test_batches_of_another_shape_keep_their_kinds() -> None:
    pair = {
        "moving": torch.rand(1, 1, 8, 8, 8), "flow": torch.rand(1, 3, 8, 8, 8), "index": torch.tensor([3]),
        "moving_labels": torch.ones(1, 1, 8, 8, 8, dtype=torch.uint8), "name": ["a"],
    }  # fmt: skip
    found = resized(pair, (4, 8, 12), 2)
    assert {name: (tuple(v.shape), v.dtype) for name, v in found.items()} == {
        "moving": ((2, 1, 4, 8, 12), torch.float32),
        "flow": ((2, 3, 4, 8, 12), torch.float32),
        "moving_labels": ((2, 1, 4, 8, 12), torch.uint8),
    }


# ---------------------------------------------------------------------- validation, pictures, data


def test_measures_of_a_known_flow() -> None:
    truth = torch.zeros(1, 3, 8, 8, 8)
    truth[:, 0] = 2.0
    found = field_measures(truth.clone(), {"flow": truth})
    assert (float(found["endpoint"]), float(found["endpoint_before"]), float(found["folding"])) == (0, 2, 0)
    wrong = truth.clone()
    wrong[:, 1] += 3
    wrong[:, 0, 6:] = 100  # where the true point lies outside, nothing counts
    assert float(field_measures(wrong, {"flow": truth})["endpoint"]) == pytest.approx(3)
    folded = -2 * torch.arange(8.0).view(1, 1, 8, 1, 1) * torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1, 1)
    assert float(field_measures(folded.expand(1, 3, 8, 8, 8), {"flow": truth})["folding"]) == 100


def test_dice_of_labels_where_the_flow_is_not_known() -> None:
    labels = torch.zeros(1, 1, 8, 8, 8, dtype=torch.uint8)
    labels[:, :, 2:6] = 3
    batch = {"moving_labels": labels, "fixed_labels": labels.roll(-2, 2)}
    flow = torch.zeros(1, 3, 8, 8, 8)
    assert float(field_measures(flow, batch)["dice"]) == pytest.approx(0.5)
    flow[:, 0] = 2
    assert float(field_measures(flow, batch)["dice"]) == pytest.approx(1)


def test_pictures_show_every_column_and_the_bent_grid() -> None:
    pair = {"moving": torch.zeros(1, 1, 16, 20, 24), "fixed": torch.ones(1, 1, 16, 20, 24)}
    straight, bent = torch.zeros(1, 3, 16, 20, 24), torch.zeros(1, 3, 16, 20, 24)
    bent[:, 2] = 3 * torch.sin(torch.arange(20.0) / 3).view(1, 1, 20, 1)
    drawn = picture(pair, straight)
    assert drawn.dtype == np.uint8
    assert drawn.shape[2] == 3
    tile = drawn[:100, :160]
    assert (tile == 0).all()  # moving
    assert (drawn[:100, 168 + 10 : 168 + 160] == 255).all()  # fixed
    assert not np.array_equal(drawn, picture(pair, bent))
    flat = picture({"moving": torch.zeros(1, 1, 16, 20), "fixed": torch.ones(1, 1, 16, 20)}, torch.zeros(1, 2, 16, 20))
    assert flat.shape[0] < drawn.shape[0]


def test_synthetic_pairs_depend_on_seed_epoch_and_number_alone() -> None:
    config = small("voxelmorph1", "data.shape={0: [16, 16, 16], 2: [16, 16, 24]}")
    first, second = SyntheticData(config), SyntheticData(config)
    wanted = first.make(3, [1])
    second.make(0, [0])
    again = second.make(3, [0, 1])
    assert wanted["fixed"].shape == (1, 1, 16, 16, 24)
    assert torch.equal(again["fixed"][1:], wanted["fixed"])
    assert int(wanted["index"]) == 7
    assert not torch.equal(first.make(0, [1])["fixed"], first.make(1, [1])["fixed"])
    assert first.shape == first.validation_shape == (16, 16, 24)
    assert torch.equal(first.validation_pair["fixed"], second.validation_pair["fixed"])


def test_flat_pairs_know_their_fields() -> None:
    from cyclereg_training.data.synthetic_2d import FlatPairs
    from CycleRegLib.warp import compose_flows, warp

    pair = FlatPairs((48, 40), seed=1).pair(0)
    assert pair.flow.shape == (1, 2, 48, 40)
    assert pair.flow.norm(dim=1).max() > 0.5
    torch.testing.assert_close(warp(pair.moving, pair.flow, padding="border"), pair.fixed)
    core = (..., slice(12, -12), slice(12, -12))
    assert compose_flows(pair.inverse_flow, pair.flow)[core].norm(dim=1).max() < 0.1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.shape=[16, 16]", "'data.shape' is 3 whole numbers of voxels"),
        ("data.shape={1: [16, 16, 16]}", "must say the shape of epoch 0"),
        ("data.shape={first: [16, 16, 16]}", "shapes by epoch"),
        ("data.pairs=3", "'data' has no setting 'pairs'; did you mean pairs_per_epoch"),
        ("data.pairs_per_epoch=0", "at least 1 pair"),
        ("data.settings.motion.largst=[0, 1]", "'data.settings.motion' has no setting 'largst'; did you mean largest"),
        ("data.source=syntetic", "Did you mean 'synthetic'"),
        ("objective.weights.smothness=1", "Did you mean 'smoothness'"),
        ("network.integration_step=7", "has no argument 'integration_step'"),
        ("network.integration_steps=many", "cannot be built so"),
        ("trainer.max_epochs=null", "how long to train"),
        ("trainer.accelerator=abacus", "The training cannot run so: "),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_begins(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        fit(small("voxelmorph1", override), tmp_path)
    assert message in str(refusal.value)
