"""The order of keys, and the partition of a key: the same on every worker, process and Python version.

Keys may be ``None``, numbers (``bool``, ``int``, ``float``, ``Decimal``), ``str``, ``bytes``, ``date``,
``datetime``, and tuples and lists of these. They are ordered

- numbers by value, text by code point, bytes by byte, dates in time, tuples and lists item by item
  (a shorter one that is a prefix comes first; of a list and a tuple with equal items the list),
- different types as listed: None < numbers < str < bytes < date < datetime < lists and tuples.

Keys that are equal in Python are one key: ``1``, ``1.0`` and ``True`` meet in one reducer call.
NaN equals nothing, has no place in an order, and is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import compress, islice
from operator import ne
from typing import Any
from zlib import crc32

from mrcelery.errors import CodecError

Key = Any
Partitioner = Callable[[Key, int], int]

# Python's own `<` on these is the documented order, or a TypeError.
_NATIVE = frozenset({str, int, bytes, bool, type(None)})


def order_key(key: Key) -> tuple[Any, ...]:
    """A tuple whose native order is the documented order of keys, whatever their types.

    Raises :class:`CodecError` for what cannot be a key.
    """
    if key is None:
        return (0,)
    if isinstance(key, (int, float, Decimal)):
        if key != key:
            raise CodecError("NaN cannot be a key, as it equals nothing: use None or a string for missing numbers")
        return (1, key)
    if isinstance(key, str):
        return (2, key)
    if isinstance(key, bytes):
        return (3, key)
    if isinstance(key, datetime):  # before date, of which it is a subclass
        # Aware and naive times do not compare: the naive ones come first.
        return (5, 0, key) if key.tzinfo is None else (5, 1, key.astimezone(UTC))
    if isinstance(key, date):
        return (4, key)
    if isinstance(key, (tuple, list)):
        return (6, tuple(map(order_key, key)), isinstance(key, tuple))
    raise _no_key(key)


def _no_key(key: Key) -> CodecError:
    kind = type(key).__name__
    if kind in ("dict", "set", "frozenset"):
        return CodecError(f"a {kind} cannot be a key, as it has no order: use a sorted tuple of its items")
    return CodecError(
        f"{type(key).__module__}.{type(key).__qualname__} cannot be a key: use None, numbers, str, bytes, dates, "
        "or tuples and lists of these"
    )


def check_keys(keys: Sequence[Key]) -> None:
    """Check that all ``keys`` can be keys, at C speed where they are of one simple type.

    After it, Python's own ``<`` either orders the keys as documented or raises ``TypeError``: what it
    would order wrongly in silence, NaN and sets, is refused here with :class:`CodecError`.
    """
    kinds = set(map(type, keys))
    if kinds <= _NATIVE:
        return
    if kinds <= {float, int, bool}:
        if any(map(ne, keys, keys)):
            order_key(next(k for k in keys if k != k))
        return
    if kinds == {tuple}:
        widths = set(map(len, keys))
        if len(widths) == 1:
            for i in range(widths.pop()):
                check_keys([key[i] for key in keys])
            return
    for key in keys:
        order_key(key)


def argsort(keys: list[Key]) -> list[int]:
    """Positions of checked ``keys`` in order of key; equal keys keep their order."""
    try:
        return sorted(range(len(keys)), key=keys.__getitem__)
    except TypeError:  # types that Python does not compare
        by = list(map(order_key, keys))
        return sorted(range(len(by)), key=by.__getitem__)


def starts_of_groups(keys: Sequence[Key]) -> list[int]:
    """Positions, from 1, at which a key of the sorted ``keys`` differs from the one before."""
    return list(compress(range(1, len(keys)), map(ne, keys, islice(keys, 1, None))))


def stable_hash(key: Key) -> int:
    """CRC-32 of a canonical encoding; equal keys hash alike, whatever their types."""
    if type(key) is str:
        return crc32(key.encode("utf-8", "surrogatepass"))
    if type(key) is bytes:
        return crc32(key)
    return crc32(_canonical(key))


def _canonical(key: Key) -> bytes:
    if key is None:
        return b"n"
    if isinstance(key, str):
        return b"s" + key.encode("utf-8", "surrogatepass")
    if isinstance(key, bytes):
        return b"b" + key
    if isinstance(key, (int, float, Decimal)):
        return _canonical_number(key)
    if isinstance(key, datetime):
        return b"t" + (key if key.tzinfo is None else key.astimezone(UTC)).isoformat().encode()
    if isinstance(key, date):
        return b"d" + key.isoformat().encode()
    if isinstance(key, (tuple, list)):
        items = [_canonical(item) for item in key]
        # Lengths keep ("ab", "c") apart from ("a", "bc").
        return b"".join([b"q", *(struct.pack("<I", len(item)) + item for item in items)])
    raise _no_key(key)


def _canonical_number(key: int | float | Decimal) -> bytes:
    """Equal numbers give equal bytes: 1, 1.0, True and Decimal(1) are all ``i1``."""
    if isinstance(key, int):
        return b"i%d" % key
    if key != key:
        order_key(key)  # raises
    if key in (float("inf"), float("-inf")):
        return b"f" + struct.pack("<d", float(key))
    if key == int(key):
        return b"i%d" % int(key)
    if float(key) == key:
        return b"f" + struct.pack("<d", float(key))
    return b"m" + str(key.normalize() if isinstance(key, Decimal) else key).encode()


def hash_partition(key: Key, n: int) -> int:
    """The partition of ``key`` among ``n``: stable hash modulo n (paper, 4.1)."""
    return stable_hash(key) % n


def partition_numbers(keys: Sequence[Key], n: int) -> Iterable[int]:
    """Partition numbers of many keys by stable hash, at one call per key at most."""
    kinds = set(map(type, keys))
    if kinds == {str}:
        try:
            return [crc32(k.encode()) % n for k in keys]
        except UnicodeEncodeError:
            pass  # lone surrogates, from bytes that are no UTF-8: the general way takes them
    if kinds == {bytes}:
        return [crc32(k) % n for k in keys]
    return [stable_hash(k) % n for k in keys]
