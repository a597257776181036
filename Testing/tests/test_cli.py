"""The command line end to end on a small pair: what it writes, what it says, and how it ends."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from small_pair import body, fixed_image, image_of, moving_image, refuse, tree, write_dicom

import CycleRegLib
from CycleRegLib import deformation, outputs
from CycleRegLib.cli import main
from CycleRegLib.geometry import Grid
from CycleRegLib.landmarks import LandmarkList, write_landmarks
from CycleRegLib.networks import CycleMorphUNet
from CycleRegLib.progress import make_progress

SECONDS_TO_START = 60  # until a child process has imported torch, on a busy machine


def run(*arguments: str | Path) -> int:
    return main([str(a) for a in arguments])


def register(folder: Path, *more: str | Path) -> int:
    return run("register", "--fixed", folder / "fixed.nrrd", "--moving", folder / "moving.nrrd", *more)


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    sitk.WriteImage(fixed_image(), str(tmp_path / "fixed.nrrd"))
    sitk.WriteImage(moving_image(), str(tmp_path / "moving.nrrd"))
    return tmp_path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair registered with every output; its progress as JSON lines in ``stdout``, messages in ``stderr``."""
    folder = tmp_path_factory.mktemp("done")
    sitk.WriteImage(fixed_image(), str(folder / "fixed.nrrd"))
    sitk.WriteImage(moving_image(), str(folder / "moving.nrrd"))
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = register(
            folder, "--output-transform", folder / "t.h5", "--output-inverse-transform", folder / "ti.h5",
            "--output-volume", folder / "w.nii.gz", "--output-jacobian", folder / "j.mha",
            "--output-roundtrip", folder / "e.nrrd", "--json", folder / "s.json", "--report", folder / "report",
            "--progress", "json",
        )  # fmt: skip
    assert status == 0, err.getvalue()
    (folder / "stdout").write_text(out.getvalue())
    (folder / "stderr").write_text(err.getvalue())
    return folder


def points_of(image: sitk.Image, number: int = 60, margin: float = 3.0) -> np.ndarray:
    """Points inside an image, LPS mm."""
    grid = Grid.of(image)
    rng = np.random.default_rng(3)
    return grid.to_world(rng.uniform(margin, np.array(grid.size) - 1 - margin, (number, 3)))


def moved(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint(p) for p in points.tolist()])


