"""Every method on a real CT and a real brain, from the command line, with random weights of its architecture.

What it shows: that each method's network runs on real sizes and geometries, that a finite field comes back in both
directions on the right grids, and what that costs.  What it does not show: accuracy, which random weights do not have
(``optimize`` stands beside them for the time it takes).

* CT: the pair of ``compare.py`` (moderate field, seed 0).  Brain: the OASIS scan and the same scan bent by a smooth
  random field of 4 mm.  2D methods get the middle axial slice of each pair, as single-slice volumes.
* Random weights are scaled so that flows are a voxel or two long; the affine stage is switched off.
* Every row is one run of ``cyclereg register`` in a process of its own; ``peak`` is that process' largest resident set.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from compare import machine, revision
from network_cases import lively_network
from pairs import ct_pair, random_field, read_oasis

from CycleRegLib.checkpoints import write_checkpoint
from CycleRegLib.fields import DisplacementField
from CycleRegLib.geometry import Grid
from CycleRegLib.images import read_transform
from CycleRegLib.methods import Method, list_methods

HERE = Path(__file__).resolve().parent
CASCADES = ("D", "ADDD")


def brain_pair(path: str) -> tuple[sitk.Image, sitk.Image]:
    """The scan bent by a known field (fixed) and the scan (moving)."""
    moving, _ = read_oasis(path)
    grid = Grid.of(moving)
    field = DisplacementField(random_field(grid, mean_mm=4.0, weights=sitk.GetArrayFromImage(moving) > 0), grid)
    return field.warp(moving), moving


def middle_slice(image: sitk.Image) -> sitk.Image:
    """The middle slice across the image's last axis, still 3D."""
    k = image.GetDepth() // 2
    return image[:, :, k : k + 1]


def runs_of(chosen: list[str]) -> list[tuple[str, Method, dict[str, Any]]]:
    """Name, method and network arguments of each run, for each dimension that a method has."""
    found = []
    for method in list_methods():
        if chosen and method.id not in chosen:
            continue
        if not method.network:
            found.append((method.id, method, {"dimension": 3}))
            continue
        variants = [{"cascade": c} for c in CASCADES] if method.id == "vtn" else [{}]
        for dimension in method.dimensions:
            for variant in variants:
                name = " ".join([method.id, *variant.values()])
                found.append((name, method, {"dimension": dimension, **variant}))
    return found


def run(method: Method, config: dict[str, Any], files: dict[str, Path], folder: Path, precision: str) -> dict[str, Any]:
    """One registration from the command line and what its files hold; raises SystemExit where it failed."""
    command = [sys.executable, "-m", "CycleRegLib", "register", "--method", method.id, "--progress", "none"]
    command += ["--affine", "none", "--precision", precision]
    parameters = 0
    if method.network:
        network = lively_network(method.id, **config)
        parameters = sum(p.numel() for p in network.parameters())
        checkpoint = folder / "weights.safetensors"
        write_checkpoint(checkpoint, method.id, {"forward": network.state_dict()}, network.configuration)
        command += ["--checkpoint", str(checkpoint)]
    outputs = {
        "output-transform": folder / "forward.nrrd",
        "output-inverse-transform": folder / "backward.nrrd",
        "output-volume": folder / "warped.nrrd",
        "json": folder / "summary.json",
    }
    for path in outputs.values():
        path.unlink(missing_ok=True)
    for name, path in {**files, **outputs}.items():
        command += [f"--{name}", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with status {done.returncode}:\n{done.stderr}")
    summary = json.loads(outputs["json"].read_text())
    lengths = {}
    for side, name in (("fixed", "output-transform"), ("moving", "output-inverse-transform")):
        image = sitk.ReadImage(str(outputs[name]))
        grid = Grid.of(sitk.ReadImage(str(files[side])))
        if not Grid.of(image).same_as(grid):
            raise SystemExit(f"{method.id}: the field of {name} does not lie on the {side} image's grid")
        vectors = DisplacementField.from_transform(read_transform(outputs[name]), grid).vectors
        lengths[side] = float(np.linalg.norm(vectors, axis=-1).mean())  # a field that is not finite is refused
    return {
        "config": config,
        "parameters": parameters,
        "seconds": summary["seconds"],
        "peak_mb": summary["peak_memory_mb"],
        "mean_mm": lengths,
        "roundtrip_mm": summary["roundtrip_mm"],
        "folding_percent": summary["folding_percent"],
        "warnings": summary["warnings"],
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    """One row per run as Markdown."""
    lines = [
        "| method | images | parameters | fields, s | whole run, s | peak, MB | mean length of the fields, mm "
        "| round trip, mean mm |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        fields = sum(v for k, v in row["seconds"].items() if k in ("network", "optimize"))
        lengths = " / ".join(f"{v:.2f}" for v in row["mean_mm"].values())
        lines.append(
            f"| {row['name']} | {row['pair']}, {row['config']['dimension']}D | {row['parameters']:,} | {fields:.2f} "
            f"| {row['seconds']['total']:.2f} | {row['peak_mb']:.0f} | {lengths} | {row['roundtrip_mm']['mean']:.2f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ct", required=True, help="abdominal CT")
    parser.add_argument("--ct-labels", required=True, help="its labels (TotalSegmentator's)")
    parser.add_argument("--brain", required=True, help="OASIS brain (.npz with vol and seg)")
    parser.add_argument("--methods", nargs="*", default=[], help="ids; all when left out")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--output", default=str(HERE / "results" / "every_method"), help="path without ending")
    arguments = parser.parse_args()

    ct = ct_pair(arguments.ct, arguments.ct_labels)
    pairs = {"CT": (ct.fixed, ct.moving), "brain": brain_pair(arguments.brain)}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files: dict[tuple[str, int], dict[str, Path]] = {}
        for pair, images in pairs.items():
            for dimension in (2, 3):
                files[pair, dimension] = {}
                for side, image in zip(("fixed", "moving"), images):
                    path = folder / f"{pair}-{side}-{dimension}.nrrd"
                    sitk.WriteImage(image if dimension == 3 else middle_slice(image), str(path))
                    files[pair, dimension][side] = path
        for label, method, config in runs_of(arguments.methods):
            for pair in pairs:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found = run(method, config, files[pair, config["dimension"]], folder, arguments.precision)
                rows.append({"name": label, "pair": pair, **found})
                print(table(rows)[-1], flush=True)
    about = {**machine(os.cpu_count() or 1), "revision": revision(), "precision": arguments.precision}
    sizes = {pair: images[0].GetSize() for pair, images in pairs.items()}
    text = [
        "# Every method on a real CT and a real brain, random weights",
        "",
        *(line for line in (__doc__ or "").strip().splitlines()[1:]),
        "",
        f"CT {'x'.join(map(str, sizes['CT']))}, brain {'x'.join(map(str, sizes['brain']))} voxels; "
        + ", ".join(f"{k} {v}" for k, v in about.items()),
        "",
        *table(rows),
    ]
    output = Path(arguments.output)
    output.with_suffix(".md").write_text("\n".join(text) + "\n", encoding="utf-8")
    output.with_suffix(".json").write_text(
        json.dumps({"about": about, "rows": rows}, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
