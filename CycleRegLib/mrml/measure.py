"""Measuring a registration that is in the scene: nodes in, the library's evaluation and tables out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..evaluation import evaluate as evaluate_images
from ..evaluation_result import Evaluation, rows_of
from ..geometry import Grid
from .nodes import field_from_node, image_from_volume_node, landmarks_from_markups, transform_from_node
from .results import INVERSE_ROLE, TABLE, Column, NewNodes, check_output, place_in_folder, write_table
from .segments import mask_from_node, segmentation_from_node

#: Roles under which the evaluated transform refers to its tables, by the names of EvaluationNodes.
TABLE_ROLES = {
    "summary": "CycleReg.EvaluationTable",
    "landmarks": "CycleReg.LandmarkTable",
    "segments": "CycleReg.SegmentTable",
    "tumor": "CycleReg.TumorTable",
}


@dataclass(frozen=True)
class EvaluationNodes:
    """The library's evaluation and its tables in the scene; None for what was not measured or not asked for.

    ``folder`` is the subject hierarchy item that holds the tables, None when there is no table.
    """

    evaluation: Evaluation | Mapping[str, Any]
    summary: Any
    landmarks: Any
    segments: Any
    tumor: Any
    folder: int | None


def evaluate(
    fixedNode: Any,
    movingNode: Any,
    transformNode: Any,
    fixedLandmarks: Any = None,
    movingLandmarks: Any = None,
    fixedSegmentation: Any = None,
    movingSegmentation: Any = None,
    tumorSegment: str | None = None,
    inverseTransformNode: Any = None,
    mask: Any = None,
    maskSegment: str | None = None,
    initialTransform: Any = None,
    outputSummary: Any = True,
    outputLandmarks: Any = True,
    outputSegments: Any = True,
    outputTumor: Any = True,
    progress: Callable[[str, float], None] | None = None,
) -> EvaluationNodes:
    """Measure the registration that ``transformNode`` holds, and write tables into the scene.

    Moving nodes that are shown under the transform are taken as they were without it, fixed nodes under the inverse
    likewise; other linear transforms above them are honoured.

    Parameters
    ----------
    fixedNode, movingNode
        Scalar volume nodes; or single slices, also vector (RGB) volume nodes.
    transformNode
        Any transform node; as a parent of the moving volume it would bring it onto the fixed one.
    fixedLandmarks, movingLandmarks
        Markups nodes: both or neither.
    fixedSegmentation, movingSegmentation
        Segmentation or label map nodes: both or neither.
    tumorSegment
        Name of the tumour's segment; found by its name when left out.
    inverseTransformNode
        The transform in the other direction; what :func:`CycleRegLib.mrml.process` made together with
        ``transformNode`` when left out.
    mask, maskSegment
        Segmentation, label map or volume that similarity and Jacobian are restricted to.
    initialTransform
        A transform node that "before" refers to; the moving volume as it lies when left out.
    outputSummary, outputLandmarks, outputSegments, outputTumor
        ``vtkMRMLTableNode`` to overwrite, True or a name for a new one (an earlier evaluation of the same transform
        is overwritten), None for none.
    progress
        Called with a stage and the fraction done.

    Raises
    ------
    InputError
        If a node cannot be used; see also :func:`CycleRegLib.evaluation.evaluate`.  The scene is then as it was.
    """
    if transformNode is None:
        raise InputError("No transform to evaluate is given. Choose one.")
    outputs = {
        "summary": outputSummary,
        "landmarks": outputLandmarks,
        "segments": outputSegments,
        "tumor": outputTumor,
    }
    for what, output in outputs.items():
        check_output(output, TABLE, f"output table of the {what}", ())
    if inverseTransformNode is None and hasattr(transformNode, "GetNodeReference"):
        inverseTransformNode = transformNode.GetNodeReference(INVERSE_ROLE)
    below_fixed, below_moving = [inverseTransformNode], [transformNode]
    fixed = image_from_volume_node(fixedNode, "fixed volume", below_fixed, colours=True)
    moving = image_from_volume_node(movingNode, "moving volume", below_moving, colours=True)
    grid = Grid.of(fixed)
    given: dict[str, Any] = {}
    if inverseTransformNode is not None:
        given["inverse"] = field_from_node(inverseTransformNode, Grid.of(moving), "inverse transform")
    for side, below, markups, segmentation in (
        ("fixed", below_fixed, fixedLandmarks, fixedSegmentation),
        ("moving", below_moving, movingLandmarks, movingSegmentation),
    ):
        if markups is not None:
            given[f"{side}_landmarks"] = landmarks_from_markups(markups, f"{side} landmarks", below)
        if segmentation is not None:
            given[f"{side}_segmentation"] = segmentation_from_node(
                segmentation, None, f"{side} segmentation", below
            )  # fmt: skip
    if mask is not None:
        given["mask"] = mask_from_node(mask, grid, maskSegment, "mask", below_fixed)
    if initialTransform is not None:
        given["initial"] = transform_from_node(initialTransform, grid, "initial transform")
    evaluation = evaluate_images(
        fixed,
        moving,
        field_from_node(transformNode, grid),
        tumor_label=tumorSegment,
        progress=progress,
        **given,
    )
    return write_evaluation(evaluation, fixedNode, movingNode, transformNode, **outputs)


def write_evaluation(
    evaluation: Evaluation | Mapping[str, Any],
    fixedNode: Any,
    movingNode: Any,
    transformNode: Any,
    summary: Any = True,
    landmarks: Any = True,
    segments: Any = True,
    tumor: Any = True,
) -> EvaluationNodes:
    """Write the tables of an evaluation that is there already, also one read back from JSON; outputs as those of
    :func:`evaluate`."""
    outputs = {"summary": summary, "landmarks": landmarks, "segments": segments, "tumor": tumor}
    contents = evaluation_tables(evaluation.to_dict() if isinstance(evaluation, Evaluation) else evaluation)
    pair = f"{movingNode.GetName()} to {fixedNode.GetName()}"
    nodes: dict[str, Any] = dict.fromkeys(TABLE_ROLES)
    with NewNodes(fixedNode.GetScene()) as new:
        for what in contents:
            earlier = transformNode.GetNodeReference(TABLE_ROLES[what]) if outputs[what] is True else None
            node = nodes[what] = earlier or new.node(outputs[what], TABLE, f"{pair} {what} evaluation")
            if node is not None:
                write_table(node, contents[what])
                transformNode.SetNodeReferenceID(TABLE_ROLES[what], node.GetID())
        made = [node for node in nodes.values() if node is not None]
        folder = place_in_folder(made, f"CycleReg {pair}", fixedNode, about=transformNode) if made else None
    return EvaluationNodes(evaluation, folder=folder, **nodes)


def evaluation_tables(content: Mapping[str, Any]) -> dict[str, list[Column]]:
    """The tables of an evaluation, given as JSON has it, by the names of :class:`EvaluationNodes`; only what was
    measured is there."""
    rows = rows_of(content)
    tables = {
        "summary": [
            Column("Quantity", [row.name for row in rows]),
            Column("Unit", [row.unit for row in rows]),
            Column("Before", [row.before for row in rows]),
            Column("After", [row.after for row in rows]),
        ]
    }
    if "tre_mm" in content:
        found = content["tre_mm"]["per_landmark"]
        tables["landmarks"] = [
            Column("Landmark", [entry["label"] for entry in found]),
            Column(
                "TRE before (mm)",
                [entry["before"] for entry in found],
                "Target registration error of the volumes as they lie",
            ),
            Column(
                "TRE after (mm)",
                [entry["after"] for entry in found],
                "Target registration error under the transform",
            ),
        ]
    if "labels_mean" in content:
        tables["segments"] = [Column("Segment", list(content["dice"]))]
        for key, name, unit in (("dice", "Dice", ""), ("iou", "IoU", ""), ("hd95_mm", "HD95", " (mm)")):
            for when in ("before", "after"):
                values = [score[when] for score in content[key].values()]
                tables["segments"].append(Column(f"{name} {when}{unit}", values))
    if "tumor" in content:
        images = ("fixed", "moving", "warped", "difference_before", "difference_after")
        titles = ("fixed", "moving", "warped", "moving - fixed", "warped - fixed")
        tables["tumor"] = [Column("Image", titles)]
        for key, title in (
            ("major_mm", "Long diameter (mm)"),
            ("minor_mm", "Short diameter (mm)"),
            ("volume_ml", "Volume (mL)"),
        ):
            tables["tumor"].append(Column(title, [content["tumor"][key][image] for image in images]))
    return tables
