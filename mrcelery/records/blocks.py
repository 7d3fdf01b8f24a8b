"""Blocks of records as bytes: a column of keys and a column of values, types kept.

Values may be ``None``, ``bool``, ``int`` (any size), ``float``, ``str``, ``bytes``, ``tuple``, ``list``,
``dict``, ``set``, ``frozenset``, ``Decimal``, ``datetime``, ``date``, ``time``, ``timedelta`` and ``UUID``,
nested up to :data:`mrcelery.records.order.DEPTH` deep; each is read back with its type (a time zone as its offset,
other bytes-like objects as ``bytes``). NumPy scalars are stored as the Python numbers they represent. Anything else is
rejected with :class:`mrcelery.errors.CodecError`; pickle is never used, unless the job allows it (``--allow-pickle``).

A column of one simple type is encoded and decoded by msgspec at once, a constant one is stored once, as are repeated
text and bytes; tuples of one length become a column per item, lists of one type a column of lengths and one of items;
everything else goes through msgpack with extension types.
Arrow arrays (:mod:`mrcelery.records.columns`) are stored as such, and read back without a copy.

File format (version 1), little-endian::

    "MRCBLK1\\n"  then blocks  { head | payload }
    head    = u32 payload bytes | u32 records | u8 compression | u32 CRC-32 of the payload | u32 CRC-32 of the head
    payload = u32 bytes of the key column | key column | value column      (compression: 0 none, 1 zstd)
            | u64 2^32 - 1 | Arrow IPC stream of a batch of the two columns, whose buffers are aligned so
    end     = a head with 0 payload bytes and, as its records, those of the whole file, modulo 2^32
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from itertools import chain, count, islice
from typing import Any, NamedTuple
from uuid import UUID
from zlib import crc32

import msgpack
import msgspec
import zstandard

from mrcelery.errors import CodecError, CorruptDataError
from mrcelery.records.columns import Column, is_array, pack, unpack
from mrcelery.records.hashing import int_bytes
from mrcelery.records.order import DEPTH

MAGIC = b"MRCBLK1\n"
_HEAD = struct.Struct("<IIBI")
_U32 = struct.Struct("<I")
_HEAD_BYTES = _HEAD.size + _U32.size

TUPLE_LEVELS = 3
"""Levels of nested tuples that get separate columns."""

BLOCK_RECORDS = 8192
"""Most records in a block: enough to spread the cost of a block, few enough to merge many runs."""
BLOCK_BYTES = 256 << 10
"""Approximate encoded bytes of a block; larger records get separate blocks."""


ARRAY_BYTES = 512 << 10
"""Approximate bytes of a block of Arrow arrays: each costs some tens of microseconds, whatever its content."""
_ARRAYS = bytes([255] * 4 + [0] * 4)


WORTH = 0.9
"""Compressed size, as a share of the original, below which a block is stored compressed."""
PLAIN_BLOCKS = 15
"""Blocks stored uncompressed after one that did not compress well, before another is tried."""


class Block(NamedTuple):
    """Some records as two columns of equal length: two lists, or two Arrow arrays."""

    keys: Column
    values: Column


_encode = msgspec.msgpack.Encoder().encode
_TYPED: dict[type, tuple[bytes, Callable[[bytes], list[Any]]]] = {
    str: (b"s", msgspec.msgpack.Decoder(list[str]).decode),
    int: (b"i", msgspec.msgpack.Decoder(list[int]).decode),
    float: (b"f", msgspec.msgpack.Decoder(list[float]).decode),
    bytes: (b"y", msgspec.msgpack.Decoder(list[bytes]).decode),
    bool: (b"b", msgspec.msgpack.Decoder(list[bool]).decode),
}
_BY_TAG = dict(_TYPED.values())
_REPEATED = frozenset({str, bytes})
"""Types whose repeated values are stored once."""


def encode_column(column: list[Any], allow_pickle: bool = False, level: int = 0) -> bytes:
    """Encode a column as bytes. Raises :class:`CodecError` for a value that no codec supports.

    ``level`` is the number of tuples around the column.
    """
    kinds = set(map(type, column))
    if len(kinds) == 1:
        (kind,) = kinds
        if kind is type(None):
            return b"n"
        if kind in _TYPED:
            first = column[0]
            # A float column is excluded: -0.0 equals 0.0 but is not the same.
            if kind is not float and column[-1] == first and column.count(first) == len(column):
                return b"c" + _pack(first, allow_pickle)
            try:
                if kind in _REPEATED and (repeated := _dictionary(column)) is not None:
                    return b"d" + _TYPED[kind][0] + repeated
                return _TYPED[kind][0] + _encode(column)
            except (OverflowError, UnicodeEncodeError):
                pass  # ints beyond 64 bits, lone surrogates: the general codec handles them
        if kind is tuple and column[0] and level < TUPLE_LEVELS:
            width = len(column[0])
            if set(map(len, column)) == {width}:
                fields = [encode_column([t[i] for t in column], allow_pickle, level + 1) for i in range(width)]
                return b"".join([b"t", _U32.pack(width), *(_U32.pack(len(f)) + f for f in fields)])
        if kind is list and level < TUPLE_LEVELS:
            flat = list(chain.from_iterable(column))
            if len(set(map(type, flat))) == 1 and type(flat[0]) in _TYPED:
                lengths = _encode(list(map(len, column)))
                return b"".join([b"l", _U32.pack(len(lengths)), lengths, encode_column(flat, allow_pickle, level + 1)])
    return b"o" + _pack(column, allow_pickle)


def _dictionary(column: list[Any]) -> bytes | None:
    """Encode a column of few distinct values as these values and an index for each record; None for other columns."""
    if len(column) < 1024 or len(set(column[:512])) > 64:
        return None
    places = dict(zip(dict.fromkeys(column), count()))
    if len(places) > len(column) // 4:
        return None
    values = _encode(list(places))
    return b"".join([_U32.pack(len(values)), values, _encode(list(map(places.__getitem__, column)))])


def decode_column(data: bytes | memoryview, records: int, allow_pickle: bool = False) -> list[Any]:
    """Decode a column of ``records`` values written by :func:`encode_column`."""
    tag, body = bytes(data[:1]), data[1:]
    if tag in _BY_TAG:
        return _BY_TAG[tag](body)  # type: ignore[arg-type]  # msgspec reads any buffer
    if tag == b"n":
        return [None] * records
    if tag == b"d":
        kind, body = bytes(body[:1]), body[1:]
        (size,) = _U32.unpack_from(body)
        values = _BY_TAG[kind](body[4 : 4 + size])  # type: ignore[arg-type]
        return list(map(values.__getitem__, _BY_TAG[b"i"](body[4 + size :])))  # type: ignore[arg-type]
    if tag == b"l":
        (size,) = _U32.unpack_from(body)
        lengths = _BY_TAG[b"i"](body[4 : 4 + size])  # type: ignore[arg-type]
        flat = iter(decode_column(body[4 + size :], sum(lengths), allow_pickle))
        return [list(islice(flat, length)) for length in lengths]
    if tag == b"c":
        return [_unpack(body, allow_pickle)] * records
    if tag == b"t":
        (width,) = _U32.unpack_from(body)
        at, fields = 4, []
        for _ in range(width):
            (size,) = _U32.unpack_from(body, at)
            fields.append(decode_column(body[at + 4 : at + 4 + size], records, allow_pickle))
            at += 4 + size
        return list(zip(*fields, strict=True))
    if tag == b"o":
        column: list[Any] = _unpack(body, allow_pickle)
        return column
    raise CorruptDataError(f"unknown column type {tag!r}: run the same mrcelery version on all workers")


_TUPLE, _BIGINT, _DECIMAL, _SET, _FROZENSET, _DATETIME, _DATE, _TIME, _TIMEDELTA, _UUID = range(1, 11)
_PICKLE = 100


def _pack(value: Any, allow_pickle: bool) -> bytes:
    depth = 0

    def default(v: Any) -> Any:
        nonlocal depth
        depth += 1
        if depth > DEPTH:
            raise CodecError(f"a value is nested more than {DEPTH} levels deep: yield flatter values")
        packed = extension(v)
        depth -= 1
        return packed

    def extension(v: Any) -> Any:
        kind = type(v)
        if kind is tuple:
            return msgpack.ExtType(_TUPLE, pack(list(v)))
        if kind is int:
            return msgpack.ExtType(_BIGINT, int_bytes(v))
        if kind is Decimal:
            return msgpack.ExtType(_DECIMAL, str(v).encode())
        if kind is set or kind is frozenset:
            # Sorted by encoding, so that equal sets give equal bytes in every process.
            return msgpack.ExtType(_SET if kind is set else _FROZENSET, pack(sorted(map(pack, v))))
        if kind is datetime:
            return msgpack.ExtType(_DATETIME, pack([v.replace(tzinfo=None).isoformat(), v.fold, _offset(v)]))
        if kind is date:
            return msgpack.ExtType(_DATE, v.isoformat().encode())
        if kind is time:
            return msgpack.ExtType(_TIME, pack([v.replace(tzinfo=None).isoformat(), v.fold, _offset(v)]))
        if kind is timedelta:
            return msgpack.ExtType(_TIMEDELTA, pack([v.days, v.seconds, v.microseconds]))
        if kind is UUID:
            return msgpack.ExtType(_UUID, v.bytes)
        if kind.__module__ == "numpy" and hasattr(v, "item") and not getattr(v, "shape", None):
            plain = v.item()
            if type(plain) is not kind:
                return plain
        if allow_pickle:
            return msgpack.ExtType(_PICKLE, pickle.dumps(v, pickle.HIGHEST_PROTOCOL))
        raise CodecError(_refusal(v))

    def pack(v: Any) -> bytes:
        return msgpack.packb(v, default=default, strict_types=True, use_bin_type=True, unicode_errors="surrogatepass")  # type: ignore[no-any-return]

    try:
        return pack(value)
    except (ValueError, OverflowError, RecursionError) as e:
        raise CodecError(f"a value cannot be stored ({e}): keep values flat and below 4 GiB") from None


def _offset(v: datetime | time) -> list[int] | None:
    """Return a time's UTC offset in a form that is stored exactly; isoformat() does not round-trip microseconds."""
    zone = v.utcoffset()
    return None if zone is None else [zone.days, zone.seconds, zone.microseconds]


