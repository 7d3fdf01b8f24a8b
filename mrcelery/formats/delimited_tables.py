"""Delimited text as tables: the input of :mod:`mrcelery.formats.delimited`, read by pyarrow if both read the same.

They differ on quotes within fields, on a single ``\\r`` and on malformed CSV. So each block is checked first, and if it
contains any of these, the rest of the extent goes through Python's ``csv`` module.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from mrcelery.errors import TaskError
from mrcelery.formats.arrow import table_of
from mrcelery.formats.base import RecordBlock
from mrcelery.formats.delimited import DelimitedInput, Dialect, Row, allow_fields, header_of, lines_of, next_row
from mrcelery.formats.lines import LONGEST, gathered, line_blocks, table_block, too_long
from mrcelery.formats.parquet import Rows
from mrcelery.schema.structs import Extent

_NEWLINE, _RETURN = 10, 13


class DelimitedTables:
    """Like :class:`DelimitedInput`, but each block has a table with a column of strings per field.

    Columns are named by the header, or ``f0``, ``f1``, ... if there is none; a field missing from a record without a
    header is null.
    """

    def __init__(self, dialect: Dialect, on_bad: Callable[[TaskError], None] | None = None) -> None:
        self._dialect = dialect
        self._plain = DelimitedInput(dialect, on_bad)
        self.splittable = self._plain.splittable

    def read(self, extent: Extent, max_record: int) -> Iterator[RecordBlock]:
        """Parse with pyarrow; blocks it refuses are read by the csv module, giving the same records."""
        uri, longest = extent.uri, min(max_record, LONGEST)
        allow_fields(longest)
        header = self._plain.header_before(extent, longest)
        source = gathered(line_blocks(extent, longest), table_block(longest))
        held, at = b"", 0
        while True:
            offset, raw = next(source, (0, b""))
            at = at if held else offset
            data = held + raw
            if not data:
                return
            ends = _record_ends(data, self._dialect, last=not raw)
            cut = len(data) if not raw else int(ends[-1]) if ends is not None and len(ends) else 0
            if ends is not None and not cut:
                if len(data) > longest:
                    raise too_long(uri, at, longest)
                held = data
                continue
            first = 0
            if ends is not None and self._dialect.header and header is None:
                first = int(ends[0]) if len(ends) else cut
                header = header_of(self._record(data) or [], uri)
            body = data[first:cut]
            table = None if ends is None else self._parsed(body, header)
            if table is None:
                rest = chain([(at + first, data[first:])], source)
                yield from self._by_rows(self._plain.blocks(uri, rest, header, longest))
                return
            if table.num_rows:
                yield RecordBlock(None, self._rows(table), uri, self._offsets(at + first, body), table)
            held, at = data[cut:], at + cut

    def _parsed(self, body: bytes, header: list[str] | None) -> Any:
        """Parse a table; None if pyarrow refuses it."""
        names = header or []
        if not body.strip(b"\r\n"):
            return pa.table({name: pa.array([], pa.string()) for name in names})
        if header is None:
            first = self._record(body.lstrip(b"\r\n"))
            if not isinstance(first, list):
                return None
            names = [f"f{i}" for i in range(len(first))]
        dialect = self._dialect
        try:
            return arrow_csv.read_csv(
                pa.BufferReader(body),
                read_options=arrow_csv.ReadOptions(use_threads=False, block_size=len(body) + 1, column_names=names),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=dialect.delimiter,
                    quote_char=dialect.quote or False,
                    newlines_in_values=dialect.multiline,
                ),
                convert_options=arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
            )
        except pa.ArrowInvalid:
            return None

    def _record(self, data: bytes) -> Row | None:
        """Read the first record, using only its own lines."""
        return next_row(self._dialect.reader(line.decode("utf-8", "surrogateescape") for line in io.BytesIO(data)))

    def _rows(self, table: Any) -> Rows:
        return Rows(table) if self._dialect.header else _Lists(table)

    def _offsets(self, at: int, body: bytes) -> Callable[[int], int]:
        def offset_of(i: int) -> int:
            lines = lines_of(body)
            reader = self._dialect.reader(lines)
            while True:
                begin = reader.line_num
                if next_row(reader):
                    i -= 1
                if i < 0:
                    return at + len("".join(lines[:begin]).encode())

        return offset_of

    def _by_rows(self, blocks: Iterator[RecordBlock]) -> Iterator[RecordBlock]:
        for block in blocks:
            fields = block
            if not self._dialect.header:
                rows = [{f"f{i}": field for i, field in enumerate(row)} for row in block.values]
                fields = RecordBlock(None, rows, block.file, block.offsets)
            block.table = table_of(fields)
            yield block


class _Lists(Rows):
    """A table's rows as lists."""

    def __getitem__(self, i: Any) -> Any:
        row = super().__getitem__(i)
        return [list(r.values()) for r in row] if isinstance(i, slice) else list(row.values())

    def __iter__(self) -> Iterator[Any]:
        return (list(row.values()) for row in super().__iter__())


def _record_ends(data: bytes, dialect: Dialect, *, last: bool) -> Any:
    """Find the record ends: offsets into ``data`` after each record's newline (numpy).

    Returns None if pyarrow might read the records differently from the csv module. ``last``: no more data follows, so a
    quote must not be open. If quotes occur only at the ends of fields, or doubled within, a byte is within a quoted
    field exactly if it is preceded by an odd number of quotes.
    """
    if not (dialect.delimiter + dialect.quote).isascii() or b"\0" in data:
        return None
    if b"\r" in data and data.count(b"\r") != data.count(b"\r\n"):
        return None
    array = np.frombuffer(data, np.uint8)
    newlines = np.flatnonzero(array == _NEWLINE)
    if not dialect.quote or dialect.quote.encode() not in data:
        return newlines + 1
    quote, delimiter = ord(dialect.quote), ord(dialect.delimiter)
    quotes = np.flatnonzero(array == quote)
    if last and len(quotes) % 2:
        return None
    opening, closing = quotes[0::2], quotes[1::2]
    before = array[opening[opening > 0] - 1]
    after = array[closing[closing < len(data) - 1] + 1]
    if not np.isin(before, (delimiter, _NEWLINE, quote)).all():
        return None
    if not np.isin(after, (delimiter, _NEWLINE, _RETURN, quote)).all():
        return None
    inside = np.searchsorted(quotes, newlines) % 2 == 1
    if inside.any() and not dialect.multiline:
        return None
    return newlines[~inside] + 1
