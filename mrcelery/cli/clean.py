"""``mrcelery clean``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import click

from mrcelery.cli.common import Age, Filled, connection_options, epilog, json_option, print_json
from mrcelery.cli.terminal import say
from mrcelery.config import Config, show_size
from mrcelery.errors import ConfigError
from mrcelery.jobstore.base import TTL
from mrcelery.reporting.history import created_by_id
from mrcelery.reporting.report import read_report
from mrcelery.runners.base import Runner, connect, storage_root
from mrcelery.schema import object_keys
from mrcelery.schema.states import FINAL
from mrcelery.storage import open_storage
from mrcelery.storage.base import Storage

_WEEK = "7d"


@click.command(
    epilog=epilog("mrcelery clean --older-than 1d --dry-run", "mrcelery clean wordcount-20261120-201530-a1b2c3")
)
@click.argument("jobs", type=Filled(), metavar="[JOB...]", nargs=-1)
@click.option(
    "--older-than", type=Age(), metavar="TIME", help=f"Only jobs that ended at least this long ago  [{_WEEK}]"
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed.")
@connection_options
@json_option
def command(jobs: tuple[str, ...], older_than: float | None, dry_run: bool, as_json: bool, **settings: Any) -> None:
    """Delete the data of jobs that have ended, including results kept in the job's own storage.

    An OUTPUT elsewhere is kept, and so is every job that still runs. A JOB that is named is deleted whatever its age.
    """
    config = Config.load(settings)
    if not config.storage:
        raise ConfigError("clean needs the storage: give --storage (or MRCELERY_STORAGE)")

    storage = open_storage(storage_root(config))
    age = older_than if older_than is not None else 0.0 if jobs else float(TTL)
    runner = connect(config)
    removed = []
    try:
        for job, keys, size in _jobs(storage, jobs):
            if not keys and (runner is None or not runner.store.state(job)):
                continue
            if not _may_go(storage, runner, job, age, named=job in jobs):
                continue
            if not dry_run:
                # the report and the spec last: after an interruption the job can still be listed and cleaned
                storage.delete(sorted(keys, key=lambda key: key in (object_keys.spec(job), object_keys.report(job))))
                storage.sweep(object_keys.job_root(job))
                if runner is not None:
                    runner.store.drop(job)
            removed.append({"job": job, "objects": len(keys), "bytes": size})
            if not as_json:
                verb = "would remove" if dry_run else "removed"
                say(f"{verb} {job}: {len(keys):,} objects, {show_size(size)}")
    finally:
        if runner is not None:
            runner.close()
    if as_json:
        print_json(removed)


def _jobs(storage: Storage, named: tuple[str, ...]) -> Iterator[tuple[str, list[str], int]]:
    """Iterate over the jobs with data in the storage, their keys and bytes; one job's keys in memory at a time."""
    prefixes = [object_keys.job_root(job) for job in named] or [object_keys.JOBS]
    for prefix in prefixes:
        # Of one that is named Redis may have a record and storage nothing more: an earlier `clean` was killed.
        if named and next(storage.list(prefix), None) is None:
            yield prefix.split("/")[1], [], 0
        for job, objects in groupby(storage.list(prefix), key=lambda info: info.key.split("/")[1]):
            found = list(objects)
            yield job, [info.key for info in found], sum(info.size for info in found)


def _may_go(storage: Storage, runner: Runner | None, job: str, age: float, *, named: bool) -> bool:
    fields = runner.store.fields(job) if runner is not None else {}
    if fields and fields["state"] not in FINAL:
        if named:
            say(f"mrcelery: job {job} is {fields['state']}: cancel it first", err=True)
        return False
    ended = float(fields.get("finished") or 0) or _reported(storage, job)
    if ended:
        return time.time() - ended >= age
    if runner is not None and named:
        return True
    # its end is not recorded: it may run on a fleet unknown here, until its record would have expired
    return time.time() - _created(job) >= max(age, TTL)


def _reported(storage: Storage, job: str) -> float:
    """Return when the job ended by its report, in epoch seconds; 0 if it left none."""

    report = read_report(storage, job)
    return 0.0 if report is None else report.finished


def _created(job: str) -> float:
    """Return when a job was submitted by its id, in epoch seconds; now if the id has no date."""
    created = created_by_id(job)
    return time.time() if created is None else created
