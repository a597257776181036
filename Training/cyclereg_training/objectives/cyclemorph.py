"""CycleMorph (Kim et al., Medical Image Analysis 2021, equations 3 to 9), in 2D and 3D."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from CycleRegLib.warp import warp

from ..losses import absolute_difference, smoothness
from .base import Batch, Flows, Objective, Terms, network_of
from .phases import Networks, Phase


class CycleMorph(Objective):
    """Two networks, G_X (forward) and G_Y (backward); X is the moving and Y the fixed image.

    ==============  ====  ===========================================================================================
    ``similarity``  1     S(T(X, phi_XY), Y) + S(T(Y, phi_YX), X), S the negative LNCC of window 9
    ``smoothness``  1     mean squared differences of phi_XY and of phi_YX, added; the paper's lambda
    ``cycle``       0.1   |T(Y', G_Y(Y', X')) - X|_1 + |T(X', G_X(X', Y')) - Y|_1 with Y' = T(X, phi_XY) and
                          X' = T(Y, phi_YX), as means over voxels; the paper's alpha
    ``identity``    0.5   S(T(Y, G_X(Y, Y)), Y) + S(T(X, G_Y(X, X)), X); the paper's beta
    ==============  ====  ===========================================================================================

    The weights are those of the paper's brains; its faces have alpha 0.5 and beta 1, its livers 0.1 and 1.  Images
    are warped with zeros outside, as in the paper.
    """

    directions: ClassVar = ("forward", "backward")
    default_weights: ClassVar = {"similarity": 1.0, "smoothness": 1.0, "cycle": 0.1, "identity": 0.5}

    def terms(
        self, networks: Networks, batch: Batch, weights: Mapping[str, float], phase: Phase
    ) -> tuple[Terms, Flows]:
        x, y = batch["moving"], batch["fixed"]
        g_x, g_y = network_of(networks, "forward"), network_of(networks, "backward")
        phi_xy, phi_yx = g_x(x, y), g_y(y, x)
        like_y, like_x = warp(x, phi_xy), warp(y, phi_yx)
        terms: Terms = {}
        if weights["similarity"]:
            terms["similarity"] = self.similarity(like_y, y) + self.similarity(like_x, x)
        if weights["smoothness"]:
            terms["smoothness"] = smoothness(phi_xy) + smoothness(phi_yx)
        if weights["cycle"]:
            again_x = warp(like_y, g_y(like_y, like_x))
            again_y = warp(like_x, g_x(like_x, like_y))
            terms["cycle"] = absolute_difference(again_x, x) + absolute_difference(again_y, y)
        if weights["identity"]:
            same_y, same_x = warp(y, g_x(y, y)), warp(x, g_y(x, x))
            terms["identity"] = self.similarity(same_y, y) + self.similarity(same_x, x)
        return terms, Flows(phi_xy, phi_yx)
