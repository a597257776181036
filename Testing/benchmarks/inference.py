"""How long networks take and how much memory they need, from two arrays on the network grid to flows.

``python Testing/benchmarks/inference.py --output Testing/benchmarks/results/inference``

* The comparison: flow and warped moving image by the CycleMorph U-Net, as it is commonly written
  (``plain_reference.py``), as someone writes it who knows PyTorch well, and by CycleReg.
* Every network of the registry, both directions.
* On a CUDA GPU, where there is one: milliseconds, memory, and the share of what the GPU could do.

Every figure is of a process of its own with random weights.  Seconds are the median of the repetitions after a first
run; the peak is the process's largest resident set, less that of a process that only imports the same packages.
Writes OUTPUT.json with every repetition, and OUTPUT.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
SIZES = ((128, 128, 128), (160, 192, 224))
# What makes the variants of a method, where one network is not all there is to measure.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {"vtn": {"ADDD": {"cascade": "ADDD"}, "D": {"cascade": "D"}}}
SIDES = {
    "plain": "plain PyTorch: float32, materialised grid, eight-corner gather",
    "careful": "careful PyTorch: channels last, bfloat16 by autocast, `grid_sample`",
    "ours-float32": "CycleReg, float32",
    "ours-bfloat16": "CycleReg, bfloat16",
}
MB = 1e6


# ---------------------------------------------------------------------- in the process that is measured


def smooth_pair(shape: tuple[int, ...]) -> list[np.ndarray]:
    """Two images as smooth as scans are, 0 to 1."""
    rng, images = np.random.default_rng(0), []
    for _ in range(2):
        image = np.zeros(shape, np.float32)
        for step in (4, 12):
            coarse = torch.from_numpy(rng.random([1, 1, *(side // step for side in shape)], dtype=np.float32))
            image += torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0, 0].numpy() / 2
        images.append(image)
    return images


def timed(job: Any, repeat: int, synchronise: Any = None) -> dict[str, Any]:
    """Wall and processor seconds of each repetition after a first one."""
    job()
    seconds, processor = [], []
    for _ in range(repeat):
        start, cpu = time.perf_counter(), time.process_time()
        job()
        if synchronise is not None:
            synchronise()
        seconds.append(round(time.perf_counter() - start, 4))
        processor.append(round(time.process_time() - cpu, 4))
    return {"seconds": seconds, "processor_seconds": processor}


def peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round((peak if sys.platform == "darwin" else peak * 1024) / MB, 1)


def lively_weights() -> dict[str, torch.Tensor]:
    """Random weights of the CycleMorph U-Net whose flow is of some voxels."""
    from CycleRegLib.networks import CycleMorphUNet

    generator, state = torch.Generator().manual_seed(0), {}
    for name, value in CycleMorphUNet().state_dict().items():
        scale = (2.0 / max(1, value[0].numel())) ** 0.5 if value.dim() > 1 else 0.1
        state[name] = torch.randn(value.shape, generator=generator) * scale * (6 if "outconv" in name else 1)
    return state


def checkpoint_of(method: str, options: dict[str, Any], state: dict[str, torch.Tensor] | None = None) -> Any:
    from CycleRegLib.checkpoints import Checkpoint
    from CycleRegLib.methods import get_method
    from CycleRegLib.networks.preparation import GridRule

    network = get_method(method).build_network(**options)
    return Checkpoint(
        method=method,
        networks={"forward": network.state_dict() if state is None else state},
        config=network.configuration,
        normalisation="none",
        grid=GridRule(),
        training={},
        licence="",
        metadata={"method": method},
        sha256="",
        path=Path("random.safetensors"),
    )


def run_side(task: dict[str, Any]) -> dict[str, Any]:
    """One side of the comparison; saves the first flow, so that the sides can be compared."""
    side, directions = task["side"], task["directions"]
    if side.startswith("ours"):
        from CycleRegLib.networks.inference import arithmetic, load_networks, run_network
        from CycleRegLib.networks.settings import InferenceSettings
        from CycleRegLib.warp import warp

        if task["baseline"]:
            return {}
        precision = side.split("-")[1]
        checkpoint = checkpoint_of("cyclemorph", {}, torch.load(task["weights"], weights_only=True))
        network = load_networks(checkpoint)["forward"]

        def register(fixed: np.ndarray, moving: np.ndarray) -> list[Any]:
            images = [torch.from_numpy(array)[None, None] for array in (moving, fixed)]
            if directions == 1:
                with arithmetic("cpu", precision):
                    flows = [network(*images)]
            else:
                found = run_network(checkpoint, fixed, moving, settings=InferenceSettings(precision))
                flows = [flow[None] for flow in found]
            return [(flow[0].numpy(), warp(image, flow)[0, 0].numpy()) for image, flow in zip(images, flows)]

    else:
        from plain_reference import UNet
        from plain_reference import register as plain

        if task["baseline"]:
            return {}
        careful, network = side == "careful", UNet().eval()
        weights = torch.load(task["weights"], weights_only=True)
        network.load_state_dict({name[len("model.") :]: value for name, value in weights.items()})
        if careful:
            network = network.to(memory_format=torch.channels_last_3d)

        def register(fixed: np.ndarray, moving: np.ndarray) -> list[Any]:
            pairs = ((fixed, moving), (moving, fixed))[:directions]
            return [plain(network, *pair, careful) for pair in pairs]

    images = smooth_pair(tuple(task["shape"]))
    found = register(*images)
    np.savez(task["flow"], flow=found[0][0][:, ::4, ::4, ::4], warped=found[0][1][::4, ::4, ::4])
    del found
    return timed(lambda: register(*images), task["repeat"])


def count_work(network: torch.nn.Module, work: dict[str, int]) -> list[Any]:
    """Hooks that add up multiply-adds, and the numbers that convolutions read and write, of all that runs."""
    kinds = (torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)

    def count(layer: Any, inputs: Any, output: Any) -> None:
        transposed = "Transpose" in type(layer).__name__
        inputs, outputs = int(np.prod(inputs[0].shape)), int(np.prod(output.shape))
        kernel = int(np.prod(layer.kernel_size))
        work["multiply_adds"] += kernel * (inputs * layer.out_channels if transposed else outputs * layer.in_channels)
        work["numbers"] += inputs + outputs + layer.weight.numel()

    return [layer.register_forward_hook(count) for layer in network.modules() if isinstance(layer, kinds)]


def run_method(task: dict[str, Any]) -> dict[str, Any]:
    """Both directions of one method, through the function that registration uses."""
    import warnings

    from CycleRegLib.networks.inference import arithmetic, load_networks, run_network
    from CycleRegLib.networks.settings import InferenceSettings

    if task["baseline"]:
        return {}
    warnings.simplefilter("ignore")
    device = task["device"]
    checkpoint = checkpoint_of(task["method"], task["options"])
    network = load_networks(checkpoint, device)["forward"]
    settings = InferenceSettings(task["precision"])
    fixed, moving = smooth_pair(tuple(task["shape"]))

    def job() -> None:
        run_network(checkpoint, fixed, moving, device, settings=settings)

    work = {"multiply_adds": 0, "numbers": 0}
    hooks = count_work(network, work)
    about = {"parameters": sum(p.numel() for p in network.parameters())}
    if device == "cpu":
        start = time.perf_counter()
        job()
        first = time.perf_counter() - start
        for hook in hooks:
            hook.remove()
        return {**about, **work, "first_seconds": round(first, 3), **timed_again(job, task["repeat"])}
    # On the GPU the networks alone: arrays there, flows there.
    pair = [torch.from_numpy(array)[None, None].to(device) for array in (moving, fixed)]

    def on_device() -> None:
        with arithmetic(device, task["precision"]):
            network(*pair)
            if not network.both_directions:
                network(*reversed(pair))

    on_device()
    for hook in hooks:
        hook.remove()
    torch.cuda.reset_peak_memory_stats()
    measured = timed(on_device, 10 * task["repeat"], torch.cuda.synchronize)
    return {**about, **work, **measured, "gpu_mb": round(torch.cuda.max_memory_allocated() / MB, 1)}


def timed_again(job: Any, repeat: int) -> dict[str, Any]:
    """As :func:`timed`, after a first run that has been made."""
    seconds, processor = [], []
    for _ in range(repeat):
        start, cpu = time.perf_counter(), time.process_time()
        job()
        seconds.append(round(time.perf_counter() - start, 4))
        processor.append(round(time.process_time() - cpu, 4))
    return {"seconds": seconds, "processor_seconds": processor}


def child(task: dict[str, Any]) -> None:
    torch.set_num_threads(task["threads"])
    measured = run_side(task) if "side" in task else run_method(task)
    print(json.dumps({**measured, "peak_mb": peak_mb()}))


# ---------------------------------------------------------------------- in the process that measures


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """The task in a process of its own, with the load of the machine before it."""
    load = os.getloadavg()[0]
    environment = {**os.environ, "OMP_NUM_THREADS": str(task["threads"])}
    command = [sys.executable, str(Path(__file__)), "--child", json.dumps(task)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if result.returncode != 0:
        return {"error": (result.stderr.strip().splitlines() or ["no output"])[-1], "load_before": load}
    return {**json.loads(result.stdout.splitlines()[-1]), "load_before": load}


def compare_sides(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    records = []
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "weights.pt")
        torch.save(lively_weights(), weights)
        common = {"threads": arguments.threads, "repeat": arguments.repeat, "weights": weights}
        imports = {}
        for side in SIDES:
            task = {**common, "side": side, "directions": 1, "baseline": True}
            imports[side] = measure(task)["peak_mb"]
        for shape in arguments.sizes:
            for directions in (1, 2):
                truth = None
                for side in SIDES:
                    flow = str(Path(folder) / "flow.npz")
                    task = {**common, "side": side, "directions": directions, "baseline": False}
                    record = measure({**task, "shape": shape, "flow": flow})
                    with np.load(flow) as saved:
                        found = {name: saved[name].astype(np.float64) for name in ("flow", "warped")}
                    truth = truth or found
                    error = np.linalg.norm(found["flow"] - truth["flow"], axis=0)
                    record |= {"side": side, "shape": list(shape), "directions": directions}
                    record |= {"imports_mb": imports[side], "longest_voxels": float(np.abs(found["flow"]).max())}
                    record |= {"flow_error_mean": float(error.mean()), "flow_error_max": float(error.max())}
                    record["warped_error_max"] = float(np.abs(found["warped"] - truth["warped"]).max())
                    records.append(record)
                    print(f"{side:14s} {shape} x{directions}: {describe(record)}", flush=True)
    return records


def networks(only: list[str]) -> list[tuple[str, list[str], dict[str, Any]]]:
    """(method, all methods that have this very network, arguments) for every network that registers volumes."""
    from CycleRegLib.methods import list_methods

    found: dict[str, tuple[str, list[str], dict[str, Any]]] = {}
    for method in list_methods():
        if not method.network or 3 not in method.dimensions or (only and method.id not in only):
            continue
        for label, options in VARIANTS.get(method.id, {"": {}}).items():
            key = json.dumps([method.network, dict(method.options), options])
            name = f"{method.id} {label}".strip()
            found.setdefault(key, (method.id, [], {"dimension": 3, **options}))[1].append(name)
    return list(found.values())


def measure_methods(arguments: argparse.Namespace, device: str, precisions: tuple[str, ...]) -> list[dict[str, Any]]:
    records, common = [], {"threads": arguments.threads, "repeat": arguments.repeat, "device": device}
    imports = measure({**common, "method": "", "baseline": True})["peak_mb"]
    for method, names, options in networks(arguments.methods):
        for shape in arguments.sizes:
            for precision in precisions:
                task = {**common, "method": method, "options": options, "shape": shape, "precision": precision}
                record = measure({**task, "baseline": False})
                record |= {"names": names, "shape": list(shape), "precision": precision, "device": device}
                record["imports_mb"] = imports
                records.append(record)
                print(f"{', '.join(names)} {shape} {precision} {device}: {describe(record)}", flush=True)
    return records


def describe(record: dict[str, Any]) -> str:
    if "error" in record:
        return record["error"]
    return f"{statistics.median(record['seconds']):.3f} s, {net_mb(record):.0f} MB, load {record['load_before']:.1f}"


def net_mb(record: dict[str, Any]) -> float:
    return record["peak_mb"] - record["imports_mb"]


# ---------------------------------------------------------------------- tables


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def comparison_tables(records: list[dict[str, Any]]) -> list[str]:
    lines = []
    for shape in sorted({tuple(record["shape"]) for record in records}, reverse=True):
        for directions in (1, 2):
            here = {r["side"]: r for r in records if tuple(r["shape"]) == shape and r["directions"] == directions}
            if not here:
                continue
            rows, plain = [], here["plain"]
            for side, record in here.items():
                if "error" in record:
                    rows.append([SIDES[side], f"failed: {record['error']}", *[""] * 6])
                    continue
                seconds, other = (statistics.median(r["seconds"]) for r in (record, plain))
                rows.append(
                    [
                        SIDES[side],
                        f"{seconds:.2f}",
                        f"{other / seconds:.1f}x",
                        f"{statistics.median(record['processor_seconds']):.2f}",
                        f"{net_mb(record):.0f}",
                        f"{net_mb(record) / net_mb(plain):.2f}",
                        f"{record['peak_mb']:.0f}",
                        f"{record['flow_error_mean']:.1g} / {record['flow_error_max']:.1g}",
                    ]
                )
            what = "one direction" if directions == 1 else "both directions"
            lines += [
                "",
                f"{'x'.join(map(str, shape))} voxels, {what} (flows up to {plain['longest_voxels']:.0f} voxels):",
            ]
            head = [
                "",
                "seconds",
                "faster",
                "CPU s",
                "peak MB",
                "of plain",
                "with imports, MB",
                "flow differs by, voxels",
            ]
            lines += ["", *table(head, rows)]
    return lines


def method_tables(records: list[dict[str, Any]]) -> list[str]:
    lines = []
    for shape in sorted({tuple(record["shape"]) for record in records}):
        rows = []
        for names in dict.fromkeys(tuple(record["names"]) for record in records):
            here = {r["precision"]: r for r in records if tuple(r["names"]) == names and tuple(r["shape"]) == shape}
            good = [r for r in here.values() if "error" not in r]
            row = [", ".join(names)]
            row += [f"{good[0]['parameters']:,}", f"{good[0]['multiply_adds'] / 1e9:.0f}"] if good else ["", ""]
            for show in (lambda r: f"{statistics.median(r['seconds']):.2f}", lambda r: f"{net_mb(r):.0f}"):
                for precision in ("float32", "bfloat16"):
                    record = here.get(precision)
                    row.append("–" if record is None else "failed" if "error" in record else show(record))
            rows.append(row)
        head = ["method", "parameters", "10^9 multiply-adds", "s, float32", "s, bfloat16"]
        head += ["peak MB, float32", "peak MB, bfloat16"]
        lines += ["", f"{'x'.join(map(str, shape))} voxels:", "", *table(head, rows)]
    return lines


def gpu_table(records: list[dict[str, Any]], tflops: dict[str, float], bandwidth: float) -> list[str]:
    """The least time is the longer of arithmetic / peak and of the layers' inputs and outputs / bandwidth."""
    rows = []
    for record in records:
        name = f"{', '.join(record['names'])}, {'x'.join(map(str, record['shape']))}, {record['precision']}"
        if "error" in record:
            rows.append([name, f"failed: {record['error']}", "", "", ""])
            continue
        size = 4 if record["precision"] == "float32" else 2
        arithmetic = 2e3 * record["multiply_adds"] / (tflops[record["precision"]] * 1e12)
        traffic = 1e3 * record["numbers"] * size / (bandwidth * 1e9)
        milliseconds = 1e3 * statistics.median(record["seconds"])
        row = [name, f"{milliseconds:.1f}", f"{record['gpu_mb']:.0f}", f"{milliseconds / arithmetic:.1f}"]
        rows.append([*row, f"{milliseconds / traffic:.1f}"])
    return table(["network, both directions", "ms", "peak MB", "times arithmetic", "times traffic"], rows)


