"""The format seams: bytes to blocks of records, and records to bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mrcelery.records.columns import Column
from mrcelery.schema.structs import Extent


def all_none(column: Column) -> bool:
    """Whether no value of a column is there."""
    if isinstance(column, list):
        return all(item is None for item in column)
    return bool(column.null_count == len(column))


def _unknown(i: int) -> int:
    return -1


@dataclass(slots=True)
class RecordBlock:
    """Records in a row of one file, column by column.

    ``keys`` is None if every key is None, else as long as ``values``. ``file`` is the file's URI.
    ``offsets`` gives record ``i``'s offset, in bytes into the uncompressed file. ``table`` is the block as a
    ``pyarrow.Table`` if the format has columns, or was asked for tables. ``keys`` and ``values`` are then made
    only on demand; those that are :class:`mrcelery.formats.arrow.ArrowColumn` have their array as ``array``.
    """

    keys: Sequence[Any] | None
    values: Sequence[Any]
    file: str
    offsets: Callable[[int], int] = field(default=_unknown, repr=False)
    table: Any = field(default=None, repr=False)

    def offset_of(self, i: int) -> int:
        """Find the byte offset of record ``i`` in the uncompressed file, only now; -1 if not known."""
        return self.offsets(i)


class InputFormat(Protocol):
    """Reads the records of an extent.

    A format may also have ``endings``: those of file names that it reads though text formats cannot, such as
    ``.parquet``; None if it takes files of every kind, archives too.
    """

    @property
    def splittable(self) -> bool:
        """Whether an uncompressed file may be cut at any byte."""
        ...

    def read(self, extent: Extent, max_record: int) -> Iterator[RecordBlock]:
        """Yield the records that begin in the extent, in order, in blocks of about a MiB of input.

        Raises :class:`mrcelery.errors.RecordTooLongError` for a record of more than ``max_record``
        bytes, :class:`mrcelery.errors.CorruptDataError` for damaged input, and :class:`mrcelery.errors.InputError` if
        the file is gone or may not be read. Raises :class:`mrcelery.errors.ChangedInputError` if the file changed
        after it was planned; an extent made of this one, by ``msgspec.structs.replace``, keeps the tag that says so.
        """
        ...


class OutputFormat(Protocol):
    """Writes the records of one part file.

    A format may also have:

    - ``finish(self) -> bytes``: the end of the file, after the last block.
    - ``needs_records = True``: a file without a record would not be valid, and is left out.
    - ``arrow = True``: ``encode`` also takes a ``pyarrow.Array`` (never chunked) for either column, and writes for it
      what it would for ``array.to_pylist()``.
    """

    @property
    def suffix(self) -> str:
        """The ending of a part file's name, such as ``.jsonl``, or ``""``."""
        ...

    def encode(self, keys: list[Any], values: list[Any]) -> bytes:
        """Encode a block of records, equally many keys and values, as bytes to append to a part file.

        Raises :class:`mrcelery.errors.CodecError` for a type that the format does not take.
        """
        ...


class Compressor(Protocol):
    """Compresses a stream of bytes."""

    def write(self, data: bytes, /) -> bytes:
        """Take bytes, and return what is ready of the compressed stream."""
        ...

    def flush(self) -> bytes:
        """End the stream, and return its rest."""
        ...
