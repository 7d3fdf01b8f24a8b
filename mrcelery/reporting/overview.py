"""A job as a person sees it: what it does, why it is slow, why it failed.

One record, :class:`Overview`, is what the progress of a waiting command, the pages in Flower, the report that stays in
storage and ``--json`` show. :func:`glance` makes it at a cost that does not grow with the job's tasks; :func:`overview`
adds its attempts. Both read the job store only; they may run at any moment, and what they find may be a moment old.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import msgspec
from msgspec.structs import replace

from mrcelery.jobstore import journal, stage_marks
from mrcelery.jobstore.base import JobStore
from mrcelery.jobstore.journal import Entry, Sums
from mrcelery.jobstore.presence import ailing
from mrcelery.reporting.status import committed, kept_sums
from mrcelery.schema.decoders import decoder
from mrcelery.schema.encoding import decode
from mrcelery.schema.states import FINAL, State
from mrcelery.schema.stragglers import Policy, is_slow, usual_rate
from mrcelery.schema.structs import (
    Commit,
    Counters,
    Failure,
    Kind,
    Record,
    Requests,
    StageSummary,
    add_coordinator_requests,
    add_counters,
    add_requests,
)
from mrcelery.schema.task_id import StageId

STAGE_ATTEMPTS = 20_000
"""Attempts of a stage that an overview lists; of more, those that went wrong and the longest."""

UNEVEN = 200
"""Smallest size of the largest partition, in percent of the mean, that is worth a warning."""

SILENT = 10.0
"""Seconds without a heartbeat after which a running attempt counts as silent."""


class Straggler(msgspec.Struct, frozen=True, kw_only=True):
    """A running attempt that has reported its progress; ``rate`` in records per second."""

    task: int
    attempt: str
    worker: str
    seconds: float
    records: int
    rate: float
    quiet: float
    """Seconds since its last heartbeat."""
    slow: bool
    """Whether it is a straggler by its rate."""
    backed_up: bool


class Warn(msgspec.Struct, frozen=True, kw_only=True):
    """A warning; ``kind`` is retries, lost, skew, straggler, silent, bad_records or sick, ``stage`` map or reduce."""

    kind: str
    text: str
    step: int = -1
    stage: str = ""
    task: int = -1
    """Of a straggler or a silent attempt."""


class StageView(msgspec.Struct, frozen=True, kw_only=True):
    """One stage. Times are epoch seconds, 0 for not yet; sums are those of the attempts that count."""

    step: int
    kind: Kind
    name: str = ""
    """The step's."""
    state: State
    """``failed`` where the job's failure lies, ``cancelled`` for another that the job ended before."""
    tasks: int = 0
    """0 if not known yet."""
    succeeded: int = 0
    """Tasks, of these."""
    sums: Sums = Sums()
    entered: float = 0.0
    ended: float = 0.0
    shuffle_bytes: int = 0
    left: float = -1.0
    """Seconds until it should succeed, by what it has done so far; -1 if not known."""
    skew: dict[str, int] = {}
    """How unevenly it filled its partitions, as counters (:mod:`mrcelery.shuffle.skew`)."""
    reading: int = 0
    """Records that running attempts have reported as read so far; not in ``sums``."""
    running: tuple[Straggler, ...] = ()
    """Attempts that run for a second or more, the slowest first; at most 20."""
    attempts: tuple[Entry, ...] = ()
    """By the time they began; none in a glance."""
    left_out: int = 0
    """Attempts that are not listed."""


class Overview(Record, frozen=True, kw_only=True):
    """A job at the moment ``now``; all times are epoch seconds, 0 for not yet."""

    job: str
    name: str = ""
    owner: str = ""
    state: State
    queue: str = ""
    now: float
    created: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    storage: str = ""
    output: str = ""
    message: str = ""
    """What the job last said through ``set_status``."""
    failure: Failure | None = None
    stages: tuple[StageView, ...] = ()
    counters: Counters = {}
    """Of stages that have succeeded and, once the job has ended, of all committed attempts."""
    requests: Requests = {}
    warnings: tuple[Warn, ...] = ()


def glance(store: JobStore, job: str, now: float | None = None) -> Overview | None:
    """Read a job without its attempts; None if the job store does not know it."""
    return _read(store, job, time.time() if now is None else now, attempts=False)


def overview(store: JobStore, job: str, now: float | None = None, *, state: State | None = None) -> Overview | None:
    """Read a job with its attempts; None if the job store does not know it. ``state``: the one it is about to have."""
    return _read(store, job, time.time() if now is None else now, attempts=True, state=state)


