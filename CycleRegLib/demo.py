"""The demonstration: the sample pair registered and measured, with pictures, report and a scene for 3D Slicer."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

from .commands import write_json
from .errors import CycleRegWarning
from .evaluation import Evaluation, evaluate
from .images import read_image, write_image, write_transform
from .landmarks import read_landmarks
from .outputs import OutputTransaction
from .phantom import write_sample
from .pictures import render_pictures
from .progress import Progress
from .registration import RegistrationResult, register
from .report import write_report
from .segmentations import read_segmentation


def run_demo(folder: Path, device: str = "auto", scale: float = 1.0, progress: Progress | None = None) -> Evaluation:
    """Write the sample into ``folder/sample``, register it, and write every result into ``folder``.

    Raises
    ------
    CycleRegError
        As :func:`CycleRegLib.registration.register`; the folder then holds the sample only.
    """
    data = folder / "sample"
    data.mkdir(exist_ok=True)
    report = progress or (lambda stage, fraction: None)
    report("sample", 0.0)
    paths = write_sample(data, scale=scale)
    fixed, moving = read_image(paths["fixed"], "fixed"), read_image(paths["moving"], "moving")

    def tell(stage: str, fraction: float) -> None:
        if fraction < 1:  # the registration is done then, the demonstration is not
            report(stage, 0.15 + 0.5 * fraction)

    result = register(fixed, moving, device=device, progress=tell)
    known = {
        **{f"{side}_landmarks": read_landmarks(paths[f"{side}_landmarks"]) for side in ("fixed", "moving")},
        **{f"{side}_segmentation": read_segmentation(paths[f"{side}_segmentation"]) for side in ("fixed", "moving")},
    }
    report("evaluate", 0.65)
    evaluation = evaluate(fixed, moving, result.field, result.inverse, **known)
    report("pictures", 0.75)
    pictures = render_pictures(fixed, moving, result.field, result.warped, inverse=result.inverse, **known)
    report("write", 0.8)
    summary = {
        **result.summary(),
        "fixed": str(paths["fixed"]),
        "moving": str(paths["moving"]),
        "command": f"cyclereg demo --output {folder}",
    }
    with OutputTransaction() as out:
        write_transform(result.field, out.path(folder / "transform.h5"))
        write_transform(result.inverse, out.path(folder / "inverse_transform.h5"))
        write_image(result.warped, out.path(folder / "warped.nrrd"))
        write_image(result.jacobian(), out.path(folder / "jacobian.nrrd"))
        write_image(result.roundtrip_image(), out.path(folder / "roundtrip.nrrd"))
        write_json(summary, out.path(folder / "summary.json"))
        write_json(evaluation.to_dict(), out.path(folder / "evaluation.json"))
        evaluation.write_csv(out.path(folder / "evaluation.csv"))
        report("scene", 0.9)
        scene = _write_scene(paths, result, evaluation, out, folder / "scene.mrb")
    write_report(folder, summary, evaluation.to_dict(), pictures, "CycleReg demonstration", png_beside=True)
    report("done", 1.0)
    print(_outcome(result, evaluation, folder, scene))
    return evaluation


def _write_scene(
    paths: dict[str, Path], result: RegistrationResult, evaluation: Evaluation, out: OutputTransaction, path: Path
) -> bool:
    """The scene with inputs, results and tables; False (with a warning) where Slicer's MRML libraries are missing."""
    if importlib.util.find_spec("slicer") is None:
        warnings.warn(
            "No scene was written: Slicer's MRML libraries are not installed. Get them with: pip install slicer-core.",
            CycleRegWarning,
            stacklevel=2,
        )
        return False
    from . import mrml

    mrml.ensure_scene()
    nodes: dict[str, Any] = {side: mrml.load_volume(paths[side]) for side in ("fixed", "moving")}
    for side in ("fixed", "moving"):
        nodes[f"{side}_landmarks"] = mrml.load_landmarks(paths[f"{side}_landmarks"])
        nodes[f"{side}_segmentation"] = mrml.load_segmentation(paths[f"{side}_segmentation"])
    job = mrml.prepare(nodes["fixed"], nodes["moving"], True, True, True, True, True)
    done = job.commit(result)
    mrml.write_evaluation(evaluation, nodes["fixed"], nodes["moving"], done.transform)
    mrml.save_scene(path, out)
    return True


def _outcome(result: RegistrationResult, evaluation: Evaluation, folder: Path, scene: bool) -> str:
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in result.seconds.items() if stage != "total")
    files = [
        "report.html        open it in a browser",
        "transform.h5       and inverse_transform.h5, for Slicer and ITK",
    ]
    files.append("warped.nrrd        the moving image on the fixed grid; jacobian.nrrd, roundtrip.nrrd beside it")
    files.append("evaluation.csv     and .json; summary.json; one PNG per picture")
    if scene:
        files.append("scene.mrb          open it in 3D Slicer")
    return "\n".join(
        [
            f"Registered with '{result.method}' on {result.device} in {result.seconds['total']:.1f} s ({seconds}).",
            "",
            evaluation.format_table(),
            "",
            f"Written to {folder}:",
            *[f"  {line}" for line in files],
        ]
    )
