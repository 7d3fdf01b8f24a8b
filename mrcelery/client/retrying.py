"""The retry of a job: revived in the job store, or registered again from its spec in storage."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mrcelery.config import Config
from mrcelery.errors import UsageError
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.runners.enter import job_fields
from mrcelery.schema import object_keys
from mrcelery.schema.signing import seal, unseal
from mrcelery.schema.structs import JobSpec

if TYPE_CHECKING:
    from mrcelery.client.handle import JobHandle
    from mrcelery.jobstore.base import JobStore

STOPPING_SECONDS = 30.0
"""How long a retry waits until a cancelled job's tasks have stopped and its data is deleted."""

_PAUSE = 0.2


def revive(handle: JobHandle, store: JobStore) -> None:
    """Have a failed or cancelled job run again.

    If a cancelled job's tasks have not all stopped yet, this first waits for them; if no worker listens, the job's data
    is deleted from here. Raises :class:`UsageError` for a job in another state.
    """
    deadline = time.monotonic() + STOPPING_SECONDS
    while not store.revive(handle.id):
        state = handle.fields()["state"]
        if state != "cancelled":
            raise UsageError(f"job {handle.id} is {state}: only a job that failed or was cancelled can be retried")
        if time.monotonic() > deadline:
            raise UsageError(
                f"job {handle.id} was cancelled, and no worker has deleted its data yet: retry it when workers "
                "listen on its queue"
            )
        if not handle.has_workers() and isinstance(store, RedisJobStore):
            from mrcelery.coordinator.cancel import clean_without_workers  # noqa: PLC0415 - only a retry without workers needs it

            clean_without_workers(store, handle.id)
        time.sleep(_PAUSE)


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
    store.create(handle.id, fields, seal(request, signing_key))
    return fields
