"""A training from its configuration to its folder."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from CycleRegLib.devices import is_out_of_memory
from CycleRegLib.errors import Cancelled, CycleRegWarning, InputError
from CycleRegLib.progress import make_progress
from CycleRegLib.weights import first_line

from .callbacks.bar import Bar
from .callbacks.export import ENDPOINT, LOSS, Export
from .callbacks.journal import Journal
from .callbacks.limits import TimeLimit
from .callbacks.pictures import Pictures
from .config import Config, seconds_of
from .data import build_data, require_labels
from .dry_run import dry_run, too_large
from .module import TrainingModule
from .networks import read_run_checkpoint
from .run_folder import LAST, MetricsFile, RunFolder, tensorboard

LAST_WORD = "last"


def fit(config: Config, output: str | Path | None = None, resume: str | Path | None = None) -> Path:
    """Train, and return the run's folder.

    Parameters
    ----------
    config
        What is trained and how.
    output
        The run's folder; the configuration's when left out.
    resume
        ``last`` for the folder's ``last.ckpt``, or a file; the training goes on exactly where it was kept.

    Raises
    ------
    InputError
        For everything that cannot be as the configuration or the folder has it.
    Diverged
        If the loss is no number any more.
    """
    quiet_lightning()
    target = output or config.output
    if target is None:
        raise InputError("Say where the run is to be kept: --output FOLDER.")
    folder = RunFolder(target, resume is not None)
    kept = _kept_checkpoint(folder, resume)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    module, data = _built(config)
    step = 0 if kept is None else _check_same(kept, module)
    terminal = sys.stderr.isatty()
    log = folder.log(terminal)
    with warnings.catch_warnings():
        # About things that are so on purpose: a folder that holds files already, a loader without workers.
        warnings.filterwarnings("ignore", module=r"lightning\.")
        trainer = build_trainer(config, module, data, folder, log, step, terminal)
        folder.write_config(config)
        folder.write_environment(trainer.strategy.root_device, trainer.world_size)
        if hasattr(data, "report"):
            folder.write_report(data.report)
            for line in data.report.lines():
                log.info(line)
        count = sum(p.numel() for p in module.parameters())
        log.info(f"{config.method}: {count:,} parameters, shape {list(data.shape)}, {trainer.strategy.root_device}")
        if kept is not None:
            log.info(f"Resumed at step {step} from {kept.name}")
        _run(trainer, module, data, kept, folder)
    log.info(f"Done after {trainer.current_epoch} epochs, {trainer.global_step} steps: {folder.path}")
    return folder.path


def _run(trainer: lightning.Trainer, module: TrainingModule, data: Any, kept: Path | None, folder: RunFolder) -> None:
    """Lightning's loop; what ends it early as errors of the command line."""
    # Lightning leaves with a status of its own on Ctrl-C; all the same, Ctrl-C after the training has to work.
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=kept, weights_only=True)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        shape = _shape_at(data, trainer.current_epoch)
        raise too_large(module, data.validation_pair, shape, trainer.strategy.root_device) from error
    except SystemExit as end:
        signal.signal(signal.SIGINT, handler)
        there = (folder / LAST).exists()
        what = "--ckpt_path last goes on after the last whole epoch" if there else "nothing was kept"
        raise Cancelled(f"Stopped; {what}.") from end


