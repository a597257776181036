"""The folder of a run: configuration, environment, log, metrics, pictures, checkpoints."""

from __future__ import annotations

import csv
import json
import logging
import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from CycleRegLib.errors import InputError

from .config import Config

if TYPE_CHECKING:
    from .data.report import PreparationReport

LAST, LAST_WEIGHTS, BEST_WEIGHTS = "last.ckpt", "last.safetensors", "best.safetensors"
CONFIG, ENVIRONMENT, LOG, METRICS, PICTURES = (
    "config.yaml", "environment.json", "log.txt", "metrics.csv", "pictures",
)  # fmt: skip
_PACKAGES = ("cyclereg", "cyclereg-training", "torch", "lightning", "numpy", "SimpleITK", "monai", "safetensors")


class RunFolder:
    """Where everything of a run lies.

    Parameters
    ----------
    path
        Made when it is missing; a folder of an earlier run is used only to resume that run.
    resume
        Whether it is.

    Raises
    ------
    InputError
        If the folder cannot be made, or holds a run that is not to be resumed.
    """

    def __init__(self, path: str | Path, resume: bool = False) -> None:
        self.path = Path(path).expanduser()
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"Cannot write the run into {self.path}: it is a file. Give the name of a folder.")
        if rank_zero_only.rank == 0 and not resume and (self.path / LAST).exists():
            raise InputError(
                f"The folder {self.path} holds a run already. Resume it with --ckpt_path last, or give "
                "another --output."
            )
        try:
            (self.path / PICTURES).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"Cannot make the folder {self.path}: {error.strerror or error}.") from error

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @rank_zero_only
    def write_config(self, config: Config) -> None:
        """The whole configuration, defaults and all; training from it repeats the run."""
        _write_whole(self / CONFIG, config.to_yaml())

    @rank_zero_only
    def write_environment(self, device: torch.device, processes: int) -> None:
        """Versions and the machine's kind; no names and no paths."""
        _write_whole(self / ENVIRONMENT, json.dumps(environment(device, processes), indent=2) + "\n")

    @rank_zero_only
    def write_report(self, report: PreparationReport) -> None:
        """What became of the data: which volumes and pairs are used, what was skipped, and why."""
        report.write(self.path)

    def log(self, terminal: bool) -> logging.Logger:
        """Lines of ``log.txt`` and on stderr, where they are wide enough to replace a progress bar (``terminal``)."""
        logger = logging.Logger("cyclereg-train")
        if rank_zero_only.rank:
            logger.addHandler(logging.NullHandler())
            return logger
        shown = logging.StreamHandler(sys.stderr)
        shown.setFormatter(logging.Formatter("\r%(message)-78s" if terminal else "%(message)s"))
        kept = logging.FileHandler(self / LOG, encoding="utf-8")
        kept.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
        for handler in (shown, kept):
            logger.addHandler(handler)
        return logger


def environment(device: torch.device, processes: int) -> dict[str, Any]:
    """What a run was computed with."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "python": platform.python_version(),
        "packages": found,
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "gpu": gpu,
        "cuda": torch.version.cuda,
        "processes": processes,
    }


class MetricsFile(Logger):
    """``metrics.csv``: a row per step and per validation, columns by name; a resumed run goes on in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._columns: list[str] = []
        self._began = False

    @property
    def name(self) -> str:
        """Lightning wants one; there are no sub-folders."""
        return ""

    @property
    def version(self) -> int:
        """As the name."""
        return 0

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """They are in ``config.yaml``."""

    @rank_zero_only
    def begin(self, step: int) -> None:
        """Forget rows of an epoch that was not finished, from ``step`` on; the others stay."""
        rows = [row for row in read_metrics(self.path) if int(row["step"]) < step] if self.path.exists() else []
        self._columns = list(dict.fromkeys(name for row in rows for name in row)) or ["epoch", "step"]
        self._rewrite(rows)
        self._began = True

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row; a column that is new makes the file be written anew."""
        if not self._began:
            self.begin(0)
        row: dict[str, Any] = {"epoch": int(metrics.get("epoch", 0)), "step": step}
        row.update({name: repr(float(value)) for name, value in metrics.items() if name != "epoch"})
        new = [name for name in row if name not in self._columns]
        if new:
            self._columns += new
            self._rewrite(read_metrics(self.path))
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        beside = self.path.with_suffix(".part")
        with beside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        beside.replace(self.path)


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Rows of a ``metrics.csv`` by column, without those that a kill cut short; only values that are there."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    return [row for row in rows if row.get("step", "").isdecimal() and None not in row]


def tensorboard(folder: RunFolder, step: int) -> Logger:
    """Lightning's, in ``tensorboard/``; what an unfinished epoch wrote from ``step`` on is not shown."""
    return lightning.pytorch.loggers.TensorBoardLogger(
        folder.path, name="", version="tensorboard", purge_step=step or None, default_hp_metric=False
    )


def _write_whole(path: Path, text: str) -> None:
    beside = path.with_name(f"{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
