"""Lines of text (``text``) or of bytes (``lines``), each a value under the key None.

A line loses its ``\\n`` or ``\\r\\n`` and nothing else; no other character ends a line. Text is UTF-8; invalid bytes
become lone surrogates (Python's ``surrogateescape``), which the ``text`` output format writes back as the original
bytes.

As tables they are one column ``line``, of strings or of bytes; its arrays are cut from a block's bytes at once, without
an object per line.
"""

from __future__ import annotations

from collections.abc import Iterator

from mrcelery.formats.base import RecordBlock
from mrcelery.formats.lines import LONGEST, gathered, line_blocks, offsets, table_block
from mrcelery.schema.structs import Extent


class TextInput:
    """Values are lines as ``str``."""

    splittable = True

    def read(self, extent: Extent, max_record: int) -> Iterator[RecordBlock]:
        """Decode lines as UTF-8; invalid bytes become lone surrogates, so nothing is lost."""
        for offset, raw in line_blocks(extent, max_record):
            yield RecordBlock(None, text_lines(raw), extent.uri, offsets(offset, raw))


def text_lines(raw: bytes) -> list[str]:
    """Return the lines of a raw block, without their line ends."""
    # The whole block at once: no byte sequence decodes across a newline, so each line is decoded as if it were alone.
    text = raw.decode("utf-8", "surrogateescape")
    if "\r" in text:  # a search for one byte is quick, for two it is not
        text = text.replace("\r\n", "\n")
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return lines


class LinesInput:
    """Values are lines as ``bytes``, the input of mrjob's protocols."""

    splittable = True

    def read(self, extent: Extent, max_record: int) -> Iterator[RecordBlock]:
        """Yield lines as bytes, undecoded."""
        for offset, raw in line_blocks(extent, max_record):
            yield RecordBlock(None, byte_lines(raw), extent.uri, offsets(offset, raw))


def byte_lines(raw: bytes) -> list[bytes]:
    """Split like :func:`text_lines`, without decoding."""
    lines = (raw.replace(b"\r\n", b"\n") if b"\r" in raw else raw).split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


class LineTables:
    """Lines as tables of one column ``line``: strings, or bytes if ``text`` is false.

    A block of text that is not UTF-8 has no table, and its values contain lone surrogates.
    """

    splittable = True

    def __init__(self, text: bool) -> None:
        self._text = text

    def read(self, extent: Extent, max_record: int) -> Iterator[RecordBlock]:
        """Build each block's table from its raw bytes; Python values are made only on demand."""
        import pyarrow as pa  # noqa: PLC0415 - needs pyarrow

        from mrcelery.formats import arrow  # noqa: PLC0415 - needs pyarrow

        longest = min(max_record, LONGEST)
        for offset, raw in gathered(line_blocks(extent, longest), table_block(longest)):
            lines = arrow.line_array(raw, self._text)
            if lines is None:
                yield RecordBlock(None, text_lines(raw), extent.uri, offsets(offset, raw))
            else:
                table = pa.table({"line": lines})
                yield RecordBlock(None, arrow.ArrowColumn(lines), extent.uri, offsets(offset, raw), table)
