"""Prepared arrays on disk: each entry is made once, by whichever process comes first, and found again by its key.

An entry is a folder named by the SHA-256 of what it was made from: its arrays as ``.npy``, which are mapped rather than
read, and ``about.json``.  It is written beside and then renamed, so that it is there whole or not at all, however many
processes work, and whenever one is killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from CycleRegLib import __version__
from CycleRegLib.batch.fingerprint import files_of
from CycleRegLib.errors import InputError

FORMAT = 1
_ABANDONED_SECONDS = 24 * 3600.0
Made = tuple[Mapping[str, np.ndarray], Mapping[str, Any]]


@dataclass(frozen=True)
class Entry:
    """Arrays by name, mapped read-only, and what is known of them."""

    arrays: Mapping[str, np.ndarray]
    about: Mapping[str, Any]


class Cache:
    """Entries in a folder.

    Raises
    ------
    InputError
        If the folder cannot be made or written to.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = default_folder() if folder is None else Path(folder).expanduser().absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            probe = self.folder / f".{uuid4().hex}"
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            raise InputError(
                f"The cache of prepared volumes cannot be kept in {self.folder}: {error.strerror}. Give another folder "
                "as data.cache."
            ) from error

    def get(self, parts: Mapping[str, Any], make: Callable[[], Made]) -> Entry:
        """The entry made from ``parts`` (JSON types), made now if it is not there yet.

        Raises
        ------
        InputError
            If the disk is full, or what ``make`` raises.
        """
        entry = self.find(parts)
        if entry is None:
            arrays, about = make()
            self._write(key_of(parts), arrays, about)
            entry = self.find(parts)
        if entry is None:
            raise InputError(f"The cache in {self.folder} lost an entry as it was written. Is something clearing it?")
        return entry

    def find(self, parts: Mapping[str, Any]) -> Entry | None:
        """The entry if it is there, and whole."""
        place = self._place(key_of(parts))
        try:
            about = json.loads((place / "about.json").read_text(encoding="utf-8"))
            arrays = {name: np.load(place / f"{name}.npy", mmap_mode="r") for name in about["arrays"]}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError):  # cut short: a disk that filled up without saying so
            shutil.rmtree(place, ignore_errors=True)
            return None
        return Entry(arrays, about)

    def _place(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def _write(self, key: str, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
        place = self._place(key)
        staged = self.folder / f".{key}-{uuid4().hex}"
        try:
            staged.mkdir()
            for name, array in arrays.items():
                np.save(staged / f"{name}.npy", array)
            text = json.dumps({**about, "arrays": sorted(arrays)}, indent=1)
            (staged / "about.json").write_text(text, encoding="utf-8")
            place.parent.mkdir(exist_ok=True)
            try:
                os.rename(staged, place)
            except OSError:  # another process was first, with the same content
                if not place.is_dir():
                    raise
        except OSError as error:
            raise InputError(
                f"A prepared volume could not be written to the cache in {self.folder} ({error.strerror or error}). "
                "Make room, or give another folder as data.cache."
            ) from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what killed processes left half written, long ago."""
        for left in self.folder.glob(".*-*"):
            try:
                if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)
            except OSError:  # another process was first
                continue


def default_folder() -> Path:
    """``$CYCLEREG_CACHE``, else a folder of the user's cache."""
    given = os.environ.get("CYCLEREG_CACHE")
    if given:
        return Path(given).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or "~/.cache"
    return Path(base).expanduser() / "cyclereg-training"


def key_of(parts: Mapping[str, Any]) -> str:
    """SHA-256 of JSON types."""
    text = json.dumps({"format": FORMAT, "cyclereg": __version__, **parts}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_identity(path: str) -> list[Any]:
    """What tells an input from any other: its place, and the size and time of change of each of its files.

    Raises
    ------
    InputError
        If it is not there.
    """
    try:
        states = [(file.name, file.stat()) for file in files_of(Path(path))]
    except OSError as error:
        raise InputError(f"The file {path} cannot be read: {error.strerror}.") from error
    return [os.path.abspath(path), [[name, state.st_size, state.st_mtime_ns] for name, state in states]]
