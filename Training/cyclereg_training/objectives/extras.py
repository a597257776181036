"""Terms that any objective can add, each with a weight of its own (0 unless a configuration gives one).

==============  ==============================================================================================
``folding``     :func:`~cyclereg_training.losses.folding` of each flow
``bending``     :func:`~cyclereg_training.losses.bending_energy` of each flow
``round_trip``  :func:`~cyclereg_training.losses.round_trip` of both flows; the backward one is estimated for it
``dice``        :func:`~cyclereg_training.losses.soft_dice` of the warped label maps; the batch must have them
``mind``        :func:`~cyclereg_training.losses.mind` of the warped images
==============  ==============================================================================================

They are means over the directions for which the objective estimates a flow.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from CycleRegLib.errors import InputError
from CycleRegLib.warp import warp

from ..losses import bending_energy, folding, mind, one_hot_labels, round_trip, soft_dice

EXTRAS = ("folding", "bending", "round_trip", "dice", "mind")


def extra_term(name: str, forward: Tensor, backward: Tensor | None, batch: Mapping[str, Tensor]) -> Tensor:
    """The value of one of :data:`EXTRAS`; see :mod:`cyclereg_training.losses` for its range and unit.

    Raises
    ------
    InputError
        If the batch lacks labels for ``dice``.
    """
    if name == "round_trip":
        return round_trip(forward, backward)
    directions = [(forward, "moving", "fixed")]
    if backward is not None:
        directions.append((backward, "fixed", "moving"))
    values = []
    for flow, source, target in directions:
        if name == "folding":
            values.append(folding(flow))
        elif name == "bending":
            values.append(bending_energy(flow))
        elif name == "mind":
            values.append(mind(warp(batch[source], flow, padding="border"), batch[target]))
        else:
            values.append(_dice(batch, source, target, flow))
    return torch.stack(values).mean()


def _dice(batch: Mapping[str, Tensor], source: str, target: str, flow: Tensor) -> Tensor:
    missing = [name for name in ("moving_labels", "fixed_labels") if name not in batch]
    if missing:
        raise InputError(
            f"A Dice loss needs label maps of both images, but there are no {' and no '.join(missing)}. Give label "
            "maps for every volume, or set the weight of 'dice' to 0."
        )
    moving, fixed = batch[f"{source}_labels"], batch[f"{target}_labels"]
    values = [v for v in torch.unique(torch.cat([moving.flatten(), fixed.flatten()])).tolist() if v != 0]
    if not values:
        return 0 * flow.sum()
    # One label at a time: all of them at once would take a volume of memory each before the warp, too.
    warped = torch.cat([warp(one_hot_labels(moving, [v]), flow) for v in values], dim=1)
    return soft_dice(warped, one_hot_labels(fixed, values))
