"""``mrcelery logs``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import click

from mrcelery import layout
from mrcelery.api import attach
from mrcelery.cli.common import JOB, connection_options, epilog, json_option, print_json, write_bytes
from mrcelery.storage.base import Storage

_LOG = re.compile(r".*/step-(?P<step>\d+)/(?P<kind>map|reduce)-(?P<task>\d+)/log\.(?P<attempt>[^/]+)")


@click.command(epilog=epilog("mrcelery logs JOB", "mrcelery logs JOB --step 0 --kind map --task 17"))
@JOB
@click.option("--step", type=click.IntRange(0), help="Only this step, counted from 0.")
@click.option("--kind", type=click.Choice(["map", "reduce"]), help="Only this stage.")
@click.option("--task", type=click.IntRange(0), help="Only this task.")
@connection_options
@json_option
def command(
    job: str, step: int | None, kind: str | None, task: int | None, as_json: bool, **settings: Any
) -> None:
    """What the tasks of JOB printed and logged, task by task."""
    with attach(job, **settings) as handle:
        storage = handle.open_storage()
        found = False
        for key, match in _logs(storage, job, step):
            if kind not in (None, match["kind"]) or task not in (None, int(match["task"])):
                continue
            found = True
            if as_json:
                text = storage.read(key).decode("utf-8", "replace")
                print_json({**match.groupdict(), "text": text})
                continue
            click.echo(f"==> step {match['step']} {match['kind']} {int(match['task'])} attempt {match['attempt']} <==")
            write_bytes(storage.stream(key))
    if not found:
        click.echo(f"mrcelery: job {job} has no logs of that kind", err=True)


def _logs(storage: Storage, job: str, step: int | None) -> Iterator[tuple[str, re.Match[str]]]:
    prefix = layout.job_root(job) if step is None else layout.step_root(job, step)
    for info in storage.list(prefix):
        if match := _LOG.fullmatch(info.key):
            yield info.key, match
