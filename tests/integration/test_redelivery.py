"""Coordinator steps delivered twice, late, or cut short, and what they leave in OUTPUT."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import mrcelery
from mrcelery.attempt.cleanup import clean_up
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.attempt.run import run_attempt
from mrcelery.client.submission import Submission
from mrcelery.coordinator import output_commit
from mrcelery.coordinator.barrier import barrier
from mrcelery.coordinator.finish import finish, withdraw_output
from mrcelery.coordinator.start import start
from mrcelery.errors import JobStoppedError, OutputExistsError, StorageUnreachableError
from mrcelery.jobstore.memory import MemoryJobStore
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.reporting.report import Report
from mrcelery.runners.enter import enter
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import decode
from mrcelery.schema.structs import Request
from mrcelery.schema.task_id import TaskId
from mrcelery.storage import open_storage
from mrcelery.storage.base import Source, Storage
from mrcelery.storage.claims import claim
from mrcelery.worker.tasks import BROKER_PATIENCE
from tests.support.services import WORD_COUNT, RedisServer, eventually, redis_server, workers

JobFile = Callable[..., str]

PARTS = ["part-00000", "part-00001"]
DONE = ["_SUCCESS", *PARTS]


class Place:
    """A job store, a storage and an OUTPUT that jobs share."""

    def __init__(self, root: str, folder: Path, job: str) -> None:
        self.root = root
        self.storage = open_storage(root)
        self.output = open_storage(f"{root}-out")
        self.store = MemoryJobStore()
        self.runtime = OpenJobs(self.store, scratch=str(folder / "scratch"))
        self.text = folder / "text.txt"
        self.text.write_text("a rose is a rose\n")
        self.file = job

    def submit(self, **options: Any) -> str:
        """Submit a job and run all its tasks except the final ``finish``."""
        place = self

        class Keep:
            store = place.store
            storage = place.root

            def submit(self, request: Request, envelope: bytes, code: bytes, blobs: dict[str, bytes]) -> None:
                enter(place.store, request, envelope, code, blobs)

            def close(self) -> None:
                pass

        submission = Submission.prepare(
            self.file, str(self.text), self.output.uri, runner="inline", storage=self.root, reducers=2, **options
        )
        object.__setattr__(submission, "_open", Keep)
        # The client checks a local OUTPUT; here two clients have checked before either job was done.
        object.__setattr__(submission, "_place_output", lambda: (self.output.uri, None))
        with submission.submit() as handle:
            job = handle.id
        first = start(self.runtime, job)
        assert first is not None
        for number in range(first.tasks):
            run_attempt(self.runtime, TaskId(job, 0, "map", number))
        for number in range(barrier(self.runtime, job, 0).tasks):
            run_attempt(self.runtime, TaskId(job, 0, "reduce", number))
        return job

    def names(self) -> list[str]:
        return [info.key for info in self.output.list()]

    def publisher(self) -> str:
        return decode(self.output.read("_SUCCESS"), Report).job


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, job_file: JobFile) -> Place:
    if request.param == "folder":
        root = str(tmp_path / "storage")
    else:
        root = f"s3://{request.getfixturevalue('bucket')}/{os.urandom(6).hex()}"
    return Place(root, tmp_path, job_file(WORD_COUNT))


def test_two_runs_of_the_last_step_at_once(place: Place) -> None:
    """Runs of the last step at the same time do not mistake each other's part files for those of another job."""
    job = place.submit()
    ended: list[Any] = []

    def run() -> None:
        try:
            ended.append(finish(place.runtime, job, 0))
        except JobStoppedError:
            ended.append(None)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == [None] * 4
    assert place.store.state(job) == "succeeded"
    assert place.names() == DONE
    assert place.publisher() == job


def at_the_first(what: str, monkeypatch: pytest.MonkeyPatch, output: Storage, then: Callable[[], object]) -> None:
    """Do something once, right before the first call of a method of a claim on OUTPUT."""
    kind = type(claim(output, "a/b/c"))
    method, left = getattr(kind, what), [then]
    lock = threading.Lock()

    def called(self: Any, *args: Any) -> Any:
        with lock:
            now = left.pop() if left else None
        if now is not None:
            now()
        return method(self, *args)

    monkeypatch.setattr(kind, what, called)


