"""A job as a person sees it: what it does, why it is slow, why it failed.

One record, :class:`Overview`, is shown by a waiting command's progress, the pages in Flower, the report kept in storage
and ``--json``. :func:`glance` makes it at a cost that does not grow with the job's tasks; :func:`overview` adds its
attempts. Both read only the job store; they may run at any time, and their data may be slightly out of date.
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
"""Most attempts of a stage in an overview; beyond that, the unsuccessful and the longest ones."""

UNEVEN = 200
"""Smallest size of the largest partition, in percent of the mean, that is worth a warning."""

SILENT = 10.0
"""Seconds without a heartbeat after which a running attempt counts as silent."""


class Straggler(msgspec.Struct, frozen=True, kw_only=True):
    """A running attempt that has reported its progress; ``rate`` is in records per second."""

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
    """The task of a straggler or a silent attempt."""


class StageView(msgspec.Struct, frozen=True, kw_only=True):
    """One stage. Times are epoch seconds, 0 if not yet known; sums cover the attempts that count."""

    step: int
    kind: Kind
    name: str = ""
    """The step's name."""
    state: State
    """``failed`` for the stage of the job's failure, ``cancelled`` for others that the job's end cut short."""
    tasks: int = 0
    """0 if not known yet."""
    succeeded: int = 0
    """How many of these tasks have succeeded."""
    sums: Sums = Sums()
    entered: float = 0.0
    ended: float = 0.0
    shuffle_bytes: int = 0
    left: float = -1.0
    """Estimated seconds until it succeeds, from its progress so far; -1 if not known."""
    skew: dict[str, int] = {}
    """How uneven its partitions are, as counters (:mod:`mrcelery.shuffle.skew`)."""
    reading: int = 0
    """Records that running attempts have reported as read so far; not in ``sums``."""
    running: tuple[Straggler, ...] = ()
    """Attempts that have run for a second or more, the slowest first; at most 20."""
    attempts: tuple[Entry, ...] = ()
    """Ordered by start time; none in a glance."""
    left_out: int = 0
    """Attempts that are not listed."""


class Overview(Record, frozen=True, kw_only=True):
    """A job at the time ``now``; all times are epoch seconds, 0 if not yet known."""

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
    """The job's last ``set_status`` message."""
    failure: Failure | None = None
    stages: tuple[StageView, ...] = ()
    counters: Counters = {}
    """Counters of stages that have succeeded and, once the job has ended, of all committed attempts."""
    requests: Requests = {}
    warnings: tuple[Warn, ...] = ()


def glance(store: JobStore, job: str, now: float | None = None) -> Overview | None:
    """Read a job without its attempts; None if the job store does not know it."""
    return _read(store, job, time.time() if now is None else now, attempts=False)


def overview(store: JobStore, job: str, now: float | None = None, *, state: State | None = None) -> Overview | None:
    """Read a job with its attempts; None if the job store does not know it. ``state``: its upcoming state."""
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
        elif ended:  # for a running job, reading its commits again and again is not worth the cost
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
    # A client that takes a glance waits for the job, and the monitor reports sick workers to it.
    sick = _sick(store, found.queue or "celery") if attempts and not ended else []
    return replace(found, warnings=(*sick, *warnings(found)))


def _sick(store: JobStore, queue: str) -> list[Warn]:
    """Warn of the workers that should run the job's tasks but take none."""
    sick = ailing(store.workers(), queue)
    return [Warn(kind="sick", text=f"worker {name} takes no tasks: {reason}") for name, reason in sick.items()]


def stages_of(fields: Mapping[str, str]) -> list[tuple[int, Kind, str]]:
    """List all stages of a job in order, including those to come."""
    steps = decoder(list[tuple[str, bool]])(fields.get("steps") or b"[]")
    found: list[tuple[int, Kind, str]] = []
    for number, (name, reduces) in enumerate(steps):
        found.append((number, "map", name))
        if reduces:
            found.append((number, "reduce", name))
    return found


class _Reading(NamedTuple):
    """A job's data, read once for the overview of all its stages."""

    store: JobStore
    fields: Mapping[str, str]
    sums: Mapping[str, int]
    now: float
    attempts: bool
    """Whether attempts are to be listed."""


def _stage(reading: _Reading, stage: StageId, name: str, summed: StageSummary | None) -> StageView:
    """Describe a stage of the step called ``name``; ``summed`` is set once the stage has succeeded."""
    store, fields, now = reading.store, reading.fields, reading.now
    _, step, kind = stage
    total = fields.get(f"total.{stage.name}")
    entered = float(fields.get(f"entered.{stage.name}") or 0)
    if total is None:
        return StageView(step=step, kind=kind, name=name, state="queued")
    tasks = int(total)
    # The commits of a stage that has succeeded may be forgotten.
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
    """Return whether the job is in a later stage; this stage's sums may be lost with Redis's data."""
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
    """Return the seconds until all tasks succeed, if the rest take as long as those that have; -1 if not known."""
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
    """List a stage's attempts; if the stage was over at ``until``, those that still seem to run were lost."""
    found = journal.entries(store, stage)
    if until:
        found = [_lost(one, until) if one.outcome == "running" else one for one in found]
    return shortened(found, STAGE_ATTEMPTS)


def _lost(one: Entry, until: float) -> Entry:
    return replace(one, outcome="lost", seconds=round(max(0.0, until - one.began), 3))


def shortened(attempts: Sequence[Entry], most: int) -> tuple[tuple[Entry, ...], int]:
    """Return at most ``most`` attempts and how many were left out: quick, successful ones."""
    if len(attempts) <= most:
        return tuple(attempts), 0
    by_worth = sorted(attempts, key=lambda one: (one.outcome == "succeeded", -one.seconds))
    kept = sorted(by_worth[:most], key=lambda one: one.began)
    return tuple(kept), len(attempts) - most


def warnings(found: Overview) -> list[Warn]:
    """Derive a job's warnings from the rest of its overview."""
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
                warn("silent", f"task {one.task} on {one.worker} has been silent for {one.quiet:.0f} s", task=one.task)
    return told


def _attempts(number: int) -> str:
    return f"{number:,} attempt{'s' if number != 1 else ''}"
