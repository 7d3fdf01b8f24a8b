"""Commits, blobs, notes and sums of every job store."""

from __future__ import annotations

import os

import pytest

from mrcelery.jobstore.base import JobStore
from mrcelery.schema.structs import Kind
from mrcelery.schema.task_id import StageId, TaskId
from tests.support.jobstores import FIELDS, Open, race


def test_notes_and_sums_come_with_what_they_tell_of(store: JobStore, job: str) -> None:
    assert store.sums(job) == {}
    store.next_attempt(TaskId(job, 0, "map", 3), note=("attempts.0.map", "3.a", "began"), add={"0.map.started": 1})
    store.next_attempt(TaskId(job, 0, "map", 3), note=("attempts.0.map", "3.b", "began"), add={"0.map.started": 1})
    assert store.marks(job, "attempts.0.map") == {"3.a": "began", "3.b": "began"}
    store.set_mark(job, "attempts.0.map", "3.a", "failed", add={"0.map.failed": 1})
    assert store.sums(job) == {"0.map.started": 2, "0.map.failed": 1}
    store.drop(job)
    assert store.sums(job) == {}


def test_totals_outlive_their_jobs(store: JobStore, job: str) -> None:
    assert store.totals() == {"jobs.submitted": 1}
    store.move(job, "running")
    store.next_attempt(TaskId(job, 0, "map", 3), note=("attempts.0.map", "3.a", "began"), add={"0.map.started": 1})
    store.next_attempt(TaskId(job, 1, "map", 3), note=("attempts.1.map", "3.b", "began"), add={"1.map.started": 1})
    store.set_mark(job, "attempts.0.map", "3.a", "failed", add={"0.map.failed": 1})
    for task, milliseconds in enumerate((1, 100, 101, 2_000_000)):
        for _ in range(2):  # the second time it has been counted
            store.add_commit(
                TaskId(job, 0, "map", task), b"x", add={"0.map.succeeded": 1, "0.map.milliseconds": milliseconds}
            )
    assert store.move(job, "failed")
    assert not store.move(job, "cancelled")
    store.drop(job)
    assert store.totals() == {
        "jobs.submitted": 1,
        "jobs.failed": 1,
        "map.started": 2,
        "map.failed": 1,
        "map.succeeded": 4,
        "map.milliseconds": 2_000_202,
        "map.within.100": 2,
        "map.within.500": 1,
        "map.within.more": 1,
    }


def test_a_commit_is_summed_once_however_often_it_is_told(connect: Open) -> None:
    connect().create("job-1", FIELDS, b"")

    def commit(store: JobStore, number: int) -> None:
        note = ("attempts.0.map", f"3.{number}", "succeeded")
        store.add_commit(
            TaskId("job-1", 0, "map", 3), b"%d" % number, note=note, add={"records": 1000 + number, "succeeded": 1}
        )

    race(connect, 8, commit)
    commit(connect(), 9)
    store = connect()
    winner = int(store.commits(StageId("job-1", 0, "map"))[3])
    assert store.sums("job-1") == {"records": 1000 + winner, "succeeded": 1}
    assert store.marks("job-1", "attempts.0.map") == {f"3.{winner}": "succeeded"}


def test_the_journal_of_a_job_outlives_its_retry(store: JobStore, job: str) -> None:
    store.set_mark(job, "attempts.0.map", "3.a", "failed")
    store.set_mark(job, "running.0.map", "3.a", "1 2 3 worker")
    store.move(job, "failed")
    assert store.revive(job)
    assert store.marks(job, "attempts.0.map") == {"3.a": "failed"}
    assert store.marks(job, "running.0.map") == {}


def test_the_first_commit_of_a_task_stays(store: JobStore, job: str) -> None:
    store.add_commit(TaskId(job, 0, "map", 3), b"first")
    store.add_commit(TaskId(job, 0, "map", 3), b"second")
    store.add_commit(TaskId(job, 0, "map", 10), b"\x00\xff")
    assert store.commits(StageId(job, 0, "map")) == {3: b"first", 10: b"\x00\xff"}
    assert store.done(StageId(job, 0, "map")) == 2
    assert store.commits(StageId(job, 0, "reduce")) == store.commits(StageId(job, 1, "map")) == {}
    assert store.done(StageId(job, 0, "reduce")) == 0


def test_a_large_commit_counts_and_is_given_whole_or_not_at_all(store: JobStore, job: str) -> None:
    large = os.urandom(50_000)
    store.add_commit(TaskId(job, 0, "map", 0), large)
    store.add_commit(TaskId(job, 0, "map", 1), b"small")
    assert store.done(StageId(job, 0, "map")) == 2
    found = store.commits(StageId(job, 0, "map"))
    assert found.pop(0, large) == large
    assert found == {1: b"small"}


def test_thousands_of_commits(store: JobStore, job: str) -> None:
    for task in range(2500):
        store.add_commit(TaskId(job, 0, "map", task), b"%d" % task)
    assert store.done(StageId(job, 0, "map")) == 2500
    assert store.commits(StageId(job, 0, "map")) == {task: b"%d" % task for task in range(2500)}


def test_a_stage_that_is_forgotten(store: JobStore, job: str) -> None:
    stages: list[tuple[int, Kind]] = [(0, "map"), (0, "reduce"), (1, "map"), (10, "map")]
    for step, kind in stages:
        store.add_commit(TaskId(job, step, kind, 0), b"x")
    store.forget_stage(StageId(job, 0, "map"))
    assert store.commits(StageId(job, 0, "map")) == {}
    assert store.done(StageId(job, 0, "map")) == 0
    assert [store.done(StageId(job, *stage)) for stage in ((0, "reduce"), (1, "map"), (10, "map"))] == [1, 1, 1]


@pytest.mark.parametrize("size", [0, 1, 1 << 20])
def test_blobs(store: JobStore, job: str, size: int) -> None:
    data = os.urandom(size)
    store.put_blob(job, "code.zip", data)
    assert store.get_blob(job, "code.zip") == data
    assert store.get_blob(job, "code") is None
    store.put_blob(job, "code.zip", b"new")
    assert store.get_blob(job, "code.zip") == b"new"


def test_blobs_that_are_dropped(store: JobStore, job: str) -> None:
    for name in ("code", "input", "results"):
        store.put_blob(job, name, b"data")
    store.drop_blobs(job, [])
    store.drop_blobs(job, ["code", "input", "none"])
    assert [store.get_blob(job, name) for name in ("code", "input", "results")] == [None, None, b"data"]


def test_a_blob_may_be_there_before_its_job(store: JobStore) -> None:
    store.put_blob("later", "code.zip", b"x")
    assert store.state("later") == ""
    assert store.create("later", FIELDS, b"")
    assert store.get_blob("later", "code.zip") == b"x"
