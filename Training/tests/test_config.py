"""Configurations: what they hold is what METHODS.md says, what they cannot hold is refused with what is near."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyclereg_training.config import CONFIGS, config_names, read_config, read_values, seconds_of
from cyclereg_training.data.settings import VolumeSettings
from cyclereg_training.data.synthetic import SyntheticDataSettings
from cyclereg_training.objectives import build_objective
from cyclereg_training.settings import filled
from CycleRegLib.errors import InputError
from CycleRegLib.methods import get_method, list_methods


@pytest.mark.parametrize("method", [m.id for m in list_methods() if m.trained_with])
def test_every_method_that_is_trained_has_its_recipe(method: str) -> None:
    entry = next(m for m in list_methods() if m.id == method)
    assert entry.recipe, f"{method} has no recipe"
    assert read_config(entry.recipe).method == method


@pytest.mark.parametrize("name", config_names())
def test_configurations_are_whole(name: str) -> None:
    config = read_config(name)
    settings = dict(config.objective)
    objective = build_objective(settings.pop("name", None) or config.method, settings)
    kind = SyntheticDataSettings if config.data["source"] == "synthetic" else VolumeSettings
    data = filled(kind, config.data if kind is SyntheticDataSettings else {**config.data, "path": "somewhere"}, "data")
    dimension = config.network.get("dimension", get_method(config.method).dimensions[0])
    if kind is VolumeSettings:
        assert len(data.augmentation.flips_of(dimension)) == dimension
    else:
        assert data.schedule(dimension)
    assert config.trainer.max_epochs == (objective.epochs or config.trainer.max_epochs)
    first = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 20


# name: learning rate, betas, epochs, weights, learning rates by phase, batch size
PAPERS = {
    "cyclemorph-2d-faces": (4e-5, 0.9, 20, {"cycle": 0.5, "identity": 1, "smoothness": 1}, {}, 1),
    "cyclemorph-brain": (2e-4, 0.5, 30, {"cycle": 0.1, "identity": 0.5, "smoothness": 1}, {}, 1),
    "cyclemorph-brain-multiscale": (
        2e-4, 0.5, 100, {"cycle": 0.1, "identity": 0.5, "smoothness": 1}, {"global": (30, 2e-4), "local": (70, 1e-4)},
        1,
    ),
    "cyclemorph-multiscale": (
        1e-4, 0.9, 80, {"cycle": 0.1, "identity": 1, "smoothness": 1}, {"global": (50, None), "local": (30, None)},
        1,
    ),
    "kuang-cycle": (1e-4, 0.9, 10, {"smoothness": 1}, {}, 1),
    "kuang-refine": (1e-4, 0.9, 24, {"smoothness": 1}, {"network": (3, None), "refinement": (3, None)}, 1),
    "inversenet": (1e-4, 0.9, None, {"similarity": 1, "cycle": 1, "smoothness": 0}, {}, 1),
    "vtn": (1e-4, 0.9, 5, {"determinant": 0.1, "orthogonality": 0.1, "total_variation": 1, "invertibility": 0}, {}, 8),
    "vtn-inv": (1e-4, 0.9, 5, {"invertibility": 1e-3}, {}, 8),
}  # fmt: skip


@pytest.mark.parametrize("name", PAPERS)
def test_settings_are_those_of_the_papers(name: str) -> None:
    rate, beta, epochs, weights, phases, batch = PAPERS[name]
    config = read_config(name)
    objective = build_objective(config.method, config.objective)
    assert (config.optimizer.name, config.optimizer.lr, config.optimizer.betas[0]) == ("adam", rate, beta)
    assert config.batch_size == batch
    if epochs:
        assert config.trainer.max_epochs == epochs
    assert {key: objective.weights[key] for key in weights} == weights
    found = {phase.name: (phase.epochs, phase.learning_rate) for phase in objective.phases}
    assert {key: found[key] for key in phases} == phases


def test_vtn_sees_20000_batches_an_epoch_and_halves_after_the_fourth() -> None:
    config = read_config("vtn")
    assert config.data["pairs_per_epoch"] == 20000 * config.batch_size
    assert (config.optimizer.schedule, config.optimizer.halve_after) == ("halve", 4)


def test_any_field_can_be_overridden() -> None:
    config = read_config(
        "cyclemorph-brain",
        ["optimizer.lr=1e-3", "objective.weights.cycle=0", "data.grid.size=[64, 64, 64]", "trainer.devices=2",
         "data.augmentation.noise=0.5", "initial=a=b.safetensors", "trainer.early_stopping.patience=3", "seed=7"],
    )  # fmt: skip
    assert config.optimizer.lr == 1e-3
    assert config.optimizer.betas == (0.5, 0.999)
    assert config.objective["weights"] == {"similarity": 1, "smoothness": 1, "cycle": 0, "identity": 0.5}
    assert config.data["grid"]["size"] == [64, 64, 64]
    assert config.data["augmentation"] == {"flips": 0.5, "rotations": 0.5, "noise": 0.5}
    assert config.initial == "a=b.safetensors"
    assert (config.trainer.devices, config.seed) == (2, 7)
    assert (config.trainer.early_stopping.patience, config.trainer.early_stopping.min_delta) == (3, 0.0)


def test_a_written_configuration_is_read_back_the_same(tmp_path: Path) -> None:
    for name in config_names():
        config = read_config(name, ["optimizer.lr=3e-5", "output=somewhere"])
        (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
        assert read_config(tmp_path / "config.yaml").to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimiser.lr=1"], "'config' has no setting 'optimiser'; did you mean optimizer"),
        (["optimizer.weight_decy=1"], "'optimizer' has no setting 'weight_decy'; did you mean weight_decay?"),
        (["trainer.max_epoch=1"], "'trainer' has no setting 'max_epoch'; did you mean max_epochs"),
        (["trainer.early_stopping.patient=1"], "did you mean patience"),
        (["optimizer.lr=fast"], "'optimizer.lr' is a number, not 'fast'"),
        (["optimizer.lr=-1"], "'optimizer.lr' is above 0"),
        (["optimizer.betas=[0.9]"], "'optimizer.betas' is a list of 2"),
        (["optimizer.schedule=linear"], "'optimizer.schedule' is one of constant, cosine, poly, halve, not 'linear'"),
        (["trainer.max_epochs=1.5"], "'trainer.max_epochs' is a whole number, not 1.5"),
        (["trainer.max_epochs=0"], "'trainer.max_epochs' is 1 or more"),
        (["trainer.deterministic=perhaps"], "is true or false"),
        (["trainer.max_time=soon"], "a time such as 00:08:00:00"),
        (["batch_size=0"], "'batch_size' is 1 or more"),
        (["seed=-1"], "'seed' is 0 or more"),
        (["method=cyclemorf"], "no method 'cyclemorf'. Did you mean cyclemorph"),
        (["method=optimize"], "optimize has nothing to train"),
        (["data=synthetic"], "'data' holds settings by name"),
        (["grid.sise=[1,2,3]"], "A network grid is given by size"),
        (["optimizer.lr"], "write key=value"),
        (["optimizer.lr=[1"], "the value of optimizer.lr is no YAML"),
    ],
)
def test_what_a_configuration_cannot_hold_is_refused_with_what_is_near(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError) as refusal:
        read_config("cyclemorph-brain", overrides)
    assert message in str(refusal.value)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no configuration 'cyclemorph-brian'. Did you mean cyclemorph-brain"):
        read_values("cyclemorph-brian")
    with pytest.raises(InputError, match="no configuration file"):
        read_values(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("method: [", encoding="utf-8")
    with pytest.raises(InputError, match=r"a.yaml is no YAML.*in line"):
        read_values(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("- method", encoding="utf-8")
    with pytest.raises(InputError, match="no settings by name"):
        read_values(tmp_path / "b.yaml")
    (tmp_path / "c.yaml").write_text("seed: 1\n", encoding="utf-8")
    with pytest.raises(InputError, match="'config' needs a value for 'method'"):
        read_config(tmp_path / "c.yaml")


def test_exponents_without_a_point_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 1e-4\nb: 2E5\nc: 1.5e+3\nd: e4\ne: -1e2\n", encoding="utf-8")
    assert read_values(tmp_path / "a.yaml") == {"a": 1e-4, "b": 2e5, "c": 1500.0, "d": "e4", "e": -100.0}


def test_times() -> None:
    assert [seconds_of(text) for text in ("90", "2:00", "01:00:05", "1:00:00:00")] == [90, 120, 3605, 86400]
