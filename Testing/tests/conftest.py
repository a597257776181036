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
