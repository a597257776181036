"""A scene for every pair of a batch, in Slicer and on slicer-core: what it holds, and what becomes of it in trouble."""

from __future__ import annotations

import csv
import gc
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer")

import vtk  # noqa: E402
from batch_cases import FAST, check_clean, check_whole, rows, statuses, table, write_images, write_manifest  # noqa: E402
from flat_cases import constant_checkpoint, picture  # noqa: E402
from mrml_cases import FLIP, array_of, points_from_world  # noqa: E402

import CycleRegLib  # noqa: E402
from CycleRegLib import mrml, phantom  # noqa: E402
from CycleRegLib.batch import cluster, scenes  # noqa: E402
from CycleRegLib.batch.folders import BatchFolder  # noqa: E402
from CycleRegLib.batch.record import BatchRecord  # noqa: E402
from CycleRegLib.errors import Cancelled, InputError  # noqa: E402
from CycleRegLib.mrml import pair_scene  # noqa: E402
from CycleRegLib.mrml.headless import main  # noqa: E402

SCRIPT = Path(__file__).parents[2] / "CycleReg" / "Scripts" / "run_cyclereg.py"
MEASURED = ("fixed_landmarks", "moving_landmarks", "fixed_segmentation", "moving_segmentation")
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def no_scene() -> None:
    slicer.mrmlScene = None


def run(folder: Path, content: list[dict[str, Any]], **options: Any) -> list[BatchRecord]:
    path = write_manifest(folder / "m.csv", content)
    return list(CycleRegLib.run_batch(path, folder / "out", **{"scenes": True, **options}))


class Nodes(dict[str, Any]):
    """A scene's nodes by name; they refer to each other only as long as the scene lives."""

    def __init__(self, scene: Any) -> None:
        self.scene = scene
        nodes = (scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes()))
        super().__init__((node.GetName(), node) for node in nodes)


def columns(node: Any) -> dict[str, list[str]]:
    """A table node's cells as text, by column."""
    return {
        node.GetColumnName(c): [node.GetCellText(r, c) for r in range(node.GetNumberOfRows())]
        for c in range(node.GetNumberOfColumns())
    }


