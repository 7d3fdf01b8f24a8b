"""The journal of attempts: what each way to end leaves in it, and that the sums agree with it."""

from __future__ import annotations

import time

from mrcelery.jobstore import journal, stage_marks
from mrcelery.jobstore.journal import Entry, Sums, begin, ended, entries, killed, of_process, sums_of
from mrcelery.jobstore.memory import MemoryJobStore
from mrcelery.schema.encoding import encode
from mrcelery.schema.structs import Commit
from mrcelery.schema.task_id import StageId, TaskId

HERE = of_process("celery@here", 17)


def store_with_job() -> MemoryJobStore:
    store = MemoryJobStore()
    store.create("j", {"created": "1"}, b"")
    return store


def sums(store: MemoryJobStore) -> Sums:
    return sums_of(store.sums("j"), StageId("j", 0, "map"))


def commit(task: int, attempt: str) -> Commit:
    return Commit(
        job="j", step=0, kind="map", task=task, attempt=attempt, parts=(), counters={}, records_in=5, records_out=7,
        bytes_in=11, bytes_out=13, seconds=2.5, host="here", began=1000.0, worker=HERE,
    )  # fmt: skip


def remember(store: MemoryJobStore, made: Commit) -> None:
    note, add = journal.committed(made)
    store.add_commit(TaskId("j", 0, "map", made.task), encode(made), note=note, add=add)


def test_an_attempt_that_commits_takes_the_place_of_its_beginning() -> None:
    store = store_with_job()
    assert begin(store, TaskId("j", 0, "map", 3), "aa", HERE) == 1
    (entry,) = entries(store, StageId("j", 0, "map"))
    assert (entry.task, entry.outcome, entry.worker) == (3, "running", HERE)
    assert sums(store).running == 1
    remember(store, commit(3, "1-aa"))
    remember(store, commit(3, "1-aa"))  # delivered again
    assert entries(store, StageId("j", 0, "map")) == [Entry(3, "1-aa", "succeeded", HERE, 1000.0, 2.5, 5, 7, 11, 13)]
    assert sums(store) == Sums(
        started=1, succeeded=1, records_in=5, records_out=7, bytes_in=11, bytes_out=13, milliseconds=2500
    )
    assert sums(store).running == 0


def test_an_attempt_that_fails_tells_the_first_line_of_why() -> None:
    store = store_with_job()
    begin(store, TaskId("j", 0, "map", 3), "aa", HERE)
    ended(store, TaskId("j", 0, "map", 3), "1-aa", "failed", worker=HERE, seconds=1.25, error="x" * 400 + "\nmore")
    (entry,) = entries(store, StageId("j", 0, "map"))
    assert entry.outcome == "failed"
    assert entry.error == "x" * 297 + "..."
    assert entry.seconds == 1.25
    assert (sums(store).failed, sums(store).running) == (1, 0)


def test_a_process_that_dies_ends_its_own_attempt_alone() -> None:
    store = store_with_job()
    begin(store, TaskId("j", 0, "map", 3), "aa", HERE)
    begin(store, TaskId("j", 0, "map", 33), "bb", of_process("celery@here", 18))
    killed(store, TaskId("j", 0, "map", 3), HERE, "its process ended by signal 9 (SIGKILL)")
    told = {entry.task: entry for entry in entries(store, StageId("j", 0, "map"))}
    assert (told[3].outcome, told[33].outcome) == ("killed", "running")
    assert "SIGKILL" in told[3].error
    assert (sums(store).killed, sums(store).running) == (1, 1)


def test_an_attempt_that_nobody_hears_of_is_lost_when_the_next_begins() -> None:
    store = store_with_job()
    begin(store, TaskId("j", 0, "map", 3), "aa", HERE)
    store.set_mark("j", "attempts.0.map", "3.aa", _aged(store, "3.aa"))
    assert begin(store, TaskId("j", 0, "map", 3), "bb", HERE) == 2
    assert [entry.outcome for entry in entries(store, StageId("j", 0, "map"))] == ["lost", "running"]
    assert (sums(store).lost, sums(store).running) == (1, 1)


def test_an_attempt_that_tells_of_itself_is_not_lost_for_its_backup() -> None:
    store = store_with_job()
    begin(store, TaskId("j", 0, "map", 3), "aa", HERE)
    store.set_mark("j", "attempts.0.map", "3.aa", _aged(store, "3.aa"))
    stage_marks.report_running(store, TaskId("j", 0, "map", 3), "1-aa", began=time.time() - 60, records=10, worker=HERE)
    begin(store, TaskId("j", 0, "map", 3), "bb", "celery@there 4")
    assert [entry.outcome for entry in entries(store, StageId("j", 0, "map"))] == ["running", "running"]


def _aged(store: MemoryJobStore, name: str) -> str:
    """An entry's text as if it had been written a minute ago."""
    import msgspec

    entry = msgspec.json.decode(store.marks("j", "attempts.0.map")[name], type=Entry)
    return msgspec.json.encode(msgspec.structs.replace(entry, began=entry.began - 60)).decode()
