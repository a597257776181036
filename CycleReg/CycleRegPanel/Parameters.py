"""What one run of the registration needs: the nodes and the options that the panel shows."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

from CycleRegLib.errors import InputError
from CycleRegLib.methods import Method, get_method, list_methods
from CycleRegLib.presets import DEFAULT_PRESET, get_preset

from .Host import _
from .Volumes import browserOf, deformingParent

DEVICES = ("auto", "cpu", "cuda", "mps")
AFFINE_STAGES = ("auto", "none", "rigid", "affine")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
PRESET = "preset:"


def methodOf(choice: str) -> Method:
    """The method that an entry of the method list stands for: ``preset:`` and the id of a preset, or a method's id.

    Raises
    ------
    InputError
        If there is no such method or preset.
    """
    return get_method(get_preset(choice[len(PRESET) :]).method if choice.startswith(PRESET) else choice)


@dataclass
class Parameters:
    """One set of choices.  It knows whether it can run, and why not (:meth:`problem`).

    ``outputTransform`` may be None: a transform node is then made when the result is there; so is one for the inverse
    with ``bothDirections``.  The other outputs are written only where a node is given.
    """

    fixedNode: Any = None
    movingNode: Any = None
    fixedMask: Any = None
    movingMask: Any = None
    initialTransform: Any = None
    outputTransform: Any = None
    outputInverseTransform: Any = None
    bothDirections: bool = True
    outputVolume: Any = None
    outputJacobian: Any = None
    outputRoundtrip: Any = None
    method: str = PRESET + DEFAULT_PRESET
    checkpoint: str = ""
    device: str = "auto"
    affine: str = "auto"
    refineSteps: int = 0
    smoothness: float = 1.0
    precision: str = "auto"
    patchSize: int = 64
    patchOverlap: float = 0.5
    organSlices: bool = False

    @classmethod
    def of(cls, parameterNode: Any) -> Parameters:
        """As a parameter set says; nodes that were removed from the scene are None."""
        values = {field.name: parameterNode.getValue(field.name) for field in dataclasses.fields(cls)}
        return cls(**{name: None if _isGone(value) else value for name, value in values.items()})

    @property
    def inverse(self) -> Any:
        """Where the inverse transform goes: a node, True for a new one, None for nowhere."""
        if self.outputInverseTransform is not None:
            return self.outputInverseTransform
        return True if self.bothDirections else None

    @property
    def outputs(self) -> list[Any]:
        """The output nodes that are given."""
        nodes = [
            self.outputTransform,
            self.outputInverseTransform,
            self.outputVolume,
            self.outputJacobian,
            self.outputRoundtrip,
        ]
        return [node for node in nodes if node is not None]

    def problem(self) -> str | None:
        """What keeps this from running, as one sentence for the user; None when it can run."""
        if self.fixedNode is None and self.movingNode is None:
            return _("Select a fixed and a moving volume.")
        if self.fixedNode is None:
            return _("Select a fixed volume.")
        if self.movingNode is None:
            return _("Select a moving volume.")
        if self.fixedNode is self.movingNode:
            return _("Fixed and moving volume are the same; select two different volumes.")
        return self._nodeProblem() or self._outputProblem() or self._methodProblem()

    def note(self) -> str | None:
        """What the user should know although it can run; None if nothing."""
        for node in (self.fixedNode, self.movingNode):
            browser = browserOf(node) if node is not None else None
            if browser is not None:
                return _(
                    '"{name}" shows item {number} of a sequence: this item alone is registered. All items at once: '
                    'section "Several phases".'
                ).format(name=node.GetName(), number=browser.GetSelectedItemNumber() + 1)
        return None

    def _nodeProblem(self) -> str | None:
        for node, role, allowed in (
            (self.fixedNode, _("fixed"), self.outputInverseTransform),
            (self.movingNode, _("moving"), self.outputTransform),
        ):
            if node.GetImageData() is None:
                return _('The {role} volume "{name}" holds no image.').format(role=role, name=node.GetName())
            parent = deformingParent(node, allowed)
            if parent is not None:
                return _(
                    'The {role} volume "{name}" is under the non-linear transform '
                    '"{transform}"; harden it, or take the volume out of it (Data module).'
                ).format(role=role, name=node.GetName(), transform=parent.GetName())
        if self.initialTransform is not None and self.initialTransform in self.outputs:
            return _("The initial transform would be overwritten by an output; select another node for the output.")
        return None

    def _outputProblem(self) -> str | None:
        outputs = self.outputs
        if len(set(outputs)) < len(outputs):
            return _("Two outputs are the same node; select a node of its own for each.")
        if self.fixedNode in outputs or self.movingNode in outputs:
            return _("An output would overwrite an input; select another node or create a new one.")
        for node in outputs:
            if browserOf(node) is not None:
                return _(
                    'The output "{name}" shows items of a sequence that would replace the result; select another one.'
                ).format(name=node.GetName())
        return None

    def _methodProblem(self) -> str | None:
        try:
            method = methodOf(self.method)
        except InputError as error:
            return str(error)
        problem = self._dimensionProblem(method)
        if problem:
            return problem
        if method.needs_checkpoint and not self.checkpoint:
            return _("The method {method} needs trained weights; choose a checkpoint.").format(method=method.title)
        if method.uses_checkpoint and self.checkpoint and not os.path.isfile(self.checkpoint):
            return _("The checkpoint {path} does not exist; choose another.").format(path=self.checkpoint)
        if method.uses_checkpoint and self.organSlices and self.fixedMask is None and self.movingMask is None:
            return _("The slices that the masks show need a mask; select one, or switch the expert option off.")
        return None

    def _dimensionProblem(self, method: Method) -> str | None:
        """Why single slices, volumes and colours do not go with each other or with the method."""
        slices = [1 in node.GetImageData().GetDimensions() for node in (self.fixedNode, self.movingNode)]
        if slices[0] != slices[1]:
            return _("One of the volumes is a single slice; select two volumes, or two single slices.")
        dimension = 2 if slices[0] else 3
        if dimension not in method.dimensions:
            reason = (
                _("{method} registers volumes, not single slices; choose a method for 2D: {others}.")
                if dimension == 2
                else _("{method} registers single slices, not volumes; choose a method for 3D: {others}.")
            )
            others = ", ".join(other.title for other in list_methods() if dimension in other.dimensions)
            return reason.format(method=method.title, others=others)
        colours = [node.GetImageData().GetNumberOfScalarComponents() > 1 for node in (self.fixedNode, self.movingNode)]
        for node, colour in zip((self.fixedNode, self.movingNode), colours):
            if colour and dimension == 3:
                return _('"{name}" is a colour volume; of volumes only grey ones can be registered.').format(
                    name=node.GetName()
                )
        if self.outputVolume is not None and self.outputVolume.IsA("vtkMRMLVectorVolumeNode") != colours[1]:
            return (
                _("The warped volume of a colour image is a vector volume; create one, or select none.")
                if colours[1]
                else _("The warped volume of a grey image is a scalar volume; create one, or select none.")
            )
        return None

    @property
    def usesCheckpoint(self) -> bool:
        """Whether the checkpoint counts: one that is left over from another method does not."""
        try:
            return methodOf(self.method).uses_checkpoint
        except InputError:
            return False

    def options(self) -> list[str]:
        """The options of ``cyclereg register``; the files are added by :class:`CycleRegPanel.Exchange.Exchange`."""
        if self.method.startswith(PRESET):
            options = ["--preset", self.method[len(PRESET) :]]
        else:
            options = ["--method", self.method]
        options += ["--device", self.device, "--affine", self.affine]
        if self.usesCheckpoint:
            if self.checkpoint:
                options += ["--checkpoint", self.checkpoint]
            options += ["--precision", self.precision, "--patch-size", str(self.patchSize)]
            options += ["--patch-overlap", f"{self.patchOverlap:g}"]
            options += ["--organ-slices"] if self.organSlices else []
        # Pair optimisation is for volumes.
        if self.refineSteps and 3 in methodOf(self.method).dimensions:
            options += ["--refine-steps", str(self.refineSteps)]
        return [*options, "--smoothness", f"{self.smoothness:g}"]


def _isGone(value: Any) -> bool:
    """Whether a value is a node that is in no scene any more."""
    return hasattr(value, "GetScene") and value.GetScene() is None
