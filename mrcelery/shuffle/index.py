"""The index of a sorted run: which of its blocks can contain the keys of a range, and a sample of its keys.

With the range partitioner a map task writes one run instead of R parts, because the bounds of the partitions are
not known before the last map task has finished. The barrier reads the indexes, and each reduce task then reads
the blocks of each run that contain its keys, in one request.

An index follows the end mark of a file of blocks (:mod:`mrcelery.records.blocks`), and ends with the file::

    payload | u32 bytes of the payload | u32 CRC-32 of the payload | "MRCIDX1\\n"
    payload = five columns of the codec, each after its bytes as u32 and its length as u32:
              start and end (bytes), records and number of keys of each entry; the keys of all entries
              and, after them, the last key of the run

An entry is one block or several neighbors. Its keys are evenly spaced over its records; the first is the first
record's.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple
from zlib import crc32

from mrcelery.errors import CorruptDataError
from mrcelery.records.blocks import MAGIC, Block, BlockWriter, decode_column, encode_column, end_mark
from mrcelery.records.columns import Column, Keys, is_array
from mrcelery.records.order import order_key
from mrcelery.schema.structs import Part
from mrcelery.shuffle.runs import Run

INDEX_MAGIC = b"MRCIDX1\n"
_TRAILER = struct.Struct("<II8s")
_COLUMN = struct.Struct("<II")

SAMPLE = 64
"""Keys kept of a block while there are few; :data:`MOST_KEYS` reduces it to 16 for a run of 64 MiB."""
LEAST = 4
"""Fewest keys kept of an entry. If that is too many, neighbors become one entry."""
MOST_KEYS = 4096
"""Most keys kept of a run."""
MOST_KEY_BYTES = 1 << 20
"""Approximate limit on the bytes of the keys kept of a run."""


class _Entry(NamedTuple):
    start: int
    end: int
    records: int
    keys: list[Any]
    blocks: int = 1


class IndexedWriter(BlockWriter):
    """Writes a sorted run with its index. Memory for the index is bounded, however large the run."""

    def __init__(self, out: Any, *, compress: bool = False, allow_pickle: bool = False) -> None:
        super().__init__(out, compress=compress, allow_pickle=allow_pickle)
        self.data_end = 0
        """Bytes of the file before its index, once the file is closed."""
        self._entries: list[_Entry] = []
        self._last: list[Any] = []
        self._sample = SAMPLE  # keys of a block
        self._most_blocks = 1  # most blocks of an entry; a power of two
        self._keys = 0
        self._key_bytes = 0

    def _block(self, keys: Column, values: Column) -> None:
        start = self.bytes
        super()._block(keys, values)
        self._add(start, keys)

    def _arrays(self, keys: Column, values: Column) -> None:
        start = self.bytes
        super()._arrays(keys, values)
        self._add(start, Keys(keys))

    def _add(self, start: int, keys: Sequence[Any]) -> None:
        self._last = [keys[len(keys) - 1]]
        sample = _sample(keys, self._last[0], self._sample)
        self._append(_Entry(start, self.bytes, len(keys), sample))
        while self._keys > MOST_KEYS or self._key_bytes > MOST_KEY_BYTES:
            if not self._thin_out():
                break

    def _append(self, entry: _Entry) -> None:
        entries = self._entries
        entries.append(entry)
        self._count(entry, 1)
        # As in a binary counter, so that all entries except a few at the end have the same number of blocks.
        while len(entries) > 1 and entries[-2].blocks == entries[-1].blocks < self._most_blocks:
            b, a = entries.pop(), entries.pop()
            joined = _halved(_joined(a, b))
            entries.append(joined)
            self._count(a, -1)
            self._count(b, -1)
            self._count(joined, 1)

    def _count(self, entry: _Entry, sign: int) -> None:
        self._keys += sign * len(entry.keys)
        self._key_bytes += sign * sum(map(_size, entry.keys))

    def _thin_out(self) -> bool:
        """Keep half of the keys; if few are left of each entry, join entries. Return False if neither is possible."""
        entries = self._entries
        if any(len(entry.keys) > LEAST for entry in entries):
            entries = list(map(_halved, entries))
            self._sample = max(LEAST, self._sample // 2)
        elif len(entries) > 1 and self._most_blocks <= entries[0].blocks:
            self._most_blocks *= 2
        else:
            return False
        self._entries, self._keys, self._key_bytes = [], 0, 0
        for entry in entries:
            self._append(entry)
        return True

    def close(self) -> None:
        """Write the end mark and the index (the underlying file stays open)."""
        super().close()
        self.data_end = self.bytes
        entries = self._entries
        assert sum(entry.records for entry in entries) == self.records, "a block went past the index"
        columns: list[list[Any]] = [
            [entry.start for entry in entries],
            [entry.end for entry in entries],
            [entry.records for entry in entries],
            [len(entry.keys) for entry in entries],
            [key for entry in entries for key in entry.keys] + self._last,
        ]
        payload = b""
        for column in columns:
            data = encode_column(column)
            payload += _COLUMN.pack(len(data), len(column)) + data
        self._put(payload + _TRAILER.pack(len(payload), crc32(payload), INDEX_MAGIC))


def _sample(keys: Sequence[Any], last: Any, most: int) -> list[Any]:
    # Sorted: if the first key equals the last one, all are equal.
    return _spaced(keys, 1 if keys[0] == last else min(most, len(keys)))


def _spaced(keys: Sequence[Any], count: int) -> list[Any]:
    """Pick ``count`` of the keys, evenly spaced from the first one on."""
    return [keys[i * len(keys) // count] for i in range(count)]


def _halved(entry: _Entry) -> _Entry:
    count = len(entry.keys)
    return entry._replace(keys=_spaced(entry.keys, count // 2)) if count > LEAST else entry


def _joined(a: _Entry, b: _Entry) -> _Entry:
    # As many keys of each as its share of the records, so that they stay evenly spaced.
    count, records = len(a.keys) + len(b.keys), a.records + b.records
    keys = []
    for at in (i * records // count for i in range(count)):
        of, at = (a, at) if at < a.records else (b, at - a.records)
        keys.append(of.keys[at * len(of.keys) // of.records])
    return _Entry(a.start, b.end, records, keys, a.blocks + b.blocks)


def _size(key: Any) -> int:
    if isinstance(key, (tuple, list)):
        return sum(map(_size, key)) + 16
    return len(key) + 16 if isinstance(key, (str, bytes)) else 16


class Index:
    """The index of one run, read back; ``keys`` are the sampled keys in order, except the last of all."""

    def __init__(
        self, starts: list[int], ends: list[int], records: list[int], counts: list[int], keys: list[Any]
    ) -> None:
        self.keys = keys[:-1]
        self._last = keys[-1:]
        self._starts = starts
        self._ends = ends
        self._counts = counts
        self._first = [0, *accumulate(counts)]  # of each entry: where its keys begin
        self._records = [0, *accumulate(records)]
        self._bytes = [0, *accumulate(end - start for start, end in zip(starts, ends, strict=True))]

    def sample(self, of_record: int) -> tuple[list[Any], list[float]]:
        """Return keys of the run and the weight of each: its bytes, with ``of_record`` more bytes per record.

        The weight between two keys is divided between both: if all of it went to the first, many small runs together
        would seem to have their records earlier than they do.
        """
        weights: list[float] = []
        rest = 0.0
        for i, count in enumerate(self._counts):
            records = self._records[i + 1] - self._records[i]
            each = (self._bytes[i + 1] - self._bytes[i] + of_record * records) / count
            # The key's own record, and half of the others up to the next key; a single key gets all of them.
            mine = each if count == 1 else each * (records + count) / (2 * records)
            weights += [mine + rest] + [each] * (count - 1)
            rest = each - mine
        return self.keys + self._last, [*weights, rest] if weights else []

    def below(self, bound: Any) -> int:
        """Count the keys below ``bound``."""
        return bisect_left(self.keys, order_key(bound), key=order_key)

    def before(self, at: int) -> tuple[int, int]:
        """Estimate the records and bytes of the run before the key with number ``at``."""
        if at >= len(self.keys):
            return self._records[-1], self._bytes[-1]
        i = bisect_right(self._first, at) - 1
        part, count = at - self._first[i], self._counts[i]
        records, size = (of[i] + (of[i + 1] - of[i]) * part // count for of in (self._records, self._bytes))
        return records, size

    def span(self, low: int, high: int) -> tuple[int, int, int]:
        """Return the start, end and records of the blocks that can contain keys from one bound up to another.

        Both are given as returned by :meth:`below` (for no bound: 0, and the number of keys).
        """
        # The entry of the last key below the bound may extend beyond it; no earlier one does, because the next entry's
        # first key is not above it.
        first = bisect_right(self._first, low - 1) - 1 if low else 0
        last = min(bisect_left(self._first, high), len(self._counts))
        if first >= last:
            return 0, 0, 0
        return self._starts[first], self._ends[last - 1], self._records[last] - self._records[first]


def decode_index(data: bytes, where: str) -> Index:
    """Decode an index from its bytes, which are a file's from its ``data_end`` on.

    Raises :class:`CorruptDataError`, naming ``where``, for damaged bytes.
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
    """Encode a key as bytes that keep its type."""
    return encode_column([key])


