"""What a job does before its first stage: its inputs are listed and cut, its code and spec put into storage."""

from __future__ import annotations

from hashlib import sha256

from mrcelery import layout
from mrcelery.committer import check_free
from mrcelery.errors import CorruptDataError, UnsignedError
from mrcelery.formats import input_format
from mrcelery.listing import list_inputs
from mrcelery.plan import cut, fitted, with_reducers, write_plan
from mrcelery.records import JobSpec, PlanSummary, Request
from mrcelery.runtime import OpenJob, OpenJobs
from mrcelery.signing import seal
from mrcelery.storage.base import Storage


def plan_job(jobs: OpenJobs, request: Request, storage: Storage) -> JobSpec:
    """Plan a submitted job, put its code, its small inputs and its spec into storage; the spec.

    Raises :class:`mrcelery.errors.UsageError` for an input or output that cannot be, and
    :class:`mrcelery.errors.UnsignedError` for what is not as the request names it.
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


def restore_plan(active: OpenJob) -> None:
    """Plan a job's first step again where the plan was removed, as a cancelled job's is."""
    spec, storage = active.spec, active.storage
    if not spec.plan.splits or storage.stat(layout.plan_page(active.id, 0, 0)) is not None:
        return
    if _write_plan(spec.request, storage) != spec.plan:
        raise CorruptDataError(f"the inputs of job {active.id} have changed since it was planned: submit it again")


def _check_digest(data: bytes, digest: str, what: str) -> None:
    """What came through the job store must be what the request, signed or not, names."""
    if sha256(data).hexdigest() != digest:
        raise UnsignedError(f"{what} is not what its request names: it was altered on the way; submit it again")
