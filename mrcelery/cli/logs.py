"""``mrcelery logs``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mrcelery.attempt.output_capture import share_seconds
from mrcelery.cli import picture
from mrcelery.cli.common import JOB, connection_options, epilog, json_option, write_bytes
from mrcelery.cli.errors import where
from mrcelery.cli.terminal import say, visible_bytes
from mrcelery.client.api import attach
from mrcelery.errors import ConfigError, UsageError
from mrcelery.reporting.logs import Follower, LogFilter, listed
from mrcelery.schema.states import FINAL

if TYPE_CHECKING:
    from mrcelery.client.api import JobHandle
    from mrcelery.reporting.logs import Attempt, LogFilter
    from mrcelery.reporting.overview import Overview
    from mrcelery.storage.base import Storage


@click.command(
    epilog=epilog(
        "mrcelery logs JOB",
        "mrcelery logs JOB --failed",
        "mrcelery logs JOB -f",
        "mrcelery logs JOB --step 0 --kind map --task 17",
    )
)
@JOB
@click.option("--step", type=click.IntRange(0), help="Only this step, counted from 0.")
@click.option("--kind", type=click.Choice(["map", "reduce"]), help="Only this stage.")
@click.option("--task", type=click.IntRange(0), help="Only this task.")
@click.option("--attempt", metavar="ATTEMPT", help="Only this attempt: 2-a1b2c3, or just its number or random part.")
@click.option("--failed", is_flag=True, help="Only attempts that failed or died.")
@click.option("-f", "--follow", is_flag=True, help="Show what running tasks print, until the job ends.")
@click.option("--raw", is_flag=True, help="Print control characters as they are, instead of escaped.")
@connection_options
@json_option
def command(
    job: str,
    step: int | None,
    kind: str | None,
    task: int | None,
    attempt: str | None,
    failed: bool,
    follow: bool,
    raw: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Show what the tasks of JOB printed and logged, attempt by attempt.

    For a failed job, stderr says first where it failed, with the traceback. Control characters are escaped, except
    with --raw. With -f, lines are shown as they are printed, a few seconds late, each with the name of its task.
    --json prints one object per attempt, one a line; with -f, one per piece.
    """

    wanted = LogFilter(step, kind, task, attempt, failed)
    with attach(job, **settings) as handle:
        storage = handle.open_storage()
        if follow:
            _follow(handle, storage, wanted, _writer(wanted, as_json=as_json, raw=raw))
            return
        found = None
        with suppress(UsageError):  # run by another version, or only its data is left
            found = handle.overview()
        _show_failure(found)
        _list(storage, job, found, wanted, _print if as_json else _whole(raw))


def _show_failure(found: Overview | None) -> None:
    if found is not None and found.failure is not None:
        if found.failure.traceback:
            say(found.failure.traceback.rstrip(), err=True)
        at = where(found.failure)
        message = found.failure.message.partition("\n")[0]
        say(f"mrcelery: {picture.phase(found)[0]}: {at[0] if at else found.job}: {message}", err=True)


Show = Callable[["Attempt", Iterable[bytes]], None]


def _list(storage: Storage, job: str, found: Overview | None, wanted: LogFilter, show: Show) -> None:
    none = True
    for one, key in listed(storage, job, found, wanted):
        none = False
        show(one, storage.stream(key) if key else ())
    if none and found is None and next(listed(storage, job, None, LogFilter()), None) is None:
        raise UsageError(f"job {job} is not known here: see `mrcelery list`, or correct --broker or --storage")
    if none:
        say(f"mrcelery: job {job} has no matching logs", err=True)


def _whole(raw: bool) -> Show:
    def show(one: Attempt, log: Iterable[bytes]) -> None:
        say(f"==> {_name(one)} attempt {one.attempt}{_how(one)} <==")
        if log:
            write_bytes(_ended(log if raw else visible_bytes(log)))
        if one.ending:
            say(f"[{one.ending}]")

    return show


def _ended(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Pass chunks on, and add a newline if there is none at the end."""
    last = b"\n"
    for chunk in chunks:
        yield chunk
        last = chunk or last
    if not last.endswith(b"\n"):
        yield b"\n"


def _follow(handle: JobHandle, storage: Storage, wanted: LogFilter, write: Show) -> None:
    if handle.runner is None:
        raise ConfigError(f"cannot follow {handle.id} without its broker: give --broker, or leave -f out")
    follower = Follower(handle.runner.store, storage, handle.id, wanted)
    pause = share_seconds(storage)
    while True:
        found = handle.glance()
        # Requested for long enough that a late poll does not stop the sharing.
        for one, new in follower.read(found.stages, 4 * pause):
            write(one, (new,))
        if found.state in FINAL:
            _show_failure(found)
            return
        time.sleep(pause)


def _writer(wanted: LogFilter, *, as_json: bool, raw: bool) -> Show:
    if as_json:
        return _print
    alone = wanted.kind is not None and wanted.task is not None

    def write(one: Attempt, new: Iterable[bytes]) -> None:
        prefix = b"" if alone else f"{_name(one)} | ".encode()
        text = b"".join(new if raw else visible_bytes(new))
        write_bytes([b"".join(prefix + line + b"\n" for line in text.splitlines())])

    return write


def _name(one: Attempt) -> str:
    return f"step {one.step} {one.kind} {one.task}"


def _how(one: Attempt) -> str:
    return f" {one.outcome}" if one.outcome and one.outcome != "succeeded" else ""


def _print(one: Attempt, log: Iterable[bytes]) -> None:
    click.echo(json.dumps({**asdict(one), "text": b"".join(log).decode("utf-8", "replace")}))
