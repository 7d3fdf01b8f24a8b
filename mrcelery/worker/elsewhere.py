"""Tasks that a worker leaves to others: backups of its own slow attempts, and tasks whose extra it lacks."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, cast

from celery.exceptions import Ignore
from msgspec.structs import replace

from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.coordinator.stages import stage_of
from mrcelery.errors import BrokerUnreachableError, JobStoppedError, MissingExtraError
from mrcelery.jobstore.presence import alive
from mrcelery.schema.encoding import encode
from mrcelery.schema.states import FINAL
from mrcelery.schema.structs import Failure
from mrcelery.schema.task_id import StageId, TaskId
from mrcelery.worker.publish import publish_again, publish_step

if TYPE_CHECKING:
    from celery import Celery, Task

    from mrcelery.jobstore.redis import RedisJobStore

HELD_SECONDS = 1.0
"""Delay before a task that this worker cannot run is offered again: it would circulate while others are busy."""

WAITING_SECONDS = 5.0
"""The same delay if no worker has what the task needs: its job waits, and other jobs' tasks run."""

JOBS_KEPT = 100

alone = False
"""Whether no other worker can join, as in the local runner. A task that this worker cannot run then fails."""

_lacking: OrderedDict[str, MissingExtraError] = OrderedDict()
"""By job: the extra this process lacks. The job's other tasks need not start here."""


def pass_on(
    app: Celery, jobs: OpenJobs, task: TaskId, generation: int, *, attempt: int, avoid: str, passes: int
) -> NoReturn:
    """Leave a backup to a worker other than the slow one, which runs it only if it keeps receiving it."""
    try:
        stage = stage_of(jobs.request(task.job), jobs.store.fields(task.job), task.stage)
        publish_again(app, stage, task.task, attempt, generation, avoid=avoid, passes=passes - 1)
    except (JobStoppedError, KeyError) as e:
        raise Ignore(str(e)) from None  # the job is no longer known
    raise Ignore(f"left to another worker than {avoid}")


def check_extras(jobs: OpenJobs, job: str) -> None:
    """Raise :class:`MissingExtraError` if this process is known to lack an extra for a job that has not ended."""
    if job in _lacking and jobs.store.state(job) not in FINAL:
        raise _lacking[job]


def leave_to_others(task: Task, jobs: OpenJobs, error: MissingExtraError, generation: int, why: Failure) -> None:
    """Offer the task named by ``why`` to workers that have the extra this one lacks, and report where it is missing.

    Returns, and does nothing, if no other worker can join; else raises :class:`Ignore`.
    """
    if alone:
        return
    _lacking[why.job] = error
    while len(_lacking) > JOBS_KEPT:
        _lacking.popitem(last=False)
    try:
        request, fields = jobs.request(why.job), jobs.store.fields(why.job)
        queue = request.options.queue
        able = _somebody_able(jobs, queue)
        what = "another worker takes it" if able else f"no worker on queue {queue} has them, so the job waits for one"
        message = f"{error} (missing on {task.request.hostname}; {what})"
        record_retry(jobs, replace(why, message=message))
        # A task that was held is offered at once, while this process is still busy with it and takes no other.
        later = WAITING_SECONDS if not able else None if task.request.eta else HELD_SECONDS
        if why.kind in ("map", "reduce"):
            stage = stage_of(request, fields, StageId(why.job, why.step, why.kind))  # type: ignore[arg-type]
            attempt = int(task.request.kwargs.get("attempt", 0))
            publish_again(task.app, stage, why.task, attempt, generation, countdown=later)
        else:
            publish_step(task.app, why.job, why.step, why.kind, queue, generation, countdown=later)
    except (JobStoppedError, KeyError) as e:
        raise Ignore(str(e)) from None  # the job is no longer known
    raise Ignore(message)


def _somebody_able(jobs: OpenJobs, queue: str) -> bool:
    return any(about.arrow for about in alive(cast("RedisJobStore", jobs.store).workers(), queue).values())


def record_retry(jobs: OpenJobs, why: Failure) -> None:
    """Record in the job's fields why a task is retried, for clients that wait for the job."""
    with suppress(BrokerUnreachableError):  # then the record is of no use
        jobs.store.update(why.job, {"retrying": encode(why).decode()})
