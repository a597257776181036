"""The whole job from files to a scene: what ``CycleReg/Scripts/run_cyclereg.py`` runs in Slicer and on slicer-core."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import CycleRegError, CycleRegWarning, InputError
from ..images import IMAGE_SUFFIXES, TRANSFORM_SUFFIXES, check_output_suffix, write_image
from ..images import write_transform as write_transform_file
from ..outputs import OutputTransaction
from .job import ProcessResult, process
from .measure import EvaluationNodes, evaluate
from .scene import ensure_scene, load_landmarks, load_segmentation, load_transform, load_volume, save_scene


def add_register_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fixed", required=True)
    parser.add_argument("--moving", required=True)
    parser.add_argument("--method")
    parser.add_argument("--checkpoint")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--initial-transform")
    parser.add_argument("--affine", default="auto", choices=("auto", "none", "rigid", "affine"))
    parser.add_argument("--fixed-mask")
    parser.add_argument("--moving-mask")
    parser.add_argument("--refine-steps", type=int)
    for name in ("transform", "inverse-transform", "volume", "jacobian", "roundtrip"):
        parser.add_argument(f"--output-{name}")
    parser.add_argument("--json")
    parser.add_argument("--report")
    parser.add_argument("--progress", default="bar", choices=("bar", "json", "none"))


def build_parser() -> argparse.ArgumentParser:
    """The arguments of ``cyclereg register``, and those for measuring and for the scene."""
    parser = argparse.ArgumentParser(
        prog="run_cyclereg.py", description="Register two images with MRML nodes and save a scene that 3D Slicer opens."
    )
    add_register_arguments(parser)
    measure = parser.add_argument_group("measuring, as cyclereg evaluate does")
    for side in ("fixed", "moving"):
        measure.add_argument(
            f"--{side}-landmarks", metavar="FILE", help=f"landmarks in the {side} image (.mrk.json, .fcsv, .csv)"
        )
        measure.add_argument(
            f"--{side}-segmentation", metavar="FILE", help=f"segments of the {side} image (.seg.nrrd, label image)"
        )
    measure.add_argument("--tumor-segment", metavar="NAME", help="segment to take the tumour's size from")
    parser.add_argument("--scene", required=True, metavar="OUT.mrb", help="scene with the inputs and all results")
    return parser


def main(argv: Sequence[str], register: Callable[..., Any] | None = None) -> int:
    """Load, register, measure and save; returns the exit status of the command line.

    Errors meant for the user are one line on stderr, without a traceback.  All files appear, or none.

    Parameters
    ----------
    argv
        Arguments without the program's name.
    register
        Replaces :func:`CycleRegLib.registration.register`.
    """
    arguments = build_parser().parse_args(list(argv))
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            warnings.simplefilter("always", CycleRegWarning)
            _job(arguments, register)
    except CycleRegError as error:
        print(f"cyclereg: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("cyclereg: Cancelled; nothing was written.", file=sys.stderr)
        return 130
    return 0


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _job(arguments: argparse.Namespace, register: Callable[..., Any] | None) -> None:
    outputs = {
        "transform": arguments.output_transform,
        "inverse_transform": arguments.output_inverse_transform,
        "volume": arguments.output_volume,
        "jacobian": arguments.output_jacobian,
        "roundtrip": arguments.output_roundtrip,
    }
    with OutputTransaction() as out:
        out.claim(arguments.scene)
        check_output_suffix(arguments.scene, (".mrb",), "scene")
        for what, path in outputs.items():
            if path is not None:
                allowed = TRANSFORM_SUFFIXES if "transform" in what else IMAGE_SUFFIXES
                check_output_suffix(path, allowed, f"output {what.replace('_', ' ')}")
                out.claim(path)
        if arguments.json is not None:
            out.claim(arguments.json)
        nodes = _load(arguments)
        done = process(
            nodes["fixed"],
            nodes["moving"],
            outputTransform=True,
            outputInverseTransform=True,
            outputVolume=True,
            outputJacobian=True,
            outputRoundtrip=True,
            method=arguments.method,
            checkpoint=arguments.checkpoint,
            device=arguments.device,
            affine=arguments.affine,
            fixedMask=nodes.get("fixed_mask"),
            movingMask=nodes.get("moving_mask"),
            initialTransform=nodes.get("initial_transform"),
            refineSteps=arguments.refine_steps,
            progress=None,
            register=register,
        )
        measured = _measure(nodes, arguments, done)
        _write(outputs, arguments, done, measured, out)


def _load(arguments: argparse.Namespace) -> dict[str, Any]:
    """Nodes by argument name, for what was given."""
    ensure_scene()
    loaders: dict[str, Callable[..., Any]] = {
        "fixed": load_volume,
        "moving": load_volume,
        "fixed_mask": load_segmentation,
        "moving_mask": load_segmentation,
        "initial_transform": load_transform,
        "fixed_landmarks": load_landmarks,
        "moving_landmarks": load_landmarks,
        "fixed_segmentation": load_segmentation,
        "moving_segmentation": load_segmentation,
    }
    for kind in ("landmarks", "segmentation"):
        if (getattr(arguments, f"fixed_{kind}") is None) != (getattr(arguments, f"moving_{kind}") is None):
            raise InputError(f"Give --fixed-{kind} and --moving-{kind}, or neither.")
    return {
        name: load(getattr(arguments, name), name.replace("_", " "))
        for name, load in loaders.items()
        if getattr(arguments, name) is not None
    }


def _measure(nodes: dict[str, Any], arguments: argparse.Namespace, done: ProcessResult) -> EvaluationNodes | None:
    if "fixed_landmarks" not in nodes and "fixed_segmentation" not in nodes:
        if arguments.tumor_segment is not None:
            raise InputError("--tumor-segment needs --fixed-segmentation and --moving-segmentation.")
        return None
    return evaluate(
        nodes["fixed"],
        nodes["moving"],
        done.transform,
        fixedLandmarks=nodes.get("fixed_landmarks"),
        movingLandmarks=nodes.get("moving_landmarks"),
        fixedSegmentation=nodes.get("fixed_segmentation"),
        movingSegmentation=nodes.get("moving_segmentation"),
        tumorSegment=arguments.tumor_segment,
    )


def _write(
    outputs: dict[str, str | None],
    arguments: argparse.Namespace,
    done: ProcessResult,
    measured: EvaluationNodes | None,
    out: OutputTransaction,
) -> None:
    result = done.registration
    contents: dict[str, Callable[[], Any]] = {
        "transform": lambda: result.field,
        "inverse_transform": lambda: result.inverse,
        "volume": lambda: result.warped,
        "jacobian": result.jacobian,
        "roundtrip": result.roundtrip_image,
    }
    for what, path in outputs.items():
        if path is not None:
            write = write_transform_file if "transform" in what else write_image
            write(contents[what](), out.path(path))
    if arguments.json is not None:
        summary = dict(result.summary())
        if measured is not None:
            summary["evaluation"] = measured.evaluation.to_dict()
        out.path(arguments.json).write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    save_scene(arguments.scene, out)
