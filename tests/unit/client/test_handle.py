"""JobHandle over a job store whose state the test sets."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from mrcelery.client.api import JobHandle, StageStatus
from mrcelery.client.handle import Delivery
from mrcelery.errors import (
    JobCancelledError,
    JobFailedError,
    UsageError,
    WaitTimeoutError,
)
from mrcelery.jobstore.memory import MemoryJobStore
from mrcelery.reporting.report import Report
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import encode
from mrcelery.schema.structs import Commit, Failure, StageSummary, Totals
from mrcelery.schema.task_id import StageId, TaskId
from mrcelery.storage import open_storage

pytestmark = pytest.mark.usefixtures("alone")


class Known:
    """A runner over a job store that a test fills: no tasks run."""

    patience = 0.0

    def __init__(self, storage: str) -> None:
        self.store = MemoryJobStore()
        self.storage = storage
        self.closed = 0
        self.store.create("job-1", {"name": "Job", "storage": storage, "created": "5.0"}, b"")

    def submit(self, *args: object) -> None:
        raise NotImplementedError

    def start(self, job: str, queue: str, run: int = 0) -> None:
        pass

    def restore_if_lost(self, job: str, fields: dict[str, str]) -> bool:
        return False

    def check(self) -> None:
        pass

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def known(request: pytest.FixtureRequest) -> Known:
    return Known(f"memory://api-{request.node.name}")


def commit(task: int, **counters: int) -> bytes:
    return encode(
        Commit(
            job="job-1",
            step=0,
            kind="map",
            task=task,
            attempt="1",
            parts=(),
            counters={"g": counters},
            records_in=0,
            records_out=0,
            bytes_in=0,
            bytes_out=0,
            seconds=0.0,
            host="",
        )
    )


def test_progress_and_counters_of_a_running_job(known: Known) -> None:
    job = JobHandle("job-1", known)
    assert (job.status().state, job.status().stages, job.counters()) == ("queued", (), {})
    fields = {"step": "0", "stage": "map", "total.0.map": "3", "started": "6.0", "status": "at line 7"}
    known.store.move("job-1", "running", fields)
    known.store.add_commit(TaskId("job-1", 0, "map", 2), commit(2, n=2, other=1))
    known.store.add_commit(TaskId("job-1", 0, "map", 0), commit(0, n=5))
    status = job.status()
    assert status.stages == (StageStatus(0, "map", 2, 3),)
    assert (status.started, status.message, status.storage) == (6.0, "at line 7", known.storage)
    assert job.counters() == {"g": {"n": 7, "other": 1}}

    summary = encode(StageSummary(counters={"g": {"n": 9}}, totals=Totals())).decode()
    known.store.move("job-1", "running", {"stage": "reduce", "total.0.reduce": "2", "summary.0.map": summary})
    known.store.forget_stage(StageId("job-1", 0, "map"))
    assert job.status().stages == (StageStatus(0, "map", 3, 3), StageStatus(0, "reduce", 0, 2))
    assert job.counters() == {"g": {"n": 9}}


def test_waiting(known: Known) -> None:
    job = JobHandle("job-1", known)
    seen: list[Any] = []
    with pytest.raises(WaitTimeoutError, match="still queued"):
        job.wait(0.03, seen.append)
    assert seen[0].state == "queued"
    with pytest.raises(UsageError, match="is queued: wait"):
        job.results()
    assert job.cancel()
    assert not job.cancel()
    with pytest.raises(JobCancelledError):
        job.wait()


def test_a_short_job_is_seen_to_end_soon_and_a_long_one_costs_little(
    known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of the test's own."""
    now, pauses = [0.0], []

    def sleep(seconds: float) -> None:
        pauses.append((now[0], seconds))
        now[0] += seconds

    monkeypatch.setattr("mrcelery.client.handle.time.monotonic", lambda: now[0])
    monkeypatch.setattr("mrcelery.client.handle.time.sleep", sleep)
    with pytest.raises(WaitTimeoutError):
        JobHandle("job-1", known).wait(60.0)
    assert all(pause <= max(0.005, began / 50) + 1e-9 for began, pause in pauses)
    assert max(pause for _, pause in pauses) == 0.2
    assert len(pauses) < 700


def test_a_wait_sees_the_cluster_die(known: Known) -> None:
    def check() -> None:
        raise RuntimeError("died")

    known.check = check  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="died"):
        JobHandle("job-1", known).wait(60)


def test_a_failure_keeps_its_exit_code(known: Known) -> None:
    failure = Failure(error="StorageUnreachableError", message="gone", exit_code=3)
    known.store.move("job-1", "failed", {"failure": encode(failure).decode()})
    with pytest.raises(JobFailedError) as caught:
        JobHandle("job-1", known).wait()
    assert (caught.value.exit_code, str(caught.value)) == (3, "gone")


def test_success_brings_the_output_home(known: Known, tmp_path: Path) -> None:
    storage = open_storage(known.storage)
    report = Report(
        job="job-1",
        name="Job",
        state="succeeded",
        counters={},
        totals=Totals(),
        started=1.0,
        finished=time.time(),
        seconds=1.0,
        output="",
        parts=("part-00000",),
    )
    storage.write(object_keys.output("job-1") + "part-00000", b'"a"\t1\n')
    storage.write(object_keys.report("job-1"), encode(report))
    known.store.move("job-1", "succeeded")
    job = JobHandle("job-1", known, delivery=Delivery(folder=str(tmp_path / "home")))
    assert job.wait().state == "succeeded"
    assert (tmp_path / "home" / "part-00000").read_bytes() == b'"a"\t1\n'
    assert (tmp_path / "home" / "_SUCCESS").read_bytes() == encode(report)

    known.store.put_blob("job-1", "results", b'"small"\t2\n')
    assert list(JobHandle("job-1", known).output_lines()) == [b'"small"\t2']


def test_a_handle_closes_its_runner_once(known: Known) -> None:
    with JobHandle("job-1", known) as job:
        job.close()
    assert known.closed == 1
    job = JobHandle("job-1", known)
    del job
    assert known.closed == 2
