from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small_pair import tree

from CycleRegLib.cli import main
from CycleRegLib.errors import Cancelled, InputError
from CycleRegLib.fields import DisplacementField
from CycleRegLib.geometry import Grid
from CycleRegLib.images import write_image, write_transform
from CycleRegLib.outputs import OutputTransaction

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def write_all(folder: Path, *names: str, then: BaseException | None = None) -> None:
    with OutputTransaction() as out:
        for name in names:
            out.path(folder / name).write_text(f"new {name}")
        if then is not None:
            raise then


def claim(*paths: Path | str, inputs: tuple[Path | None, ...] = ()) -> None:
    with OutputTransaction(inputs) as out:
        for path in paths:
            out.claim(path)
        raise AssertionError("nothing was refused")


def test_all_files_appear_when_the_block_ends(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "old.txt").write_text("old")
    with OutputTransaction() as out:
        for name in ("a.txt", "old.txt", "sub/a.txt"):
            out.path(tmp_path / name).write_text(f"new {name}")
        assert (tmp_path / "old.txt").read_text() == "old"
        assert not (tmp_path / "a.txt").exists()
    assert {name: (tmp_path / name).read_text() for name in ("a.txt", "old.txt", "sub/a.txt")} == {
        "a.txt": "new a.txt",
        "old.txt": "new old.txt",
        "sub/a.txt": "new sub/a.txt",
    }
    assert set(tree(tmp_path)) == {"a.txt", "old.txt", "sub", "sub/a.txt"}


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), Cancelled(), InputError("x"), MemoryError()])
def test_nothing_changes_when_the_block_fails(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "old.txt").write_text("old")
    before = tree(tmp_path)
    with pytest.raises(type(error)):
        write_all(tmp_path, "old.txt", "a.txt", then=error)
    assert tree(tmp_path) == before


