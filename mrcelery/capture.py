"""What user code prints and logs in an attempt, and what it does to the process's environment."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from io import RawIOBase, TextIOWrapper
from typing import Any

from mrcelery.errors import UnreachableError
from mrcelery.storage.base import Storage

LOG_LIMIT = 1 << 20
"""Bytes kept of what an attempt prints and logs: the first half and the last."""

_OURS = ("mrcelery", "celery", "kombu", "amqp", "redis", "boto", "urllib3", "s3transfer")


class Kept(RawIOBase):
    """Keeps the first and the last of what is written, within a limit."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._left_out = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        piece = bytes(data)
        room = LOG_LIMIT // 2 - len(self._head)
        self._head += piece[:room]
        self._tail += piece[room:]
        if len(self._tail) > LOG_LIMIT:
            del self._tail[: -LOG_LIMIT // 2]
            self._left_out = True
        return len(piece)

    def close(self) -> None:
        """Stays open: user code may close its stdout, and we still read what was written."""

    def kept(self) -> bytes:
        return bytes(self._head) + (b"\n[...]\n" if self._left_out else b"") + bytes(self._tail)


class _LogHandler(logging.StreamHandler[Any]):
    """An attempt's own; in a pool of threads there are several at once."""


@contextmanager
def captured(storage: Storage, key: str) -> Iterator[None]:
    """Keep what user code prints and logs meanwhile in storage, under ``key``; nothing where it says nothing."""
    kept = Kept()
    log = TextIOWrapper(kept, "utf-8", "backslashreplace", write_through=True)  # type: ignore[type-var]
    handler = _LogHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(lambda record: not record.name.startswith(_OURS))
    root = logging.getLogger()
    before, level = [h for h in root.handlers if not isinstance(h, _LogHandler)], root.level
    root.addHandler(handler)
    try:
        with redirect_stdout(log), redirect_stderr(log):
            yield
    finally:
        # User code may call logging.basicConfig(): not for the tasks that this process runs after it.
        root.removeHandler(handler)
        root.handlers[:] = before + [h for h in root.handlers if isinstance(h, _LogHandler)]
        root.setLevel(level)
        if text := kept.kept():
            # What went wrong, if anything did, is worth more than the log of it.
            with suppress(UnreachableError):
                storage.write(key, text)


@contextmanager
def own_environment() -> Iterator[None]:
    """What user code does to the environment's variables ends with its attempt."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})
