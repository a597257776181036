"""Whether a finished pair still holds: SHA-256 of what it was made from.

A pair's fingerprint is the SHA-256 of the contents of its input files, its options and CycleReg's version.  Contents
are always hashed before a pair is computed, in the thread that reads ahead: the hash is what brings a file from the
disk into memory, where the reader of images then finds it, so that nothing is fetched twice.

On resuming, thousands of finished pairs would have to be read again only to prove that nothing happened.  Their hashes
are therefore remembered with each file's size, modification and change times and inode, as version control systems do.
The change time is the system's own and moves with every write, rename or replacement; whoever copies another file there
with its old modification time changes it too.  A file that was modified within two seconds of being hashed is hashed
again, since clocks of file systems are that coarse.  (On Windows the change time is that of creation, and proves less.)
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import InputError
from ..presets import method_of
from .manifest import PairSpec

_FORMAT = 1
_BLOCK = 1 << 20
_COARSEST_CLOCK_NS = 2_000_000_000
# Where a pair is computed does not make it another result.
_NOT_COUNTED = ("device",)


@dataclass(frozen=True)
class FileMark:
    """What is remembered of an input: ``stamp`` is [name, size, mtime, ctime, inode] of each of its files."""

    path: str
    stamp: list[list[Any]]
    sha256: str
    hashed_at_ns: int

    def to_dict(self) -> dict[str, Any]:
        """In JSON types."""
        return {"path": self.path, "stamp": self.stamp, "sha256": self.sha256, "hashed_at_ns": self.hashed_at_ns}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> FileMark:
        """From :meth:`to_dict`."""
        return cls(content["path"], content["stamp"], content["sha256"], content["hashed_at_ns"])

    def proves(self, stamp: list[list[Any]]) -> bool:
        """Whether files with this stamp are certainly those that were hashed."""
        settled = self.hashed_at_ns - _COARSEST_CLOCK_NS
        return stamp == self.stamp and all(max(mtime, ctime) < settled for _, _, mtime, ctime, _ in stamp)


@dataclass(frozen=True)
class Identity:
    """What a pair is made from: marks of its files by column, its options, and the fingerprint of all."""

    inputs: dict[str, FileMark]
    options: dict[str, Any]
    sha256: str

    @classmethod
    def of(cls, inputs: Mapping[str, FileMark], options: Mapping[str, Any]) -> Identity:
        """With the fingerprint of these inputs and options."""
        counted = {name: value for name, value in options.items() if name not in _NOT_COUNTED}
        counted["method"] = method_of(counted.get("method"), counted.get("preset"))
        if counted.get("preset") is None:
            counted.pop("preset", None)
        content = {
            "format": _FORMAT,
            "cyclereg": __version__,
            "inputs": {name: mark.sha256 for name, mark in inputs.items()},
            "options": counted,
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return cls(dict(inputs), counted, hashlib.sha256(text.encode()).hexdigest())

    def to_dict(self) -> dict[str, Any]:
        """In JSON types."""
        inputs = {name: mark.to_dict() for name, mark in self.inputs.items()}
        return {"sha256": self.sha256, "cyclereg": __version__, "inputs": inputs, "options": self.options}

    def check_unchanged(self) -> None:
        """Make sure that what was read is what was hashed.

        Raises
        ------
        InputError
            If a file was changed or removed meanwhile.
        """
        for mark in self.inputs.values():
            if _stamp(mark.path) != mark.stamp:
                raise InputError(f"The file {mark.path} was changed while it was read. Let it be finished first.")


class Hashes:
    """SHA-256 sums of files, each computed once while its file stays as it is."""

    def __init__(self) -> None:
        self._marks: dict[str, FileMark] = {}

    def identify(self, spec: PairSpec) -> Identity:
        """Hash what a pair is made from.

        Raises
        ------
        InputError
            If a file is not there or cannot be read.
        """
        return Identity.of({name: self.mark(path) for name, path in spec.files.items()}, spec.options)

    def mark(self, path: str) -> FileMark:
        """The mark of one input, which may be a folder.

        Raises
        ------
        InputError
            If it is not there or cannot be read.
        """
        stamp = _stamp(path)
        known = self._marks.get(path)
        if known is None or known.stamp != stamp:
            now = time.time_ns()
            known = FileMark(path, stamp, _content(path), now)
            self._marks[path] = known
        return known


def recall(spec: PairSpec, fingerprint: Mapping[str, Any]) -> Identity | None:
    """The identity of a pair from what is remembered in a finished one; None where that proves nothing."""
    inputs = {}
    try:
        for name, path in spec.files.items():
            mark = FileMark.from_dict(fingerprint["inputs"][name])
            if mark.path != path or not mark.proves(_stamp(path)):
                return None
            inputs[name] = mark
    except (InputError, KeyError, TypeError, ValueError):
        return None
    return Identity.of(inputs, spec.options)


# ---------------------------------------------------------------------- files


def files_of(path: Path) -> list[Path]:
    """The files that an input consists of: one, those of a folder, or a header and its data."""
    if path.is_dir():
        return sorted(entry for entry in path.iterdir() if entry.is_file())
    name = path.name.lower()
    pair = re.fullmatch(r"(.*)\.(hdr|img)(\.gz)?", name)
    if pair:
        others = re.compile(re.escape(pair[1]) + r"\.(hdr|img)(\.gz)?")
        return sorted(entry for entry in path.parent.iterdir() if others.fullmatch(entry.name.lower()))
    if name.endswith((".mhd", ".nhdr")):
        return [path, *_data_files(path)]
    return [path]


def _data_files(header: Path) -> list[Path]:
    """The files with the voxels that a detached header names."""
    lines = header.read_text(encoding="latin-1").splitlines()
    key = re.compile(r"\s*(?:ElementDataFile\s*=|data ?file\s*:)\s*(.*)", re.IGNORECASE)
    for number, line in enumerate(lines):
        match = key.fullmatch(line)
        if not match:
            continue
        words = match[1].split()
        if words and words[0].upper() == "LIST":
            names = [text.strip() for text in lines[number + 1 :] if text.strip()]
        elif "%" in match[1]:
            before = words[0].partition("%")[0]
            folder = (header.parent / before).parent
            names = [str(entry) for entry in folder.iterdir() if entry.name.startswith(Path(before).name)]
        else:
            names = [match[1].strip()]
        found = [header.parent / name for name in names]
        return sorted(entry for entry in found if entry.is_file() and entry != header)
    return []


def _stamp(path: str) -> list[list[Any]]:
    try:
        files = files_of(Path(path))
        states = [(file.name, file.stat()) for file in files]
    except OSError as error:
        raise _gone(path, error) from error
    return [[name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in states]


def _content(path: str) -> str:
    """SHA-256 of a file; of several, of their names and sums."""
    try:
        files = files_of(Path(path))
        sums = [(file.name, _sum(file)) for file in files]
    except OSError as error:
        raise _gone(path, error) from error
    if len(sums) == 1 and not os.path.isdir(path):
        return sums[0][1]
    return hashlib.sha256("".join(f"{name}\0{digest}\n" for name, digest in sums).encode()).hexdigest()


def _sum(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb", buffering=0) as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _gone(path: str, error: OSError) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"The file {path} is not there any more, or this machine does not see it.")
    return InputError(f"The file {path} cannot be read: {error.strerror or error}.")
