"""Redis's time, by which leases are stamped and found lapsed: a machine's own clock may be set while a worker runs."""

from __future__ import annotations

import time


class ServerClock:
    """Redis's time as this process last heard it, carried on by the monotonic clock, which is never set."""

    def __init__(self) -> None:
        self._ahead: float | None = None

    def heard(self, server: float) -> None:
        """Take over Redis's time, in seconds since the epoch."""
        self._ahead = server - time.monotonic()

    def now(self) -> float:
        """Return Redis's time; this machine's until it was first heard."""
        return time.time() if self._ahead is None else time.monotonic() + self._ahead


server_clock = ServerClock()
"""Of this process, the main one of a worker."""
