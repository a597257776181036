"""All methods side by side on the same pairs: accuracy, folding, overlap, time and memory.

``python Testing/benchmarks/compare.py --ct CT.nii.gz --ct-labels LABELS.nii.gz --brain OASIS.npz
--methods cyclereg,ants-syn,elastix,convexadam,fireants --seeds 0,1,2 --output Testing/benchmarks/results``

Every run is a process of its own with the same number of threads; methods whose package is not installed are left out.
Writes ``compare.md`` and ``compare.json`` after every run, so that an interrupted comparison keeps what it has.
The definitions of all measures are in README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from comparators import COMPARATORS, thread_environment
from pairs import Pair, brain_pair, ct_pair

from CycleRegLib.fields import DisplacementField
from CycleRegLib.geometry import Grid

KINDS = {"moderate": "CT, moderate field", "large": "CT, large field", "brain": "Brain onto the MNI template"}
BEFORE = "before"


def landmark_errors(pair: Pair, field: sitk.Image | None) -> np.ndarray:
    """|T(fixed point) - true moving point| in mm; through SimpleITK's transform, or before registration."""
    found = pair.fixed_points
    if field is not None:
        transform = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
        found = np.array([transform.TransformPoint(p) for p in found.tolist()])
    return np.linalg.norm(found - pair.moving_points, axis=-1)


def dice(pair: Pair, field: sitk.Image | None) -> dict[int, float]:
    """Dice of every label, the moving labels warped with nearest-neighbour interpolation."""
    transform = sitk.Transform(3, sitk.sitkIdentity)
    if field is not None:
        transform = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    warped = sitk.Resample(pair.moving_labels, pair.fixed_labels, transform, sitk.sitkNearestNeighbor, 0)
    one, other = (sitk.GetArrayFromImage(i) for i in (pair.fixed_labels, warped))
    result = {}
    for label in pair.labels:
        a, b = one == label, other == label
        result[int(label)] = float(2.0 * np.sum(a & b) / max(1, a.sum() + b.sum()))
    return result


def judge(pair: Pair, field: sitk.Image | None) -> dict:
    """The measures of one field (or, with None, of doing nothing)."""
    result: dict = {}
    if len(pair.fixed_points):
        errors = landmark_errors(pair, field)
        result["landmarks_mm"] = {
            **{k: round(float(v), 4) for k, v in zip(("mean", "median"), (errors.mean(), np.median(errors)))},
            "p95": round(float(np.percentile(errors, 95)), 4),
            "max": round(float(errors.max()), 4),
            "count": len(errors),
            **{f"mean_{s}": round(float(errors[pair.point_set == s].mean()), 4) for s in np.unique(pair.point_set)},
        }
    by_label = dice(pair, field)
    result["dice"] = {"mean": round(float(np.mean(list(by_label.values()))), 4)}
    result["dice"] |= {str(k): round(v, 4) for k, v in by_label.items()}
    if field is not None:
        determinant = DisplacementField.from_image(field).jacobian_determinant()
        result["folding_percent"] = round(float(100.0 * np.mean(determinant <= 0)), 5)
        result["jacobian_min"] = round(float(determinant.min()), 4)
        result["jacobian_max"] = round(float(determinant.max()), 4)
    return result


