"""Blocks of records: every value is read back with its type, and damage never passes for data."""

from __future__ import annotations

import enum
import io
import math
import random
import struct
import subprocess
import sys
from collections import Counter, OrderedDict, namedtuple
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any
from uuid import UUID
from zlib import crc32
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mrcelery.errors import CodecError, CorruptDataError
from mrcelery.records.blocks import (
    BLOCK_BYTES,
    BLOCK_RECORDS,
    Block,
    BlockWriter,
    decode_column,
    encode_column,
    read_blocks,
)
from tests.support.block_files import read, written

any_text = st.text(st.characters(codec=None, exclude_categories=()))  # lone surrogates too
any_int = st.integers() | st.integers(-(1 << 300), 1 << 300) | st.sampled_from([1 << 63, (1 << 64) - 1, 1 << 64])
# Whole seconds, as in all zones: Python's own fromisoformat drops an offset that is only microseconds.
offsets = st.integers(-80_000, 80_000).map(lambda seconds: timezone(timedelta(seconds=seconds)))
folds = st.sampled_from([0, 1])
datetimes = st.builds(lambda d, fold: d.replace(fold=fold), st.datetimes(timezones=st.none() | offsets), folds)
times = st.builds(lambda t, fold: t.replace(fold=fold), st.times(timezones=st.none() | offsets), folds)
simple = {
    "none": st.none(),
    "bool": st.booleans(),
    "int": any_int,
    "float": st.floats(),
    "str": any_text,
    "bytes": st.binary(),
    "decimal": st.decimals(),
    "datetime": datetimes,
    "date": st.dates(),
    "time": times,
    "timedelta": st.timedeltas(),
    "uuid": st.uuids(),
}
scalars = st.one_of(*simple.values())
hashable = st.recursive(
    scalars.filter(lambda v: not (isinstance(v, Decimal) and v.is_snan())),  # Python itself cannot hash sNaN
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=6,
)
values = st.recursive(
    scalars | hashable,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.sets(hashable, max_size=4)
        | st.frozensets(hashable, max_size=4)
    ),
    max_leaves=12,
)
columns = st.lists(values, max_size=12) | st.one_of(
    *(st.lists(strategy, max_size=12) for strategy in simple.values()),
    st.integers(0, 3).flatmap(lambda width: st.lists(st.tuples(*[values] * width), max_size=8)),
    st.lists(st.tuples(any_text, st.integers()), max_size=12),
    st.tuples(values, st.integers(0, 12)).map(lambda pair: [pair[0]] * pair[1]),
)


def typed(value: Any) -> Any:
    """Spell out all types of a value, so that equal results mean the same value, also for NaN, -0.0 and fold."""
    kind = type(value).__name__
    if isinstance(value, (list, tuple)):
        return kind, [typed(item) for item in value]
    if isinstance(value, dict):
        return kind, [(typed(k), typed(v)) for k, v in value.items()]
    if isinstance(value, (set, frozenset)):
        return kind, sorted(repr(typed(item)) for item in value)
    if isinstance(value, float):
        return kind, "nan" if math.isnan(value) else struct.pack("<d", value)
    if isinstance(value, Decimal):
        return kind, str(value)
    if isinstance(value, (datetime, time)):
        return kind, value.isoformat(), value.fold, value.utcoffset()
    return kind, value


@given(columns)
@example([0.0, -0.0])
@example([0.0, -0.0, 0.0])
@example([1, True, 1.0])
@example([True, True])
@example([1 << 64])
@example(["\ud800"] * 3)
@example(["a", "\udcff"])
@example([()] * 3)
@example([(1,), (1, 2)])
@example([((1, "a"), None), ((2, "b"), None)])
@example([float("nan")] * 2)
@example([{(1, ("a",)): {frozenset({b"x"})}}])
@example([Decimal("1.10"), Decimal("-0"), Decimal("sNaN"), Decimal("1E+999999")])
@example([datetime(2026, 10, 25, 2, 30, fold=1), datetime(1, 1, 1, tzinfo=UTC)])
@example([time(2, 30, tzinfo=timezone(timedelta(seconds=-3601)), fold=1)])
@example([[[], [[]]], [()], ({},)])
def test_a_column_comes_back_as_it_was(column: list[Any]) -> None:
    assert typed(decode_column(encode_column(column), len(column))) == typed(column)


