"""``mrcelery retry``."""

from __future__ import annotations

from typing import Any

import click

from mrcelery.cli import picture
from mrcelery.cli.common import JOB, connection_options, epilog, events_option
from mrcelery.cli.progress import Display, print_detached, see_through
from mrcelery.client.api import attach


@click.command(
    epilog=epilog("mrcelery retry JOB", "mrcelery retry JOB --detach")
    + "\n\nExit code: 0 succeeded, 1 failed again, 2 the job runs or has succeeded, 5 cancelled.",
)
@JOB
@click.option("--detach", is_flag=True, help="Print the job id and exit; the fleet runs the job.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@connection_options
@events_option
def command(job: str, detach: bool, quiet: bool, as_json: bool, **settings: Any) -> int:
    """Resume a failed JOB from its committed tasks, or restart a cancelled one, and wait for its end.

    Code, inputs and options are those it was submitted with; attempts are counted from zero again. The results go to
    its OUTPUT; if it has none, print them with `mrcelery cat JOB`.
    """
    with attach(job, **settings) as handle, Display(quiet, as_json and not detach) as display:
        handle.retry()
        if not detach:
            return see_through(handle, display, picture.after_fleet)
        print_detached(handle, as_json=as_json)
    return 0
