"""The removal of a cancelled job's data, exactly once; after that the job may be retried."""

from __future__ import annotations

import secrets
import time
from contextlib import suppress

from mrcelery.attempt.cleanup import clean_up
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.config import Config
from mrcelery.coordinator.summaries import keep_sums
from mrcelery.errors import TaskError
from mrcelery.jobstore.queue_scan import has_attempts, leased
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.schema import object_keys
from mrcelery.storage import open_storage

CLEANING_SECONDS = 120.0
"""Seconds after which another process removes a cancelled job's data, if the first one died doing so."""


def clean_cancelled(jobs: OpenJobs, store: RedisJobStore, job: str, *, late: bool) -> None:
    """Remove a cancelled job's data, unless another process is doing so.

    ``late``: attempts may still run; the data is then left to the coordinator step that follows them.
    """
    if late and has_attempts(leased(store, job)):
        return  # the running attempts would commit after their data is removed
    lock, owner = f"{job}:cleaning", secrets.token_hex(8)
    if not store.hold(lock, owner, CLEANING_SECONDS):
        return
    try:
        if "cleaned" not in store.fields(job):
            with suppress(TaskError):
                keep_sums(store, job, jobs.seal(job))
            with suppress(TaskError):  # without a trusted spec there is nothing to remove
                clean_up(jobs, job)
                jobs.forget(job)
            store.update(job, {"cleaned": repr(time.time())})
    finally:
        store.hold(lock, owner, 0.001)


def clean_without_workers(store: RedisJobStore, job: str) -> None:
    """Remove a cancelled job's data from this process if no worker would; do nothing if the storage is not theirs.

    Raises :class:`mrcelery.errors.UnreachableError`.
    """
    fields = store.fields(job)
    # A folder of the same name on this machine is not the workers'.
    if "started" in fields and open_storage(fields["storage"]).stat(object_keys.spec(job)) is None:
        return
    config = Config.load({})
    jobs = OpenJobs(store, scratch=config.scratch or None, signing_key=config.signing_key or None)
    clean_cancelled(jobs, store, job, late=True)
