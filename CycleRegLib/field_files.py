"""Displacement fields on disk, written slab by slab, so that no copy of a large field is made.

ITK's writers take a whole image and some of them three copies more.  Here ITK writes the header alone, of a field of
two voxels a side with the same geometry; what the header says of the size is put right and the data follow.  They are
compressed only where the suffix says so: of a smooth field's bytes compression leaves nine tenths, and takes long.
"""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .fields import DisplacementField
from .hdf5 import write_displacement_transform
from .storage import slabs

_LEVEL = 1  # of compression: more takes much longer and hardly gains
_NIFTI_HEADER = 352


def write_field_image(field: DisplacementField, path: Path) -> None:
    """Write a field as a vector image (.nrrd, .mha, .nii, .nii.gz), LPS mm, as ITK does.

    In NIfTI ITK marks it as vectors (intent 1007) and leaves it in LPS, as ANTs does.  Its other mark, of displacements
    (1006), stands for RAS, and SimpleITK cannot write it.

    Raises
    ------
    OSError
        If the disk refuses.
    RuntimeError
        If ITK cannot write the header.
    """
    name = path.name.lower()
    kind = ".nii" if name.endswith((".nii", ".nii.gz")) else path.suffix.lower()
    header = _header(field, path.with_name(f".header{kind}"))
    size = " ".join(map(str, field.grid.size))
    with open(path, "wb") as file:
        if kind == ".nii":
            with gzip.GzipFile("", "wb", _LEVEL, file, 0) if name.endswith(".gz") else nullcontext(file) as stream:
                stream.write(_nifti_header(header, field))
                for component in range(field.grid.dimension):  # the slowest axis of the file
                    for part in _parts(field):
                        stream.write(np.ascontiguousarray(part[..., component]))
            return
        if kind == ".nrrd":
            text = _replaced(header.partition(b"\n\n")[0], rb"sizes: .*", f"sizes: {field.grid.dimension} {size}")
            file.write(text + b"\n\n")
        else:
            end = b"ElementDataFile = LOCAL\n"
            file.write(_replaced(header.partition(end)[0], rb"DimSize = .*", f"DimSize = {size}") + end)
        for part in _parts(field):
            file.write(part)


def write_field_transform(field: DisplacementField, path: Path) -> None:
    """Write a field as an ITK displacement field transform (.h5), float32.

    Raises
    ------
    OSError
        If the disk refuses.
    """
    grid = field.grid
    fixed = np.array([*grid.size, *grid.origin, *grid.spacing, *grid.direction])
    with open(path, "wb") as file:
        write_displacement_transform(file, fixed, field.vectors.size, _parts(field), grid.dimension)


def _parts(field: DisplacementField) -> Iterator[np.ndarray]:
    for part in slabs(field.grid.shape, field.vectors):
        yield field.vectors[part]


def _header(field: DisplacementField, path: Path) -> bytes:
    """What ITK writes for a field of two voxels a side with this one's geometry; ``path`` is gone afterwards."""
    grid = field.grid
    image = sitk.Image([2] * grid.dimension, sitk.sitkVectorFloat32, grid.dimension)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    try:
        sitk.WriteImage(image, str(path), useCompression=False)
        return path.read_bytes()
    finally:
        if path.exists():
            path.unlink()


def _replaced(header: bytes, line: bytes, text: str) -> bytes:
    found, count = re.subn(line, text.encode(), header, count=1)
    if not count:
        raise RuntimeError(f"ITK's header has no line like {line.decode()}")
    return found


def _nifti_header(header: bytes, field: DisplacementField) -> bytes:
    """The first 352 bytes with the true size.  ``dim`` lies at byte 40; the components are its fifth axis."""
    n = field.grid.dimension
    return header[:42] + struct.pack(f"={n}h", *field.grid.size) + header[42 + 2 * n : _NIFTI_HEADER]
