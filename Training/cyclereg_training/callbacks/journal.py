"""A line for every epoch."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from typing import Any

import lightning

from ..module import TrainingModule
from .export import Export


class Journal(lightning.Callback):
    """Means of the epoch's terms, measures of its validation, and how long it took, as one line of the log."""

    def __init__(self, log: logging.Logger, export: Export) -> None:
        self.lines, self.export = log, export
        self._sums: dict[str, float] = defaultdict(float)
        self._count, self._began, self._validation, self._validated = 0, 0.0, 0.0, 0.0

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        self._sums.clear()
        self._count, self._validated, self._began = 0, 0.0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: TrainingModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._count += 1
        for name, value in trainer.callback_metrics.items():
            if name.startswith("train/"):
                self._sums[name] += float(value)

    def on_validation_start(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        self._validation = time.perf_counter()

    def on_validation_end(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        self._validated = time.perf_counter() - self._validation

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        means = {name.removeprefix("train/"): total / max(1, self._count) for name, total in self._sums.items()}
        loss = means.pop("loss", float("nan"))
        terms = ", ".join(f"{name} {value:.4g}" for name, value in means.items())
        words = [f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", f"step {trainer.global_step}"]
        if len(module.objective.phases) > 1:
            words.append(f"phase {module.phase.name}")
        words.append(f"loss {loss:.5g} ({terms})")
        found = trainer.callback_metrics
        measured = [f"{n.removeprefix('val/')} {float(v):.4g}" for n, v in found.items() if n.startswith("val/")]
        if measured:
            words.append(f"validation: {', '.join(measured)}{' (best)' if self.export.improved else ''}")
        words.append(f"lr {module.learning_rate(trainer.global_step - 1, trainer.current_epoch):.3g}")
        seconds = time.perf_counter() - self._began
        words.append(f"{seconds:.1f} s, {self._validated:.1f} s of it validation")
        self.lines.info("  ".join(words))
