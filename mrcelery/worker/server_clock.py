"""Redis's time, used to stamp leases and to detect lapsed ones: a machine's own clock may be set during a run."""

from __future__ import annotations

import time


class ServerClock:
    """Redis's time as last received by this process, advanced by the monotonic clock, which is never set."""

    def __init__(self) -> None:
        self._ahead: float | None = None

    def heard(self, server: float) -> None:
        """Record Redis's time, in seconds since the epoch."""
        self._ahead = server - time.monotonic()

    def now(self) -> float:
        """Return Redis's time, or this machine's if Redis's is not yet known."""
        return time.time() if self._ahead is None else time.monotonic() + self._ahead


server_clock = ServerClock()
"""This process's clock; the process is a worker's main one."""
