"""Publishes a stage: a chord whose header is written message by message, in batches.

``celery.chord(header)(body)`` builds a signature per task first; for 20,000 tasks that is the larger
part of the time. Here the chord's size is set, and each header message is published as Celery
would, with the group's id and index and the body in it, through a pipelined producer.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from mrcelery.coordinator import Stage

if TYPE_CHECKING:
    from celery import Celery

BATCH = 500
"""Messages sent to the broker in one round trip."""


def task_id(job: str, step: int, kind: str, task: int, attempt: int = 0) -> str:
    """Celery's id of a task: derived from what it is, so that a repeat is recognised."""
    return f"{job}.{step}.{kind}.{task}.{attempt}"


def publish_stage(app: Celery, stage: Stage) -> None:
    """Publish a stage's tasks as a chord with the coordinator's next step as its body."""
    body = app.signature(
        f"mrcelery.{stage.then}",
        kwargs={"job": stage.job, "step": stage.step},
        immutable=True,  # the body reads commits, and needs no list of M results in its message
        queue=stage.queue,
        task_id=f"{stage.job}.{stage.step}.{stage.then}",
    )
    if stage.tasks == 0:
        body.apply_async()
        return
    group = f"{stage.job}.{stage.step}.{stage.kind}"
    app.backend.set_chord_size(group, stage.tasks)
    name = f"mrcelery.{stage.kind}"
    with app.producer_pool.acquire(block=True) as producer, _batch(producer):
        for number in range(stage.tasks):
            kwargs = {"job": stage.job, "step": stage.step, "task": number, "attempt": 0}
            message = app.amqp.create_task_message(
                task_id(stage.job, stage.step, stage.kind, number),
                name,
                (),
                kwargs,
                group_id=group,
                group_index=number,
                chord=body,
                root_id=stage.job,
                ignore_result=True,  # a stored result would only open a window in which the count is lost
                kwargsrepr=repr(kwargs),  # Flower searches these
                argsrepr="()",
            )
            app.amqp.send_task_message(producer, name, message, queue=stage.queue)


def _batch(producer: Any) -> Any:
    """A pipelined producer, where kombu has them (5.7)."""
    return producer.batch(BATCH) if hasattr(producer, "batch") else nullcontext()
