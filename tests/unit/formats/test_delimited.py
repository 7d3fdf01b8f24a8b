"""csv and tsv, in and out, against Python's csv module."""

from __future__ import annotations

import csv
import io
import os
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcelery.errors import CodecError, CorruptDataError, RecordTooLongError, StorageUnreachableError, TaskError
from mrcelery.formats import RecordBlock, input_format, output_format, source
from mrcelery.schema.structs import Extent
from mrcelery.storage import open_storage
from mrcelery.storage.memory import MemoryStorage

MAX = 1 << 20


def blocks(
    name: str, data: bytes, cuts: list[int] | None = None, max_record: int = MAX, **more: Any
) -> list[RecordBlock]:
    key = os.urandom(6).hex()
    open_storage("memory://delimited").write(key, data)
    uri = f"memory://delimited/{key}"
    edges = [0, *sorted({c for c in cuts or () if 0 < c < len(data)}), len(data)]
    fmt = input_format(name, **more)
    return [
        block for start, end in pairwise(edges) for block in fmt.read(Extent(uri, start, end, len(data)), max_record)
    ]


def values(name: str, data: bytes, *args: Any, **more: Any) -> list[Any]:
    return [value for block in blocks(name, data, *args, **more) for value in block.values]


def written(rows: list[list[str]], delimiter: str = ",", end: str = "\r\n", quoting: Any = csv.QUOTE_ALL) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(rows)
    return out.getvalue().encode()


cells = st.text(st.sampled_from('ab,;"\n\r\té '), max_size=6)
tables = st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(cells, min_size=n, max_size=n), max_size=12))


@given(rows=tables, end=st.sampled_from(["\n", "\r\n"]), block=st.integers(1, 40))
def test_csv_reads_what_the_csv_module_wrote(rows: list[list[str]], end: str, block: int) -> None:
    data = written(rows, end=end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "BLOCK", block)
        found = blocks("csv:header=false", data)
    assert [value for b in found for value in b.values] == rows
    # each offset is where that record begins
    places = [b.offset_of(i) for b in found for i in range(len(b.values))]
    assert places == [len(written(rows[:i], end=end)) for i in range(len(rows))]


short = st.text(st.sampled_from('ab,"é '), max_size=5)


@given(
    rows=st.lists(st.lists(short, min_size=3, max_size=3), min_size=1, max_size=12),
    cuts=st.lists(st.integers(1, 200), max_size=5),
    block=st.integers(1, 40),
)
def test_lines_as_records_wherever_the_file_is_cut(rows: list[list[str]], cuts: list[int], block: int) -> None:
    data = written([["x", "y", "z"], *rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "BLOCK", block)
        found = blocks("csv:multiline=false", data, cuts)
    assert [value for b in found for value in b.values] == [dict(zip("xyz", row, strict=True)) for row in rows]
    places = [b.offset_of(i) for b in found for i in range(len(b.values))]
    assert places == [len(written([["x", "y", "z"], *rows[:i]])) for i in range(len(rows))]


def test_what_may_be_cut() -> None:
    assert input_format("csv").splittable is False
    assert input_format("csv:multiline=false").splittable is True
    assert input_format("tsv:multiline=false").splittable is True


def test_dialects() -> None:
    assert values("csv", b"\xef\xbb\xbfa,b\n1,\n\n2,3") == [{"a": "1", "b": ""}, {"a": "2", "b": "3"}]
    assert values("csv:delimiter=%3B,header=false", b"1;'2;3\n") == [["1", "'2", "3"]]
    assert values("csv:delimiter=;,quote=',header=false", b"1;'2;3'\n") == [["1", "2;3"]]
    assert values("tsv", b'a\tb\n"1\n2"\t\xff\n') == [{"a": "1\n2", "b": "\udcff"}]
    assert values("tsv:quote=none,header=false", b'"x\ty"\n') == [['"x', 'y"']]
    assert values("csv:header=false", b"1,2\r3,4\r") == [["1", "2"], ["3", "4"]]  # as on the first Macs
    assert values("csv", b"a,b\n") == []
    assert values("csv:header=false", b"1\n1,2\n") == [["1"], ["1", "2"]]


@pytest.mark.parametrize(
    ("name", "data", "offset", "why"),
    [
        ("csv", b"a,b\n1,2\n3\n", 8, "1 field, and the header has 2"),
        ("csv", b"a,b\n1,2\n3,4,5\n", 8, "3 fields, and the header has 2"),
        ("csv", b'a,b\n1,2\n\n3,"x\n', 9, "unexpected end of data"),
        ("csv", b'a,b\n1,2\n3,"x"y\n', 8, "expected after"),
        ("csv:multiline=false", b'a,b\n1,"\n"\n', 4, "csv.multiline=false excludes"),
        ("csv:multiline=false", b'a,b\n1,2\n3,"x\n', 8, "unexpected end of data"),
        ("csv:header=false", b'1,2\n"', 4, "unexpected end of data"),
        ("csv", b"a,a\n1,2\n", 0, "the header names 'a' twice"),
        ("csv", b"\na,b\n", 0, "the first line is blank"),
    ],
)
def test_damaged_records(name: str, data: bytes, offset: int, why: str) -> None:
    with pytest.raises(CorruptDataError, match=why) as caught:
        blocks(name, data)
    assert caught.value.offset == offset
    assert f"byte {offset}" in str(caught.value)
    assert caught.value.file.startswith("memory://delimited/")
    assert caught.value.retryable is False


@pytest.mark.parametrize("name", ["csv", "csv:multiline=false"])
def test_damaged_records_may_be_skipped(name: str) -> None:
    bad: list[TaskError] = []
    found = blocks(name, b'a,b\n1,2\n3\n"x"y,\n\n4,5\n', on_bad=bad.append)
    assert [value for b in found for value in b.values] == [{"a": "1", "b": "2"}, {"a": "4", "b": "5"}]
    assert [b.offset_of(i) for b in found for i in range(len(b.values))] == [4, 17]
    assert [error.offset for error in bad] == [8, 10]


def test_an_open_quote_does_not_take_in_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BLOCK", 100)
    data = b'a,b\n1,2\n3,"' + b"x" * 40 + b"\n" + b"yy,zz\n" * 1000
    with pytest.raises(RecordTooLongError) as caught:
        blocks("csv", data, max_record=500)
    assert caught.value.offset == 8


def test_long_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BLOCK", 1 << 14)
    field = "x\n" * 100_000  # beyond the csv module's own limit, over many blocks
    assert values("csv", written([["a"], [field], ["1"]])) == [{"a": field}, {"a": "1"}]


def test_a_storage_that_fails_is_no_damaged_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> Any:
        raise StorageUnreachableError("gone")
        yield

    monkeypatch.setattr(MemoryStorage, "stream", fail)
    with pytest.raises(StorageUnreachableError):
        blocks("csv", b"a\n1\n")


# --- out


def encoded(name: str, *batches: list[tuple[Any, Any]]) -> bytes:
    fmt = output_format(name)
    return b"".join(fmt.encode([k for k, _ in batch], [v for _, v in batch]) for batch in batches)


@given(
    rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=10),
    at=st.integers(0, 10),
    name=st.sampled_from(["csv", "tsv"]),
)
def test_what_is_written_reads_back(rows: list[tuple[str, str]], at: int, name: str) -> None:
    data = encoded(name, rows[:at], rows[at:])
    assert data == encoded(name, rows)
    delimiter = "," if name == "csv" else "\t"
    text = io.StringIO(data.decode(), newline="")
    assert [tuple(row) for row in csv.reader(text, delimiter=delimiter, strict=True)] == [("key", "value"), *rows]
    assert [(row["key"], row["value"]) for row in values(name, data)] == rows


