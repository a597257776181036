"""``cyclereg-train``: verbs, one-line errors, exit statuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from fit_cases import rows, small

from cyclereg_training.cli import main, verbs
from cyclereg_training.config import config_names, read_config
from cyclereg_training.module import TrainingModule

TINY = [
    "data={source: synthetic, shape: [16, 16, 16], pairs_per_epoch: 1, validation_pairs: 1}",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
]


def test_fit_without_its_verb_and_overrides_anywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["voxelmorph1", TINY[0], "--output", str(tmp_path / "a"), *TINY[1:], "optimizer.lr=1e-3"]) == 0
    assert main(["fit", "voxelmorph1", *TINY, "--output", str(tmp_path / "b"), "optimizer.lr=1e-3"]) == 0
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert read_config(tmp_path / "a" / "config.yaml").optimizer.lr == 1e-3
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("epoch 1/1") for line in lines) == 2
    assert main(["fit", str(tmp_path / "a" / "config.yaml"), "--output", str(tmp_path / "c")]) == 0
    assert rows(tmp_path / "c") == rows(tmp_path / "a")
    resumed = ["fit", str(tmp_path / "a" / "config.yaml"), "--output", str(tmp_path / "a"), "trainer.max_epochs=2"]
    assert main([*resumed, "--ckpt_path", "last"]) == 0
    assert [row["epoch"] for row in rows(tmp_path / "a")] == ["0", "0", "1", "1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing", "--output", "x"], "There is no configuration 'nothing'"),
        (["fit", "voxelmorph1", *TINY], "Say where the run is to be kept: --output FOLDER"),
        (["fit", "voxelmorph1", *TINY, "optimizer.rate=1", "--output", "x"], "'optimizer' has no setting 'rate'"),
        (["fit", "voxelmorph1", "--outputs"], "nrecognized arguments: --outputs"),
        (["configs", "cyclemorf-brain"], "Did you mean cyclemorph-brain"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("cyclereg-train: error: ")
    assert message in errors[0]
    assert not any(tmp_path.iterdir())


def test_a_training_that_diverges_has_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TrainingModule.training_step
    monkeypatch.setattr(TrainingModule, "training_step", lambda self, batch, i: step(self, batch, i) * float("nan"))
    assert main(["voxelmorph1", *TINY, "--output", str(tmp_path / "run")]) == 1
    assert "cyclereg-train: error: The gradient is not finite in epoch 1, step 1" in capsys.readouterr().err


def test_configurations_are_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == config_names()
    assert main(["configs", "vtn"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["method"] == "vtn"


def test_every_verb_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"fit", "configs"} <= set(verbs())
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for verb in verbs():
        line = next(line for line in text.splitlines() if line.strip().startswith(f"{verb} "))
        assert len(line.split()) > 2, line


def test_ctrl_c_has_status_130_and_keeps_whole_epochs(tmp_path: Path) -> None:
    config = small("voxelmorph1", "trainer.max_epochs=1000", "data.pairs_per_epoch=4")
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    run = tmp_path / "run"
    command = [sys.executable, "-m", "cyclereg_training", str(tmp_path / "config.yaml"), "--output", str(run)]
    process = subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not (run / "last.ckpt").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130, errors
    assert "cyclereg-train: error: Stopped; --ckpt_path last goes on after the last whole epoch." in errors
    assert "Traceback" not in errors
