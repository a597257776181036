"""Random changes of pairs: consistent, seeded, within what the settings say."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from training_cases import known_pair, smooth

from cyclereg_training.data.augmentation import augment, flipped, rotated, spline_field
from cyclereg_training.data.settings import AugmentationSettings
from cyclereg_training.losses import jacobian_determinant
from cyclereg_training.synthetic import Chance
from CycleRegLib.warp import warp

CUBE, BOX, FLAT = (12, 12, 12), (10, 12, 14), (16, 16)
INTENSITY = AugmentationSettings(gamma=1.0, contrast=1.0, bias=1.0, noise=1.0)


def pair_of(*shape: int) -> dict[str, Tensor]:
    """Without the batch axis, with the true flow."""
    return {name: value[0] for name, value in known_pair(*shape).items()}


def without_flows(pair: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in pair.items() if "flow" not in name}


def is_true(pair: dict[str, Tensor]) -> bool:
    """Whether the fixed image and labels are the moving ones moved by the pair's flow."""
    flow = pair["flow"][None]
    image = warp(pair["moving"][None], flow, padding="border")[0]
    labels = warp(pair["moving_labels"][None].float(), flow, mode="nearest", padding="border")[0]
    # Positions differ in their last bits, and a label at the very border of two voxels is either's.
    same = (labels.long() == pair["fixed_labels"]).float().mean()
    return torch.allclose(image, pair["fixed"], atol=1e-4) and float(same) > 0.99


@pytest.mark.parametrize("shape", [CUBE, BOX, FLAT])
def test_flips_keep_the_flow_true(shape: tuple[int, ...]) -> None:
    pair = pair_of(*shape)
    assert is_true(pair)
    for axis in range(len(shape)):
        changed = flipped(pair, axis)
        assert is_true(changed)
        assert torch.equal(changed["moving"][0], pair["moving"][0].flip(axis))


@pytest.mark.parametrize(("shape", "quarters"), list(product((CUBE, BOX, FLAT), (1, 2, 3))))
def test_rotations_keep_the_flow_true_and_the_shape(shape: tuple[int, ...], quarters: int) -> None:
    pair = pair_of(*shape)
    for plane in [(0, 1)] if len(shape) == 2 else [(0, 1), (0, 2), (1, 2)]:
        changed = rotated(pair, plane, quarters)
        assert changed["moving"].shape == pair["moving"].shape
        turns = quarters if shape[plane[0]] == shape[plane[1]] else 2
        expected = [torch.rot90(pair["moving"][0], sign * turns, plane) for sign in (1, -1)]
        assert any(torch.equal(changed["moving"][0], one) for one in expected)
        assert is_true(changed)


def test_four_quarters_are_none() -> None:
    pair = pair_of(*CUBE)
    for name, value in rotated(rotated(pair, (0, 2), 3), (0, 2), 1).items():
        assert torch.equal(value, pair[name])


def test_flips_are_as_frequent_as_asked_for_each_axis() -> None:
    ramp = torch.arange(24.0).view(1, 2, 3, 4) / 24
    pair = {"moving": ramp, "fixed": ramp}
    settings = AugmentationSettings(flips=(1.0, 0.0, 0.5))  # x, y, z
    found = [augment(pair, settings, Chance(seed))["moving"] for seed in range(40)]
    back, turned = ramp.flip(3), ramp.flip(3).flip(1)
    assert all(torch.equal(one, back) or torch.equal(one, turned) for one in found)
    assert 8 < sum(torch.equal(one, turned) for one in found) < 32


