"""The index of a run: the pieces it names hold exactly what slicing the whole run by key gives."""

from __future__ import annotations

import io
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mrcelery.errors import CodecError, CorruptDataError
from mrcelery.records.blocks import read_blocks
from mrcelery.records.order import order_key
from mrcelery.schema.structs import Part
from mrcelery.shuffle.index import Index, IndexedWriter, decode_index, decode_key, encode_key, framed, sliced
from mrcelery.shuffle.runs import as_lists

small = st.integers(0, 6)
key_columns = st.sampled_from(
    [
        small,
        st.integers(-(1 << 70), 1 << 70),
        st.text(max_size=5),
        st.sampled_from(["", "a", "b", "ab", "é", "\udc80"]),
        st.tuples(small, st.sampled_from("ab")),
        st.sampled_from([0, 0.0, 1, True, 1.0, Decimal(1), 2.5]),
        st.sampled_from([None, 0, 1, "a", b"a", (1,), [1], (1, "a"), (1, None), [], (), date(2026, 1, 1)]),
        st.sampled_from([datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC), None]),
        st.just("the only key"),
    ]
)
columns = key_columns.flatmap(lambda keys: st.lists(keys, max_size=60)).map(lambda keys: sorted(keys, key=order_key))


@contextmanager
def limits(**names: int) -> Iterator[None]:
    with ExitStack() as stack:
        for name, value in names.items():
            module = "records.blocks" if name.startswith(("BLOCK", "ARRAY")) else "shuffle.index"
            stack.enter_context(patch(f"mrcelery.{module}.{name}", value))
        yield


def write(keys: list[Any], compress: bool = False) -> tuple[bytes, IndexedWriter]:
    out = io.BytesIO()
    writer = IndexedWriter(out, compress=compress)
    writer.write(keys, list(range(len(keys))))
    writer.close()
    assert (writer.bytes, writer.records) == (len(out.getvalue()), len(keys))
    return out.getvalue(), writer


def flat(blocks: Any) -> list[tuple[Any, Any]]:
    return [pair for keys, values in as_lists(blocks) for pair in zip(keys, values, strict=True)]


def piece(data: bytes, index: Index, low: Any, high: Any) -> tuple[list[tuple[Any, Any]], int]:
    """The records from ``low`` (a list of one key; empty for no bound) up to ``high``, and how many were read."""
    ends = [index.below(low[0]) if low else 0, index.below(high[0]) if high else len(index.keys)]
    start, end, records = index.span(*ends)
    if not records:
        return [], 0
    part = Part(0, "run", end - start, records, 0, start, end)
    read = flat(read_blocks(framed((data[start:end],), part), "run"))
    assert len(read) == records
    found = sliced(
        lambda: read_blocks(framed((data[start:end],), part), "run"),
        encode_key(low[0]) if low else None,
        encode_key(high[0]) if high else None,
    )
    return flat(found), records


@given(columns, st.integers(1, 7), st.integers(2, 30), st.booleans())
@example(["a"] * 20, 3, 2, False)
@example([1, 2, 2, 2, 2, 2, 2, 3], 2, 5, False)
def test_pieces_are_slices_at_every_cut(keys: list[Any], block: int, entries: int, compress: bool) -> None:
    with limits(BLOCK_RECORDS=block, SAMPLE=8, LEAST=2, MOST_KEYS=entries):
        data, writer = write(keys, compress)
    records = list(zip(keys, range(len(keys)), strict=True))
    assert flat(read_blocks((data,), "run")) == records  # a file of blocks like any other
    index = decode_index(data[writer.data_end :], "run")
    distinct = [key for i, key in enumerate(keys) if i == 0 or key != keys[i - 1]]
    bounds: list[list[Any]] = [[], *([key] for key in distinct)]
    for low in bounds:
        for high in bounds:
            expected = [
                pair
                for pair in records
                if (not low or order_key(low[0]) <= order_key(pair[0]))
                and (not high or order_key(pair[0]) < order_key(high[0]))
            ]
            if low and high and order_key(low[0]) > order_key(high[0]):
                continue
            found, _ = piece(data, index, low, high)
            assert found == expected
            assert [type(key) for key, _ in found] == [type(key) for key, _ in expected]


