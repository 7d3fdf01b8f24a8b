"""The map and reduce stages by themselves, with budgets so small that everything spills."""

from __future__ import annotations

import json
import secrets
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcelery import MRJob, ops
from mrcelery.errors import CodecError, JobStoppedError, UserCodeError
from mrcelery.job.hooks import hooks
from mrcelery.protocols import JSONProtocol
from mrcelery.records.hashing import hash_partition
from mrcelery.records.order import order_key
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


class Declared(MRJob):
    mapper = Words.mapper
    reducer = ops.Sum()


class Encoded(Combined):
    INTERNAL_PROTOCOL = JSONProtocol


class EncodedOp(Words):
    INTERNAL_PROTOCOL = JSONProtocol
    combiner = ops.Sum()


WORDS = ["ab", "c", "dé", "中", "😀", "x0", "x1", "x2", "x3", "x4"]
texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=60), max_size=4)


class Sometimes(Words):
    """Words that count one, but for those that begin with an x."""

    def mapper(self, _: Any, line: Any) -> Any:
        for word in line.split():
            yield word, int(word[1:]) if word[0] == "x" else 1


class SometimesCombined(Sometimes):
    combiner = Combined.combiner


class SometimesDeclared(Sometimes):
    reducer = ops.Sum()  # type: ignore[assignment]


@pytest.mark.parametrize("job", [Combined, Declared, SometimesCombined, SometimesDeclared])
@pytest.mark.parametrize("budget", [200, 2000, 1 << 20])
@pytest.mark.parametrize("tail", ["", "x1 x3 x1 "])
def test_what_is_counted_is_not_lost(tmp_path: Path, job: type[MRJob], budget: int, tail: str) -> None:
    """Many of few words, and of so many that the buffer is full of them; then pairs of another value."""
    inputs = ["a b a\n" * 2000 + tail * 3 + "a c", " ".join(f"w{i % 400}" for i in range(5000)) + "\n" + tail]
    results, _ = run_job(job, inputs, str(tmp_path), reducers=2, budget=budget)
    want: Counter[str] = Counter()
    for text in inputs:
        for word in text.split():
            want[word] += int(word[1:]) if word[0] == "x" and job.__name__.startswith("Sometimes") else 1
    assert dict(pair for part in results for pair in part) == want


@pytest.mark.parametrize("job", [Words, Combined, Declared, Encoded, EncodedOp])
@given(words=texts, reducers=st.integers(1, 5), budget=st.sampled_from([200, 1000, 1 << 20]))
@settings(max_examples=15, deadline=None)
def test_counts_equal_a_counter_whatever_spills(
    tmp_path_factory: pytest.TempPathFactory, job: type[MRJob], words: list[str], reducers: int, budget: int
) -> None:
    scratch = str(tmp_path_factory.getbasetemp() / "scratch")
    results, tasks = run_job(
        job,
        ["\n".join(" ".join(w[i : i + 7]) for i in range(0, len(w), 7)) for w in words],
        scratch,
        reducers=reducers,
        budget=budget,
    )
    want = Counter(word for w in words for word in w)
    assert dict(pair for part in results for pair in part) == want
    assert sum(len(part) for part in results) == len(want)
    if job not in (Encoded, EncodedOp):
        for r, part in enumerate(results):
            keys = [key for key, _ in part]
            assert keys == sorted(keys)
            assert all(hash_partition(key, reducers) == r for key in keys)
    assert sum(t.records_out for t in tasks if t.id.kind == "map") == sum(want.values())


def test_a_small_budget_really_spills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mrcelery.task import map_buffer

    spilled = []
    spill = map_buffer.MapBuffer._spill

    def counted(self: map_buffer.MapBuffer, block: Any) -> Any:
        spilled.append(1)
        return spill(self, block)

    monkeypatch.setattr(map_buffer.MapBuffer, "_spill", counted)
    text = "\n".join(f"w{i % 500}" for i in range(5000))
    results, _ = run_job(Words, [text], str(tmp_path), budget=5000)
    assert len(spilled) > 5
    assert len(results[0]) == 500
    assert list(tmp_path.iterdir()) == []


class Values(MRJob):
    """Every key's values as they arrive, for the order of values."""

    def mapper(self, _: Any, line: Any) -> Any:
        key, value = line.split(",")
        yield key, int(value)

    def reducer(self, key: Any, values: Any) -> Any:
        yield key, list(values)


@pytest.mark.parametrize("budget", [150, 1 << 20])
def test_values_come_in_order_of_map_task_and_of_emission(tmp_path: Path, budget: int) -> None:
    inputs = ["\n".join(f"{'abc'[(i * 7 + m) % 3]},{m * 1000 + i}" for i in range(200)) for m in range(4)]
    want = defaultdict(list)
    for text in inputs:
        for line in text.split("\n"):
            key, value = line.split(",")
            want[key].append(int(value))
    results, _ = run_job(Values, inputs, str(tmp_path), reducers=2, budget=budget)
    assert dict(pair for part in results for pair in part) == want


