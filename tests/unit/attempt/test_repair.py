"""Shuffle parts that are damaged or gone: read again, then made again by their map task."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import mrcelery
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.attempt.repair import mended
from mrcelery.attempt.run import run_attempt
from mrcelery.client.submission import Submission
from mrcelery.coordinator.barrier import barrier
from mrcelery.coordinator.finish import finish
from mrcelery.coordinator.start import start
from mrcelery.errors import CorruptDataError, DamagedPartError
from mrcelery.jobstore.memory import MemoryJobStore
from mrcelery.runners.enter import enter
from mrcelery.runners.inline import InlineRunner
from mrcelery.schema.structs import Commit, Extent, Split
from mrcelery.schema.task_id import StageId, TaskId

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
        """The lines of the results, and the counters of their group."""
        for number in range(2):
            run_attempt(self.runtime, TaskId(self.job, 0, "reduce", number))
        assert finish(self.runtime, self.job, 0) is None
        lines = [line for part in sorted(self.out.glob("part-*")) for line in part.read_text().splitlines()]
        report = self.runtime.open(self.job).storage.read(f"jobs/{self.job}/report.json")
        return sorted(lines), json.loads(report)["counters"]["lines"]


@pytest.fixture
def mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Mapped]:
    def make(partitioner: str = "hash", value: str = "1", slow: float = 0.0) -> Mapped:
        return Mapped(tmp_path, monkeypatch, partitioner, value, slow)

    return make


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x10
    path.write_bytes(data)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a flipped bit": flip,
    "cut off": cut_off,
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("partitioner", ["hash", "range"])
def test_a_damaged_part_is_made_again(mapped: Callable[..., Mapped], partitioner: str, how: str) -> None:
    job = mapped(partitioner)
    assert len(job.parts) == job.maps * (2 if partitioner == "hash" else 1)
    for part in job.parts[1:4]:
        DAMAGE[how](part)
    lines, counters = job.reduce()
    assert lines == DONE
    assert counters == {"mapped": 300}


def test_a_map_task_that_runs_again_is_not_stopped_by_its_commit(
    mapped: Callable[..., Mapped], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrcelery.attempt.heartbeat.POLL_SECONDS", 0.001)
    job = mapped(slow=0.002)
    flip(job.parts[0])
    assert job.reduce()[0] == DONE


def test_a_part_that_reads_wrong_once_is_read_again(mapped: Callable[..., Mapped], tmp_path: Path) -> None:
    job = mapped()
    part = job.parts[0]
    (tmp_path / "whole").write_bytes(part.read_bytes())
    flip(part)
    (tmp_path / "heals").write_text(str(part))
    before = sorted(part.parent.iterdir())
    assert job.reduce()[0] == DONE
    assert not (tmp_path / "met").exists()
    assert sorted(part.parent.iterdir()) == before  # the map did not run again


def test_a_run_that_comes_out_otherwise_is_no_repair(mapped: Callable[..., Mapped]) -> None:
    """In total order a piece is found by the index of the run that is damaged."""
    job = mapped("range", "int.from_bytes(os.urandom(4), 'big')")
    flip(job.parts[0])
    with pytest.raises(CorruptDataError, match="run again, wrote something else") as raised:
        job.reduce()
    assert not isinstance(raised.value, DamagedPartError)
    assert not raised.value.retryable


def test_a_task_that_runs_again_and_writes_nothing_is_no_repair() -> None:
    split = Split(0, (Extent("s3://b/part", 0, 9, 9, True),))
    nothing = Commit(
        job="j", step=0, kind="reduce", task=0, attempt="1", parts=(), counters={}, records_in=0,
        records_out=0, bytes_in=0, bytes_out=0, seconds=0.0, host="h",
    )  # fmt: skip
    with pytest.raises(CorruptDataError, match="s3://b/part is damaged, and its task, run again, wrote something else"):
        mended(split, "s3://b", "s3://b/part", nothing)


def test_more_damaged_parts_than_one_attempt_repairs(
    mapped: Callable[..., Mapped], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrcelery.attempt.run.MOST", 2)
    job = mapped("range")
    for part in job.parts[:3]:
        flip(part)
    with pytest.raises(DamagedPartError):
        job.reduce()


CHAIN = """
    from mrcelery import MRJob, MRStep

    class Chain(MRJob):
        def steps(self):
            return [
                MRStep(mapper=self.words, reducer=self.sums),
                MRStep(mapper=self.shorten),
                MRStep(mapper=self.firsts, reducer=self.sums),
            ]

        def words(self, _, line):
            self.increment_counter("lines", "mapped")
            for word in line.split():
                yield word, 1

        def sums(self, key, values):
            yield key, sum(values)

        def shorten(self, word, count):
            yield word[:2], count

        def firsts(self, word, count):
            yield word[:1], count
