"""Input formats beyond plain lines, and output formats."""

from __future__ import annotations

import json
import math
import os
from collections import Counter, defaultdict, namedtuple
from datetime import date
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcelery.errors import CodecError, CorruptDataError, RecordTooLongError, TaskError, UsageError
from mrcelery.formats import RecordBlock, input_format, output_format, source
from mrcelery.schema.structs import Extent
from mrcelery.storage import open_storage

MAX = 1 << 20


def blocks(name: str, data: bytes, max_record: int = MAX, **more: Any) -> list[RecordBlock]:
    key = os.urandom(6).hex()
    open_storage("memory://formats").write(key, data)
    extent = Extent(f"memory://formats/{key}", 0, len(data), len(data))
    return list(input_format(name, **more).read(extent, max_record))


def values(name: str, data: bytes, **more: Any) -> list[Any]:
    return [value for block in blocks(name, data, **more) for value in block.values]


def offsets(found: list[RecordBlock]) -> list[int]:
    return [block.offset_of(i) for block in found for i in range(len(block.values))]


def test_unknown_names() -> None:
    with pytest.raises(UsageError, match="use one of text, lines, jsonl, whole-file"):
        input_format("exe")
    with pytest.raises(UsageError, match="use one of json, text, jsonl, none"):
        output_format("exe")


# --- JSON lines in


def test_jsonl_values_and_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BLOCK", 7)
    data = b'{"a": 1}\n\n  \r\n[1, 2.5]\r\n"\xc3\xa9"\nnull\n12345678901234567890123'
    found = blocks("jsonl", data)
    assert [v for b in found for v in b.values] == [{"a": 1}, [1, 2.5], "é", None, 12345678901234567890123]
    assert [data[at : at + 2] for at in offsets(found)] == [b'{"', b"[1", b'"\xc3', b"nu", b"12"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(rows=st.lists(json_values, max_size=5))
def test_jsonl_reads_what_json_wrote(rows: list[Any]) -> None:
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    assert values("jsonl", data) == rows


def test_jsonl_is_as_lenient_as_json() -> None:
    data = b'NaN\n-Infinity\n1e999\n"\\ud800"\n"\xff"\n' + b"1" * 400 + b"\n"
    found = values("jsonl", data)
    assert math.isnan(found[0])
    assert found[1:] == [-math.inf, math.inf, "\ud800", "\udcff", int("1" * 400)]


@pytest.mark.parametrize("bad", [b"{", b"{'a': 1}", b"1 2", b"[1,", b"nul", b'"a', b"\xff", b"[" * 100_000])
def test_jsonl_bad_line(bad: bytes) -> None:
    data = b'{"good": 1}\n' + bad + b'\n{"good": 2}\n'
    with pytest.raises(CorruptDataError, match="byte 12 that is no JSON") as caught:
        blocks("jsonl", data)
    assert caught.value.retryable is False
    assert caught.value.offset == 12
    assert caught.value.file.startswith("memory://formats/")
    assert caught.value.record.startswith("b")


def test_jsonl_values_do_not_reach_over_lines() -> None:
    with pytest.raises(CorruptDataError):
        blocks("jsonl", b'{"a":\n1}\n')


def test_jsonl_bad_lines_may_be_skipped() -> None:
    bad: list[TaskError] = []
    found = blocks("jsonl", b"1\n{\n2\n}\n\n3", on_bad=bad.append)
    assert [v for b in found for v in b.values] == [1, 2, 3]
    assert offsets(found) == [0, 4, 9]
    assert [error.offset for error in bad] == [2, 6]


# --- whole files in


def test_whole_file() -> None:
    (block,) = blocks("whole-file", b"\xef\xbb\xbfa\r\nb\n\xff")
    assert block.keys == [block.file]
    assert block.values == ["a\r\nb\n\udcff"]
    assert block.offset_of(0) == 0
    with pytest.raises(RecordTooLongError):
        blocks("whole-file", b"x" * 11, max_record=10)
    assert input_format("whole-file").splittable is False


# --- JSON out


def encoded(name: str, *pairs: tuple[Any, Any]) -> bytes:
    return output_format(name).encode([k for k, _ in pairs], [v for _, v in pairs])


Point = namedtuple("Point", "x y")


class Color(IntEnum):
    RED = 1


def test_json_lines_as_mrjob_has_them() -> None:
    assert encoded("json", ("a", 1), (None, [1, (2, 3)]), (("é", 2), {"k": None})) == (
        b'"a"\t1\nnull\t[1,[2,3]]\n["\xc3\xa9",2]\t{"k":null}\n'
    )
    assert encoded("json") == b""
    assert output_format("json").suffix == ""


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        [1, math.nan],
        {"a": {"b": (math.inf, None)}},
        "\ud800",
        ["\udcff"],
        {"\udcff": 1},
        2**64,
        -(2**200),
        {1: 2},
        {True: 1, None: 2, 1.5: 3},
        Point(1, [Point(2, 3)]),
        Counter("aab"),
        defaultdict(list, a=[1]),
        Color.RED,
        [],
        {},
        (),
        "\n\t\x00\u2028",
        [[[[1]]]],
        0.1,
        1e300,
    ],
)
def test_json_holds_what_the_json_module_would(value: Any) -> None:
    for neighbours in ([], [None, "x", {"a": 1}], [None, math.nan, "\ud800"]):
        lines = encoded("json", (value, value), *((n, n) for n in neighbours)).split(b"\n")
        assert len(lines) == len(neighbours) + 2
        key, found = lines[0].split(b"\t")
        assert key == found, "the bytes of a value depend on nothing else"
        assert repr(json.loads(found)) == repr(json.loads(json.dumps(value)))
        assert lines[0] + b"\n" == encoded("json", (value, value))


