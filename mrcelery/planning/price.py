"""What a job's requests to S3 cost: an upper bound, from its plan alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mrcelery.planning.splits import PAGE
from mrcelery.schema.structs import PlanSummary, StepSpec


@dataclass(frozen=True, slots=True)
class Cost:
    """S3 requests of a job by how they are billed (HEAD as GET, a copy as PUT), without retries.

    Prices are S3's public list prices, standard storage in us-east-1: PUT, COPY and LIST 0.005, GET
    0.0004 US dollars a thousand; DELETE is free. Storage and traffic are not in it.
    """

    get: int = 0
    put: int = 0
    list: int = 0
    delete: int = 0

    @property
    def dollars(self) -> float:
        """US dollars."""
        return (self.put + self.list) * 0.005 / 1000 + self.get * 0.0004 / 1000

    @property
    def requests(self) -> dict[str, int]:
        """By kind: GET, PUT, LIST, DELETE."""
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
    """Estimate what a job with this plan will ask of S3.

    ``listing`` is what listing the inputs took, ``reads`` the ranges that its extents are read in.
    ``output_is_s3``: whether part files are copied to an OUTPUT on S3 in the end; None: they stay in storage.
    ``processes`` run the job's tasks, and each reads the spec, the code and the plan.

    The model, M being a step's map tasks and R its reducers: each map task reads its extents and writes R
    partitions and a commit; the barrier writes R lists of parts; each reduce task reads its list and M
    partitions and writes a part file and a commit. In total order a map task writes one run, whose index the
    barrier reads, and a reduce task a piece of each. A step's part files are the next step's extents.

    An upper bound on what the job reports, but for retries, attempts beyond a task's first, tasks' logs, lines
    beyond 64 KiB, Parquet (a request or more per column chunk), objects above 8 MiB that are written (a
    request per 8 MiB and two) and the probe of a storage that was never used. It exceeds that by what comes
    with the report and after it, which is the report and its page, ``_SUCCESS``, small results read back and the
    cleaning up, and by partitions that are empty.
    """
    kept, read, parts, pages = _stages(plan, steps)
    objects = 4 + len(plan.pages) + sum(kept)  # spec.json, code.zip, report.html, report.json, plan pages
    get, lists = reads + listing.get("GET", 0), listing.get("LIST", 0)
    put = delete = 0
    if storage_is_s3:
        # Cleaning up lists and deletes what each step left, a thousand at a time.
        batches = sum(-(-objects_of_step // 1000) for objects_of_step in kept)
        get += read + processes * (2 + pages) + 2 * parts  # a result's tag is asked for, committed and published
        put += objects
        lists += batches
        delete += batches
    if output_is_s3:
        put += 3 * (parts + 1) + 3  # each part file and _SUCCESS in three, and the claim, which is written thrice
        get += 1  # _SUCCESS is looked for
        lists += 4
        delete += 1
    elif storage_is_s3:
        get += parts  # read back, for a folder or for the client
        put += parts if output_is_s3 is None else 0
    return Cost(get, put, lists, delete)


def _stages(plan: PlanSummary, steps: Sequence[StepSpec]) -> tuple[list[int], int, int, int]:
    """Count what the stages do: objects that each step writes, objects read, part files of the last step, plan pages.

    Reads of the job's inputs are not among them.
    """
    parts, pages = plan.splits, len(plan.pages)
    written: list[int] = []
    read = 2  # the layout's mark; a spec that is there
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
