"""Parquet, in and out, against pyarrow."""

from __future__ import annotations

import io
import os
import sys
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcelery.errors import CodecError, CorruptDataError, InputError, RecordTooLongError, UsageError
from mrcelery.formats import RecordBlock, extras, input_format, output_format, parquet
from mrcelery.planning.listing import InputFile
from mrcelery.planning.splits import cut
from mrcelery.schema.structs import Extent
from mrcelery.storage import open_storage
from mrcelery.storage.memory import MemoryStorage

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

MAX = 64 << 20
numbers = st.integers(-(2**63), 2**63 - 1) | st.none()


def stored(table: Any, **options: Any) -> tuple[str, int]:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    key = os.urandom(6).hex()
    open_storage("memory://parquet").write(key, out.getvalue())
    return f"memory://parquet/{key}", len(out.getvalue())


def read(uri: str, size: int, name: str = "parquet", max_record: int = MAX) -> list[RecordBlock]:
    return list(input_format(name).read(Extent(uri, 0, size, size), max_record))


@settings(max_examples=25)  # the first call imports half of Arrow
@given(
    rows=st.lists(
        st.tuples(numbers, st.text(max_size=5), st.lists(st.booleans(), max_size=2)),
        max_size=30,
    ),
    group=st.integers(1, 10),
    split=st.integers(1, 3000),
    block=st.integers(1, 500),
)
def test_each_row_has_one_owner(rows: list[tuple[Any, ...]], group: int, split: int, block: int) -> None:
    fields = {"i": pa.int64(), "s": pa.string(), "l": pa.list_(pa.bool_())}
    table = pa.table({n: pa.array([row[k] for row in rows], type=t) for k, (n, t) in enumerate(fields.items())})
    uri, size = stored(table, row_group_size=group)
    fmt = input_format("parquet")
    assert fmt.splittable is True
    extents = [e for s in cut([InputFile(uri, size, True)], split) for e in s.extents]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "BLOCK", block)
        found = [b for e in extents for b in fmt.read(e, MAX)]
    assert [row for b in found for row in b.values] == table.to_pylist()
    assert [b.offset_of(i) for b in found for i in range(len(b.values))] == list(range(len(rows)))
    assert [row for b in found for row in b.table.to_pylist()] == table.to_pylist()


def test_rows_are_made_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    uri, size = stored(pa.table({"a": list(range(100))}))
    monkeypatch.setattr(parquet, "_pylist", lambda table: pytest.fail("rows were made"))
    (block,) = read(uri, size)
    assert len(block.values) == 100
    assert block.table.column("a").to_pylist() == list(range(100))
    monkeypatch.undo()
    assert block.values[7] == block.values[-93] == {"a": 7}
    assert block.values[5:7] == [{"a": 5}, {"a": 6}]
    with pytest.raises(IndexError):
        block.values[100]


def test_only_the_wanted_columns_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"a": [1, 2], "big": [os.urandom(300_000), os.urandom(300_000)], "b": [{"x": 1}, {"x": 2}]})
    uri, size = stored(table)
    asked = 0
    plain = MemoryStorage.read

    def counted(self: Any, key: str, start: int = 0, end: int | None = None) -> bytes:
        nonlocal asked
        data = plain(self, key, start, end)
        asked += len(data)
        return data

    monkeypatch.setattr(MemoryStorage, "read", counted)
    (block,) = read(uri, size, "parquet:columns=b%2Ca")
    assert list(block.values) == [{"b": {"x": 1}, "a": 1}, {"b": {"x": 2}, "a": 2}]
    assert asked < 200_000
    with pytest.raises(InputError, match="has no column 'c': name some of a, big, b"):
        read(uri, size, "parquet:columns=c")


def test_types() -> None:
    row = {"d": date(2026, 1, 2), "t": datetime(2026, 1, 2, 3, 4, 5, 6), "n": Decimal("1.50"), "b": b"\xff", "f": 0.5}
    uri, size = stored(pa.table({name: [value] for name, value in row.items()}))
    assert [r for b in read(uri, size) for r in b.values] == [row]
    uri, size = stored(pa.table({"t": pa.array([2**62], type=pa.timestamp("us"))}))
    with pytest.raises(CodecError, match="has no Python type"):
        list(read(uri, size)[0].values)


def test_a_local_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    size = path.stat().st_size
    assert [r for b in read(str(path), size) for r in b.values] == [{"a": 1}]
    with pytest.raises(CorruptDataError, match=r"had .* bytes, and now has"):
        read(str(path), size + 1)
    path.unlink()
    with pytest.raises(InputError, match="is gone"):
        read(str(path), size)