# ---------------------------------------------------------------------- what a scene holds


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two measured pairs and a corrupt one between them, by the script that Slicer runs, with two workers."""
    folder = tmp_path_factory.mktemp("batch")
    content = []
    for seed in range(2):
        (folder / f"s{seed}").mkdir()
        files = phantom.write_sample(folder / f"s{seed}", seed=seed, scale=3.0)
        names = ("fixed", "moving", *MEASURED)
        content.append({"id": f"s{seed}", **{n: os.path.relpath(files[n], folder) for n in names}})
    (folder / "bad.nrrd").write_bytes((folder / "s0" / "moving.nrrd").read_bytes()[:2000])
    content.insert(1, {"id": "bad", "fixed": content[0]["fixed"], "moving": "bad.nrrd"})
    write_manifest(folder / "m.csv", content)
    workers = ["--workers", "2", "--threads", "1"] if cluster.importlib.util.find_spec("distributed") else []
    done = subprocess.run(
        [sys.executable, SCRIPT, "--", "batch", folder / "m.csv", "--output", folder / "out", *workers],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("cyclereg: error: 1 of 3 pairs failed;")
    assert done.stdout == f"3 pairs: {_said(folder / 'out')}. Results: {folder / 'out' / 'results.csv'}\n"
    assert statuses(folder / "out") == {"s0": "done", "bad": "failed", "s1": "done"}
    return folder


def _said(output: Path) -> str:
    """The counts in whichever order the pairs came."""
    text = (output / "summary.md").read_text()
    assert "3 pairs: 2 done, 1 failed." in text
    failed_first = (output / "failed" / "bad.json").stat().st_mtime_ns < min(
        (output / "pairs" / name / "summary.json").stat().st_mtime_ns for name in ("s0", "s1")
    )
    return "1 failed, 2 done" if failed_first else "2 done, 1 failed"


@pytest.mark.parametrize("name", ["s0", "s1"])
class TestContent:
    def test_volumes_are_those_of_the_files(self, batch, name):
        check_whole(batch / "out", name)
        nodes = Nodes(mrml.read_scene(batch / "out" / "pairs" / name / "scene.mrb"))
        for node, path in (
            ("fixed", batch / name / "fixed.nrrd"),
            ("moving", batch / name / "moving.nrrd"),
            ("moving warped to fixed", batch / "out" / "pairs" / name / "warped.nrrd"),
        ):
            image = sitk.ReadImage(str(path))
            assert np.array_equal(array_of(nodes[node]), sitk.GetArrayFromImage(image).astype(np.float32))
            matrix = vtk.vtkMatrix4x4()
            nodes[node].GetIJKToRASMatrix(matrix)
            for index in ((0, 0, 0), (5, 7, 3)):
                ras = np.array(matrix.MultiplyPoint((*index, 1)))[:3]
                assert np.allclose(ras * FLIP, image.TransformIndexToPhysicalPoint(index), atol=1e-4)

    def test_points_go_through_the_transforms_as_through_the_pairs_files(self, batch, name):
        pair = batch / "out" / "pairs" / name
        nodes = Nodes(mrml.read_scene(pair / "scene.mrb"))
        for node, file, side in (
            ("moving to fixed transform", "transform.h5", "fixed"),
            ("fixed to moving transform", "inverse_transform.h5", "moving"),
        ):
            truth = sitk.ReadTransform(str(pair / file))
            image = sitk.ReadImage(str(batch / name / f"{side}.nrrd"))
            rng = np.random.default_rng(3)
            inside = rng.uniform(0.01, 0.99, (200, 3)) * (np.array(image.GetSize()) - 1)
            points = np.array([image.TransformContinuousIndexToPhysicalPoint(p.tolist()) for p in inside])
            expected = np.array([truth.TransformPoint(p.tolist()) for p in points])
            assert np.abs(expected - points).max() > 1  # it moves something
            assert np.abs(points_from_world(nodes[node], points) - expected).max() < 1e-3

    def test_transforms_know_their_volumes_and_each_other(self, batch, name):
        nodes = Nodes(mrml.read_scene(batch / "out" / "pairs" / name / "scene.mrb"))
        there, back = nodes["moving to fixed transform"], nodes["fixed to moving transform"]
        roles = slicer.vtkMRMLTransformNode
        for node, fixed, moving in ((there, "fixed", "moving"), (back, "moving", "fixed")):
            assert node.GetNodeReference(roles.GetFixedNodeReferenceRole()).GetName() == fixed
            assert node.GetNodeReference(roles.GetMovingNodeReferenceRole()).GetName() == moving
        assert there.GetNodeReference("CycleReg.InverseTransform").GetID() == back.GetID()
        assert there.GetAttribute("CycleReg.Method") == "optimize"

    def test_landmarks_and_segmentations_are_there(self, batch, name):
        nodes = Nodes(mrml.read_scene(batch / "out" / "pairs" / name / "scene.mrb"))
        evaluation = json.loads((batch / "out" / "pairs" / name / "summary.json").read_text())["evaluation"]
        for side in ("fixed", "moving"):
            points = nodes[f"{side} landmarks"]
            assert points.GetNumberOfControlPoints() == evaluation["tre_mm"]["count"] > 5
            for i, landmark in enumerate(evaluation["tre_mm"]["per_landmark"]):
                assert points.GetNthControlPointLabel(i) == landmark["label"]
                position = np.array(points.GetNthControlPointPositionWorld(i)) * FLIP
                assert np.allclose(position, landmark[side], atol=1e-3)
            segmentation = nodes[f"{side} segmentation"].GetSegmentation()
            names = [segmentation.GetNthSegment(i).GetName() for i in range(segmentation.GetNumberOfSegments())]
            assert names == list(evaluation["dice"])

    def test_tables_hold_the_summarys_values(self, batch, name):
        nodes = Nodes(mrml.read_scene(batch / "out" / "pairs" / name / "scene.mrb"))
        summary = json.loads((batch / "out" / "pairs" / name / "summary.json").read_text())
        evaluation, about = summary["evaluation"], "moving to fixed"
        found = columns(nodes[f"{about} landmarks evaluation"])
        expected = evaluation["tre_mm"]["per_landmark"]
        assert found["Landmark"] == [entry["label"] for entry in expected]
        for when in ("before", "after"):
            values = [entry[when] for entry in expected]
            assert [float(v) for v in found[f"TRE {when} (mm)"]] == pytest.approx(values, rel=1e-5)
        found = columns(nodes[f"{about} segments evaluation"])
        for title, key in (("Dice after", "dice"), ("IoU before", "iou"), ("HD95 after (mm)", "hd95_mm")):
            values = [change[title.split()[1]] for change in evaluation[key].values()]
            assert [float(v) for v in found[title]] == pytest.approx(values, rel=1e-5)
        found = columns(nodes[f"{about} tumor evaluation"])
        assert float(found["Volume (mL)"][0]) == pytest.approx(evaluation["tumor"]["volume_ml"]["fixed"], rel=1e-5)
        found = columns(nodes[f"{about} summary evaluation"])
        row = found["Quantity"].index("TRE, mean")
        assert float(found["After"][row]) == pytest.approx(evaluation["tre_mm"]["after"]["mean"], rel=1e-5)
        found = columns(nodes[f"{about} summary"])
        values = dict(zip(found["Quantity"], found["Value"]))
        assert values["Id"] == name
        assert float(values["Similarity, after"]) == pytest.approx(summary["similarity"]["after"], rel=1e-5)
        row = table(batch / "out")[name]
        assert float(row["tre_after_mm"]) == pytest.approx(evaluation["tre_mm"]["after"]["mean"])
        assert float(row["seconds_scene"]) == summary["seconds"]["scene"] > 0

    def test_it_is_what_the_script_gives_for_one_pair(self, batch, name, tmp_path):
        """The same nodes; besides them, one pair has the maps of the Jacobian determinant and the round trip."""
        arguments = [f"--{n.replace('_', '-')}={batch / name / file}" for n, file in (
            ("fixed", "fixed.nrrd"), ("moving", "moving.nrrd"), ("fixed_landmarks", "fixed.mrk.json"),
            ("moving_landmarks", "moving.mrk.json"), ("fixed_segmentation", "fixed.seg.nrrd"),
            ("moving_segmentation", "moving.seg.nrrd"),
        )]  # fmt: skip
        assert main([*arguments, "--affine", "none", "--progress", "none", "--scene", str(tmp_path / "s.mrb")]) == 0
        kinds = [
            {(n.GetClassName(), n.GetName()) for n in Nodes(mrml.read_scene(path)).values() if n.IsA(kind)}
            for path in (tmp_path / "s.mrb", batch / "out" / "pairs" / name / "scene.mrb")
            for kind in ("vtkMRMLStorableNode",)
        ]
        assert kinds[1] < kinds[0]
        assert {name for _, name in kinds[0] - kinds[1]} == {
            "moving to fixed Jacobian determinant", "moving to fixed round trip (mm)",
            "CycleReg Jacobian determinant", "CycleReg round trip",  # their colours
        }  # fmt: skip


@pytest.mark.parametrize("grey", [True, False])
def test_pictures_of_two_dimensions(folder, grey):
    """Transforms in the plane become transforms of space that leave the third coordinate alone."""
    weights = constant_checkpoint(folder, (-2.0, 3.0), (2.0, -3.0))
    for side, shift in (("fixed", 0.0), ("moving", 3.0)):
        sitk.WriteImage(picture(shift=(shift, 0.0), grey=grey), str(folder / f"{side}.png"))
    row = {"id": "flat", "fixed": "fixed.png", "moving": "moving.png", "method": "cyclemorph-2d", **FAST}
    (record,) = run(folder, [{**row, "checkpoint": weights.name}])
    assert record.status == "done", record.reason
    nodes = Nodes(mrml.read_scene(record.path("scene.mrb")))
    truth = sitk.ReadTransform(str(record.path("transform.h5")))
    points = np.array([[20.0, 24.0, 0.0], [62.5, 30.25, 0.0]])
    expected = np.array([[*truth.TransformPoint(p[:2].tolist()), 0.0] for p in points])
    assert np.abs(expected - points).max() > 1
    assert np.abs(points_from_world(nodes["moving to fixed transform"], points) - expected).max() < 1e-3
    kind = "vtkMRMLScalarVolumeNode" if grey else "vtkMRMLVectorVolumeNode"
    assert nodes["moving warped to fixed"].GetClassName() == kind


def test_masks_and_an_initial_transform_come_along(folder):
    sitk.WriteImage(sitk.BinaryThreshold(sitk.ReadImage(str(folder / "0.nrrd")), 50, 1e6), str(folder / "mask.nrrd"))
    start = sitk.TranslationTransform(3, (1.0, 2.0, 3.0))
    sitk.WriteTransform(start, str(folder / "start.tfm"))
    (record,) = run(folder, [{**rows(1)[0], "fixed_mask": "mask.nrrd", "initial_transform": "start.tfm"}])
    nodes = Nodes(mrml.read_scene(record.path("scene.mrb")))
    assert nodes["mask"].GetSegmentation().GetNumberOfSegments() == 1
    assert np.allclose(points_from_world(nodes["start"], np.zeros((1, 3))), [[1, 2, 3]])


# ---------------------------------------------------------------------- memory


def resident_mb() -> float:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_memory_does_not_grow_over_pairs(tmp_path, monkeypatch):
    """Twenty-four scenes of 8 MB each: what one leaves would be seen twenty times over."""
    write_images(tmp_path, 2)
    (first,) = run(tmp_path, rows(1), scenes=False)
    summary = json.loads(first.path("summary.json").read_text())
    side = 96
    big = sitk.Cast(sitk.GaussianSource(size=[side] * 3, mean=[40] * 3), sitk.sitkFloat32)
    fine = sitk.DisplacementFieldTransform(sitk.Image([side] * 3, sitk.sitkVectorFloat64, 3))
    pair = tmp_path / "big"
    pair.mkdir()
    for name in ("fixed", "moving", "warped"):
        sitk.WriteImage(big, str(pair / f"{name}.nrrd"))
    for name in ("transform", "inverse_transform"):
        sitk.WriteTransform(fine, str(pair / f"{name}.h5"))
    files = {name: str(pair / f"{name}.nrrd") for name in ("fixed", "moving")}
    nodes, memory = [], []

    def counted(path: Path) -> None:
        nodes.append(slicer.mrmlScene.GetNumberOfNodes())
        path.touch()  # what VTK writes is not what is measured, and takes longest

    monkeypatch.setattr(pair_scene, "write_scene", counted)
    for _ in range(24):
        pair_scene.write_pair_scene(files, pair, summary, pair / "s.mrb")
        gc.collect()
        memory.append(resident_mb())
    assert len(set(nodes)) == 1
    assert memory[-1] - memory[3] < 60  # of 20 times about 35 MB


def test_twelve_pairs_leave_no_node_and_the_users_scene_alone(folder, monkeypatch):
    own = mrml.ensure_scene()
    own.AddNewNodeByClass("vtkMRMLTextNode", "mine")
    before = own.GetNumberOfNodes()
    found, made = [], pair_scene.write_scene
    monkeypatch.setattr(
        pair_scene, "write_scene", lambda path: found.append(slicer.mrmlScene.GetNumberOfNodes()) or made(path)
    )
    records = run(folder, rows(12))
    assert [record.status for record in records] == ["done"] * 12
    assert len(found) == 12
    assert len(set(found)) == 1
    assert slicer.mrmlScene is own
    assert own.GetNumberOfNodes() == before
    check_clean(folder / "out")


# ---------------------------------------------------------------------- going on


class TestGoingOn:
    def test_a_pair_without_its_scene_gets_only_that(self, folder):
        run(folder, rows(3), scenes=False)
        before = {f: f.stat().st_mtime_ns for f in (folder / "out" / "pairs").glob("*/*.[hn]*")}
        assert len(before) == 9
        records = run(folder, rows(3))
        assert [record.status for record in records] == ["done"] * 3
        assert {f: f.stat().st_mtime_ns for f in before} == before
        for record in records:
            assert set(record.seconds) == {"read", "register", "write", "scene", "total"}
            assert check_whole(folder / "out", record.id)["seconds"] == record.seconds
        scene_times = [record.path("scene.mrb").stat().st_mtime_ns for record in records]
        again = run(folder, rows(3))
        assert [record.status for record in again] == ["kept"] * 3
        assert [record.path("scene.mrb").stat().st_mtime_ns for record in again] == scene_times
        assert run(folder, rows(3), scenes=False)[0].status == "kept"  # a scene that nobody asks for does no harm

    @pytest.mark.parametrize("harm", ["missing", "cut short", "not in the summary"])
    def test_a_scene_that_is_not_as_it_was_written_is_made_again(self, folder, harm):
        (record,) = run(folder, rows(1))
        scene, whole = record.path("scene.mrb"), record.path("scene.mrb").stat().st_size
        before = record.path("warped.nrrd").stat().st_mtime_ns
        if harm == "missing":
            scene.unlink()
        elif harm == "cut short":
            scene.write_bytes(scene.read_bytes()[:-100])
        else:  # the run was killed between putting the scene in place and saying so
            summary = json.loads(record.path("summary.json").read_text())
            del summary["files"]["scene.mrb"]
            record.path("summary.json").write_text(json.dumps(summary))
            BatchFolder(folder / "out", "dead").begin("p00", 0)
        (again,) = run(folder, rows(1))
        assert again.status == "done"
        assert abs(scene.stat().st_size - whole) < 200
        assert record.path("warped.nrrd").stat().st_mtime_ns == before
        assert mrml.read_scene(scene).GetFirstNodeByName("1 to 0 transform") is not None
        check_whole(folder / "out", "p00")
        check_clean(folder / "out")

    def test_a_pair_that_is_computed_again_gets_another_scene(self, folder):
        (record,) = run(folder, rows(1))
        before = record.path("scene.mrb").stat().st_mtime_ns
        (again,) = run(folder, [{**rows(1)[0], "smoothness": 3}])
        assert again.status == "done"
        assert again.path("scene.mrb").stat().st_mtime_ns != before
        (again,) = run(folder, [{**rows(1)[0], "smoothness": 3}], overwrite=True)
        assert again.status == "done"
        check_whole(folder / "out", "p00")


# ---------------------------------------------------------------------- trouble


class TestTrouble:
    def test_a_scene_that_cannot_be_made_fails_its_pair_and_the_rest_goes_on(self, folder, monkeypatch):
        """Its files stay; the next run makes the scene only."""
        real = pair_scene.load_inputs

        def gone(files: Any) -> Any:
            if files["fixed"].endswith("1.nrrd"):
                raise InputError("The fixed image 1.nrrd does not exist.")
            return real(files)

        monkeypatch.setattr(pair_scene, "load_inputs", gone)
        records = run(folder, rows(3))
        assert [record.status for record in records] == ["done", "failed", "done"]
        assert records[1].reason == (
            "Its scene could not be made; its other files are there. The fixed image 1.nrrd does not exist."
        )
        assert json.loads((folder / "out/failed/p01.json").read_text())["reason"] == records[1].reason
        assert slicer.mrmlScene is None
        check_clean(folder / "out")
        warped = folder / "out" / "pairs" / "p01" / "warped.nrrd"
        before = warped.stat().st_mtime_ns
        monkeypatch.undo()
        assert [record.status for record in run(folder, rows(3))] == ["kept", "done", "kept"]
        assert warped.stat().st_mtime_ns == before
        assert os.listdir(folder / "out" / "failed") == []

    def test_an_error_in_cyclereg_is_kept_with_its_trace(self, folder, monkeypatch):
        def broken(*_: Any) -> None:
            raise IndexError("wrong index")

        monkeypatch.setattr(pair_scene, "write_scene", broken)
        (record,) = run(folder, rows(1))
        assert record.reason.startswith("An error in CycleReg: IndexError: wrong index.")
        assert "in broken" in json.loads((folder / "out/failed/p00.json").read_text())["trace"]

    @POSIX
    def test_the_disk_is_full(self, folder, capfd):
        """All files but the bundle find room; nothing of VTK's complaints is heard, and the next run goes on."""
        import resource

        size = run(folder, rows(1))[0].path("scene.mrb").stat().st_size
        write_manifest(folder / "m.csv", rows(4))
        arguments = ["batch", str(folder / "m.csv"), "--output", str(folder / "out"), "--progress", "none"]
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 10_000, before[1]))
        try:
            assert main(arguments) == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        said = capfd.readouterr()
        assert said.out == ""
        assert said.err.splitlines() == [
            f"cyclereg: error: Nothing more can be written into {folder / 'out'} (File too large); 1 of 4 pairs are "
            "complete. Make room and give the same command again: it goes on from there."
        ]
        check_clean(folder / "out")
        assert main(arguments) == 0
        assert [row["status"] for row in table(folder / "out").values()] == ["kept", "done", "done", "done"]
        for number in range(4):
            assert "scene.mrb" in check_whole(folder / "out", f"p{number:02}")["files"]

    def test_ctrl_c_while_a_scene_is_made(self, folder, monkeypatch):
        made, calls = pair_scene.write_scene, []

        def interrupted(path: Path) -> None:
            calls.append(path)
            made(path)
            if len(calls) == 2:
                raise KeyboardInterrupt

        monkeypatch.setattr(pair_scene, "write_scene", interrupted)
        with pytest.raises(Cancelled, match="2 of 5 pairs are complete"):
            run(folder, rows(5))
        found = statuses(folder / "out")
        assert (found["p00"], found["p01"], found["p04"]) == ("done", "skipped", "skipped")
        assert slicer.mrmlScene is None
        check_clean(folder / "out")
        monkeypatch.undo()
        assert {record.status for record in run(folder, rows(5))} == {"kept", "done"}
        for number in range(5):
            assert "scene.mrb" in check_whole(folder / "out", f"p{number:02}")["files"]

    def test_slicers_libraries_are_not_installed(self, folder, monkeypatch):
        monkeypatch.setattr(scenes.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(InputError, match=r'pip install "cyclereg\[mrml\]"'):
            run(folder, rows(1))
        assert not (folder / "out").exists()


# ---------------------------------------------------------------------- in Slicer


@pytest.fixture
def application(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Slicer's one scene, which must not be exchanged."""
    scene = mrml.ensure_scene()
    monkeypatch.setattr(slicer, "app", types.SimpleNamespace(mrmlScene=lambda: scene), raising=False)
    return scene


class TestApplication:
    def test_its_scene_is_used_and_left_empty(self, folder, application):
        before = application.GetNumberOfNodes()
        records = run(folder, rows(3))
        assert [record.status for record in records] == ["done"] * 3
        assert slicer.mrmlScene is application
        assert application.GetNumberOfNodes() == before
        nodes = Nodes(mrml.read_scene(records[2].path("scene.mrb")))
        assert "0 to 2 transform" in nodes
        assert "1 to 0 transform" not in nodes

    def test_a_scene_that_holds_something_is_not_touched(self, folder, application):
        node = application.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "mine")
        with pytest.raises(InputError, match="Slicer's own scene, which is not empty"):
            run(folder, rows(1))
        assert application.IsNodePresent(node)
        assert not (folder / "out").exists()

    def test_workers_are_started_with_the_interpreter_behind_the_launcher(self, tmp_path, monkeypatch):
        set_to: list[str] = []
        monkeypatch.setattr(cluster.multiprocessing, "set_executable", set_to.append)
        cluster._use_the_interpreter()
        assert set_to == []
        monkeypatch.setattr(sys, "executable", str(tmp_path / "PythonSlicer.exe"))
        with pytest.raises(InputError, match="Use one worker"):
            cluster._use_the_interpreter()
        (tmp_path / "python-real.exe").touch()
        cluster._use_the_interpreter()
        assert set_to == [str(tmp_path / "python-real.exe")]


class TestScript:
    AS_SLICER = """
import runpy, sys, types
import slicer

slicer.mrmlScene = slicer.vtkMRMLScene()
options = types.SimpleNamespace(runPythonAndExit=True)
leave = lambda status: print("application ends:", status)
slicer.app = types.SimpleNamespace(commandOptions=lambda: options, exit=leave)
sys.argv = ["Slicer", *sys.argv[1:]]
runpy.run_path({script!r}, run_name="__main__")
"""

    def test_in_slicer_the_application_ends_with_the_batchs_status(self, folder):
        (folder / "2.nrrd").write_bytes(b"NRRD0004\nrubbish\n")
        write_manifest(folder / "m.csv", rows(2))
        done = subprocess.run(
            [sys.executable, "-c", self.AS_SLICER.format(script=str(SCRIPT)), "--", "batch", folder / "m.csv",
             "--output", folder / "out", "--progress", "none"],
            capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.stdout.splitlines()[-1] == "application ends: 1", done.stderr
        assert done.stderr.count("\n") == 1
        assert statuses(folder / "out") == {"p00": "done", "p01": "failed"}
        assert (folder / "out/pairs/p00/scene.mrb").is_file()

    def test_it_proposes_a_manifest_too(self, folder, capsys):
        shutil.copytree(folder, folder / "phases", ignore=shutil.ignore_patterns("phases"))
        assert main(["batch", "--make-manifest", str(folder / "phases")]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
        assert len(list(csv.DictReader(lines))) == 2
