"""One pair: read, register, measure, write; every way in which it can fail ends as a record.

The three stages are functions of their own, so that one pair is read and another written while a third is computed.
"""

from __future__ import annotations

import contextlib
import gc
import shutil
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import torch

from ..checkpoints import Checkpoint, read_checkpoint
from ..commands import read_inputs, read_known, registration_options
from ..devices import is_out_of_memory
from ..errors import Cancelled, CycleRegError, InputError, pair_warnings
from ..evaluation import evaluate
from ..fields import DisplacementField
from ..images import write_image, write_transform
from ..pictures import render_pictures, write_pictures
from ..planar import is_flat
from ..presets import method_of
from ..registration import RegistrationResult, register
from ..report import render_report
from .fingerprint import Hashes, Identity, recall
from .folders import BatchFolder, lacks_room, write_pair_summary
from .manifest import PairSpec
from .record import BatchRecord, failed_record, measures_of

Progress = Callable[[str, float], None]
#: A pair is begun at most this often, as workers die with it.
MOST_ATTEMPTS = 3
_MOST_CHECKPOINTS = 2
_NO_MEMORY = "Memory ran out. Crop the images, resample them coarser, or use fewer workers."


@dataclass(frozen=True)
class Job:
    """What all pairs of a run have in common; travels to workers.

    Attributes
    ----------
    output, run
        The batch's folder and the name of the run.
    overwrite
        Compute again what is complete.
    pictures
        Write pictures of every pair.
    threads
        Processor threads of each worker; as many as PyTorch takes by itself when None.
    scenes
        Write a scene of every pair, in the process that gives the command.
    reports
        Write ``report.html`` of every pair.
    measure
        Measure also pairs of which neither landmarks nor segmentations are known.
    """

    output: str
    run: str
    overwrite: bool = False
    pictures: bool = False
    threads: int | None = None
    scenes: bool = False
    reports: bool = False
    measure: bool = False

    @property
    def folder(self) -> BatchFolder:
        return BatchFolder(self.output, self.run)


@dataclass
class Outcome:
    """A record, and why no further pair can be written, if so."""

    record: BatchRecord
    stop: str = ""


@dataclass
class Loaded:
    """A pair that was read."""

    spec: PairSpec
    identity: Identity
    inputs: dict[str, Any]
    known: dict[str, Any]
    messages: list[str]
    seconds: dict[str, float]


@dataclass
class Computed:
    """A pair that was computed, without the images that it was computed from; ``partial`` is where it is written."""

    spec: PairSpec
    identity: Identity
    partial: Path
    attempt: int
    field: DisplacementField
    inverse: DisplacementField
    warped: sitk.Image
    summary: dict[str, Any]
    evaluation: dict[str, Any] | None
    pictures: Mapping[str, Any]
    seconds: dict[str, float]


