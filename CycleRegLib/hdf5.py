"""A writer of ITK transform files in HDF5, slab by slab.

ITK's own needs six times the memory of a field to write it.  Files follow version 3 of the HDF5 file format (superblock
and object headers of version 2); everything lies in them in the order in which it is written here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

_UNDEFINED = 2**64 - 1
_HEAP_BYTES = 4096  # the least that a global heap may have
_DOUBLE, _FLOAT, _STRING = "double", "float", "string"
# Class, layout of bits and size of little-endian numbers, and of a string of any length, which is made of bytes.
_DATATYPES = {
    _DOUBLE: struct.pack("<B3BIHHBBBBI", 0x11, 0x20, 63, 0, 8, 0, 64, 52, 11, 0, 52, 1023),
    _FLOAT: struct.pack("<B3BIHHBBBBI", 0x11, 0x20, 31, 0, 4, 0, 32, 23, 8, 0, 23, 127),
    _STRING: struct.pack("<B3BI", 0x19, 1, 0, 0, 16) + struct.pack("<B3BIHH", 0x10, 0, 0, 0, 1, 0, 8),
}


def write_displacement_transform(
    file: BinaryIO, fixed_parameters: np.ndarray, count: int, parameters: Iterator[np.ndarray], dimension: int
) -> None:
    """Write one ``DisplacementFieldTransform`` as :func:`SimpleITK.ReadTransform` and Slicer read it.

    Parameters
    ----------
    file
        Empty and seekable.
    fixed_parameters
        Size, origin, spacing and direction of the field, in this order.
    count, parameters
        How many float32 numbers the field has, and these in parts: the components of each voxel, x fastest.
    dimension
        Of the space.
    """
    file.write(bytes(48))  # the superblock comes last, when every place is known
    name = f"DisplacementFieldTransform_float_{dimension}_{dimension}"
    heap = _write(file, _global_heap(name.encode()))
    reference = struct.pack("<IQI", len(name), heap, 1)
    fixed = np.ascontiguousarray(fixed_parameters, "<f8")
    places = {
        "TransformType": _write_dataset(file, _STRING, 1, len(reference), [reference]),
        "TransformFixedParameters": _write_dataset(file, _DOUBLE, fixed.size, fixed.nbytes, [fixed.tobytes()]),
        "TransformParameters": _write_dataset(
            file, _FLOAT, count, 4 * count, (np.ascontiguousarray(part, "<f4").tobytes() for part in parameters)
        ),
    }
    transform = _write(file, _group(places))
    transforms = _write(file, _group({"0": transform}))
    root = _write(file, _group({"TransformGroup": transforms}))
    end = file.tell()
    superblock = b"\x89HDF\r\n\x1a\n" + struct.pack("<BBBBQQQQ", 2, 8, 8, 0, 0, _UNDEFINED, end, root)
    file.seek(0)
    file.write(_with_checksum(superblock))


def _write(file: BinaryIO, block: bytes) -> int:
    """Append a block at a multiple of eight bytes; returns its address."""
    file.write(bytes(-file.tell() % 8))
    address = file.tell()
    file.write(block)
    return address


def _write_dataset(file: BinaryIO, kind: str, count: int, size: int, parts: Iterator[bytes] | list[bytes]) -> int:
    """Append a one-dimensional dataset of ``size`` bytes that lie in one piece; returns the address of its header."""
    data = _write(file, b"")
    for part in parts:
        file.write(part)
    if file.tell() - data != size:
        raise ValueError(f"a dataset of {size} bytes was announced, but {file.tell() - data} came")
    messages = [
        (0x01, struct.pack("<BBBBQ", 2, 1, 0, 1, count)),
        (0x03, _DATATYPES[kind]),
        (0x05, struct.pack("<BB", 3, 0x0A)),  # no fill value
        (0x08, struct.pack("<BBQQ", 3, 1, data, size)),
    ]
    return _write(file, _object_header(messages))


def _group(links: dict[str, int]) -> bytes:
    """The header of a group with these members, by name and address."""
    messages = [(0x02, struct.pack("<BBQQ", 0, 0, _UNDEFINED, _UNDEFINED)), (0x0A, struct.pack("<BB", 0, 0))]
    for name, address in links.items():
        text = name.encode()
        messages.append((0x06, struct.pack("<BBB", 1, 0, len(text)) + text + struct.pack("<Q", address)))
    return _object_header(messages)


def _object_header(messages: list[tuple[int, bytes]]) -> bytes:
    body = b"".join(struct.pack("<BHB", kind, len(data), 0) + data for kind, data in messages)
    return _with_checksum(b"OHDR" + struct.pack("<BBI", 2, 2, len(body)) + body)


def _global_heap(content: bytes) -> bytes:
    """A collection that holds one object, number 1."""
    content = struct.pack("<HHIQ", 1, 1, 0, len(content)) + content + bytes(-len(content) % 8)
    room = _HEAP_BYTES - 16 - len(content)
    heap = b"GCOL" + struct.pack("<B3xQ", 1, _HEAP_BYTES) + content + struct.pack("<HHIQ", 0, 0, 0, room)
    return heap.ljust(_HEAP_BYTES, b"\0")


def _with_checksum(block: bytes) -> bytes:
    return block + struct.pack("<I", lookup3(block))


def lookup3(data: bytes) -> int:
    """Bob Jenkins' hash (lookup3, ``hashlittle`` with initial value 0), the checksum of HDF5's metadata."""
    a = b = c = (0xDEADBEEF + len(data)) & 0xFFFFFFFF

    def turned(value: int, bits: int) -> int:
        return (value << bits | value >> (32 - bits)) & 0xFFFFFFFF

    while len(data) > 12:
        a, b, c = ((x + y) & 0xFFFFFFFF for x, y in zip((a, b, c), struct.unpack("<III", data[:12])))
        for bits in (4, 6, 8, 16, 19, 4):
            # a -= c; a ^= c <<< bits; c += b, and the three change places
            a = ((a - c) & 0xFFFFFFFF) ^ turned(c, bits)
            a, b, c = b, (c + b) & 0xFFFFFFFF, a
        data = data[12:]
    if data:
        a, b, c = ((x + y) & 0xFFFFFFFF for x, y in zip((a, b, c), struct.unpack("<III", data.ljust(12, b"\0"))))
        for bits in (14, 11, 25, 16, 4, 14, 24):
            # c ^= b; c -= b <<< bits, and the three change places
            c = ((c ^ b) - turned(b, bits)) & 0xFFFFFFFF
            a, b, c = b, c, a
        a, b, c = c, a, b
    return c
