"""The map and reduce stages by themselves, on storage in memory."""

from __future__ import annotations

import json
import secrets
from typing import Any

from mrcelery import MRJob
from mrcelery.job.hooks import hooks
from mrcelery.schema.structs import Extent, JobOptions, ShuffleInput, Split
from mrcelery.schema.task_id import TaskId
from mrcelery.storage import open_storage
from mrcelery.task.context import Task
from mrcelery.task.mapper import run_map
from mrcelery.task.reducer import run_reduce


class SmallTask(Task):
    """A task whose buffers hold a few records."""

    small = 1 << 20

    @property
    def budget(self) -> int:
        return self.small


def make_task(job: MRJob, root: str, kind: Any, number: int, reducers: int, scratch: str, budget: int) -> SmallTask:
    task = SmallTask(
        id=TaskId("job", 0, kind, number),
        attempt="1-test",
        options=JobOptions(),
        reducers=reducers,
        last_step=True,
        storage=open_storage(root),
        job=job,
        hooks=hooks(job, 0),
        scratch=scratch,
        poll=lambda: None,
    )
    task.small = budget
    return task


def run_job(
    job_class: type[MRJob], inputs: list[str], scratch: str, *, reducers: int = 1, budget: int = 1 << 20
) -> tuple[list[list[tuple[Any, Any]]], list[SmallTask]]:
    """Map each text, reduce each partition; the parsed pairs of each partition, and all tasks."""
    root = f"memory://{secrets.token_hex(8)}"
    storage = open_storage(root)
    tasks, maps = [], []
    for number, text in enumerate(inputs):
        data = text.encode()
        storage.write(f"in-{number}", data)
        task = make_task(job_class([]), root, "map", number, reducers, scratch, budget)
        tasks.append(task)
        extent = Extent(f"{root}/in-{number}", 0, len(data), len(data))
        maps.append(run_map(task, Split(number, (extent,))))
    results = []
    for r in range(reducers):
        parts = tuple(part for parts in maps for part in parts if part.partition == r)
        task = make_task(job_class([]), root, "reduce", r, reducers, scratch, budget)
        tasks.append(task)
        (part,) = run_reduce(task, ShuffleInput(partition=r, parts=parts))
        lines = storage.read(part.key).decode().splitlines()
        results.append([tuple(json.loads(field) for field in line.split("\t")) for line in lines])
        assert part.records == len(lines)
    return results, tasks


class Words(MRJob):
    def mapper(self, _: Any, line: Any) -> Any:
        for word in line.split():
            yield word, 1

    def reducer(self, word: Any, counts: Any) -> Any:
        yield word, sum(counts)


class Combined(Words):
    def combiner(self, word: Any, counts: Any) -> Any:
        yield word, sum(counts)