def try_out(config: Config) -> None:
    """Print what a training will need, see :mod:`~cyclereg_training.dry_run`; nothing is written.

    Raises
    ------
    InputError, OutOfMemoryError
        As :func:`~cyclereg_training.dry_run.dry_run`.
    """
    quiet_lightning()
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    module, data = _built(config)
    trainer = _trainer(
        accelerator=config.trainer.accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    for line in data.report.lines() if hasattr(data, "report") else ():
        print(line, flush=True)
    for line in dry_run(config, module, data, trainer):
        print(line, flush=True)


def build_trainer(
    config: Config,
    module: TrainingModule,
    data: Any,
    folder: RunFolder,
    log: logging.Logger,
    step: int = 0,
    terminal: bool = False,
) -> lightning.Trainer:
    """Lightning's trainer with everything that writes into the run's folder."""
    settings = config.trainer
    epochs = settings.max_epochs or module.objective.epochs
    if epochs is None and settings.max_steps < 0:
        raise InputError("Say how long to train: trainer.max_epochs or trainer.max_steps.")
    metrics = MetricsFile(folder / "metrics.csv")
    metrics.begin(step)
    export = Export(folder, data, settings.monitor)
    callbacks: list[Callback] = [export, Journal(log, export), Pictures(folder, data)]
    if terminal and rank_zero_only.rank == 0:
        callbacks.append(Bar(make_progress("bar")))
    if settings.max_time is not None:
        callbacks.append(TimeLimit(seconds_of(settings.max_time), log))
    if settings.early_stopping is not None:
        stop = settings.early_stopping
        known = "flow" in data.validation_pair
        monitor = settings.monitor or (ENDPOINT if known else LOSS)
        callbacks.append(EarlyStopping(monitor, stop.min_delta, stop.patience, check_on_train_epoch_end=True))
    callbacks.append(
        # At the end of the epoch, after validation, so that a resumed run begins with the next one.
        ModelCheckpoint(
            folder.path, filename=Path(LAST).stem, save_on_train_epoch_end=True, enable_version_counter=False
        )
    )
    return _trainer(
        max_epochs=epochs if epochs is not None else -1,
        max_steps=settings.max_steps,
        precision=settings.precision,
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=_strategy(config, module),
        accumulate_grad_batches=settings.accumulate_grad_batches,
        gradient_clip_val=settings.gradient_clip_val,
        log_every_n_steps=settings.log_every_n_steps,
        check_val_every_n_epoch=settings.check_val_every_n_epoch,
        deterministic=settings.deterministic,
        default_root_dir=folder.path,
        logger=[metrics, tensorboard(folder, step)],
        callbacks=callbacks,
        enable_progress_bar=False,  # see callbacks.bar
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the data share themselves out, see data.sampling
    )


def _built(config: Config) -> tuple[TrainingModule, Any]:
    """The networks first: what is wrong with them is found without reading a volume."""
    progress = make_progress("bar") if sys.stderr.isatty() and rank_zero_only.rank == 0 else None
    module, data = TrainingModule(config), build_data(config, progress)
    if module.objective.weights["dice"]:
        require_labels(data)
    return module, data


def _shape_at(data: Any, epoch: int) -> tuple[int, ...]:
    return tuple(data.shape_at(epoch) if hasattr(data, "shape_at") else data.shape)


def _trainer(**arguments: Any) -> lightning.Trainer:
    """Lightning's trainer; what it cannot be here (GPUs that are not there, say) is refused in one line."""
    try:
        return lightning.Trainer(**arguments)
    except (MisconfigurationException, ValueError) as error:
        raise InputError(f"The training cannot run so: {first_line(error)}") from error


def _strategy(config: Config, module: TrainingModule) -> str | Strategy:
    settings = config.trainer
    several = settings.num_nodes > 1 or settings.devices not in (1, "1", [0])
    if settings.strategy in ("auto", "ddp") and several:
        # Where phases take turns, some parameters rest at every step.
        return DDPStrategy(find_unused_parameters=len(module.objective.phases) > 1)
    return settings.strategy


def _kept_checkpoint(folder: RunFolder, resume: str | Path | None) -> Path | None:
    if resume is None:
        return None
    if str(resume) != LAST_WORD:
        return Path(resume).expanduser()
    if (folder / LAST).is_file():
        return folder / LAST
    if rank_zero_only.rank == 0:
        warnings.warn(
            f"The folder {folder.path} holds no {LAST}: no epoch was finished. The training begins anew.",
            CycleRegWarning,
            stacklevel=3,
        )
    return None


def _check_same(path: Path, module: TrainingModule) -> int:
    """The step at which a checkpoint was kept, after it proved to be one of this training.

    Raises
    ------
    InputError
        If it is of another method, network or objective.
    """
    found = read_run_checkpoint(path)
    told, own = found["cyclereg"], module.description()
    for name, value in own.items():
        if told[name] != value:
            what = {"network": "a network", "directions": "networks for"}.get(name, f"the {name}")
            raise InputError(
                f"The checkpoint {path} belongs to {what} {told[name]}, but this training has {value}. Resume it with "
                "its own configuration (config.yaml in its folder), or start from its weights with initial=FILE."
            )
    return int(found["global_step"])


def quiet_lightning(names: Sequence[str] = ("lightning.pytorch", "lightning.fabric", "lightning")) -> None:
    """Lightning's own lines about devices and tips stay away; errors come."""
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