def _read(store: JobStore, job: str, now: float, *, attempts: bool, state: State | None = None) -> Overview | None:
    fields, sums = store.head(job)
    if not fields.get("state"):
        return None
    if state is not None:
        fields["state"] = state
    stages = []
    counters: Counters = {}
    requests: Requests = {}
    add_coordinator_requests(requests, fields)
    ended = fields["state"] in FINAL
    finished = float(fields.get("finished") or (now if ended else 0))
    reading = _Reading(store, fields, sums, now, attempts)
    for step, kind, name in stages_of(fields):
        summary = fields.get(f"summary.{step}.{kind}")
        summed = decode(summary.encode(), StageSummary) if summary else None
        if summed is not None:
            add_counters(counters, summed.all_counters(step))
            add_requests(requests, summed.totals.requests)
        elif ended:  # of a running job it is not worth reading its commits again and again
            for one in committed(store, fields, StageId(job, step, kind)):
                add_counters(counters, one.counters)
                add_requests(requests, one.requests if isinstance(one, Commit) else one.totals.requests)
        stages.append(_stage(reading, StageId(job, step, kind), name, summed))
    text = fields.get("failure")
    failure = decode(text.encode(), Failure) if text else None
    stages = _ends(stages, finished, failure) if ended else stages
    found = Overview(
        job=job,
        name=fields.get("name", ""),
        owner=fields.get("owner", ""),
        state=cast("State", fields["state"]),
        queue=fields.get("queue", ""),
        now=now,
        created=float(fields.get("created") or 0),
        started=float(fields.get("started") or 0),
        finished=finished,
        storage=fields.get("storage", ""),
        output=fields.get("output", ""),
        message=fields.get("status", ""),
        failure=failure,
        stages=tuple(stages),
        counters=counters,
        requests=requests,
    )
    # Who takes a glance waits for the job, and is told by the monitor.
    sick = _sick(store, found.queue or "celery") if attempts and not ended else []
    return replace(found, warnings=(*sick, *warnings(found)))


def _sick(store: JobStore, queue: str) -> list[Warn]:
    """Warn of the workers that would run the job's tasks, and take none."""
    sick = ailing(store.workers(), queue)
    return [Warn(kind="sick", text=f"worker {name} takes no tasks: {reason}") for name, reason in sick.items()]


def stages_of(fields: Mapping[str, str]) -> list[tuple[int, Kind, str]]:
    """List all stages of a job in their order, also those to come."""
    steps = decoder(list[tuple[str, bool]])(fields.get("steps") or b"[]")
    found: list[tuple[int, Kind, str]] = []
    for number, (name, reduces) in enumerate(steps):
        found.append((number, "map", name))
        if reduces:
            found.append((number, "reduce", name))
    return found


class _Reading(NamedTuple):
    """What was read of a job as a whole, for the overview of each of its stages."""

    store: JobStore
    fields: Mapping[str, str]
    sums: Mapping[str, int]
    now: float
    attempts: bool
    """Whether attempts are to be listed."""


def _stage(reading: _Reading, stage: StageId, name: str, summed: StageSummary | None) -> StageView:
    """Describe a stage of the step called ``name``; ``summed`` is there once it has succeeded."""
    store, fields, now = reading.store, reading.fields, reading.now
    _, step, kind = stage
    total = fields.get(f"total.{stage.name}")
    entered = float(fields.get(f"entered.{stage.name}") or 0)
    if total is None:
        return StageView(step=step, kind=kind, name=name, state="queued")
    tasks = int(total)
    # A stage that has succeeded may have its commits forgotten.
    over = summed is not None or _passed(fields, step, kind)
    running = not over and fields["state"] not in FINAL
    seen = stage_marks.glimpse(store, stage, now) if not over else None
    cut = kept_sums(fields, stage)
    succeeded = tasks if seen is None else seen.done if cut is None else cut.totals.tasks
    ended = float(fields.get(f"ended.{stage.name}") or 0)
    until = 0.0 if running else ended or float(fields.get("finished") or now)
    listed, left_out = _listed(store, stage, until) if reading.attempts else ((), 0)
    return StageView(
        step=step,
        kind=kind,
        name=name,
        state="succeeded" if over else "running",
        tasks=tasks,
        succeeded=succeeded,
        sums=journal.sums_of(reading.sums, stage),
        entered=entered,
        ended=ended,
        shuffle_bytes=summed.totals.shuffle_bytes if summed is not None else 0,
        left=_left(tasks, succeeded, now - entered) if running and entered else -1.0,
        skew=summed.skew if summed is not None else {},
        reading=sum(one.records for one in seen.running) if seen is not None and running else 0,
        running=_running(seen) if seen is not None and running else (),
        attempts=listed,
        left_out=left_out,
    )


