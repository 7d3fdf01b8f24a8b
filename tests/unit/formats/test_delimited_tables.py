"""Input as tables: the records are those that the same format gives without, wherever a file is cut."""

from __future__ import annotations

import csv
import gzip
import json
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcelery.errors import CodecError, CorruptDataError, RecordTooLongError, TaskError, UsageError
from mrcelery.formats import (
    RecordBlock,
    extras,
    fixed,
    input_format,
    keyed,
    source,
    text,
)
from mrcelery.planning.listing import InputFile
from mrcelery.planning.splits import cut
from mrcelery.schema.structs import Extent
from mrcelery.storage import open_storage

pa = pytest.importorskip("pyarrow")
pytest.importorskip("numpy")
arrow = pytest.importorskip("mrcelery.formats.arrow")
delimited_tables = pytest.importorskip("mrcelery.formats.delimited_tables")

MAX = 1 << 20


def stored(data: bytes, suffix: str = "") -> str:
    key = os.urandom(6).hex() + suffix
    open_storage("memory://tables").write(key, data)
    return f"memory://tables/{key}"


def read(
    name: str, data: bytes, split: int = 0, block: int = 0, max_record: int = MAX, *, tables: bool, **more: Any
) -> list[RecordBlock]:
    uri = stored(data)
    fmt = input_format(name, tables=tables, **more)
    extents = [e for s in cut([InputFile(uri, len(data), fmt.splittable)], split or 1 << 30) for e in s.extents]
    with pytest.MonkeyPatch.context() as patch:
        if block:
            patch.setattr(source, "BLOCK", block)
            for module in (text, fixed, delimited_tables):
                patch.setattr(module, "table_block", lambda _: 3 * block)
        return [b for e in extents for b in fmt.read(e, max_record)]


def values(found: list[RecordBlock]) -> list[Any]:
    return [value for block in found for value in block.values]


def offsets(found: list[RecordBlock]) -> list[int]:
    return [block.offset_of(i) for block in found for i in range(len(block.values))]


def column(found: list[RecordBlock], name: str) -> list[Any]:
    return [item for block in found for item in arrow.table_of(block).column(name).to_pylist()]


def same(name: str, data: bytes, split: int = 0, block: int = 0) -> list[RecordBlock]:
    """The blocks with tables, which hold what those without do."""
    plain, found = (read(name, data, split, block, tables=tables) for tables in (False, True))
    assert values(found) == values(plain)
    assert offsets(found) == offsets(plain)
    assert [block.values[-1] for block in found] == [list(block.values)[-1] for block in found]
    return found


# --- lines

line = st.text(st.sampled_from("ab é\r\0\u2028"), max_size=6)


@given(
    lines=st.lists(line, max_size=30),
    final=st.booleans(),
    bom=st.booleans(),
    split=st.integers(1, 60),
    block=st.integers(1, 30),
)
@pytest.mark.parametrize("name", ["text", "lines"])
def test_lines(name: str, lines: list[str], final: bool, bom: bool, split: int, block: int) -> None:
    data = "\n".join([*lines, ""] if final else lines).encode()
    found = same(name, b"\xef\xbb\xbf" * bom + data, split, block)
    assert column(found, "line") == values(found)
    kind = pa.string() if name == "text" else pa.binary()
    assert all(b.table.schema == pa.schema([("line", kind)]) and b.values.array.type == kind for b in found)  # type: ignore[attr-defined]
    for b in found:
        b.table.validate(full=True)


def test_lines_of_a_compressed_file() -> None:
    data = b"a\r\n\nb"
    uri = stored(gzip.compress(data), ".gz")
    size = len(gzip.compress(data))
    (block,) = input_format("text", tables=True).read(Extent(uri, 0, size, size), MAX)
    assert block.table.to_pylist() == [{"line": "a"}, {"line": ""}, {"line": "b"}]


@pytest.mark.parametrize("bad", [b"\xff", b"\xed\xa0\x80", b"\xc3", b"caf\xc3 \xa9"])
def test_text_that_is_not_utf8(bad: bytes) -> None:
    data = b"fine\n\xc3\xa9\n" + bad + b"\nfine\n"
    found = same("text", data)
    with pytest.raises(CorruptDataError, match=r"byte 8 that is not UTF-8.*--input-format lines") as caught:
        arrow.table_of(found[0])
    assert (caught.value.offset, caught.value.retryable) == (8, False)
    assert column(same("lines", data), "line")[2] == bad


def test_a_character_cut_by_a_newline_is_not_utf8() -> None:
    (block,) = same("text", b"\xc3\n\xa9\n")
    assert block.table is None


def test_lines_beyond_the_limit() -> None:
    with pytest.raises(RecordTooLongError) as caught:
        read("text", b"a\n" + b"x" * 20 + b"\n", max_record=19, tables=True)
    assert caught.value.offset == 2


def test_tables_are_larger_than_what_is_read_at_a_time() -> None:
    found = read("text", b"x\n" * 1000, block=100, tables=True)
    assert [len(b.values) for b in found] == [150] * 6 + [100]


