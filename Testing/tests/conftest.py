import os
import sys
from pathlib import Path

# Threads that wait by spinning stall each other when tests share the machine; must precede torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from hypothesis import settings

# Shared test helpers (geometries.py) are plain modules beside the tests.
sys.path.insert(0, str(Path(__file__).parent))

settings.register_profile("cyclereg", max_examples=20, deadline=None, derandomize=True)
settings.load_profile("cyclereg")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def application():
    """The stand-in for the Slicer application, once for a file of tests."""
    from panel_cases import host

    yield host.start()
    host.stop()


@pytest.fixture
def panel(application, tmp_path, monkeypatch):
    """The open panel in an empty scene, its children played by ``panel.processes``, temporary files in ``tmp_path``."""
    from panel_cases import open_panel, slicer

    slicer.mrmlScene.Clear(0)
    monkeypatch.setattr(slicer.app, "temporaryPath", str(tmp_path))
    widget = open_panel(monkeypatch)
    yield widget
    widget.cleanup()
    widget.parent.deleteLater()
