"""``mrcelery counters``."""

from __future__ import annotations

from typing import Any

import click

from mrcelery.cli.common import JOB, connection_options, epilog, json_option, print_counters, print_json
from mrcelery.client.api import attach


@click.command(epilog=epilog("mrcelery counters JOB", "mrcelery counters JOB --json | jq .words"))
@JOB
@connection_options
@json_option
def command(job: str, as_json: bool, **settings: Any) -> None:
    """Print the counters of JOB by group: so far, while it runs. Only committed attempts count.

    The group "S3 requests" counts requests of the whole job as they are billed (HEAD as GET, a copy as PUT), and
    repeated ones as RETRY.
    """
    with attach(job, **settings) as handle:
        counters = handle.counters()
        if requests := handle.requests():
            counters = {**counters, "S3 requests": requests}
    if as_json:
        print_json(counters)
        return
    print_counters(counters)
