"""Reading ahead: byte ranges of an object are fetched in parallel and delivered in order.

One connection to S3 delivers some tens of MB/s, and each request waits some tens of milliseconds; a mapper can take
more than one connection delivers, and should not notice the waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from queue import SimpleQueue
from threading import Event
from typing import NamedTuple

from mrcelery.storage.base import Planned, Storage, Version
from mrcelery.storage.transfers import current, submit

RANGE = 8 << 20
"""Approximate bytes per request: at 30 ms of waiting each, several at once fill a fast link."""

SMALL_AT_ONCE = 8
"""Small objects fetched ahead at the same time."""


def read_ahead(
    storage: Storage, key: str, start: int, end: int, chunk: int = 1 << 20, version: Version | None = None
) -> Iterator[bytes]:
    """Fetch the object's bytes ``[start, end)`` ahead of their reader; yield them like :meth:`Storage.stream`.

    No byte is requested twice; a range that fits into one request is one request. Holds about ``Transfers.memory``
    bytes at most, and reads nothing ahead if that is less than two requests. When a reader leaves early, all requests
    stop after their current chunk.
    """
    version = version or Version()
    cuts = ranges(start, end)
    to_come = _foreseen.get()
    at_once = (current().memory - (to_come.held if to_come else 0)) // RANGE
    if len(cuts) < 2 or at_once < 2:
        yield from _one(storage, key, start, end, chunk, version)
        return
    waiting = iter(cuts)
    under_way: deque[_Request] = deque()
    try:
        while True:
            while len(under_way) < at_once and (cut := next(waiting, None)) is not None:
                under_way.append(_Request(Piece(storage, key, *cut), chunk, version))
            if not under_way:
                return
            missing = under_way[0].size
            for data in under_way[0].chunks():
                missing -= len(data)
                yield data
            if missing:
                return  # the object ends here: later bytes would not be contiguous
            under_way.popleft()
    finally:
        _stop(under_way)


def ranges(start: int, end: int) -> list[tuple[int, int]]:
    """Cut ``[start, end)`` into even pieces of about :data:`RANGE` bytes."""
    length = end - start
    if length <= 0:
        return []
    count = max(1, round(length / RANGE))
    cuts = [start + length * i // count for i in range(count + 1)]
    return list(pairwise(cuts))


class Piece(NamedTuple):
    """One request's range: the bytes ``[start, end)`` of an object's planned version."""

    storage: Storage
    key: str
    start: int
    end: int
    planned: Planned | None = None


@contextmanager
def foreseen(pieces: Iterable[Piece]) -> Iterator[None]:
    """Announce the pieces that this block will request from :func:`read_ahead`, in this order.

    Small objects wait for the network as long as large ones: while one is read, the next ones are fetched.
    """
    to_come = _Foreseen(pieces, current().memory // 2)
    token = _foreseen.set(to_come)
    try:
        yield
    finally:
        _foreseen.reset(token)
        _stop(to_come.under_way)


class _Foreseen:
    def __init__(self, pieces: Iterable[Piece], memory: int) -> None:
        self._waiting = deque(piece for piece in pieces if len(ranges(piece.start, piece.end)) == 1)
        self._memory = memory
        self.under_way: deque[_Request] = deque()

    def take(self, piece: Piece, chunk: int) -> _Request | None:
        """Return the request for ``piece`` if it is the next announced one, and start those after it; else None."""
        request = None
        if self.under_way and self.under_way[0].piece == piece:
            request = self.under_way.popleft()
        elif not self.under_way and self._waiting and self._waiting[0] == piece:
            self._waiting.popleft()
        else:
            return None
        while self._waiting and len(self.under_way) < SMALL_AT_ONCE:
            piece = self._waiting[0]
            if self.held + piece.end - piece.start > self._memory:
                break
            self._waiting.popleft()
            self.under_way.append(_Request(piece, chunk, Version(piece.planned)))
        return request

    @property
    def held(self) -> int:
        """Return the bytes of the requests under way, received or not."""
        return sum(request.size for request in self.under_way)


_foreseen: ContextVar[_Foreseen | None] = ContextVar("mrcelery_foreseen", default=None)


def _one(storage: Storage, key: str, start: int, end: int, chunk: int, version: Version) -> Iterator[bytes]:
    """Yield the bytes of one request, which may already be under way."""
    to_come = _foreseen.get()
    request = to_come and to_come.take(Piece(storage, key, start, end, version.planned), chunk)
    if not request:
        yield from storage.stream(key, start, end, chunk, version)
        return
    try:
        for data in request.chunks():
            if not version.met(request.version.tag):
                raise version.replaced(f"{storage.uri}/{key}", start, tag=request.version.tag)
            yield data
    finally:
        _stop([request])


class _Request:
    """A request under way in another thread; holds the bytes received but not yet taken."""

    def __init__(self, piece: Piece, chunk: int, version: Version) -> None:
        self.piece = piece
        self.size = piece.end - piece.start
        self.version = version
        self.stopped = Event()
        self._came: SimpleQueue[bytes | BaseException] = SimpleQueue()
        self.future: Future[None] = submit(self._fetch, chunk)

    def _fetch(self, chunk: int) -> None:
        storage, key, start, end, _ = self.piece
        if self.stopped.is_set():
            return
        try:
            for data in storage.stream(key, start, end, chunk, self.version):
                self._came.put(data)
                if self.stopped.is_set():
                    return
            self._came.put(b"")
        except BaseException as e:
            self._came.put(e)

    def chunks(self) -> Iterator[bytes]:
        while data := self._came.get():
            if isinstance(data, BaseException):
                raise data
            yield data


def _stop(requests: Collection[_Request]) -> None:
    """Abandon requests, and wait until they have ended, so that all of them are counted."""
    for request in requests:
        request.stopped.set()
        request.future.cancel()
    wait([request.future for request in requests])
