"""Throughput of batches with one and two workers, and what a pair costs beyond its registration.

    python Testing/benchmarks/batch.py --output Testing/benchmarks/results

makes pairs of two-phase abdomens (the sample, with another anatomy each), and runs, each in a process of its own:

* ``register``: ``CycleRegLib.register`` on images in memory, one after the other, nothing read or written;
* ``by hand``: the same with reading both images and writing transform, inverse and warped image, as in a simple
  script;
* ``batch``: ``run_batch`` with one worker of one thread, with one worker of as many threads as there are cores, and
  with two workers (on more cores also with one for each) of one thread.

All of them first do one pair that does not count.  Everything is run several times in turn, so that what else the
machine does meets all alike; a turn that would not be over in time is left out.  Throughput of several workers is taken
between the pair with which every worker has begun to deliver and the last but (workers - 1) one, so that neither
starting the workers nor the end, when some have nothing left to do, counts; the whole time is given beside it.
Processor seconds per pair tell what a pair costs also where other programs take turns with it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

KINDS = ("register", "by hand", "batch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, metavar="DIR", help="where batch.md and batch.json go")
    parser.add_argument("--pairs", type=int, default=14, help="pairs of each run (default 14)")
    parser.add_argument("--scale", type=float, default=1.5, help="voxels of the sample this much larger (default 1.5)")
    parser.add_argument("--repeats", type=int, default=2, help="how often everything is run, in turn (default 2)")
    parser.add_argument("--minutes", type=float, default=10, help="begin no turn that may end later (default 10)")
    parser.add_argument("--work", metavar="DIR", help="folder for pairs and results (default: a temporary one)")
    parser.add_argument("--one", nargs=3, metavar=("KIND", "WORKERS", "THREADS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        kind, workers, threads = arguments.one[0], int(arguments.one[1]), int(arguments.one[2])
        print(json.dumps(measure(kind, workers, threads, Path(arguments.work))))
        return
    with tempfile.TemporaryDirectory(prefix="cyclereg-batch-") as temporary:
        folder = Path(arguments.work or temporary)
        make_pairs(folder, arguments.pairs + 1, arguments.scale)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        plan = [(kind, 1, 1) for kind in KINDS]
        plan += [("batch", 2, 1), *([("batch", cores, 1)] if cores > 2 else [])]
        plan += [(kind, 1, cores) for kind in ("register", "batch") if cores > 1]
        runs: list[dict[str, Any]] = []
        began = time.perf_counter()
        for repeat in range(arguments.repeats):
            if repeat and (time.perf_counter() - began) * (repeat + 1) / repeat > 60 * arguments.minutes:
                print("No time is left for another turn.", flush=True)
                break
            for kind, workers, threads in plan:
                print(f"{repeat + 1}/{arguments.repeats}: {kind}, {workers} worker(s), {threads} thread(s)", flush=True)
                runs.append(run_alone(kind, workers, threads, folder))
                write(Path(arguments.output), runs, arguments, folder, cores)
    print((Path(arguments.output) / "batch.md").read_text(encoding="utf-8"))


def make_pairs(folder: Path, count: int, scale: float) -> None:
    """The pairs and their manifest; the first pair is the one that does not count."""
    from CycleRegLib.phantom import write_sample

    folder.mkdir(exist_ok=True)
    lines = ["id,fixed,moving"]
    for seed in range(count):
        place = folder / f"sample{seed}"
        if not place.is_dir():
            place.mkdir()
            write_sample(place, seed=seed, scale=scale)
        lines.append(f"p{seed:03},sample{seed}/fixed.nrrd,sample{seed}/moving.nrrd")
    (folder / "warm.csv").write_text("\n".join(lines[:2]) + "\n", encoding="utf-8")
    (folder / "pairs.csv").write_text("\n".join([lines[0], *lines[2:]]) + "\n", encoding="utf-8")


def run_alone(kind: str, workers: int, threads: int, folder: Path) -> dict[str, Any]:
    """One measurement in a process of its own."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    command = [sys.executable, __file__, "--output", ".", "--work", str(folder), "--one", kind, str(workers)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([*command, str(threads)], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return {**json.loads(done.stdout.splitlines()[-1]), "load_before": load}


