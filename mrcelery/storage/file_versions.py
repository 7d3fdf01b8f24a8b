"""Whether a file is what it was when a job was planned.

A file that was only appended to is: of a log that grows, a job reads what was there when it was planned. Size and
time of change do not tell appending from writing anew, so a file that was written to lately gets a checksum of its
edges into its tag. Inodes are compared for files that grew only, as some file systems number them anew on each machine.
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
"""Bytes at either end of a file that its checksum covers."""

LATELY = 86400.0
"""Seconds before a job within which a file was written to that may be a log that grows."""

_TAG = re.compile(r"(?P<size>\d+)-(?P<time>-?\d+)-(?P<inode>\d+)(?:-(?P<edges>[0-9a-f]{8}))?")

_GRAINS = (1, 100, 1_000, 1_000_000, 1_000_000_000)
"""Nanoseconds to which file systems, and protocols between machines, round times."""


def tag_of(found: os.stat_result) -> str:
    """Make a file's tag: it is another one once the file was written to, or another file has its name."""
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ino}"


def growing(path: str, tag: str, since: float) -> str:
    """Return the tag that a plan holds for a file: with a checksum of its edges if it was written to ``since``."""
    found = _TAG.fullmatch(tag)
    if found is None or int(found["time"]) < since * 1e9:
        return tag
    try:
        return f"{tag}-{_edges(path, int(found['size']))}"
    except OSError:
        return tag  # its reader will say why


class FileVersion:
    """A file, open (its descriptor) or by its path, that is compared with what was planned, as often as asked."""

    def __init__(self, uri: str, file: int | str, planned: Planned, *, may_grow: bool = True) -> None:
        self._uri = uri
        self._file = file
        self._planned = planned
        self._tag = _TAG.fullmatch(planned.tag)
        self._may_grow = may_grow
        self._seen: tuple[int, int] | None = None

    def check(self, at: int | None = None) -> None:
        """Raise :class:`ChangedInputError` if the file is not what was planned; bytes read before it then are."""
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
        """Say what the file had when it was planned, and what it has now."""
        had, has = f"{self._planned.size} bytes", f"{now.st_size} bytes"
        if self._tag is None:
            return had, has
        return f"{had}, written {_said(int(self._tag['time']))}", f"{has}, written {_said(now.st_mtime_ns)}"


def checked(
    file: BinaryIO, uri: str, planned: Planned, start: int, end: int | None = None, chunk: int = 1 << 20
) -> Iterator[bytes]:
    """Yield an unbuffered file's bytes from ``start`` to ``end``, or to where it ended when it was planned.

    Each chunk is yielded once the file, after it was read, was still what was planned.
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
    """Whether two times of change, in nanoseconds, are one, seen through file systems that may round differently."""
    return any(
        planned // grain == now // grain for grain in _GRAINS if grain == 1 or not planned % grain or not now % grain
    )


def _said(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(seconds))}.{rest:09d} UTC"
