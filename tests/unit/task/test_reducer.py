"""The reduce side: values in order, keys grouped as Python compares them."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from mrcelery import MRJob, ops
from mrcelery.errors import CodecError
from mrcelery.records.order import order_key
from tests.support.stages import Words, make_task, run_job


class Values(MRJob):
    """Every key's values as they arrive, for the order of values."""

    def mapper(self, _, line):
        key, value = line.split(",")
        yield key, int(value)

    def reducer(self, key, values):
        yield key, list(values)


@pytest.mark.parametrize("budget", [150, 1 << 20])
def test_values_come_in_order_of_map_task_and_of_emission(tmp_path, budget):
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
def test_sort_values_sorts_them_by_value(tmp_path, budget):
    inputs = ["\n".join(f"k,{(i * 7919 + m) % 1000}" for i in range(300)) for m in range(3)]
    results, _ = run_job(SortedValues, inputs, str(tmp_path), budget=budget)
    want = sorted(int(line.split(",")[1]) for text in inputs for line in text.split("\n"))
    assert results == [[("k", want)]]


class MixedKeys(MRJob):
    """Keys of all kinds, lists among them, through a combiner."""

    KEYS = [None, 1, 1.0, True, 2.5, "1", b"1", (1, "a"), [1, "a"], (1,), [[2], "x"], ()]

    def mapper(self, _, line):
        yield self.KEYS[int(line)], 1

    def combiner(self, key, ones):
        yield key, sum(ones)

    def reducer(self, key, ones):
        yield repr(order_key(key)), sum(ones)


class MixedKeysDeclared(MixedKeys):
    combiner = None
    reducer = ops.Sum()


@pytest.mark.parametrize("budget", [100, 1 << 20])
def test_keys_of_all_types_group_as_python_says(tmp_path, budget):
    numbers = [i * 5 % len(MixedKeys.KEYS) for i in range(240)]
    results, _ = run_job(MixedKeys, ["\n".join(map(str, numbers))] * 2, str(tmp_path), reducers=3, budget=budget)
    pairs = [pair for part in results for pair in part]
    want = Counter()
    for number in numbers * 2:
        key = MixedKeys.KEYS[number]
        want["one" if key in (1,) and not isinstance(key, (tuple, list)) else repr(order_key(key))] += 1
    got = Counter()
    for key, count in pairs:
        got["one" if key in {repr(order_key(k)) for k in (1, 1.0, True)} else key] += count
    assert got == want
    assert len(pairs) == len(want)


def test_unhashable_keys_fold_in_a_declared_reducer(tmp_path):
    class Lists(MRJob):
        def mapper(self, _, line):
            yield [line, {"a": 1}["a"]], 1

        reducer = ops.Sum()

    results, _ = run_job(Lists, ["x\ny\nx"] * 3, str(tmp_path), budget=150)
    assert results == [[(["x", 1], 6), (["y", 1], 3)]]


def test_fewer_runs_are_merged_at_once_where_memory_is_small(tmp_path):
    def fan_in(budget):
        return make_task(Words([]), "memory://m", "reduce", 0, 1, str(tmp_path), budget).fan_in

    assert fan_in(1 << 20) == 2
    assert fan_in(16 << 20) == 16
    assert fan_in(1 << 30) == 128


def test_values_without_an_order_cannot_be_sorted(tmp_path):
    class Sorted(Words):
        SORT_VALUES = True

        def mapper(self, _, line):
            yield line, {}

    with pytest.raises(CodecError, match="SORT_VALUES cannot order the values"):
        run_job(Sorted, ["a"], str(tmp_path))
