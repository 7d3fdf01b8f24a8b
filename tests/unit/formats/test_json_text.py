"""Keys and values as JSON, as mrjob writes them."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict, namedtuple
from datetime import date
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcelery.errors import CodecError
from mrcelery.formats import output_format
from tests.support.format_io import encoded

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


BESIDE = [None, math.inf, "\ud800", 2**64, {None: 1}, Color.RED, Counter("a"), Point(1, 2)]


@pytest.mark.parametrize("beside", BESIDE, ids=repr)
@pytest.mark.parametrize("value", [1e16, -1e22, 1e-5, 2.5e-300, "é", "é\udc80\\\n", 2**63, {1: 1e16}])
def test_a_value_has_the_same_bytes_whatever_stands_beside_it_in_the_line(value: Any, beside: Any) -> None:
    (alone, _), (other, _) = (encoded("json", (item, None)).split(b"\t") for item in (value, beside))
    assert encoded("json", ([value, beside], None)) == b"[%b,%b]\tnull\n" % (alone, other)
    assert encoded("jsonl", ("k", {"a": value, "b": beside})) == b'{"key":"k","value":{"a":%b,"b":%b}}\n' % (
        alone,
        other,
    )


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