@pytest.mark.parametrize("data", [b"no parquet at all, but long enough to look", b"x"])
def test_damaged_files(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(CorruptDataError, match="damaged or not a Parquet file") as caught:
        read(str(tmp_path / "bad"), len(data))
    assert caught.value.retryable is False


def test_a_damaged_page(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": list(range(10_000))}), path)
    data = bytearray(path.read_bytes())
    data[4:2000] = b"\xff" * 1996
    path.write_bytes(data)
    with pytest.raises(CorruptDataError, match="damaged or not a Parquet file"):
        read(str(path), len(data))


def test_what_cannot_be_read_at_random() -> None:
    with pytest.raises(InputError, match="decompress it"):
        read("memory://parquet/a.parquet.gz", 10)
    with pytest.raises(InputError, match="no byte ranges"):
        list(input_format("parquet").read(Extent("memory://parquet/a", 0, -1, -1), MAX))


def test_a_row_beyond_the_limit() -> None:
    uri, size = stored(pa.table({"a": ["x", "y" * 2000, "z"]}))
    with pytest.raises(RecordTooLongError) as caught:
        read(uri, size, max_record=1000)
    assert caught.value.offset == 1


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    for work in (
        lambda: read("memory://parquet/a", 10),
        lambda: output_format("parquet").encode([None], [1]),
    ):
        with pytest.raises(UsageError, match=r"pip install 'mrcelery\[arrow\]'"):
            work()
    assert output_format("parquet").suffix == ".parquet"  # which a coordinator without it asks


def test_pyarrow_is_imported_only_for_parquet() -> None:
    import subprocess

    code = "import sys; from mrcelery.formats import *; input_format('parquet'); output_format('parquet'); "
    code += "print('pyarrow' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout == "False\n", run.stderr


# --- out


def encoded(name: str, *batches: list[tuple[Any, Any]]) -> Any:
    fmt = output_format(name)
    data = b"".join(fmt.encode([k for k, _ in batch], [v for _, v in batch]) for batch in batches)
    return pq.ParquetFile(io.BytesIO(data + fmt.finish()))  # type: ignore[attr-defined]


keys = st.text(max_size=4)


@settings(max_examples=25)
@given(
    batches=st.lists(st.lists(st.tuples(keys, numbers), max_size=6), min_size=1, max_size=5).filter(any),
    group=st.integers(1, 200),
)
def test_what_is_written_reads_back(batches: list[list[tuple[str, int]]], group: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "ROW_GROUP", group)
        file = encoded("parquet:schema=key:string%2Cvalue:int64", *batches)
    rows = [{"key": k, "value": v} for batch in batches for k, v in batch]
    assert file.read().to_pylist() == rows
    assert file.schema_arrow.types == [pa.string(), pa.int64()]


def test_types_are_those_of_the_first_row_group(monkeypatch: pytest.MonkeyPatch) -> None:
    table = encoded("parquet", [("a", None)], [("b", 1)], [("c", 2.5)]).read()
    assert table.to_pylist() == [{"key": "a", "value": None}, {"key": "b", "value": 1.0}, {"key": "c", "value": 2.5}]
    monkeypatch.setattr(parquet, "ROW_GROUP", 1)
    with pytest.raises(CodecError, match=r"-D parquet\.schema"):
        encoded("parquet", [("a", 1)], [("b", 2.5)])
    assert encoded("parquet", [("a", 1)], [("b", 2.0)]).read().column("value").to_pylist() == [1, 2]
    with pytest.raises(CodecError):
        encoded("parquet", [("a", "x")], [("b", 1)])
    with pytest.raises(CodecError):
        encoded("parquet", [(None, [1])], [(None, [2.5])])


def test_dicts_are_rows() -> None:
    rows = [{"a": 1, "l": ["x"]}, {"l": [], "a": 2}, {"a": 3}]
    assert encoded("parquet", [(None, r) for r in rows]).read().to_pylist() == [
        {"a": 1, "l": ["x"]},
        {"a": 2, "l": []},
        {"a": 3, "l": None},
    ]
    assert encoded("parquet:schema=n:float%2Cword:string", [(None, {"word": "a", "n": 1})]).schema_arrow == pa.schema(
        [("n", pa.float32()), ("word", pa.string())]
    )


def test_many_rows_in_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP", 10_000)
    fmt = output_format("parquet:compression=zstd")
    pieces = [fmt.encode([None] * 100, list(range(i, i + 100))) for i in range(0, 5000, 100)]
    assert sum(map(len, pieces)) > 0  # it does not wait for the end
    file = pq.ParquetFile(io.BytesIO(b"".join(pieces) + fmt.finish()))  # type: ignore[attr-defined]
    assert file.num_row_groups == 4
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert file.read().column("value").to_pylist() == list(range(5000))


@pytest.mark.parametrize("values", [[1, "a"], ["a", 1], [2**64], [object()], ["\ud800"]])
def test_values_that_do_not_fit(values: list[Any]) -> None:
    with pytest.raises(CodecError, match="do not fit Parquet's columns"):
        encoded("parquet", [(None, value) for value in values])


def test_wrong_arguments() -> None:
    with pytest.raises(UsageError, match="NAME:TYPE"):
        output_format("parquet:schema=a")
    with pytest.raises(UsageError, match="one of snappy, zstd, gzip, none"):
        output_format("parquet:compression=lzo")
    with pytest.raises(UsageError, match="not one of Arrow's"):
        encoded("parquet:schema=a:integer", [(None, 1)])


def test_two_columns_of_one_name_are_refused() -> None:
    table = pa.table([[1], [2], [3], [4], [5]], names=["a", "b", "a", "c", "c"])
    uri, size = stored(table)
    with pytest.raises(InputError, match="several columns of the name a, c, "):
        read(uri, size)
    with pytest.raises(InputError, match="of the name a, "):
        read(uri, size, "parquet:columns=a")
    assert list(read(uri, size, "parquet:columns=b")[0].values) == [{"b": 2}]
    with pytest.raises(UsageError, match="names that differ"):
        output_format("parquet:schema=a%3Aint64%2Ca%3Astring")


@pytest.mark.parametrize("block", [lambda: parquet._errors(pa, "x.parquet"), lambda: parquet._explained(pa)])
def test_arrow_out_of_memory_is_no_fault_of_the_file_or_the_records(block: Any) -> None:
    with pytest.raises(MemoryError), block():
        raise pa.lib.ArrowMemoryError("malloc of size 1024 failed")