@settings(max_examples=50)
@given(columns.flatmap(lambda keys: st.tuples(st.just(keys), st.lists(values, min_size=len(keys), max_size=len(keys)))))
def test_a_file_comes_back_as_it_was(pair: tuple[list[Any], list[Any]]) -> None:
    for compress in (False, True):
        keys, values = read(written(*pair, compress=compress))
        assert (typed(keys), typed(values)) == (typed(pair[0]), typed(pair[1]))


def test_values_of_a_zone_keep_their_offset() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    column = [datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=fold) for fold in (0, 1)]
    assert typed(decode_column(encode_column(column), 2)) == typed(column)


def test_a_time_that_would_lose_its_zone_is_refused_or_kept() -> None:
    """A zone's offset depends on the date, so a time of day alone has no offset that could be stored."""
    value = time(12, tzinfo=ZoneInfo("Europe/Berlin"))
    try:
        data = encode_column([value])
    except CodecError:
        return
    assert decode_column(data, 1) == [value]


def test_big_numbers_are_stored_whatever_their_digits() -> None:
    column = [10**5000, -(1 << 20000)]
    assert decode_column(encode_column(column), 2) == column


@given(st.sets(st.integers() | any_text | st.tuples(st.integers()), max_size=8), st.randoms())
def test_equal_sets_are_equal_bytes(members: set[Any], random: Any) -> None:
    shuffled = list(members)
    random.shuffle(shuffled)
    assert encode_column([set(shuffled)]) == encode_column([members])


@given(
    st.lists(st.tuples(st.integers(), any_text), min_size=1, max_size=30),
    st.lists(st.integers(0, 500), max_size=8),
    st.booleans(),
)
def test_any_chunking_of_the_bytes(records: list[tuple[int, str]], cuts: list[int], compress: bool) -> None:
    out = io.BytesIO()
    writer = BlockWriter(out, compress=compress)
    for record in records:  # a block each
        writer.write([record[0]], [record[1]])
    writer.close()
    data = out.getvalue()
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[start:end] for start, end in pairwise(bounds)]  # also empty ones
    blocks = list(read_blocks(chunks, "a file"))
    assert [(k, v) for block in blocks for k, v in zip(block.keys, block.values, strict=True)] == records
    assert list(read_blocks((data[i : i + 1] for i in range(len(data))), "a file")) == blocks


def test_the_writer_counts() -> None:
    out = io.BytesIO()
    writer = BlockWriter(out)
    writer.write(list(range(20_000)), ["x"] * 20_000)
    writer.close()
    assert (writer.records, writer.bytes) == (20_000, len(out.getvalue()))
    assert writer.crc32 == crc32(out.getvalue())


def test_no_records_are_a_file_too() -> None:
    assert read(written([], [])) == ([], [])


