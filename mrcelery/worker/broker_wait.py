"""A worker waits for its broker as long as necessary, whether the broker is gone or refuses writes.

Celery waits for a broker that does not answer. A broker that answers but refuses (a replica, a full disk or memory, too
few replicas) would end the worker: the connection succeeds, and the first command on it fails.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import closing
from typing import Any

from celery import bootsteps
from celery.worker import state

from mrcelery.errors import BrokerUnreachableError
from mrcelery.jobstore.connection import REDIS_SCHEMES, Command, connect, store_url
from mrcelery.schema.backoff import pause, pauses
from mrcelery.worker.broker_errors import REFUSALS, Trouble

LONGEST_PAUSE = 2.0
"""Longest pause between two checks, in seconds."""

LASTING_SECONDS = 5.0
"""A connection lost sooner than this was refused something that the probe does not try: the next one waits."""

waiting = threading.Event()
"""Set while this worker waits for its broker."""

log = logging.getLogger(__name__)


class BrokerWait(bootsteps.Step):  # type: ignore[misc]
    """Has a worker connect only when its broker accepts writes; a step of the worker's consumer."""

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        conf = consumer.app.conf
        if not str(conf.broker_read_url or conf.broker_url).startswith(REDIS_SCHEMES):
            return
        self._app = consumer.app
        index = str((conf.broker_transport_options or {}).get("unacked_index_key", "unacked_index"))
        # A write that changes nothing, that a worker's user may do, and that is refused whenever tasks cannot be taken.
        self._probe: Command = ("ZADD", index, "XX", 0, "")
        self._trouble = Trouble(
            log,
            "this worker takes no tasks and waits for its broker: %s",
            "the broker is back: this worker takes tasks",
        )
        self._refused = Trouble(
            log, "the broker refuses what this worker needs: %s", "the broker no longer refuses what this worker needs"
        )
        self._timer = consumer.timer
        self._on_error = consumer.on_connection_error_after_connected
        consumer.on_connection_error_after_connected = self._explain
        self._connect = consumer.connect
        self._connected, self._pause = float("-inf"), 0.0
        consumer.connect = self._connect_when_writable

    def _connect_when_writable(self) -> Any:
        waiting.set()  # cleared only by a connection: Celery calls this again, or ends the worker
        self._pause = 0.0 if self._lasts() else min(LONGEST_PAUSE, 2 * self._pause + 0.1)
        _sleep(self._pause and pause(0, self._pause, self._pause))
        self._await_writable()
        connection = self._connect()
        self._connected = time.monotonic()
        waiting.clear()
        self._timer.call_after(LASTING_SECONDS, self._judge)
        return connection

    def _lasts(self) -> bool:
        return time.monotonic() - self._connected >= LASTING_SECONDS

    def _judge(self) -> None:
        if self._lasts():
            self._refused.over()

    def _explain(self, error: Exception) -> None:
        """Name the refusal that ends a connection just made: Celery shows only its type."""
        if isinstance(error, REFUSALS) and not self._lasts():
            self._refused.met(error)
        self._on_error(error)

    def _await_writable(self) -> None:
        with closing(connect(store_url(self._app))) as probe:
            for seconds in pauses(0.1, LONGEST_PAUSE):
                try:
                    probe.call(self._probe)
                    break
                except BrokerUnreachableError as e:
                    self._trouble.met(e)
                _sleep(seconds)
        self._trouble.over()


def _sleep(seconds: float) -> None:
    """Sleep; if the worker is asked to stop, raise the exception with which Celery ends it."""
    until = time.monotonic() + seconds
    while True:
        state.maybe_shutdown()
        left = until - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, 0.2))
