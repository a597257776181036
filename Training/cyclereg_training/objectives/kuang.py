"""Kuang, On reducing negative Jacobian determinant of the deformation predicted by deep registration networks, 2019."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from CycleRegLib.warp import warp

from ..losses import smoothness
from .base import Batch, Flows, Objective, Terms, network_of
from .phases import Networks, Phase


class KuangCycle(Objective):
    """Cycle-consistent design (section 2.1, equation 1): one network registers, then registers its result back.

    ==============  ===  =========================================================================================
    ``similarity``  1    CC(y, y') + CC(x, x') with y' = x warped by u(x, y) and x' = y' warped by u(y', x)
    ``smoothness``  1    mean squared differences of both flows, added; the paper's lambda
    ==============  ===  =========================================================================================
    """

    default_weights: ClassVar = {"similarity": 1.0, "smoothness": 1.0}

    def terms(
        self, networks: Networks, batch: Batch, weights: Mapping[str, float], phase: Phase
    ) -> tuple[Terms, Flows]:
        x, y = batch["moving"], batch["fixed"]
        network = network_of(networks, "forward")
        there = network(x, y)
        like_y = warp(x, there)
        back = network(like_y, x)
        terms: Terms = {}
        if weights["similarity"]:
            terms["similarity"] = self.similarity(like_y, y) + self.similarity(warp(like_y, back), x)
        if weights["smoothness"]:
            terms["smoothness"] = smoothness(there) + smoothness(back)
        return terms, Flows(there, back)


class KuangRefine(Objective):
    """Refinement module (section 2.2): a network D and a module R after it, trained in turns.

    ``CC(y, y') + lambda |Du|^2`` of D alone in the phase ``network`` (lambda 1), of R's result in the phase
    ``refinement`` (lambda 4), in which D does not learn; 3 epochs each, four times.
    """

    default_weights: ClassVar = {"similarity": 1.0, "smoothness": 1.0}
    default_phases: ClassVar = (
        Phase("network", epochs=3, trains=("displacement.", "flow.")),
        Phase("refinement", epochs=3, trains=("refinement.",), weights={"smoothness": 4.0}),
    )
    cycles: ClassVar = 4

    def terms(
        self, networks: Networks, batch: Batch, weights: Mapping[str, float], phase: Phase
    ) -> tuple[Terms, Flows]:
        network = network_of(networks, "forward")
        with network.refining(phase.name == "refinement"):
            flow = network(batch["moving"], batch["fixed"])
        terms: Terms = {}
        if weights["similarity"]:
            terms["similarity"] = self.similarity(warp(batch["moving"], flow), batch["fixed"])
        if weights["smoothness"]:
            terms["smoothness"] = smoothness(flow)
        return terms, Flows(flow)
