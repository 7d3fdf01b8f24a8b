"""mrcelery's Celery app, put together: tasks, Flower pages and metrics."""

from __future__ import annotations

import sys

from celery import Celery

from mrcelery.config import Config
from mrcelery.jobstore.connection import store_url
from mrcelery.worker.app import add_tasks, make_app
from mrcelery.worker.host_app import check_app


def configured_app() -> Celery:
    """Make the app of this environment's configuration, which ``celery -A mrcelery worker`` runs."""
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
    """Add mrcelery's tasks to an app that exists; its workers can then run jobs.

    The app's broker must be Redis, and so must its result backend (chords are counted there), and it accepts JSON. The
    tasks set acks_late and the rest for themselves, and the app's limits of time and rate, its annotations and its
    serializer do not reach them; the app's own settings stay as they are. Its workers
    renew the leases of all messages they hold, so that a short visibility timeout is safe; the app sets it::

        app.conf.broker_transport_options = mrcelery.transport_options(15)  # seconds
        app.conf.worker_soft_shutdown_timeout = 1  # and REMAP_SIGTERM=SIGQUIT in the workers' environment

    With Celery 5.7 a worker ends when Redis restarts while it runs such tasks; :func:`mrcelery.use_transports`, called
    where the app is made, cures that. Returns the app. Raises
    :class:`mrcelery.errors.ConfigError` for settings with which no job can run; what is set later is checked where a
    worker starts.
    """
    check_app(app)
    add_tasks(app)
    extend_flower(app)
    return app
