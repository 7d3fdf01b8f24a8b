"""The report of a job that has ended: the record in storage that outlives the job store's.

``report.json`` is for programs, ``report.html`` shows the same to people.
"""

from __future__ import annotations

from mrcelery.jobstore.base import JobStore
from mrcelery.jobstore.requests import storage_of
from mrcelery.reporting.excerpts import gather
from mrcelery.reporting.overview import Overview, overview
from mrcelery.reporting.page import job_page
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import decode
from mrcelery.schema.signing import JobSeal, carries_signature, is_signed
from mrcelery.schema.states import FINAL, State
from mrcelery.schema.structs import Counters, Record, Totals
from mrcelery.storage import open_storage
from mrcelery.storage.base import Storage


class Report(Record, frozen=True, kw_only=True):
    """The outcome of a job: ``report.json`` in storage and, if it succeeded, ``_SUCCESS`` in OUTPUT."""

    job: str
    name: str
    state: State
    counters: Counters
    totals: Totals
    started: float
    finished: float
    seconds: float
    output: str
    parts: tuple[str, ...]
    bad_records: int = 0
    """Number of records skipped."""
    generation: int = 0
    """How often the job had been retried."""
    overview: Overview | None = None
    """The job as shown on its page, with its attempts; not in ``_SUCCESS``."""


def read_report(storage: Storage, job: str, seal: JobSeal | None = None) -> Report | None:
    """Read a job's report; None if it has none (yet). ``seal`` checks it, if more than a picture depends on it."""
    key = object_keys.report(job)
    try:
        data = storage.read(key)
    except FileNotFoundError:
        return None
    return decode(data, Report, key) if seal is None else seal.decode(data, Report, key)


def read_client_report(storage: Storage, job: str, secret: str | None) -> Report | None:
    """Read a job's report as a client that may have a ``secret``: then it must be signed, if the job is.

    Raises :class:`mrcelery.errors.UnsignedError`.
    """
    key, spec = object_keys.report(job), object_keys.spec(job)
    try:
        data = storage.read(key)
        # A job run on this machine, or on a fleet without a secret, has no signatures.
        signed = secret is not None and (carries_signature(data) or is_signed(storage.read(spec)))
    except FileNotFoundError:
        return None
    return JobSeal(job, secret if signed else None).decode(data, Report, key)


def totals_of(found: Overview) -> Totals:
    """Sum up the committed attempts of a job that did not succeed."""
    first = found.stages[0].sums if found.stages else None
    return Totals(
        records_in=first.records_in if first else 0,
        bytes_in=first.bytes_in if first else 0,
        shuffle_bytes=sum(stage.shuffle_bytes for stage in found.stages),
        tasks=sum(stage.succeeded for stage in found.stages),
        requests=found.requests,
    )


def put_report(storage: Storage, report: Report, seal: JobSeal) -> None:
    """Write a job's report; its page first, because a reader that finds ``report.json`` may request the page."""
    if report.overview is not None:
        seen = report.overview
        storage.write(object_keys.report_page(report.job), job_page(seen, gather(storage, seen)))
    key = object_keys.report(report.job)
    storage.write(key, seal.encode(report, key))


def remove_report(storage: Storage, job: str) -> None:
    """Remove a job's report, if it has one."""
    storage.delete([object_keys.report(job), object_keys.report_page(job)])


def write_report(store: JobStore, job: str, secret: str | bytes | None) -> None:
    """Write the report of a job that failed or was cancelled; may be repeated as more of its attempts end.

    Does nothing for a job that succeeded, whose report was written before.
    """
    found = overview(store, job)
    if found is None or found.state == "succeeded" or found.state not in FINAL or not found.storage:
        return
    if "removed" in store.fields(job):
        return  # nothing may be written where its data was
    started = found.started or found.created
    report = Report(
        job=job,
        name=found.name,
        state=found.state,
        counters=found.counters,
        totals=totals_of(found),
        started=started,
        finished=found.finished,
        seconds=round(max(0.0, found.finished - started), 6),
        output=found.output,
        parts=(),
        bad_records=sum(stage.sums.bad_records for stage in found.stages),
        overview=found,
    )
    root = storage_of(store, job, {"storage": found.storage}, secret)
    if root:
        put_report(open_storage(root), report, JobSeal(job, secret))
