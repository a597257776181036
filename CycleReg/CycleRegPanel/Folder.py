"""The temporary folder through which the data of a run goes between the scene and the child process."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any, Callable

import slicer

from .Host import _


class Folder:
    """A temporary folder for the files of one run.

    Everything that writes into it raises ``CycleRegLib.errors.InputError``, with what to do, where there is no room or
    no right to write.
    """

    def __init__(self) -> None:
        self.path = ""

    def make(self) -> None:
        """Make it, in the application's temporary folder."""
        place = getattr(slicer.app, "temporaryPath", None) or tempfile.gettempdir()
        try:
            self.path = tempfile.mkdtemp(prefix="CycleReg-", dir=place)
        except OSError as error:
            raise _unwritable(place, error) from error

    def file(self, name: str) -> str:
        """The path of a file in it."""
        return os.path.join(self.path, name)

    def write(self, name: str, write: Callable[[str], Any]) -> str:
        """Let ``write`` make the file of that name, which may name a folder above it as well; returns its path."""
        path = self.file(name)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            write(path)
        except (OSError, RuntimeError) as error:
            raise _unwritable(self.path, error) from error
        return path

    def writeImage(self, image: Any, name: str) -> str:
        """Write a SimpleITK image as NRRD; returns its path."""
        return self.write(name, lambda path: _writeImage(image, path))

    def writeTransform(self, transform: Any, reference: Any, name: str) -> str:
        """Write a SimpleITK transform as a displacement field on the grid of ``reference``, or as its matrix."""
        from CycleRegLib.fields import DisplacementField
        from CycleRegLib.geometry import Grid

        if not transform.IsLinear():
            return self.writeImage(DisplacementField.from_transform(transform, Grid.of(reference)).to_image(), name)
        return self.write(os.path.splitext(name)[0] + ".tfm", lambda path: _writeMatrix(transform, path))

    def remove(self) -> None:
        """Remove it; what a child that was just stopped still holds open is left to the system."""
        if self.path:
            shutil.rmtree(self.path, ignore_errors=True)
            self.path = ""


# The writers of ITK hand the last bytes over when they close the file, and do not say when the disk has no room for
# them: what they wrote is looked at.


def _writeImage(image: Any, path: str) -> None:
    import SimpleITK as sitk

    # Uncompressed: the files live for one run, and compressing takes longer than writing.
    sitk.WriteImage(image, path, False)
    size = image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel() * image.GetSizeOfPixelComponent()
    with open(path, "rb") as file:
        header, end, _data = file.read(65536).partition(b"\n\n")
    if not end or os.path.getsize(path) < len(header) + len(end) + size:
        raise RuntimeError(f"{path} is not whole")


def _writeMatrix(transform: Any, path: str) -> None:
    import SimpleITK as sitk

    sitk.WriteTransform(transform, path)
    sitk.ReadTransform(path)


def _unwritable(folder: str, error: Exception) -> Exception:
    from CycleRegLib.errors import InputError

    reason = getattr(error, "strerror", None) or _("the disk is full, or may not be written to")
    return InputError(
        _(
            "The data cannot be written to the temporary folder {folder} ({reason}). Make room there, or choose "
            "another folder: menu Edit, Application Settings, Modules, Temporary directory."
        ).format(folder=folder, reason=reason)
    )
