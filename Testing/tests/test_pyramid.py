"""The pyramid network: its search, its grids and its symmetry, against brute force and known motion."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from network_cases import lively_network
from scipy.ndimage import map_coordinates

from CycleRegLib.methods import get_method
from CycleRegLib.networks import pyramid
from CycleRegLib.networks.pyramid import PyramidNetwork, doubled, expected_displacement, matching_cost

SMALL = {
    "features": [6, 8, 10], "widths": [6, 8, 8], "radii": [1, 1, 2], "compared": [3, 5, 5], "rounds": [1, 1, 2]
}  # fmt: skip


def searching_network() -> PyramidNetwork:
    """Nothing but the search for descriptors: no learnt features, no head."""
    network = PyramidNetwork().eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        # The finest level compares learnt features only.
        if ".head." in name or ".key." in name or name == "levels.0.trust":
            parameter.zero_()
    return network


def blobs(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 1, *[side // 5 for side in shape]), generator=generator)
    return F.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)


def test_coarse_costs_are_averages_of_fine_ones() -> None:
    fixed, moving = torch.rand((2, 1, 3, 8, 12, 16), generator=torch.Generator().manual_seed(1))
    fine, coarse = matching_cost(fixed, moving, 1), matching_cost(fixed, moving, 1, times=4)
    averages = F.avg_pool3d(fine, 4)
    averages /= averages.square().mean().sqrt()
    assert coarse.shape == (1, 27, 2, 3, 4)
    assert torch.allclose(coarse, averages, atol=1e-4)


def test_matching_cost_is_the_distance_to_each_neighbour() -> None:
    generator = torch.Generator().manual_seed(1)
    fixed, moving = torch.randn((2, 2, 3, 4, 5, 6), generator=generator)
    cost = matching_cost(fixed, moving, 1)
    assert cost.shape == (2, 27, 4, 5, 6)
    truth = np.zeros(cost.shape)
    for b, (n, d), z, y, x in itertools.product(
        range(2), enumerate(itertools.product((-1, 0, 1), repeat=3)), range(4), range(5), range(6)
    ):
        q = [min(max(p + step, 0), side - 1) for p, step, side in zip((z, y, x), d, (4, 5, 6))]
        truth[b, n, z, y, x] = float((fixed[b, :, z, y, x] - moving[b, :, q[0], q[1], q[2]]).square().mean())
    truth -= truth.mean(1, keepdims=True)
    truth /= np.sqrt((truth**2).mean((1, 2, 3, 4), keepdims=True))
    assert np.allclose(cost.numpy(), truth, atol=1e-4)


@pytest.mark.parametrize("wanted", [(0, 0, 0), (1, -2, 2), (-2, 0, 1)])
def test_expected_displacement_is_that_of_the_least_cost(wanted: tuple[int, ...]) -> None:
    cube = list(itertools.product(range(-2, 3), repeat=3))
    cost = torch.ones(1, 125, 4, 4, 4)
    cost[:, cube.index(wanted)] = -5.0
    found = expected_displacement(cost, 2, 0.5, torch.tensor(20.0), torch.tensor(0.1))
    assert torch.allclose(
        found, 0.5 * torch.tensor(wanted, dtype=torch.float32).view(1, 3, 1, 1, 1).expand_as(found), atol=1e-3
    )


def test_doubled_flow_moves_the_same_points() -> None:
    """A linear displacement in millimetres is the same one on both grids, whose voxels share their edges."""
    matrix = torch.tensor([[0.1, 0.02, 0.0], [-0.03, 0.05, 0.01], [0.0, 0.04, -0.08]])

    def linear(shape: tuple[int, ...], size: float) -> torch.Tensor:
        axes = [(torch.arange(side) + 0.5) * size for side in shape]
        points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        return torch.einsum("ij,jzyx->izyx", matrix, points)[None] / size

    finer = doubled(linear((6, 7, 8), 2.0), (12, 14, 15))
    inner = (..., *[slice(1, -1)] * 3)
    assert finer.shape == (1, 3, 12, 14, 15)
    assert torch.allclose(finer[inner][..., :-1], linear((12, 14, 15), 1.0)[inner][..., :-1], atol=1e-4)


def test_the_search_alone_finds_a_shift_in_another_contrast() -> None:
    shape, shift = (48, 64, 56), (5.0, -6.5, 4.0)
    fixed = blobs(shape)
    grid = np.meshgrid(*[np.arange(side) - step for side, step in zip(shape, shift)], indexing="ij")
    moving = torch.from_numpy(map_coordinates(fixed[0, 0].numpy(), grid, order=1, mode="nearest"))[None, None]
    with torch.inference_mode():
        forward, backward = searching_network()(1 - 0.5 * moving.sqrt(), fixed)
    inner = (0, slice(None), *[slice(12, -12)] * 3)
    for flow, sign in ((forward, 1), (backward, -1)):
        error = (flow[inner] - sign * torch.tensor(shift).view(3, 1, 1, 1)).norm(dim=0)
        assert error.median() < 1.8, error.median()
        assert error.mean() < 2.0, error.mean()


def test_motion_beyond_the_search_is_seen_at_half_of_the_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    shift = torch.tensor([16.0, -12.0, 14.0])
    generator = torch.Generator().manual_seed(3)
    whole = sum(
        F.interpolate(torch.rand((1, 1, n, n, n), generator=generator), size=(128,) * 3, mode="trilinear")
        for n in (6, 12, 24)
    )
    fixed, moving = whole[..., 16:112, 12:108, 16:112], whole[..., 0:96, 24:120, 2:98]
    errors = []
    for least in (24, 1000):
        monkeypatch.setattr(pyramid, "_LEAST_SIDE", least)
        with torch.inference_mode():
            flow = searching_network()(moving, fixed)[0]
        inner = (0, slice(None), slice(8, -24), slice(20, -8), slice(8, -24))
        errors.append(float((flow[inner] - shift.view(3, 1, 1, 1)).norm(dim=0).median()))
    assert errors[0] < 0.5 * errors[1], errors
    assert errors[0] < 6, errors


def test_exchanging_the_images_exchanges_the_flows() -> None:
    network = lively_network("pyramid", **SMALL)
    moving, fixed = blobs((33, 24, 40), 1), blobs((33, 24, 40), 2)
    with torch.inference_mode():
        forward, backward = network(moving, fixed)
        exchanged = network(fixed, moving)
    assert forward.abs().max() > 0.1
    assert torch.allclose(forward, exchanged[1], atol=1e-4)
    assert torch.allclose(backward, exchanged[0], atol=1e-4)


@pytest.mark.parametrize("shape", [(5, 33, 17), (2, 3, 4), (32, 32, 32)])
def test_any_size_gives_finite_flows_of_that_size(shape: tuple[int, ...]) -> None:
    moving, fixed = torch.rand((2, 1, 1, *shape), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for flow in lively_network("pyramid", **SMALL)(moving, fixed):
            assert flow.shape == (1, 3, *shape)
            assert flow.isfinite().all()


def test_flat_images_give_finite_flows() -> None:
    flat = torch.zeros(1, 1, 32, 32, 32)
    with torch.inference_mode():
        assert all(flow.isfinite().all() for flow in PyramidNetwork()(flat, flat))


def test_the_configuration_is_read_from_the_weights() -> None:
    for settings in ({}, SMALL):
        network = PyramidNetwork(**settings)
        assert PyramidNetwork.configuration_from(network.state_dict()) == network.configuration
    with pytest.raises(ValueError, match="as many"):
        PyramidNetwork(radii=(1, 1))


def test_it_fits_in_8_megabytes_at_half_precision() -> None:
    parameters = sum(p.numel() for p in get_method("pyramid").build_network().parameters())
    assert 2 * parameters < 8e6
