"""The objectives that are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from CycleRegLib.errors import InputError

from ..config import Config
from ..objectives import OBJECTIVES
from ..objectives.cyclemorph import CycleMorph

UNREGISTERED = "no registration"
FULL = "full objective"


@dataclass(frozen=True)
class Variant:
    """An objective: ``without`` are the terms of CycleMorph's that it lacks; ``supervised`` knows the true fields."""

    name: str
    without: tuple[str, ...] = ()
    supervised: bool = False

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return self.name.replace(" ", "-")


#: The first is what the others are compared with.
VARIANTS = (
    Variant(FULL),
    Variant("without cycle", ("cycle",)),
    Variant("without identity", ("identity",)),
    Variant("without both", ("cycle", "identity")),
    Variant("cycle alone", ("similarity", "identity")),
    Variant("supervised", supervised=True),
)


def config_of(variant: Variant, base: Config, seed: int) -> Config:
    """The configuration of a variant: network, data, steps and seed are those of all.

    The supervised baseline (VTN's, end-point error against the true field) has no regularity term: the truth is smooth.
    """
    if variant.supervised:
        objective: dict[str, Any] = {"name": "supervised", "weights": {"endpoint": 1.0, "smoothness": 0.0}}
    else:
        weights = {**CycleMorph.default_weights, **base.objective.get("weights", {})}
        objective = {**base.objective, "weights": {**weights, **dict.fromkeys(variant.without, 0.0)}}
    return replace(base, objective=objective, seed=seed)


def check_base(base: Config) -> None:
    """Make sure that a configuration can be taken apart.

    Raises
    ------
    InputError
        If its objective is not CycleMorph's, a term that is to be left out is not there, or the fields are not known.
    """
    name = base.objective.get("name") or base.method
    if OBJECTIVES.get(name) is not CycleMorph:
        raise InputError(f"The ablation is that of CycleMorph's objective, not of {name}'s; give method=cyclemorph.")
    weights: Mapping[str, float] = {**CycleMorph.default_weights, **base.objective.get("weights", {})}
    for term in ("similarity", "smoothness", "cycle", "identity"):
        if not weights[term]:
            raise InputError(f"The weight of '{term}' is 0, so that leaving terms out cannot tell what they do.")
    if base.data.get("source", "synthetic") != "synthetic":
        raise InputError("The ablation needs known fields, which synthetic data have; give data.source=synthetic.")
