"""The script for ``Slicer --python-script``: files in, a scene out, the exit statuses of the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer")

from mrml_cases import FakeResult, points_from_world  # noqa: E402

from CycleRegLib import mrml, phantom  # noqa: E402
from CycleRegLib.errors import Cancelled, OutOfMemoryError  # noqa: E402
from CycleRegLib.fields import DisplacementField  # noqa: E402
from CycleRegLib.geometry import Grid  # noqa: E402
from CycleRegLib.images import read_transform  # noqa: E402
from CycleRegLib.mrml.headless import main  # noqa: E402

SCRIPT = Path(__file__).parents[2] / "CycleReg" / "Scripts" / "run_cyclereg.py"


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return phantom.write_sample(tmp_path_factory.mktemp("sample"), scale=3.0)


@pytest.fixture(autouse=True)
def no_scene():
    slicer.mrmlScene = None


@pytest.fixture
def known(sample):
    """Stands in for the registration: answers with the sample's true field."""
    truth = read_transform(sample["true_transform"])

    def register(fixed, moving, **options):
        field = DisplacementField.from_transform(truth, Grid.of(fixed))
        return FakeResult(fixed, moving, field, field.inverse(Grid.of(moving)).field, field.warp(moving))

    return register


def inputs(sample, *names: str) -> list[str]:
    arguments = []
    for name in ("fixed", "moving", *names):
        arguments += [f"--{name.replace('_', '-')}", str(sample[name])]
    return arguments


MEASURED = ("fixed_landmarks", "moving_landmarks", "fixed_segmentation", "moving_segmentation")


def run_script(*arguments: str, code: str | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT)] if code is None else [sys.executable, "-c", code]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, timeout=300)


class TestJob:
    def test_the_scene_holds_inputs_results_and_tables(self, sample, known, tmp_path):
        scene_path, json_path = tmp_path / "out.mrb", tmp_path / "out.json"
        arguments = [*inputs(sample, *MEASURED), "--scene", str(scene_path), "--json", str(json_path)]
        assert main(arguments, register=known) == 0
        scene = mrml.read_scene(scene_path)
        names = [scene.GetNthNode(i).GetName() for i in range(scene.GetNumberOfNodes())]
        for name in (
            "fixed", "moving", "fixed landmarks", "moving landmarks", "fixed segmentation", "moving segmentation",
            "moving to fixed transform", "fixed to moving transform", "moving warped to fixed",
            "moving to fixed Jacobian determinant", "moving to fixed round trip (mm)", "moving to fixed summary",
            "moving to fixed landmarks evaluation", "moving to fixed tumor evaluation",
        ):  # fmt: skip
            assert name in names
        truth = read_transform(sample["true_transform"])
        transform = scene.GetFirstNodeByName("moving to fixed transform")
        fixed = mrml.landmarks_from_markups(scene.GetFirstNodeByName("fixed landmarks")).points
        expected = np.array([truth.TransformPoint(p) for p in fixed.tolist()])
        assert np.abs(points_from_world(transform, fixed) - expected).max() < 1e-2
        written = json.loads(json_path.read_text())
        assert written["method"] == "known"
        assert (
            written["evaluation"]["tre_mm"]["after"]["mean"] < 0.2 < written["evaluation"]["tre_mm"]["before"]["mean"]
        )
        assert set(written["evaluation"]["tumor"]) >= {"major_mm", "minor_mm", "volume_ml"}

    def test_output_files_are_those_of_the_command_line(self, sample, known, tmp_path):
        paths = {
            "--output-transform": "t.h5", "--output-inverse-transform": "i.nrrd", "--output-volume": "w.nii.gz",
            "--output-jacobian": "j.nrrd", "--output-roundtrip": "r.mha", "--scene": "s.mrb",
        }  # fmt: skip
        arguments = [part for option, name in paths.items() for part in (option, str(tmp_path / name))]
        assert main([*inputs(sample), *arguments], register=known) == 0
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted(paths.values())
        truth, written = read_transform(sample["true_transform"]), read_transform(tmp_path / "t.h5")
        point = sitk.ReadImage(str(sample["fixed"])).TransformContinuousIndexToPhysicalPoint((20.0, 15.0, 12.0))
        np.testing.assert_allclose(written.TransformPoint(point), truth.TransformPoint(point), atol=1e-3)

    def test_the_report_shows_what_was_measured(self, sample, known, tmp_path):
        arguments = [*inputs(sample, *MEASURED), "--scene", str(tmp_path / "s.mrb"), "--report", str(tmp_path / "r")]
        assert main(arguments, register=known) == 0
        page = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
        for text in ("hepatic dome", "data:image/png;base64"):
            assert text in page

    def test_masks_and_the_initial_transform_reach_the_registration(self, sample, known, tmp_path):
        start = sitk.TranslationTransform(3, (1.0, 2.0, 3.0))
        sitk.WriteTransform(start, str(tmp_path / "start.tfm"))
        calls = []

        def register(**arguments):
            calls.append(arguments)
            return known(**arguments)

        arguments = [
            "--fixed-mask", str(sample["fixed_segmentation"]), "--initial-transform", str(tmp_path / "start.tfm"),
            "--affine", "rigid", "--device", "cpu", "--refine-steps", "3", "--scene", str(tmp_path / "s.mrb"),
        ]  # fmt: skip
        assert main([*inputs(sample), *arguments], register=register) == 0
        (call,) = calls
        assert (call["affine"], call["device"], call["refine_steps"]) == ("rigid", "cpu", 3)
        assert 0.01 < sitk.GetArrayFromImage(call["fixed_mask"]).mean() < 0.9
        np.testing.assert_allclose(call["initial_transform"].TransformPoint((0.0, 0, 0)), (1, 2, 3), atol=1e-9)


