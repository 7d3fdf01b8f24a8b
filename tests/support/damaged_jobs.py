"""A job after its barrier, and ways to damage what its map tasks wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import mrcelery
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.attempt.run import run_attempt
from mrcelery.coordinator.barrier import barrier
from mrcelery.coordinator.finish import finish
from mrcelery.coordinator.start import start
from mrcelery.jobstore.memory import MemoryJobStore
from mrcelery.runners.enter import enter
from mrcelery.runners.inline import InlineRunner
from mrcelery.schema.task_id import TaskId

JOB = """
    import os
    import time
    from pathlib import Path
    from mrcelery import MRJob

    class Job(MRJob):
        PARTITIONER = {0!r}

        def mapper(self, _, line):
            self.increment_counter("lines", "mapped")
            if self.counters["lines"]["mapped"] == 5:
                time.sleep({3})
            for word in line.split():
                yield word, {1}

        def reducer_init(self):
            # Heals the disk before its part is read for the second time.
            heals, met, whole = (os.path.join({2!r}, name) for name in ("heals", "met", "whole"))
            if os.path.exists(heals):
                os.rename(heals, met)
            elif os.path.exists(met):
                os.replace(whole, Path(met).read_text())
                os.unlink(met)

        def reducer(self, key, values):
            yield key, sum(values)
"""

TEXT = "".join(f"a b c d{n} e{n}\n" for n in range(300))
DONE = sorted([f'"{word}"\t300' for word in "abc"] + [f'"{word}{n}"\t1' for word in "de" for n in range(300)])


class Mapped:
    """A job after its barrier."""

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        partitioner: str,
        value: str,
        slow: float,
        pass_barrier: Callable[[OpenJobs, str, int], object] = barrier,
    ) -> None:
        kept: list[Any] = []
        with monkeypatch.context() as patch:
            patch.setattr(InlineRunner, "submit", lambda self, *request: kept.append(request))
            (folder / "job.py").write_text(dedent(JOB).format(partitioner, value, str(folder), slow))
            (folder / "in.txt").write_text(TEXT)
            mrcelery.submit(
                f"{folder}/job.py", f"{folder}/in.txt", f"{folder}/out", runner="inline", storage=f"{folder}/storage",
                reducers=2, split_size=2000,
            ).close()  # fmt: skip
        request, envelope, code, blobs = kept[0]
        self.store = MemoryJobStore()
        enter(self.store, request, envelope, code, blobs)
        self.job = request.job
        self.runtime = OpenJobs(self.store, scratch=f"{folder}/scratch")
        self.out = folder / "out"
        self.maps = start(self.runtime, self.job).tasks  # type: ignore[union-attr]
        for number in range(self.maps):
            run_attempt(self.runtime, TaskId(self.job, 0, "map", number))
        pass_barrier(self.runtime, self.job, 0)
        self.parts = sorted(folder.glob("storage/jobs/*/step-0/map-*/[pr][au][rn]*"))

    def reduce(self) -> tuple[list[str], dict[str, int]]:
        """The lines of the results, and the counters."""
        for number in range(2):
            run_attempt(self.runtime, TaskId(self.job, 0, "reduce", number))
        assert finish(self.runtime, self.job, 0) is None
        lines = [line for part in sorted(self.out.glob("part-*")) for line in part.read_text().splitlines()]
        report = self.runtime.open(self.job).storage.read(f"jobs/{self.job}/report.json")
        return sorted(lines), json.loads(report)["counters"]["lines"]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x10
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped bit": flip,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "gone": lambda path: path.unlink(),
}