def markdown(results: dict[str, Any]) -> str:
    about, lines = results["machine"], ["# Inference", "", "Made with", "", f"    {results['command']}", ""]
    loads = [r["load_before"] for r in results["comparison"] + results["methods"]]
    lines.append(
        f"{about['processor']}, {about['cores']} cores, {about['threads']} threads; Python {about['python']}, PyTorch "
        f"{about['torch']}. Random weights, two arrays to flows; median of {results['repeat']} runs after a first one; "
        "peak memory of the process less that of one that only imports the same packages. Load of the machine before "
        f"each process, which the one before it leaves behind: median {statistics.median(loads):.1f}, at most "
        f"{max(loads):.1f}. Definitions: [README](../README.md)."
    )
    if results["comparison"]:
        lines += ["", "## The same network, plain and here", "", "Flow and warped moving image."]
        lines += comparison_tables(results["comparison"])
    if results["methods"]:
        lines += ["", "## Every network that registers volumes", "", "Both directions, flows only."]
        if results["no_bfloat16"]:
            lines += ["", "This processor does not multiply in bfloat16, so that it is left out."]
        lines += method_tables(results["methods"])
    lines += ["", "## On a GPU", ""]
    if results["gpu"]:
        lines += [f"{results['gpu_name']}; least times from {results['limits']}.", ""]
        lines += gpu_table(results["gpu"], results["peak_tflops"], results["bandwidth_gb"])
    else:
        lines.append("None was at hand where this was made; the same command adds this table where one is.")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="without ending; .json and .md are written")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5, help="runs after the first")
    parser.add_argument("--sizes", default="", help="such as 128,128,128;160,192,224")
    parser.add_argument("--methods", default="", help="only these, with commas")
    parser.add_argument("--skip", default="", help="comparison, methods or both, with a comma")
    parser.add_argument(
        "--peak-tflops", default="float32=67,float16=990,bfloat16=990", help="of the GPU, without sparsity"
    )
    parser.add_argument("--bandwidth-gb", type=float, default=4800.0, help="of the GPU's memory, GB/s")
    arguments = parser.parse_args()
    arguments.sizes = [tuple(map(int, s.split(","))) for s in arguments.sizes.split(";") if s] or list(SIZES)
    arguments.methods = [name for name in arguments.methods.split(",") if name]

    from compare import machine, revision

    from CycleRegLib.devices import resolve_precision

    no_bfloat16 = resolve_precision("auto", "cpu") != "bfloat16"
    results: dict[str, Any] = {
        "command": "python Testing/benchmarks/inference.py --output Testing/benchmarks/results/inference",
        "commit": revision(),
        "machine": machine(arguments.threads),
        "repeat": arguments.repeat,
        "no_bfloat16": no_bfloat16,
        "peak_tflops": {k: float(v) for k, v in (pair.split("=") for pair in arguments.peak_tflops.split(","))},
        "bandwidth_gb": arguments.bandwidth_gb,
        "limits": f"{arguments.peak_tflops} TFLOP/s and {arguments.bandwidth_gb:g} GB/s",
        "comparison": [] if "comparison" in arguments.skip else compare_sides(arguments),
        "methods": [],
        "gpu": [],
    }
    if "methods" not in arguments.skip:
        precisions = ("float32",) if no_bfloat16 else ("float32", "bfloat16")
        results["methods"] = measure_methods(arguments, "cpu", precisions)
    if torch.cuda.is_available():
        results["gpu_name"] = torch.cuda.get_device_name(0)
        results["gpu"] = measure_methods(arguments, "cuda:0", ("float32", "float16", "bfloat16"))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    arguments.output.with_suffix(".md").write_text(markdown(results))
    failed = [r for r in (*results["comparison"], *results["methods"], *results["gpu"]) if "error" in r]
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.path.insert(0, str(HERE))
        child(json.loads(sys.argv[2]))
    else:
        sys.exit(main())
