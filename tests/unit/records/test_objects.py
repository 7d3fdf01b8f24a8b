"""Arrow values as Python objects; ``tests/environments`` has the same values where pandas is installed."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest

from mrcelery.errors import CodecError
from mrcelery.records.blocks import encode_column
from mrcelery.records.objects import objects

pa = pytest.importorskip("pyarrow")

INSTANT = datetime(1970, 1, 1, 0, 0, 1, 5)
NANOSECONDS = pa.array([1_000_005_000, None], pa.int64())
TIMES = NANOSECONDS.cast(pa.timestamp("ns"))


@pytest.mark.parametrize(
    ("array", "plain"),
    [
        (TIMES, INSTANT),
        (NANOSECONDS.cast(pa.timestamp("ns", "UTC")), INSTANT.replace(tzinfo=UTC)),
        (NANOSECONDS.cast(pa.duration("ns")), timedelta(seconds=1, microseconds=5)),
        (NANOSECONDS.cast(pa.time64("ns")), time(0, 0, 1, 5)),
        (TIMES.dictionary_encode(), INSTANT),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_nanoseconds_become_plain_types_at_any_depth(array: Any, plain: Any) -> None:
    offsets = pa.array([0, 2], pa.int32())
    nested = [
        (array, [plain, None]),
        (pa.ListArray.from_arrays(offsets, array), [[plain, None]]),
        (
            pa.StructArray.from_arrays([array, TIMES], names=["a", "b"]),
            [{"a": plain, "b": INSTANT}, {"a": None, "b": None}],
        ),
        (pa.MapArray.from_arrays(offsets, pa.array(["x", "y"]), array), [[("x", plain), ("y", None)]]),
        (pa.FixedSizeListArray.from_arrays(array, 2), [[plain, None]]),
        (pa.table({"t": array}), [{"t": plain}, {"t": None}]),
    ]
    for given, expected in nested:
        found = objects(given, "")
        assert found == expected
        encode_column(found)  # no pandas.Timestamp, which equals a datetime


@pytest.mark.parametrize(
    "kind", [pa.timestamp("ns"), pa.duration("ns"), pa.time64("ns"), pa.timestamp("ns", "UTC")], ids=str
)
def test_a_time_between_two_microseconds_is_refused(kind: Any) -> None:
    array = pa.array([1_001], pa.int64()).cast(kind)
    for given in (array, pa.table({"t": array})):
        with pytest.raises(CodecError, match=r"no Python type to hold it \(.*would lose data: 1001\): cast it$"):
            objects(given, "cast it")


def test_a_zone_that_is_not_known_here_is_refused() -> None:
    with pytest.raises(CodecError, match=r"Nowhere/At_all\] has no Python type to hold it"):
        objects(pa.array([0], pa.timestamp("us", "Nowhere/At_all")), "")


def test_columns_of_one_name_are_kept_apart() -> None:
    table = pa.table([TIMES, pa.array([1, 2])], ["x", "x"])
    assert objects(table, "") == table.set_column(0, "x", TIMES.cast(pa.timestamp("us"))).to_pylist()


def test_what_has_no_nanoseconds_is_not_copied() -> None:
    from mrcelery.records import objects as module

    table = pa.table({"a": [1], "b": [{"c": ["x"]}], "d": [INSTANT]})
    assert module._in_microseconds(table) is table


def test_arrow_out_of_memory_is_no_fault_of_the_values() -> None:
    class Column:
        """An array for whose values there is no room."""

        type = pa.string()

        def to_pylist(self) -> list[Any]:
            raise pa.lib.ArrowMemoryError("malloc of size 1024 failed")

    with pytest.raises(MemoryError):
        objects(Column(), "yield less")
