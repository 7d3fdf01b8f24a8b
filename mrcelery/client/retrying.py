"""Cancelling a job, and retrying it: reviving it in the job store, or registering it again from storage."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from mrcelery.attempt.catching_up import catch_up, removed
from mrcelery.attempt.decision import decide, latest, retried, settle
from mrcelery.config import Config
from mrcelery.errors import JobStoppedError, TaskError, UnreachableError, UsageError
from mrcelery.jobstore.base import generation_of
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.runners.enter import job_fields
from mrcelery.schema import object_keys
from mrcelery.schema.signing import JobSeal, is_signed, seal, unseal
from mrcelery.schema.states import FINAL
from mrcelery.schema.structs import JobSpec, Request
from mrcelery.storage import open_storage, scheme_of

if TYPE_CHECKING:
    from mrcelery.client.handle import JobHandle
    from mrcelery.jobstore.base import JobStore
    from mrcelery.storage.base import Storage

STOPPING_SECONDS = 30.0
"""How long a retry waits until a cancelled job's tasks have stopped and its data is deleted."""

_PAUSE = 0.2


def end_as_cancelled(store: JobStore, job: str, fields: Mapping[str, str]) -> bool:
    """Cancel a job, first in its storage if that is within reach; False if it had ended."""
    if fields["state"] in FINAL:
        return False
    with suppress(UnreachableError, TaskError):  # else only the job store knows it
        storage = open_storage(fields["storage"])
        if _is_the_workers(storage, job) and (seal := _seal_of(store, job)) is not None:
            end = decide(storage, seal, generation_of(fields), "cancelled")
            return settle(store, end) and end.state == "cancelled"
    return store.move(job, "cancelled", {"finished": repr(time.time())}, generation=generation_of(fields))


def _is_the_workers(storage: Storage, job: str) -> bool:
    """Check whether a storage is the workers', and not a folder of the same name on this machine."""
    return scheme_of(storage.uri) == "s3" or storage.stat(object_keys.spec(job)) is not None


def _seal_of(store: JobStore, job: str) -> JobSeal | None:
    """Return the seal for signing from here; None if the job is signed, and this client lacks its secret."""
    envelope = store.request(job)
    if envelope is None or not is_signed(envelope):
        return JobSeal(job)
    secret = Config.load({}).signing_key or None
    if secret is None:
        return None
    unseal(envelope, Request, secret, f"the request of job {job}")
    return JobSeal(job, secret)


def revive(handle: JobHandle, store: JobStore) -> None:
    """Have a failed or cancelled job run again; one that was retried and has not begun since is left unchanged.

    If a cancelled job's tasks have not all stopped yet, wait for them first; if no worker listens, delete the job's
    data from here. Raises :class:`UsageError` for a job in another state.
    """
    deadline = time.monotonic() + STOPPING_SECONDS
    while True:
        fields = handle.fields()
        state, generation = fields["state"], generation_of(fields)
        if state == "queued" and generation:
            return  # by a client that may have died before it published: the caller does it
        if state not in ("failed", "cancelled"):
            raise UsageError(f"job {handle.id} is {state}: only a job that failed or was cancelled can be retried")
        if state == "failed" or "cleaned" in fields:
            _record(store, handle.id, fields, generation + 1)
            if store.revive(handle.id, generation + 1):
                return
            continue  # another client was quicker
        if time.monotonic() > deadline:
            raise UsageError(
                f"job {handle.id} was cancelled, and no worker has deleted its data yet: retry it when workers "
                "listen on its queue"
            )
        if not handle.has_workers() and isinstance(store, RedisJobStore):
            from mrcelery.coordinator.cancel import clean_without_workers  # noqa: PLC0415 - only a retry without workers needs it

            clean_without_workers(store, handle.id)
        time.sleep(_PAUSE)


def _record(store: JobStore, job: str, fields: Mapping[str, str], generation: int) -> None:
    """Record a retry in the job's storage, before the job store knows of it, if that storage is within reach.

    Raises :class:`UsageError` for a job whose data is gone.
    """
    with suppress(UnreachableError, TaskError):  # else only the job store knows it
        storage = open_storage(fields["storage"])
        if storage.stat(object_keys.spec(job)) is not None:
            if (seal := _seal_of(store, job)) is not None:
                retried(storage, seal, generation)
        elif "started" in fields and scheme_of(storage.uri) == "s3":  # a folder may not be the workers'
            raise UsageError(removed(job, storage))


def caught_up(store: JobStore, job: str, fields: dict[str, str]) -> dict[str, str]:
    """Return a job's fields; if the job store, which returned these, may be behind, update it from storage first."""
    if "started" not in fields or fields["state"] == "succeeded":
        return fields  # a job that has succeeded stays so
    run = store.unsure(job, fields.get("compared", ""))
    if not run:
        return fields
    with suppress(UnreachableError, TaskError, JobStoppedError):
        storage = open_storage(fields["storage"])
        if _is_the_workers(storage, job) and (seal := _seal_of(store, job)) is not None:
            catch_up(store, seal, run, storage)
    store.note_compared(job, run, here=True)  # if it cannot be done here, workers do it
    return store.fields(job)


def enter_from_storage(handle: JobHandle, store: JobStore) -> dict[str, str]:
    """Register again a job that the job store has forgotten, from its spec in storage; return its fields."""
    report = handle.read_report() if handle.storage else None
    if not handle.storage or (report is not None and report.state == "succeeded"):
        handle.fields()  # raises if the job is unknown
        raise UsageError(f"job {handle.id} has succeeded: only a job that failed or was cancelled can be retried")
    key = object_keys.spec(handle.id)
    signing_key = Config.load({}).signing_key or None
    try:
        request = unseal(handle.open_storage().read(key), JobSpec, signing_key, key).request
    except FileNotFoundError:
        raise UsageError(f"job {handle.id} is not known here, and has no spec in {handle.storage}") from None
    fields = job_fields(request)
    job_seal = JobSeal(handle.id, signing_key)
    known = latest(handle.open_storage(), job_seal, 0)
    generation = known.generation + (known.end is not None)
    if generation:
        fields["revived"] = str(generation)
        with suppress(UnreachableError):
            retried(handle.open_storage(), job_seal, generation)
    store.create(handle.id, fields, seal(request, signing_key))
    return fields
