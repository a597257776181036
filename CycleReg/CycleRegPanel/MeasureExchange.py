"""Moves what is measured from nodes to the files of the child process, and its figures back into the scene."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from typing import Any

import slicer


class MeasureExchange:
    """A temporary folder with the inputs and the figures of one measuring.

    >>> exchange = MeasureExchange(job)                        # doctest: +SKIP
    >>> arguments = exchange.writeInputs(report="")            # for ``cyclereg`` in the child process
    >>> nodes = exchange.readResults()                         # after it succeeded
    >>> exchange.remove()

    Parameters
    ----------
    job
        ``CycleRegLib.mrml.EvaluationJob``: the nodes, read.
    """

    def __init__(self, job: Any) -> None:
        self._job = job
        self._folder: str | None = None

    def writeInputs(self, report: str = "") -> list[str]:
        """Write the files and return the whole command line, ``evaluate`` first; ``report`` is a folder, or empty."""
        import SimpleITK as sitk

        from CycleRegLib.landmarks import write_landmarks
        from CycleRegLib.segmentations import write_segmentation

        self._folder = tempfile.mkdtemp(prefix="CycleReg-", dir=getattr(slicer.app, "temporaryPath", None))
        given, arguments = self._job.inputs, ["evaluate"]
        for side, node in (("fixed", self._job.fixed_node), ("moving", self._job.moving_node)):
            # The report calls the images by the names of their files.
            path = self._path(os.path.join(side, _fileName(node.GetName()) + ".nrrd"))
            os.mkdir(os.path.dirname(path))
            sitk.WriteImage(given[side], path, False)
            arguments += [f"--{side}", path]
            if f"{side}_landmarks" in given:
                arguments += [f"--{side}-landmarks", self._path(f"{side}.mrk.json")]
                write_landmarks(given[f"{side}_landmarks"], arguments[-1])
            if f"{side}_segmentation" in given:
                arguments += [f"--{side}-segmentation", self._path(f"{side}.seg.nrrd")]
                write_segmentation(given[f"{side}_segmentation"], arguments[-1])
        for name, option in (("field", "--transform"), ("inverse", "--inverse-transform")):
            if name in given:
                arguments += [option, self._path(f"{name}.nrrd")]
                sitk.WriteImage(given[name].to_image(), arguments[-1], False)
        if given["tumor_label"] is not None:
            arguments += ["--tumor-segment", given["tumor_label"]]
        if report:
            arguments += ["--report", report]
        return [*arguments, "--json", self._path("evaluation.json"), "--progress", "json"]

    def readResults(self) -> Any:
        """Write the tables, plot and lines; returns ``CycleRegLib.mrml.EvaluationNodes``."""
        with open(self._path("evaluation.json"), encoding="utf-8") as file:
            return self._job.commit(json.load(file))

    def remove(self) -> None:
        """Remove the folder; what a child that was just stopped still holds open is left to the system."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)


def _fileName(name: str) -> str:
    """A node's name as a file name that every system takes."""
    return re.sub(r"[^\w() -]+", "_", name).strip()[:80] or "volume"
