"""A job as a person sees it: while it runs, after its end, and from its report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

import mrcelery
from mrcelery.errors import JobFailedError
from mrcelery.jobstore import stage_marks
from mrcelery.jobstore.journal import Entry, Sums, begin
from mrcelery.jobstore.memory import MemoryJobStore
from mrcelery.reporting.overview import Overview, StageView, Straggler, glance, overview, shortened, warnings
from mrcelery.reporting.report import read_report
from mrcelery.schema.encoding import encode
from mrcelery.schema.structs import Failure
from mrcelery.schema.task_id import TaskId
from mrcelery.storage import open_storage

STEPS = msgspec.json.encode([("count", True), ("", False)]).decode()


def running_job(**fields: str) -> MemoryJobStore:
    store = MemoryJobStore()
    entered = repr(time.time() - 10)
    known = {"name": "word count", "created": "1000.0", "steps": STEPS, "queue": "q"}
    store.create("j", {**known, **fields}, b"")
    store.move("j", "running", {
        "step": "0", "stage": "map", "total.0.map": "4", "entered.0.map": entered, "started": entered,
    })  # fmt: skip
    return store


def test_nobody_knows_the_job() -> None:
    assert glance(MemoryJobStore(), "j") is None
    assert overview(MemoryJobStore(), "j") is None


def test_a_job_that_waits_shows_the_stages_to_come() -> None:
    store = MemoryJobStore()
    store.create("j", {"created": "1000.0", "steps": STEPS}, b"")
    found = glance(store, "j")
    assert found is not None
    assert found.state == "queued"
    assert [(s.step, s.kind, s.name, s.state, s.tasks) for s in found.stages] == [
        (0, "map", "count", "queued", 0), (0, "reduce", "count", "queued", 0), (1, "map", "", "queued", 0),
    ]  # fmt: skip


def test_a_stage_that_runs_tells_when_it_should_be_done() -> None:
    store = running_job()
    now = float(store.fields("j")["entered.0.map"]) + 10
    assert (stage := glance(store, "j", now).stages[0]).left == -1  # type: ignore[union-attr]
    assert (stage.state, stage.tasks, stage.succeeded) == ("running", 4, 0)
    store.add_commit(TaskId("j", 0, "map", 2), b"x", add={"0.map.records_in": 500, "0.map.succeeded": 1})
    stage = glance(store, "j", now).stages[0]  # type: ignore[union-attr]
    assert stage.left == pytest.approx(30)
    assert (stage.succeeded, stage.sums.records_in, stage.attempts) == (1, 500, ())


def test_running_attempts_are_told_slowest_first_and_stragglers_by_rate() -> None:
    store = running_job()
    now = time.time()
    for sample in range(3):
        store.set_mark("j", "rates.0.map", str(sample), "1000")
    for task, seconds, records in ((0, 30, 29_000), (1, 20, 100), (2, 2, 0)):
        stage_marks.report_running(
            store, TaskId("j", 0, "map", task), f"1-a{task}", began=now - seconds, records=records, worker="celery@h 7"
        )
    stage_marks.record_backup(store, TaskId("j", 0, "map", 1), now)
    found = glance(store, "j", now)
    assert found is not None
    assert [(one.task, one.slow, one.backed_up) for one in found.stages[0].running] == [
        (1, True, True), (0, False, False), (2, False, False),
    ]  # fmt: skip
    (warning,) = found.warnings
    assert warning.kind == "straggler"
    assert warning.text.startswith("step 0 map: task 1 on celery@h 7 takes 5 records a second; a backup runs")


def test_what_still_seemed_to_run_when_the_job_ended_is_lost() -> None:
    store = running_job()
    begin(store, TaskId("j", 0, "map", 0), "aa", "celery@h 7")
    before = overview(store, "j")
    assert before is not None
    assert [one.outcome for one in before.stages[0].attempts] == ["running"]
    store.move("j", "cancelled", {"finished": repr(time.time())})
    after = overview(store, "j")
    assert after is not None
    assert [one.outcome for one in after.stages[0].attempts] == ["lost"]
    assert [stage.state for stage in after.stages] == ["cancelled", "cancelled", "cancelled"]
    assert after.stages[0].ended == after.finished


@pytest.mark.parametrize(
    ("kind", "states"),
    [("map", ["failed", "cancelled", "cancelled"]), ("barrier", ["cancelled", "cancelled", "cancelled"])],
)
def test_the_stage_in_which_a_job_failed_is_the_one_that_failed(kind: Any, states: list[str]) -> None:
    store = running_job()
    failure = Failure(error="TaskError", message="m", job="j", step=0, kind=kind, task=1, attempt="1-aa", exit_code=1)
    store.move("j", "failed", {"failure": encode(failure).decode(), "finished": repr(time.time())})
    found = glance(store, "j")
    assert found is not None
    assert [stage.state for stage in found.stages] == states


def test_stages_that_a_redis_forgot_count_as_done() -> None:
    store = running_job()
    store.update("j", {"step": "1", "stage": "map", "total.0.reduce": "2", "total.1.map": "2"})
    found = glance(store, "j")
    assert found is not None
    assert [(s.state, s.succeeded, s.tasks) for s in found.stages] == [
        ("succeeded", 4, 4),
        ("succeeded", 2, 2),
        ("running", 0, 2),
    ]


def test_of_too_many_attempts_the_quick_and_good_are_left_out() -> None:
    many = [Entry(n, "1-a", "succeeded", "w", float(n), seconds=float(n % 7)) for n in range(100)]
    many[50] = Entry(50, "1-a", "failed", "w", 50.0, seconds=0.0)
    kept, left_out = shortened(many, 10)
    assert left_out == 90
    assert many[50] in kept
    assert all(one.seconds == 6 for one in kept if one.task != 50)
    assert [one.began for one in kept] == sorted(one.began for one in kept)
    assert shortened(many, 100) == (tuple(many), 0)


def test_each_warning_has_its_cause() -> None:
    quiet = Straggler(
        task=5, attempt="aa", worker="w 1", seconds=60, records=0, rate=0, quiet=44, slow=False, backed_up=False
    )
    skew = {"partitions": 8, "largest to mean, percent": 512}
    sums = Sums(failed=1, killed=2, lost=3, bad_records=4)
    stage = StageView(step=0, kind="map", state="running", sums=sums, skew=skew, running=(quiet,))
    found = warnings(Overview(job="j", state="running", now=0.0, stages=(stage,)))
    assert {one.kind: one.text for one in found} == {
        "retries": "step 0 map: 1 attempt failed",
        "lost": "step 0 map: 5 attempts lost with a process or worker",
        "bad_records": "step 0 map: 4 bad records skipped",
        "skew": "step 0 map: the largest of 8 partitions has 5.1 times the mean of records",
        "silent": "step 0 map: task 5 on w 1 has been silent for 44 s",
    }
    calm = StageView(step=0, kind="map", state="running", skew={"partitions": 8, "largest to mean, percent": 150})
    assert warnings(Overview(job="j", state="running", now=0.0, stages=(calm,))) == []


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Runs a job with this mapper on the inline runner, and returns its handle."""

    def run(mapper: str) -> mrcelery.JobHandle:
        (tmp_path / "job.py").write_text(
            "from mrcelery import MRJob, ops\nclass Job(MRJob):\n    reducer = ops.Sum()\n"
            f"    def mapper(self, _, line):\n        {mapper}\n"
        )
        (tmp_path / "in.txt").write_text("a\nb\n" * 100)
        return mrcelery.submit(
            f"{tmp_path}/job.py", f"{tmp_path}/in.txt", runner="inline", storage=f"{tmp_path}/storage", split_size=100,
            output=f"{tmp_path}/out",
        )  # fmt: skip

    return run