class SortedValues(Values):
    SORT_VALUES = True


@pytest.mark.parametrize("budget", [150, 1 << 20])
def test_sort_values_sorts_them_by_value(tmp_path: Path, budget: int) -> None:
    inputs = ["\n".join(f"k,{(i * 7919 + m) % 1000}" for i in range(300)) for m in range(3)]
    results, _ = run_job(SortedValues, inputs, str(tmp_path), budget=budget)
    want = sorted(int(line.split(",")[1]) for text in inputs for line in text.split("\n"))
    assert results == [[("k", want)]]


class MixedKeys(MRJob):
    """Keys of all kinds, lists among them, through a combiner."""

    KEYS = [None, 1, 1.0, True, 2.5, "1", b"1", (1, "a"), [1, "a"], (1,), [[2], "x"], ()]

    def mapper(self, _: Any, line: Any) -> Any:
        yield self.KEYS[int(line)], 1

    def combiner(self, key: Any, ones: Any) -> Any:
        yield key, sum(ones)

    def reducer(self, key: Any, ones: Any) -> Any:
        yield repr(order_key(key)), sum(ones)


class MixedKeysDeclared(MixedKeys):
    combiner = None  # type: ignore[assignment]
    reducer = ops.Sum()  # type: ignore[assignment]


@pytest.mark.parametrize("budget", [100, 1 << 20])
def test_keys_of_all_types_group_as_python_says(tmp_path: Path, budget: int) -> None:
    numbers = [i * 5 % len(MixedKeys.KEYS) for i in range(240)]
    results, _ = run_job(MixedKeys, ["\n".join(map(str, numbers))] * 2, str(tmp_path), reducers=3, budget=budget)
    pairs = [pair for part in results for pair in part]
    want: Counter[str] = Counter()
    for number in numbers * 2:
        key = MixedKeys.KEYS[number]
        want["one" if key in (1,) and not isinstance(key, (tuple, list)) else repr(order_key(key))] += 1
    got: Counter[str] = Counter()
    for key, count in pairs:
        got["one" if key in {repr(order_key(k)) for k in (1, 1.0, True)} else key] += count
    assert got == want
    assert len(pairs) == len(want)


def test_unhashable_keys_fold_in_a_declared_reducer(tmp_path: Path) -> None:
    class Lists(MRJob):
        def mapper(self, _: Any, line: Any) -> Any:
            yield [line, {"a": 1}["a"]], 1

        reducer = ops.Sum()

    results, _ = run_job(Lists, ["x\ny\nx"] * 3, str(tmp_path), budget=150)
    assert results == [[(["x", 1], 6), (["y", 1], 3)]]


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


def test_a_users_partition_decides(tmp_path: Path) -> None:
    class ByLength(Words):
        def partition(self, key: Any, n: Any) -> Any:
            return len(key) % n

    results, _ = run_job(ByLength, ["a bb ccc dddd bb"], str(tmp_path), reducers=2)
    assert results == [[("bb", 2), ("dddd", 1)], [("a", 1), ("ccc", 1)]]


@pytest.mark.parametrize("answer", [2, -1, "0", None, 0.0, True])
def test_a_partition_out_of_range_is_refused(tmp_path: Path, answer: Any) -> None:
    class Wrong(Words):
        def partition(self, key: Any, n: Any) -> Any:
            return answer

    with pytest.raises(UserCodeError, match=r"partition\('a', 2\) returned .*: return an int from 0 to 1"):
        run_job(Wrong, ["a"], str(tmp_path), reducers=2)


def failing(where: str) -> type[MRJob]:
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

    with pytest.raises(UserCodeError, match=r"is no \(key, value\) pair: yield key, value"):
        run_job(NoPair, ["x"], str(tmp_path))


def test_a_value_no_codec_takes_is_refused_by_name(tmp_path: Path) -> None:
    class Strange(MRJob):
        def mapper(self, _: Any, line: Any) -> Any:
            yield line, object()

        def reducer(self, key: Any, values: Any) -> Any:
            yield key, 1

    with pytest.raises(CodecError, match="no codec takes a value of type object"):
        run_job(Strange, ["x"], str(tmp_path))


@pytest.mark.parametrize("key", [float("nan"), frozenset({1}), {"a": 1}])
@pytest.mark.parametrize("with_combiner", [False, True])
def test_what_cannot_be_a_key_is_refused(tmp_path: Path, key: Any, with_combiner: bool) -> None:
    class Strange(MRJob):
        def mapper(self, _: Any, line: Any) -> Any:
            yield key, 1

        def reducer(self, key: Any, values: Any) -> Any:
            yield None, 1

        if with_combiner:

            def combiner(self, key: Any, values: Any) -> Any:
                yield key, 1

    with pytest.raises(CodecError, match="cannot be a key"):
        run_job(Strange, ["x"], str(tmp_path), reducers=2)


