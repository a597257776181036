"""Bad input to ``cyclereg register``: exit status 2, one clear line, and nothing written or changed."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from small_pair import body, fixed_image, image_of, moving_image, refuse, tree

from CycleRegLib.cli import main
from CycleRegLib.networks import CycleMorphUNet

Refuse = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``fixed.nrrd``, ``moving.nrrd``, and an earlier output."""
    sitk.WriteImage(fixed_image(), str(tmp_path / "fixed.nrrd"))
    sitk.WriteImage(moving_image(), str(tmp_path / "moving.nrrd"))
    (tmp_path / "warped.nrrd").write_text("an earlier result")
    return tmp_path


@pytest.fixture
def check_refused(folder: Path, capfd: pytest.CaptureFixture[str]) -> Refuse:
    """Call with options of ``register`` that replace or add to good ones, and words that the error must hold."""

    def call(options: dict[str, str | Path | None], *words: str) -> str:
        given: dict[str, str | Path | None] = {
            "--fixed": folder / "fixed.nrrd",
            "--moving": folder / "moving.nrrd",
            "--affine": "none",
            "--progress": "none",
            "--output-volume": folder / "warped.nrrd",
            "--output-transform": folder / "new.h5",
            **options,
        }
        arguments = [part for name, value in given.items() if value is not None for part in (name, value)]
        return refuse(capfd, folder, ["register", *arguments], *words)

    return call


def write(image: sitk.Image, path: Path) -> Path:
    sitk.WriteImage(image, str(path))
    return path


class TestImages:
    @pytest.mark.parametrize("side", ["fixed", "moving"])
    def test_missing(self, folder: Path, check_refused: Refuse, side: str) -> None:
        check_refused({f"--{side}": folder / "no.nrrd"}, f"{side} image", "no.nrrd", "does not exist")
        check_refused({f"--{side}": folder / ("n" * 300)}, f"{side} image", "cannot be read", "name too long")
        check_refused({f"--{side}": ""}, f"{side} image", "empty")

    @pytest.mark.parametrize("side", ["fixed", "moving"])
    def test_not_an_image(self, folder: Path, check_refused: Refuse, side: str) -> None:
        for name in ("text.nrrd", "text.nii.gz", "text.mha", "text.png", "text"):
            (folder / name).write_text("not an image\n" * 20)
            check_refused({f"--{side}": folder / name}, f"{side} image", name, "not an image", "damaged")
        (folder / "empty.nrrd").touch()
        check_refused({f"--{side}": folder / "empty.nrrd"}, "empty file")
        (folder / "sub").mkdir()
        check_refused({f"--{side}": folder / "sub"}, "sub", "DICOM")

    @pytest.mark.parametrize("name", ["t.nrrd", "t.mha", "t.nii", "t.nii.gz"])
    def test_cut_short(self, folder: Path, check_refused: Refuse, name: str) -> None:
        path = write(fixed_image(), folder / name)
        path.write_bytes(path.read_bytes()[:60_000])
        check_refused({"--moving": path}, "moving image", name, "cut short")

    def test_other_kinds_of_images(self, folder: Path, check_refused: Refuse) -> None:
        array = body()
        colour = image_of(np.stack([array] * 3, -1).clip(0, 255).astype(np.uint8), vector=True)
        check_refused({"--fixed": write(colour, folder / "rgb.mha")}, "rgb.mha", "3 components", "grey")
        series = sitk.JoinSeries([fixed_image(), fixed_image()])
        check_refused({"--fixed": write(series, folder / "4d.nii.gz")}, "4d.nii.gz", "is 4D", "time point")
        check_refused({"--moving": write(fixed_image()[:, :, 5], folder / "2d.nrrd")}, "2d.nrrd", "is 2D")
        field = image_of(np.zeros((*array.shape, 3), np.float32), vector=True)
        check_refused({"--moving": write(field, folder / "field.nrrd")}, "field.nrrd", "3 components")

    def test_values(self, folder: Path, check_refused: Refuse) -> None:
        array = body()
        array[2, 3, 4:9] = np.nan
        array[5, 5, 5] = np.inf
        check_refused({"--moving": write(image_of(array), folder / "nan.nrrd")}, "nan.nrrd", "holds 6 NaN or infinite")
        constant = np.full(array.shape, 7, np.int16)
        check_refused({"--fixed": write(image_of(constant), folder / "c.nrrd")}, "c.nrrd", "constant", "7")
        labels = ((body() > 50).astype(np.uint8) + (body() > 110)).astype(np.uint8)
        smooth = sitk.GetArrayFromImage(sitk.Median(image_of(labels), [2, 2, 2]))
        check_refused({"--moving": write(image_of(smooth), folder / "l.nrrd")}, "l.nrrd", "label image", "intensity")

    @pytest.mark.parametrize(
        ("name", "old", "new"),
        [
            ("i.mha", b"ElementSpacing = 2 2.2", b"ElementSpacing = 0 2.2"),
            ("i.mha", b"ElementSpacing = 2 2.2", b"ElementSpacing =-2 2.2"),
            ("i.nrrd", b"space directions: (2,0,0)", b"space directions: (0,0,0)"),
        ],
    )
    def test_spacing(self, folder: Path, check_refused: Refuse, name: str, old: bytes, new: bytes) -> None:
        path = write(fixed_image(), folder / name)
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new))
        check_refused({"--fixed": path}, "fixed image", name, "spacing", "not positive")

    @pytest.mark.parametrize("value", [0.0, -2.0])
    def test_nifti_spacing(self, folder: Path, check_refused: Refuse, value: float) -> None:
        path = write(fixed_image(), folder / "i.nii")
        data = bytearray(path.read_bytes())
        data[80:84] = np.array(value, "<f4").tobytes()
        path.write_bytes(data)
        check_refused({"--fixed": path}, "fixed image", "i.nii", "spacing", "not positive")

    def test_no_overlap(self, folder: Path, check_refused: Refuse) -> None:
        far = write(image_of(body(), (900.0, 0.0, 0.0)), folder / "far.nrrd")
        check_refused({"--moving": far}, "do not overlap", "931 mm apart", "--affine")

    def test_unreadable(self, folder: Path, check_refused: Refuse) -> None:
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            pytest.skip("root may read everything")
        (folder / "moving.nrrd").chmod(0)
        check_refused({}, "moving image", "permission denied")