@given(columns, st.integers(1, 7), st.integers(2, 30))
def test_estimates_add_up(keys: list[Any], block: int, entries: int) -> None:
    with limits(BLOCK_RECORDS=block, SAMPLE=8, LEAST=2, MOST_KEYS=entries):
        data, writer = write(keys)
    index = decode_index(data[writer.data_end :], "run")
    before = [index.before(at) for at in range(len(index.keys) + 1)]
    assert before == sorted(before)
    if keys:
        _, end, records = index.span(0, len(index.keys))
        assert before[0] == (0, 0)
        assert before[-1][0] == records == len(keys)
        assert sum(index.sample(10)[1]) == pytest.approx(before[-1][1] + 10 * records)
        assert end < writer.data_end


@pytest.mark.parametrize("kind", ["int64", "string", "binary", "fixed"])
def test_pieces_of_arrow_columns(kind: str) -> None:
    pa = pytest.importorskip("pyarrow")
    numbers = sorted([7] * 50 + [i * i % 1000 for i in range(500)])
    texts = [f"{number:04}" for number in numbers]
    plain: list[Any] = numbers if kind == "int64" else texts if kind == "string" else [text.encode() for text in texts]
    keys = pa.array(plain, pa.binary(4) if kind == "fixed" else getattr(pa, kind)())
    out = io.BytesIO()
    with limits(ARRAY_BYTES=300):
        writer = IndexedWriter(out)
        writer.write(keys, pa.array(range(len(plain))))
        writer.write(plain[-1:] * 3, [1, 2, 3])  # then lists: a run may have both
        writer.close()
    data = out.getvalue()
    index = decode_index(data[writer.data_end :], "run")
    assert 20 < len(index.keys) == writer._keys
    records = [*zip(plain, range(len(plain)), strict=True), *((plain[-1], value) for value in (1, 2, 3))]
    for low in range(0, 1001, 125):
        bounds = [plain[min(bisect_left(numbers, number), len(plain) - 1)] for number in (low, low + 125)]
        expected = [(key, value) for key, value in records if bounds[0] <= key < bounds[1]]
        assert piece(data, index, *([bound] for bound in bounds))[0] == expected


def test_only_the_blocks_of_the_range_are_read() -> None:
    with limits(BLOCK_RECORDS=10):
        data, writer = write(list(range(1000)))
    index = decode_index(data[writer.data_end :], "run")
    found, read = piece(data, index, [500], [550])
    assert [key for key, _ in found] == list(range(500, 550))
    assert read <= 60


def test_keys_are_evenly_spaced_and_bounded() -> None:
    with limits(BLOCK_RECORDS=10, MOST_KEYS=256):
        data, writer = write(list(range(50_000)))
    index = decode_index(data[writer.data_end :], "run")
    assert 128 <= len(index.keys) <= 256
    gaps = [b - a for a, b in zip(index.keys, [*index.keys[1:], 50_000], strict=True)]
    assert index.keys[0] == 0
    assert max(gaps) <= 3 * 50_000 / len(gaps)
    with limits(BLOCK_RECORDS=2, MOST_KEY_BYTES=100_000):
        data, writer = write([f"{i:06}" + "x" * 5000 for i in range(300)])
    assert len(data) - writer.data_end < 120_000


@pytest.mark.parametrize("at", [-1, -9, -13, -17, -40])
def test_damage_is_noticed(at: int) -> None:
    data, writer = write(list(range(100)))
    index = bytearray(data[writer.data_end :])
    index[at] ^= 1
    with pytest.raises(CorruptDataError, match="the index of run does not match its checksum"):
        decode_index(bytes(index), "run")


@pytest.mark.parametrize("size", [0, 5, 20])
def test_a_cut_off_index_is_noticed(size: int) -> None:
    data, writer = write(list(range(100)))
    with pytest.raises(CorruptDataError):
        decode_index(data[writer.data_end :][:size], "run")


def test_blocks_that_are_missing_are_noticed() -> None:
    with limits(BLOCK_RECORDS=10):
        data, writer = write(list(range(100)))
    index = decode_index(data[writer.data_end :], "run")
    start, end, records = index.span(0, index.below(50))
    shorter, *_ = index.span(index.below(20), len(index.keys))
    with pytest.raises(CorruptDataError, match="should hold"):
        flat(read_blocks(framed((data[shorter:end],), Part(0, "run", 1, records, 0, start, end)), "run"))


def test_a_key_that_cannot_be_kept_is_refused() -> None:
    class Name(str):
        pass

    with pytest.raises(CodecError, match="yield str"):
        write([Name("a"), Name("b")])


@given(key_columns.flatmap(lambda keys: keys))
def test_bounds_keep_their_type(key: Any) -> None:
    found = decode_key(encode_key(key))
    assert found == key
    assert type(found) is type(key)
