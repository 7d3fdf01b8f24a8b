"""mrcelery's own Celery app, and how mrcelery is added to another app."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from celery import Celery
from celery.signals import worker_init
from celery.worker import state
from kombu import transport as kombu_transport

from mrcelery.config import Config
from mrcelery.errors import BrokerUnreachableError, UnreachableError, UsageError
from mrcelery.jobstore.connection import connect, sentinel_options, store_url
from mrcelery.worker.leases import SILENCE_SECONDS, LeaseStep, transport_options
from mrcelery.worker.reconciler import ReconcilerStep
from mrcelery.worker.tasks import register

TRANSPORTS = {
    "redis": "mrcelery.worker.transport:Transport",
    "rediss": "mrcelery.worker.transport:Transport",
    "sentinel": "mrcelery.worker.transport:SentinelTransport",
}
"""The transports that this process's kombu uses for Redis brokers once :func:`make_app` was called."""

OUR_CODES = (UsageError.exit_code, UnreachableError.exit_code)
"""Exit codes that our worker may set itself. Celery, which treats a stop by SIGINT as a failure, uses neither."""

POOL_WATCH = "mrcelery.worker.lost:PoolWatch"
BROKER_WAIT = "mrcelery.worker.broker_wait:BrokerWait"
HEALTH = "mrcelery.worker.health:HealthStep"
PROGRESS = "mrcelery.worker.flower_events:ProgressStep"

LIVENESS = "mrcelery.worker.liveness:LivenessStep"

SETTINGS: dict[str, Any] = {
    "accept_content": ["json"],  # nothing from the broker is ever unpickled
    "task_serializer": "json",
    "result_serializer": "json",
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "task_ignore_result": True,
    "worker_prefetch_multiplier": 1,  # a worker that prefetches tasks keeps others idle
    "broker_connection_retry_on_startup": True,
    "worker_lost_wait": 0.5,  # seconds until a killed process's task is redelivered; Celery waits ten
    "worker_cancel_long_running_tasks_on_connection_loss": False,  # True lost tasks when Redis restarted
    "worker_redirect_stdouts": False,  # what user code prints is kept per attempt
    "worker_send_task_events": False,  # they cost half the time of a small task; Flower turns them on
    "result_expires": 24 * 3600,
    "redis_socket_timeout": SILENCE_SECONDS,  # Celery waits two minutes for the barrier's counters,
    "redis_socket_connect_timeout": SILENCE_SECONDS,  # and forever for a connection
}


def make_app(broker: str, result_backend: str | None = None) -> Celery:
    """Make a Celery app for a broker, with mrcelery's tasks and settings that lose nothing.

    From then on, :mod:`mrcelery.worker.transport` makes all of this process's connections to a Redis broker. Raises
    :class:`ConfigError` for an invalid setting.
    """
    use_transports()
    backend = result_backend or broker
    app = Celery("mrcelery", broker=_for_celery(broker), backend=_for_celery(backend), set_as_current=False)
    app.conf.update(SETTINGS)
    config = Config.load({})
    # On shutdown, tasks have this long to end before they are requeued.
    app.conf.worker_soft_shutdown_timeout = config.soft_shutdown_timeout
    app.conf.broker_transport_options = {
        **transport_options(config.visibility_timeout),
        **_sentinel_options(broker),
    }
    app.conf.result_backend_transport_options = _sentinel_options(backend)
    add_tasks(app)
    return app


def use_transports() -> None:
    """Have kombu use our Redis transports in this process; call this before anything connects."""
    kombu_transport.TRANSPORT_ALIASES.update(TRANSPORTS)
    for name in TRANSPORTS:
        kombu_transport._transport_cache.pop(name, None)


def add_tasks(app: Celery) -> None:
    """Add the tasks, and the steps that a worker needs to run them."""
    register(app)
    app.steps["worker"].update((LeaseStep, ReconcilerStep, POOL_WATCH, LIVENESS))
    app.steps["consumer"].update((PROGRESS, BROKER_WAIT, HEALTH))


def _sentinel_options(url: str) -> dict[str, Any]:
    """Return a Sentinel address's options in the form that kombu and Celery take."""
    return sentinel_options(url) if url.startswith("sentinel://") else {}


def _for_celery(url: str) -> str:
    """Convert an address to the form that Celery takes."""
    if url.startswith("sentinel://"):
        return url.partition("?")[0]  # the query holds only options for Sentinel
    if not url.startswith("rediss://") or "ssl_cert_reqs=" in url:
        return url
    # Celery's result backend rejects an address that does not specify this; use redis-py's default.
    return f"{url}{'&' if '?' in url else '?'}ssl_cert_reqs=required"


def run_worker(app: Celery, argv: Sequence[str]) -> int:
    """Run a worker to its end and return its exit code: 0 only if it was asked to stop, 3 if it lost the broker."""
    started: list[Any] = []

    def note(sender: Any, **_: Any) -> None:
        started.append(sender)

    worker_init.connect(note, weak=False)
    app.worker_main(argv)
    if not started:
        return 0  # it was detached
    code = started[-1].exitcode
    if code in OUR_CODES:
        return int(code)
    if not code or isinstance(code, str) or (state.should_stop, state.should_terminate) != (None, None):
        return 0  # a signal, or a remote-control command of Celery, whose exit code is a sentence
    return _code_of_failure(app, code)


def _code_of_failure(app: Celery, code: int) -> int:
    """Return 3 in place of Celery's 1 if the broker does not answer."""
    if code == 1:
        try:
            with closing(connect(store_url(app))) as connection:
                connection.call(("PING",))
        except BrokerUnreachableError as e:
            return e.exit_code
    return code


def worker_argv(
    *, concurrency: int | None = None, queue: str = "celery", loglevel: str = "WARNING", extra: Sequence[str] = ()
) -> list[str]:
    """Return arguments of ``celery worker`` for a worker that starts fast and logs little.

    Gossip and mingle cost more than a second at startup and we do not need them; with ``-E`` among ``extra`` they stay
    on. Heartbeats stay on: without them a worker would not send task events when Flower asks for them.
    """
    argv = ["worker", "--queues", queue, "--loglevel", loglevel]
    if concurrency:
        argv += ["--concurrency", str(concurrency)]
    if "-E" not in extra and "--task-events" not in extra:
        argv += ["--without-gossip", "--without-mingle"]
    return [*argv, *extra]
