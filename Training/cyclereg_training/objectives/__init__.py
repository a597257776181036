"""Objectives: what each method is trained to, one file per method.

``build_objective("cyclemorph", {"weights": {"cycle": 0.5}})`` gives the objective of a method; called with networks and
a batch it gives named terms and their weighted sum "loss".  A new one is a subclass of
:class:`~cyclereg_training.objectives.base.Objective` and one entry in :data:`OBJECTIVES`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from CycleRegLib.errors import InputError

from .base import Batch, Flows, Objective, Similarity, Terms, refuse_unknown
from .cyclecnn import CycleCNN
from .cyclemorph import CycleMorph
from .inversenet import InverseNet
from .kuang import KuangCycle, KuangRefine
from .multiscale import MsDirNet, MultiscaleCycleMorph
from .phases import Networks, Phase
from .pyramid import Pyramid
from .supervised import Supervised
from .voxelmorph import VoxelMorph
from .vtn import VTN

OBJECTIVES: dict[str, type[Objective]] = {
    "cyclemorph": CycleMorph,
    "cyclemorph-2d": CycleMorph,
    "cyclemorph-multiscale": MultiscaleCycleMorph,
    "cyclecnn": CycleCNN,
    "kuang-cycle": KuangCycle,
    "kuang-refine": KuangRefine,
    "inversenet": InverseNet,
    "vtn": VTN,
    "voxelmorph": VoxelMorph,
    "voxelmorph1": VoxelMorph,
    "voxelmorph2": VoxelMorph,
    "ms-dirnet": MsDirNet,
    "pyramid": Pyramid,
    "supervised": Supervised,
}
_COMMON = list(inspect.signature(Objective).parameters)


def build_objective(name: str, settings: Mapping[str, Any] | None = None) -> Objective:
    """The objective of a method, or ``supervised``, which trains the networks of any method.

    ``settings`` are arguments of its class: ``weights``, ``similarity``, ``phases`` and what the class has besides.

    Raises
    ------
    InputError
        For a name or a setting that does not exist; names the nearest.
    """
    refuse_unknown([name], OBJECTIVES, "objective")
    settings = dict(settings or {})
    known = [*_COMMON]
    for owner in OBJECTIVES[name].__mro__ + getattr(OBJECTIVES[name], "stage_class", object).__mro__:
        if "__init__" in vars(owner) and issubclass(owner, Objective):
            known += [p for p in inspect.signature(owner).parameters if p not in (*known, "options")]
    refuse_unknown(settings, known, f"setting of the objective {name}:")
    return OBJECTIVES[name](**settings)


__all__ = [
    "OBJECTIVES",
    "Batch",
    "Flows",
    "InputError",
    "Networks",
    "Objective",
    "Phase",
    "Similarity",
    "Terms",
    "build_objective",
]
