"""Register the pairs of a test list by every method, through the library's batches, and write the tables."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from CycleRegLib import __version__
from CycleRegLib.batch import BatchRecord, read_manifest, run_batch
from CycleRegLib.errors import InputError
from CycleRegLib.outputs import OutputTransaction

from .scores import Measure, Score, Scores
from .specs import BEFORE, MethodSpec
from .tables import boxes, csv_text, failures_table, json_content, means_table, wilcoxon_table
from .wilcoxon import Comparison, compare_all

METHODS, BOXES = "methods", "boxes"
_RESULT = "evaluation.json"

#: The papers' measures.  Differences of tumours are warped - fixed, sizes without sign.
MEASURES = (
    Measure("tre_mm", "TRE", "mm", "smaller"),
    Measure("tumor_major_difference_mm", "Tumour long diameter, difference", "mm", "smaller"),
    Measure("tumor_minor_difference_mm", "Tumour short diameter, difference", "mm", "smaller"),
    Measure("tumor_volume_difference_ml", "Tumour volume, difference", "mL", "smaller"),
    Measure("dice_mean", "Dice", "", "larger"),
    Measure("iou_mean", "IoU", "", "larger"),
    Measure("hd95_mean_mm", "HD95", "mm", "smaller"),
    Measure("bir_all", "BIR", "", "larger"),
    Measure("nmse", "NMSE", "", "smaller"),
    Measure("ssim", "SSIM", "", "larger"),
    Measure("lncc", "LNCC", "", "larger"),
    Measure("folding_percent", "Folding", "% of voxels", "smaller"),
    Measure("jacobian_sd", "SD of the Jacobian determinant"),
    Measure("jacobian_sd_log", "SD of its logarithm"),
    Measure("roundtrip_mean_mm", "Round trip", "mm", "smaller"),
    Measure("reversibility_nmse", "NMSE, there and back", "", "smaller"),
    Measure("seconds", "Time", "s", "smaller"),
)


def evaluate_methods(
    rows: Sequence[Mapping[str, Any]],
    specs: Sequence[MethodSpec],
    output: str | Path,
    compared: Sequence[tuple[str, str]] | None = None,
    overwrite: bool = False,
    workers: int = 1,
    threads: int | None = None,
    progress: str = "none",
) -> Scores:
    """Register every pair by every method, measure, and write the tables into a folder.

    Pairs that are complete from an earlier run with the same files and options are kept; a pair that fails is recorded
    and the rest goes on.

    Parameters
    ----------
    rows
        As :func:`~.test_list.read_test_list` gives them.
    output
        Gets ``evaluation.md``, ``evaluation.csv``, ``evaluation.json``, ``boxes/`` and, in ``methods/``, a batch for
        each method.
    compared
        Names of methods, or "before registration", between which there are Wilcoxon tests; every two methods when left
        out.
    overwrite, workers, threads, progress
        As :func:`~CycleRegLib.batch.run_batch` takes them.

    Raises
    ------
    InputError
        For pairs or methods that cannot be, before anything is registered, or if nothing can be written.
    Cancelled
        After Ctrl-C; the same call goes on from there.
    """
    names = [spec.name for spec in specs]
    for name in {name for pair in compared or () for name in pair}:
        if name not in (*names, BEFORE):
            raise InputError(f"There is no method '{name}' to compare; there are {', '.join(names)}.")
    folder = _folder(output)
    for spec in specs:
        read_manifest(rows, _columns(spec))
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    (folder / METHODS).mkdir(exist_ok=True)
    records: dict[str, list[BatchRecord]] = {}
    for spec in specs:
        batch = run_batch(
            rows, folder / METHODS / spec.name, workers=workers, threads=threads, overwrite=overwrite,
            progress=progress, measure=True, **_columns(spec),
        )  # fmt: skip
        with contextlib.closing(batch):
            records[spec.name] = list(batch)
    scores = scores_of([str(row["id"]) for row in rows], records)
    comparisons = compare_all(scores, list(itertools.combinations(names, 2)) if compared is None else compared)
    write(folder, scores, comparisons, specs)
    return scores


def _folder(output: str | Path) -> Path:
    folder = Path(output).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"Cannot write the evaluation into {folder}: it is a file. Give the name of a folder.")
    if not folder.absolute().parent.is_dir():
        raise InputError(f"Cannot write the evaluation into {folder}: its parent folder does not exist. Create it.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / METHODS).is_dir():
        raise InputError(f"The folder {folder} holds something else than an evaluation. Give a new one.")
    return folder


def _columns(spec: MethodSpec) -> dict[str, Any]:
    return {**spec.options, "method": spec.method, "checkpoint": spec.checkpoint}


# ---------------------------------------------------------------------- numbers


def scores_of(pairs: Sequence[str], records: Mapping[str, Sequence[BatchRecord]]) -> Scores:
    """The scores of every method, and before registration.

    What a pair was before is taken from the first method that did it.
    """
    scores = []
    for pair in pairs:
        done = next((r for found in records.values() for r in found if r.id == pair and r.complete), None)
        if done is not None:
            scores.append(Score(pair, BEFORE, dict(_values(done, "before"))))
    for method, found in records.items():
        for record in found:
            values = dict(_values(record, "after"))
            if "register" in record.seconds:
                values["seconds"] = record.seconds["register"]
            scores.append(Score(record.id, method, values, "" if record.complete else record.reason))
    return Scores(MEASURES, scores, BEFORE)


def _values(record: BatchRecord, when: str) -> Iterator[tuple[str, float]]:
    """The record's numbers at one time, named without it; those that have no time belong to the state after.

    Of differences between tumours only the size counts: shrunk and grown ones would cancel in a mean.
    """
    other = "before" if when == "after" else "after"
    for name, value in record.measures.items():
        words = name.split("_")
        if other in words or (when == "before" and when not in words):
            continue
        if when in words:
            place = len(words) - 1 - words[::-1].index(when)
            name = "_".join(words[:place] + words[place + 1 :])
        yield name, abs(value) if name.startswith("tumor_") and "difference" in words else value


# ---------------------------------------------------------------------- files


def write(folder: Path, scores: Scores, comparisons: Sequence[Comparison], specs: Sequence[MethodSpec]) -> None:
    """Write the tables and box plots; all appear, or none.

    Raises
    ------
    InputError
        If they cannot be written.
    """
    about = [
        {"name": s.name, "method": s.method, "checkpoint": s.checkpoint and Path(s.checkpoint).name, **s.options}
        for s in specs
    ]
    content = {"cyclereg": __version__, "methods": about, **json_content(scores, comparisons)}
    with OutputTransaction() as out:
        out.path(folder / _RESULT).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        out.path(folder / "evaluation.csv").write_text(csv_text(scores), encoding="utf-8")
        out.path(folder / "evaluation.md").write_text(_markdown(scores, comparisons, about), encoding="utf-8")
        if scores.measures:
            out.folder(folder / BOXES, "box plots")
        for measure in scores.measures:
            out.path(folder / BOXES / f"{measure.key}.svg").write_text(boxes(scores, measure), encoding="utf-8")


def _markdown(scores: Scores, comparisons: Sequence[Comparison], about: Sequence[Mapping[str, Any]]) -> str:
    count = len(scores.pairs)
    parts = [
        "# Evaluation",
        f"{count} pair{'' if count == 1 else 's'}, {len(about)} method{'' if len(about) == 1 else 's'}.",
        "\n".join("* " + ", ".join(f"{key} {value}" for key, value in a.items() if value is not None) for a in about),
        "## Mean ± standard deviation",
    ]
    if scores.measures:
        parts += [
            means_table(scores),
            "Over pairs (n − 1); n where it is not that of all pairs. Image measures compare voxels that see the "
            "moving image both before and after, so that they differ a little with the method; before registration "
            "they are those of the first method. Differences of tumours are taken without sign. Time is that of "
            "registering, without reading and measuring.",
        ]
    else:
        parts.append("No pair was registered.")
    if comparisons:
        parts += [
            "## Wilcoxon signed-rank tests",
            wilcoxon_table(scores, comparisons),
            "Two-sided, over pairs that both methods did; n are those on which they differ. p is not corrected for "
            "the number of tests.",
        ]
    if scores.failures:
        parts += ["## Failures", failures_table(scores)]
    if scores.measures:
        parts.append("## Box plots")
        parts += [f"### {m.heading}\n\n![{m.title}]({BOXES}/{m.key}.svg)" for m in scores.measures]
    return "\n\n".join(parts) + "\n"
