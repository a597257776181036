"""Batches that go well: what is written, what is kept, what overlaps, and what is told."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from batch_cases import blob, check_clean, check_whole, rows, statuses, table, write_images, write_manifest

import CycleRegLib
from CycleRegLib import checkpoint_making
from CycleRegLib.batch import cluster, pair
from CycleRegLib.batch.fingerprint import FileMark, Hashes, files_of, recall
from CycleRegLib.batch.folders import BatchFolder
from CycleRegLib.batch.manifest import read_manifest
from CycleRegLib.batch.progress import BatchProgress
from CycleRegLib.batch.record import BatchRecord, failed_record, measures_of
from CycleRegLib.batch.results import summary_text
from CycleRegLib.checkpoints import read_checkpoint
from CycleRegLib.cli import main
from CycleRegLib.errors import Cancelled, InputError
from CycleRegLib.landmarks import LandmarkList, write_landmarks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path)
    return tmp_path


def run(folder: Path, content: list[dict[str, Any]], **options: Any) -> list[BatchRecord]:
    return list(CycleRegLib.run_batch(write_manifest(folder / "m.csv", content), folder / "out", **options))


# ---------------------------------------------------------------------- what is written


class TestOutputs:
    def test_a_pair_is_what_register_gives(self, folder):
        (record,) = run(folder, rows(1))
        fixed, moving = (CycleRegLib.read_image(folder / f"{n}.nrrd") for n in (0, 1))
        result = CycleRegLib.register(fixed, moving, affine="none")
        summary = check_whole(folder / "out", "p00")
        assert (record.status, record.attempts, record.worker) == ("done", 1, "main")
        written = CycleRegLib.read_transform(record.path("transform.h5"))
        field = CycleRegLib.DisplacementField.from_transform(written, result.field.grid)
        assert np.abs(field.vectors - result.field.vectors).max() < 1e-4
        warped = sitk.GetArrayFromImage(sitk.ReadImage(str(record.path("warped.nrrd"))))
        assert np.abs(warped - sitk.GetArrayFromImage(result.warped)).max() < 1e-3
        assert summary["similarity"]["after"] == pytest.approx(result.similarity["after"], abs=1e-6)
        assert record.measures["similarity_after"] == summary["similarity"]["after"]
        assert summary["fixed"] == str(folder / "0.nrrd")
        assert set(record.seconds) == {"read", "register", "write", "total"}
        check_clean(folder / "out")

    def test_landmarks_and_segmentations_are_measured_and_drawn(self, folder):
        ball = sitk.BinaryThreshold(blob(0), 60, 1e6)
        for side in ("fixed", "moving"):
            sitk.WriteImage(ball, str(folder / f"{side}_seg.nrrd"))
            write_landmarks(LandmarkList(["a", "b"], np.array([[30.0, 30, 30], [36, 30, 33]])), folder / f"{side}.fcsv")
        row = {**rows(1)[0], **{f"{s}_segmentation": f"{s}_seg.nrrd" for s in ("fixed", "moving")}}
        row.update({f"{s}_landmarks": f"{s}.fcsv" for s in ("fixed", "moving")}, tumor_segment="1")
        (record,) = run(folder, [row], pictures=True)
        summary = json.loads(record.path("summary.json").read_text())
        assert record.measures["tre_before_mm"] == 0.0
        assert record.measures["tre_after_mm"] == pytest.approx(summary["evaluation"]["tre_mm"]["after"]["mean"])
        assert record.measures["dice_mean_before"] == 1.0
        assert record.measures["tumor_volume_fixed_ml"] > 1
        assert set(record.seconds) == {"read", "register", "evaluate", "pictures", "write", "total"}
        assert {path.name for path in record.path("pictures").iterdir()} >= {
            "grid-axial.png",
            "landmarks-after-axial.png",
        }

    def test_results_have_every_pair_in_the_manifests_order(self, folder):
        content = rows(4)
        content[1]["moving"] = "bad.nrrd"
        (folder / "bad.nrrd").write_bytes(b"NRRD0004\nrubbish\n")
        records = run(folder, content)
        found = table(folder / "out")
        assert list(found) == ["p00", "p01", "p02", "p03"]
        assert [found[name]["status"] for name in found] == ["done", "failed", "done", "done"]
        assert "bad.nrrd" in found["p01"]["reason"]
        assert found["p01"]["similarity_after"] == ""
        assert found["p02"]["folder"] == "pairs/p02"
        record = next(r for r in records if r.id == "p02")
        assert float(found["p02"]["similarity_after"]) == record.measures["similarity_after"]
        text = (folder / "out" / "summary.md").read_text()
        assert "4 pairs: 3 done, 1 failed." in text
        assert "| p01 | 1 | The moving image" in text

    def test_summary_is_means_deviations_and_medians(self):
        records = [
            BatchRecord(str(n), "done", measures={"tre_after_mm": value}).to_dict()
            for n, value in enumerate((1.0, 2.0, 6.0))
        ]
        records.append(failed_record("x", "because | of\nthat").to_dict())
        text = summary_text(records)
        assert f"| tre_after_mm | 3 | {math.sqrt(7):.4g} | 2 | 3 |" in text
        assert "| x | 1 | because \\| of that |" in text

    def test_measures_have_flat_names_with_units(self):
        """The names that tables, plots and other people's scripts build on."""
        summary = {
            "similarity": {"before": 0.2, "after": 0.5, "measure": "squared LNCC"},
            "folding_percent": 0.0,
            "jacobian": {"mean": 1.0, "sd": 0.1, "sd_log": 0.1, "min": None, "max": 2.0, "left_out": 0},
            "roundtrip_mm": {"mean": 0.1, "p95": float("nan")},
        }
        evaluation = {
            "tre_mm": {"before": {"mean": 5.0, "sd": 1.0}, "after": {"mean": 1.0, "sd": 0.5}, "count": 3},
            "dice": {"left kidney": {"before": 0.7, "after": 0.9}},
            "hd95_mm": {"left kidney": {"before": 7.0, "after": 2.0}},
            "labels_mean": {"dice": {"before": 0.7, "after": 0.9}},
            "tumor": {"volume_ml": {"fixed": 20.0, "difference_after": None}},
            "nmse": {"before": 0.2, "after": 0.1},
            "reversibility": {"nmse": 0.01},
        }
        found = measures_of(summary, evaluation)
        assert found == {
            "similarity_before": 0.2, "similarity_after": 0.5, "folding_percent": 0.0, "jacobian_mean": 1.0,
            "jacobian_sd": 0.1, "jacobian_sd_log": 0.1, "jacobian_max": 2.0, "roundtrip_mean_mm": 0.1,
            "tre_before_mm": 5.0, "tre_sd_before_mm": 1.0, "tre_after_mm": 1.0, "tre_sd_after_mm": 0.5,
            "dice_mean_before": 0.7, "dice_mean_after": 0.9, "dice_left_kidney_before": 0.7,
            "dice_left_kidney_after": 0.9, "hd95_left_kidney_before_mm": 7.0, "hd95_left_kidney_after_mm": 2.0,
            "tumor_volume_fixed_ml": 20.0, "nmse_before": 0.2, "nmse_after": 0.1, "reversibility_nmse": 0.01,
        }  # fmt: skip

    def test_a_network_is_read_once_for_all_pairs(self, folder, monkeypatch):
        checkpoint_making.create(folder / "w.safetensors", "cyclemorph", both=True)
        reads = []
        monkeypatch.setattr(pair, "read_checkpoint", lambda *a: reads.append(a) or read_checkpoint(*a))
        records = run(folder, rows(3), method="cyclemorph", checkpoint=folder / "w.safetensors", precision="float32")
        assert [record.status for record in records] == ["done"] * 3
        assert len(reads) == 1
        assert check_whole(folder / "out", "p02")["method"] == "cyclemorph"


