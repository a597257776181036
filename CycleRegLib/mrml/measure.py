"""Measuring a registration that is in the scene: nodes in, the library's evaluation and tables out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..evaluation import evaluate as evaluate_images
from ..evaluation_result import Evaluation, rows_of
from ..geometry import Grid
from ..node_roles import INVERSE_ROLE, TABLE_ROLES
from ..segmentations import Segmentation
from .charts import write_tre_chart
from .diameters import TumorLines, draw_diameters, read_lines
from .nodes import field_from_node, image_from_volume_node, landmarks_from_markups, transform_from_node
from .results import TABLE, Column, NewNodes, check_output, place_in_folder, write_table
from .segments import mask_from_node, segmentation_from_node


@dataclass(frozen=True)
class EvaluationNodes:
    """The library's evaluation and its tables in the scene; None for what was not measured or not asked for.

    ``folder`` is the subject hierarchy item that holds the tables, None when there is no table.  ``chart`` is the plot
    of the landmarks' errors, ``diameters`` the tumour's diameters as line markups.
    """

    evaluation: Evaluation | Mapping[str, Any]
    summary: Any
    landmarks: Any
    segments: Any
    tumor: Any
    folder: int | None
    chart: Any = None
    diameters: Sequence[Any] = ()


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
    movingTumorSegment: str | None = None,
    segments: Sequence[str] | None = None,
    fixedTumorLines: TumorLines | None = None,
    movingTumorLines: TumorLines | None = None,
    outputChart: bool = False,
    outputDiameters: bool = False,
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
    tumorSegment, movingTumorSegment
        Name of the tumour's segment; found by its name when left out.  The second where it is called otherwise in the
        moving image.
    segments
        Names of the segments to compare, which both segmentations have; all that both have when left out.
    fixedTumorLines, movingTumorLines
        The tumour's diameters, drawn as line markups: both or neither, and not together with ``tumorSegment``.
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
    outputChart
        Whether to plot the landmarks' errors (``vtkMRMLPlotChartNode``).
    outputDiameters
        Whether to draw the tumour's diameters (``vtkMRMLMarkupsLineNode``).
    progress
        Called with a stage and the fraction done.

    Raises
    ------
    InputError
        If a node cannot be used; see also :func:`CycleRegLib.evaluation.evaluate`.  The scene is then as it was.
    """
    job = prepare_evaluation(
        fixedNode,
        movingNode,
        transformNode,
        fixedLandmarks=fixedLandmarks,
        movingLandmarks=movingLandmarks,
        fixedSegmentation=fixedSegmentation,
        movingSegmentation=movingSegmentation,
        tumorSegment=tumorSegment,
        inverseTransformNode=inverseTransformNode,
        mask=mask,
        maskSegment=maskSegment,
        initialTransform=initialTransform,
        movingTumorSegment=movingTumorSegment,
        segments=segments,
        fixedTumorLines=fixedTumorLines,
        movingTumorLines=movingTumorLines,
        outputs={
            "summary": outputSummary,
            "landmarks": outputLandmarks,
            "segments": outputSegments,
            "tumor": outputTumor,
            "chart": outputChart,
            "diameters": outputDiameters,
        },
    )
    return job.commit(evaluate_images(**job.inputs, progress=progress))


@dataclass(frozen=True)
class EvaluationJob:
    """An evaluation between reading its nodes and writing its tables; :func:`prepare_evaluation` makes it.

    For hosts that measure elsewhere, such as in a child process: ``inputs`` are the images, fields, landmarks,
    segmentations and lines by the argument names of :func:`CycleRegLib.evaluation.evaluate`.
    """

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    fixed_node: Any
    moving_node: Any
    transform_node: Any

    def commit(self, evaluation: Evaluation | Mapping[str, Any]) -> EvaluationNodes:
        """Write what was asked for into the scene.

        Raises
        ------
        InputError
            If a volume or the transform was removed from the scene meanwhile.
        """
        for what, node in (
            ("fixed volume", self.fixed_node),
            ("moving volume", self.moving_node),
            ("transform", self.transform_node),
        ):
            if node.GetScene() is None:
                raise InputError(f"The {what} was removed from the scene while it was measured. Choose it anew.")
        return write_evaluation(evaluation, self.fixed_node, self.moving_node, self.transform_node, **self.outputs)


