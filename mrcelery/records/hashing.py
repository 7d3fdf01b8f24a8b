"""A key's stable hash, and its partition: the same on every worker, in every process and Python version.

Keys that are equal in Python have the same hash, whatever their types: ``1``, ``1.0`` and ``True`` go to the same
partition. :mod:`mrcelery.records.order` defines what can be a key.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from zlib import crc32

from mrcelery.records.order import Key, check_number, no_key, to_utc


def stable_hash(key: Key) -> int:
    """Return the CRC-32 of a canonical encoding; equal keys have equal hashes, whatever their types."""
    if isinstance(key, str):
        return crc32(key.encode("utf-8", "surrogatepass"))
    if isinstance(key, bytes):
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
        return b"t" + (key if key.tzinfo is None else to_utc(key)).isoformat().encode()
    if isinstance(key, date):
        return b"d" + key.isoformat().encode()
    if isinstance(key, (tuple, list)):
        items = [_canonical(item) for item in key]
        # Lengths distinguish ("ab", "c") from ("a", "bc").
        return b"".join([b"q", *(struct.pack("<I", len(item)) + item for item in items)])
    raise no_key(key)


def _canonical_number(key: int | float | Decimal) -> bytes:
    """Encode a number so that equal ones give equal bytes: 1, 1.0, True and Decimal(1) are all ``i1``."""
    check_number(key)
    if key in (float("inf"), float("-inf")):
        return b"f" + struct.pack("<d", float(key))
    if key == int(key):
        whole = int(key)
        # Python refuses to print, and so to hash in this way, ints of more than some thousand digits.
        return b"i%d" % whole if whole.bit_length() < 10_000 else b"I" + int_bytes(whole)
    if isinstance(key, Decimal) and float(key) != key:
        sign, digits, exponent = key.as_tuple()
        text = "".join(map(str, digits)).rstrip("0")  # not normalize(), which rounds to the context's precision
        return f"m{Decimal((sign, tuple(map(int, text)), int(exponent) + len(digits) - len(text)))}".encode()
    return b"f" + struct.pack("<d", float(key))


def int_bytes(number: int) -> bytes:
    """Encode an int of any size as bytes: two's complement, big-endian."""
    return number.to_bytes((number.bit_length() + 8) // 8, "big", signed=True)


def hash_partition(key: Key, n: int) -> int:
    """Return the partition of ``key`` among ``n``: stable hash modulo n (paper, 4.1)."""
    return stable_hash(key) % n


def partition_numbers(keys: Sequence[Key], n: int) -> Iterable[int]:
    """Return the partitions of many keys by stable hash, with at most one call per key."""
    kinds = set(map(type, keys))
    if kinds == {str}:
        try:
            return [crc32(k.encode()) % n for k in keys]
        except UnicodeEncodeError:
            pass  # lone surrogates, from bytes that are not UTF-8: the general way handles them
    if kinds == {bytes}:
        return [crc32(k) % n for k in keys]
    return [hash_partition(k, n) for k in keys]
