"""Present and past jobs, newest first: those known to the job store, and those that left data in storage."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from math import inf

from mrcelery.errors import CorruptDataError, VersionError
from mrcelery.jobstore.base import JobStore
from mrcelery.reporting.report import read_report
from mrcelery.reporting.status import JobStatus, status_of
from mrcelery.schema import object_keys
from mrcelery.schema.signing import unseal
from mrcelery.schema.states import UNKNOWN
from mrcelery.schema.structs import JobSpec
from mrcelery.storage.base import Storage

PAGE = 100
"""Jobs requested from the job store at once."""

MOST = 1000
"""Most jobs of a storage that are read: the newest by their ids."""

_DATED = re.compile(r"-(\d{8}-\d{6})-[0-9a-f]{6}$")


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """Selects jobs: any of the ``states`` (none: all), a glob over names, an owner, submitted in ``[since, until)``."""

    states: frozenset[str] = frozenset()
    name: str = ""
    owner: str = ""
    since: float = 0.0
    until: float = inf

    def takes(self, *, state: str, name: str, owner: str, created: float) -> bool:
        """Return whether the filter selects a job; ``created`` is in epoch seconds."""
        return (
            (not self.states or state in self.states)
            and (not self.name or fnmatchcase(name, self.name))
            and (not self.owner or owner == self.owner)
            and self.since <= created < self.until
        )


def created_by_id(job: str) -> float | None:
    """Return when a job was submitted, by its id, in epoch seconds; None if the id has no date."""
    match = _DATED.search(job)
    if match is None:
        return None
    try:
        return datetime.strptime(match[1], "%Y%m%d-%H%M%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


Fresh = Callable[[JobStore, str, dict[str, str]], dict[str, str]]
"""Updates a job's fields, as read from the job store, from its storage."""


def jobs(
    store: JobStore | None, storage: Storage | None, wanted: JobFilter, fresh: Fresh | None = None
) -> Iterator[JobStatus]:
    """Iterate over the selected jobs, newest first; jobs are read as they are consumed.

    Storage is searched for its newest :data:`MOST` jobs. Raises :class:`mrcelery.errors.UnreachableError`.
    """
    known = _of_store(store, wanted, fresh) if store is not None else iter(())
    kept = _of_storage(storage, store, wanted) if storage is not None else iter(())
    return heapq.merge(known, kept, key=lambda status: status.created, reverse=True)


def _of_store(store: JobStore, wanted: JobFilter, fresh: Fresh | None) -> Iterator[JobStatus]:
    skip = 0
    # A job submitted meanwhile shifts the pages, so one may be listed twice.
    seen: set[str] = set()
    while page := store.jobs(PAGE, skip):
        skip += len(page)
        for job in page:
            fields = store.fields(job)
            if not fields.get("state") or job in seen:
                continue  # dropped since it was listed, or listed twice
            seen.add(job)
            created = float(fields.get("created") or 0)
            if created < wanted.since:
                return
            if fresh is not None:
                fields = fresh(store, job, fields)
            if not _wanted(wanted, fields, created):
                continue
            yield status_of(job, fields, store)


def _wanted(wanted: JobFilter, fields: Mapping[str, str], created: float) -> bool:
    return wanted.takes(
        state=fields.get("state", ""), name=fields.get("name", ""), owner=fields.get("owner", ""), created=created
    )


def _of_storage(storage: Storage, store: JobStore | None, wanted: JobFilter) -> Iterator[JobStatus]:
    dated = ((created_by_id(job), job) for job in storage.folders(object_keys.JOBS))
    # Ordered by the latest possible time: an id has whole seconds, and a job without a date in its id is read first.
    ids = ((-(inf if created is None else created + 1), job) for created, job in dated)
    heap: list[tuple[float, str, JobStatus | None]] = [(key, job, None) for key, job in heapq.nsmallest(MOST, ids)]
    while heap:
        key, job, status = heapq.heappop(heap)
        if -key < wanted.since:
            return
        if status is not None:
            yield status
            continue
        if -key - 1 >= wanted.until and key != -inf:
            continue
        if store is not None and store.state(job):
            continue
        status = _read(storage, job)
        if status is not None and wanted.takes(
            state=status.state, name=status.name, owner=status.owner, created=status.created
        ):
            heapq.heappush(heap, (-status.created, job, status))


def _read(storage: Storage, job: str) -> JobStatus | None:
    """Read a job's status from what it left in storage; None for a job that never started."""

    try:
        request = unseal(storage.read(object_keys.spec(job)), JobSpec, None, object_keys.spec(job)).request
    except FileNotFoundError:
        return None
    except (CorruptDataError, VersionError) as e:
        return JobStatus(job=job, state=UNKNOWN, created=created_by_id(job) or 0.0, storage=storage.uri, message=str(e))
    known = {
        "job": job,
        "name": request.name,
        "owner": request.owner,
        "created": request.created,
        "storage": storage.uri,
        "output": request.output,
    }
    try:
        report = read_report(storage, job)
    except (CorruptDataError, VersionError) as e:
        return JobStatus(state=UNKNOWN, message=str(e), **known)  # type: ignore[arg-type]
    if report is None:
        return JobStatus(state=UNKNOWN, **known)  # type: ignore[arg-type]
    failure = report.overview.failure if report.overview is not None else None
    ended = {"started": report.started, "finished": report.finished, "message": failure.message if failure else ""}
    return JobStatus(state=report.state, **ended, **known)  # type: ignore[arg-type]
