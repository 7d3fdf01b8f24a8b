"""The cost of a job's requests to S3: an upper bound, computed from its plan alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mrcelery.planning.splits import PAGE
from mrcelery.schema.structs import PlanSummary, StepSpec


@dataclass(frozen=True, slots=True)
class Cost:
    """S3 requests of a job by how they are billed (HEAD as GET, a copy as PUT), without retries.

    Prices are S3's public list prices, standard storage in us-east-1: PUT, COPY and LIST 0.005, GET 0.0004 US dollars
    per thousand; DELETE is free. Storage and traffic are not included.
    """

    get: int = 0
    put: int = 0
    list: int = 0
    delete: int = 0

    @property
    def dollars(self) -> float:
        """Return the cost in US dollars."""
        return (self.put + self.list) * 0.005 / 1000 + self.get * 0.0004 / 1000

    @property
    def requests(self) -> dict[str, int]:
        """Return the requests by kind: GET, PUT, LIST, DELETE."""
        return {"GET": self.get, "PUT": self.put, "LIST": self.list, "DELETE": self.delete}


def estimate(
    plan: PlanSummary,
    steps: Sequence[StepSpec],
    *,
    listing: Mapping[str, int],
    reads: int,
    storage_is_s3: bool,
    output_is_s3: bool | None = None,
    processes: int = 1,
) -> Cost:
    """Estimate the S3 requests of a job with this plan.

    ``listing`` is the number of requests that listed the inputs, ``reads`` the number of ranges in which its extents
    are read. ``output_is_s3``: whether part files are finally copied to an OUTPUT on S3; None: they stay in storage.
    ``processes`` run the job's tasks, and each reads the spec, the code and the plan.

    The model, where M is a step's map tasks and R its reducers: each map task reads its extents and writes R partitions
    and a commit; the barrier writes R lists of parts; each reduce task reads its list and M partitions and writes a
    part file and a commit. In total order a map task writes one run, whose index the barrier reads, and a reduce task
    reads a piece of each. A step's part files are the next step's extents.

    An upper bound on the numbers in the job's report, except for retries, attempts beyond a task's first, tasks' logs,
    lines beyond 64 KiB, Parquet (a request or more per column chunk), written objects above 8 MiB (a request per 8 MiB
    and two more) and the probe of a storage that was never used. It exceeds those numbers by the requests made with the
    report and after it (the report and its page, ``_SUCCESS``, small results read back and the cleanup), and by empty
    partitions.
    """
    kept, read, parts, pages = _stages(plan, steps)
    objects = 4 + len(plan.pages) + sum(kept)  # spec.json, code.zip, report.html, report.json, plan pages
    get, lists = reads + listing.get("GET", 0), listing.get("LIST", 0)
    put = delete = 0
    if storage_is_s3:
        # The cleanup lists and deletes each step's objects, a thousand at a time.
        batches = sum(-(-objects_of_step // 1000) for objects_of_step in kept)
        get += read + processes * (2 + pages) + 2 * parts  # each result's tag is read at commit and at publication
        put += objects
        lists += batches
        delete += batches
    if output_is_s3:
        put += 3 * (parts + 1) + 3  # each part file and _SUCCESS take three, and the claim is written three times
        get += 1  # checks for _SUCCESS
        lists += 4
        delete += 1
    elif storage_is_s3:
        get += parts  # read back, for a folder or for the client
        put += parts if output_is_s3 is None else 0
    return Cost(get, put, lists, delete)


def _stages(plan: PlanSummary, steps: Sequence[StepSpec]) -> tuple[list[int], int, int, int]:
    """Count the stages' objects: written by each step, objects read, part files of the last step, plan pages.

    Reads of the job's inputs are not included.
    """
    parts, pages = plan.splits, len(plan.pages)
    written: list[int] = []
    read = 2  # the layout's marker; an existing spec
    for number, step in enumerate(steps):
        maps = parts
        kept = 1  # a summary of each stage
        if number:
            kept += -(-maps // PAGE)
            pages += -(-maps // PAGE)
            read += maps
        reducers = step.reducers if step.has_reducer else 0
        if reducers:
            kept += maps * (1 if step.total_order else reducers) + maps + reducers + reducers * 2 + 1
            read += reducers * (maps + 1) + (maps if step.total_order else 0)
            parts = reducers
        else:
            kept += maps * 2
        written.append(kept)
    return written, read, parts, pages
