"""``mrcelery status``."""

from __future__ import annotations

from typing import Any

import click

from mrcelery.api import attach
from mrcelery.cli import where
from mrcelery.cli.common import JOB, connection_options, epilog, json_option, print_json, show_seconds, show_time


@click.command(epilog=epilog("mrcelery status wordcount-20261120-201530-a1b2c3"))
@JOB
@connection_options
@json_option
def command(job: str, as_json: bool, **settings: Any) -> None:
    """How JOB stands: its state, and the tasks done of each stage."""
    with attach(job, **settings) as handle:
        status, failure = handle.status(), handle.failure()
        requests = handle.requests() if as_json else {}
    if as_json:
        print_json({"status": status, "failure": failure, "requests": requests})
        return
    rows = [("job", status.job), ("name", status.name), ("owner", status.owner), ("state", status.state)]
    rows.append(("started", show_time(status.started or status.created)))
    if status.finished:
        rows.append(("took", show_seconds(status.finished - (status.started or status.created))))
    rows += [(f"step {s.step} {s.kind}", f"{s.done:,} of {s.total:,} tasks") for s in status.stages]
    rows += [("storage", status.storage), ("output", status.output), ("says", status.message)]
    for name, value in rows:
        if value:
            click.echo(f"{name:<14} {value}")
    if failure is not None:
        for line in where(failure):
            click.echo(f"{'at':<14} {line}")
