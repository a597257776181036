"""Kuang's network and its refinement module.

Kuang, On reducing negative Jacobian determinant of the deformation predicted by deep registration networks, 2019.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .blocks import RegistrationNetwork, convolution, in_float32
from .voxelmorph import INITIAL_DEVIATION, SLOPE, FeatureBlock, UNet, flow_head


class Refinement(nn.Module):
    """The paper's module R: flow + conv(conv(flow)), 16 features, a leaky ReLU after each.  2,611 parameters in 3D.

    The paper says nothing of how it starts; here the second convolution starts from N(0, 1e-5), so that refinement
    changes nothing before it is trained.  Keys: ``features.main``, ``correction``.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.features = FeatureBlock(dimension, dimension, 16)
        self.correction = convolution(dimension, 16, dimension)
        nn.init.normal_(self.correction.weight, 0.0, INITIAL_DEVIATION)
        nn.init.zeros_(self.correction.bias)

    def forward(self, flow: torch.Tensor) -> torch.Tensor:
        return flow + nn.functional.leaky_relu(self.correction(self.features(flow)), SLOPE)


class KuangNetwork(RegistrationNetwork):
    """Kuang's network D, alone or followed by the refinement module R: 259,675 or 262,286 parameters in 3D.

    It is the VoxelMorph-1 of the CVPR 2018 code: encoder 16, 32, 32, 32, all of stride 2; decoder 32 at 1/16, 1/8 and
    1/4, 32 and 8 at 1/2, 8 at full resolution beside the input pair; nearest up-sampling, [up, skip], slope 0.2, a
    linear head.

    Parameters
    ----------
    dimension, in_channels
        3 or 2; channels of (moving, fixed) together.
    refinement
        Whether R follows.
    """

    stride = 16

    def __init__(self, dimension: int = 3, in_channels: int = 2, refinement: bool = False) -> None:
        super().__init__(dimension, in_channels=in_channels, refinement=refinement)
        encoder, decoder = ((16,), (32,), (32,), (32,)), ((32,), (32,), (32,), (32, 8))
        self.displacement = UNet(dimension, in_channels, encoder, decoder, (8,))
        self.flow = flow_head(dimension, self.displacement.outputs)
        self.refinement = Refinement(dimension) if refinement else None
        self._refines = True

    @contextmanager
    def refining(self, refines: bool) -> Iterator[None]:
        """Leave R out, or not, for as long as the context lasts: D is trained alone in the paper's first phase."""
        before, self._refines = self._refines, refines
        try:
            yield
        finally:
            self._refines = before

    @classmethod
    def configuration_from(cls, state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        first = state["displacement.encoder.0.0.main.weight"]
        refinement = any(name.startswith("refinement.") for name in state)
        return {"dimension": first.dim() - 2, "in_channels": first.shape[1], "refinement": refinement}

    def estimate(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        flow = in_float32(self.flow, self.displacement(torch.cat([moving, fixed], dim=1)))
        return in_float32(self.refinement, flow) if self.refinement is not None and self._refines else flow
