"""What one piece of work transfers to and from storage: its requests, and the memory they may take.

A task, or a coordinator step, opens :func:`transfers` around its work. Storages count their requests there, whichever
thread makes them, and check there how much they may hold. It is passed in a context variable: a worker may run several
tasks in threads of one process, and inputs are opened deep inside the task.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 32
"""Requests of one process in flight at once, in addition to those that its threads make themselves."""

MEMORY = 32 << 20
"""Bytes in flight, each way, unless the caller sets less: enough for several hundred MB/s at 30 ms per request."""

OBJECT = 4 << 10
"""Overhead in bytes of an object written behind."""


class Transfers:
    """The requests and bytes transferred so far.

    ``requests`` counts requests as they are billed, GET, PUT, LIST and DELETE, and, separately, as RETRY those that an
    endpoint refused temporarily and that were repeated. ``memory`` is the number of bytes that reading ahead may hold,
    and that uploads may hold.
    """

    def __init__(self, memory: int = MEMORY, *, behind: bool = False) -> None:
        self.requests: Counter[str] = Counter()
        self.memory = memory
        self.behind = behind
        self._counting = threading.Lock()
        self._writes: deque[tuple[Future[Any], int]] = deque()
        self._held = 0

    def count(self, kind: str, number: int = 1) -> None:
        """Add requests of one kind; safe to call from several threads."""
        with self._counting:
            self.requests[kind] += number

    def write_behind(self, size: int, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call a function that writes ``size`` bytes in another thread; wait while too many bytes are in transfer."""
        size += OBJECT
        while self._writes and self._held + size > self.memory:
            self._await_one()
        self._writes.append((submit(function, *args, **kwargs), size))
        self._held += size

    def flush(self) -> None:
        """Wait for all writes behind, and raise their errors."""
        while self._writes:
            self._await_one()

    def _await_one(self) -> None:
        written, size = self._writes.popleft()
        self._held -= size
        written.result()

    def drop(self) -> None:
        """Cancel the queued writes, and wait for those that have started."""
        for written, _ in self._writes:
            written.cancel()
        wait([written for written, _ in self._writes])
        self._writes.clear()


_current: ContextVar[Transfers | None] = ContextVar("mrcelery_transfers", default=None)


def current() -> Transfers:
    """Return the transfers that the caller's requests belong to; new ones outside any :func:`transfers` block."""
    return _current.get() or Transfers()


@contextmanager
def transfers(memory: int = MEMORY, *, behind: bool = False) -> Iterator[Transfers]:
    """Count the requests made in this block, by this thread and the threads that work for it.

    ``behind``: small objects are written while the block runs, and exist when it has ended; a write that failed then
    raises at the block's end at the latest.
    """
    moved = Transfers(memory, behind=behind)
    token = _current.set(moved)
    try:
        yield moved
        moved.flush()
    finally:
        moved.drop()
        _current.reset(token)


def carried(function: Callable[P, T]) -> Callable[P, T]:
    """Wrap ``function`` for other threads, so that its requests count among the caller's."""
    moved = _current.get()

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        token = _current.set(moved)
        try:
            return function(*args, **kwargs)
        finally:
            _current.reset(token)

    return call


# By process id: threads do not survive a fork.
_pools: dict[int, ThreadPoolExecutor] = {}


def submit(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Run a request in one of this process's request threads.

    Only for functions that do not themselves wait for another of these threads: otherwise all of them could wait.
    """
    pool = _pools.get(os.getpid())
    if pool is None:
        pool = _pools.setdefault(os.getpid(), ThreadPoolExecutor(THREADS, thread_name_prefix="mrcelery-storage"))
    return pool.submit(carried(function), *args, **kwargs)
