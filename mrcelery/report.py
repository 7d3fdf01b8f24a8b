"""The report of a job that has ended: what stays of it in storage when the job store has forgotten it.

:mod:`mrcelery.reporter` writes it.
"""

from __future__ import annotations

from mrcelery import layout
from mrcelery.encoding import decode
from mrcelery.overview import Overview
from mrcelery.records import Counters, Record, Totals
from mrcelery.storage.base import Storage


class Report(Record, frozen=True, kw_only=True):
    """How a job went: ``report.json`` in storage and, of one that succeeded, ``_SUCCESS`` in OUTPUT."""

    job: str
    name: str
    state: str
    counters: Counters
    totals: Totals
    started: float
    finished: float
    seconds: float
    output: str
    parts: tuple[str, ...]
    bad_records: int = 0
    """Records that were skipped."""
    overview: Overview | None = None
    """The job as its page showed it, with its attempts; not in ``_SUCCESS``."""


def read_report(storage: Storage, job: str) -> Report | None:
    """A job's report, None where it has none (yet)."""
    key = layout.report(job)
    try:
        return decode(storage.read(key), Report, key)
    except FileNotFoundError:
        return None


def totals_of(found: Overview) -> Totals:
    """What the committed attempts of a job came to that did not come to its end."""
    first = found.stages[0].sums if found.stages else None
    return Totals(
        records_in=first.records_in if first else 0,
        bytes_in=first.bytes_in if first else 0,
        shuffle_bytes=sum(stage.shuffle_bytes for stage in found.stages),
        tasks=sum(stage.done for stage in found.stages),
        requests=found.requests,
    )
