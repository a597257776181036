"""Every method of the registry, as its user meets it: from the command line, in both directions, with any weights."""

from __future__ import annotations

import json
import re
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from network_cases import lively_network
from small_pair import fixed_image, moving_image

from CycleRegLib import methods
from CycleRegLib.checkpoints import write_checkpoint
from CycleRegLib.cli import main
from CycleRegLib.fields import DisplacementField
from CycleRegLib.geometry import Grid
from CycleRegLib.images import read_transform
from CycleRegLib.methods import Method, list_methods, methods_table

# What makes a network of the method small enough for a test; all else is the method's own.
SMALL = {"vtn": {"cascade": "ADD", "channels": 2, "size": 64}}
IN_3D = [method for method in list_methods() if method.network and 3 in method.dimensions]


def lively_checkpoint(method: Method, folder: Path, dimension: int) -> Path:
    network = lively_network(method.id, dimension=dimension, **SMALL.get(method.id, {}))
    path = folder / f"{method.id}.safetensors"
    write_checkpoint(path, method.id, {"forward": network.state_dict()}, network.configuration)
    return path


def oblique_pair(folder: Path) -> tuple[sitk.Image, sitk.Image]:
    """The small pair on grids that are turned, the moving one with its slices reversed (left-handed)."""
    turn = sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.2, -0.1, 0.3)
    images = []
    for name, image in (("fixed", fixed_image()), ("moving", moving_image())):
        direction = np.array(turn.GetMatrix()).reshape(3, 3)
        if name == "moving":
            last = [0, 0, image.GetDepth() - 1]
            image = image[:, :, ::-1]
            image.SetOrigin((direction @ np.array(moving_image().TransformIndexToPhysicalPoint(last))).tolist())
            direction = direction @ np.diag([1, 1, -1])
        else:
            image.SetOrigin((direction @ np.array(image.GetOrigin())).tolist())
        image.SetDirection(direction.ravel().tolist())
        sitk.WriteImage(image, str(folder / f"{name}.nrrd"))
        images.append(image)
    return images[0], images[1]


@pytest.mark.filterwarnings("ignore::CycleRegLib.errors.CycleRegWarning")
@pytest.mark.parametrize("method", IN_3D, ids=lambda method: method.id)
def test_each_method_registers_in_both_directions(method: Method, tmp_path: Path) -> None:
    fixed, moving = oblique_pair(tmp_path)
    checkpoint = lively_checkpoint(method, tmp_path, 3)
    outputs = {
        name: tmp_path / f"{name}.{end}"
        for name, end in (("transform", "h5"), ("inverse-transform", "nrrd"), ("volume", "nrrd"))
    }
    arguments = ["register", "--fixed", str(tmp_path / "fixed.nrrd"), "--moving", str(tmp_path / "moving.nrrd")]
    arguments += ["--method", method.id, "--checkpoint", str(checkpoint), "--progress", "none"]
    arguments += [part for name, path in outputs.items() for part in (f"--output-{name}", str(path))]
    assert main([*arguments, "--json", str(tmp_path / "s.json"), "--affine", "none", "--patch-size", "32"]) == 0

    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["method"] == method.id
    assert summary["checkpoint_sha256"]
    assert 0 < summary["roundtrip_mm"]["mean"] < 50
    forward = DisplacementField.from_transform(read_transform(outputs["transform"]), Grid.of(fixed))
    backward = DisplacementField.from_transform(read_transform(outputs["inverse-transform"]), Grid.of(moving))
    for field in (forward, backward):
        lengths = np.linalg.norm(field.vectors, axis=-1)
        assert 0.5 < lengths.mean() < 40, "random weights move things by some voxels"
    # The forward field is what its volume was made with: SimpleITK's resampling gives the same picture.
    again = sitk.Resample(
        moving, fixed, sitk.ReadTransform(str(outputs["transform"])), sitk.sitkLinear,
        float(sitk.GetArrayViewFromImage(moving).min()),
    )  # fmt: skip
    written = sitk.ReadImage(str(outputs["volume"]))
    assert Grid.of(written).same_as(Grid.of(fixed))
    difference = np.abs(sitk.GetArrayFromImage(again) - sitk.GetArrayFromImage(written))
    assert np.percentile(difference, 99) < 0.1
    trip = forward.round_trip(backward)
    assert summary["roundtrip_mm"]["mean"] == pytest.approx(float(np.nanmean(trip)), rel=0.02)


PAGE = Path(__file__).parents[2] / "Docs" / "methods.md"


def test_the_documentation_holds_the_registry() -> None:
    assert methods_table() in PAGE.read_text(encoding="utf-8")


def test_the_documentations_example_of_a_new_method_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file and one entry, taken from the page as they stand there."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    file, entry = (textwrap.dedent(block) for block in blocks if "class TinyNetwork" in block or "Method(" in block)
    module = types.ModuleType("CycleRegLib.networks.tiny")
    exec(f"import torch\nfrom CycleRegLib.networks.blocks import *\n{file}", module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(methods._METHODS, "tiny", eval(entry, {"Method": Method}))
    for image, name in ((fixed_image(), "fixed"), (moving_image(), "moving")):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    checkpoint, output = tmp_path / "tiny.safetensors", tmp_path / "transform.nrrd"
    assert main(["checkpoint", "create", "tiny", str(checkpoint), "--set", "width=4"]) == 0
    arguments = ["register", "--method", "tiny", "--checkpoint", str(checkpoint), "--output-transform", str(output)]
    for side in ("fixed", "moving"):
        arguments += [f"--{side}", str(tmp_path / f"{side}.nrrd")]
    assert main(arguments) == 0
    assert np.linalg.norm(sitk.GetArrayFromImage(sitk.ReadImage(str(output))), axis=-1).max() > 0.01