def _passed(fields: Mapping[str, str], step: int, kind: Kind) -> bool:
    """Return whether the job is in a later stage; the sums of this one may be gone with a Redis that lost its data."""
    now = int(fields.get("step") or 0)
    return step < now or (step == now and kind == "map" and fields.get("stage") in ("reduce", "finish"))


def _ends(stages: list[StageView], finished: float, failure: Failure | None) -> list[StageView]:
    """Mark the stages that an ended job did not complete as failed or cancelled."""
    culprit = (failure.step, failure.kind) if failure is not None else None
    cut = [
        stage
        if stage.state == "succeeded"
        else replace(stage, state="failed" if (stage.step, stage.kind) == culprit else "cancelled")
        for stage in stages
    ]
    return [replace(stage, ended=finished) if stage.entered and not stage.ended else stage for stage in cut]


def _left(tasks: int, succeeded: int, seconds: float) -> float:
    """Seconds until all tasks have succeeded, where the rest takes as long as those that have."""
    return round(seconds / succeeded * (tasks - succeeded), 1) if succeeded and seconds > 0 else -1.0


def _running(seen: stage_marks.Glimpse) -> tuple[Straggler, ...]:
    usual, policy = usual_rate(seen.rates), Policy()
    found = [
        Straggler(
            task=one.task,
            attempt=one.attempt,
            worker=one.where,
            seconds=round(one.seconds, 1),
            records=one.records,
            rate=round(one.records / one.seconds, 1),
            quiet=round(one.quiet, 1),
            slow=is_slow(one, usual, policy),
            backed_up=one.task in seen.backups,
        )
        for one in seen.running
    ]
    found.sort(key=lambda one: (not one.slow, -one.seconds))
    return tuple(found[:20])


def _listed(store: JobStore, stage: StageId, until: float) -> tuple[tuple[Entry, ...], int]:
    """List a stage's attempts; if it was over at ``until``, those that still seem to run were lost."""
    found = journal.entries(store, stage)
    if until:
        found = [_lost(one, until) if one.outcome == "running" else one for one in found]
    return shortened(found, STAGE_ATTEMPTS)


def _lost(one: Entry, until: float) -> Entry:
    return replace(one, outcome="lost", seconds=round(max(0.0, until - one.began), 3))


def shortened(attempts: Sequence[Entry], most: int) -> tuple[tuple[Entry, ...], int]:
    """Return at most ``most`` attempts and how many were left out: quick ones that went well."""
    if len(attempts) <= most:
        return tuple(attempts), 0
    by_worth = sorted(attempts, key=lambda one: (one.outcome == "succeeded", -one.seconds))
    kept = sorted(by_worth[:most], key=lambda one: one.began)
    return tuple(kept), len(attempts) - most


def warnings(found: Overview) -> list[Warn]:
    """Derive what a person should know of a job from the rest of its overview."""
    told = []
    for stage in found.stages:
        where = f"step {stage.step} {stage.kind}"

        def warn(kind: str, text: str, where: str = where, stage: StageView = stage, task: int = -1) -> None:
            told.append(Warn(kind=kind, text=f"{where}: {text}", step=stage.step, stage=stage.kind, task=task))

        sums = stage.sums
        if sums.failed:
            warn("retries", f"{_attempts(sums.failed)} failed")
        if sums.killed or sums.lost:
            warn("lost", f"{_attempts(sums.killed + sums.lost)} lost with a process or worker")
        if sums.bad_records:
            warn("bad_records", f"{sums.bad_records:,} bad records skipped")
        if (percent := stage.skew.get("largest to mean, percent", 0)) >= UNEVEN:
            partitions = stage.skew["partitions"]
            warn("skew", f"the largest of {partitions} partitions has {percent / 100:.1f} times the mean of records")
        for one in stage.running:
            if one.slow:
                again = "; a backup runs" if one.backed_up else ""
                slow = f"task {one.task} on {one.worker} takes {one.rate:,.0f} records a second{again}"
                warn("straggler", slow, task=one.task)
            elif one.quiet >= SILENT:
                warn("silent", f"task {one.task} on {one.worker} has said nothing for {one.quiet:.0f} s", task=one.task)
    return told


def _attempts(number: int) -> str:
    return f"{number:,} attempt{'s' if number != 1 else ''}"
