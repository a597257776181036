"""No room, or no right to write, in the temporary folder: one message that says what to do, and nothing left behind.

For everything in the panel that hands data to a child process.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from measuring_cases import CENTER, GRID, line, lists, register_known, to_moving, tumors
from panel_cases import add_volume, choose, choose_pair, number_of_nodes, slicer

POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of files to stand for a full disk")


@pytest.fixture
def messages(monkeypatch):
    """What pops up."""
    shown = []
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, **_: shown.append(text))
    return shown


def apply(panel) -> Callable[[], None]:
    choose_pair(panel)
    return panel.ui.applyButton.click


def phases(panel) -> Callable[[], None]:
    panel.ui.fixedSelector.setCurrentNode(add_volume("Portal"))
    panel.parameterNode.phases = [add_volume("Arterial"), add_volume("Delayed")]
    return panel.ui.phasesApplyButton.click


def measure(panel) -> Callable[[], None]:
    panel.ui.measureTransformSelector.setCurrentNode(register_known().transform)
    for name, node in zip(
        ("FixedLandmarks", "MovingLandmarks", "FixedSegmentation", "MovingSegmentation"), (*lists(), *tumors())
    ):
        getattr(panel.ui, f"measure{name}Selector").setCurrentNode(node)
    return panel.ui.measureButton.click


STARTS = pytest.mark.parametrize("start", [apply, phases, measure])


def refused(panel, press: Callable[[], None], messages: list[str], place: Path, reason: str) -> None:
    """Pressing the button is one message about the temporary folder ``place``, and changes nothing."""
    before, files = number_of_nodes(), {path for path in place.parent.rglob("*") if path != place}
    press()
    assert panel.processes == []
    (message,) = messages
    assert f"cannot be written to the temporary folder {place}" in message
    assert reason in message
    assert "Make room there, or choose another folder: menu Edit" in message
    assert number_of_nodes() == before
    assert {path for path in place.parent.rglob("*") if path != place} == files
    assert panel.ui.applyButton.text == "Apply"
    assert panel.ui.measureButton.text == "Measure"


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """Files can be no larger, as on a disk that is full."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# ---------------------------------------------------------------------- no right to write


@STARTS
def test_a_folder_that_is_not_there(panel, start, messages, tmp_path, monkeypatch):
    press = start(panel)
    monkeypatch.setattr(slicer.app, "temporaryPath", str(tmp_path / "absent"))
    refused(panel, press, messages, tmp_path / "absent", "No such file or directory")


@STARTS
def test_a_folder_below_a_file(panel, start, messages, tmp_path, monkeypatch):
    press = start(panel)
    (tmp_path / "file").touch()
    monkeypatch.setattr(slicer.app, "temporaryPath", str(tmp_path / "file" / "below"))
    refused(panel, press, messages, tmp_path / "file" / "below", "Not a directory")


@STARTS
def test_a_read_only_folder(panel, start, messages, tmp_path, monkeypatch):
    """Told by the system's error, which those who run tests as root do not get."""
    press = start(panel)

    def denied(**_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "mkdtemp", denied)
    refused(panel, press, messages, tmp_path, "Permission denied")


# ---------------------------------------------------------------------- no room


@POSIX
@STARTS
# None of an image's bytes, some of them, or all but the last; the volumes here are of 5280 bytes and more.
@pytest.mark.parametrize("size", [0, 4096, 5280, 5500])
def test_a_full_disk(panel, start, size, messages, tmp_path):
    press = start(panel)
    with limited(size):
        refused(panel, press, messages, tmp_path, "the disk is full")


@POSIX
def test_a_disk_that_is_full_when_the_images_are_written(panel, messages, tmp_path):
    """The field, of three numbers for each voxel, is the first file that does not fit."""
    press = measure(panel)
    with limited(8 * math.prod(GRID.size)):
        refused(panel, press, messages, tmp_path, "the disk is full")


@pytest.mark.parametrize("ending", ["fixed.mrk.json", "fixed.seg.nrrd", "long M.mrk.json"])
def test_a_disk_without_room_for_landmarks_segments_or_lines(panel, ending, messages, tmp_path, monkeypatch):
    press, write = measure(panel), Path.write_bytes
    choose(panel.ui.measureTumorComboBox, "lines")
    ends = np.array([[-10.0, 0, 0], [10, 0, 0]]) + CENTER
    panel.ui.measureFixedLongSelector.setCurrentNode(line(ends, "long F"))
    panel.ui.measureMovingLongSelector.setCurrentNode(line(to_moving(ends), "long M"))

    def full(path: Path, content: bytes) -> int:
        if not path.name.endswith(ending):
            return write(path, content)
        write(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    refused(panel, press, messages, tmp_path, "No space left on device")


@POSIX
def test_a_disk_without_room_for_a_matrix(panel, messages, tmp_path):
    """ITK writes transforms as text, and does not say when it could not."""
    from CycleRegPanel.Folder import Folder

    from CycleRegLib.errors import InputError

    folder = Folder()
    folder.make()
    with limited(0), pytest.raises(InputError, match=r"the disk is full.*Make room there"):
        folder.writeTransform(sitk.TranslationTransform(3, (1.0, 2.0, 3.0)), None, "initial.nrrd")
    folder.remove()
    assert list(tmp_path.iterdir()) == []
