"""Parquet in and out, by pyarrow (the extra ``arrow``), in memory bounded by blocks of rows.

A file may be cut at any byte: an extent owns the row groups that begin in it, and only the footer and the wanted
columns of these are read. So a row group is the least that a task reads.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mrcelery.errors import CodecError, CorruptDataError, InputError, UsageError
from mrcelery.formats.base import RecordBlock
from mrcelery.formats.compression import compression_of
from mrcelery.formats.extras import check_installed
from mrcelery.formats.lines import too_long
from mrcelery.formats.rows import Columns
from mrcelery.formats.source import planned, readable, watch
from mrcelery.records.columns import Column, as_list
from mrcelery.records.objects import objects
from mrcelery.schema.structs import Extent
from mrcelery.storage import Storage, locate
from mrcelery.storage.base import Version
from mrcelery.storage.transfers import carried

BLOCK = 4 << 20
"""Bytes of a block of rows, in Arrow's memory, according to the file."""

MOST_ROWS = 64 << 10
"""Most rows in a block."""

ROW_GROUP = 32 << 20
"""Bytes of a written row group, in Arrow's memory."""


def _pyarrow() -> tuple[Any, Any]:
    check_installed("parquet")
    import pyarrow  # noqa: PLC0415 - needs pyarrow
    from pyarrow import parquet  # noqa: PLC0415 - needs pyarrow

    return pyarrow, parquet


class ParquetInput:
    """Values are rows as dicts; blocks hold their ``pyarrow.Table``, which ``mapper_batch`` receives.

    Only ``columns`` are read, all if it is empty. A record's offset is its row number in the file.
    """

    splittable = True
    endings = (".parquet", ".parq", ".pq")

    def __init__(self, columns: Sequence[str] = ()) -> None:
        self._columns = tuple(columns)

    def read(self, extent: Extent, max_record: int) -> Iterator[RecordBlock]:
        """Read the row groups that begin in the extent, only the wanted columns, in blocks of :data:`BLOCK` bytes."""
        pa, pq = _pyarrow()
        with _errors(pa, extent.uri), readable(extent.uri), _opened(extent) as (source, check):
            # Column chunks are streamed: a whole row group may be larger than a task's memory.
            file = pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False)
            columns = self._wanted(file, extent.uri)
            row = 0
            for number in range(file.metadata.num_row_groups):
                group = file.metadata.row_group(number)
                if extent.start <= _begin(group, extent.size) < extent.end:
                    rows = _rows_of(group, set(columns))
                    at = row
                    for batch in file.iter_batches(rows, row_groups=[number], columns=columns, use_threads=False):
                        check()
                        if batch.nbytes > max_record:
                            _check_lengths(batch, extent.uri, at, max_record)
                        table = pa.Table.from_batches([batch])
                        yield RecordBlock(None, Rows(table), extent.uri, at.__add__, table)
                        at += batch.num_rows
                row += group.num_rows

    def _wanted(self, file: Any, uri: str) -> list[str]:
        names: list[str] = file.schema_arrow.names
        for name in self._columns:
            if name not in names:
                raise InputError(f"{uri} has no column {name!r}: name some of {', '.join(names)} in parquet.columns")
        wanted = list(self._columns) or names
        if twice := sorted({name for name in wanted if names.count(name) > 1}):
            raise InputError(
                f"{uri} has several columns of the name {', '.join(twice)}, and a row holds one of each name: "
                "rename them, or name others with -D parquet.columns=..."
            )
        return wanted


class Rows(Sequence[Any]):
    """A table's rows as dicts, made on access."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return list(self)[i]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        return _pylist(self._table.slice(i % len(self), 1))[0]

    def __iter__(self) -> Iterator[Any]:
        return iter(_pylist(self._table))


def _pylist(table: Any) -> list[dict[str, Any]]:
    remedy = "leave its column out with -D parquet.columns=..., or define mapper_batch, which is given the table"
    return objects(table, remedy)


def _begin(group: Any, size: int) -> int:
    """Return the row group's first byte; some number within the file if the writer did not store it."""
    begins = []
    for i in range(group.num_columns):
        column = group.column(i)
        begins += [at for at in (column.dictionary_page_offset, column.data_page_offset) if at]
    return int(min(min(begins, default=0), size - 1))


