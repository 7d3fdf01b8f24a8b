"""Arrow columns: their order, their bytes, the declared reducers on them, and whole stages that never leave them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mrcelery import MRJob, ops
from mrcelery.errors import CorruptDataError, UsageError
from mrcelery.records.blocks import Block, BlockWriter, read_blocks
from mrcelery.records.columns import (
    Keys,
    as_list,
    concat,
    hashes,
    is_array,
    of_table,
    order,
    pack,
    starts,
    take,
    unpack,
)
from mrcelery.records.hashing import stable_hash
from mrcelery.shuffle.runs import as_lists, joined, merge
from mrcelery.task.arrow_ops import UnfitError, accumulators, fold_of
from mrcelery.task.context import Task
from mrcelery.task.sink import Sink
from tests.support.stages import run_job

# Few letters, so that keys come twice, and a NUL, which fixed-size strings must not lose.
SHORT = st.lists(st.sampled_from([0, 1, 97, 255]), min_size=10, max_size=10).map(bytes)
KEYS = st.one_of(
    st.lists(SHORT, max_size=50).map(lambda keys: pa.array(keys, pa.binary(10))),
    st.lists(st.binary(max_size=3), max_size=50).map(lambda keys: pa.array(keys, pa.binary())),
    st.lists(st.text(max_size=3), max_size=50).map(lambda keys: pa.array(keys, pa.string())),
    st.lists(st.integers(-9, 9) | st.integers(-(2**63), 2**63 - 1), max_size=50).map(
        lambda keys: pa.array(keys, pa.int64())
    ),
)


@given(KEYS, st.integers(0, 3))
def test_keys_are_ordered_as_python_orders_them(keys: pa.Array, skipped: int) -> None:
    keys = keys[skipped:]
    plain = keys.to_pylist()
    positions = order(keys).tolist()
    assert positions == sorted(range(len(plain)), key=plain.__getitem__)  # stable
    ordered = take(keys, order(keys))
    assert ordered.to_pylist() == sorted(plain)
    begins = starts(ordered).tolist()
    assert begins == [i for i, key in enumerate(sorted(plain)) if i == 0 or sorted(plain)[i - 1] != key]
    assert list(Keys(ordered)) == sorted(plain)


@given(KEYS, st.integers(0, 3))
def test_a_key_has_one_hash_as_an_object_and_in_an_array(keys: pa.Array, skipped: int) -> None:
    keys = keys[skipped:]
    assert hashes(keys).tolist() == [stable_hash(key) for key in keys.to_pylist()]


@pytest.mark.parametrize("common", ["", "https://example.com/"])
def test_long_keys_are_ordered_too(common: str) -> None:
    """With few that begin alike, with many, and with zero bytes at the end, which a prefix does not show."""
    tails = ["a", "a\0", "", "a" * 8, "a" * 9]
    plain = [common + tail for i in range(200) for tail in (f"{i * 7919 % 200:09}-{i % 3}", *tails)]
    for keys in (pa.array(plain), pa.array([key.encode() for key in plain])):
        assert order(keys).tolist() == sorted(range(len(plain)), key=plain.__getitem__)


@given(KEYS, st.integers(0, 3))
def test_columns_read_back(keys: pa.Array, skipped: int) -> None:
    keys = keys[skipped:]
    kind = pa.struct([("a", pa.list_(pa.int64()))])
    values = pa.array([None if i % 3 else {"a": [i]} for i in range(len(keys))], kind)
    found = unpack(bytes(pack(keys, values)))
    assert [column.type for column in found] == [keys.type, values.type]
    assert [column.to_pylist() for column in found] == [keys.to_pylist(), values.to_pylist()]


def test_damaged_columns_are_refused() -> None:
    data = bytes(pack(pa.array(["a"]), pa.array([1])))
    with pytest.raises(CorruptDataError, match="cannot be read"):
        unpack(data[: len(data) // 2])


@pytest.mark.parametrize("compress", [False, True])
def test_a_block_file_holds_lists_and_arrays(compress: bool) -> None:
    written: list[bytes] = []

    class Out:
        def write(self, data: Any) -> None:
            written.append(bytes(data))

    writer = BlockWriter(Out(), compress=compress)
    keys = pa.array([f"key {i}" for i in range(100_000)])
    writer.write(["x", 1], [(1, 2), None])
    writer.write(keys, pa.array(range(100_000)))
    writer.close()
    assert writer.records == 100_002
    blocks = list(read_blocks(iter([b"".join(written)]), "file"))
    assert len(blocks) > 3  # cut into blocks of bounded size
    assert all(b.keys.nbytes + b.values.nbytes < 1 << 20 for b in blocks[1:])
    assert blocks[0] == Block(["x", 1], [(1, 2), None])
    both = joined(blocks[1:])
    assert both.keys.equals(keys)
    assert both.values.to_pylist() == list(range(100_000))


def test_tables_become_few_types() -> None:
    table = pa.table(
        {
            "k": pa.array(["b", "a"]).dictionary_encode(),
            "v": pa.chunked_array([pa.array([1], pa.int8()), pa.array([2], pa.int8())]),
        }
    )
    keys, values = of_table(table)
    assert (keys.type, values.type) == (pa.string(), pa.int64())
    assert (keys.to_pylist(), values.to_pylist()) == (["b", "a"], [1, 2])
    keys, values = of_table(pa.table({"k": pa.array([1.5, 1.0]), "v": [1, 2]}))
    assert (keys, values) == ([1.5, 1.0], [1, 2])  # 0.0 and -0.0 are one key to Python, and two to Arrow
    keys, values = of_table(pa.table({"k": pa.array(["a", None]), "v": [1, 2]}))
    assert (keys, values) == (["a", None], [1, 2])
    keys, _ = of_table(pa.table({"k": pa.array([2**64 - 1], pa.uint64()), "v": [1]}))
    assert keys == [2**64 - 1]
    with pytest.raises(UsageError, match="table of 1 columns"):
        of_table(pa.table({"k": [1]}))


@given(
    st.lists(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 5)), max_size=30), max_size=5),
    st.integers(1, 7),
)
def test_runs_of_arrays_merge_as_runs_of_lists_do(runs: list[list[tuple[str, int]]], size: int) -> None:
    runs = [sorted(run, key=lambda pair: pair[0]) for run in runs]

    def blocks(run: list[tuple[str, int]], arrays: bool) -> Any:
        for at in range(0, len(run), size):
            keys, values = [k for k, _ in run[at : at + size]], [v for _, v in run[at : at + size]]
            yield Block(pa.array(keys), pa.array(values)) if arrays else Block(keys, values)

    def merged(kinds: list[bool]) -> list[tuple[str, int]]:
        found = list(merge([blocks(run, kind) for run, kind in zip(runs, kinds, strict=True)]))
        if all(kinds):
            assert all(is_array(block.keys) for block in found)
        return [pair for keys, values in as_lists(iter(found)) for pair in zip(keys, values, strict=True)]

    want = sorted((pair for run in runs for pair in run), key=lambda pair: pair[0])
    assert merged([True] * len(runs)) == want
    assert merged([False] * len(runs)) == want
    assert merged([i % 2 == 0 for i in range(len(runs))]) == want


NUMBERS = st.one_of(
    st.lists(st.integers(-5, 5), min_size=1, max_size=20),
    st.lists(st.booleans(), min_size=1, max_size=20),
    st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=20),
    st.lists(st.floats(-1e6, 1e6).map(lambda x: x + 0.0), min_size=1, max_size=20),
)
FOLDS = [ops.Sum(), ops.Count(), ops.Min(), ops.Max(), ops.Mean(), ops.Variance(), ops.StdDev(ddof=1)]


@pytest.mark.parametrize("op", FOLDS, ids=repr)
@given(NUMBERS, st.data())
def test_ops_on_arrays_are_those_on_objects(op: ops.Op, values: list[Any], data: Any) -> None:
    keys = [data.draw(st.sampled_from("abc")) for _ in values]
    fold = fold_of(op)
    assert fold is not None
    cut = data.draw(st.integers(0, len(values)))
    try:
        halves = [
            fold.create(pa.array(keys[part], pa.string()), pa.array(values)[part])
            for part in (slice(0, cut), slice(cut, None))
        ]
        some, found = fold.merge(concat([k for k, _ in halves]), concat([v for _, v in halves]))
    except UnfitError:
        assume(False)
    plain: dict[str, Any] = {}
    for key, value in zip(keys, values, strict=True):
        plain[key] = op.add(plain[key], value) if key in plain else op.create(value)
    results = dict(zip(some.to_pylist(), as_list(fold.result(found)), strict=True))
    assert results.keys() == plain.keys()
    scale = float(max(map(abs, values))) ** (2 if type(op) is ops.Variance else 1)
    for key, result in results.items():
        if result is not None:
            assert result == pytest.approx(op.result(plain[key]), rel=1e-6, abs=1e-6 * scale)
        assert type(result) is type(op.result(plain[key]))
    # An accumulator that becomes an object goes on as one.
    again = dict(zip(some.to_pylist(), accumulators(found), strict=True))
    for key in plain:
        assert type(op.merge(again[key], op.create(values[0]))) is type(op.create(values[0]))


@pytest.mark.parametrize(
    ("op", "values"),
    [
        (ops.Sum(), [2**62, 2**62]),
        (ops.Sum(), [1, None]),
        (ops.Sum(), ["a", "b"]),
        (ops.Min(), [float("nan"), 1.0]),
        (ops.Max(), [0.0, -0.0]),
        (ops.Min(), [True, False]),
        (ops.Mean(), [2**63 - 1, 1]),
    ],
    ids=repr,
)
def test_what_arrays_cannot_hold_is_left_to_python(op: ops.Op, values: list[Any]) -> None:
    fold = fold_of(op)
    assert fold is not None
    with pytest.raises(UnfitError):
        fold.create(pa.array(["k"] * len(values)), pa.array(values))


class Tables(MRJob):
    """Each line is a table of pairs in JSON; a line of another kind gives pairs one by one."""

    def mapper_batch(self, lines: Any) -> Any:
        tables, pairs = [], []
        for line in lines:
            kind, rows = json.loads(line)
            if kind == "pairs":
                pairs += [tuple(row) for row in rows]
            elif rows:
                tables.append(pa.table({"key": [k for k, _ in rows], "value": [v for _, v in rows]}))
        assert not (tables and pairs)
        return pa.concat_tables(tables) if tables else pairs


class Summed(Tables):
    reducer = ops.Sum()


class Averaged(Tables):
    reducer = ops.Mean()


class Best(Tables):
    reducer = ops.TopK(2)


class Listed(Tables):
    def reducer(self, key: Any, values: Any) -> Any:
        yield key, list(values)


class Combined(Tables):
    def combiner(self, key: Any, values: Any) -> Any:
        yield key, sum(values)

    def reducer(self, key: Any, values: Any) -> Any:
        yield key, sum(values)


class Placed(Summed):
    def partition(self, key: Any, n: Any) -> Any:
        return len(key) % n


class Moved(Tables):
    reducer = ops.Identity()


ROWS = st.lists(st.tuples(st.sampled_from(["a", "b", "ccc", "d", "é"]), st.integers(-3, 3)), min_size=1, max_size=30)
INPUTS = st.lists(st.tuples(st.sampled_from(["pairs", "table"]), ROWS), min_size=1, max_size=4)


@pytest.mark.parametrize("job", [Summed, Averaged, Best, Listed, Combined, Placed, Moved])
@given(inputs=INPUTS, reducers=st.integers(1, 3), budget=st.sampled_from([100, 1 << 20]))
@settings(max_examples=25, deadline=None)
def test_tables_and_pairs_give_one_result(
    tmp_path_factory: pytest.TempPathFactory, job: type[Tables], inputs: Any, reducers: int, budget: int
) -> None:
    scratch = str(tmp_path_factory.getbasetemp() / "columns")
    results, tasks = run_job(job, [json.dumps(one) for one in inputs], scratch, reducers=reducers, budget=budget)
    values = defaultdict(list)
    for _, rows in inputs:
        for key, value in rows:
            values[key].append(value)
    found = [pair for part in results for pair in part]
    if job is Moved:
        assert sorted(found, key=lambda p: p[0]) == [(k, v) for k in sorted(values) for v in values[k]]
    else:
        functions: dict[type[Tables], Callable[[Any], Any]] = {
            Summed: sum,
            Combined: sum,
            Placed: sum,
            Listed: list,
            Best: lambda v: sorted(v, reverse=True)[:2],
            Averaged: lambda v: sum(v) / len(v),
        }
        made = functions[job]
        assert len(found) == len(values)
        assert dict(found) == {key: made(some) for key, some in values.items()}
    for part in results:
        assert [k for k, _ in part] == sorted(k for k, _ in part)
    maps = [task for task in tasks if task.id.kind == "map"]
    assert sum(task.records_out for task in maps) == sum(len(rows) for _, rows in inputs)
    reduces = [task for task in tasks if task.id.kind == "reduce"]
    assert sum(task.records_out for task in reduces) == len(found)


@pytest.mark.parametrize("first", ["pairs", "table"])
def test_objects_and_arrays_of_one_declared_reducer(tmp_path: Path, first: Any) -> None:
    """Pairs that are only counted, and a table that arrays cannot sum, whichever comes first."""

    class Both(Summed):
        def mapper_batch(self, lines: Any) -> Any:
            return chain([("a", 1), ("b", 1)], ()) if lines[0] == "pairs" else pa.table({"k": ["a"], "v": [2**63 - 1]})

        def mapper_final(self) -> Any:
            yield "a", 1

    class Twice(Both):
        def mapper_batch(self, lines: Any) -> Any:
            table = pa.table({"k": ["a", "a"], "v": [2**62, 2**62]})
            return table if lines[0] == "table" else super().mapper_batch(lines)

    for job, total in ((Both, 2**63), (Twice, 2**63 + 1)):
        results, _ = run_job(job, [first], str(tmp_path))
        assert dict(results[0]) == ({"a": total} if first == "table" else {"a": 2, "b": 1})


def test_sums_that_leave_64_bits_between_map_tasks_are_right(tmp_path: Path) -> None:
    inputs = [json.dumps(("table", [("a", 2**62), ("b", i)])) for i in range(5)]
    results, _ = run_job(Summed, inputs, str(tmp_path), budget=100)
    assert results == [[("a", 5 * 2**62), ("b", 10)]]


def test_columns_reach_the_reduce_side_as_columns(tmp_path: Path) -> None:
    seen = []

    class Looked(Summed):
        def mapper_batch(self, lines: Any) -> Any:
            return super().mapper_batch(lines)

    from mrcelery.task import reducer as stage

    give = stage._give

    def look(task: Task, sink: Sink, block: Block) -> None:
        seen.append(is_array(block.keys))
        give(task, sink, block)

    try:
        stage._give = look
        run_job(Looked, [json.dumps(("table", [("a", 1), ("b", 2)]))] * 3, str(tmp_path), reducers=2)
    finally:
        stage._give = give
    assert seen
    assert all(seen)
