from __future__ import annotations

import gzip
import os
import re
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from small_pair import ORIGIN, SPACING, body, fixed_image, image_of, write_dicom

from CycleRegLib.errors import CycleRegWarning, InputError
from CycleRegLib.fields import DisplacementField
from CycleRegLib.geometry import Grid
from CycleRegLib.image_checks import check_intensity_image, check_mask, check_overlap
from CycleRegLib.image_headers import check_header
from CycleRegLib.images import (
    check_output_suffix,
    read_any_image,
    read_image,
    read_label_image,
    read_transform,
    write_image,
    write_transform,
)
from CycleRegLib.label_maps import looks_like_labels

ARRAY = body()


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The fixed image as NRRD, MetaImage and NIfTI, plain and packed, in one file and in two."""
    image = fixed_image()
    for name in ("plain.nrrd", "plain.mha", "plain.nii", "two.mhd", "two.nhdr", "pair.hdr"):
        sitk.WriteImage(image, str(tmp_path / name))
    for name in ("packed.nrrd", "packed.mha", "packed.nii.gz"):
        sitk.WriteImage(image, str(tmp_path / name), useCompression=True)
    return tmp_path


class TestReading:
    @pytest.mark.parametrize(
        "name",
        [
            "plain.nrrd", "plain.mha", "plain.nii", "packed.nrrd", "packed.mha", "packed.nii.gz", "two.mhd", "two.nhdr",
            "pair.hdr", "pair.img",
        ],
    )  # fmt: skip
    def test_formats(self, written: Path, name: str) -> None:
        image = read_image(written / name)
        assert image.GetPixelID() == sitk.sitkFloat32
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), ARRAY)
        np.testing.assert_allclose(image.GetSpacing(), SPACING, rtol=1e-6)
        np.testing.assert_allclose(image.GetOrigin(), ORIGIN, rtol=1e-6)

    @pytest.mark.parametrize("kind", [sitk.sitkUInt8, sitk.sitkInt16, sitk.sitkUInt16, sitk.sitkFloat64])
    def test_pixel_types(self, tmp_path: Path, kind: int) -> None:
        array = np.clip(ARRAY, 0, 255).round()
        sitk.WriteImage(sitk.Cast(image_of(array), kind), str(tmp_path / "i.nii.gz"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read_image(tmp_path / "i.nii.gz")), array)

    def test_names_with_blanks_and_umlauts(self, tmp_path: Path) -> None:
        path = tmp_path / "Übung 1 (später).nrrd"
        write_image(fixed_image(), path)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read_image(path)), ARRAY)

    def test_single_time_point(self, tmp_path: Path) -> None:
        sitk.WriteImage(sitk.JoinSeries(fixed_image()), str(tmp_path / "one.nii.gz"))
        assert read_image(tmp_path / "one.nii.gz").GetDimension() == 3

    def test_nifti_in_several_gzip_members(self, written: Path) -> None:
        # As bgzip packs: the length at the end of the file is only the last member's.
        data = (written / "plain.nii").read_bytes()
        path = written / "members.nii.gz"
        path.write_bytes(gzip.compress(data[:30000]) + gzip.compress(data[30000:]))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read_image(path)), ARRAY)
        path.write_bytes(gzip.compress(data[:30000]) + gzip.compress(data[30000:90000]))
        with pytest.raises(InputError, match="cut short"):
            read_image(path)

    def test_big_endian_nifti(self, written: Path) -> None:
        plain = bytearray((written / "plain.nii").read_bytes())
        codes = "<i10s18sihcB8h3f4h8f3fh2c4f2i80s24s2h6f4f4f4f16s4s"
        head = struct.unpack(codes, plain[:348])
        data = np.frombuffer(bytes(plain[352:]), "<f4").astype(">f4").tobytes()
        path = written / "big.nii"
        path.write_bytes(struct.pack(">" + codes[1:], *head) + b"\0\0\0\0" + data)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read_image(path)), ARRAY)
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(InputError, match="cut short"):
            read_image(path)


SPACING_SIZE = (32, 30, 28)


class TestDicom:
    def test_series(self, tmp_path: Path) -> None:
        write_dicom(tmp_path / "series", fixed_image(), 1)
        image = read_image(tmp_path / "series")
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), ARRAY.astype(np.int16))
        np.testing.assert_allclose(image.GetSpacing(), SPACING, rtol=1e-6)
        np.testing.assert_allclose(image.GetOrigin(), ORIGIN, rtol=1e-6)

    def test_longest_of_two_is_used(self, tmp_path: Path) -> None:
        write_dicom(tmp_path, fixed_image(), 1, lambda i: i < 20)
        write_dicom(tmp_path, fixed_image(), 2)
        with pytest.warns(CycleRegWarning, match="2 DICOM series; the longest, of 28 slices"):
            assert read_image(tmp_path).GetSize() == SPACING_SIZE

    def test_two_of_equal_length(self, tmp_path: Path) -> None:
        for series in (1, 2):
            write_dicom(tmp_path, fixed_image(), series)
        with pytest.raises(InputError, match="equal length"):
            read_image(tmp_path)

    @pytest.mark.parametrize("missing", [[5], [5, 6], list(range(10, 20))])
    def test_missing_slices(self, tmp_path: Path, missing: list[int], capfd: pytest.CaptureFixture[str]) -> None:
        write_dicom(tmp_path, fixed_image(), 1, lambda i: i not in missing)
        with pytest.raises(InputError, match="missing, repeated or unevenly spaced slices"):
            read_image(tmp_path)
        assert capfd.readouterr().err == ""

    def test_slices_a_little_off(self, tmp_path: Path) -> None:
        image = fixed_image()
        image.SetSpacing((2.0, 2.2, 2.7))
        write_dicom(tmp_path, image, 1, lambda i: i == 3)
        image.SetSpacing(SPACING)
        write_dicom(tmp_path, image, 1, lambda i: i != 3)
        with pytest.warns(CycleRegWarning, match=r"up to 0\.60 mm from where they lie"):
            read_image(tmp_path)

    def test_one_file_of_a_series(self, tmp_path: Path) -> None:
        write_dicom(tmp_path, fixed_image(), 1)
        with pytest.raises(InputError, match="give the folder"):
            read_image(tmp_path / "1-003.dcm")

    def test_folder_without(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "notes.txt").write_text("nothing")
        with pytest.raises(InputError, match="without a DICOM series"):
            read_image(tmp_path)
        assert capfd.readouterr().err == ""


class TestDamage:
    @pytest.mark.parametrize("part", [0.02, 0.5, 0.999])
    @pytest.mark.parametrize(
        "name", ["plain.nrrd", "plain.mha", "plain.nii", "packed.nrrd", "packed.mha", "packed.nii.gz"]
    )
    def test_cut_short(self, written: Path, name: str, part: float, capfd: pytest.CaptureFixture[str]) -> None:
        path = written / name
        data = path.read_bytes()
        path.write_bytes(data[: int(part * len(data))])
        with pytest.raises(InputError, match=re.escape(f"image {path}") + " is damaged or cut short"):
            read_image(path)
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize(
        ("header", "data"), [("two.mhd", "two.raw"), ("two.nhdr", "two.raw"), ("pair.hdr", "pair.img")]
    )
    def test_data_in_a_file_of_their_own(
        self, written: Path, header: str, data: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        content = (written / data).read_bytes()
        (written / data).write_bytes(content[:-100])
        with pytest.raises(InputError, match="cut short"):
            read_image(written / header)
        (written / data).unlink()
        with pytest.raises(InputError, match=re.escape(data.split(".")[0])):
            read_image(written / header)
        assert capfd.readouterr().err == ""

    def test_space_was_reserved_but_never_filled(self, written: Path, capfd: pytest.CaptureFixture[str]) -> None:
        # As an interrupted download may leave it: the right length, zeros at the end.
        path = written / "packed.nii.gz"
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
        with pytest.raises(InputError, match="damaged"):
            read_image(path)
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize(
        "name",
        ["x.nrrd", "x.nhdr", "x.nii", "x.nii.gz", "x.mha", "x.mhd", "x.hdr", "x.img", "x.png", "x.dcm", "x.h5", "x"],
    )
    @pytest.mark.parametrize("content", [b"no image " * 50, bytes(range(256)) * 8, b"\x1f\x8b\x08\x00rest", b"\0"])
    def test_not_an_image(self, tmp_path: Path, name: str, content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=re.escape(str(tmp_path / name))) as caught:
            read_image(tmp_path / name, "fixed")
        assert "damaged" in str(caught.value)
        assert capfd.readouterr().err == ""

    def test_nothing_there(self, tmp_path: Path) -> None:
        (tmp_path / "empty.nrrd").write_bytes(b"")
        for path, message in (
            (tmp_path / "no.nrrd", "does not exist"),
            (tmp_path / "empty.nrrd", "is an empty file"),
            (tmp_path / "empty.nrrd" / "x.nrrd", "does not exist"),
            (tmp_path / ("x" * 300 + ".nrrd"), "cannot be read"),
            ("", "path of the fixed image is empty"),
        ):
            with pytest.raises(InputError, match=message):
                read_image(path, "fixed")


def rewrite(path: Path, key: bytes, value: bytes) -> Path:
    """A copy of a file with a text header in which the line of ``key`` says something else."""
    data, count = re.subn(rb"(?m)^" + key + rb"( =|:)[^\n]*", key + rb"\1 " + value, path.read_bytes(), count=1)
    assert count == 1
    other = path.with_name("changed" + path.suffix)
    other.write_bytes(data)
    return other


class TestGeometry:
    @pytest.mark.parametrize("value", ["0 2 2", "-1 2 2", "nan 2 2", "2 inf 2", "a b c"])
    def test_metaimage_spacing(self, written: Path, value: str) -> None:
        with pytest.raises(InputError, match="spacing that is not positive"):
            read_image(rewrite(written / "plain.mha", b"ElementSpacing", value.encode()))

    @pytest.mark.parametrize("value", ["1e-300 2 2", "2 2 5000"])
    def test_spacing_that_cannot_be(self, written: Path, value: str) -> None:
        with pytest.raises(InputError, match="which cannot be"):
            read_image(rewrite(written / "plain.mha", b"ElementSpacing", value.encode()))

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            (b"TransformMatrix", b"0 0 0 0 0 0 0 0 0", "singular"),
            (b"TransformMatrix", b"1 0 0 1 0 0 0 0 1", "singular"),
            (b"TransformMatrix", b"nan 0 0 0 1 0 0 0 1", "not finite"),
            (b"Offset", b"0 inf 0", "not finite"),
            (b"DimSize", b"0 30 28", "empty"),
            (b"DimSize", b"90000 90000 90000", "damaged or cut short"),
        ],
    )
    def test_metaimage_geometry(
        self, written: Path, key: bytes, value: bytes, message: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        path = rewrite(written / "plain.mha", key, value)
        with pytest.raises(InputError, match=message) as caught:
            read_image(path)
        assert str(path) in str(caught.value)
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize("value", ["(0,0,0) (0,2,0) (0,0,2)", "(2,0,0) (0,2,0) (0,0,0)"])
    def test_nrrd_direction_of_no_length(self, written: Path, value: str) -> None:
        with pytest.raises(InputError, match="spacing that is not positive"):
            read_image(rewrite(written / "plain.nrrd", b"space directions", value.encode()))

    def test_nrrd_singular(self, written: Path) -> None:
        with pytest.raises(InputError, match="singular"):
            read_image(rewrite(written / "plain.nrrd", b"space directions", b"(2,0,0) (2,0,0) (0,0,2)"))

    def test_nrrd_mirrored_is_fine(self, written: Path) -> None:
        image = read_image(rewrite(written / "plain.nrrd", b"space directions", b"(-2,0,0) (0,2,0) (0,0,2)"))
        assert image.GetSpacing() == (2.0, 2.0, 2.0)
        assert image.GetDirection()[0] == -1.0

    @pytest.mark.parametrize("value", ["0 2 2", "2 2 -2"])
    def test_nrrd_spacings(self, tmp_path: Path, value: str) -> None:
        lines = ["NRRD0004", "type: float", "dimension: 3", "sizes: 32 30 28", f"spacings: {value}", "endian: little"]
        head = "\n".join([*lines, "encoding: raw", "", ""]).encode()
        (tmp_path / "i.nrrd").write_bytes(head + ARRAY.astype("<f4").tobytes())
        with pytest.raises(InputError, match="spacing that is not positive"):
            read_image(tmp_path / "i.nrrd")

    @pytest.mark.parametrize("value", [0.0, -2.0, np.nan, np.inf])
    @pytest.mark.parametrize("name", ["plain.nii", "packed.nii.gz", "pair.hdr", "pair.img"])
    def test_nifti_pixdim(self, written: Path, name: str, value: float) -> None:
        path = written / name.replace(".img", ".hdr")
        packed = name.endswith(".gz")
        data = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
        struct.pack_into("<f", data, 76 + 4 * 2, value)
        path.write_bytes(gzip.compress(bytes(data)) if packed else bytes(data))
        with pytest.raises(InputError, match="spacing that is not positive"):
            read_image(written / name)


class TestChecks:
    def test_components_and_dimensions(self) -> None:
        for image, message in (
            (image_of(np.stack([ARRAY] * 3, -1).astype(np.uint8), vector=True), "3 components"),
            (image_of(ARRAY.astype(np.complex64)), "complex"),
            (sitk.JoinSeries([fixed_image(), fixed_image()]), "4D .* Extract one time point"),
            (fixed_image()[:, :, 3], "is 2D"),
            (fixed_image()[:, :3, :], "at least 4 along each axis"),
        ):
            with pytest.raises(InputError, match=f"The fixed image .*{message}"):
                check_intensity_image(image, "fixed image")

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_not_finite_voxels_are_counted(self, value: float) -> None:
        array = ARRAY.copy()
        array.flat[[5, 700, 9000]] = value
        with pytest.raises(InputError, match=f"3 NaN or infinite voxels of {array.size}"):
            check_intensity_image(image_of(array), "fixed image")

    def test_beyond_single_precision(self) -> None:
        with pytest.raises(InputError, match="too large for 32-bit"):
            check_intensity_image(image_of(ARRAY.astype(np.float64) * 1e300))

    @pytest.mark.parametrize("value", [0, 7, -1000])
    def test_constant(self, value: float) -> None:
        with pytest.raises(InputError, match=f"every voxel is {value}"):
            check_intensity_image(image_of(np.full(ARRAY.shape, value, np.int16)))

    def test_masks(self, tmp_path: Path) -> None:
        inside = (ARRAY > 40).astype(np.uint8)
        for array, message in (
            (ARRAY, "fractional values"),
            (np.where(inside, np.nan, 0).astype(np.float32), "NaN"),
        ):
            write_image(image_of(array), tmp_path / "mask.nrrd")
            with pytest.raises(InputError, match=f"fixed mask .* holds {message}"):
                read_label_image(tmp_path / "mask.nrrd", "fixed mask")
        write_image(image_of(inside.astype(np.float32)), tmp_path / "mask.nrrd")
        assert "int" in read_label_image(tmp_path / "mask.nrrd").GetPixelIDTypeAsString()

    def test_mask_on_another_grid(self) -> None:
        grid = Grid.of(fixed_image())
        finer = Grid((64, 40, 56), (1.0, 1.65, 1.25), ORIGIN, (1, 0, 0, 0, 1, 0, 0, 0, 1))
        center, radius = np.array([1.0, 0.0, -1.0]), 15.0
        ball = np.linalg.norm(finer.points() - center, axis=-1) < radius
        found = sitk.GetArrayFromImage(check_mask(finer.image(7 * ball.astype(np.uint8)), grid, "mask"))
        distance = np.linalg.norm(grid.points() - center, axis=-1)
        assert found[distance < radius - 1.5].all()
        assert not found[distance > radius + 1.5].any()
        assert set(np.unique(found)) == {0, 1}

    def test_mask_of_nothing(self) -> None:
        grid = Grid.of(fixed_image())
        with pytest.raises(InputError, match="mask is empty"):
            check_mask(image_of(np.zeros(ARRAY.shape, np.uint8)), grid, "mask")
        with pytest.raises(InputError, match="mask does not overlap"):
            check_mask(image_of((ARRAY > 40).astype(np.uint8), (900.0, 0, 0)), grid, "mask")


class TestOverlap:
    grid = Grid((40, 40, 40), (10.0, 10.0, 10.0), (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))

    def test_as_they_lie(self) -> None:
        small = Grid((8, 8, 8), (1.0, 1.0, 1.0), (203.0, 203.0, 203.0), self.grid.direction)
        check_overlap(self.grid, small, None, "as they lie")
        check_overlap(small, self.grid, None, "as they lie")
        away = Grid((8, 8, 8), (1.0, 1.0, 1.0), (600.0, 203.0, 203.0), self.grid.direction)
        with pytest.raises(InputError, match="do not overlap as they lie: their centres are 409 mm apart"):
            check_overlap(self.grid, away, None, "as they lie")

    def test_under_a_transform(self) -> None:
        shift = sitk.TranslationTransform(3, (1000.0, 0.0, 0.0))
        with pytest.raises(InputError, match="1000 mm apart"):
            check_overlap(self.grid, self.grid, shift, "after the initial transform")
        field = DisplacementField.from_transform(shift, self.grid).to_transform()
        with pytest.raises(InputError, match="1000 mm apart"):
            check_overlap(self.grid, self.grid, field, "after the initial transform")
        check_overlap(self.grid, self.grid, sitk.TranslationTransform(3, (390.0, 0.0, 0.0)), "")

    def test_singular_and_not_finite(self) -> None:
        flat = sitk.ScaleTransform(3, (1.0, 1.0, 1e-300))
        with pytest.raises(InputError, match="singular"):
            check_overlap(self.grid, self.grid, flat, "")
        endless = sitk.TranslationTransform(3, (np.inf, 0.0, 0.0))
        with pytest.raises(InputError, match="not finite"):
            check_overlap(self.grid, self.grid, endless, "")


def ball(radius: float, center: float = 20.0) -> np.ndarray:
    return np.linalg.norm(np.indices((40, 40, 40)) - center, axis=0) < radius


class TestLabelsAgainstIntensities:
    """A label image is refused as an intensity image; whatever was acquired, or simulated with noise, is not."""

    organs = 2 * ball(15) + 3 * ball(6) + 1 * ball(7, 9)
    tissues = np.choose(np.minimum(organs, 5), [0, 60, 100, 80, 180, 140]).astype(float)

    @pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
    def test_organs(self, kind: type) -> None:
        assert looks_like_labels(self.organs.astype(kind))
        with pytest.raises(InputError, match=r"looks like a label image \(5 whole values from 0 to 5\)"):
            check_intensity_image(image_of(self.organs.astype(kind)), "moving image")

    @pytest.mark.parametrize("value", [1, 255])
    def test_masks(self, value: int) -> None:
        assert looks_like_labels(value * ball(12))
        assert looks_like_labels(value * ball(3))

    def test_label_one_everywhere_but_the_organ(self) -> None:
        assert looks_like_labels(1 + ball(12).astype(np.uint8))

    @pytest.mark.parametrize("number", [20, 120, 600])
    def test_many_labels(self, number: int) -> None:
        # Cells about random points, in a ball: as parcels of a brain, or a hundred organs of a body.
        rng = np.random.default_rng(0)
        seeds, values = rng.uniform(4, 60, (number, 3)), rng.choice(3000, number, replace=False) + 1
        mask = np.linalg.norm(np.indices((64, 64, 64)) - 32.0, axis=0) < 28
        distance = np.full(mask.shape, np.inf)
        cells = np.zeros(mask.shape, int)
        for seed, value in zip(seeds, values):
            d = sum((axis - s) ** 2 for axis, s in zip(np.ogrid[:64, :64, :64], seed))
            cells[d < distance] = value
            np.minimum(distance, d, out=distance)
        assert looks_like_labels(np.where(mask, cells, 0))

    def test_thick_slices(self) -> None:
        assert looks_like_labels(self.organs[::5])

    @pytest.mark.parametrize("noise", [0.3, 0.5, 1.0, 3.0])
    def test_few_grey_values_and_noise(self, noise: float) -> None:
        rng = np.random.default_rng(1)
        noisy = np.clip((self.tissues + rng.normal(0, noise, self.tissues.shape)).round(), 0, 255)
        assert not looks_like_labels(noisy.astype(np.uint8))
        stripped = np.where(self.tissues > 0, noisy, 0)
        assert not looks_like_labels(stripped.astype(np.uint8))

    @pytest.mark.parametrize("levels", [8, 16, 32, 64, 256])
    def test_quantised(self, levels: int) -> None:
        for array in (ARRAY, ndimage.gaussian_filter(ARRAY, 1.0), ndimage.zoom(ARRAY, 2, order=1)):
            scaled = np.clip(array / array.max(), 0, 1) * (levels - 1)
            assert not looks_like_labels(scaled.round().astype(np.uint8))

    def test_soft_edges_without_noise(self) -> None:
        assert not looks_like_labels(ndimage.gaussian_filter(self.tissues, 0.6).round())
        assert not looks_like_labels(
            (200 * np.clip(15.5 - np.linalg.norm(np.indices((40,) * 3) - 20, axis=0), 0, 1)).round()
        )

    def test_smooth_ramps_and_distances(self) -> None:
        assert not looks_like_labels(np.indices((40, 40, 40))[2])
        assert not looks_like_labels(ndimage.distance_transform_edt(ball(15)).round())

    def test_voxels_repeated(self) -> None:
        grey = np.clip(ARRAY, 0, 255).round().astype(np.uint8)
        assert not looks_like_labels(grey.repeat(2, 0).repeat(2, 1).repeat(2, 2))
        assert not looks_like_labels(grey.repeat(4, 1).repeat(4, 2))

    def test_hounsfield_units_and_fractions(self) -> None:
        assert not looks_like_labels(1000 * ball(12) - 1000)
        assert not looks_like_labels(0.5 * ball(12))

    def test_large_images_are_sampled(self) -> None:
        rng = np.random.default_rng(0)
        large = np.zeros((260, 128, 128), np.uint8)
        large[::2] = 3 * np.pad(ball(15)[20], 44)  # every other slice, so that the sampled ones are these
        large[1::2] = rng.integers(0, 255, (130, 128, 128))
        assert looks_like_labels(large) == looks_like_labels(large[::3])


class TestTransforms:
    @pytest.mark.parametrize("name", ["t.h5", "t.tfm", "t.nrrd", "t.nii.gz", "t.mha"])
    def test_written_and_read(self, tmp_path: Path, name: str) -> None:
        tilt = sitk.Euler3DTransform((5.0, 3.0, 1.0), 0.05, -0.1, 0.2, (4.0, -6.0, 2.0))
        oblique = sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.3, 0.2, -0.4).GetMatrix()
        grid = Grid((20, 16, 12), (2.0, 3.0, 4.0), (-15.0, -25.0, -20.0), oblique)
        write_transform(DisplacementField.from_transform(tilt, grid), tmp_path / name)
        found = read_transform(tmp_path / name)
        inner = grid.to_world(np.random.default_rng(0).uniform(0.5, 10.5, (50, 3)))
        for point in inner.tolist():
            np.testing.assert_allclose(found.TransformPoint(point), tilt.TransformPoint(point), atol=1e-3)

    @pytest.mark.parametrize("name", ["t.h5", "t.tfm", "t.nrrd", "t.nii.gz", "t.mha"])
    def test_cut_short(self, tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / name
        write_transform(DisplacementField.from_matrix(np.diag([1.1, 1, 1, 1]), Grid.of(fixed_image())), path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(InputError, match=f"The initial transform {re.escape(str(path))}"):
            read_transform(path, "initial transform")
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize("name", ["t.h5", "t.tfm", "t.mat", "t.txt", "t.nrrd", "t.nii.gz", "t.png", "t"])
    @pytest.mark.parametrize("content", [b"", b"no transform\n" * 9, bytes(range(256))])
    def test_not_a_transform(
        self, tmp_path: Path, name: str, content: bytes, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="initial transform"):
            read_transform(tmp_path / name, "initial transform")
        assert capfd.readouterr().err == ""

    def test_not_of_three_dimensions(self, tmp_path: Path) -> None:
        sitk.WriteTransform(sitk.AffineTransform(2), str(tmp_path / "t.tfm"))
        with pytest.raises(InputError, match="is 2D"):
            read_transform(tmp_path / "t.tfm")
        write_image(fixed_image(), tmp_path / "i.nrrd")
        with pytest.raises(InputError, match="no displacement field"):
            read_transform(tmp_path / "i.nrrd")

    def test_field_that_is_not_finite(self, tmp_path: Path) -> None:
        vectors = np.zeros((*ARRAY.shape, 3), np.float32)
        vectors[3, 4, 5] = np.nan
        sitk.WriteImage(image_of(vectors, vector=True), str(tmp_path / "t.nrrd"))
        with pytest.raises(InputError, match=r"t\.nrrd cannot be used.* NaN"):
            read_transform(tmp_path / "t.nrrd")


class TestWriting:
    def test_two_files_are_not_written(self) -> None:
        # The second file would not be the one that was named, and would not appear with it.
        for name in ("w.mhd", "w.nhdr", "w.hdr", "w.img", "w.png", "w", "w.seg.nrrd", "w.NII.GZ"):
            with pytest.raises(InputError, match=r"Use one of: \.nrrd \.nii\.gz\.$"):
                check_output_suffix(name, (".nrrd", ".nhdr", ".nii.gz", ".mhd", ".hdr", ".img"), "output volume")

    @pytest.mark.parametrize("name", ["w.nrrd", "w.nii", "w.nii.gz", "w.mha"])
    def test_suffixes(self, tmp_path: Path, name: str) -> None:
        check_output_suffix(name, (".nrrd", ".nii", ".nii.gz", ".mha"), "output volume")
        write_image(fixed_image(), tmp_path / name)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(sitk.GetArrayFromImage(read_any_image(tmp_path / name)), ARRAY)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of files to stand for a full disk")
@pytest.mark.parametrize("name", ["a.nrrd", "a.nii.gz", "a.nii", "a.mha", "a.png"])
def test_a_disk_that_is_full_is_noticed_to_the_last_byte(tmp_path: Path, name: str) -> None:
    """Some writers of ITK hand the end of a file over when they close it, and do not say that it did not fit."""
    import resource

    image = sitk.Cast(fixed_image()[:, :, 5], sitk.sitkUInt8) if name == "a.png" else fixed_image()
    path = tmp_path / name
    write_image(image, path)
    full = path.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (0, 100, full // 2, full - 2000, full - 500, full - 8, full - 1):
        path.unlink(missing_ok=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(size, 0), before[1]))
        try:
            with pytest.raises(OSError, match="the disk may be full"):
                write_image(image, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestCutShortMetaImage:
    """ITK says it on standard error alone, so the length is looked at beforehand."""

    @pytest.mark.parametrize("compressed", [False, True])
    @pytest.mark.parametrize("suffix", [".mha", ".mhd"])
    @pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
    def test_one_byte_is_missed(self, tmp_path, kind, suffix, compressed):
        array = np.random.default_rng(0).integers(0, 100, (7, 9, 11, 3)).astype(kind)
        for is_vector, image in enumerate((array[..., 0], array)):
            path = tmp_path / f"{is_vector}{suffix}"
            sitk.WriteImage(sitk.GetImageFromArray(image, isVector=bool(is_vector)), str(path), compressed)
            check_header(path, "image")
            data = path if suffix == ".mha" else path.with_suffix(".zraw" if compressed else ".raw")
            data.write_bytes(data.read_bytes()[:-1])
            with pytest.raises(InputError, match="damaged or cut short"):
                check_header(path, "image")

    def test_what_the_header_does_not_say_plainly_is_left_to_itk(self, tmp_path):
        path = tmp_path / "text.mha"
        path.write_text(
            "ObjectType = Image\nNDims = 3\nBinaryData = False\nDimSize = 2 1 1\nElementType = MET_UCHAR\n"
            "ElementDataFile = LOCAL\n1 2\n"
        )
        check_header(path, "image")
        path.write_text("NDims = 3\nDimSize = 2 1 1\nElementType = MET_OTHER\nElementDataFile = LIST\na\n")
        check_header(path, "image")
