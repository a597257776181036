"""Losses of flows and affine maps, labels and end points against slow references and by finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from cyclereg_training.losses import (
    absolute_difference,
    affine_determinant,
    bending_energy,
    endpoint_error,
    folding,
    invertibility,
    jacobian_determinant,
    one_hot_labels,
    orthogonality,
    round_trip,
    smoothness,
    soft_dice,
    total_variation,
)

SHAPES = [(2, 3, 4, 5, 3), (2, 2, 5, 4)]


def random_flow(*shape: int, scale: float = 1.0, requires_grad: bool = False) -> torch.Tensor:
    return (scale * torch.randn(*shape, dtype=torch.float64)).requires_grad_(requires_grad)


def affine_flow(matrix: torch.Tensor, offset: torch.Tensor, shape: tuple) -> torch.Tensor:
    """(1, n, *shape) of x -> matrix x + offset, as a displacement."""
    points = torch.stack(torch.meshgrid(*[torch.arange(s, dtype=torch.float64) for s in shape], indexing="ij"))
    moved = torch.einsum("ij,j...->i...", matrix, points) + offset.view(-1, *[1] * len(shape))
    return (moved - points)[None]


# ---------------------------------------------------------------------- regularity


def slow_differences(flow: np.ndarray) -> list[np.ndarray]:
    return [np.diff(flow, axis=axis) for axis in range(2, flow.ndim)]


@pytest.mark.parametrize("shape", SHAPES)
def test_smoothness_and_total_variation_voxel_by_voxel(shape: tuple) -> None:
    flow = random_flow(*shape)
    n, voxels = shape[1], int(np.prod(shape[2:]))
    means = [np.mean(d**2) for d in slow_differences(flow.numpy())]
    assert float(smoothness(flow)) == pytest.approx(np.mean(means), abs=1e-12)
    total = 0.0
    for index in np.ndindex(*shape[2:]):
        for axis in range(n):
            following = tuple(i + (a == axis) for a, i in enumerate(index))
            if following[axis] < shape[2 + axis]:
                step = flow[(slice(None), slice(None), *following)] - flow[(slice(None), slice(None), *index)]
                total += float((step**2).sum())
    assert float(total_variation(flow)) == pytest.approx(total / (n * voxels) / shape[0], abs=1e-12)


def test_bending_energy_is_that_of_a_known_polynomial() -> None:
    """f = (z^2, y z, 0): second differences f_zz = 2 and f_zy = 1 everywhere, so 4 + 2 * 1."""
    z, y, _ = torch.meshgrid(*[torch.arange(6, dtype=torch.float64)] * 3, indexing="ij")
    flow = torch.stack([z**2, y * z, 0 * z])[None]
    assert float(bending_energy(flow)) == pytest.approx(6, abs=1e-12)


def test_translations_are_smooth_and_affine_maps_do_not_bend() -> None:
    still = torch.ones(1, 3, 5, 4, 6, dtype=torch.float64)
    assert float(smoothness(still)) == float(total_variation(still)) == 0
    flow = affine_flow(torch.randn(3, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64), (5, 6, 4))
    assert float(bending_energy(flow)) == pytest.approx(0, abs=1e-20)
    assert float(smoothness(flow)) > 0.1


def test_an_axis_of_one_voxel_adds_nothing() -> None:
    flow = random_flow(1, 3, 1, 5, 5)
    assert float(smoothness(flow)) == pytest.approx(
        sum(float(flow.diff(dim=a).square().mean()) for a in (3, 4)) / 3, abs=1e-12
    )
    for loss in (total_variation, bending_energy, folding):
        assert torch.isfinite(loss(flow))


@pytest.mark.parametrize("n", [2, 3])
def test_jacobian_determinant_of_an_affine_map(n: int) -> None:
    matrix = torch.eye(n, dtype=torch.float64) + 0.4 * torch.randn(n, n, dtype=torch.float64)
    found = jacobian_determinant(affine_flow(matrix, torch.zeros(n, dtype=torch.float64), (4,) * n))
    assert found.shape == (1, *(3,) * n)
    torch.testing.assert_close(found, torch.linalg.det(matrix).expand_as(found))


@pytest.mark.parametrize("shape", SHAPES)
def test_jacobian_determinant_voxel_by_voxel(shape: tuple) -> None:
    flow = random_flow(*shape).numpy()
    n = shape[1]
    inner = tuple(slice(0, side - 1) for side in shape[2:])
    columns = [d[(slice(None), slice(None), *inner)] for d in slow_differences(flow)]
    matrices = np.moveaxis(np.stack(columns, axis=2), (1, 2), (-2, -1)) + np.eye(n)
    np.testing.assert_allclose(
        jacobian_determinant(torch.from_numpy(flow)).numpy(), np.linalg.det(matrices), atol=1e-12
    )


def test_folding_counts_negative_determinants_only() -> None:
    mirrored = affine_flow(torch.diag(torch.tensor([-2.0, 1, 1]).double()), torch.zeros(3).double(), (4, 4, 4))
    assert float(folding(mirrored)) == pytest.approx(2)
    shrunk = affine_flow(0.5 * torch.eye(3).double(), torch.zeros(3).double(), (4, 4, 4))
    assert float(folding(shrunk)) == 0
    assert float(folding(shrunk, least=0.2)) == pytest.approx(0.2 - 0.125)
    with pytest.raises(ValueError, match="2 or 3 axes"):
        folding(torch.zeros(1, 2, 4, 4, 4))


@pytest.mark.parametrize("loss", [smoothness, total_variation, bending_energy, lambda f: folding(f, 0.3)])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_regularity_by_finite_differences(loss, shape: tuple) -> None:
    assert torch.autograd.gradcheck(loss, (random_flow(*shape, requires_grad=True),), atol=1e-7)


# ---------------------------------------------------------------------- consistency


def slow_composed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """first(x) + second(x + first(x)) with scipy, edges repeated; (n, *shape)."""
    points = np.stack(np.meshgrid(*[np.arange(s) for s in first.shape[1:]], indexing="ij")) + first
    return first + np.stack([map_coordinates(c, points, order=1, mode="nearest") for c in second])


@pytest.mark.parametrize("shape", [(1, 3, 9, 8, 12), (1, 2, 12, 9)])
def test_round_trip_and_invertibility_with_scipy(shape: tuple) -> None:
    f, g = random_flow(*shape, scale=2.0), random_flow(*shape, scale=2.0)
    squares = [(slow_composed(a[0].numpy(), b[0].numpy()) ** 2).sum(0) for a, b in ((f, g), (g, f))]
    assert float(round_trip(f, g)) == pytest.approx(np.mean(squares), rel=1e-9)
    centre = tuple(slice(s // 4, s - s // 4) for s in shape[2:])
    assert float(invertibility(f, g)) == pytest.approx(sum(s[centre].mean() for s in squares), rel=1e-9)
    assert float(round_trip(f, g)) == pytest.approx(float(round_trip(g, f)), rel=1e-12)
    assert float(invertibility(f, g)) == pytest.approx(float(invertibility(g, f)), rel=1e-12)


def test_invertibility_sees_the_central_half_only() -> None:
    f, g = torch.zeros(1, 3, 16, 16, 16), torch.zeros(1, 3, 16, 16, 16)
    f[:, :, :3] = 1.0
    assert float(invertibility(f, g)) == 0
    assert float(round_trip(f, g)) > 0


def test_translations_there_and_back_are_consistent() -> None:
    there = torch.tensor([1.5, -2.0, 0.25]).view(1, 3, 1, 1, 1).expand(1, 3, 8, 8, 8)
    assert float(round_trip(there, -there)) == pytest.approx(0, abs=1e-12)
    assert float(invertibility(there, -there)) == pytest.approx(0, abs=1e-12)
    assert float(round_trip(there, there)) == pytest.approx(4 * (1.5**2 + 2**2 + 0.25**2))


@pytest.mark.parametrize("loss", [round_trip, invertibility])
def test_gradients_of_consistency_by_finite_differences(loss) -> None:
    """Away from the voxels' centres, where interpolation has a kink."""
    f, g = ((0.3 + 0.2 * torch.rand(1, 2, 5, 6, dtype=torch.float64)).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(loss, (f, g), eps=1e-4, atol=1e-4)


def test_absolute_difference() -> None:
    a, b = torch.rand(2, 1, 4, 4, 4), torch.rand(2, 1, 4, 4, 4)
    assert float(absolute_difference(a, b)) == pytest.approx(np.abs(a.numpy() - b.numpy()).mean(), rel=1e-6)
    assert float(absolute_difference(a, b)) == float(absolute_difference(b, a))
    assert float(absolute_difference(a, a)) == 0
    c, d = (x.double().requires_grad_() for x in (a, b))
    assert torch.autograd.gradcheck(absolute_difference, (c, d), atol=1e-7)


# ---------------------------------------------------------------------- affine


def rotation() -> torch.Tensor:
    q, r = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    q = q * r.diagonal().sign()
    return q if torch.linalg.det(q) > 0 else q[:, [1, 0, 2]]


def test_orthogonality_from_singular_values() -> None:
    """Of maps that shrink by up to a half and stretch by up to two; near singular ones the floor holds it down."""
    singular = 0.5 + 1.5 * torch.rand(4, 3, dtype=torch.float64)
    maps = torch.stack([rotation() @ torch.diag(s) @ rotation() for s in singular])
    expected = ((singular**2 + singular**-2).sum(1) - 6).mean()
    assert float(orthogonality(maps - torch.eye(3, dtype=torch.float64))) == pytest.approx(float(expected), rel=1e-3)


def test_rotations_cost_nothing() -> None:
    a = torch.stack([rotation() for _ in range(5)]) - torch.eye(3, dtype=torch.float64)
    assert float(orthogonality(a)) == pytest.approx(0, abs=1e-8)
    assert float(affine_determinant(a)) == pytest.approx(0, abs=1e-12)


def test_determinant_and_what_reflections_and_scales_cost() -> None:
    a = torch.randn(3, 3, 3, dtype=torch.float64)
    expected = np.mean((np.linalg.det(a.numpy() + np.eye(3)) - 1) ** 2)
    assert float(affine_determinant(a)) == pytest.approx(float(expected), rel=1e-9)
    reflection = torch.diag(torch.tensor([-2.0, 0, 0]))[None]
    assert float(orthogonality(reflection)) == pytest.approx(0, abs=1e-4)
    assert float(affine_determinant(reflection)) == pytest.approx(4)
    doubled = torch.eye(3)[None]
    assert float(orthogonality(doubled)) == pytest.approx(3 * (4 + 0.25) - 6, rel=1e-4)


def test_a_singular_map_has_a_finite_loss_and_gradient() -> None:
    a = -torch.eye(3)[None]
    a.requires_grad_()
    loss = orthogonality(a)
    loss.backward()
    assert torch.isfinite(loss)
    assert a.grad.isfinite().all()


@pytest.mark.parametrize("loss", [orthogonality, affine_determinant])
def test_gradients_of_affine_terms_by_finite_differences(loss) -> None:
    a = (0.2 * torch.randn(3, 3, 3, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(loss, (a,), atol=1e-6)


@pytest.mark.parametrize("loss", [orthogonality, affine_determinant])
def test_affine_terms_are_not_rounded_under_autocast(loss) -> None:
    a = 0.1 * torch.randn(2, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(a)
    assert float(found) == float(loss(a))


# ---------------------------------------------------------------------- labels


def test_one_hot_labels() -> None:
    labels = torch.tensor([[[[0, 3], [7, 3]]]])
    expected = torch.tensor([[[[0.0, 1], [0, 1]], [[0, 0], [1, 0]]]])
    assert torch.equal(one_hot_labels(labels, [3, 7]), expected)


def test_soft_dice_of_crisp_labels_is_dice() -> None:
    a, b = (torch.randint(0, 4, (2, 1, 6, 6, 6)) for _ in range(2))
    dice = []
    for i in range(2):
        of_one = []
        for value in (1, 2, 3):
            x, y = (m[i].numpy() == value for m in (a, b))
            of_one.append(2 * (x & y).sum() / (x.sum() + y.sum()))
        dice.append(np.mean(of_one))
    found = soft_dice(one_hot_labels(a, [1, 2, 3]), one_hot_labels(b, [1, 2, 3]))
    assert float(found) == pytest.approx(1 - np.mean(dice), abs=1e-6)


def test_soft_dice_best_and_worst_and_labels_that_are_not_there() -> None:
    a = torch.zeros(1, 3, 4, 4, 4)
    a[:, 0, :2] = 1
    assert float(soft_dice(a, a)) == 0
    assert float(soft_dice(a, 1 - a)) == 1
    # Only the first of three labels exists: the others do not count.
    half = torch.zeros_like(a)
    half[:, 0, :1] = 1
    assert float(soft_dice(a, half)) == pytest.approx(1 - 2 / 3)
    assert float(soft_dice(torch.zeros_like(a), torch.zeros_like(a))) == 0


def test_soft_dice_gradient_and_symmetry() -> None:
    a, b = (torch.rand(2, 2, 3, 4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(soft_dice, (a, b), atol=1e-7)
    assert float(soft_dice(a, b).detach()) == pytest.approx(float(soft_dice(b, a).detach()), abs=1e-12)
    empty = torch.zeros(1, 2, 3, 3, 3, requires_grad=True)
    soft_dice(empty, torch.zeros(1, 2, 3, 3, 3)).backward()
    assert empty.grad.isfinite().all()


# ---------------------------------------------------------------------- end points


def test_endpoint_error_is_a_mean_length() -> None:
    f, g = random_flow(2, 3, 4, 5, 3), random_flow(2, 3, 4, 5, 3)
    lengths = np.linalg.norm(f.numpy() - g.numpy(), axis=1)
    assert float(endpoint_error(f, g)) == pytest.approx(lengths.mean(), abs=1e-12)
    weight = torch.rand(2, 1, 4, 5, 3, dtype=torch.float64)
    expected = np.mean([np.average(lengths[i], weights=weight[i, 0].numpy()) for i in range(2)])
    assert float(endpoint_error(f, g, weight)) == pytest.approx(expected, abs=1e-12)
    assert float(endpoint_error(f, g)) == float(endpoint_error(g, f))


def test_endpoint_error_gradient_also_where_it_is_zero() -> None:
    f, g = (random_flow(1, 2, 3, 4).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(endpoint_error, (f, g), atol=1e-7)
    endpoint_error(f, f.detach()).backward()
    assert f.grad.isfinite().all()


@pytest.mark.parametrize("loss", [smoothness, total_variation, bending_energy, folding])
def test_flows_of_16_bits_are_taken_in_float32(loss) -> None:
    flow = torch.randn(1, 3, 5, 5, 5).bfloat16()
    assert loss(flow).dtype == torch.float32
    assert float(loss(flow)) == pytest.approx(float(loss(flow.double())), rel=1e-5)
