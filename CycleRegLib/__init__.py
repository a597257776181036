"""CycleReg's inference library: deformable registration of medical images, in both directions.

>>> import SimpleITK as sitk, CycleRegLib                                          # doctest: +SKIP
>>> result = CycleRegLib.register(CycleRegLib.read_image("portal.nrrd"), CycleRegLib.read_image("arterial.nrrd"))
>>> sitk.WriteImage(result.warped, "arterial_on_portal.nrrd")                      # doctest: +SKIP

Layers, lowest first: ``errors``, ``geometry``; ``warp``, ``fields``; ``images``, ``outputs``; ``similarity``,
``affine``, ``working_grid``, ``optimize``; ``networks``, ``checkpoints``, ``methods``; ``planar``, ``images_2d``;
``registration``; ``landmarks``, ``segmentations``, ``measures``, ``tumor``,
``drawn_tumor``, ``evaluation``; ``pictures``, ``report``; ``batch``; ``cli``.
``phantom`` makes the sample data.  Only ``mrml`` imports slicer and vtk.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

__version__ = "0.1.0"

# Threads that wait by spinning stall each other whenever the machine has anything else to do: measured on two busy
# cores, the same registration in 220 s and in 8 s.  Read by PyTorch's OpenMP when it is first loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Loaded on first use, so that the panel can open before PyTorch is installed.
_PUBLIC = {
    "register": "registration",
    "RegistrationResult": "registration",
    "evaluate": "evaluation",
    "DrawnDiameters": "drawn_tumor",
    "DisplacementField": "fields",
    "Grid": "geometry",
    "read_image": "images",
    "read_image_2d": "images_2d",
    "read_transform": "images",
    "read_landmarks": "landmarks",
    "read_segmentation": "segmentations",
    "list_methods": "methods",
    "run_batch": "batch",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
