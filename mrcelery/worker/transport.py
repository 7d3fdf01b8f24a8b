"""kombu's Redis transport, without the faults that make running tasks run twice when Redis restarts.

When a worker loses its connection, kombu puts back all messages that the worker holds, including those of running
tasks, and Celery 5.7 closes the lost channel once more after it has forgotten its connection, which ends the worker
(``AttributeError``); acknowledgements on the old channel fail for the same reason. Here a channel keeps its connection
for good, and the messages of running tasks stay in ``unacked``, where their leases are renewed
(:mod:`mrcelery.worker.leases`).

Two more things would end a worker: a refusal from Redis, which kombu does not count among connection errors, and a
malformed message, which it does not expect.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from queue import Empty
from typing import Any

from celery.worker import state
from kombu.transport import redis

from mrcelery.worker.broker_errors import BROKER_ERRORS, DELIVERY_ERRORS, REFUSALS
from mrcelery.worker.leases import in_flight
from mrcelery.worker.server_clock import server_clock

log = logging.getLogger(__name__)

LONGEST_QUOTE = 500
"""Characters of a message that the log quotes."""

_running: set[str] = set()
"""Delivery tags, from lost connections, of tasks that still run."""


class QoS(redis.QoS):
    """Keeps running tasks when a connection is lost, and puts them back when the worker stops."""

    def restore_visible(self, *args: Any, **options: Any) -> None:
        """Put back lapsed messages by Redis's clock: kombu uses this machine's, which may have been set."""
        self.visibility_timeout = self.channel.visibility_timeout + time.time() - server_clock.now()
        super().restore_visible(*args, **options)  # type: ignore[no-untyped-call]

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Put messages back when the worker stops, but not when a connection is lost."""
        if state.should_stop is None and state.should_terminate is None:
            running = {request.message.delivery_tag for request in in_flight(state.active_requests)}
            kept = running & self._delivered.keys()
            _running.update(kept)
            for tag in kept:
                del self._delivered[tag]
        else:
            for tag in tuple(_running):
                # Does nothing if the message was acknowledged. If Redis refuses, the lease lapses.
                with suppress(*REFUSALS):
                    self.restore_by_tag(tag)  # type: ignore[no-untyped-call]
                _running.discard(tag)
        super().restore_unacked_once(stderr)  # type: ignore[no-untyped-call]

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message, whose task no longer runs."""
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        except BROKER_ERRORS as e:
            # It is delivered again when its lease lapses, and found done. Here its slot is free for another.
            log.warning("a message is not acknowledged, so it comes again: %s", e)
            super(redis.QoS, self).ack(delivery_tag)  # type: ignore[no-untyped-call]
        _running.discard(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Reject or requeue a message, whose task no longer runs."""
        super().reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]
        _running.discard(delivery_tag)


class _Reachable:
    """A channel that can still acknowledge and requeue after it is closed."""

    QoS = QoS
    exchange_types: Any

    def close(self) -> None:
        types = self.exchange_types
        super().close()  # type: ignore[misc]
        self.exchange_types = types  # else a message requeued later has no route, and is lost

    def _brpop_read(self, **options: Any) -> Any:
        """Read the answer to a BRPOP; drop one that is not JSON."""
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]
        except DELIVERY_ERRORS:
            raise
        except Empty:
            raise
        except Exception as e:
            quoted = getattr(e, "doc", getattr(e, "object", ""))
            log.error("a message in the queue is not JSON and was removed (%s): %s", e, _quote(quoted))
            raise Empty from None


class Channel(_Reachable, redis.Channel):
    """A channel to one Redis server."""


class SentinelChannel(_Reachable, redis.SentinelChannel):
    """A channel to the master named by Sentinel."""


class _Lasting:
    """A transport that keeps its connection's parameters when it drops the connection."""

    _client: Any = None
    channels: Any

    def _deliver(self, message: Any, queue: str) -> None:
        """Pass on an arriving message; drop one that kombu or Celery cannot read."""
        try:
            super()._deliver(message, queue)  # type: ignore[misc]
        except DELIVERY_ERRORS:
            raise
        except Exception as e:
            what = f"{type(e).__name__}: {e}"
            log.error("a message in the queue %s cannot be read and was removed (%s): %s", queue, what, _quote(message))
            self._acknowledge(message)

    def _acknowledge(self, message: Any) -> None:
        try:
            tag = message["properties"]["delivery_tag"]
            holders = [channel for channel in self.channels if tag in channel.qos._delivered]
        except (TypeError, KeyError):
            return  # it was not yet held
        for channel in holders:
            channel.qos.reject(tag)

    @property
    def client(self) -> Any:
        return self._client

    @client.setter
    def client(self, value: Any) -> None:
        if value is not None:  # a closed connection sets None
            self._client = value

    def close_channel(self, channel: Any) -> None:
        super().close_channel(channel)  # type: ignore[misc]
        channel.connection = self


class Transport(_Lasting, redis.Transport):
    """For ``redis://``, ``rediss://`` and unix sockets."""

    Channel = Channel
    connection_errors = redis.Transport.connection_errors + REFUSALS


class SentinelTransport(_Lasting, redis.SentinelTransport):
    """For ``sentinel://``."""

    Channel = SentinelChannel
    connection_errors = redis.SentinelTransport.connection_errors + REFUSALS


def _quote(message: Any) -> str:
    text = message if isinstance(message, str) else repr(message)
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}..."
