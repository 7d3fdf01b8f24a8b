"""Delimited text (``csv``, ``tsv``): RFC 4180, read and written by Python's ``csv`` module.

A quoted field may contain newlines, so the middle of a file does not show where records begin: a file is one split.
With ``csv.multiline=false`` every line is a record, and a file is cut like text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from mrcelery.errors import CodecError, CorruptDataError, TaskError
from mrcelery.formats.base import RecordBlock
from mrcelery.formats.json_text import json_lines
from mrcelery.formats.lines import line_blocks, too_long
from mrcelery.formats.output import text_bytes
from mrcelery.formats.rows import Columns
from mrcelery.records.columns import Column, as_list
from mrcelery.schema.structs import Extent

Row = list[str] | csv.Error
"""The fields of a record, [] for a blank line; or the error of a malformed record."""


@dataclass(frozen=True)
class Dialect:
    """How fields are separated and quoted; ``quote`` is "" for no quoting."""

    delimiter: str = ","
    quote: str = '"'
    header: bool = True
    """Whether the first record names the columns."""
    multiline: bool = True
    """Whether quoted fields may contain newlines."""

    def reader(self, lines: Iterable[str]) -> Any:
        """Make a strict csv reader; QUOTE_NONE if ``quote`` is ""."""
        quoting: Any = csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE
        # strict: malformed CSV would otherwise be guessed at, and an open quote would take in the rest of the file
        return csv.reader(lines, delimiter=self.delimiter, quotechar=self.quote or None, quoting=quoting, strict=True)

    def writer(self, out: io.StringIO, quoting: Any = csv.QUOTE_MINIMAL) -> Any:
        """Make a csv writer that ends rows with a newline; QUOTE_NONE if ``quote`` is ""."""
        quoting = quoting if self.quote else csv.QUOTE_NONE
        return csv.writer(
            out, delimiter=self.delimiter, quotechar=self.quote or None, quoting=quoting, lineterminator="\n"
        )


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Whole records: their lines, the first at byte ``offset``, and one row for each record."""

    dialect: Dialect
    offset: int
    lines: list[str]
    rows: list[Row]

    def offset_of(self, row: int) -> int:
        reader = self.dialect.reader(self.lines)
        for _ in range(row):
            next_row(reader)
        return self.offset + sum(map(_bytes_in, self.lines[: reader.line_num]))


