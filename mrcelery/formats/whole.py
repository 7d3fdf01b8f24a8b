"""Whole files: the key is the file's URI, the value its text."""

from __future__ import annotations

from collections.abc import Iterator

from mrcelery.formats.base import RecordBlock
from mrcelery.formats.compression import compression_of, decompress
from mrcelery.formats.lines import BOM, too_long
from mrcelery.formats.source import read_from, shortened
from mrcelery.schema.structs import Extent


class WholeFileInput:
    """One record per file; invalid UTF-8 becomes lone surrogates, newlines are kept."""

    splittable = False
    endings = None

    def read(self, extent: Extent, max_record: int) -> Iterator[RecordBlock]:
        """Read the decompressed file into one record; the extent is always the whole file."""
        pieces = []
        size = 0
        for chunk in decompress(read_from(extent, 0), extent.uri):
            size += len(chunk)
            if size > max_record:
                raise too_long(extent.uri, 0, max_record)
            pieces.append(chunk)
        if size < extent.end and not compression_of(extent.uri):
            raise shortened(extent, size)
        data = b"".join(pieces).removeprefix(BOM)
        yield RecordBlock([extent.uri], [data.decode("utf-8", "surrogateescape")], extent.uri, lambda i: 0)
