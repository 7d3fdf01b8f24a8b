"""``mrcelery retry``."""

from __future__ import annotations

from typing import Any

import click

from mrcelery.api import attach
from mrcelery.cli import picture
from mrcelery.cli.common import JOB, connection_options, epilog, events_option, print_json
from mrcelery.cli.progress import Display, see_through


@click.command(
    epilog=epilog("mrcelery retry JOB", "mrcelery retry JOB --detach")
    + "\n\nExit code: 0 succeeded, 1 failed again, 2 the job runs or has succeeded, 5 cancelled.",
)
@JOB
@click.option("--detach", is_flag=True, help="Print the job id and leave; the fleet goes on.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@connection_options
@events_option
def command(job: str, detach: bool, quiet: bool, as_json: bool, **settings: Any) -> int:
    """Have a JOB that failed or was cancelled go on from what it has committed, and wait for its end.

    Its code, inputs and options are those it was submitted with; attempts are counted anew. The results go where
    they were to go: print them with `mrcelery cat JOB` where it has no OUTPUT.
    """
    with attach(job, **settings) as handle, Display(quiet, as_json and not detach) as display:
        handle.retry()
        if not detach:
            return see_through(handle, display, picture.after_fleet)
        if as_json:
            print_json(handle.status())
        else:
            click.echo(job)
    return 0