def _zone_of(stored: list[int] | None) -> timezone | None:
    return None if stored is None else timezone(timedelta(*stored))


def _refusal(value: Any) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    hint = "yield plain Python types, or allow pickle with --allow-pickle"
    for base in kind.__mro__[1:]:
        if base in _TYPED or base in (tuple, list, dict, set):
            hint = f"yield {base.__name__}(value), as its own type would be lost, or allow pickle with --allow-pickle"
            break
    return f"no codec takes a value of type {name}: {hint}"


def _unpack(data: bytes | memoryview, allow_pickle: bool) -> Any:
    depth = 0

    def ext(code: int, body: bytes) -> Any:
        nonlocal depth
        depth += 1
        # msgpack uses tens of kilobytes of the C stack per level: without a limit this would crash.
        if depth > DEPTH:
            raise CorruptDataError(f"a stored value is nested more than {DEPTH} levels deep")
        value = extension(code, body)
        depth -= 1
        return value

    def extension(code: int, body: bytes) -> Any:
        if code == _TUPLE:
            return tuple(unpack(body))
        if code == _BIGINT:
            return int.from_bytes(body, "big", signed=True)
        if code == _DECIMAL:
            return Decimal(body.decode())
        if code == _SET:
            return set(map(unpack, unpack(body)))
        if code == _FROZENSET:
            return frozenset(map(unpack, unpack(body)))
        if code == _DATETIME:
            text, fold, zone = unpack(body)
            return datetime.fromisoformat(text).replace(fold=fold, tzinfo=_zone_of(zone))
        if code == _DATE:
            return date.fromisoformat(body.decode())
        if code == _TIME:
            text, fold, zone = unpack(body)
            return time.fromisoformat(text).replace(fold=fold, tzinfo=_zone_of(zone))
        if code == _TIMEDELTA:
            return timedelta(*unpack(body))
        if code == _UUID:
            return UUID(bytes=body)
        if code == _PICKLE and allow_pickle:
            return pickle.loads(body)
        raise CorruptDataError(
            f"a stored value has type {code}, which this job may not read: give --allow-pickle, or submit again"
        )

    def unpack(body: bytes | memoryview) -> Any:
        return msgpack.unpackb(
            body, ext_hook=ext, raw=False, strict_map_key=False, unicode_errors="surrogatepass", use_list=True
        )

    return unpack(data)


