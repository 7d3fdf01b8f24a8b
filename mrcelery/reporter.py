"""Writes the reports of jobs: ``report.json`` for programs, ``report.html``, the same, for a person."""

from __future__ import annotations

from mrcelery import layout
from mrcelery.encoding import encode
from mrcelery.evidence import gather
from mrcelery.jobstore.base import FINAL, JobStore
from mrcelery.overview import overview
from mrcelery.page import job_page
from mrcelery.report import Report, totals_of
from mrcelery.storage import open_storage
from mrcelery.storage.base import Storage


def put_report(storage: Storage, report: Report) -> None:
    """Write a job's report; its page first, since who finds ``report.json`` may look for that."""
    if report.overview is not None:
        seen = report.overview
        storage.write(layout.report_page(report.job), job_page(seen, gather(storage, seen)))
    storage.write(layout.report(report.job), encode(report))


def remove_report(storage: Storage, job: str) -> None:
    """Remove a job's report, where it has one."""
    storage.delete([layout.report(job), layout.report_page(job)])


def write_report(store: JobStore, job: str) -> None:
    """Write the report of a job that failed or was cancelled; may be done again as more of its attempts end.

    One that succeeded has its report before it is called so: nothing is done for it.
    """
    found = overview(store, job)
    if found is None or found.state == "succeeded" or found.state not in FINAL or not found.storage:
        return
    started = found.started or found.created
    report = Report(
        job=job,
        name=found.name,
        state=found.state,
        counters=found.counters,
        totals=totals_of(found),
        started=started,
        finished=found.finished,
        seconds=round(found.finished - started, 6),
        output=found.output,
        parts=(),
        bad_records=sum(stage.sums.bad_records for stage in found.stages),
        overview=found,
    )
    put_report(open_storage(found.storage), report)
