"""Batches of images of 24^3 voxels, which register in a fraction of a second."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

SIDE = 24
#: The affine stage is what takes long for small images.
FAST = {"affine": "none"}


def blob(seed: int, side: int = SIDE) -> sitk.Image:
    """A soft ball with a bright spot, about two voxels from where another seed has it; 3 mm voxels."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, side)] * 3, indexing="ij")
    a, b, c = rng.uniform(-0.12, 0.12, 3)
    ball = 100 / (1 + np.exp(((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2 - 0.4) * 12))
    spot = 80 * np.exp(-(((x - 0.2 - a) ** 2 + (y - b) ** 2 + (z + 0.1 - c) ** 2) / 0.04))
    image = sitk.GetImageFromArray((ball + spot + rng.normal(0, 1, x.shape)).astype(np.float32))
    image.SetSpacing((3.0, 3.0, 3.0))
    return image


def write_images(folder: Path, count: int = 3) -> None:
    """``0.nrrd``, ``1.nrrd``, … ."""
    folder.mkdir(exist_ok=True)
    for seed in range(count):
        sitk.WriteImage(blob(seed), str(folder / f"{seed}.nrrd"))


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as CSV."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Pairs of the images of :func:`write_images`: ``p00``, ``p01``, … ."""
    return [
        {"id": f"p{n:02}", "fixed": f"{n % 3}.nrrd", "moving": f"{(n + 1) % 3}.nrrd", "affine": "none"}
        for n in range(first, first + count)
    ]


def table(output: Path) -> dict[str, dict[str, str]]:
    """``results.csv`` by id."""
    with open(output / "results.csv", newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def statuses(output: Path) -> dict[str, str]:
    """What ``results.csv`` says became of each pair."""
    return {name: row["status"] for name, row in table(output).items()}


def check_whole(output: Path, name: str) -> dict[str, Any]:
    """Make sure that a pair's files can all be read and belong together; gives its summary."""
    folder = output / "pairs" / name
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "done"
    warped = sitk.ReadImage(str(folder / "warped.nrrd"))
    for transform in ("transform.h5", "inverse_transform.h5"):
        field = sitk.DisplacementFieldTransform(sitk.ReadTransform(str(folder / transform))).GetDisplacementField()
        assert transform != "transform.h5" or field.GetSize() == warped.GetSize()
    assert sorted(summary["files"]) == sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "summary.json"
    )
    return summary


def check_clean(output: Path) -> None:
    """Make sure that nothing half-written is left."""
    assert list((output / ".partial").iterdir()) == []
    assert not [path for path in output.rglob("*") if path.name.startswith(".cyclereg-")]


# So that a child can be interrupted even where its parent was started with the signal ignored.
_CHILD = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from CycleRegLib.cli import main\n"
    "if __name__ == '__main__': sys.exit(main(sys.argv[1:]))\n"
)


def start(folder: Path, *arguments: str | Path, group: bool = False) -> subprocess.Popen[str]:
    """``cyclereg batch`` in a process of its own, with one thread; in a group of its own if ``group``."""
    script = folder / "child.py"
    script.write_text(_CHILD, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, str(script), "batch", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=group,
    )


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 300) -> Any:
    """What ``condition`` gives as soon as it is something; the process must be alive till then."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("it did not come about in time")


def begun(output: Path, name: str) -> list[tuple[int, int]]:
    """Attempt and process of everything that is begun of a pair now."""
    found = []
    for folder in output.glob(f".partial/{name}.*"):
        try:
            pid = json.loads((folder / "begun.json").read_text())["pid"]
        except (OSError, ValueError):  # finished meanwhile, or not yet written
            continue
        found.append((int(folder.name.rsplit("-", 1)[1]), pid))
    return sorted(found)
