"""Presets, series of moving images, and the list of devices."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from CycleRegLib import cli, registration, series
from CycleRegLib.errors import InputError
from CycleRegLib.images import read_transform
from CycleRegLib.methods import get_method
from CycleRegLib.presets import DEFAULT_PRESET, PRESETS, get_preset, list_presets, method_of


def body(shift: float = 0.0) -> sitk.Image:
    """24 x 22 x 20 voxels of 2 mm with two soft balls, moved along x by ``shift`` mm."""
    z, y, x = np.meshgrid(*(2.0 * np.arange(n) for n in (20, 22, 24)), indexing="ij")
    array = np.zeros(z.shape, np.float32)
    for center, radius, brightness in (((24, 22, 20), 14, 100), ((28, 20, 18), 5, 80)):
        away = np.sqrt((x - center[0] - shift) ** 2 + (y - center[1]) ** 2 + (z - center[2]) ** 2)
        array += brightness / (1 + np.exp(away - radius))
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((2.0, 2.0, 2.0))
    return image


def test_presets_are_methods_with_numbers():
    assert tuple(preset.id for preset in list_presets()) == PRESETS
    assert DEFAULT_PRESET in PRESETS
    for preset in list_presets():
        assert preset.summary.endswith(".")
        method = get_method(preset.method)
        assert not method.needs_checkpoint or method.shipped
    fast, usual = get_preset("fast").settings(), get_preset("accurate").settings()
    assert [stage.steps for stage in fast.stages] == [round(stage.steps / 4) for stage in usual.stages]
    assert get_preset("large").settings().max_voxels < get_preset("accurate").settings().max_voxels


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(InputError, match="Did you mean fast"):
        get_preset("fats")


def test_a_preset_and_a_method_exclude_each_other():
    assert method_of(None, "accurate") == "optimize"
    with pytest.raises(InputError, match="not both"):
        method_of("optimize", "fast")


def test_a_preset_reaches_the_pair_optimisation(monkeypatch):
    seen = {}

    class Stop(Exception):
        pass

    def deformation(*arguments, **_):
        seen["steps"], seen["settings"] = arguments[8], arguments[9]
        raise Stop

    monkeypatch.setattr(registration, "Deformation", deformation)
    with pytest.raises(Stop):
        registration.register(body(), body(2), preset="large", affine="none", smoothness=4.0, refine_steps=7)
    assert seen["steps"] == 7
    assert seen["settings"].max_voxels == get_preset("large").max_voxels
    assert seen["settings"].stages[0].smoothness == pytest.approx(4 * registration.Settings().stages[0].smoothness)


def test_a_series_goes_on_after_an_image_that_cannot_be_registered():
    told = []

    def broken():
        raise InputError("This one is broken.")

    moving = {"first": lambda: {"moving": body(2)}, "second": broken, "third": lambda: {"moving": body(-2)}}
    results = list(
        series.register_series(body(), moving, lambda *p: told.append(p), preset="accurate", affine="none")
    )  # fmt: skip
    assert [one.name for one in results] == ["first", "second", "third"]
    assert results[1].registration is None
    assert results[1].reason == "This one is broken."
    for index, shift in ((0, 2.0), (2, -2.0)):
        inside = results[index].registration.field.vectors[7:13, 7:15, 8:16, 0]
        assert float(inside.mean()) == pytest.approx(shift, abs=0.7)
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert told[0][0].startswith("first: ")


def test_a_series_reads_its_checkpoint_once(monkeypatch, tmp_path):
    read, used = [], []
    held = object.__new__(series.Checkpoint)
    monkeypatch.setattr(series, "read_checkpoint", lambda path, **_: read.append(path) or held)
    monkeypatch.setattr(series, "register", lambda fixed, **k: used.append(k["checkpoint"]))
    moving = {name: lambda: {"moving": body()} for name in "abc"}
    list(series.register_series(body(), moving, method="cyclemorph", checkpoint="weights.pth"))
    assert read == ["weights.pth"]
    assert all(one is held for one in used)
    assert len(used) == 3


def test_the_series_command_writes_a_folder_for_each_image(tmp_path, capsys):
    for name, image in (("fixed", body()), ("arterial", body(2)), ("flat", body() * 0)):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    out = tmp_path / "out"
    status = cli.main(
        ["series", "--fixed", str(tmp_path / "fixed.nrrd"), "--moving", str(tmp_path / "arterial.nrrd"),
         str(tmp_path / "flat.nrrd"), "--output", str(out), "--affine", "none", "--progress", "json"]
    )  # fmt: skip
    assert status == 1
    assert "flat (" in capsys.readouterr().err
    index = json.loads((out / "series.json").read_text())
    assert [(one["name"], one["status"]) for one in index] == [("arterial", "done"), ("flat", "failed")]
    assert sorted(path.name for path in (out / "arterial").iterdir()) == [
        "summary.json",
        "transform.nrrd",
        "warped.nrrd",
    ]
    assert not (out / "flat").exists()


def test_the_series_command_writes_both_directions_where_asked(tmp_path):
    """The way there and back ends where it began."""
    for name, image in (("fixed", body()), ("arterial", body(2))):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    arguments = ["series", "--fixed", str(tmp_path / "fixed.nrrd"), "--moving", str(tmp_path / "arterial.nrrd")]
    arguments += ["--output", str(tmp_path / "out"), "--affine", "none", "--no-volumes", "--inverse-transforms"]
    assert cli.main([*arguments, "--progress", "none"]) == 0
    there, back = (read_transform(tmp_path / "out" / "arterial" / name) for name in ("transform.nrrd", "inverse.nrrd"))
    for point in ((24.0, 22.0, 20.0), (28.0, 20.0, 18.0)):
        moved = there.TransformPoint(point)
        assert moved[0] - point[0] == pytest.approx(2.0, abs=0.6)
        np.testing.assert_allclose(back.TransformPoint(moved), point, atol=0.2)


def test_devices_tell_their_memory(capsys):
    assert cli.main(["devices", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found[-1]["id"] == "cpu"
    assert found[-1]["total"] is None or 0 < found[-1]["free"] <= found[-1]["total"]