def test_sys_exit_in_user_code_is_a_failure_and_no_exit(tmp_path: Path) -> None:
    class Exits(MRJob):
        def mapper(self, _: Any, line: Any) -> Any:
            raise SystemExit(3)
            yield

        def reducer(self, key: Any, values: Any) -> Any:
            yield key, 1

    with pytest.raises(UserCodeError, match="SystemExit: 3"):
        run_job(Exits, ["x"], str(tmp_path))


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


class Reused(MRJob):
    """Goes on with what it has yielded, as user code may."""

    def mapper_init(self) -> Any:
        self.record: dict[str, Any] = {"words": [], "last": None}
        self.pair: list[Any] = ["all", 0]

    def mapper(self, _: Any, line: Any) -> Any:
        for word in line.split():
            self.record["words"].append(word)
            self.record["last"] = word
            yield "records", self.record
            yield ["key", self.record["words"]], 1
            yield "tuples", (word, self.record["words"])
            self.pair[1] += 1
            yield self.pair

    def mapper_final(self) -> Any:
        yield "final", self.record["words"]
        self.record["words"].clear()

    def reducer(self, key: Any, values: Any) -> Any:
        values = list(values)
        yield key, values
        values.clear()


REUSED = [
    (["key", ["a"]], [1]),
    (["key", ["a", "b"]], [1]),
    ("all", [1, 2]),
    ("final", [["a", "b"]]),
    ("records", [{"words": ["a"], "last": "a"}, {"words": ["a", "b"], "last": "b"}]),
    ("tuples", [["a", ["a"]], ["b", ["a", "b"]]]),
]


@pytest.mark.parametrize("protocol", [None, JSONProtocol])
@pytest.mark.parametrize("with_combiner", [False, True])
def test_what_is_yielded_counts_as_it_was_then(tmp_path: Path, protocol: Any, with_combiner: bool) -> None:
    class Job(Reused):
        INTERNAL_PROTOCOL = OUTPUT_PROTOCOL = protocol
        if with_combiner:

            def combiner(self, key: Any, values: Any) -> Any:
                self.kept = list(values)
                for value in self.kept:
                    yield key, value
                self.kept.clear()

    ((pairs,), _) = run_job(Job, ["a b"], str(tmp_path))
    assert sorted(pairs, key=repr) == sorted(REUSED, key=repr)


def test_collected_values_count_as_they_were(tmp_path: Path) -> None:
    class Job(MRJob):
        record: dict[str, Any]
        mapper_init = Reused.mapper_init

        def mapper(self, _: Any, line: Any) -> Any:
            self.record["words"].append(line)
            yield "k", self.record["words"]

        reducer = ops.CollectList()

    assert run_job(Job, ["a\nb"], str(tmp_path))[0] == [[("k", [["a"], ["a", "b"]])]]


def test_a_hook_that_raises_stop_iteration_fails_the_job(tmp_path: Path) -> None:
    """It must not pass for the end of the records: those after it would be lost without a word."""

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
    tmp_path: Path, kind: Any, yields: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that has ended is noticed after about a slice of time, whatever the hooks yield."""
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    ended_at = 20.0

    def slow(self: Any, key: Any, value: Any) -> Any:
        clock[0] += 1.0
        if yields:
            yield str(value)[:0], 1

    class Slow(MRJob):
        if kind == "map":
            mapper = slow
        else:

            def mapper(self, _: Any, line: Any) -> Any:  # type: ignore[misc]
                yield line, 1

            reducer = slow

    def poll() -> None:
        if clock[0] > ended_at:
            raise JobStoppedError("job job has ended")

    root = f"memory://{secrets.token_hex(8)}"
    # Twenty runs of 500 keys, as many reduce groups to a block.
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
        assert clock[0] < 10_000  # a reducer that yields nothing is looked after block by block


def test_fewer_runs_are_merged_at_once_where_memory_is_small(tmp_path: Path) -> None:
    def fan_in(budget: int) -> Any:
        return make_task(Words([]), "memory://m", "reduce", 0, 1, str(tmp_path), budget).fan_in

    assert fan_in(1 << 20) == 2
    assert fan_in(16 << 20) == 16
    assert fan_in(1 << 30) == 128


def test_a_scratch_folder_that_is_full_is_no_error_of_the_users(tmp_path: Path) -> None:
    """The reducer draws on a merge that cannot write its files."""
    scratch = tmp_path / "scratch"
    scratch.write_text("a file, where a folder should be")
    with pytest.raises(FileExistsError):
        run_job(Words, ["a b", "b c", "c d"], str(scratch))


def test_values_without_an_order_cannot_be_sorted(tmp_path: Path) -> None:
    class Sorted(Words):
        SORT_VALUES = True

        def mapper(self, _: Any, line: Any) -> Any:
            yield line, {}

    with pytest.raises(CodecError, match="SORT_VALUES cannot order the values"):
        run_job(Sorted, ["a"], str(tmp_path))