@pytest.mark.parametrize("size", [1, 100, 5000])
def test_blocks_are_bounded(size: int) -> None:
    texts = [f"{i:06}".ljust(size, "x") for i in range(min(3 * BLOCK_RECORDS, 20_000_000 // size))]
    data = written([None] * len(texts), texts)
    blocks = list(read_blocks([data], "a file"))
    assert [text for block in blocks for text in block.values] == texts
    assert max(len(block.values) for block in blocks) <= BLOCK_RECORDS
    assert max(sum(map(len, block.values)) for block in blocks) < 2 * BLOCK_BYTES


def test_large_records_after_small_ones_come_one_at_a_time() -> None:
    """The first block that has large records may be large; the blocks after it are not."""
    small, large = ["x"] * 50_000, [str(i) * (1 << 19) for i in range(8)]
    out = io.BytesIO()
    writer = BlockWriter(out)
    for values in (small, large[:1], large[1:]):
        writer.write([None] * len(values), values)
    writer.close()
    blocks = list(read_blocks([out.getvalue()], "a file"))
    assert [value for block in blocks for value in block.values] == small + large
    assert {len(block.values) for block in blocks if len(block.values[0]) > 1} == {1}


Point = namedtuple("Point", "x y")


class Colour(enum.IntEnum):
    RED = 1


class Name(str):
    __slots__ = ()


REFUSED = [
    object(),
    1j,
    range(3),
    Fraction(1, 2),
    Point(1, 2),
    Colour.RED,
    Name("a"),
    Counter("a"),
    OrderedDict(a=1),
    len,
    int,
    timezone.utc,  # noqa: UP017  # its type's name is what the message must have
]


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: (1, v), lambda v: {"k": {"v": (v,)}}])
@pytest.mark.parametrize("value", REFUSED, ids=lambda v: type(v).__name__)
def test_other_types_are_refused_by_name(value: Any, wrap: Any) -> None:
    for column in ([wrap(value)], [wrap(value)] * 3, [1, wrap(value)]):
        with pytest.raises(CodecError) as refusal:
            encode_column(column)
        assert type(value).__qualname__ in str(refusal.value)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("value", [bytearray(b"x"), memoryview(b"x")], ids=["bytearray", "memoryview"])
def test_other_bytes_come_back_as_bytes(value: Any) -> None:
    (back, (nested,)) = decode_column(encode_column([value, [value]]), 2)
    assert (back, nested) == (b"x", b"x")
    assert type(back) is type(nested) is bytes


def test_what_cannot_be_stored_is_refused_by_the_writer() -> None:
    with pytest.raises(CodecError, match="Fraction"):
        written([1], [Fraction(1, 2)])


NESTED = """
import sys
from mrcelery.records.blocks import decode_column, encode_column
from mrcelery.errors import CodecError

wrap = {"list": lambda v: [v], "tuple": lambda v: (v,), "dict": lambda v: {"k": v}, "set": lambda v: frozenset([v])}
value = 1
for _ in range(int(sys.argv[2])):
    value = wrap[sys.argv[1]](value)
column = [value, None] if sys.argv[3] == "mixed" else [value]
try:
    data = encode_column(column)
except CodecError:
    print("refused")
    sys.exit()
found = decode_column(data, len(column))[0]
while value != 1:
    assert type(found) is type(value)
    (found,) = found.values() if isinstance(found, dict) else found
    (value,) = value.values() if isinstance(value, dict) else value
assert found == 1
print("came back")
"""


@pytest.mark.parametrize("container", ["list", "tuple", "dict", "set"])
@pytest.mark.parametrize("depth", [30, 120, 200, 300, 480, 3000])
@pytest.mark.parametrize("column", ["single", "mixed"])
def test_deep_nesting_comes_back_or_is_refused(container: str, depth: int, column: str) -> None:
    """Run in a separate process: what goes wrong here is a stack overflow in C, which kills the process."""
    command = [sys.executable, "-X", "faulthandler", "-c", NESTED, container, str(depth), column]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:500]
    assert done.stdout == "came back\n" or (depth > 30 and done.stdout == "refused\n")


def test_pickle_is_off_unless_asked_for() -> None:
    half = Fraction(1, 2)
    with pytest.raises(CodecError):
        encode_column([half])
    data = written([1], [half], allow_pickle=True)
    with pytest.raises(CorruptDataError):
        read(data)
    assert read(data, allow_pickle=True) == ([1], [half])


def test_numpy_scalars_are_stored_as_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    column = [numpy.float64(1.5), numpy.int32(-3), numpy.bool_(True), numpy.str_("a"), numpy.bytes_(b"b")]
    assert typed(decode_column(encode_column(column), 5)) == typed([1.5, -3, True, "a", b"b"])
    with pytest.raises(CodecError, match="ndarray"):
        encode_column([numpy.zeros(2)])


def test_a_block_is_a_pair_of_columns() -> None:
    (block,) = read_blocks([written(["k"], [UUID(int=5)])], "a file")
    assert block == Block(["k"], [UUID(int=5)])


def test_only_what_becomes_smaller_is_compressed() -> None:
    def size(values: list[bytes]) -> int:
        out = io.BytesIO()
        writer = BlockWriter(out, compress=True)
        for value in values:
            writer.write([1], [value])
        writer.close()
        data = out.getvalue()
        assert [v for b in read_blocks([data], "x") for v in b.values] == values
        return len(data)

    noise = [random.Random(i).randbytes(10_000) for i in range(40)]
    text = [b"all the same " * 1000] * 40
    assert size(noise) < 40 * 10_000 + 40 * 100
    assert size(text) < 40 * 1000
    assert size(noise + text * 3) < size(noise) + 40 * 13_000  # compression is tried again before long
