"""The files of a run: metrics that survive a kill, an environment without names."""

from __future__ import annotations

import getpass
import json
import platform
from pathlib import Path

import pytest
import torch

from cyclereg_training.run_folder import MetricsFile, RunFolder, environment, read_metrics
from CycleRegLib.errors import InputError


def test_metrics_gain_columns_and_keep_rows(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    file.log_metrics({"loss": 0.1, "epoch": 0}, 0)
    file.log_metrics({"loss": 1 / 3, "dice": 2.0, "epoch": 0}, 1)
    file.log_metrics({"val": float("nan"), "epoch": 0}, 1)
    assert read_metrics(tmp_path / "metrics.csv") == [
        {"epoch": "0", "step": "0", "loss": "0.1"},
        {"epoch": "0", "step": "1", "loss": repr(1 / 3), "dice": "2.0"},
        {"epoch": "0", "step": "1", "val": "nan"},
    ]


def test_metrics_of_a_resumed_run_go_on_at_its_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    file = MetricsFile(path)
    for step in range(5):
        file.log_metrics({"loss": step / 10, "epoch": step // 2}, step)
    with path.open("a") as cut:
        cut.write("2,")  # a kill in the middle of a row
    again = MetricsFile(path)
    again.begin(4)
    again.log_metrics({"loss": 0.9, "val": 1.0, "epoch": 2}, 4)
    assert [(row["step"], row["loss"]) for row in read_metrics(path)] == [
        ("0", "0.0"), ("1", "0.1"), ("2", "0.2"), ("3", "0.3"), ("4", "0.9"),
    ]  # fmt: skip
    MetricsFile(path).begin(0)
    assert read_metrics(path) == []


def test_the_environment_names_versions_and_no_person_or_place(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "deep" / "run")
    folder.write_environment(torch.device("cpu"), 2)
    text = (folder / "environment.json").read_text()
    found = json.loads(text)
    assert found["packages"]["torch"] == torch.__version__
    assert (found["processes"], found["threads"], found["device"]) == (2, torch.get_num_threads(), "cpu")
    assert found["python"] == platform.python_version()
    for private in (str(tmp_path), str(Path.home()), platform.node()):
        assert private not in text
    assert f'"{getpass.getuser()}"' not in text
    assert found == environment(torch.device("cpu"), 2)


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="it is a file"):
        RunFolder(tmp_path / "file")
    with pytest.raises(InputError, match="Cannot make the folder"):
        RunFolder(tmp_path / "file" / "below")


def test_lines_of_the_log_have_times_and_the_terminal_has_none(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    RunFolder(tmp_path).log(terminal=False).info("epoch 1")
    assert capsys.readouterr().err == "epoch 1\n"
    line = (tmp_path / "log.txt").read_text()
    assert line.endswith("  epoch 1\n")
    assert line[:2] == "20"
