"""Calls of user code: their errors name their place, and the end of a job stops them."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest

from mrcelery import MRJob
from mrcelery.errors import JobStoppedError, UserCodeError
from mrcelery.schema.structs import Extent, ShuffleInput, Split
from mrcelery.storage import open_storage
from mrcelery.task.mapper import run_map
from mrcelery.task.reducer import run_reduce
from tests.support.stages import Words, make_task, run_job


def failing(where: Any) -> Any:
    def mapper(self: Any, _: Any, line: Any) -> Any:
        if where == "mapper" and line == "bad":
            raise ValueError("no good")
        yield line, 1

    def combiner(self: Any, key: Any, values: Any) -> Any:
        if where == "combiner" and key == "bad":
            raise ValueError("no good")
        yield key, sum(values)

    def reducer(self: Any, key: Any, values: Any) -> Any:
        if where == "reducer" and key == "bad":
            raise ValueError("no good")
        yield key, sum(values)

    return type("Failing", (MRJob,), {"mapper": mapper, "combiner": combiner, "reducer": reducer})


@pytest.mark.parametrize("where", ["mapper", "combiner", "reducer"])
def test_a_users_exception_tells_where(tmp_path: Path, where: str) -> None:
    with pytest.raises(UserCodeError, match="ValueError: no good") as caught:
        run_job(failing(where), ["one\ntwo\nbad\nthree"], str(tmp_path))
    error = caught.value
    assert error.record == "'bad'" or where == "combiner"
    assert f"in {where}" in error.traceback
    assert "mrcelery/task.py" not in error.traceback
    if where == "mapper":
        assert error.file.endswith("/in-0")
        assert error.offset == 8
    assert not error.retryable


@pytest.mark.parametrize("item", [1, None, ("a",), ("a", 1, 2)])
def test_what_is_no_pair_is_refused(tmp_path: Path, item: Any) -> None:
    class NoPair(MRJob):
        def mapper(self, _: Any, line: Any) -> Any:
            yield item

        def reducer(self, key: Any, values: Any) -> Any:
            yield key, 1

    with pytest.raises(UserCodeError, match=r"is not a \(key, value\) pair: yield key, value"):
        run_job(NoPair, ["x"], str(tmp_path))


def test_sys_exit_in_user_code_is_a_failure_and_no_exit(tmp_path: Path) -> None:
    class Exits(MRJob):
        def mapper(self, _: Any, line: Any) -> Any:
            raise SystemExit(3)
            yield

        def reducer(self, key: Any, values: Any) -> Any:
            yield key, 1

    with pytest.raises(UserCodeError, match="SystemExit: 3"):
        run_job(Exits, ["x"], str(tmp_path))


def test_a_hook_that_raises_stop_iteration_fails_the_job(tmp_path: Path) -> None:
    """It must not pass for the end of the records: the rest would be lost silently."""

    class First(Words):
        def mapper(self, _: Any, line: Any) -> Any:
            return [(next(iter(line.split())), 1)]

    with pytest.raises(UserCodeError) as raised:
        run_job(First, ["a b\n\nc d\n"], str(tmp_path))
    assert "next(iter(line.split()))" in raised.value.traceback
    assert (raised.value.offset, raised.value.record) == (4, "''")

    class Total(Words):
        def reducer(self, word: Any, counts: Any) -> Any:
            next(counts)
            return [(word, next(counts))]

    with pytest.raises(UserCodeError, match="StopIteration"):
        run_job(Total, ["a b b"], str(tmp_path))

    class Read:
        def read(self, line: Any) -> Any:
            return next(iter(())), line

        write = None

    class Reading(Words):
        INPUT_PROTOCOL = Read

    with pytest.raises(UserCodeError, match="StopIteration"):
        run_job(Reading, ["a"], str(tmp_path))


@pytest.mark.parametrize("kind", ["map", "reduce"])
@pytest.mark.parametrize("yields", [True, False])
def test_slow_user_code_is_stopped_soon(
    tmp_path: Path, kind: str, yields: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job's end is noticed after about one slice of time, whatever the hooks yield."""
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    ended_at = 20.0

    def slow(self: Any, key: Any, value: Any) -> Any:
        clock[0] += 1.0
        if yields:
            yield str(value)[:0], 1

    def quick(self: Any, _: Any, line: Any) -> Any:
        yield line, 1

    class Slow(MRJob):
        mapper = slow if kind == "map" else quick
        if kind == "reduce":
            reducer = slow

    def poll() -> Any:
        if clock[0] > ended_at:
            raise JobStoppedError("job job has ended")

    root = f"memory://{secrets.token_hex(8)}"
    # Twenty runs of 500 keys, and as many reduce groups per block.
    data = "".join(f"{i:06}\n" for i in range(10_000)).encode()
    open_storage(root).write("in", data)
    task = make_task(Slow([]), root, "map", 0, 0 if kind == "map" else 1, str(tmp_path), 1 << 20)
    extent = Extent(f"{root}/in", 0, len(data), len(data))
    if kind == "map":
        task.poll = poll
        with pytest.raises(JobStoppedError):
            run_map(task, Split(0, (extent,)))
    else:
        parts = run_map(task, Split(0, (extent,)))
        task = make_task(Slow([]), root, "reduce", 0, 1, str(tmp_path), 1 << 20)
        task.poll = poll
        with pytest.raises(JobStoppedError):
            run_reduce(task, ShuffleInput(partition=0, parts=parts))
    if kind == "map" or yields:
        assert clock[0] <= ended_at + 16
    else:
        assert clock[0] < 10_000  # with a reducer that yields nothing, it is noticed block by block


def test_fewer_runs_are_merged_at_once_where_memory_is_small(tmp_path: Path) -> None:
    def fan_in(budget: Any) -> Any:
        return make_task(Words([]), "memory://m", "reduce", 0, 1, str(tmp_path), budget).fan_in

    assert fan_in(1 << 20) == 2
    assert fan_in(16 << 20) == 16
    assert fan_in(1 << 30) == 128
