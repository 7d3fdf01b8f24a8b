"""The order of keys and their partitions: the same everywhere, for ever."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cmp_to_key
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mrcelery.errors import CodecError
from mrcelery.records.hashing import hash_partition, partition_numbers, stable_hash
from mrcelery.records.order import argsort, check_keys, order_key, starts_of_groups

any_text = st.text(st.characters(codec=None, exclude_categories=()))
numbers = (
    st.integers()
    | st.integers(-4, 4)
    | st.floats(allow_nan=False)
    | st.sampled_from([0.0, -0.0, 1.0, 2.5, 1e300, math.inf, -math.inf, 5e-324])
    | st.decimals(allow_nan=False, min_value=-(10**30), max_value=10**30)
    | st.sampled_from(list(map(Decimal, ("1", "1.0", "2.50", "Infinity", "1E+3", "0.1"))))
    | st.booleans()
)
zones = st.sampled_from([None, UTC, timezone(timedelta(hours=2)), timezone(-timedelta(hours=5, minutes=30))])
moments = st.builds(
    lambda day, hour, zone: datetime(2026, 3, 1 + day, hour, tzinfo=zone),
    st.integers(0, 2),
    st.integers(0, 23),
    zones,
)
days = st.dates(date(2026, 2, 27), date(2026, 3, 4))
scalars = st.none() | numbers | any_text | st.binary() | days | moments
keys = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple), max_leaves=5
)


def rank(key: Any) -> int:
    """Place of the key's type in the documented order."""
    if key is None:
        return 0
    order: list[tuple[type, ...]] = [(int, float, Decimal), (str,), (bytes,), (datetime,), (date,), (list, tuple)]
    for place, kinds in enumerate(order, 1):
        if isinstance(key, kinds):
            return {4: 5, 5: 4}.get(place, place)
    raise AssertionError(key)


def documented(a: Any, b: Any) -> int:
    """Three-way comparison as the module's docstring tells it, written down once more."""
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


def by_documented_order(column: list[Any]) -> list[int]:
    """The positions of a column's values in the documented order, equal ones as they stand."""

    def compare(i: int, j: int) -> int:
        return documented(column[i], column[j])

    return sorted(range(len(column)), key=cmp_to_key(compare))


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
    assert argsort(column) == by_documented_order(column)


@given(st.lists(st.tuples(numbers, any_text), max_size=12) | st.lists(numbers) | st.lists(any_text) | st.lists(moments))
def test_argsort_where_python_compares_by_itself(column: list[Any]) -> None:
    check_keys(column)
    assert argsort(column) == by_documented_order(column)


@given(st.lists(keys, max_size=8), st.data())
def test_groups_start_where_the_key_changes(distinct: list[Any], data: st.DataObject) -> None:
    repeated = [key for key in distinct for _ in range(data.draw(st.integers(1, 3)))]
    column = [repeated[i] for i in argsort(repeated)]
    assert starts_of_groups(column) == [i for i in range(1, len(column)) if column[i - 1] != column[i]]


