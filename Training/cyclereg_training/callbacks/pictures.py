"""Pictures of one fixed validation pair, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from CycleRegLib.drawing import level_coverage
from CycleRegLib.png import save_png
from CycleRegLib.warp import warp

from ..module import TrainingModule
from ..run_folder import PICTURES, RunFolder

_GAP, _LEAST_SIDE, _LINES = 4, 160, 12


class Pictures(lightning.Callback):
    """``pictures/epoch-XXX.png`` after every validation, and the same in TensorBoard; see :func:`picture`."""

    def __init__(self, folder: RunFolder, data: Any) -> None:
        self.folder, self.data = folder, data

    def on_validation_end(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        pair = {name: self.data.validation_pair[name][:1].to(module.device) for name in ("moving", "fixed")}
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            flow = module.objective.estimate(module.networks, pair["moving"], pair["fixed"])
        drawn = picture(pair, flow.float())
        save_png(drawn, self.folder / PICTURES / f"epoch-{trainer.current_epoch + 1:03d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("validation pair", drawn, trainer.global_step, dataformats="HWC")


def picture(pair: Mapping[str, Tensor], flow: Tensor) -> np.ndarray:
    """A pair and what a flow makes of it, (h, w, 3) uint8.

    From left to right: moving, fixed, moving warped, the difference to the fixed image before and after, and lines of
    the moving image's grid as the flow bends them.  In 3D a row for the middle plane of every axis.

    Parameters
    ----------
    pair
        ``moving`` and ``fixed``, (1, 1, *spatial) of 0 to 1.
    flow
        (1, n, *spatial) voxels.
    """
    moving, fixed = pair["moving"].float(), pair["fixed"].float()
    warped = warp(moving, flow, padding="border")
    columns = [moving, fixed, warped, (fixed - moving).abs(), (fixed - warped).abs()]
    n = flow.shape[1]
    rows = []
    for axis in range(n) if n == 3 else [None]:
        planes = [_plane(volume[0, 0], axis).cpu().numpy() for volume in columns]
        shown = [component for component in range(n) if component != axis]
        bent = [_plane(flow[0, component], axis).cpu().numpy() for component in shown]
        zoom = max(1, -(-_LEAST_SIDE // max(planes[0].shape)))
        tiles = [np.clip(plane, 0, 1) for plane in planes] + [_grid(bent, zoom)]
        zoomed = [tile.repeat(zoom, 0).repeat(zoom, 1) for tile in tiles[:-1]] + tiles[-1:]
        rows.append(np.concatenate([np.pad(tile, ((0, _GAP), (0, _GAP)), constant_values=0.3) for tile in zoomed], 1))
    width = max(row.shape[1] for row in rows)
    sheet = np.concatenate([np.pad(r, ((0, 0), (0, width - r.shape[1])), constant_values=0.3) for r in rows])
    return np.repeat(np.rint(255 * sheet).astype(np.uint8)[..., None], 3, axis=2)


def _plane(volume: Tensor, axis: int | None) -> Tensor:
    return volume if axis is None else volume.select(axis, volume.shape[axis] // 2)


def _grid(bent: list[np.ndarray], zoom: int) -> np.ndarray:
    """White lines where the points that the flow leads to have a round coordinate."""
    coverage = np.zeros([side * zoom for side in bent[0].shape], np.float32)
    for along, part in enumerate(bent):
        fine = part.repeat(zoom, 0).repeat(zoom, 1)
        # Steps of the zoomed pixels would break the lines: every pixel has its own place between voxels.
        place = (np.indices(fine.shape)[along] + 0.5) / zoom - 0.5
        apart = max(2.0, max(part.shape) / _LINES)
        coverage = np.maximum(coverage, level_coverage(place + fine, apart, 1.0))
    return coverage