def test_disk_full_while_writing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^Writing the outputs failed: No space left on device\. Nothing was changed"):
        write_all(tmp_path, "a.txt", then=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert tree(tmp_path) == {}


def test_reader_of_the_output_gone(tmp_path: Path) -> None:
    # Not a failure to write: the command line knows what to make of it.
    with pytest.raises(BrokenPipeError):
        write_all(tmp_path, "a.txt", then=BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("fail_at", range(6))
@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied"), KeyboardInterrupt()])
def test_put_back_when_a_later_file_cannot_be_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int, error: BaseException
) -> None:
    # As on Windows, when another program has one of the files open.
    names = ("old1.txt", "new1.txt", "old2.txt", "new2.txt")
    for name in names[::2]:
        (tmp_path / name).write_text(f"old {name}")
    before = tree(tmp_path)
    replace, calls = os.replace, []

    def failing(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == fail_at + 1:
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    expected = InputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_all(tmp_path, *names)
    assert tree(tmp_path) == before
    assert len(calls) > fail_at


def test_a_file_that_was_claimed_must_be_written(tmp_path: Path) -> None:
    def forget() -> None:
        with OutputTransaction() as out:
            out.claim(tmp_path / "b.txt")
            out.path(tmp_path / "a.txt").write_text("new")

    with pytest.raises(RuntimeError, match=r"claimed but never written: .*b\.txt"):
        forget()
    assert tree(tmp_path) == {}


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    before = tree(tmp_path)
    for path, message in (
        ("missing/a.txt", "folder .*missing does not exist"),
        ("file/a.txt", "folder .*file does not exist"),
        ("folder", "it is a folder"),
        (".", "it is a folder"),
    ):
        with pytest.raises(InputError, match=message):
            claim(tmp_path / path)
    assert tree(tmp_path) == before


def test_a_name_too_long(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name too long"):
        claim(tmp_path / ("x" * 300))
    assert tree(tmp_path) == {}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write into")
def test_folder_that_cannot_be_written() -> None:
    with pytest.raises(InputError, match="Cannot write into /proc"):
        claim("/proc/a.txt")


@pytest.mark.skipif(ROOT, reason="root may write everywhere")
def test_protected_folder_and_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o500)
    (tmp_path / "file").write_text("x")
    (tmp_path / "file").chmod(0o400)
    for path, message in (("folder/a.txt", "Permission denied"), ("file", "write-protected")):
        with pytest.raises(InputError, match=message):
            claim(tmp_path / path)


def test_devices_are_not_replaced() -> None:
    with pytest.raises(InputError, match="not an ordinary file"):
        claim(os.devnull)
    assert not Path(os.devnull).is_file()


def test_one_path_twice(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "sub")
    for other in ("sub/a.txt", "sub/../sub/a.txt", "./sub/a.txt", "link/a.txt"):
        with pytest.raises(InputError, match="Two outputs have the same path"):
            claim(tmp_path / "sub" / "a.txt", tmp_path / other)
    assert list((tmp_path / "sub").iterdir()) == []


def test_inputs_are_kept(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("x")
    (tmp_path / "link.txt").symlink_to(tmp_path / "in.txt")
    for name in ("in.txt", "link.txt"):
        with (
            pytest.raises(InputError, match="one of the inputs"),
            OutputTransaction([tmp_path / "in.txt", None]) as out,
        ):
            out.claim(tmp_path / name)
    with pytest.raises(InputError, match="one of the inputs"):
        claim(tmp_path / "in.txt", inputs=(tmp_path / "link.txt", None))
    assert set(tree(tmp_path)) == {"in.txt", "link.txt"}


def test_a_link_stays_and_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "sub" / "file.txt")
    write_all(tmp_path, "link.txt")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "sub" / "file.txt").read_text() == "new link.txt"


def test_a_folder_is_made_and_removed_when_the_block_fails(tmp_path: Path) -> None:
    def work(then: BaseException | None) -> None:
        with OutputTransaction() as out:
            folder = out.folder(tmp_path / "report", "report")
            out.path(folder / "report.html").write_text("new")
            if then is not None:
                raise then

    with pytest.raises(Cancelled):
        work(Cancelled())
    assert tree(tmp_path) == {}
    work(None)
    assert set(tree(tmp_path)) == {"report", "report/report.html"}
    (tmp_path / "report" / "notes.txt").write_text("kept")
    before = tree(tmp_path)
    with pytest.raises(Cancelled):
        work(Cancelled())
    assert tree(tmp_path) == before


def test_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    with OutputTransaction() as out:
        out.path("~/a.txt").write_text("new")
    assert (tmp_path / "a.txt").read_text() == "new"


POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no umask to speak of")


@pytest.fixture(params=[0o022, 0o027, 0o077, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


@POSIX
def test_permissions_are_those_of_the_umask(tmp_path: Path, umask: int) -> None:
    """Also of files that their writers made for the owner alone, or for everybody to run."""
    (tmp_path / "old").write_text("old")
    (tmp_path / "old").chmod(0o600)
    with OutputTransaction() as out:
        for name, mode in (("private", 0o600), ("loose", 0o777), ("usual", None), ("old", None)):
            out.path(tmp_path / name).write_text("new")
            if mode is not None:
                out.path(tmp_path / name).chmod(mode)
    assert modes(tmp_path) == dict.fromkeys(("private", "loose", "usual", "old"), 0o666 & ~umask)


@POSIX
def test_permissions_of_what_the_writers_of_files_make(tmp_path: Path, umask: int) -> None:
    grid = Grid((6, 5, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    field = DisplacementField.identity(grid)
    assert main(["checkpoint", "create", "voxelmorph1", str(tmp_path / "weights.safetensors")]) == 0
    with OutputTransaction() as out:
        for name in ("t.h5", "t.tfm", "t.nrrd", "t.mha", "t.nii.gz"):
            write_transform(field, out.path(tmp_path / name))
        for name in ("w.nrrd", "w.nii.gz"):
            write_image(grid.image(np.zeros(grid.shape, np.float32)), out.path(tmp_path / name))
    assert set(modes(tmp_path).values()) == {0o666 & ~umask}
    assert len(modes(tmp_path)) == 8
