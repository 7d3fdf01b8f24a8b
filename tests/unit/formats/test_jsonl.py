"""Lines of JSON, read."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcelery.errors import CorruptDataError, TaskError
from mrcelery.formats import source
from tests.support.format_io import blocks, offsets, values


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
    with pytest.raises(CorruptDataError, match="byte 12 that is not JSON") as caught:
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
