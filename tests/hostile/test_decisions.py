"""Decisions about a job outlive a Redis that loses everything, or returns with an older snapshot."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import mrcelery
from mrcelery.errors import JobCancelledError
from mrcelery.jobstore.redis import LIVE, NEWEST, RedisJobStore
from mrcelery.reporting.report import read_report
from mrcelery.storage import open_storage
from tests.support.services import YIELDING_GATED, Gate, RedisServer, eventually, workers

JobFile = Callable[..., str]
QUEUE = "decisions"


def submitted(server: RedisServer, job: str, tmp_path: Path, gate: Gate) -> mrcelery.JobHandle:
    return mrcelery.submit(
        job, str(gate.text), str(tmp_path / "out"), runner="celery", broker=server.tcp_url, queue=QUEUE,
        storage=str(tmp_path / "storage"), split_size=gate.split_size, reducers=1,
    )  # fmt: skip


@contextmanager
def running(
    server: RedisServer, job: str, tmp_path: Path, gate: Gate
) -> Iterator[tuple[mrcelery.JobHandle, RedisJobStore]]:
    """Run a job both of whose tasks are waiting at the gate."""
    with (
        workers(tmp_path / "workers", server.tcp_url, queue=QUEUE, MRCELERY_VISIBILITY_TIMEOUT="5"),
        submitted(server, job, tmp_path, gate) as handle,
    ):
        eventually(lambda: gate.starts() == 2, "tasks run")
        yield handle, store_of(handle)


def store_of(handle: mrcelery.JobHandle) -> RedisJobStore:
    """Return the job store of a fleet's job."""
    store = handle._store
    assert isinstance(store, RedisJobStore)
    return store


def test_a_cancelled_job_whose_redis_is_emptied(server: RedisServer, job_file: JobFile, tmp_path: Path) -> None:
    """The job stays cancelled, though its client and the workers restore lost jobs; `retry` runs it again."""
    gate = Gate(tmp_path, 2)
    with running(server, job_file(YIELDING_GATED), tmp_path, gate) as (handle, store):
        assert handle.runner is not None
        handle.runner.restore_if_lost(handle.id, store.fields(handle.id))  # as a waiting client does when it polls
        assert handle.cancel()
        store.call(("FLUSHALL",))
        gate.open()
        with pytest.raises(JobCancelledError):
            handle.wait(120)
        assert not (tmp_path / "out").exists()
        eventually(lambda: "cleaned" in store.fields(handle.id), "its data is removed")
        handle.retry()
        handle.wait(120)
        assert Counter(dict(handle))["seen"] == 2


def test_an_older_snapshot_of_redis(server: RedisServer, job_file: JobFile, tmp_path: Path) -> None:
    """A job that has succeeded stays succeeded, and its report and OUTPUT are unchanged."""
    gate = Gate(tmp_path, 2)
    with running(server, job_file(YIELDING_GATED), tmp_path, gate) as (handle, store):
        store.call(("SAVE",))
        shutil.copy(server.folder / "dump.rdb", tmp_path / "older.rdb")
        gate.open()
        handle.wait(120)
        before = sorted((path.name, path.read_bytes()) for path in (tmp_path / "out").iterdir())
        server.stop()
        shutil.copy(tmp_path / "older.rdb", server.folder / "dump.rdb")
        server.start()
        assert store.state(handle.id) == "running", "Redis knows no better"
        eventually(lambda: store.state(handle.id) == "succeeded", "it is brought up to date")
        report = read_report(open_storage(str(tmp_path / "storage")), handle.id)
        assert report is not None
        assert report.state == "succeeded"
        assert sorted((path.name, path.read_bytes()) for path in (tmp_path / "out").iterdir()) == before


@pytest.mark.parametrize("waits", ["who submitted it", "another", "nobody", "nobody, and there are newer jobs"])
def test_the_list_of_live_jobs_and_the_queue_are_evicted(
    waits: str, server: RedisServer, job_file: JobFile, tmp_path: Path
) -> None:
    """A job that is in no list is found by a client that waits for it, or by the workers' reconcilers."""
    gate = Gate(tmp_path, 2)
    gate.open()
    with submitted(server, job_file(YIELDING_GATED), tmp_path, gate) as handle:
        store = store_of(handle)
        store.call(("DEL", LIVE, QUEUE))
        if waits != "nobody":  # newer jobs create a new list, and are more than are checked
            for number in range(NEWEST + 1):
                store.create(f"newer-{number}", {"created": repr(time.time()), "queue": "nobody"}, b"")
        with workers(tmp_path / "workers", server.tcp_url, queue=QUEUE, MRCELERY_VISIBILITY_TIMEOUT="5"):
            if waits == "another":
                with mrcelery.attach(handle.id, broker=server.tcp_url, storage=str(tmp_path / "storage")) as other:
                    other.wait(120)
            elif not waits.startswith("nobody"):
                handle.wait(120)
            eventually(lambda: store.state(handle.id) == "succeeded", "the job ends")
