"""A job's end and its retries, decided in storage, because Redis may lose them or be restored to an earlier state.

Each generation of a job has one ``end-<g>.json``, made by a conditional write. The first process that tries to end the
job decides, whatever Redis says later, and all others read its decision. Each generation except the first also has a
``retry-<g>.json``, made before Redis knows of it.
"""

from __future__ import annotations

import time
from typing import NamedTuple, TypeVar

from mrcelery.jobstore.base import JobStore
from mrcelery.schema import object_keys
from mrcelery.schema.signing import JobSeal
from mrcelery.schema.states import State
from mrcelery.schema.structs import End, Retry
from mrcelery.storage.base import Storage

R = TypeVar("R", End, Retry)


def decide(storage: Storage, seal: JobSeal, generation: int, state: State, failure: str = "") -> End:
    """Decide how the job of ``seal`` ends, unless that is already decided; return the decision."""
    mine = End(job=seal.job, generation=generation, state=state, finished=time.time(), failure=failure)
    key = object_keys.end(seal.job, generation)
    if storage.create(key, seal.encode(mine, key)):
        return mine
    return seal.decode(storage.read(key), End, key)


def decided(storage: Storage, seal: JobSeal, generation: int) -> End | None:
    """Return how a generation of the job of ``seal`` has ended; None if it has not."""
    return _found(storage, seal, object_keys.end(seal.job, generation), End)


def _found(storage: Storage, seal: JobSeal, key: str, kind: type[R]) -> R | None:
    try:
        return seal.decode(storage.read(key), kind, key)
    except FileNotFoundError:
        return None


def retried(storage: Storage, seal: JobSeal, generation: int) -> None:
    """Record that the job of ``seal`` is in this generation; this may already be recorded."""
    key = object_keys.retry(seal.job, generation)
    storage.create(key, seal.encode(Retry(job=seal.job, generation=generation, retried=time.time()), key))


class Latest(NamedTuple):
    """The latest generation of a job that storage knows of, and how it has ended; ``end`` is None if it has not."""

    generation: int
    end: End | None


def latest(storage: Storage, seal: JobSeal, generation: int) -> Latest:
    """Find the latest generation of a job: the job store's, or a later one that the job store has forgotten."""
    end = decided(storage, seal, generation)
    while True:
        # A client that could not reach storage has left no record of the retry, but the retry may have an end.
        later = decided(storage, seal, generation + 1)
        key = object_keys.retry(seal.job, generation + 1)
        if later is None and _found(storage, seal, key, Retry) is None:
            return Latest(generation, end)
        generation, end = generation + 1, later


def settle(store: JobStore, end: End) -> bool:
    """Update the job store with a decision; False if it already knows an end or a later generation."""
    fields = {"finished": repr(end.finished)}
    if end.generation:
        fields["revived"] = str(end.generation)
    if end.failure:
        fields["failure"] = end.failure
    return store.move(end.job, end.state, fields, generation=end.generation)
