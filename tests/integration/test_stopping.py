"""Workers that are asked to stop, and cancelled jobs."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mrcelery
from mrcelery import JobHandle
from mrcelery.errors import JobFailedError
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.schema import object_keys
from mrcelery.schema.task_id import TaskId
from mrcelery.storage import open_storage
from tests.support.process_tree import runs
from tests.support.services import GATED, PATIENCE, Gate, RedisServer, eventually, redis_server, workers

JobFile = Callable[..., str]
LONG = {"MRCELERY_VISIBILITY_TIMEOUT": "600"}
"""No lease lapses during a test, so tasks that run elsewhere were requeued."""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as started:
        yield started


def submit(server: RedisServer, job: str, gate: Gate, folder: Path, **options: Any) -> JobHandle:
    return mrcelery.submit(
        job,
        str(gate.text),
        runner="celery",
        broker=server.tcp_url,
        storage=str(folder / "storage"),
        queue="q",
        split_size=gate.split_size,
        reducers=2,
        **options,
    )


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_tasks_of_a_worker_that_stops_run_elsewhere(
    signals: list[signal.Signals], server: RedisServer, job_file: JobFile, tmp_path: Path
) -> None:
    gate = Gate(tmp_path, 2)
    with (
        workers(tmp_path / "a", server.tcp_url, queue="q", env=LONG) as (first,),
        # An attempt that a stopping worker ends does not count toward max_attempts.
        submit(server, job_file(GATED), gate, tmp_path, max_attempts=1) as handle,
    ):
        eventually(lambda: gate.starts() == 2, "both maps run")
        with workers(tmp_path / "b", server.tcp_url, range(1, 2), queue="q", env=LONG):
            first.process.send_signal(signals[0])
            for sent in signals[1:]:
                eventually(lambda: "Warm shutdown" in first.log.read_text(), "it stops gently")
                # A signal that arrives while Celery replaces its handlers is lost; a person would press Ctrl-C again.
                for _ in range(10):
                    first.process.send_signal(sent)
                    deadline = time.monotonic() + 2
                    while not (told := "Soft Shutdown" in first.log.read_text()) and time.monotonic() < deadline:
                        time.sleep(0.05)
                    if told:
                        break
            eventually(lambda: gate.starts() == 4, "both run elsewhere")
            assert first.process.wait(PATIENCE) is not None
            gate.open()
            handle.wait(PATIENCE)
            assert list(handle) == [("seen", 2)]


def test_tasks_that_end_in_time_do_not_run_again(server: RedisServer, job_file: JobFile, tmp_path: Path) -> None:
    gate = Gate(tmp_path, 2)
    patient = {**LONG, "MRCELERY_SOFT_SHUTDOWN_TIMEOUT": "15"}  # Celery waits for all of it
    with (
        workers(tmp_path / "a", server.tcp_url, queue="q", env=patient) as (first,),
        submit(server, job_file(GATED), gate, tmp_path) as handle,
    ):
        eventually(lambda: gate.starts() == 2, "both maps run")
        with workers(tmp_path / "b", server.tcp_url, range(1, 2), queue="q", env=LONG):
            first.process.send_signal(signal.SIGTERM)
            eventually(lambda: "terminating in 15.0 seconds" in first.log.read_text(), "it stops")
            gate.open()
            handle.wait(PATIENCE)
            assert list(handle) == [("seen", 2)]
            assert gate.starts() == 2
            assert first.process.wait(PATIENCE) is not None


def test_the_first_interrupt_lets_tasks_end(server: RedisServer, job_file: JobFile, tmp_path: Path) -> None:
    gate = Gate(tmp_path, 2)
    with (
        workers(tmp_path / "a", server.tcp_url, queue="q", env=LONG) as (first,),
        submit(server, job_file(GATED), gate, tmp_path) as handle,
    ):
        eventually(lambda: gate.starts() == 2, "both maps run")
        first.process.send_signal(signal.SIGINT)
        eventually(lambda: "Ctrl+C again" in first.log.read_text(), "it is told")
        gate.open()
        assert first.process.wait(PATIENCE) is not None
        with workers(tmp_path / "b", server.tcp_url, range(1, 2), queue="q", env=LONG):
            handle.wait(PATIENCE)
            assert list(handle) == [("seen", 2)]
        assert gate.starts() == 2


YIELDING = """
    import os, time
    from mrcelery import MRJob

    class Yielding(MRJob):
        def mapper(self, _, line):
            open(os.path.join(line, f"{os.getpid()}-{time.time_ns()}"), "w").close()
            while True:
                time.sleep(0.02)
                yield "key" * 1000, 1

        def reducer(self, key, values):
            yield key, sum(values)