@pytest.mark.parametrize("zone", [ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")])
def test_times_of_a_zone_with_rules_are_refused_and_their_utc_times_are_ordered(zone: ZoneInfo) -> None:
    """Python compares two times of one zone by what the clock shows, which repeats itself."""
    start = datetime(2026, 10, 24, 23, tzinfo=UTC)
    for day in (0, 7):  # Europe's change, and America's
        instants = [start + timedelta(days=day, minutes=20 * i) for i in range(36)]
        column = [instant.astimezone(zone) for instant in instants]
        for refuse in (check_keys, lambda keys: [stable_hash(key) for key in keys]):
            with pytest.raises(CodecError, match=r"use key.astimezone\(UTC\)"):
                refuse(column)
        column = [time.astimezone(timezone(time.utcoffset() or timedelta())) for time in column]
        check_keys(column)
        assert argsort(column[::-1]) == list(range(len(column)))[::-1]


EQUAL = [
    [1, 1.0, True, Decimal(1), Decimal("1.00")],
    [0, 0.0, -0.0, False, Decimal(0), Decimal("-0")],
    [2.5, Decimal("2.5"), Decimal("2.500")],
    [10**30, Decimal("1E+30"), Decimal(10**30)],
    [int(1e30), 1e30, Decimal.from_float(1e30)],
    [1 << 70, float(1 << 70), Decimal(1 << 70)],
    [math.inf, Decimal("Infinity")],
    [Decimal("0.1"), Decimal("0.10")],
    [Decimal.from_float(0.1), 0.1],
    [(1, "a"), (1.0, "a"), (True, "a")],
    [datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 14, tzinfo=timezone(timedelta(hours=2)))],
]


@pytest.mark.parametrize("group", EQUAL, ids=lambda group: repr(group[0]))
def test_equal_keys_are_one_key(group: list[Any]) -> None:
    assert all(key == group[0] for key in group)
    assert len({stable_hash(key) for key in group}) == 1
    assert len(set(map(order_key, group))) == 1


@given(keys, keys)
@example(1 << 60, float(1 << 60))
def test_what_python_holds_equal_hashes_alike(a: Any, b: Any) -> None:
    if a == b:
        assert stable_hash(a) == stable_hash(b)
    assert stable_hash(a) == stable_hash(a)


@given(st.floats(allow_nan=False) | st.decimals(allow_nan=False, min_value=-(10**40), max_value=10**40))
def test_numbers_hash_alike_whatever_their_type(number: Any) -> None:
    exact = Decimal(number)  # of all digits, whatever the context
    assert stable_hash(exact) == stable_hash(number)
    if abs(number) != math.inf and number == int(number):
        assert stable_hash(int(number)) == stable_hash(number)
    if float(exact) == exact:
        assert stable_hash(float(exact)) == stable_hash(number)


def test_hashes_do_not_depend_on_the_decimal_context() -> None:
    key = Decimal("1.234567890123456789012345678901234567890")
    before = stable_hash(key), stable_hash(key + 0)
    with localcontext() as context:
        context.prec = 3
        assert stable_hash(key) == before[0]


class Name(str):
    """As ``numpy.str_``: equal to a str, and stored as one."""

    __slots__ = ()


def test_a_string_of_a_derived_type_hashes_as_the_string() -> None:
    assert Name("a") == "a"
    assert stable_hash(Name("a")) == stable_hash("a")
    assert list(partition_numbers([Name("a"), "a"], 1000)) == [hash_partition("a", 1000)] * 2


@given(st.lists(keys, max_size=10) | st.lists(any_text) | st.lists(st.binary()), st.integers(1, 50))
def test_many_partition_numbers_are_those_of_each(column: list[Any], n: int) -> None:
    assert list(partition_numbers(column, n)) == [hash_partition(key, n) for key in column]
    assert all(0 <= number < n for number in partition_numbers(column, n))


# Written down once and never to be changed: jobs in flight and part files on disk rely on them.
GOLDEN = [
    (None, 2013832146),
    ("", 0),
    ("a", 3904355907),
    ("Größe", 2490273813),
    ("\udcff", 3394095495),
    (b"", 0),
    (b"a", 3904355907),
    (0, 3544183485),
    (1, 2755183147),
    (-1, 3383980904),
    (10**30, 3571949234),
    (True, 2755183147),
    (2.5, 3686819860),
    (-math.inf, 4040090288),
    (Decimal("0.1"), 2528779332),
    (date(2026, 11, 20), 1363061661),
    (datetime(2026, 11, 20, 12), 2282819954),
    (datetime(2026, 11, 20, 12, tzinfo=timezone(timedelta(hours=2))), 561360665),
    ((), 4110462503),
    (("a", 1), 588963297),
    (["a", 1], 588963297),
    (("ab", "c"), 1329004063),
    (("a", "bc"), 4157027545),
    ((1, (2.5, None)), 3378505403),
]


@pytest.mark.parametrize(("key", "expected"), GOLDEN, ids=lambda v: repr(v))
def test_golden_hashes(key: Any, expected: int) -> None:
    assert stable_hash(key) == expected


PRINT_HASHES = """
import sys
from decimal import Decimal
from datetime import date, datetime, timezone, timedelta
sys.path.insert(0, sys.argv[1])
import types
package = types.ModuleType("mrcelery")
package.__path__ = [sys.argv[1] + "/mrcelery"]
sys.modules["mrcelery"] = package  # nothing but the two modules: others need packages that may not be there
from mrcelery.records.hashing import stable_hash
from mrcelery.records.order import argsort
inf = float("inf")
keys = eval(sys.argv[2])
print([stable_hash(key) for key in keys], argsort(keys))
"""


def pythons() -> list[str]:
    """Interpreters that a version manager keeps where one usually does."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    return sorted(str(path) for path in root.glob("3.*/bin/python") if int(path.parts[-3].split(".")[1]) >= 11)


@pytest.mark.parametrize("seed", ["0", "1", "random"])
@pytest.mark.parametrize("python", [sys.executable, *pythons()])
def test_hashes_and_order_are_those_of_every_process_and_version(python: str, seed: str) -> None:
    keys = [key for key, _ in GOLDEN]
    text = repr(keys).replace("datetime.timezone", "timezone").replace("datetime.datetime", "datetime")
    text = text.replace("datetime.timedelta", "timedelta").replace("datetime.date", "date")
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [python, "-c", PRINT_HASHES, root, text],
        env={"PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{[expected for _, expected in GOLDEN]} {argsort(keys)}"


COLUMNS: dict[str, Sequence[Any]] = {
    "counting": list(range(20_000)),
    "even numbers": list(range(0, 40_000, 2)),
    "words": [f"word{i}" for i in range(20_000)],
    "urls": [f"https://example.org/{i // 100}/{i % 100}.html" for i in range(20_000)],
    "bytes": [b"%08d" % i for i in range(20_000)],
    "floats": [i / 7 for i in range(1, 20_001)],
    "pairs": [(f"user{i % 200}", i // 200) for i in range(20_000)],
    "days": [date(1990, 1, 1) + timedelta(days=i) for i in range(20_000)],
}


@pytest.mark.parametrize("n", [2, 7, 16, 100])
@pytest.mark.parametrize("name", COLUMNS)
def test_partitions_are_even(name: str, n: int) -> None:
    """Chi-square against an even spread, at 6 standard deviations: what a random function passes."""
    column = COLUMNS[name]
    counts = Counter(partition_numbers(column, n))
    expected = len(column) / n
    chi_square = sum((counts[p] - expected) ** 2 / expected for p in range(n))
    assert chi_square < (n - 1) + 6 * math.sqrt(2 * (n - 1))


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
