"""Lines of text (``text``) or of bytes (``lines``), each a value under the key None.

A line loses its ``\\n`` or ``\\r\\n`` and nothing else; no other character ends a line. Text is UTF-8;
bytes that are not stay as lone surrogates (Python's ``surrogateescape``), which the ``text`` output
format writes back as the bytes they were.
"""

from __future__ import annotations

from collections.abc import Iterator

from mrcelery.formats.base import RecordBlock
from mrcelery.formats.lines import line_blocks, offsets
from mrcelery.records import Extent


class TextInput:
    """Values are lines as ``str``."""

    splittable = True

    def read(self, extent: Extent, max_record: int) -> Iterator[RecordBlock]:
        for offset, raw in line_blocks(extent, max_record):
            yield RecordBlock(None, text_lines(raw), extent.uri, offsets(offset, raw))


def text_lines(raw: bytes) -> list[str]:
    """The lines of a raw block, without what ends them."""
    # The whole block at once: no byte sequence decodes across a newline, so each line comes out as if
    # decoded alone.
    text = raw.decode("utf-8", "surrogateescape")
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return lines


class LinesInput:
    """Values are lines as ``bytes``: what mrjob's protocols read."""

    splittable = True

    def read(self, extent: Extent, max_record: int) -> Iterator[RecordBlock]:
        for offset, raw in line_blocks(extent, max_record):
            lines = (raw.replace(b"\r\n", b"\n") if b"\r\n" in raw else raw).split(b"\n")
            if not lines[-1]:
                lines.pop()
            yield RecordBlock(None, lines, extent.uri, offsets(offset, raw))
