"""Columns of Arrow arrays: their order, their encoding in blocks, and which of them can be keys.

A column is a Python list or a ``pyarrow.Array`` (never chunked). Arrays come from ``mapper_batch`` and from input
formats with columns; they stay arrays up to the reducer, or up to the output if there is no Python function to call.
Needs pyarrow and numpy (the extra ``arrow``), imported only with the first array.

Arrays are converted to few types, so that one key has one form: text to ``string``, bytes to ``binary`` or
``fixed_size_binary``, integers to ``int64``, floats to ``float64``. Arrays without such a form become lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any
from zlib import crc32

from mrcelery.errors import CorruptDataError, MissingExtraError, UsageError
from mrcelery.records.objects import objects

Column = Any
"""A list, or a ``pyarrow.Array``."""

PREFIX = 8
"""Bytes of a text that are compared as one number."""


def is_array(column: Column) -> bool:
    """Check whether a column is an Arrow array."""
    return type(column) is not list


def as_list(column: Column) -> list[Any]:
    """Return the column as Python objects. Raises :class:`CodecError` for values that have no Python type."""
    if type(column) is list:
        return column
    return objects(column, "cast the column in mapper_batch")


def of_table(table: Any) -> tuple[Column, Column]:
    """Return the key and the value column of a table or record batch with two columns.

    Raises :class:`UsageError` for any other number of columns.
    """
    if table.num_columns != 2:
        raise UsageError(
            f"mapper_batch returned a table of {table.num_columns} columns: return one of two, keys and values"
        )
    keys, values = (_plain(column) for column in table.columns)
    if not _orders(keys):
        return as_list(keys), as_list(values)
    return keys, values


def _plain(column: Any) -> Any:
    """Return a table's column as one array with one of the types above, or with an unconverted type."""
    import pyarrow as pa

    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # more text than one array can hold
        array = pa.concat_arrays([chunk.cast(_large(chunk.type)) for chunk in array.chunks])
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _cast(array, pa.string())
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return _cast(array, pa.binary())
    if pa.types.is_integer(kind) and kind != pa.int64():
        return _cast(array, pa.int64())
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        return _cast(array, pa.float64())
    return array


def _large(kind: Any) -> Any:
    import pyarrow as pa

    return {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}.get(kind, kind)


def _cast(array: Any, kind: Any) -> Any:
    import pyarrow as pa

    try:
        return array.cast(kind)
    except pa.ArrowInvalid:  # a uint64 beyond int64, or more text than an array of this type can hold
        return array


def _orders(keys: Any) -> bool:
    """Check whether Arrow orders and compares these keys as documented."""
    import pyarrow as pa

    kind = keys.type
    fixed = pa.types.is_fixed_size_binary(kind) and kind.byte_width > 0
    return not keys.null_count and (fixed or kind in (pa.string(), pa.binary(), pa.int64()))


def order(keys: Any) -> Any:
    """Return the positions (numpy, int64) of an array of keys, ordered by key; equal keys keep their order."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_fixed_size_binary(keys.type):
        return _order(_words(keys))
    if keys.type == pa.int64():
        return _order([keys.to_numpy()])
    first = _prefixes(keys)
    by = np.argsort(first)
    tied = _tied(first[by])
    count = np.count_nonzero(tied)
    if count > len(keys) // 2:
        return compute.array_sort_indices(keys).to_numpy()  # stable
    if count:
        # First in their original order, which Arrow's stable sort keeps for equal keys.
        positions = np.sort(by[tied])
        by[tied] = positions[compute.array_sort_indices(take(keys, positions)).to_numpy()]
    return by


def _words(keys: Any) -> list[Any]:
    """Return fixed-size keys as numbers of 8 bytes each, the first bytes first; their order is the bytes' order."""
    import numpy as np

    rows = np.frombuffer(keys.buffers()[1], np.uint8)[keys.offset * keys.type.byte_width :]
    rows = rows[: len(keys) * keys.type.byte_width].reshape(len(keys), keys.type.byte_width)
    words = []
    for at in range(0, keys.type.byte_width, 8):
        padded = np.zeros((len(keys), 8), np.uint8)
        some = rows[:, at : at + 8]
        padded[:, : some.shape[1]] = some
        words.append(padded.view(">u8").ravel().astype(np.uint64))
    return words


def _texts(keys: Any) -> tuple[Any, Any, Any]:
    """Return where each text or byte string begins, its length, and the bytes of all of them (numpy)."""
    import numpy as np

    _, offsets, data = keys.buffers()
    ends = np.frombuffer(offsets, np.int32)[keys.offset : keys.offset + len(keys) + 1].astype(np.int64)
    return ends[:-1], np.diff(ends), np.frombuffer(data or b"", np.uint8)


def _prefixes(keys: Any) -> Any:
    """Return the first bytes of texts or byte strings, padded with zeros, as ordered numbers (numpy, uint64)."""
    import numpy as np

    begins, lengths, data = _texts(keys)
    first = np.zeros((len(keys), PREFIX), np.uint8)
    for at in range(PREFIX):
        longer = np.flatnonzero(lengths > at)
        first[longer, at] = data[begins[longer] + at]
    return first.view(">u8").ravel().astype(np.uint64)


