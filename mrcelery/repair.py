"""A shuffle part that is damaged or gone: the map task that wrote it runs again (the paper's section 3.3).

The reduce task that met it runs that map task itself, as an attempt that is never committed, and reads what it
wrote instead. Nobody else's input changes: other reduce tasks may be reading what the commit names, and
what of it is whole stays. A mapper that gives the same for the same input, as mappers should, leaves no trace.
"""

from __future__ import annotations

import re

from msgspec.structs import replace

from mrcelery.errors import CorruptDataError
from mrcelery.records import Commit, Part, ShuffleInput

MOST = 16
"""Parts that one attempt repairs: where more are damaged, the storage is no place to go on with."""

_MAP = re.compile(r".*/map-(\d+)/[^/]+")


def map_task(part: Part) -> int:
    """The map task that wrote a part."""
    match = _MAP.fullmatch(part.key)
    assert match is not None, part.key
    return int(match[1])


def repaired(told: ShuffleInput, key: str, old: Commit, new: Commit) -> ShuffleInput:
    """What a reduce task reads where the object ``key`` of its map task's commit, ``old``, is damaged: that of ``new``.

    Raises :class:`CorruptDataError` for a piece of a run (total order) where the new run differs from the old.
    """
    parts = []
    for part in told.parts:
        if part.key != key:
            parts.append(part)
        elif part.end < 0:
            parts += [other for other in new.parts if other.partition == part.partition]
        else:
            (before,), (after,) = ([p for p in c.parts if p.partition == 0] for c in (old, new))
            # Its place in the run was found in the old one's index.
            if (before.bytes, before.crc32) != (after.bytes, after.crc32):
                raise _no_repair(key)
            parts.append(replace(part, key=after.key))
    return replace(told, parts=tuple(parts))


def _no_repair(key: str) -> CorruptDataError:
    error = CorruptDataError(
        f"{key} is damaged, and its map task, run again, wrote something else: submit the job again"
    )
    error.retryable = False
    return error
