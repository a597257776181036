"""When a training ends before its last epoch."""

from __future__ import annotations

import logging
import time

import lightning

from ..module import TrainingModule


class TimeLimit(lightning.Callback):
    """Ends a run after the last epoch that fits in its time, so that the next run goes on at the beginning of one.

    Parameters
    ----------
    seconds
        From now on.
    log
        Where it says so.
    """

    def __init__(self, seconds: float, log: logging.Logger) -> None:
        self.seconds, self.lines = seconds, log
        self._began = self._epoch = time.monotonic()

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        self._epoch = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        now = time.monotonic()
        over = now - self._began + (now - self._epoch) > self.seconds
        if trainer.strategy.reduce_boolean_decision(over, all=False):
            trainer.should_stop = True
            self.lines.info("The time is used up; --ckpt_path last goes on here.")
