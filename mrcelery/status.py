"""How a job stands, by what the job store says of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mrcelery.jobstore.base import JobStore

if TYPE_CHECKING:
    from mrcelery.records import Commit, Failure, StageSummary

_STAGES = {"map": 1, "reduce": 2, "finish": 3}


@dataclass(frozen=True)
class StageStatus:
    """Tasks of one stage: ``kind`` is ``map`` or ``reduce``."""

    step: int
    kind: str
    succeeded: int
    total: int


@dataclass(frozen=True)
class JobStatus:
    """How a job stands. ``created``, ``started`` and ``finished`` are epoch seconds, 0 for not yet."""

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
    """What the job last said through ``set_status``, or why it failed."""


def status_of(job: str, fields: Mapping[str, str], store: JobStore | None) -> JobStatus:
    """The status that a job's fields tell of; without its job store nothing of its stages."""
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
    """Stages whose size is known. Of a stage that was left behind all tasks have succeeded."""
    if store is None:
        return ()
    found = []
    for key, value in fields.items():
        if key.startswith("total."):
            _, of, kind = key.split(".")
            found.append((int(of), kind, int(value)))
    found.sort()
    now = (int(fields.get("step") or 0), _STAGES.get(fields.get("stage", ""), 0))
    passed = fields["state"] == "succeeded"
    return tuple(
        StageStatus(of, kind, total if passed or (of, _STAGES[kind]) < now else store.done(job, of, kind), total)
        for of, kind, total in found
    )


def counted(job: str, fields: Mapping[str, str], store: JobStore | None) -> Iterator[tuple[int, StageSummary | Commit]]:
    """What has been counted so far, by step: the sums of a stage that has succeeded, the commits of one that runs."""
    from mrcelery.encoding import decode
    from mrcelery.records import Commit, StageSummary

    for stage in stages_of(job, fields, store):
        summary = fields.get(f"summary.{stage.step}.{stage.kind}")
        if summary is not None:
            yield stage.step, decode(summary.encode(), StageSummary)
        elif store is not None:
            for data in store.commits(job, stage.step, stage.kind).values():
                yield stage.step, decode(data, Commit)


def failure_of(fields: Mapping[str, str]) -> Failure | None:
    """Why a job failed, None where it did not."""
    if not fields.get("failure"):
        return None
    from mrcelery.encoding import decode
    from mrcelery.records import Failure

    return decode(fields["failure"].encode(), Failure)
