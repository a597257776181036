"""The whole job from files to a scene: what ``CycleReg/Scripts/run_cyclereg.py`` runs in Slicer and on slicer-core.

``batch`` as the first argument is ``cyclereg batch --scenes``; everything else is one pair.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..cli import OneLineParser, add_measure_arguments, add_register_arguments, run
from ..cli import main as command_line
from ..commands import (
    check_register_outputs,
    claim_register_outputs,
    inference_settings,
    input_paths,
    write_json,
    write_register_outputs,
)
from ..errors import InputError
from ..geometry import Grid
from ..images import check_output_suffix
from ..outputs import OutputTransaction
from ..pictures import render_pictures
from ..progress import make_progress
from ..report import render_report
from .job import ProcessResult, process
from .measure import EvaluationNodes, evaluate
from .nodes import image_from_volume_node, landmarks_from_markups, transform_from_node
from .pair_scene import load_inputs
from .scene import ensure_scene, save_scene
from .segments import segmentation_from_node


def build_parser() -> argparse.ArgumentParser:
    """The arguments of ``cyclereg register``, those to measure with, and the scene."""
    parser = OneLineParser(
        prog="run_cyclereg.py",
        description="Register two images with MRML nodes and save a scene for 3D Slicer. For many pairs: batch --help.",
    )
    add_register_arguments(parser)
    add_measure_arguments(parser)
    parser.add_argument("--scene", required=True, metavar="OUT.mrb", help="scene with the inputs and all results")
    return parser


def main(argv: Sequence[str], register: Callable[..., Any] | None = None) -> int:
    """Load, register, measure and save, one pair or a batch; returns the exit status of the command line.

    Errors meant for the user are one line on stderr, without a traceback.  All files appear, or none.

    Parameters
    ----------
    argv
        Arguments without the program's name.
    register
        Replaces :func:`CycleRegLib.registration.register` for one pair.
    """
    if argv and argv[0] == "batch":
        return command_line(["batch", "--scenes", *argv[1:]])
    given = argparse.Namespace(command=shlex.join(["run_cyclereg.py", *argv]))
    return run(lambda: _job(build_parser().parse_args(list(argv), given), register))


def _job(arguments: argparse.Namespace, register: Callable[..., Any] | None) -> None:
    _check_together(arguments)
    with OutputTransaction(input_paths(arguments)) as out:
        check_output_suffix(arguments.scene, (".mrb",), "scene")
        out.claim(arguments.scene)
        report = claim_register_outputs(arguments, out)
        ensure_scene()
        nodes = load_inputs({name: path for name, path in vars(arguments).items() if path is not None})
        check_register_outputs(arguments, image_from_volume_node(nodes["moving"], colours=True))
        done = process(
            nodes["fixed"],
            nodes["moving"],
            outputTransform=True,
            outputInverseTransform=True,
            outputVolume=True,
            outputJacobian=True,
            outputRoundtrip=True,
            preset=arguments.preset,
            method=arguments.method,
            checkpoint=arguments.checkpoint,
            backwardCheckpoint=arguments.backward_checkpoint,
            device=arguments.device,
            affine=arguments.affine,
            fixedMask=nodes.get("fixed_mask"),
            movingMask=nodes.get("moving_mask"),
            initialTransform=nodes.get("initial_transform"),
            refineSteps=arguments.refine_steps,
            smoothness=arguments.smoothness,
            inference=inference_settings(arguments),
            progress=make_progress(arguments.progress),
            register=register,
        )
        measured = _measure(nodes, arguments, done)
        _write(nodes, arguments, done, measured, report, out)


def _check_together(arguments: argparse.Namespace) -> None:
    for kind in ("landmarks", "segmentation"):
        if (getattr(arguments, f"fixed_{kind}") is None) != (getattr(arguments, f"moving_{kind}") is None):
            raise InputError(f"Give --fixed-{kind} and --moving-{kind}, or neither.")
    if arguments.tumor_segment is not None and arguments.fixed_segmentation is None:
        raise InputError("--tumor-segment needs --fixed-segmentation and --moving-segmentation.")


def _measure(nodes: dict[str, Any], arguments: argparse.Namespace, done: ProcessResult) -> EvaluationNodes | None:
    if "fixed_landmarks" not in nodes and "fixed_segmentation" not in nodes:
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
        initialTransform=nodes.get("initial_transform"),
    )


def _write(
    nodes: dict[str, Any],
    arguments: argparse.Namespace,
    done: ProcessResult,
    measured: EvaluationNodes | None,
    report: Path | None,
    out: OutputTransaction,
) -> None:
    result = done.registration
    write_register_outputs(result, arguments, out)
    summary = {**result.summary(), **{name: getattr(arguments, name) for name in ("fixed", "moving", "command")}}
    evaluation = None if measured is None else measured.evaluation.to_dict()
    if arguments.json is not None:
        write_json(summary if evaluation is None else {**summary, "evaluation": evaluation}, out.path(arguments.json))
    save_scene(arguments.scene, out)
    if report is not None:
        text = render_report(summary, evaluation, _pictures(nodes, done))
        out.path(report).write_text(text, encoding="utf-8")


def _pictures(nodes: dict[str, Any], done: ProcessResult) -> Any:
    result = done.registration
    known: dict[str, Any] = {}
    for kind, read in (("landmarks", landmarks_from_markups), ("segmentation", segmentation_from_node)):
        known.update({f"{s}_{kind}": read(nodes[f"{s}_{kind}"]) for s in ("fixed", "moving") if f"{s}_{kind}" in nodes})
    if "initial_transform" in nodes:
        known["initial"] = transform_from_node(nodes["initial_transform"], Grid.of(result.fixed))
    return render_pictures(result.fixed, result.moving, result.field, result.warped, result.inverse, **known)
