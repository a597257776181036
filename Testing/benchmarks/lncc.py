"""LNCC as a training loss: time and memory, forward and backward, of the project's and of what others would use.

Sides, each in a process of its own on the same images:

* ``cyclereg``: :func:`CycleRegLib.similarity.lncc_between`, windows of the voxels inside the image;
* ``cyclereg-compatible``: the same with the numbers of published training code;
* ``convolutions``: that published formulation, five convolutions with cubes of ones, by autograd;
* ``monai``: MONAI's ``LocalNormalizedCrossCorrelationLoss``, where it is installed (``pip install monai``).

``python Testing/benchmarks/lncc.py --output Testing/benchmarks/results`` writes ``lncc.md`` and ``lncc.json`` there;
where there is a CUDA device its figures are added.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import torch.nn.functional as F
from torch import Tensor

from CycleRegLib.similarity import lncc_between

WINDOW = 9
SIDES = ("cyclereg", "cyclereg-compatible", "convolutions", "monai")
YARDSTICK = "convolutions"
SHAPES = {"cpu": ((1, 1, 128), (2, 1, 128)), "cuda": ((1, 1, 128), (2, 1, 128), (2, 16, 128))}
Loss = Callable[[Tensor, Tensor], Tensor]


def convolutions(a: Tensor, b: Tensor) -> Tensor:
    """Zeros outside, 1e-5 on the product of sums (METHODS.md, "Losses")."""
    a, b = (x.flatten(0, 1).unsqueeze(1) for x in (a, b))
    ones = torch.ones(1, 1, WINDOW, WINDOW, WINDOW, dtype=a.dtype, device=a.device)
    sum_a, sum_b, sum_aa, sum_bb, sum_ab = (
        F.conv3d(x, ones, padding=WINDOW // 2) for x in (a, b, a * a, b * b, a * b)
    )  # fmt: skip
    count = WINDOW**3
    mean_a, mean_b = sum_a / count, sum_b / count
    cross = sum_ab - mean_b * sum_a - mean_a * sum_b + mean_a * mean_b * count
    spread_a = sum_aa - 2 * mean_a * sum_a + mean_a * mean_a * count
    spread_b = sum_bb - 2 * mean_b * sum_b + mean_b * mean_b * count
    return -(cross * cross / (spread_a * spread_b + 1e-5)).mean()


def loss_of(side: str) -> Loss:
    radius = WINDOW // 2
    if side == "cyclereg":
        return lambda a, b: lncc_between(a, b, radius, 1e-5)
    if side == "cyclereg-compatible":
        return lambda a, b: lncc_between(a, b, radius, 0.0, compatible=True)
    if side == "convolutions":
        return convolutions
    from monai.losses import LocalNormalizedCrossCorrelationLoss

    monai = LocalNormalizedCrossCorrelationLoss(spatial_dims=3, kernel_size=WINDOW, kernel_type="rectangular")
    # It sums over channels instead of comparing each: here as images of a batch.
    return lambda a, b: monai(*(x.flatten(0, 1).unsqueeze(1) for x in (a, b)))


def images(batch: int, channels: int, side: int, device: str) -> tuple[Tensor, Tensor]:
    """A random smooth volume and another contrast of it, both with noise, intensities about 0 to 1."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, channels, side, side, side)
    coarse = torch.rand(batch, channels, *[max(4, side // 8)] * 3, generator=generator)
    smooth = F.interpolate(coarse, size=shape[2:], mode="trilinear", align_corners=True)
    warped, fixed = (x + 0.03 * torch.randn(shape, generator=generator) for x in (smooth, 1 - smooth * smooth))
    return warped.to(device).requires_grad_(), fixed.to(device)


# ---------------------------------------------------------------------- one run, in its own process


def _resident(peak: bool) -> int:
    """Bytes of this process in memory, now or at most since the last reset (Linux)."""
    key = "VmHWM:" if peak else "VmRSS:"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {key} in /proc/self/status")


def measure(side: str, device: str, shape: tuple[int, ...], repeats: int, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    loss = loss_of(side)

    def run(warped: Tensor, fixed: Tensor) -> float:
        warped.grad = None
        value = loss(warped, fixed)
        value.backward()
        return value.item()  # waits for a GPU

    run(*images(1, 1, 16, device))  # load libraries
    warped, fixed = images(*shape, device)
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        value = run(warped, fixed)
        peak = torch.cuda.max_memory_allocated() - before
        inputs = before
    else:
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident(peak=False)
        value = run(warped, fixed)
        peak = _resident(peak=True) - before
        inputs = 2 * warped.numel() * 4
    run(warped, fixed)
    seconds, cpu_seconds = [], []
    for _ in range(repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        run(warped, fixed)
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    return {
        "side": side, "device": device, "shape": list(shape), "seconds": seconds,
        "cpu_seconds": cpu_seconds, "median_cpu_s": statistics.median(cpu_seconds),
        "median_s": statistics.median(seconds), "peak_bytes": peak, "input_bytes": inputs, "value": value,
    }  # fmt: skip


def agreement(side: int = 64) -> dict[str, Any]:
    """Values and gradients against the convolutions in float64."""
    warped, fixed = images(1, 1, side, "cpu")
    exact_warped = warped.detach().double().requires_grad_()
    exact = convolutions(exact_warped, fixed.double())
    exact.backward()
    found: dict[str, Any] = {"voxels": side, "convolutions in float64": {"value": exact.item()}}
    for name in available():
        warped.grad = None
        value = loss_of(name)(warped, fixed)
        value.backward()
        difference = (warped.grad - exact_warped.grad).abs().max() / exact_warped.grad.abs().max()
        found[name] = {"value": value.item(), "gradient_difference": difference.item()}
    return found


def available() -> list[str]:
    return [side for side in SIDES if side != "monai" or importlib.util.find_spec("monai")]


# ---------------------------------------------------------------------- all runs


def machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return model[0].split(":")[1].strip() if model else platform.processor()


def child(*arguments: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message")
    return json.loads(done.stdout.splitlines()[-1])


def report(results: dict[str, Any]) -> str:
    lines = [
        "# LNCC as a training loss",
        "",
        f"Window {WINDOW}, float32, forward and backward (gradient of one image). Medians of {results['repeats']} runs "
        "after two; CPU ms are added over threads, so that other work on the machine shows in them least; peak memory "
        "is what is taken beyond the two images. Every side in a process of its own.",
        "",
        f"Made by `{results['command']}` with torch {results['torch']}, MONAI {results['monai']}, "
        f"Python {results['python']}; load of the machine when it began: {results['load']:.1f}.",
    ]
    for device in dict.fromkeys(run["device"] for run in results["runs"]):
        runs = [run for run in results["runs"] if run["device"] == device]
        threads = f", {results['threads']} threads" if device == "cpu" else ""
        lines += ["", f"## {results['machines'][device]}{threads}", ""]
        lines += ["| images | side | ms | CPU ms | times the convolutions' speed | peak MB | share of their memory |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for shape in dict.fromkeys(tuple(run["shape"]) for run in runs):
            same = {run["side"]: run for run in runs if tuple(run["shape"]) == shape}
            base = same.get(YARDSTICK)
            for side, run in same.items():
                ratios = ["", ""]
                if base is not None:
                    ratios = [
                        f"{base['median_s'] / run['median_s']:.1f}", f"{run['peak_bytes'] / base['peak_bytes']:.2f}"
                    ]  # fmt: skip
                name = "x".join(map(str, shape[:2])) + f"x{shape[2]}^3"
                wall, cpu = 1000 * run["median_s"], 1000 * run["median_cpu_s"]
                lines.append(
                    f"| {name} | {side} | {wall:.1f} | {cpu:.1f} | {ratios[0]} | {run['peak_bytes'] / 1e6:.0f} "
                    f"| {ratios[1]} |"
                )
        for failure in results["failures"]:
            if failure["device"] == device:
                lines.append(f"\n{failure['side']} at {failure['shape']}: {failure['message']}")
    if "cuda" not in results["machines"]:
        lines += ["", "No CUDA device was at hand; the script adds its figures where there is one."]
    agreed = results["agreement"]
    exact = agreed["convolutions in float64"]["value"]
    lines += [
        "",
        "For scale: the best public fused CUDA kernel is published with 24.5 ms and 1.07 GB for 2x16x128^3 on an A40; "
        "not measured here.",
        "",
        "## Agreement",
        "",
        f"One pair of {agreed['voxels']}^3; value and largest difference of the gradient (relative to its largest "
        f"entry) from the convolutions in float64, {exact:.7f}. `cyclereg` differs on purpose: it does not count "
        "voxels outside the image, and its constant is a floor of each variance.",
        "",
        "| side | value | difference of the value | of the gradient |",
        "|---|---|---|---|",
    ]
    for side in SIDES:
        if side in agreed:
            own = agreed[side]
            lines.append(
                f"| {side} | {own['value']:.7f} | {own['value'] - exact:.1e} | {own['gradient_difference']:.1e} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of LNCC as a training loss.")
    parser.add_argument("--sides", nargs="*", choices=SIDES, default=list(SIDES))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="folder for lncc.md and lncc.json")
    parser.add_argument("--one", nargs=3, metavar=("SIDE", "DEVICE", "SHAPE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        side, device, shape = args.one
        print(json.dumps(measure(side, device, tuple(map(int, shape.split(","))), args.repeats, args.threads)))
        return
    torch.set_num_threads(args.threads)
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    results: dict[str, Any] = {
        "command": f"python Testing/benchmarks/lncc.py --repeats {args.repeats} --threads {args.threads}",
        "repeats": args.repeats, "threads": args.threads, "torch": torch.__version__,
        "python": platform.python_version(), "machines": {device: machine(device) for device in devices},
        "load": os.getloadavg()[0], "monai": "not installed", "runs": [], "failures": [],
    }  # fmt: skip
    if "monai" in available():
        import monai

        results["monai"] = monai.__version__
    for device in devices:
        for shape in SHAPES[device]:
            for side in [side for side in args.sides if side in available()]:
                text = ",".join(map(str, shape))
                try:
                    run = child(
                        "--one", side, device, text, "--repeats", str(args.repeats), "--threads", str(args.threads)
                    )  # fmt: skip
                except RuntimeError as error:
                    failure = {"side": side, "device": device, "shape": text, "message": str(error)}
                    results["failures"].append(failure)
                    print(failure, flush=True)
                    continue
                results["runs"].append(run)
                print(
                    f"{device} {text:10} {side:20} {1000 * run['median_s']:9.1f} ms {run['peak_bytes'] / 1e6:8.0f} MB  "
                    f"{run['value']:.6f}",
                    flush=True,
                )
    results["agreement"] = agreement()
    text = report(results)
    print(text)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "lncc.md").write_text(text)
        (args.output / "lncc.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
