"""What one run of the registration needs: the nodes and the options that the panel shows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from CycleRegLib.methods import DEFAULT_METHOD, get_method, list_methods

from .Host import _

DEVICES = ("auto", "cpu", "cuda", "mps")
AFFINE_STAGES = ("auto", "none", "rigid", "affine")


@dataclass
class Parameters:
    """One set of choices.  It knows whether it can run, and why not (:meth:`problem`).

    ``outputTransform`` may be None: a transform node is then made when the result is there.  The other outputs are
    written only where a node is given.
    """

    fixedNode: Any = None
    movingNode: Any = None
    outputTransform: Any = None
    outputInverseTransform: Any = None
    outputVolume: Any = None
    outputJacobian: Any = None
    outputRoundtrip: Any = None
    method: str = DEFAULT_METHOD
    checkpoint: str = ""
    device: str = "auto"
    affine: str = "auto"

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
        for node, role in ((self.fixedNode, _("fixed")), (self.movingNode, _("moving"))):
            if node.GetImageData() is None:
                return _('The {role} volume "{name}" holds no image.').format(role=role, name=node.GetName())
        outputs = [
            self.outputTransform,
            self.outputInverseTransform,
            self.outputVolume,
            self.outputJacobian,
            self.outputRoundtrip,
        ]
        outputs = [node for node in outputs if node is not None]
        if len(set(outputs)) < len(outputs):
            return _("Two outputs are the same node; select a node of its own for each.")
        if self.fixedNode in outputs or self.movingNode in outputs:
            return _("An output would overwrite an input; select another node or create a new one.")
        problem = self._dimension_problem()
        if problem:
            return problem
        if get_method(self.method).needs_checkpoint and not self.checkpoint:
            return _("The method {method} needs trained weights; choose a checkpoint.").format(
                method=get_method(self.method).title
            )
        if self.uses_checkpoint and self.checkpoint and not os.path.isfile(self.checkpoint):
            return _("The checkpoint {path} does not exist; choose another.").format(path=self.checkpoint)
        return None

    def _dimension_problem(self) -> str | None:
        """Why single slices, volumes and colours do not go with each other or with the method."""
        slices = [1 in node.GetImageData().GetDimensions() for node in (self.fixedNode, self.movingNode)]
        if slices[0] != slices[1]:
            return _("One of the volumes is a single slice; select two volumes, or two single slices.")
        dimension = 2 if slices[0] else 3
        method = get_method(self.method)
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
    def uses_checkpoint(self) -> bool:
        """Whether the checkpoint counts: one that is left over from another method does not."""
        return get_method(self.method).uses_checkpoint

    def options(self) -> list[str]:
        """The options of ``cyclereg register``; the files are added by :class:`CycleRegPanel.Exchange.Exchange`."""
        options = ["--method", self.method, "--device", self.device, "--affine", self.affine]
        if self.uses_checkpoint and self.checkpoint:
            options += ["--checkpoint", self.checkpoint]
        return options