python_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(pairs=st.lists(st.tuples(python_values, python_values), max_size=4), cut=st.integers(0, 4))
def test_json_round_trip_and_no_trace_of_the_blocks(pairs: list[tuple[Any, Any]], cut: int) -> None:
    data = encoded("json", *pairs)
    assert data == encoded("json", *pairs[:cut]) + encoded("json", *pairs[cut:])
    for line, pair in zip(data.split(b"\n"), pairs, strict=False):
        found = [json.loads(part) for part in line.split(b"\t")]
        assert repr(found) == repr([json.loads(json.dumps(item)) for item in pair])


loop: list[Any] = []
loop.append(loop)


@pytest.mark.parametrize(
    "value", [b"bytes", [b"deep"], {"a": [{"b": b"x"}]}, {1, 2}, date(2026, 1, 1), object(), {(1, 2): 3}, loop, 1j]
)
@pytest.mark.parametrize("name", ["json", "jsonl"])
def test_json_refuses_what_it_cannot_hold(value: Any, name: str) -> None:
    with pytest.raises(CodecError, match=r"cannot be written as JSON .* use --output-format text") as caught:
        encoded(name, ("a", 1), ("b", value))
    assert caught.value.record == (repr(value) if name == "json" else repr({"key": "b", "value": value}))
    assert caught.value.retryable is False


# --- the other output formats


def test_jsonl_out() -> None:
    assert encoded("jsonl", ("a", 1), (None, {"b": 2}), (1, None)) == (
        b'{"key":"a","value":1}\n{"b":2}\n{"key":1,"value":null}\n'
    )
    assert encoded("jsonl", (None, 1), (None, None)) == b"1\nnull\n"
    assert encoded("jsonl") == b""
    assert output_format("jsonl").suffix == ".jsonl"


def test_text_out() -> None:
    assert encoded("text", ("a", 1), (None, "v"), ("k", None), (None, None), (2.5, (1, 2))) == (
        b"a\t1\nv\nk\n\n2.5\t(1, 2)\n"
    )
    assert encoded("text", (b"\xff", "é"), (None, b"raw\x00"), ("", "")) == b"\xff\t\xc3\xa9\nraw\x00\n\t\n"
    assert encoded("text", ("\udcff", "é")) == b"\xff\t\xc3\xa9\n"
    assert encoded("text", ("\ud800", 1)) == b"\xed\xa0\x80\t1\n"
    assert encoded("text") == b""


@given(data=st.lists(st.binary(max_size=20).filter(lambda row: b"\n" not in row and not row.endswith(b"\r"))))
def test_text_out_gives_back_the_bytes_that_text_in_read(data: list[bytes]) -> None:
    raw = b"".join(row + b"\n" for row in data)
    if not raw.startswith(b"\xef\xbb\xbf"):
        assert encoded("text", *((None, line) for line in values("text", raw))) == raw


def test_none_writes_nothing() -> None:
    assert encoded("none", ("a", object())) == b""
    assert output_format("none").suffix == ""
