"""The course of a job as events: the lines of ``--json``, and the source of plain progress lines.

They complement those of :mod:`mrcelery.events`. A :class:`Narrator` derives them from successive overviews of the job,
without I/O.
"""

from __future__ import annotations

import time

import msgspec
from msgspec.structs import replace

from mrcelery.events import Event
from mrcelery.reporting.overview import Overview, StageView, Warn
from mrcelery.reporting.rates import Speed, read
from mrcelery.reporting.report import Report, totals_of
from mrcelery.schema.states import State
from mrcelery.schema.structs import Counters, Failure, Kind, Totals

PROGRESS_SECONDS = 1.0
"""Minimum seconds between two events of a stage's progress."""


class Submitted(Event, frozen=True, kw_only=True):
    """The job was registered."""

    name: str
    state: State
    queue: str
    storage: str
    output: str


class StageStarted(Event, frozen=True, kw_only=True):
    """A stage's tasks have been queued."""

    step: int
    kind: Kind
    tasks: int

    def __str__(self) -> str:
        return f"step {self.step} {self.kind}: {_tasks(self.tasks)}"


class Progress(Event, frozen=True, kw_only=True):
    """A stage's progress. Rates are per second and refer to input: over ten seconds, and the mean; -1: not known."""

    step: int
    kind: Kind
    tasks: int
    succeeded: int
    running: int
    """Running attempts."""
    retried: int
    """Attempts that failed or were lost."""
    records: int
    bytes: int
    records_per_second: float
    bytes_per_second: float
    mean_records_per_second: float
    mean_bytes_per_second: float
    shuffle_bytes: int
    left: float
    """Estimated seconds until the stage succeeds; -1: not known."""

    def __str__(self) -> str:
        told = [f"{self.succeeded:,} of {_tasks(self.tasks)} succeeded", f"{self.running:,} running"]
        told += [f"{self.retried:,} retried"] if self.retried else []
        told += [f"{self.mean_records_per_second:,.0f} records/s"] if self.mean_records_per_second >= 0 else []
        told += [f"about {self.left:,.0f} s left"] if self.left >= 0 else []
        return f"step {self.step} {self.kind}: {', '.join(told)}"


class Warned(Event, frozen=True, kw_only=True, tag="warning"):
    """A :class:`mrcelery.reporting.overview.Warn`; reported once, and again each time its number doubles."""

    kind: str
    text: str
    step: int
    stage: str
    task: int

    def __str__(self) -> str:
        return self.text


class StageSucceeded(Event, frozen=True, kw_only=True):
    """All tasks of a stage have committed."""

    step: int
    kind: Kind
    tasks: int
    seconds: float
    retried: int
    records_in: int
    records_out: int
    bytes_in: int
    bytes_out: int
    shuffle_bytes: int

    def __str__(self) -> str:
        read = f"{self.records_in:,} records read, {self.records_out:,} written"
        return f"step {self.step} {self.kind}: {_tasks(self.tasks)} succeeded in {self.seconds:.1f} s, {read}"


class Ended(Event, frozen=True, kw_only=True):
    """The last event: the job's report."""

    name: str
    state: State
    created: float
    started: float
    finished: float
    seconds: float
    storage: str
    output: str
    parts: tuple[str, ...]
    counters: Counters
    totals: Totals
    bad_records: int
    failure: Failure | None
    overview: Overview
    """Without its attempts."""


class Succeeded(Ended, frozen=True, kw_only=True):
    """The job has succeeded."""


class Failed(Ended, frozen=True, kw_only=True):
    """The job has failed."""


class Cancelled(Ended, frozen=True, kw_only=True):
    """The job was cancelled."""


_ENDS: dict[str, type[Ended]] = {"succeeded": Succeeded, "failed": Failed, "cancelled": Cancelled}


def submitted(found: Overview) -> Submitted:
    """Make the first event of a job."""
    return Submitted(
        job=found.job,
        at=time.time(),
        name=found.name,
        state=found.state,
        queue=found.queue,
        storage=found.storage,
        output=found.output,
    )


def ended(found: Overview, report: Report | None) -> Ended:
    """Make the last event of a job that has ended."""
    stages = tuple(replace(stage, attempts=(), left_out=0) for stage in found.stages)
    started = found.started or found.created
    return _ENDS[found.state](
        job=found.job,
        at=time.time(),
        name=found.name,
        state=found.state,
        created=found.created,
        started=started,
        finished=found.finished,
        seconds=report.seconds if report is not None else round(max(0.0, found.finished - started), 6),
        storage=found.storage,
        output=found.output,
        parts=report.parts if report is not None else (),
        counters=report.counters if report is not None else found.counters,
        totals=report.totals if report is not None else totals_of(found),
        bad_records=sum(stage.sums.bad_records for stage in found.stages),
        failure=found.failure,
        overview=replace(found, stages=stages),
    )


