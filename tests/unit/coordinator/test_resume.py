"""Jobs that go on from storage: wherever the job store forgets them, and where another attempt was quicker."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import mrcelery
from mrcelery.attempt import heartbeat, run
from mrcelery.attempt.cleanup import clean_up
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.attempt.run import run_attempt
from mrcelery.coordinator.barrier import barrier
from mrcelery.coordinator.finish import finish
from mrcelery.coordinator.stages import StageTasks, has_gone_on
from mrcelery.coordinator.start import start
from mrcelery.errors import JobStoppedError, TaskError
from mrcelery.jobstore import stage_marks
from mrcelery.jobstore.memory import MemoryJobStore
from mrcelery.runners.enter import enter, job_fields
from mrcelery.runners.inline import InlineRunner
from mrcelery.schema import object_keys
from mrcelery.schema.object_keys import step_root
from mrcelery.schema.task_id import StageId, TaskId
from mrcelery.storage import open_storage

TWO_STEPS = """
    from mrcelery import MRJob, MRStep

    class TwoSteps(MRJob):
        def steps(self):
            return [MRStep(mapper=self.words, reducer=self.count), MRStep(mapper=self.swap, reducer=self.collect)]

        def words(self, _, line):
            self.increment_counter("text", "lines")
            yield line, 1

        def count(self, word, ones):
            yield word, sum(ones)

        def swap(self, word, count):
            yield count, word

        def collect(self, count, words):
            yield count, sorted(words)
"""
RESULTS = b'1\t["b","c"]\n2\t["a"]\n'


class Job:
    """A submitted job, and a job store that can be made to forget it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, source: str = TWO_STEPS, **settings: Any) -> None:
        sent: list[Any] = []
        (folder / "job.py").write_text(dedent(source))
        (folder / "in.txt").write_text("a\nb\na\nc\n")
        with monkeypatch.context() as patch:
            patch.setattr(InlineRunner, "submit", lambda self, *request: sent.append(request))
            settings = {"runner": "inline", "storage": f"{folder}/storage", "reducers": 2, "split_size": 2, **settings}
            mrcelery.submit(f"{folder}/job.py", f"{folder}/in.txt", **settings).close()
        ((self.request, self.envelope, self.code, self.blobs),) = sent
        self.id = self.request.job
        self.scratch = f"{folder}/scratch"
        self.storage = open_storage(f"{folder}/storage")
        self.runtime = OpenJobs(MemoryJobStore(), scratch=self.scratch)
        enter(self.runtime.store, self.request, self.envelope, self.code, self.blobs)
        self.ran: list[tuple[int, str, int]] = []

    def forget(self) -> None:
        """A job store that has lost everything, in which somebody has entered the job again."""
        self.runtime = OpenJobs(MemoryJobStore(), scratch=self.scratch)
        self.runtime.store.create(self.id, job_fields(self.request), self.envelope)

    def steps(self, stage: StageTasks | None = None) -> Iterator[StageTasks]:
        """All that is left to do, one task or step of the coordinator at a time."""
        stage = stage or start(self.runtime, self.id)
        while stage is not None:
            yield stage
            for number in range(stage.tasks) if stage.missing is None else stage.missing:
                run_attempt(self.runtime, stage.id.task_id(number), capture=False)
                self.ran.append((stage.id.step, stage.id.kind, number))
                yield stage
            stage = (barrier if stage.then == "barrier" else finish)(self.runtime, self.id, stage.id.step)

    def results(self) -> bytes:
        found = [info.key for info in self.storage.list(object_keys.output(self.id))]
        return b"".join(sorted(b"".join(map(self.storage.read, found)).splitlines(keepends=True)))


def test_wherever_a_job_is_forgotten_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = 0
    while True:
        folder = tmp_path / str(at)
        folder.mkdir()
        job = Job(folder, monkeypatch)
        ended = True
        for number, _ in enumerate(job.steps()):
            if number == at:
                ended = False
                break
        if ended:
            break
        job.forget()
        for _ in job.steps():
            pass
        assert job.runtime.store.state(job.id) == "succeeded"
        assert job.results() == RESULTS
        assert len(job.ran) == len(set(job.ran)), "what had committed was run again"
        at += 1
    assert at > 10


def test_what_came_through_the_job_store_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another delivery of the start, which saw no spec yet, finds it in storage."""
    job = Job(tmp_path, monkeypatch)
    digest = job.request.bundle.sha256
    assert job.runtime.store.get_blob(job.id, digest) == job.code
    start(job.runtime, job.id)
    assert job.runtime.store.get_blob(job.id, digest) is None
    job.storage.delete([object_keys.spec(job.id)])
    start(job.runtime, job.id)
    for _ in job.steps():
        pass
    assert job.results() == RESULTS


def test_a_job_that_had_ended_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(tmp_path, monkeypatch)
    for _ in job.steps():
        pass
    clean_up(job.runtime, job.id)
    report = job.storage.read(object_keys.report(job.id))
    job.forget()
    with pytest.raises(JobStoppedError):
        start(job.runtime, job.id)
    assert job.runtime.store.state(job.id) == "succeeded"
    assert job.results() == RESULTS
    assert job.storage.read(object_keys.report(job.id)) == report


def test_a_job_whose_data_was_removed_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a cancelled job is, but for spec and code."""
    job = Job(tmp_path, monkeypatch)
    for _, _ in zip(range(12), job.steps(), strict=False):
        pass
    assert job.runtime.store.move(job.id, "cancelled")
    for step in range(2):
        job.storage.delete(info.key for info in job.storage.list(step_root(job.id, step)))
    job.runtime.store.update(job.id, {"cleaned": "1.0"})
    assert job.runtime.store.revive(job.id)
    for _ in job.steps():
        pass
    assert job.runtime.store.state(job.id) == "succeeded"
    assert job.results() == RESULTS


def test_an_input_that_changed_meanwhile_is_no_base_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(tmp_path, monkeypatch)
    start(job.runtime, job.id)
    job.storage.delete([object_keys.plan_page(job.id, 0, 0)])
    (tmp_path / "in.txt").write_text("a\n" * 100)
    with pytest.raises(TaskError, match="have changed since"):
        start(job.runtime, job.id)


def test_a_step_that_comes_too_early_or_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(tmp_path, monkeypatch)
    stage = start(job.runtime, job.id)
    assert stage is not None
    with pytest.raises(JobStoppedError, match="too early"):
        barrier(job.runtime, job.id, 0)
    fields = {stage.published: "1.0"}
    assert has_gone_on(fields, "start")
    assert not has_gone_on(fields, "barrier", 0)
    after = {replace(stage, id=StageId(job.id, 0, "reduce")).published: "1.0"}
    assert has_gone_on(after, "barrier", 0)
    assert not has_gone_on(after, "finish", 0)
    assert has_gone_on({replace(stage, id=StageId(job.id, 1, "map")).published: "1.0"}, "finish", 0)


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
    """It returns the other's commit, and has told that it runs until then."""
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
        # What another attempt would leave, whatever it did.
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
    """Of a worker that was stopped, and one that still runs; not one whose process has died since it told."""
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
    assert left == {"spec.json", "code.zip", "report.json", "report.html", *summaries, *output}
    assert not os.path.exists(f"{tmp_path}/storage/{object_keys.task_root(TaskId(job.id, 0, 'map', 0))}")
