"""Synthetic pairs: shapes, contrasts, images, and that the known field takes one image to the other."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.ndimage import label as components
from scipy.ndimage import map_coordinates, maximum_filter, minimum_filter

from cyclereg_training.synthetic import (
    AppearanceSettings,
    MotionSettings,
    ShapeSettings,
    SyntheticPairs,
    SyntheticSettings,
    inside,
)
from cyclereg_training.synthetic.appearance import acquire, random_contrast, random_texture, render
from cyclereg_training.synthetic.chance import Chance
from cyclereg_training.synthetic.pairs import make_pair
from cyclereg_training.synthetic.phantoms import REGION, phantom_labels
from cyclereg_training.synthetic.preview import main as preview
from cyclereg_training.synthetic.preview import sheet
from cyclereg_training.synthetic.shapes import LabelMap, label_map
from CycleRegLib.errors import InputError
from CycleRegLib.phantom_anatomy import Anatomy

KINDS = ("blobs", "trunk", "head", "cortex", "abdomen")
SHAPE = (40, 48, 44)


def of_kind(kind: str, **more) -> SyntheticSettings:
    return SyntheticSettings(shapes=ShapeSettings(kinds={kind: 1.0}, phantoms=1), **more)


def clean(**more) -> AppearanceSettings:
    """Nothing but the intensities of the labels."""
    values = {
        "texture": 0.0, "bias": (0.0, 0.0), "blur": (0.0, 0.0), "thick_slices": 0.0, "noise": (1e-6, 1e-6),
        "rician": 0.0, "gamma": 0.0, "inverted": 0.0, "cropped": 0.0, "crowded": 0.0, "stripped": 0.0, "merged": 0.0,
    }  # fmt: skip
    return AppearanceSettings(**{**values, **more})


# ---------------------------------------------------------------------- label maps


@pytest.mark.parametrize("kind", KINDS)
def test_label_maps_hold_what_they_say(kind):
    several = 0
    for seed in range(5):
        tissue = label_map(Chance(seed), SHAPE, ShapeSettings(kinds={kind: 1.0}, phantoms=1))
        assert tissue.labels.shape == SHAPE
        assert tissue.labels.dtype == torch.uint8
        assert int(tissue.labels.max()) < tissue.count <= 256
        assert tissue.air == (kind != "blobs")
        air = float((tissue.labels == 0).float().mean())
        assert (0.02 < air < 0.9) if tissue.air else air < 0.6
        assert all(0 < shell < tissue.count for shell in tissue.shells)
        several += tissue.labels.unique().numel() >= 5
    assert several >= 4


def test_kinds_come_as_often_as_asked():
    settings = ShapeSettings(kinds={"blobs": 3.0, "trunk": 1.0})
    blobs = sum(not label_map(Chance(seed), (16, 16, 16), settings).air for seed in range(120))
    assert 0.62 < blobs / 120 < 0.87


def test_a_trunk_leaves_the_grid_at_both_ends_and_a_head_at_none():
    ends = {"trunk": [], "head": []}
    for kind, found in ends.items():
        for seed in range(8):
            settings = ShapeSettings(kinds={kind: 1.0}, vessels=0.0, sheets=0.0, spots=0.0)
            body = label_map(Chance(seed), (32, 32, 32), settings).labels > 0
            found.append(max(float((body.select(a, 0) & body.select(a, -1)).float().mean()) for a in range(3)))
    assert min(ends["trunk"]) > 0.2
    assert np.median(ends["head"]) < 0.2


def test_folds_make_a_ribbon_between_fluid_and_core():
    """The cortex covers the core: of the core's faces to other labels, most are to the ribbon."""
    settings = ShapeSettings(kinds={"cortex": 1.0}, vessels=0.0, sheets=0.0, spots=0.0)
    folded = []
    for seed in range(6):
        tissue = label_map(Chance(seed), (72, 72, 72), settings)
        labels = tissue.labels.numpy()
        ribbon = len(tissue.shells) + 2
        core = ribbon + 1
        touching = maximum_filter(labels == core, 3) & (labels != core)
        outside = labels[touching] < ribbon  # air, shells or fluid
        assert outside.mean() < 0.45
        # A smooth ball of the same volume has less than half of this surface.
        volume, surface = (labels >= ribbon).sum(), (maximum_filter(labels >= ribbon, 3) & (labels < ribbon)).sum()
        folded.append(surface / (4.84 * volume ** (2 / 3)))
    assert np.median(folded) > 2.0


