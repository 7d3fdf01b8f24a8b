"""The worker of a sick machine takes no tasks and says why, and no job fails because of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import mrcelery
from mrcelery import JobHandle, events
from mrcelery.config import Config
from mrcelery.doctor.checks import judge_workers
from mrcelery.errors import JobFailedError
from mrcelery.jobstore.presence import WorkerSeen, workers_seen
from mrcelery.jobstore.redis import RedisJobStore
from tests.support.services import PATIENCE, RedisServer, eventually, workers

JobFile = Callable[..., str]

QUICK = {"MRCELERY_VISIBILITY_TIMEOUT": "4"}

COUNT = """
    import time
    from mrcelery import MRJob

    class Count(MRJob):
        def mapper(self, _, line):
            time.sleep(0.2)
            yield "lines", 1

        def reducer(self, key, values):
            yield key, sum(values)
"""
TASKS = 12

MOUNTED = {"full": "size=256k", "without inodes": "size=8m,nr_inodes=3", "read-only": "size=1m"}


@contextmanager
def fallen_ill(kind: str, scratch: Path) -> Iterator[None]:
    """Make a scratch folder unusable for attempts; repair it after the block."""
    if kind == "a file":
        with suppress(FileNotFoundError):
            scratch.rename(scratch.with_suffix(".before"))
        scratch.touch()
        yield
        scratch.unlink()
        return
    scratch.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", MOUNTED[kind], "tmpfs", str(scratch)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk of our own takes root on Linux")
    try:
        if kind == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", str(scratch)], check=True)
        elif kind == "full":
            with open(scratch / "ballast", "wb", buffering=0) as ballast, suppress(OSError):
                while ballast.write(bytes(4096)):
                    pass
        yield
    finally:
        subprocess.run(["umount", "-l", str(scratch)], check=True)


class Ground:
    """A Redis, a storage, and jobs of short map tasks of which no attempt may fail."""

    def __init__(self, server: RedisServer, folder: Path, job_file: JobFile) -> None:
        self.server, self.folder = server, folder
        self.store = RedisJobStore(server.tcp_url)
        self.job = job_file(COUNT)
        self.text = folder / "in.txt"
        self.text.write_text("line\n" * TASKS)

    def workers(self, numbers: int | range, **variables: str) -> Any:
        return workers(self.folder, self.server.tcp_url, numbers, queue="q", env={**QUICK, **variables})

    def scratch(self, number: int) -> Path:
        return self.folder / f"scratch-q-{number}"

    def submit(self, job: str = "", **options: Any) -> JobHandle:
        settings = {"runner": "celery", "broker": self.server.tcp_url, "storage": str(self.folder / "storage")}
        options = {"queue": "q", "split_size": 5, "reducers": 2, "max_attempts": 1, "speculative": False, **options}
        return mrcelery.submit(job or self.job, str(self.text), **settings, **options)

    def counts(self, handle: JobHandle) -> None:
        handle.wait(PATIENCE)
        assert list(handle) == [("lines", TASKS)]

    def seen(self, number: int) -> list[WorkerSeen]:
        """Return the worker's presence record, if it has published one."""
        return [one for one in workers_seen(self.store) if one.name == f"q-{number}@here"]

    def sick(self, number: int) -> str:
        reason = "".join
        return eventually(lambda: reason(one.sick for one in self.seen(number)), f"worker {number} says it is sick")

    def well(self, number: int) -> None:
        eventually(lambda: any(not one.sick for one in self.seen(number)), f"worker {number} takes tasks again")

    def attempts(self, handle: JobHandle) -> int:
        return sum(stage.sums.started for stage in handle.glance().stages)


@pytest.fixture
def ground(server: RedisServer, tmp_path: Path, job_file: JobFile) -> Iterator[Ground]:
    ground = Ground(server, tmp_path, job_file)
    yield ground
    ground.store.close()


@pytest.mark.parametrize("kind", [*MOUNTED, "a file"])
def test_a_sick_machine_beside_a_healthy_one(ground: Ground, kind: str) -> None:
    with ground.workers(2):
        with fallen_ill(kind, ground.scratch(0)):
            with ground.submit() as handle:
                ground.counts(handle)
            reason = ground.sick(0)
            assert str(ground.scratch(0)) in reason
            assert "MRCELERY_SCRATCH" in reason
            says(ground, reason)
            with ground.submit() as handle:
                ground.counts(handle)
                assert ground.attempts(handle) == TASKS + 2  # none on the sick machine
        ground.well(0)
        assert not any(one.sick for one in ground.seen(1))


