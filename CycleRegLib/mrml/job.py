"""The main job on nodes: register two volumes and write the results into the scene, whole or not at all.

World and parent transforms
---------------------------
All outputs speak of the world: the output transform maps world points of the fixed volume to world points of the
moving volume, and volumes made here have no parent transform.  A moving volume without a parent transform, put under
the output transform, shows as the warped volume; :func:`CycleRegLib.mrml.show_under` does the same for one that is
placed by linear transforms.

A volume that is still under the output transforms of an earlier run is taken as it was without them, so that a
registration can be repeated while its result is being shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import SimpleITK as sitk

from ..errors import InputError
from ..geometry import Grid
from ..images_2d import check_any
from ..node_roles import INVERSE_ROLE, ROUNDTRIP_ROLE, WARPED_ROLE
from ..planar import FlatPair, is_flat
from .color_tables import JACOBIAN, ROUNDTRIP
from .nodes import image_from_volume_node, transform_from_node
from .results import (
    TABLE,
    TRANSFORM,
    VECTOR_VOLUME,
    VOLUME,
    Column,
    NewNodes,
    check_output,
    place_in_folder,
    roundtrip_top,
    show_like,
    show_range,
    write_table,
    write_transform,
    write_volume,
)
from .segments import mask_from_node
from .vtk_bridge import parents_of

if TYPE_CHECKING:
    from ..networks.settings import InferenceSettings
    from ..registration import RegistrationResult

#: Role under which a transform node refers to the table about its registration.
SUMMARY_ROLE = "CycleReg.SummaryTable"

_KINDS = {
    "transform": TRANSFORM,
    "inverse_transform": TRANSFORM,
    "volume": VOLUME,
    "jacobian": VOLUME,
    "roundtrip": VOLUME,
    "summary_table": TABLE,
}


@dataclass(frozen=True)
class ProcessResult:
    """What a registration left in the scene; None for what was not asked for.

    ``registration`` is the library's result with images, fields and figures; ``folder`` the subject hierarchy item
    that holds the nodes.
    """

    registration: RegistrationResult
    transform: Any
    inverse_transform: Any
    volume: Any
    jacobian: Any
    roundtrip: Any
    summary_table: Any
    folder: int


def process(
    fixedNode: Any,
    movingNode: Any,
    outputTransform: Any = None,
    outputInverseTransform: Any = None,
    outputVolume: Any = None,
    outputJacobian: Any = None,
    outputRoundtrip: Any = None,
    method: str | None = None,
    checkpoint: Any = None,
    device: str = "auto",
    affine: str = "auto",
    fixedMask: Any = None,
    movingMask: Any = None,
    initialTransform: Any = None,
    refineSteps: int | None = None,
    smoothness: float | None = None,
    progress: Callable[[str, float], None] | None = None,
    fixedMaskSegment: str | None = None,
    movingMaskSegment: str | None = None,
    outputSummary: Any = True,
    backwardCheckpoint: Any = None,
    register: Callable[..., RegistrationResult] | None = None,
    inference: InferenceSettings | None = None,
    preset: str | None = None,
) -> ProcessResult:
    """Register the moving to the fixed volume and write what was asked for into the scene.

    Nothing in the scene changes before the whole result is there; when anything fails or is cancelled, it stays as
    it was.

    Parameters
    ----------
    fixedNode, movingNode
        Scalar volume nodes, also under linear transforms; for methods in 2D, single slices of any orientation, scalar
        or vector (RGB) volume nodes.
    outputTransform, outputInverseTransform
        ``vtkMRMLTransformNode``: fixed to moving (shows the moving volume on the fixed one), and moving to fixed.
    outputVolume, outputJacobian, outputRoundtrip
        ``vtkMRMLScalarVolumeNode`` on the fixed grid: the warped moving volume (of colours a
        ``vtkMRMLVectorVolumeNode``), the Jacobian determinant, and the round-trip error in mm (-1 where the point
        leaves the moving volume).
    outputSummary
        ``vtkMRMLTableNode`` with the figures of the registration.
    preset, method, checkpoint, backwardCheckpoint, device, affine, refineSteps, smoothness, inference, progress
        As in :func:`CycleRegLib.registration.register`.
    fixedMask, movingMask
        Segmentation, label map or volume nodes; of a segmentation all visible segments, or the one that
        ``fixedMaskSegment`` / ``movingMaskSegment`` names.
    initialTransform
        A transform node that, with the moving volume under it, would bring it onto the fixed one.
    register
        Replaces :func:`CycleRegLib.registration.register`, for example by one in another process.

    Every output is an existing node, which is overwritten, True or a name for a new node, or None for none.  When no
    transform or volume is asked for at all, a new transform and a new warped volume are made.

    Raises
    ------
    InputError
        If an input or output node cannot be used; see also :func:`CycleRegLib.registration.register`.
    OutOfMemoryError, Cancelled
        From the registration.
    """
    job = prepare(
        fixedNode,
        movingNode,
        outputTransform=outputTransform,
        outputInverseTransform=outputInverseTransform,
        outputVolume=outputVolume,
        outputJacobian=outputJacobian,
        outputRoundtrip=outputRoundtrip,
        outputSummary=outputSummary,
        fixedMask=fixedMask,
        movingMask=movingMask,
        initialTransform=initialTransform,
        fixedMaskSegment=fixedMaskSegment,
        movingMaskSegment=movingMaskSegment,
    )
    options = {
        "preset": preset,
        "method": method,
        "checkpoint": checkpoint,
        "backward_checkpoint": backwardCheckpoint,
        "refine_steps": refineSteps,
        "smoothness": smoothness,
        "inference": inference,
    }
    if register is None:
        from ..registration import register
    result = register(
        **job.inputs,
        **{name: value for name, value in options.items() if value is not None},
        device=device,
        affine=affine,
        progress=progress,
    )
    return job.commit(result)


@dataclass(frozen=True)
class Job:
    """A registration between reading its nodes and writing its results; :func:`prepare` makes it.

    For hosts that register elsewhere, such as in a child process, and come back later: ``inputs`` are the images,
    masks and initial transform by the argument names of :func:`CycleRegLib.registration.register`.
    """

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    scene: Any
    fixed_node: Any
    moving_node: Any
    fixed_name: str
    moving_name: str

    def commit(self, result: Any) -> ProcessResult:
        """Write what was asked for into the scene; nothing of it if anything fails before.

        ``result`` is a :class:`CycleRegLib.registration.RegistrationResult`, or has the same of what was asked for.
        Output nodes that were removed from the scene meanwhile are made anew.
        """
        contents: dict[str, Callable[[], Any]] = {
            "transform": lambda: result.field,
            "inverse_transform": lambda: result.inverse,
            "volume": lambda: result.warped,
            "jacobian": lambda: result.jacobian(),
            "roundtrip": lambda: result.roundtrip_image(),
            "summary_table": lambda: summary_columns(result.summary()),
        }
        ready = {what: contents[what]() for what, output in self.outputs.items() if output}
        fixed, moving = (n if n.GetScene() is self.scene else None for n in (self.fixed_node, self.moving_node))
        pair = f"{self.moving_name} to {self.fixed_name}"
        with NewNodes(self.scene) as new:
            nodes = self._nodes(new, pair)
            _write_transforms(nodes, ready, fixed, moving, result.method)
            _write_volumes(nodes, ready, moving)
            if nodes["summary_table"] is not None:
                write_table(nodes["summary_table"], ready["summary_table"])
            made = [node for node in nodes.values() if node is not None]
            folder = place_in_folder(made, f"CycleReg {pair}", fixed if fixed is not None else made[0])
        return ProcessResult(result, folder=folder, **nodes)

    def _nodes(self, new: NewNodes, pair: str) -> dict[str, Any]:
        names = {
            "transform": f"{pair} transform",
            "inverse_transform": f"{self.fixed_name} to {self.moving_name} transform",
            "volume": f"{self.moving_name} warped to {self.fixed_name}",
            "jacobian": f"{pair} Jacobian determinant",
            "roundtrip": f"{pair} round trip (mm)",
            "summary_table": f"{pair} summary",
        }
        outputs = {
            what: output.GetName() if hasattr(output, "GetScene") and output.GetScene() is not self.scene else output
            for what, output in self.outputs.items()
        }
        transform = outputs["transform"]
        if outputs["summary_table"] is True and hasattr(transform, "GetNodeReference"):
            # A run that overwrites its transform overwrites the table about it too.
            outputs["summary_table"] = transform.GetNodeReference(SUMMARY_ROLE) or True
        kinds = _kinds(self.inputs["moving"])
        return {what: new.node(output, kinds[what], names[what]) for what, output in outputs.items()}


def _kinds(moving: sitk.Image) -> dict[str, str]:
    """The node class of every output; colours stay colours."""
    return {**_KINDS, "volume": VECTOR_VOLUME if moving.GetNumberOfComponentsPerPixel() > 1 else VOLUME}


def prepare(
    fixedNode: Any,
    movingNode: Any,
    outputTransform: Any = None,
    outputInverseTransform: Any = None,
    outputVolume: Any = None,
    outputJacobian: Any = None,
    outputRoundtrip: Any = None,
    outputSummary: Any = True,
    fixedMask: Any = None,
    movingMask: Any = None,
    initialTransform: Any = None,
    fixedMaskSegment: str | None = None,
    movingMaskSegment: str | None = None,
) -> Job:
    """The first half of :func:`process`: check the nodes and read them, without changing the scene.

    Raises
    ------
    InputError
        If an input or output node cannot be used.
    """
    outputs = {
        "transform": outputTransform,
        "inverse_transform": outputInverseTransform,
        "volume": outputVolume,
        "jacobian": outputJacobian,
        "roundtrip": outputRoundtrip,
    }
    if not any(outputs.values()):
        outputs.update(transform=True, volume=True)
    outputs["summary_table"] = outputSummary
    for what, node in (("fixed volume", fixedNode), ("moving volume", movingNode)):
        if node is None:
            raise InputError(f"No {what} is given. Choose one.")
    # Items of a sequence are in a scene of their own, with ids of their own.
    if fixedNode.GetID() == movingNode.GetID() and fixedNode.GetScene() is movingNode.GetScene():
        raise InputError(f'"{fixedNode.GetName()}" is both the fixed and the moving volume. Choose two volumes.')
    given = [output for output in outputs.values() if hasattr(output, "GetID")]
    if len({output.GetID() for output in given}) < len(given):
        raise InputError("Two outputs are the same node. Choose a node of its own for each.")
    transform, inverse = (
        outputs[w] if hasattr(outputs[w], "GetID") else None for w in ("transform", "inverse_transform")
    )
    inputs: dict[str, Any] = {}
    for side, node, below in (("fixed", fixedNode, [inverse]), ("moving", movingNode, [transform])):
        image = image_from_volume_node(node, f"{side} volume", below, colours=True)
        inputs[side] = check_any(image, f'{side} volume "{node.GetName()}"')
    if is_flat(inputs["fixed"]) or is_flat(inputs["moving"]):
        FlatPair(inputs["fixed"], inputs["moving"])  # refuses a slice with a volume
    kinds = _kinds(inputs["moving"])
    for what, output in outputs.items():
        check_output(
            output, kinds[what], f"output {what.replace('_', ' ')}", (fixedNode, movingNode, fixedMask, movingMask)
        )
    _refuse_feedback(fixedNode, "fixed volume", transform, "output transform")
    _refuse_feedback(movingNode, "moving volume", inverse, "output inverse transform")
    for side, mask, segment, below in (
        ("fixed", fixedMask, fixedMaskSegment, [inverse]),
        ("moving", movingMask, movingMaskSegment, [transform]),
    ):
        if mask is not None:
            inputs[f"{side}_mask"] = mask_from_node(mask, Grid.of(inputs[side]), segment, f"{side} mask", below)
    if initialTransform is not None:
        if initialTransform.GetID() in {parent.GetID() for parent in parents_of(movingNode, [transform])}:
            raise InputError(
                f'The moving volume "{movingNode.GetName()}" is already under the initial transform '
                f'"{initialTransform.GetName()}", which would count twice. Leave the initial transform empty, or take '
                "the volume out of it."
            )
        grid = Grid.of(inputs["fixed"])
        inputs["initial_transform"] = transform_from_node(initialTransform, grid, "initial transform")
    return Job(inputs, outputs, fixedNode.GetScene(), fixedNode, movingNode, fixedNode.GetName(), movingNode.GetName())


def _refuse_feedback(node: Any, what: str, output: Any, role: str) -> None:
    if output is not None and output.GetID() in {parent.GetID() for parent in parents_of(node)}:
        raise InputError(
            f'The {what} "{node.GetName()}" is under the {role} "{output.GetName()}", so writing it would move the '
            f"{what} itself. Take the volume out of it, or choose another output."
        )


def _write_transforms(nodes: Mapping[str, Any], ready: Mapping[str, Any], fixed: Any, moving: Any, method: str) -> None:
    transform, inverse, summary = nodes["transform"], nodes["inverse_transform"], nodes["summary_table"]
    if transform is not None:
        write_transform(transform, ready["transform"], fixed, moving)
    if inverse is not None:
        write_transform(inverse, ready["inverse_transform"], moving, fixed)
    for node, role, other in (
        (transform, INVERSE_ROLE, inverse),
        (inverse, INVERSE_ROLE, transform),
        (transform, SUMMARY_ROLE, summary),
        (transform, WARPED_ROLE, nodes["volume"]),
        (transform, ROUNDTRIP_ROLE, nodes["roundtrip"]),
    ):
        if node is not None:
            node.SetNodeReferenceID(role, other.GetID() if other is not None else None)
            node.SetAttribute("CycleReg.Method", method)


def _write_volumes(nodes: Mapping[str, Any], ready: Mapping[str, Any], moving: Any) -> None:
    volume, jacobian, roundtrip = nodes["volume"], nodes["jacobian"], nodes["roundtrip"]
    for node in (volume, jacobian, roundtrip):
        if node is not None:
            node.SetAttribute("CycleReg.Result", "1")  # so that no host takes it for an input by itself
    if volume is not None:
        write_volume(volume, ready["volume"])
        show_like(volume, moving)
    if jacobian is not None:
        write_volume(jacobian, ready["jacobian"])
        jacobian.SetDescription("Jacobian determinant: below 1 shrinks, above 1 grows, 0 or less folds.")
        show_range(jacobian, 0.0, 2.0, JACOBIAN)
    if roundtrip is not None:
        write_volume(roundtrip, ready["roundtrip"])
        roundtrip.SetDescription("Round-trip error in mm; -1, not shown, where the point leaves the moving volume.")
        show_range(roundtrip, 0.0, roundtrip_top(ready["roundtrip"]), ROUNDTRIP, hide_below=0.0)


# ---------------------------------------------------------------------- the summary as a table

_TITLES = {"seconds": "Time", "roundtrip": "Round trip", "jacobian": "Jacobian determinant"}
_UNITS = {"percent": "%", "mm": "mm", "mb": "MB", "ml": "mL", "seconds": "s"}


def summary_columns(summary: Mapping[str, Any]) -> list[Column]:
    """The figures of a summary (DESIGN.md, ``--json``) as the columns Quantity, Value and Unit.

    Units are those that the summary's keys end in (``_mm``, ``_percent``, ``_mb``, ``_ml``, ``seconds``).
    """
    rows: list[tuple[str, str, str]] = []
    _flatten(summary, "", "", rows)
    quantities, values, units = zip(*rows) if rows else ((), (), ())
    return [Column("Quantity", quantities), Column("Value", values), Column("Unit", units)]


def _flatten(entry: Any, title: str, unit: str, rows: list[tuple[str, str, str]]) -> None:
    if isinstance(entry, Mapping):
        for key, value in entry.items():
            stem, own = _split_unit(str(key))
            _flatten(value, f"{title}, {stem}" if title else stem[:1].upper() + stem[1:], own or unit, rows)
    elif isinstance(entry, (list, tuple)):
        if all(isinstance(value, str) for value in entry):
            rows += [(f"{title} {number}", value, unit) for number, value in enumerate(entry, start=1)]
        else:
            rows.append((title, json.dumps(entry), unit))
    elif entry is not None:
        rows.append((title, f"{entry:.6g}" if isinstance(entry, float) else str(entry), unit))


def _split_unit(key: str) -> tuple[str, str]:
    """``folding_percent`` as ("folding", "%")."""
    stem, _, last = key.rpartition("_")
    name = (stem or key) if last in _UNITS else key
    return _TITLES.get(name, name.replace("_", " ")), _UNITS.get(last, "")
