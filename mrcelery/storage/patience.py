"""Waiting in this process, a client or the inline runner, for a storage that is away. Workers' tasks are retried."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from mrcelery.errors import StorageOutageError
from mrcelery.schema.backoff import pause

if TYPE_CHECKING:
    from mrcelery.storage.base import Storage

T = TypeVar("T")

FIRST, LONGEST = 0.5, 15.0
"""Seconds between two tries: the first pause and the longest."""

STRANGER_SECONDS = 20.0
"""Seconds to wait for a storage that never answered this process: its address is probably wrong."""

AGAIN_SECONDS = 15.0
"""Seconds after which a lasting condition is reported again."""

Report = Callable[[float, float, str], None]
"""Called with the seconds that a storage has been away, the seconds for which it is awaited, and the reason."""


def limit(error: StorageOutageError, patience: float) -> float:
    """Return for how many seconds to wait for a storage."""
    return patience if error.met else min(patience, STRANGER_SECONDS)


class Patience:
    """Waits between tries for ``seconds`` at most in total; each success resets it."""

    def __init__(self, seconds: float, report: Report) -> None:
        self._seconds = seconds
        self._report = report
        self._since: float | None = None
        self._tries = 0
        self._reported = 0.0

    def wait(self, error: StorageOutageError) -> None:
        """Wait a moment before the failed call is retried; raise the error if patience is over."""
        now = time.monotonic()
        if self._since is None:
            self._since, self._tries, self._reported = now - error.seconds, 0, 0.0
        away, longest = now - self._since, limit(error, self._seconds)
        if away >= longest:
            raise error
        if not self._reported or now - self._reported >= AGAIN_SECONDS:
            self._reported = now
            self._report(away, longest, str(error))
        time.sleep(min(pause(self._tries, FIRST, LONGEST), longest - away))
        self._tries += 1

    def over(self) -> None:
        """Record that the storage answers."""
        self._since = None

    def call(self, function: Callable[[], T]) -> T:
        """Call a repeatable function until the storage answers it."""
        while True:
            try:
                found = function()
            except StorageOutageError as e:
                self.wait(e)
            else:
                self.over()
                return found

    def stream(self, storage: Storage, key: str) -> Iterator[bytes]:
        """Yield an object's bytes in pieces; resume where they broke off."""
        at = 0
        while True:
            try:
                for data in storage.stream(key, at):
                    self.over()
                    at += len(data)
                    yield data
                return
            except StorageOutageError as e:
                self.wait(e)
