"""Publishing a stage: a chord whose header is written message by message, in batches.

``celery.chord(header)(body)`` builds a signature per task first; for 20,000 tasks that is the larger part of the time.
Here the chord's size is set, and each header message is published as Celery would publish it, with the group's id and
index and the body in it, through a pipelined producer.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from mrcelery.coordinator.stages import StageTasks
from mrcelery.jobstore.base import generation_argument
from mrcelery.schema.task_id import TaskId
from mrcelery.worker.broker_errors import translated

if TYPE_CHECKING:
    from celery import Celery

PLAIN = {"serializer": "json", "priority": 0}
"""How messages are written, whatever the app sets for its own tasks."""

BATCH = 500
"""Messages sent to the broker in one round trip."""

PASSES = 3
"""Times that a worker passes on a task meant for another one before running it itself: there may be no other."""


def publish_stage(app: Celery, stage: StageTasks, generation: int = 0) -> None:
    """Publish a stage's tasks as a chord with the coordinator's next step as its body.

    ``generation`` is the job's and is put in each message; a message of an earlier generation is ignored.
    """
    tasks: Sequence[int] = range(stage.tasks) if stage.missing is None else stage.missing
    if not tasks:
        with translated(f"the stage {stage.id.name} was published"):
            _body(app, stage, generation).apply_async()
        return
    group = _group(stage)
    if stage.missing is not None:
        group += f".{secrets.token_hex(3)}"  # the counts of an earlier chord of the stage must not mix with this one's
    with translated(f"the stage {stage.id.name} was published"):
        app.backend.set_chord_size(group, len(tasks))
    _send(app, stage, group, ((number, {"attempt": 0}) for number in tasks), generation)


def publish_again(
    app: Celery,
    stage: StageTasks,
    task: int,
    attempt: int,
    generation: int = 0,
    *,
    countdown: float | None = None,
    **more: str | int,
) -> None:
    """Publish one task of a stage again, under the same id: whichever copies return, its chord counts one.

    ``countdown``: seconds for which the receiver delays the task; ``more`` is added to its message.
    """
    _send(app, stage, _group(stage), [(task, {"attempt": attempt, **more})], generation, countdown)


def publish_step(
    app: Celery, job: str, step: int, what: str, queue: str, generation: int = 0, *, countdown: float | None = None
) -> None:
    """Publish a coordinator step without waiting for a chord to complete."""
    kwargs = {"job": job, **({} if what == "start" else {"step": step}), **generation_argument(generation)}
    with translated(f"the {what} of job {job} was published"):
        app.send_task(
            f"mrcelery.{what}",
            kwargs=kwargs,
            queue=queue,
            countdown=countdown,
            **PLAIN,
            task_id=coordinator_id(job, step, what),
            root_id=job,
            ignore_result=True,
            kwargsrepr=repr(kwargs),
            argsrepr="()",
        )


def _group(stage: StageTasks) -> str:
    return f"{stage.id.job}.{stage.id.name}"


def _send(
    app: Celery,
    stage: StageTasks,
    group: str,
    tasks: Iterable[tuple[int, dict[str, Any]]],
    generation: int,
    countdown: float | None = None,
) -> None:
    body, name = _body(app, stage, generation), f"mrcelery.{stage.id.kind}"
    publishing = translated(f"the stage {stage.id.name} was published")
    with publishing, app.producer_pool.acquire(block=True) as producer, _batch(producer):
        for number, more in tasks:
            kwargs = {
                "job": stage.id.job,
                "step": stage.id.step,
                "task": number,
                **more,
                **generation_argument(generation),
            }
            message = app.amqp.create_task_message(
                celery_id(stage.id.task_id(number)),
                name,
                (),
                kwargs,
                countdown=countdown,
                group_id=group,
                group_index=number,
                chord=body,
                root_id=stage.id.job,
                ignore_result=True,  # a stored result would only create a window in which the count is lost
                kwargsrepr=repr(kwargs),  # Flower searches these
                argsrepr="()",
            )
            app.amqp.send_task_message(producer, name, message, queue=stage.queue, **PLAIN)


def _body(app: Celery, stage: StageTasks, generation: int) -> Any:
    return app.signature(
        f"mrcelery.{stage.then}",
        kwargs={"job": stage.id.job, "step": stage.id.step, **generation_argument(generation)},
        **PLAIN,
        immutable=True,  # the body reads commits, and needs no list of M results in its message
        queue=stage.queue,
        task_id=coordinator_id(stage.id.job, stage.id.step, stage.then),
    )


def celery_id(task: TaskId) -> str:
    """Return a task's Celery id: derived from the task, so that a duplicate is recognized."""
    return f"{task.job}.{task.name}.0"


def coordinator_id(job: str, step: int, what: str) -> str:
    """Return the Celery id of a coordinator step."""
    return f"{job}.start" if what == "start" else f"{job}.{step}.{what}"


def _batch(producer: Any) -> Any:
    """Open a pipelined producer, if kombu has one (5.7)."""
    return producer.batch(BATCH) if hasattr(producer, "batch") else nullcontext()