def run(
    method: str, pair_folder: Path, threads: int, timeout: float, window: tuple[float, float] | None = None
) -> tuple[sitk.Image | None, dict]:
    """One method on one pair in a fresh process: its field (None if it failed) and time, memory, version or error."""
    field, about = pair_folder / f"{method}.mha", pair_folder / f"{method}.json"
    command = [sys.executable, str(Path(__file__).with_name("comparators.py")), method]
    command += ["--pair", str(pair_folder), "--output", str(field), "--json", str(about), "--threads", str(threads)]
    if window:
        command += ["--window", *map(str, window)]
    log = pair_folder / f"{method}.log"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    start = time.perf_counter()
    with log.open("wb") as out:
        try:
            code = subprocess.run(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | thread_environment(threads),
                timeout=timeout,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            return None, {"error": f"stopped after {timeout:.0f} s"}
    if code != 0:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return None, {"error": f"exit status {code}: {lines[-1] if lines else 'no output'}"}
    measured = json.loads(about.read_text())
    measured["process_seconds"] = round(time.perf_counter() - start, 2)
    measured["load_before"] = load
    return sitk.ReadImage(str(field)), measured


def pairs_of(arguments: argparse.Namespace) -> Iterator[tuple[str, int | None, Pair]]:
    """Kind, seed and pair, made one after the other."""
    for kind, scale in (("moderate", 1.0), ("large", 3.0)):
        if arguments.ct and kind in arguments.pairs:
            for seed in arguments.seeds:
                yield kind, seed, ct_pair(arguments.ct, arguments.ct_labels, seed, scale)
    if arguments.brain and "brain" in arguments.pairs:
        yield "brain", None, brain_pair(arguments.brain, arguments.cache)


def machine(threads: int) -> dict:
    """Processor, number of cores, threads given to each method, and versions of what is shared."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    import torch

    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "simpleitk": sitk.Version.VersionString(),
        "numpy": np.__version__,
    }


def revision() -> str:
    """The commit of the working tree, with ``+`` when tracked files differ from it; empty outside git."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "-uno", "--", "../../CycleRegLib"],
            cwd=here,
            capture_output=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+" if changed else "")


def command_line(argv: list[str]) -> str:
    """The command with files named without their folders: results are published, this machine's folders are not."""
    shown = [Path(a).name if Path(a).is_absolute() else a for a in argv]
    return "python Testing/benchmarks/compare.py " + shlex.join(shown)


def _mean(records: list[dict], *keys: str) -> float | None:
    values = []
    for record in records:
        for key in keys:
            record = record.get(key, {})
        if record != {}:
            values.append(record)
    return float(np.mean(values)) if values else None


def _cell(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _table(kind: str, records: list[dict], methods: list[str]) -> list[str]:
    brain = kind == "brain"
    head = ["method", "Dice grey", "Dice white", "Dice mean"] if brain else ["method", "mean", "median", "p95"]
    head += [] if brain else ["mean organs", "mean body", "Dice organs"]
    head += ["folding %", "seconds", "CPU s", "peak MB"]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for method in [BEFORE, *methods]:
        here = [r for r in records if r["method"] == method]
        good = [r for r in here if "error" not in r]
        if here and not good:
            lines.append(f"| {method} | failed: {here[0]['error']}" + " |" * (len(head) - 1))
        if not good:
            continue
        cells = [method + (f" ({len(here) - len(good)} failed)" if len(good) < len(here) else "")]
        if brain:
            cells += [_cell(_mean(good, "dice", k), 3) for k in ("1", "2", "mean")]
        else:
            cells += [
                _cell(_mean(good, "landmarks_mm", k), 2) for k in ("mean", "median", "p95", "mean_organ", "mean_body")
            ]
            cells.append(_cell(_mean(good, "dice", "mean"), 3))
        cells.append(_cell(_mean(good, "folding_percent"), 3))
        cells += [_cell(_mean(good, k), 1) for k in ("seconds", "cpu_seconds")]
        cells.append(_cell(_mean(good, "peak_memory_mb"), 0))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def markdown(results: dict) -> str:
    """The comparison as Markdown tables, from what is in ``compare.json``."""
    records, about = results["runs"], results["machine"]
    methods = [m for m in COMPARATORS if any(r["method"] == m for r in records)]
    lines = ["# Comparison", ""]
    lines += ["Made with", "", *(f"    {c}" for c in results["commands"])]
    lines += [
        "",
        f"{about['processor']}, {about['cores']} cores, {about['threads']} threads per method; "
        f"Python {about['python']}, PyTorch {about['torch']}, SimpleITK {about['simpleitk']}, NumPy {about['numpy']}. "
        "Landmark errors in mm; every cell is the mean over the seeds. Definitions: [README](../README.md).",
    ]
    for kind, title in KINDS.items():
        here = [r for r in records if r["kind"] == kind]
        if not here:
            continue
        seeds = sorted({r["seed"] for r in here if r["seed"] is not None})
        lines += ["", f"## {title}" + (f" (seed {', '.join(map(str, seeds))})" if seeds else ""), ""]
        lines += _table(kind, here, methods)
        if len(seeds) > 1:
            lines += ["", "Mean landmark error by seed:", "", "| method | " + " | ".join(map(str, seeds)) + " |"]
            lines.append("|---" + "|---:" * len(seeds) + "|")
            for method in [BEFORE, *methods]:
                row = [
                    _mean([r for r in here if (r["method"], r["seed"]) == (method, s)], "landmarks_mm", "mean")
                    for s in seeds
                ]
                lines.append(f"| {method} | " + " | ".join(_cell(v, 2) for v in row) + " |")
    lines += ["", "## Methods", "", "| method | package | settings |", "|---|---|---|"]
    for method in methods:
        versions = sorted({r["version"] for r in records if r["method"] == method and "version" in r})
        package = f"{COMPARATORS[method].package} {', '.join(versions)}"
        windows = sorted({tuple(r["window"]) for r in records if r["method"] == method and r.get("window")})
        settings = COMPARATORS[method].settings + "".join(f"; CT clamped to {a:g}..{b:g} HU" for a, b in windows)
        lines.append(f"| {method} | {package} | {settings} |")
    return "\n".join(lines) + "\n"


def write(results: dict, folder: Path) -> None:
    """Replace ``compare.json`` and ``compare.md`` as a whole."""
    for name, text in (("compare.json", json.dumps(results, indent=1) + "\n"), ("compare.md", markdown(results))):
        part = folder / f".{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(folder / name)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ct", type=Path, help="abdominal CT, NIfTI")
    parser.add_argument("--ct-labels", type=Path, help="its TotalSegmentator labels")
    parser.add_argument("--brain", type=Path, help="OASIS scan, .npz with vol and seg")
    parser.add_argument("--methods", default=",".join(COMPARATORS), help="comma-separated; default: all")
    parser.add_argument("--pairs", default=",".join(KINDS), help="comma-separated kinds: moderate, large, brain")
    parser.add_argument("--seeds", default="0,1,2", help="seeds of the random fields, comma-separated")
    parser.add_argument("--skip", default="", help="METHOD:KIND, comma-separated, e.g. fireants:brain")
    parser.add_argument(
        "--ct-window", default="-200,300", help="HU that CTs are clamped to for the comparators, LOW,HIGH or none"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of every method")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds after which a run is stopped")
    parser.add_argument("--cache", type=Path, default=Path("bench-cache"), help="keeps the brain's affine transform")
    parser.add_argument("--append", action="store_true", help="keep earlier runs of the same output folder")
    parser.add_argument("--output", type=Path, required=True, help="folder for compare.md and compare.json")
    arguments = parser.parse_args(argv)
    for name, known in (("methods", COMPARATORS), ("pairs", KINDS)):
        chosen = getattr(arguments, name).split(",")
        unknown = [c for c in chosen if c not in known]
        if unknown:
            parser.error(f"unknown {name}: {', '.join(unknown)}; known: {', '.join(known)}")
        setattr(arguments, name, chosen)
    arguments.seeds = [int(s) for s in arguments.seeds.split(",")]
    window = None if arguments.ct_window == "none" else tuple(float(v) for v in arguments.ct_window.split(","))
    if window and (len(window) != 2 or window[0] >= window[1]):
        parser.error("--ct-window is LOW,HIGH in HU, or none")
    arguments.ct_window = window
    arguments.skip = [s for s in arguments.skip.split(",") if s]
    if not (arguments.ct or arguments.brain):
        parser.error("name a CT with its labels (--ct, --ct-labels) or a brain (--brain)")
    if bool(arguments.ct) != bool(arguments.ct_labels):
        parser.error("--ct and --ct-labels belong together")
    for method, _, kind in (s.partition(":") for s in arguments.skip):
        if method not in COMPARATORS or kind not in KINDS:
            parser.error(f"--skip is METHOD:KIND, not {method}:{kind}")
    for path in (arguments.ct, arguments.ct_labels, arguments.brain):
        if path and not path.exists():
            parser.error(f"there is no {path}")
    return arguments


def main(argv: list[str]) -> int:
    arguments = parse(argv)
    arguments.output.mkdir(parents=True, exist_ok=True)
    results = {"commands": [], "machine": machine(arguments.threads), "runs": []}
    earlier = arguments.output / "compare.json"
    if arguments.append and earlier.exists():
        results = json.loads(earlier.read_text(encoding="utf-8")) | {"machine": results["machine"]}
    results["commands"].append(command_line(argv))
    methods = [m for m in arguments.methods if COMPARATORS[m].installed]
    for missing in sorted(set(arguments.methods) - set(methods)):
        print(f"{missing}: left out, the package {COMPARATORS[missing].package} is not installed")

    def record(kind: str, seed: int | None, method: str, found: dict) -> None:
        key = (kind, seed, method)
        results["runs"] = [r for r in results["runs"] if (r["kind"], r["seed"], r["method"]) != key]
        results["runs"].append({"kind": kind, "seed": seed, "method": method, **found})
        write(results, arguments.output)

    failed = 0
    for kind, seed, pair in pairs_of(arguments):
        record(kind, seed, BEFORE, judge(pair, None))
        with tempfile.TemporaryDirectory() as folder:
            pair.write(Path(folder))
            for method in methods:
                if f"{method}:{kind}" in arguments.skip:
                    continue
                # the project's own method gets the CT as it is
                window = arguments.ct_window if kind != "brain" and method != "cyclereg" else None
                field, found = run(method, Path(folder), arguments.threads, arguments.timeout, window)
                found["window"] = window
                if field is not None:
                    if not Grid.of(field).same_as(Grid.of(pair.fixed)):
                        raise RuntimeError(f"{method} gave a field that is not on the fixed grid")
                    found |= judge(pair, field)
                if method == "cyclereg":
                    found["commit"] = revision()
                failed += field is None
                record(kind, seed, method, found)
                shown = ("error", "landmarks_mm", "dice", "folding_percent", "seconds", "peak_memory_mb")
                print(f"{pair.name} {method}: { ({k: found[k] for k in shown if k in found}) }", flush=True)
    print(f"wrote {arguments.output / 'compare.md'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
