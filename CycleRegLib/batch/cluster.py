"""Batches on Dask distributed: processes of this machine, or the workers of a scheduler elsewhere.

Every worker does one pair at a time: reads, computes, writes.  What overlaps is the disk's work: on this machine the
inputs of the next pairs are hashed meanwhile, which brings them into memory, and the system writes behind by itself.
Were several pairs in one process, the one that brings it down could not be told from the others.

A worker begins a pair by making its hidden folder.  What dead workers left tells how often the pair was begun, whatever
the scheduler is set to; after three times it is given up.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import multiprocessing
import os
import queue
import shutil
import signal
import socket
import sys
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Cancelled, CycleRegError, CycleRegWarning, InputError
from .record import BatchRecord, failed_record

if TYPE_CHECKING:
    from distributed import Client

    from .fingerprint import Identity
    from .manifest import PairSpec
    from .pair import Job, Outcome, Worker
    from .progress import BatchProgress
    from .runner import Keep

#: How many pairs a scheduler elsewhere knows of at once: enough for it to ask for more workers.
_SUBMITTED = 1000
_CONNECT_SECONDS, _FINISH_SECONDS, _QUIET_SECONDS = 30, 120, 60
_READ_AHEAD = 4


def check_installed() -> None:
    """Make sure that Dask is there.

    Raises
    ------
    InputError
        If not.
    """
    if importlib.util.find_spec("distributed") is None:
        raise InputError(
            'Several workers need Dask, which is not installed. Get it with: pip install "cyclereg[batch]"'
        )


def compute(
    specs: Sequence[PairSpec],
    job: Job,
    keep: Keep,
    progress: BatchProgress,
    workers: int,
    scheduler: str | None,
) -> Iterator[BatchRecord]:
    """Send pairs to workers and give records as they come; see :func:`~.runner.run_batch`.

    Raises
    ------
    InputError
        If no scheduler answers, or its workers do not see the files or have another CycleReg.
    CycleRegError
        If the scheduler is lost.
    """
    with _client(job, min(workers, len(specs)), scheduler) as client:
        if scheduler is not None:
            _check_workers(client, job, scheduler)
        yield from _Dispatcher(client, job, keep, progress, local=scheduler is None).run(specs)


# ---------------------------------------------------------------------- in the process that gives the command


@contextlib.contextmanager
def _client(job: Job, workers: int, scheduler: str | None) -> Iterator[Client]:
    with _uninterrupted():
        import dask
        from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        stack.enter_context(dask.config.set({"distributed.worker.profile.enabled": False}))
        if scheduler is None:
            _use_the_interpreter()
            threads = job.threads or max(1, _cores() // workers)
            # In place of Dask's own, which makes the C library return memory at every chance: pages that are taken and
            # cleared anew each time cost a third of the processor, and two workers were no faster than one.
            environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
            stack.enter_context(dask.config.set({"distributed.nanny.pre-spawn-environ": environment}))
            with _uninterrupted():
                cluster = LocalCluster(
                    n_workers=workers,
                    processes=True,
                    threads_per_worker=1,
                    memory_limit=0,  # the share of one worker is not the limit of a pair
                    dashboard_address=None,
                    silence_logs=logging.CRITICAL,
                    preload=[__name__],
                    env={name: str(value) for name, value in environment.items()},
                )
                stack.enter_context(cluster)
                client = stack.enter_context(Client(cluster, set_as_default=False))
            yield client
            return
        try:
            client = Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise InputError(
                f"No Dask scheduler answers at {scheduler} ({' '.join(str(error).split())[:200]}). Give its address as "
                "it says itself, such as tcp://host:8786."
            ) from error
        yield stack.enter_context(client)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the workers are there, and does not reach them: they inherit that it is blocked."""
    signals = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not None]
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which unblocks Ctrl-C when it is started
    heard: list[int] = []
    before = {number: signal.signal(number, lambda number, _: heard.append(number)) for number in signals}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        if heard:
            signal.raise_signal(heard[0])


def _use_the_interpreter() -> None:
    """In Slicer, Python says that it is ``PythonSlicer``, a launcher: processes that are started through it never get
    what is handed to them, and whoever waits for them waits for ever."""
    launcher = Path(sys.executable or "")
    if launcher.stem == "PythonSlicer":
        interpreter = launcher.with_name(f"python-real{launcher.suffix}")
        if not interpreter.is_file():
            raise InputError(f"Several workers cannot be started: there is no {interpreter}. Use one worker.")
        multiprocessing.set_executable(str(interpreter))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Dask's own messages away: workers that die are told in the results, a lost scheduler in one line."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "distributed"]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_workers(client: Client, job: Job, scheduler: str) -> None:
    """Workers that join later are not asked; a pair that fails there says why."""
    from .. import __version__

    try:
        answers = client.run(_look_around, job.output)
    except Exception as error:  # whatever stands in the way of running a function of CycleReg there
        raise InputError(
            f"The workers of {scheduler} cannot run CycleReg ({type(error).__name__}: {error}). Install version "
            f"{__version__} there."
        ) from error
    for worker, (version, sees_output) in answers.items():
        if version != __version__:
            raise InputError(f"The worker {worker} has CycleReg {version}, not {__version__}. Install the same there.")
        if not sees_output:
            raise InputError(
                f"The worker {worker} does not see the folder {job.output}. All workers need the same paths: give "
                "folders of a shared file system."
            )


