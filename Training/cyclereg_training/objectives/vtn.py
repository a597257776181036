"""Volume Tweening Network (Zhao et al., IEEE JBHI 2019, sections III.C, IV.C and table I)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from CycleRegLib.errors import InputError
from CycleRegLib.networks.vtn import Stage

from ..losses import affine_determinant, invertibility, orthogonality, total_variation
from .base import Batch, Flows, Objective, Similarity, Terms, network_of
from .phases import Networks, Phase


def default_similarity_weights(cascade: str) -> list[float]:
    """Table I, carried over to other cascades: affine 1; the last dense one 1, the one before it 0.05, earlier 0."""
    dense = cascade.count("D")
    by_rank = [0.0] * dense
    by_rank[-2:] = [0.05, 1.0][-dense:] if dense else []
    return [1.0] * (len(cascade) - dense) + by_rank


def stage_regularity(stages: Sequence[Stage], weights: Mapping[str, float]) -> Terms:
    """``total_variation`` of every dense sub-network's own flow, added; ``orthogonality`` and ``determinant`` of A."""
    terms: Terms = {}
    dense = [stage for stage in stages if stage.kind == "D"]
    affine = [stage for stage in stages if stage.kind == "A"]
    if weights["total_variation"] and dense:
        terms["total_variation"] = _total(total_variation(stage.flow) for stage in dense)
    if weights["orthogonality"] and affine:
        terms["orthogonality"] = _total(orthogonality(stage.matrix) for stage in affine)
    if weights["determinant"] and affine:
        terms["determinant"] = _total(affine_determinant(stage.matrix) for stage in affine)
    return terms


def _total(values: Any) -> Tensor:
    return sum(values)


class VTN(Objective):
    """A cascade of an affine and dense sub-networks.

    ===================  ====  ==================================================================================
    ``similarity``       1     1 - correlation of the fixed and the moving image as each sub-network leaves it,
                               added with a weight for each (``similarity_weights``)
    ``total_variation``  1     of every dense sub-network's own flow
    ``orthogonality``    0.1   of the affine sub-network's I + A
    ``determinant``      0.1   of the affine sub-network's I + A
    ``invertibility``    0     of the whole flows of both directions; 0.001 in the paper's "+ inv"
    ===================  ====  ==================================================================================

    Parameters
    ----------
    similarity_weights
        One for each sub-network of the cascade; :func:`default_similarity_weights` when left out.
    weights, similarity, phases
        See :class:`~cyclereg_training.objectives.base.Objective`.
    """

    default_weights: ClassVar = {
        "similarity": 1.0,
        "total_variation": 1.0,
        "orthogonality": 0.1,
        "determinant": 0.1,
        "invertibility": 0.0,
    }
    default_similarity: ClassVar = Similarity("correlation")

    def __init__(self, similarity_weights: Sequence[float] | None = None, **options: Any) -> None:
        super().__init__(**options)
        if similarity_weights is not None and not (
            isinstance(similarity_weights, (list, tuple))
            and all(isinstance(w, (int, float)) and 0 <= w < math.inf for w in similarity_weights)
        ):
            raise InputError(
                f"similarity_weights is a list of one number of 0 or more for each sub-network, not "
                f"{similarity_weights!r}."
            )
        self.similarity_weights = similarity_weights

    def terms(
        self, networks: Networks, batch: Batch, weights: Mapping[str, float], phase: Phase
    ) -> tuple[Terms, Flows]:
        moving, fixed = batch["moving"], batch["fixed"]
        network = network_of(networks, "forward")
        shares = self.similarity_weights or default_similarity_weights(network.cascade)
        if len(shares) != len(network.cascade):
            raise InputError(
                f"There are {len(shares)} similarity weights for the {len(network.cascade)} sub-networks of the "
                f"cascade {network.cascade}; give one for each."
            )
        stages = network.stages(moving, fixed)
        terms = stage_regularity(stages, weights)
        if weights["similarity"]:
            terms["similarity"] = _total(
                share * self.similarity(stage.warped, fixed)
                for share, stage in zip(shares, stages, strict=True)
                if share
            )
        flows = Flows(stages[-1].composed)
        if weights["invertibility"]:
            flows.backward = network.stages(fixed, moving)[-1].composed
            terms["invertibility"] = invertibility(flows.forward, flows.backward)
        return terms, flows
