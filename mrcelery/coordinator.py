"""The coordinator: what happens between the stages of a job.

It has no process of its own: :func:`start`, :func:`barrier` and :func:`finish` are short tasks that any
worker runs (the inline runner calls them). Each reads the spec, the commits and the job store, and
returns the :class:`StageTasks` to run next. All may run twice: what they write is the same each time.

::

    start -> StageTasks(map) -> barrier -> StageTasks(reduce) -> finish -> StageTasks(map) of the next step, or the end
                     \\______ map-only step ________/
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

from mrcelery import layout, marks
from mrcelery.ending import publish_job, withdraw_output
from mrcelery.errors import DamagedPartError, JobStoppedError
from mrcelery.index import encode_key
from mrcelery.partlists import PartLists
from mrcelery.plan import write_plan
from mrcelery.planning import plan_job, restore_plan
from mrcelery.ranges import Ranges
from mrcelery.reconcile import Republished
from mrcelery.records import (
    Commit,
    Extent,
    JobSpec,
    Part,
    Request,
    Split,
    requests_field,
)
from mrcelery.recovery import standing
from mrcelery.repair import writer
from mrcelery.report import read_report, remove_report
from mrcelery.runtime import OpenJob, OpenJobs
from mrcelery.skew import Skew
from mrcelery.states import FINAL
from mrcelery.storage import check, open_storage
from mrcelery.storage.transfers import Transfers, carried, transfers
from mrcelery.summaries import THREADS, check_all_committed, commits, summarise
from mrcelery.task_id import KINDS, StageId, TaskId

MOST_AGAIN = 2
"""Times that a task runs again since what it wrote reads wrong."""


@dataclass(frozen=True)
class StageTasks:
    """Tasks to run at the same time, and the step of the coordinator that follows them."""

    id: StageId
    tasks: int
    then: str
    """``barrier`` or ``finish``."""
    queue: str
    missing: tuple[int, ...] | None = None
    """The tasks to publish, of a stage that goes on where it was; None: all."""

    @property
    def published(self) -> str:
        """The job's field that says when all of them were on the queue."""
        return f"published.{self.id.name}"


def stage_of(request: Request, fields: Mapping[str, str], stage: StageId) -> StageTasks:
    """A stage that has been entered, as the job's fields tell of it."""
    then = "barrier" if stage.kind == "map" and request.steps[stage.step].has_reducer else "finish"
    return StageTasks(stage, int(fields[f"total.{stage.name}"]), then, request.options.queue)


def has_gone_on(fields: Mapping[str, str], what: str, step: int = 0) -> bool:
    """Whether the stage that follows a step of the coordinator is on the queue: then another delivery of it is late."""
    after = {"start": (0, "map"), "barrier": (step, "reduce"), "finish": (step + 1, "map")}[what]
    return "published.{}.{}".format(*after) in fields


def start(jobs: OpenJobs, job: str) -> StageTasks | None:
    """Plan a submitted job, ship its code to storage and write its spec.

    A job that has a spec goes on from what storage holds of it, as after ``retry`` or where Redis lost its data.

    Raises :class:`mrcelery.errors.UsageError`, :class:`mrcelery.errors.UnreachableError` or
    :class:`mrcelery.errors.UnsignedError` for a job that cannot start.
    """
    if jobs.store.state(job) in FINAL:
        raise JobStoppedError(f"job {job} has ended")
    request = jobs.request(job)
    storage = open_storage(request.storage)
    with _counted(jobs, job, "start"):
        check(storage)
        key = layout.spec(job)
        try:
            spec = jobs.verified(storage.read(key), job)
        except FileNotFoundError:
            spec = plan_job(jobs, request, storage)
            jobs.keep(spec, storage)
            first = _map_stage(spec, 0, spec.plan.splits)
            _enter(jobs, spec, first, {"started": repr(time.time())})
        else:
            first = _resume(jobs, jobs.keep(spec, storage))
    # They are in storage with the spec: what came through the job store takes its memory for nothing.
    jobs.store.drop_blobs(job, [request.bundle.sha256, *request.blobs])
    return first


