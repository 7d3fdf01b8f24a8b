"""Updating a job store that knows less about a job than storage does, before any part of the job runs.

Redis may be restored from an older snapshot, fail over to a replica that lags, or be emptied. In each case another run
of a server answers, or the job is unknown; for each job the store records in which run it was last compared with
storage. So nothing is checked as long as Redis lives; after a change, storage is read, once for each job.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from mrcelery.attempt.decision import latest, settle
from mrcelery.attempt.failure import failure
from mrcelery.errors import JobStoppedError, TaskError
from mrcelery.jobstore.base import JobStore, generation_of
from mrcelery.jobstore.requests import storage_of
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import encode
from mrcelery.schema.signing import JobSeal
from mrcelery.storage import open_storage
from mrcelery.storage.base import Storage

if TYPE_CHECKING:
    from mrcelery.attempt.open_jobs import OpenJobs

_log = logging.getLogger(__name__)


def state_of(jobs: OpenJobs, job: str) -> str:
    """Return a job's state; read it from storage if the job store may know less.

    Raises :class:`JobStoppedError` for a job whose data was removed.
    """
    state, compared = jobs.store.compared(job)
    if state != "succeeded" and (run := jobs.store.unsure(job, compared)):
        fields = jobs.store.fields(job)
        root = storage_of(jobs.store, job, fields, jobs.signing_key)
        storage = open_storage(root) if root else jobs.open(job).storage
        return catch_up(jobs.store, jobs.seal(job), run, storage)
    return state


def catch_up(store: JobStore, seal: JobSeal, run: str, storage: Storage) -> str:
    """Update the job store with storage's view of the job of ``seal``, in a ``run`` of its server; return its state.

    A forgotten retry is resumed: the job is queued in its latest generation. Raises :class:`JobStoppedError` for a job
    whose data was removed.
    """
    job = seal.job
    fields = store.fields(job)
    if "started" in fields:
        storage.expect()
    known = latest(storage, seal, generation_of(fields))
    if known.end is None and "started" in fields and storage.stat(object_keys.spec(job)) is None:
        raise end_as_removed(store, job, storage, run)
    if known.generation > generation_of(fields) and store.advance(job, known.generation):
        _log.warning("mrcelery: the job store did not know that job %s was retried: it resumes", job)
    if known.end is not None and settle(store, known.end):
        _log.warning("mrcelery: the job store did not know that job %s has ended: it has %s", job, known.end.state)
    store.note_compared(job, run)
    # Only storage knows an unknown job.
    return store.state(job) or (known.end.state if known.end is not None else "")


def end_as_removed(store: JobStore, job: str, storage: Storage, run: str = "") -> JobStoppedError:
    """End a job whose data is gone, in the job store only: storage must stay untouched; return the error to raise."""
    reason = removed(job, storage)
    told = encode(failure(TaskError(reason), job=job)).decode()
    now = repr(time.time())
    store.move(job, "failed", {"failure": told, "finished": now})
    store.update(job, {"removed": now})
    if run:
        store.note_compared(job, run)
    stopped = JobStoppedError(reason)
    stopped.removed = True
    return stopped


def removed(job: str, storage: Storage) -> str:
    """Return the message that a job's data is gone."""
    return f"the data of job {job} is gone from {storage.uri}, as after `mrcelery clean`: submit it again"
