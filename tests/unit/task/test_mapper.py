"""The map stage by itself: its hooks, its batches, and its end with the job's."""

from __future__ import annotations

import secrets
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mrcelery import MRJob, ops
from mrcelery.errors import JobStoppedError
from mrcelery.schema.structs import Extent, Split
from mrcelery.storage import open_storage
from mrcelery.task.mapper import run_map
from tests.support.stages import Words, make_task, run_job


class Hooks(MRJob):
    def mapper_init(self) -> Any:
        self.n = 0
        yield "init", 1

    def mapper(self, _: Any, line: Any) -> Any:
        self.n += 1

    def mapper_final(self) -> Any:
        yield "lines", self.n

    def combiner_init(self) -> Any:
        yield "combiners", 0

    def combiner(self, key: Any, values: Any) -> Any:
        yield key, sum(values)

    def combiner_final(self) -> Any:
        yield "combiners", 1

    def reducer_init(self) -> Any:
        self.seen: list[Any] = []
        yield "reducers", 1

    def reducer(self, key: Any, values: Any) -> Any:
        self.seen.append(key)
        return [(key, sum(values))]  # a plain function may return its pairs

    def reducer_final(self) -> Any:
        yield "seen", self.seen


def test_all_hooks_run_and_may_yield(tmp_path: Path) -> None:
    results, _ = run_job(Hooks, ["a\nb", "c"], str(tmp_path))
    pairs = dict(results[0])
    assert pairs["init"] == 2
    assert pairs["lines"] == 3
    assert pairs["reducers"] == 1
    assert pairs["combiners"] == 2
    assert pairs["seen"] == ["combiners", "init", "lines"]


def test_a_stopped_job_ends_the_attempt_between_batches(tmp_path: Path) -> None:
    def stop() -> Any:
        raise JobStoppedError("job job has ended")

    root = f"memory://{secrets.token_hex(8)}"
    open_storage(root).write("in", b"a b c\n")
    task = make_task(Words([]), root, "map", 0, 1, str(tmp_path), 1 << 20)
    task.poll = stop
    with pytest.raises(JobStoppedError):
        run_map(task, Split(0, (Extent(f"{root}/in", 0, 6, 6),)))
    assert [o.key for o in open_storage(root).list("jobs/")] == []


def test_mapper_batch_takes_a_block_and_may_return_a_mapping(tmp_path: Path) -> None:
    class Batch(MRJob):
        def mapper_batch(self, lines: Any) -> Any:
            return Counter(word for line in lines for word in line.split())

        reducer = ops.Sum()

    results, _ = run_job(Batch, ["a b a\nc", "a"], str(tmp_path))
    assert results == [[("a", 3), ("b", 1), ("c", 1)]]