class Narrator:
    """Turns successive overviews of a job into events for the changes between them."""

    def __init__(self) -> None:
        self.speed = Speed()
        self._reported: set[tuple[object, ...]] = set()
        self._progress: dict[tuple[int, str], tuple[float, StageView]] = {}

    def observe(self, found: Overview) -> list[Event]:
        """Return the events since the previous overview."""
        self.speed.observe(found)
        news: list[Event] = []
        for stage in found.stages:
            if stage.state != "queued" and stage.entered and self._first("started", stage.step, stage.kind):
                news.append(
                    StageStarted(job=found.job, at=stage.entered, step=stage.step, kind=stage.kind, tasks=stage.tasks)
                )
            if stage.state == "running":
                news += self._how_far(found, stage)
            if stage.state == "succeeded" and stage.entered and self._first("succeeded", stage.step, stage.kind):
                news.append(_succeeded(found, stage))
        return news + [
            Warned(
                job=found.job,
                at=found.now,
                kind=warn.kind,
                text=warn.text,
                step=warn.step,
                stage=warn.stage,
                task=warn.task,
            )
            for warn in found.warnings
            if warn.kind != "sick"  # a separate event reports it to waiting clients
            and self._first("warned", warn.kind, warn.step, warn.stage, warn.task, _doublings(found, warn))
        ]

    def _first(self, *what: object) -> bool:
        if what in self._reported:
            return False
        self._reported.add(what)
        return True

    def _how_far(self, found: Overview, stage: StageView) -> list[Event]:
        key = stage.step, stage.kind
        when, before = self._progress.get(key, (0.0, None))
        if found.now - when < PROGRESS_SECONDS or before == replace(stage, running=(), left=-1.0):
            return []
        self._progress[key] = found.now, replace(stage, running=(), left=-1.0)
        rates = self.speed.of(stage, found.now)
        records, size = read(stage)
        return [
            Progress(
                job=found.job,
                at=found.now,
                step=stage.step,
                kind=stage.kind,
                tasks=stage.tasks,
                succeeded=stage.succeeded,
                running=stage.sums.running,
                retried=retried(stage),
                records=int(records),
                bytes=int(size),
                records_per_second=round(rates.records, 1),
                bytes_per_second=round(rates.bytes, 1),
                mean_records_per_second=round(rates.mean_records, 1),
                mean_bytes_per_second=round(rates.mean_bytes, 1),
                shuffle_bytes=shuffled(found, stage),
                left=stage.left,
            )
        ]


def retried(stage: StageView) -> int:
    """Count the attempts that failed or were lost, and were replaced by others."""
    return stage.sums.failed + stage.sums.killed + stage.sums.lost


def shuffled(found: Overview, stage: StageView) -> int:
    """Return the bytes that a map stage has written for its reduce tasks so far; 0 if it has no reduce stage."""
    reduces = any(other.step == stage.step and other.kind == "reduce" for other in found.stages)
    return stage.shuffle_bytes or (stage.sums.bytes_out if stage.kind == "map" and reduces else 0)


def _succeeded(found: Overview, stage: StageView) -> StageSucceeded:
    sums = stage.sums
    return StageSucceeded(
        job=found.job,
        at=stage.ended or found.now,
        step=stage.step,
        kind=stage.kind,
        tasks=stage.tasks,
        seconds=round(max(0.0, (stage.ended or found.now) - stage.entered), 3),
        retried=retried(stage),
        records_in=sums.records_in,
        records_out=sums.records_out,
        bytes_in=sums.bytes_in,
        bytes_out=sums.bytes_out,
        shuffle_bytes=shuffled(found, stage),
    )


def _doublings(found: Overview, warn: Warn) -> int:
    """Return how often a warning's number has doubled; 0 for a warning without a number."""
    for stage in found.stages:
        if (stage.step, stage.kind) == (warn.step, warn.stage):
            sums = stage.sums
            counts = {"retries": sums.failed, "lost": sums.killed + sums.lost, "bad_records": sums.bad_records}
            return counts.get(warn.kind, 0).bit_length()
    return 0


def _tasks(number: int) -> str:
    return f"{number:,} task{'' if number == 1 else 's'}"


def line(event: Event) -> bytes:
    """Encode an event as a line of JSON."""
    return msgspec.json.encode(event) + b"\n"
