"""Training of the pyramid network on pairs whose fields are known: the error of every level's flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from CycleRegLib.errors import InputError
from CycleRegLib.networks.pyramid import PyramidNetwork, doubled

from ..losses import endpoint_error
from ..synthetic import inside
from .base import Batch, Flows, Objective, Terms, network_of
from .phases import Networks, Phase


class Pyramid(Objective):
    """Distance of the flows from the true ones, at every resolution, in both directions.

    ====================  ====  ===============================================================================
    ``endpoint``          1     mean end-point error of the finest level's flows, in voxels of the images
    ``coarse_endpoint``   0.3   the sum of those of the coarser levels' flows, likewise
    ====================  ====  ===============================================================================

    Points that the other image does not show count in neither: where they went cannot be seen.
    """

    default_weights: ClassVar = {"endpoint": 1.0, "coarse_endpoint": 0.3}

    def terms(
        self, networks: Networks, batch: Batch, weights: Mapping[str, float], phase: Phase
    ) -> tuple[Terms, Flows]:
        if "flow" not in batch or "inverse_flow" not in batch:
            raise InputError(
                "The pyramid network learns from the true displacement fields of both directions ('flow' and "
                "'inverse_flow'), but the data have none. Train it on synthetic pairs."
            )
        network = network_of(networks, "forward")
        if not isinstance(network, PyramidNetwork):
            raise InputError("The objective 'pyramid' trains the method 'pyramid' only; 'supervised' trains any.")
        found = network.flows(batch["moving"], batch["fixed"])
        errors = [level_errors(f, network.scales, batch[truth]) for f, truth in zip(found, ("flow", "inverse_flow"))]
        terms: Terms = {}
        if weights["endpoint"]:
            terms["endpoint"] = torch.stack([error[-1] for error in errors]).mean()
        if weights["coarse_endpoint"]:
            terms["coarse_endpoint"] = torch.stack([sum(error[:-1]) for error in errors]).mean()
        full = batch["flow"].shape[2:]
        return terms, Flows(*(doubled(flows[-1], full) for flows in found))


def level_errors(flows: Sequence[Tensor], scales: Sequence[int], truth: Tensor) -> list[Tensor]:
    """The mean end-point error of each flow, in voxels of the truth (B, 3, D, H, W).

    ``flows`` are (B, 3, *sides* / scale), each in voxels of its own level, which are ``scale`` voxels of the truth.
    """
    known = inside(truth).to(truth.dtype)
    errors = []
    for scale, flow in zip(scales, flows):
        # Sides that are no multiples end in voxels that are not whole; these are left out.
        whole = [side // scale for side in truth.shape[2:]]
        mean, weight = F.avg_pool3d(truth, scale), F.avg_pool3d(known, scale)
        cropped = flow[(..., *[slice(0, side) for side in whole])]
        errors.append(endpoint_error(cropped * scale, mean, weight))
    return errors
