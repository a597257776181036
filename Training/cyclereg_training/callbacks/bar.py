"""The progress bar on a terminal: the library's own, over the whole training."""

from __future__ import annotations

from typing import Any

import lightning

from CycleRegLib.progress import Progress

from ..module import TrainingModule


class Bar(lightning.Callback):
    """Shows how much of this run is done; a resumed one begins at 0, so that the time left is right."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._first = 0

    def on_train_start(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        self._first = trainer.current_epoch

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: TrainingModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.max_epochs or trainer.max_epochs < 0:
            return
        done = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches - self._first
        # The last batch is not the end: a validation follows.
        fraction = min(0.999, done / (trainer.max_epochs - self._first))
        self.progress(f"{trainer.current_epoch + 1}/{trainer.max_epochs}", fraction)

    def on_train_end(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        self.progress("done", 1.0)
