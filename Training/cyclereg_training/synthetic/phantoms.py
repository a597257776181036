"""Label maps of the library's abdominal phantom: every tissue that its CT is painted with is one label."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from CycleRegLib.phantom_anatomy import Anatomy
from CycleRegLib.phantom_shapes import Shape
from CycleRegLib.phantom_tissues import tissues_of

#: Low and high corner of the region that is drawn, (x, y, z) LPS mm: the body and a margin of air around it.
REGION = ((-176.0, -122.0, -148.0), (176.0, 136.0, 148.0))


@lru_cache(maxsize=16)
def phantom_labels(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """The tissues of one abdomen, (D, H, W) uint8 on the CPU: 0 air, then the order in which they are painted.

    Vessels and their branching depend on the seed; how organs lie does not, which random deformations make up for.
    Drawn in a few seconds and then kept, the result must not be changed.
    """
    low, high = np.array(REGION)
    step = (high - low) / np.array(shape[::-1])
    centers = [low[axis] + step[axis] * (np.arange(n) + 0.5) for axis, n in enumerate(shape[::-1])]
    labels = np.zeros(shape, dtype=np.uint8)
    for number, tissue in enumerate(tissues_of(Anatomy(seed)), start=1):
        for piece in tissue.shape.pieces():
            _paint(labels, piece, number, centers)
    return torch.from_numpy(labels)


def _paint(labels: np.ndarray, shape: Shape, number: int, centers: list[np.ndarray]) -> None:
    inside = [slice(*np.searchsorted(places, (low, high))) for places, low, high in zip(centers, shape.low, shape.high)]
    x, y, z = (places[part].astype(np.float32) for places, part in zip(centers, inside))
    if not (x.size and y.size and z.size):
        return
    points = np.stack(np.broadcast_arrays(x, y[:, None], z[:, None, None]))
    labels[tuple(inside[::-1])][shape.distance(points) < 0] = number