def _resume(jobs: OpenJobs, active: OpenJob) -> StageTasks:
    """Enter the stage that a job is in by its commits; the tasks to publish are those without one."""
    job, store = active.id, jobs.store
    now = standing(active.storage, active.spec)
    earlier = read_report(active.storage, job)
    if earlier is not None and earlier.state != "succeeded":
        remove_report(active.storage, job)  # it tells of a run before this one
    elif earlier is not None and len(now.committed) < now.tasks:
        # It had come to its end, and its commits are being removed: only the job store had forgotten.
        store.move(job, "succeeded", {"finished": repr(time.time()), "stage": "finish"})
        raise JobStoppedError(f"job {job} has ended")
    if now.step == 0:
        restore_plan(active)
    for step in range(now.step, len(active.spec.steps)):
        for kind in KINDS:
            stage_id = StageId(job, step, kind)
            known = now.committed if (step, kind) == (now.step, now.kind) else frozenset()
            if (step, kind) >= (now.step, now.kind) and not store.done_tasks(stage_id) <= known:
                store.forget_stage(stage_id)  # what it remembers was removed from storage
    for task in now.committed:
        store.add_commit(TaskId(job, now.step, now.kind, task), b"")
    started = store.fields(job).get("started") or repr(active.spec.request.created)
    totals = {f"total.{step}.{kind}": str(tasks) for (step, kind), tasks in now.totals.items()}
    if now.kind == "map":
        stage = _map_stage(active.spec, now.step, now.tasks)
    else:
        stage = StageTasks(StageId(job, now.step, "reduce"), now.tasks, "finish", active.spec.request.options.queue)
    stage = replace(stage, missing=tuple(task for task in range(now.tasks) if task not in now.committed))
    _enter(jobs, active.spec, stage, {**totals, "started": started})
    return stage


@contextmanager
def _counted(jobs: OpenJobs, job: str, what: str) -> Iterator[Transfers]:
    """Keep in the job's fields what the coordinator asks of S3 in this block; once, also where it runs twice."""
    with transfers() as moved:
        yield moved
    if moved.requests:
        jobs.store.update(job, requests_field(what, moved.requests))


def _map_stage(spec: JobSpec, step: int, tasks: int) -> StageTasks:
    then = "barrier" if spec.steps[step].reducers else "finish"
    return StageTasks(StageId(spec.request.job, step, "map"), tasks, then, spec.request.options.queue)


def _enter(jobs: OpenJobs, spec: JobSpec, stage: StageTasks, more: Mapping[str, str] | None = None) -> None:
    """Put a stage into the job's fields; raises where the job has ended meanwhile."""
    fields = {
        "step": str(stage.id.step),
        "stage": stage.id.kind,
        f"total.{stage.id.name}": str(stage.tasks),
        f"entered.{stage.id.name}": f"{time.time():.3f}",
    }
    fields.update(more or {})
    if not jobs.store.move(stage.id.job, "running", fields):
        raise JobStoppedError(f"job {stage.id.job} has ended")


def barrier(jobs: OpenJobs, job: str, step: int) -> StageTasks:
    """After all map tasks: tell each reduce task what to read.

    In total order that takes the index of each map task's run: where one is damaged, its task runs again.
    """
    active = _active(jobs, job)
    try:
        return _shuffle(jobs, active, step)
    except DamagedPartError as e:
        return _again(jobs, active, e)


def _again(jobs: OpenJobs, active: OpenJob, error: DamagedPartError) -> StageTasks:
    """Forget the commit of the task that wrote the damaged part, which nobody has been told of, and run that again."""
    job, store = active.id, jobs.store
    damaged = writer(error.part)
    stage_id, number = damaged.stage, damaged.task
    whole = stage_of(active.spec.request, store.fields(job), stage_id)
    before = marks.republished(store, job, stage_id.step, whole.then).get(str(number), Republished(0, 0.0))
    if before.times >= MOST_AGAIN:
        error.retryable = False
        raise error
    marks.note_republished(
        store, job, stage_id.step, whole.then, str(number), Republished(before.times + 1, time.time())
    )
    active.storage.delete([layout.commit(damaged)])
    known = store.done_tasks(stage_id)
    store.forget_stage(stage_id)
    for task in known - {number}:
        store.add_commit(stage_id.task_id(task), b"")  # to be read from storage
    stage = replace(whole, missing=(number,))
    _enter(jobs, active.spec, stage)
    return stage


