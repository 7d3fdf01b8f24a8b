"""One suite for every job store: in memory, and in a real Redis over TCP and over a unix socket."""

from __future__ import annotations

import time
from typing import Any

import pytest

from mrcelery.jobstore.base import JobStore
from mrcelery.jobstore.redis import JOBS, LIVE, RedisJobStore
from mrcelery.schema.states import FINAL, STATES, State
from mrcelery.schema.task_id import StageId, TaskId
from tests.support.jobstores import FIELDS, Open, race
from tests.support.services import RedisServer


def test_a_job_is_entered_once(store: JobStore, job: str) -> None:
    assert store.state(job) == "queued"
    assert store.fields(job) == {**FIELDS, "state": "queued"}
    assert store.request(job) == b"request"
    assert not store.create(job, {**FIELDS, "name": "other"}, b"other")
    assert store.fields(job)["name"] == "word count"
    assert store.request(job) == b"request"


def test_bad_records_are_summed_over_tasks_not_over_deliveries(store: JobStore, job: str) -> None:
    assert store.note_bad(TaskId(job, 0, "map", 3), 5) == 5
    assert store.note_bad(TaskId(job, 0, "map", 3), 5) == 5
    assert store.note_bad(TaskId(job, 0, "reduce", 3), 2) == 7
    assert store.note_bad(TaskId(job, 1, "map", 3), 1) == 8
    assert store.note_bad(TaskId("other", 1, "map", 3), 1) == 1
    store.drop(job)
    assert store.note_bad(TaskId(job, 0, "map", 0), 1) == 1


def test_of_many_that_enter_one_job_one_does(connect: Open) -> None:
    won = race(connect, 12, lambda store, n: store.create("same", {**FIELDS, "name": str(n)}, b"%d" % n))
    assert sorted(won) == [False] * 11 + [True]
    winner = won.index(True)
    assert connect().fields("same")["name"] == str(winner)
    assert connect().request("same") == b"%d" % winner


def test_an_unknown_job(store: JobStore) -> None:
    assert store.request("no") is None
    assert store.fields("no") == {}
    assert store.state("no") == ""
    assert not store.move("no", "running", {"x": "y"})
    store.update("no", {"x": "y"})
    assert store.fields("no") == {}
    assert store.commits(StageId("no", 0, "map")) == {}
    assert store.done(StageId("no", 0, "map")) == 0
    assert store.get_blob("no", "x") is None
    store.forget_stage(StageId("no", 0, "map"))
    store.drop("no")
    assert store.jobs() == []


def test_update_sets_fields_and_leaves_the_state(store: JobStore, job: str) -> None:
    store.update(job, {"status": "half-way\nthrough", "total.0.map": "7"})
    fields = store.fields(job)
    assert fields == {**FIELDS, "state": "queued", "status": "half-way\nthrough", "total.0.map": "7"}


def test_moves(store: JobStore, job: str) -> None:
    assert store.move(job, "running", {"started": "1"})
    assert store.move(job, "running")
    assert store.fields(job)["started"] == "1"
    assert store.move(job, "failed", {"failure": "{}"})
    assert store.state(job) == "failed"
    for state in ("running", "succeeded", "failed", "cancelled"):
        assert not store.move(job, state, {"failure": "other"})
    assert store.fields(job)["failure"] == "{}"
    assert store.state(job) == "failed"


def test_of_many_that_end_a_job_one_does(connect: Open) -> None:
    store = connect()
    for number in range(5):
        job = f"race-{number}"
        store.create(job, FIELDS, b"")
        states = sorted(state for state in STATES if state in FINAL)
        won = race(connect, 12, lambda one, n: one.move(job, states[n % 3], {"by": str(n)}))  # noqa: B023
        assert sorted(won) == [False] * 11 + [True]
        winner = won.index(True)
        assert store.fields(job)["by"] == str(winner)
        assert store.state(job) == states[winner % 3]


def test_a_change_of_an_earlier_generation_is_refused(store: JobStore, job: str) -> None:
    assert store.move(job, "failed", generation=0)
    assert store.revive(job)
    for state in ("running", "failed", "cancelled", "succeeded"):
        assert not store.move(job, state, {"by": "earlier"}, generation=0)
    assert store.fields(job) == {**FIELDS, "state": "queued", "revived": "1"}
    assert store.live() == [job]
    assert store.move(job, "running", generation=1)
    assert store.move(job, "failed", {"revived": "3"}, generation=3)  # of a store that had forgotten two of them


