"""``mrcelery flower``."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Any

import click

from mrcelery.cli.common import Filled, epilog
from mrcelery.config import Config
from mrcelery.errors import ConfigError, UsageError


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog=epilog("mrcelery flower --broker redis://host:6379/0", "mrcelery flower -- --port=5566"),
)
@click.option("--broker", type=Filled(), metavar="URL", help="Redis of the fleet.")
@click.argument("flower_args", metavar="[-- FLOWER ARGS...]", nargs=-1, type=click.UNPROCESSED)
def command(flower_args: tuple[str, ...], **settings: Any) -> None:
    """Start Flower on the fleet; this process becomes it."""
    if find_spec("flower") is None:
        raise UsageError("flower is not installed: run pip install 'mrcelery[flower]'")
    config = Config.load(settings)
    if not config.broker:
        raise ConfigError("flower needs a broker: give --broker (or MRCELERY_BROKER, CELERY_BROKER_URL)")
    from mrcelery.jobstore.connection import store_url  # noqa: PLC0415 - Celery takes half a second
    from mrcelery.worker.app import make_app  # noqa: PLC0415 - Celery takes half a second

    store_url(make_app(config.broker, config.result_backend or None))  # a wrong address fails here, with our message
    os.environ["MRCELERY_BROKER"] = config.broker
    os.execv(sys.executable, [sys.executable, "-P", "-m", "celery", "-A", "mrcelery", "flower", *flower_args])
