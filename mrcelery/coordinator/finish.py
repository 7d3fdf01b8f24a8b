"""The end of a job: its output is published or withdrawn, and its report written."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from mrcelery.attempt.decision import decide, decided, settle
from mrcelery.attempt.open_jobs import OpenJob, OpenJobs
from mrcelery.coordinator.output_commit import publish, withdraw
from mrcelery.coordinator.rerun import run_again
from mrcelery.coordinator.stages import StageTasks, begin_stage, counted, map_stage, map_tasks, open_running
from mrcelery.coordinator.summaries import check_all_committed, commits, summaries, summarise
from mrcelery.errors import CorruptDataError, DamagedPartError, JobStoppedError
from mrcelery.jobstore.base import generation_of
from mrcelery.planning.splits import LAST, page_of, write_plan
from mrcelery.reporting.overview import overview
from mrcelery.reporting.report import Report
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import encode
from mrcelery.schema.states import FINAL
from mrcelery.schema.structs import (
    Commit,
    Counters,
    Extent,
    Part,
    PlanPage,
    Split,
    Totals,
    add_coordinator_requests,
    add_counters,
    add_requests,
)
from mrcelery.schema.task_id import KINDS, StageId
from mrcelery.shuffle.damage import damage
from mrcelery.storage.base import Storage
from mrcelery.storage.transfers import Transfers
from mrcelery.task.sink import output_suffix

SMALL_RESULTS = 64 << 10
"""Largest output, in bytes, that is sent to the client through the job store, if the client prints it."""


def finish(jobs: OpenJobs, job: str, step: int) -> StageTasks | None:
    """End a step's last stage: return the next step's map stage, or publish OUTPUT and end the job (None)."""
    withdraw_output(jobs, job)  # a run that was killed may have left output
    active = open_running(jobs, job, step)
    spec = active.spec
    reducers = spec.steps[step].reducers
    last = StageId(job, step, "reduce" if reducers else "map")
    tasks = reducers or map_tasks(jobs, active, step)
    check_all_committed(jobs, active, last, tasks)
    parts: list[Part] = []

    def gather() -> Iterator[Commit]:
        for commit in commits(jobs, active, last, tasks):
            parts.extend(commit.parts)
            yield commit

    with counted(jobs, job, f"finish.{step}") as moved:
        summarise(jobs, active, last, gather())
        if step + 1 < len(spec.steps):
            return _next_step(jobs, active, step, parts)
        try:
            publish_job(jobs, active, parts, moved)
        except DamagedPartError as e:
            if e.part.partition < 0:  # skipped records, which a task of an earlier stage may have written
                e.retryable = False
                raise
            return run_again(jobs, active, e)
    return None


def _next_step(jobs: OpenJobs, active: OpenJob, step: int, parts: list[Part]) -> StageTasks:
    """Turn each part that contains records into a split of the next step."""
    job, storage = active.id, active.storage
    extents = [Extent(f"{storage.uri}/{p.key}", 0, p.bytes, p.bytes, True) for p in parts if p.records]
    last = page_of(max(0, len(extents) - 1))

    def write(page: int, data: bytes) -> None:
        key = object_keys.plan_page(job, step + 1, page)
        storage.write(key, active.seal.sealed(data, PlanPage, key, LAST if page == last else ""))

    plan = write_plan((Split(i, (extent,)) for i, extent in enumerate(extents)), write)
    if active.seal.signs and not extents:
        write(last, encode(PlanPage(splits=())))  # else a removed plan would look the same
    stage = map_stage(active.spec, step + 1, plan.splits)
    begin_stage(jobs, active.spec, stage)
    for kind in KINDS:
        jobs.store.forget_stage(StageId(job, step, kind))
    return stage


def publish_job(jobs: OpenJobs, active: OpenJob, parts: list[Part], moved: Transfers) -> None:
    """Publish the committed parts and end the job.

    Raises :class:`mrcelery.errors.DamagedPartError` if a small result is read back damaged, before anything is
    published.
    """
    request, storage, job = active.spec.request, active.storage, active.id
    if active.seal.signs:  # forged records are found before anything is published
        decided(storage, active.seal, generation_of(jobs.store.fields(job)))
        for _ in summaries(jobs, active):
            pass
    suffix = output_suffix(request.options)
    names = (
        [] if request.options.output_format == "none" else [object_keys.part_name(p.partition, suffix) for p in parts]
    )
    finished = time.time()

    def report() -> Report:
        return _report(jobs, active, tuple(names), finished, moved.requests)

    small = request.small_results and names and sum(p.bytes for p in parts) <= SMALL_RESULTS and not suffix
    results = b"".join(_read_whole(storage, part) for part in parts) if small else None
    copies = dict(zip(names, parts, strict=False))
    if request.options.max_bad_records:
        copies.update(_bad_records(jobs, active))
    try:
        publish(
            jobs.store, storage, active.seal, request.output, copies, report,
            overwrite=request.options.overwrite,
        )  # fmt: skip
    except JobStoppedError:
        withdraw_output(jobs, job)
        raise
    if results is not None:
        jobs.store.put_blob(job, "results", results)
    fields = jobs.store.fields(job)
    if fields.get("state") not in FINAL:
        end = decide(storage, active.seal, generation_of(fields), "succeeded")
        if end.state != "succeeded":
            settle(jobs.store, end)
    if not jobs.store.move(job, "succeeded", {"finished": repr(finished), "stage": "finish"}):
        withdraw_output(jobs, job)


def _read_whole(storage: Storage, part: Part) -> bytes:
    with damage(part):
        data = storage.read(part.key)
        if zlib.crc32(data) != part.crc32:
            raise CorruptDataError("does not match its checksum")
        return data


def _bad_records(jobs: OpenJobs, active: OpenJob) -> dict[str, Part]:
    """Return the skipped records to publish, by name at OUTPUT; remove those of attempts that do not count."""
    storage, root = active.storage, object_keys.job_root(active.id)
    counted = {key for _, summary in summaries(jobs, active) for key in summary.bad_keys}
    storage.delete([o.key for o in storage.list(object_keys.bad_records_root(active.id)) if o.key not in counted])
    if not active.spec.request.output:
        return {}  # they are in the same place as the results
    return {key.removeprefix(root): Part(-1, key, 0, 0, 0) for key in sorted(counted)}


def withdraw_output(jobs: OpenJobs, job: str) -> None:
    """Withdraw what a failed or cancelled job has published; do nothing for any other."""

    def ended() -> bool:
        return jobs.store.state(job) in ("failed", "cancelled")

    if ended():
        active = jobs.open(job)
        withdraw(active.storage, job, active.spec.request.output, ended)


def _report(
    jobs: OpenJobs, active: OpenJob, names: tuple[str, ...], finished: float, publishing: Mapping[str, int]
) -> Report:
    job, spec = active.id, active.spec
    fields = jobs.store.fields(job)
    counters: Counters = {}
    totals = Totals()
    requests = dict(publishing)
    add_coordinator_requests(requests, fields)
    bad_records = 0
    for (_, number, kind), summary in summaries(jobs, active):
        add_counters(counters, summary.all_counters(number))
        bad_records += summary.bad_records
        ends = number == len(spec.steps) - 1
        first, last = number == 0 and kind == "map", ends and (kind != "map" or not spec.steps[number].reducers)
        stage = summary.totals
        totals = Totals(
            records_in=totals.records_in + (stage.records_in if first else 0),
            bytes_in=totals.bytes_in + (stage.bytes_in if first else 0),
            records_out=totals.records_out + (stage.records_out if last else 0),
            bytes_out=totals.bytes_out + (stage.bytes_out if last else 0),
            shuffle_bytes=totals.shuffle_bytes + stage.shuffle_bytes,
            tasks=totals.tasks + stage.tasks,
        )
        add_requests(requests, stage.requests)
    started = float(fields.get("started") or finished)
    return Report(
        job=job,
        name=spec.request.name,
        state="succeeded",
        counters=counters,
        totals=replace(totals, requests=requests),
        started=started,
        finished=finished,
        seconds=round(max(0.0, finished - started), 6),
        output=spec.request.output,
        parts=names,
        bad_records=bad_records,
        generation=generation_of(fields),
        overview=overview(jobs.store, job, finished, state="succeeded"),
    )