def _rows_of(group: Any, columns: set[str]) -> int:
    """Return the number of rows that make up a block."""
    size: int = sum(
        group.column(i).total_uncompressed_size
        for i in range(group.num_columns)
        if group.column(i).path_in_schema.partition(".")[0] in columns
    )
    return max(1, min(MOST_ROWS, BLOCK * int(group.num_rows) // max(1, size)))


def _check_lengths(batch: Any, uri: str, at: int, max_record: int) -> None:
    for i in range(batch.num_rows):
        if batch.slice(i, 1).nbytes > max_record:
            raise too_long(uri, at + i, max_record)


@contextmanager
def _errors(pa: Any, uri: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:  # Arrow's, too
        raise
    except (pa.ArrowException, OSError) as e:
        if isinstance(e, (ConnectionError, TimeoutError, FileNotFoundError, PermissionError)):
            raise
        error = CorruptDataError(
            f"{uri} is damaged or not a Parquet file ({e}): replace it, or choose the --input-format that it has",
            file=uri,
        )
        error.retryable = False
        raise error from None


@contextmanager
def _opened(extent: Extent) -> Iterator[tuple[Any, Callable[[], None]]]:
    """Open the file, and yield it with a function that raises if it differs from the planned file."""
    storage, key = locate(extent.uri)
    if compression_of(extent.uri):
        raise InputError(f"{extent.uri} is a compressed file, and Parquet is read from its end: decompress it")
    if extent.size < 0 or (extent.uri.startswith(("http://", "https://")) and not _ranges(storage, key)):
        raise InputError(f"{extent.uri}: its server has no byte ranges, which Parquet needs: copy it to storage")
    path = storage.local_path(key)
    check = watch(extent, may_grow=False)  # it is read from its end
    with open(path, "rb") if path is not None else _Remote(storage, key, extent) as source:
        check()
        try:
            yield source, check
        except Exception:
            check()  # a file that changes while it is read looks damaged
            raise


def _ranges(storage: Storage, key: str) -> bool:
    from mrcelery.storage.http import HttpStorage  # noqa: PLC0415 - only http addresses need urllib3

    return not isinstance(storage, HttpStorage) or storage.accepts_ranges(key)


class _Remote(io.RawIOBase):
    """An object as a file: each read is a request for a range."""

    def __init__(self, storage: Storage, key: str, extent: Extent) -> None:
        version, self._size = Version(planned(extent)), extent.size
        # pyarrow reads in its own threads.
        self._fetch = carried(lambda start, end: b"".join(storage.stream(key, start, end, version=version)))
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        end = self._size if size is None or size < 0 else min(self._size, self._at + size)
        if end <= self._at:
            return b""
        data = self._fetch(self._at, end)
        self._at += len(data)
        return data


class ParquetOutput:
    """Records as rows of :class:`Columns`, with the types of the first row group unless given by ``schema``.

    ``schema`` consists of pairs of a column's name and the name of its Arrow type, such as ``int64`` or ``string``;
    without it a file without a record has no columns, and is left out.
    """

    suffix = ".parquet"
    arrow = True

    def __init__(self, schema: Sequence[tuple[str, str]] = (), compression: str = "snappy") -> None:
        self._given = tuple(schema)
        self.needs_records = not schema
        self._columns = Columns([name for name, _ in schema])
        self._compression = compression
        self._schema: Any = None
        self._held: list[Any] = []
        self._bytes = 0
        self._sink = _Drain()
        self._writer: Any = None

    def encode(self, keys: Column, values: Column) -> bytes:
        """Hold rows until they reach :data:`ROW_GROUP` bytes, then write a row group."""
        if len(keys):
            columns = self._columns.take(keys, values)
            table = self._table(columns)
            self._held.append(table)
            self._bytes += table.nbytes
            if self._bytes >= ROW_GROUP:
                self._flush()
        return self._sink.drain()

    def finish(self) -> bytes:
        """Write the last row group and the footer; with a schema, even an empty file has columns."""
        if self._held:
            self._flush()
        elif self._given and self._writer is None:
            self._open(self._wanted_schema())
        if self._writer is not None:
            self._writer.close()
        return self._sink.drain()

    def _wanted_schema(self) -> Any:
        pa, _ = _pyarrow()
        return pa.schema([(name, _type(pa, kind)) for name, kind in self._given])

    def _table(self, columns: list[Column]) -> Any:
        pa, _ = _pyarrow()
        names = self._columns.names
        if self._given and self._schema is None:
            self._schema = self._wanted_schema()
        types = [self._schema.field(name).type if self._schema is not None else None for name in names]
        with _explained(pa):
            arrays = [_array(pa, column, t) for column, t in zip(columns, types, strict=True)]
            return pa.table(dict(zip(names, arrays, strict=True)))

    def _open(self, schema: Any) -> None:
        _, pq = _pyarrow()
        self._schema = schema
        compression = None if self._compression == "none" else self._compression
        self._writer = pq.ParquetWriter(self._sink, schema, compression=compression)

    def _flush(self) -> None:
        pa, _ = _pyarrow()
        with _explained(pa):
            table = pa.concat_tables(self._held, promote_options="permissive")
            if self._writer is None:
                self._open(table.schema)
            self._writer.write_table(table, row_group_size=table.num_rows)
        self._held, self._bytes = [], 0


def _array(pa: Any, column: Column, wanted: Any) -> Any:
    if isinstance(column, list):
        array = pa.array(column)
    else:
        from mrcelery.formats.arrow import as_inferred  # noqa: PLC0415 - needs pyarrow

        array = as_inferred(column)
    if wanted is None or array.type == wanted:
        return array
    if pa.types.is_string(array.type) or pa.types.is_string(wanted):
        return pa.array(as_list(column), type=wanted)  # a cast would parse text, and would write numbers as text
    # pa.array(column, type) would cut 2.5 down to 2; a cast refuses.
    return array.cast(wanted)


@contextmanager
def _explained(pa: Any) -> Iterator[None]:
    try:
        yield
    except MemoryError:  # Arrow's, too
        raise
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as e:
        raise CodecError(
            f"records do not fit Parquet's columns ({str(e).partition(chr(10))[0]}): yield values of one type for "
            "a column, or name the types with -D parquet.schema=key:string,value:double"
        ) from None


def _type(pa: Any, name: str) -> Any:
    try:
        return pa.type_for_alias(name)
    except ValueError:
        raise UsageError(
            f"parquet.schema has the type {name!r}, which is not one of Arrow's: use string, int64, double, bool, "
            "binary, date32, timestamp[us] or another name of pyarrow's"
        ) from None


class _Drain(io.RawIOBase):
    """Collects a writer's output, and releases it in portions."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._at = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, data: Any, /) -> int:
        taken = bytes(data)
        self._parts.append(taken)
        self._at += len(taken)
        return len(taken)

    def drain(self) -> bytes:
        data, self._parts = b"".join(self._parts), []
        return data