def test_vessels_are_thin_and_long():
    chance = Chance(3)
    bare = ShapeSettings(kinds={"blobs": 1.0}, regions=(1, 1), vessels=1.0, sheets=0.0, spots=0.0)
    labels = label_map(chance, (56, 56, 56), bare).labels.numpy()
    vessel = labels == labels.max()
    assert 20 < vessel.sum() < 0.1 * labels.size
    pieces, count = components(vessel)
    longest = max(np.ptp(np.argwhere(pieces == i + 1), axis=0).max() for i in range(count))
    assert longest > 15
    thick = minimum_filter(vessel, 9)
    assert thick.sum() < 0.02 * vessel.sum()


def test_the_phantom_is_labelled_as_its_shapes_lie():
    shape = (37, 33, 44)
    labels = phantom_labels(0, shape).numpy()
    low, high = np.array(REGION)
    centers = [low[a] + (np.arange(n) + 0.5) * (high - low)[a] / n for a, n in enumerate(shape[::-1])]
    z, y, x = np.meshgrid(centers[2], centers[1], centers[0], indexing="ij")
    points = np.stack([x, y, z])
    segments = Anatomy(0).segments
    for name in ("spleen", "left kidney", "tumor"):
        found = np.unique(labels[segments[name].distance(points) < -3])
        outside = np.unique(labels[segments[name].distance(points) > 3])
        # An organ's labels are few, and its main one is nowhere else.
        own = np.bincount(labels[segments[name].distance(points) < -3]).argmax()
        assert len(found) < 8
        assert own not in outside
    assert labels[0, 0, 0] == 0
    assert len(np.unique(labels)) > 40


# ---------------------------------------------------------------------- contrasts and acquisition


