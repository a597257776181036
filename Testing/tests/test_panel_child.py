"""The panel's child process, and the module without the application: real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from panel_cases import MODULE, PANEL, ROOT, choose, host, results_shown, slicer

pytestmark = pytest.mark.usefixtures("application")

_PRELUDE = "import sys, time, json\nprint(json.dumps({'stage': 'Working', 'percent': 50.0}))\n"


@pytest.fixture
def module_copy(tmp_path):
    """A copy of the module whose library is a few lines that the test gives."""
    folder = tmp_path / "CycleReg"
    (folder / "CycleRegPanel").mkdir(parents=True)
    (folder / "CycleRegLib").mkdir()
    for name in ("__init__.py", "Child.py", "Library.py"):
        (folder / "CycleRegPanel" / name).write_bytes((PANEL / name).read_bytes())
    (folder / "CycleRegLib" / "__init__.py").touch()

    def make(body: str) -> Path:
        (folder / "CycleRegLib" / "__main__.py").write_text(_PRELUDE + body, encoding="utf-8")
        return folder / "CycleRegPanel" / "Child.py"

    return make


def run_worker(monkeypatch: Any, child: Path, arguments: list[str]) -> Any:
    """A worker whose real child has written its first line of progress."""
    from CycleRegPanel import Worker

    monkeypatch.setattr(Worker, "_CHILD", str(child))
    progress, ends = [], []
    worker = Worker.Worker(lambda *p: progress.append(p), lambda *e: ends.append(e))
    worker.start(arguments)
    assert host.process_events_until(lambda: progress or ends)
    worker.progress, worker.ends = progress, ends
    return worker


class TestChild:
    def test_the_child_runs_the_modules_own_library_with_the_arguments(self, module_copy, monkeypatch):
        child = module_copy("print(sys.argv[1:]); sys.exit(0 if sys.argv[1:] == ['register', 'ü b'] else 1)")
        worker = run_worker(monkeypatch, child, ["register", "ü b"])
        assert host.process_events_until(lambda: worker.ends)
        assert worker.progress == [("Working", 50.0)]
        assert worker.ends == [("succeeded", "")], worker.log
        assert "['register', 'ü b']" in worker.log

    def test_its_last_line_on_stderr_is_the_message(self, module_copy, monkeypatch):
        child = module_copy("print('a warning', file=sys.stderr)\nsys.exit('cyclereg: error: No overlap (3 µm).')")
        worker = run_worker(monkeypatch, child, [])
        assert host.process_events_until(lambda: worker.ends)
        assert worker.ends == [("failed", "No overlap (3 µm).")]

    def test_cancel_ends_a_busy_child_within_a_second(self, module_copy, monkeypatch):
        worker = run_worker(monkeypatch, module_copy("while True: pass"), [])
        start = time.monotonic()
        worker.cancel()
        assert time.monotonic() - start < 1.0
        assert worker.ends == [("cancelled", "")]

    def test_the_interpreter_behind_a_launcher_ends_with_it(self, module_copy, tmp_path):
        """PythonSlicer is a launcher: killing it must not leave the computation running."""
        pid_file = tmp_path / "pid"
        child = module_copy(f"import os; open({str(pid_file)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)")
        launcher = "import subprocess, sys; subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE).wait()"
        process = subprocess.Popen(
            [sys.executable, "-c", launcher, sys.executable, str(child)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert _until(lambda: pid_file.exists() and pid_file.read_text() != "")
        pid = int(pid_file.read_text())
        process.kill()
        process.communicate()
        assert _until(lambda: not _is_running(pid))

    def test_without_a_pipe_the_child_runs_on(self, module_copy):
        child = module_copy("time.sleep(0.3); print('end')")
        done = subprocess.run(
            [sys.executable, str(child)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0
        assert done.stdout.endswith("end\n")


def _until(condition: Any, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Killed but not yet collected by whoever inherited it.
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")


# ---------------------------------------------------------------------- other hosts


def run_python(code: str, *arguments: str) -> str:
    """Run ``code`` in a fresh interpreter; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, cwd=ROOT.anchor
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_opening_the_panel_neither_imports_nor_needs_pytorch():
    run_python(
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "import host; host.start()\n"
        "widget = host.open_module('CycleReg', Path(sys.argv[3]))\n"
        "assert widget.ui.methodComboBox.count > 3\n",
        str(ROOT / "Testing"),
        str(ROOT),
        str(MODULE),
    )


def test_the_logic_is_there_without_application_and_qt():
    """slicer-core: the module file imports, its logic can be made, there is no panel."""
    out = run_python(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import slicer\n"
        "import CycleReg\n"
        "assert CycleReg.CycleRegWidget is None\n"
        "assert 'qt' not in sys.modules and 'PySide6' not in sys.modules\n"
        "print(sorted(n for n in dir(CycleReg.CycleRegLogic()) if n[0] != '_'))\n",
        str(MODULE.parent),
    )
    assert out.strip() == "['evaluate', 'getParameterNode', 'loadSample', 'process']"


def test_the_logic_passes_every_argument_on(monkeypatch):
    import inspect

    from CycleRegPanel.Logic import CycleRegLogic

    from CycleRegLib import mrml

    names = [name for name in inspect.signature(CycleRegLogic.process).parameters if name != "self"]
    assert set(names) <= set(inspect.signature(mrml.process).parameters)
    seen = {}
    monkeypatch.setattr(mrml, "process", lambda fixedNode, movingNode, **k: seen.update(k, fixedNode=fixedNode))
    CycleRegLogic().process(**{name: name.upper() for name in names})
    assert {name: seen[name] for name in names if name != "movingNode"} == {
        name: name.upper() for name in names if name != "movingNode"
    }


