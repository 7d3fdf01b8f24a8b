"""Lines of an extent, as raw blocks: the rule by which splits share a file's lines.

An extent ``[start, end)`` owns each line whose first byte is in it; a line begins at byte 0 and after each newline. So
for every way to cut a file each line has one owner, and reading an extent means: from the first line start at or after
``start`` to the first line start at or after ``end``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from mrcelery.errors import RecordTooLongError
from mrcelery.formats.compression import check_text, compression_of, decompress
from mrcelery.formats.source import read_from, shortened, whole
from mrcelery.schema.structs import Extent

BOM = b"\xef\xbb\xbf"

TABLE_BLOCK = 4 << 20
"""Approximate bytes of input in a table: few calls are needed, and a table stays in a processor's cache."""


def table_block(max_record: int) -> int:
    """Return the bytes of input for a table if a record may have ``max_record``: its table takes as much again."""
    return min(TABLE_BLOCK, max(1, max_record // 2))


LONGEST = 1 << 30
"""Largest record in a table, in bytes: Arrow's arrays of strings hold less than 2 GiB."""


def line_blocks(extent: Extent, max_record: int) -> Iterator[tuple[int, bytes]]:
    """Yield the extent's lines as ``(offset, raw)``: whole lines with their newlines.

    Only a file's last line may lack its newline. ``offset`` is the position of ``raw`` in the uncompressed file, in
    bytes. A byte order mark at the start of the file is left out. Raises :class:`RecordTooLongError` for a line of more
    than ``max_record`` bytes as soon as that many are read, :class:`CorruptDataError` for a file that is not text.
    """
    if compression_of(extent.uri):
        every = whole(extent)
        blocks = _owned(every, decompress(read_from(every, 0), extent.uri), max_record)
    else:
        blocks = _owned(extent, read_from(extent, max(0, extent.start - 1)), max_record)
    for offset, raw in blocks:
        if len(raw) > max_record:
            _check_lengths(extent.uri, offset, raw, max_record)
        if offset == 0:
            check_text(raw, extent.uri)
        if offset == 0 and raw.startswith(BOM):
            if len(raw) > len(BOM):
                yield len(BOM), raw[len(BOM) :]
        else:
            yield offset, raw


def gathered(blocks: Iterable[tuple[int, bytes]], size: int) -> Iterator[tuple[int, bytes]]:
    """Join neighboring blocks of :func:`line_blocks` until they have ``size`` bytes."""
    held: list[bytes] = []
    begin = total = 0
    for offset, raw in blocks:
        if not held:
            begin = offset
        held.append(raw)
        total += len(raw)
        if total >= size:
            yield begin, b"".join(held)
            held, total = [], 0
    if held:
        yield begin, b"".join(held)


def _owned(extent: Extent, chunks: Iterable[bytes], max_record: int) -> Iterator[tuple[int, bytes]]:
    """Yield the extent's lines; ``chunks`` are the file's bytes from ``start - 1`` on (from 0 if ``start`` is 0)."""
    end = extent.end
    at = max(0, extent.start - 1)
    inside = extent.start == 0
    # Pieces of an unfinished line are joined once: a line of n blocks costs n, not n squared.
    held: list[bytes] = []
    held_bytes = 0
    begin = at
    for chunk in chunks:
        base, low = at, 0
        at += len(chunk)
        if not inside:
            # The newline before the first owned line is in [start - 1, end - 1), or no line is owned.
            low = chunk.find(b"\n", 0, len(chunk) if end < 0 else max(0, end - 1 - base)) + 1
            if low == 0:
                if 0 <= end <= at + 1:
                    return
                continue
            inside = True
            begin = base + low
        if 0 <= end <= at:
            last = chunk.find(b"\n", max(low, end - 1 - base)) + 1
            if last:
                held.append(chunk[low:last])
                yield begin, b"".join(held)
                return
        cut = chunk.rfind(b"\n", low) + 1
        if cut:
            held.append(chunk[low:cut])
            yield begin, b"".join(held)
            held, held_bytes = [chunk[cut:]], len(chunk) - cut
            begin = base + cut
        else:
            held.append(chunk[low:])
            held_bytes += len(chunk) - low
        if held_bytes > max_record:
            raise too_long(extent.uri, begin, max_record)
    if at < end:
        raise shortened(extent, at)
    if held_bytes:
        yield begin, b"".join(held)


def _check_lengths(uri: str, offset: int, raw: bytes, max_record: int) -> None:
    begin = 0
    while begin < len(raw):
        newline = raw.find(b"\n", begin)
        stop = len(raw) if newline < 0 else newline
        if stop - begin > max_record:
            raise too_long(uri, offset + begin, max_record)
        begin = stop + 1


def too_long(uri: str, offset: int, max_record: int) -> RecordTooLongError:
    """Make the error for a record at ``offset`` that exceeded ``max_record`` bytes."""
    return RecordTooLongError(
        f"{uri} has a record of more than {max_record} bytes at byte {offset}: "
        "raise --memory, or choose the --input-format that the file has",
        file=uri,
        offset=offset,
    )


def offsets(offset: int, raw: bytes) -> Callable[[int], int]:
    """Make a function that finds the file offset of line ``i`` of a raw block."""

    def offset_of(i: int) -> int:
        at = 0
        for _ in range(i):
            at = raw.find(b"\n", at) + 1
        return offset + at

    return offset_of