def prepare_evaluation(
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
    movingTumorSegment: str | None = None,
    segments: Sequence[str] | None = None,
    fixedTumorLines: TumorLines | None = None,
    movingTumorLines: TumorLines | None = None,
    outputs: Mapping[str, Any] | None = None,
) -> EvaluationJob:
    """The first half of :func:`evaluate`: check the nodes and read them, without changing the scene.

    ``outputs`` are the arguments of :func:`write_evaluation` from ``summary`` on.

    Raises
    ------
    InputError
        If a node cannot be used.
    """
    if transformNode is None:
        raise InputError("No transform to evaluate is given. Choose one.")
    outputs = dict(outputs or {})
    for what in TABLE_ROLES:
        check_output(outputs.get(what, True), TABLE, f"output table of the {what}", ())
    if inverseTransformNode is None and hasattr(transformNode, "GetNodeReference"):
        inverseTransformNode = transformNode.GetNodeReference(INVERSE_ROLE)
    below_fixed, below_moving = [inverseTransformNode], [transformNode]
    given: dict[str, Any] = {
        "fixed": image_from_volume_node(fixedNode, "fixed volume", below_fixed, colours=True),
        "moving": image_from_volume_node(movingNode, "moving volume", below_moving, colours=True),
    }
    grid = Grid.of(given["fixed"])
    given["field"] = field_from_node(transformNode, grid)
    if inverseTransformNode is not None:
        given["inverse"] = field_from_node(inverseTransformNode, Grid.of(given["moving"]), "inverse transform")
    for side, below, markups, segmentation, lines in (
        ("fixed", below_fixed, fixedLandmarks, fixedSegmentation, fixedTumorLines),
        ("moving", below_moving, movingLandmarks, movingSegmentation, movingTumorLines),
    ):
        if markups is not None:
            given[f"{side}_landmarks"] = landmarks_from_markups(markups, f"{side} landmarks", below)
        if segmentation is not None:
            given[f"{side}_segmentation"] = segmentation_from_node(segmentation, None, f"{side} segmentation", below)
        if lines is not None:
            given[f"{side}_tumor_lines"] = read_lines(lines, side, below)
    given["tumor_label"] = _choose_segments(given, segments, tumorSegment, movingTumorSegment)
    if mask is not None:
        given["mask"] = mask_from_node(mask, grid, maskSegment, "mask", below_fixed)
    if initialTransform is not None:
        given["initial"] = transform_from_node(initialTransform, grid, "initial transform")
    return EvaluationJob(given, outputs, fixedNode, movingNode, transformNode)


def _choose_segments(
    given: dict[str, Any], segments: Sequence[str] | None, tumor: str | None, moving_tumor: str | None
) -> str | None:
    """Leave in the segmentations of ``given`` what is to be compared; the tumour gets one name, which is returned."""
    other = tumor if moving_tumor is None else moving_tumor
    fixed, moving = (given.get(f"{side}_segmentation") for side in ("fixed", "moving"))
    if not isinstance(fixed, Segmentation) or not isinstance(moving, Segmentation):
        return tumor
    if segments is None and other == tumor:
        return tumor
    shared = [name for name in fixed.names.values() if name in moving.names.values()] if segments is None else segments
    ours = {name: name for name in shared}
    theirs = dict(ours)
    if tumor is not None and other != tumor:
        name = f"{tumor} / {other}"
        ours[tumor] = theirs[other] = name
        # Of a segment that is the tumour on one side only, nothing is left to compare on the other.
        theirs.pop(tumor, None)
        ours.pop(other, None)
    elif tumor is not None:
        name = ours[tumor] = theirs[tumor] = tumor
    else:
        name = None
    if not ours:
        raise InputError("No segment is chosen to be compared. Choose at least one, or no segmentations.")
    given["fixed_segmentation"], given["moving_segmentation"] = fixed.chosen(ours), moving.chosen(theirs)
    return name


def write_evaluation(
    evaluation: Evaluation | Mapping[str, Any],
    fixedNode: Any,
    movingNode: Any,
    transformNode: Any,
    summary: Any = True,
    landmarks: Any = True,
    segments: Any = True,
    tumor: Any = True,
    chart: bool = False,
    diameters: bool = False,
) -> EvaluationNodes:
    """Write the tables of an evaluation that is there already, also one read back from JSON; outputs as those of
    :func:`evaluate`."""
    outputs = {"summary": summary, "landmarks": landmarks, "segments": segments, "tumor": tumor}
    content = evaluation.to_dict() if isinstance(evaluation, Evaluation) else evaluation
    contents = evaluation_tables(content)
    pair = f"{movingNode.GetName()} to {fixedNode.GetName()}"
    nodes: dict[str, Any] = dict.fromkeys(TABLE_ROLES)
    with NewNodes(fixedNode.GetScene()) as new:
        for what in contents:
            earlier = transformNode.GetNodeReference(TABLE_ROLES[what]) if outputs[what] is True else None
            node = nodes[what] = earlier or new.node(outputs[what], TABLE, f"{pair} {what} evaluation")
            if node is not None:
                write_table(node, contents[what])
                transformNode.SetNodeReferenceID(TABLE_ROLES[what], node.GetID())
        if chart and nodes["landmarks"] is not None:
            nodes["chart"] = write_tre_chart(nodes["landmarks"], transformNode, pair, new)
        made = [node for node in nodes.values() if node is not None]
        if diameters and "tumor" in content:
            nodes["diameters"] = draw_diameters(content["tumor"], fixedNode, movingNode, transformNode, new)
            made += nodes["diameters"]
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
