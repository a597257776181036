"""Overlapping patches of a volume, a network on each, and its flows blended without seams in bounded memory."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import torch

from ..devices import is_out_of_memory
from ..errors import CycleRegWarning, InputError
from .settings import InferenceSettings


@dataclass(frozen=True)
class PatchLayout:
    """Where the patches of a volume lie: at all combinations of the axes' starts.

    Attributes
    ----------
    shape
        Of the volume, (z, y, x).
    patch
        Sides of a patch, (z, y, x).  One that is longer than the volume's reaches beyond its end.
    starts
        First voxels of the patches along each axis, evenly spread, from 0 to the last that fits.
    """

    shape: tuple[int, ...]
    patch: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]

    @property
    def count(self) -> int:
        """Number of patches."""
        return math.prod(len(starts) for starts in self.starts)

    @cached_property
    def weights(self) -> tuple[torch.Tensor, ...]:
        """For each axis the weights of its patches, (number of starts, side) float32.

        They are squared sines over the patch, zero just beyond its ends, divided by their sum over the patches that
        hold a voxel.  So the weights of every voxel add up to one, and those of a patch, the product over the axes,
        fade to nothing at its borders except where no other patch goes on.
        """
        found = []
        for length, side, starts in zip(self.shape, self.patch, self.starts):
            window = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
            total = np.zeros(max(length, starts[-1] + side))
            for start in starts:
                total[start : start + side] += window
            weights = np.stack([window / total[start : start + side] for start in starts])
            found.append(torch.from_numpy(weights.astype(np.float32)))
        return tuple(found)


def lay_patches(shape: tuple[int, ...], settings: InferenceSettings, stride: int) -> PatchLayout:
    """Patches over a volume as the settings say, for a network whose sides are multiples of ``stride``.

    Raises
    ------
    InputError
        If a patch is smaller than ``stride``, or the overlap is given for another number of axes.

    Warns
    -----
    CycleRegWarning
        If patches are made smaller: to be multiples of ``stride``, or because the volume is.
    """
    side = settings.patch_size // stride * stride
    if not side:
        raise InputError(
            f"Patches of {settings.patch_size} voxels are too small for the network, whose sides are multiples of "
            f"{stride}. Choose a larger --patch-size."
        )
    if len(settings.patch_overlap) != len(shape):
        raise InputError(
            f"The overlap of patches is given for {len(settings.patch_overlap)} axes but the images have {len(shape)}."
        )
    if side != settings.patch_size:
        warnings.warn(
            f"Patches of {side} voxels a side are used instead of {settings.patch_size}: the network takes multiples "
            f"of {stride}.",
            CycleRegWarning,
            stacklevel=2,
        )
    patch = tuple(min(side, -(-length // stride) * stride) for length in shape)
    if min(shape) < side:
        filled = ", filled up with zeros," if any(p > n for p, n in zip(patch, shape)) else ""
        warnings.warn(
            f"The volume that the network works on, {_sizes(shape)} voxels, is smaller than a patch of "
            f"{_sizes((side,) * len(shape))}; patches of {_sizes(patch)}{filled} are used.",
            CycleRegWarning,
            stacklevel=2,
        )
    starts = tuple(_starts(*axis) for axis in zip(shape, patch, settings.patch_overlap))
    return PatchLayout(tuple(shape), patch, starts)


def _starts(length: int, side: int, overlap: float) -> tuple[int, ...]:
    room = max(0, length - side)
    steps = math.ceil(room / max(1, round(side * (1 - overlap))))
    return tuple(round(room * i / steps) for i in range(steps + 1)) if steps else (0,)


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in reversed(shape))


def blended_flow(
    layout: PatchLayout,
    moving: Callable[[slice], torch.Tensor],
    fixed: torch.Tensor,
    estimate: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    batch: int = 1,
    report: Callable[[int], None] = lambda done: None,
) -> Iterator[tuple[slice, torch.Tensor]]:
    """The flow of a whole volume from those of its patches, slab by slab along the first axis.

    Only a slab as deep as a patch is in memory: of the moving image and of the flow that grows from patch to patch.

    Parameters
    ----------
    layout
        See :func:`lay_patches`.
    moving
        Gives slices of the moving image, (d, h, w) float32; asked for each once, in order.
    fixed
        (D, H, W) float32.
    estimate
        A network: (b, 1, \\*patch) moving and fixed patches to (b, n, \\*patch) flows, float32 on the CPU, voxels.
    batch
        Patches at a time; when memory ends, half as many from then on.
    report
        Called with the number of patches that are done.

    Yields
    ------
    Slices of the first axis that are complete, and their flow, (n, d, h, w); all in order, without gaps.  The flow is
    overwritten later.

    Warns
    -----
    CycleRegWarning
        When memory ended, with the new number of patches at a time.
    """
    n, (depth, *sides) = len(layout.shape), layout.shape
    slab = min(layout.patch[0], depth)
    rows = torch.empty((slab, *sides))
    total = torch.zeros((n, slab, *sides))
    # Where a patch is larger than the volume, the zeros beyond stay: they lie at the same place in all patches.
    pair = torch.zeros((2, batch, 1, *layout.patch))
    corners = list(product(*[range(len(starts)) for starts in layout.starts[1:]]))
    across = [w.view(len(w), *[-1 if a == axis else 1 for a in range(n)]) for axis, w in enumerate(layout.weights)]
    known, done = 0, 0
    for row, first in enumerate(layout.starts[0]):
        last = min(first + slab, depth)
        rows[known - first : last - first] = moving(slice(known, last))
        known = last
        place = 0
        while place < len(corners):
            chosen = corners[place : place + batch]
            boxes = [
                tuple(slice(s[i], s[i] + p) for s, i, p in zip(layout.starts[1:], corner, layout.patch[1:]))
                for corner in chosen
            ]
            for number, box in enumerate(boxes):
                for image, volume in zip(pair, (rows, fixed[first:last])):
                    piece = volume[(slice(0, slab), *box)]
                    image[(number, 0, *[slice(0, side) for side in piece.shape])] = piece
            try:
                flows = estimate(*pair[:, : len(chosen)])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or len(chosen) == 1:
                    raise
                batch = len(chosen) // 2
                warnings.warn(
                    f"Memory ran out; going on with {batch} instead of {len(chosen)} patches at a time.",
                    CycleRegWarning,
                    stacklevel=2,
                )
                torch.cuda.empty_cache()
                continue
            for corner, box, flow in zip(chosen, boxes, flows):
                target = total[(slice(None), slice(0, slab), *box)]
                weight = across[0][row]
                for axis, index in enumerate(corner, start=1):
                    weight = weight * across[axis][index]
                inside = tuple(slice(0, side) for side in target.shape[1:])
                target.addcmul_(flow[(slice(None), *inside)], weight[inside])
            place += len(chosen)
            done += len(chosen)
            report(done)
        following = layout.starts[0][row + 1] if row + 1 < len(layout.starts[0]) else depth
        complete = following - first
        yield slice(first, following), total[:, :complete]
        for index in range(slab - complete):  # one by one, so that nothing is needed beside
            rows[index] = rows[index + complete]
            total[:, index] = total[:, index + complete]
        total[:, slab - complete :] = 0.0
