"""The shuffle against Python's own stable sort, ``itertools.groupby`` and plain lists."""

from __future__ import annotations

import gc
import os
import random
import tracemalloc
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mrcelery.errors import CodecError, CorruptDataError
from mrcelery.records.blocks import BLOCK_RECORDS, Block
from mrcelery.records.columns import (
    is_array,
)
from mrcelery.records.order import order_key
from mrcelery.shuffle.runs import (
    Groups,
    Run,
    as_lists,
    merge,
    merge_many,
    packed,
    read_run_file,
    sorted_block,
    write_run_file,
)

Pair = tuple[Any, Any]

small_keys = st.integers(0, 6)
key_columns = st.sampled_from(
    [
        small_keys,
        st.sampled_from(["", "a", "b", "ab", "é", "\udc80"]),
        st.tuples(small_keys, st.sampled_from("ab")),
        st.sampled_from([0, 0.0, 1, True, 1.0, Decimal(1), 2.5]),
        st.sampled_from([None, 0, 1, "a", b"a", (1,), [1], (1, "a"), (1, None), [], ()]),
        st.sampled_from([date(2026, 1, 1), datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC), None]),
        st.just("the only key"),
    ]
)
pairs = key_columns.flatmap(
    lambda keys: st.lists(st.lists(st.tuples(keys, st.integers(0, 9)), max_size=30), max_size=6)
)


def in_order(records: list[Pair], sort_values: bool = False) -> list[Pair]:
    """Return the records in the order of Python's stable sort."""
    return sorted(records, key=order_key if sort_values else lambda pair: order_key(pair[0]))


def cut(records: list[Pair], size: Callable[[], int]) -> Run:
    """Yield sorted records as a run, in blocks of the sizes that ``size`` gives."""
    records = list(records)
    while records:
        n = size()
        block, records = records[:n], records[n:]
        yield Block([k for k, _ in block], [v for _, v in block])


def flat(run: Run) -> list[Pair]:
    records = []
    for keys, values in run:
        assert len(keys) == len(values) > 0
        records += list(zip(keys, values, strict=True))
    return records


def same(found: list[Pair], expected: list[Pair]) -> None:
    """Check that records are equal, and keys of the same types: 1 and 1.0 are one key, yet not the same."""
    assert found == expected
    assert [type(k) for k, _ in found] == [type(k) for k, _ in expected]


def numbered(runs: list[list[Pair]]) -> list[list[Pair]]:
    """Replace each value by its record's run and position, so that no swap goes unnoticed."""
    return [[(k, (r, i)) for i, (k, _) in enumerate(run)] for r, run in enumerate(runs)]


@given(pairs, st.integers(1, 5))
@example([[(1, 0), (1, 1)], [(1, 2)], [(0, 3), (1, 4), (2, 5)]], 1)
@example([[], [("a", 0)], []], 1)
@example([[([1], 0)], [((1,), 1)]], 1)
def test_merge_is_a_stable_sort_of_all_runs(runs: list[list[Pair]], size: int) -> None:
    runs = [in_order(run) for run in runs]
    runs = numbered(runs)
    merged = flat(merge(cut(run, lambda: size) for run in runs))
    same(merged, in_order([record for run in runs for record in run]))


@given(pairs, st.integers(1, 5))
def test_merge_with_sorted_values(runs: list[list[Pair]], size: int) -> None:
    runs = [in_order(run, sort_values=True) for run in runs]
    merged = flat(merge((cut(run, lambda: size) for run in runs), sort_values=True))
    same(merged, in_order([record for run in runs for record in run], sort_values=True))


@given(pairs, st.randoms())
def test_merge_of_blocks_of_any_size(runs: list[list[Pair]], rng: random.Random) -> None:
    runs = numbered([in_order(run) for run in runs])
    merged = flat(merge(cut(run, lambda: rng.randrange(1, 8)) for run in runs))
    same(merged, in_order([record for run in runs for record in run]))


@given(pairs, st.booleans())
def test_sorted_block_is_a_stable_sort(runs: list[list[Pair]], sort_values: bool) -> None:
    (records,) = numbered([[record for run in runs for record in run]])
    keys, values = sorted_block([k for k, _ in records], [v for _, v in records], sort_values)
    same(list(zip(keys, values, strict=True)), in_order(records, sort_values))


