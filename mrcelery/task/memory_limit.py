"""The memory ceiling of an attempt: past it an allocation fails, instead of the kernel choosing whom to kill.

The kernel's own account is used, ``RLIMIT_DATA`` (``setrlimit(2)``): what a process has mapped for data, its
heap, its threads' stacks and Arrow's and NumPy's buffers. Only where a process runs one attempt at a time, and
on Linux only: elsewhere the limit counts other things.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

RESERVE = 4 << 20
"""Bytes that are mapped ahead, and given up where memory ends: to get as far as lifting the ceiling."""

_reserve: list[mmap.mmap] = []

_limits: list[tuple[int, int, int]] = []
"""Soft limit before, soft limit now and hard limit, of the ceiling that this process is under."""

SLACK = 384 << 20
"""Bytes an attempt may map beyond ``--memory``: modules that it imports, stacks of the threads that fetch and
upload (up to 40 of 8 MiB each), and what allocators map ahead of need. Without S3's threads, a job of Arrow tables
at a ceiling of 16 MiB needed more than 64 MiB of it and less than 160."""

SLACK_PER_CORE = 64 << 20
"""Arrow and OpenBLAS start a thread for each core when they are imported, with stacks and buffers of their own."""


@contextmanager
def ceiling(memory: int) -> Iterator[None]:
    """Let this process map ``memory`` bytes and the slack above more than it has now, while the block runs.

    Beyond that, Python and Arrow raise ``MemoryError``.
    """
    if sys.platform != "linux":
        yield
        return
    import resource  # noqa: PLC0415 - not on Windows

    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _mapped() + memory + SLACK + SLACK_PER_CORE * (os.cpu_count() or 1)
    allowed = [other for other in (before, hard) if other != resource.RLIM_INFINITY]
    limit = min([limit, *allowed])
    _hold()
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    _limits.append((before, limit, hard))
    try:
        yield
    finally:
        _limits.pop()
        _set(before, hard)
        give_way()


@contextmanager
def lifted() -> Iterator[None]:
    """Lift the ceiling, to report that it was met: that takes memory too."""
    if not _limits:
        yield
        return
    give_way()
    before, limit, hard = _limits[-1]
    _set(before, hard)
    try:
        yield
    finally:
        _hold()
        _set(limit, hard)


def _hold() -> None:
    _reserve.append(mmap.mmap(-1, RESERVE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def give_way() -> None:
    """Free the reserve: the first thing to do with a ``MemoryError``."""
    while _reserve:
        _reserve.pop().close()


def _set(soft: int, hard: int) -> None:
    import resource  # noqa: PLC0415 - not on Windows

    with suppress(ValueError):  # user code may have lowered the hard limit
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _mapped() -> int:
    """Return the bytes that this process has mapped for data."""
    import resource  # noqa: PLC0415 - not on Windows

    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[5]) * resource.getpagesize()
