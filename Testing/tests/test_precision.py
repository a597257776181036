"""Networks in bfloat16 against float32: agreement to hundredths of a voxel, for flows of ten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from network_cases import lively_network
from scipy.ndimage import gaussian_filter

from CycleRegLib.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from CycleRegLib.errors import InputError
from CycleRegLib.methods import list_methods
from CycleRegLib.networks.inference import run_network
from CycleRegLib.networks.settings import InferenceSettings

SMALL = {"vtn": {"cascade": "ADD", "channels": 4, "size": 64}}
SETTINGS = {"patch_size": 32}
NETWORKS = [(method.id, n) for method in list_methods() if method.network for n in method.dimensions]


def smooth_pair(shape: tuple[int, ...], seed: int) -> list[np.ndarray]:
    """Two images as smooth as scans are, 0 to 1."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(2):
        image = sum(gaussian_filter(rng.standard_normal(shape), s) * s ** (len(shape) / 2) for s in (1.0, 2.5, 6.0))
        images.append(((image - image.min()) / np.ptp(image)).astype(np.float32))
    return images


def checkpoint(folder: Path, method: str, dimension: int, voxels: float) -> Checkpoint:
    network = lively_network(method, seed=2, voxels=voxels, dimension=dimension, **SMALL.get(method, {}))
    path = folder / "lively.safetensors"
    write_checkpoint(path, method, {"forward": network.state_dict()}, network.configuration)
    return read_checkpoint(path)


@pytest.mark.filterwarnings("ignore::CycleRegLib.errors.CycleRegWarning")
@pytest.mark.parametrize(("method", "dimension"), NETWORKS)
def test_bfloat16_is_within_a_quarter_of_a_voxel(method: str, dimension: int, tmp_path: Path) -> None:
    weights = checkpoint(tmp_path, method, dimension, voxels=5.0)
    fixed, moving = smooth_pair((48, 56, 64)[:dimension], seed=7)
    exact, half = (
        run_network(weights, fixed, moving, settings=InferenceSettings(precision, **SETTINGS))
        for precision in ("float32", "bfloat16")
    )
    for one, other in zip(exact, half):
        lengths, errors = one.norm(dim=0), (other - one).norm(dim=0)
        assert other.dtype == torch.float32
        assert lengths.max() > 3
        errors = errors * max(1.0, 10.0 / float(lengths.max()))  # as they would be for a flow of ten voxels
        assert 0 < errors.mean() < 0.05
        assert errors.max() < 0.25


@pytest.mark.parametrize("method", ["cyclemorph", "voxelmorph"])
def test_flows_have_more_than_eight_bits(method: str, tmp_path: Path) -> None:
    """The layer that gives the flow runs in float32: neighbours differ by less than bfloat16 could tell."""
    weights = checkpoint(tmp_path, method, 3, voxels=5.0)
    flow = run_network(weights, *smooth_pair((32, 32, 32), seed=1), settings=InferenceSettings("bfloat16"))[0]
    large = flow[flow.abs() > 4]
    assert len(large) > 100
    rounded = large.bfloat16().float()
    assert (large != rounded).float().mean() > 0.9


def test_float16_is_refused_on_processors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="float16"):
        run_network(
            checkpoint(tmp_path, "cyclemorph", 3, 1.0), *smooth_pair((16, 16, 16), 0),
            settings=InferenceSettings("float16"),
        )  # fmt: skip
