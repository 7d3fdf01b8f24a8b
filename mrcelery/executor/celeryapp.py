"""mrcelery's own Celery app, and what it takes to add mrcelery to another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from celery import Celery
from kombu import transport as kombu_transport

from mrcelery.config import Config
from mrcelery.executor.leases import SILENCE_SECONDS, LeaseStep, transport_options
from mrcelery.executor.reconciler import ReconcilerStep
from mrcelery.executor.tasks import register

TRANSPORTS = {
    "redis": "mrcelery.executor.transport:Transport",
    "rediss": "mrcelery.executor.transport:Transport",
    "sentinel": "mrcelery.executor.transport:SentinelTransport",
}
"""What this process's kombu uses for addresses of a Redis broker, once :func:`make_app` was called."""

POOL_WATCH = "mrcelery.executor.lost:PoolWatch"

LIVENESS = "mrcelery.executor.liveness:LivenessStep"

SETTINGS: dict[str, Any] = {
    "accept_content": ["json"],  # nothing from the broker is ever unpickled
    "task_serializer": "json",
    "result_serializer": "json",
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "task_ignore_result": True,
    "worker_prefetch_multiplier": 1,  # a worker that hoards tasks keeps others idle
    "broker_connection_retry_on_startup": True,
    "worker_lost_wait": 0.5,  # seconds until a killed process's task is delivered again; Celery waits ten
    "worker_cancel_long_running_tasks_on_connection_loss": False,  # True lost tasks where Redis restarted
    "worker_redirect_stdouts": False,  # what user code prints is kept per attempt
    "worker_send_task_events": False,  # half the time of a small task; `mrcelery worker -- -E` turns them on
    "result_expires": 24 * 3600,
    "redis_socket_timeout": SILENCE_SECONDS,  # Celery waits two minutes for the barrier's counters,
    "redis_socket_connect_timeout": SILENCE_SECONDS,  # and for ever for a connection
    "worker_soft_shutdown_timeout": 1.0,  # told to stop: so long for tasks to end, then they are requeued
}


def make_app(broker: str, result_backend: str | None = None) -> Celery:
    """A Celery app for a broker, with mrcelery's tasks and settings that lose nothing.

    From here on all of this process's connections to a Redis broker are made by :mod:`mrcelery.executor.transport`.
    Raises :class:`ConfigError` for a setting that cannot be.
    """
    use_transports()
    backend = result_backend or broker
    app = Celery("mrcelery", broker=_for_celery(broker), backend=_for_celery(backend), set_as_current=False)
    app.conf.update(SETTINGS)
    app.conf.broker_transport_options = {
        **transport_options(Config.load({}).visibility_timeout),
        **_sentinel_options(broker),
    }
    app.conf.result_backend_transport_options = _sentinel_options(backend)
    add_tasks(app)
    return app


def use_transports() -> None:
    """Have kombu use our Redis transports in this process; to be called before anything is connected."""
    kombu_transport.TRANSPORT_ALIASES.update(TRANSPORTS)
    for name in TRANSPORTS:
        kombu_transport._transport_cache.pop(name, None)


def add_tasks(app: Celery) -> None:
    """The tasks, and what a worker that runs them does beside."""
    register(app)
    app.steps["worker"].update((LeaseStep, ReconcilerStep, POOL_WATCH, LIVENESS))


def _sentinel_options(url: str) -> dict[str, str]:
    """What kombu and Celery want as an option and others in the address: the name of Sentinel's master."""
    if not url.startswith("sentinel://"):
        return {}
    found = parse_qs(urlsplit(url.split(";")[-1]).query).get("master_name", ["mymaster"])
    return {"master_name": found[0]}


def _for_celery(url: str) -> str:
    """An address as Celery takes it."""
    if url.startswith("sentinel://"):
        return url.partition("?")[0]  # the master's name is an option there
    if not url.startswith("rediss://") or "ssl_cert_reqs=" in url:
        return url
    # Its result backend refuses an address that does not say how: as redis-py does by default.
    return f"{url}{'&' if '?' in url else '?'}ssl_cert_reqs=required"


def configured_app() -> Celery:
    """The app of this environment's configuration: what ``celery -A mrcelery worker`` runs."""
    config = Config.load({})
    return make_app(config.broker or "redis://localhost:6379/0", config.result_backend or None)


def install(app: Celery) -> Celery:
    """Add mrcelery's tasks to an app that exists; its workers can then run jobs.

    The app's broker must be Redis, and so must its result backend (chords are counted there). The
    tasks set acks_late and the rest for themselves; the app's own settings stay as they are. Its workers
    renew the leases of all messages they hold, so that a short visibility timeout is safe; the app sets it::

        from mrcelery.executor.leases import transport_options

        app.conf.broker_transport_options = transport_options(15)  # seconds
        app.conf.worker_soft_shutdown_timeout = 1  # and REMAP_SIGTERM=SIGQUIT in the workers' environment

    With Celery 5.7 a worker ends when Redis restarts while it runs such tasks; :func:`use_transports`, called
    where the app is made, cures that. Returns the app. Raises
    :class:`mrcelery.errors.ConfigError` where there is no Redis.
    """
    from mrcelery.executor.tasks import store_url

    store_url(app)
    add_tasks(app)
    return app


def worker_argv(
    *, concurrency: int | None = None, queue: str = "celery", loglevel: str = "WARNING", extra: Sequence[str] = ()
) -> list[str]:
    """Arguments of ``celery worker`` for a worker that starts fast and says little.

    Gossip, mingle and heartbeats cost more than a second at the start and are of use only where
    something listens to events: with ``-E`` among ``extra`` they stay on.
    """
    argv = ["worker", "--queues", queue, "--loglevel", loglevel]
    if concurrency:
        argv += ["--concurrency", str(concurrency)]
    if "-E" not in extra and "--task-events" not in extra:
        argv += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    return [*argv, *extra]
