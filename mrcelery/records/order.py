"""The order of keys, and what can be a key: the same on every worker, process and Python version.

Keys may be ``None``, numbers (``bool``, ``int``, ``float``, ``Decimal``), ``str``, ``bytes``, ``date``,
``datetime``, and tuples and lists of these. They are ordered

- numbers by value, text by code point, bytes by byte, dates in time, tuples and lists item by item
  (a shorter one that is a prefix comes first; of a list and a tuple with equal items the list),
- different types as listed: None < numbers < str < bytes < date < datetime < lists and tuples.

Keys that are equal in Python are one key: ``1``, ``1.0`` and ``True`` go to the same reducer call.
Rejected are NaN, which equals nothing and cannot be ordered; a ``datetime`` of a zone with rules,
since Python compares two of one zone by their clocks, which go back once a year (a fixed offset,
such as UTC, is fine); and a ``Decimal`` of more than 5,000 digits before the point.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timezone, tzinfo
from decimal import Decimal
from itertools import compress, islice
from operator import ne
from typing import Any

from mrcelery.errors import CodecError

Key = Any

# For these types Python's `<` gives the documented order, or a TypeError.
_NATIVE = frozenset({str, int, bytes, bool, type(None)})


DEPTH = 50
"""Deepest nesting of a key's tuples and lists, or of a value's types beyond JSON's."""


def order_key(key: Key, level: int = 0) -> tuple[Any, ...]:
    """Return a tuple whose native order is the documented order of keys, whatever their types.

    ``level`` is the number of tuples and lists around the key. Raises :class:`CodecError` for a value that cannot be a
    key.
    """
    if key is None:
        return (0,)
    if isinstance(key, (int, float, Decimal)):
        check_number(key)
        return (1, key)
    if isinstance(key, str):
        return (2, key)
    if isinstance(key, bytes):
        return (3, key)
    if isinstance(key, datetime):  # before date, because it is a subclass
        # Aware and naive times cannot be compared: the naive ones come first.
        return (5, 0, key) if key.tzinfo is None else (5, 1, to_utc(key))
    if isinstance(key, date):
        return (4, key)
    if isinstance(key, (tuple, list)):
        if level >= DEPTH:
            raise CodecError(f"a key is nested more than {DEPTH} levels deep: use a flatter one")
        return (6, tuple([order_key(item, level + 1) for item in key]), isinstance(key, tuple))
    raise no_key(key)


def check_number(key: int | float | Decimal) -> None:
    """Raise :class:`CodecError` for NaN, and for a Decimal too large to compare quickly."""
    if key.is_nan() if isinstance(key, Decimal) else key != key:
        raise CodecError("NaN cannot be a key, as it equals nothing: use None or a string for missing numbers")
    if isinstance(key, Decimal) and key.is_finite() and key.adjusted() > 5000:
        raise CodecError(f"Decimal {key} is too large for a key: use a string")


def to_utc(key: datetime) -> datetime:
    """Return an aware time in UTC. Raises :class:`CodecError` for a zone with rules, or a time without a UTC form."""
    if not isinstance(key.tzinfo, timezone) and not _is_fixed(key.tzinfo):
        raise CodecError(
            f"the datetime {key} of zone {key.tzinfo} cannot be a key, as its clock goes back: use key.astimezone(UTC)"
        )
    try:
        return key.astimezone(UTC)
    except OverflowError:
        raise CodecError(f"the datetime {key} cannot be a key, as it has no UTC time: use one without a zone") from None


def _is_fixed(zone: tzinfo | None) -> bool:
    """Check whether a zone has one offset for all times, such as ``ZoneInfo("UTC")``."""
    try:
        return zone is not None and zone.utcoffset(None) is not None
    except Exception:  # a user's class, which may require a time
        return False


def no_key(key: Key) -> CodecError:
    """Make the error for a value that cannot be a key, with an alternative."""
    kind = type(key).__name__
    if kind in ("dict", "set", "frozenset"):
        return CodecError(f"a {kind} cannot be a key, as it has no order: use a sorted tuple of its items")
    if type(key).__module__ == "numpy":
        return CodecError(f"numpy.{kind} cannot be a key: use key.item(), or key.tolist() for an array")
    return CodecError(
        f"{type(key).__module__}.{type(key).__qualname__} cannot be a key: use None, numbers, str, bytes, dates, "
        "or tuples and lists of these"
    )


def check_keys(keys: Sequence[Key], level: int = 0) -> None:
    """Check that all ``keys`` can be keys, at C speed if they have one simple type.

    After this check, Python's ``<`` either orders the keys as documented or raises ``TypeError``: values that it would
    silently order wrongly, NaN and sets, are rejected here with :class:`CodecError`. ``level`` is the number of tuples
    around the keys.
    """
    kinds = set(map(type, keys))
    if kinds <= _NATIVE:
        return
    if kinds <= {float, int, bool}:
        if any(map(ne, keys, keys)):
            check_number(next(k for k in keys if k != k))
        return
    if kinds == {tuple} and level < 3:
        widths = set(map(len, keys))
        if len(widths) == 1:
            for i in range(widths.pop()):
                check_keys([key[i] for key in keys], level + 1)
            return
    for key in keys:
        order_key(key, level)


def argsort(keys: list[Key]) -> list[int]:
    """Return the positions of checked ``keys``, ordered by key; equal keys keep their order."""
    try:
        return sorted(range(len(keys)), key=keys.__getitem__)
    except TypeError:  # types that Python does not compare
        by = list(map(order_key, keys))
        return sorted(range(len(by)), key=by.__getitem__)


def sorted_keys(keys: list[Key]) -> list[Key]:
    """Sort keys, checked as by :func:`check_keys`."""
    kinds = set(map(type, keys))
    if kinds == {str} or kinds == {bytes}:
        return sorted(keys)
    check_keys(keys)
    return [keys[i] for i in argsort(keys)]


def starts_of_groups(keys: Sequence[Key]) -> list[int]:
    """List the positions, from 1, at which a key of the sorted ``keys`` differs from the one before."""
    return list(compress(range(1, len(keys)), map(ne, keys, islice(keys, 1, None))))
