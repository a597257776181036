"""InverseNet (Nazib et al., 2020, equations 1 to 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from CycleRegLib.warp import warp

from ..losses import absolute_difference, smoothness
from .base import Batch, Flows, Objective, Terms, network_of
from .phases import Networks, Phase


class InverseNet(Objective):
    """One network that gives both flows at once; S is the moving (source) and T the fixed (target) image.

    ==============  ===  =========================================================================================
    ``similarity``  1    -CC(S o phi_ST, T) - CC(T o phi_TS, S)
    ``cycle``       1    |(T o phi_TS) o phi_ST - T|_1 + |(S o phi_ST) o phi_TS - S|_1, as means over voxels
    ``smoothness``  0    mean squared differences of both flows, added; the paper has no such term
    ==============  ===  =========================================================================================
    """

    default_weights: ClassVar = {"similarity": 1.0, "cycle": 1.0, "smoothness": 0.0}

    def terms(
        self, networks: Networks, batch: Batch, weights: Mapping[str, float], phase: Phase
    ) -> tuple[Terms, Flows]:
        source, target = batch["moving"], batch["fixed"]
        st, ts = network_of(networks, "forward")(source, target)
        like_target, like_source = warp(source, st), warp(target, ts)
        terms: Terms = {}
        if weights["similarity"]:
            terms["similarity"] = self.similarity(like_target, target) + self.similarity(like_source, source)
        if weights["cycle"]:
            terms["cycle"] = absolute_difference(warp(like_source, st), target) + absolute_difference(
                warp(like_target, ts), source
            )
        if weights["smoothness"]:
            terms["smoothness"] = smoothness(st) + smoothness(ts)
        return terms, Flows(st, ts)