def _shuffle(jobs: OpenJobs, active: OpenJob, step: int) -> StageTasks:
    job, maps = active.id, StageId(active.id, step, "map")
    tasks = _tasks(jobs, active, step)
    check_all_committed(jobs, active, maps, tasks)
    reducers = active.spec.steps[step].reducers
    skew = Skew(reducers)
    bounds: list[bytes | None] = [None] * (reducers + 1)
    with _counted(jobs, job, f"barrier.{step}"), PartLists(jobs.scratch) as lists:

        def gather() -> Iterator[Commit]:
            found = commits(jobs, active, maps, tasks)
            if active.spec.steps[step].total_order:
                with Ranges(jobs.scratch) as ranges:
                    yield from ranges.gather(active.storage, found)
                    cuts = ranges.divide(reducers, lists, skew)
                bounds[1 : len(cuts) + 1] = map(encode_key, cuts)
                return
            for commit in found:
                for part in commit.parts:
                    lists.add(part)
                    skew.add(part.partition, part.records, part.bytes)
                yield commit

        summarise(jobs, active, maps, gather(), skew.counters)

        def tell(partition: int) -> None:
            record = lists.encoded(partition, bounds[partition], bounds[partition + 1])
            active.storage.write(layout.shuffle_input(job, step, partition), record)

        with ThreadPoolExecutor(max_workers=THREADS) as pool:
            for _ in pool.map(carried(tell), range(reducers)):
                pass
    stage = StageTasks(StageId(job, step, "reduce"), reducers, "finish", active.spec.request.options.queue)
    _enter(jobs, active.spec, stage)
    return stage


def _active(jobs: OpenJobs, job: str) -> OpenJob:
    if jobs.store.state(job) in FINAL:
        raise JobStoppedError(f"job {job} has ended")
    return jobs.open(job)


def _tasks(jobs: OpenJobs, active: OpenJob, step: int) -> int:
    """M of a step."""
    if step == 0:
        return active.spec.plan.splits
    return int(jobs.store.fields(active.id)[f"total.{step}.map"])


def finish(jobs: OpenJobs, job: str, step: int) -> StageTasks | None:
    """After a step's last stage: start the next step, or publish OUTPUT and end the job (None)."""
    withdraw_output(jobs, job)  # a run that was killed may have left something
    active = _active(jobs, job)
    spec = active.spec
    reducers = spec.steps[step].reducers
    last = StageId(job, step, "reduce" if reducers else "map")
    tasks = reducers or _tasks(jobs, active, step)
    check_all_committed(jobs, active, last, tasks)
    parts: list[Part] = []

    def gather() -> Iterator[Commit]:
        for commit in commits(jobs, active, last, tasks):
            parts.extend(commit.parts)
            yield commit

    with _counted(jobs, job, f"finish.{step}") as moved:
        summarise(jobs, active, last, gather())
        if step + 1 < len(spec.steps):
            return _next_step(jobs, active, step, parts)
        try:
            publish_job(jobs, active, parts, moved)
        except DamagedPartError as e:
            return _again(jobs, active, e)
    return None


def _next_step(jobs: OpenJobs, active: OpenJob, step: int, parts: list[Part]) -> StageTasks:
    """Each part with a record is a split of the next step."""
    job, storage = active.id, active.storage
    extents = (Extent(f"{storage.uri}/{p.key}", 0, p.bytes, p.bytes, True) for p in parts if p.records)
    splits = (Split(i, (extent,)) for i, extent in enumerate(extents))
    plan = write_plan(splits, lambda page, data: storage.write(layout.plan_page(job, step + 1, page), data))
    stage = _map_stage(active.spec, step + 1, plan.splits)
    _enter(jobs, active.spec, stage)
    for kind in KINDS:
        jobs.store.forget_stage(StageId(job, step, kind))
    return stage
