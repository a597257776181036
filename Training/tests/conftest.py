"""Training's tests: of losses and objectives, on small volumes, without Lightning."""

import os
import sys
from pathlib import Path

# Threads that wait by spinning stall each other when tests share the machine; must precede torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

# Shared test helpers (training_cases.py) are plain modules beside the tests.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
