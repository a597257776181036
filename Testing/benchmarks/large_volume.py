"""Memory and time of ``cyclereg register`` on large volumes, as the command's own process has them.

A pair of CTs of 512 x 512 voxels a slice and of growing depth, random weights, two cores: what the command needs from
its start to the files it writes.  ``peak`` is the largest resident set of the process (``ru_maxrss``), libraries and
the pages of mapped files included; the stages are those of the command's progress, sampled ten times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from network_cases import lively_network

from CycleRegLib.checkpoints import write_checkpoint
from CycleRegLib.geometry import Grid
from CycleRegLib.phantom import make_sample

HERE = Path(__file__).resolve().parent
PYTHON = [sys.executable, "-m", "CycleRegLib"]


def source_image(ct: str | None) -> sitk.Image:
    """The CT that the pair is made of: a file, or the sample phantom."""
    return sitk.ReadImage(ct, sitk.sitkFloat32) if ct else sitk.Cast(make_sample().fixed, sitk.sitkFloat32)


def make_pair(source: sitk.Image, side: int, depth: int, folder: Path) -> tuple[Path, Path]:
    """Two int16 images of side x side x depth voxels over the source's extent; the moving one is bent by some mm."""
    grid = Grid.of(source).with_size((side, side, depth))
    extent = np.array(grid.size) * grid.spacing
    mesh = sitk.BSplineTransformInitializer(grid.empty_image(), [4, 4, 4], 3)
    coefficients = np.random.default_rng(0).normal(0, 0.012, (3, len(mesh.GetParameters()) // 3)) * extent[:, None]
    mesh.SetParameters(coefficients.ravel().tolist())
    paths = []
    for name, transform in (("fixed", sitk.Transform(3, sitk.sitkIdentity)), ("moving", mesh)):
        path = folder / f"{name}-{depth}.nrrd"
        image = sitk.Resample(source, grid.empty_image(), transform, sitk.sitkLinear, -1000.0, sitk.sitkInt16)
        sitk.WriteImage(image, str(path))
        paths.append(path)
    return paths[0], paths[1]


def make_checkpoint(method: str, folder: Path) -> Path:
    """Random weights with a flow of a voxel or two, intensities from the abdomen's window."""
    network = lively_network(method)
    path = folder / f"{method}.safetensors"
    write_checkpoint(path, method, {"forward": network.state_dict()}, network.configuration, "window:-200,300")
    return path


class Watch(threading.Thread):
    """Samples a process' resident memory, and keeps the largest for each stage of its progress.

    A peak between two samples shows in the process' own record of its largest (VmHWM).
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__(daemon=True)
        self.process, self.stage, self.peaks = process, "start", {}

    def run(self) -> None:
        highest = 0
        while True:
            try:
                lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
            except OSError:  # it has ended
                return
            values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Vm")}
            if "VmRSS" not in values:  # it is ending
                return
            now = values["VmHWM"] if values["VmHWM"] > highest else values["VmRSS"]
            highest = values["VmHWM"]
            self.peaks[self.stage] = max(self.peaks.get(self.stage, 0), now)
            time.sleep(0.1)


def run(
    arguments: argparse.Namespace, depth: int, folder: Path, source: sitk.Image, checkpoint: Path
) -> dict[str, Any]:
    """One run of the command: its figures."""
    fixed, moving = make_pair(source, arguments.side, depth, folder)
    outputs = {
        "--output-transform": folder / f"forward{arguments.suffix}",
        "--output-inverse-transform": folder / f"backward{arguments.suffix}",
        "--output-volume": folder / "warped.nrrd",
        "--json": folder / "summary.json",
    }
    command = [*PYTHON, "register", "--method", arguments.method, "--checkpoint", checkpoint, "--device", "cpu"]
    command += ["--fixed", fixed, "--moving", moving, "--progress", "json", *arguments.options]
    command += [word for pair in outputs.items() for word in pair]
    load, began = os.getloadavg()[0], time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True)
    watch = Watch(process)
    watch.start()
    for line in process.stdout:
        found = json.loads(line)
        watch.stage = {"done": "write"}.get(found.get("stage", ""), found.get("stage", watch.stage))
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"the command ended with status {process.returncode} at depth {depth}")
    summary = json.loads((folder / "summary.json").read_text())
    written = {name: path.stat().st_size for name, path in outputs.items()}
    for path in (fixed, moving, *outputs.values()):
        path.unlink()
    return {
        "method": arguments.method,
        "suffix": arguments.suffix,
        "options": arguments.options,
        "voxels": [arguments.side, arguments.side, depth],
        "peak_mb": usage.ru_maxrss * 1024 / 1e6,
        "peak_mb_by_stage": {stage: round(peak / 1e6) for stage, peak in watch.peaks.items()},
        "seconds": {**summary["seconds"], "process": round(wall, 1), "cpu": round(usage.ru_utime + usage.ru_stime, 1)},
        "written_bytes": written,
        "folding_percent": summary["folding_percent"],
        "load_before": load,
    }


def table(runs: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    stages = ["check", "affine", "network", "measure", "write"]
    lines = [
        "| method | voxels | fields written as | peak MB | " + " | ".join(f"{s} MB" for s in stages) + " | affine s "
        "| network s | measure s | whole command s | CPU s |",
        "|---" * (len(stages) + 9) + "|",
    ]
    for one in runs:
        seconds = one["seconds"]
        cells = [one["method"], "x".join(map(str, one["voxels"])), one["suffix"], f"**{one['peak_mb']:.0f}**"]
        cells += [str(one["peak_mb_by_stage"].get(stage, "")) for stage in stages]
        cells += [f"{seconds[name]:.1f}" for name in ("affine", "network", "measure", "process", "cpu")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(runs: list[dict[str, Any]], about: dict[str, Any]) -> str:
    return f"""# Large volumes

`python Testing/benchmarks/large_volume.py`, which says what is measured. {about["processor"]},
{about["threads"]} threads, Python {about["python"]}, PyTorch {about["torch"]}. The input is
{about["source"]}, int16 on disk.

{table(runs)}

Peak is `ru_maxrss` of the whole command, the columns after it the largest resident set within a stage. 10^6 bytes are
one MB. What grows with depth are the fixed, the moving and the warped image, 12 bytes a voxel. CPU seconds are those of
all threads; other work on the machine, of which `load_before` in the JSON tells, makes the wall time longer than that
of a machine that is idle.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ct", help="CT to make the pair of; the sample phantom when left out")
    parser.add_argument("--side", type=int, default=512, help="voxels along x and y (default 512)")
    parser.add_argument("--depths", default="80,160,320", help="slices, separated by commas")
    parser.add_argument("--method", default="cyclemorph-multiscale")
    parser.add_argument("--suffix", default=".nrrd", help="of the fields that are written (default .nrrd)")
    parser.add_argument("--output", default=str(HERE / "results"), help="folder for large_volume.md and .json")
    parser.add_argument("--append", action="store_true", help="keep the runs that are in the folder already")
    parser.add_argument("options", nargs="*", help="more options of cyclereg register, after --")
    arguments = parser.parse_args()
    output = Path(arguments.output)
    raw = output / "large_volume.json"
    runs = json.loads(raw.read_text())["runs"] if arguments.append and raw.exists() else []
    about = {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "source": "an abdominal CT, resampled and bent" if arguments.ct else "the sample phantom, resampled and bent",
    }
    source = source_image(arguments.ct)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make_checkpoint(arguments.method, Path(folder))
        for depth in map(int, arguments.depths.split(",")):
            runs.append(run(arguments, depth, Path(folder), source, checkpoint))
            print(table(runs[-1:]).splitlines()[-1], flush=True)
            raw.write_text(json.dumps({"about": about, "runs": runs}, indent=2) + "\n")
            (output / "large_volume.md").write_text(report(runs, about))


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    main()
