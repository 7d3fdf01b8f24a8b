"""Output of Arrow columns: the bytes are those of the same values in lists."""

from __future__ import annotations

import io
from datetime import date
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mrcelery.errors import CodecError
from mrcelery.formats import input_format, output_format, parquet
from mrcelery.formats import output as output_module
from mrcelery.schema.structs import Extent
from mrcelery.storage import open_storage

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("numpy")
arrow = pytest.importorskip("mrcelery.formats.arrow")

texts = st.text(max_size=5) | st.sampled_from(["", '"', "\\", "\n", "\r", "\x00", "\x1f", "\x7f", ",", "\t", "é\u2028"])
plain_texts = st.text(st.sampled_from("ab é"), min_size=1, max_size=6)


def ints(bits: int, signed: bool) -> Any:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else st.integers(0, 2**bits - 1)


KINDS: dict[Any, Any] = {
    pa.string(): plain_texts,
    pa.large_string(): texts,
    pa.binary(): st.binary(max_size=5) | plain_texts.map(str.encode),
    pa.large_binary(): st.binary(max_size=5),
    pa.binary(3): st.binary(min_size=3, max_size=3),
    pa.int8(): ints(8, True),
    pa.uint32(): ints(32, False),
    pa.int64(): ints(64, True),
    pa.uint64(): ints(64, False),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
    pa.bool_(): st.booleans(),
    pa.null(): st.none(),
    pa.date32(): st.dates(min_value=date(1970, 1, 1)),
    pa.list_(pa.int64()): st.lists(ints(64, True), max_size=2),
    pa.struct([("a", pa.int64()), ("b", pa.string())]): st.fixed_dictionaries({"a": ints(8, True), "b": texts}),
}


@st.composite
def arrays(draw: Any, length: int, kinds: Any = None) -> Any:
    """An array of ``length``, at times with nulls, at times a slice of a longer one."""
    kind = draw(st.sampled_from(kinds or list(KINDS)))
    items = KINDS[kind] | st.none() if draw(st.booleans()) else KINDS[kind]
    before, after = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    whole = pa.array(draw(st.lists(items, min_size=length + before + after, max_size=length + before + after)), kind)
    return whole.slice(before, length)


@st.composite
def columns(draw: Any) -> tuple[Any, Any]:
    """Keys and values, one of them an array, the other one too or a list."""
    n = draw(st.integers(0, 5))
    found = [draw(arrays(n)), draw(arrays(n))]
    if draw(st.booleans()):
        i = draw(st.integers(0, 1))
        found[i] = found[i].to_pylist()
    return found[0], found[1]


def listed(column: Any) -> list[Any]:
    return column if isinstance(column, list) else column.to_pylist()


def outcome(name: str, *batches: tuple[Any, Any]) -> Any:
    """What is written, or the kind of error that it ends with."""
    fmt = output_format(name)
    try:
        data = b"".join(fmt.encode(keys, values) for keys, values in batches)
        return data + (fmt.finish() if hasattr(fmt, "finish") else b"")
    except CodecError as e:
        return type(e)


NAMES = [
    "text",
    "json",
    "jsonl",
    "none",
    "records",
    "csv",
    "csv:header=false,quote=none",
    "csv:delimiter=1",
    "csv:delimiter=%20",
    "csv:delimiter=%C3%A9",
    "tsv",
]


@settings(max_examples=100)
@given(batches=st.lists(columns(), min_size=1, max_size=2))
@example(batches=[(pa.array([1e16]), pa.array([float("inf")]))])
@example(batches=[(["\ud800"], pa.array(["é"]))])
@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_are_those_of_lists(name: str, batches: list[tuple[Any, Any]]) -> None:
    assert output_format(name).arrow is True  # type: ignore[attr-defined]
    as_lists = [(listed(keys), listed(values)) for keys, values in batches]
    assert outcome(name, *batches) == outcome(name, *as_lists)