@pytest.mark.parametrize("shape", [(24, 28, 32), (40, 36)])
def test_spline_fields_are_the_b_spline_of_their_control_points(shape: tuple[int, ...]) -> None:
    points, n = 5, len(shape)
    field = spline_field(Chance(3), shape, points, 2.0)
    chance = Chance(3)
    limits = [min(2.0, 0.4 * (side - 1) / (points - 1)) for side in shape]
    control = [(2 * chance.numbers(points**n) - 1).view(*[points] * n) * limit for limit in limits]
    for voxel in [(0,) * n, tuple(side - 1 for side in shape), tuple(side // 3 for side in shape)]:
        for axis in range(n):
            expected = 0.0
            # The sum over all control points, those beyond the ends repeating the last.
            for place in product(range(-1, points + 1), repeat=n):
                weight = 1.0
                for at, side, knot in zip(voxel, shape, place):
                    d = abs(at / (side - 1) * (points - 1) - knot)
                    weight *= 2 / 3 - d**2 + d**3 / 2 if d < 1 else max(2 - d, 0.0) ** 3 / 6
                inside = tuple(min(max(p, 0), points - 1) for p in place)
                expected += weight * float(control[axis][inside])
            assert float(field[(axis, *voxel)]) == pytest.approx(expected, abs=1e-4)


def test_spline_fields_stay_within_their_bound_and_do_not_fold() -> None:
    for seed in range(5):
        field = spline_field(Chance(seed), (48, 48, 48), 5, 12.0)
        assert 1.0 < float(field.abs().max()) <= 0.4 * 47 / 4 + 1e-4
        assert float(jacobian_determinant(field[None]).min()) > 0


def test_splines_move_images_and_labels_alike_and_the_fixed_ones_only_when_asked() -> None:
    pair = without_flows(pair_of(*BOX))
    for side in ("moving", "fixed"):  # an image of its labels
        pair[side] = pair[f"{side}_labels"].float()
    alone = augment(pair, AugmentationSettings(spline=1.0), Chance(1))
    assert torch.equal(alone["fixed"], pair["fixed"])
    both = augment(pair, AugmentationSettings(spline=1.0, spline_on="both"), Chance(1))
    for changed, side in ((alone, "moving"), (both, "moving"), (both, "fixed")):
        assert not torch.equal(changed[side], pair[side])
        assert changed[f"{side}_labels"].dtype == pair[f"{side}_labels"].dtype
        near = (changed[side] - changed[f"{side}_labels"]).abs() <= 1.0  # linear and nearest: within a label's step
        assert float(near.float().mean()) > 0.97
    same = {**pair, "fixed": pair["moving"], "fixed_labels": pair["moving_labels"]}
    both = augment(same, AugmentationSettings(spline=1.0, spline_on="both"), Chance(1))
    assert torch.equal(both["fixed"], both["moving"])


def test_splines_are_refused_where_the_flow_is_known() -> None:
    with pytest.raises(ValueError, match="true no more"):
        augment(pair_of(*CUBE), AugmentationSettings(spline=1.0), Chance(0))


@pytest.mark.parametrize("name", ["gamma", "contrast", "bias", "noise"])
def test_each_change_of_intensity_keeps_the_range_and_differs_between_images(name: str) -> None:
    image = smooth(1, 1, 4, CUBE, torch.Generator().manual_seed(0))[0].sigmoid()
    changed = augment({"moving": image, "fixed": image}, AugmentationSettings(**{name: 1.0}), Chance(0))
    for side in ("moving", "fixed"):
        assert 0 <= float(changed[side].min()) <= float(changed[side].max()) <= 1
        assert 1e-4 < float((changed[side] - image).abs().mean()) < 0.2
        assert type(changed[side]) is Tensor
    assert not torch.equal(changed["moving"], changed["fixed"])


def test_gamma_and_contrast_are_monotonic_and_noise_has_its_deviation() -> None:
    ramp = torch.linspace(0.2, 0.8, 4096).view(1, 16, 16, 16)
    for name in ("gamma", "contrast"):
        changed = augment({"moving": ramp, "fixed": ramp}, AugmentationSettings(**{name: 1.0}), Chance(2))["moving"]
        assert (changed.flatten().diff() >= 0).all()
    settings = AugmentationSettings(noise=1.0, noise_deviation=0.03)
    found = [augment({"moving": ramp, "fixed": ramp}, settings, Chance(s))["moving"] - ramp for s in range(20)]
    deviations = torch.stack([noise.std() for noise in found])
    assert float(deviations.max()) <= 0.032
    assert float(deviations.std()) > 0.004


@pytest.mark.parametrize("shape", [BOX, FLAT])
def test_one_chance_gives_one_result_whatever_else_is_drawn(shape: tuple[int, ...]) -> None:
    pair = without_flows(pair_of(*shape))
    settings = AugmentationSettings(0.5, 0.5, 0.5, gamma=0.5, contrast=0.5, bias=0.5, noise=0.5)
    first = augment(pair, settings, Chance(7))
    torch.rand(5)
    again = augment(pair, settings, Chance(7))
    other = augment(pair, settings, Chance(8))
    assert all(torch.equal(first[name], again[name]) for name in pair)
    assert not torch.equal(first["moving"], other["moving"])


def test_nothing_changes_by_default() -> None:
    pair = pair_of(*CUBE)
    assert not AugmentationSettings().changes_anything
    assert AugmentationSettings(flips=(0.0, 0.0, 0.1)).changes_anything
    changed = augment(pair, AugmentationSettings(), Chance(0))
    assert all(changed[name] is pair[name] for name in pair)