def blocks(count: int = 8) -> LabelMap:
    """Slabs of labels along the first axis, label 0 air at the start."""
    labels = (torch.arange(32) * count // 32).to(torch.uint8).view(32, 1, 1).expand(32, 32, 32).contiguous()
    return LabelMap(labels, count, True, (1, 2))


def test_contrasts_differ_and_air_is_mostly_the_darkest_and_plain():
    settings = AppearanceSettings(stripped=0.0)
    drawn = [random_contrast(Chance(seed), blocks(), settings) for seed in range(80)]
    dark = sum(float(c.means[0]) <= float(c.means.min()) for c in drawn)
    assert 0.8 < dark / 80 < 1.0
    assert all(float(c.fine[0]) == float(c.coarse[0]) == 0 for c in drawn)
    means = torch.stack([c.means[1:] for c in drawn])
    off_diagonal = torch.corrcoef(means)[~torch.eye(80, dtype=torch.bool)]
    assert abs(float(off_diagonal.mean())) < 0.1
    assert max(float(c.fine.max()) for c in drawn) <= settings.texture


def test_stripping_takes_the_shells_away_and_merging_makes_labels_equal():
    tissue = blocks()
    bare = random_contrast(Chance(1), tissue, clean(stripped=1.0))
    assert bare.means[1] == bare.means[2] == bare.means[0]
    assert bare.means[3:].unique().numel() == 5
    merged = sum(
        random_contrast(Chance(seed), tissue, clean(merged=0.5)).means.unique().numel() < 8 for seed in range(20)
    )
    assert merged > 10


def test_crowded_contrasts_keep_most_tissues_in_a_narrow_part_of_the_scale():
    tissue = LabelMap(torch.zeros((4, 4, 4), dtype=torch.uint8), 100, False)
    settings = clean(crowded=1.0, crowded_width=(0.1, 0.1))
    for seed in range(10):
        means = random_contrast(Chance(seed), tissue, settings).means
        spread = torch.quantile(means, 0.7) - torch.quantile(means, 0.3)
        assert float(spread) < 0.12
        assert float(means.max() - means.min()) > 0.4


def test_an_image_shows_the_intensity_of_each_label_at_its_place():
    tissue = blocks(4)
    contrast = random_contrast(Chance(1), tissue, clean())
    texture = random_texture(Chance(1), tissue, clean())
    places = torch.tensor([[2.0, 9, 9], [12.0, 3, 3], [20.2, 20, 2], [29.0, 1, 30], [15.5, 4, 4]]).view(1, 5, 1, 1, 3)
    values = render(tissue, contrast, texture, places).flatten()
    assert torch.allclose(values[:4], contrast.means, atol=1e-5)
    assert float(values[4]) == pytest.approx(float(contrast.means[1:3].mean()), abs=1e-5)  # a partial volume


def test_texture_has_its_deviation_and_is_absent_from_air():
    tissue = LabelMap((torch.arange(2).repeat_interleave(24**3 // 2)).to(torch.uint8).view(24, 24, 24), 2, True)
    places = torch.stack(torch.meshgrid(*[torch.arange(24.0)] * 3, indexing="ij"), dim=-1)[None]
    chance = Chance(4)
    contrast = random_contrast(chance, tissue, clean(texture=0.1, plain=0.0))
    image = render(tissue, contrast, random_texture(chance, tissue, clean(texture_fine=(4.0, 4.0))), places)[0, 0]
    assert float(image[2:10].std()) < 1e-5
    expected = float((contrast.fine[1].square() + contrast.coarse[1].square()).sqrt())
    assert float(image[14:22].std()) == pytest.approx(expected, rel=0.4)


def test_an_undisturbed_acquisition_only_scales():
    image = torch.rand(1, 1, 20, 20, 20, generator=torch.Generator().manual_seed(0)) * 7 - 3
    result = acquire(Chance(0), image, clean(percentiles=(0.0, 100.0)))
    low, high = torch.quantile(image, torch.tensor([0.001, 0.999]))
    assert torch.allclose(result, ((image - low) / (high - low)).clamp(0, 1), atol=1e-3)


def test_each_disturbance_does_what_it_is_named_for():
    ramp = torch.linspace(0, 1, 32).view(1, 1, 32, 1, 1).expand(1, 1, 32, 32, 32).contiguous()

    def result(seed: int = 1, **settings) -> torch.Tensor:
        return acquire(Chance(seed), ramp, clean(percentiles=(0.0, 100.0), **settings))[0, 0]

    plain = result()
    assert torch.allclose(result(inverted=1.0), 1 - plain, atol=1e-4)
    noisy = result(noise=(0.05, 0.05), correlated_noise=0.0) - plain
    assert float(noisy[8:24].std()) == pytest.approx(0.05, rel=0.35)  # the scale has changed with the noise's ends
    speckle = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    for seed in range(6):
        thick = acquire(Chance(seed), speckle, clean(thick_slices=1.0, thickness=(4.0, 4.0)))[0, 0]
        steps = [float(thick.diff(dim=axis).std() / thick.std()) for axis in range(3)]
        assert sorted(steps)[0] < 0.9  # neighbours across the slices are alike
        assert sorted(steps)[1] == pytest.approx(2**0.5, rel=0.1)  # and within them as independent as they were
    curved = result(gamma=0.5)
    assert float((curved.diff(dim=0) < -1e-4).float().mean()) == 0  # monotonous
    assert float((curved - plain).abs().max()) > 0.02
    empty = result(cropped=1.0, crop=0.3)
    assert float((empty == 0).float().mean()) > float((plain == 0).float().mean()) + 0.02
    shaded = result(bias=(0.3, 0.3))
    assert float(shaded[16].std()) > 0.02 > float(plain[16].std())
    box = torch.zeros(1, 1, 32, 32, 32)
    box[..., 12:20] = 1
    blurred = acquire(Chance(2), box, clean(percentiles=(0.0, 100.0), blur=(2.0, 2.0)))[0, 0]
    expected = map_coordinates(blurred.numpy()[16, 16], [np.arange(32)], order=0)
    reference = np.convolve(box[0, 0, 16, 16].numpy(), np.exp(-0.5 * (np.arange(-10, 11) / 2.0) ** 2), "same")
    np.testing.assert_allclose(expected, reference / reference.max(), atol=0.02)


# ---------------------------------------------------------------------- pairs


def test_a_pair_has_the_promised_types_and_ranges():
    batch = SyntheticPairs(SHAPE, settings=SyntheticSettings(shapes=ShapeSettings(phantoms=1))).batch([3, 8])
    for name in ("fixed", "moving"):
        image = getattr(batch, name)
        assert image.shape == (2, 1, *SHAPE)
        assert image.dtype == torch.float32
        assert float(image.min()) >= 0
        assert float(image.max()) <= 1
        assert float(image.std()) > 0.02
    for name in ("fixed_labels", "moving_labels"):
        assert getattr(batch, name).shape == (2, 1, *SHAPE)
        assert getattr(batch, name).dtype == torch.uint8
    for name in ("flow", "inverse_flow"):
        flow = getattr(batch, name)
        assert flow.shape == (2, 3, *SHAPE)
        assert flow.dtype == torch.float32
        assert bool(torch.isfinite(flow).all())
    assert batch.same_contrast.shape == (2,)


@pytest.mark.parametrize("kind", KINDS)
def test_the_field_takes_the_labels_of_one_image_to_those_of_the_other(kind):
    pairs = SyntheticPairs(SHAPE, seed=4, settings=of_kind(kind, pairs_per_map=2))
    for index in range(4):
        pair = pairs.pair(index)
        for flow, source, target in (
            (pair.flow, pair.moving_labels, pair.fixed_labels),
            (pair.inverse_flow, pair.fixed_labels, pair.moving_labels),
        ):
            target = target[0, 0].numpy()
            points = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")) + flow[0].numpy()
            warped = map_coordinates(source[0, 0].numpy(), points, order=0)
            counted = inside(flow)[0, 0].numpy() & (maximum_filter(target, 3) == minimum_filter(target, 3))
            assert counted.sum() > 500
            assert (warped == target)[counted].mean() > 0.97


def test_with_one_contrast_and_no_disturbance_the_warped_image_is_the_fixed_one():
    for kind in ("blobs", "abdomen"):
        settings = of_kind(kind, appearance=clean(same_contrast=1.0, percentiles=(0.0, 100.0)))
        pair = SyntheticPairs((56, 56, 56), seed=2, settings=settings).pair(0)
        assert bool(pair.same_contrast)
        points = np.stack(np.meshgrid(*[np.arange(56)] * 3, indexing="ij")) + pair.flow[0].numpy()
        known = inside(pair.flow)[0, 0].numpy()
        fixed, before = pair.fixed[0, 0].numpy()[known], pair.moving[0, 0].numpy()[known]
        after = map_coordinates(pair.moving[0, 0].numpy(), points, order=1)[known]
        assert np.corrcoef(after, fixed)[0, 1] > 0.97
        assert np.abs(after - fixed).mean() < 0.5 * np.abs(before - fixed).mean()


def test_contrasts_are_the_same_in_the_share_asked_for():
    settings = of_kind("blobs", appearance=AppearanceSettings(same_contrast=0.4), pairs_per_map=1000)
    pairs = SyntheticPairs((16, 16, 16), settings=settings)
    share = float(pairs.batch(range(120)).same_contrast.float().mean())
    assert 0.27 < share < 0.53


def test_pairs_depend_on_seed_and_number_alone():
    def same(first, second):
        return all(torch.equal(first.as_dict()[name], second.as_dict()[name]) for name in first.as_dict())

    settings = SyntheticSettings(shapes=ShapeSettings(phantoms=1), pairs_per_map=3)
    pairs, again, other = (SyntheticPairs((24, 24, 24), seed=s, settings=settings) for s in (1, 1, 2))
    batch = pairs.batch([0, 7, 5])
    assert same(again.pair(5), pairs.pair(5))
    assert torch.equal(batch.fixed[1], again.pair(7).fixed[0])
    assert not torch.equal(batch.fixed[0], other.pair(0).fixed[0])
    assert not torch.equal(batch.fixed[0], pairs.pair(1).fixed[0])
    state = torch.random.get_rng_state()
    pairs.pair(30)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_label_map_serves_as_many_pairs_as_asked():
    pairs = SyntheticPairs((16, 16, 16), settings=of_kind("blobs", pairs_per_map=3))
    assert pairs._map(0) is pairs._map(0)
    found = [set(pairs.pair(i).fixed_labels.unique().tolist()) for i in range(6)]
    everything = set(pairs._map(0).labels.unique().tolist())
    assert all(labels <= everything for labels in found[:3])
    assert not torch.equal(pairs._map(0).labels, pairs._map(1).labels)


def test_as_a_dataset_it_feeds_a_data_loader():
    pairs = SyntheticPairs((16, 16, 16), length=4, settings=of_kind("blobs"))
    (first, _) = torch.utils.data.DataLoader(pairs, batch_size=2)
    assert torch.equal(first["flow"], pairs.batch([0, 1]).flow)
    assert first["fixed_labels"].shape == (2, 1, 16, 16, 16)
    assert len(pairs) == 4
    with pytest.raises(IndexError, match="no number 4"):
        pairs[4]


def test_nothing_but_the_phantom_leaves_torch(monkeypatch):
    """Pairs are made on the device they are for: no array goes through NumPy."""
    phantom_labels(0, (18, 18, 18))

    def refused(*_args, **_more):
        raise AssertionError("a tensor was turned into an array")

    monkeypatch.setattr(torch.Tensor, "numpy", refused)
    monkeypatch.setattr(torch, "from_numpy", refused)
    for kind in KINDS:
        SyntheticPairs((16, 16, 16), settings=of_kind(kind)).pair(0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pairs_are_made_on_a_gpu_too():
    pairs = SyntheticPairs((32, 32, 32), device="cuda")
    batch = pairs.batch(range(8))
    assert all(value.is_cuda for value in batch.as_dict().values())
    again = SyntheticPairs((32, 32, 32), device="cuda").batch(range(8))
    assert torch.allclose(batch.flow, again.flow)


def test_settings_come_from_nested_mappings_and_unknown_ones_are_refused_with_what_is_near():
    settings = SyntheticSettings.from_dict({"pairs_per_map": 2, "motion": {"largest": [0.01, 0.1], "bands": []}})
    assert settings.motion == MotionSettings(largest=(0.01, 0.1), bands=())
    assert settings.pairs_per_map == 2
    assert SyntheticSettings.from_dict(None) == SyntheticSettings()
    with pytest.raises(InputError, match=r"'synthetic.motion' has no setting 'rotation_degree'.*rotation_degrees"):
        SyntheticSettings.from_dict({"motion": {"rotation_degree": 3}})
    with pytest.raises(InputError, match=r"'blur' of synthetic pairs goes from 1\.0 down to 0\.5"):
        SyntheticSettings.from_dict({"appearance": {"blur": [1.0, 0.5]}})
    with pytest.raises(InputError, match="'noise' of synthetic pairs must start above 0"):
        SyntheticSettings.from_dict({"appearance": {"noise": [0, 0.1]}})
    with pytest.raises(InputError, match="Label maps are blobs"):
        SyntheticSettings.from_dict({"shapes": {"kinds": {"blob": 1}}})
    with pytest.raises(InputError, match="1 to 180 regions"):
        SyntheticSettings.from_dict({"shapes": {"regions": [5, 400]}})
    with pytest.raises(InputError, match="settings by name"):
        SyntheticSettings.from_dict({"motion": 3})


@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 8)])
def test_shapes_too_small_are_refused(shape):
    with pytest.raises(InputError, match="three sides of at least 16"):
        SyntheticPairs(shape)


def test_a_pair_can_be_made_from_a_map_of_ones_own():
    tissue = LabelMap(torch.zeros((20, 20, 20), dtype=torch.uint8), 2, False)
    tissue.labels[5:15, 5:15, 5:15] = 1
    pair = make_pair(Chance(0), (18, 18, 18), tissue, SyntheticSettings())
    assert set(pair.fixed_labels.unique().tolist()) == {0, 1}


def test_the_preview_writes_a_sheet_with_a_row_for_each_pair(tmp_path):
    file = tmp_path / "sheet.png"
    preview([str(file), "--count", "2", "--side", "16", "--seed", "5"])
    picture = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
    assert picture.shape == (2 * 18, 10 * 18, 3)
    pair = SyntheticPairs((16, 16, 16), seed=5).batch([0, 1])
    np.testing.assert_array_equal(picture, sheet(pair).numpy())
    np.testing.assert_allclose(picture[:16, :16, 0] / 255, pair.fixed[0, 0, 8].numpy(), atol=0.003)
