"""The order of keys is the same everywhere, forever."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from functools import cmp_to_key
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mrcelery.errors import CodecError
from mrcelery.records.hashing import stable_hash
from mrcelery.records.order import argsort, check_keys, order_key, starts_of_groups
from tests.support.keys import any_text, keys, moments, numbers


def rank(key: Any) -> int:
    """Return the place of the key's type in the documented order."""
    if key is None:
        return 0
    ordered: list[Any] = [(int, float, Decimal), str, bytes, datetime, date, (list, tuple)]
    for place, kinds in enumerate(ordered, 1):
        if isinstance(key, kinds):
            return {4: 5, 5: 4}.get(place, place)
    raise AssertionError(key)


def documented(a: Any, b: Any) -> int:
    """Compare two keys as the module's docstring says, in a second, independent implementation."""
    if rank(a) != rank(b):
        return rank(a) - rank(b)
    if a is None:
        return 0
    if isinstance(a, (list, tuple)):
        for x, y in zip(a, b, strict=False):
            if order := documented(x, y):
                return order
        if len(a) != len(b):
            return len(a) - len(b)
        return isinstance(a, tuple) - isinstance(b, tuple)
    if isinstance(a, str):
        a, b = list(map(ord, a)), list(map(ord, b))
    if isinstance(a, datetime) and (a.tzinfo is None) != (b.tzinfo is None):
        return -1 if a.tzinfo is None else 1
    return int(a > b) - int(a < b)


def sorted_places(column: list[Any]) -> list[int]:
    """Return the places of a column's values in the documented order, found with Python's own stable sort."""
    by = cmp_to_key(documented)
    return sorted(range(len(column)), key=lambda place: by(column[place]))


@given(keys, keys)
@example([1], (1,))
@example([1, 2], (1,))
@example(([1], 0), ((1,), 0))
@example("\ue000", "\U00010000")
@example(1 << 53, float((1 << 53) + 2))
@example((1 << 53) + 1, float(1 << 53))
@example(Decimal("0.1"), 0.1)
def test_order_key_is_the_documented_order(a: Any, b: Any) -> None:
    order = documented(a, b)
    assert (order_key(a) < order_key(b)) == (order < 0)
    assert (order_key(a) == order_key(b)) == (order == 0)
    assert (order_key(a) > order_key(b)) == (order > 0)


@given(st.lists(keys, max_size=12))
def test_argsort_is_a_stable_sort_in_that_order(column: list[Any]) -> None:
    check_keys(column)
    assert argsort(column) == sorted_places(column)


@given(st.lists(st.tuples(numbers, any_text), max_size=12) | st.lists(numbers) | st.lists(any_text) | st.lists(moments))
def test_argsort_where_python_compares_by_itself(column: list[Any]) -> None:
    check_keys(column)
    assert argsort(column) == sorted_places(column)


@given(st.lists(keys, max_size=8), st.data())
def test_groups_start_where_the_key_changes(distinct: list[Any], data: st.DataObject) -> None:
    repeated = [key for key in distinct for _ in range(data.draw(st.integers(1, 3)))]
    column = [repeated[i] for i in argsort(repeated)]
    assert starts_of_groups(column) == [i for i in range(1, len(column)) if column[i - 1] != column[i]]


@pytest.mark.parametrize("zone", [ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")])
def test_times_of_a_zone_with_rules_are_refused_and_their_utc_times_are_ordered(zone: ZoneInfo) -> None:
    """Python compares two times of one zone by their wall clocks, which show some times twice."""
    start = datetime(2026, 10, 24, 23, tzinfo=UTC)
    for day in (0, 7):  # the clock changes of Europe and America
        instants = [start + timedelta(days=day, minutes=20 * i) for i in range(36)]
        column = [instant.astimezone(zone) for instant in instants]
        for refuse in (check_keys, lambda keys: [stable_hash(key) for key in keys]):
            with pytest.raises(CodecError, match=r"use key.astimezone\(UTC\)"):
                refuse(column)
        column = [time.astimezone(timezone(time.utcoffset() or timedelta())) for time in column]
        check_keys(column)
        assert argsort(column[::-1]) == list(range(len(column)))[::-1]


NO_KEYS = [
    float("nan"),
    Decimal("nan"),
    Decimal("sNaN"),
    {1},
    frozenset({1}),
    {"a": 1},
    1j,
    object(),
    Fraction(1, 2),
    bytearray(b"a"),
    timedelta(1),
    Decimal("1E+999999999"),  # its digits would fill the memory
    datetime(2026, 11, 20, tzinfo=ZoneInfo("Europe/Berlin")),
]


# Ids without addresses: processes that share the tests must collect the same names.
@pytest.mark.parametrize("key", NO_KEYS, ids=lambda key: "object" if type(key) is object else repr(key))
@pytest.mark.parametrize("wrap", [lambda k: k, lambda k: (1, k), lambda k: [k], lambda k: ("a", ("b", k))])
def test_what_has_no_place_in_the_order_is_refused(key: Any, wrap: Any) -> None:
    for column in ([wrap(key)], [wrap(key)] * 2, [1.0, wrap(key)], [(1, 2), wrap(key)], ["a", wrap(key), 1]):
        with pytest.raises(CodecError) as refusal:
            check_keys(column)
        assert "\n" not in str(refusal.value)
    for function in (order_key, stable_hash):
        with pytest.raises(CodecError):
            function(wrap(key))


HUGE = {text: Decimal(text) for text in ("1E+5000", "-1E+5000", "1E-5000")} | {"10**5000": 10**5000}


@pytest.mark.parametrize("key", HUGE.values(), ids=HUGE)
def test_huge_numbers_are_keys_too(key: Any) -> None:
    check_keys([key])
    assert order_key(key) == order_key(key)
    assert stable_hash(key) == stable_hash(key)


@pytest.mark.parametrize("depth", [10, 40, 600, 5000])
def test_nested_keys_are_refused_before_they_are_too_deep_to_hash(depth: int) -> None:
    key: Any = 1
    for _ in range(depth):
        key = (key,)
    try:
        check_keys([key])
    except CodecError:
        assert depth > 40
        return
    stable_hash(key)
    argsort([key, 1])


FIRST = datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))  # before year 1 in UTC
LAST = datetime.max.replace(tzinfo=timezone(-timedelta(hours=1)))


@pytest.mark.parametrize("key", [FIRST, LAST], ids=["first", "last"])
def test_times_at_the_ends_of_the_calendar_are_keys_or_refused(key: datetime) -> None:
    try:
        check_keys([key])
    except CodecError:
        return
    stable_hash(key)
    order_key(key)
