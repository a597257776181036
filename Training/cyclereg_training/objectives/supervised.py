"""Training against given displacement fields: the supervised baseline of the VTN paper (section V.A.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from CycleRegLib.errors import InputError
from CycleRegLib.networks.vtn import VTN

from ..losses import endpoint_error, smoothness
from .base import Batch, Flows, Objective, Terms, network_of
from .phases import Networks, Phase
from .vtn import stage_regularity


class Supervised(Objective):
    """Distance of the flow from the true one, for the networks of any method.

    ===================  ====  ==================================================================================
    ``endpoint``         1     mean end-point error, voxels; where the batch has ``inverse_flow`` and the networks
                               give both directions, at once or as two, the mean over both
    ``smoothness``       1     mean squared differences of the flow, or the mean over both directions'; not for
                               VTN, which has its own terms:
    ``total_variation``  1     of every dense sub-network's own flow (VTN)
    ``orthogonality``    0.1   of the affine sub-network's I + A (VTN)
    ``determinant``      0.1   of the affine sub-network's I + A (VTN)
    ===================  ====  ==================================================================================
    """

    default_weights: ClassVar = {
        "endpoint": 1.0,
        "smoothness": 1.0,
        "total_variation": 1.0,
        "orthogonality": 0.1,
        "determinant": 0.1,
    }

    def terms(
        self, networks: Networks, batch: Batch, weights: Mapping[str, float], phase: Phase
    ) -> tuple[Terms, Flows]:
        if "flow" not in batch:
            raise InputError(
                "Supervised training needs the true displacement field of every pair ('flow'), but the data have none. "
                "Train on synthetic pairs, or choose the method's own objective."
            )
        network = network_of(networks, "forward")
        terms: Terms = {}
        if isinstance(network, VTN):
            stages = network.stages(batch["moving"], batch["fixed"])
            terms = stage_regularity(stages, weights)
            flows = Flows(stages[-1].composed)
        else:
            found = network(batch["moving"], batch["fixed"])
            flows = Flows(*found) if isinstance(found, tuple) else Flows(found)
            if flows.backward is None and "backward" in networks and "inverse_flow" in batch:
                flows.backward = networks["backward"](batch["fixed"], batch["moving"])
            if weights["smoothness"]:
                terms["smoothness"] = smoothness(flows.forward)
                if flows.backward is not None:
                    terms["smoothness"] = (terms["smoothness"] + smoothness(flows.backward)) / 2
        if weights["endpoint"]:
            error = endpoint_error(flows.forward, batch["flow"])
            if flows.backward is not None and "inverse_flow" in batch:
                error = (error + endpoint_error(flows.backward, batch["inverse_flow"])) / 2
            terms["endpoint"] = error
        return terms, flows
