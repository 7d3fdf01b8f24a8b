"""Leases: a running task is not delivered again, however short the visibility timeout.

kombu's Redis transport stamps a message when it delivers it, in ``unacked_index``, and puts it back on its queue when
the stamp is older than the visibility timeout. So that timeout would have to be longer than any task, and the tasks of
a vanished worker would wait as long. Here each worker renews the stamps of all messages that it holds (running, or
waiting for a process or for their time) every quarter of the timeout: a worker keeps its messages for as long as it
lives, and other workers get them soon after.

The stamps use Redis's time (:mod:`mrcelery.worker.server_clock`). If a worker's own clock is set while it runs, the
worker keeps what it holds, takes nothing from others, and takes no new tasks until its clock is right.
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
from celery.worker.request import Request
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
"""kombu's own visibility timeout in seconds, used if an app sets none."""

SKEW_SECONDS = 2.0
"""How far a worker's clock may be from Redis's before the worker warns: some of a job's times are workers' clocks."""

SUPERVISE_SECONDS = 0.5
"""How often a worker checks whether any of its running tasks should be stopped."""

SILENCE_SECONDS = 10.0
"""How long Redis may take to answer, or to accept a connection, before the connection is given up."""

HEALTH_SECONDS = 5
"""How often an idle connection is probed; kombu requires whole seconds."""

LONGEST_SILENCE = 5.0
"""Longest interval between two presence records of a worker, in seconds; waiting clients read them."""


def transport_options(visibility_timeout: float) -> dict[str, Any]:
    """Return the broker's transport options for a visibility timeout in seconds.

    The tasks of a killed worker are delivered elsewhere after that time plus an eighth of it.
    """
    return {
        "visibility_timeout": visibility_timeout,
        "unacked_restore_interval": visibility_timeout / 8,  # kombu checks every 10 s
        "unacked_restore_throttle": 1,  # ... and then skips nine checks of ten
        # The lock of the worker that checks. If that worker dies, its lock blocks the others for this long. kombu's 300
        # s would be too long, and two workers checking at once do no harm.
        "unacked_mutex_expire": max(1.0, visibility_timeout / 4),
        # A cut network gives no sign. kombu would wait for an answer for as long as the kernel retransmits, which is a
        # quarter of an hour, and in any case longer than the cut; it would check only every 25 s whether an answer is
        # due.
        "socket_timeout": SILENCE_SECONDS,
        "socket_connect_timeout": SILENCE_SECONDS,
        "health_check_interval": HEALTH_SECONDS,
        # The kernel probes the connections too, even while this process is busy.
        "socket_keepalive": True,
        "socket_keepalive_options": _keepalive(),
    }


def _keepalive() -> dict[int, int]:
    """Return options that make the kernel probe a silent connection, and drop it, as soon as kombu would."""
    wanted = {
        "TCP_KEEPIDLE": HEALTH_SECONDS,
        "TCP_KEEPALIVE": HEALTH_SECONDS,  # its name on macOS
        "TCP_KEEPINTVL": 1,
        "TCP_KEEPCNT": int(SILENCE_SECONDS) - HEALTH_SECONDS,
        "TCP_USER_TIMEOUT": int(SILENCE_SECONDS * 1000),  # milliseconds until sent data must be acknowledged
    }
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


def in_flight(*groups: Iterable[Any]) -> set[Any]:
    """Return the requests in some of Celery's sets, which other threads may change meanwhile."""
    while True:
        try:
            return {request for group in groups for request in group}
        except RuntimeError:  # a set changed during the iteration
            continue


def scheduled(worker: Any) -> Iterable[Any]:
    """Return the requests that wait for their ETA. Celery before 5.7 has them only in the timer of its consumer."""
    if hasattr(state, "scheduled_requests"):
        return state.scheduled_requests  # type: ignore[no-any-return]
    timer = getattr(worker.consumer, "timer", None)  # there is no consumer at first
    waiting = [one.entry.args for one in timer.schedule.queue] if timer is not None else []
    return [args[0] for args in waiting if args and isinstance(args[0], Request)]


def held(worker: Any) -> set[Any]:
    """Return all requests whose messages a worker has taken but not acknowledged."""
    requests = in_flight(state.active_requests, state.reserved_requests, scheduled(worker))
    return {request for request in requests if not request.acknowledged}


def wrong_clock(skew: float, visibility_timeout: float) -> str:
    """Describe a clock that is ``skew`` seconds from Redis's, if that makes leases meaningless; else ""."""
    if abs(skew) < visibility_timeout / 2:
        return ""
    return (
        f"this machine's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} Redis's, too far for a "
        f"visibility timeout of {visibility_timeout:g} s: synchronize the clocks (NTP)"
    )


class Leases:
    """Renews the leases of a worker's messages, in a separate thread.

    The main thread may be reconnecting or, in a solo pool, running the task.
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
        # Not as soon as the worker is asked to stop: in a warm shutdown tasks keep running.
        self._stopped.set()

    def leave(self) -> None:
        """Withdraw this worker's presence; leases are still renewed while tasks run to their end."""
        with self._presence_lock:
            self._leaves = True
            with suppress(BrokerUnreachableError):
                self._store.drop_worker(self._name)

    def _record_presence(self) -> None:
        """Record that this worker is alive, unless it is leaving."""
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
                self._worker.exitcode = e.exit_code  # else Celery would exit as after a requested stop
                state.should_terminate = 1  # as a signal would: the held messages are requeued
                return
            except Exception:
                log.exception("renewing the leases failed; it will be retried")
        self._store.close()

    def _supervise(self) -> None:
        """End attempts that should not continue, excuse attempts, and renew presence and leases that are due."""
        requests = held(self._worker)
        hung = self._supervisor.supervise(requests) if requests else set()
        excuse(self._store)
        now = time.monotonic()
        if now >= self._presence_due or health.reason != self._recorded:
            self._record_presence()
            self._presence_due = now + self._every  # not set if that failed: it is retried until it succeeds
        if now >= self._due:
            self.renew(request.message.delivery_tag for request in requests - hung)
            self._due = now + self._visibility / 4

    def renew(self, tags: Iterable[str]) -> None:
        """Stamp messages with Redis's time, except those that this worker no longer holds."""
        before, sent = time.time(), time.monotonic()
        server, took = server_time(self._store), time.monotonic() - sent
        if stamps := [part for tag in tags for part in (server, tag)]:
            self._store.call(("ZADD", self._index, "XX", *stamps))
        # After the stamps: if Redis's own clock was set, older stamps would seem to have lapsed.
        server_clock.heard(server)
        self._judge_clock(before + took / 2 - server)

    def _judge_clock(self, skew: float) -> None:
        wrong = wrong_clock(skew, self._visibility)
        if wrong and not self._clock_checked:
            raise ConfigError(wrong)
        self._clock_checked = True
        # Set first what the probe reads: it may be testing the machine at this moment.
        before, health.clock = health.clock, wrong
        if wrong and not before and goes_back():
            for queue in self._present.queues:
                health.failed(queue, wrong, certain=False)
        if abs(skew) > SKEW_SECONDS and not self._clock_reported:
            self._clock_reported = True
            log.warning(
                "this machine's clock is %.1f s %s Redis's: synchronize the clocks, or tasks may run twice",
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
