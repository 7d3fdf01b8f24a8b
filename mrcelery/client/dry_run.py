"""The resources that a job would need, computed on the client: ``--dry-run``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from mrcelery.formats import input_format
from mrcelery.formats.source import requests_for
from mrcelery.planning.listing import list_inputs
from mrcelery.planning.price import Cost, estimate
from mrcelery.planning.splits import cut, fitted, with_reducers, write_plan
from mrcelery.runners.preload import workers_of
from mrcelery.schema.structs import PlanSummary, Split
from mrcelery.storage import scheme_of
from mrcelery.storage.transfers import transfers

if TYPE_CHECKING:
    from mrcelery.client.submission import Submission


class Plan(NamedTuple):
    """A job's needs: map tasks (M) and bytes, reduce tasks (R) of each step, S3 requests and price."""

    inputs: PlanSummary
    reducers: tuple[int, ...]
    cost: Cost


def plan_of(job: Submission) -> Plan:
    """List and split a job's inputs here, and price it; write nothing."""
    reads = 0
    on_s3 = ("s3", "") if job.uploads else ("s3",)

    def counted(splits: Iterable[Split]) -> Iterator[Split]:
        nonlocal reads
        for split in splits:
            reads += sum(requests_for(e) for e in split.extents if scheme_of(e.uri) in on_s3)
            yield split

    with transfers() as listing:
        files = list_inputs(job.input_addresses(), input_format(job.options.input_format))
        splits = cut(*fitted(files, job.options.split_size, job.options.workers))
        summary = write_plan(counted(splits), lambda page, data: None)
    if job.uploads:
        listing.count("GET", summary.files)  # the planner stats each uploaded file once more
    steps = tuple(with_reducers(step, summary) for step in job.steps)
    cost = estimate(
        summary,
        steps,
        listing=listing.requests,
        reads=reads,
        storage_is_s3=scheme_of(job.storage) == "s3",
        output_is_s3=None if not job.output or job.brings_home else scheme_of(job.output) == "s3",
        processes=workers_of(job.config) if job.runner == "local" else 1,
    )
    return Plan(summary, tuple(step.reducers for step in steps), cost)
