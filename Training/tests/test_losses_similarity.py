"""Losses of similarity against slow references, by finite differences, and where they are best."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import uniform_filter

from cyclereg_training.losses import global_correlation, lncc, mean_squares, mind
from CycleRegLib.errors import InputError


def images(*shape: int, number: int = 2, **options: object) -> list[torch.Tensor]:
    return [torch.rand(*shape, dtype=torch.float64, **options) for _ in range(number)]


# ---------------------------------------------------------------------- LNCC


def slow_lncc(a: np.ndarray, b: np.ndarray, window: int, floor: float) -> float:
    """Every window on its own; voxels outside the image are not there."""
    radius, values = window // 2, []
    for index in np.ndindex(a.shape):
        part = tuple(slice(max(0, i - radius), i + radius + 1) for i in index)
        x, y = a[part] - a[part].mean(), b[part] - b[part].mean()
        values.append((x * y).mean() ** 2 / (((x * x).mean() + floor) * ((y * y).mean() + floor)))
    return -float(np.mean(values))


@pytest.mark.parametrize("shape", [(6, 7, 5), (9, 8)])
def test_lncc_equals_windows_taken_one_by_one(shape: tuple) -> None:
    a, b = images(2, 1, *shape)
    expected = np.mean([slow_lncc(a[i, 0].numpy(), b[i, 0].numpy(), 5, 1e-3) for i in range(2)])
    assert float(lncc(a, b, window=5, floor=1e-3)) == pytest.approx(expected, abs=1e-10)


def test_compatible_lncc_equals_convolutions_with_ones() -> None:
    a, b = images(2, 1, 10, 9, 11)
    ones = torch.ones(1, 1, 9, 9, 9, dtype=torch.float64)
    s_a, s_b, s_aa, s_bb, s_ab = (F.conv3d(x, ones, padding=4) for x in (a, b, a * a, b * b, a * b))
    n = 9**3
    cross, v_a, v_b = s_ab - s_a * s_b / n, s_aa - s_a**2 / n, s_bb - s_b**2 / n
    expected = -(cross**2 / (v_a * v_b + 1e-5)).mean()
    assert float(lncc(a, b, compatible=True)) == pytest.approx(float(expected), abs=1e-10)


@pytest.mark.parametrize("compatible", [False, True])
def test_lncc_gradients_by_finite_differences(compatible: bool) -> None:
    a, b = images(1, 2, 4, 5, 4, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, y: lncc(x, y, 3, compatible, floor=0.01), (a, b), atol=1e-7)


@pytest.mark.parametrize("compatible", [False, True])
def test_lncc_is_symmetric_and_best_for_equal_images(compatible: bool) -> None:
    a, b = images(1, 1, 14, 14, 14)
    assert float(lncc(a, b, compatible=compatible)) == pytest.approx(
        float(lncc(b, a, compatible=compatible)), abs=1e-12
    )
    assert float(lncc(a, a, compatible=compatible)) == pytest.approx(-1, abs=1e-3)
    assert -0.4 < float(lncc(a, b, compatible=compatible)) < 0


def test_lncc_does_not_see_what_the_weight_leaves_out() -> None:
    a, b = images(1, 1, 8, 8, 8)
    weight = torch.zeros_like(a)
    weight[..., 2:6] = 1
    changed = torch.where(weight > 0, a, 5.0)
    assert float(lncc(a, b, weight=weight)) == pytest.approx(float(lncc(changed, b, weight=weight)), abs=1e-12)


def test_lncc_under_autocast_is_that_in_float32() -> None:
    a, b = (x.float() for x in images(1, 1, 12, 12, 12))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = lncc(a, b)
    assert found.dtype == torch.float32
    assert float(found) == float(lncc(a, b))


@pytest.mark.parametrize("window", [0, 4])
def test_windows_have_a_middle(window: int) -> None:
    with pytest.raises(ValueError, match="odd number"):
        lncc(*images(1, 1, 6, 6, 6), window=window)


# ---------------------------------------------------------------------- over the whole image


def test_mean_squares() -> None:
    a, b = images(2, 2, 4, 3, 5)
    assert float(mean_squares(a, b)) == pytest.approx(float(np.mean((a.numpy() - b.numpy()) ** 2)), abs=1e-12)
    assert float(mean_squares(a, a)) == 0


def test_mean_squares_of_16_bits_are_taken_in_float32() -> None:
    a, b = (x.bfloat16() for x in images(1, 1, 8, 8, 8))
    found = mean_squares(a, b)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(mean_squares(a.double(), b.double())), rel=1e-6)


def test_global_correlation_is_pearsons() -> None:
    a, b = images(3, 2, 5, 6, 4)
    b = b + 0.5 * a
    pearson = [np.corrcoef(a[i, c].ravel(), b[i, c].ravel())[0, 1] for i in range(3) for c in range(2)]
    assert float(global_correlation(a, b)) == pytest.approx(1 - np.mean(pearson), abs=1e-4)


def test_global_correlation_from_best_to_worst() -> None:
    a = torch.rand(1, 1, 8, 8, 8, dtype=torch.float64)
    assert float(global_correlation(3 * a + 2, a)) == pytest.approx(0, abs=1e-4)
    assert float(global_correlation(-a, a)) == pytest.approx(2, abs=1e-4)
    assert float(global_correlation(torch.ones_like(a), a)) == pytest.approx(1, abs=1e-12)
    constant = torch.ones_like(a, requires_grad=True)
    global_correlation(constant, a).backward()
    assert constant.grad.isfinite().all()


@pytest.mark.parametrize("loss", [mean_squares, global_correlation])
def test_gradients_by_finite_differences_and_symmetry(loss) -> None:
    a, b = images(2, 1, 3, 4, 3, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (a, b), atol=1e-6)
    assert float(loss(a, b).detach()) == pytest.approx(float(loss(b, a).detach()), abs=1e-12)


# ---------------------------------------------------------------------- MIND-SSC


def slow_mind_ssc(image: np.ndarray, dilation: int) -> np.ndarray:
    """Patch distances by shifting the edge-padded image and averaging with scipy; (12, z, y, x)."""
    faces = [np.array(d) * dilation for d in ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))]

    def shifted(d: np.ndarray) -> np.ndarray:
        padded = np.pad(image, dilation, mode="edge")
        return padded[tuple(slice(dilation + o, dilation + o + s) for o, s in zip(d, image.shape, strict=True))]

    distances = []
    for i in range(6):
        for j in range(i + 1, 6):
            if (faces[i] + faces[j]).any():
                distances.append(uniform_filter((shifted(faces[i]) - shifted(faces[j])) ** 2, 3, mode="nearest"))
    distance = np.stack(distances) - np.min(distances, axis=0)
    mean = distance.mean(0)
    return np.exp(-distance / np.clip(mean, mean.mean() * 1e-3, mean.mean() * 1e3))


@pytest.mark.parametrize("dilation", [1, 2])
def test_mind_equals_descriptors_made_slowly(dilation: int) -> None:
    """Against a flat image, whose descriptors are all one: so the order of the twelve does not matter."""
    a = images(1, 1, 8, 9, 7, number=1)[0]
    expected = np.mean((slow_mind_ssc(a[0, 0].numpy(), dilation) - 1) ** 2)
    assert float(mind(a, torch.zeros_like(a), dilation=dilation)) == pytest.approx(float(expected), abs=1e-9)


def test_mind_sees_shape_and_not_contrast() -> None:
    a, b = images(2, 1, 9, 9, 9)
    assert float(mind(2 - 3 * a, a)) == pytest.approx(0, abs=1e-12)
    assert 0.01 < float(mind(a, b)) < 1
    assert float(mind(a, b)) == pytest.approx(float(mind(b, a)), abs=1e-15)


def test_mind_gradients_by_finite_differences() -> None:
    a, b = images(1, 1, 5, 4, 5, requires_grad=True)
    assert torch.autograd.gradcheck(mind, (a, b), eps=1e-7, atol=1e-5)


def test_mind_takes_channels_one_by_one_and_three_dimensions() -> None:
    a, b = images(1, 2, 6, 6, 6)
    alone = [float(mind(a[:, c : c + 1], b[:, c : c + 1])) for c in range(2)]
    assert float(mind(a, b)) == pytest.approx(np.mean(alone), abs=1e-12)
    with pytest.raises(InputError, match="3D"):
        mind(a[..., 0], b[..., 0])
