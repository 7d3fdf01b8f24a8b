"""Shuffle parts that are damaged or gone: read again, then made again by their map task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

import mrcelery
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.attempt.repair import mended
from mrcelery.attempt.run import run_attempt
from mrcelery.coordinator.barrier import barrier
from mrcelery.coordinator.finish import finish
from mrcelery.coordinator.start import start
from mrcelery.errors import CorruptDataError, DamagedPartError
from mrcelery.runners.inline import InlineRunner
from mrcelery.schema.structs import Commit, Extent, Part, Split
from mrcelery.shuffle.damage import damage
from tests.support.damaged_jobs import DAMAGE, DONE, TEXT, Mapped, flip


@pytest.fixture
def mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Mapped]:
    def make(partitioner: str = "hash", value: str = "1", slow: float = 0.0) -> Mapped:
        return Mapped(tmp_path, monkeypatch, partitioner, value, slow)

    return make


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


@pytest.mark.parametrize(
    ("error", "said"), [(FileNotFoundError("k"), "k is gone: "), (CorruptDataError("crc"), r"k is damaged \(crc\): ")]
)
def test_an_error_tells_what_is_gone_from_what_is_damaged(error: Exception, said: str) -> None:
    with pytest.raises(DamagedPartError, match=said), damage(Part(0, "k", 1, 1, 1)):
        raise error


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
