"""Planning, before a job's first stage: list and split its inputs, and put its code and spec into storage."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256

from mrcelery.attempt.catching_up import end_as_removed
from mrcelery.attempt.decision import decided, latest, settle
from mrcelery.attempt.open_jobs import OpenJob, OpenJobs
from mrcelery.coordinator.output_commit import check_free
from mrcelery.coordinator.resume import standing
from mrcelery.coordinator.stages import StageTasks, begin_stage, counted, map_stage
from mrcelery.errors import ChangedInputError, CorruptDataError, JobStoppedError, UnsignedError
from mrcelery.formats import input_format
from mrcelery.jobstore.base import JobStore, generation_of
from mrcelery.planning.listing import list_inputs
from mrcelery.planning.splits import cut, fitted, with_reducers, write_plan
from mrcelery.reporting.report import read_report, remove_report
from mrcelery.schema import object_keys
from mrcelery.schema.signing import JobSeal, seal
from mrcelery.schema.states import FINAL
from mrcelery.schema.structs import (
    JobSpec,
    PlanSummary,
    Request,
)
from mrcelery.schema.task_id import KINDS, StageId, TaskId
from mrcelery.storage import check, open_storage
from mrcelery.storage.addresses import STORAGE, parse
from mrcelery.storage.base import Storage
from mrcelery.storage.file_versions import LATELY


def start(jobs: OpenJobs, job: str) -> StageTasks | None:
    """Plan a submitted job, ship its code to storage and write its spec; return the first stage to run.

    A job that already has a spec is resumed from its commits in storage, as after ``retry`` or if Redis lost its data.
    Raises :class:`mrcelery.errors.UsageError`, :class:`mrcelery.errors.UnreachableError` or
    :class:`mrcelery.errors.UnsignedError` for a job that cannot start, and :class:`mrcelery.errors.JobStoppedError` for
    one that has ended.
    """
    if jobs.store.state(job) in FINAL:
        raise JobStoppedError(f"job {job} has ended")
    request = jobs.request(job)
    storage = open_storage(request.storage)
    with counted(jobs, job, "start"):
        # If a job has started, its storage existed: if the storage seems empty now, it is away.
        fields = jobs.store.fields(job)
        check(storage, anew="started" not in fields)
        run = jobs.store.unsure(job, fields.get("compared", ""))
        mine = jobs.seal(job)
        _check_decision(jobs.store, mine, fields, storage)
        try:
            spec = jobs.verified(storage.read(object_keys.spec(job)), job)
        except FileNotFoundError:
            if "started" in fields and storage.stat(object_keys.code(job)) is None:
                raise end_as_removed(jobs.store, job, storage, run) from None
            spec = plan_job(jobs, request, storage)
            jobs.keep(spec, storage)
            first = map_stage(spec, 0, spec.plan.splits)
            begin_stage(jobs, spec, first, {"started": repr(time.time())})
        else:
            _check_generation(jobs.store, mine, generation_of(fields), storage)
            first = _resume(jobs, jobs.keep(spec, storage))
        if run:
            jobs.store.note_compared(job, run)
    # Storage now has them with the spec: the copies in the job store would only waste its memory.
    jobs.store.drop_blobs(job, [request.bundle.sha256, *request.blobs])
    return first


def _check_decision(store: JobStore, seal: JobSeal, fields: Mapping[str, str], storage: Storage) -> None:
    """Raise if the job has ended, or has been retried since, and the job store had forgotten it."""
    if (end := decided(storage, seal, generation_of(fields))) is not None:
        _check_generation(store, seal, end.generation, storage)
        settle(store, end)
        raise JobStoppedError(f"job {seal.job} has ended")


def _check_generation(store: JobStore, seal: JobSeal, generation: int, storage: Storage) -> None:
    """Raise if storage knows of a later generation: workers start that one when they find it queued."""
    known = latest(storage, seal, generation)
    if known.generation > generation:
        store.advance(seal.job, known.generation)
        if known.end is not None:
            settle(store, known.end)
        raise JobStoppedError(f"job {seal.job} was retried")


def _resume(jobs: OpenJobs, active: OpenJob) -> StageTasks:
    """Begin the stage that a job has reached by its commits; publish the tasks without a commit."""
    job, store = active.id, jobs.store
    now = standing(active)
    earlier = read_report(active.storage, job, active.seal)
    if earlier is not None and earlier.state != "succeeded":
        remove_report(active.storage, job)  # it describes an earlier run
    elif earlier is not None and len(now.committed) < now.tasks:
        # The job had ended, and its commits are being removed: only the job store had forgotten.
        store.move(job, "succeeded", {"finished": repr(time.time()), "stage": "finish"})
        raise JobStoppedError(f"job {job} has ended")
    if now.step == 0:
        restore_plan(active)
    for step in range(now.step, len(active.spec.steps)):
        for kind in KINDS:
            stage_id = StageId(job, step, kind)
            known = now.committed if (step, kind) == (now.step, now.kind) else frozenset()
            if (step, kind) >= (now.step, now.kind) and not store.done_tasks(stage_id) <= known:
                store.forget_stage(stage_id)  # the commits it remembers were removed from storage
    for task in now.committed:
        store.add_commit(TaskId(job, now.step, now.kind, task), b"")
    started = store.fields(job).get("started") or repr(active.spec.request.created)
    totals = {f"total.{step}.{kind}": str(tasks) for (step, kind), tasks in now.totals.items()}
    if now.kind == "map":
        stage = map_stage(active.spec, now.step, now.tasks)
    else:
        stage = StageTasks(StageId(job, now.step, "reduce"), now.tasks, "finish", active.spec.request.options.queue)
    stage = replace(stage, missing=tuple(task for task in range(now.tasks) if task not in now.committed))
    begin_stage(jobs, active.spec, stage, {**totals, "started": started})
    return stage


def plan_job(jobs: OpenJobs, request: Request, storage: Storage) -> JobSpec:
    """Plan a submitted job, put its code, its small inputs and its spec into storage, and return the spec.

    Raises :class:`mrcelery.errors.UsageError` for an unusable input or output, and
    :class:`mrcelery.errors.UnsignedError` for code or input that does not match the request.
    """
    job = request.job
    if request.output and not request.options.overwrite:
        check_free(request.output)
    code = jobs.store.get_blob(job, request.bundle.sha256)
    if code is not None:
        _check_digest(code, request.bundle.sha256, f"the code of job {job}")
        storage.write(object_keys.code(job), code)
    elif storage.stat(object_keys.code(job)) is None:
        raise CorruptDataError(f"the code that was sent with job {job} is gone: submit it again")
    for digest, name in request.blobs.items():
        blob = jobs.store.get_blob(job, digest)
        if blob is None and storage.stat(object_keys.shared_input(digest, name)) is not None:
            continue  # another delivery was quicker
        if blob is None:
            raise CorruptDataError(f"the input {name} that was sent with job {job} is gone: submit it again")
        _check_digest(blob, digest, f"the input {name} of job {job}")
        storage.write(object_keys.shared_input(digest, name), blob)
    plan = _write_plan(request, storage)
    spec = JobSpec(request=request, plan=plan, steps=tuple(with_reducers(s, plan) for s in request.steps))
    key = object_keys.spec(job)
    if not storage.create(key, seal(spec, jobs.signing_key)):
        return jobs.verified(storage.read(key), job)
    return spec


def restore_plan(active: OpenJob) -> None:
    """Plan a job's first step again if its plan was removed, as happens to a cancelled job's plan."""
    spec, storage = active.spec, active.storage
    if not spec.plan.splits or storage.stat(object_keys.plan_page(active.id, 0, 0)) is not None:
        return
    plan = _write_plan(spec.request, storage)
    if plan != spec.plan:
        storage.delete(object_keys.plan_page(active.id, 0, page) for page in range(len(plan.pages)))
        raise ChangedInputError(f"the inputs of job {active.id} have changed since it was planned: submit it again")


def _write_plan(request: Request, storage: Storage) -> PlanSummary:
    options = request.options
    files = list_inputs(request.inputs, input_format(options.input_format), request.created - LATELY)
    # Uploaded inputs are named by their content: other jobs may write the same content again.
    shared = f"{parse(request.storage, STORAGE)}/{object_keys.INPUTS}"
    files = (file._replace(tag="") if file.uri.startswith(shared) else file for file in files)
    splits = cut(*fitted(files, options.split_size, options.workers))
    return write_plan(splits, lambda page, data: storage.write(object_keys.plan_page(request.job, 0, page), data))


def _check_digest(data: bytes, digest: str, what: str) -> None:
    """Check that data from the job store matches the request's digest, even if the request is not signed."""
    if sha256(data).hexdigest() != digest:
        raise UnsignedError(f"{what} is not what its request names: it was altered in transit; submit it again")
