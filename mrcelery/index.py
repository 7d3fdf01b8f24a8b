"""The index of a sorted run: which of its blocks can hold the keys of a range, and a sample of its keys.

With the range partitioner a map task writes one run, and not R parts, since the bounds of the partitions are
not known before the last map task is done. The barrier reads the indexes, and each reduce task then reads of
each run the blocks of its keys, in one request.

An index follows the end mark of a file of blocks (:mod:`mrcelery.codec`), and ends with the file::

    payload | u32 bytes of the payload | u32 CRC-32 of the payload | "MRCIDX1\\n"
    payload = five columns of the codec, each after its bytes as u32 and its length as u32:
              start and end (bytes), records and number of keys of each entry; the keys of all entries

An entry is one block or some neighbours. Its keys are evenly spaced over its records; the first is the first
record's.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple
from zlib import crc32

from mrcelery.codec import MAGIC, Block, BlockWriter, decode_column, encode_column, end_mark
from mrcelery.errors import CorruptDataError
from mrcelery.partition import order_key
from mrcelery.records import Part
from mrcelery.shuffle import Run

INDEX_MAGIC = b"MRCIDX1\n"
_TRAILER = struct.Struct("<II8s")
_COLUMN = struct.Struct("<II")

SAMPLE = 8
"""Keys kept of a block."""
MOST_ENTRIES = 2048
"""Entries kept of a run (half a gigabyte of blocks); then neighbours are joined, two by two."""
MOST_KEY_BYTES = 1 << 20
"""Bytes of keys kept of a run, about; beyond it neighbours are joined, too."""


class _Entry(NamedTuple):
    start: int
    end: int
    records: int
    keys: list[Any]


class IndexedWriter(BlockWriter):
    """Writes a sorted run with its index. Memory for the index is bounded whatever is written."""

    def __init__(self, out: Any, *, compress: bool = False, allow_pickle: bool = False) -> None:
        super().__init__(out, compress=compress, allow_pickle=allow_pickle)
        self.data_end = 0
        """Bytes of the file before its index, once it is closed."""
        self._entries: list[_Entry] = []
        self._key_bytes = 0

    def _block(self, keys: Any, values: Any) -> None:
        start = self.bytes
        super()._block(keys, values)
        sample = _sample(keys)
        self._entries.append(_Entry(start, self.bytes, len(keys), sample))
        self._key_bytes += sum(map(_size, sample))
        while len(self._entries) > 1 and (
            len(self._entries) > MOST_ENTRIES or self._key_bytes > MOST_KEY_BYTES
        ):
            self._thin_out()

    def _thin_out(self) -> None:
        entries = self._entries
        self._entries = [_joined(entries[i : i + 2]) for i in range(0, len(entries), 2)]
        self._key_bytes = sum(_size(key) for entry in self._entries for key in entry.keys)

    def close(self) -> None:
        """Write the end mark and the index (the underlying file stays open)."""
        super().close()
        self.data_end = self.bytes
        entries = self._entries
        columns: list[list[Any]] = [
            [entry.start for entry in entries],
            [entry.end for entry in entries],
            [entry.records for entry in entries],
            [len(entry.keys) for entry in entries],
            [key for entry in entries for key in entry.keys],
        ]
        payload = b""
        for column in columns:
            data = encode_column(column)
            payload += _COLUMN.pack(len(data), len(column)) + data
        self._put(payload + _TRAILER.pack(len(payload), crc32(payload), INDEX_MAGIC))


def _sample(keys: Any) -> list[Any]:
    n = len(keys)
    first = _plain(keys[0])
    if first == _plain(keys[n - 1]):
        return [first]  # sorted: all are the same
    count = min(SAMPLE, n)
    return [first, *(_plain(keys[i * n // count]) for i in range(1, count))]


def _joined(entries: list[_Entry]) -> _Entry:
    if len(entries) == 1:
        return entries[0]
    a, b = entries
    # As many keys of each as its share of the records, so that they stay evenly spaced.
    count = min(SAMPLE, len(a.keys) + len(b.keys))
    records = a.records + b.records
    keys = [a.keys[0]]
    for i in range(1, count):
        at = i * records // count
        keys.append(
            a.keys[at * len(a.keys) // a.records]
            if at < a.records
            else b.keys[(at - a.records) * len(b.keys) // b.records]
        )
    return _Entry(a.start, b.end, records, keys)


def _plain(key: Any) -> Any:
    """A key as a Python object, also from a column of Arrow's."""
    return key.as_py() if hasattr(key, "as_py") else key


