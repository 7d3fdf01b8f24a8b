"""mrcelery's own Celery app, and how mrcelery is added to another one."""

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
"""What this process's kombu uses for addresses of a Redis broker, once :func:`make_app` was called."""

OUR_CODES = (UsageError.exit_code, UnreachableError.exit_code)
"""What a worker of ours may set as its own exit code; Celery, for which a stop by SIGINT is a failure, uses neither."""

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
    "worker_prefetch_multiplier": 1,  # a worker that hoards tasks keeps others idle
    "broker_connection_retry_on_startup": True,
    "worker_lost_wait": 0.5,  # seconds until a killed process's task is delivered again; Celery waits ten
    "worker_cancel_long_running_tasks_on_connection_loss": False,  # True lost tasks where Redis restarted
    "worker_redirect_stdouts": False,  # what user code prints is kept per attempt
    "worker_send_task_events": False,  # half the time of a small task; Flower turns them on where it runs
    "result_expires": 24 * 3600,
    "redis_socket_timeout": SILENCE_SECONDS,  # Celery waits two minutes for the barrier's counters,
    "redis_socket_connect_timeout": SILENCE_SECONDS,  # and for ever for a connection
}


def make_app(broker: str, result_backend: str | None = None) -> Celery:
    """Make a Celery app for a broker, with mrcelery's tasks and settings that lose nothing.

    From here on all of this process's connections to a Redis broker are made by :mod:`mrcelery.worker.transport`.
    Raises :class:`ConfigError` for a setting that cannot be.
    """
    use_transports()
    backend = result_backend or broker
    app = Celery("mrcelery", broker=_for_celery(broker), backend=_for_celery(backend), set_as_current=False)
    app.conf.update(SETTINGS)
    config = Config.load({})
    # Told to stop: so long for tasks to end, then they are requeued.
    app.conf.worker_soft_shutdown_timeout = config.soft_shutdown_timeout
    app.conf.broker_transport_options = {
        **transport_options(config.visibility_timeout),
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
    """Add the tasks, and what a worker that runs them does besides."""
    register(app)
    app.steps["worker"].update((LeaseStep, ReconcilerStep, POOL_WATCH, LIVENESS))
    app.steps["consumer"].update((PROGRESS, BROKER_WAIT, HEALTH))


def _sentinel_options(url: str) -> dict[str, Any]:
    """Return a Sentinel address's options as kombu and Celery take them."""
    return sentinel_options(url) if url.startswith("sentinel://") else {}


def _for_celery(url: str) -> str:
    """Convert an address to the form that Celery takes."""
    if url.startswith("sentinel://"):
        return url.partition("?")[0]  # what stands there are options of theirs
    if not url.startswith("rediss://") or "ssl_cert_reqs=" in url:
        return url
    # Its result backend refuses an address that does not say how: as redis-py does by default.
    return f"{url}{'&' if '?' in url else '?'}ssl_cert_reqs=required"


def run_worker(app: Celery, argv: Sequence[str]) -> int:
    """Run a worker to its end and return its exit code: 0 only if somebody asked it to stop, 3 for a lost broker."""
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
        return 0  # by a signal, or by a command of Celery's, whose code is a sentence
    return _code_of_failure(app, code)


def _code_of_failure(app: Celery, code: int) -> int:
    """Return 3 in place of Celery's 1 where the broker does not answer."""
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

    Gossip and mingle cost more than a second at the start and are of no use to us; with ``-E`` among ``extra`` they
    stay on. Heartbeats stay: a worker without them would not send events of its tasks when Flower asks for them.
    """
    argv = ["worker", "--queues", queue, "--loglevel", loglevel]
    if concurrency:
        argv += ["--concurrency", str(concurrency)]
    if "-E" not in extra and "--task-events" not in extra:
        argv += ["--without-gossip", "--without-mingle"]
    return [*argv, *extra]
