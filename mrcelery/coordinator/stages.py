"""The coordinator: what happens between the stages of a job.

It has no process of its own: :func:`start`, :func:`barrier` and :func:`finish` are short tasks that any worker runs
(the inline runner calls them). Each reads the spec, the commits and the job store, and returns the
:class:`StageTasks` to run next. All may run twice: they write the same each time.

::

    start -> StageTasks(map) -> barrier -> StageTasks(reduce) -> finish -> StageTasks(map) of the next step, or the end
                     \\______ map-only step ________/
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from mrcelery.attempt.open_jobs import OpenJob, OpenJobs
from mrcelery.errors import JobStoppedError, UnsignedError
from mrcelery.planning.splits import LAST, page_of
from mrcelery.schema import object_keys
from mrcelery.schema.states import FINAL
from mrcelery.schema.structs import (
    JobSpec,
    PlanPage,
    Request,
    requests_field,
)
from mrcelery.schema.task_id import StageId
from mrcelery.storage.transfers import Transfers, transfers


@dataclass(frozen=True)
class StageTasks:
    """Tasks to run at the same time, and the coordinator step that follows them."""

    id: StageId
    tasks: int
    then: str
    """``barrier`` or ``finish``."""
    queue: str
    missing: tuple[int, ...] | None = None
    """The tasks to publish, if a stage is resumed; None: all."""

    @property
    def published(self) -> str:
        """Return the name of the job's field that records when all tasks were on the queue."""
        return f"published.{self.id.name}"


def stage_of(request: Request, fields: Mapping[str, str], stage: StageId) -> StageTasks:
    """Describe a stage that has begun, from the job's fields."""
    then = "barrier" if stage.kind == "map" and request.steps[stage.step].has_reducer else "finish"
    return StageTasks(stage, int(fields[f"total.{stage.name}"]), then, request.options.queue)


def has_gone_on(fields: Mapping[str, str], what: str, step: int = 0) -> bool:
    """Check whether the stage after a coordinator step is on the queue, which makes this delivery of the step late."""
    after = {"start": (0, "map"), "barrier": (step, "reduce"), "finish": (step + 1, "map")}[what]
    return "published.{}.{}".format(*after) in fields


@contextmanager
def counted(jobs: OpenJobs, job: str, what: str) -> Iterator[Transfers]:
    """Record this block's coordinator requests to S3 in the job's fields; once, even if it runs twice."""
    with transfers() as moved:
        yield moved
    if moved.requests:
        jobs.store.update(job, requests_field(what, moved.requests))


def map_stage(spec: JobSpec, step: int, tasks: int) -> StageTasks:
    """Describe the map stage of a step with this many tasks."""
    then = "barrier" if spec.steps[step].reducers else "finish"
    return StageTasks(StageId(spec.request.job, step, "map"), tasks, then, spec.request.options.queue)


def begin_stage(jobs: OpenJobs, spec: JobSpec, stage: StageTasks, more: Mapping[str, str] | None = None) -> None:
    """Record in the job's fields that a stage begins; raise if the job has ended meanwhile."""
    fields = {
        "step": str(stage.id.step),
        "stage": stage.id.kind,
        f"total.{stage.id.name}": str(stage.tasks),
        f"entered.{stage.id.name}": f"{time.time():.3f}",
    }
    fields.update(more or {})
    if not jobs.store.move(stage.id.job, "running", fields):
        raise JobStoppedError(f"job {stage.id.job} has ended")


def open_running(jobs: OpenJobs, job: str, step: int) -> OpenJob:
    """Open a job; raise JobStoppedError if it has ended, or has no such step."""
    if jobs.store.state(job) in FINAL:
        raise JobStoppedError(f"job {job} has ended")
    active = jobs.open(job)
    if not 0 <= step < len(active.spec.steps):
        raise JobStoppedError(f"job {job} has no step {step}")
    return active


def map_tasks(jobs: OpenJobs, active: OpenJob, step: int) -> int:
    """Return M of a step. With a secret, the plan's signed last page must confirm the job store's number."""
    if step == 0:
        return active.spec.plan.splits
    tasks = int(jobs.store.fields(active.id)[f"total.{step}.map"])
    if active.seal.signs and planned_tasks(active, step, page_of(max(0, tasks - 1))) != tasks:
        raise UnsignedError(
            f"Redis says that step {step} of job {active.id} has {tasks} map tasks, and its signed plan has others: "
            "it was altered; see who can write to the broker, and submit the job again"
        )
    return tasks


def planned_tasks(active: OpenJob, step: int, last: int) -> int:
    """Return M of a later step by the ``last`` page of its signed plan. Raises :class:`UnsignedError` otherwise."""
    key = object_keys.plan_page(active.id, step, last)
    try:
        page = active.seal.decode(active.storage.read(key), PlanPage, key, (LAST,))
    except FileNotFoundError:
        raise UnsignedError(
            f"{key}, the last page of the plan of step {step} of job {active.id}, is gone: it was removed, or the "
            "number of map tasks was altered; see who can write to the storage and the broker, and submit the job again"
        ) from None
    return page.splits[-1].index + 1 if page.splits else 0
