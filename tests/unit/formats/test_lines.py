"""Which split reads which line: for every file and every way to cut it, each line once, in order."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from itertools import combinations, pairwise, product
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mrcelery.errors import CorruptDataError, InputError, RecordTooLongError
from mrcelery.formats import input_format, lines, source
from mrcelery.planning.listing import InputFile
from mrcelery.planning.splits import cut
from mrcelery.schema.structs import Extent
from mrcelery.storage import open_storage
from mrcelery.storage.base import Version

MAX = 1 << 20

newline_rich = st.lists(
    st.sampled_from([b"\n", b"\r\n", b"\r", b"a", b"bc", b"\xc3\xa9", b"\xff", b"\xe2\x82", b"\x85", b"\x0b", b"\0"]),
    max_size=40,
).map(b"".join)
files = st.one_of(newline_rich, st.binary(max_size=60))


def reference(data: bytes) -> list[bytes]:
    """The contract, said in another way: newlines end lines, and one ``\\r`` before each goes with it."""
    rows = data.split(b"\n")
    last = rows.pop()
    rows = [row[:-1] if row.endswith(b"\r") else row for row in rows]
    return [*rows, last] if last else rows


def starts(data: bytes) -> list[int]:
    return [i for i in range(len(data)) if i == 0 or data[i - 1 : i] == b"\n"]


def put(data: bytes) -> str:
    uri = f"memory://lines/{os.urandom(6).hex()}"
    open_storage("memory://lines").write(uri.rpartition("/")[2], data)
    return uri


def read(uri: str, size: int, split_size: int, name: str = "lines") -> Iterator[tuple[object, int]]:
    fmt = input_format(name)
    for split in cut([InputFile(uri, size, True)], split_size):
        for extent in split.extents:
            for block in fmt.read(extent, MAX):
                assert block.keys is None
                assert block.file == uri
                for i, value in enumerate(block.values):
                    yield value, block.offset_of(i)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BLOCK", 5)
    monkeypatch.setattr(source, "SLACK", 3)


@given(data=files, split_size=st.integers(1, 70))
@example(b"", 1)
@example(b"\n", 1)
@example(b"\n\n\n", 1)
@example(b"a long line without an end", 3)
@example(b"a\r\nb\r\n", 2)
@example(b"a\r\nb", 3)
@example(b"0123456789\n0123456789\nx", 11)
def test_lines_over_all_splits_are_the_files_lines(data: bytes, split_size: int) -> None:
    if data.startswith(lines.BOM):
        return
    rows = list(read(put(data), len(data), split_size))
    assert [value for value, _ in rows] == reference(data)
    assert [offset for _, offset in rows] == starts(data)


@given(data=files, cuts=st.sets(st.integers(1, 60), max_size=6))
def test_extents_cut_anywhere(data: bytes, cuts: set[int]) -> None:
    if data.startswith(lines.BOM):
        return
    uri = put(data)
    edges = [0, *sorted(c for c in cuts if c < len(data)), len(data)]
    fmt = input_format("lines")
    found: list[object] = []
    for start, end in pairwise(edges):
        extent = Extent(uri, start, end, len(data))
        values = [value for block in fmt.read(extent, MAX) for value in block.values]
        # the rule itself: as many lines as begin in the extent
        assert len(values) == sum(start <= at < end for at in starts(data))
        found += values
    assert found == reference(data)


@pytest.mark.parametrize("block", [1, 2, 3])
def test_every_extent_of_every_small_file(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(source, "BLOCK", block)
    monkeypatch.setattr(source, "SLACK", 0)
    fmt = input_format("lines")
    for size in range(1, 7):
        for data in map(bytes, product(b"a\n", repeat=size)):
            uri = put(data)
            begins, rows = starts(data), reference(data)
            for start, end in combinations(range(size + 1), 2):
                values = [v for b in fmt.read(Extent(uri, start, end, size), MAX) for v in b.values]
                assert values == [row for at, row in zip(begins, rows, strict=True) if start <= at < end]


@given(data=files, split_size=st.integers(1, 70))
def test_text_is_the_lines_decoded_and_lossless(data: bytes, split_size: int) -> None:
    if data.startswith(lines.BOM):
        return
    uri = put(data)
    text = [value for value, _ in read(uri, len(data), split_size, "text")]
    assert text == [row.decode("utf-8", "surrogateescape") for row in reference(data)]
    assert [line.encode("utf-8", "surrogateescape") for line in text] == reference(data)  # type: ignore[attr-defined]


@given(data=files, split_size=st.integers(1, 70))
def test_a_local_file_reads_as_any_other(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, split_size: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "local"
    path.write_bytes(data)
    assert list(read(str(path), len(data), split_size)) == list(read(put(data), len(data), split_size))


def test_a_size_that_is_not_known() -> None:
    uri = put(b"a\nb\nc")
    blocks = input_format("text").read(Extent(uri, 0, -1, -1), MAX)
    assert [value for block in blocks for value in block.values] == ["a", "b", "c"]


@pytest.mark.parametrize("split_size", [1, 2, 3, 4, 100])
def test_a_byte_order_mark_is_dropped_at_the_begin_alone(split_size: int) -> None:
    data = b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n"
    assert list(read(put(data), len(data), split_size, "text")) == [("a", 3), ("\ufeffb", 5)]
    assert list(read(put(b"\xef\xbb\xbf"), 3, split_size, "text")) == []
    assert list(read(put(b"\xef\xbb\xbf\n"), 4, split_size, "text")) == [("", 3)]


def test_no_other_character_ends_a_line() -> None:
    data = "a\vb\fc\x1cd\x85e\u2028f\u2029g\rh".encode()
    assert [value for value, _ in read(put(data), len(data), 100, "text")] == [data.decode()]


class Counting:
    """A storage that notes which bytes were asked for."""

    def __init__(self, uri: str) -> None:
        self._inner = open_storage(uri)
        self.uri = uri
        self.taken = 0

    def local_path(self, key: str) -> None:
        return None

    def stream(self, key: str, start: int, end: int | None, chunk: int, version: Version) -> Iterator[bytes]:
        for data in self._inner.stream(key, start, end, chunk, version):
            self.taken += len(data)
            yield data


def test_reads_no_more_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BLOCK", 100)
    monkeypatch.setattr(source, "SLACK", 20)
    data = b"x" * 5000 + b"\n" + b"y" * 9 + b"\n" + b"z" * 5000
    uri = put(data)
    storage = Counting("memory://lines")
    monkeypatch.setattr(source, "locate", lambda u: (storage, u.rpartition("/")[2]))

    def taken(start: int, end: int) -> int:
        storage.taken = 0
        list(input_format("text").read(Extent(uri, start, end, len(data)), 10_000))
        return storage.taken

    assert taken(1000, 2000) <= 1000 + 120  # within one long line: no byte beyond the range and a block
    assert taken(4990, 5005) <= 15 + 20 + 100  # one short line
    assert taken(0, 10) <= 5001 + 2 * 3200  # the line itself, and one more piece


def test_a_line_that_is_too_long_is_refused_before_it_is_in_memory() -> None:
    size = 30 << 20
    data = b"short\n" + b"x" * size
    uri = put(data)
    monkey = pytest.MonkeyPatch()
    monkey.setattr(source, "BLOCK", 1 << 16)
    tracemalloc.start()
    try:
        with pytest.raises(RecordTooLongError, match="byte 6") as caught:
            list(input_format("text").read(Extent(uri, 0, len(data), len(data)), 1 << 20))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        monkey.undo()
    assert (caught.value.file, caught.value.offset, caught.value.retryable) == (uri, 6, False)
    assert peak < size / 2  # the memory storage's own slice of a request is the most of it


@given(data=files, limit=st.integers(1, 20), split_size=st.integers(1, 70))
def test_max_record_is_the_longest_line_allowed(data: bytes, limit: int, split_size: int) -> None:
    if data.startswith(lines.BOM):
        return
    uri = put(data)
    longest = max((len(row) for row in data.split(b"\n")), default=0)
    fmt = input_format("lines")
    splits = list(cut([InputFile(uri, len(data), True)], split_size))

    def values() -> list[object]:
        return [v for s in splits for e in s.extents for b in fmt.read(e, limit) for v in b.values]

    if longest > limit:
        with pytest.raises(RecordTooLongError) as caught:
            values()
        assert caught.value.offset in starts(data)
    else:
        assert values() == reference(data)


def test_a_file_that_shrank_is_refused() -> None:
    uri = put(b"a\nb\n")
    for extent in (Extent(uri, 0, 10, 10), Extent(uri, 5, 10, 10), Extent(uri, 2, 8, 10)):
        with pytest.raises(CorruptDataError, match=r"had 10 bytes, and now has 4 bytes") as caught:
            list(input_format("text").read(extent, MAX))
        assert caught.value.retryable is False


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    for uri in ("memory://lines/gone", str(tmp_path / "gone")):
        for name in ("text", "whole-file"):
            with pytest.raises(InputError, match="is gone"):
                list(input_format(name).read(Extent(uri, 0, 5, 5), MAX))
