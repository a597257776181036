"""What is measured of a pair whose true field is known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from CycleRegLib import measures
from CycleRegLib.warp import compose_flows, warp

from ..evaluation.scores import Measure
from ..losses import absolute_difference, jacobian_determinant
from ..synthetic import inside

MEASURES = (
    Measure("endpoint", "End-point error", "voxels", "smaller"),
    Measure("length", "Length of the field", "voxels"),
    Measure("dice", "Dice of labels", "", "larger"),
    Measure("nmse", "NMSE", "", "smaller"),
    Measure("lncc", "LNCC", "", "larger"),
    Measure("folding_percent", "Folding", "% of voxels", "smaller"),
    Measure("jacobian_sd", "SD of the Jacobian determinant"),
    Measure("roundtrip", "Round trip", "voxels", "smaller"),
    Measure("cycle", "Image there and back, mean difference", "", "smaller"),
)


@torch.no_grad()
def measure_pair(forward: Tensor, backward: Tensor, batch: Mapping[str, Tensor]) -> dict[str, float]:
    """Numbers of one pair, by the keys of :data:`MEASURES`.

    Everything but folding, the Jacobian determinant and Dice is taken where the true field leads to points inside the
    image, the same voxels for every variant; the round trip where the forward field does so too.

    Parameters
    ----------
    forward, backward
        (1, n, *spatial) voxels, from fixed to moving points and back.
    batch
        Of one pair, as :class:`~cyclereg_training.synthetic.Pair` has it.
    """
    truth, moving, fixed = (batch[name].float() for name in ("flow", "moving", "fixed"))
    known = inside(truth)
    warped = warp(moving, forward, padding="border")
    mask, image, target = (_array(x) for x in (known, warped, fixed))
    determinant = jacobian_determinant(forward)
    trip, reached = compose_flows(forward, backward).norm(dim=1, keepdim=True), known & inside(forward)
    again = warp(warped, backward, padding="border")
    there_and_back = inside(batch["inverse_flow"].float())
    found = {
        "endpoint": _mean((forward - truth).norm(dim=1, keepdim=True), known),
        "length": _mean(forward.norm(dim=1, keepdim=True), known),
        "dice": _dice(forward, batch["moving_labels"], batch["fixed_labels"]),
        "nmse": measures.nmse(image, target, mask),
        "lncc": measures.lncc(image, target, mask),
        "folding_percent": float(100 * (determinant <= 0).float().mean()),
        "jacobian_sd": float(determinant.std()),
        "roundtrip": _mean(trip, reached),
        "cycle": float(absolute_difference(again[there_and_back], moving[there_and_back])),
    }
    return {name: float(value) for name, value in found.items() if np.isfinite(value)}


def _dice(flow: Tensor, moving: Tensor, fixed: Tensor) -> float:
    """Mean over the labels of both images but 0, warped to the nearest."""
    warped = _array(warp(moving.float(), flow, mode="nearest", padding="border")).round()
    ours, theirs = _array(fixed), _array(moving)
    labels = sorted(set(np.unique(ours)) & set(np.unique(theirs)) - {0})
    return float(np.mean([measures.dice(ours == v, warped == v) for v in labels])) if labels else float("nan")


def _mean(values: Tensor, where: Tensor) -> float:
    return float(values[where].mean()) if bool(where.any()) else float("nan")


def _array(x: Tensor) -> np.ndarray:
    return x[0, 0].cpu().numpy()