def hashes(keys: Any) -> Any:
    """Hash each key of an array like :func:`mrcelery.records.hashing.stable_hash` (numpy, uint32).

    Computes the CRC-32 of all keys at once, byte after byte, with the table of 256 remainders (Sarwate, "Computation of
    cyclic redundancy checks via table look-up", 1988).
    """
    import numpy as np
    import pyarrow as pa

    table = _crc_table()
    state = np.full(len(keys), 0xFFFFFFFF, np.uint32)
    if pa.types.is_fixed_size_binary(keys.type):
        width = keys.type.byte_width
        rows = np.frombuffer(keys.buffers()[1], np.uint8)[keys.offset * width : (keys.offset + len(keys)) * width]
        for column in rows.reshape(len(keys), width).T:
            state = table[(state ^ column) & 0xFF] ^ (state >> np.uint32(8))
        return ~state
    if keys.type == pa.int64():
        state = table[(state ^ np.uint32(ord("i"))) & 0xFF] ^ (state >> np.uint32(8))  # the marker of a number
        keys = keys.cast(pa.string())
    begins, lengths, data = _texts(keys)
    longest = np.argsort(-lengths, kind="stable")
    begins, lengths, state = begins[longest], lengths[longest], state[longest]
    for at in range(int(lengths.max(initial=0))):
        some = slice(0, int(np.searchsorted(-lengths, -at)))  # the keys that are longer
        now = state[some]
        state[some] = table[(now ^ data[begins[some] + at]) & 0xFF] ^ (now >> np.uint32(8))
    found = np.empty(len(keys), np.uint32)
    found[longest] = ~state
    return found


@cache
def _crc_table() -> Any:
    import numpy as np

    # crc32 of one byte b is table[b ^ 0xFF] ^ 0xFFFFFF, inverted.
    return np.array([crc32(bytes([b ^ 0xFF])) ^ 0xFFFFFFFF ^ 0x00FFFFFF for b in range(256)], np.uint32)


def _order(words: list[Any]) -> Any:
    """Return the positions in order of the words: sorted by the first word, then ties are resolved. Stable."""
    import numpy as np

    first = words[0]
    by = np.argsort(first)  # not stable, and several times faster than a stable sort
    tied = _tied(first[by])
    if not tied.any():
        return by
    positions = by[tied]
    rest = [word[positions] for word in reversed(words)]
    by[tied] = positions[np.lexsort((positions, *rest))]
    return by


def _tied(ordered: Any) -> Any:
    """Mark which of the sorted numbers equal a neighbor."""
    import numpy as np

    same = ordered[1:] == ordered[:-1]
    tied = np.zeros(len(ordered), bool)
    tied[1:] |= same
    tied[:-1] |= same
    return tied


def take(column: Any, positions: Any) -> Any:
    """Return the values at these positions."""
    import pyarrow as pa

    if pa.types.is_fixed_size_binary(column.type) and not column.null_count:
        import numpy as np

        width = column.type.byte_width
        rows = np.frombuffer(column.buffers()[1], f"V{width}")[column.offset : column.offset + len(column)]
        taken = np.take(rows, positions)
        return pa.FixedSizeBinaryArray.from_buffers(column.type, len(taken), [None, pa.py_buffer(taken)])
    return column.take(pa.array(positions))


def concat(columns: Sequence[Any]) -> Any:
    """Concatenate arrays of one type."""
    import pyarrow as pa

    return columns[0] if len(columns) == 1 else pa.concat_arrays(columns)


def starts(keys: Any) -> Any:
    """Return the positions (numpy) at which groups begin in an array of sorted keys, including 0."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import compute

    if not len(keys):
        return np.zeros(0, np.int64)
    if pa.types.is_fixed_size_binary(keys.type):
        new = np.zeros(len(keys) - 1, bool)
        for word in _words(keys):
            new |= word[1:] != word[:-1]
    else:
        new = compute.not_equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.flatnonzero(new) + 1])


class Keys(Sequence[Any]):
    """Keys as Python objects, each made on access: for a binary search."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, i: Any) -> Any:
        return self._array[i].as_py()


def pack(keys: Any, values: Any) -> memoryview:
    """Encode two arrays as an Arrow IPC stream of one batch."""
    import pyarrow as pa

    batch = pa.RecordBatch.from_arrays([keys, values], names=["key", "value"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return memoryview(sink.getvalue())


def unpack(data: Any) -> tuple[Any, Any]:
    """Decode bytes written by :func:`pack`, without a copy. Raises :class:`CorruptDataError` for other bytes."""
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingExtraError(
            "a map task left Arrow columns, and pyarrow is not installed here: "
            "pip install 'mrcelery[arrow]' on all workers"
        ) from None
    try:
        with pa.ipc.open_stream(pa.py_buffer(data)) as stream:
            batch = stream.read_next_batch()
    except MemoryError:  # Arrow's, too
        raise
    except (pa.ArrowException, StopIteration, OSError) as e:
        raise CorruptDataError(f"a block's columns cannot be read ({e})") from None
    return batch.column(0), batch.column(1)
