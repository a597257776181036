"""Outputs appear whole or not at all: everything is written beside its place and renamed at the end."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType

from .errors import InputError


class OutputTransaction:
    """Collects output files and puts them in place together when the block ends without an exception.

    >>> with OutputTransaction() as out:          # doctest: +SKIP
    ...     sitk.WriteImage(image, str(out.path("warped.nrrd")))

    A file is first written to a hidden folder beside its final place (same disk, so that the rename is atomic).  When
    the block fails or is cancelled, that folder is removed and whatever stood at the final paths is untouched.
    """

    def __init__(self) -> None:
        self._staged: list[tuple[Path, Path]] = []
        self._folders: dict[Path, Path] = {}

    def claim(self, path: os.PathLike[str] | str) -> Path:
        """Check that ``path`` can be written, before hours are spent on its content.

        Raises
        ------
        InputError
            If its folder is missing or not writable, or the path is a folder, or is claimed twice.
        """
        final = Path(path).expanduser().absolute()
        folder = final.parent
        if not folder.is_dir():
            raise InputError(f"Cannot write {path}: the folder {folder} does not exist. Create it or choose another.")
        if final.is_dir():
            raise InputError(f"Cannot write {path}: it is a folder. Give the name of a file.")
        if final.exists() and not os.access(final, os.W_OK):
            raise InputError(f"Cannot write {path}: the file exists and is write-protected.")
        self.probe(folder)
        if any(final == claimed for claimed, _ in self._staged):
            raise InputError(f"Two outputs have the same path {path}. Give each its own.")
        staged = self._folders[folder] / final.name
        self._staged.append((final, staged))
        return final

    def probe(self, folder: Path) -> None:
        """Check that files can be made in ``folder``.

        Raises
        ------
        InputError
            If not.
        """
        if folder in self._folders:
            return
        try:
            self._folders[folder] = Path(tempfile.mkdtemp(prefix=".cyclereg-", dir=folder))
        except OSError as error:
            raise InputError(f"Cannot write into {folder}: {error.strerror or error}.") from error

    def path(self, path: os.PathLike[str] | str) -> Path:
        """Where to write the content of ``path`` for now; claims it if that was not done before."""
        final = Path(path).expanduser().absolute()
        for claimed, staged in self._staged:
            if claimed == final:
                return staged
        self.claim(path)
        return self._staged[-1][1]

    def __enter__(self) -> OutputTransaction:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._commit()
            elif isinstance(error, OSError):
                raise InputError(
                    f"Writing the outputs failed: {error.strerror or error}. Nothing was changed."
                ) from error
        finally:
            for folder in self._folders.values():
                _remove_tree(folder)

    def _commit(self) -> None:
        missing = [str(final) for final, staged in self._staged if not staged.exists()]
        if missing:
            raise RuntimeError(f"claimed but never written: {', '.join(missing)}")
        for final, staged in self._staged:
            os.replace(staged, final)


def _remove_tree(folder: Path) -> None:
    """Remove the staging folder (flat by construction)."""
    for entry in folder.iterdir():
        entry.unlink()
    folder.rmdir()