class TestRegister:
    def test_files(self, done: Path) -> None:
        assert set(tree(done)) == {
            "fixed.nrrd", "moving.nrrd", "t.h5", "ti.h5", "w.nii.gz", "j.mha", "e.nrrd", "s.json", "report",
            "report/report.html", "stdout", "stderr",
        }  # fmt: skip
        assert (done / "stderr").read_text() == ""

    def test_volumes_lie_on_the_fixed_grid(self, done: Path) -> None:
        for name in ("w.nii.gz", "j.mha", "e.nrrd"):
            image = sitk.ReadImage(str(done / name))
            assert Grid.of(image).same_as(Grid.of(fixed_image()))
            assert image.GetPixelID() == sitk.sitkFloat32

    def test_volume_is_the_moving_image_through_the_transform(self, done: Path) -> None:
        transform = sitk.ReadTransform(str(done / "t.h5"))
        low = float(body((0.08, -0.06, 0.05), 1.3, 1).min())
        again = sitk.GetArrayFromImage(sitk.Resample(moving_image(), fixed_image(), transform, sitk.sitkLinear, low))
        warped = sitk.GetArrayFromImage(sitk.ReadImage(str(done / "w.nii.gz")))
        # Voxels that land on the very edge of the moving image may fall on either side of it.
        assert np.mean(np.abs(again - warped) > 1e-2) < 1e-3

    def test_the_registration_is_one(self, done: Path) -> None:
        # The moving image is the fixed one moved by this much: (0.08, -0.06, 0.05) of half the width of each axis.
        shift = np.array([0.08 * 31 / 2 * 2.0, -0.06 * 29 / 2 * 2.2, 0.05 * 27 / 2 * 2.5])
        points = points_of(fixed_image(), margin=8.0)
        error = np.linalg.norm(moved(sitk.ReadTransform(str(done / "t.h5")), points) - points - shift, axis=1)
        assert error.mean() < 0.5 * np.linalg.norm(shift)

    def test_inverse_leads_back(self, done: Path) -> None:
        there, back = (sitk.ReadTransform(str(done / name)) for name in ("t.h5", "ti.h5"))
        points = points_of(fixed_image(), margin=8.0)
        assert np.linalg.norm(moved(back, moved(there, points)) - points, axis=1).mean() < 1.0

    def test_jacobian_and_round_trip_agree_with_the_figures(self, done: Path) -> None:
        figures = json.loads((done / "s.json").read_text())
        determinant = sitk.GetArrayFromImage(sitk.ReadImage(str(done / "j.mha")))
        assert figures["folding_percent"] == pytest.approx(100 * np.mean(determinant <= 0))
        trip = sitk.GetArrayFromImage(sitk.ReadImage(str(done / "e.nrrd")))
        assert figures["roundtrip_mm"]["mean"] == pytest.approx(trip[trip >= 0].mean(), rel=1e-3)
        assert figures["roundtrip_mm"]["p95"] == pytest.approx(np.percentile(trip[trip >= 0], 95), rel=1e-3)
        field = sitk.TransformToDisplacementField(
            sitk.ReadTransform(str(done / "t.h5")), sitk.sitkVectorFloat64, fixed_image().GetSize(),
            fixed_image().GetOrigin(), fixed_image().GetSpacing(),
        )  # fmt: skip
        theirs = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field, True))
        np.testing.assert_allclose(determinant[1:-1, 1:-1, 1:-1], theirs[1:-1, 1:-1, 1:-1], atol=1e-3)

    def test_json(self, done: Path) -> None:
        figures = json.loads((done / "s.json").read_text())
        assert figures["method"] == "optimize"
        assert figures["checkpoint"] is None
        assert figures["checkpoint_sha256"] is None
        assert figures["device"]
        assert {"affine", "optimize", "total"} <= set(figures["seconds"])
        assert figures["seconds"]["total"] > 0
        assert figures["peak_memory_mb"] > 0
        assert 0 <= figures["similarity"]["before"] < figures["similarity"]["after"] <= 1
        assert set(figures["roundtrip_mm"]) == {"mean", "p95"}
        assert figures["folding_percent"] == 0
        assert figures["fixed"] == str(done / "fixed.nrrd")
        assert figures["moving"] == str(done / "moving.nrrd")
        assert figures["command"].startswith("cyclereg register --fixed ")
        assert figures["command"].endswith("--progress json")
        assert figures["warnings"] == []

    def test_report(self, done: Path) -> None:
        page = (done / "report" / "report.html").read_text(encoding="utf-8")
        assert page.count("data:image/png;base64,") >= 6
        assert "optimize" in page

    def test_json_progress(self, done: Path) -> None:
        lines = [json.loads(line) for line in (done / "stdout").read_text().splitlines()]
        *progress, last = lines
        assert set(last) == {"done", "seconds"}
        assert last["done"] is True
        assert all(set(line) == {"stage", "percent"} for line in progress)
        percents = [line["percent"] for line in progress]
        assert percents == sorted(percents)
        assert percents[0] == 0
        assert percents[-1] == 100
        assert len(set(percents)) > 20
        assert list(dict.fromkeys(line["stage"] for line in progress)) == [
            "check", "affine", "optimize", "measure", "done",
        ]  # fmt: skip

    @pytest.mark.parametrize("name", ["t.tfm", "t.nrrd", "t.nii.gz", "t.nii", "t.mha", "t.h5"])
    def test_every_kind_of_transform_says_the_same(self, done: Path, tmp_path: Path, name: str) -> None:
        options = ["--affine", "none", "--device", "cpu", "--progress", "none", "--output-transform"]
        assert register(done, *options, tmp_path / name) == 0
        if name.endswith((".h5", ".tfm")):
            transform = sitk.ReadTransform(str(tmp_path / name))
        else:
            field = sitk.ReadImage(str(tmp_path / name), sitk.sitkVectorFloat64)
            transform = sitk.DisplacementFieldTransform(field)
        points = points_of(fixed_image())
        result = CycleRegLib.register(
            fixed_image(), moving_image(), device="cpu", affine="none"
        )  # the same run, not written
        expected = result.field.transform_points(points)
        assert np.abs(expected - points).max() > 1.0
        np.testing.assert_allclose(moved(transform, points), expected, atol=1e-3)

    @pytest.mark.parametrize("mode", ["none", "rigid", "affine", "auto"])
    def test_affine_modes(self, pair: Path, mode: str) -> None:
        assert register(pair, "--affine", mode, "--json", pair / "s.json", "--progress", "none") == 0
        matrix = np.array(json.loads((pair / "s.json").read_text())["affine_matrix_lps"])
        turn = matrix[:3, :3]
        if mode == "none":
            np.testing.assert_array_equal(matrix, np.eye(4))
        elif mode == "rigid":
            np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-4)
            assert np.abs(matrix - np.eye(4)).max() > 1e-3
        else:
            assert np.abs(turn @ turn.T - np.eye(3)).max() > 1e-4

    def test_linear_initial_transform(self, pair: Path) -> None:
        away = moving_image()
        away.SetOrigin([o + 400.0 for o in away.GetOrigin()])
        sitk.WriteImage(away, str(pair / "moving.nrrd"))
        sitk.WriteTransform(sitk.TranslationTransform(3, [400.0] * 3), str(pair / "start.tfm"))
        options = ["--initial-transform", pair / "start.tfm", "--affine", "none", "--progress", "none"]
        assert register(pair, *options, "--output-transform", pair / "t.h5", "--json", pair / "s.json") == 0
        points = points_of(fixed_image(), margin=8.0)
        shift = moved(sitk.ReadTransform(str(pair / "t.h5")), points) - points
        np.testing.assert_allclose(shift.mean(axis=0), 400.0, atol=5.0)
        similarity = json.loads((pair / "s.json").read_text())["similarity"]
        assert similarity["after"] > similarity["before"]

    def test_masks_and_refinement(self, pair: Path) -> None:
        sitk.WriteImage(image_of((body() > 40).astype(np.uint8)), str(pair / "mask.nii.gz"))
        options = ["--fixed-mask", pair / "mask.nii.gz", "--moving-mask", pair / "mask.nii.gz", "--refine-steps", "3"]
        assert register(pair, *options, "--output-volume", pair / "w.nrrd", "--progress", "none") == 0
        assert np.isfinite(sitk.GetArrayFromImage(sitk.ReadImage(str(pair / "w.nrrd")))).all()

    def test_network(self, pair: Path) -> None:
        torch.manual_seed(0)
        state = {name: 0.01 * value for name, value in CycleMorphUNet().state_dict().items()}
        torch.save(state, pair / "weights.pth")
        options = ["--method", "cyclemorph", "--checkpoint", pair / "weights.pth", "--progress", "none"]
        assert register(pair, *options, "--output-volume", pair / "w.nrrd", "--json", pair / "s.json") == 0
        figures = json.loads((pair / "s.json").read_text())
        assert figures["method"] == "cyclemorph"
        assert figures["checkpoint"] == str(pair / "weights.pth")
        assert len(figures["checkpoint_sha256"]) == 64
        assert "network" in figures["seconds"]

    @pytest.mark.parametrize("name", ["i.nrrd", "i.nii.gz", "i.mha", "i.mhd", "dicom"])
    def test_formats_of_images(self, pair: Path, name: str) -> None:
        if name == "dicom":
            write_dicom(pair / name, fixed_image(), 1)
        else:
            sitk.WriteImage(fixed_image(), str(pair / name))
        arguments = ["--fixed", pair / name, "--moving", pair / "moving.nrrd", "--affine", "none"]
        assert run("register", *arguments, "--output-volume", pair / "w.nrrd", "--progress", "none") == 0
        assert Grid.of(sitk.ReadImage(str(pair / "w.nrrd"))).same_as(Grid.of(fixed_image()))

    def test_warnings_are_one_line(self, pair: Path, capfd: pytest.CaptureFixture[str]) -> None:
        write_dicom(pair / "dicom", fixed_image(), 1)
        write_dicom(pair / "dicom", fixed_image(), 2, lambda i: i < 9)
        arguments = ["--fixed", pair / "dicom", "--moving", pair / "moving.nrrd", "--affine", "none"]
        assert run("register", *arguments, "--json", pair / "s.json", "--progress", "none") == 0
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("cyclereg: warning: The fixed image folder ")
        assert "2 DICOM series; the longest, of 28 slices, is used" in line

    def test_a_start_that_deforms_keeps_only_its_affine_part(
        self, done: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        options = ["--initial-transform", done / "t.h5", "--affine", "rigid", "--progress", "none"]
        assert register(done, *options, "--json", tmp_path / "s.json") == 0
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("cyclereg: warning: ")
        assert line.split("warning: ")[1] in json.loads((tmp_path / "s.json").read_text())["warnings"]

    @pytest.mark.parametrize("shape", [(4, 4, 4), (4, 40, 5), (60, 6, 9)])
    def test_odd_shapes(self, tmp_path: Path, shape: tuple[int, ...], capfd: pytest.CaptureFixture[str]) -> None:
        rng = np.random.default_rng(0)
        for name in ("fixed", "moving"):
            sitk.WriteImage(image_of(rng.normal(size=shape).astype(np.float32)), str(tmp_path / f"{name}.nrrd"))
        for mode in ("none", "auto"):
            status = register(tmp_path, "--affine", mode, "--output-volume", tmp_path / "w.nrrd", "--progress", "none")
            said = capfd.readouterr().err
            assert status in (0, 2), said
            assert "Traceback" not in said
        assert np.isfinite(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "w.nrrd")))).all()

    @pytest.mark.parametrize("factor", [1e-30, 1e-6, 1e6, 1e30])
    def test_any_unit_of_intensity(self, pair: Path, factor: float) -> None:
        found = []
        for f in (1.0, factor):
            for side, image in (("fixed", fixed_image()), ("moving", moving_image())):
                sitk.WriteImage(
                    sitk.Cast(sitk.Cast(image, sitk.sitkFloat64) * f, sitk.sitkFloat32), str(pair / f"{side}.nrrd")
                )
            options = ["--affine", "none", "--output-transform", pair / "t.nrrd", "--progress", "none"]
            assert register(pair, *options) == 0
            found.append(sitk.GetArrayFromImage(sitk.ReadImage(str(pair / "t.nrrd"))))
        assert np.abs(found[0]).max() > 1.0
        np.testing.assert_allclose(found[1], found[0], atol=0.3)


