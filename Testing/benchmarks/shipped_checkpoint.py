"""What the shipped network is worth: alone, and as the start of the pair optimisation, against the optimisation alone.

A real CT and a real brain, each against itself after a known random deformation and a change of contrast (see
``pairs.py``); seeds that no setting was chosen with.  All runs of a pair follow each other in one process, so that a
busy machine slows all of them.

    python Testing/benchmarks/shipped_checkpoint.py --ct CT --ct-labels LABELS --brain OASIS.npz
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from compare import machine, revision
from pairs import Pair, brain_known_pair, ct_pair

from CycleRegLib.fields import DisplacementField
from CycleRegLib.optimize import Settings
from CycleRegLib.registration import RegistrationResult, register

RESULTS = Path(__file__).parent / "results"
# Parts of the optimisation's own number of steps, and steps after the network.
SHARES = (0.25, 0.5, 1.0)
STEPS = (8, 32)
WANTED_RATIO, WANTED_SECONDS = 0.5, 3.0


def pairs_of(arguments: argparse.Namespace) -> Iterator[Pair]:
    """One after the other, so that only one is in memory."""
    for scale, seeds in ((1.0, arguments.seeds), (3.0, arguments.seeds[:2])):
        for seed in seeds:
            yield ct_pair(arguments.ct, arguments.ct_labels, seed, scale)
    for seed in arguments.seeds:
        yield brain_known_pair(arguments.brain, seed)


def runs(checkpoint: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and arguments of ``register``, the network alone first."""
    given = {"method": "pyramid", "checkpoint": checkpoint}
    yield "network", {**given, "refine_steps": 0}
    for steps in STEPS:
        yield f"network + {steps} steps", {**given, "refine_steps": steps}
    for share in SHARES:
        own = Settings()
        stages = tuple(replace(stage, steps=max(1, round(share * stage.steps))) for stage in own.stages)
        count = sum(stage.steps for stage in stages)
        yield f"optimisation, {count} steps", {"method": "optimize", "settings": replace(own, stages=stages)}


def errors_mm(pair: Pair, field: DisplacementField) -> np.ndarray:
    """Distances of the landmarks from where they belong, in the moving image."""
    return np.linalg.norm(field.transform_points(pair.fixed_points) - pair.moving_points, axis=-1)


def judged(pair: Pair, result: RegistrationResult) -> dict[str, Any]:
    """The figures of one run."""
    affine = np.c_[pair.fixed_points, np.ones(len(pair.fixed_points))] @ result.affine.T
    errors = errors_mm(pair, result.field)
    return {
        "before_mm": float(np.linalg.norm(pair.fixed_points - pair.moving_points, axis=-1).mean()),
        "affine_mm": float(np.linalg.norm(affine[:, :3] - pair.moving_points, axis=-1).mean()),
        "mean_mm": float(errors.mean()),
        "median_mm": float(np.median(errors)),
        "p95_mm": float(np.percentile(errors, 95)),
        "folding_percent": result.folding_percent,
        "roundtrip_mm": result.roundtrip_mm["mean"],
        "seconds": result.seconds,
        "peak_memory_mb": result.peak_memory_mb,
    }


