"""The warp against PyTorch's grid_sample, scipy and a shift whose answer is known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from geometries import random_grid
from scipy.ndimage import map_coordinates

from CycleRegLib.warp import compose_flows, index_positions, sample, warp


@pytest.mark.parametrize("shape", [(8, 7, 6), (7, 9, 5), (6, 5)])
@pytest.mark.parametrize("threads", [1, 2])
def test_warp_equals_scipy_inside_and_grid_sample_everywhere(shape: tuple, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        n = len(shape)
        image = torch.rand(1, 2, *shape)
        flow = torch.randn(1, n, *shape) * 1.5
        warped = warp(image, flow)
    finally:
        torch.set_num_threads(before)
    where = np.stack(np.meshgrid(*[np.arange(s) for s in shape], indexing="ij")) + flow[0].numpy()
    scale = torch.tensor([2 / (s - 1) for s in shape])
    grid = (torch.from_numpy(where).float().movedim(0, -1)[None] * scale - 1).flip(-1)
    expected = F.grid_sample(image, grid, padding_mode="zeros", align_corners=True)
    torch.testing.assert_close(warped, expected, atol=1e-6, rtol=0)
    inside = np.all([(w >= 0) & (w <= s - 1) for w, s in zip(where, shape)], axis=0)
    for c in range(2):
        slow = map_coordinates(image[0, c].numpy(), where, order=1)
        np.testing.assert_allclose(warped[0, c].numpy()[inside], slow[inside], atol=1e-5)


def test_flow_channels_follow_the_array_axes() -> None:
    image = torch.rand(1, 1, 6, 7, 8)
    flow = torch.zeros(1, 3, 6, 7, 8)
    flow[:, 0], flow[:, 1], flow[:, 2] = 1, 2, 3
    torch.testing.assert_close(warp(image, flow)[..., :5, :5, :5], image[..., 1:6, 2:7, 3:8])


def test_gradients_reach_image_and_flow() -> None:
    image = torch.rand(1, 1, 4, 5, 4, dtype=torch.float64, requires_grad=True)
    flow = (torch.rand(1, 3, 4, 5, 4, dtype=torch.float64) * 0.3 + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda i, f: warp(i, f), (image, flow), atol=1e-5)


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize(("shape", "threads"), [((37, 9, 8), 3), ((37, 9, 8), 1), ((40, 30), 2)])
def test_large_volumes_in_slabs_give_the_same_bits(
    shape: tuple, threads: int, mode: str, padding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    volume = torch.rand(1, 2, *shape)
    flow = torch.randn(1, len(shape), *(side - 1 for side in shape)) * 2
    positions = index_positions(tuple(flow.shape[2:])) + flow.movedim(1, -1)
    whole = warp(volume, flow, mode, padding), sample(volume, positions, mode, padding)
    monkeypatch.setattr("CycleRegLib.warp._SLAB_VOXELS", 150)
    try:
        slabs = warp(volume, flow, mode, padding), sample(volume, positions, mode, padding)
        assert torch.get_num_threads() == threads
        graph = warp(volume, flow.clone().requires_grad_(), mode, padding)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(slabs[0], whole[0])
    assert torch.equal(slabs[1], whole[1])
    assert torch.equal(graph, whole[0])
    assert graph.requires_grad


def test_index_positions_apply_an_xyz_matrix_to_zyx_slabs() -> None:
    grid, other = random_grid(1), random_grid(2)
    matrix = other.world_to_index @ grid.index_to_world
    whole = index_positions(grid.shape, matrix)[0].numpy()
    expected = other.to_index(grid.points())[..., ::-1]
    np.testing.assert_allclose(whole, expected, atol=2e-4)
    slab = index_positions((2, *grid.shape[1:]), matrix, first=3)[0].numpy()
    np.testing.assert_allclose(slab, whole[3:5], atol=1e-5)


def test_warping_twice_equals_warping_once_with_the_composition() -> None:
    """METHODS.md: g1 * g2 = g2 + warp(g1, g2), exact for an image that is linear."""
    shape = (12, 12, 12)
    ramp = index_positions(shape)[..., 0] + 2 * index_positions(shape)[..., 1] - index_positions(shape)[..., 2]
    ramp = ramp[:, None]
    g1, g2 = torch.full((1, 3, *shape), 0.7), torch.zeros(1, 3, *shape)
    g2[:, 1] = index_positions(shape)[..., 1] * 0.05
    twice = warp(warp(ramp, g1), g2)
    once = warp(ramp, compose_flows(g2, g1))
    torch.testing.assert_close(once[..., 2:9, 2:9, 2:9], twice[..., 2:9, 2:9, 2:9], atol=1e-4, rtol=0)


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        sample(torch.zeros(1, 1, 4, 4, 4), torch.zeros(1, 4, 4, 2))
