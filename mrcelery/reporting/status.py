"""The status of a job, from its fields in the job store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from mrcelery.jobstore.base import JobStore
from mrcelery.schema.encoding import decode
from mrcelery.schema.structs import Commit, Failure, Kind, StageSummary
from mrcelery.schema.task_id import StageId

_STAGES = {"map": 1, "reduce": 2, "finish": 3}


@dataclass(frozen=True)
class StageStatus:
    """Tasks of one stage: ``kind`` is ``map`` or ``reduce``."""

    step: int
    kind: Kind
    succeeded: int
    total: int


@dataclass(frozen=True)
class JobStatus:
    """The status of a job. ``created``, ``started`` and ``finished`` are epoch seconds, 0 if not yet known."""

    job: str
    state: str
    name: str = ""
    owner: str = ""
    step: int = 0
    stage: str = ""
    stages: tuple[StageStatus, ...] = ()
    created: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    storage: str = ""
    output: str = ""
    message: str = ""
    """The job's last ``set_status`` message, or why it failed."""


def status_of(job: str, fields: Mapping[str, str], store: JobStore | None) -> JobStatus:
    """Build a job's status from its fields; without the job store its stages are not known."""
    step = int(fields.get("step") or 0)
    message = fields.get("status", "")
    if failure := failure_of(fields):
        message = failure.message
    return JobStatus(
        job=job,
        state=fields["state"],
        name=fields.get("name", ""),
        owner=fields.get("owner", ""),
        step=step,
        stage=fields.get("stage", ""),
        stages=stages_of(job, fields, store),
        created=float(fields.get("created") or 0),
        started=float(fields.get("started") or 0),
        finished=float(fields.get("finished") or 0),
        storage=fields.get("storage", ""),
        output=fields.get("output", ""),
        message=message,
    )


def stages_of(job: str, fields: Mapping[str, str], store: JobStore | None) -> tuple[StageStatus, ...]:
    """List the stages of known size. In a stage that the job has left, all tasks have succeeded."""
    if store is None:
        return ()
    found = []
    for key, value in fields.items():
        if key.startswith("total."):
            _, of, kind = key.split(".")
            found.append((StageId(job, int(of), cast("Kind", kind)), int(value)))
    found.sort()
    now = (int(fields.get("step") or 0), _STAGES.get(fields.get("stage", ""), 0))
    passed = fields["state"] == "succeeded"
    return tuple(
        StageStatus(step, kind, total if passed or (step, _STAGES[kind]) < now else _done(store, fields, stage), total)
        for stage, total in found
        for _, step, kind in [stage]
    )


def _done(store: JobStore, fields: Mapping[str, str], stage: StageId) -> int:
    for kept in (fields.get(f"summary.{stage.name}"), fields.get(f"cut.{stage.name}")):
        if kept is not None:
            return decode(kept.encode(), StageSummary).totals.tasks
    return store.done(stage)


def counted(job: str, fields: Mapping[str, str], store: JobStore | None) -> Iterator[tuple[int, StageSummary | Commit]]:
    """Iterate over a job's counts so far, by step: a succeeded stage's sums, a running one's commits."""

    for stage in stages_of(job, fields, store):
        summary = fields.get(f"summary.{stage.step}.{stage.kind}")
        if summary is not None:
            yield stage.step, decode(summary.encode(), StageSummary)
        elif store is not None:
            for one in committed(store, fields, StageId(job, stage.step, stage.kind)):
                yield stage.step, one


def committed(store: JobStore, fields: Mapping[str, str], stage: StageId) -> Iterator[StageSummary | Commit]:
    """Iterate over the counts of a stage that has not succeeded: its commits, or the sums that outlive them."""
    if (cut := kept_sums(fields, stage)) is not None:
        yield cut
        return
    for data in store.commits(stage).values():
        yield decode(data, Commit)


def kept_sums(fields: Mapping[str, str], stage: StageId) -> StageSummary | None:
    """Return the sums of a cancelled job's unfinished stage whose commits were removed; None for any other."""
    cut = fields.get(f"cut.{stage.name}")
    return decode(cut.encode(), StageSummary) if cut is not None else None


def failure_of(fields: Mapping[str, str]) -> Failure | None:
    """Return why a job failed, or None if it did not."""
    if not fields.get("failure"):
        return None

    return decode(fields["failure"].encode(), Failure)
