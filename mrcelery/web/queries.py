"""Reads the pages' data from the job store, and from storage for jobs that it has forgotten."""

from __future__ import annotations

from fnmatch import fnmatchcase
from itertools import islice

import msgspec

from mrcelery.errors import UsageError
from mrcelery.jobstore import journal
from mrcelery.jobstore.base import JobStore
from mrcelery.jobstore.presence import listening
from mrcelery.reporting import history
from mrcelery.reporting.excerpts import bad_records, log
from mrcelery.reporting.overview import Overview, glance, overview, stages_of
from mrcelery.reporting.page import Evidence, Row
from mrcelery.reporting.report import read_report
from mrcelery.schema.encoding import decode
from mrcelery.schema.states import FINAL
from mrcelery.schema.structs import Failure
from mrcelery.schema.task_id import StageId, TaskId
from mrcelery.storage import open_storage
from mrcelery.storage.base import Storage

MOST_JOBS = 1000
"""Most jobs in a list."""


MOST_KEPT = 100
"""Most jobs in a list of those that only storage has."""


class Records:
    """The records of a fleet's jobs. ``storage`` holds jobs that the job store has forgotten; "" for none."""

    def __init__(self, store: JobStore, storage: str) -> None:
        self.store = store
        self._storage = storage

    def rows(self, limit: int, state: str = "", name: str = "") -> list[Row]:
        """List jobs, newest first: of the last ``limit``, those with the state and a name matching the pattern."""
        found = []
        for job in self.store.jobs(min(limit, MOST_JOBS)):
            fields, sums = self.store.head(job)
            if not fields.get("state"):
                continue  # dropped since it was listed
            if state in ("", fields["state"]) and (not name or fnmatchcase(fields.get("name", ""), name)):
                found.append(_row(job, fields, sums))
        return found

    def kept(self, limit: int, state: str = "", name: str = "") -> list[Row]:
        """List jobs that only storage still has, like :meth:`rows`; each takes two or three requests to storage."""
        if not self._storage:
            return []
        wanted = history.JobFilter(states=frozenset({state} if state else ()), name=name)
        found = history.jobs(None, open_storage(self._storage), wanted)
        forgotten = (status for status in found if not self.store.state(status.job))
        return [
            Row(
                job=status.job,
                name=status.name,
                owner=status.owner,
                state=status.state,
                created=status.created,
                started=status.started,
                finished=status.finished,
                progress=float(status.state == "succeeded"),
                message=status.message,
            )
            for status in islice(forgotten, min(limit, MOST_KEPT))
        ]

    def overview(self, job: str, *, attempts: bool = True) -> Overview | None:
        """Read a job; None if it is unknown."""
        found = overview(self.store, job) if attempts else glance(self.store, job)
        if found is not None or not self._storage:
            return found
        report = read_report(open_storage(self._storage), job)
        return report.overview if report is not None else None

    def workers(self, found: Overview) -> int | None:
        """Count the workers that listen on a job's queue; None if the job has ended."""
        if found.state in FINAL:
            return None
        return len(listening(self.store.workers(), found.queue))

    def storage(self, job: str) -> Storage:
        """Open the storage of a job's data. Raises :class:`UsageError` if its address is not known."""
        root = self.store.fields(job).get("storage") or self._storage
        if not root:
            raise UsageError(f"the storage of job {job} is not known here: set MRCELERY_STORAGE where Flower runs")
        return open_storage(root)

    def log(self, task: TaskId, attempt: str) -> str:
        """Read the end of an attempt's log; "" if there is none."""
        return log(self.storage(task.job), task, attempt)

    def evidence(self, job: str) -> Evidence:
        """Read some of a job's bad records; logs are requested one by one."""
        records, more = bad_records(self.storage(job), job)
        return Evidence(bad_records=records, more_bad_records=more)


def _row(job: str, fields: dict[str, str], sums: dict[str, int]) -> Row:
    ended = fields["state"] in FINAL
    stages = stages_of(fields)
    passed = tasks = failed = 0
    now = ("", 0, 0)
    share = 0.0
    for step, kind, _ in stages:
        total = int(fields.get(f"total.{step}.{kind}") or 0)
        of = journal.sums_of(sums, StageId(job, step, kind))
        tasks += total
        if f"ended.{step}.{kind}" in fields:
            passed += 1
        elif total and not now[0]:
            succeeded = min(of.succeeded, total)
            now = (f"step {step} {kind}" if len(stages) > 2 else kind, succeeded, total)
            share = succeeded / total
            failed = of.failed + of.killed + of.lost if succeeded < total else 0
    progress = 1.0 if fields["state"] == "succeeded" else (passed + share) / (len(stages) or 1)
    message = fields.get("status", "")
    if failure := fields.get("failure"):
        message = decode(failure.encode(), Failure).message
    return Row(
        job=job,
        name=fields.get("name", ""),
        owner=fields.get("owner", ""),
        state=fields["state"],
        created=float(fields.get("created") or 0),
        started=float(fields.get("started") or 0),
        finished=float(fields.get("finished") or 0),
        progress=round(progress, 4),
        stage="" if ended else now[0],
        succeeded=0 if ended else now[1],
        tasks=tasks if ended else now[2],
        failed=0 if ended else failed,
        message=message,
    )


def encoded(found: Overview, workers: int | None) -> bytes:
    """Encode the data polled by a page."""
    return msgspec.json.encode({"overview": found, "workers": workers})
