"""Moves the data of one run between the nodes of the scene and the files of the child process."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from typing import Any

import slicer

from .Parameters import Parameters


class Exchange:
    """A temporary folder with the inputs and the results of one run.

    >>> exchange = Exchange(parameters)                        # doctest: +SKIP
    >>> arguments = exchange.writeInputs()                     # for ``cyclereg`` in the child process
    >>> nodes = exchange.readResults()                         # after it succeeded
    >>> exchange.remove()

    Nodes are read and written by ``CycleRegLib.mrml`` as in ``CycleRegLogic.process``; only what lies between runs
    elsewhere.  ``mrml`` is imported here and not before, because it needs PyTorch, which the panel asks for on Apply.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._job: Any = None
        self._folder: str | None = None

    def writeInputs(self) -> list[str]:
        """Check the nodes, write the images, and return the whole command line, ``register`` first.

        Raises
        ------
        CycleRegLib.errors.InputError
            If a node cannot be used; says why and what to do.
        """
        import SimpleITK as sitk

        from CycleRegLib import mrml

        given = self._parameters
        self._job = mrml.prepare(
            given.fixedNode,
            given.movingNode,
            outputTransform=given.outputTransform if given.outputTransform is not None else True,
            outputInverseTransform=given.outputInverseTransform,
            outputVolume=given.outputVolume,
            outputJacobian=given.outputJacobian,
            outputRoundtrip=given.outputRoundtrip,
        )
        self._folder = tempfile.mkdtemp(prefix="CycleReg-", dir=getattr(slicer.app, "temporaryPath", None))
        for name in ("fixed", "moving"):
            # Uncompressed: the files live for one run, and compressing takes longer than writing.
            sitk.WriteImage(self._job.inputs[name], self._path(f"{name}.nrrd"), False)
        arguments = ["register", "--fixed", self._path("fixed.nrrd"), "--moving", self._path("moving.nrrd")]
        arguments += given.options()
        arguments += ["--output-transform", self._path("transform.nrrd")]
        for node, option, name in (
            (given.outputInverseTransform, "--output-inverse-transform", "inverse.nrrd"),
            (given.outputVolume, "--output-volume", "warped.nrrd"),
            (given.outputJacobian, "--output-jacobian", "jacobian.nrrd"),
            (given.outputRoundtrip, "--output-roundtrip", "roundtrip.nrrd"),
        ):
            if node is not None:
                arguments += [option, self._path(name)]
        return [*arguments, "--json", self._path("summary.json"), "--progress", "json"]

    def readResults(self) -> Any:
        """Write the results into the output nodes; returns ``CycleRegLib.mrml.ProcessResult``."""
        return self._job.commit(_Files(self._folder))

    def remove(self) -> None:
        """Remove the folder; what a child that was just stopped still holds open is left to the system."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)


class _Files:
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
