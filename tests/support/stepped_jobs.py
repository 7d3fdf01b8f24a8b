"""A submitted job that is run step by step, and a job store that can be made to forget it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import mrcelery
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.attempt.run import run_attempt
from mrcelery.coordinator.barrier import barrier
from mrcelery.coordinator.finish import finish
from mrcelery.coordinator.stages import StageTasks
from mrcelery.coordinator.start import start
from mrcelery.jobstore.memory import MemoryJobStore
from mrcelery.runners.enter import enter, job_fields
from mrcelery.runners.inline import InlineRunner
from mrcelery.schema import object_keys
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
        self.signing_key = settings.get("signing_key")
        self.runtime = OpenJobs(MemoryJobStore(), scratch=self.scratch, signing_key=self.signing_key)
        enter(self.runtime.store, self.request, self.envelope, self.code, self.blobs)
        self.ran: list[tuple[int, str, int]] = []

    def forget(self) -> None:
        """Replace the job store by one that has lost everything, in which the job has been registered again."""
        self.runtime = OpenJobs(MemoryJobStore(), scratch=self.scratch, signing_key=self.signing_key)
        self.runtime.store.create(self.id, job_fields(self.request), self.envelope)

    def steps(self, stage: StageTasks | None = None) -> Iterator[StageTasks]:
        """Do all that is left to do, one task or coordinator step at a time."""
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
