"""Output formats."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mrcelery.formats import output_format
from tests.support.format_io import encoded, values


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
