"""``mrcelery wait``."""

from __future__ import annotations

from typing import Any

import click

from mrcelery.cli import picture
from mrcelery.cli.common import JOB, Age, connection_options, epilog, events_option
from mrcelery.cli.progress import Display, see_through
from mrcelery.client.api import attach


@click.command(
    epilog=epilog("mrcelery wait JOB", "mrcelery wait JOB --timeout 10m || echo $?")
    + "\n\nExit code: 0 succeeded, 1 failed, 4 the time ran out, 5 cancelled.",
)
@JOB
@click.option("--timeout", type=Age(), metavar="TIME", help="Give up after 90s, 10m, 2h; the job still runs.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@connection_options
@events_option
def command(job: str, timeout: float | None, quiet: bool, as_json: bool, **settings: Any) -> int:
    """Wait until JOB ends."""
    with attach(job, **settings) as handle, Display(quiet, as_json) as display:
        return see_through(handle, display, picture.after_fleet, timeout)
