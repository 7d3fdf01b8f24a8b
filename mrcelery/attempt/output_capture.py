"""Capturing what user code prints and logs in an attempt, and undoing its changes to the process's environment."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from io import RawIOBase, TextIOWrapper
from typing import Any

from mrcelery.errors import UnreachableError, mask
from mrcelery.schema.object_keys import LEFT_OUT
from mrcelery.storage import scheme_of
from mrcelery.storage.base import Storage

LOG_LIMIT = 1 << 20
"""Bytes kept of an attempt's output: the first half and the last."""

SHARE_SECONDS = 5.0
"""Minimum seconds between two writes of an attempt's output so far to S3, each of which is a request."""

NEAR_SECONDS = 1.0
"""The same for a folder."""


_OURS = ("mrcelery", "celery", "kombu", "amqp", "redis", "boto", "urllib3", "s3transfer")


def share_seconds(storage: Storage) -> float:
    """Return the minimum seconds between two writes of an attempt's output."""
    return SHARE_SECONDS if scheme_of(storage.uri) == "s3" else NEAR_SECONDS


class Kept(RawIOBase):
    """A stream that keeps the first and the last part of its data, within a limit."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._left_out = False
        self.written = 0
        """Bytes received, including those that are not kept."""

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any, /) -> int:
        """Keep bytes within the limit, and return how many were received."""
        piece = bytes(data)
        self.written += len(piece)
        room = LOG_LIMIT // 2 - len(self._head)
        self._head += piece[:room]
        self._tail += piece[room:]
        if len(self._tail) > LOG_LIMIT:
            del self._tail[: -LOG_LIMIT // 2]
            self._left_out = True
        return len(piece)

    def close(self) -> None:
        """Stay open: user code may close its stdout, and its output is still read."""

    def kept(self) -> bytes:
        """Return the kept bytes, with :data:`LEFT_OUT` in place of the rest."""
        return bytes(self._head) + (LEFT_OUT if self._left_out else b"") + bytes(self._tail)

    def copy(self) -> Kept:
        """Return another stream that has kept the same bytes."""
        other = Kept()
        other._head[:], other._tail[:] = self._head, self._tail
        other._left_out, other.written = self._left_out, self.written
        return other

    def become(self, other: Kept) -> None:
        """Replace the kept bytes by another stream's."""
        self._head, self._tail = other._head, other._tail
        self._left_out, self.written = other._left_out, other.written


class Said:
    """What user code prints and logs in this process: a stream, and the bytes kept of it."""

    def __init__(self) -> None:
        self.kept = Kept()
        self.stream = TextIOWrapper(self.kept, "utf-8", "backslashreplace", write_through=True)  # type: ignore[type-var]

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Redirect what is printed and logged in this block to the stream."""
        handler = _LogHandler(self.stream)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handler.addFilter(lambda record: not record.name.startswith(_OURS))
        root = logging.getLogger()
        root.addHandler(handler)
        try:
            with redirect_stdout(self.stream), redirect_stderr(self.stream):
                yield
        finally:
            root.removeHandler(handler)


class Log:
    """An attempt's output so far, and its object in storage."""

    def __init__(self, storage: Storage, key: str, kept: Kept) -> None:
        self.kept = kept
        self._storage = storage
        self._key = key
        self._pause = share_seconds(storage)
        self._due = 0.0
        self._shared = 0

    def share(self) -> None:
        """Write new output to storage for someone who follows it, at limited intervals."""
        if time.monotonic() >= self._due and self.kept.written > self._shared:
            self.save()
            self._due = time.monotonic() + self._pause

    def save(self) -> None:
        """Write all output to storage, if there is any."""
        self._shared = self.kept.written
        if text := self.kept.kept():
            # The attempt's work is worth more than its log.
            with suppress(UnreachableError):
                self._storage.write(self._key, _masked(text))


def _masked(text: bytes) -> bytes:
    """Mask secrets in whole lines, so that text shared before stays the same."""
    return mask(text.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


class _LogHandler(logging.StreamHandler[Any]):
    """The log handler of one attempt; a pool of threads has several at once."""


@contextmanager
def captured(storage: Storage, key: str, said: Said | None = None) -> Iterator[Log]:
    """Store what user code prints and logs in this block under ``key``, if it prints anything.

    ``said`` may hold output of its modules from their import, before the block; it does again afterwards.
    """
    said = said or Said()
    log = Log(storage, key, said.kept)
    ahead = said.kept.copy()
    root = logging.getLogger()
    before, level = [h for h in root.handlers if not isinstance(h, _LogHandler)], root.level
    try:
        with said.heard():
            yield log
    finally:
        # User code may call logging.basicConfig(), which must not affect this process's later tasks.
        root.handlers[:] = before + [h for h in root.handlers if isinstance(h, _LogHandler)]
        root.setLevel(level)
        log.save()
        said.kept.become(ahead)


@contextmanager
def own_environment() -> Iterator[None]:
    """Undo user code's changes to environment variables when the block ends."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})
