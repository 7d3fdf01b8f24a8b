"""``mrcelery metrics``."""

from __future__ import annotations

import signal
import sys
from importlib.util import find_spec
from typing import Any

import click

from mrcelery.cli.common import Filled, epilog
from mrcelery.config import Config
from mrcelery.errors import ConfigError, UsageError


@click.command(epilog=epilog("mrcelery metrics --port 9540", "mrcelery metrics --once --queue batch --queue gpu"))
@click.option("--broker", type=Filled(), metavar="URL", help="Redis of the fleet.")
@click.option("--port", type=click.IntRange(0, 65535), default=9540, show_default=True, help="0 picks a free one.")
@click.option("--address", default="0.0.0.0", show_default=True, help="Listen on this address only.")
@click.option(
    "--queue", "queues", multiple=True, metavar="NAME", help="Report this queue even if unused; may be repeated."
)
@click.option("--once", is_flag=True, help="Print the metrics once and exit.")
def command(port: int, address: str, queues: tuple[str, ...], once: bool, **settings: Any) -> int:
    """Serve the fleet's metrics to Prometheus at /metrics until stopped.

    Flower, if started by `mrcelery flower`, serves the same at its own /metrics.
    """
    if find_spec("prometheus_client") is None:
        raise UsageError("prometheus_client is not installed: run pip install 'mrcelery[metrics]'")
    config = Config.load(settings)
    if not config.broker:
        raise ConfigError("metrics needs a broker: give --broker (or MRCELERY_BROKER, CELERY_BROKER_URL)")
    from prometheus_client import CollectorRegistry, generate_latest, start_http_server  # noqa: PLC0415 - prometheus-client is an extra

    from mrcelery.web.metrics import register  # noqa: PLC0415 - prometheus-client is an extra

    registry = CollectorRegistry()
    register(config.broker, *(queues or (config.queue,)), registry=registry)
    if once:
        click.echo(generate_latest(registry).decode(), nl=False)
        return 0
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as e:
        raise UsageError(f"cannot listen on {address}:{port} ({e.strerror or e}): give another --port") from None
    click.echo(f"metrics at http://{address}:{server.server_port}/metrics", err=True)
    # A SIGTERM is its usual end, so not an error.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        thread.join()
    finally:
        server.shutdown()
        server.server_close()
    return 0
