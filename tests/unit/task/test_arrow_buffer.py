"""Whole stages that never leave Arrow columns, or leave them halfway."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcelery import MRJob, ops
from mrcelery.records.columns import (
    is_array,
)
from tests.support.stages import run_job

pa = pytest.importorskip("pyarrow")


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
    tmp_path_factory: pytest.TempPathFactory, job: type[MRJob], inputs: Any, reducers: int, budget: int
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
        makers: dict[type[MRJob], Callable[[Any], object]] = {
            Summed: sum,
            Combined: sum,
            Placed: sum,
            Listed: list,
            Best: lambda v: sorted(v, reverse=True)[:2],
            Averaged: lambda v: sum(v) / len(v),
        }
        made = makers[job]
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

    def looked(task: Any, sink: Any, block: Any) -> None:
        seen.append(is_array(block.keys))
        give(task, sink, block)

    try:
        stage._give = looked
        run_job(Looked, [json.dumps(("table", [("a", 1), ("b", 2)]))] * 3, str(tmp_path), reducers=2)
    finally:
        stage._give = give
    assert seen
    assert all(seen)
