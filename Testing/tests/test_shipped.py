"""The weights that come with the library: what they claim, and that they do it, without anything being named."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from CycleRegLib.batch.manifest import read_manifest
from CycleRegLib.checkpoints import read_checkpoint
from CycleRegLib.cli import main
from CycleRegLib.methods import SHIPPED, get_method, list_methods
from CycleRegLib.phantom import Sample, make_sample
from CycleRegLib.registration import register

FILE = SHIPPED / "pyramid.safetensors"


@pytest.fixture(scope="module")
def sample() -> Sample:
    return make_sample(seed=3, scale=1.6)


def test_every_shipped_file_belongs_to_a_method_and_has_a_card() -> None:
    named = [method for method in list_methods() if method.shipped]
    assert [method.id for method in named] == ["pyramid"]
    assert {path.name for path in SHIPPED.glob("*.safetensors")} == {method.shipped for method in named}
    card = (SHIPPED / "pyramid.md").read_text(encoding="utf-8")
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() in card
    assert FILE.stat().st_size < 8e6


def test_it_says_what_it_was_trained_on() -> None:
    checkpoint = read_checkpoint(FILE)
    assert checkpoint.method == "pyramid"
    assert checkpoint.config == get_method("pyramid").build_network(**checkpoint.config).configuration
    assert checkpoint.licence == "Apache-2.0"
    assert checkpoint.training["data"]["source"] == "synthetic"
    assert str(checkpoint.training["steps"]) in (SHIPPED / "pyramid.md").read_text(encoding="utf-8").replace(",", "")


def test_the_card_states_the_recipe_that_is_kept_with_it() -> None:
    kept = (SHIPPED / "pyramid.yaml").read_text(encoding="utf-8")
    assert re.search(r"^method: pyramid$", kept, re.MULTILINE)
    assert "epoch 1/" in (SHIPPED / "pyramid_log.txt").read_text(encoding="utf-8")


def errors_mm(result, pair: Sample) -> tuple[float, float]:
    fixed, moving = pair.fixed_landmarks.points, pair.moving_landmarks.points
    before = np.linalg.norm(fixed - moving, axis=1).mean()
    return before, np.linalg.norm(result.field.transform_points(fixed) - moving, axis=1).mean()


@pytest.mark.parametrize("inverted", [False, True], ids=["as it is", "inverted contrast"])
def test_alone_it_takes_much_of_the_error_off(sample: Sample, inverted: bool) -> None:
    moving = sitk.ShiftScale(sample.moving, 0.0, -1.0) if inverted else sample.moving
    result = register(sample.fixed, moving, method="pyramid")
    before, after = errors_mm(result, sample)
    assert result.checkpoint == str(FILE)
    assert after < 0.6 * before
    assert result.folding_percent < 0.1


def test_it_is_used_where_nothing_is_named(tmp_path: Path) -> None:
    assert main(["sample", "--output", str(tmp_path / "s")]) == 0
    images = [f"--{side}={tmp_path / 's' / side}.nrrd" for side in ("fixed", "moving")]
    assert main(["register", *images, "--method", "pyramid", "--json", str(tmp_path / "j"), "--progress", "none"]) == 0
    summary = json.loads((tmp_path / "j").read_text())
    assert summary["checkpoint_sha256"] == hashlib.sha256(FILE.read_bytes()).hexdigest()


def test_batches_name_it_so_that_other_weights_are_another_result(tmp_path: Path) -> None:
    assert main(["sample", "--output", str(tmp_path)]) == 0
    (tmp_path / "m.csv").write_text(
        "id,fixed,moving,method\na,fixed.nrrd,moving.nrrd,pyramid\nb,fixed.nrrd,moving.nrrd,\n"
    )
    first, second = read_manifest(tmp_path / "m.csv")
    assert first.arguments["checkpoint"] == str(FILE)
    assert second.arguments["checkpoint"] is None