class _Dispatcher:
    """Keeps workers busy, and decides what becomes of pairs whose workers died."""

    def __init__(
        self,
        client: Client,
        job: Job,
        keep: Keep,
        progress: BatchProgress,
        local: bool,
    ) -> None:
        self._client, self._job, self._keep, self._progress, self._local = client, job, keep, progress, local
        self._over: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._running: dict[Any, PairSpec] = {}
        self._returned: Counter[str] = Counter()
        self._heard = time.monotonic()
        self._warned = False

    def run(self, specs: Sequence[PairSpec]) -> Iterator[BatchRecord]:
        """Give the records of all pairs as they come."""
        waiting = deque(specs)
        with _ReadAhead(self._local) as ahead:
            try:
                while waiting or self._running:
                    self._fill(waiting, ahead)
                    try:
                        future = self._over.get(timeout=0.5)
                    except queue.Empty:
                        self._progress.show()
                        continue
                    spec = self._running.pop(future)
                    outcome = self._outcome(future, spec)
                    if outcome is None:
                        waiting.appendleft(spec)
                        continue
                    if outcome.stop:
                        yield self._keep(outcome)
                        return
                    self._fill(waiting, ahead)  # workers need not wait while a scene is made
                    yield self._keep(outcome)
            finally:
                self._finish()

    def _fill(self, waiting: deque[PairSpec], ahead: _ReadAhead) -> None:
        """Give idle workers something to do."""
        for _ in range(min(len(waiting), self._limit() - len(self._running))):
            self._submit(waiting.popleft(), ahead)
        ahead.want(waiting)

    def _limit(self) -> int:
        """How many pairs may be with the scheduler: on this machine one per worker, so that a death has one suspect."""
        try:
            slots = sum(self._client.nthreads().values())
        except (OSError, TimeoutError, RuntimeError, AttributeError) as error:
            raise self._lost() from error
        now = time.monotonic()
        if slots:
            self._heard = now
        elif now - self._heard > _QUIET_SECONDS and not self._warned:
            self._warned = True
            warnings.warn("The scheduler has no workers; waiting for some.", CycleRegWarning, stacklevel=2)
        return slots if self._local else max(_SUBMITTED, 2 * slots)

    def _submit(self, spec: PairSpec, ahead: _ReadAhead) -> None:
        key = f"cyclereg-{self._job.run}-{spec.id}-{self._returned[spec.id]}"
        future = self._client.submit(
            run_pair, spec, self._job, ahead.take(spec), self._local, key=key, pure=False, retries=0
        )
        self._running[future] = spec
        future.add_done_callback(self._over.put)

    def _outcome(self, future: Any, spec: PairSpec) -> Outcome | None:
        """What became of a pair; None if it is to be tried again."""
        from distributed import KilledWorker

        from .pair import MOST_ATTEMPTS, Outcome, kept_record

        if future.status == "finished":
            return future.result()
        if future.status != "error":
            raise self._lost()
        error = future.exception()
        attempts = len(self._job.folder.begun(spec.id, self._job.run))
        self._returned[spec.id] += 1
        done = kept_record(spec, self._job)
        if done is not None and done.status == "done":  # its worker died after it was done
            return Outcome(done)
        if isinstance(error, KilledWorker) and max(attempts, self._returned[spec.id]) < MOST_ATTEMPTS:
            return None  # pairs that only waited on a worker that died are no suspects
        if isinstance(error, KilledWorker):
            return given_up(spec.id, self._job, max(attempts, self._returned[spec.id]))
        reason = str(error) if isinstance(error, CycleRegError) else f"{type(error).__name__}: {error}"
        record = failed_record(spec.id, f"A worker could not run it. {reason}", attempts)
        return _recorded(record, self._job)

    def _lost(self) -> CycleRegError:
        return CycleRegError("The connection to the Dask scheduler was lost. The same command goes on from here.")

    def _finish(self) -> None:
        """However the loop ended: workers finish what they write, and drop what they compute."""
        if not self._running:
            return
        from .pair import Outcome

        with contextlib.suppress(OSError, TimeoutError, RuntimeError):  # the scheduler is gone, and with it the pairs
            self._client.run(_stop, self._job.run)
            until = time.monotonic() + _FINISH_SECONDS
            while self._running and time.monotonic() < until:
                with contextlib.suppress(queue.Empty):
                    future = self._over.get(timeout=0.5)
                    self._running.pop(future)
                    outcome = future.result() if future.status == "finished" else None
                    if isinstance(outcome, Outcome) and outcome.record.status != "skipped":
                        self._keep(outcome)


