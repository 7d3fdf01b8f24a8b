"""Records of a fixed length in bytes (``records:N``), each a value of N bytes under the key None.

An extent ``[start, end)`` owns each record whose first byte lies in it, so a file may be cut anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mrcelery.errors import CorruptDataError
from mrcelery.formats.base import RecordBlock
from mrcelery.formats.compression import compression_of, decompress
from mrcelery.formats.lines import too_long
from mrcelery.formats.source import read_from, shortened
from mrcelery.records import Extent


class FixedInput:
    """Values are the file's bytes, ``length`` at a time."""

    splittable = True

    def __init__(self, length: int) -> None:
        self._length = length

    def read(self, extent: Extent, max_record: int) -> Iterator[RecordBlock]:
        n = self._length
        if n > max_record:
            raise too_long(extent.uri, 0, max_record)
        if compression_of(extent.uri):
            yield from self._blocks(extent.uri, 0, decompress(read_from(extent, 0), extent.uri))
            return
        if extent.size > 0 and extent.size % n:
            # each task of the file sees it, before it has worked for nothing
            raise self._ragged(extent.uri, extent.size)
        start = -(-extent.start // n) * n
        end = -(-extent.end // n) * n if extent.end >= 0 else -1
        if start == end:
            return
        owned = Extent(extent.uri, start, end, extent.size)
        yield from self._blocks(extent.uri, start, _until(owned, read_from(owned, start)))

    def _blocks(self, uri: str, at: int, chunks: Iterable[bytes]) -> Iterator[RecordBlock]:
        n = self._length
        held: list[bytes] = []
        size = 0
        for chunk in chunks:
            held.append(chunk)
            size += len(chunk)
            if size < n:
                continue
            data = b"".join(held)
            whole = size - size % n
            records = [data[i : i + n] for i in range(0, whole, n)]
            yield RecordBlock(None, records, uri, range(at, at + whole, n).__getitem__)
            held, size, at = [data[whole:]], size - whole, at + whole
        if size:
            raise self._ragged(uri, at + size)

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


def _until(extent: Extent, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks up to the extent's end; a file that ends before it was changed since the job was planned."""
    at = extent.start
    for chunk in chunks:
        piece = chunk if extent.end < 0 else chunk[: extent.end - at]
        at += len(piece)
        yield piece
        if at == extent.end:
            return
    if at < extent.end:
        raise shortened(extent, at)
