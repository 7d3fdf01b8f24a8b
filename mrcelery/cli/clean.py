"""``mrcelery clean``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import groupby
from typing import Any, TypedDict

import click

from mrcelery.cli.common import Age, Filled, connection_options, epilog, json_option, print_json
from mrcelery.cli.terminal import say
from mrcelery.client.cleaning import PAGE, UploadedInputs
from mrcelery.config import Config, show_size
from mrcelery.errors import ConfigError, UnsignedError, mask
from mrcelery.jobstore.base import TTL
from mrcelery.reporting.history import created_by_id
from mrcelery.reporting.report import read_client_report
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
    """Delete the data of jobs that have ended, including results kept in the job's own storage and uploaded inputs.

    An OUTPUT elsewhere is kept, and so are every job that still runs, and inputs that another job has used. A JOB that
    is named is deleted whatever its age. Without a JOB, uploaded inputs that no job uses are deleted too, by their age.
    """
    config = Config.load(settings)
    if not config.storage:
        raise ConfigError("clean needs the storage: give --storage (or MRCELERY_STORAGE)")

    age = older_than if older_than is not None else 0.0 if jobs else float(TTL)
    runner = connect(config)
    removed = []
    try:
        cleaner = _Cleaner(open_storage(storage_root(config)), runner, age, dry_run=dry_run)
        for one in cleaner.clean(jobs):
            removed.append(one)
            if not as_json:
                verb, what = "would remove" if dry_run else "removed", one["job"] or "uploaded inputs that no job uses"
                say(f"{verb} {what}: {one['objects']:,} objects, {show_size(one['bytes'])}")
        if cleaner.inputs.unreadable:
            jobs_kept = ", ".join(sorted(cleaner.inputs.unreadable))
            say(f"mrcelery: uploaded inputs are kept, as the specs of these jobs cannot be read: {jobs_kept}", err=True)
    finally:
        if runner is not None:
            runner.close()
    if as_json:
        print_json(removed)


class _Cleaner:
    """Removes jobs so that whenever it is killed, what is left can be listed and removed by the next one."""

    def __init__(self, storage: Storage, runner: Runner | None, age: float, *, dry_run: bool) -> None:
        self._storage = storage
        self._runner = runner
        self._age = age
        self._dry_run = dry_run
        self.inputs = UploadedInputs(storage, runner.store if runner is not None else None)

    def clean(self, named: tuple[str, ...]) -> Iterator[Removed]:
        """Remove jobs, all that are old enough or those that are named, and the inputs that only they have used."""
        seen = set()
        for job, keys, size in _jobs(self._storage, named):
            seen.add(job)
            if self._may_go(job, named=job in named):
                yield self._remove(job, keys, size)
        yield from self._forgotten(named, seen)
        if named:
            return
        # Of a client that died before it registered its job, or of a job that was removed in part. A fleet that is not
        # known here may have a job that waits.
        age = self._age if self._runner is not None else max(self._age, TTL)
        if unused := self.inputs.unused(time.time() - age):
            if not self._dry_run:
                self._storage.delete([info.key for info in unused])
            yield Removed(job="", objects=len(unused), bytes=sum(info.size for info in unused))

    def _remove(self, job: str, keys: list[str], size: int) -> Removed:
        freed = self.inputs.release(job)
        if not self._dry_run:
            # The spec, which names the inputs, outlives these; how the job has ended outlives the spec.
            ends = object_keys.job_root(job) + "end-"
            last = [key for key in keys if key == object_keys.spec(job)]
            last += [key for key in keys if key.startswith(ends)]
            last += [key for key in keys if key == object_keys.report(job)]
            self._storage.delete([key for key in keys if key not in last])
            self._storage.delete([info.key for info in freed])
            for key in last:
                self._storage.delete([key])
            self._storage.sweep(object_keys.job_root(job))
            if self._runner is not None:
                self._runner.store.drop(job)
        return Removed(job=job, objects=len(keys) + len(freed), bytes=size + sum(info.size for info in freed))

    def _forgotten(self, named: tuple[str, ...], seen: set[str]) -> Iterator[Removed]:
        """Remove jobs that have ended and have no objects: a clean was killed before the job store forgot them.

        With them go folders that were emptied and stayed.
        """
        known = list(named) or [*self._known(), *self._storage.folders(object_keys.JOBS)]
        for job in dict.fromkeys(known):
            if job in seen or not self._is_left(job, named=job in named):
                continue
            freed = self.inputs.release(job)
            if not self._dry_run:
                self._storage.delete([info.key for info in freed])
                self._storage.sweep(object_keys.job_root(job))
                if self._runner is not None:
                    self._runner.store.drop(job)
            yield Removed(job=job, objects=len(freed), bytes=sum(info.size for info in freed))

    def _known(self) -> list[str]:
        store = self._runner.store if self._runner is not None else None
        found: list[str] = []
        while store is not None and (page := store.jobs(PAGE, len(found))):
            found += page
        return found

    def _is_left(self, job: str, *, named: bool) -> bool:
        fields = self._fields(job)
        home = fields.get("storage", "").rstrip("/")
        if fields and home != self._storage.uri.rstrip("/"):
            if named:
                say(f"mrcelery: the data of job {job} is in {mask(home)}: give that as --storage", err=True)
            return False
        if not fields and named:
            say(f"mrcelery: job {job} has no data in {self._storage.uri}: see `mrcelery list`", err=True)
            return False
        return self._may_go(job, named=named)

    def _fields(self, job: str) -> dict[str, str]:
        return self._runner.store.fields(job) if self._runner is not None else {}

    def _may_go(self, job: str, *, named: bool) -> bool:
        reason = self._reason_to_keep(job, named=named)
        if reason and named:
            say(f"mrcelery: job {job} {reason}", err=True)
        return not reason

    def _reason_to_keep(self, job: str, *, named: bool) -> str:
        fields = self._fields(job)
        if fields and fields["state"] not in FINAL:
            return f"is {fields['state']}: cancel it first"
        if ended := float(fields.get("finished") or 0) or _reported(self._storage, job):
            return "" if time.time() - ended >= self._age else "ended too recently: leave --older-than out"
        if self._runner is not None and named:
            return ""
        # Its end is not recorded: it may run on a fleet unknown here, until its record would have expired.
        young = time.time() - _created(job) < max(self._age, TTL)
        return "may still run on a fleet that is not known here: give its --broker" if young else ""


class Removed(TypedDict):
    """A job that was removed ("" for inputs of none), its objects and their bytes."""

    job: str
    objects: int
    bytes: int


def _jobs(storage: Storage, named: tuple[str, ...]) -> Iterator[tuple[str, list[str], int]]:
    """Iterate over the jobs with data in the storage, their keys and bytes; one job's keys in memory at a time."""
    prefixes = [object_keys.job_root(job) for job in named] or [object_keys.JOBS]
    for prefix in prefixes:
        for job, objects in groupby(storage.list(prefix), key=lambda info: info.key.split("/")[1]):
            found = list(objects)
            yield job, [info.key for info in found], sum(info.size for info in found)


def _reported(storage: Storage, job: str) -> float:
    """Return when the job ended by its report, in epoch seconds; 0 if it left none."""

    try:
        report = read_client_report(storage, job, Config.load({}).signing_key or None)
    except UnsignedError as e:
        say(f"mrcelery: the report of job {job} is ignored: {e}", err=True)
        return 0.0
    return 0.0 if report is None else report.finished


def _created(job: str) -> float:
    """Return when a job was submitted by its id, in epoch seconds; now if the id has no date."""
    created = created_by_id(job)
    return time.time() if created is None else created