@pytest.mark.parametrize("bad", [float("nan"), {1}, {"a": 1}, object(), (1, {2})])
def test_keys_and_sorted_values_must_have_an_order(bad: Any) -> None:
    with pytest.raises(CodecError):
        sorted_block([bad, 1], [1, 2])
    with pytest.raises(CodecError):
        sorted_block([1, 1], [bad, 2], sort_values=True)
    assert sorted_block([1, 0], [bad, 2]) == Block([0, 1], [2, bad])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key_columns.flatmap(lambda keys: st.lists(st.lists(st.tuples(keys, st.just(0)), max_size=4), max_size=24)),
    st.integers(2, 5),
    st.booleans(),
)
def test_many_runs_merge_as_few_do(tmp_path: Path, runs: list[list[Pair]], fan_in: int, sort_values: bool) -> None:
    runs = [in_order(run, sort_values) for run in numbered(runs)]
    openers: list[Callable[[], Run]] = [partial(cut, run, lambda: 2) for run in runs]
    merged = flat(merge_many(openers, str(tmp_path), sort_values=sort_values, fan_in=fan_in))
    same(merged, flat(merge_many(openers, str(tmp_path), sort_values=sort_values, fan_in=1000)))
    same(merged, in_order([record for run in runs for record in run], sort_values))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("count", range(1, 30))
def test_no_more_runs_are_open_than_fan_in(tmp_path: Path, count: int) -> None:
    open_now = most = opened = 0

    def run(number: int) -> Run:
        nonlocal open_now, most, opened
        opened += 1
        open_now += 1
        most = max(most, open_now)
        yield Block([0, 1 + number], [number, number])
        open_now -= 1

    scratch = tmp_path / "made" / "where it is missing"
    merged = flat(merge_many([partial(run, i) for i in range(count)], str(scratch), fan_in=4))
    assert merged[:count] == [(0, i) for i in range(count)]
    assert most <= 4
    assert opened == count  # each run is read once
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_merge_that_is_left_leaves_no_open_file_and_no_scratch(tmp_path: Path) -> None:
    runs: list[Callable[[], Run]] = [partial(cut, [(i, 0), (100 + i, 0)], lambda: 1) for i in range(20)]
    merged = merge_many(runs, str(tmp_path), fan_in=3)
    next(merged)
    cast("Generator[Block]", merged).close()
    del merged
    gc.collect()
    assert os.listdir(tmp_path) == []
    assert not [target for target in open_files() if target.startswith(str(tmp_path))]


def open_files() -> Iterator[str]:
    for number in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        try:
            yield os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            pass  # the folder's own


@given(pairs, st.integers(1, 4))
def test_groups_are_those_of_the_whole(runs: list[list[Pair]], size: int) -> None:
    (records,) = numbered([in_order([record for run in runs for record in run])])
    groups = Groups(cut(records, lambda: size))
    found = []
    for key, values in groups:
        assert groups.key is key or groups.key == key
        found.append((key, list(values)))
    assert found == [(key, [v for _, v in group]) for key, group in groupby(records, lambda pair: pair[0])]
    assert groups.records == len(records)
    if size >= len(records):  # counts the groups it has seen begin, which in one block are all
        assert groups.groups == len(found)


TAKES: dict[str, Callable[[Iterator[Any], int], list[Any]]] = {
    "none": lambda values, n: [],
    "some": lambda values, n: list(islice(values, n)),
    "all": lambda values, n: list(values),
    "some in a loop that breaks": lambda values, n: [v for v, _ in zip(values, range(n), strict=False)],
    "some through a generator that is closed": lambda values, n: through(values, n),
    "some, then closed": lambda values, n: closed(values, n),
}


def through(values: Iterator[Any], n: int) -> list[Any]:
    def each() -> Generator[Any]:
        yield from values

    with closing(each()) as generator:
        return list(islice(generator, n))


def closed(values: Iterator[Any], n: int) -> list[Any]:
    found = list(islice(values, n))
    if hasattr(values, "close"):
        values.close()
    return found


@pytest.mark.parametrize("take", TAKES)
@given(runs=pairs, size=st.integers(1, 4), wanted=st.lists(st.integers(0, 5), min_size=1, max_size=8))
@example(runs=[[(0, 0)] * 9 + [(1, 0)] * 2], size=2, wanted=[1])
def test_each_key_comes_once_whatever_is_left_unread(
    take: str, runs: list[list[Pair]], size: int, wanted: list[int]
) -> None:
    (records,) = numbered([in_order([record for run in runs for record in run])])
    expected = [(key, [v for _, v in group]) for key, group in groupby(records, lambda pair: pair[0])]
    counts = [wanted[i % len(wanted)] for i in range(len(expected))]
    found: list[Pair] = []
    for key, values in Groups(cut(records, lambda: size)):
        assert len(found) < len(expected), f"{key!r} came again"
        found.append((key, TAKES[take](values, counts[len(found)])))
    limit = {"none": 0, "all": len(records)}.get(take)
    assert found == [
        (key, values[: n if limit is None else limit]) for (key, values), n in zip(expected, counts, strict=True)
    ]