def measured(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every run of every pair."""
    records = []
    warnings.simplefilter("ignore")
    for number, pair in enumerate(pairs_of(arguments)):
        if number == 0:  # libraries that are loaded at their first use
            register(pair.fixed, pair.moving, method="pyramid", checkpoint=arguments.checkpoint, refine_steps=1)
        for name, options in runs(arguments.checkpoint):
            result = register(pair.fixed, pair.moving, device=arguments.device, **options)
            records.append({"pair": pair.name, "run": name, **judged(pair, result)})
            last = records[-1]
            print(
                f"{pair.name:<18} {name:<26} {last['before_mm']:5.2f} -> {last['mean_mm']:5.2f} mm in "
                f"{last['seconds']['total']:5.1f} s",
                file=sys.stderr,
                flush=True,
            )
    return records


def kinds(records: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Pairs by kind, such as ``ct-moderate``."""
    found: dict[str, list[str]] = {}
    for record in records:
        names = found.setdefault(record["pair"].rpartition("-")[0], [])
        if record["pair"] not in names:
            names.append(record["pair"])
    return found


def mean_of(records: list[dict[str, Any]], pairs: list[str], run: str, *keys: str) -> float:
    """Over the pairs of a kind."""
    values = []
    for record in records:
        if record["pair"] in pairs and record["run"] == run:
            value: Any = record
            for key in keys:
                value = value[key]
            values.append(value)
    return float(np.mean(values))


def curve(records: list[dict[str, Any]], pairs: list[str], names: list[str]) -> np.ndarray:
    """(seconds, mean error) of runs, by seconds."""
    points = [
        (mean_of(records, pairs, n, "seconds", "total"), mean_of(records, pairs, n, "mean_mm")) for n in names
    ]  # fmt: skip
    return np.array(sorted(points))


def markdown(results: dict[str, Any]) -> str:
    """The tables, from what the JSON file holds."""
    records, about = results["runs"], results["machine"]
    names = list(dict.fromkeys(record["run"] for record in records))
    lines = ["# The shipped network, alone and as a start", "", "Made with", "", f"    {results['command']}", ""]
    lines.append(
        f"{about['processor']}, {about['threads']} threads, {results['device']}; PyTorch {about['torch']}; revision "
        f"{results['revision']}. Checkpoint {results['checkpoint']}. Mean distance of landmarks from where they "
        "belong, mm; seconds are of the whole registration: affine stage, network or optimisation, measuring."
    )
    for kind, pairs in kinds(records).items():
        lines += ["", f"## {kind} ({len(pairs)} pairs)", ""]
        lines += ["| | mean mm | median | p95 | folding % | round trip mm | deformation s | total s |"]
        lines += ["|---|---:|---:|---:|---:|---:|---:|---:|"]
        first = names[0]
        for label, key in (("before", "before_mm"), ("affine stage alone", "affine_mm")):
            lines.append(f"| {label} | {mean_of(records, pairs, first, key):.2f} | | | | | | |")
        for name in names:
            seconds = sum(
                mean_of(records, pairs, name, "seconds", key)
                for key in ("network", "optimize")
                if all(key in r["seconds"] for r in records if r["run"] == name)
            )
            cells = [mean_of(records, pairs, name, key) for key in ("mean_mm", "median_mm", "p95_mm")]
            rest = mean_of(records, pairs, name, "folding_percent"), mean_of(records, pairs, name, "roundtrip_mm")
            lines.append(
                f"| {name} | " + " | ".join(f"{v:.2f}" for v in cells) + f" | {rest[0]:.3f} | {rest[1]:.2f} "
                f"| {seconds:.2f} | {mean_of(records, pairs, name, 'seconds', 'total'):.2f} |"
            )
    lines += ["", "## What was asked of it", ""]
    lines += verdict(records)
    return "\n".join(lines) + "\n"


def verdict(records: list[dict[str, Any]]) -> list[str]:
    """Whether the network halves the error in time, and whether it beats the optimisation at equal time."""
    names = list(dict.fromkeys(record["run"] for record in records))
    helped = [n for n in names if n.startswith("network +")]
    alone = [n for n in names if n.startswith("optimisation")]
    lines = ["| | error after / before | network s | halves it in under 3 s | at equal time, network + steps |"]
    lines.append("|---|---:|---:|---|---|")
    for kind, pairs in kinds(records).items():
        ratio = mean_of(records, pairs, "network", "mean_mm") / mean_of(records, pairs, "network", "before_mm")
        seconds = mean_of(records, pairs, "network", "seconds", "network")
        halves = "yes" if ratio <= WANTED_RATIO and seconds < WANTED_SECONDS else "no"
        rival = curve(records, pairs, alone)
        texts = []
        for name in helped:
            time_s = mean_of(records, pairs, name, "seconds", "total")
            own = mean_of(records, pairs, name, "mean_mm")
            if rival[0, 0] <= time_s <= rival[-1, 0]:
                other = float(np.interp(time_s, rival[:, 0], rival[:, 1]))
                word = "better" if own < other else "worse"
                texts.append(f"{time_s:.1f} s: {own:.2f}, alone {other:.2f} ({word})")
        lines.append(f"| {kind} | {ratio:.2f} | {seconds:.2f} | {halves} | {'; '.join(texts) or 'no equal times'} |")
    return lines


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ct", required=True)
    parser.add_argument("--ct-labels", required=True)
    parser.add_argument("--brain", required=True)
    parser.add_argument("--checkpoint", help="other weights than the shipped ones")
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 21])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    began = time.perf_counter()
    records = measured(arguments)
    shown = [Path(a).name if Path(a).is_absolute() else a for a in sys.argv[1:]]
    results = {
        "command": "python Testing/benchmarks/shipped_checkpoint.py " + " ".join(shown),
        "machine": machine(arguments.threads),
        "device": arguments.device,
        "revision": revision(),
        "checkpoint": Path(arguments.checkpoint).name if arguments.checkpoint else "the shipped one",
        "minutes": (time.perf_counter() - began) / 60,
        "runs": records,
    }
    (arguments.output / "shipped_checkpoint.json").write_text(json.dumps(results, indent=1) + "\n")
    text = markdown(results)
    (arguments.output / "shipped_checkpoint.md").write_text(text)
    print(text)


if __name__ == "__main__":
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(2)
    main()