class BlockWriter:
    """Writes blocks to anything with ``write``; counts ``records``, ``bytes`` and a running ``crc32``."""

    def __init__(self, out: Any, *, compress: bool = False, allow_pickle: bool = False) -> None:
        self._out = out
        self._zstd = zstandard.ZstdCompressor(level=1) if compress else None
        self._plain = 0
        self._allow_pickle = allow_pickle
        # Running estimate of a record's encoded bytes; its initial value makes the first block a small one.
        self._size = BLOCK_BYTES / 64
        self.records = 0
        self.bytes = 0
        self.crc32 = 0
        self._put(MAGIC)

    def _put(self, data: bytes) -> None:
        self._out.write(data)
        self.bytes += len(data)
        self.crc32 = crc32(data, self.crc32)

    def write(self, keys: Column, values: Column) -> None:
        """Write any number of records, cut into blocks of bounded size."""
        at, n = 0, len(keys)
        if is_array(keys):
            step = max(1, ARRAY_BYTES * n // max(1, keys.nbytes + values.nbytes))
            for at in range(0, n, step):
                self._arrays(keys[at : at + step], values[at : at + step])
            return
        while at < n:
            step = max(1, min(BLOCK_RECORDS, int(BLOCK_BYTES / self._size)))
            if step >= n - at and at == 0:
                self._block(keys, values)
            else:
                self._block(keys[at : at + step], values[at : at + step])
            at += step

    def _block(self, keys: list[Any], values: list[Any]) -> None:
        try:
            key_column = encode_column(keys, self._allow_pickle)
            value_column = encode_column(values, self._allow_pickle)
        except CodecError as e:
            e.record = e.record or self._culprit(keys, values)
            raise
        payload = b"".join([_U32.pack(len(key_column)), key_column, value_column])
        # Grows at once and shrinks slowly: a block of large records must not be followed by a larger one.
        size = max(1.0, len(payload) / len(keys))
        self._size = size if size > self._size or not self.records else 0.75 * self._size + 0.25 * size
        self._payload(payload, len(keys))

    def _arrays(self, keys: Any, values: Any) -> None:
        self._payload(b"".join([_ARRAYS, pack(keys, values)]), len(keys))

    def _payload(self, payload: bytes, records: int) -> None:
        packed = 0
        if self._zstd is not None and self._plain == 0:
            smaller = self._zstd.compress(payload)
            if len(smaller) < len(payload) * WORTH:
                payload, packed = smaller, 1
            else:
                self._plain = PLAIN_BLOCKS
        elif self._plain:
            self._plain -= 1
        self._head(len(payload), records, packed, crc32(payload))
        self._put(payload)
        self.records += records

    def _culprit(self, keys: list[Any], values: list[Any]) -> str:
        """Find the first pair that no codec supports."""
        for key, value in zip(keys, values, strict=True):
            try:
                encode_column([key, value], self._allow_pickle)
            except CodecError:
                return f"key {key!r:.100}, value {value!r:.300}"
        return ""

    def _head(self, *fields: int) -> None:
        head = _HEAD.pack(*fields)
        self._put(head + _U32.pack(crc32(head)))

    def close(self) -> None:
        """Write the end mark (the underlying file stays open)."""
        self._put(end_mark(self.records))


def end_mark(records: int) -> bytes:
    """Return the end mark, written after the last block, of a file with ``records`` records."""
    head = _HEAD.pack(0, records & 0xFFFFFFFF, 0, 0)
    return head + _U32.pack(crc32(head))


def read_blocks(chunks: Iterable[bytes], where: str, *, allow_pickle: bool = False) -> Iterator[Block]:
    """Read blocks from a file's bytes, given in pieces of any size.

    Raises :class:`CorruptDataError`, naming ``where`` and the offset, for bytes that are damaged or end too soon.
    """
    source = _Chunks(chunks, where)
    if source.take(len(MAGIC)) != MAGIC:
        raise CorruptDataError(f"{where} is not in the block format of this mrcelery version")
    unzstd = zstandard.ZstdDecompressor()
    records = 0
    while True:
        at = source.offset
        head = source.take(_HEAD_BYTES)
        size, count, packed, check = _HEAD.unpack_from(head)
        if crc32(head[: _HEAD.size]) != _U32.unpack_from(head, _HEAD.size)[0]:
            raise CorruptDataError(f"{where}: the block at offset {at} does not match its checksum", offset=at)
        if size == 0:
            if count != records & 0xFFFFFFFF:
                raise CorruptDataError(f"{where} holds {records} records and should hold {count}")
            return
        payload = source.take(size)
        if crc32(payload) != check:
            raise CorruptDataError(f"{where}: the block at offset {at} does not match its checksum", offset=at)
        if packed:
            payload = unzstd.decompress(payload)
        (key_bytes,) = _U32.unpack_from(payload)
        view = memoryview(payload)
        records += count
        if view[: len(_ARRAYS)] == _ARRAYS:
            yield Block(*unpack(view[len(_ARRAYS) :]))
            continue
        yield Block(
            decode_column(view[4 : 4 + key_bytes], count, allow_pickle),
            decode_column(view[4 + key_bytes :], count, allow_pickle),
        )


class _Chunks:
    """Takes exact numbers of bytes from pieces of any size."""

    def __init__(self, chunks: Iterable[bytes], where: str) -> None:
        self._chunks = iter(chunks)
        self._where = where
        self._rest = memoryview(b"")
        self.offset = 0

    def take(self, n: int) -> bytes:
        rest = self._rest
        if len(rest) < n:
            parts = [rest]
            have = len(rest)
            while have < n:
                chunk = next(self._chunks, None)
                if chunk is None:
                    raise CorruptDataError(f"{self._where} ends at offset {self.offset + have}, within a block")
                parts.append(memoryview(chunk))
                have += len(chunk)
            rest = memoryview(b"".join(parts)) if len(parts) > 1 else parts[0]
        self._rest = rest[n:]
        self.offset += n
        return bytes(rest[:n])