@dataclass
class Worker:
    """What a worker keeps from pair to pair: its name and GPU, hashes of files, and networks."""

    name: str = ""
    device: str | None = None
    hashes: Hashes = field(default_factory=Hashes)
    checkpoints: OrderedDict[Any, Checkpoint] = field(default_factory=OrderedDict)

    # ------------------------------------------------------------------ stages

    def read(self, spec: PairSpec, job: Job, identity: Identity | None = None) -> Loaded | Outcome:
        """Hash and read the inputs; an outcome where the pair is complete already, or cannot be read."""
        began = time.perf_counter()
        messages: list[str] = []
        try:
            with collect_warnings(messages):
                identity = identity or self.hashes.identify(spec)
                kept = kept_record(spec, job, identity)
                if kept is not None:
                    return Outcome(kept)
                arguments = spec.namespace()
                inputs = read_inputs(arguments)
                known = read_known(arguments, is_flat(inputs["fixed"]))
                identity.check_unchanged()
        except Exception as error:
            return self.failed(spec, job, error, began)
        return Loaded(spec, identity, inputs, known, messages, {"read": time.perf_counter() - began})

    def begin(self, spec: PairSpec, job: Job, attempt: int = 1) -> Path | Outcome:
        """Make the folder that the pair is written into later; it also tells that the pair was begun."""
        try:
            return job.folder.begin(spec.id, attempt)
        except OSError as error:
            return self.failed(spec, job, error, time.perf_counter(), attempt, writing=True)

    def compute(
        self, loaded: Loaded, partial: Path, job: Job, attempt: int = 1, progress: Progress | None = None
    ) -> Computed | Outcome:
        """Register, measure and draw; an outcome where that fails.

        Parameters
        ----------
        partial
            The folder that :meth:`begin` made; removed where no result comes of it.

        Raises
        ------
        Cancelled, KeyboardInterrupt
            As ``progress`` does.
        """
        began = time.perf_counter()
        spec, seconds = loaded.spec, dict(loaded.seconds)
        tell = progress or (lambda stage, fraction: None)
        # The stages' shares of the progress.
        measures = bool(loaded.known) or job.measure
        measuring, drawing = 0.1 * measures, 0.1 * (job.pictures or job.reports)
        registering = 1.0 - measuring - drawing
        try:
            with collect_warnings(loaded.messages):
                result = register(
                    **loaded.inputs, **self._options(loaded), progress=lambda stage, f: tell(stage, registering * f)
                )
                seconds["register"] = time.perf_counter() - began
                evaluation = None
                if measures:
                    clock = time.perf_counter()
                    evaluation = self._evaluate(
                        loaded, result, lambda stage, f: tell(stage, registering + measuring * f)
                    )
                    seconds["evaluate"] = time.perf_counter() - clock
                pictures: Mapping[str, Any] = {}
                if job.pictures or job.reports:
                    clock = time.perf_counter()
                    pictures = self._draw(loaded, result, lambda stage, f: tell(stage, 1.0 - drawing * (1.0 - f)))
                    seconds["pictures"] = time.perf_counter() - clock
        except (KeyboardInterrupt, Cancelled):
            _remove(partial)
            raise
        except Exception as error:
            _remove(partial)
            return self.failed(spec, job, error, began, attempt)
        summary = {**result.summary(), "fixed": spec.files["fixed"], "moving": spec.files["moving"]}
        summary["warnings"] = list(dict.fromkeys(loaded.messages))
        return Computed(
            spec, loaded.identity, partial, attempt, result.field, result.inverse, result.warped, summary, evaluation,
            pictures, seconds,
        )  # fmt: skip

    def write(self, computed: Computed, job: Job) -> Outcome:
        """Write a pair's files and put its folder in place."""
        began = time.perf_counter()
        spec, folder = computed.spec, computed.partial
        try:
            write_transform(computed.field, folder / "transform.h5")
            write_transform(computed.inverse, folder / "inverse_transform.h5")
            write_image(computed.warped, folder / "warped.nrrd")
            if job.pictures:
                (folder / "pictures").mkdir()
                write_pictures(folder / "pictures", computed.pictures)
            if job.reports:
                text = render_report(computed.summary, computed.evaluation, computed.pictures, f"Pair {spec.id}")
                (folder / "report.html").write_text(text, encoding="utf-8")
            seconds = {**computed.seconds, "write": time.perf_counter() - began}
            seconds["total"] = sum(seconds.values())
            record = BatchRecord(
                id=spec.id,
                status="done",
                attempts=computed.attempt,
                folder=str(job.folder.place(spec.id)),
                worker=self.name,
                seconds={stage: round(value, 3) for stage, value in seconds.items()},
                measures=measures_of(computed.summary, computed.evaluation),
            )
            write_pair_summary(
                folder,
                {
                    **computed.summary,
                    **{key: value for key, value in record.to_dict().items() if key not in ("reason", "folder")},
                    "run": job.run,
                    "evaluation": computed.evaluation,
                    "fingerprint": computed.identity.to_dict(),
                },
            )
            job.folder.finish(spec.id, folder)
            return Outcome(record)
        except Exception as error:
            taken_over = not folder.exists()
            _remove(folder)
            # This worker was taken for dead, the pair given to another one, which finished it.
            kept = kept_record(spec, job, computed.identity) if taken_over else None
            if kept is not None:
                return Outcome(kept)
            size = computed.field.vectors.nbytes + computed.inverse.vectors.nbytes
            return self.failed(spec, job, error, began, computed.attempt, writing=True, size=size)

    # ------------------------------------------------------------------ parts

    def _checkpoint(self, loaded: Loaded) -> Checkpoint | None:
        """The pair's weights, read once for all pairs that use them."""
        a, marks = loaded.spec.arguments, loaded.identity.inputs
        if a["checkpoint"] is None:
            return None
        sums = ",".join(marks[name].sha256 for name in ("checkpoint", "backward_checkpoint") if name in marks)
        key = sums, a["method"], a["preset"]
        if key not in self.checkpoints:
            read = read_checkpoint(a["checkpoint"], method_of(a["method"], a["preset"]), a["backward_checkpoint"])
            if read.sha256 != sums:
                raise InputError(f"The checkpoint {a['checkpoint']} was changed while the batch ran.")
            self.checkpoints[key] = read
            if len(self.checkpoints) > _MOST_CHECKPOINTS:
                self.checkpoints.popitem(last=False)
        self.checkpoints.move_to_end(key)
        return self.checkpoints[key]

    def _options(self, loaded: Loaded) -> dict[str, Any]:
        """The arguments of ``register`` besides the images; the weights as they are in memory."""
        options = registration_options(loaded.spec.namespace())
        options["checkpoint"], options["backward_checkpoint"] = self._checkpoint(loaded), None
        if self.device is not None and options["device"] in ("auto", "cuda"):
            options["device"] = self.device
        return options

    def _evaluate(self, loaded: Loaded, result: RegistrationResult, progress: Progress) -> dict[str, Any]:
        evaluation = evaluate(
            result.fixed,
            result.moving,
            result.field,
            result.inverse,
            tumor_label=loaded.spec.arguments["tumor_segment"],
            mask=loaded.inputs.get("fixed_mask"),
            initial=loaded.inputs.get("initial_transform"),
            progress=progress,
            **loaded.known,
        )
        return evaluation.to_dict()

    def _draw(self, loaded: Loaded, result: RegistrationResult, progress: Progress) -> Mapping[str, Any]:
        return render_pictures(
            result.fixed,
            result.moving,
            result.field,
            result.warped,
            result.inverse,
            initial=loaded.inputs.get("initial_transform"),
            progress=progress,
            **loaded.known,
        )

    def failed(
        self, spec: PairSpec, job: Job, error: Exception, began: float, attempt: int = 1, writing: bool = False,
        size: int = 0,
    ) -> Outcome:  # fmt: skip
        """The outcome of a pair that failed, kept on disk; says whether any other pair can still be written."""
        record = failed_record(spec.id, _reason(error), attempt, self.name, time.perf_counter() - began)
        known = isinstance(error, (CycleRegError, OSError)) or is_out_of_memory(error)
        trace = "" if known else "".join(traceback.format_exception(type(error), error, error.__traceback__))
        if is_out_of_memory(error):
            self.checkpoints.clear()
            error.__traceback__ = None  # it holds the arrays
            free_memory()
        stop: OSError | None = None
        try:
            job.folder.fail(record, trace)
        except OSError as full:
            stop = full
        if writing and isinstance(error, OSError):
            stop = stop or lacks_room(job.folder.path, size)
        return Outcome(record, "" if stop is None else stop.strerror or str(stop))


