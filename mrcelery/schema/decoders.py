"""JSON decoders by type, each built once, whichever thread requests it first."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}

# While msgspec resolves the annotations of a struct it runs Python code, and other threads see the struct half
# resolved: a thread that decodes it then reads through a null pointer. So `msgspec.json.decode(..., type=)` is not
# used.
_building = threading.Lock()
os.register_at_fork(before=_building.acquire, after_in_parent=_building.release, after_in_child=_building.release)


def decoder(kind: type[T]) -> Callable[[bytes | str], T]:
    """Return the function that decodes JSON as ``kind``; it raises :class:`msgspec.MsgspecError` for other bytes."""
    found = _decoders.get(kind)
    if found is None:
        with _building:
            found = _decoders.setdefault(kind, msgspec.json.Decoder(kind))
    return found.decode
