"""Moves the data of one run between the nodes of the scene and the files of the child process."""

from __future__ import annotations

import json
import os
from typing import Any

from .Folder import Folder
from .Host import _
from .Parameters import Parameters


class Exchange:
    """The inputs and the results of one pair, as files.

    >>> exchange = Exchange(parameters)                        # doctest: +SKIP
    >>> arguments = exchange.writeInputs()                     # for ``cyclereg`` in the child process
    >>> results = exchange.readResults()                       # after it succeeded
    >>> exchange.remove()

    Nodes are read and written by ``CycleRegLib.mrml`` as in ``CycleRegLogic.process``; only what lies between runs
    elsewhere.  ``mrml`` is imported here and not before, because it needs PyTorch, which the panel asks for on Apply.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._job: Any = None
        self._folder = Folder()

    def writeInputs(self) -> list[str]:
        """Check the nodes, write the images, and return the whole command line, ``register`` first.

        Raises
        ------
        CycleRegLib.errors.InputError
            If a node cannot be used, or the files cannot be written; says why and what to do.
        """
        from CycleRegLib import mrml

        given = self._parameters
        self._job = mrml.prepare(
            given.fixedNode,
            given.movingNode,
            outputTransform=given.outputTransform if given.outputTransform is not None else True,
            outputInverseTransform=given.inverse,
            outputVolume=given.outputVolume,
            outputJacobian=given.outputJacobian,
            outputRoundtrip=given.outputRoundtrip,
            fixedMask=given.fixedMask,
            movingMask=given.movingMask,
            initialTransform=given.initialTransform,
        )
        folder, inputs = self._folder, self._job.inputs
        folder.make()
        arguments = ["register", *inputArguments(folder, inputs)]
        arguments += given.options()
        arguments += ["--output-transform", folder.file("transform.nrrd")]
        for node, option, name in (
            (given.inverse, "--output-inverse-transform", "inverse.nrrd"),
            (given.outputVolume, "--output-volume", "warped.nrrd"),
            (given.outputJacobian, "--output-jacobian", "jacobian.nrrd"),
            (given.outputRoundtrip, "--output-roundtrip", "roundtrip.nrrd"),
        ):
            if node is not None:
                arguments += [option, folder.file(name)]
        return [*arguments, "--json", folder.file("summary.json"), "--progress", "json"]

    def stage(self, text: str) -> str:
        """A stage of the child's progress, for people."""
        return stageName(text)

    def hasResults(self) -> bool:
        """Whether there is something to read although the child failed."""
        return False

    def readResults(self) -> list[Any]:
        """Write the results into the output nodes; returns ``CycleRegLib.mrml.ProcessResult``, one for each pair."""
        return [self._job.commit(ResultFiles(self._folder.path))]

    def remove(self) -> None:
        """Remove the files."""
        self._folder.remove()


def inputArguments(folder: Folder, inputs: dict[str, Any]) -> list[str]:
    """Write the images, masks and initial transform of a job; returns the options that name the files."""
    arguments = []
    for name in ("fixed", "moving", "fixed_mask", "moving_mask"):
        if name in inputs:
            arguments += [f"--{name.replace('_', '-')}", folder.writeImage(inputs[name], f"{name}.nrrd")]
    if "initial_transform" in inputs:
        path = folder.writeTransform(inputs["initial_transform"], inputs["fixed"], "initial.nrrd")
        arguments += ["--initial-transform", path]
    return arguments


def stageName(text: str) -> str:
    """The library's short names of stages, for people."""
    names = {
        "check": _("Checking the images"),
        "affine": _("Affine stage"),
        "network": _("Network"),
        "optimize": _("Pair optimisation"),
        "measure": _("Measuring"),
        "done": _("Reading the result"),
    }
    return names.get(text, text)


class ResultFiles:
    """The files that the child wrote, by the names of ``CycleRegLib.registration.RegistrationResult``.

    Only what was asked for is there, and only that is read.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder

    @property
    def method(self) -> str:
        return str(self.summary()["method"])

    @property
    def field(self) -> Any:
        return self._field("transform.nrrd")

    @property
    def inverse(self) -> Any:
        return self._field("inverse.nrrd")

    @property
    def warped(self) -> Any:
        return self._image("warped.nrrd")

    def jacobian(self) -> Any:
        return self._image("jacobian.nrrd")

    def roundtrip_image(self) -> Any:
        return self._image("roundtrip.nrrd")

    def summary(self) -> dict[str, Any]:
        with open(os.path.join(self._folder, "summary.json"), encoding="utf-8") as file:
            return json.load(file)

    def _image(self, name: str) -> Any:
        import SimpleITK as sitk

        return sitk.ReadImage(os.path.join(self._folder, name))

    def _field(self, name: str) -> Any:
        from CycleRegLib.fields import DisplacementField

        return DisplacementField.from_image(self._image(name))