def decode_key(data: bytes) -> Any:
    """Decode a key encoded by :func:`encode_key`."""
    return decode_column(data, 1)[0]


def framed(chunks: Iterable[bytes], part: Part) -> Iterator[bytes]:
    """Frame the bytes of a part as a file of blocks: a piece of a run gets a file's head and end.

    The number of records in the end mark is the piece's, so a reader notices missing blocks.
    """
    if part.end < 0:
        yield from chunks
        return
    yield MAGIC
    yield from chunks
    yield end_mark(part.records)


def sliced(open_run: Callable[[], Run], low: bytes | None, high: bytes | None) -> Run:
    """Yield the records of a run whose keys are in ``[low, high)``, with bounds from :func:`encode_key`."""
    above = None if low is None else order_key(decode_key(low))
    below = None if high is None else order_key(decode_key(high))
    for block in open_run():
        columns, values = block
        keys = Keys(columns) if is_array(columns) else columns
        start = 0 if above is None else _position(keys, above)
        end = len(keys) if below is None else _position(keys, below)
        if start < end:
            yield block if end - start == len(keys) else Block(columns[start:end], values[start:end])
        if end < len(keys):
            return


def _position(keys: Sequence[Any], bound: tuple[Any, ...]) -> int:
    return bisect_left(range(len(keys)), bound, key=lambda i: order_key(keys[i]))
