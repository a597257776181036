"""The main job on the sample phantom: accuracy against its known field, starts, fallbacks, the network method."""

from functools import lru_cache

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import CycleRegLib
from CycleRegLib import deformation, registration
from CycleRegLib.checkpoints import write_checkpoint
from CycleRegLib.errors import Cancelled, CycleRegWarning, InputError, OutOfMemoryError
from CycleRegLib.geometry import Grid
from CycleRegLib.methods import get_method
from CycleRegLib.phantom import Sample, make_sample


@lru_cache(maxsize=1)
def sample() -> Sample:
    return make_sample(scale=2.5)


@lru_cache(maxsize=1)
def default_result() -> registration.RegistrationResult:
    return CycleRegLib.register(sample().fixed, sample().moving)


def landmark_error(field: CycleRegLib.DisplacementField) -> float:
    fixed, moving = sample().fixed_landmarks.points, sample().moving_landmarks.points
    return float(np.linalg.norm(field.transform_points(fixed) - moving, axis=1).mean())


def test_defaults_register_the_phantom_in_both_directions() -> None:
    """Voxels of 5.5x5.5x7.5 mm here, 28 landmarks, 10.7 mm apart before."""
    result = default_result()
    assert landmark_error(result.field) < 2.5
    fixed, moving = sample().fixed_landmarks.points, sample().moving_landmarks.points
    assert np.linalg.norm(result.inverse.transform_points(moving) - fixed, axis=1).mean() < 2.5
    assert result.folding_percent == 0
    assert result.roundtrip_mm["mean"] < 1.0
    assert result.similarity["after"] > result.similarity["before"] + 0.05
    assert result.method == "optimize"
    assert result.field.grid == Grid.of(sample().fixed)
    assert result.inverse.grid == Grid.of(sample().moving)


def test_figures_are_those_of_the_fields() -> None:
    result = default_result()
    determinant = sitk.GetArrayFromImage(result.jacobian())
    assert result.folding_percent == pytest.approx(100 * (determinant <= 0).mean())
    trip = sitk.GetArrayFromImage(result.roundtrip_image())
    assert result.roundtrip_mm["mean"] == pytest.approx(trip[trip >= 0].mean(), rel=1e-4)
    assert result.roundtrip_mm["p95"] == pytest.approx(np.percentile(trip[trip >= 0], 95), rel=1e-3)
    again = sitk.Resample(
        result.moving, result.fixed, result.field.to_transform(), sitk.sitkLinear,
        float(sitk.GetArrayViewFromImage(result.moving).min()),
    )  # fmt: skip
    difference = np.abs(sitk.GetArrayFromImage(again) - sitk.GetArrayFromImage(result.warped))
    # Voxels at the very edge of the moving image may fall on either side.
    assert np.percentile(difference, 99.9) < 0.5
    assert set(result.seconds) == {"check", "affine", "optimize", "measure", "total"}
    assert result.seconds["total"] >= result.seconds["affine"] + result.seconds["optimize"]
    summary = result.summary()
    for key in ("method", "checkpoint", "device", "seconds", "peak_memory_mb", "similarity", "folding_percent",
                "roundtrip_mm"):  # fmt: skip
        assert key in summary


def test_inputs_are_left_alone_and_integers_are_taken() -> None:
    fixed, moving = sitk.Cast(sample().fixed, sitk.sitkInt16), sitk.Cast(sample().moving, sitk.sitkInt16)
    before = sitk.GetArrayFromImage(fixed).copy()
    result = CycleRegLib.register(fixed, moving)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(fixed), before)
    assert landmark_error(result.field) < 2.5


def test_a_linear_initial_transform_is_part_of_the_one_field() -> None:
    """The moving image is carried 300 mm away; the transform that brings it back is given."""
    away = sitk.Image(sample().moving)
    away.SetOrigin([o + 300 for o in away.GetOrigin()])
    back = sitk.TranslationTransform(3, [300.0] * 3)
    result = CycleRegLib.register(sample().fixed, away, initial_transform=back, affine="none")
    fixed, moving = sample().fixed_landmarks.points, sample().moving_landmarks.points + 300
    assert np.linalg.norm(result.field.transform_points(fixed) - moving, axis=1).mean() < 2.5
    assert np.linalg.norm(result.inverse.transform_points(moving) - fixed, axis=1).mean() < 2.5


def test_an_initial_transform_that_deforms_is_refined() -> None:
    start = default_result().field.to_transform()
    result = CycleRegLib.register(sample().fixed, sample().moving, initial_transform=start)
    assert landmark_error(result.field) < 1.25 * landmark_error(default_result().field)
    assert "affine" in result.seconds
    assert result.similarity["after"] >= result.similarity["before"] - 0.01
    with pytest.warns(CycleRegWarning, match="only its affine part"):
        CycleRegLib.register(sample().fixed, sample().moving, initial_transform=start, affine="rigid")


