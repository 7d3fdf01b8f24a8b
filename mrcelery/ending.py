"""The end of a job: its output is published or taken back, its report written, its data removed."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping

from msgspec.structs import replace

from mrcelery import layout
from mrcelery.committer import publish, withdraw
from mrcelery.errors import CorruptDataError, JobStoppedError
from mrcelery.output import output_suffix
from mrcelery.overview import overview
from mrcelery.records import Counters, Part, Totals, add_coordinator_requests, add_counters, add_requests
from mrcelery.repair import damage
from mrcelery.report import Report
from mrcelery.runtime import ActiveJob, Runtime
from mrcelery.storage.base import Storage
from mrcelery.storage.transfers import Transfers
from mrcelery.summaries import summaries
from mrcelery.task_id import KINDS, StageId, TaskId

SMALL_RESULTS = 64 << 10
"""Bytes of output that go to the client through the job store, if it wants to print them."""


def publish_job(runtime: Runtime, active: ActiveJob, parts: list[Part], moved: Transfers) -> None:
    """Publish the committed parts and end the job.

    Raises :class:`mrcelery.errors.DamagedPartError` for a small result that reads wrong, before anything is published.
    """
    request, storage, job = active.spec.request, active.storage, active.id
    suffix = output_suffix(request.options)
    names = [] if request.options.output_format == "none" else [layout.part_name(p.partition, suffix) for p in parts]
    finished = time.time()

    def report() -> Report:
        return _report(runtime, active, tuple(names), finished, moved.requests)

    small = request.small_results and names and sum(p.bytes for p in parts) <= SMALL_RESULTS and not suffix
    results = b"".join(_read_whole(storage, part) for part in parts) if small else None
    copies = dict(zip(names, parts, strict=False))
    if request.options.max_bad_records:
        copies.update(_bad_records(runtime, active))
    try:
        publish(
            runtime.store, storage, job, request.output, list(copies.values()), list(copies), report,
            overwrite=request.options.overwrite,
        )  # fmt: skip
    except JobStoppedError:
        withdraw_output(runtime, job)
        raise
    if results is not None:
        runtime.store.put_blob(job, "results", results)
    if not runtime.store.move(job, "succeeded", {"finished": repr(finished), "stage": "finish"}):
        withdraw_output(runtime, job)


def _read_whole(storage: Storage, part: Part) -> bytes:
    with damage(part):
        data = storage.read(part.key)
        if zlib.crc32(data) != part.crc32:
            raise CorruptDataError("its checksum is another")
        return data


def _bad_records(runtime: Runtime, active: ActiveJob) -> dict[str, Part]:
    """What OUTPUT gets of the records that were skipped; those of attempts that do not count are removed."""
    storage, root = active.storage, layout.job_root(active.id)
    counted = {key for _, summary in summaries(runtime, active) for key in summary.bad_keys}
    storage.delete([o.key for o in storage.list(layout.bad_records_root(active.id)) if o.key not in counted])
    if not active.spec.request.output:
        return {}  # they lie where the results do
    return {key.removeprefix(root): Part(-1, key, 0, 0, 0) for key in sorted(counted)}


def withdraw_output(runtime: Runtime, job: str) -> None:
    """After a job has failed or was cancelled: take back what it had published. Harmless for any other."""
    if runtime.store.state(job) in ("failed", "cancelled"):
        active = runtime.job(job)
        withdraw(active.storage, job, active.spec.request.output)


def _report(
    runtime: Runtime, active: ActiveJob, names: tuple[str, ...], finished: float, publishing: Mapping[str, int]
) -> Report:
    job, spec = active.id, active.spec
    fields = runtime.store.fields(job)
    counters: Counters = {}
    totals = Totals()
    requests = dict(publishing)
    add_coordinator_requests(requests, fields)
    bad_records = 0
    for (_, number, kind), summary in summaries(runtime, active):
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
        seconds=round(finished - started, 6),
        output=spec.request.output,
        parts=names,
        bad_records=bad_records,
        overview=overview(runtime.store, job, finished, state="succeeded"),
    )


def clean_up(runtime: Runtime, job: str) -> None:
    """Remove what an ended job no longer needs, intermediate data and plans; not its spec, code, logs or results.

    Called after the job has ended, so that nobody waits for it. A failed job keeps all for ``retry``; a cancelled
    one the plan of its first step, so that it can be run anew.
    """
    state = runtime.store.state(job)
    if state not in ("succeeded", "cancelled"):
        return
    active = runtime.job(job)
    if active.spec.request.options.keep:
        return
    storage = active.storage
    kept = _kept if state == "succeeded" else _kept_of_cancelled
    # Attempts that still run lose their race against a commit that is gone; their job has ended, and
    # they look for that before they start. What they leave is found by `clean`.
    for step in range(len(active.spec.steps)):
        root = layout.step_root(job, step)
        storage.delete(o.key for o in storage.list(root) if not kept(o.key))
        for kind in KINDS:
            runtime.store.forget_stage(StageId(job, step, kind))
    storage.sweep(layout.job_root(job))


def take_back(runtime: Runtime, active: ActiveJob, task: TaskId, attempt: str) -> None:
    """Remove what an attempt has written that came too late: of a job that succeeded and may be cleaned up already.

    Harmless for any other.
    """
    job, storage = active.id, active.storage
    if active.spec.request.options.keep or runtime.store.state(job) != "succeeded":
        return
    root = layout.task_root(task)
    storage.delete([o.key for o in storage.list(root) if not _kept(o.key)])
    storage.delete([layout.bad_records(task, attempt)])
    storage.sweep(root)


def _kept(key: str) -> bool:
    name = key.rsplit("/", 1)[-1]
    return name.startswith("log.") or name in ("map.json", "reduce.json")


def _kept_of_cancelled(key: str) -> bool:
    # Not the summaries: they would tell of commits that are gone.
    name = key.rsplit("/", 1)[-1]
    return name.startswith("log.") or "/step-0/plan-" in key