def _size(key: Any) -> int:
    if isinstance(key, (tuple, list)):
        return sum(map(_size, key)) + 16
    return len(key) + 16 if isinstance(key, (str, bytes)) else 16


class Index:
    """The index of one run, read back; ``keys`` are the sampled keys in order."""

    def __init__(
        self, starts: list[int], ends: list[int], records: list[int], counts: list[int], keys: list[Any]
    ) -> None:
        self.keys = keys
        self._starts = starts
        self._ends = ends
        self._counts = counts
        self._first = [0, *accumulate(counts)]  # of each entry: where its keys begin
        self._records = [0, *accumulate(records)]
        self._bytes = [0, *accumulate(end - start for start, end in zip(starts, ends, strict=True))]

    def weights(self, of_record: int) -> Iterator[float]:
        """What each key stands for: bytes, with ``of_record`` bytes more a record."""
        for i, count in enumerate(self._counts):
            size = self._bytes[i + 1] - self._bytes[i] + of_record * (self._records[i + 1] - self._records[i])
            for _ in range(count):
                yield size / count

    def below(self, bound: Any) -> int:
        """How many of the keys are below ``bound``."""
        return bisect_left(self.keys, order_key(bound), key=order_key)

    def before(self, at: int) -> tuple[int, int]:
        """Records and bytes of the run before the key with number ``at``, about."""
        if at >= len(self.keys):
            return self._records[-1], self._bytes[-1]
        i = bisect_right(self._first, at) - 1
        part, count = at - self._first[i], self._counts[i]
        records, size = (of[i] + (of[i + 1] - of[i]) * part // count for of in (self._records, self._bytes))
        return records, size

    def span(self, low: int, high: int) -> tuple[int, int, int]:
        """Start, end and records of the blocks that can hold keys from one bound up to another, both given
        as what :meth:`below` returned for them (for no bound: 0, and the number of keys)."""
        # The entry of the last key below the bound may go on beyond it; no earlier one does, as the next
        # entry's first key is not above it.
        first = bisect_right(self._first, low - 1) - 1 if low else 0
        last = min(bisect_left(self._first, high), len(self._counts))
        if first >= last:
            return 0, 0, 0
        return self._starts[first], self._ends[last - 1], self._records[last] - self._records[first]


def decode_index(data: bytes, where: str) -> Index:
    """The index from its bytes, those of a file from its ``data_end`` on.

    Raises :class:`CorruptDataError`, naming ``where``, for bytes that are damaged.
    """
    payload = data[: -_TRAILER.size]
    if len(data) < _TRAILER.size or _TRAILER.unpack_from(data, len(payload)) != (
        len(payload),
        crc32(payload),
        INDEX_MAGIC,
    ):
        raise CorruptDataError(f"the index of {where} does not match its checksum: submit the job again")
    columns, at = [], 0
    for _ in range(5):
        size, length = _COLUMN.unpack_from(payload, at)
        at += _COLUMN.size
        columns.append(decode_column(payload[at : at + size], length))
        at += size
    return Index(*columns)


def encode_key(key: Any) -> bytes:
    """A key as bytes that keep its type."""
    return encode_column([key])


def decode_key(data: bytes) -> Any:
    """The key that :func:`encode_key` wrote."""
    return decode_column(data, 1)[0]


def framed(chunks: Iterable[bytes], part: Part) -> Iterator[bytes]:
    """The bytes of a part as those of a file of blocks: a piece of a run gets the head and the end of one.

    The number of records in the end mark is the piece's, so a reader notices where blocks are missing.
    """
    if part.end < 0:
        yield from chunks
        return
    yield MAGIC
    yield from chunks
    yield end_mark(part.records)


def sliced(open_run: Callable[[], Run], low: bytes | None, high: bytes | None) -> Run:
    """The records of a run whose keys are in ``[low, high)``, bounds as :func:`encode_key` wrote them."""
    above = None if low is None else order_key(decode_key(low))
    below = None if high is None else order_key(decode_key(high))
    for block in open_run():
        keys, values = block
        start = 0 if above is None else _position(keys, above)
        end = len(keys) if below is None else _position(keys, below)
        if start < end:
            yield block if end - start == len(keys) else Block(keys[start:end], values[start:end])
        if end < len(keys):
            return


def _position(keys: Sequence[Any], bound: tuple[Any, ...]) -> int:
    return bisect_left(range(len(keys)), bound, key=lambda i: order_key(_plain(keys[i])))
