"""mrcelery's complete Celery app: tasks, Flower pages and metrics."""

from __future__ import annotations

import sys

from celery import Celery

from mrcelery.config import Config
from mrcelery.jobstore.connection import store_url
from mrcelery.worker.app import add_tasks, make_app
from mrcelery.worker.host_app import check_app


def configured_app() -> Celery:
    """Make the app for this environment's configuration, run by ``celery -A mrcelery worker``."""
    config = Config.load({})
    app = make_app(config.broker or "redis://localhost:6379/0", config.result_backend or None)
    extend_flower(app)
    return app


def extend_flower(app: Celery) -> None:
    """Add our pages and metrics to Flower, if this process is about to start it: ``celery ... flower``."""
    if "flower" in sys.argv[1:] and "flower.command" in sys.modules:
        from mrcelery.web.flower import install  # noqa: PLC0415 - Flower is an extra
        from mrcelery.web.metrics import register as register_metrics  # noqa: PLC0415 - Flower is an extra

        install()
        register_metrics(store_url(app), Config.load({}).queue)


def install(app: Celery) -> Celery:
    """Add mrcelery's tasks to an existing app; its workers can then run jobs.

    The app's broker must be Redis, and so must its result backend (chords are counted there), and it must accept JSON.
    The tasks set acks_late and related options themselves, and the app's time and rate limits, its annotations and its
    serializer do not affect them; the app's own settings are not changed. Its workers renew the leases of all messages
    they hold, so a short visibility timeout is safe; the app sets it::

        app.conf.broker_transport_options = mrcelery.transport_options(15)  # seconds
        app.conf.worker_soft_shutdown_timeout = 1  # and REMAP_SIGTERM=SIGQUIT in the workers' environment

    With Celery 5.7 a worker ends when Redis restarts while it runs such tasks; to prevent that, call
    :func:`mrcelery.use_transports` where the app is made. Returns the app. Raises :class:`mrcelery.errors.ConfigError`
    for settings with which no job can run; later changes are checked when a worker starts.
    """
    check_app(app)
    add_tasks(app)
    extend_flower(app)
    return app
