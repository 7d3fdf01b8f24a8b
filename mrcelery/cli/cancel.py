"""``mrcelery cancel``."""

from __future__ import annotations

from typing import Any

import click

from mrcelery.cli.common import Filled, connection_options, epilog, json_option, print_json
from mrcelery.cli.terminal import say
from mrcelery.client.api import attach


@click.command(epilog=epilog("mrcelery cancel JOB"))
@click.argument("jobs", type=Filled(), metavar="JOB...", nargs=-1, required=True)
@connection_options
@json_option
def command(jobs: tuple[str, ...], as_json: bool, **settings: Any) -> None:
    """Cancel JOBs: running tasks stop within 2 s, no others start, and the jobs' data is deleted.

    A job that has ended is not changed.
    """
    found = {}
    for job in jobs:
        with attach(job, **settings) as handle:
            cancelled = handle.cancel()
            found[job] = "cancelled" if cancelled else handle.status().state
        if not as_json:
            say(f"{job} {'cancelled' if cancelled else f'had ended already: {found[job]}'}")
    if as_json:
        print_json(found)