class TestProgressOnALog:
    def test_a_plain_line_per_stage(self, pair: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert register(pair, "--affine", "none", "--json", pair / "s.json", "--progress", "bar") == 0
        out, err = capfd.readouterr()
        assert out == ""
        assert "\r" not in err
        assert "\033" not in err
        assert [line.split()[-1] for line in err.splitlines()] == ["check", "affine", "optimize", "measure", "done"]

    def test_none(self, pair: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert register(pair, "--affine", "none", "--json", pair / "s.json", "--progress", "none") == 0
        assert capfd.readouterr() == ("", "")

    def test_a_bar_on_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        progress = make_progress("bar")
        assert progress is not None
        for fraction in (0.0, 0.5, 0.4, 1.0):
            monkeypatch.setattr(progress, "_drawn", 0.0)
            progress("optimize", fraction)
        drawn = terminal.getvalue()
        assert drawn.count("\r") == 4
        assert drawn.endswith("\n")
        assert drawn.count(" 50 %") == 2  # it does not fall
        assert main(["register"]) == 2
        assert terminal.getvalue().removeprefix(drawn).startswith("\rcyclereg: error: ")

    def test_json_never_falls(self, capsys: pytest.CaptureFixture[str]) -> None:
        progress = make_progress("json")
        assert progress is not None
        for stage, fraction in (("a", 0.1), ("a", 0.6), ("a", 0.2), ("b", 0.3), ("b", 1.0)):
            progress(stage, fraction)
        percents = [json.loads(line)["percent"] for line in capsys.readouterr().out.splitlines()]
        assert percents == [10, 60, 60, 100]


class TestTrouble:
    @pytest.mark.parametrize(
        "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes")]
    )
    def test_memory_ends_once(
        self, pair: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: Exception
    ) -> None:
        real, sizes = deformation.optimize_pair, []

        def scarce(domain: Any, *rest: Any) -> Any:
            sizes.append(np.prod(domain.grid.size))
            if len(sizes) == 1:
                raise error
            return real(domain, *rest)

        monkeypatch.setattr(deformation, "optimize_pair", scarce)
        options = ["--output-volume", pair / "w.nrrd", "--json", pair / "s.json", "--progress", "none"]
        assert register(pair, "--device", "cpu", *options) == 0
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("cyclereg: warning: Memory ran out on cpu")
        assert sizes[1] <= 0.5 * sizes[0]
        assert Grid.of(sitk.ReadImage(str(pair / "w.nrrd"))).same_as(Grid.of(fixed_image()))
        assert "Memory ran out" in json.loads((pair / "s.json").read_text())["warnings"][0]

    @pytest.mark.parametrize(
        ("where", "error"),
        [
            ("optimize_pair", MemoryError()),
            ("optimize_pair", RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory")),
            ("WorkingGrid", RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")),
        ],
    )
    def test_memory_ends_always(
        self,
        pair: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
        where: str,
        error: Exception,
    ) -> None:
        def never(*_: Any, **__: Any) -> Any:
            raise error

        monkeypatch.setattr(deformation, where, never)
        before = tree(pair)
        assert register(pair, "--device", "cpu", "--output-volume", pair / "w.nrrd", "--progress", "none") == 3
        said = capfd.readouterr().err
        *warned, last = said.splitlines()
        assert all(line.startswith("cyclereg: warning: Memory ran out") for line in warned)
        assert last.startswith("cyclereg: error: Memory ran out")
        assert said.count("cyclereg: error") == 1
        assert "Traceback" not in said
        assert tree(pair) == before

    @pytest.mark.parametrize(
        "error", [MemoryError(), RuntimeError("Failed to allocate memory for image"), RuntimeError("std::bad_alloc")]
    )
    def test_memory_ends_elsewhere(
        self, pair: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: Exception
    ) -> None:
        def never(*_: Any, **__: Any) -> Any:
            raise error

        monkeypatch.setattr("CycleRegLib.registration.register_affine", never)
        arguments = ["register", "--fixed", pair / "fixed.nrrd", "--moving", pair / "moving.nrrd", "--device", "cpu"]
        arguments += ["--output-volume", pair / "w.nrrd", "--progress", "none"]
        refuse(capfd, pair, arguments, "memory ran out", status=3)

    def test_a_bug_is_not_hidden(self, pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: Any, **__: Any) -> Any:
            raise RuntimeError("an index is wrong")

        monkeypatch.setattr("CycleRegLib.registration.register_affine", broken)
        before = tree(pair)
        with pytest.raises(RuntimeError, match="an index is wrong"):
            register(pair, "--output-volume", pair / "w.nrrd", "--progress", "none")
        assert tree(pair) == before

    @pytest.mark.parametrize("writer", ["write_transform", "write_image", "write_json", "render_report"])
    def test_disk_full(
        self, pair: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], writer: str
    ) -> None:
        def full(*_: Any, **__: Any) -> Any:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        (pair / "w.nrrd").write_text("an earlier result")
        monkeypatch.setattr(f"CycleRegLib.commands.{writer}", full)
        arguments = ["register", "--fixed", pair / "fixed.nrrd", "--moving", pair / "moving.nrrd", "--affine", "none"]
        arguments += [
            "--output-volume",
            pair / "w.nrrd",
            "--output-transform",
            pair / "t.h5",
            "--json",
            pair / "s.json",
        ]
        arguments += ["--report", pair / "report", "--progress", "none"]
        refuse(capfd, pair, arguments, "no space left on device", "nothing was changed")

    @pytest.mark.skipif(sys.platform == "win32", reason="the limit that stands for a full disk is a POSIX one")
    @pytest.mark.parametrize("limit", [20_000, 60_000])
    @pytest.mark.parametrize("name", ["o.nrrd", "o.nii", "o.nii.gz", "o.mha", "o.h5", "o.tfm"])
    def test_files_may_not_grow(self, pair: Path, capfd: pytest.CaptureFixture[str], name: str, limit: int) -> None:
        import resource

        what = "transform" if name.endswith((".h5", ".tfm")) else "volume"
        arguments = ["register", "--fixed", pair / "fixed.nrrd", "--moving", pair / "moving.nrrd", "--affine", "none"]
        arguments += [f"--output-{what}", pair / name, "--progress", "none"]
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            refuse(capfd, pair, arguments, name, "could not be written", "nothing was changed")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def test_the_last_file_cannot_be_put_in_place(
        self, pair: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        replace = os.replace

        def held_open(source: Any, target: Any) -> None:
            if Path(target).name == "s.json":
                raise PermissionError(errno.EACCES, "The file is open in another program")
            replace(source, target)

        monkeypatch.setattr(outputs.os, "replace", held_open)
        (pair / "w.nrrd").write_text("an earlier result")
        arguments = ["register", "--fixed", pair / "fixed.nrrd", "--moving", pair / "moving.nrrd", "--affine", "none"]
        arguments += ["--output-volume", pair / "w.nrrd", "--json", pair / "s.json", "--progress", "none"]
        refuse(capfd, pair, arguments, "open in another program", "nothing was changed")


# So that a child can be interrupted even where its parent was started with the signal ignored.
CHILD = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from CycleRegLib.cli import main; sys.exit(main(sys.argv[1:]))"
)


def child(*arguments: str | Path, **more: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", CHILD, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **more)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_stopped_amid_the_work(self, pair: Path, number: signal.Signals) -> None:
        (pair / "w.nrrd").write_text("an earlier result")
        before = tree(pair)
        arguments = ["--fixed", pair / "fixed.nrrd", "--moving", pair / "moving.nrrd", "--refine-steps", "100000"]
        arguments += ["--affine", "none", "--output-volume", pair / "w.nrrd", "--output-transform", pair / "t.h5"]
        process = child("register", *arguments, "--progress", "json")
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if json.loads(line)["stage"] == "optimize":
                    break
            assert any(name.startswith(".cyclereg-") for name in tree(pair))
            process.send_signal(number)
            process.send_signal(number)  # an impatient user; what was begun is removed all the same
            _, err = process.communicate(timeout=SECONDS_TO_START)
        finally:
            process.kill()
        assert process.returncode == 130, err
        assert err.splitlines() == ["cyclereg: error: Cancelled; nothing was written."]
        assert tree(pair) == before

    def test_reader_of_the_progress_goes_away(self, pair: Path) -> None:
        before = tree(pair)
        arguments = ["--fixed", pair / "fixed.nrrd", "--moving", pair / "moving.nrrd", "--affine", "none"]
        process = child("register", *arguments, "--output-volume", pair / "w.nrrd", "--progress", "json")
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["stage"] == "check"
            process.stdout.close()
            assert process.stderr is not None
            err = process.stderr.read()
            assert process.wait(SECONDS_TO_START) == 130, err
        finally:
            process.kill()
        assert err.startswith("cyclereg: error: Nobody reads the progress")
        assert len(err.splitlines()) == 1
        assert tree(pair) == before

    def test_reader_of_a_table_goes_away(self) -> None:
        process = child("methods")
        try:
            assert process.stdout is not None
            process.stdout.close()  # while the child still starts
            assert process.stderr is not None
            assert process.stderr.read() == ""
            assert process.wait(SECONDS_TO_START) == 0
        finally:
            process.kill()


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shift of (6, -4, 5) mm as transform, with landmarks and segmentations that it maps exactly."""
    folder = tmp_path_factory.mktemp("known")
    shift = np.array([6.0, -4.4, 5.0])  # whole voxels
    fixed = fixed_image()
    moving = sitk.Image(fixed)
    moving.SetOrigin(np.array(fixed.GetOrigin()) + shift)
    sitk.WriteImage(fixed, str(folder / "fixed.nrrd"))
    sitk.WriteImage(moving, str(folder / "moving.nrrd"))
    sitk.WriteTransform(sitk.TranslationTransform(3, shift), str(folder / "t.tfm"))
    sitk.WriteTransform(sitk.TranslationTransform(3, -shift), str(folder / "ti.tfm"))
    points = points_of(fixed, 5)
    labels = [f"point {i}" for i in range(5)]
    write_landmarks(LandmarkList(labels, points), folder / "fixed.mrk.json")
    write_landmarks(LandmarkList(labels, points + shift), folder / "moving.fcsv")
    segments = np.where(body() > 130, 2, body() > 60).astype(np.uint8)
    for side, image in (("fixed", fixed), ("moving", moving)):
        labelled = sitk.GetImageFromArray(segments)
        labelled.CopyInformation(image)
        sitk.WriteImage(labelled, str(folder / f"{side}-labels.nrrd"))
    return folder


class TestEvaluate:
    def arguments(self, known: Path, **more: str | Path | None) -> list[str | Path]:
        given: dict[str, str | Path | None] = {
            "fixed": known / "fixed.nrrd",
            "moving": known / "moving.nrrd",
            "transform": known / "t.tfm",
            "fixed-landmarks": known / "fixed.mrk.json",
            "moving-landmarks": known / "moving.fcsv",
            "fixed-segmentation": known / "fixed-labels.nrrd",
            "moving-segmentation": known / "moving-labels.nrrd",
            **{name.replace("_", "-"): value for name, value in more.items()},
        }
        return ["evaluate", *[part for k, v in given.items() if v is not None for part in (f"--{k}", v)]]

    def test_all_of_it(self, known: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        arguments = self.arguments(
            known, inverse_transform=known / "ti.tfm", json=tmp_path / "e.json", csv=tmp_path / "e.csv",
            report=tmp_path / "report", tumor_segment="label 2",
        )  # fmt: skip
        status = run(*arguments)
        out, err = capfd.readouterr()
        assert status == 0, err
        figures = json.loads((tmp_path / "e.json").read_text())
        distance = float(np.linalg.norm([6.0, -4.4, 5.0]))
        assert figures["tre_mm"]["before"]["mean"] == pytest.approx(distance, abs=1e-3)
        assert figures["tre_mm"]["after"]["mean"] == pytest.approx(0, abs=1e-3)
        assert {"mean", "sd", "max"} <= set(figures["tre_mm"]["before"])
        for measure, best in (("dice", 1.0), ("iou", 1.0), ("hd95_mm", 0.0)):
            assert len(figures[measure]) == 2
            for scores in figures[measure].values():
                assert scores["after"] == pytest.approx(best, abs=1e-3)
                assert abs(scores["before"] - best) > 0.05
        assert figures["jacobian"]["folding_percent"] == 0
        assert figures["jacobian"]["sd"] == pytest.approx(0, abs=1e-4)
        assert figures["jacobian"]["sd_log"] == pytest.approx(0, abs=1e-4)
        assert figures["roundtrip_mm"]["mean"] == pytest.approx(0, abs=1e-3)
        for quantity in ("major_mm", "minor_mm", "volume_ml"):
            sizes = figures["tumor"][quantity]
            assert sizes["fixed"] == pytest.approx(sizes["moving"], rel=1e-3)
            assert sizes["fixed"] == pytest.approx(sizes["warped"], rel=1e-3)
        assert figures["command"].startswith("cyclereg evaluate ")
        assert f"{distance:.2f}"[:4] in out
        with open(tmp_path / "e.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert len(rows) > 10
        assert len({len(row) for row in rows}) == 1
        assert "data:image/png" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
        assert {p.name for p in tmp_path.iterdir()} == {"e.json", "e.csv", "report"}

    def test_of_what_register_wrote(self, done: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        arguments = ["--fixed", done / "fixed.nrrd", "--moving", done / "moving.nrrd", "--transform", done / "t.h5"]
        arguments += ["--inverse-transform", done / "ti.h5", "--json", tmp_path / "e.json"]
        assert run("evaluate", *arguments) == 0
        ours = json.loads((tmp_path / "e.json").read_text())
        theirs = json.loads((done / "s.json").read_text())
        assert ours["roundtrip_mm"]["mean"] == pytest.approx(theirs["roundtrip_mm"]["mean"], rel=0.02)
        assert ours["jacobian"]["sd"] == pytest.approx(theirs["jacobian"]["sd"], rel=1e-3)
        assert "Round trip" in capfd.readouterr().out

    def test_unequal_lists_without_labels(self, known: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        points = points_of(fixed_image(), 5)
        for name, some in (("a.csv", points), ("b.csv", points[:3] + [6.0, -4.4, 5.0])):
            np.savetxt(tmp_path / name, some, delimiter=",")
        arguments = self.arguments(
            known, fixed_landmarks=tmp_path / "a.csv", moving_landmarks=tmp_path / "b.csv",
            fixed_segmentation=None, moving_segmentation=None, json=tmp_path / "e.json",
        )  # fmt: skip
        assert run(*arguments) == 0
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("cyclereg: warning: There are 5 fixed and 3 moving landmarks")
        assert json.loads((tmp_path / "e.json").read_text())["tre_mm"]["after"]["mean"] == pytest.approx(0, abs=1e-3)

    def test_bad_input(self, known: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        def refused(*words: str, **more: str | Path | None) -> None:
            arguments = self.arguments(known, json=tmp_path / "e.json", report=tmp_path / "report", **more)
            refuse(capfd, tmp_path, arguments, *words)

        points = points_of(fixed_image(), 5)
        labels = [f"point {i}" for i in range(5)]
        for name, some in (
            ("ras.csv", points * [-1, -1, 1] + [20.0, -20.0, 0.0]),
            ("far.csv", points + 900),
            ("nan.csv", np.where(np.arange(5)[:, None] == 3, np.nan, points)),
        ):
            (tmp_path / name).write_text(
                "\n".join(f"{n},{','.join(map(repr, p))}" for n, p in zip(labels, some.tolist()))
            )
        (tmp_path / "other.csv").write_text("liver,0,0,0\nspleen,1,1,1\n")
        (tmp_path / "none.csv").write_text("label,x,y,z\n")
        (tmp_path / "text.csv").write_text("these are\nno points\n")
        (tmp_path / "empty.nrrd").touch()
        refused("outside the moving image", "point 0", moving_landmarks=tmp_path / "far.csv")
        refused("outside the fixed image", fixed_landmarks=tmp_path / "far.csv")
        refused("no label in common", moving_landmarks=tmp_path / "other.csv")
        refused("none.csv", moving_landmarks=tmp_path / "none.csv")
        refused("text.csv", moving_landmarks=tmp_path / "text.csv")
        refused("nan.csv", moving_landmarks=tmp_path / "nan.csv")
        refused("no.csv", "does not exist", moving_landmarks=tmp_path / "no.csv")
        refused("fixed.nrrd", moving_landmarks=known / "fixed.nrrd")
        refused("--fixed-landmarks and --moving-landmarks", moving_landmarks=None)
        refused("--fixed-segmentation and --moving-segmentation", fixed_segmentation=None)
        refused("no.nrrd", "does not exist", fixed_segmentation=tmp_path / "no.nrrd")
        refused("empty.nrrd", fixed_segmentation=tmp_path / "empty.nrrd")
        refused("fixed.nrrd", fixed_segmentation=known / "fixed.nrrd")
        refused("tumour", "liver", tumor_segment="liver")
        refused("no.h5", "does not exist", transform=tmp_path / "no.h5")
        refused("empty.nrrd", transform=tmp_path / "empty.nrrd")
        refused("no displacement field", transform=known / "fixed.nrrd")
        refused("no.h5", "does not exist", inverse_transform=tmp_path / "no.h5")
        refused("fixed image", "label image", fixed=known / "fixed-labels.nrrd")
        refused("moving image", "does not exist", moving=tmp_path / "no.nrrd")
        refused("one of the inputs", csv=known / "fixed.mrk.json")
        refused("one of the inputs", csv=known / "t.tfm")
        refused("same path", csv=tmp_path / "e.json")
        refused("missing", "does not exist", csv=tmp_path / "missing" / "e.csv")
        refused("mask", "does not exist", mask=tmp_path / "no.nrrd")

    def test_landmarks_of_the_other_side(self, known: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        # Far from the middle, so that the mirrored points lie outside: RAS numbers in a file that says LPS.
        image = image_of(body(), (40.0, 50.0, -34.0))
        sitk.WriteImage(image, str(tmp_path / "fixed.nrrd"))
        points = points_of(image, 5)
        labels = [f"point {i}" for i in range(5)]
        write_landmarks(LandmarkList(labels, points * [-1, -1, 1]), tmp_path / "a.mrk.json")
        write_landmarks(LandmarkList(labels, points), tmp_path / "b.mrk.json")
        sitk.WriteTransform(sitk.TranslationTransform(3), str(tmp_path / "t.tfm"))
        arguments = ["evaluate", "--fixed", tmp_path / "fixed.nrrd", "--moving", tmp_path / "fixed.nrrd"]
        arguments += ["--transform", tmp_path / "t.tfm", "--fixed-landmarks", tmp_path / "a.mrk.json"]
        arguments += ["--moving-landmarks", tmp_path / "b.mrk.json"]
        refuse(capfd, tmp_path, arguments, "5 of 5 landmarks lie outside the fixed image", "RAS", "LPS")

    def test_a_console_of_few_characters(self, known: Path) -> None:
        arguments = [str(a) for a in self.arguments(known)]
        environment = {**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
        found = subprocess.run(
            [sys.executable, "-m", "CycleRegLib", *arguments], env=environment, capture_output=True, check=False
        )
        assert found.returncode == 0, found.stderr


class TestOtherCommands:
    def test_sample(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert run("sample", "--output", tmp_path / "pair", "--scale", "6") == 0
        names = {p.name for p in (tmp_path / "pair").iterdir()}
        assert {"fixed.nrrd", "moving.nrrd", "fixed.mrk.json", "moving.mrk.json"} <= names
        said = capfd.readouterr().out
        assert all(str(tmp_path / "pair" / name) in said for name in names)
        refuse(capfd, tmp_path, ["sample", "--output", tmp_path / "pair"], "not empty")
        refuse(capfd, tmp_path, ["sample", "--output", tmp_path / "a" / "b"], "does not exist")
        refuse(capfd, tmp_path, ["sample", "--output", tmp_path / "pair" / "fixed.nrrd"], "is a file")
        for scale in ("0", "-1", "nan", "100", "x"):
            refuse(capfd, tmp_path, ["sample", "--output", tmp_path / "new", "--scale", scale], "--scale", "0.5 to 8")
        refuse(capfd, tmp_path, ["sample", "--output", tmp_path / "new", "--seed", "-1"], "--seed")

    def test_demo_refuses(self, pair: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        refuse(capfd, pair, ["demo", "--output", pair], "something else than an earlier demo")
        refuse(capfd, pair, ["demo", "--output", pair / "fixed.nrrd"], "is a file")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        refuse(capfd, pair, ["demo", "--output", pair / "new", "--device", "cuda"], "cuda", "available here")

    def test_methods(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert run("methods") == 0
        out = capfd.readouterr().out
        assert out.startswith("optimize ")
        assert "cyclemorph" in out

    def test_help_and_version(self, capfd: pytest.CaptureFixture[str]) -> None:
        for arguments in (["--help"], ["register", "--help"], ["--version"]):
            with pytest.raises(SystemExit) as ended:
                main(arguments)
            assert ended.value.code == 0
        assert "cyclereg 0." in capfd.readouterr().out

    def test_checkpoints(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        torch.save(CycleMorphUNet().state_dict(), tmp_path / "w.pth")
        assert run("checkpoint", "convert", tmp_path / "w.pth", tmp_path / "w.safetensors", "--licence", "CC0") == 0
        capfd.readouterr()
        assert run("checkpoint", "info", tmp_path / "w.safetensors", "--json") == 0
        facts = json.loads(capfd.readouterr().out)
        assert facts["method"] == "cyclemorph"
        assert facts["licence"] == "CC0"
        convert = ["checkpoint", "convert", tmp_path / "w.safetensors"]
        refuse(capfd, tmp_path, [*convert, tmp_path / "w.safetensors"], "it is the input")
        refuse(capfd, tmp_path, [*convert, tmp_path / "no" / "w.safetensors"], "does not exist")
        refuse(capfd, tmp_path, [*convert, tmp_path / "x.safetensors", "--grid-size", "0", "8", "8"], "size")
        refuse(capfd, tmp_path, [*convert, tmp_path / "x.safetensors", "--normalisation", "loud"], "normalisation")
        refuse(capfd, tmp_path, [*convert, tmp_path / "x.safetensors", "--published", "mine"], "mine")
        refuse(capfd, tmp_path, ["checkpoint", "info", tmp_path / "no.pth"], "no checkpoint")
        refuse(capfd, tmp_path, ["checkpoint", "info", tmp_path], "folder")

    def test_as_a_module(self) -> None:
        began = time.perf_counter()
        found = subprocess.run(
            [sys.executable, "-m", "CycleRegLib", "register", "--fixed", "x"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == 2
        assert found.stdout == ""
        assert len(found.stderr.splitlines()) == 1
        assert "--moving" in found.stderr
        assert time.perf_counter() - began < SECONDS_TO_START
