"""The reports of a running attempt."""

from __future__ import annotations

import gc
import os
import socket
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from mrcelery.attempt import heartbeat
from mrcelery.attempt.heartbeat import collector_off, poller
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.attempt.progress_file import ProgressFile, last_progress, progress_path, records_read
from mrcelery.attempt.run import run_attempt
from mrcelery.coordinator.start import start
from mrcelery.errors import BrokerUnreachableError, JobStoppedError, SupersededError
from mrcelery.jobstore import stage_marks
from mrcelery.jobstore.memory import MemoryJobStore
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.schema.task_id import TaskId

TASK = TaskId("j", 0, "map", 3)

WATCHED = """
    import glob, shutil

    class Job(MRJob):
        def mapper(self, _, line):
            self.copy(f"{line}-before")
            if line == "status":
                self.set_status("at it")
            self.copy(f"{line}-after")
            yield line, 1

        def copy(self, name):
            (mine,) = glob.glob(os.environ["SCRATCH"] + "/alive/*")
            shutil.copy(mine, os.environ["COPIES"] + "/" + name)
"""


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder to which a job of :data:`WATCHED` copies its attempt's progress file before and after each record."""
    folder = tmp_path / "copies"
    folder.mkdir()
    monkeypatch.setenv("SCRATCH", f"{tmp_path}/scratch")
    monkeypatch.setenv("COPIES", str(folder))
    return folder


def test_an_attempt_that_reads_on_is_seen_to(
    submitted: Callable[..., tuple[OpenJobs, str]], copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrcelery.attempt.heartbeat.POLL_SECONDS", 0.0)
    runtime, job = submitted(WATCHED, text="one\ntwo\n")
    start(runtime, job)
    run_attempt(runtime, TaskId(job, 0, "map", 0))
    assert 0 < last_progress(f"{copies}/one-after") < last_progress(f"{copies}/two-before")
    assert (records_read(f"{copies}/one-after"), records_read(f"{copies}/two-before")) == (0, 2)
    assert os.listdir(copies.parent / "scratch" / "alive") == []


def test_a_status_says_that_a_slow_record_is_at_work(
    submitted: Callable[..., tuple[OpenJobs, str]], copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrcelery.attempt.heartbeat.POLL_SECONDS", 3600.0)  # so that nothing else touches the file
    runtime, job = submitted(WATCHED, text="silent\nstatus\n")
    start(runtime, job)
    run_attempt(runtime, TaskId(job, 0, "map", 0))
    silent, before, after = (
        last_progress(f"{copies}/{name}") for name in ("silent-after", "status-before", "status-after")
    )
    assert 0 < silent == before < after
    assert runtime.store.fields(job)["status"] == "at it"


class Polled:
    """An attempt's poller, with a clock that only the test moves, and a count of what it shares."""

    def __init__(self, progress: ProgressFile, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.records = 0
        self.shared = 0
        self.store = MemoryJobStore()
        self.store.create("j", {}, b"")
        self.store.move("j", "running")
        clock = SimpleNamespace(monotonic=lambda: self.now, time=lambda: 5000.0)
        monkeypatch.setattr(heartbeat, "time", clock)
        self._progress = progress
        self.poll = self.poller(self._share)

    def poller(self, share: Callable[[], None] | None) -> Callable[[], None]:
        return poller(
            self.store, TASK, attempt="1-a", worker="w 7", progress=self._progress, records=lambda: self.records,
            share=share,
        )  # fmt: skip

    def _share(self) -> None:
        self.shared += 1

    def after(self, seconds: float) -> None:
        self.now += seconds
        self.poll()

    def reported(self) -> list[int]:
        """Return the record counts of the attempts reported as running."""
        return [one.records for one in stage_marks.running(self.store, TASK.stage, 5000.0)]


@pytest.fixture
def progress(tmp_path: Path) -> Iterator[ProgressFile]:
    opened = ProgressFile(progress_path(str(tmp_path), TASK, os.getpid()))
    yield opened
    opened.close()


@pytest.fixture
def polled(progress: ProgressFile, monkeypatch: pytest.MonkeyPatch) -> Polled:
    return Polled(progress, monkeypatch)


def test_a_poll_costs_nothing_until_it_is_due(polled: Polled, progress: ProgressFile) -> None:
    polled.records = 7
    polled.after(heartbeat.POLL_SECONDS - 0.01)
    assert records_read(progress._path) == 0
    polled.after(0.01)
    assert records_read(progress._path) == 7
    polled.records = 8
    polled.after(heartbeat.POLL_SECONDS - 0.01)
    assert records_read(progress._path) == 7
    polled.after(0.01)
    assert records_read(progress._path) == 8


def test_an_attempt_stops_if_its_job_has_ended(polled: Polled) -> None:
    polled.after(1)
    polled.store.move("j", "cancelled")
    with pytest.raises(JobStoppedError, match="job j has ended"):
        polled.after(1)


def test_an_attempt_stops_if_another_has_committed(polled: Polled) -> None:
    polled.store.add_commit(TASK, b"commit")
    with pytest.raises(SupersededError, match="map task 3 of job j was committed"):
        polled.after(1)


def test_an_attempt_goes_on_while_redis_is_away(progress: ProgressFile) -> None:
    """It has work to do, and would lose that work by waiting until its patience ends."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        store = RedisJobStore(f"redis://127.0.0.1:{unused.getsockname()[1]}/0", patience=3600.0)
        poll = poller(store, TASK, attempt="1-a", worker="w 7", progress=progress, records=lambda: 7)
        time.sleep(heartbeat.POLL_SECONDS)
        poll()
        assert records_read(progress._path) == 7
        with pytest.raises(BrokerUnreachableError):
            store.poll(TASK)


def test_output_is_shared_only_while_someone_follows(polled: Polled) -> None:
    polled.after(1)
    assert polled.shared == 0
    polled.store.follow("j", 60.0)
    polled.after(1)
    assert polled.shared == 1
    polled.poll = polled.poller(None)  # nothing is captured
    polled.after(1)
    assert polled.shared == 1


def test_a_long_attempt_reports_once_a_second(polled: Polled) -> None:
    for quarter in range(1, 9):
        polled.records = quarter
        polled.after(0.25)
        assert polled.reported() == ([] if quarter < 4 else [quarter // 4 * 4])


def test_the_poller_collects_what_user_code_leaves_behind(polled: Polled) -> None:
    class Node:
        mine: object

    generations: list[int] = []

    def seen(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            generations.append(info["generation"])

    polled.after(1)
    with collector_off():
        node = Node()
        node.mine = node
        left = weakref.ref(node)
        del node
        gc.callbacks.append(seen)
        try:
            for _ in range(64):
                polled.after(1)
        finally:
            gc.callbacks.remove(seen)
        assert left() is None
    # The first poll was earlier, while the collector was on.
    assert generations == [2 if n == 64 else 1 if n % 8 == 0 else 0 for n in range(2, 66)]


def test_a_poller_leaves_the_collector_alone_if_it_is_on(polled: Polled, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gc.isenabled()
    with monkeypatch.context() as patch:
        patch.setattr(gc, "collect", lambda generation=2: pytest.fail("collected"))
        polled.after(1)


def test_the_collector_is_as_it_was_after_an_attempt() -> None:
    with collector_off():
        assert not gc.isenabled()
        with collector_off():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
