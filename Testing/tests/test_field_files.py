"""Fields on disk: written slab by slab, and read by SimpleITK as if its own writers had written them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from geometries import random_grid, smooth_field

from CycleRegLib import storage
from CycleRegLib.field_files import write_field_image, write_field_transform
from CycleRegLib.fields import DisplacementField
from CycleRegLib.geometry import Grid
from CycleRegLib.hdf5 import lookup3, write_displacement_transform
from CycleRegLib.images import write_transform


@pytest.fixture(params=[2, 3])
def field(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> DisplacementField:
    """An oblique field that is written in many slabs."""
    monkeypatch.setattr(storage, "SLAB_VOXELS", 300)
    return smooth_field(random_grid(7, dimension=request.param, low=12, high=20, mirrored=True), 1)


@pytest.mark.parametrize("name", ["f.nrrd", "f.mha", "f.nii", "f.nii.gz"])
def test_images_are_those_of_itks_writers(field: DisplacementField, tmp_path: Path, name: str) -> None:
    write_field_image(field, tmp_path / name)
    sitk.WriteImage(field.to_image(), str(tmp_path / f"itk-{name}"), useCompression=name.endswith(".gz"))
    ours, itks = (sitk.ReadImage(str(tmp_path / n)) for n in (name, f"itk-{name}"))
    assert ours.GetPixelID() == itks.GetPixelID() == sitk.sitkVectorFloat32
    assert ours.GetSize() == field.grid.size
    for what in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(ours, what)() == getattr(itks, what)()
    assert np.array_equal(sitk.GetArrayFromImage(ours), field.vectors)
    assert {p.name for p in tmp_path.iterdir()} == {name, f"itk-{name}"}
    keys = set(ours.GetMetaDataKeys()) - {"ITK_FileNotes"}
    assert keys == set(itks.GetMetaDataKeys()) - {"ITK_FileNotes"}
    assert all(ours.GetMetaData(k) == itks.GetMetaData(k) for k in keys)
    if not name.endswith(".gz"):  # they are even the same, but for the name of the file in it
        assert (tmp_path / name).read_bytes()[-1000:] == (tmp_path / f"itk-{name}").read_bytes()[-1000:]
        assert (tmp_path / name).stat().st_size == (tmp_path / f"itk-{name}").stat().st_size


def test_transform_is_that_of_itks_writer(field: DisplacementField, tmp_path: Path) -> None:
    write_field_transform(field, tmp_path / "f.h5")
    sitk.WriteTransform(field.to_transform(), str(tmp_path / "itk.h5"))
    found = []
    for name in ("f.h5", "itk.h5"):
        transform = sitk.DisplacementFieldTransform(sitk.ReadTransform(str(tmp_path / name)))
        found.append((transform.GetFixedParameters(), sitk.GetArrayFromImage(transform.GetDisplacementField())))
    assert found[0][0] == found[1][0]
    assert np.array_equal(found[0][1], found[1][1])
    assert np.array_equal(found[0][1], field.vectors.astype(np.float64))
    assert (tmp_path / "f.h5").stat().st_size < field.vectors.nbytes + 5200


@pytest.mark.parametrize("name", ["f.h5", "f.nrrd", "f.mha", "f.nii.gz"])
def test_large_fields_lie_in_files_and_are_written_from_there(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a registration of large volumes; and every slab is given back before the next."""
    monkeypatch.setattr(storage, "MAPPED_BYTES", 1000)
    monkeypatch.setattr(storage, "SLAB_VOXELS", 400)
    released = []
    monkeypatch.setattr(storage, "release", lambda *arrays: released.append(len(arrays)))
    field = smooth_field(random_grid(3, low=12, high=20), 2).resampled(random_grid(4, low=12, high=20))
    del released[:]
    write_transform(field, tmp_path / name)
    assert len(released) >= field.grid.shape[0] // 4
    read = sitk.ReadTransform(str(tmp_path / name)) if name == "f.h5" else sitk.ReadImage(str(tmp_path / name))
    image = sitk.DisplacementFieldTransform(read).GetDisplacementField() if name == "f.h5" else read
    assert Grid.of(image).same_as(field.grid)
    assert np.array_equal(sitk.GetArrayFromImage(image).astype(np.float32), field.vectors)


class TestHdf5:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            # From the author's own program, with initial value 0.
            (b"", 0xDEADBEEF),
            (b"Four score and seven years ago", 0x17770551),
        ],
    )
    def test_checksum(self, text: bytes, expected: int) -> None:
        assert lookup3(text) == expected

    def test_superblock_holds_the_files_length(self, tmp_path: Path) -> None:
        field = smooth_field(random_grid(7), 1)
        write_field_transform(field, tmp_path / "f.h5")
        content = (tmp_path / "f.h5").read_bytes()
        assert content[:8] == b"\x89HDF\r\n\x1a\n"
        assert struct.unpack_from("<Q", content, 28)[0] == len(content)
        assert field.vectors.tobytes() in content

    def test_data_that_end_early_are_noticed(self, tmp_path: Path) -> None:
        parts = iter([np.zeros(10, np.float32)])
        with open(tmp_path / "f.h5", "wb") as file, pytest.raises(ValueError, match="48 bytes was announced, but 40"):
            write_displacement_transform(file, np.zeros(18), 12, parts, 3)
