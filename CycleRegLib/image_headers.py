"""What an image file's header says, looked at before ITK does: ITK repairs impossible headers without a word.

It takes 1 mm for a spacing that is zero or not a number, the absolute value of a negative one, and fills a NIfTI file
that ends too early with whatever lies in memory.  That a MetaImage file ends too early it says on standard error alone,
which may be closed.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import struct
import zlib
from pathlib import Path

from .errors import InputError

# Long enough for the geometry of any header, which comes before the descriptions of segments.
_HEADER_BYTES = 65536
_META_GEOMETRY = ("offset", "position", "origin", "transformmatrix", "rotation", "orientation")


def check_header(path: Path, what: str) -> None:
    """Refuse an image file whose header cannot be right, or whose NIfTI or MetaImage data are cut short.

    Files that are none of MetaImage, NRRD or NIfTI pass: ITK has the last word on them.

    Raises
    ------
    InputError
        The message calls the file ``what`` and gives its path.
    """
    name = path.name.lower()
    if name.endswith((".mha", ".mhd")):
        _check_metaimage(path, what)
    elif name.endswith((".nrrd", ".nhdr")):
        _check_nrrd(path, what)
    elif name.endswith((".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz")):
        _check_nifti(path, what)


def bad_spacing(path: Path, what: str, value: str) -> InputError:
    """The error for a voxel spacing that cannot be."""
    return InputError(f"The {what} {path} has a voxel spacing that is not positive ({value}). Correct its header.")


def cut_short(path: Path, what: str) -> InputError:
    """The error for a file that ends too early or cannot be unpacked."""
    return InputError(f"The {what} {path} is damaged or cut short. Copy or download it again.")


def _fields(path: Path, separator: str) -> list[tuple[str, str]]:
    """Keys (lower case) and values of a header of text lines."""
    with open(path, "rb") as file:
        head = re.split(rb"\r?\n\r?\n", file.read(_HEADER_BYTES))[0].decode("latin-1")
    pairs = [line.partition(separator) for line in head.splitlines()]
    return [(key.strip().lower(), value.lstrip("=").strip()) for key, found, value in pairs if found]


def _numbers(text: str) -> list[float]:
    """The words of a text that are numbers, as numbers."""
    found = []
    for word in re.split(r"[\s,()]+", text):
        try:
            found.append(float(word))
        except ValueError:
            continue
    return found


def _check_metaimage(path: Path, what: str) -> None:
    for key, value in _fields(path, "="):
        numbers = _numbers(value)
        if key in ("elementspacing", "elementsize") and not all(0 < v < math.inf for v in numbers):
            raise bad_spacing(path, what, value)
        if key in _META_GEOMETRY and not all(map(math.isfinite, numbers)):
            raise InputError(
                f"The {what} {path} has an origin or direction that is not finite ({value}). Correct its header."
            )
        if key == "elementdatafile":  # the last line before the data
            break
    if not _holds_metaimage(path):
        raise cut_short(path, what)


# Bytes of a value; MET_LONG has as many as the machine that wrote it had, 4 at the least.
_META_BYTES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_LONG", "MET_ULONG", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}


def _holds_metaimage(path: Path) -> bool:
    """Whether the file with the voxels is as long as the header says; True where the header does not say it plainly.

    Of compressed data only the length that they have when packed is looked at.
    """
    fields: dict[str, str] = {}
    for key, value in _fields(path, "="):
        fields[key] = value
        if key == "elementdatafile":
            break
    name = fields.get("elementdatafile", "")
    if fields.get("binarydata", "true").lower() == "false" or fields.get("headersize", "0") != "0":
        return True
    if fields.get("compresseddata", "").lower() == "true":
        size = math.prod(_numbers(fields.get("compresseddatasize", "0")))
    else:
        counts = _numbers(fields.get("dimsize", "0")) + _numbers(fields.get("elementnumberofchannels", "1"))
        size = math.prod(counts) * _META_BYTES.get(fields.get("elementtype", ""), 0)
    if name.upper() == "LOCAL":
        with open(path, "rb") as file:
            head = file.read(_HEADER_BYTES)
        line = re.search(rb"^\s*ElementDataFile\s*=.*\r?\n", head, re.MULTILINE | re.IGNORECASE)
        return line is None or path.stat().st_size >= line.end() + size
    data = path.with_name(name) if name and os.path.basename(name) == name else None
    return data is None or not data.is_file() or data.stat().st_size >= size


def _check_nrrd(path: Path, what: str) -> None:
    for key, value in _fields(path, ":"):
        # "nan" is NRRD's word for a spacing that is not known or makes no sense, as that of colours.
        if key == "spacings" and any(v <= 0 for v in _numbers(value)):
            raise bad_spacing(path, what, value)
        if key == "space directions":
            vectors = [_numbers(vector) for vector in re.findall(r"\(([^)]*)\)", value)]
            if any(vector and not any(vector) for vector in vectors):
                raise bad_spacing(path, what, value)


# ---------------------------------------------------------------------- NIfTI


def _check_nifti(path: Path, what: str) -> None:
    """NIfTI-1 and Analyze; ITK does not read NIfTI-2."""
    header = _header_of_pair(path)
    try:
        head = _read_start(header, 348)
    except (OSError, EOFError, zlib.error) as error:
        raise cut_short(path, what) from error
    order = next((o for o in "<>" if len(head) == 348 and struct.unpack(f"{o}i", head[:4])[0] == 348), None)
    if order is None:
        return
    dim = struct.unpack_from(f"{order}8h", head, 40)
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise InputError(f"The {what} {path} has an impossible size in its header {tuple(dim)}. It may be damaged.")
    spacing = struct.unpack_from(f"{order}8f", head, 76)[1 : min(dim[0], 3) + 1]
    if not all(0 < v < math.inf for v in spacing):
        raise bad_spacing(path, what, " ".join(f"{v:g}" for v in spacing))
    (bits,) = struct.unpack_from(f"{order}h", head, 72)
    size = math.prod(dim[1 : dim[0] + 1]) * bits // 8
    data = _data_of_pair(header)
    if data is None:
        raise InputError(f"The {what} {path} has no image data: there is no {header.stem.split('.')[0]}.img beside it.")
    if data == header:
        size += int(struct.unpack_from(f"{order}f", head, 108)[0])
    if not _holds(data, size):
        raise cut_short(path, what)


def _header_of_pair(path: Path) -> Path:
    """The header file: ``.hdr`` where the image data (``.img``) were named."""
    name = path.name
    match = re.fullmatch(r"(.*)\.img(\.gz)?", name, re.IGNORECASE)
    if not match:
        return path
    candidates = [path.with_name(match.group(1) + ending) for ending in (".hdr", ".HDR", ".hdr.gz")]
    return next((c for c in candidates if c.is_file()), path)


def _data_of_pair(header: Path) -> Path | None:
    """The file with the voxels: the header's own, or the ``.img`` of a pair; None where that is missing."""
    match = re.fullmatch(r"(.*)\.hdr(\.gz)?", header.name, re.IGNORECASE)
    if not match:
        return header
    candidates = [header.with_name(match.group(1) + ending) for ending in (".img", ".IMG", ".img.gz")]
    return next((c for c in candidates if c.is_file()), None)


def _is_gzip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _read_start(path: Path, count: int) -> bytes:
    with gzip.open(path) if _is_gzip(path) else open(path, "rb") as file:
        return file.read(count)


def _holds(path: Path, size: int) -> bool:
    """Whether a file, unpacked, has at least ``size`` bytes."""
    if not _is_gzip(path):
        return path.stat().st_size >= size
    with open(path, "rb") as file:
        file.seek(-4, os.SEEK_END)
        # The trailer says the unpacked length, modulo 2^32; a file that ends early has something else there.
        if struct.unpack("<I", file.read(4))[0] == size % 2**32:
            return True
    # Several gzip members, bytes after the image, or damage: only unpacking to the end, with its checksum, tells.
    found = 0
    try:
        with gzip.open(path) as file:
            while block := file.read(1 << 22):
                found += len(block)
    except (OSError, EOFError, zlib.error):
        return False
    return found >= size