class TestMasks:
    @pytest.mark.parametrize("side", ["fixed", "moving"])
    def test_refused(self, folder: Path, check_refused: Refuse, side: str) -> None:
        inside = (body() > 40).astype(np.uint8)
        option, what = f"--{side}-mask", f"{side} mask"
        check_refused({option: folder / "no.nrrd"}, what, "does not exist")
        check_refused({option: write(image_of(0 * inside), folder / "0.nrrd")}, what, "empty")
        check_refused({option: write(image_of(inside, (900.0, 0, 0)), folder / "far.nrrd")}, what, "does not overlap")
        check_refused({option: folder / "fixed.nrrd"}, what, "fractional", "label image is expected")
        colour = image_of(np.stack([inside] * 3, -1), vector=True)
        check_refused({option: write(colour, folder / "rgb.nrrd")}, what, "3 components")

    def test_another_grid_works(self, folder: Path) -> None:
        inside = image_of((body() > 40).astype(np.uint8))
        grid = sitk.Image([20, 20, 20], sitk.sitkUInt8)
        grid.SetSpacing((4.0, 4.0, 4.0))
        grid.SetOrigin((-40.0, -40.0, -40.0))
        write(sitk.Resample(inside, grid, sitk.Transform(), sitk.sitkNearestNeighbor), folder / "mask.nii.gz")
        arguments = ["--fixed", "fixed.nrrd", "--moving", "moving.nrrd", "--fixed-mask", "mask.nii.gz"]
        arguments += ["--moving-mask", "mask.nii.gz", "--json", "out.json", "--progress", "none"]
        assert main(["register", *[str(folder / a) if "." in a else a for a in arguments]]) == 0
        assert (folder / "out.json").exists()

    def test_a_single_voxel_does_not_break_it(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        one = np.zeros(body().shape, np.uint8)
        one[0, 0, 0] = 1
        write(image_of(one), folder / "one.nrrd")
        arguments = ["--fixed", folder / "fixed.nrrd", "--moving", folder / "moving.nrrd", "--progress", "none"]
        arguments += ["--fixed-mask", folder / "one.nrrd", "--json", folder / "out.json"]
        assert main(["register", *map(str, arguments)]) in (0, 2)
        assert "Traceback" not in capfd.readouterr().err


class TestInitialTransform:
    @pytest.mark.parametrize("name", ["no.h5", "no.nrrd"])
    def test_missing(self, folder: Path, check_refused: Refuse, name: str) -> None:
        check_refused({"--initial-transform": folder / name}, "initial transform", name, "does not exist")

    @pytest.mark.parametrize("name", ["x.h5", "x.tfm", "x.mat", "x.nrrd", "x.nii.gz", "x.xfm"])
    def test_not_a_transform(self, folder: Path, check_refused: Refuse, name: str) -> None:
        (folder / name).write_bytes(bytes(range(256)) * 3)
        check_refused({"--initial-transform": folder / name}, "initial transform", name)

    def test_an_image(self, folder: Path, check_refused: Refuse) -> None:
        check_refused({"--initial-transform": folder / "fixed.nrrd"}, "no displacement field", "3 components")

    def test_leads_nowhere(self, folder: Path, check_refused: Refuse) -> None:
        sitk.WriteTransform(sitk.TranslationTransform(3, (900.0, 0, 0)), str(folder / "t.tfm"))
        for affine in ("none", "rigid", "auto"):
            check_refused(
                {"--initial-transform": folder / "t.tfm", "--affine": affine}, "initial transform", "900 mm apart"
            )

    def test_singular(self, folder: Path, check_refused: Refuse) -> None:
        lines = ["#Insight Transform File V1.0", "#Transform 0", "Transform: AffineTransform_double_3_3"]
        lines += ["Parameters: 1 0 0 0 1 0 0 0 0 0 0 0", "FixedParameters: 0 0 0", ""]
        (folder / "t.tfm").write_text("\n".join(lines))
        for affine in ("none", "affine"):
            check_refused({"--initial-transform": folder / "t.tfm", "--affine": affine}, "singular")

    def test_two_dimensional(self, folder: Path, check_refused: Refuse) -> None:
        sitk.WriteTransform(sitk.Euler2DTransform(), str(folder / "t.tfm"))
        check_refused({"--initial-transform": folder / "t.tfm"}, "is 2D")


class TestOptions:
    def test_usage(self, folder: Path, check_refused: Refuse, capfd: pytest.CaptureFixture[str]) -> None:
        check_refused({"--fixed": None}, "required", "--fixed", "--help")
        check_refused({"--fixd": "x"}, "unrecognized", "--fixd")
        check_refused({"--affine": "similarity"}, "--affine", "similarity", "none", "rigid", "affine")
        check_refused({"--progress": "loud"}, "--progress", "loud", "json")
        check_refused({"--refine-steps": "many"}, "--refine-steps", "many")
        check_refused({"--refine-steps": "-1"}, "negative", "-1")
        refuse(capfd, folder, [], "required", "command")
        refuse(capfd, folder, ["regster"], "regster", "register", "evaluate")

    def test_method(self, check_refused: Refuse) -> None:
        check_refused({"--method": "syn"}, "no method 'syn'", "optimize", "cyclemorph")
        check_refused({"--method": "optimise"}, "did you mean optimize")

    @pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:-1", "", "cpu:1"])
    def test_unknown_device(self, check_refused: Refuse, name: str) -> None:
        check_refused({"--device": name}, f"unknown device '{name}'", "available here", "cpu")

    @pytest.mark.parametrize("name", ["cuda", "cuda:0", "CUDA", "cuda:7"])
    def test_cuda_that_is_not_there(self, check_refused: Refuse, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        check_refused({"--device": name}, name, "cuda", "available here: ", "cpu", "--device auto or cpu")

    def test_nothing_to_write(self, check_refused: Refuse) -> None:
        check_refused(
            {"--output-volume": None, "--output-transform": None}, "no output", "--output-transform", "--json"
        )


class TestOutputs:
    @pytest.mark.parametrize(
        "option",
        [
            "--output-transform",
            "--output-inverse-transform",
            "--output-volume",
            "--output-jacobian",
            "--output-roundtrip",
        ],
    )
    def test_paths(self, folder: Path, check_refused: Refuse, option: str) -> None:
        (folder / "sub.nrrd").mkdir()
        check_refused({option: folder / "missing" / "a.nrrd"}, "missing", "does not exist")
        check_refused({option: folder / "fixed.nrrd" / "a.nrrd"}, "fixed.nrrd", "does not exist")
        check_refused({option: folder / "sub.nrrd"}, "is a folder")
        check_refused({option: folder / "a.xyz"}, "a.xyz", "suffix", ".nrrd", ".nii.gz")
        check_refused({option: folder / "a"}, "suffix")
        check_refused({option: folder / "a.mhd"}, "suffix", ".mha")
        check_refused({option: folder / "a.NRRD"}, "suffix")
        check_refused({option: folder / ("a" * 300 + ".nrrd")}, "too long")

    @pytest.mark.parametrize("suffix", [".png", ".seg.nrrd", ".h5", ".tfm"])
    def test_image_suffix(self, folder: Path, check_refused: Refuse, suffix: str) -> None:
        check_refused({"--output-volume": folder / f"a{suffix}"}, "output volume", "suffix")

    def test_other_outputs(self, folder: Path, check_refused: Refuse) -> None:
        check_refused({"--json": folder / "missing" / "a.json"}, "missing", "does not exist")
        check_refused({"--json": folder}, "is a folder")
        check_refused({"--report": folder / "missing" / "report"}, "report", "does not exist")
        check_refused({"--report": folder / "fixed.nrrd"}, "is a file")
        check_refused({"--json": os.devnull}, "not an ordinary file")
        (folder / "report" / "report.html").mkdir(parents=True)
        check_refused({"--report": folder / "report"}, "report.html", "is a folder")

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write into")
    def test_folder_that_cannot_be_written(self, check_refused: Refuse) -> None:
        check_refused({"--output-volume": "/proc/a.nrrd"}, "cannot write into /proc")
        check_refused({"--report": "/proc/report"}, "cannot write into /proc")

    def test_protected_folder(self, folder: Path, check_refused: Refuse) -> None:
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            pytest.skip("root may write everywhere")
        (folder / "sub").mkdir(mode=0o500)
        check_refused({"--output-volume": folder / "sub" / "a.nrrd"}, "cannot write into", "permission denied")

    def test_one_path_twice(self, folder: Path, check_refused: Refuse) -> None:
        (folder / "sub").mkdir()
        for other in ("a.nrrd", "sub/../a.nrrd"):
            check_refused({"--output-volume": folder / "a.nrrd", "--output-jacobian": folder / other}, "same path")
        check_refused({"--json": folder / "warped.nrrd"}, "same path", "warped.nrrd")
        check_refused({"--json": folder / "a", "--report": folder / "a"}, "same path")
        (folder / "report").mkdir()
        check_refused({"--json": folder / "report" / "report.html", "--report": folder / "report"}, "same path")

    def test_inputs_are_kept(self, folder: Path, check_refused: Refuse) -> None:
        mask = write(image_of((body() > 40).astype(np.uint8)), folder / "mask.nrrd")
        sitk.WriteTransform(sitk.TranslationTransform(3, (1.0, 0, 0)), str(folder / "start.tfm"))
        more = {"--fixed-mask": mask, "--initial-transform": folder / "start.tfm"}
        for name in ("fixed.nrrd", "moving.nrrd", "mask.nrrd"):
            check_refused({**more, "--output-volume": folder / name}, name, "one of the inputs")
        check_refused({**more, "--output-transform": folder / "start.tfm"}, "one of the inputs")
        check_refused({**more, "--json": folder / "fixed.nrrd"}, "one of the inputs")
        (folder / "link.nrrd").symlink_to(folder / "moving.nrrd")
        check_refused({"--output-jacobian": folder / "link.nrrd"}, "one of the inputs")


class Weapon:
    """What a hostile checkpoint holds: unpickling it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


class TestCheckpoints:
    def refuse(self, check_refused: Refuse, path: Path | None, *words: str) -> None:
        check_refused({"--method": "cyclemorph", "--checkpoint": path}, *words)

    def test_missing(self, folder: Path, check_refused: Refuse) -> None:
        self.refuse(check_refused, None, "cyclemorph needs trained weights", "--checkpoint", "--method optimize")
        self.refuse(check_refused, folder / "no.pth", "no checkpoint", "no.pth")
        self.refuse(check_refused, folder, "is a folder")

    def test_for_a_method_without(self, folder: Path, check_refused: Refuse) -> None:
        torch.save(CycleMorphUNet().state_dict(), folder / "w.pth")
        for option in ("--checkpoint", "--backward-checkpoint"):
            check_refused({option: folder / "w.pth"}, "optimize uses no checkpoint")

    @pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
    def test_no_checkpoint(self, folder: Path, check_refused: Refuse, suffix: str) -> None:
        for content in (b"", b"no weights\n" * 30, bytes(range(256)), (folder / "fixed.nrrd").read_bytes()):
            (folder / f"w{suffix}").write_bytes(content)
            self.refuse(check_refused, folder / f"w{suffix}", f"w{suffix}", "checkpoint")

    def test_other_weights(self, folder: Path, check_refused: Refuse) -> None:
        state = CycleMorphUNet().state_dict()
        first = next(iter(state))
        torch.save({k: v for k, v in state.items() if k != first}, folder / "less.pth")
        self.refuse(check_refused, folder / "less.pth", "1 missing", first)
        torch.save({**state, "more": torch.zeros(1)}, folder / "more.pth")
        self.refuse(check_refused, folder / "more.pth", "1 extra", "more")
        torch.save({"unet_model.a": torch.zeros(1), "flow.weight": torch.zeros(1)}, folder / "vm.pt")
        self.refuse(check_refused, folder / "vm.pt", "belongs to voxelmorph, not to cyclemorph")
        torch.save({"weights": [1, 2, 3]}, folder / "list.pt")
        self.refuse(check_refused, folder / "list.pt", "list.pt")

    @pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
    def test_code_is_not_run(self, folder: Path, check_refused: Refuse, form: str) -> None:
        trace = folder / "it-ran"
        content = {**CycleMorphUNet().state_dict(), "extra": Weapon(trace)}
        if form == "pickle":
            (folder / "evil.pth").write_bytes(pickle.dumps(content["extra"]))
        else:
            torch.save(content, folder / "evil.pth", _use_new_zipfile_serialization=form == "zip")
        self.refuse(check_refused, folder / "evil.pth", "would run code", "mkdir")
        assert not trace.exists()
        pickle.loads(pickle.dumps(Weapon(trace)))  # the weapon works
        assert trace.exists()


def test_the_good_arguments_are_good(folder: Path) -> None:
    """All refusals above start from these, so that nothing but the change can be what is check_refused."""
    before = tree(folder)
    arguments = ["--fixed", folder / "fixed.nrrd", "--moving", folder / "moving.nrrd", "--affine", "none"]
    arguments += ["--output-volume", folder / "warped.nrrd", "--output-transform", folder / "new.h5"]
    assert main(["register", *map(str, arguments), "--progress", "none"]) == 0
    after = tree(folder)
    assert set(after) == {*before, "new.h5"}
    assert after["warped.nrrd"] != before["warped.nrrd"]
    assert after["fixed.nrrd"] == before["fixed.nrrd"]
