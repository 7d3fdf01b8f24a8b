"""kombu's Redis transport, cured of what makes running tasks run twice when Redis restarts.

When a worker loses its connection, kombu puts back all that it was given, also the tasks that still run,
and Celery 5.7 closes the lost channel once more after it has forgotten its connection, which ends the
worker (``AttributeError``); acknowledgements on the old channel fail for the same reason. Here a channel
keeps its connection for good, and what runs stays in ``unacked``, where its lease is renewed
(:mod:`mrcelery.worker.leases`).
"""

from __future__ import annotations

from typing import Any

from celery.worker import state
from kombu.transport import redis

from mrcelery.worker.leases import in_flight

_running: set[str] = set()
"""Delivery tags, from connections that were lost, of tasks that still run."""


class QoS(redis.QoS):
    """Keeps running tasks when a connection is lost, and puts them back when the worker stops."""

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Put back what was taken when the worker stops, and nothing when a connection is lost."""
        if state.should_stop is None and state.should_terminate is None:
            running = {request.message.delivery_tag for request in in_flight(state.active_requests)}
            kept = running & self._delivered.keys()
            _running.update(kept)
            for tag in kept:
                del self._delivered[tag]
        else:
            for tag in tuple(_running):
                # Does nothing where it was acknowledged.
                self.restore_by_tag(tag)  # type: ignore[no-untyped-call]
                _running.discard(tag)
        super().restore_unacked_once(stderr)  # type: ignore[no-untyped-call]

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message; it runs no longer."""
        super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        _running.discard(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Reject or requeue a message; it runs no longer."""
        super().reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]
        _running.discard(delivery_tag)


class _Reachable:
    """A channel that can still acknowledge and requeue after it was closed."""

    QoS = QoS
    exchange_types: Any

    def close(self) -> None:
        types = self.exchange_types
        super().close()  # type: ignore[misc]
        self.exchange_types = types  # else a message that is requeued later finds no way, and is lost


class Channel(_Reachable, redis.Channel):
    """A channel to one Redis server."""


class SentinelChannel(_Reachable, redis.SentinelChannel):
    """A channel to the master that Sentinel names."""


class _Lasting:
    """A transport that keeps its connection's parameters when the connection is given up."""

    _client: Any = None

    @property
    def client(self) -> Any:
        return self._client

    @client.setter
    def client(self, value: Any) -> None:
        if value is not None:  # None is what a connection sets that has been closed
            self._client = value

    def close_channel(self, channel: Any) -> None:
        super().close_channel(channel)  # type: ignore[misc]
        channel.connection = self


class Transport(_Lasting, redis.Transport):
    """For ``redis://``, ``rediss://`` and unix sockets."""

    Channel = Channel


class SentinelTransport(_Lasting, redis.SentinelTransport):
    """For ``sentinel://``."""

    Channel = SentinelChannel