def test_the_report_of_a_job_tells_what_its_page_told(run: Any, tmp_path: Path) -> None:
    handle = run("yield line, 1")
    handle.wait()
    report = read_report(open_storage(f"{tmp_path}/storage"), handle.id)
    assert report is not None
    told = report.overview
    assert told is not None
    assert told.state == report.state == "succeeded"
    assert [(s.kind, s.state, s.succeeded, s.tasks, len(s.attempts)) for s in told.stages] == [
        ("map", "succeeded", 4, 4, 4), ("reduce", "succeeded", 1, 1, 1),
    ]  # fmt: skip
    assert told.stages[0].sums.records_in == sum(one.records_in for one in told.stages[0].attempts) == 200
    assert report.totals.records_in == 200
    # _SUCCESS, next to the results, is for other programs and has no history in it.
    assert b"attempts" not in (tmp_path / "out" / "_SUCCESS").read_bytes()


def test_a_job_that_fails_leaves_a_report_that_says_why(run: Any, tmp_path: Path) -> None:
    handle = run("yield line, 1 // (line == 'a')")
    with pytest.raises(JobFailedError, match="ZeroDivisionError"):
        handle.wait()
    report = read_report(open_storage(f"{tmp_path}/storage"), handle.id)
    assert report is not None
    assert report.state == "failed"
    told = report.overview
    assert told is not None
    assert told.failure is not None
    assert "ZeroDivisionError" in told.failure.message
    (failed,) = [one for one in told.stages[0].attempts if one.outcome == "failed"]
    assert "ZeroDivisionError" in failed.error
    assert msgspec.json.decode(encode(told), type=Overview) == told
    # Someone who has only the storage sees the same.
    later = mrcelery.attach(handle.id, storage=f"{tmp_path}/storage", broker="", runner="inline")
    assert later.status().state == "failed"
    assert later.overview() == told
    with pytest.raises(JobFailedError, match="ZeroDivisionError"):
        later.wait()
