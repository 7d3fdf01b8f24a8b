"""A worker waits for its broker, as long as it takes: for one that is gone, and for one that refuses to be written.

Celery waits for a broker that does not answer. One that answers but refuses (a replica, a full disk or memory, too
few replicas) would end it: a connection can be made, and the first thing that is done with it fails.
"""

from __future__ import annotations

import logging
import time
from contextlib import closing
from typing import Any

from celery import bootsteps
from celery.worker import state

from mrcelery.errors import BrokerUnreachableError
from mrcelery.jobstore.connection import REDIS_SCHEMES, Command, connect, store_url
from mrcelery.worker.broker_errors import Trouble

LONGEST_PAUSE = 2.0
"""Seconds between two looks, at most."""

LASTING_SECONDS = 5.0
"""A connection that is lost sooner was refused something that the probe does not try: the next one waits."""

PROBE: Command = ("ZADD", "unacked_index", "XX", 0, "")
"""A write that changes nothing, that a worker's user may do, and that is refused wherever a task could not be taken."""

log = logging.getLogger(__name__)


class BrokerWait(bootsteps.Step):  # type: ignore[misc]
    """Has a worker connect only when its broker can be written; on a worker's consumer."""

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        conf = consumer.app.conf
        if not str(conf.broker_read_url or conf.broker_url).startswith(REDIS_SCHEMES):
            return
        self._app = consumer.app
        self._trouble = Trouble(
            log,
            "this worker takes no tasks and waits for its broker: %s",
            "the broker is back: this worker takes tasks",
        )
        self._connect = consumer.connect
        self._connected, self._pause = float("-inf"), 0.0
        consumer.connect = self._connect_when_writable

    def _connect_when_writable(self) -> Any:
        lasted = time.monotonic() - self._connected
        self._pause = 0.0 if lasted >= LASTING_SECONDS else min(LONGEST_PAUSE, 2 * self._pause + 0.1)
        _sleep(self._pause)
        self._await_writable()
        connection = self._connect()
        self._connected = time.monotonic()
        return connection

    def _await_writable(self) -> None:
        pause = 0.1
        with closing(connect(store_url(self._app))) as probe:
            while True:
                try:
                    probe.call(PROBE)
                    break
                except BrokerUnreachableError as e:
                    self._trouble.met(e)
                _sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        self._trouble.over()


def _sleep(seconds: float) -> None:
    """Sleep, unless the worker is told to stop, which raises what Celery ends it with."""
    until = time.monotonic() + seconds
    while True:
        state.maybe_shutdown()
        left = until - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, 0.2))
