"""Reading ahead: byte ranges of an object fetched in parallel and delivered in order.

One connection to S3 gives some tens of MB/s, and each request some tens of milliseconds of waiting; a
mapper takes more than the one and should not see the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from itertools import pairwise
from queue import SimpleQueue
from threading import Event

from mrcelery.storage.base import Storage, Version
from mrcelery.storage.transfers import current, submit

RANGE = 8 << 20
"""Bytes of one request, about: at 30 ms of waiting each, several at once fill a fast link."""


def read_ahead(
    storage: Storage, key: str, start: int, end: int, chunk: int = 1 << 20, version: Version | None = None
) -> Iterator[bytes]:
    """The object's bytes ``[start, end)``, as :meth:`Storage.stream` gives them, fetched ahead of their reader.

    No byte is asked for twice; what fits into one request is one. Holds about ``Transfers.memory`` bytes
    at most, and reads nothing ahead where that is less than two requests. A reader that leaves early
    stops all requests after the chunk they are at.
    """
    version = version or Version()
    cuts = ranges(start, end)
    at_once = current().memory // RANGE
    if len(cuts) < 2 or at_once < 2:
        yield from storage.stream(key, start, end, chunk, version)
        return
    stopped = Event()
    waiting = iter(cuts)
    under_way: deque[_Range] = deque()
    try:
        while True:
            while len(under_way) < at_once and (cut := next(waiting, None)) is not None:
                under_way.append(_Range(storage, key, *cut, chunk, version, stopped))
            if not under_way:
                return
            missing = under_way[0].size
            for data in under_way[0].chunks():
                missing -= len(data)
                yield data
            if missing:
                return  # the object ends here: what lies beyond would not join on
            under_way.popleft()
    finally:
        stopped.set()
        for left in under_way:
            left.future.cancel()
        wait([left.future for left in under_way])  # for their requests are to be counted


def ranges(start: int, end: int) -> list[tuple[int, int]]:
    """``[start, end)`` in even pieces of about :data:`RANGE` bytes."""
    length = end - start
    if length <= 0:
        return []
    count = max(1, round(length / RANGE))
    cuts = [start + length * i // count for i in range(count + 1)]
    return list(pairwise(cuts))


class _Range:
    """A request under way in another thread; holds what has come and was not taken."""

    def __init__(
        self, storage: Storage, key: str, start: int, end: int, chunk: int, version: Version, stopped: Event
    ) -> None:
        self.size = end - start
        self._came: SimpleQueue[bytes | BaseException] = SimpleQueue()
        self._stopped = stopped
        self.future: Future[None] = submit(
            self._fetch, lambda: storage.stream(key, start, end, chunk, version)
        )

    def _fetch(self, stream: Callable[[], Iterator[bytes]]) -> None:
        if self._stopped.is_set():
            return
        try:
            for data in stream():
                self._came.put(data)
                if self._stopped.is_set():
                    return
            self._came.put(b"")
        except BaseException as e:
            self._came.put(e)

    def chunks(self) -> Iterator[bytes]:
        while data := self._came.get():
            if isinstance(data, BaseException):
                raise data
            yield data