"""


@pytest.mark.parametrize(("source", "killed"), [(YIELDING, False), (GATED, True)])
def test_cancelling(source: str, killed: bool, server: RedisServer, job_file: JobFile, tmp_path: Path) -> None:
    """Tasks stop on all workers, even those that stay in one call of user code; then the job's data is removed."""
    gate = Gate(tmp_path, 6)
    storage = open_storage(str(tmp_path / "storage"))
    with (
        workers(tmp_path / "w", server.tcp_url, 2, queue="q", env=LONG) as started,
        submit(server, job_file(source), gate, tmp_path) as handle,
    ):
        eventually(lambda: gate.starts() == 4, "four maps run")
        running = gate.pids()
        assert handle.cancel()
        assert handle.runner is not None
        store = handle.runner.store
        assert isinstance(store, RedisJobStore)
        eventually(lambda: store.call(("HLEN", "unacked"), ("LLEN", "q")) == [0, 0], "all tasks have ended")
        eventually(lambda: not any(map(runs, running)), "their processes have ended")
        said = "".join(worker.log.read_text() for worker in started)
        assert bool(re.search(r"killing process \d+ of .*: its job has ended", said)) == killed
        kept = {object_keys.spec(handle.id), object_keys.code(handle.id), object_keys.plan_page(handle.id, 0, 0)}
        kept |= {object_keys.report(handle.id), object_keys.report_page(handle.id), object_keys.end(handle.id, 0)}
        eventually(
            lambda: {info.key for info in storage.list(object_keys.job_root(handle.id))} == kept, "its data is gone"
        )
        assert gate.starts() == 4  # none of the others began
        assert handle.status().state == "cancelled"
        assert all(worker.process.poll() is None for worker in started)


FAILING = """
    from mrcelery import MRJob

    class Failing(MRJob):
        def mapper(self, _, line):
            yield line, 1

        def reducer(self, key, values):
            raise ValueError("no")
"""


def test_a_failed_job_keeps_its_committed_work(server: RedisServer, job_file: JobFile, tmp_path: Path) -> None:
    gate = Gate(tmp_path, 2)
    with (
        workers(tmp_path / "w", server.tcp_url, queue="q", env=LONG),
        submit(server, job_file(FAILING), gate, tmp_path) as handle,
    ):
        with pytest.raises(JobFailedError, match="ValueError"):
            handle.wait(PATIENCE)
        storage = open_storage(str(tmp_path / "storage"))
        eventually(
            lambda: handle.runner.store.call(("HLEN", "unacked")) == [0],  # type: ignore[union-attr]
            "all tasks have ended",
        )
        assert all(storage.stat(object_keys.commit(TaskId(handle.id, 0, "map", number))) for number in range(2))


def test_the_mark_of_a_stopped_attempt_goes(server: RedisServer, job_file: JobFile, tmp_path: Path) -> None:
    gate = Gate(tmp_path, 2)
    with (
        workers(tmp_path / "w", server.tcp_url, queue="q", env=LONG),
        submit(server, job_file(GATED), gate, tmp_path) as handle,
    ):
        eventually(lambda: gate.starts() == 2, "both maps run")
        marks = tmp_path / "w" / "scratch-q-0" / "alive"
        assert len(os.listdir(marks)) == 2
        handle.cancel()
        eventually(lambda: not os.listdir(marks), "no mark is left")