def test_a_group_that_was_passed_gives_nothing_more() -> None:
    """As with ``itertools.groupby``: after its turn, a group gives no more than its own values."""
    records = [(key, i) for key in "abc" for i in range(5)]
    kept = list(Groups(cut(records, lambda: 2)))
    assert [key for key, _ in kept] == ["a", "b", "c"]
    for _, values in kept:
        assert len(list(values)) <= 5


def peak(function: Callable[[], object]) -> int:
    """Return the most bytes that were allocated while ``function`` ran."""
    gc.collect()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def blocks_of_one_key(blocks: int, number: int = 0) -> Run:
    """Make values that are distinct objects, of about 110 bytes each."""
    for i in range(blocks):
        yield Block(["key"] * 500, [f"{number} {i} {j}".ljust(60) for j in range(500)])


def count_values(run: Run) -> int:
    return sum(sum(1 for _ in values) for _, values in Groups(run))


def test_a_huge_key_is_streamed() -> None:
    """It takes the memory of a few blocks per run, however many the key has."""

    def consume(blocks: int) -> None:
        assert count_values(merge(blocks_of_one_key(blocks, i) for i in range(3))) == 3 * blocks * 500

    few, many = peak(lambda: consume(2)), peak(lambda: consume(30))
    assert many < 1.5 * few


def test_a_huge_key_goes_through_scratch_files_in_bounded_memory(tmp_path: Path) -> None:
    def consume(blocks: int) -> None:
        runs: list[Callable[[], Run]] = [partial(blocks_of_one_key, blocks, i) for i in range(5)]
        assert count_values(merge_many(runs, str(tmp_path), fan_in=2)) == 5 * blocks * 500

    few, many = peak(lambda: consume(10)), peak(lambda: consume(40))
    assert many < 1.5 * few


def test_many_keys_are_merged_in_bounded_memory() -> None:
    def run(blocks: int, number: int) -> Run:
        for i in range(blocks):
            yield Block([i * 500 + j for j in range(500)], [f"{number} {i} {j}".ljust(60) for j in range(500)])

    def consume(blocks: int) -> None:
        assert sum(1 for _ in Groups(merge(run(blocks, i) for i in range(3)))) == 500 * blocks

    few, many = peak(lambda: consume(3)), peak(lambda: consume(20))
    assert many < 1.5 * few


@given(st.lists(st.integers(1, 3 * BLOCK_RECORDS // 2), max_size=6))
def test_packed_joins_small_blocks(sizes: list[int]) -> None:
    at = 0
    run = []
    for size in sizes:
        run.append(Block(list(range(at, at + size)), [0] * size))
        at += size
    blocks = list(packed(iter(run)))
    assert [key for block in blocks for key in block.keys] == list(range(at))
    assert all(BLOCK_RECORDS <= len(block.keys) < 3 * BLOCK_RECORDS for block in blocks[:-1])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs)
def test_a_run_file_comes_back(tmp_path: Path, runs: list[list[Pair]]) -> None:
    records = in_order([record for run in runs for record in run])
    path = tmp_path / "run"
    write_run_file(str(path), cut(records, lambda: 3))
    same(flat(read_run_file(str(path))), records)
    assert path.exists()
    same(flat(read_run_file(str(path), remove=True)), records)
    assert not path.exists()


def test_a_run_within_a_file(tmp_path: Path) -> None:
    """Runs are sections of one file, as in a map task's spill."""
    whole, sections = b"", []
    for number in range(3):
        path = tmp_path / "section"
        write_run_file(str(path), cut([(number, i) for i in range(100)], lambda: 7))
        sections.append((len(whole), len(whole) + path.stat().st_size))
        whole += path.read_bytes()
    spill = tmp_path / "spill"
    spill.write_bytes(whole)
    for number, (start, end) in enumerate(sections):
        assert flat(read_run_file(str(spill), start, end)) == [(number, i) for i in range(100)]
    with pytest.raises(CorruptDataError):
        flat(read_run_file(str(spill), sections[1][0], sections[1][1] - 1))


def test_an_error_in_a_run_comes_through(tmp_path: Path) -> None:
    def broken() -> Run:
        yield Block([1], [1])
        raise CorruptDataError("damaged")

    runs: list[Callable[[], Run]] = [partial(cut, [(i, 0)], lambda: 1) for i in range(5)]
    for fan_in in (2, 100):
        with pytest.raises(CorruptDataError, match="damaged"):
            flat(merge_many([*runs, broken], str(tmp_path), fan_in=fan_in))


@given(
    st.lists(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 5)), max_size=30), max_size=5),
    st.integers(1, 7),
)
def test_runs_of_arrays_merge_as_runs_of_lists_do(runs: list[list[tuple[str, int]]], size: int) -> None:
    pa = pytest.importorskip("pyarrow")
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