class TestFailures:
    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (["--moving", "absent.nrrd"], "absent.nrrd does not exist"),
            (["--scene", "{out}/nowhere/s.mrb"], "does not exist"),
            (["--scene", "{out}/s.zip"], "suffix"),
            (["--report", "{out}/nowhere/r"], "does not exist"),
            (["--output-volume", "{out}/w.jpg"], "would be a picture"),
            (["--fixed-landmarks", "{fixed_landmarks}"], "--fixed-landmarks and --moving-landmarks"),
            (["--tumor-segment", "tumor"], "needs --fixed-segmentation"),
            (["--moving", "{fixed_landmarks}"], "not an image"),
        ],
    )
    def test_wrong_input_is_one_line_status_2_and_no_file(self, sample, known, tmp_path, capsys, arguments, text):
        filled = [a.format(out=tmp_path, **sample) for a in arguments]
        base = [*inputs(sample), "--scene", str(tmp_path / "s.mrb"), "--json", str(tmp_path / "s.json")]
        assert main([*base, *filled], register=known) == 2
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("error", "status"), [(OutOfMemoryError("Memory ran out."), 3), (Cancelled(), 130), (KeyboardInterrupt(), 130)]
    )
    def test_other_endings_have_their_status_and_leave_no_file(self, sample, tmp_path, capsys, error, status):
        def register(**_):
            raise error

        assert main([*inputs(sample), "--scene", str(tmp_path / "s.mrb")], register=register) == status
        assert capsys.readouterr().err.startswith("cyclereg: error: ")
        assert list(tmp_path.iterdir()) == []


AS_SLICER = """
import runpy, sys, types
import slicer

slicer.mrmlScene = slicer.vtkMRMLScene()
options = types.SimpleNamespace(runPythonAndExit=True)
leave = lambda status: print("application ends:", status)
slicer.app = types.SimpleNamespace(commandOptions=lambda: options, exit=leave)
sys.argv = [{script!r}, *sys.argv[1:]]
runpy.run_path({script!r}, run_name="__main__")
print("script returned")
"""


class TestScript:
    def test_it_registers_with_plain_python(self, sample, tmp_path):
        done = run_script(
            "--", *inputs(sample, *MEASURED), "--device", "cpu", "--progress", "none",
            "--scene", str(tmp_path / "s.mrb"), "--json", str(tmp_path / "s.json"),
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        written = json.loads((tmp_path / "s.json").read_text())
        tre = written["evaluation"]["tre_mm"]
        assert tre["after"]["mean"] < 0.5 * tre["before"]["mean"]
        assert mrml.read_scene(tmp_path / "s.mrb").GetFirstNodeByName("moving warped to fixed") is not None

    def test_wrong_input_ends_with_status_2_without_a_traceback(self, tmp_path):
        done = run_script("--fixed", "no.nrrd", "--moving", "no.nrrd", "--scene", str(tmp_path / "s.mrb"))
        assert done.returncode == 2
        assert "no.nrrd does not exist" in done.stderr
        assert done.stderr.count("\n") == 1

    @pytest.mark.parametrize("separator", [["--"], []])
    def test_in_slicer_the_application_ends_with_the_status(self, tmp_path, separator):
        done = run_script(
            *separator, "--fixed", "no.nrrd", "--moving", "no.nrrd", "--scene", str(tmp_path / "s.mrb"),
            code=AS_SLICER.format(script=str(SCRIPT)),
        )  # fmt: skip
        assert "application ends: 2" in done.stdout
        assert "script returned" in done.stdout
        assert done.returncode == 0

    def test_missing_arguments_end_the_application_too(self):
        done = run_script(code=AS_SLICER.format(script=str(SCRIPT)))
        assert "application ends: 2" in done.stdout
        assert "--fixed" in done.stderr
