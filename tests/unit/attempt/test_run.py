"""The results of an attempt, when it stops, and which starts count as failed attempts."""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mrcelery
from mrcelery.attempt import heartbeat, run
from mrcelery.attempt.cleanup import clean_up
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.attempt.run import run_attempt
from mrcelery.coordinator.start import start
from mrcelery.errors import (
    CorruptDataError,
    JobStoppedError,
    TaskError,
)
from mrcelery.jobstore import stage_marks
from mrcelery.schema import object_keys
from mrcelery.schema.task_id import StageId, TaskId
from mrcelery.storage import open_storage
from mrcelery.task.bad_records import note_loss
from mrcelery.task.memory_limit import HELD_TOO_MUCH
from tests.support.plain_jobs import PLAIN
from tests.support.stepped_jobs import RESULTS, Job


def log_of(tmp_path: Path) -> str:
    (log,) = (o.key for o in open_storage(f"{tmp_path}/storage").list("jobs/") if "/log." in o.key)
    return open_storage(f"{tmp_path}/storage").read(log).decode()


def test_what_user_code_does_to_its_process_ends_with_the_attempt(
    submitted: Callable[..., tuple[OpenJobs, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "1")
    monkeypatch.setenv("CHANGED", "1")
    runtime, job = submitted(
        """
        class Job(MRJob):
            def mapper(self, _, line):
                os.environ["NEW"] = os.environ["CHANGED"] = "2"
                del os.environ["MINE"]
                os.chdir("/")
                logging.getLogger().setLevel("DEBUG")
                logging.getLogger().addHandler(logging.NullHandler())
                logging.debug("logged")
                print("printed")
                print("to stderr", file=sys.stderr)
                sys.stdout.buffer.write(b"bytes\\n")
                sys.stdout.close()
                yield line, 1
        """
    )
    root = logging.getLogger()
    before = dict(os.environ), os.getcwd(), list(sys.path), root.handlers[:], root.level, gc.isenabled()
    start(runtime, job)
    run_attempt(runtime, TaskId(job, 0, "map", 0))
    assert before == (dict(os.environ), os.getcwd(), list(sys.path), root.handlers[:], root.level, gc.isenabled())
    log = log_of(tmp_path)
    assert all(text in log for text in ("logged", "printed\n", "to stderr\n", "bytes\n"))


def test_an_object_that_is_gone_is_named(submitted: Callable[..., tuple[OpenJobs, str]]) -> None:
    runtime, job = submitted(PLAIN)
    start(runtime, job)
    storage = runtime.open(job).storage
    storage.delete([object_keys.plan_page(job, 0, 0)])
    with pytest.raises(CorruptDataError, match=r"plan-00000\.json is gone"):
        run_attempt(runtime, TaskId(job, 0, "map", 0))


ENDLESS = """
    import time
    from mrcelery import MRJob

    class Endless(MRJob):
        def mapper(self, _, line):
            if line == "endless":
                while True:
                    yield line, 1
            yield line, 1

        def reducer(self, key, values):
            yield key, sum(values)
"""


def test_an_attempt_stops_when_another_has_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It returns the other's commit, and was reported as running until then."""
    job = Job(tmp_path, monkeypatch, ENDLESS.replace('"endless"', '"a"'), split_size=1000)
    start(job.runtime, job.id)
    store = job.runtime.store
    monkeypatch.setattr(heartbeat, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(heartbeat, "REPORT_SECONDS", 0.0)
    told: list[Any] = []
    tell = stage_marks.report_running

    def then_commit(*args: Any, **kwargs: Any) -> None:
        tell(*args, **kwargs)
        told.extend(stage_marks.running(store, StageId(job.id, 0, "map"), 2e9))
        # What another attempt would leave behind, whatever it did.
        key = object_keys.commit(TaskId(job.id, 0, "map", 0))
        other = mrcelery.schema.structs.Commit(
            job=job.id, step=0, kind="map", task=0, attempt="2-other", parts=(), counters={}, records_in=1,
            records_out=1, bytes_in=1, bytes_out=1, seconds=1.0, host="other",
        )  # fmt: skip
        if job.storage.create(key, mrcelery.schema.encoding.encode(other)):
            store.add_commit(TaskId(job.id, 0, "map", 0), b"")

    monkeypatch.setattr(stage_marks, "report_running", then_commit)
    assert run_attempt(job.runtime, TaskId(job.id, 0, "map", 0), worker="celery@here").attempt == "2-other"
    assert [(one.task, one.worker) for one in told] == [(0, "celery@here")]
    assert told[0].records == 4
    assert stage_marks.running(store, StageId(job.id, 0, "map"), 2e9) == ()


def test_starts_that_are_no_failed_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """These are of a stopped worker, or still running; not so an attempt whose process died after its report."""
    job = Job(tmp_path, monkeypatch, max_attempts=2)
    start(job.runtime, job.id)
    store, now = job.runtime.store, time.time()
    for task in (0, 1, 2):
        assert [store.next_attempt(TaskId(job.id, 0, "map", task)) for _ in range(2)] == [1, 2]
        stage_marks.report_running(store, TaskId(job.id, 0, "map", 9), "1-other", began=now, records=1, worker="w")
    store.excuse_attempt(TaskId(job.id, 0, "map", 0))
    for task in (1, 2):
        stage_marks.report_running(store, TaskId(job.id, 0, "map", task), "1-a", began=now, records=1, worker="w")
    stage_marks.drop_dead(store, TaskId(job.id, 0, "map", 2), "another")
    assert run_attempt(job.runtime, TaskId(job.id, 0, "map", 0), capture=False).attempt.startswith("3-")
    assert run_attempt(job.runtime, TaskId(job.id, 0, "map", 1), capture=False).attempt.startswith("3-")
    stage_marks.drop_dead(store, TaskId(job.id, 0, "map", 2), "w")
    with pytest.raises(TaskError, match="was started 2 times"):
        run_attempt(job.runtime, TaskId(job.id, 0, "map", 2), capture=False)


def test_a_backup_is_no_failed_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(tmp_path, monkeypatch, max_attempts=2)
    start(job.runtime, job.id)
    for task in (0, 1):
        assert [job.runtime.store.next_attempt(TaskId(job.id, 0, "map", task)) for _ in range(2)] == [1, 2]
    stage_marks.record_backup(job.runtime.store, TaskId(job.id, 0, "map", 0), 1.0)
    assert run_attempt(job.runtime, TaskId(job.id, 0, "map", 0), capture=False).attempt.startswith("3-")
    with pytest.raises(TaskError, match="was started 2 times"):
        run_attempt(job.runtime, TaskId(job.id, 0, "map", 1), capture=False)


@pytest.mark.parametrize("stands_still", ["in a block", "before its commit"])
def test_an_attempt_that_comes_back_to_a_job_that_is_done_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stands_still: str
) -> None:
    job = Job(tmp_path, monkeypatch, max_bad_records=1)
    patched = {"in a block": "run_map", "before its commit": "commit"}[stands_still]
    real = getattr(run, patched)
    done: list[bytes] = []

    def meanwhile(*args: Any) -> Any:
        if not done:
            done.append(b"")
            before = os.environ.copy()
            for _ in job.steps(stage):
                pass
            clean_up(job.runtime, job.id)
            os.environ.update(before)
            done.append(job.results())
        return real(*args)

    stage = start(job.runtime, job.id)
    assert stage is not None
    monkeypatch.setattr(run, "LATE_SECONDS", 0.0)
    monkeypatch.setattr(run, patched, meanwhile)
    with pytest.raises(JobStoppedError):
        run_attempt(job.runtime, TaskId(job.id, 0, "map", 0), capture=False)
    assert done == [b"", RESULTS]
    left = {
        info.key.removeprefix(object_keys.job_root(job.id)) for info in job.storage.list(object_keys.job_root(job.id))
    }
    summaries = {f"step-{step}/{kind}.json" for step in range(2) for kind in ("map", "reduce")}
    output = {f"output/part-{number:05d}" for number in range(2)}
    assert left == {"spec.json", "code.zip", "end-0.json", "report.json", "report.html", *summaries, *output}
    assert not os.path.exists(f"{tmp_path}/storage/{object_keys.task_root(TaskId(job.id, 0, 'map', 0))}")


def test_a_process_that_was_ended_for_its_memory_fails_the_task_as_a_memory_error_does(
    submitted: Callable[..., tuple[OpenJobs, str]],
) -> None:
    runtime, job = submitted(PLAIN, memory=64 << 20)
    start(runtime, job)
    task = TaskId(job, 0, "map", 0)
    runtime.store.next_attempt(task)  # the attempt that held too much
    note_loss(runtime.store, task, HELD_TOO_MUCH, None, runtime.seal(task.job))
    with pytest.raises(TaskError, match=r"^MemoryError: .* ceiling allows: raise --memory from 64 MiB$") as raised:
        run_attempt(runtime, task)
    assert not raised.value.retryable
    assert run_attempt(runtime, task).records_in  # as when the job is retried


def test_a_record_that_killed_its_process_twice_is_skipped_and_counted(
    submitted: Callable[..., tuple[OpenJobs, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, job = submitted(
        """
        class Job(MRJob):
            def mapper(self, _, line):
                if "FAIL" in os.environ:
                    raise MemoryError("as if by a crash")
                assert line != "killer"
                yield line, 1
        """,
        text="fine\nkiller\nfine too\n",
        max_bad_records=1,
    )
    start(runtime, job)
    task = TaskId(job, 0, "map", 0)
    with monkeypatch.context() as patch, pytest.raises(TaskError):
        patch.setenv("FAIL", "1")
        run_attempt(runtime, task)
    for _ in range(2):
        note_loss(runtime.store, task, "killed by signal 11", (1, 1), runtime.seal(task.job))
    commit = run_attempt(runtime, task)
    assert (commit.bad_records, commit.records_in, commit.records_out) == (1, 3, 2)
    bad = open_storage(f"{tmp_path}/storage").read(commit.bad_key)
    assert b"killed its process twice: killed by signal 11" in bad
