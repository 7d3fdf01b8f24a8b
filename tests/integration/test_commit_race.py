"""Attempts that race, over real storage and in real processes: one counts, and nobody reads the others'."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mrcelery.attempt.commit import committed
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.attempt.run import run_attempt
from mrcelery.client.submission import Submission
from mrcelery.coordinator.barrier import barrier
from mrcelery.coordinator.finish import finish
from mrcelery.coordinator.stages import StageTasks
from mrcelery.coordinator.start import start
from mrcelery.jobstore.memory import MemoryJobStore
from mrcelery.runners.enter import enter
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import decode, encode
from mrcelery.schema.signing import JobSeal
from mrcelery.schema.structs import Request
from mrcelery.schema.task_id import StageId, TaskId
from mrcelery.storage import open_storage

JobFile = Callable[..., str]

RACE = """
import sys, time
from mrcelery.attempt.commit import commit
from mrcelery.schema.encoding import encode
from mrcelery.schema.signing import JobSeal
from mrcelery.schema.structs import Commit
from mrcelery.storage import open_storage

storage = open_storage(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for task in range(int(sys.argv[3])):
    mine = Commit(job="j", step=0, kind="map", task=task, attempt=sys.argv[2], parts=(), counters={},
                  records_in=0, records_out=0, bytes_in=0, bytes_out=0, seconds=0.0, host="h")
    print(encode(commit(storage, mine, JobSeal("j"))).decode(), flush=True)
"""


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "storage")
    return f"s3://{request.getfixturevalue('bucket')}/{os.urandom(6).hex()}"


def test_processes(root: str) -> None:
    """Four processes commit the same 40 tasks at the same time: all return the same, task by task."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, root, f"attempt-{number}", "40"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    returned = [racer.communicate(timeout=60)[0].splitlines() for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4
    storage = open_storage(root)
    there = []
    for task in range(40):
        commit = committed(storage, TaskId("j", 0, "map", task), JobSeal("j"))
        assert commit is not None
        there.append(encode(commit).decode())
    assert returned == [there] * 4


RANDOM = """
    import os
    from mrcelery import MRJob

    class Random(MRJob):
        def mapper(self, _, line):
            self.increment_counter("seen", "lines")
            yield line, os.urandom(8).hex()

        def reducer(self, key, values):
            self.increment_counter("seen", "keys")
            yield key, sorted(values)
"""


class Shared:
    """One job with several runtimes that know nothing of each other but the storage, as after a lost broker."""

    def __init__(
        self, job: str, text: Path, root: str, folder: Path, runtimes: int, partitioner: str | None = None
    ) -> None:
        requests: list[Any] = []

        class Keep:
            store = MemoryJobStore()
            storage = root

            def submit(self, request: Request, envelope: bytes, code: bytes, blobs: dict[str, bytes]) -> None:
                requests.append((request, envelope, code, blobs))

            def close(self) -> None:
                pass

        submission = Submission.prepare(
            job,
            str(text),
            runner="inline",
            storage=root,
            reducers=2,
            split_size=3,
            keep=True,
            partitioner=partitioner,
        )
        object.__setattr__(submission, "_open", Keep)
        with submission.submit() as handle:
            self.job = handle.id
        self.runtimes = []
        for number in range(runtimes):
            store = MemoryJobStore()
            enter(store, *requests[0])
            self.runtimes.append(OpenJobs(store, scratch=str(folder / f"scratch-{number}")))
        self.storage = open_storage(root)

    def run(self, stage: StageTasks) -> None:
        """Every runtime runs every task, in threads; all attempts are each one's first."""
        for number in range(stage.tasks):
            returned: list[Any] = []

            def attempt(runtime: OpenJobs) -> None:
                returned.append(run_attempt(runtime, stage.id.task_id(number)))  # noqa: B023

            threads = [threading.Thread(target=attempt, args=(runtime,)) for runtime in self.runtimes]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            winner = committed(self.storage, stage.id.task_id(number), JobSeal(stage.id.job))
            assert winner is not None
            assert returned == [winner] * len(self.runtimes)
            root = object_keys.task_root(stage.id.task_id(number))
            losers = {info.key for info in self.storage.list(root)}
            losers -= {object_keys.commit(stage.id.task_id(number)), *(p.key for p in winner.parts)}
            assert len(losers) == len(winner.parts) * (len(self.runtimes) - 1)
            for key in losers:
                self.storage.write(key, b"whoever reads this fails")


@pytest.mark.parametrize("partitioner", [None, "range"])
def test_attempts_that_give_different_results(
    root: str, job_file: JobFile, tmp_path: Path, partitioner: str | None
) -> None:
    """Map and reduce tasks, each run by three at once; what two of them wrote is then spoilt."""
    text = tmp_path / "in.txt"
    text.write_text("a\nb\nb\nc\na\nb\n")
    shared = Shared(job_file(RANDOM), text, root, tmp_path, 3, partitioner)
    stages = [start(runtime, shared.job) for runtime in shared.runtimes]
    assert len({stage and (stage.id, stage.tasks, stage.then) for stage in stages}) == 1
    assert stages[0] is not None
    assert stages[0].tasks > 1
    shared.run(stages[0])
    reduces, told = [], []
    for runtime in shared.runtimes:
        reduces.append(barrier(runtime, shared.job, 0))
        keys = [
            object_keys.stage_summary(StageId(shared.job, 0, "map")),
            *(object_keys.shuffle_input(shared.job, 0, r) for r in range(2)),
        ]
        told.append([shared.storage.read(key) for key in keys])
    assert reduces[0] == reduces[1] == reduces[2]
    assert told[0] == told[1] == told[2]
    shared.run(reduces[0])
    reports = []
    for runtime in shared.runtimes:
        assert finish(runtime, shared.job, 0) is None
        assert runtime.store.state(shared.job) == "succeeded"
        reports.append(shared.storage.read(object_keys.report(shared.job)))
    from mrcelery.reporting.report import Report

    found = [decode(data, Report) for data in reports]
    assert found[0].counters == found[1].counters == found[2].counters
    assert found[0].counters["seen"] == {"lines": 6, "keys": 3}
    # each has its own coordinator, and that its own requests
    totals = [replace(report.totals, requests={}) for report in found]
    assert totals[0] == totals[1] == totals[2]
    parts = [shared.storage.read(object_keys.output(shared.job) + name) for name in found[0].parts]
    lines = sorted(line.partition(b"\t")[0] for line in b"".join(parts).splitlines())
    assert lines == [b'"a"', b'"b"', b'"c"']


def test_a_task_delivered_again_returns_its_commit(root: str, job_file: JobFile, tmp_path: Path) -> None:
    text = tmp_path / "in.txt"
    text.write_text("a\nb\n")
    shared = Shared(job_file(RANDOM), text, root, tmp_path, 1)
    (runtime,) = shared.runtimes
    stage = start(runtime, shared.job)
    assert stage is not None
    first = [run_attempt(runtime, TaskId(shared.job, 0, "map", number)) for number in range(stage.tasks)]
    objects = list(shared.storage.list())
    assert [run_attempt(runtime, TaskId(shared.job, 0, "map", number)) for number in range(stage.tasks)] == first
    assert list(shared.storage.list()) == objects  # nothing was run again
    assert runtime.store.done(StageId(shared.job, 0, "map")) == stage.tasks
