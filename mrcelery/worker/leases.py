"""Leases: a task that runs is not delivered again, however short the visibility timeout.

kombu's Redis transport stamps a message when it delivers it, in ``unacked_index``, and puts it back on its
queue when the stamp is older than the visibility timeout. So that timeout would have to be longer than any
task, and a vanished worker's tasks would wait as long. Here each worker renews the stamps of all messages
that it holds, running, waiting for a process or for their time, every quarter of the timeout: what a
worker holds is its own for as long as it lives, and others' soon after.

The stamps are Redis's time (:mod:`mrcelery.worker.server_clock`). A worker whose own clock is set while it runs keeps
what it holds, takes nothing from others, and no new tasks until its clock is right.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from celery import bootsteps
from celery.signals import worker_shutdown
from celery.worker import state
from msgspec.structs import replace

from mrcelery.config import Config
from mrcelery.errors import BrokerUnreachableError, ConfigError, visible
from mrcelery.formats.extras import installed as arrow_installed
from mrcelery.jobstore.connection import store_url
from mrcelery.jobstore.presence import server_time, versions
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.schema.encoding import encode
from mrcelery.schema.structs import Presence
from mrcelery.worker.broker_errors import Trouble
from mrcelery.worker.health import health
from mrcelery.worker.host_app import check_app, exempt_from_limits
from mrcelery.worker.hung import AttemptSupervisor
from mrcelery.worker.lost import excuse
from mrcelery.worker.server_clock import server_clock
from mrcelery.worker.sick import goes_back

log = logging.getLogger(__name__)

KOMBU_VISIBILITY = 3600.0
"""kombu's own visibility timeout in seconds, where an app sets none."""

SKEW_SECONDS = 2.0
"""How far a worker's clock may be from Redis's before the worker warns: some times of a job are workers' clocks."""

SUPERVISE_SECONDS = 0.5
"""How often a worker checks whether tasks that it runs should be stopped."""

SILENCE_SECONDS = 10.0
"""How long Redis may take to answer or to be connected to, before its connection is given up."""

HEALTH_SECONDS = 5
"""How often a connection on which nothing comes is tried; kombu wants whole seconds."""

LONGEST_SILENCE = 5.0
"""Seconds between two presence records of a worker, at most, for those who wait for a job."""


def transport_options(visibility_timeout: float) -> dict[str, Any]:
    """Return the broker's transport options for a visibility timeout in seconds.

    Tasks of a worker that is killed are delivered elsewhere after that time and an eighth of it.
    """
    return {
        "visibility_timeout": visibility_timeout,
        "unacked_restore_interval": visibility_timeout / 8,  # kombu checks every 10 s
        "unacked_restore_throttle": 1,  # ... and then skips nine checks of ten
        # The lock of who checks. One who died with it holds the others up for so long; kombu's 300 s would be too
        # long, and two at once do no harm.
        "unacked_mutex_expire": max(1.0, visibility_timeout / 4),
        # A network that is cut says nothing. kombu would wait for an answer for as long as the kernel sends again,
        # which is a quarter of an hour, and longer than the cut in any case; and check every 25 s whether one is due.
        "socket_timeout": SILENCE_SECONDS,
        "socket_connect_timeout": SILENCE_SECONDS,
        "health_check_interval": HEALTH_SECONDS,
        # kombu before 5.7 does not check the connection on which it waits for tasks: there the kernel does.
        "socket_keepalive": True,
        "socket_keepalive_options": _keepalive(),
    }


def _keepalive() -> dict[int, int]:
    """Return options with which the kernel probes a silent connection, and gives it up, as soon as kombu would."""
    wanted = {
        "TCP_KEEPIDLE": HEALTH_SECONDS,
        "TCP_KEEPALIVE": HEALTH_SECONDS,  # its name on macOS
        "TCP_KEEPINTVL": 1,
        "TCP_KEEPCNT": int(SILENCE_SECONDS) - HEALTH_SECONDS,
        "TCP_USER_TIMEOUT": int(SILENCE_SECONDS * 1000),  # milliseconds until what was sent is acknowledged
    }
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


def in_flight(*groups: Iterable[Any]) -> set[Any]:
    """Return the requests in some of Celery's sets, which other threads change meanwhile."""
    while True:
        try:
            return {request for group in groups for request in group}
        except RuntimeError:  # one came meanwhile
            continue


def held() -> set[Any]:
    """Return all requests whose messages this worker has taken and not acknowledged."""
    requests = in_flight(state.active_requests, state.reserved_requests, state.scheduled_requests)
    return {request for request in requests if not request.acknowledged}


def wrong_clock(skew: float, visibility_timeout: float) -> str:
    """Say that a clock is so far (``skew`` seconds) from Redis's that leases mean nothing; "" if it is not."""
    if abs(skew) < visibility_timeout / 2:
        return ""
    return (
        f"this machine's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} Redis's, too far for a "
        f"visibility timeout of {visibility_timeout:g} s: synchronise the clocks (NTP)"
    )


