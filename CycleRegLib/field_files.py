"""Displacement fields on disk, written slab by slab, so that no copy of a large field is made.

ITK's writers take a whole image and some of them three copies more.  Here ITK writes the header alone, of a field of
two voxels a side with the same geometry; what the header says of the size is put right and the data follow.
"""

from __future__ import annotations

import gzip
import os
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK as sitk

from .fields import DisplacementField
from .hdf5 import write_displacement_transform
from .storage import slabs

_LEVEL = 1  # of compression: fields compress little, and more takes much longer
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
    kind = ".nii" if path.name.lower().endswith((".nii", ".nii.gz")) else path.suffix.lower()
    header = _header(field, path.with_name(f".header{kind}"))
    with open(path, "wb") as file:
        if kind == ".nii":
            packed = path.name.lower().endswith(".gz")
            with gzip.GzipFile("", "wb", _LEVEL, file, 0) if packed else nullcontext(file) as stream:
                stream.write(_nifti_header(header, field))
                for component in range(field.grid.dimension):  # the slowest axis of the file
                    for part in _parts(field):
                        stream.write(np.ascontiguousarray(part[..., component]))
        elif kind == ".nrrd":
            sizes = " ".join(map(str, (field.grid.dimension, *field.grid.size)))
            file.write(_replaced(header.partition(b"\n\n")[0], rb"sizes: .*", f"sizes: {sizes}") + b"\n\n")
            with gzip.GzipFile("", "wb", _LEVEL, file, 0) as stream:
                for part in _parts(field):
                    stream.write(part)
        else:
            _write_metaimage(field, header, file)


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
        sitk.WriteImage(image, str(path), useCompression=path.suffix != ".nii")
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


def _write_metaimage(field: DisplacementField, header: bytes, file: BinaryIO) -> None:
    """The header, whose line about the size of the compressed data is put right when that is known, and the data."""
    end = b"ElementDataFile = LOCAL\n"
    text = _replaced(header[: header.index(end)], rb"DimSize = .*", f"DimSize = {' '.join(map(str, field.grid.size))}")
    text = _replaced(text, rb"CompressedDataSize = .*", f"CompressedDataSize = {'':20}") + end
    file.write(text)
    compressor = zlib.compressobj(_LEVEL)
    for part in _parts(field):
        file.write(compressor.compress(part))
    file.write(compressor.flush())
    size = file.seek(0, os.SEEK_END) - len(text)
    file.seek(text.index(b"CompressedDataSize = ") + len(b"CompressedDataSize = "))
    file.write(f"{size:<20}".encode())
