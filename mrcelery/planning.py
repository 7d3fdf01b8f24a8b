"""Planning, before a job's first stage: list and split its inputs, and put its code and spec into storage."""

from __future__ import annotations

from hashlib import sha256

from msgspec.structs import replace

from mrcelery import layout
from mrcelery.committer import check_free
from mrcelery.errors import CorruptDataError, UnsignedError
from mrcelery.formats import input_format
from mrcelery.plan import cut, fitted, list_inputs, write_plan
from mrcelery.records import JobSpec, PlanSummary, Request, StepSpec
from mrcelery.runtime import OpenJob, OpenJobs
from mrcelery.signing import seal
from mrcelery.storage.base import Storage

REDUCER_BYTES = 32 << 20
"""Input bytes per reduce task where the job does not say R."""
MOST_REDUCERS = 64
"""R at most where the job does not say it."""


def plan_job(jobs: OpenJobs, request: Request, storage: Storage) -> JobSpec:
    """Plan a submitted job, put its code, its small inputs and its spec into storage, and return the spec.

    Raises :class:`mrcelery.errors.UsageError` for an unusable input or output, and
    :class:`mrcelery.errors.UnsignedError` for code or input that is not what the request names.
    """
    job = request.job
    if request.output and not request.options.overwrite:
        check_free(request.output)
    code = jobs.store.get_blob(job, request.bundle.sha256)
    if code is not None:
        _check_digest(code, request.bundle.sha256, f"the code of job {job}")
        storage.write(layout.code(job), code)
    elif storage.stat(layout.code(job)) is None:
        raise CorruptDataError(f"the code that was sent with job {job} is gone: submit it again")
    for digest, name in request.blobs.items():
        blob = jobs.store.get_blob(job, digest)
        if blob is None and storage.stat(layout.shared_input(digest, name)) is not None:
            continue  # another delivery was quicker
        if blob is None:
            raise CorruptDataError(f"the input {name} that was sent with job {job} is gone: submit it again")
        _check_digest(blob, digest, f"the input {name} of job {job}")
        storage.write(layout.shared_input(digest, name), blob)
    plan = _write_plan(request, storage)
    spec = JobSpec(request=request, plan=plan, steps=tuple(with_reducers(s, plan) for s in request.steps))
    key = layout.spec(job)
    if not storage.create(key, seal(spec, jobs.signing_key)):
        return jobs.verified(storage.read(key), job)
    return spec


def _write_plan(request: Request, storage: Storage) -> PlanSummary:
    options = request.options
    files = list_inputs(request.inputs, input_format(options.input_format))
    splits = cut(*fitted(files, options.split_size, options.workers))
    return write_plan(splits, lambda page, data: storage.write(layout.plan_page(request.job, 0, page), data))


def with_reducers(step: StepSpec, plan: PlanSummary) -> StepSpec:
    """Set R of a step, if its job leaves that to us."""
    if not step.has_reducer:
        return replace(step, reducers=0)
    if step.reducers > 0:
        return step
    return replace(step, reducers=min(MOST_REDUCERS, max(1, -(-plan.bytes // REDUCER_BYTES))))


def restore_plan(active: OpenJob) -> None:
    """Plan a job's first step again if the plan was removed, as a cancelled job's is."""
    spec, storage = active.spec, active.storage
    if not spec.plan.splits or storage.stat(layout.plan_page(active.id, 0, 0)) is not None:
        return
    if _write_plan(spec.request, storage) != spec.plan:
        raise CorruptDataError(f"the inputs of job {active.id} have changed since it was planned: submit it again")


def _check_digest(data: bytes, digest: str, what: str) -> None:
    """Check that what came through the job store is what the request, signed or not, names."""
    if sha256(data).hexdigest() != digest:
        raise UnsignedError(f"{what} is not what its request names: it was altered on the way; submit it again")
