"""The configuration of a training: YAML files whose every field the command line can override."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml

from CycleRegLib.errors import InputError
from CycleRegLib.methods import get_method
from CycleRegLib.networks.preparation import GridRule

from .settings import ROOT, filled

CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimiser and its learning rate.

    Attributes
    ----------
    name, lr, betas, eps, weight_decay
        Of Adam or AdamW; a phase of the objective may have a learning rate of its own.
    schedule
        ``constant``; ``cosine`` or ``poly`` (power ``power``) down to ``final`` times the learning rate over all steps;
        ``halve``: halved after every epoch from number ``halve_after`` on, as VTN does.
    warmup_steps
        Steps over which the learning rate rises linearly from 0 first.
    total_steps
        How many steps the schedule lasts; those of ``max_epochs`` when left out.
    """

    name: Literal["adam", "adamw"] = "adam"
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "poly", "halve"] = "constant"
    warmup_steps: int = 0
    total_steps: int | None = None
    power: float = 0.9
    final: float = 0.0
    halve_after: int = 4

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise InputError(f"'optimizer.lr' is above 0, not {self.lr}.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"'optimizer.betas' are from 0 to below 1, not {self.betas}.")
        if self.warmup_steps < 0 or (self.total_steps is not None and self.total_steps < 1) or self.halve_after < 0:
            raise InputError("Steps and epochs of 'optimizer' are not negative.")


@dataclass(frozen=True)
class EarlyStoppingSettings:
    """Stop when the monitored value has not fallen by ``min_delta`` for ``patience`` validations."""

    patience: int = 10
    min_delta: float = 0.0


@dataclass(frozen=True)
class TrainerSettings:
    """Of the loop, which is Lightning's; names are those of ``lightning.Trainer`` where it has them.

    Attributes
    ----------
    max_epochs
        When left out, as many as the objective's phases last.
    max_time
        ``DD:HH:MM:SS``, of this run; no epoch begins that would not end within it.
    monitor
        What tells the best checkpoint, a name from ``metrics.csv`` that is better the smaller it is; when left out the
        end-point error where the validation pairs' fields are known, else the loss.
    channels_last
        Memory format of weights and features, for speed.
    """

    max_epochs: int | None = None
    max_steps: int = -1
    max_time: str | None = None
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    accelerator: str = "auto"
    devices: int | str | list[int] = 1
    num_nodes: int = 1
    strategy: str = "auto"
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    log_every_n_steps: int = 1
    check_val_every_n_epoch: int = 1
    early_stopping: EarlyStoppingSettings | None = None
    monitor: str | None = None
    deterministic: bool = False
    channels_last: bool = True

    def __post_init__(self) -> None:
        for name in ("max_epochs", "accumulate_grad_batches", "log_every_n_steps", "check_val_every_n_epoch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"'trainer.{name}' is 1 or more, not {value}.")
        if self.max_time is not None:
            seconds_of(self.max_time)


@dataclass(frozen=True)
class Config:
    """A training.

    Attributes
    ----------
    method, network
        Id of :mod:`CycleRegLib.methods`, and arguments of its network.
    initial
        A checkpoint whose weights the training starts from.
    initialisation
        ``published``: as the networks are built (most of the papers' start from N(0, 1e-5)); ``he``: He's for every
        convolution, flows starting near 0.
    objective
        ``name`` (the method's when left out) and settings, see :func:`cyclereg_training.objectives.build_objective`.
    data
        ``source`` and its settings, see :mod:`cyclereg_training.data`.
    batch_size
        Pairs in a batch of one process.
    grid, licence
        What the checkpoint states: the network grid, as :class:`CycleRegLib.networks.preparation.GridRule` has it (that
        of the data when left out), and the licence of the weights.
    """

    method: str
    network: dict[str, Any] = field(default_factory=dict)
    initial: str | None = None
    initialisation: Literal["published", "he"] = "published"
    objective: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=lambda: {"source": "synthetic"})
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    batch_size: int = 1
    seed: int = 0
    output: str | None = None
    grid: dict[str, Any] | None = None
    licence: str = ""

    def __post_init__(self) -> None:
        if not get_method(self.method).trained_with:
            raise InputError(f"The method {self.method} has nothing to train.")
        if self.batch_size < 1:
            raise InputError(f"'batch_size' is 1 or more, not {self.batch_size}.")
        if self.seed < 0:
            raise InputError(f"'seed' is 0 or more, not {self.seed}.")
        GridRule.from_dict(self.grid)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and mappings, every default written out; :func:`read_config` gives the same configuration."""
        return _plain(asdict(self))

    def to_yaml(self) -> str:
        """For ``config.yaml`` of a run's folder."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None, width=120)


def read_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """A configuration from a file, or of the package by its name, with ``key.of.parts=value`` in place of its values.

    Raises
    ------
    InputError
        If there is no such file or name, it is not YAML, or a key or value cannot be; unknown keys are refused with
        those that are near.
    """
    values = read_values(source)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise InputError(f"'{override}' overrides nothing; write key=value, such as optimizer.lr=1e-4.")
        _set(values, key.strip(), _parsed(text, f"the value of {key}"))
    return filled(Config, values, ROOT)


def read_values(source: str | Path) -> dict[str, Any]:
    """What a configuration's file holds, unchecked; see :func:`read_config`."""
    path = Path(source).expanduser()
    if not path.is_file():
        if path.suffix or len(path.parts) > 1 or path.is_dir():
            raise InputError(f"There is no configuration file {path}. Check the path.")
        path = CONFIGS / f"{source}.yaml"
        if not path.is_file():
            near = get_close_matches(str(source), config_names(), 3, 0.5)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise InputError(f"There is no configuration '{source}'.{hint} See 'cyclereg-train configs'.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The configuration {path} cannot be read: {error}.") from error
    values = _parsed(text, str(path))
    if not isinstance(values, dict):
        raise InputError(f"The configuration {path} holds no settings by name.")
    return values


def config_names() -> list[str]:
    """The configurations of the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def seconds_of(text: str) -> float:
    """Seconds of ``DD:HH:MM:SS``, whose first parts may be left out.

    Raises
    ------
    InputError
        If it is no such time, or 0.
    """
    parts = str(text).split(":")
    if not (1 <= len(parts) <= 4 and all(part.isdecimal() for part in parts) and any(int(part) for part in parts)):
        raise InputError(f"'trainer.max_time' is a time such as 00:08:00:00 (days to seconds), not {text!r}.")
    return float(sum(int(p) * unit for p, unit in zip(reversed(parts), (1, 60, 3600, 86400))))


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a number; YAML 1.1 wants 1.0e-4."""


_Loader.yaml_implicit_resolvers = {key: list(found) for key, found in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+\Z"), list("-+0123456789")
)


def _parsed(text: str, what: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        raise InputError(f"{what} is no YAML: {getattr(error, 'problem', error)}{place}.") from error


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *parts, last = key.split(".")
    for part in parts:
        if not isinstance(values.get(part), dict):
            values[part] = {}
        values = values[part]
    values[last] = value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