def kept_record(spec: PairSpec, job: Job, identity: Identity | None = None) -> BatchRecord | None:
    """The record of a pair that is complete and was made from the same inputs and options; None otherwise.

    It is ``kept``, but ``done`` if it was done in this very run: by a worker that died before it could say so.  A run
    that overwrites keeps nothing of earlier runs.
    Without ``identity``, only what is remembered of the files is looked at, so that nothing is read; None also where
    that proves nothing.
    """
    summary = job.folder.summary(spec.id)
    if summary is None:
        return None
    this_run = summary.get("run") == job.run
    if not this_run:
        if job.overwrite:
            return None
        fingerprint = summary.get("fingerprint") or {}
        if identity is None:
            identity = recall(spec, fingerprint)
        if identity is None or identity.sha256 != fingerprint.get("sha256"):
            return None
        if job.pictures and not any(name.startswith("pictures/") for name in summary["files"]):
            return None
        if job.reports and "report.html" not in summary["files"]:
            return None
        if job.measure and summary.get("evaluation") is None:
            return None
    job.folder.forget(spec.id)
    return BatchRecord(
        id=spec.id,
        status="done" if this_run else "kept",
        attempts=summary["attempts"],
        folder=str(job.folder.place(spec.id)),
        worker=summary["worker"],
        seconds=summary["seconds"],
        measures=summary["measures"],
    )


@contextlib.contextmanager
def collect_warnings(messages: list[str]) -> Iterator[None]:
    """Collect what this thread warns of; other threads work on other pairs meanwhile."""
    token = pair_warnings.set(messages)
    try:
        yield
    finally:
        pair_warnings.reset(token)


def free_memory() -> None:
    """Give back what was left behind when memory ran out."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _reason(error: BaseException) -> str:
    if is_out_of_memory(error) and not isinstance(error, CycleRegError):
        return _NO_MEMORY
    if isinstance(error, CycleRegError):
        return str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"The system refused. {where}{error.strerror or error}."
    return f"An error in CycleReg: {type(error).__name__}: {error}. Please report it with failed/*.json."


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