class DelimitedInput:
    """Values are dicts of strings by column, or lists of strings if there is no header.

    Blank lines are skipped. A record that is malformed, or has more or fewer fields than the header, raises
    :class:`CorruptDataError`, or goes to ``on_bad`` and is skipped.
    """

    def __init__(self, dialect: Dialect, on_bad: Callable[[TaskError], None] | None = None) -> None:
        self._dialect = dialect
        self._on_bad = on_bad

    @property
    def splittable(self) -> bool:
        """Return False unless ``multiline`` is off: in the middle of a file, a quote may open or close a field."""
        return not self._dialect.multiline

    def read(self, extent: Extent, max_record: int) -> Iterator[RecordBlock]:
        """Read rows as dicts by the file's header; a later extent reads the header from the file's start."""
        allow_fields(max_record)
        header = self.header_before(extent, max_record)
        yield from self.blocks(extent.uri, line_blocks(extent, max_record), header, max_record)

    def header_before(self, extent: Extent, max_record: int) -> list[str] | None:
        """Read the file's header if it has one and the header is before the extent; else None."""
        if not self._dialect.header or extent.start == 0:
            return None
        # [0, 1) owns the file's first line and no other
        source = line_blocks(replace(extent, start=0, end=1), max_record)
        first = next(self._chunks(extent.uri, source, max_record), None)
        return None if first is None else header_of(first.rows[0], extent.uri)

    def blocks(
        self, uri: str, source: Iterator[tuple[int, bytes]], header: list[str] | None, max_record: int
    ) -> Iterator[RecordBlock]:
        """Yield the records in blocks of :func:`line_blocks`; if a header is expected, take the first record as it."""
        for chunk in self._chunks(uri, source, max_record):
            first = 0
            if self._dialect.header and header is None:
                header, first = header_of(chunk.rows[0], uri), 1
            if block := self._block(uri, chunk, header, first):
                yield block

    def _chunks(self, uri: str, source: Iterator[tuple[int, bytes]], max_record: int) -> Iterator[_Chunk]:
        if self._dialect.multiline:
            yield from _Stream(self._dialect, uri, source, max_record).chunks()
            return
        for offset, raw in source:
            lines = lines_of(raw)
            reader = self._dialect.reader(lines)
            rows: list[Row] = []
            while (row := next_row(reader)) is not None:
                if reader.line_num != len(rows) + 1:
                    row = csv.Error("a quoted field has a newline in it, which csv.multiline=false excludes")
                    raise _bad(uri, _Chunk(self._dialect, offset, lines, rows).offset_of(len(rows)), row)
                rows.append(row)
            yield _Chunk(self._dialect, offset, lines, rows)

    def _block(self, uri: str, chunk: _Chunk, header: list[str] | None, first: int) -> RecordBlock | None:
        numbers: Sequence[int] = range(first, len(chunk.rows))
        rows: list[Any] = chunk.rows[first:] if first else chunk.rows
        width = len(header) if header is not None else -1
        if set(map(_width, rows)) - {width} if width >= 0 else min(map(_width, rows), default=0) <= 0:
            numbers = [i for i in numbers if self._good(uri, chunk, i, width)]
            rows = [chunk.rows[i] for i in numbers]
        if not rows:
            return None
        values = rows if header is None else [dict(zip(header, row, strict=True)) for row in rows]
        return RecordBlock(None, values, uri, lambda i: chunk.offset_of(numbers[i]))

    def _good(self, uri: str, chunk: _Chunk, i: int, width: int) -> bool:
        row = chunk.rows[i]
        if isinstance(row, csv.Error):
            why: Exception = row
        elif not row or width in (-1, len(row)):
            return bool(row)
        else:
            why = ValueError(f"{len(row)} field{'' if len(row) == 1 else 's'}, and the header has {width}")
        error = _bad(uri, chunk.offset_of(i), why, "" if isinstance(row, csv.Error) else repr(row)[:200])
        if self._on_bad is None:
            raise error
        self._on_bad(error)
        return False


class _Stream:
    """Records of a file whose records may span several lines, read block by block."""

    def __init__(self, dialect: Dialect, uri: str, source: Iterator[tuple[int, bytes]], max_record: int) -> None:
        self._dialect = dialect
        self._uri = uri
        self._max_record = max_record
        self._source = source
        self._offset = 0  # of the first of the lines below
        self._lines: list[str] = []
        self._taken = 0  # lines passed to the reader
        self._rows: list[Row] = []
        self._blocks = 0  # number of blocks that the lines come from
        self._end = 0  # byte after the last of the lines

    def chunks(self) -> Iterator[_Chunk]:
        reader = self._dialect.reader(self._feed())
        while (row := next_row(reader)) is not None:
            self._rows.append(row)
            # A record that reached into the next block ends the chunk: otherwise chunks might never end.
            if self._taken == len(self._lines) or self._blocks > 1:
                yield self._cut()
        if self._rows:
            yield self._cut()

    def _feed(self) -> Iterator[str]:
        within = last = 0  # bytes of blocks wholly within one record; bytes of the last block
        for offset, raw in self._source:
            if not self._lines:
                self._offset = offset
            within = within + last if self._blocks > 1 else 0
            if within > self._max_record:
                # strict readers report an open quote only at the end of the input
                chunk = _Chunk(self._dialect, self._offset, self._lines, [])
                raise too_long(self._uri, chunk.offset_of(len(self._rows)), self._max_record)
            self._blocks += 1
            last = len(raw)
            self._lines += lines_of(raw)
            self._end = offset + len(raw)
            while self._taken < len(self._lines):
                self._taken += 1
                yield self._lines[self._taken - 1]

    def _cut(self) -> _Chunk:
        chunk = _Chunk(self._dialect, self._offset, self._lines[: self._taken], self._rows)
        self._lines = self._lines[self._taken :]
        self._offset = self._end - sum(map(_bytes_in, self._lines))
        self._rows, self._taken, self._blocks = [], 0, 1 if self._lines else 0
        return chunk


def allow_fields(size: int) -> None:
    """Raise the csv module's limit on a field to ``size`` bytes.

    The limit, initially 128 KiB, applies to the whole process; it is never lowered here.
    """
    csv.field_size_limit(max(csv.field_size_limit(), size))


