"""What Docs/training.md says to type, typed; and the settings and configurations it names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from cyclereg_training.config import config_names, read_config
from CycleRegLib.cli import main as cyclereg

TEXT = (Path(__file__).parents[2] / "Docs" / "training.md").read_text(encoding="utf-8")
# The documented commands, made small: the papers' grids take minutes a step without a GPU.
SMALL = ["data.grid={size: [32, 32, 32]}", "data.align=centre", "data.pairs_per_epoch=2", "trainer.max_epochs=1"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def write_scans(folder: Path) -> None:
    """Four patients in two phases: a bright ellipsoid that is elsewhere in the other phase."""
    z, y, x = np.mgrid[:24, :28, :32]
    for number in range(4):
        patient = folder / f"P{number + 1:02d}"
        patient.mkdir(parents=True)
        for phase, shift in (("portal", 0), ("arterial", 3)):
            inside = ((z - 12) / 8) ** 2 + ((y - 14 - shift) / 9) ** 2 + ((x - 16) / (9 + number)) ** 2 < 1
            image = sitk.GetImageFromArray((100 * inside + 5 * np.sin(x + y * z)).astype(np.float32))
            sitk.WriteImage(image, str(patient / f"{phase}.nii.gz"))


@pytest.mark.skipif(sys.platform == "win32", reason="bash")
def test_the_five_commands(tmp_path: Path) -> None:
    write_scans(tmp_path / "scans")
    install, *commands = blocks("bash")[0].strip().splitlines()
    assert install == "pip install . ./Training"
    assert len(commands) == 4
    programs = {"cyclereg-train": "cyclereg_training", "cyclereg": "CycleRegLib"}
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CYCLEREG_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": os.pathsep.join(str(Path(__file__).parents[k]) for k in (1, 2)),
    }
    for command in commands:
        name, *words = command.split()
        more = SMALL if name == "cyclereg-train" else ["--progress", "none"]
        done = subprocess.run(
            [sys.executable, "-m", programs[name], *words, *more],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stderr)
    run = tmp_path / "runs" / "first"
    for promised in ("config.yaml", "environment.json", "log.txt", "metrics.csv", "best.safetensors", "test.csv"):
        assert (run / promised).is_file(), promised
    assert sitk.ReadImage(str(tmp_path / "warped.nrrd")).GetSize() == (32, 28, 24)


def test_every_configuration_is_explained() -> None:
    table = TEXT[TEXT.index("| configuration |") : TEXT.index("Learning rates, epochs")]
    named = re.findall(
        r"`([a-z0-9-]+)`", "\n".join(line.split("|")[1] for line in table.splitlines()[2:] if "|" in line)
    )
    assert sorted(named) == config_names()


def test_the_settings_it_names_exist() -> None:
    for line in TEXT.replace("\\\n", " ").splitlines():
        words = line.split()
        if "cyclereg-train" in words and "fit" in words and not line.startswith(("|", "*")):
            words = words[words.index("fit") + 1 :]
            settings = [w.strip("`.,") for w in words[1:] if re.match(r"[a-z_]+\.[a-z_.]+=", w)]
            assert read_config(words[0], settings).method


def test_the_checkpoint_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cyclereg(["checkpoint", "convert", "--help"])
    assert "--half" in capsys.readouterr().out