class Leases:
    """Renews the leases of a worker's messages, from a thread of its own.

    The main thread may be reconnecting or, in a solo pool, be running the task.
    """

    def __init__(self, worker: Any, url: str) -> None:
        options = worker.app.conf.broker_transport_options or {}
        self._visibility = float(options.get("visibility_timeout", KOMBU_VISIBILITY))
        self._index = str(options.get("unacked_index_key", "unacked_index"))
        self._store = RedisJobStore(url)
        self._worker = worker
        self._supervisor = AttemptSupervisor(worker.app, self._store, Config.load({}).task_timeout)
        self._stopped = threading.Event()
        self._clock_reported = self._clock_checked = False
        self._due = 0.0
        self._name = str(worker.hostname)
        self._every = min(LONGEST_SILENCE, self._visibility / 4)
        self._present = Presence(
            queues=tuple(worker.app.amqp.queues.consume_from),
            processes=int(worker.concurrency or 1),
            every=self._every,
            host=socket.gethostname(),
            versions=versions(),
            visibility=self._visibility,
            arrow=arrow_installed(),
            signed=bool(Config.load({}).signing_key),
        )
        self._presence_lock = threading.Lock()
        self._leaves = False
        self._presence_due = 0.0
        self._recorded = ""

    def start(self) -> None:
        """Start the thread."""
        worker_shutdown.connect(self._on_shutdown)
        threading.Thread(target=self._run, name="mrcelery-leases", daemon=True).start()

    def _on_shutdown(self, **_: Any) -> None:
        # Not when the worker is told to stop: in a warm shutdown tasks run on.
        self._stopped.set()

    def leave(self) -> None:
        """Withdraw this worker's presence; leases are still renewed, while tasks run to their end."""
        with self._presence_lock:
            self._leaves = True
            with suppress(BrokerUnreachableError):
                self._store.drop_worker(self._name)

    def _record_presence(self) -> None:
        """Record that this worker lives, unless it is leaving."""
        with self._presence_lock:
            if not self._leaves:
                self._recorded = health.reason
                present = replace(self._present, at=time.time(), sick=visible(self._recorded))
                self._store.record_worker(self._name, encode(present))

    def _run(self) -> None:
        trouble = Trouble(log, "leases are not renewed: %s", "leases are renewed again")
        while not self._stopped.wait(SUPERVISE_SECONDS):
            try:
                self._supervise()
                trouble.over()
            except BrokerUnreachableError as e:
                trouble.met(e)
            except ConfigError as e:
                log.critical("%s", e)
                self._worker.exitcode = e.exit_code  # else Celery's is that of a stop somebody asked for
                state.should_terminate = 1  # as a signal would: what it holds is requeued
                return
            except Exception:
                log.exception("renewing the leases failed; it is tried again")
        self._store.close()

    def _supervise(self) -> None:
        """End what should not go on, excuse attempts, and renew presence and leases that are due."""
        requests = held()
        hung = self._supervisor.supervise(requests) if requests else set()
        excuse(self._store)
        now = time.monotonic()
        if now >= self._presence_due or health.reason != self._recorded:
            self._record_presence()
            self._presence_due = now + self._every  # not where it failed: what is due is tried until it succeeds
        if now >= self._due:
            self.renew(request.message.delivery_tag for request in requests - hung)
            self._due = now + self._visibility / 4

    def renew(self, tags: Iterable[str]) -> None:
        """Stamp messages with Redis's time, but none that this worker no longer holds."""
        before, sent = time.time(), time.monotonic()
        server, took = server_time(self._store), time.monotonic() - sent
        if stamps := [part for tag in tags for part in (server, tag)]:
            self._store.call(("ZADD", self._index, "XX", *stamps))
        # After the stamps: where it is Redis's own clock that was set, older ones would seem to have lapsed.
        server_clock.heard(server)
        self._judge_clock(before + took / 2 - server)

    def _judge_clock(self, skew: float) -> None:
        wrong = wrong_clock(skew, self._visibility)
        if wrong and not self._clock_checked:
            raise ConfigError(wrong)
        self._clock_checked = True
        # First what the probe looks at: it may be trying the machine at this moment.
        before, health.clock = health.clock, wrong
        if wrong and not before and goes_back():
            for queue in self._present.queues:
                health.failed(queue, wrong, certain=False)
        if abs(skew) > SKEW_SECONDS and not self._clock_reported:
            self._clock_reported = True
            log.warning(
                "this machine's clock is %.1f s %s Redis's: synchronise the clocks, or tasks may run twice",
                abs(skew),
                "ahead of" if skew > 0 else "behind",
            )


class LeaseStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts :class:`Leases` with a worker, after its processes were forked."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        try:
            check_app(worker.app)
        except ConfigError as e:
            raise SystemExit(f"mrcelery: {e}") from None
        super().__init__(worker, **kwargs)
        self.leases: Leases | None = None

    def start(self, worker: Any) -> None:
        """Start the leases."""
        exempt_from_limits(worker)
        self.leases = Leases(worker, store_url(worker.app))
        self.leases.start()

    def stop(self, worker: Any) -> None:
        """Withdraw the presence of a worker that is stopping."""
        if self.leases is not None:
            self.leases.leave()

    terminate = stop
