"""VoxelMorph (Balakrishnan et al., CVPR 2018 and IEEE TMI 2019; with velocity: Dalca et al., MedIA 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import Tensor, nn

from CycleRegLib.warp import warp

from ..losses import smoothness
from .base import Batch, Flows, Objective, Terms, network_of
from .phases import Networks, Phase


class VoxelMorph(Objective):
    """One network from the moving to the fixed image.

    ==============  ===  ========================================================================================
    ``similarity``  1    LNCC of window 9 (or ``mse``, which wants a smoothness of about 0.01) of the warped and
                         the fixed image; with ``bidirectional`` the mean over both directions
    ``smoothness``  1    mean squared differences of the flow; where the network integrates a velocity, of the
                         velocity that its last layer gives
    ==============  ===  ========================================================================================

    Parameters
    ----------
    bidirectional
        Also warp the fixed image with the inverse flow, which a network with velocity gives.
    weights, similarity, phases
        See :class:`~cyclereg_training.objectives.base.Objective`.
    """

    default_weights: ClassVar = {"similarity": 1.0, "smoothness": 1.0}

    def __init__(self, bidirectional: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.bidirectional = bidirectional

    def terms(
        self, networks: Networks, batch: Batch, weights: Mapping[str, float], phase: Phase
    ) -> tuple[Terms, Flows]:
        moving, fixed = batch["moving"], batch["fixed"]
        network = network_of(networks, "forward")
        if getattr(network, "integration_steps", 0):
            with _outputs(network.flow) as heads:
                flow, inverse = network(moving, fixed)
            # The network pads its input; a velocity on a coarser grid is not cut.
            penalised = heads[-1][(..., *[slice(0, side) for side in fixed.shape[2:]])]
        else:
            flow, inverse = network(moving, fixed), None
            penalised = flow
        if self.bidirectional and inverse is None:
            inverse = network(fixed, moving)
        terms: Terms = {}
        if weights["similarity"]:
            similarity = self.similarity(warp(moving, flow), fixed)
            if self.bidirectional:
                similarity = (similarity + self.similarity(warp(fixed, inverse), moving)) / 2
            terms["similarity"] = similarity
        if weights["smoothness"]:
            terms["smoothness"] = smoothness(penalised)
        return terms, Flows(flow, inverse)


@contextmanager
def _outputs(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What a layer gives while the context lasts."""
    found: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: found.append(output))
    try:
        yield found
    finally:
        handle.remove()
