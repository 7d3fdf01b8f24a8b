"""``mrcelery list``."""

from __future__ import annotations

import time
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Any

import click

from mrcelery.cli.common import (
    Age,
    connection_options,
    epilog,
    json_option,
    print_json,
    print_table,
    show_seconds,
    show_time,
)
from mrcelery.cli.terminal import say
from mrcelery.client.retrying import caught_up
from mrcelery.config import Config
from mrcelery.errors import StorageUnreachableError
from mrcelery.reporting import history
from mrcelery.reporting.status import JobStatus
from mrcelery.runners.base import connect, storage_root
from mrcelery.schema.states import STATES, UNKNOWN, typed
from mrcelery.storage import open_storage

if TYPE_CHECKING:
    _Choice = click.Choice[str]
else:
    _Choice = click.Choice  # takes no parameter in older versions of click


class _State(_Choice):
    """A state of a job, or another word for it that :data:`mrcelery.schema.states.ALIASES` knows."""

    def __init__(self) -> None:
        super().__init__((*STATES, UNKNOWN))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(typed(value), param, ctx)


@click.command(
    epilog=epilog(
        "mrcelery list",
        "mrcelery list --state running --state queued --json",
        "mrcelery list --name 'Word*' --since 30d --storage s3://bucket/prefix",
    )
)
@click.option(
    "-n", "--limit", type=click.IntRange(1), default=20, show_default=True, help="List at most this many jobs."
)
@click.option("--state", "states", type=_State(), multiple=True, help="Only these; may be repeated.")
@click.option("--name", default="", metavar="GLOB", help="Only jobs with a matching name: 'Word*'.")
@click.option("--owner", default="", metavar="NAME", help="Only jobs that this user submitted.")
@click.option("--since", type=Age(), metavar="AGE", help="Only jobs submitted within this time: 12h, 7d.")
@click.option("--until", type=Age(), metavar="AGE", help="Only jobs submitted longer ago: 1d.")
@connection_options
@json_option
def command(
    limit: int,
    states: tuple[str, ...],
    name: str,
    owner: str,
    since: float | None,
    until: float | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """List jobs, newest first: those that the fleet knows, and those that only storage still has.

    In storage, the newest 1,000 jobs are searched. The state is unknown if a job has data there, but neither storage
    nor the fleet records how it ended.
    """
    config = Config.load(settings)
    runner = connect(config)

    now = time.time()
    wanted = history.JobFilter(
        states=frozenset(states),
        name=name,
        owner=owner,
        since=0.0 if since is None else now - since,
        until=inf if until is None else now - until,
    )
    store = runner.store if runner is not None else None
    try:
        storage = open_storage(storage_root(config)) if config.storage else None
        try:
            found = list(islice(history.jobs(store, storage, wanted, caught_up), limit))
        except StorageUnreachableError as e:
            if store is None:
                raise
            say(f"mrcelery: only jobs that the fleet knows are shown: {e}", err=True)
            found = list(islice(history.jobs(store, None, wanted), limit))
    finally:
        if runner is not None:
            runner.close()
    if as_json:
        print_json(found)
        return
    print_table(("JOB", "STATE", "NAME", "SUBMITTED", "TOOK", "OWNER"), map(_row, found))


def _row(status: JobStatus) -> tuple[str, ...]:
    took = show_seconds(status.finished - status.started) if status.finished and status.started else "-"
    return status.job, status.state, status.name or "-", show_time(status.created), took, status.owner or "-"
