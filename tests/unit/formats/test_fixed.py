"""Records of a fixed length, and lines in groups."""

from __future__ import annotations

import gzip
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcelery.errors import CorruptDataError, RecordTooLongError, UsageError
from mrcelery.formats import RecordBlock, input_format, source
from mrcelery.planning.listing import InputFile
from mrcelery.planning.splits import cut
from mrcelery.schema.structs import Extent
from mrcelery.storage import open_storage

MAX = 1 << 20


def stored(data: bytes, suffix: str = "") -> str:
    key = os.urandom(6).hex() + suffix
    open_storage("memory://fixed").write(key, data)
    return f"memory://fixed/{key}"


def read(name: str, extent: Extent, max_record: int = MAX) -> list[RecordBlock]:
    return list(input_format(name).read(extent, max_record))


@given(n=st.integers(1, 9), records=st.integers(0, 40), split=st.integers(1, 60), block=st.integers(1, 30))
def test_each_record_has_one_owner(n: int, records: int, split: int, block: int) -> None:
    data = os.urandom(n * records)
    uri = stored(data)
    fmt = input_format(f"records:{n}")
    assert fmt.splittable is True
    extents = [e for s in cut([InputFile(uri, len(data), True)], split) for e in s.extents]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "BLOCK", block)
        found = [b for e in extents for b in fmt.read(e, MAX)]
    assert [v for b in found for v in b.values] == [data[i : i + n] for i in range(0, len(data), n)]
    assert [b.offset_of(i) for b in found for i in range(len(b.values))] == list(range(0, len(data), n))


def test_packed_and_of_unknown_size() -> None:
    data = bytes(range(12))
    uri = stored(gzip.compress(data), ".gz")
    size = len(gzip.compress(data))
    found = read("records:4", Extent(uri, 0, size, size))
    assert [v for b in found for v in b.values] == [data[:4], data[4:8], data[8:]]
    uri = stored(data)
    assert [v for b in read("records:6", Extent(uri, 0, -1, -1)) for v in b.values] == [data[:6], data[6:]]


@pytest.mark.parametrize("known", [True, False])
def test_a_ragged_tail(known: bool) -> None:
    uri = stored(b"x" * 10)
    size = 10 if known else -1
    with pytest.raises(CorruptDataError, match="10 bytes, 2 more than whole records of 4 bytes") as caught:
        read("records:4", Extent(uri, 0, size, size))
    assert (caught.value.offset, caught.value.retryable) == (8, False)


def test_a_file_that_shrank() -> None:
    with pytest.raises(CorruptDataError, match="had 12 bytes when the job was planned, and now ends at 8"):
        read("records:4", Extent(stored(b"x" * 8), 0, 12, 12))


def test_records_beyond_the_limit() -> None:
    with pytest.raises(RecordTooLongError):
        read("records:100", Extent(stored(b"x" * 100), 0, 100, 100), max_record=99)


@given(
    lines=st.lists(st.text(st.sampled_from("ab \ré"), max_size=6), max_size=30),
    n=st.integers(1, 8),
    block=st.integers(1, 30),
    final=st.booleans(),
)
def test_groups_of_lines(lines: list[str], n: int, block: int, final: bool) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    if not final and lines and lines[-1]:
        data = data[:-1]
    uri = stored(data)
    fmt = input_format(f"lines:{n}")
    assert fmt.splittable is False
    # what ends a line is one \n or \r\n, and the last may have none
    expected = [line[:-1] if line.endswith("\r") else line for line in lines]
    if lines and not data.endswith(b"\n"):
        expected[-1] = lines[-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "BLOCK", block)
        found = list(fmt.read(Extent(uri, 0, len(data), len(data)), MAX))
    groups = [v for b in found for v in b.values]
    assert groups == [expected[i : i + n] for i in range(0, len(lines), n)]
    begins = [len("".join(f"{line}\n" for line in lines[:i]).encode()) for i in range(0, len(lines), n)]
    assert [b.offset_of(i) for b in found for i in range(len(b.values))] == begins


@pytest.mark.parametrize("block", [4, 1000])
def test_a_group_beyond_the_limit(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(source, "BLOCK", block)
    data = b"a\nb\nc\nd\n" + b"xxxxx\n" * 40
    with pytest.raises(RecordTooLongError) as caught:
        read("lines:4", Extent(stored(data), 0, len(data), len(data)), max_record=19)
    assert caught.value.offset == 8


@pytest.mark.parametrize("name", ["records", "records:0", "records:x", "records:-1", "lines:", "records:1,2=3"])
def test_numbers(name: str) -> None:
    with pytest.raises(UsageError, match=r"needs a number|it takes a number"):
        input_format(name)
