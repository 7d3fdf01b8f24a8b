"""Records of a fixed length."""

from __future__ import annotations

import gzip
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcelery.errors import CorruptDataError, RecordTooLongError, UsageError
from mrcelery.formats import input_format, source
from mrcelery.planning.listing import InputFile
from mrcelery.planning.splits import cut
from mrcelery.schema.structs import Extent
from tests.support.format_io import MAX, read, stored


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
    with pytest.raises(CorruptDataError, match="had 12 bytes, and now has 8 bytes"):
        read("records:4", Extent(stored(b"x" * 8), 0, 12, 12))


def test_records_beyond_the_limit() -> None:
    with pytest.raises(RecordTooLongError):
        read("records:100", Extent(stored(b"x" * 100), 0, 100, 100), max_record=99)


@pytest.mark.parametrize("name", ["records", "records:0", "records:x", "records:-1", "lines:", "records:1,2=3"])
def test_numbers(name: str) -> None:
    with pytest.raises(UsageError, match=r"needs a number|it takes a number"):
        input_format(name)