def next_row(reader: Any) -> Row | None:
    """Return the next row, the csv module's error if it is malformed, or None at the end."""
    try:
        row: list[str] = next(reader)
        return row
    except StopIteration:
        return None
    except csv.Error as e:
        return e


def lines_of(raw: bytes) -> list[str]:
    """Split into lines with their line ends, including a single ``\\r``, as the csv module expects."""
    return io.StringIO(raw.decode("utf-8", "surrogateescape"), newline="").readlines()


def _bytes_in(line: str) -> int:
    return len(line) if line.isascii() else len(line.encode("utf-8", "surrogateescape"))


def _width(row: Row) -> int:
    return -2 if isinstance(row, csv.Error) else len(row)


def header_of(row: Row, uri: str) -> list[str]:
    """Check a header row and return its names. Raises :class:`CorruptDataError` if it is blank or has duplicates."""
    if isinstance(row, csv.Error):
        raise _bad(uri, 0, row)
    if not row:
        raise _bad(uri, 0, ValueError("the first line is blank, where the header should be"))
    twice = next((name for name in row if row.count(name) > 1), None)
    if twice is not None:
        raise _bad(uri, 0, ValueError(f"the header names {twice!r} twice: give -D csv.header=false to have lists"))
    return row


def _bad(uri: str, offset: int, why: Exception, record: str = "") -> CorruptDataError:
    error = CorruptDataError(
        f"{uri} has a record at byte {offset} that is not valid CSV ({why}): correct it, skip it with "
        "--max-bad-records, or set csv.delimiter, csv.quote, csv.header or csv.multiline with -D to what the file has",
        file=uri,
        offset=offset,
        record=record,
    )
    error.retryable = False
    return error


class DelimitedOutput:
    """Records as rows of :class:`Columns`; each part file has its own header.

    None is an empty field; lists, tuples and dicts are written as JSON, anything else as by ``str()``.
    """

    def __init__(self, dialect: Dialect, suffix: str, columns: Sequence[str] = ()) -> None:
        self.suffix = suffix
        self._dialect = dialect
        self._columns = Columns(columns)
        self._begun = False

    arrow = True

    def encode(self, keys: Column, values: Column) -> bytes:
        """Write the header before the first row; Arrow columns are written without Python objects if possible."""
        if not len(keys):
            return b""
        columns = self._columns.take(keys, values)
        rows: list[Sequence[Any]] = []
        if self._dialect.header and not self._begun:
            rows.append(self._columns.names)
        self._begun = True
        if not all(isinstance(column, list) for column in columns):
            from mrcelery.formats import arrow  # noqa: PLC0415 - needs pyarrow

            if (data := arrow.csv_rows(columns, self._dialect.delimiter, self._dialect.quote)) is not None:
                return self._encoded(rows) + data
        rows += zip(*(_cells(as_list(column)) for column in columns), strict=True)
        return self._encoded(rows)

    def _encoded(self, rows: list[Sequence[Any]]) -> bytes:
        try:
            text = self._text(rows)
            if "\r" not in text:
                return text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            pass
        except csv.Error as e:
            raise CodecError(f"a record cannot be written ({e}): set csv.quote, or use --output-format jsonl") from None
        # Row by row, because a row's bytes must not depend on others.
        return b"".join(text_bytes(self._safe_text(row)) for row in rows)

    def _text(self, rows: Iterable[Sequence[Any]], quoting: Any = csv.QUOTE_MINIMAL) -> str:
        out = io.StringIO(newline="")
        self._dialect.writer(out, quoting).writerows(rows)
        return out.getvalue()

    def _safe_text(self, row: Sequence[Any]) -> str:
        # Only newer versions of the module quote a single carriage return; readers take it for a line end.
        text = self._text([row])
        return self._text([row], csv.QUOTE_ALL) if "\r" in text else text


def _cells(column: Sequence[Any]) -> Sequence[Any]:
    if set(map(type, column)) <= _PLAIN:
        return column
    return [_cell(item) for item in column]


_PLAIN = frozenset({str, int, float, bool, type(None)})


def _cell(item: Any) -> Any:
    if isinstance(item, bytes):
        return item.decode("utf-8", "surrogateescape")
    if isinstance(item, (list, tuple, dict)):
        return json_lines([item])[0].decode()
    return item
