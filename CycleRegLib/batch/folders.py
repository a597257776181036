"""The folder of a batch on disk: what is complete, what was begun, what failed; nothing half-written counts.

::

    OUT/manifest.json           the manifest as it was understood; says that the folder is a batch's
    OUT/pairs/ID/               a complete pair; put there by renaming the whole folder
    OUT/.partial/ID.RUN-N/      a pair that is being computed or written, or was when a run died
    OUT/failed/ID.json          why a pair failed
    OUT/results.csv, ...        see :mod:`CycleRegLib.batch.results`
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..commands import write_json
from ..errors import InputError
from ..outputs import OutputTransaction
from .manifest import PairSpec
from .record import BatchRecord

_FORMAT = 1
_SUMMARY, _BEGUN = "summary.json", "begun.json"
#: The file of a pair that may be made later than the others.
SCENE = "scene.mrb"
# What follows a pair's id: the run and the attempt; or, while a finished pair replaces an older one, that one.
_TOKEN = r"\.[0-9a-f]+-[0-9]+(-replaced)?"


class BatchFolder:
    """A batch's output folder.

    Parameters
    ----------
    path
        The folder; its parent must be there.
    run
        Name of this run, which marks what it begins.
    """

    def __init__(self, path: str | os.PathLike[str], run: str = "") -> None:
        self.path = Path(os.path.abspath(Path(path).expanduser()))
        self.run = run
        self.pairs, self.partial, self.failures = (self.path / name for name in ("pairs", ".partial", "failed"))

    # ------------------------------------------------------------------ the folder itself

    def check(self, specs: Sequence[PairSpec]) -> None:
        """Refuse a place that cannot be used, before anything is computed.

        Raises
        ------
        InputError
            If it is a file, holds something else than a batch, cannot be written, or holds an input of a pair.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"Cannot write the batch into {self.path}: it is a file. Give the name of a folder.")
        if not self.path.parent.is_dir():
            raise InputError(
                f"Cannot write the batch into {self.path}: the folder {self.path.parent} does not exist. Create it."
            )
        if self.path.is_dir() and not self._is_a_batch():
            raise InputError(
                f"The folder {self.path} holds something else than a batch. Give a new one, so that nothing in it is "
                "replaced."
            )
        inside = os.path.join(os.path.realpath(self.pairs), "")
        for spec in specs:
            for name, file in spec.files.items():
                if os.path.realpath(file).startswith(inside):
                    raise InputError(
                        f"The {name} of pair '{spec.id}' lies among the outputs ({file}), which are replaced. Copy it "
                        "elsewhere, or give another output folder."
                    )

    def _is_a_batch(self) -> bool:
        if all(entry.name.startswith(".") for entry in self.path.iterdir()):
            return True  # empty, or a run died before its first file was there
        try:
            content = json.loads((self.path / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(content, dict) and "cyclereg_batch" in content

    def open(self, specs: Sequence[PairSpec], whole: bool = True) -> None:
        """Write the manifest into the folder, and make the folders in it.

        A run of some pairs (not ``whole``) leaves a manifest that is there as it is.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        content = {"cyclereg_batch": _FORMAT, "cyclereg": __version__, "pairs": [spec.to_dict() for spec in specs]}
        try:
            if whole or not (self.path / "manifest.json").exists():
                with OutputTransaction() as out:
                    write_json(content, out.path(self.path / "manifest.json"))
            for folder in (self.pairs, self.partial, self.failures):
                folder.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"Cannot write into {self.path}: {error.strerror or error}.") from error

    @contextlib.contextmanager
    def lock(self, shared: bool) -> Iterator[None]:
        """Make the folder and keep a second run out of it; runs of some pairs each (``shared``) may be there together.

        The system gives the lock back however the process ends.  Where there are no locks, there is no protection.

        Raises
        ------
        InputError
            If the folder cannot be made, or another run is at work.
        """
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"Cannot make the folder {self.path}: {error.strerror or error}.") from error
        try:
            import fcntl
        except ImportError:  # Windows
            yield
            return
        with open(self.path / ".lock", "ab") as file:
            try:
                fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"Another run is at work in {self.path}. Wait for it, or stop it.") from None
            except OSError:  # a network file system without locks
                pass
            yield

    # ------------------------------------------------------------------ a pair

    def place(self, name: str) -> Path:
        """Where a complete pair lies."""
        return self.pairs / name

    def begin(self, name: str, attempt: int = 1) -> Path:
        """A new hidden folder for a pair that is computed from now on, by this process."""
        folder = self.partial / f"{name}.{self.run}-{attempt}"
        folder.mkdir()
        write_json({"host": socket.gethostname(), "pid": os.getpid()}, folder / _BEGUN)
        return folder

    def begun(self, name: str, run: str | None = None) -> list[Path]:
        """What was begun for a pair and not finished, by any run or by one."""
        wanted = re.compile(re.escape(name) + (rf"\.{run}-[0-9]+" if run else _TOKEN))
        return [entry for entry in self.partial.iterdir() if wanted.fullmatch(entry.name)]

    def hosts(self, name: str) -> list[str]:
        """The machines on which a pair was begun in this run."""
        found = set()
        for folder in self.begun(name, self.run):
            with contextlib.suppress(OSError, ValueError, KeyError):
                found.add(json.loads((folder / _BEGUN).read_text(encoding="utf-8"))["host"])
        return sorted(found)

    def all_begun(self) -> set[str]:
        """The names of the pairs that any run began and did not finish."""
        return {re.sub(f"{_TOKEN}$", "", entry) for entry in os.listdir(self.partial)}

    def finish(self, name: str, partial: Path) -> Path:
        """Put a written folder in its place, whole, and forget earlier failures and attempts.

        Raises
        ------
        OSError
            If the system refuses.
        """
        place = self.place(name)
        old = partial.with_name(f"{partial.name}-replaced")
        if place.exists():
            os.rename(place, old)
        os.rename(partial, place)
        shutil.rmtree(old, ignore_errors=True)
        self.forget(name)
        return place

    def add_scene(self, name: str, partial: Path, summary: dict[str, Any]) -> None:
        """Put a scene that was written into a begun folder beside a complete pair's other files, and into its summary.

        Raises
        ------
        OSError
            If the system refuses.
        """
        place, written = self.place(name), partial / SCENE
        files = {**summary["files"], SCENE: written.stat().st_size}
        write_json({**summary, "files": dict(sorted(files.items()))}, partial / _SUMMARY)
        # Between the two, the scene is not in the summary: it does not count, and the pair does.
        os.replace(written, place / SCENE)
        os.replace(partial / _SUMMARY, place / _SUMMARY)
        self.forget(name)

    def forget(self, name: str) -> None:
        """Remove what is left of earlier failures and attempts of a pair."""
        with contextlib.suppress(FileNotFoundError):
            (self.failures / f"{name}.json").unlink()
        self.drop(name)

    def sweep(self) -> None:
        """Remove what this run began and nobody is at work on any more."""
        for entry in self.partial.iterdir():
            if re.fullmatch(rf".*\.{self.run}-[0-9]+(-replaced)?", entry.name):
                shutil.rmtree(entry, ignore_errors=True)

    def drop(self, name: str) -> None:
        """Remove what was begun for a pair and not finished."""
        for folder in self.begun(name):
            shutil.rmtree(folder, ignore_errors=True)

    def fail(self, record: BatchRecord, trace: str = "") -> None:
        """Keep why a pair failed.

        Raises
        ------
        OSError
            If even that cannot be written.
        """
        content = record.to_dict() if not trace else {**record.to_dict(), "trace": trace}
        place = self.failures / f"{record.id}.json"
        self.failures.mkdir(exist_ok=True)
        staged = place.with_name(f".{place.name}-{self.run}")
        try:
            write_json(content, staged)
            os.replace(staged, place)
        finally:
            with contextlib.suppress(OSError):
                staged.unlink()

    def summary(self, name: str) -> dict[str, Any] | None:
        """The summary of a complete pair; None if it is not complete, or one of its files is not as it was written.

        A scene that is not as it was written is not among its ``files``, and all else stands.
        """
        folder = self.place(name)
        try:
            content = json.loads((folder / _SUMMARY).read_text(encoding="utf-8"))
            if content["status"] != "done":
                return None
            files = content["files"]
            scene = files.pop(SCENE, None)
            whole = all((folder / file).stat().st_size == size for file, size in files.items())
            if scene is not None and (folder / SCENE).is_file() and (folder / SCENE).stat().st_size == scene:
                files[SCENE] = scene
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return content if whole else None


def write_pair_summary(folder: Path, content: dict[str, Any]) -> None:
    """The last file of a pair: names the others with their sizes."""
    (folder / _BEGUN).unlink()
    files = {
        str(path.relative_to(folder).as_posix()): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    write_json({**content, "files": files}, folder / _SUMMARY)


def lacks_room(folder: Path, size: int) -> OSError | None:
    """Why a file of so many bytes could not be written into a folder; None if it could."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, max(1, size))
            else:
                file.truncate(size)
    except OSError as error:
        return error
    return None