# ---------------------------------------------------------------------- with the real library


def test_the_self_test_passes_without_the_application():
    """What Slicer's own test runner runs, on slicer-core."""
    run_python(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import torch; torch.set_num_threads(2)\n"
        "import CycleReg\n"
        "from CycleRegLib.mrml import ensure_scene; ensure_scene()\n"
        "CycleReg.CycleRegTest().runTest()\n",
        str(MODULE.parent),
    )


def test_a_pair_is_registered_in_a_real_child_process(panel, tmp_path):
    """From click to transform: a body that was moved by 6 mm."""
    from CycleRegPanel.SelfTest import body

    fixed = body("Fixed", np.zeros(3))
    moving = body("Moving", np.array([6.0, 0.0, 0.0]))
    panel.ui.fixedSelector.setCurrentNode(fixed)
    panel.ui.movingSelector.setCurrentNode(moving)
    choose(panel.ui.deviceComboBox, "cpu")
    choose(panel.ui.affineComboBox, "none")
    panel.processFactory = None
    seen = []
    panel.ui.progressBar.valueChanged.connect(seen.append)
    panel.ui.applyButton.click()
    assert panel.running, panel.ui.statusLabel.text
    assert host.process_events_until(lambda: not panel.running, 120.0)
    assert panel.ui.statusLabel.text == "Done."
    assert len(seen) > 3
    assert seen == sorted(seen)
    transform = panel.ui.outputTransformSelector.currentNode()
    point = [0.0, 0.0, 0.0]
    transform.GetTransformFromParent().TransformPoint((12.0, 0.0, 0.0), point)
    assert point == pytest.approx((18.0, 0.0, 0.0), abs=1.5)
    assert {"Folding", "Round trip, mean", "Time", "Device", "Method"} <= set(results_shown(panel))
    assert list(tmp_path.iterdir()) == []


def test_colour_slices_are_registered_in_a_real_child_process(panel, tmp_path):
    """From click to transform and warped colours, with weights that move by 3 and 2 pixels."""
    from flat_cases import constant_checkpoint, picture

    from CycleRegLib import mrml

    (tmp_path / "weights").mkdir()
    weights = constant_checkpoint(tmp_path / "weights", (-2.0, 3.0), (2.0, -3.0))
    moving = picture((112, 96), (3.0, -2.0))
    ui = panel.ui
    ui.fixedSelector.setCurrentNode(mrml.volume_node(picture(), "Neutral"))
    ui.movingSelector.setCurrentNode(mrml.volume_node(moving, "Happy"))
    choose(ui.methodComboBox, "cyclemorph-2d")
    choose(ui.affineComboBox, "none")
    ui.checkpointPathLineEdit.currentPath = str(weights)
    warped = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "Warped")
    ui.outputVolumeSelector.setCurrentNode(warped)
    panel.processFactory = None
    ui.applyButton.click()
    assert panel.running, ui.statusLabel.text
    assert host.process_events_until(lambda: not panel.running, 120.0)
    assert ui.statusLabel.text == "Done."
    point = [0.0, 0.0, 0.0]
    ui.outputTransformSelector.currentNode().GetTransformFromParent().TransformPoint((-20.0, -30.0, 0.0), point)
    assert point == pytest.approx((-23.0, -28.0, 0.0), abs=1e-4)
    found = sitk.GetArrayFromImage(mrml.image_from_volume_node(warped, colours=True))
    np.testing.assert_array_equal(found[0, 2:], sitk.GetArrayFromImage(moving)[:88, 3:103])
    assert {"NMSE, before and after", "SSIM, before and after"} <= set(results_shown(panel))


def test_phases_are_registered_in_one_real_child_process(panel, tmp_path):
    """Two bodies that were moved by 4 mm to either side."""
    from CycleRegPanel.SelfTest import body

    panel.ui.fixedSelector.setCurrentNode(body("Fixed", np.zeros(3)))
    shifts = {"Early": 4.0, "Late": -4.0}
    panel.parameterNode.phases = [body(name, np.array([shift, 0.0, 0.0])) for name, shift in shifts.items()]
    choose(panel.ui.deviceComboBox, "cpu")
    choose(panel.ui.affineComboBox, "none")
    choose(panel.ui.methodComboBox, "preset:large")
    panel.ui.phasesWarpedCheckBox.checked = False
    panel.processFactory = None
    panel.ui.phasesApplyButton.click()
    assert panel.running, panel.ui.statusLabel.text
    assert host.process_events_until(lambda: not panel.running, 120.0)
    assert panel.ui.statusLabel.text.startswith("2 registered"), panel.ui.statusLabel.text
    for name, shift in shifts.items():
        transform = slicer.mrmlScene.GetFirstNodeByName(f"{name} to Fixed transform")
        point = [0.0, 0.0, 0.0]
        transform.GetTransformFromParent().TransformPoint((12.0, 0.0, 0.0), point)
        assert point == pytest.approx((12.0 + shift, 0.0, 0.0), abs=1.5)
    assert list(tmp_path.iterdir()) == []


def test_a_real_child_tells_of_devices_and_checkpoints(application, tmp_path):
    from CycleRegPanel.Query import Query

    answers, errors = [], []
    bad = tmp_path / "weights.pth"
    bad.write_bytes(b"nothing of the kind")
    queries = [
        Query(["devices", "--json"], answers.append, errors.append),
        Query(["checkpoint", "info", str(bad), "--json"], answers.append, errors.append),
    ]
    assert host.process_events_until(lambda: len(answers) + len(errors) == 2, 60.0)
    assert answers[0][-1]["id"] == "cpu"
    assert str(bad) in errors[0]
    for query in queries:
        query.stop()