@pytest.mark.parametrize(("overwrite", "at"), [(False, "copy"), (True, "copy"), (True, "remove")])
def test_a_late_run_of_the_last_step(place: Place, overwrite: bool, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is copying, or about to remove the old ``_SUCCESS``, is overtaken by one that ends the job."""
    if overwrite:
        place.output.write("_SUCCESS", b"old")
        place.output.write("part-00000", b"old")
        place.output.write("part-00007", b"old")
        place.output.write("part-list.txt", b"the user's own")
    job = place.submit(overwrite=overwrite)

    def another() -> None:
        assert finish(place.runtime, job, 0) is None
        clean_up(place.runtime, job)

    at_the_first(at, monkeypatch, place.output, another)
    with pytest.raises(JobStoppedError):
        finish(place.runtime, job, 0)
    assert place.store.state(job) == "succeeded"
    assert place.names() == DONE + ["part-list.txt"] * overwrite
    assert place.publisher() == job
    assert sorted(b"".join(map(place.output.read, PARTS)).splitlines()) == [b'"a"\t2', b'"is"\t1', b'"rose"\t2']


@pytest.mark.parametrize("how", ["cancelled", "failed"])
def test_a_job_that_ends_as_it_publishes(place: Place, how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job = place.submit()
    at_the_first("copy", monkeypatch, place.output, lambda: place.store.move(job, how))
    with pytest.raises(JobStoppedError):
        finish(place.runtime, job, 0)
    assert place.names() == []
    assert place.storage.stat(object_keys.report(job)) is None


def test_a_job_cancelled_after_its_mark_was_written(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    job = place.submit()
    move = place.store.move

    def cancelled(of: str, to: Any, fields: Any = None) -> bool:
        if to == "succeeded":
            move(of, "cancelled")
        return move(of, to, fields)

    monkeypatch.setattr(place.store, "move", cancelled)
    assert finish(place.runtime, job, 0) is None
    assert place.store.state(job) == "cancelled"
    assert place.names() == []
    assert place.storage.stat(object_keys.report(job)) is None


def test_a_run_that_was_killed_as_it_published(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next delivery recognizes the files in OUTPUT as this job's own, and ends the job."""
    job = place.submit()
    with monkeypatch.context() as patch:
        patch.setattr(output_commit, "_success", killed)
        with pytest.raises(KeyboardInterrupt):
            finish(place.runtime, job, 0)
        patch.undo()
        patch.setattr(type(claim(place.output, "a/b/c")), "copy", killed)
        with pytest.raises(KeyboardInterrupt):
            finish(place.runtime, job, 0)
    place.output.write("part-00000", b"half of them")
    assert finish(place.runtime, job, 0) is None
    assert place.names() == DONE
    assert place.output.read("part-00000") != b"half of them"


def killed(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def test_a_run_that_was_killed_and_then_the_job_was_cancelled(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    job = place.submit()
    with monkeypatch.context() as patch:
        patch.setattr(place.store, "move", killed)
        with pytest.raises(KeyboardInterrupt):
            finish(place.runtime, job, 0)
    assert place.names() == DONE  # everything was done except the job's end
    place.store.move(job, "cancelled")
    with pytest.raises(JobStoppedError):
        finish(place.runtime, job, 0)
    assert place.names() == []


def test_two_jobs_with_one_output(place: Place) -> None:
    """Two jobs found OUTPUT free when they started: the second to publish must not overwrite the first."""
    first, second = place.submit(), place.submit()
    assert finish(place.runtime, first, 0) is None
    with pytest.raises(OutputExistsError, match="exists"):
        finish(place.runtime, second, 0)
    place.store.move(second, "failed")
    withdraw_output(place.runtime, second)
    assert place.names() == DONE
    assert place.publisher() == first


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_jobs_with_one_output_at_once(place: Place, overwrite: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = place.submit(overwrite=overwrite), place.submit(overwrite=overwrite)

    def another() -> None:
        with pytest.raises(OutputExistsError):
            finish(place.runtime, second, 0)

    at_the_first("copy", monkeypatch, place.output, another)
    assert finish(place.runtime, first, 0) is None
    assert place.names() == DONE
    assert place.publisher() == first


def test_overwriting_what_a_killed_job_left(place: Place) -> None:
    place.output.write("_PUBLISHING.gone-20260101-000000-abcdef/000001-ab/claim", b"{}")
    place.output.write("part-00000", b"half")
    job = place.submit(overwrite=True)
    assert finish(place.runtime, job, 0) is None
    assert place.names() == DONE


def test_a_storage_that_fails_as_the_job_publishes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    job = place.submit()
    kind = type(claim(place.output, "a/b/c"))
    copy = kind.copy
    with monkeypatch.context() as patch:

        def full(mine: Any, source: Source, key: str) -> None:
            if key.endswith("1"):
                raise StorageUnreachableError("no room")
            copy(mine, source, key)

        patch.setattr(kind, "copy", full)
        with pytest.raises(StorageUnreachableError):
            finish(place.runtime, job, 0)
    place.store.move(job, "failed")
    withdraw_output(place.runtime, job)
    assert place.names() == []


def test_the_steps_before_the_last_run_again(place: Place) -> None:
    job = place.submit()
    assert start(place.runtime, job) == start(place.runtime, job)
    assert barrier(place.runtime, job, 0) == barrier(place.runtime, job, 0)
    assert finish(place.runtime, job, 0) is None
    assert place.names() == DONE
    for late in (start, partial(barrier, step=0), partial(finish, step=0)):
        with pytest.raises(JobStoppedError):
            late(place.runtime, job)
    with pytest.raises(JobStoppedError):
        run_attempt(place.runtime, TaskId(job, 0, "map", 0))
    assert place.names() == DONE


SLOW = """
    import os, time
    from mrcelery import MRJob

    class Slow(MRJob):
        def mapper(self, _, line):
            open(os.path.join(line, str(time.time_ns())), "w").close()
            while not os.path.exists(os.path.join(line, "go")):
                time.sleep(0.02)
            yield "seen", 1

        def reducer(self, key, values):
            yield key, sum(values)
"""


@pytest.fixture
def lasting_server() -> Iterator[RedisServer]:
    with redis_server(appendonly="yes", appendfsync="always") as server:
        yield server


@pytest.mark.parametrize("trouble", ["restart", "full"])
def test_the_broker_fails_for_a_while(
    trouble: str, lasting_server: RedisServer, job_file: JobFile, tmp_path: Path
) -> None:
    """Tasks that end while Redis is down or refuses writes keep their results; neither runs again."""
    assert BROKER_PATIENCE > 10
    seen = tmp_path / "seen"
    seen.mkdir()
    text = tmp_path / "text.txt"
    text.write_text(f"{seen}\n" * 2)
    server = lasting_server
    settings = {"broker": server.tcp_url, "storage": str(tmp_path / "storage"), "queue": "q"}
    with workers(tmp_path, server.tcp_url, 1, queue="q"):
        handle = mrcelery.submit(
            job_file(SLOW), str(text), runner="celery", split_size=len(f"{seen}\n"), reducers=1, **settings
        )
        with handle:
            eventually(lambda: len(list(seen.iterdir())) == 2, "both maps run")
            assert handle.runner is not None
            redis = handle.runner.store
            assert isinstance(redis, RedisJobStore)
            if trouble == "restart":
                server.stop()
            else:
                redis.call(("CONFIG", "SET", "maxmemory", "1"))
            (seen / "go").touch()
            storage = open_storage(str(tmp_path / "storage"))
            commits = [object_keys.commit(TaskId(handle.id, 0, "map", number)) for number in range(2)]
            eventually(lambda: all(storage.stat(key) for key in commits), "both maps have committed")
            if trouble == "restart":
                server.start()
            else:
                redis.call(("CONFIG", "SET", "maxmemory", "0"))
            handle.wait(60)
            assert list(handle) == [("seen", 2)]
    assert len(list(seen.iterdir())) == 3  # neither ran again
