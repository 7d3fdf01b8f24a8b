"""Handling of a task that its machine made fail: it goes back to its queue, and another worker takes it.

The attempt is excused, and the worker stops consuming (:mod:`mrcelery.worker.health`). So one sick machine costs a few
short attempts, and a job whose workers are all sick waits instead of spinning.
"""

from __future__ import annotations

from celery.exceptions import Reject

from mrcelery.attempt.machine import cannot_import, sickness
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.errors import MRCeleryError, SickMachineError
from mrcelery.jobstore import stage_marks
from mrcelery.jobstore.presence import listening
from mrcelery.schema.task_id import TaskId
from mrcelery.worker import elsewhere

MOST_EXCUSED = 32
"""Most attempts of a task that are excused; further ones count, so that the job ends eventually."""

UNPROVEN = 3
"""The same limit for a missing module that no other worker is known to have."""

IMPORTS = "imports"
"""The table of a job's marks that lists the workers unable to import it."""


class WorkerIsSick(Reject):  # type: ignore[misc]  # named for Flower, where it is read
    """Has a task delivered again, to another worker, because this worker's machine made it fail."""

    def __init__(self, reason: str, certain: bool = True, requeue: bool = True) -> None:
        super().__init__(reason, requeue)
        self.args = (reason, certain, requeue)  # the form in which it is passed from the task's process to the main one
        self.certain = certain


def goes_back() -> bool:
    """Check whether a task failed by this machine should go to another worker: not if its client has only this one."""
    return not elsewhere.alone


def check_machine(jobs: OpenJobs, error: Exception) -> None:
    """Raise the error that returns a task to its queue, if this machine caused ``error``; for coordinator steps too."""
    if goes_back() and (sick := sickness(error, jobs)) is not None:
        raise sick from error


def to_another(jobs: OpenJobs, task: TaskId, error: MRCeleryError, *, worker: str) -> SickMachineError | None:
    """Return the error that returns a task to its queue, if this machine and not the job caused ``error``."""
    if not goes_back() or not (isinstance(error, SickMachineError) or cannot_import(error)):
        return None
    excused = jobs.store.excused(task)
    if isinstance(error, SickMachineError):
        return error if excused < MOST_EXCUSED else None
    return _lacks_module(jobs, task, error, worker, excused)


def _lacks_module(
    jobs: OpenJobs, task: TaskId, error: MRCeleryError, worker: str, excused: int
) -> SickMachineError | None:
    """Record that this worker cannot import the job; if another worker may, return the error that requeues the task."""
    store = jobs.store
    store.set_mark(task.job, IMPORTS, worker, "")
    unable = set(store.marks(task.job, IMPORTS))
    queue = jobs.open(task.job).spec.request.options.queue
    if not listening(store.workers(), queue) - unable:
        return None
    running = stage_marks.running(store, task.stage, 0.0)
    certain = bool(store.done(task.stage)) or any(one.worker not in unable for one in running)
    if excused >= (MOST_EXCUSED if certain else UNPROVEN):
        return None
    sick = SickMachineError(f"{error}; other workers of the queue may have it: install it on this one")
    sick.certain = certain
    return sick
