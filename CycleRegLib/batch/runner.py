"""The loop over a batch's pairs: one worker in this process, or several of Dask's."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from ..errors import Cancelled, InputError
from . import cluster
from . import scenes as making
from .manifest import PairSpec, Source, read_manifest
from .pair import Computed, Job, Loaded, Outcome, Worker, kept_record
from .progress import BatchProgress, own_stderr
from .record import BatchRecord
from .results import write_results

#: Takes what became of a pair as soon as it is known, also when nobody asks for further pairs; gives the record.
Keep = Callable[[Outcome], BatchRecord]


def run_batch(
    manifest: Source,
    output: str | os.PathLike[str],
    workers: int = 1,
    scheduler: str | None = None,
    overwrite: bool = False,
    pictures: bool = False,
    scenes: bool = False,
    reports: bool = False,
    pairs: str | None = None,
    ids: str | None = None,
    threads: int | None = None,
    progress: str = "none",
    measure: bool = False,
    **options: Any,
) -> Iterator[BatchRecord]:
    """Register every pair of a manifest, and give each pair's record as soon as it is there.

    >>> for record in run_batch("pairs.csv", "results", method="optimize"):      # doctest: +SKIP
    ...     print(record.id, record.status, record.measures.get("tre_after_mm"))

    Pairs that are complete from an earlier run, with the same inputs and options, are kept.  A pair that fails is
    recorded with its reason, and the rest goes on.  Whoever stops asking for records stops the batch: what is computed
    is written, and the next run goes on from there.  At the end ``results.csv``, ``summary.md`` and ``report.html`` are
    written, unless only some pairs were chosen.

    Parameters
    ----------
    manifest
        A CSV or JSON file, or rows as mappings, see :mod:`~.manifest`.
    output
        The batch's folder, see :mod:`~.folders`; new, empty, or that of an earlier batch.
    workers
        Processes on this machine; with one, pairs are computed in this process, the next one is read and the last one
        written meanwhile.
    scheduler
        Address of a Dask scheduler, whose workers see the same files, instead.
    overwrite
        Compute again what is complete.
    pictures
        Write pictures of every pair.
    scenes
        Write a ``scene.mrb`` of every pair, which 3D Slicer opens, see :mod:`~.scenes`.
    reports
        Write a ``report.html`` of every pair, with its pictures in it, beside the one of the whole batch.
    pairs, ids
        Only some pairs, see :func:`~.manifest.read_manifest`.
    threads
        Processor threads of each worker; by default this machine's cores shared among them.
    progress
        ``bar``, ``json`` or ``none``.
    measure
        Measure also pairs without landmarks and segmentations: similarity, folding and the round trip as
        :func:`~CycleRegLib.evaluation.evaluate` has them.
    options
        Values for what the manifest leaves open, by column: ``method="cyclemorph"``, ``smoothness=4``, … .

    Raises
    ------
    InputError
        If anything given cannot be used; :class:`~.manifest.ManifestError` lists all mistakes of a manifest.  While
        running: if nothing can be written any more.
    Cancelled
        While running: after Ctrl-C, when what was computed is written.
    """
    if workers < 1 or (threads is not None and threads < 1):
        raise InputError("At least one worker with one thread is needed.")
    if workers > 1 or scheduler is not None:
        cluster.check_installed()
    if scenes:
        making.check_installed()
    specs = read_manifest(manifest, options, scheduler is None, pairs, ids)
    folder = os.path.abspath(os.path.expanduser(output))
    job = Job(folder, uuid.uuid4().hex[:8], overwrite, pictures, threads, scenes, reports, measure)
    job.folder.check(specs)
    run = _Run(specs, job, whole=pairs is None and ids is None)
    return run.records(workers, scheduler, progress)


class _Run:
    """One run of a batch; knows what became of each pair so far."""

    def __init__(self, specs: Sequence[PairSpec], job: Job, whole: bool) -> None:
        self._specs, self._job, self._whole = specs, job, whole
        self._found: dict[str, BatchRecord] = {}
        self._stop = ""

    def records(self, workers: int, scheduler: str | None, style: str) -> Iterator[BatchRecord]:
        """Run, and give each record; see :func:`run_batch`."""
        folder = self._job.folder
        with own_stderr() as stream, folder.lock(shared=not self._whole):
            folder.open(self._specs, self._whole)
            progress = BatchProgress(style, len(self._specs), None if style == "json" else stream)
            try:
                yield from self._all(workers, scheduler, progress)
            except (KeyboardInterrupt, Cancelled) as error:
                self._conclude("the run was cancelled before it", must=False)
                if isinstance(error, Cancelled):
                    raise
                raise Cancelled(f"Cancelled; {self._state()}. The same command goes on from there.") from None
            except BaseException:  # also when nobody asks for the next record
                self._conclude("the run ended before it", must=False)
                raise
            self._conclude("nothing could be written any more", must=not self._stop)
            if self._stop:
                raise InputError(
                    f"Nothing more can be written into {folder.path} ({self._stop}); {self._state()}. Make room and "
                    "give the same command again: it goes on from there."
                )

    def _all(self, workers: int, scheduler: str | None, progress: BatchProgress) -> Iterator[BatchRecord]:
        job, folder = self._job, self._job.folder
        by_id = {spec.id: spec for spec in self._specs}
        here = Worker("main")

        def keep(outcome: Outcome) -> BatchRecord:
            if job.scenes:
                outcome = making.with_scene(by_id[outcome.record.id], job, outcome, here)
            record = outcome.record
            self._found[record.id] = record
            self._stop = self._stop or outcome.stop
            if record.status == "failed":
                folder.drop(record.id)
            progress.add(record)
            return record

        left = []
        for spec in self._specs:
            kept = kept_record(spec, job)
            if kept is None:
                left.append(spec)
            else:
                yield keep(Outcome(kept))
            if self._stop:
                return
        # A pair that brought a whole run down may do so again: the others come first.
        begun = folder.all_begun()
        left.sort(key=lambda spec: spec.id in begun)
        for spec in left:
            if spec.id in begun:
                folder.drop(spec.id)
        if not left:
            return
        if workers == 1 and scheduler is None:
            records = _here(left, job, keep, progress)
        else:
            records = cluster.compute(left, job, keep, progress, workers, scheduler)
        with contextlib.closing(records):
            for record in records:
                yield record
                if self._stop:
                    return

    def _conclude(self, reason: str, must: bool) -> None:
        """Write the tables; ``must`` says whether a failure of that is to be told."""
        self._job.folder.sweep()
        if not self._whole:
            return
        records = [
            self._found.get(spec.id) or BatchRecord(spec.id, "skipped", reason) for spec in self._specs
        ]  # fmt: skip
        try:
            write_results(
                self._job.folder.path,
                [record.to_dict() for record in records],
                [spec.to_dict() for spec in self._specs],
            )
        except (InputError, OSError):
            if must:
                raise

    def _state(self) -> str:
        complete = sum(record.complete for record in self._found.values())
        return f"{complete} of {len(self._specs)} pairs are complete"


def _here(specs: Sequence[PairSpec], job: Job, keep: Keep, progress: BatchProgress) -> Iterator[BatchRecord]:
    """Compute in this process; meanwhile a thread reads the next pair, and another one writes the last.

    So at most three pairs are in memory: one ahead, one in work, one behind.
    """
    worker = Worker("main")
    before = torch.get_num_threads()
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    coming = iter(specs)
    computed: Computed | Outcome | None = None
    behind: Future[Outcome] | None = None
    with ThreadPoolExecutor(1, "cyclereg-read") as reader, ThreadPoolExecutor(1, "cyclereg-write") as writer:

        def read_next() -> Future[Loaded | Outcome] | None:
            spec = next(coming, None)
            return None if spec is None else reader.submit(worker.read, spec, job)

        ahead = read_next()
        try:
            while ahead is not None:
                loaded = ahead.result()
                ahead = read_next()
                computed = _compute(worker, loaded, job, progress)
                del loaded
                if behind is not None:
                    outcome, behind = behind.result(), None
                    yield keep(outcome)
                if isinstance(computed, Computed):
                    behind = writer.submit(worker.write, computed, job)
                    computed = None
                else:
                    outcome, computed = computed, None
                    yield keep(outcome)
            if behind is not None:
                outcome, behind = behind.result(), None
                yield keep(outcome)
        finally:
            if ahead is not None:
                ahead.cancel()
            # What was computed is not given up, however the loop ended.
            if behind is not None:
                keep(behind.result())
            if isinstance(computed, Computed):
                keep(worker.write(computed, job))
            torch.set_num_threads(before)


def _compute(worker: Worker, loaded: Loaded | Outcome, job: Job, progress: BatchProgress) -> Computed | Outcome:
    if isinstance(loaded, Outcome):
        return loaded
    partial = worker.begin(loaded.spec, job)
    if isinstance(partial, Outcome):
        return partial
    return worker.compute(loaded, partial, job, progress=lambda stage, fraction: progress.show(fraction))