"""


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("deep", [False, True])
def test_damaged_output_of_an_earlier_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deep: bool, how: str
) -> None:
    """Of a reducer, and of a map-only step after it; deep: with what its own task would read again, and so on."""
    (tmp_path / "job.py").write_text(dedent(CHAIN))
    (tmp_path / "in.txt").write_text(TEXT)
    met: list[str] = []

    def damage(step: int, pattern: str) -> None:
        for path in sorted(tmp_path.glob(f"storage/jobs/*/step-{step}/{pattern}"))[:1]:
            DAMAGE[how](path)
            met.append(pattern)

    def damaging_start(runner: InlineRunner, job: str, queue: str) -> None:
        runtime = OpenJobs(runner.store, scratch=str(tmp_path / "scratch"))
        stage = start(runtime, job)
        while stage is not None:
            if (stage.id.step, stage.id.kind) == (1, "map"):
                damage(0, "reduce-*/part-*")
                if deep:
                    damage(0, "map-00001/part-*")
            if (stage.id.step, stage.id.kind) == (2, "map"):
                damage(1, "map-00001/part-*")
                if deep:
                    damage(0, "reduce-00001/part-*")
            for number in range(stage.tasks):
                run_attempt(runtime, stage.id.task_id(number))
            stage = (barrier if stage.then == "barrier" else finish)(runtime, job, stage.id.step)

    monkeypatch.setattr(InlineRunner, "start", damaging_start)
    with mrcelery.run(
        f"{tmp_path}/job.py", f"{tmp_path}/in.txt", f"{tmp_path}/out", runner="inline", reducers=2, split_size=2000,
        storage=f"{tmp_path}/storage",
    ) as handle:  # fmt: skip
        assert dict(handle) == {"a": 300, "b": 300, "c": 300, "d": 300, "e": 300}
        assert handle.counters()["lines"] == {"mapped": 300}
    assert len(met) == (4 if deep else 2)


@pytest.mark.parametrize("how", DAMAGE)
def test_a_run_whose_index_is_damaged_before_the_barrier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Its map task runs again: nobody has been told what to read yet."""
    stages: list[tuple[int, ...]] = []

    def damaged_once(runtime: OpenJobs, job: str, step: int) -> None:
        (run,) = tmp_path.glob("storage/jobs/*/step-0/map-00002/run.*")
        if how == "a flipped bit":
            run.write_bytes(run.read_bytes()[:-1] + b"?")
        else:
            DAMAGE[how](run)
        stage = barrier(runtime, job, step)
        assert stage.missing is not None
        stages.append(stage.missing)
        assert runtime.store.done(StageId(job, 0, "map")) == stage.tasks - 1
        for number in stage.missing:
            run_attempt(runtime, TaskId(job, 0, "map", number))
        barrier(runtime, job, step)

    job = Mapped(tmp_path, monkeypatch, "range", "1", 0.0, damaged_once)
    assert stages == [(2,)]
    lines, counters = job.reduce()
    assert lines == DONE
    assert counters == {"mapped": 300}


def test_a_storage_that_damages_each_run_is_no_place_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged_always(runtime: OpenJobs, job: str, step: int) -> None:
        for _ in range(2):
            for run in tmp_path.glob("storage/jobs/*/step-0/map-00002/run.*"):
                run.write_bytes(b"?")
            run_attempt(runtime, TaskId(job, 0, "map", barrier(runtime, job, step).missing[0]))  # type: ignore[index]
        for run in tmp_path.glob("storage/jobs/*/step-0/map-00002/run.*"):
            run.write_bytes(b"?")
        with pytest.raises(DamagedPartError, match=r"the index of jobs/.*/map-00002/run") as raised:
            barrier(runtime, job, step)
        assert not raised.value.retryable

    assert Mapped(tmp_path, monkeypatch, "range", "1", 0.0, damaged_always).maps > 2


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("kind", ["map", "reduce"])
def test_a_small_result_that_is_damaged_before_it_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, how: str
) -> None:
    """Its task runs again; one whose every result is damaged ends the job, with nothing published."""
    reducer = "def reducer(self, key, values): yield key, sum(values)" if kind == "reduce" else ""
    (tmp_path / "job.py").write_text(
        dedent(f"""
        from mrcelery import MRJob

        class Small(MRJob):
            def mapper(self, _, line):
                yield line, 1

            {reducer}
    """)
    )
    lines = [f"line {number:03d}" for number in range(100)]
    (tmp_path / "in.txt").write_text("\n".join(lines))
    runs: list[tuple[int, ...] | None] = []
    most = 1

    def damaging_start(runner: InlineRunner, job: str, queue: str) -> None:
        runtime = OpenJobs(runner.store, scratch=str(tmp_path / "scratch"))
        stage = start(runtime, job)
        while stage is not None:
            for number in range(stage.tasks) if stage.missing is None else stage.missing:
                run_attempt(runtime, stage.id.task_id(number))
            if stage.then == "finish":
                runs.append(stage.missing)
                if len(runs) <= most:
                    for path in tmp_path.glob(f"storage/jobs/{job}/step-0/{kind}-00000/part-*"):
                        DAMAGE[how](path)
            stage = (barrier if stage.then == "barrier" else finish)(runtime, job, stage.id.step)

    monkeypatch.setattr(InlineRunner, "start", damaging_start)
    settings: dict[str, Any] = {"runner": "inline", "storage": f"{tmp_path}/storage", "wants_results": True}
    with Submission.prepare(f"{tmp_path}/job.py", f"{tmp_path}/in.txt", **settings).submit() as handle:
        assert handle.wait().state == "succeeded"
        assert sorted(handle) == [(line, 1) for line in lines]
        assert handle.report().totals.tasks == (2 if kind == "reduce" else 1)
    assert runs == [None, (0,)]
    runs, most = [], 99
    with (
        pytest.raises(DamagedPartError, match=rf"{kind}-00000/part-00000.* (is damaged|is gone)") as raised,
        Submission.prepare(f"{tmp_path}/job.py", f"{tmp_path}/in.txt", **settings).submit(),
    ):
        pass
    assert not raised.value.retryable
    assert len(runs) == 3
    assert not list(tmp_path.glob("storage/jobs/*/report.json"))[1:]