# --- records of a fixed length


@given(
    data=st.data(), n=st.integers(1, 9), records=st.integers(0, 40), split=st.integers(1, 60), block=st.integers(1, 30)
)
def test_records_under_a_key(data: Any, n: int, records: int, split: int, block: int) -> None:
    begin = data.draw(st.integers(0, n - 1))
    end = data.draw(st.integers(begin + 1, n))
    raw = os.urandom(n * records)
    expected = [raw[i : i + n] for i in range(0, len(raw), n)]
    key = f"{end}" if begin == 0 else f"{begin}-{end}"
    for tables in (False, True):
        found = read(f"records:{n},key={key}", raw, split, block, tables=tables)
        assert values(found) == expected
        assert [k for b in found for k in b.keys or ()] == [record[begin:end] for record in expected]
        assert [b.keys[0] for b in found if b.keys] == [b.values[0][begin:end] for b in found]
        assert offsets(found) == list(range(0, len(raw), n))
        assert [b.values[1:3] for b in found] == [list(b.values)[1:3] for b in found]
    assert column(found, "value") == expected
    assert column(found, "key") == [record[begin:end] for record in expected]
    kinds = pa.schema([("key", pa.binary(end - begin)), ("value", pa.binary(n))])
    assert all(b.table.schema == kinds for b in found)
    found = same(f"records:{n}", raw, split, block)
    assert column(found, "record") == expected


def test_a_ragged_tail_after_good_records() -> None:
    fmt = input_format("records:4", tables=True)
    blocks = fmt.read(Extent(stored(b"x" * 10), 0, -1, -1), MAX)
    assert next(blocks).table.num_rows == 2
    with pytest.raises(CorruptDataError, match="10 bytes, 2 more than whole records"):
        next(blocks)


@pytest.mark.parametrize("key", ["0", "5", "2-2", "3-2", "-1", "1-", "x", "1-5", ""])
def test_wrong_keys(key: str) -> None:
    with pytest.raises(UsageError, match=r"records\.key is .* END or BEGIN-END, bytes of a record from 0 to 4"):
        input_format(f"records:4,key={key}")


# --- delimited text

field = st.text(st.sampled_from('ab",\r\n é\0;'), max_size=4)
quoted = st.lists(st.lists(field, min_size=3, max_size=3), max_size=12)


def as_csv(rows: list[list[str]], end: str = "\n") -> bytes:
    cells = ([f'"{c.replace(chr(34), chr(34) * 2)}"' if set(c) & set('",\r\n') else c for c in row] for row in rows)
    return "".join(",".join(row) + end for row in cells).encode()


@given(
    rows=quoted,
    header=st.booleans(),
    end=st.sampled_from(["\n", "\r\n"]),
    final=st.booleans(),
    block=st.integers(1, 40),
)
def test_csv(rows: list[list[str]], header: bool, end: str, final: bool, block: int) -> None:
    data = as_csv([["x", 'y"', "z,"], *rows] if header else rows, end)
    data = data if final else data.removesuffix(end.encode())
    found = same("csv" if header else "csv:header=false", data, block=block)
    names = ["x", 'y"', "z,"] if header else ["f0", "f1", "f2"]
    table = [tuple(row.values()) for b in found for row in b.table.to_pylist()]
    assert table == [tuple(row) for row in rows if any(row) or row]
    assert all(b.table.schema == pa.schema([(name, pa.string()) for name in names]) for b in found)


anything = st.text(st.sampled_from('a",\n\r é'), max_size=40)


@settings(max_examples=400)
@given(data=anything, multiline=st.booleans(), quote=st.booleans(), block=st.integers(1, 20))
def test_csv_of_any_text_reads_as_without_tables(data: str, multiline: bool, quote: bool, block: int) -> None:
    name = f"csv:header=false,multiline={multiline}" + ("" if quote else ",quote=none")
    outcomes: list[list[Any]] = []
    for tables in (False, True):
        try:
            found = read(name, data.encode(), block=block, tables=tables)
        except TaskError as e:
            outcomes.append([type(e)])  # which of several errors comes first is a matter of blocks
        else:
            rows = [list(row) for row in values(found)]
            outcomes.append(list(zip(rows, offsets(found), strict=True)))
            if tables:
                cells = [[c for c in row.values() if c is not None] for b in found for row in b.table.to_pylist()]
                assert cells == rows
    assert outcomes[0] == outcomes[1]