@settings(max_examples=100)
@given(batches=st.lists(columns(), min_size=1, max_size=2))
@pytest.mark.parametrize("name", ["parquet", "parquet:schema=key:string%2Cvalue:int64"])
def test_parquet_is_that_of_lists(name: str, batches: list[tuple[Any, Any]]) -> None:
    found = []
    for each in (batches, [(listed(keys), listed(values)) for keys, values in batches]):
        data = outcome(name, *each)
        found.append(pq.read_table(io.BytesIO(data)) if isinstance(data, bytes) and data else data)
    assert found[0] == found[1]


CASES = [
    (pa.array(["a", "b"]), pa.array([1, 2]), "text json jsonl csv tsv parquet none"),
    (pa.nulls(2), pa.array(["x", "é"]), "text json jsonl csv tsv parquet none"),
    (pa.array([b"k", b"l"], pa.binary(1)), pa.array([b"12", b"34"], pa.binary(2)), "text records csv tsv parquet none"),
]


@pytest.mark.parametrize(
    ("name", "keys", "values"), [(name, keys, values) for keys, values, names in CASES for name in names.split()]
)
def test_no_value_becomes_an_object(name: str, keys: Any, values: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0

    def as_list(column: Any) -> list[Any]:
        nonlocal taken
        taken = max(taken, len(column))
        return column if isinstance(column, list) else column.to_pylist()

    for module in (output_module, arrow, parquet, pytest.importorskip("mrcelery.formats.delimited")):
        monkeypatch.setattr(module, "as_list", as_list)
    assert isinstance(outcome(name, (keys, values)), bytes)
    assert taken == 0


def test_examples() -> None:
    keys, values = pa.array(["a", "é"]), pa.array([1, -2])
    assert outcome("text", (keys, values)) == b"a\t1\n\xc3\xa9\t-2\n"
    assert outcome("json", (keys, values)) == b'"a"\t1\n"\xc3\xa9"\t-2\n'
    assert outcome("jsonl", (keys, values)) == b'{"key":"a","value":1}\n{"key":"\xc3\xa9","value":-2}\n'
    assert outcome("csv", (keys, values), (keys[:1], values[:1])) == b"key,value\na,1\n\xc3\xa9,-2\na,1\n"
    assert outcome("text", (pa.nulls(2), pa.array(["x\n", None]))) == b"x\n\n\n"
    assert outcome("text", ([None] * 2, keys)) == b"a\n\xc3\xa9\n"


# --- records out


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(2)])
def test_records(kind: Any) -> None:
    values = [b"ab", b"\x00\xff", b"\ncd"[:2]]
    assert outcome("records", ([1, 2, 3], values)) == b"ab\x00\xff\nc"
    assert outcome("records", (pa.array([1, 2]), pa.array(values, kind)[1:])) == b"\x00\xff\nc"
    assert outcome("records", ([], [])) == b""
    assert output_format("records").suffix == ""
    data = outcome("records", ([None] * 3, values))
    open_storage("memory://arrow").write("records", data)
    (block,) = input_format("records:2").read(Extent("memory://arrow/records", 0, 6, 6), 1 << 20)
    assert list(block.values) == values


@pytest.mark.parametrize("values", [[b"x", "text"], [None], [b"x", 1], pa.array(["text"]), pa.array([b"x", None])])
def test_records_are_bytes(values: Any) -> None:
    with pytest.raises(
        CodecError, match=r"is not bytes, as a record must be: yield bytes, or use --output-format text"
    ):
        output_format("records").encode([None] * len(values), values)


# --- an empty part of a known schema


def test_parquet_without_a_record() -> None:
    fmt = output_format("parquet:schema=key:string%2Cn:int64")
    assert fmt.needs_records is False  # type: ignore[attr-defined]
    table = pq.read_table(io.BytesIO(outcome("parquet:schema=key:string%2Cn:int64")))
    assert (table.num_rows, table.schema) == (0, pa.schema([("key", pa.string()), ("n", pa.int64())]))
    assert output_format("parquet").needs_records is True  # type: ignore[attr-defined]
    assert outcome("parquet") == b""
