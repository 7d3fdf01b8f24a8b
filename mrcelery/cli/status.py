"""``mrcelery status``."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from mrcelery.cli import picture
from mrcelery.cli.common import JOB, connection_options, epilog, json_option, print_json, show_time
from mrcelery.cli.errors import where
from mrcelery.client.api import attach
from mrcelery.errors import MRCeleryError, UsageError
from mrcelery.reporting.rates import Speed
from mrcelery.schema.states import FINAL

if TYPE_CHECKING:
    from mrcelery.client.api import JobHandle
    from mrcelery.reporting.overview import Overview


@click.command(
    epilog=epilog("mrcelery status wordcount-20261120-201530-a1b2c3", "mrcelery status JOB --json | jq .overview")
)
@JOB
@connection_options
@json_option
def command(job: str, as_json: bool, **settings: Any) -> None:
    """Show the state of JOB: its stages, the slowest tasks and warnings, and why it failed if it did.

    --json prints status, failure, requests and overview, which lists the attempts.
    """
    with attach(job, **settings) as handle:
        if as_json:
            print_json(_record(handle))
            return
        found = handle.glance()
        lines = _ended(handle, found) if found.state in FINAL else _running(handle, found)
    picture.echo(lines)


def _record(handle: JobHandle) -> dict[str, Any]:
    found = None
    with suppress(UsageError):  # of an earlier version
        found = handle.overview()
    return {
        "status": handle.status(),
        "failure": handle.failure(),
        "requests": handle.requests(),
        "overview": found,
    }


def _running(handle: JobHandle, found: Overview) -> list[picture.Line]:
    signs, idle = picture.signs(sys.stdout), not handle.has_workers()
    width, height = _size()
    lines = picture.running(found, Speed(), width, height, trouble=picture.nobody(found) if idle else "", signs=signs)
    return [*lines, *_more(found), *picture.rows("next", picture.after_fleet(found, no_workers=idle), "bold")]


def _ended(handle: JobHandle, found: Overview) -> list[picture.Line]:
    report = None
    with suppress(MRCeleryError):
        report = handle.report() if found.state == "succeeded" else None
    lines = picture.summary(found, report, signs=picture.signs(sys.stdout))
    if found.failure is not None:
        lines += picture.rows("why", [*found.failure.message.split("\n"), *where(found.failure)], "red")
        lines += picture.rows("", found.failure.traceback.rstrip().split("\n") if found.failure.traceback else [])
    elif found.message:
        lines += picture.rows("says", [found.message])
    # Without a broker only the storage has the job, and each command must name it.
    here = handle.runner is None
    after = picture.after_here(found, found.storage, found.output) if here else picture.after_fleet(found)
    return [*lines, *_more(found), *picture.rows("next", after, "bold")]


def _more(found: Overview) -> list[picture.Line]:
    lines = picture.rows("warning", [warn.text for warn in found.warnings], "yellow")
    about = [text for text in (found.name, found.owner and f"of {found.owner}") if text]
    lines += picture.rows("job", [", ".join([*about, f"submitted {show_time(found.created)}"])])
    return lines + picture.rows("storage", [found.storage] if found.storage else [])


def _size() -> tuple[int, int]:
    """Return columns and lines of the terminal; without one, so many that nothing is cut."""
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):
        return 1000, 1000
    return size.columns, size.lines
