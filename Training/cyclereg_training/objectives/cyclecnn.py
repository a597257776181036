"""The cycle-consistent CNN (Kim et al., MICCAI 2019): CycleMorph before it got that name."""

from __future__ import annotations

from typing import ClassVar

from .cyclemorph import CycleMorph


class CycleCNN(CycleMorph):
    """CycleMorph's loss with the weights for liver CT: alpha 0.1, beta 1, lambda 1 (METHODS.md, training settings)."""

    default_weights: ClassVar = {"similarity": 1.0, "smoothness": 1.0, "cycle": 0.1, "identity": 1.0}
