"""Removing data: what a job no longer needs after its end, and what an attempt writes too late."""

from __future__ import annotations

from mrcelery.attempt.open_jobs import OpenJob, OpenJobs
from mrcelery.schema import object_keys
from mrcelery.schema.task_id import KINDS, StageId, TaskId


def clean_up(jobs: OpenJobs, job: str) -> None:
    """Remove an ended job's intermediate data and plans, but not its spec, code, logs or results.

    Called after the job has ended, so that nobody waits for it. A failed job keeps everything for ``retry``; a
    cancelled one keeps the plan of its first step, so that it can be restarted.
    """
    state = jobs.store.state(job)
    if state not in ("succeeded", "cancelled"):
        return
    active = jobs.open(job)
    if active.spec.request.options.keep:
        return
    storage = active.storage
    kept = _kept if state == "succeeded" else _kept_of_cancelled
    # Attempts that still run may write after a commit is removed; their job has ended, which attempts check before they
    # start. `clean` finds their leftovers.
    for step in range(len(active.spec.steps)):
        root = object_keys.step_root(job, step)
        storage.delete(o.key for o in storage.list(root) if not kept(o.key))
        for kind in KINDS:
            jobs.store.forget_stage(StageId(job, step, kind))
    storage.sweep(object_keys.job_root(job))


def take_back(jobs: OpenJobs, active: OpenJob, task: TaskId, attempt: str) -> None:
    """Remove an attempt's late output, if its job has succeeded and may be cleaned up already.

    Does nothing for any other job.
    """
    job, storage = active.id, active.storage
    if active.spec.request.options.keep or jobs.store.state(job) != "succeeded":
        return
    root = object_keys.task_root(task)
    storage.delete([o.key for o in storage.list(root) if not _kept(o.key)])
    storage.delete([object_keys.bad_records(task, attempt)])
    storage.sweep(root)


def _kept(key: str) -> bool:
    name = key.rsplit("/", 1)[-1]
    return name.startswith("log.") or name in ("map.json", "reduce.json")


def _kept_of_cancelled(key: str) -> bool:
    # Not the summaries: they count commits that are gone.
    name = key.rsplit("/", 1)[-1]
    return name.startswith("log.") or "/step-0/plan-" in key
