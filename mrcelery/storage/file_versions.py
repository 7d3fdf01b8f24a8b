"""Checking whether a file is the same as when a job was planned.

A file that was only appended to counts as the same: of a growing log, a job reads the part that existed when it was
planned. Size and modification time do not distinguish appending from rewriting, so the tag of a recently written file
contains a checksum of its edges. Inodes are compared only for files that grew, because some file systems number them
differently on each machine.
"""

from __future__ import annotations

import os
import re
import time
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from mrcelery.storage.base import Planned, changed_input

EDGE = 4096
"""Bytes at either end of a file covered by its checksum."""

LATELY = 86400.0
"""A file written within this many seconds before a job may be a growing log."""

_TAG = re.compile(r"(?P<size>\d+)-(?P<time>-?\d+)-(?P<inode>\d+)(?:-(?P<edges>[0-9a-f]{8}))?")

_GRAINS = (1, 100, 1_000, 1_000_000, 1_000_000_000)
"""Nanoseconds to which file systems, and protocols between machines, round times."""


def tag_of(found: os.stat_result) -> str:
    """Make a file's tag, which changes if the file is written to, or if another file takes its name."""
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ino}"


def growing(path: str, tag: str, since: float) -> str:
    """Return the tag of a file for a plan: with a checksum of its edges if it was written to since ``since``."""
    found = _TAG.fullmatch(tag)
    if found is None or int(found["time"]) < since * 1e9:
        return tag
    try:
        return f"{tag}-{_edges(path, int(found['size']))}"
    except OSError:
        return tag  # its reader will report the reason


class FileVersion:
    """A file, given by its open descriptor or its path, that is compared with its planned version repeatedly."""

    def __init__(self, uri: str, file: int | str, planned: Planned, *, may_grow: bool = True) -> None:
        self._uri = uri
        self._file = file
        self._planned = planned
        self._tag = _TAG.fullmatch(planned.tag)
        self._may_grow = may_grow
        self._seen: tuple[int, int] | None = None

    def check(self, at: int | None = None) -> None:
        """Raise :class:`ChangedInputError` if the file differs from its plan; else all bytes read before are good."""
        now = os.stat(self._file)
        seen = (now.st_size, now.st_mtime_ns)
        if seen != self._seen:
            if not self._same(now):
                raise changed_input(self._uri, *self._differ(now), at)
            self._seen = seen

    def _same(self, now: os.stat_result) -> bool:
        size = self._planned.size
        if self._tag is None:
            return size < 0 or now.st_size == size or (self._may_grow and now.st_size > size)
        if now.st_size == size:
            return _same_time(int(self._tag["time"]), now.st_mtime_ns)
        if now.st_size < size or not self._may_grow:
            return False
        edges = self._tag["edges"]
        return bool(edges) and now.st_ino == int(self._tag["inode"]) and _edges(self._file, size) == edges

    def _differ(self, now: os.stat_result) -> tuple[str, str]:
        """Describe the file's planned and present versions."""
        had, has = f"{self._planned.size} bytes", f"{now.st_size} bytes"
        if self._tag is None:
            return had, has
        return f"{had}, written {_said(int(self._tag['time']))}", f"{has}, written {_said(now.st_mtime_ns)}"


def checked(
    file: BinaryIO, uri: str, planned: Planned, start: int, end: int | None = None, chunk: int = 1 << 20
) -> Iterator[bytes]:
    """Yield an unbuffered file's bytes from ``start`` to ``end``, or to the file's planned size.

    Each chunk is yielded after a check, made after it was read, that the file is still the planned one.
    """
    version = FileVersion(uri, file.fileno(), planned)
    version.check()
    ends = [size for size in (end, planned.size) if size is not None and size >= 0]
    left = min(ends) - start if ends else float("inf")
    file.seek(start)
    at = start
    while left > 0:
        data = file.read(int(min(chunk, left)))
        version.check(at)
        if not data:
            return
        left -= len(data)
        at += len(data)
        yield data


def _edges(file: int | str, size: int) -> str:
    number = os.open(file, os.O_RDONLY | os.O_CLOEXEC) if isinstance(file, str) else file
    try:
        head = os.pread(number, min(EDGE, size), 0)
        begin = max(len(head), size - EDGE)
        tail = os.pread(number, size - begin, begin) if begin < size else b""
        return f"{zlib.crc32(tail, zlib.crc32(head)):08x}"
    finally:
        if isinstance(file, str):
            os.close(number)


def _same_time(planned: int, now: int) -> bool:
    """Check whether two modification times, in nanoseconds, are the same up to file systems' rounding."""
    return any(
        planned // grain == now // grain for grain in _GRAINS if grain == 1 or not planned % grain or not now % grain
    )


def _said(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(seconds))}.{rest:09d} UTC"
