"""Copies of values in their present state.

User code may continue to use an object that it has yielded: refill one dict for each record, or clear a list
afterwards. A yielded object counts in its state at that moment, as if it had been written at once.
"""

from __future__ import annotations

from copy import deepcopy
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

ATOMS = frozenset({str, int, float, bytes, bool, type(None), Decimal, date, datetime, time, timedelta, UUID, frozenset})
"""Types whose values never change."""


def snapshot(value: Any) -> Any:
    """Return ``value``, or a copy of it if it, or something in it, is mutable."""
    try:
        return _copied(value)
    except RecursionError:
        return value  # nested deeper than any codec allows: rejected there, with the reason


def _copied(value: Any) -> Any:
    kind = type(value)
    if kind in ATOMS:
        return value
    if kind is tuple:
        return value if ATOMS.issuperset(map(type, value)) else tuple([_copied(item) for item in value])
    if kind is list:
        return value[:] if ATOMS.issuperset(map(type, value)) else [_copied(item) for item in value]
    if kind is dict:
        return {key: _copied(item) for key, item in value.items()}
    if kind is set:
        return value.copy()
    try:
        return deepcopy(value)
    except MemoryError:
        raise  # the task holds too much memory, wherever that is raised: the value is not to blame
    except Exception:
        return value  # a value that cannot be copied cannot be stored either
