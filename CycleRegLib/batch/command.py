"""``cyclereg batch``: from the command line to :func:`~.runner.run_batch`, and what is said at the end."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter
from pathlib import Path

from ..errors import CycleRegError, InputError
from ..outputs import OutputTransaction
from .manifest import default_arguments
from .manifest_proposal import propose_manifest


def run_command(arguments: argparse.Namespace) -> None:
    """Run a batch, or propose a manifest.

    Raises
    ------
    CycleRegError
        As :func:`~.runner.run_batch`; with exit status 1 if pairs failed, after everything else is done.
    """
    if arguments.make_manifest is not None:
        if arguments.manifest is not None:
            raise InputError("Give a manifest to run, or --make-manifest and a folder, not both.")
        _propose(arguments.make_manifest, arguments.output)
        return
    if arguments.manifest is None or arguments.output is None:
        raise InputError("Give a manifest and --output OUT, or --make-manifest FOLDER. See cyclereg batch --help.")
    from .runner import run_batch

    records = run_batch(
        arguments.manifest,
        arguments.output,
        workers=arguments.workers,
        scheduler=arguments.scheduler,
        overwrite=arguments.overwrite,
        pictures=arguments.pictures,
        scenes=arguments.scenes,
        reports=arguments.reports,
        pairs=arguments.pairs,
        ids=arguments.ids,
        threads=arguments.threads,
        progress=arguments.progress,
        **{name: getattr(arguments, name) for name in default_arguments()},
    )
    counts: Counter[str] = Counter()
    with contextlib.closing(records):
        for record in records:
            counts[record.status] += 1
    total = sum(counts.values())
    some = arguments.pairs is not None or arguments.ids is not None
    where = Path(arguments.output) / ("pairs" if some else "results.csv")
    said = ", ".join(f"{number} {status}" for status, number in counts.items())
    if arguments.progress != "json":
        print(f"{total} pairs: {said}. Results: {where}")
    if counts["failed"]:
        why = Path(arguments.output) / ("failed" if some else "summary.md")
        raise CycleRegError(f"{counts['failed']} of {total} pairs failed; why is in {why}.")


def _propose(folder: str, output: str | None) -> None:
    text, notes = propose_manifest(folder, None if output is None else Path(output).expanduser().absolute().parent)
    if output is None:
        print(text, end="")
    else:
        with OutputTransaction() as out:
            out.path(output).write_text(text, encoding="utf-8")
    for note in notes:
        print(f"cyclereg: note: {note}", file=sys.stderr)
