"""Values as they are now.

User code may keep working on an object that it has yielded: fill one dict anew for each record, or clear a list
after it. What is yielded counts as it was at that moment, as if it had been written down at once.
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
    """Return ``value``, or a copy of it if it, or something in it, could change."""
    try:
        return _copied(value)
    except RecursionError:
        return value  # deeper than any codec takes: refused there, with its reason


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
        raise  # of a task that holds too much, which may come anywhere: it says nothing of the value
    except Exception:
        return value  # what cannot be copied cannot be stored either
