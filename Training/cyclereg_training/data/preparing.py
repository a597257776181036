"""All volumes and pairs made ready, by several processes, with what cannot be used named rather than fatal."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from CycleRegLib.errors import InputError, OutOfMemoryError

from .preparation import Item, Preparer, forget

# Starting processes takes seconds; fewer tasks than this are done at once.
_WORTH_PROCESSES = 4


def for_all(
    preparer: Preparer, tasks: Sequence[int | Item], progress: Callable[[float], None], workers: int
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Look at volumes (given by number) or prepare items; ``progress`` is called with the share that is done.

    Yields the place of each task in ``tasks`` as it is done, with what is known of it, or why it cannot be used.
    Processes of one training that start together begin at different places and find what the others made.

    Raises
    ------
    OutOfMemoryError
        If a process was ended by the system, which it is where memory runs out.
    """
    start = _rank() * len(tasks) // max(_world(), 1)
    order = []
    for place in (*range(start, len(tasks)), *range(start)):
        try:
            about = preparer.known(tasks[place])
        except InputError as error:
            about = str(error)
        if about is None:
            order.append(place)
        else:
            yield place, about if isinstance(about, str) else dict(about)
    try:
        there = len(tasks) - len(order)
        for done, (place, found) in enumerate(_results(preparer, tasks, order, workers), start=there + 1):
            progress(done / len(tasks))
            yield place, found
    except BrokenProcessPool as error:
        raise OutOfMemoryError(
            "A process that prepared volumes was ended by the system, probably for lack of memory. Give fewer "
            "data.workers; what was prepared is kept."
        ) from error
    finally:
        forget()


def _results(
    preparer: Preparer, tasks: Sequence[int | Item], order: Sequence[int], workers: int
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    if workers < 2 or len(order) < _WORTH_PROCESSES:
        for place in order:
            yield place, _one(preparer, tasks[place])
        return
    # Not forked: PyTorch's and ITK's threads do not survive that.
    context = multiprocessing.get_context("spawn")
    workers = min(workers, len(order))
    pool = ProcessPoolExecutor(workers, context, _begin, (workers, preparer))
    try:
        futures = [pool.submit(_one_of_worker, tasks[place]) for place in order]
        for place, future in zip(order, futures):
            yield place, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


# What a process of the pool prepares with, sent once.
_worker: list[Preparer] = []


def _begin(workers: int, preparer: Preparer) -> None:
    """In every process of the pool: the processors are shared, and Ctrl-C is the first process's to handle."""
    import SimpleITK as sitk
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threads = max(1, (os.cpu_count() or 1) // workers)
    torch.set_num_threads(threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    _worker[:] = [preparer]


def _one_of_worker(task: int | Item) -> dict[str, Any] | str:
    return _one(_worker[0], task)


def _one(preparer: Preparer, task: int | Item) -> dict[str, Any] | str:
    try:
        return dict(preparer.look(task) if isinstance(task, int) else preparer.item(task).about)
    except InputError as error:
        return str(error)


def _rank() -> int:
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", os.environ.get("SLURM_PROCID", "0"))))


def _world() -> int:
    return int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1")))
