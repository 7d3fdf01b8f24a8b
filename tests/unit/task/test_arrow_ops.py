"""Declared reducers give the same results on Arrow columns as on objects."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mrcelery import ops
from mrcelery.records.columns import (
    as_list,
    concat,
)
from mrcelery.task.arrow_ops import UnfitError, accumulators, fold_of

pa = pytest.importorskip("pyarrow")

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
    # An accumulator that becomes an object can be merged as one.
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


def test_accumulators_in_lists_need_no_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # makes its import fail, as if it were not installed
    assert accumulators([[1, 2]]) == [[1, 2]]
