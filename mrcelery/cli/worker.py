"""``mrcelery worker``."""

from __future__ import annotations

import os
from typing import Any

import click

from mrcelery.cli.common import Filled, epilog
from mrcelery.config import Config
from mrcelery.errors import ConfigError
from mrcelery.jobstore.connection import REDIS_SCHEMES, connect
from mrcelery.runners.base import storage_root


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog=epilog(
        "mrcelery worker --broker redis://host:6379/0",
        "mrcelery worker -c 8 -- --loglevel INFO --hostname batch@%h",
    ),
)
@click.option("--broker", type=Filled(), metavar="URL", help="Redis of the fleet.")
@click.option(
    "--result-backend",
    type=Filled(),
    metavar="URL",
    help="Redis that counts finished tasks and stores jobs  [the broker]",
)
@click.option(
    "--storage", type=Filled(), metavar="URI", help="Storage of jobs that Redis has lost; other jobs name their own."
)
@click.option("--queue", type=Filled(), metavar="NAME", help="Celery queue  [celery]")
@click.option("-c", "--concurrency", type=click.IntRange(1), metavar="N", help="Processes  [one per CPU]")
@click.option(
    "--liveness-file", type=Filled(), metavar="FILE", help="File to touch while the worker is healthy, for a probe."
)
@click.argument("celery_args", metavar="[-- CELERY ARGS...]", nargs=-1, type=click.UNPROCESSED)
def command(concurrency: int | None, celery_args: tuple[str, ...], **settings: Any) -> int:
    """Start a Celery worker for mrcelery's tasks, in this process.

    SIGTERM gives running tasks one second, then requeues them. A first SIGINT waits for them to end; a second one
    requeues them. Exit code 0 means that somebody asked it to stop, 2 a setting that cannot work, such as a clock that
    is wrong, 3 a broker that is gone. The worker waits for a broker that does not answer or refuses.
    """
    config = Config.load(settings)
    if not config.broker:
        raise ConfigError("a worker needs a broker: give --broker (or MRCELERY_BROKER, CELERY_BROKER_URL)")
    if config.broker.startswith(REDIS_SCHEMES):
        connect(config.broker).close()  # a malformed address is refused here; Celery's error would show the password
    if config.storage:
        os.environ["MRCELERY_STORAGE"] = storage_root(config)
    # the worker's own processes read their settings from the environment
    os.environ["MRCELERY_BROKER"] = config.broker
    os.environ["MRCELERY_QUEUE"] = config.queue
    if config.result_backend:
        os.environ["MRCELERY_RESULT_BACKEND"] = config.result_backend
    if config.liveness_file:
        os.environ["MRCELERY_LIVENESS_FILE"] = config.liveness_file

    # Read when Celery is imported: SIGTERM shall requeue running tasks, not wait for their end.
    os.environ.setdefault("REMAP_SIGTERM", "SIGQUIT")

    from mrcelery.celeryapp import configured_app  # noqa: PLC0415 - Celery takes half a second
    from mrcelery.worker.app import run_worker, worker_argv  # noqa: PLC0415 - Celery takes half a second

    return run_worker(configured_app(), worker_argv(concurrency=concurrency, queue=config.queue, extra=celery_args))