class TestCommandLine:
    def test_statuses_and_what_is_said(self, folder, capsys):
        path = write_manifest(folder / "m.csv", rows(2))
        arguments = ["batch", str(path), "--output", str(folder / "out"), "--progress", "none"]
        assert main(arguments) == 0
        assert capsys.readouterr().out == f"2 pairs: 2 done. Results: {folder / 'out' / 'results.csv'}\n"
        (folder / "1.nrrd").write_bytes(b"NRRD0004\nrubbish\n")
        assert main(arguments) == 1
        said = capsys.readouterr()
        assert said.err == f"cyclereg: error: 2 of 2 pairs failed; why is in {folder / 'out' / 'summary.md'}.\n"

    def test_rows_of_an_array_job_then_the_whole(self, folder, capsys):
        """Jobs of some pairs each may run together; the tables come from the run of all, which computes nothing."""
        path = str(write_manifest(folder / "m.csv", rows(3)))
        out = str(folder / "out")
        with BatchFolder(out).lock(shared=True):  # another job of the array
            assert main(["batch", path, "--output", out, "--pairs", "2", "--progress", "none"]) == 0
        assert main(["batch", path, "--output", out, "--ids", "p00,p02", "--progress", "none"]) == 0
        assert sorted(os.listdir(folder / "out" / "pairs")) == ["p00", "p01", "p02"]
        assert not (folder / "out" / "results.csv").exists()
        assert main(["batch", path, "--output", out, "--progress", "none"]) == 0
        assert set(statuses(folder / "out").values()) == {"kept"}
        assert capsys.readouterr().out.splitlines()[-1].startswith("3 pairs: 3 kept.")

    def test_json_progress(self, folder, capsys):
        path = write_manifest(folder / "m.csv", rows(2))
        assert main(["batch", str(path), "--output", str(folder / "out"), "--progress", "json"]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert lines[-1] == {
            "stage": "pairs", "percent": 100.0, "done": 2, "failed": 0, "total": 2, "seconds_left": 0.0,
        }  # fmt: skip
        assert [line["percent"] for line in lines] == sorted(line["percent"] for line in lines)


# ---------------------------------------------------------------------- what is kept


@pytest.fixture
def fine_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust the times of files that were written just now, as those of older files are."""
    monkeypatch.setattr("CycleRegLib.batch.fingerprint._COARSEST_CLOCK_NS", 0)
    time.sleep(0.02)


class TestResuming:
    def test_complete_pairs_are_kept_and_changed_ones_computed_again(self, folder):
        content = rows(3)
        run(folder, content)
        before = {n: (folder / "out" / "pairs" / n / "warped.nrrd").stat().st_mtime_ns for n in ("p00", "p01", "p02")}
        content[1]["smoothness"] = 2
        content.append(rows(1, first=3)[0])
        records = {record.id: record for record in run(folder, content)}
        assert {name: record.status for name, record in records.items()} == {
            "p00": "kept", "p01": "done", "p02": "kept", "p03": "done",
        }  # fmt: skip
        assert records["p00"].measures == check_whole(folder / "out", "p00")["measures"]
        after = {n: (folder / "out" / "pairs" / n / "warped.nrrd").stat().st_mtime_ns for n in before}
        assert [n for n in before if before[n] != after[n]] == ["p01"]

    def test_the_device_is_no_reason_to_compute_again(self, folder):
        run(folder, rows(1))
        assert run(folder, rows(1), device="cpu")[0].status == "kept"

    def test_overwrite(self, folder):
        run(folder, rows(2))
        assert [record.status for record in run(folder, rows(2), overwrite=True)] == ["done", "done"]

    def test_pictures_that_are_asked_for_later_are_made(self, folder):
        run(folder, rows(1))
        assert run(folder, rows(1), pictures=True)[0].status == "done"
        assert run(folder, rows(1))[0].status == "kept"  # pictures that nobody asks for do no harm

    @pytest.mark.parametrize("name", ["warped.nrrd", "transform.h5", "summary.json"])
    @pytest.mark.parametrize("harm", ["missing", "cut short"])
    def test_a_damaged_result_is_not_taken_for_complete(self, folder, name, harm):
        (record,) = run(folder, rows(1))
        file = record.path(name)
        if harm == "missing":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:-20])
        assert run(folder, rows(1))[0].status == "done"
        check_whole(folder / "out", "p00")

    def test_contents_decide_not_times(self, folder, fine_clock):
        """A file that was touched is the same; another of the same size and times is not."""
        content = rows(3)  # p00: 0 and 1; p01: 1 and 2; p02: 2 and 0
        run(folder, content)
        os.utime(folder / "0.nrrd")
        before = (folder / "1.nrrd").stat()
        data = bytearray((folder / "1.nrrd").read_bytes())
        data[-4] ^= 1
        (folder / "1.nrrd").write_bytes(data)
        os.utime(folder / "1.nrrd", ns=(before.st_atime_ns, before.st_mtime_ns))
        after = (folder / "1.nrrd").stat()
        assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        found = {record.id: record.status for record in run(folder, content)}
        assert found == {"p00": "done", "p01": "done", "p02": "kept"}

    def test_files_that_are_as_they_were_are_not_read_again(self, folder, fine_clock, monkeypatch):
        run(folder, rows(3))
        monkeypatch.setattr(pair.Worker, "read", None)
        monkeypatch.setattr("CycleRegLib.batch.fingerprint._content", None)
        assert [record.status for record in run(folder, rows(3))] == ["kept"] * 3

    def test_a_folder_that_was_moved_is_still_complete(self, folder, tmp_path_factory):
        run(folder, rows(1))
        elsewhere = tmp_path_factory.mktemp("elsewhere") / "all"
        shutil.move(str(folder), elsewhere)
        assert run(elsewhere, rows(1))[0].status == "kept"

    def test_a_failure_is_forgotten_when_the_pair_succeeds(self, folder):
        good = (folder / "1.nrrd").read_bytes()
        (folder / "1.nrrd").write_bytes(good[:100])
        assert run(folder, rows(1))[0].status == "failed"
        assert json.loads((folder / "out" / "failed" / "p00.json").read_text())["reason"]
        (folder / "1.nrrd").write_bytes(good)
        assert run(folder, rows(1))[0].status == "done"
        assert os.listdir(folder / "out" / "failed") == []


class TestOutputFolder:
    def test_foreign_things_are_left_alone(self, folder):
        (folder / "out").mkdir()
        (folder / "out" / "thesis.tex").touch()
        with pytest.raises(InputError, match="holds something else than a batch"):
            run(folder, rows(1))
        assert os.listdir(folder / "out") == ["thesis.tex"]

    def test_a_file_and_a_missing_parent(self, folder):
        path = write_manifest(folder / "m.csv", rows(1))
        for output, words in ((folder / "m.csv", "it is a file"), (folder / "no" / "out", "does not exist")):
            with pytest.raises(InputError, match=words):
                CycleRegLib.run_batch(path, output)

    def test_inputs_among_the_outputs(self, folder):
        run(folder, rows(1))
        content = rows(1)
        content[0]["moving"] = "out/pairs/p00/warped.nrrd"
        with pytest.raises(InputError, match="lies among the outputs"):
            run(folder, content)

    def test_two_runs_in_one_folder(self, folder):
        with (
            BatchFolder(folder / "out").lock(shared=False),
            pytest.raises(InputError, match="Another run is at work"),
        ):
            run(folder, rows(1))

    @pytest.mark.parametrize("options", [{"workers": 0}, {"threads": 0}, {"pairs": "0"}])
    def test_options_that_cannot_be(self, folder, options):
        with pytest.raises(InputError):
            run(folder, rows(1), **options)
        assert not (folder / "out").exists()


# ---------------------------------------------------------------------- fingerprints


class TestFingerprint:
    def test_everything_that_matters_is_in_it(self, folder):
        def sha(**change: Any) -> str:
            (spec,) = read_manifest(write_manifest(folder / "m.csv", [{**rows(1)[0], **change}]))
            return Hashes().identify(spec).sha256

        usual = sha()
        assert sha(id="another", device="cpu", method="optimize") == usual
        changes = [{"moving": "2.nrrd"}, {"fixed_mask": "2.nrrd"}, {"moving_mask": "2.nrrd"}, {"smoothness": 2},
                   {"affine": "rigid"}, {"refine_steps": 1}, {"precision": "float32"}]  # fmt: skip
        assert len({usual, *(sha(**change) for change in changes)}) == 1 + len(changes)

    def test_the_data_of_a_header_belong_to_it(self, tmp_path):
        image = blob(0, 8)
        for name in ("a.mhd", "b.nhdr", "c.hdr"):
            sitk.WriteImage(image, str(tmp_path / name))
            (data,) = (path for path in files_of(tmp_path / name) if path.name != name)
            before = Hashes().mark(str(tmp_path / name))
            content = bytearray(data.read_bytes())
            content[-1] ^= 1
            data.write_bytes(content)
            assert Hashes().mark(str(tmp_path / name)).sha256 != before.sha256

    def test_the_files_of_a_folder_belong_to_it(self, tmp_path):
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "1").write_bytes(b"x")
        before = Hashes().mark(str(tmp_path / "d")).sha256
        (tmp_path / "d" / "1").rename(tmp_path / "d" / "2")
        assert Hashes().mark(str(tmp_path / "d")).sha256 != before

    def test_a_file_is_hashed_once_while_it_stays_as_it_is(self, tmp_path, monkeypatch):
        from CycleRegLib.batch import fingerprint

        file = tmp_path / "x"
        file.write_bytes(b"1")
        hashes, sums = Hashes(), []
        monkeypatch.setattr(fingerprint, "_sum", lambda path: sums.append(path) or str(len(sums)))
        assert hashes.mark(str(file)).sha256 == hashes.mark(str(file)).sha256 == "1"
        file.write_bytes(b"22")
        assert hashes.mark(str(file)).sha256 == "2"

    def test_times_prove_nothing_for_files_just_written(self):
        stamp = [["x", 5, 10_000_000_000, 10_000_000_000, 7]]
        assert FileMark("x", stamp, "", 12_500_000_000).proves(stamp)
        assert not FileMark("x", stamp, "", 11_500_000_000).proves(stamp)
        assert not FileMark("x", stamp, "", 12_500_000_000).proves([["x", 5, 10_000_000_000, 10_000_000_001, 7]])

    def test_what_is_remembered_may_be_nonsense(self, folder):
        (spec,) = read_manifest(write_manifest(folder / "m.csv", rows(1)))
        for content in ({}, {"inputs": 3}, {"inputs": {"fixed": {"path": 1}}}, {"inputs": {"fixed": None}}):
            assert recall(spec, content) is None


# ---------------------------------------------------------------------- overlap


class TestOverlap:
    def test_one_pair_is_read_and_one_written_while_another_is_computed(self, folder, monkeypatch):
        """Never more than one ahead and one behind, and both while the middle one is computed."""
        lock = threading.Lock()
        alive: set[str] = set()
        most, events = [], []

        def wrapped(stage: str, original: Any) -> Any:
            def call(self: Any, subject: Any, *arguments: Any, **more: Any) -> Any:
                name = subject.id if stage == "read" else subject.spec.id
                with lock:
                    events.append((stage, name, "begin"))
                    alive.add(name)
                    most.append(len(alive))
                if stage == "compute":
                    # The next pair is read, and the last one written, before this one is computed.
                    number = int(name[1:])
                    wanted = {("read", f"p{number + 1:02}", "end")} if number < 4 else set()
                    wanted |= {("write", f"p{number - 1:02}", "end")} if number else set()
                    until = time.monotonic() + 10
                    while not wanted <= set(events):
                        assert time.monotonic() < until, events
                        time.sleep(0.001)
                found = original(self, subject, *arguments, **more)
                with lock:
                    events.append((stage, name, "end"))
                    if stage == "write":
                        alive.discard(name)
                return found

            return call

        for stage in ("read", "compute", "write"):
            monkeypatch.setattr(pair.Worker, stage, wrapped(stage, getattr(pair.Worker, stage)))
        assert [record.status for record in run(folder, rows(5))] == ["done"] * 5
        assert max(most) <= 3

    def test_warnings_stay_with_their_pair(self, folder):
        """Read by another thread while the pair before is computed."""
        markups = json.loads('{"markups": []}')
        point = {"label": "a", "position": [30.0, 30.0, 30.0]}
        markups["markups"] = [{"controlPoints": [point], "coordinateSystem": "LPS"}] * 2
        for side in ("fixed", "moving"):
            (folder / f"{side}.mrk.json").write_text(json.dumps(markups))
        content = rows(3)
        content[1].update({f"{side}_landmarks": f"{side}.mrk.json" for side in ("fixed", "moving")})
        with pytest.warns(Warning, match="several markups"):
            run(folder, content)
        found = {n: json.loads((folder / "out/pairs" / n / "summary.json").read_text())["warnings"] for n in
                 ("p00", "p01", "p02")}  # fmt: skip
        assert found["p00"] == found["p02"] == []
        assert sum("several markups" in message for message in found["p01"]) == 2

    def test_threads_are_set_for_the_run_only(self, folder, monkeypatch):
        import torch

        used = []
        register = pair.register
        monkeypatch.setattr(pair, "register", lambda *a, **k: used.append(torch.get_num_threads()) or register(*a, **k))
        before = torch.get_num_threads()
        run(folder, rows(1), threads=3)
        assert used == [3]
        assert torch.get_num_threads() == before


# ---------------------------------------------------------------------- progress


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestProgress:
    def test_the_bar_counts_pairs_failures_and_time_left(self, monkeypatch):
        clock = [0.0]
        monkeypatch.setattr("CycleRegLib.batch.progress.time.perf_counter", lambda: clock[0])
        stream = _Terminal()
        progress = BatchProgress("bar", 10, stream)
        progress.add(BatchRecord("k", "kept"))  # took no time
        for name, status in (("a", "done"), ("b", "failed"), ("c", "done")):
            clock[0] += 60
            progress.add(BatchRecord(name, status, "no such file"))
        last = stream.getvalue().split("\r")[-1]
        assert "40 %" in last
        assert "3 of 10 pairs, 1 failed, 6:00 min left" in last
        assert "pair 'b' failed: no such file" in stream.getvalue()

    def test_a_log_gets_a_line_from_time_to_time(self, monkeypatch):
        clock = [0.0]
        monkeypatch.setattr("CycleRegLib.batch.progress.time.perf_counter", lambda: clock[0])
        stream = io.StringIO()
        progress = BatchProgress("bar", 1000, stream)
        for n in range(1000):
            clock[0] += 0.1
            progress.add(BatchRecord(str(n), "done"))
        lines = stream.getvalue().splitlines()
        assert 9 <= len(lines) <= 12
        assert lines[-1].endswith("1000 of 1000 pairs")
        assert "\r" not in stream.getvalue()

    def test_nothing(self):
        stream = io.StringIO()
        BatchProgress("none", 1, stream).add(BatchRecord("a", "done"))
        assert stream.getvalue() == ""

    def test_the_reader_goes_away(self):
        class Gone(io.StringIO):
            def write(self, text: str) -> int:
                raise BrokenPipeError

        with pytest.raises(Cancelled):
            BatchProgress("json", 2, Gone()).add(BatchRecord("a", "done"))


# ---------------------------------------------------------------------- Dask


@pytest.fixture(scope="module")
def scheduler():
    """A cluster as somebody else runs it; its worker is a thread, so that nothing has to be started."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster_of_others:  # fmt: skip
        yield cluster_of_others.scheduler_address


class TestScheduler:
    def test_pairs_are_sent_to_it_and_kept_after(self, folder, scheduler):
        content = rows(5)
        (folder / "bad.nrrd").write_bytes(b"rubbish")
        content[3]["fixed"] = "bad.nrrd"
        records = {record.id: record for record in run(folder, content, scheduler=scheduler)}
        assert statuses(folder / "out") == {**dict.fromkeys(("p00", "p01", "p02", "p04"), "done"), "p03": "failed"}
        assert records["p00"].worker
        assert records["p00"].worker != "main"
        check_whole(folder / "out", "p04")
        check_clean(folder / "out")
        again = {record.id: record.status for record in run(folder, content, scheduler=scheduler)}
        assert again == {**dict.fromkeys(("p00", "p01", "p02", "p04"), "kept"), "p03": "failed"}

    def test_overwrite(self, folder, scheduler):
        """A worker that finds the pair complete does not give that for what it was asked to compute."""
        run(folder, rows(2))
        records = run(folder, rows(2), scheduler=scheduler, overwrite=True)
        assert [(record.status, record.worker == "main") for record in records] == [("done", False)] * 2
        assert {check_whole(folder / "out", name)["worker"] for name in ("p00", "p01")} == {records[0].worker}

    def test_nobody_answers(self, folder, monkeypatch):
        pytest.importorskip("distributed", reason="Dask is not installed")
        monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 0.5)
        for address in ("tcp://127.0.0.1:9", "nonsense://x"):
            with pytest.raises(InputError, match="No Dask scheduler answers at"):
                run(folder, rows(1), scheduler=address)

    def test_workers_that_do_not_see_the_folder(self, folder, scheduler, monkeypatch):
        monkeypatch.setattr(cluster, "_look_around", lambda output: (CycleRegLib.__version__, False))
        with pytest.raises(InputError, match="does not see the folder"):
            run(folder, rows(1), scheduler=scheduler)

    def test_a_worker_that_joins_later_and_does_not_see_it(self, folder):
        """It makes no folder of its own there, in which results would be lost."""
        (spec,) = read_manifest(write_manifest(folder / "m.csv", rows(1)))
        with pytest.raises(InputError, match="does not see the folder"):
            cluster.run_pair(spec, pair.Job(str(folder / "elsewhere" / "out"), "abc"), None, local=False)
        assert not (folder / "elsewhere").exists()

    def test_workers_with_another_version(self, folder, scheduler, monkeypatch):
        monkeypatch.setattr(cluster, "_look_around", lambda output: ("0.0.9", True))
        with pytest.raises(InputError, match=r"has CycleReg 0\.0\.9, not"):
            run(folder, rows(1), scheduler=scheduler)

    def test_without_dask(self, folder, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(InputError, match="pip install"):
            run(folder, rows(1), workers=2)
        assert [record.status for record in run(folder, rows(1))] == ["done"]


def test_gpus_are_shared_in_turn(folder, monkeypatch):
    """Worker 5 of a machine with two GPUs computes on the second, unless the row says otherwise."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(distributed, "get_worker", lambda: type("W", (), {"name": 5})())
    worker = cluster._this_worker(pair.Job(str(folder), "abc"), local=True)
    cluster._WORKERS.clear()
    assert (worker.name, worker.device) == ("worker 5", "cuda:1")
    asked = []
    for device in ("auto", "cuda", "cpu"):
        (spec,) = read_manifest(write_manifest(folder / "m.csv", [{**rows(1)[0], "device": device}]), local=False)
        loaded = pair.Loaded(spec, Hashes().identify(spec), {}, {}, [], {})
        asked.append(worker._options(loaded)["device"])
    assert asked == ["cuda:1", "cuda:1", "cpu"]


def test_the_next_pairs_are_hashed_while_workers_compute(folder):
    pytest.importorskip("distributed", reason="Dask is not installed")
    specs = read_manifest(write_manifest(folder / "m.csv", rows(3)))
    (folder / "0.nrrd").unlink()
    with cluster._ReadAhead(active=True) as ahead:
        ahead.want(deque(specs))
        ahead._found["p02"].exception()  # the last one; wait for it
        assert ahead.take(specs[1]).sha256 == Hashes().identify(specs[1]).sha256
        assert ahead.take(specs[1]) is None  # given already
        assert ahead.take(specs[0]) is None  # the worker finds out and says why
