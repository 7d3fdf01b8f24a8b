"""``mrcelery list``."""

from __future__ import annotations

from typing import Any

import click

from mrcelery.api import JobHandle, connect
from mrcelery.cli.common import (
    connection_options,
    epilog,
    json_option,
    print_json,
    print_table,
    show_seconds,
    show_time,
)
from mrcelery.config import Config
from mrcelery.errors import ConfigError, UsageError


@click.command(epilog=epilog("mrcelery list", "mrcelery list --state running --json"))
@click.option("-n", "--limit", type=click.IntRange(1), default=20, show_default=True, help="Look at so many jobs.")
@click.option("--state", help="Only jobs in this state.")
@connection_options
@json_option
def command(limit: int, state: str | None, as_json: bool, **settings: Any) -> None:
    """Jobs of the fleet, newest first."""
    runner = connect(Config.load(settings))
    if runner is None:
        raise ConfigError("list needs the fleet's broker: give --broker (or MRCELERY_BROKER, CELERY_BROKER_URL)")
    with JobHandle("", runner):
        found = []
        for job in runner.store.jobs(limit):
            try:
                status = JobHandle(job, None, store=runner.store).status()
            except UsageError:
                continue  # dropped since it was listed
            if state in (None, status.state):
                found.append(status)
    if as_json:
        print_json(found)
        return
    print_table(
        ("JOB", "STATE", "STARTED", "TOOK", "OWNER"),
        (
            (
                s.job,
                s.state,
                show_time(s.started or s.created),
                show_seconds(s.finished - s.started) if s.finished and s.started else "-",
                s.owner or "-",
            )
            for s in found
        ),
    )