def test_the_jobs_that_have_not_ended(store: JobStore) -> None:
    for number, state in enumerate(STATES):
        store.create(state, {**FIELDS, "created": repr(1000.0 + number)}, b"")
        if state != "queued":
            assert store.move(state, state)
    assert store.live() == ["queued", "running"]
    store.drop("running")
    assert store.live() == ["queued"]


@pytest.mark.parametrize("ended", ["failed", "cancelled"])
def test_a_job_is_revived_with_its_commits_and_without_its_failure(connect: Open, ended: Any) -> None:
    store = connect()
    store.create("job-1", FIELDS, b"request")
    work = {"total.0.map": "7", "step": "0", "stage": "map", "summary.0.map": "{}"}
    store.move("job-1", "running", {**work, "published.0.map": "1.0", "started": "1"})
    store.next_attempt(TaskId("job-1", 0, "map", 3))
    store.add_commit(TaskId("job-1", 0, "map", 1), b"commit")
    store.set_mark("job-1", "repairs.0.map", "3", "1 2.0")
    assert not store.revive("job-1")
    store.note_bad(TaskId("job-1", 0, "map", 1), 5)
    store.move("job-1", ended, {"failure": "{}", "finished": "2"})
    assert store.live() == []
    if ended == "cancelled":
        assert store.stopping() == ["job-1"]
        assert not store.revive("job-1")  # before its data is gone
        store.update("job-1", {"cleaned": "3"})
    assert store.stopping() == []
    assert sorted(race(connect, 8, lambda one, _: one.revive("job-1"))) == [False] * 7 + [True]
    kept = {"total.0.map": "7", "step": "0", "stage": "map", "summary.0.map": "{}"} if ended == "failed" else {}
    assert store.fields("job-1") == {**FIELDS, "state": "queued", "started": "1", "revived": "1", **kept}
    assert store.note_bad(TaskId("job-1", 0, "map", 2), 1) == (6 if ended == "failed" else 1)
    assert store.live() == ["job-1"]
    assert store.request("job-1") == b"request"
    assert store.commits(StageId("job-1", 0, "map")) == {1: b"commit"}
    assert store.next_attempt(TaskId("job-1", 0, "map", 3)) == 1
    assert store.marks("job-1", "repairs.0.map") == {}
    assert store.move("job-1", "succeeded")
    assert not store.revive("job-1")
    assert not store.revive("no")


def test_a_retry_names_its_generation(store: JobStore) -> None:
    store.create("job-1", FIELDS, b"request")
    store.move("job-1", "failed", {"failure": "{}"})
    assert not store.revive("job-1", 2)
    assert store.revive("job-1", 1)
    store.move("job-1", "failed", {"failure": "{}"})
    assert not store.revive("job-1", 1)
    assert store.revive("job-1", 2)
    assert store.fields("job-1")["revived"] == "2"


@pytest.mark.parametrize("state", ["running", "failed", "cancelled"])
def test_a_generation_that_was_forgotten(state: State, store: JobStore) -> None:
    store.create("job-1", FIELDS, b"request")
    store.move("job-1", state, {"finished": "1", "started": "1", "step": "0", "published.0.map": "1"})
    store.next_attempt(TaskId("job-1", 0, "map", 3), add={"0.map.started": 1})
    assert store.advance("job-1", 2)
    fields = store.fields("job-1")
    assert (fields["state"], fields["revived"], fields["started"]) == ("queued", "2", "1")
    assert not {"finished", "step", "published.0.map"} & fields.keys()
    assert store.sums("job-1") == {}
    assert store.next_attempt(TaskId("job-1", 0, "map", 3)) == 1
    assert not store.advance("job-1", 2)
    assert not store.advance("no", 2)
    assert store.live() == ["job-1"]


