"""What Docs/batch.md says to type, typed: the notebook, the commands, the array job, and the columns it lists."""

from __future__ import annotations

import ast
import csv
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from batch_cases import check_clean, check_whole, rows, statuses, write_images, write_manifest

from CycleRegLib.batch.manifest import default_arguments
from CycleRegLib.cli import build_parser

TEXT = (Path(__file__).parents[2] / "Docs" / "batch.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text under a heading."""
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    return found


def blocks(text: str, language: str = "") -> list[str]:
    """The fenced code of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run(folder: Path, command: list[str], text: str) -> str:
    """Standard output of a program that reads what it does."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable}
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, cwd=folder, env=environment, timeout=300
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def shown(cell: str) -> str:
    """A cell whose last expression is printed, as notebooks do."""
    lines, tree = cell.splitlines(), ast.parse(cell)
    last = tree.body[-1]
    if isinstance(last, ast.Expr):
        first = last.lineno - 1
        lines[first] = f"print('shown:', {lines[first]}"
        lines[last.end_lineno - 1] += ")"
    return "\n".join(lines) + "\n\n"


def test_the_notebook_runs(tmp_path):
    """All cells in one process, which like a notebook's has no script of its own."""
    cells = blocks(section("From Python"), "python")
    assert len(cells) >= 5
    said = run(tmp_path, [sys.executable, "-"], "".join(shown(cell) for cell in cells)).splitlines()
    assert [line.split()[:2] for line in said[:2]] == [["P01", "done"], ["P02", "done"]]
    assert [line for line in said if line.startswith("shown:")][-1] == "shown: ['kept', 'kept']"
    errors = next(ast.literal_eval(line[7:]) for line in said if line.startswith("shown: [('"))
    assert {name for name, _, _ in errors} == {"P01", "P02"}
    for _, before, after in errors:
        assert float(after) < 0.5 * float(before)
    figures = [float(line.split()[-1]) for line in said[:2]]
    assert sorted(figures) == pytest.approx(sorted(float(after) for _, _, after in errors))
    for name in ("P01", "P02"):
        assert check_whole(tmp_path / "results", name)["fingerprint"]["options"]["smoothness"] == 2


# The documented commands, as they stand, of the installation that is tested.
_SHELL = 'set -e\ncyclereg() { "$PYTHON" -m CycleRegLib "$@"; }\n'


@pytest.mark.skipif(sys.platform == "win32", reason="bash")
def test_the_first_commands_run(tmp_path):
    (tmp_path / "phases" / "P01").mkdir(parents=True)
    write_images(tmp_path / "phases" / "P01")
    commands = blocks(TEXT)[0]
    if importlib.util.find_spec("distributed") is None:
        commands = commands.replace("--workers 4", "")
    said = run(tmp_path, ["bash"], _SHELL + commands).splitlines()
    assert [line.split(".")[0] for line in said] == ["2 pairs: 2 done", "2 pairs: 2 kept"]
    check_clean(tmp_path / "results")


@pytest.mark.skipif(sys.platform == "win32", reason="bash")
def test_the_array_job_runs(tmp_path):
    """Its script with one number after the other, and then the whole."""
    write_images(tmp_path)
    write_manifest(tmp_path / "pairs.csv", rows(2))
    (script,) = (block for block in blocks(section("A cluster"), "bash") if "--array" in block)
    assert re.search(r"^#SBATCH --array=1-\d+", script, re.MULTILINE)
    script = script.replace("source ~/cyclereg/bin/activate\n", "")
    for number in ("1", "2"):
        run(tmp_path, ["bash"], f"{_SHELL}SLURM_ARRAY_TASK_ID={number}\n{script}")
        assert (tmp_path / "results" / "pairs" / f"p{int(number) - 1:02}").is_dir()
    assert not (tmp_path / "results" / "results.csv").exists()
    run(tmp_path, ["bash"], f"{_SHELL}cyclereg batch pairs.csv --output results")
    assert statuses(tmp_path / "results") == {"p00": "kept", "p01": "kept"}


def test_every_column_is_listed_and_no_other():
    titles = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`\w+`.*?) \|", section("The manifest"), re.MULTILINE)))
    assert set(titles) == {"id", *default_arguments()}


def test_the_example_manifest_is_one(tmp_path):
    (example,) = (block for block in blocks(section("The manifest")) if block.startswith("#"))
    titles, *pairs = (line for line in csv.reader(example.splitlines()) if not line[0].startswith("#"))
    assert set(titles) <= {"id", *default_arguments()}
    assert {len(pair) for pair in pairs} == {len(titles)}


def test_every_option_is_one_of_the_command():
    """Options that are named are there, and those of batches are named."""
    batch = build_parser()._subparsers._group_actions[0].choices["batch"]
    there = {option for action in batch._actions for option in action.option_strings if option.startswith("--")}
    others = {"--nthreads", "--nworkers", "--array", "--cpus-per-task", "--mem", "--time", "--gres",
              "--no-main-window", "--python-script", "--report"}  # fmt: skip
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT)) - others
    assert named <= there
    columns = {f"--{name.replace('_', '-')}" for name in default_arguments()}
    assert there - columns - {"--help"} <= named | {"--progress"}
