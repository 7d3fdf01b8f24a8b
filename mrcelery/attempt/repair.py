"""Repair of a damaged or missing part: the task that wrote it runs again (the paper's section 3.3).

The reduce task that found the damage in the shuffle, or the map task whose input it is, runs the writing task itself,
as an attempt that is never committed, and reads its output instead. No other task's input changes: other reduce tasks
may be reading the committed parts, and the undamaged ones stay. Code that gives the same output for the same input, as
mappers and reducers should, leaves no trace.
"""

from __future__ import annotations

from msgspec.structs import replace

from mrcelery.errors import CorruptDataError
from mrcelery.schema.structs import Commit, Extent, ShuffleInput, Split

MOST = 16
"""Most parts that one attempt repairs: a storage with more damage cannot be relied on."""


def mended(split: Split, root: str, uri: str, new: Commit) -> Split:
    """Replace the damaged input ``uri`` of a map task's split by the part that ``new`` wrote below ``root``.

    ``new`` is the commit of the previous step's task, run again. Raises :class:`CorruptDataError` if it has no part.
    """
    if not new.parts:
        raise _no_repair(uri)
    part = new.parts[0]
    whole = Extent(f"{root}/{part.key}", 0, part.bytes, part.bytes, True)
    return replace(split, extents=tuple(whole if extent.uri == uri else extent for extent in split.extents))


def repaired(given: ShuffleInput, key: str, old: Commit, new: Commit) -> ShuffleInput:
    """Replace the damaged object ``key`` of ``old`` in a reduce task's input by the parts of ``new``.

    Both are commits of the same map task. Raises :class:`CorruptDataError` for a piece of a run (total order) if the
    new run differs from the old one.
    """
    parts = []
    for part in given.parts:
        if part.key != key:
            parts.append(part)
        elif part.end < 0:
            parts += [other for other in new.parts if other.partition == part.partition]
        else:
            (before,), (after,) = ([p for p in c.parts if p.partition == 0] for c in (old, new))
            # Its position in the run was found in the old run's index.
            if (before.bytes, before.crc32) != (after.bytes, after.crc32):
                raise _no_repair(key)
            parts.append(replace(part, key=after.key))
    return replace(given, parts=tuple(parts))


def _no_repair(key: str) -> CorruptDataError:
    error = CorruptDataError(f"{key} is damaged, and its task, run again, wrote something else: submit the job again")
    error.retryable = False
    return error