def test_what_an_attempt_asks_as_it_runs(store: JobStore, job: str) -> None:
    assert store.poll(TaskId("no", 0, "map", 0)) == ("", False, False)
    assert store.poll(TaskId(job, 0, "map", 3)) == ("queued", False, False)
    store.move(job, "running")
    store.add_commit(TaskId(job, 0, "map", 3), b"")
    assert store.poll(TaskId(job, 0, "map", 3)) == ("running", True, False)
    assert store.poll(TaskId(job, 0, "map", 4)) == store.poll(TaskId(job, 0, "reduce", 3)) == ("running", False, False)


def test_a_commit_that_is_only_known_to_be_there(store: JobStore, job: str) -> None:
    store.add_commit(TaskId(job, 0, "map", 0), b"")
    store.add_commit(TaskId(job, 0, "map", 12), b"commit")
    assert store.done_tasks(StageId(job, 0, "map")) == {0, 12}
    assert store.done_tasks(StageId(job, 0, "reduce")) == set()
    assert store.commits(StageId(job, 0, "map")) == {12: b"commit"}
    assert store.done(StageId(job, 0, "map")) == 2


def test_marks(store: JobStore, job: str) -> None:
    assert store.marks(job, "running.0.map") == {}
    store.set_mark(job, "running.0.map", "7.1-a", "1.5 2.5 10 celery@höst")
    store.set_mark(job, "running.0.map", "8.1-b", "x")
    store.set_mark(job, "running.0.map", "8.1-b", "y")
    store.set_mark(job, "running.1.map", "7.1-a", "other")
    assert store.marks(job, "running.0.map") == {"7.1-a": "1.5 2.5 10 celery@höst", "8.1-b": "y"}
    store.drop_mark(job, "running.0.map", "8.1-b")
    store.drop_mark(job, "running.0.map", "none")
    assert store.marks(job, "running.0.map") == {"7.1-a": "1.5 2.5 10 celery@höst"}
    store.drop(job)
    assert store.marks(job, "running.0.map") == store.marks(job, "running.1.map") == {}


def test_what_a_look_at_a_job_takes(store: JobStore, job: str) -> None:
    assert store.head("no") == ({}, {})
    store.set_mark(job, "a.0.map", "7", "x", add={"0.map.succeeded": 2})
    store.set_mark(job, "b.0.map", "8", "y")
    assert store.head(job) == (store.fields(job), {"0.map.succeeded": 2})
    store.add_commit(TaskId(job, 0, "map", 3), b"")
    assert store.done_and_marks(StageId(job, 0, "map"), ["a.0.map", "b.0.map", "c"]) == (
        1,
        [{"7": "x"}, {"8": "y"}, {}],
    )
    assert store.done_and_marks(StageId(job, 1, "map"), []) == (0, [])


def test_someone_follows_a_job_for_a_while(store: JobStore, job: str) -> None:
    store.follow(job, 60.0)
    assert store.poll(TaskId(job, 0, "map", 0)) == ("queued", False, True)
    assert store.poll(TaskId("another", 0, "map", 0)) == ("", False, False)
    store.follow(job, 0.05)
    deadline = time.monotonic() + 30
    while store.poll(TaskId(job, 0, "map", 0))[2]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_at_a_time_holds_a_job(connect: Open) -> None:
    connect().create("job-1", FIELDS, b"")
    held = race(connect, 8, lambda store, n: store.hold("job-1", f"worker-{n}", 60.0))
    assert sorted(held) == [False] * 7 + [True]
    winner = held.index(True)
    assert connect().hold("job-1", f"worker-{winner}", 0.05)
    assert connect().hold("job-2", "another", 60.0)
    deadline = time.monotonic() + 30
    while not connect().hold("job-1", "another", 60.0):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_attempts_are_counted_by_task(store: JobStore, job: str) -> None:
    assert [store.next_attempt(TaskId(job, 0, "map", 0)) for _ in range(3)] == [1, 2, 3]
    assert store.next_attempt(TaskId(job, 0, "map", 1)) == 1
    assert store.next_attempt(TaskId(job, 0, "reduce", 0)) == 1
    assert store.next_attempt(TaskId(job, 1, "map", 0)) == 1
    assert store.next_attempt(TaskId("job-2", 0, "map", 0)) == 1


