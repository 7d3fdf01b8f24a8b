"""The start of an attempt: it is counted before any user code runs, which may crash the process."""

from __future__ import annotations

import os
import secrets
import socket

from mrcelery.attempt.catching_up import state_of
from mrcelery.attempt.open_jobs import OpenJob, OpenJobs
from mrcelery.attempt.orders import Begun
from mrcelery.errors import JobStoppedError
from mrcelery.jobstore import journal
from mrcelery.schema.states import FINAL
from mrcelery.schema.task_id import TaskId
from mrcelery.storage.transfers import transfers


def _check_task(active: OpenJob, task: TaskId) -> None:
    """Raise :class:`JobStoppedError` for a task that the job does not have: the message only carries its numbers."""
    spec = active.spec
    if 0 <= task.step < len(spec.steps):
        # The number of tasks of a later step is in its plan, which is read with the task's split.
        maps = spec.plan.splits if task.step == 0 else task.task + 1
        if 0 <= task.task < (maps if task.kind == "map" else spec.steps[task.step].reducers):
            return
    raise JobStoppedError(f"job {task.job} has no {task.kind} task {task.task} of step {task.step}")


def begin(jobs: OpenJobs, task: TaskId, worker: str, *, alone: bool = False) -> Begun:
    """Count an attempt in the job store, before any user code runs, and return it.

    ``worker``: the name of this worker, so that a backup of the task can be sent to another. ``alone``: this process
    belongs to a pool, whose main process cleans up after it if it dies. Raises :class:`JobStoppedError` if the job has
    ended.
    """
    with transfers() as moved:
        if state_of(jobs, task.job) in FINAL:
            raise JobStoppedError(f"job {task.job} has ended")
        _check_task(jobs.open(task.job), task)
        token = secrets.token_hex(3)
        where = journal.of_process(worker or socket.gethostname(), os.getpid())
        number = journal.begin(jobs.store, task, token, where)
    return Begun(
        **task._asdict(),
        number=number,
        token=token,
        worker=where,
        pid=os.getpid(),
        keeper=os.getppid() if alone else os.getpid(),
        requests=dict(moved.requests),
    )
