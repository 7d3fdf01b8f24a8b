"""The hashes of keys and their partitions: the same everywhere, for ever."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mrcelery.records.hashing import hash_partition, partition_numbers, stable_hash
from mrcelery.records.order import argsort, order_key
from tests.support.keys import any_text, keys

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


COLUMNS: dict[str, list[Any]] = {
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