def test_progress_never_falls_and_ends_at_one() -> None:
    seen: list[tuple[str, float]] = []
    CycleRegLib.register(sample().fixed, sample().moving, progress=lambda s, f: seen.append((s, f)))
    fractions = [f for _, f in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert list(dict.fromkeys(s for s, _ in seen)) == ["check", "affine", "optimize", "measure", "done"]


def test_more_smoothness_makes_the_volume_change_more_even() -> None:
    smooth = CycleRegLib.register(sample().fixed, sample().moving, smoothness=8)
    assert smooth.jacobian_statistics.sd < 0.8 * default_result().jacobian_statistics.sd
    assert landmark_error(smooth.field) < 2.5


@pytest.mark.parametrize("stage", ["affine", "optimize", "measure"])
def test_cancelling_at_any_stage_raises_at_once(stage: str) -> None:
    def stop(now: str, fraction: float) -> None:
        if now == stage:
            raise Cancelled

    with pytest.raises(Cancelled):
        CycleRegLib.register(sample().fixed, sample().moving, progress=stop)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")]
)
def test_memory_that_ends_makes_the_grid_coarser_then_gives_up(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    real, limits = deformation.optimize_pair, []

    def scarce(domain, *rest):
        limits.append(int(np.prod(domain.grid.size)))
        if len(limits) == 1 or limits[-1] > 20_000:
            raise error
        return real(domain, *rest)

    monkeypatch.setattr(deformation, "optimize_pair", scarce)
    small = registration.Settings(max_voxels=60_000)
    with pytest.warns(CycleRegWarning, match="trying again with 25%"):
        result = CycleRegLib.register(sample().fixed, sample().moving, settings=small)
    assert limits[1] < 0.5 * limits[0]
    assert "Memory ran out" in result.warnings[0]
    assert landmark_error(result.field) < 5

    def never(*_):
        raise error

    monkeypatch.setattr(deformation, "optimize_pair", never)
    with pytest.warns(CycleRegWarning), pytest.raises(OutOfMemoryError, match="every device and resolution"):
        CycleRegLib.register(sample().fixed, sample().moving)


def test_other_errors_are_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(deformation, "optimize_pair", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        CycleRegLib.register(sample().fixed, sample().moving)


def small_flow_checkpoint(folder, directions=("forward",)):
    """CycleMorph weights that move by a small constant flow: no training needed to see that they are used."""
    networks = {}
    for number, name in enumerate(directions):
        torch.manual_seed(number)
        network = get_method("cyclemorph").build_network()
        state = {k: v.clone() for k, v in network.state_dict().items()}
        state["model.outconv.upconv.bias"] = torch.tensor([0.4, 0.0, 0.0]) * (1 if name == "forward" else -1)
        networks[name] = state
    return write_checkpoint(folder / "net.safetensors", "cyclemorph", networks)


def test_the_network_method_gives_both_directions_and_can_be_refined(tmp_path) -> None:
    checkpoint = small_flow_checkpoint(tmp_path, ("forward", "backward"))
    result = CycleRegLib.register(sample().fixed, sample().moving, method="cyclemorph", checkpoint=checkpoint.path)
    assert result.checkpoint_sha256 == checkpoint.sha256
    assert result.method == "cyclemorph"
    assert "network" in result.seconds
    # 0.4 voxel of 7.5 mm along z, after the affine map
    shift = np.linalg.norm(
        result.field.transform_points(sample().fixed_landmarks.points)
        - (sample().fixed_landmarks.points @ result.affine[:3, :3].T + result.affine[:3, 3]),
        axis=1,
    )
    np.testing.assert_allclose(shift, 0.4 * sample().fixed.GetSpacing()[2], rtol=0.1)
    assert result.roundtrip_mm["mean"] < 0.2
    refined = CycleRegLib.register(
        sample().fixed, sample().moving, method="cyclemorph", checkpoint=checkpoint.path, refine_steps=60
    )
    assert landmark_error(refined.field) < 0.7 * landmark_error(result.field)
    assert set(refined.seconds) >= {"network", "optimize"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "cyclemorf"}, "Did you mean cyclemorph"),
        ({"method": "cyclemorph"}, "needs trained weights: give --checkpoint"),
        ({"checkpoint": "x.pth"}, "uses no checkpoint"),
        ({"device": "gpu"}, "Unknown device"),
        ({"affine": "similarity"}, "Unknown affine stage"),
        ({"refine_steps": -1}, "must not be negative"),
        ({"smoothness": 0}, "must be a positive number"),
        ({"smoothness": float("nan")}, "must be a positive number"),
    ],
)
def test_wrong_options_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CycleRegLib.register(sample().fixed, sample().moving, **arguments)


def test_images_that_do_not_meet_are_refused_only_where_nothing_can_bring_them_together() -> None:
    away = sitk.Image(sample().moving)
    away.SetOrigin([o + 900 for o in away.GetOrigin()])
    with pytest.raises(InputError, match="do not overlap"):
        CycleRegLib.register(sample().fixed, away, affine="none")
    far = sitk.TranslationTransform(3, [5000.0] * 3)
    with pytest.raises(InputError, match="do not overlap after the initial transform"):
        CycleRegLib.register(sample().fixed, away, initial_transform=far)
    result = CycleRegLib.register(sample().fixed, away)
    fixed, moving = sample().fixed_landmarks.points, sample().moving_landmarks.points + 900
    assert np.linalg.norm(result.field.transform_points(fixed) - moving, axis=1).mean() < 3