def test_columns() -> None:
    assert encoded("csv", [("a", 1), (None, 2.5), ("b,", None)]) == b'key,value\na,1\n,2.5\n"b,",\n'
    assert encoded("csv", [(None, 1)], [(None, True)]) == b"value\n1\nTrue\n"
    assert encoded("csv:header=false", [("a", [1, "x"])]) == b'a,"[1,""x""]"\n'
    assert encoded("csv:columns=word%2Cn", [("a", 1)]) == b"word,n\na,1\n"
    assert encoded("csv", [(None, {"x": 1, "y": 2})], [(None, {"y": 3})]) == b"x,y\n1,2\n,3\n"
    assert encoded("csv", [("k", {"x": 1})]) == b"key,x\nk,1\n"
    assert encoded("csv:columns=x%2Ckey", [("k", {"x": 1})]) == b"x,key\n1,k\n"
    assert encoded("tsv", [(b"\xff", "\udcfe")]) == b"key\tvalue\n\xff\t\xfe\n"
    assert encoded("csv", [(None, "\ud800")]) == b"value\n\xed\xa0\x80\n"
    assert encoded("csv", []) == b""
    assert output_format("csv").suffix == ".csv"
    assert output_format("tsv").suffix == ".tsv"


@pytest.mark.parametrize(
    ("pairs", "why"),
    [
        ([(None, 1), ("a", 2)], "key None, and a later one has another"),
        ([(None, {"x": 1}), (None, 2)], "a later one is not"),
        ([(None, {"x": 1}), (None, {"y": 2})], "the field 'y', which is not a column"),
        ([("k", {"key": 1})], "not a field of the dict"),
        ([(None, {1: 2})], "names must be strings"),
        ([(None, [{1, 2}])], "cannot be written as JSON"),
    ],
)
def test_records_that_have_no_place(pairs: list[tuple[Any, Any]], why: str) -> None:
    with pytest.raises(CodecError, match=why):
        encoded("csv", pairs)


def test_columns_named_must_be_as_many() -> None:
    with pytest.raises(CodecError, match="were named, and the records have 2"):
        encoded("csv:columns=a", [("k", 1)])


def test_a_field_that_needs_quotes_where_there_are_none() -> None:
    with pytest.raises(CodecError, match=r"csv\.quote"):
        encoded("tsv:quote=none", [("a\tb", 1)])