def measure(kind: str, workers: int, threads: int, folder: Path) -> dict[str, Any]:
    """Seconds of every pair, or the times at which they were complete."""
    import torch

    import CycleRegLib

    torch.set_num_threads(threads)
    found: dict[str, Any] = {"kind": kind, "workers": workers, "threads": threads}
    rows = [line.split(",") for line in (folder / "pairs.csv").read_text(encoding="utf-8").splitlines()[1:]]
    output = folder / "out"
    shutil.rmtree(output, ignore_errors=True)
    if kind == "batch":
        list(CycleRegLib.run_batch(folder / "warm.csv", output, threads=threads))
        began, processor = time.perf_counter(), time.process_time()
        ends = [
            time.perf_counter() - began
            for _ in CycleRegLib.run_batch(folder / "pairs.csv", output, workers=workers, threads=threads)
        ]
        found.update(whole=time.perf_counter() - began, ends=ends, bytes=sizes(folder, output))
        if workers == 1:
            found["processor"] = (time.process_time() - processor) / len(rows)
            began = time.perf_counter()
            list(CycleRegLib.run_batch(folder / "pairs.csv", output))
            found["kept"] = (time.perf_counter() - began) / len(rows)
        return found
    output.mkdir()
    seconds, processors = [], []
    for number, (_, fixed, moving) in enumerate([rows[0], *rows]):
        began, processor = time.perf_counter(), time.process_time()
        images = [CycleRegLib.read_image(folder / path) for path in (fixed, moving)]
        if kind == "register":
            began, processor = time.perf_counter(), time.process_time()
        result = CycleRegLib.register(*images)
        if kind == "by hand":
            from CycleRegLib.images import write_image, write_transform

            write_transform(result.field, output / "transform.h5")
            write_transform(result.inverse, output / "inverse_transform.h5")
            write_image(result.warped, output / "warped.nrrd")
        if number:
            seconds.append(time.perf_counter() - began)
            processors.append(time.process_time() - processor)
    found.update(seconds=seconds, whole=sum(seconds), processor=statistics.fmean(processors))
    return found


def sizes(folder: Path, output: Path) -> dict[str, float]:
    """Mean bytes read and written for a pair."""
    inputs = [path.stat().st_size for path in folder.glob("sample*/[fm][io][xv]*.nrrd") if ".seg" not in path.name]
    written = [path.stat().st_size for path in output.glob("pairs/*/*") if path.is_file()]
    return {"read": 2 * statistics.fmean(inputs), "written": sum(written) / len(list(output.glob("pairs/*")))}


# ---------------------------------------------------------------------- the table


def per_pair(run: dict[str, Any]) -> float:
    """Seconds from one pair to the next."""
    if run["kind"] != "batch":
        return statistics.fmean(run["seconds"])
    ends, workers = run["ends"], run["workers"]
    if workers == 1:
        return run["whole"] / len(ends)
    return (ends[-workers] - ends[workers - 1]) / (len(ends) - 2 * workers + 1)


def _order(key: tuple[str, int, int]) -> tuple[int, int, int]:
    kind, workers, threads = key
    return workers, threads, KINDS.index(kind)


def write(output: Path, runs: list[dict[str, Any]], arguments: argparse.Namespace, folder: Path, cores: int) -> None:
    from CycleRegLib.images import read_image

    output.mkdir(exist_ok=True)
    keys = sorted({(run["kind"], run["workers"], run["threads"]) for run in runs}, key=_order)
    groups = {key: [r for r in runs if (r["kind"], r["workers"], r["threads"]) == key] for key in keys}
    mean = {key: statistics.fmean(per_pair(run) for run in group) for key, group in groups.items()}
    work = {
        key: statistics.fmean(run["processor"] for run in group)
        for key, group in groups.items()
        if "processor" in group[0]
    }
    size = "x".join(map(str, read_image(folder / "sample0" / "fixed.nrrd").GetSize()))
    lines = [
        "# Batches",
        "",
        f"{arguments.pairs} pairs of two-phase abdomens, fixed image {size} voxels, the default method with its affine "
        f"stage; {cores} cores ({platform.processor() or platform.machine()}), Python {platform.python_version()}. "
        f"Every line is the mean of {len(groups[keys[0]])} run(s), in brackets each of them. The machine's load before "
        f"the first run was {runs[0]['load_before'] or 0:.1f}. Made by "
        f"`python Testing/benchmarks/batch.py --pairs {arguments.pairs} --scale {arguments.scale:g}`.",
        "",
        "| what | workers | threads of each | seconds per pair | pairs per hour | against bare `register` "
        "| against one worker | processor s per pair | against bare `register` | whole run, s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key, group in groups.items():
        kind, workers, threads = key
        each = ", ".join(f"{per_pair(run):.3f}" for run in group)
        bare, one = ("register", 1, threads), mean.get(("batch", 1, threads))
        compared = bare in mean and workers == 1 and kind != "register"
        extra, more = (f"{100 * (v[key] / v[bare] - 1):+.1f} %" if compared else "" for v in (mean, work))
        gain = "" if one is None or workers == 1 else f"{one / mean[key]:.2f} times"
        whole = statistics.fmean(run["whole"] for run in group)
        name = {"register": "bare `register`", "by hand": "read, register, write by hand", "batch": "`cyclereg batch`"}
        lines.append(
            f"| {name[kind]} | {workers} | {threads} | {mean[key]:.3f} ({each}) | {3600 / mean[key]:.0f} | {extra} "
            f"| {gain} | {f'{work[key]:.3f}' if key in work else ''} | {more} | {whole:.1f} |"
        )
    batches = [run for run in runs if run["kind"] == "batch"]
    if batches:
        read, written = (statistics.fmean(run["bytes"][k] for run in batches) / 1e6 for k in ("read", "written"))
        kept = [run["kept"] for run in batches if "kept" in run]
        lines += ["", f"A pair reads {read:.1f} MB and writes {written:.1f} MB."]
        lines.append(f"Going on after a finished batch takes {1000 * statistics.fmean(kept):.1f} ms per kept pair.")
    (output / "batch.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (output / "batch.json").write_text(json.dumps({"cores": cores, "runs": runs}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
