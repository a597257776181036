"""The data of several moving volumes that are registered onto one fixed volume in one child process."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from typing import Any

from .Exchange import ResultFiles, inputArguments, stageName
from .Folder import Folder
from .Parameters import Parameters


@dataclass(frozen=True)
class Phase:
    """One moving volume and the name that its results bear: a node of the scene, or an item of a sequence."""

    node: Any
    name: str


class PhasesExchange:
    """As :class:`CycleRegPanel.Exchange.Exchange`, for several pairs with the same fixed volume.

    Parameters
    ----------
    parameters
        What holds for all; its moving volume and outputs do not count.
    phases
        At least one.
    warped
        Whether warped volumes are made.
    """

    def __init__(self, parameters: Parameters, phases: list[Phase], warped: bool) -> None:
        self._parameters = parameters
        self._phases = phases
        self._warped = warped
        self._jobs: dict[str, Any] = {}
        self._folder = Folder()

    def writeInputs(self) -> list[str]:
        """As :meth:`CycleRegPanel.Exchange.Exchange.writeInputs`; the command is ``series``."""
        from CycleRegLib import mrml

        given, folder = self._parameters, self._folder
        folder.make()
        paths, arguments = [], []
        for number, phase in enumerate(self._phases, start=1):
            job = mrml.prepare(
                given.fixedNode,
                phase.node,
                outputTransform=True,
                outputInverseTransform=given.inverse,
                outputVolume=self._warped,
                fixedMask=given.fixedMask,
                initialTransform=given.initialTransform,
            )
            paths.append(folder.writeImage(job.inputs["moving"], f"{number}.nrrd"))
            if number == 1:
                shared = {name: value for name, value in job.inputs.items() if name != "moving"}
                arguments = inputArguments(folder, shared)
            # The images are on disk now; of all phases together they need not be in memory as well.
            moving = job.inputs["moving"]
            kept = {"fixed": job.inputs["fixed"][:1, :1, :1], "moving": moving[:1, :1, :1]}
            self._jobs[str(number)] = dataclasses.replace(job, inputs=kept, moving_name=phase.name)
        arguments = ["series", *arguments, "--moving", *paths, "--output", folder.file("results")]
        arguments += [] if self._warped else ["--no-volumes"]
        arguments += ["--inverse-transforms"] if given.inverse else []
        return [*arguments, *given.options(), "--progress", "json"]

    def stage(self, text: str) -> str:
        """A stage of the child's progress, with the name of the phase."""
        number, _, stage = text.partition(": ")
        return f"{self._jobs[number].moving_name}: {stageName(stage)}" if number in self._jobs else stageName(text)

    def names(self, message: str) -> str:
        """The child's message about failed phases, which it knows by number, with their names."""
        reasons = [f"{self._jobs[one['name']].moving_name} ({one['reason']})" for one in self._index("failed")]
        return "; ".join(reasons) or message

    def hasResults(self) -> bool:
        """Whether at least one phase was registered."""
        return bool(self._index("done"))

    def readResults(self) -> list[Any]:
        """Write the results of all phases that were registered; returns one ``ProcessResult`` for each."""
        results = self._folder.file("results")
        return [self._jobs[one["name"]].commit(ResultFiles(os.path.join(results, one["name"])))
                for one in self._index("done")]  # fmt: skip

    def remove(self) -> None:
        """Remove the files."""
        self._folder.remove()

    def _index(self, status: str) -> list[dict[str, str]]:
        path = self._folder.file(os.path.join("results", "series.json"))
        if not os.path.isfile(path):
            return []
        with open(path, encoding="utf-8") as file:
            return [one for one in json.load(file) if one["status"] == status]
