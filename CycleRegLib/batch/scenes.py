"""Scenes of a batch: one ``.mrb`` per pair that 3D Slicer opens, made from the pair's files when they are complete.

They are made in the process that gives the command, one after the other, since Slicer has one scene; workers register
further pairs meanwhile.  A pair that is complete but for its scene gets only that.
"""

from __future__ import annotations

import importlib.util
import shutil
import time

from ..errors import CycleRegError, InputError
from .folders import SCENE
from .manifest import PairSpec
from .pair import Job, Outcome, Worker, collect_warnings

# What a batch adds to the figures of a registration, and is no figure.
_LEFT_OUT = ("status", "attempts", "worker", "run", "measures", "fingerprint", "files")


def check_installed() -> None:
    """Make sure that scenes can be made.

    Raises
    ------
    InputError
        If Slicer's MRML libraries are not there, or Slicer's scene is not empty.
    """
    if importlib.util.find_spec("slicer") is None:
        raise InputError(
            'Scenes need Slicer\'s MRML libraries, which are not installed. Get them with: pip install "cyclereg[mrml]"'
        )
    from ..mrml.pair_scene import empty_scene

    with empty_scene():
        pass


def with_scene(spec: PairSpec, job: Job, outcome: Outcome, worker: Worker) -> Outcome:
    """Make the scene of a complete pair that has none; the pair fails if that fails.

    Parameters
    ----------
    worker
        Stands for this process where that fails.
    """
    record = outcome.record
    summary = job.folder.summary(spec.id) if record.complete else None
    if summary is None or SCENE in summary["files"]:
        return outcome
    from ..mrml.pair_scene import write_pair_scene

    began, place = time.perf_counter(), job.folder.place(spec.id)
    partial = worker.begin(spec, job, 0)
    if isinstance(partial, Outcome):
        return partial
    try:
        figures = {name: value for name, value in summary.items() if name not in _LEFT_OUT}
        with collect_warnings([]):  # they are in the pair's summary
            write_pair_scene(spec.files, place, figures, partial / SCENE)
        seconds = round(time.perf_counter() - began, 3)
        record.seconds = {**summary["seconds"], "scene": seconds}
        record.seconds["total"] = round(sum(v for stage, v in record.seconds.items() if stage != "total"), 3)
        job.folder.add_scene(spec.id, partial, {**summary, "seconds": record.seconds})
        record.status = "done"
        return outcome
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, CycleRegError):
            error = CycleRegError(f"Its scene could not be made; its other files are there. {error}")
        # The bundle's files, less compressed, and then the bundle.
        size = 4 * sum(summary["files"].values())
        return worker.failed(spec, job, error, began, record.attempts, writing=True, size=size)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
