"""Large arrays without large memory: beyond a size they lie in a temporary file that is mapped into memory.

What of such a file is resident can be given back at any time (:func:`release`) and comes back when it is read.  Work
that goes through its arrays slab by slab (:func:`slabs`) so needs memory for a slab, however large the arrays are.
"""

from __future__ import annotations

import math
import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Union

import numpy as np

if TYPE_CHECKING:  # geometry is of use without PyTorch
    import torch

# Arrays of more bytes than this lie in a file; below, a handful of them fits any machine.
MAPPED_BYTES = 128 * 2**20
SLAB_VOXELS = 1_000_000
_Array = Union[np.ndarray, "torch.Tensor"]

# By address of their first byte.  An array of any kind that lies in a map keeps it alive.
_maps: dict[int, weakref.ref[mmap.mmap]] = {}


def empty(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """An array like ``numpy.empty``; one of more than ``MAPPED_BYTES`` lies in a temporary file.

    The file has no name (on Windows it goes with the array), needs room where :mod:`tempfile` makes its files, and
    goes when the last view of the array does.  Where there is no room, the array is an ordinary one.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= MAPPED_BYTES:
        return np.empty(shape, dtype)
    try:
        with tempfile.TemporaryFile(prefix="cyclereg-") as file:
            _reserve(file.fileno(), size)
            mapped = mmap.mmap(file.fileno(), size)
    except OSError:  # no room, no folder for temporary files, or a file system that maps nothing
        return np.empty(shape, dtype)
    array = np.ndarray(shape, dtype, buffer=mapped)
    address = array.ctypes.data
    _maps[address] = weakref.ref(mapped, lambda _: _maps.pop(address, None))
    return array


def _reserve(file: int, size: int) -> None:
    """Make the file that large, with all its blocks: a disk that fills up later would end the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        if shutil.disk_usage(tempfile.gettempdir()).free < 2 * size:
            raise OSError("no room for a temporary file")
        os.ftruncate(file, size)


def release(*arrays: _Array) -> None:
    """Give back the memory of arrays that lie in a file, of their views and tensors too; other arrays stay as they are.

    Nothing is lost: the content is in the file (mostly still in the system's cache).  Windows does this by itself.
    """
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    for array in arrays:
        address = array.ctypes.data if isinstance(array, np.ndarray) else array.data_ptr()
        for start, reference in list(_maps.items()):  # a copy, as other threads make arrays too
            mapped = reference()
            if mapped is not None and start <= address < start + len(mapped):
                mapped.madvise(mmap.MADV_DONTNEED)


def slabs(shape: tuple[int, ...], *arrays: _Array) -> Iterator[slice]:
    """Slices along the first axis of about ``SLAB_VOXELS`` voxels, an even number of slices each where possible.

    After each slab the memory of ``arrays`` is given back, see :func:`release`.
    """
    step = max(2, SLAB_VOXELS // max(1, math.prod(shape[1:])) // 2 * 2)
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))
        release(*arrays)
