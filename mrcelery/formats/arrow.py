"""Arrow columns of input and output: arrays over a file's bytes, an array's bytes, tables of blocks.

Needs the extra ``arrow``. So other modules import this one only when they handle a table or an array.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from mrcelery.errors import CodecError, CorruptDataError
from mrcelery.formats.base import RecordBlock, all_none
from mrcelery.formats.json_text import json_lines
from mrcelery.records.columns import Column, as_list


class ArrowColumn(Sequence[Any]):
    """The values of an ``array`` as Python objects, made on access."""

    __slots__ = ("array",)

    def __init__(self, array: Any) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, i: Any) -> Any:
        return self.array[i].to_pylist() if isinstance(i, slice) else self.array[i].as_py()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.array.to_pylist())


# --- in


def line_array(raw: bytes, text: bool) -> Any:
    """Return the lines of a raw block as an array of ``string`` or of ``binary``, without their line ends.

    Returns None for text that is not UTF-8.
    """
    # A search for two bytes costs forty times as much as one for a single byte.
    data = raw.replace(b"\r\n", b"\n") if b"\r" in raw else raw
    whole = pa.Array.from_buffers(pa.binary(), 1, [None, pa.py_buffer(_ints([0, len(data)])), pa.py_buffer(data)])
    if text:
        try:
            whole = whole.cast(pa.string())
        except pa.ArrowInvalid:
            return None
    lines = pc.list_flatten(pc.split_pattern(whole, "\n"))
    return lines[:-1] if data.endswith(b"\n") else lines


def fixed_array(raw: bytes, length: int, begin: int = 0, end: int = -1) -> Any:
    """Return bytes ``begin`` to ``end`` of each record of ``length`` bytes as an array of ``fixed_size_binary``."""
    end = length if end < 0 else end
    count = len(raw) // length
    data: Any = raw
    if end - begin < length:
        data = np.ascontiguousarray(np.frombuffer(raw, np.uint8).reshape(count, length)[:, begin:end])
    return pa.Array.from_buffers(pa.binary(end - begin), count, [None, pa.py_buffer(data)])


def table_of(block: RecordBlock) -> Any:
    """Return the block as a ``pyarrow.Table``: its own if it has one.

    Otherwise, if all values are dicts, their fields are the columns, with null for a field that a dict lacks. Other
    values become a column ``value``, with a column ``key`` before it if there are keys. Raises
    :class:`CorruptDataError` for text that is not UTF-8, :class:`CodecError` for other values that do not fit Arrow's
    columns.
    """
    if block.table is not None:
        return block.table
    values = block.values
    columns: dict[str, Any] = {}
    if block.keys is None and all(isinstance(value, dict) for value in values):
        for name in dict.fromkeys(chain.from_iterable(values)):
            columns[name] = [value.get(name) for value in values]
    else:
        if block.keys is not None:
            columns["key"] = block.keys
        columns["value"] = values
    try:
        return pa.table({name: _array(column) for name, column in columns.items()})
    except UnicodeEncodeError:
        raise _not_utf8(block) from None
    except MemoryError:  # Arrow's, too
        raise
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as e:
        raise CodecError(
            f"records of {block.file} do not fit the columns of a table ({str(e).partition(chr(10))[0]}): "
            'set BATCH = "list" on the job to have them as a list',
            file=block.file,
        ) from None


def _array(column: Any) -> Any:
    return column if isinstance(column, pa.Array) else pa.array(list(column))


def _not_utf8(block: RecordBlock) -> CorruptDataError:
    bad = next((i for i, value in enumerate(block.values) if "\\udc" in ascii(value)), 0)
    error = CorruptDataError(
        f"{block.file} has a record at byte {block.offset_of(bad)} that is not UTF-8, which a table's strings "
        'must be: use --input-format lines, whose columns are binary, or set BATCH = "list" on the job',
        file=block.file,
        offset=block.offset_of(bad),
        record=ascii(block.values[bad])[:200],
    )
    error.retryable = False
    return error


def _ints(items: Any) -> Any:
    return np.asarray(items, np.int32)


# --- out


def is_bytes(kind: Any) -> bool:
    """Check whether an array of this type holds bytes, in any of the layouts that :func:`data_of` reads."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def is_text(kind: Any) -> bool:
    """Check whether an array of this type holds strings, of either offset width."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def data_of(array: Any) -> memoryview:
    """Return the bytes of an array of strings or bytes, contiguous and without a copy; nulls are not allowed."""
    kind = array.type
    *_, data = array.buffers()
    if data is None:
        return memoryview(b"")
    if pa.types.is_fixed_size_binary(kind):
        begin, end = array.offset * kind.byte_width, (array.offset + len(array)) * kind.byte_width
    else:
        wide = pa.types.is_large_binary(kind) or pa.types.is_large_string(kind)
        offsets = np.frombuffer(array.buffers()[1], np.int64 if wide else np.int32)
        begin, end = int(offsets[array.offset]), int(offsets[array.offset + len(array)])
    return memoryview(data)[begin:end]


def has_any(array: Any, characters: bytes, *, controls: bool = False) -> bool:
    """Check whether an array of strings or bytes contains any of some ASCII characters, or if asked any below 32."""
    data = np.frombuffer(data_of(array), np.uint8)
    return bool(any((data == c).any() for c in characters) or (controls and (data < 0x20).any()))


def text_rows(keys: Column, values: Column) -> bytes | None:
    """Write ``key TAB value NEWLINE`` for each pair, without the tab if keys or values are all None.

    Returns None if this needs Python's ``str()``.
    """
    columns = [_text_column(column) for column in (keys, values) if not all_none(column)]
    if any(column is None or column.null_count for column in columns):
        return None
    return joined(columns, b"\t", b"\n") if columns else b"\n" * len(values)


def csv_rows(columns: Sequence[Column], delimiter: str, quote: str) -> bytes | None:
    """Write rows that need no quotes, nulls as empty fields.

    Returns None if a field might need quotes, or a column has a type other than int, text and bytes.
    """
    if not delimiter.isascii() or not quote.isascii() or delimiter == " ":
        return None
    fields = []
    for column in columns:
        field = _repeated(b"", len(column)) if all_none(column) else _text_column(column)
        if field is None or has_any(field, f"{delimiter}{quote}\r\n".encode()):
            return None
        fields.append(field.fill_null(b""))
    if len(fields) == 1 and not pc.all(pc.greater(pc.binary_length(fields[0]), 0)).as_py():
        return None  # a blank line would not be read as a record
    return joined(fields, delimiter.encode(), b"\n")


def json_column(column: Column) -> Any:
    """Encode each value as JSON, an array of ``binary``, like :func:`json_lines` and with the same errors."""
    if all_none(column):
        return _repeated(b"null", len(column))
    if not isinstance(column, list):
        kind = column.type
        if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            return column.cast(pa.string()).cast(pa.binary()).fill_null(b"null")
        if is_text(kind) and not has_any(column, b'"\\', controls=True):
            mark = pa.scalar(b'"', pa.binary())
            found = pc.binary_join_element_wise(mark, column.cast(pa.binary()), mark, pa.scalar(b"", pa.binary()))
            return found.fill_null(b"null")
    return pa.array(json_lines(as_list(column)), pa.binary())


def json_rows(keys: Column, values: Column) -> bytes | None:
    """Write ``{"key": key, "value": value}`` lines, or only values if all keys are None; None if only some are."""
    if all_none(keys):
        return joined([json_column(values)], b"", b"\n")
    if None in keys if isinstance(keys, list) else keys.null_count:
        return None
    around = [pa.scalar(text, pa.binary()) for text in (b'{"key":', b',"value":', b"}", b"")]
    rows = pc.binary_join_element_wise(around[0], json_column(keys), around[1], json_column(values), *around[2:])
    return joined([rows], b"", b"\n")


def as_inferred(array: Any) -> Any:
    """Return an array with the type that Arrow would infer for its values given as a list."""
    kind = array.type
    if all_none(array):
        return pa.nulls(len(array))
    if pa.types.is_integer(kind) and kind != pa.uint64():
        return array.cast(pa.int64())
    if pa.types.is_floating(kind) and kind != pa.float16():
        return array.cast(pa.float64())
    if is_text(kind) or is_bytes(kind):
        return array.cast(pa.string() if is_text(kind) else pa.binary())
    return array if pa.types.is_boolean(kind) else pa.array(as_list(array))


def _repeated(item: bytes, times: int) -> Any:
    return pa.repeat(pa.scalar(item, pa.binary()), times)


def _text_column(column: Column) -> Any:
    """Return an array of strings, bytes or ints as ``binary``, written like ``str()``, nulls kept; else None."""
    if isinstance(column, list):
        return None
    kind = column.type
    if pa.types.is_integer(kind):
        return column.cast(pa.string()).cast(pa.binary())
    if is_text(kind) or is_bytes(kind):
        return column.cast(pa.binary())
    return None


def joined(columns: Sequence[Any], between: bytes, end: bytes) -> bytes:
    """Join ``binary`` columns without nulls into rows, with ``between`` between fields and ``end`` after each row."""
    rows = columns[0]
    if len(columns) > 1:
        rows = pc.binary_join_element_wise(*columns, pa.scalar(between, pa.binary()))
    if not len(rows):
        return b""
    lines = pa.ListArray.from_arrays(pa.array([0, len(rows)], pa.int32()), rows)
    return bytes(data_of(pc.binary_join(lines, pa.scalar(end, pa.binary())))) + end
