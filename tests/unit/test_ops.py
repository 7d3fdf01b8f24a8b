"""Declared reducers against the obvious computation, over any grouping and order of the values."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcelery import ops
from mrcelery.errors import CodecError
from mrcelery.ops import Op

INTS = st.lists(st.integers(), min_size=1)
FLOATS = st.lists(st.floats(-1e6, 1e6), min_size=1)
MIXED = st.lists(st.none() | st.integers(-5, 5) | st.text(max_size=2) | st.tuples(st.integers(0, 3)), min_size=1)


@st.composite
def grouped(draw: Any, values: Any, shuffled: bool = True) -> tuple[list[Any], list[list[Any]]]:
    """Some values, and the same values cut into groups, in another order where ``shuffled``."""
    given_values = draw(values)
    order = draw(st.permutations(given_values)) if shuffled else given_values
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(order) - 1)), max_size=5)))
    edges = [0, *(c for c in cuts if c < len(order)), len(order)]
    return given_values, [list(order[a:b]) for a, b in pairwise(edges)]


def folded(op: Op, groups: list[list[Any]], balanced: bool = False) -> Any:
    accs = []
    for first, *rest in groups:
        acc = op.create(first)
        for value in rest:
            acc = op.add(acc, value)
        accs.append(acc)
    while len(accs) > 1:
        if balanced:
            accs = [op.merge(*accs[i : i + 2]) if i + 1 < len(accs) else accs[i] for i in range(0, len(accs), 2)]
        else:
            accs[:2] = [op.merge(accs[0], accs[1])]
    assert is_native(accs[0])
    return op.result(accs[0])


def is_native(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(is_native, value))
    return value is None or type(value) in (bool, int, float, str, bytes, dict)


EXACT = [
    (ops.Sum(), INTS, sum),
    (ops.Count(), MIXED, len),
    (ops.Min(), INTS, min),
    (ops.Max(), INTS, max),
    (ops.Mean(), st.lists(st.integers(-(2**50), 2**50), min_size=1), lambda v: sum(v) / len(v)),
    (ops.TopK(3), INTS, lambda v: sorted(v, reverse=True)[:3]),
    (ops.TopK(2, by=1), st.lists(st.tuples(st.text(max_size=1), st.integers(0, 3)), min_size=1),
     lambda v: sorted(v, key=lambda p: (p[1], p[0]), reverse=True)[:2]),
    (ops.Distinct(), INTS, lambda v: sorted(set(v))),
    (ops.Distinct(), st.lists(st.lists(st.integers(0, 2), max_size=2), min_size=1),
     lambda v: [list(t) for t in sorted(set(map(tuple, v)))]),
    (ops.CountDistinct(), MIXED, lambda v: len(set(v))),
]  # fmt: skip


@pytest.mark.parametrize(("op", "values", "oracle"), EXACT, ids=lambda x: repr(x) if isinstance(x, Op) else "")
def test_any_order_and_grouping_gives_the_direct_result(op: Op, values: Any, oracle: Any) -> None:
    @given(grouped(values), st.booleans())
    def check(case: tuple[list[Any], list[list[Any]]], balanced: bool) -> None:
        direct, groups = case
        assert folded(op, groups, balanced) == oracle(direct)

    check()


@given(grouped(FLOATS), st.booleans())
def test_spread_of_floats_is_that_of_statistics(case: Any, balanced: bool) -> None:
    values, groups = case
    close = {"rel_tol": 1e-9, "abs_tol": 1e-3}
    assert math.isclose(folded(ops.Variance(), groups, balanced), statistics.pvariance(values), **close)
    assert math.isclose(folded(ops.StdDev(), groups, balanced) ** 2, statistics.pvariance(values), **close)
    sample = folded(ops.Variance(ddof=1), groups, balanced)
    assert sample is None if len(values) == 1 else math.isclose(sample, statistics.variance(values), **close)
    assert math.isclose(folded(ops.Mean(), groups, balanced), statistics.fmean(values), **close)


@given(grouped(MIXED, shuffled=False), st.booleans(), st.integers(1, 4))
def test_a_list_keeps_the_order_of_arrival(case: Any, balanced: bool, limit: int) -> None:
    values, groups = case
    assert folded(ops.CollectList(), groups, balanced) == values
    assert folded(ops.CollectList(limit), groups, balanced) == values[:limit]


@pytest.mark.parametrize("op", [ops.Sum(), ops.Min(), ops.Max()], ids=repr)
@given(st.integers(), st.integers())
def test_results_of_a_closed_op_are_values(op: Op, a: int, b: int) -> None:
    assert op.closed
    acc = op.add(op.create(a), b)
    assert op.create(acc) == op.result(acc) == acc


@pytest.mark.parametrize("op", [ops.Min(), ops.Max()], ids=repr)
def test_a_nan_wins_wherever_it_comes(op: Op) -> None:
    nan = math.nan
    for values in ([nan, 1.0, 2.0], [1.0, nan, 2.0], [1.0, 2.0, nan]):
        assert math.isnan(folded(op, [values]))
        assert math.isnan(folded(op, [[v] for v in values]))


@pytest.mark.parametrize("n", [1, 100, 1000])
def test_accumulators_stay_small_however_many_values_come(n: int) -> None:
    top, distinct = ops.TopK(5), ops.Distinct()
    a, b = top.create(0), distinct.create(0)
    longest = 0
    for i in range(n):
        a, b = top.add(a, i), distinct.add(b, i % 7)
        longest = max(longest, len(a), len(b))
    assert longest <= 200
    assert top.result(a) == sorted({0, *range(n)}, reverse=True)[:5] if n > 1 else [0, 0]
    assert distinct.result(b) == sorted({i % 7 for i in range(n)} | {0})


def test_ranks_by_a_function_a_key_and_with_values_that_have_no_order() -> None:
    rows = [{"n": i % 3, "id": i} for i in range(9)]
    expected = folded(ops.TopK(4, by="n"), [rows])
    assert [row["n"] for row in expected] == [2, 2, 2, 1]
    assert folded(ops.TopK(4, by=lambda row: row["n"]), [rows[::-1]]) == expected


def test_what_cannot_be_ranked_is_refused_by_name() -> None:
    with pytest.raises(CodecError, match="TopK cannot rank a value: NaN"):
        folded(ops.TopK(1), [[math.nan, 1.0]])
    with pytest.raises(CodecError, match="Distinct cannot order a value: a dict"):
        folded(ops.Distinct(), [[{}, {}]])
    with pytest.raises(TypeError):
        ops.Sum().create("text")


def test_ops_with_equal_parameters_are_equal_and_say_what_they_are() -> None:
    assert ops.TopK(3) == ops.TopK(3) != ops.TopK(4)
    assert ops.Variance() != ops.StdDev()
    assert hash(ops.Sum()) == hash(ops.Sum())
    assert repr(ops.TopK(3, by=1)) == "TopK(k=3, by=1)"


@pytest.mark.parametrize("make", [lambda: ops.TopK(0), lambda: ops.CollectList(0)])
def test_keeping_nothing_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="at least one"):
        make()