def test_attempts_that_are_excused(store: JobStore, job: str) -> None:
    assert store.excused(TaskId(job, 0, "map", 0)) == 0
    store.next_attempt(TaskId(job, 0, "map", 0))
    for _ in range(2):
        store.excuse_attempt(TaskId(job, 0, "map", 0))
    assert store.excused(TaskId(job, 0, "map", 0)) == 2
    assert store.excused(TaskId(job, 0, "map", 1)) == store.excused(TaskId(job, 0, "reduce", 0)) == 0
    assert store.next_attempt(TaskId(job, 0, "map", 0)) == 2
    store.move(job, "failed")
    store.revive(job)
    assert store.excused(TaskId(job, 0, "map", 0)) == 0


def test_attempts_that_start_together_get_different_numbers(connect: Open) -> None:
    connect().create("job-1", FIELDS, b"")
    given = race(connect, 8, lambda store, _: [store.next_attempt(TaskId("job-1", 0, "map", 3)) for _ in range(10)])
    assert sorted(number for numbers in given for number in numbers) == list(range(1, 81))
    assert all(numbers == sorted(numbers) for numbers in given)


def test_jobs_newest_first(store: JobStore) -> None:
    for name, created in (("b", 2000.0), ("c", 3000.5), ("a", 1000.0), ("d", 3000.75)):
        assert store.create(name, {**FIELDS, "created": repr(created)}, b"")
    assert store.jobs() == ["d", "c", "b", "a"]
    assert store.jobs(2) == ["d", "c"]
    assert store.jobs(2, 1) == ["c", "b"]
    assert store.jobs(2, 4) == []


def test_a_job_that_is_dropped_leaves_nothing_and_others_stay(store: JobStore) -> None:
    others = ["job", "job-10", "job-1:x"]
    for name in ("job-1", *others):
        store.create(name, FIELDS, b"request")
        store.put_blob(name, "code.zip", b"code")
        store.add_commit(TaskId(name, 0, "map", 0), b"commit")
        store.next_attempt(TaskId(name, 0, "map", 0))
    store.drop("job-1")
    assert "job-1" not in store.jobs()
    assert store.fields("job-1") == {}
    assert store.request("job-1") is None
    assert store.get_blob("job-1", "code.zip") is None
    assert store.commits(StageId("job-1", 0, "map")) == {}
    assert store.next_attempt(TaskId("job-1", 0, "map", 0)) == 1
    for name in others[:2]:
        assert store.request(name) == b"request"
        assert store.get_blob(name, "code.zip") == b"code"
        assert store.next_attempt(TaskId(name, 0, "map", 0)) == 2
    assert store.create("job-1", FIELDS, b"again")


def test_everything_in_redis_has_an_end(server: RedisServer) -> None:
    """What a client forgets about must not fill the broker: only the lists of jobs, which are cut, may stay."""
    store = RedisJobStore(server.tcp_url)
    store.call(("FLUSHALL",))
    store.create("job-1", FIELDS, b"request")
    store.put_blob("job-1", "code.zip", b"x")
    store.add_commit(TaskId("job-1", 0, "map", 0), b"x")
    store.next_attempt(TaskId("job-1", 0, "map", 0))
    store.update("job-1", {"status": "x"})
    store.move("job-1", "running")
    store.set_mark("job-1", "running.0.map", "0", "x")
    assert store.hold("job-1", "me", 60.0)
    (keys,) = store.call(("KEYS", "*"))
    assert isinstance(keys, list)
    endless = {key for key in keys if store.call(("TTL", key)) == [-1]}
    store.close()
    assert len([key for key in keys if b":sent:" not in key]) == 10
    assert endless <= {JOBS.encode(), LIVE.encode()}


def test_workers_that_tell_of_themselves(store: JobStore) -> None:
    assert store.workers() == {}
    store.record_worker("a@host", b"first")
    store.record_worker("b@host", b"other")
    store.record_worker("a@host", b"second")
    told = store.workers()
    assert {name: about for name, (_, about) in told.items()} == {"a@host": b"second", "b@host": b"other"}
    assert all(0 <= since < 60 for since, _ in told.values())
    store.drop_worker("a@host")
    store.drop_worker("a@host")
    assert list(store.workers()) == ["b@host"]
    store.drop_worker("b@host")
