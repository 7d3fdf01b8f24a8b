"""Rerunning the task that wrote a damaged part, before anything has read its commit."""

from __future__ import annotations

import time
from dataclasses import replace

from mrcelery.attempt.open_jobs import OpenJob, OpenJobs
from mrcelery.coordinator.stages import StageTasks, begin_stage, stage_of
from mrcelery.errors import DamagedPartError
from mrcelery.jobstore import stage_marks
from mrcelery.schema import object_keys
from mrcelery.schema.stragglers import Republished
from mrcelery.shuffle.damage import writer

MOST_AGAIN = 2
"""Times that a task is run again because its part was read back damaged."""


def run_again(jobs: OpenJobs, active: OpenJob, error: DamagedPartError) -> StageTasks:
    """Forget the commit of the task that wrote the damaged part, which no reader knows yet, and rerun the task."""
    job, store = active.id, jobs.store
    damaged = writer(error.part)
    stage_id, number = damaged.stage, damaged.task
    whole = stage_of(active.spec.request, store.fields(job), stage_id)
    before = stage_marks.republished(store, job, stage_id.step, whole.then).get(str(number), Republished(0, 0.0))
    if before.times >= MOST_AGAIN:
        error.retryable = False
        raise error
    stage_marks.note_republished(
        store, job, stage_id.step, whole.then, str(number), Republished(before.times + 1, time.time())
    )
    active.storage.delete([object_keys.commit(damaged)])
    known = store.done_tasks(stage_id)
    store.forget_stage(stage_id)
    for task in known - {number}:
        store.add_commit(stage_id.task_id(task), b"")  # to be read from storage
    stage = replace(whole, missing=(number,))
    begin_stage(jobs, active.spec, stage)
    return stage
