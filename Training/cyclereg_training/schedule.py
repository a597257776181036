"""Learning rates as pure functions of the step and the epoch, so that nothing of them has to be kept or resumed."""

from __future__ import annotations

import math

from .config import OptimizerSettings


def learning_rate_factor(settings: OptimizerSettings, step: int, epoch: int, total_steps: int | None) -> float:
    """What the learning rate is multiplied by at a step (counted from 0) of an epoch (from 0).

    Parameters
    ----------
    settings
        Its schedule, see :class:`~cyclereg_training.config.OptimizerSettings`.
    total_steps
        Steps of the whole training; those of the settings come first.
    """
    if step < settings.warmup_steps:
        return (step + 1) / (settings.warmup_steps + 1)
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "halve":
        return 0.5 ** max(0, epoch + 1 - settings.halve_after)
    total = settings.total_steps or total_steps or 1
    done = min(1.0, (step - settings.warmup_steps) / max(1, total - settings.warmup_steps))
    fall = (1 + math.cos(math.pi * done)) / 2 if settings.schedule == "cosine" else (1 - done) ** settings.power
    return settings.final + (1 - settings.final) * fall