def says(ground: Ground, reason: str) -> None:
    """Check that doctor names the sick worker, and that metrics count it."""
    config = Config(broker=ground.server.tcp_url, queue="q")
    found = [one for one in judge_workers(workers_seen(ground.store), config) if one.check == "workers: sick"]
    assert [f"{one.saw}: {one.do}" for one in found] == [f"q-0@here takes no tasks: {reason}"]
    metrics = pytest.importorskip("mrcelery.web.metrics", exc_type=ImportError)
    collector = metrics.FleetCollector(ground.server.tcp_url)
    values = {
        (family.name, sample.labels.get("queue")): sample.value
        for family in collector.collect()
        for sample in family.samples
    }
    collector.close()
    assert values["mrcelery_sick_workers", "q"] == 1
    assert values["mrcelery_workers", "q"] == 1
    assert values["mrcelery_worker_slots", "q"] == 2


@pytest.mark.parametrize("kind", ["full", "a file"])
def test_a_job_whose_only_worker_falls_ill_waits(ground: Ground, kind: str) -> None:
    with ground.workers(1) as (worker,), ground.submit() as handle:
        with fallen_ill(kind, ground.scratch(0)):
            reason = ground.sick(0)
            before = ground.attempts(handle)
            assert str(ground.scratch(0)) in waits(handle).reason
            assert [w.text for w in handle.overview().warnings if w.kind == "sick"] == [
                f"worker q-0@here takes no tasks: {reason}"
            ]
            assert ground.attempts(handle) - before <= 1  # it does not try again and again
        ground.counts(handle)
        assert worker.process.poll() is None


def waits(handle: JobHandle) -> events.WorkersSick:
    """Wait until the client learns that no worker is well."""

    class Told(Exception):
        pass

    def hear(event: events.Event) -> None:
        if isinstance(event, events.WorkersSick):
            raise Told(event)

    with pytest.raises(Told) as caught:
        handle.wait(PATIENCE, on_event=hear)
    event = caught.value.args[0]
    assert isinstance(event, events.WorkersSick)
    assert (event.count, event.left) == (1, 0)
    assert str(event).startswith("1 worker of queue q sick, none left: the job waits until one is well; q-0@here: ")
    return event


def test_a_worker_that_starts_on_a_sick_machine_takes_no_task(ground: Ground) -> None:
    with fallen_ill("a file", ground.scratch(0)), ground.workers(1):
        ground.sick(0)
        with ground.submit() as handle:
            waits(handle)
            with ground.workers(range(1, 2)):
                ground.counts(handle)
                assert ground.attempts(handle) == TASKS + 2


def test_a_job_whose_workers_stay_sick_ends(ground: Ground) -> None:
    with (
        fallen_ill("a file", ground.scratch(0)),
        ground.workers(1, MRCELERY_SICK_PATIENCE="2"),
        ground.submit() as handle,
        pytest.raises(JobFailedError, match=r"no worker of the job's queue was well for \d+ s; q-0@here: /.*SCRATCH"),
    ):
        handle.wait(PATIENCE)


IMPORTS = """
    import time
    import only_there
    from mrcelery import MRJob

    class Count(MRJob):
        def mapper(self, _, line):
            time.sleep(0.2)
            yield "lines", only_there.ONE

        def reducer(self, key, values):
            yield key, sum(values)
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module that only the client can import."""
    library = tmp_path / "site-packages"
    library.mkdir()
    (library / "only_there.py").write_text("ONE = 1\n")
    monkeypatch.syspath_prepend(str(library))
    return library


def test_a_module_that_one_machine_lacks(ground: Ground, job_file: JobFile, library: Path) -> None:
    job = job_file(IMPORTS, "imports.py")
    with ground.workers(1), ground.workers(range(1, 2), PYTHONPATH=str(library)):
        eventually(lambda: ground.seen(1), "the one that has it is known")
        with ground.submit(job) as handle:
            ground.counts(handle)


def test_a_module_that_all_machines_lack(ground: Ground, job_file: JobFile, library: Path) -> None:
    with (
        ground.workers(2),
        ground.submit(job_file(IMPORTS, "imports.py")) as handle,
        pytest.raises(JobFailedError, match="No module named 'only_there'"),
    ):
        handle.wait(PATIENCE)
