"""Pictures, single slices and 2D checkpoints with known answers, shared by the tests of registration in 2D."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from geometries import random_direction

from CycleRegLib.checkpoints import write_checkpoint
from CycleRegLib.geometry import Grid
from CycleRegLib.methods import get_method


def scene(points: np.ndarray, seed: int = 0) -> np.ndarray:
    """(..., 3) RGB in 0..255 of a smooth picture of the plane at (..., 2) points, about 100 mm wide, dark outside."""
    rng = np.random.default_rng(seed)
    x, y = points[..., 0] - 50, points[..., 1] - 45
    inside = 1 / (1 + np.exp(((x / 38) ** 2 + (y / 36) ** 2 - 1) * 8))
    channels = []
    for base in (110, 90, 130):
        value = np.full(x.shape, float(base))
        for _ in range(6):
            (cx, cy), size = rng.uniform(-24, 24, 2), rng.uniform(4, 11)
            value += rng.uniform(-70, 90) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / size**2)
        channels.append(np.clip(value * inside, 0, 250))
    return np.stack(channels, axis=-1)


def picture_grid(size: tuple[int, int] = (100, 90)) -> Grid:
    return Grid(size, (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))


def picture(
    size: tuple[int, int] = (100, 90),
    shift: tuple[float, float] = (0.0, 0.0),
    kind: type = np.uint8,
    grey: bool = False,
) -> sitk.Image:
    """The scene as an image of pixels of 1 mm, moved by ``shift`` (x, y) mm; 16 bit have 256 times the range."""
    grid = picture_grid(size)
    array = scene(grid.points() - np.array(shift))
    array = array * (256 if kind == np.uint16 else 1)
    array = array[..., 1] if grey else array
    return grid.image(np.rint(array).astype(kind) if kind != np.float32 else array.astype(np.float32))


def slice_at(frame: np.ndarray, origin: np.ndarray, size: tuple[int, int], axis: int = 2, seed: int = 0) -> sitk.Image:
    """A single slice (RGB, uint8) that shows the scene in the plane ``origin + frame[:, :2] @ q``.

    Pixels are 1.5 x 1 mm along the frame; the index axis of the single voxel is ``axis``, the others keep their order.
    """
    index = np.stack(np.meshgrid(*[np.arange(n) for n in size], indexing="xy"), axis=-1)
    array = np.rint(scene(index * np.array([1.5, 1.0]), seed)).astype(np.uint8)
    columns = [0, 1]
    columns.insert(axis, 2)
    spacing, sizes = np.array([1.5, 1.0, 4.0])[columns], np.array([*size, 1])[columns]
    grid = Grid(tuple(sizes), tuple(spacing), tuple(origin), tuple(frame[:, columns].ravel()))
    return grid.image(np.expand_dims(array, 2 - axis))


def random_frame(seed: int) -> np.ndarray:
    """Three perpendicular unit vectors, as columns; left-handed by a coin."""
    return random_direction(np.random.default_rng(seed))


def constant_checkpoint(
    folder: Path, forward: tuple[float, float], backward: tuple[float, float], method: str = "cyclemorph-2d"
) -> Path:
    """Weights whose flow is (y, x) voxels everywhere, whatever the images."""
    states = {}
    for name, flow in (("forward", forward), ("backward", backward)):
        state = {k: torch.zeros_like(v) for k, v in get_method(method).build_network().state_dict().items()}
        state["model.outconv.upconv.bias"] = torch.tensor(flow)
        states[name] = state
    path = folder / "constant.safetensors"
    write_checkpoint(path, method, states)
    return path
