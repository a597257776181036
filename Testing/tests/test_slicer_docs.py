"""The page about Slicer: its code runs, and the messages that it explains are those that the module says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("slicer")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "Docs" / "slicer.md").read_text(encoding="utf-8")

# Where there is no application, the scene has to be made; a small pair does.
PREPARE = """
import sys
sys.path.insert(0, sys.argv[1])
import CycleReg
from CycleRegLib import mrml
mrml.ensure_scene()
mrml.make_sample_nodes = lambda seed, scale: mrml.sample.make_sample_nodes(seed, 3.0)
"""


def test_the_console_example_runs():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    command = [sys.executable, "-c", PREPARE + code, str(ROOT / "CycleReg")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    error, unit = done.stdout.split()
    assert unit == "mm"
    assert 0 < float(error) < 4


def test_every_message_that_it_explains_is_one_of_the_module():
    """Parts between the dots of the table's first column stand in the module's texts."""
    texts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "CycleReg").rglob("*.py"))
    texts = re.sub(r'"\s*"', "", texts)  # literals that are continued on the next line
    table = PAGE[PAGE.index("| message |") :]
    rows = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)[2:]
    quoted = [row for row in rows if "…" in row]
    assert len(quoted) >= 4
    for row in quoted:
        for part in filter(None, (part.strip(" .") for part in row.split("…"))):
            assert part in texts, part


def test_every_button_that_it_names_is_in_the_panel():
    interface, code = (
        "".join(path.read_text(encoding="utf-8") for path in (ROOT / "CycleReg").rglob(pattern))
        for pattern in ("*.ui", "*.py")
    )
    for name in re.findall(r"\*\*([A-Z][^*.]*?)\*\*", re.sub(r"\*\*\d\..*?\*\*", "", PAGE).replace("\n", " ")):
        assert f">{name}" in interface or f'_("{name}")' in code, name
