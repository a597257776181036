"""Batches that meet trouble: nothing is lost, nothing half-written counts, and the same command goes on."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from batch_cases import (
    SIDE,
    begun,
    check_clean,
    check_whole,
    rows,
    start,
    statuses,
    table,
    wait_for,
    write_images,
    write_manifest,
)

import CycleRegLib
from CycleRegLib import checkpoint_making
from CycleRegLib.batch import cluster, pair, runner
from CycleRegLib.batch.folders import BatchFolder
from CycleRegLib.batch.manifest import read_manifest
from CycleRegLib.batch.record import BatchRecord
from CycleRegLib.cli import main
from CycleRegLib.errors import Cancelled, InputError

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and limits")
#: Only ends tests that hang; machines that are busy with something else take many times as long as idle ones.
SECONDS = 300


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path)
    return tmp_path


def run(folder: Path, content: list[dict[str, Any]], **options: Any) -> list[BatchRecord]:
    return list(CycleRegLib.run_batch(write_manifest(folder / "m.csv", content), folder / "out", **options))


def command(folder: Path, *more: str) -> int:
    return main(["batch", str(folder / "m.csv"), "--output", str(folder / "out"), "--progress", "none", *more])


def kill_in_the_middle(out: Path, names: list[str], process: subprocess.Popen[str]) -> str:
    """Kill a worker while it has one of these pairs; gives which.

    However slow the machine is: the worker is first stopped, and goes on if it has finished the pair meanwhile.
    """
    while True:
        name, pid = wait_for(lambda: [(n, pid) for n in names for _, pid in begun(out, n)], process)[0]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.05)
        if pid in [p for _, p in begun(out, name)]:
            os.kill(pid, signal.SIGKILL)
            return name
        os.kill(pid, signal.SIGCONT)


def long_row(name: str) -> dict[str, Any]:
    """A pair that takes half a minute, so that it can be caught in the middle."""
    return {**rows(1)[0], "id": name, "refine_steps": 5000}


# ---------------------------------------------------------------------- workers that die


@POSIX
class TestWorkersThatDie:
    def test_twenty_four_pairs_with_killed_workers_and_a_corrupt_row(self, folder):
        """One worker is killed in the middle of a pair, one pair kills its worker every time, one image is corrupt."""
        pytest.importorskip("distributed", reason="Dask is not installed")
        (folder / "corrupt.nrrd").write_bytes((folder / "0.nrrd").read_bytes()[:5000])
        content = [long_row("deadly"), *rows(22)]
        content.append({**rows(1)[0], "id": "corrupt", "moving": "corrupt.nrrd"})
        write_manifest(folder / "m.csv", content)
        out = folder / "out"
        process = start(folder, folder / "m.csv", "--output", out, "--workers", "2", "--threads", "1")
        try:
            hit = kill_in_the_middle(out, [f"p{n:02}" for n in range(22)], process)
            for attempt in (1, 2, 3):
                found = wait_for(lambda n=attempt: [p for a, p in begun(out, "deadly") if a == n], process)
                os.kill(found[0], signal.SIGKILL)
            _, err = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
        assert process.returncode == 1, err
        assert "Traceback" not in err
        found = table(out)
        failed = {name: row["reason"] for name, row in found.items() if row["status"] != "done"}
        assert set(failed) == {"deadly", "corrupt"}, failed
        assert err.splitlines()[-1] == f"cyclereg: error: 2 of 24 pairs failed; why is in {out / 'summary.md'}."
        assert found[hit]["attempts"] == "2"
        assert found["deadly"]["attempts"] == "3"
        assert found["deadly"]["reason"].startswith("Its worker died 3 times (on ")
        assert "corrupt.nrrd" in found["corrupt"]["reason"]
        pairs = {f"p{n:02}" for n in range(22)}
        assert {found[name]["attempts"] for name in pairs - {hit}} == {"1"}
        for name in pairs:
            check_whole(out, name)
        check_clean(out)

    def test_ctrl_c_in_a_terminal_reaches_all_processes_and_leaves_a_state_to_go_on_from(self, folder):
        pytest.importorskip("distributed", reason="Dask is not installed")
        write_manifest(folder / "m.csv", [*rows(4), long_row("long"), *rows(2, first=4)])
        out = folder / "out"
        process = start(folder, folder / "m.csv", "--output", out, "--workers", "2", "--threads", "1", group=True)
        try:
            wait_for(lambda: begun(out, "long"), process)
            os.killpg(process.pid, signal.SIGINT)
            _, err = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
        assert process.returncode == 130, err
        assert err.splitlines()[-1].startswith("cyclereg: error: Cancelled; ")
        assert "Traceback" not in err
        found = statuses(out)
        assert found["long"] == "skipped"
        complete = [name for name, status in found.items() if status == "done"]
        # The other worker may have been at any one of the four that were given out before.
        assert len({"p00", "p01", "p02", "p03"} & set(complete)) >= 3
        for name in complete:
            check_whole(out, name)
        check_clean(out)

    def test_a_pair_is_given_up_after_three_attempts_whatever_the_scheduler_allows(self, folder):
        """What dead workers left behind is what counts."""
        (spec,) = read_manifest(write_manifest(folder / "m.csv", rows(1)))
        job = pair.Job(str(folder / "out"), "abc123")
        job.folder.path.mkdir()
        job.folder.open([spec])
        for attempt in (1, 2, 3):
            job.folder.begin("p00", attempt)
        BatchFolder(job.output, "ffff").begin("p00")  # another run's does not count
        record = cluster.run_pair(spec, job, None, local=True).record
        assert (record.status, record.attempts) == ("failed", 3)
        assert json.loads((folder / "out/failed/p00.json").read_text())["reason"] == record.reason

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_pair_whose_worker_died_after_it_was_done_is_done(self, folder, monkeypatch, overwrite):
        """The scheduler, which heard nothing of it, gives it to another one."""
        (spec,) = read_manifest(write_manifest(folder / "m.csv", rows(1)))
        job = pair.Job(str(folder / "out"), "abc123", overwrite)
        job.folder.path.mkdir()
        job.folder.open([spec])
        worker = pair.Worker("first")
        worker.write(worker.compute(worker.read(spec, job), worker.begin(spec, job), job), job)
        monkeypatch.setattr(cluster, "_this_worker", lambda job, local: pair.Worker("second"))
        record = cluster.run_pair(spec, job, None, local=True).record
        assert (record.status, record.worker) == ("done", "first")
        check_clean(folder / "out")

    def test_a_worker_that_was_taken_for_dead_does_no_harm(self, folder):
        """Another one has finished its pair, and removed what it was about to write into."""
        (spec,) = read_manifest(write_manifest(folder / "m.csv", rows(1)))
        job = pair.Job(str(folder / "out"), "abc123")
        job.folder.path.mkdir()
        job.folder.open([spec])
        worker = pair.Worker("first")
        late = worker.compute(worker.read(spec, job), worker.begin(spec, job), job)
        other = pair.Worker("second")
        done = other.write(other.compute(other.read(spec, job), other.begin(spec, job, 2), job, 2), job)
        assert done.record.status == "done"
        outcome = worker.write(late, job)
        assert (outcome.record.status, outcome.record.worker, outcome.stop) == ("done", "second", "")
        assert os.listdir(folder / "out" / "failed") == []
        check_whole(folder / "out", "p00")


# ---------------------------------------------------------------------- the whole run ends


@POSIX
class TestRunsThatEnd:
    def test_killed_and_started_again(self, folder):
        write_manifest(folder / "m.csv", [*rows(3), long_row("long"), *rows(2, first=3)])
        out = folder / "out"
        process = start(folder, folder / "m.csv", "--output", out)
        try:
            wait_for(lambda: begun(out, "long") and (out / "pairs" / "p02" / "summary.json").exists(), process)
        finally:
            process.kill()
            process.communicate()
        assert sorted(os.listdir(out / "pairs")) == ["p00", "p01", "p02"]
        assert not (out / "results.csv").exists()
        times = {n: (out / "pairs" / n / "transform.h5").stat().st_mtime_ns for n in ("p00", "p01", "p02")}
        write_manifest(folder / "m.csv", [*rows(3), {**long_row("long"), "refine_steps": 2}, *rows(2, first=3)])
        assert command(folder) == 0
        kept = dict.fromkeys(times, "kept")
        assert statuses(out) == {**kept, "long": "done", "p03": "done", "p04": "done"}
        assert times == {n: (out / "pairs" / n / "transform.h5").stat().st_mtime_ns for n in times}
        for name in statuses(out):
            check_whole(out, name)
        check_clean(out)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_cancelled_and_started_again(self, folder, number):
        write_manifest(folder / "m.csv", [*rows(2), long_row("long"), *rows(1, first=2)])
        out = folder / "out"
        process = start(folder, folder / "m.csv", "--output", out)
        try:
            wait_for(lambda: begun(out, "long"), process)
            process.send_signal(number)
            process.send_signal(number)  # an impatient user
            _, err = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
        assert process.returncode == 130, err
        # The pair before may still have been in the writer's hands: what is computed is written.
        assert err.splitlines()[-1] == (
            "cyclereg: error: Cancelled; 2 of 4 pairs are complete. The same command goes on from there."
        )
        assert statuses(out) == {"p00": "done", "p01": "done", "long": "skipped", "p02": "skipped"}
        check_clean(out)
        write_manifest(folder / "m.csv", [*rows(2), {**long_row("long"), "refine_steps": 2}, *rows(1, first=2)])
        assert command(folder) == 0
        assert statuses(out) == {"p00": "kept", "p01": "kept", "long": "done", "p02": "done"}

    def test_a_run_that_dies_before_its_first_file(self, folder):
        """Only a staging folder and a lock are there; that is no foreign folder."""
        (folder / "out" / ".cyclereg-x").mkdir(parents=True)
        (folder / "out" / ".lock").touch()
        assert [record.status for record in run(folder, rows(1))] == ["done"]

    def test_pairs_that_a_run_died_with_come_last(self, folder):
        """So that one that brings every run down keeps no other from being done."""
        run(folder, rows(1, first=9))
        BatchFolder(folder / "out", "dead").begin("p00")
        assert [record.id for record in run(folder, rows(3))] == ["p01", "p02", "p00"]
        check_clean(folder / "out")

    def test_the_reader_of_the_progress_goes_away(self, folder):
        write_manifest(folder / "m.csv", [rows(1)[0], long_row("long")])
        process = start(folder, folder / "m.csv", "--output", folder / "out", "--progress", "json")
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["stage"] == "pairs"
            process.stdout.close()
            assert process.stderr is not None
            err = process.stderr.read()
            assert process.wait(SECONDS) == 130, err
        finally:
            process.kill()
        assert err.startswith("cyclereg: error: Nobody reads the progress any more")
        assert len(err.splitlines()) == 1
        check_clean(folder / "out")


class TestRunsThatAreLeft:
    def test_whoever_stops_asking_stops_the_batch(self, folder):
        """As in a notebook; what is computed is written, and results tell what was not reached."""
        records = CycleRegLib.run_batch(write_manifest(folder / "m.csv", rows(6)), folder / "out")
        assert next(records).id == "p00"
        records.close()
        found = statuses(folder / "out")
        assert found["p00"] == found["p01"] == "done"  # the second was computed before the first was given
        assert list(found.values())[-3:] == ["skipped"] * 3
        for name in (name for name, status in found.items() if status == "done"):
            check_whole(folder / "out", name)
        check_clean(folder / "out")
        assert {record.status for record in run(folder, rows(6))} == {"kept", "done"}

    @pytest.mark.parametrize(
        ("owner", "name", "when", "complete"),
        [
            (runner, "kept_record", "before", 0),
            (BatchFolder, "begin", "before", 1),
            (BatchFolder, "begin", "after", 1),
            (pair, "register", "before", 1),
            (pair, "register", "after", 1),
            (pair.Worker, "compute", "after", 1),
            (runner.BatchProgress, "add", "before", 3),  # the third is computed before the second is told
            (runner.BatchProgress, "add", "after", 3),
        ],
    )
    def test_ctrl_c_at_any_stage(self, folder, monkeypatch, owner, name, when, complete):
        """Wherever it comes in the second pair, what is computed is written, and no half of anything remains."""
        real, calls = getattr(owner, name), []

        def interrupted(*arguments: Any, **options: Any) -> Any:
            calls.append(1)
            if len(calls) == 2 and when == "before":
                raise KeyboardInterrupt
            found = real(*arguments, **options)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return found

        monkeypatch.setattr(owner, name, interrupted)
        with pytest.raises(Cancelled, match=f"Cancelled; {complete} of 4 pairs are complete"):
            run(folder, rows(4))
        check_clean(folder / "out")
        found = list(statuses(folder / "out").values())
        assert found == ["done"] * complete + ["skipped"] * (4 - complete)


# ---------------------------------------------------------------------- disks


class TestDisks:
    @POSIX
    def test_the_disk_is_full(self, folder, capfd):
        """A limit on the size of files stands for it: small files can still be written, transforms cannot."""
        import resource

        write_manifest(folder / "m.csv", rows(5))
        (folder / "m.csv").rename(folder / "all.csv")
        write_manifest(folder / "m.csv", rows(2))
        assert command(folder) == 0
        (folder / "all.csv").rename(folder / "m.csv")
        capfd.readouterr()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIDE**3 * 12, before[1]))
        try:
            assert command(folder) == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        said = capfd.readouterr().err
        assert len(said.splitlines()) == 1
        assert said.startswith(f"cyclereg: error: Nothing more can be written into {folder / 'out'} (File too large)")
        assert "2 of 5 pairs are complete. Make room and give the same command again" in said
        found = statuses(folder / "out")
        assert found["p02"] == "failed"
        assert "File too large" in table(folder / "out")["p02"]["reason"]
        assert found["p04"] == "skipped"
        check_clean(folder / "out")
        assert command(folder) == 0
        assert statuses(folder / "out") == {"p00": "kept", "p01": "kept", "p02": "done", "p03": "done", "p04": "done"}

    def test_not_even_a_reason_can_be_written(self, folder, monkeypatch, capfd):
        def full(*_: Any, **__: Any) -> Any:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(pair, "write_transform", full)
        monkeypatch.setattr(BatchFolder, "fail", full)
        monkeypatch.setattr("CycleRegLib.batch.runner.write_results", full)
        write_manifest(folder / "m.csv", rows(4))
        assert command(folder) == 2
        said = capfd.readouterr().err
        assert said.splitlines() == [
            f"cyclereg: error: Nothing more can be written into {folder / 'out'} (No space left on device); 0 of 4 "
            "pairs are complete. Make room and give the same command again: it goes on from there."
        ]

    def test_one_pair_that_cannot_be_written_where_others_can(self, folder, monkeypatch):
        """Somebody was in the way for a moment: recorded, and the rest goes on."""
        real, calls = pair.write_transform, []

        def refused(*arguments: Any) -> None:
            calls.append(arguments)
            if len(calls) == 3:
                raise PermissionError(errno.EACCES, "The file is open in another program", "transform.h5")
            real(*arguments)

        monkeypatch.setattr(pair, "write_transform", refused)
        records = run(folder, rows(3))
        assert [record.status for record in records] == ["done", "failed", "done"]
        assert records[1].reason == "The system refused. transform.h5: The file is open in another program."
        check_clean(folder / "out")

    def test_the_tables_cannot_be_written(self, folder, monkeypatch, capfd):
        def full(*_: Any) -> None:
            raise InputError("Writing the outputs failed: No space left on device. Nothing was changed.")

        monkeypatch.setattr("CycleRegLib.batch.runner.write_results", full)
        write_manifest(folder / "m.csv", rows(1))
        assert command(folder) == 2
        assert "No space left on device" in capfd.readouterr().err
        check_whole(folder / "out", "p00")


# ---------------------------------------------------------------------- pairs


class TestPairsThatFail:
    @pytest.mark.parametrize("column", ["fixed", "moving", "fixed_mask", "initial_transform", "fixed_landmarks"])
    def test_corrupt_files_among_good_ones(self, folder, column):
        bad = folder / ("bad.csv" if "landmarks" in column else "bad.nrrd")
        bad.write_bytes(b"\x00\x01 rubbish")
        content = rows(3)
        content[1][column] = bad.name
        if "landmarks" in column:
            content[1]["moving_landmarks"] = bad.name
        records = run(folder, content)
        assert [record.status for record in records] == ["done", "failed", "done"]
        assert bad.name in records[1].reason
        assert "\n" not in records[1].reason
        assert json.loads((folder / "out/failed/p01.json").read_text())["reason"] == records[1].reason
        check_clean(folder / "out")

    def test_an_input_that_disappears_or_changes(self, folder, monkeypatch):
        real = pair.read_inputs

        def meanwhile(arguments: Any) -> Any:
            found = real(arguments)
            if arguments.fixed.endswith("1.nrrd"):
                with open(arguments.fixed, "ab") as file:
                    file.write(b"more")
                (folder / "2.nrrd").unlink()
            return found

        monkeypatch.setattr(pair, "read_inputs", meanwhile)
        found = {record.id: record for record in run(folder, rows(3))}
        assert found["p00"].status == "done"
        assert "1.nrrd was changed while it was read" in found["p01"].reason
        assert "2.nrrd is not there any more" in found["p02"].reason

    def test_a_checkpoint_that_disappears(self, folder):
        """Pairs that need it fail with the reason; those that do not go on."""
        checkpoint_making.create(folder / "w.safetensors", "cyclemorph", both=True)
        network = {"method": "cyclemorph", "checkpoint": "w.safetensors", "precision": "float32"}
        content = [{**row, **network} for row in rows(4)] + rows(2, first=4)
        records = []
        for record in CycleRegLib.run_batch(write_manifest(folder / "m.csv", content), folder / "out"):
            records.append(record)
            (folder / "w.safetensors").unlink(missing_ok=True)
        assert [record.id for record in records] == [row["id"] for row in content]
        assert records[0].status == "done"
        assert {record.status for record in records[3:4]} == {"failed"}
        assert "w.safetensors is not there any more" in records[3].reason
        assert [record.status for record in records[4:]] == ["done", "done"]

    @pytest.mark.parametrize(
        "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory")]
    )
    def test_memory_runs_out_in_one_pair(self, folder, monkeypatch, error):
        real, calls = pair.register, []

        def hungry(*arguments: Any, **options: Any) -> Any:
            calls.append(1)
            if len(calls) == 2:
                raise error
            return real(*arguments, **options)

        monkeypatch.setattr(pair, "register", hungry)
        records = run(folder, rows(3))
        assert [record.status for record in records] == ["done", "failed", "done"]
        assert records[1].reason.startswith("Memory ran out.")

    def test_an_error_in_cyclereg_is_kept_with_its_trace(self, folder, monkeypatch):
        def broken(*_: Any, **__: Any) -> Any:
            raise IndexError("an index\nis wrong")

        monkeypatch.setattr(pair, "evaluate", broken)
        for side in ("fixed", "moving"):
            (folder / f"{side}.csv").write_text("a,30,30,30\n")
        content = rows(2)
        content[0].update({f"{side}_landmarks": f"{side}.csv" for side in ("fixed", "moving")})
        first, second = run(folder, content)
        assert first.reason.startswith("An error in CycleReg: IndexError: an index is wrong.")
        assert "in broken" in json.loads((folder / "out/failed/p00.json").read_text())["trace"]
        assert second.status == "done"

    def test_all_fail(self, folder, capfd):
        content = rows(2)
        for number in range(3):
            (folder / f"{number}.nrrd").write_bytes(b"rubbish")
        write_manifest(folder / "m.csv", content)
        assert command(folder) == 1
        assert "2 of 2 pairs failed" in capfd.readouterr().err
        assert (folder / "out" / "summary.md").read_text().count("| p0") == 2
