"""mrcelery's own Celery app, and what it takes to add mrcelery to another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import Celery

from mrcelery.config import Config
from mrcelery.executor.tasks import register

POOL_WATCH = "mrcelery.executor.lost:PoolWatch"

VISIBILITY_SECONDS = 3600
"""How long Redis waits before it hands a task of a silent worker to another; longer than any task."""

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
    "broker_transport_options": {"visibility_timeout": VISIBILITY_SECONDS},
    "result_backend_transport_options": {},
}


def make_app(broker: str, result_backend: str | None = None) -> Celery:
    """A Celery app for a broker, with mrcelery's tasks and settings that lose nothing."""
    backend = _checking_certificates(result_backend or broker)
    app = Celery("mrcelery", broker=_checking_certificates(broker), backend=backend, set_as_current=False)
    app.conf.update(SETTINGS)
    register(app)
    app.steps["worker"].add(POOL_WATCH)
    return app


def _checking_certificates(url: str) -> str:
    """Celery's result backend refuses a ``rediss://`` address that does not say how: as redis-py does by default."""
    if not url.startswith("rediss://") or "ssl_cert_reqs=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}ssl_cert_reqs=required"


def configured_app() -> Celery:
    """The app of this environment's configuration: what ``celery -A mrcelery worker`` runs."""
    config = Config.load({})
    return make_app(config.broker or "redis://localhost:6379/0", config.result_backend or None)


def install(app: Celery) -> Celery:
    """Add mrcelery's tasks to an app that exists; its workers can then run jobs.

    The app's broker must be Redis, and so must its result backend (chords are counted there). The
    tasks set acks_late and the rest for themselves; the app's own settings stay as they are. Returns
    the app. Raises :class:`mrcelery.errors.ConfigError` where there is no Redis.
    """
    from mrcelery.executor.tasks import store_url

    store_url(app)
    register(app)
    app.steps["worker"].add(POOL_WATCH)
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
