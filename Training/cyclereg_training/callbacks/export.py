"""Checkpoints as the library reads them, written at the end of every epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import lightning

from CycleRegLib.checkpoints import write_checkpoint

from ..module import TrainingModule
from ..run_folder import BEST_WEIGHTS, LAST_WEIGHTS, RunFolder

ENDPOINT, LOSS = "val/endpoint", "val/loss"


class Export(lightning.Callback):
    """``last.safetensors``, and ``best.safetensors`` when the monitored value is the smallest so far.

    Where the objective has phases, losses of two of them cannot be compared: the best is then that of the last phase
    that has begun, unless the end-point error tells it.
    """

    def __init__(self, folder: RunFolder, data: Any, monitor: str | None = None) -> None:
        self.folder, self.data, self.monitor = folder, data, monitor
        self.best, self.best_epoch, self.phase = math.inf, -1, ""
        self.improved = False

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch, "phase": self.phase}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_epoch, self.phase = state["best"], state["best_epoch"], state["phase"]

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        values = trainer.callback_metrics
        name = self.monitor or (ENDPOINT if ENDPOINT in values else LOSS)
        if name != ENDPOINT and module.phase.name != self.phase:
            self.best = math.inf
        self.phase = module.phase.name
        value = float(values.get(name, math.inf))
        self.improved = value < self.best
        if self.improved:
            self.best, self.best_epoch = value, trainer.current_epoch
        if trainer.is_global_zero:
            self._write(trainer, module, LAST_WEIGHTS, values)
            if self.improved or not (self.folder / BEST_WEIGHTS).exists():
                self._write(trainer, module, BEST_WEIGHTS, values)

    def _write(self, trainer: lightning.Trainer, module: TrainingModule, name: str, values: Mapping[str, Any]) -> None:
        config = module.config
        states = {
            direction: {key: value.float().cpu() for key, value in network.state_dict().items()}
            for direction, network in module.networks.items()
        }
        write_checkpoint(
            self.folder / name,
            config.method,
            states,
            module.networks["forward"].configuration,
            self.data.normalisation,
            config.grid if config.grid is not None else grid_of(self.data),
            training_summary(trainer, module, self.data, values),
            config.licence,
        )


def grid_of(data: Any) -> dict[str, Any]:
    """The network grid that a checkpoint states: the rule by which the data were brought to the network, if any."""
    rule = getattr(data, "grid", None)
    return {} if rule is None else rule.to_dict()


def training_summary(
    trainer: lightning.Trainer, module: TrainingModule, data: Any, values: Mapping[str, Any]
) -> dict[str, Any]:
    """What a checkpoint says about its training; JSON types."""
    config = module.config
    described = dict(data.description)
    epochs = trainer.current_epoch + 1
    pairs = trainer.global_step * config.batch_size * trainer.world_size * trainer.accumulate_grad_batches
    text = f"{module.objective_name} objective, {epochs} epochs, {pairs} pairs; {described.get('summary', '')}"
    return {
        "summary": text.rstrip("; "),
        "objective": {
            "name": module.objective_name,
            "weights": {name: weight for name, weight in module.objective.weights.items() if weight},
            "similarity": module.objective.similarity.kind,
        },
        "optimizer": config.to_dict()["optimizer"],
        "epochs": epochs,
        "steps": trainer.global_step,
        "pairs": pairs,
        "seed": config.seed,
        "initial_weights": config.initialisation if config.initial is None else "another checkpoint",
        "precision": config.trainer.precision,
        "data": described,
        "validation": {name: round(float(v), 6) for name, v in values.items() if name.startswith("val/")},
    }
