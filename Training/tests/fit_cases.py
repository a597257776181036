"""Small trainings: on synthetic pairs of a few voxels, in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cyclereg_training.config import Config, read_config
from cyclereg_training.fit import fit
from cyclereg_training.run_folder import METRICS, read_metrics

# What makes the networks of a method small.
SMALL: Mapping[str, Mapping[str, Any]] = {
    "vtn": {"channels": 2, "size": 64},
    "cyclemorph-multiscale": {"global_size": [12, 16, 16]},
    "ms-dirnet": {"global_size": [12, 16, 16]},
    "pyramid": {},
}


def small(source: str | Path, *overrides: str) -> Config:
    """A configuration with small networks, on pairs of 16^3 voxels without workers or a GPU."""
    found = read_config(source)
    shape = [32, 32] if found.method == "cyclemorph-2d" else [16, 16, 16]
    changes = [f"network.{name}={value}" for name, value in SMALL.get(found.method, {}).items()]
    changes += [f"data={{source: synthetic, shape: {shape}, pairs_per_epoch: 2, validation_pairs: 1}}"]
    changes += ["trainer.accelerator=cpu", "trainer.channels_last=false", "batch_size=1", "initialisation=he"]
    return read_config(source, [*changes, *overrides])


def losses(run: Path, name: str = "train/loss") -> list[float]:
    """One column of a run's metrics, where it has a value."""
    return [float(row[name]) for row in read_metrics(run / METRICS) if name in row]


def rows(run: Path) -> list[dict[str, str]]:
    """All of a run's metrics, as written: equal text is equal to the last bit."""
    return read_metrics(run / METRICS)


__all__ = ["fit", "losses", "rows", "small"]
