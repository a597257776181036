"""Similarities against slow references written out window by window, and their gradients by finite differences."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import uniform_filter

from CycleRegLib.similarity import (
    block_sum,
    box_sum,
    descriptor_loss,
    lncc_between,
    lncc_loss,
    local_reference,
    mind_ssc,
)


@pytest.mark.parametrize("shape", [(7, 8, 9), (5, 6)])
@pytest.mark.parametrize("radius", [0, 1, 2, 3, 4, 5])
def test_box_sum_is_a_convolution_with_ones(shape: tuple, radius: int) -> None:
    x = torch.rand(2, 2, *shape, dtype=torch.float64)
    n = len(shape)
    conv = F.conv3d if n == 3 else F.conv2d
    ones = torch.ones(1, 1, *[2 * radius + 1] * n, dtype=torch.float64)
    slow = conv(x.flatten(0, 1).unsqueeze(1), ones, padding=radius).view_as(x)
    torch.testing.assert_close(box_sum(x, radius), slow)


@pytest.mark.parametrize("shape", [(4, 6, 8), (6, 4)])
def test_block_sum_is_a_pooling(shape: tuple) -> None:
    x = torch.rand(2, 3, *shape, dtype=torch.float64)
    pool = F.avg_pool3d if len(shape) == 3 else F.avg_pool2d
    torch.testing.assert_close(block_sum(x), pool(x, 2) * 2 ** len(shape))


def slow_lncc(a: np.ndarray, b: np.ndarray, radius: int, floor: float, weight: np.ndarray | None = None) -> float:
    """Every window on its own; voxels outside the image or of weight zero are not there at all."""
    values, weights = [], []
    for index in np.ndindex(a.shape):
        window = tuple(slice(max(0, i - radius), i + radius + 1) for i in index)
        w = np.ones_like(a[window]) if weight is None else weight[window]
        own = 1.0 if weight is None else weight[index]
        if own == 0:
            continue
        x, y = a[window], b[window]
        mx, my = np.average(x, weights=w), np.average(y, weights=w)
        vx = np.average((x - mx) ** 2, weights=w) + floor
        vy = np.average((y - my) ** 2, weights=w) + floor
        cov = np.average((x - mx) * (y - my), weights=w)
        values.append(cov**2 / (vx * vy))
        weights.append(own)
    return float(np.average(values, weights=weights))


def lncc(
    a: torch.Tensor, b: torch.Tensor, radius: int = 4, weight: torch.Tensor | None = None, floor: float = 1e-5
) -> torch.Tensor:
    """The loss as a similarity of 0..1."""
    return -lncc_loss(a, local_reference(b, radius, floor, weight)) / a.shape[0]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(6, 7, 5), (8, 7)])
def test_lncc_equals_the_slow_reference(shape: tuple, weighted: bool) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(shape), rng.random(shape)
    weight = (rng.random(shape) > 0.4).astype(float) if weighted else None
    tensors = [None if x is None else torch.from_numpy(x)[None, None] for x in (a, b, weight)]
    found = lncc(tensors[0], tensors[1], radius=2, weight=tensors[2], floor=1e-3)
    assert float(found) == pytest.approx(slow_lncc(a, b, 2, 1e-3, weight), abs=1e-9)


def test_lncc_is_one_for_any_linear_change_of_contrast_and_symmetric() -> None:
    a, b = torch.rand(1, 1, 9, 9, 9, dtype=torch.float64), torch.rand(1, 1, 9, 9, 9, dtype=torch.float64)
    for changed in (3 * a + 5, -2 * a + 1):
        assert float(lncc(changed, a, floor=1e-12)) == pytest.approx(1, abs=1e-6)
    assert float(lncc(a, b)) == pytest.approx(float(lncc(b, a)), abs=1e-12)
    assert 0 <= float(lncc(a, b)) < 0.2


def test_noise_alone_counts_for_little_when_the_floor_knows_it() -> None:
    torch.manual_seed(3)
    noise = [0.01 * torch.randn(1, 1, 16, 16, 16) for _ in range(2)]
    assert float(lncc(*noise, radius=1, floor=1e-12)) > 2 * float(lncc(*noise, radius=1, floor=1e-4))


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_lncc_gradient_by_finite_differences(blocks: bool, weighted: bool) -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 1, 6, 4, 8, dtype=torch.float64)
    weight = (torch.rand(2, 1, 6, 4, 8, dtype=torch.float64) > 0.3).double() if weighted else None
    reference = local_reference(image, 1, 0.01, weight, blocks)
    warped = torch.rand(2, 1, 6, 4, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: lncc_loss(w, reference), (warped,), eps=1e-6, atol=1e-7)


def test_blocks_of_a_doubled_image_equal_windows_of_the_small_one() -> None:
    """Where every block is constant, sums over blocks are eight times sums over voxels: the same statistics."""
    a, b = torch.rand(1, 1, 5, 4, 6, dtype=torch.float64), torch.rand(1, 1, 5, 4, 6, dtype=torch.float64)
    small = lncc_loss(a, local_reference(b, 1, 1e-3))
    grown = [F.interpolate(x, scale_factor=2, mode="nearest") for x in (a, b)]
    large = lncc_loss(grown[0], local_reference(grown[1], 1, 1e-3, blocks=True))
    assert float(small) == pytest.approx(float(large), abs=1e-12)


def test_voxels_outside_the_mask_have_no_influence() -> None:
    image, warped = torch.rand(1, 1, 8, 8, 8), torch.rand(1, 1, 8, 8, 8)
    weight = torch.zeros(1, 1, 8, 8, 8)
    weight[..., 2:7, 1:6, 3:8] = 1
    changed = torch.where(weight > 0, warped, 77.0)
    for blocks in (False, True):
        reference = local_reference(image, 1, 1e-3, weight, blocks)
        assert float(lncc_loss(warped, reference)) == pytest.approx(float(lncc_loss(changed, reference)), abs=1e-6)
        inside = changed.clone().requires_grad_()
        lncc_loss(inside, reference).backward()
        assert (inside.grad[weight == 0] == 0).all()
        assert inside.grad.abs().max() > 0


# ---------------------------------------------------------------------- LNCC between two images, as training takes it


def published_lncc(a: torch.Tensor, b: torch.Tensor, window: int) -> torch.Tensor:
    """The formulation of published training code: five convolutions with ones, zeros outside, 1e-5 on sums."""
    n = a.dim() - 2
    conv = F.conv3d if n == 3 else F.conv2d
    ones = torch.ones(1, 1, *[window] * n, dtype=a.dtype)
    sum_a, sum_b, sum_aa, sum_bb, sum_ab = (
        conv(x, ones, padding=window // 2) for x in (a, b, a * a, b * b, a * b)
    )  # fmt: skip
    count = window**n
    cross = sum_ab - sum_a * sum_b / count
    spread_a, spread_b = sum_aa - sum_a**2 / count, sum_bb - sum_b**2 / count
    return -(cross**2 / (spread_a * spread_b + 1e-5)).mean()


def pair_with_gradients(*shape: int) -> list[torch.Tensor]:
    return [torch.rand(*shape, dtype=torch.float64, requires_grad=True) for _ in range(2)]


@pytest.mark.parametrize("shape", [(2, 1, 11, 7, 10), (1, 1, 12, 9)])
def test_compatible_lncc_and_its_gradients_are_those_of_published_training_code(shape: tuple) -> None:
    a, b = pair_with_gradients(*shape)
    published = published_lncc(a, b, 5)
    found = lncc_between(a, b, 2, 0.0, compatible=True)
    assert float(found.detach()) == pytest.approx(float(published.detach()), abs=1e-10)
    for expected, gradient in zip(torch.autograd.grad(published, (a, b)), torch.autograd.grad(found, (a, b))):
        torch.testing.assert_close(gradient, expected, atol=1e-10, rtol=0)


def test_compatible_lncc_keeps_the_border_bias_that_the_own_one_has_not() -> None:
    """A change of contrast is perfect agreement; zeros outside disturb it where windows reach over the border."""
    a = torch.rand(1, 1, 12, 12, 12, dtype=torch.float64)
    assert float(lncc_between(a, 2 * a + 1, 4, 1e-9)) == pytest.approx(-1, abs=1e-6)
    assert float(lncc_between(a, 2 * a + 1, 4, 0.0, compatible=True)) > -0.95


@pytest.mark.parametrize("mode", ["own", "weighted", "compatible"])
def test_lncc_between_gradients_of_both_images_by_finite_differences(mode: str) -> None:
    a, b = pair_with_gradients(2, 2, 5, 4, 6)
    weight = (torch.rand(2, 1, 5, 4, 6, dtype=torch.float64) > 0.3).double() if mode == "weighted" else None

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return lncc_between(x, y, 1, 0.01, weight, compatible=mode == "compatible")

    assert torch.autograd.gradcheck(loss, (a, b), eps=1e-6, atol=1e-7)
    assert float(loss(a, b).detach()) == pytest.approx(float(loss(b, a).detach()), abs=1e-12)


@pytest.mark.parametrize("blocks", [False, True])
def test_a_gradient_reaches_the_image_that_a_reference_was_made_of(blocks: bool) -> None:
    a, b = pair_with_gradients(2, 1, 4, 6, 4)
    weight = torch.rand(2, 1, 4, 6, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x, y: lncc_loss(x, local_reference(y, 1, 0.01, weight, blocks)), (a, b), eps=1e-6, atol=1e-7
    )


def test_lncc_between_is_the_mean_over_images_and_channels_taken_alone() -> None:
    a, b = (torch.rand(2, 3, 6, 7, 5, dtype=torch.float64) for _ in range(2))
    weight = torch.rand(2, 1, 6, 7, 5, dtype=torch.float64)
    alone = [
        float(lncc(a[i : i + 1, c : c + 1], b[i : i + 1, c : c + 1], 2, weight[i : i + 1], 1e-3))
        for i in range(2)
        for c in range(3)
    ]
    assert float(lncc_between(a, b, 2, 1e-3, weight)) == pytest.approx(-np.mean(alone), abs=1e-12)


def test_how_many_images_are_taken_together_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair_with_gradients(5, 1, 6, 5, 7)
    whole = torch.autograd.grad(lncc_between(a, b, 2, 1e-3), (a, b))
    monkeypatch.setattr("CycleRegLib.similarity._VOXELS_AT_ONCE", 2 * 6 * 5 * 7)
    parts = torch.autograd.grad(lncc_between(a, b, 2, 1e-3), (a, b))
    for one, other in zip(whole, parts):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


def test_lncc_between_compares_images_of_one_shape() -> None:
    with pytest.raises(ValueError, match="images of one shape"):
        lncc_between(torch.rand(2, 1, 6, 6, 6), torch.rand(1, 1, 6, 6, 6), 1, 1e-3)


@pytest.mark.parametrize("both", [False, True])
def test_lncc_between_keeps_one_gradient_for_each_image_that_needs_one(both: bool) -> None:
    """Nothing else waits for the backward pass: memory is what training runs out of."""
    a, b = torch.rand(2, 1, 8, 8, 8, requires_grad=True), torch.rand(2, 1, 8, 8, 8, requires_grad=both)
    kept: list[int] = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = lncc_between(a, b, 2, 1e-3)
    assert sum(kept) <= (2 if both else 1) * a.numel() + 1
    loss.backward()
    assert a.grad.abs().max() > 0


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_lncc_of_16_bit_images_is_computed_in_float32(kind: torch.dtype) -> None:
    a, b = (torch.rand(1, 1, 9, 9, 9).to(kind).requires_grad_() for _ in range(2))
    found = lncc_between(a, b, 4, 1e-5)
    exact = lncc_between(a.float(), b.float(), 4, 1e-5)
    assert found.dtype == torch.float32
    assert float(found.detach()) == float(exact.detach())
    gradient = torch.autograd.grad(found, a)[0]
    assert gradient.dtype == kind
    torch.testing.assert_close(gradient, torch.autograd.grad(exact, a)[0])


@pytest.mark.parametrize("options", [{"blocks": True}, {"weight": torch.ones(1, 1, 4, 4, 4)}])
def test_compatible_lncc_takes_what_published_code_has(options: dict) -> None:
    with pytest.raises(ValueError, match="neither weights nor blocks"):
        local_reference(torch.rand(1, 1, 4, 4, 4), 1, 0.0, compatible=True, **options)


def slow_mind(image: np.ndarray, z: int, y: int, x: int) -> np.ndarray:
    """Descriptor distances of one inner voxel, from patches cut out one by one."""
    faces = [(-1, 0, 0), (0, 0, -1), (0, -1, 0), (0, 0, 1), (1, 0, 0), (0, 1, 0)]

    def patch(d: tuple) -> np.ndarray:
        return image[tuple(slice(c + o - 1, c + o + 2) for c, o in zip((z, y, x), d))]

    pairs = [(p, q) for i, p in enumerate(faces) for q in faces[i + 1 :] if np.abs(np.subtract(p, q)).sum() == 2
             and not np.array_equal(np.add(p, q), (0, 0, 0))]  # fmt: skip
    return np.array([((patch(p) - patch(q)) ** 2).sum() for p, q in pairs])


def test_mind_ssc_equals_patch_distances() -> None:
    image = np.random.default_rng(1).random((9, 9, 9))
    found = mind_ssc(torch.from_numpy(image)[None, None])[0, :, 4, 5, 4].numpy()
    distance = slow_mind(image, 4, 5, 4)
    relative = distance - distance.min()
    expected = np.exp(-relative / relative.mean())
    np.testing.assert_allclose(np.sort(found), np.sort(expected), atol=1e-9)
    assert found.shape == (12,)


def test_mind_ssc_does_not_see_contrast() -> None:
    image = torch.rand(1, 1, 10, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(mind_ssc(image), mind_ssc(3 - 2 * image))


def test_descriptor_loss_and_gradient() -> None:
    a = torch.rand(2, 3, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    b = torch.rand(2, 3, 4, 3, 5, dtype=torch.float64)
    weight = torch.rand(2, 1, 4, 3, 5, dtype=torch.float64)
    slow = sum(float((((a[i] - b[i]).detach() ** 2).sum(0) * weight[i, 0]).sum() / weight[i].sum()) for i in range(2))
    assert float(descriptor_loss(a, b, weight).detach()) == pytest.approx(slow, abs=1e-12)
    assert torch.autograd.gradcheck(lambda x: descriptor_loss(x, b, weight), (a,), atol=1e-7)


def test_lncc_of_smooth_images_against_scipy() -> None:
    """A second route to the same number: uniform filters over the inside of a larger image."""
    rng = np.random.default_rng(5)
    a, b = rng.random((20, 20, 20)), rng.random((20, 20, 20))

    def mean(x: np.ndarray) -> np.ndarray:
        return uniform_filter(x, 9)[4:-4, 4:-4, 4:-4]

    va, vb = mean(a * a) - mean(a) ** 2, mean(b * b) - mean(b) ** 2
    cc = (mean(a * b) - mean(a) * mean(b)) ** 2 / (va * vb)
    weight = torch.zeros(1, 1, 20, 20, 20, dtype=torch.float64)
    weight[..., 4:-4, 4:-4, 4:-4] = 1
    reference = local_reference(torch.from_numpy(b)[None, None], 4, 0.0)
    # The share of each window only: keep the full windows.
    reference.share = weight / weight.sum()
    assert -float(lncc_loss(torch.from_numpy(a)[None, None], reference)) == pytest.approx(cc.mean(), abs=1e-9)
