"""Records of a fixed length in bytes (``records:N``), each a value of N bytes.

The key is None, or some of the record's bytes (``records:N,key=BEGIN-END``). An extent ``[start, end)`` owns each
record whose first byte is in it, so a file may be cut anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from mrcelery.errors import CorruptDataError
from mrcelery.formats.base import RecordBlock
from mrcelery.formats.compression import compression_of, decompress
from mrcelery.formats.lines import table_block, too_long
from mrcelery.formats.source import read_from, shortened
from mrcelery.schema.structs import Extent


class FixedInput:
    """Values are the file's bytes, ``length`` at a time; keys are bytes ``key[0]`` to ``key[1]`` of each.

    ``tables``: blocks also have a table, with the columns ``key`` and ``value``, or the column ``record`` if there is
    no key, all of ``fixed_size_binary``.
    """

    splittable = True

    def __init__(self, length: int, key: tuple[int, int] | None = None, tables: bool = False) -> None:
        self._length = length
        self._key = key
        self._tables = tables

    def read(self, extent: Extent, max_record: int) -> Iterator[RecordBlock]:
        """Read the records that begin in the extent; the first is found by arithmetic, reading no byte before it."""
        n = self._length
        if n > max_record:
            raise too_long(extent.uri, 0, max_record)
        if compression_of(extent.uri):
            yield from self._blocks(extent.uri, 0, decompress(read_from(extent, 0), extent.uri), max_record)
            return
        if extent.size > 0 and extent.size % n:
            # each of the file's tasks checks it, before doing any work
            raise self._ragged(extent.uri, extent.size)
        start = -(-extent.start // n) * n
        end = -(-extent.end // n) * n if extent.end >= 0 else -1
        if start == end:
            return
        owned = replace(extent, start=start, end=end)
        yield from self._blocks(extent.uri, start, _until(owned, read_from(owned, start)), max_record)

    def _blocks(self, uri: str, at: int, chunks: Iterable[bytes], max_record: int) -> Iterator[RecordBlock]:
        n = self._length
        held: list[bytes] = []
        size = 0
        least = max(n, table_block(max_record)) if self._tables else n
        for chunk in chunks:
            held.append(chunk)
            size += len(chunk)
            if size < least:
                continue
            data = b"".join(held)
            whole = size - size % n
            yield self._block(uri, at, data[:whole] if whole < size else data)
            held, size, at = [data[whole:]], size - whole, at + whole
        whole = size - size % n
        if whole:
            yield self._block(uri, at, b"".join(held)[:whole])
        if whole < size:
            raise self._ragged(uri, at + size)

    def _block(self, uri: str, at: int, data: bytes) -> RecordBlock:
        n = self._length
        offset_of = range(at, at + len(data), n).__getitem__
        if not self._tables:
            return RecordBlock(
                None if self._key is None else _Slices(data, n, *self._key), _Slices(data, n, 0, n), uri, offset_of
            )
        import pyarrow as pa  # noqa: PLC0415 - needs pyarrow

        from mrcelery.formats import arrow  # noqa: PLC0415 - needs pyarrow

        values = arrow.fixed_array(data, n)
        if self._key is None:
            return RecordBlock(None, arrow.ArrowColumn(values), uri, offset_of, pa.table({"record": values}))
        keys = arrow.fixed_array(data, n, *self._key)
        table = pa.table({"key": keys, "value": values})
        return RecordBlock(arrow.ArrowColumn(keys), arrow.ArrowColumn(values), uri, offset_of, table)

    def _ragged(self, uri: str, size: int) -> CorruptDataError:
        n = self._length
        error = CorruptDataError(
            f"{uri} has {size} bytes, {size % n} more than whole records of {n} bytes: "
            "correct the length in --input-format records:N, or the file",
            file=uri,
            offset=size - size % n,
        )
        error.retryable = False
        return error


class _Slices(Sequence[bytes]):
    """Bytes ``begin`` to ``end`` of each ``step`` bytes, sliced on access."""

    def __init__(self, data: bytes, step: int, begin: int, end: int) -> None:
        self._data = data
        self._begins = range(begin, len(data), step)
        self._width = end - begin

    def __len__(self) -> int:
        return len(self._begins)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return self._cut(self._begins[i])
        return self._data[self._begins[i] : self._begins[i] + self._width]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._cut(self._begins))

    def _cut(self, begins: range) -> list[bytes]:
        data, width = self._data, self._width
        return [data[i : i + width] for i in begins]


def _until(extent: Extent, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield chunks up to the extent's end; raise if the file ends earlier, having changed since the job was planned."""
    at = extent.start
    for chunk in chunks:
        piece = chunk if extent.end < 0 else chunk[: extent.end - at]
        at += len(piece)
        yield piece
        if at == extent.end:
            return
    if at < extent.end:
        raise shortened(extent, at)
