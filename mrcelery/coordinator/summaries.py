"""A stage's commits, and their sums."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import cast

from mrcelery.attempt.commit import committed, read_commit
from mrcelery.attempt.open_jobs import OpenJob, OpenJobs
from mrcelery.errors import JobStoppedError, TaskError
from mrcelery.jobstore.base import JobStore
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import damaged, encode
from mrcelery.schema.signing import JobSeal
from mrcelery.schema.structs import Commit, Counters, Kind, Requests, StageSummary, Totals, add_counters, add_requests
from mrcelery.schema.task_id import StageId
from mrcelery.storage.transfers import carried

THREADS = 16
"""Simultaneous requests to storage, for commits and part files."""


def check_all_committed(jobs: OpenJobs, active: OpenJob, stage: StageId, tasks: int) -> None:
    """Raise if a task has no commit yet: a chord count that restarted in an emptied Redis may be wrong."""
    if jobs.store.done(stage) >= tasks:
        return
    known = jobs.store.done_tasks(stage)
    for task in range(tasks):
        if task not in known:
            if committed(active.storage, stage.task_id(task), active.seal) is None:
                raise JobStoppedError(
                    f"{stage.kind} task {task} of job {stage.job} has no commit yet: this comes too early"
                )
            jobs.store.add_commit(stage.task_id(task), b"")


def commits(jobs: OpenJobs, active: OpenJob, stage: StageId, tasks: int) -> Iterator[Commit]:
    """Yield a stage's commits, ordered by task: from the job store, else from storage."""
    kept = jobs.store.commits(stage)

    def find(task: int) -> Commit:
        data = kept.pop(task, None)
        if data is not None:
            return read_commit(data, stage.task_id(task), active.seal)
        commit = committed(active.storage, stage.task_id(task), active.seal)
        if commit is None:
            raise TaskError(
                f"{stage.kind} task {task} of step {stage.step} has no commit, although it was reported as succeeded"
            )
        return commit

    with ThreadPoolExecutor(max_workers=THREADS) as pool:
        numbers = iter(range(tasks))
        # In portions: the results waiting for their turn must not grow with the number of tasks.
        while portion := list(islice(numbers, THREADS * 64)):
            missing = [task for task in portion if task not in kept]
            read = dict(zip(missing, pool.map(carried(find), missing), strict=True))
            for task in portion:
                yield read[task] if task in read else find(task)


def summarise(
    jobs: OpenJobs,
    active: OpenJob,
    stage: StageId,
    commits: Iterable[Commit],
    skew: Callable[[], dict[str, int]] = dict,
) -> StageSummary:
    """Sum up a stage's commits; keep the sums in storage and, for people who watch, in the job store.

    ``skew`` is called after all commits have been taken.
    """
    shuffles = stage.kind == "map" and active.spec.steps[stage.step].reducers > 0
    summary = summed(commits, shuffles=shuffles, skew=skew)
    key = object_keys.stage_summary(stage)
    data = active.seal.encode(summary, key)
    active.storage.write(key, data)
    ended = f"{time.time():.3f}"
    jobs.store.update(active.id, {f"summary.{stage.name}": data.decode(), f"ended.{stage.name}": ended})
    return summary


def summed(
    commits: Iterable[Commit], *, shuffles: bool = False, skew: Callable[[], dict[str, int]] = dict
) -> StageSummary:
    """Sum up commits; ``shuffles``: their output is for reduce tasks."""
    counters: Counters = {}
    requests: Requests = {}
    tasks = records_in = records_out = bytes_in = bytes_out = bad_records = 0
    bad_keys: list[str] = []
    for commit in commits:
        add_counters(counters, commit.counters)
        add_requests(requests, commit.requests)
        tasks += 1
        records_in += commit.records_in
        records_out += commit.records_out
        bytes_in += commit.bytes_in
        bytes_out += commit.bytes_out
        bad_records += commit.bad_records
        bad_keys += [commit.bad_key] if commit.bad_key else []
    return StageSummary(
        counters=counters,
        totals=Totals(
            records_in=records_in,
            records_out=records_out,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            shuffle_bytes=bytes_out if shuffles else 0,
            tasks=tasks,
            requests=requests,
        ),
        skew=skew(),
        bad_records=bad_records,
        bad_keys=tuple(bad_keys),
    )


def keep_sums(store: JobStore, job: str, seal: JobSeal) -> None:
    """Keep the sums of a cancelled job's unfinished stages, whose commits are removed with its data."""
    fields = store.fields(job)
    for key in fields:
        head, _, name = key.partition(".")
        if head != "total" or f"summary.{name}" in fields or f"cut.{name}" in fields:
            continue
        step, kind = name.split(".")
        stage = StageId(job, int(step), cast("Kind", kind))
        found = (read_commit(data, stage.task_id(task), seal) for task, data in store.commits(stage).items())
        store.update(job, {f"cut.{name}": encode(summed(found)).decode()})


def summaries(jobs: OpenJobs, active: OpenJob) -> Iterator[tuple[StageId, StageSummary]]:
    """Yield a job's stages, each with its summary."""
    fields = jobs.store.fields(active.id)
    for number, step in enumerate(active.spec.steps):
        kinds: tuple[Kind, ...] = ("map", "reduce") if step.reducers else ("map",)
        for kind in kinds:
            stage = StageId(active.id, number, kind)
            key = object_keys.stage_summary(stage)
            kept = fields.get(f"summary.{stage.name}")
            data = kept.encode() if kept else active.storage.read(key)
            summary = active.seal.decode(data, StageSummary, key)
            for bad in summary.bad_keys:
                if not object_keys.lies_below(bad, object_keys.bad_records_root(active.id)):
                    raise damaged(f"{key} names {bad}, which none of its tasks writes: it was altered; submit again")
            yield stage, summary