@given(
    rows=st.lists(st.lists(st.text(st.sampled_from('ab,"é '), max_size=5), min_size=3, max_size=3), max_size=12),
    split=st.integers(1, 60),
    block=st.integers(1, 40),
)
def test_lines_of_csv_wherever_the_file_is_cut(rows: list[list[str]], split: int, block: int) -> None:
    found = same("csv:multiline=false", as_csv([["x", "y", "z"], *rows]), split, block)
    assert column(found, "y") == [row[1] for row in rows]


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("csv", b"\xef\xbb\xbfa,b\n1,\n\n2,3", [{"a": "1", "b": ""}, {"a": "2", "b": "3"}]),
        ("csv:delimiter=;,quote='", b"a;b\n1;'2;3'\n", [{"a": "1", "b": "2;3"}]),
        ("csv:delimiter=%C3%A9", "aéb\n1é2\n".encode(), [{"a": "1", "b": "2"}]),
        ("tsv:quote=none", b'a\tb\n"x\ty"\n', [{"a": '"x', "b": 'y"'}]),
        ("csv", b'a\n""\n\nNULL\nnan\n', [{"a": ""}, {"a": "NULL"}, {"a": "nan"}]),
        ("csv", b"a,b\n01,2026-01-02\n", [{"a": "01", "b": "2026-01-02"}]),
        ("csv", b'a,b\n5" pipe,x\n', [{"a": '5" pipe', "b": "x"}]),
        ("csv", b"a,b\n", []),
        ("csv:header=false", b"1\n1,2\n", [{"f0": "1", "f1": None}, {"f0": "1", "f1": "2"}]),
    ],
)
def test_tables_of_csv(name: str, data: bytes, expected: list[Any]) -> None:
    found = same(name, data)
    assert [row for b in found for row in b.table.to_pylist()] == expected


@pytest.mark.parametrize(
    ("data", "offset", "why"),
    [
        (b"a,b\n1,2\n3\n", 8, "1 field, and the header has 2"),
        (b'a,b\n1,2\n3,"x\n', 8, "unexpected end of data"),
        (b'a,b\n1,2\n3,"x"y\n', 8, "expected after"),
        (b"a,b\n1,2\n3,\xff\n", 8, "not UTF-8"),
        (b"a,a\n1,2\n", 0, "the header names 'a' twice"),
        (b"\na,b\n", 0, "the first line is blank"),
    ],
)
def test_damaged_csv(data: bytes, offset: int, why: str) -> None:
    with pytest.raises(CorruptDataError, match=why) as caught:
        read("csv", data, tables=True)
    assert caught.value.offset == offset


def test_damaged_csv_may_be_skipped() -> None:
    bad: list[TaskError] = []
    found = read("csv", b"a,b\n1,2\n3\n4,5\n", tables=True, on_bad=bad.append)
    assert column(found, "b") == ["2", "5"]
    assert [error.offset for error in bad] == [8]


@pytest.mark.parametrize("header", ["", "a,b\n", "x" * 5000 + ",b\n"])
def test_long_fields(header: str) -> None:
    limit = csv.field_size_limit(1000)
    try:
        data = f"{header}{'x' * 5000},y\nz,z\n".encode()
        found = read("csv" if header else "csv:header=false", data, tables=True)
        assert column(found, found[0].table.column_names[1]) == ["y", "z"]
    finally:
        csv.field_size_limit(limit)


def test_a_first_record_that_is_broken() -> None:
    with pytest.raises(CorruptDataError, match="expected after") as caught:
        read("csv:header=false", b'"a"b,c\nd,e\n', tables=True)
    assert caught.value.offset == 0


def test_plain_csv_needs_no_python_per_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited_tables, "lines_of", lambda raw: pytest.fail("lines were made"))
    found = read("csv", b'a,b\n1,"x\n""y"""\n' * 50, tables=True)
    assert column(found, "b") == ['x\n"y"', *["b", 'x\n"y"'] * 49]


# --- tables of what has none of its own


def test_fields_of_json() -> None:
    rows = [{"a": 1, "b": ["x"]}, {"c": {"d": None}}, {"b": [], "a": 2}]
    found = read("jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode(), tables=True)
    assert arrow.table_of(found[0]).to_pylist() == [
        {"a": 1, "b": ["x"], "c": None},
        {"a": None, "b": None, "c": {"d": None}},
        {"a": 2, "b": [], "c": None},
    ]
    assert column(read("jsonl", b"1\n2\n", tables=True), "value") == [1, 2]
    with pytest.raises(CodecError, match=r"do not fit the columns of a table .* BATCH = \"list\""):
        column(read("jsonl", b'{"a": 1}\n{"a": "x"}\n', tables=True), "a")


def test_keys_and_values() -> None:
    found = read("whole-file", b"abc", tables=True)
    assert arrow.table_of(found[0]).to_pylist() == [{"key": found[0].file, "value": "abc"}]
    assert column(read("lines:2", b"a\nb\nc\n", tables=True), "value") == [["a", "b"], ["c"]]


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "numpy" else name)
    with pytest.raises(UsageError, match=r"a table of input needs pyarrow and numpy: pip install 'mrcelery\[arrow\]'"):
        input_format("text", tables=True)
    input_format("text")


@pytest.mark.parametrize("name", ["text", "lines", "records:3", "records:3,key=1", "csv", "lines:3", "whole-file"])
def test_whose_tables_are_pairs(name: str) -> None:
    found = read(name, b"a,b\n1,2\n" if name == "csv" else b"abc", tables=True)
    tables = [b.table.column_names for b in found if b.table is not None]
    assert keyed(name) is (["key", "value"] in tables)
