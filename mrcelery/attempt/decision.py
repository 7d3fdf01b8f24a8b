"""How a job ended, and that it was retried, decided in storage: Redis may lose it, or come back as it was before.

Each generation of a job has one ``end-<g>.json``, made by a conditional write. The first of those who would end the job
decides, whatever Redis says later, and everyone else finds out what was decided. Each generation but the first has a
``retry-<g>.json``, too, made before Redis knows of it.
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
    """Decide how the job of ``seal`` ends, unless that is decided; return what is."""
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
    """Record that the job of ``seal`` is in this generation; that may be known."""
    key = object_keys.retry(seal.job, generation)
    storage.create(key, seal.encode(Retry(job=seal.job, generation=generation, retried=time.time()), key))


class Latest(NamedTuple):
    """The latest generation of a job that storage knows of, and how it has ended; None if it has not."""

    generation: int
    end: End | None


def latest(storage: Storage, seal: JobSeal, generation: int) -> Latest:
    """Find the latest generation of a job: the one that the job store knows, or a later one that it has forgotten."""
    end = decided(storage, seal, generation)
    while True:
        # Who could not reach storage has left no record of the retry, but perhaps one of its end.
        later = decided(storage, seal, generation + 1)
        key = object_keys.retry(seal.job, generation + 1)
        if later is None and _found(storage, seal, key, Retry) is None:
            return Latest(generation, end)
        generation, end = generation + 1, later


def settle(store: JobStore, end: End) -> bool:
    """Have the job store know what was decided; False if it knows an end or a later generation already."""
    fields = {"finished": repr(end.finished)}
    if end.generation:
        fields["revived"] = str(end.generation)
    if end.failure:
        fields["failure"] = end.failure
    return store.move(end.job, end.state, fields, generation=end.generation)
