"""Outputs appear whole or not at all: everything is written beside its place and renamed at the end."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Union

from .errors import InputError

_PathLike = Union[os.PathLike[str], str]


class OutputTransaction:
    """Collects output files and puts them in place together when the block ends without an exception.

    >>> with OutputTransaction() as out:          # doctest: +SKIP
    ...     sitk.WriteImage(image, str(out.path("warped.nrrd")))

    A file is first written to a hidden folder beside its final place (same disk, so that the rename is atomic).  When
    the block fails or is cancelled, that folder is removed and whatever stood at the final paths is untouched; also
    when only the last of several files cannot be put in place.  Whatever wrote them, files have the permissions that
    the user's umask gives.

    Parameters
    ----------
    inputs
        Files (or None) that an output must not replace.
    """

    def __init__(self, inputs: Iterable[_PathLike | None] = ()) -> None:
        self._inputs = {_place(path) for path in inputs if path is not None}
        self._staged: list[tuple[Path, Path]] = []
        self._folders: dict[Path, Path] = {}
        self._modes: dict[Path, int] = {}
        self._made: list[Path] = []

    def claim(self, path: _PathLike) -> Path:
        """Check that ``path`` can be written, before hours are spent on its content; returns the place it stands for.

        Raises
        ------
        InputError
            If its folder is missing or not writable, the path is a folder or no ordinary file, one of the inputs, or
            claimed twice.
        """
        final = _place(path)
        folder = final.parent
        if not folder.is_dir():
            raise InputError(f"Cannot write {path}: the folder {folder} does not exist. Create it or choose another.")
        if final.is_dir():
            raise InputError(f"Cannot write {path}: it is a folder. Give the name of a file.")
        if final.exists() and not final.is_file():
            raise InputError(f"Cannot write {path}: it is not an ordinary file, and outputs replace what they name.")
        if final.exists() and not os.access(final, os.W_OK):
            raise InputError(f"Cannot write {path}: the file exists and is write-protected.")
        if final in self._inputs:
            raise InputError(f"Cannot write {path}: it is one of the inputs, which are kept. Give another name.")
        if any(final == claimed for claimed, _ in self._staged):
            raise InputError(f"Two outputs have the same path {path}. Give each its own.")
        self.probe(folder)
        self._staged.append((final, self._folders[folder] / final.name))
        return final

    def folder(self, path: _PathLike, what: str) -> Path:
        """The folder for some outputs, made if its parent exists, and removed again when the block fails.

        Raises
        ------
        InputError
            If it is a file, is claimed as one, or cannot be made; the message names ``what`` goes there.
        """
        place = _place(path)
        if place.exists() and not place.is_dir():
            raise InputError(f"Cannot write the {what} into {path}: it is a file. Give the name of a folder.")
        if any(place == claimed for claimed, _ in self._staged):
            raise InputError(f"Two outputs have the same path {path}. Give each its own.")
        if not place.parent.is_dir():
            raise InputError(f"Cannot write the {what} into {path}: the folder {place.parent} does not exist.")
        if not place.exists():
            try:
                place.mkdir()
            except OSError as error:
                raise InputError(f"Cannot write into {place.parent}: {error.strerror or error}.") from error
            self._made.append(place)
        return place

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
            # A file tells the permissions of new files; asking for the umask would change it for all threads meanwhile.
            new = self._folders[folder] / ".new"
            new.touch()
            self._modes[folder] = stat.S_IMODE(new.stat().st_mode)
            new.unlink()
        except OSError as error:
            raise InputError(f"Cannot write into {folder}: {error.strerror or error}.") from error

    def path(self, path: _PathLike) -> Path:
        """Where to write the content of ``path`` for now; claims it if that was not done before."""
        final = _place(path)
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
                try:
                    self._commit()
                except OSError as failure:
                    raise _failed(failure) from failure
            elif isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
                raise _failed(error) from error
        finally:
            for folder in self._folders.values():
                # What cannot be removed (a file that another program holds open) must not undo what was achieved.
                shutil.rmtree(folder, ignore_errors=True)
            for folder in self._made:
                with contextlib.suppress(OSError):  # not empty, as when all went well
                    folder.rmdir()

    def _commit(self) -> None:
        missing = [str(final) for final, staged in self._staged if not staged.exists()]
        if missing:
            raise RuntimeError(f"claimed but never written: {', '.join(missing)}")
        self._permit()
        replaced: list[tuple[Path, Path]] = []
        try:
            for number, (final, staged) in enumerate(self._staged):
                before = staged.with_name(f".before-{number}")
                replaced.append((final, before))
                if final.exists():
                    os.replace(final, before)
                os.replace(staged, final)
        except BaseException:
            for (final, before), (_, staged) in zip(replaced, self._staged):
                if before.exists():
                    os.replace(before, final)
                elif not staged.exists():
                    final.unlink()
            raise

    def _permit(self) -> None:
        """Give every file the permissions of a new file: some writers make theirs for its owner alone."""
        for final, staged in self._staged:
            mode = self._modes[final.parent]
            if stat.S_IMODE(staged.stat().st_mode) != mode:
                staged.chmod(mode)


def _place(path: _PathLike) -> Path:
    """The file that a path stands for, however it is spelt; a link stands for what it points to."""
    return Path(os.path.realpath(Path(path).expanduser()))


def _failed(error: OSError) -> InputError:
    return InputError(f"Writing the outputs failed: {error.strerror or error}. Nothing was changed.")