class _ReadAhead:
    """Hashes the inputs of the next pairs while workers compute; so they also are in memory when workers read them."""

    def __init__(self, active: bool) -> None:
        from .fingerprint import Hashes

        self._active, self._hashes = active, Hashes()
        self._pool = ThreadPoolExecutor(1, "cyclereg-read")
        self._found: dict[str, Future[Identity]] = {}

    def __enter__(self) -> _ReadAhead:
        return self

    def __exit__(self, *_: object) -> None:
        for future in self._found.values():
            future.cancel()
        self._pool.shutdown()

    def want(self, waiting: deque[PairSpec]) -> None:
        """Begin with the next pairs."""
        if self._active:
            for spec in list(waiting)[:_READ_AHEAD]:
                if spec.id not in self._found:
                    self._found[spec.id] = self._pool.submit(self._hashes.identify, spec)

    def take(self, spec: PairSpec) -> Identity | None:
        """What was found; None where the worker has to look for itself."""
        future = self._found.pop(spec.id, None)
        if future is None or future.cancel() or future.exception() is not None:
            return None
        return future.result()


# ---------------------------------------------------------------------- in workers

_ONE_AT_A_TIME = threading.Lock()
_STOPPED: set[str] = set()
_WORKERS: dict[str, Worker] = {}


def dask_setup(worker: Any) -> None:
    """Called by Dask in every process that it starts on this machine."""
    # Ctrl-C reaches all processes of a terminal; the one that was given the command tells the others what to do.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.filterwarnings("ignore", category=CycleRegWarning)  # they are in the pair's summary


def run_pair(spec: PairSpec, job: Job, identity: Identity | None, local: bool) -> Outcome:
    """Read, compute and write one pair; what Dask calls in a worker."""
    from .pair import MOST_ATTEMPTS, Computed, Loaded, Outcome

    with _ONE_AT_A_TIME:
        if not job.folder.partial.is_dir():
            raise InputError(
                f"The worker on {socket.gethostname()} does not see the folder {job.output}. All workers need the same "
                "paths: give folders of a shared file system."
            )
        attempt = len(job.folder.begun(spec.id, job.run)) + 1
        if attempt > MOST_ATTEMPTS:
            return given_up(spec.id, job, attempt - 1)
        worker = _this_worker(job, local)
        partial = worker.begin(spec, job, attempt)
        if isinstance(partial, Outcome):
            return partial
        try:
            _check_stopped(job)
            done: Any = worker.read(spec, job, identity)
            if isinstance(done, Loaded):
                done = worker.compute(done, partial, job, attempt, lambda stage, fraction: _check_stopped(job))
            if isinstance(done, Computed):
                done = worker.write(done, job)
        except Cancelled:
            done = Outcome(BatchRecord(spec.id, "skipped", "the run was cancelled while it was computed"))
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return done


def given_up(spec_id: str, job: Job, attempts: int) -> Outcome:
    """The outcome of a pair with which workers died as often as they may."""
    hosts = ", ".join(job.folder.hosts(spec_id))
    reason = (
        f"Its worker died {attempts} times{f' (on {hosts})' if hosts else ''} while it was computed, perhaps because "
        "memory ran out. Crop the images, resample them coarser, or use fewer workers."
    )
    return _recorded(failed_record(spec_id, reason, attempts), job)


def _recorded(record: BatchRecord, job: Job) -> Outcome:
    from .pair import Outcome

    try:
        job.folder.fail(record)
    except OSError as error:
        return Outcome(record, error.strerror or str(error))
    return Outcome(record)


def _this_worker(job: Job, local: bool) -> Worker:
    """What this process keeps from pair to pair of a run."""
    if job.run not in _WORKERS:
        import torch
        from distributed import get_worker

        from .pair import Worker

        dask_worker = get_worker()
        if job.threads is not None:
            torch.set_num_threads(job.threads)
        name, device = (
            (f"worker {dask_worker.name}", None) if local else (f"{socket.gethostname()} {dask_worker.name}", None)
        )
        if local and torch.cuda.is_available():  # elsewhere, whoever starts the workers shares out the GPUs
            device = f"cuda:{int(dask_worker.name) % torch.cuda.device_count()}"
        _WORKERS.clear()
        _WORKERS[job.run] = Worker(name, device)
    return _WORKERS[job.run]


def _check_stopped(job: Job) -> None:
    if job.run in _STOPPED:
        raise Cancelled


def _stop(run: str) -> None:
    _STOPPED.add(run)


def _look_around(output: str) -> tuple[str, bool]:
    from .. import __version__

    return __version__, os.path.isdir(os.path.join(output, "pairs"))
