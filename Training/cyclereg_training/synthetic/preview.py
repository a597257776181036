"""A sheet of synthetic pairs to look at: ``python -m cyclereg_training.synthetic.preview sheet.png``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from CycleRegLib.png import save_png
from CycleRegLib.warp import warp

from .pairs import Pair, SyntheticPairs

_GAP = 2


def sheet(pair: Pair) -> Tensor:
    """One row for each pair of a batch, (h, w, 3) uint8.

    From left to right: fixed, moving, moving warped by the true field, the labels of the fixed image, the length of
    the field (white is a fifth of the side); each in the middle slices of the first and the second axis.
    """
    warped = warp(pair.moving, pair.flow)
    side = sum(pair.flow.shape[2:]) / 3
    length = pair.flow.norm(dim=1, keepdim=True) / (0.2 * side)
    colors = torch.rand(256, 3, generator=torch.Generator().manual_seed(0))
    colors[0] = 0
    labels = colors[pair.fixed_labels[:, 0].long().cpu()].movedim(-1, 1)
    columns = []
    for volume in (pair.fixed, pair.moving, warped, labels, length):
        volume = volume.cpu().float().expand(-1, 3, -1, -1, -1)
        columns += [volume[:, :, volume.shape[2] // 2], volume[:, :, :, volume.shape[3] // 2]]
    height = max(column.shape[2] for column in columns) + _GAP
    rows = torch.cat(
        [torch.nn.functional.pad(c, (0, _GAP, 0, height - c.shape[2]), value=0.3) for c in columns], dim=3
    )  # fmt: skip
    picture = torch.cat(list(rows), dim=1).movedim(0, -1)
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a sheet as PNG."""
    parser = argparse.ArgumentParser(description="Write a sheet of synthetic pairs.")
    parser.add_argument("file", type=Path, help="PNG file to write")
    parser.add_argument("--seed", type=int, default=0, help="which pairs (default 0)")
    parser.add_argument("--count", type=int, default=8, help="rows (default 8)")
    parser.add_argument("--side", type=int, default=96, help="voxels along each axis (default 96)")
    parser.add_argument("--map-each", action="store_true", help="a label map of its own for every row")
    chosen = parser.parse_args(arguments)
    pairs = SyntheticPairs((chosen.side,) * 3, seed=chosen.seed)
    step = pairs.settings.pairs_per_map if chosen.map_each else 1
    save_png(sheet(pairs.batch(range(0, chosen.count * step, step))).numpy(), chosen.file)


if __name__ == "__main__":
    main()
