"""Moves what is measured from nodes to the files of the child process, and its figures back into the scene."""

from __future__ import annotations

import json
import re
from typing import Any

from .Folder import Folder


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
        self._folder = Folder()

    def writeInputs(self, report: str = "") -> list[str]:
        """Write the files and return the whole command line, ``evaluate`` first; ``report`` is a folder, or empty.

        Raises
        ------
        CycleRegLib.errors.InputError
            If the files cannot be written; says what to do.
        """
        from CycleRegLib.landmarks import write_landmarks
        from CycleRegLib.segmentations import write_segmentation

        folder, given, arguments = self._folder, self._job.inputs, ["evaluate"]
        folder.make()

        def add(option: str, name: str, write: Any, content: Any) -> None:
            arguments.extend([option, folder.write(name, lambda path: write(content, path))])

        for side, node in (("fixed", self._job.fixed_node), ("moving", self._job.moving_node)):
            # The report calls the images by the names of their files.
            name = f"{side}/{_fileName(node.GetName())}.nrrd"
            arguments += [f"--{side}", folder.writeImage(given[side], name)]
            if f"{side}_landmarks" in given:
                add(f"--{side}-landmarks", f"{side}.mrk.json", write_landmarks, given[f"{side}_landmarks"])
            if f"{side}_segmentation" in given:
                add(f"--{side}-segmentation", f"{side}.seg.nrrd", write_segmentation, given[f"{side}_segmentation"])
            if f"{side}_tumor_lines" in given:
                arguments += [f"--{side}-tumor-lines", *self._writeLines(side, given[f"{side}_tumor_lines"])]
        for name, option in (("field", "--transform"), ("inverse", "--inverse-transform")):
            if name in given:
                arguments += [option, folder.writeImage(given[name].to_image(), f"{name}.nrrd")]
        if given["tumor_label"] is not None:
            arguments += ["--tumor-segment", given["tumor_label"]]
        if report:
            arguments += ["--report", report]
        return [*arguments, "--json", folder.file("evaluation.json"), "--progress", "json"]

    def _writeLines(self, side: str, drawn: Any) -> list[str]:
        """The tumour is called by the names of its files, as the images are."""
        from CycleRegLib.landmarks import LandmarkList, write_landmarks

        return [
            self._folder.write(
                f"{side}-{length}/{_fileName(drawn.name)}.mrk.json",
                lambda path, ends=ends: write_landmarks(LandmarkList(["", ""], ends), path),
            )
            for length, ends in drawn.lines.items()
        ]

    def readResults(self) -> Any:
        """Write the tables, plot and lines; returns ``CycleRegLib.mrml.EvaluationNodes``."""
        with open(self._folder.file("evaluation.json"), encoding="utf-8") as file:
            return self._job.commit(json.load(file))

    def remove(self) -> None:
        """Remove the folder."""
        self._folder.remove()


def _fileName(name: str) -> str:
    """A node's name as a file name that every system takes."""
    return re.sub(r"[^\w() -]+", "_", name).strip()[:80] or "volume"
