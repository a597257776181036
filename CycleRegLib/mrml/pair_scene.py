"""A scene from a pair that is done and on disk: what a batch writes for every pair, in Slicer and on slicer-core."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import slicer

from ..errors import InputError
from ..fields import DisplacementField
from ..images import read_any_image, read_transform
from ..planar import slice_field, slice_image
from .job import prepare
from .measure import write_evaluation
from .scene import (
    drop_scene,
    ensure_scene,
    load_landmarks,
    load_segmentation,
    load_transform,
    load_volume,
    write_scene,
)

_LOADERS: dict[str, Callable[..., Any]] = {
    "fixed": load_volume,
    "moving": load_volume,
    "fixed_mask": load_segmentation,
    "moving_mask": load_segmentation,
    "initial_transform": load_transform,
    "fixed_landmarks": load_landmarks,
    "moving_landmarks": load_landmarks,
    "fixed_segmentation": load_segmentation,
    "moving_segmentation": load_segmentation,
}
# What a user may have in Slicer's scene, which holds views and colours from the beginning.
_CONTENT = ("Volume", "Transform", "Markups", "Segmentation", "Table")


def load_inputs(files: Mapping[str, str]) -> dict[str, Any]:
    """Load what a pair is registered and measured from into the scene; nodes by the names of ``files``.

    Names are those of the command line's arguments; others (checkpoints) are passed over.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    return {name: load(files[name], name.replace("_", " ")) for name, load in _LOADERS.items() if name in files}


@contextmanager
def empty_scene() -> Iterator[Any]:
    """An empty scene as ``slicer.mrmlScene`` while the block runs, and nothing of it left after.

    In the application it is the application's own, which is cleared after; elsewhere a new one, and that which was
    there comes back.

    Raises
    ------
    InputError
        If the application's scene holds something of the user's.
    """
    before = getattr(slicer, "mrmlScene", None)
    if getattr(slicer, "app", None) is not None:
        found = [kind for kind in _CONTENT if before.GetNumberOfNodesByClass(f"vtkMRML{kind}Node")]
        if found:
            raise InputError(
                "Scenes of a batch are made in Slicer's own scene, which is not empty. Save and close it, or run the "
                "batch with Slicer --no-main-window."
            )
        try:
            yield before
        finally:
            before.Clear(False)
        return
    slicer.mrmlScene = None
    scene = ensure_scene()
    try:
        yield scene
    finally:
        drop_scene(scene)
        slicer.mrmlScene = before


def write_pair_scene(
    files: Mapping[str, str], folder: os.PathLike[str] | str, summary: Mapping[str, Any], path: Path
) -> None:
    """Write the ``.mrb`` scene of a pair that is done: its inputs, the warped volume, both transforms, and tables.

    It holds what registering and measuring the pair with nodes would have left (:func:`CycleRegLib.mrml.process`,
    :func:`CycleRegLib.mrml.evaluate`).

    Parameters
    ----------
    files
        The pair's inputs, by the names of the command line's arguments.
    folder
        Where its ``transform.h5``, ``inverse_transform.h5`` and ``warped.nrrd`` are.
    summary
        Figures of the registration, as ``--json`` has them, and under ``evaluation`` those of the evaluation, or None.
    path
        What to write, in a folder that only the caller looks at.

    Raises
    ------
    InputError
        If a file cannot be read, or the application's scene is not empty.
    OSError
        If the scene cannot be written.
    """
    with empty_scene():
        nodes = load_inputs(files)
        result = _Result.read(Path(folder), summary)
        done = prepare(nodes["fixed"], nodes["moving"], True, True, True).commit(result)
        if summary.get("evaluation") is not None:
            write_evaluation(summary["evaluation"], nodes["fixed"], nodes["moving"], done.transform)
        write_scene(path)


@dataclass(frozen=True)
class _Result:
    """The part of a registration's result that nodes are made from, read from disk."""

    field: DisplacementField
    inverse: DisplacementField
    warped: sitk.Image
    method: str
    figures: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path, summary: Mapping[str, Any]) -> _Result:
        warped = read_any_image(folder / "warped.nrrd", "warped image")
        fields = []
        for name in ("transform", "inverse_transform"):
            transform = read_transform(folder / f"{name}.h5", name.replace("_", " "), warped.GetDimension())
            image = sitk.DisplacementFieldTransform(transform).GetDisplacementField()
            fields.append(slice_field(DisplacementField.from_image(image)))
        figures = {name: value for name, value in summary.items() if name != "evaluation"}
        return cls(fields[0], fields[1], slice_image(warped), summary["method"], figures)

    def summary(self) -> Mapping[str, Any]:
        return self.figures
